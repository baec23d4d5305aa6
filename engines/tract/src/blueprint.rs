//! How does a model file become plans that tract can run?
//!
//! The file is read once. A plan is made from what was read by saying how long each axis of each input is: exactly,
//! by a symbol, or not at all. Which of these tract can work with differs from model to model.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use prost::Message;
use tiltyard_runtime::engine::{EngineError, ModelFile};
use tiltyard_types::{Dim, Shape, Signature};
use tract_onnx::pb::{GraphProto, ModelProto, TensorProto, tensor_proto};
use tract_onnx::prelude::multithread::Executor;
use tract_onnx::prelude::{
    InferenceFact, InferenceModel, InferenceModelExt, IntoArcTensor, RunOptions, Symbol, TDim, Tensor as TractTensor,
    TractError, TractResult, TypedFact, TypedSimplePlan, TypedSimpleState,
};
use tract_onnx::tensor::load_tensor;
use tract_onnx::tract_hir::infer::{DimFact, Factoid, ShapeFactoid};
use tract_onnx::tract_hir::internal::{OutletId, ToDim};
use tract_onnx::tract_hir::ops::konst::Const;

use crate::convert::datum_type;
use crate::refusal::{cause, contained, refusal, unknown};
use crate::weights::{self, Weights};

/// Lengths to try for dynamic axes other than the first: small ones, those that networks are usually built for, and
/// some with many divisors.
const PROBE_LENGTHS: [usize; 9] = [1, 8, 16, 32, 48, 64, 128, 224, 240];

/// Whether the exporter's notes on the shapes of values inside the graph are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ValueInfo {
    Ignored,
    Believed,
}

/// A model as tract understood it, before anything is said of the lengths of dynamic axes.
pub(crate) struct Blueprint {
    signature: Signature,
    model: InferenceModel,
    /// One per input of the signature.
    sources: Vec<Source>,
    /// Operators that tract does not know.
    unknown: Vec<String>,
    has_value_info: bool,
    weight_bytes: u64,
}

struct Source {
    outlet: OutletId,
    /// What the file says of it.
    fact: InferenceFact,
    /// Its value where a request leaves it out.
    default: Option<Arc<TractTensor>>,
}

/// How a plan leaves the lengths of dynamic axes open.
#[derive(Clone, Copy, Debug)]
enum Openness {
    /// As the file has it: axes with a name are symbols, the others unknown.
    Shipped,
    /// The first axes without a name share one symbol.
    Rows,
    /// All first axes share one symbol.
    RowsForced,
    /// Every axis has a symbol.
    Named,
}

/// Something that tract can run.
pub(crate) struct Plan {
    runnable: Arc<TypedSimplePlan>,
    /// Axes, as input and position, that must be equally long for this plan though the signature does not say so.
    ties: Vec<Vec<(usize, usize)>>,
    /// Whether axes were left open, so that a plan for an exact shape may be faster.
    pub(crate) is_open: bool,
}

impl Plan {
    /// Working state for one thread's runs.
    pub(crate) fn spawn(&self) -> Result<TypedSimpleState, EngineError> {
        self.runnable.spawn().map_err(|error| EngineError::Failed(format!("tract cannot start: {}", cause(&error))))
    }

    /// Whether the plan can take inputs whose axes are as long as `length` tells of an input and an axis.
    pub(crate) fn fits(&self, length: impl Fn(usize, usize) -> Option<usize>) -> bool {
        self.ties.iter().all(|tie| {
            let mut lengths = tie.iter().map(|&(input, axis)| length(input, axis));
            let first = lengths.next();
            lengths.all(|length| Some(length) == first)
        })
    }
}

impl Blueprint {
    /// Reads the file. Fails with [`EngineError::BadModel`] where no engine could, and with
    /// [`EngineError::Unsupported`] where tract cannot.
    pub(crate) fn read(file: &ModelFile, value_info: ValueInfo) -> Result<Blueprint, EngineError> {
        let bad = |what: String| EngineError::BadModel(format!("not a whole ONNX model: {what}"));
        let mut proto = ModelProto::decode(file.bytes.as_ref()).map_err(|error| bad(error.to_string()))?;
        let graph = proto.graph.as_mut().ok_or_else(|| bad("it has no graph".into()))?;
        let signature = file.graph.signature.clone();
        graph.output.retain(|output| signature.outputs.iter().any(|spec| spec.name == output.name));
        check_outputs(graph).map_err(bad)?;
        graph.initializer.iter().try_for_each(|weight| check_weight(weight, &file.external)).map_err(bad)?;
        let weights_beside = Weights::new(&file.external);
        weights_beside.move_here(&mut proto);
        let graph = proto.graph.as_mut().ok_or_else(|| bad("it has no graph".into()))?;

        let mut onnx = tract_onnx::onnx().with_ignore_value_info(value_info == ValueInfo::Ignored);
        // Memory maps, which tract uses otherwise, crash the process when the file shrinks under them.
        onnx.provider = Arc::new(weights_beside);
        let unknown = unknown(&onnx, &file.graph.operators);
        let has_value_info = !graph.value_info.is_empty();
        let optional: HashSet<&str> =
            signature.inputs.iter().filter(|spec| spec.optional).map(|spec| spec.name.as_str()).collect();
        let (defaults, weights): (Vec<TensorProto>, Vec<TensorProto>) =
            std::mem::take(&mut graph.initializer).into_iter().partition(|weight| optional.contains(&*weight.name));
        graph.initializer = weights;

        let read = contained(|| {
            let mut defaults: BTreeMap<String, Arc<TractTensor>> = defaults
                .iter()
                .map(|value| {
                    Ok((
                        value.name.clone(),
                        load_tensor(&*onnx.provider, value, Some(weights::FOLDER))?.into_arc_tensor(),
                    ))
                })
                .collect::<TractResult<_>>()?;
            let parsed = onnx.parse(&proto, Some(weights::FOLDER))?;
            let sources = signature
                .inputs
                .iter()
                .map(|spec| {
                    let outlet = parsed.outlets_by_name.get(&spec.name);
                    let outlet = *outlet.ok_or_else(|| TractError::msg(format!("input {:?} is lost", spec.name)))?;
                    let fact = parsed.model.outlet_fact(outlet)?.clone();
                    Ok(Source { outlet, fact, default: defaults.remove(&spec.name) })
                })
                .collect::<TractResult<Vec<Source>>>()?;
            Ok((parsed, sources))
        });
        let (parsed, sources) = read.map_err(|error| refusal(&unknown, &error))?;
        if let Some(name) = parsed.unresolved_inputs.first() {
            return Err(EngineError::BadModel(format!("the graph uses {name:?}, which nothing in it makes")));
        }
        let weight_bytes = file.weight_bytes();
        Ok(Blueprint { signature, model: parsed.model, sources, unknown, has_value_info, weight_bytes })
    }

    pub(crate) fn signature(&self) -> &Signature {
        &self.signature
    }

    /// About how large the weights are, which every plan may hold a copy of.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    pub(crate) fn has_value_info(&self) -> bool {
        self.has_value_info
    }

    /// Which inputs a request gives that gives no more than it must.
    pub(crate) fn required(&self) -> Vec<bool> {
        self.signature.inputs.iter().map(|spec| !spec.optional).collect()
    }

    /// A plan for requests with the inputs `given`, whatever their shapes. Takes up to seconds.
    pub(crate) fn open_plan(&self, given: &[bool]) -> Result<Plan, EngineError> {
        let mut tried: Vec<Vec<Option<InferenceFact>>> = Vec::new();
        let mut first_error = None;
        for openness in [Openness::Shipped, Openness::Rows, Openness::RowsForced, Openness::Named] {
            let facts: Vec<Option<InferenceFact>> =
                given.iter().enumerate().map(|(input, given)| given.then(|| self.open_fact(input, openness))).collect();
            if tried.contains(&facts) {
                continue;
            }
            match contained(|| self.plan(&facts)) {
                Ok(plan) => return Ok(plan),
                Err(error) => {
                    tracing::debug!(?openness, error = cause(&error), "tract made no plan");
                    first_error.get_or_insert(error);
                }
            }
            tried.push(facts);
        }
        Err(refusal(&self.unknown, &first_error.unwrap_or_else(|| TractError::msg("there is nothing to try"))))
    }

    /// A plan for inputs of exactly these shapes; `None` is an input left out. Takes up to seconds.
    pub(crate) fn exact_plan(&self, shapes: &[Option<Shape>]) -> Result<Plan, EngineError> {
        let facts: Vec<Option<InferenceFact>> = self
            .signature
            .inputs
            .iter()
            .zip(shapes)
            .map(|(spec, shape)| {
                let dims = shape.as_ref()?.iter().map(|length| DimFact::from(length.to_dim())).collect();
                Some(InferenceFact::dt_shape(datum_type(spec.dtype)?, ShapeFactoid::closed(dims)))
            })
            .collect();
        contained(|| self.plan(&facts)).map_err(|error| refusal(&self.unknown, &error))
    }

    /// Fails when no exact plan can be made for one row and any of the lengths usual for the other axes. An input of
    /// unknown rank is taken for a matrix.
    pub(crate) fn probe(&self) -> Result<(), EngineError> {
        let mut last = Ok(());
        for length in PROBE_LENGTHS {
            last = self.exact_plan(&self.probe_shapes(length)).map(drop);
            if last.is_ok() || !self.unknown.is_empty() {
                break;
            }
        }
        last
    }

    fn probe_shapes(&self, length: usize) -> Vec<Option<Shape>> {
        let unranked = vec![Dim::Dynamic(None), Dim::Dynamic(None)];
        let dims = |input: usize| self.signature.inputs[input].dims.as_ref().unwrap_or(&unranked);
        let rows: HashSet<&Dim> =
            (0..self.sources.len()).filter_map(|input| dims(input).first()).filter(|dim| named(dim)).collect();
        let shape = |input: usize| {
            let lengths = dims(input).iter().enumerate().map(|(axis, dim)| match dim {
                Dim::Fixed(fixed) => *fixed,
                Dim::Dynamic(_) if axis == 0 || rows.contains(dim) => 1,
                Dim::Dynamic(_) => length,
            });
            lengths.collect::<Shape>()
        };
        self.required().into_iter().enumerate().map(|(input, given)| given.then(|| shape(input))).collect()
    }

    fn open_fact(&self, input: usize, openness: Openness) -> InferenceFact {
        let spec = &self.signature.inputs[input];
        let shipped = &self.sources[input].fact;
        let (Some(dims), Some(datum_type)) = (&spec.dims, datum_type(spec.dtype)) else { return shipped.clone() };
        let symbol = |name: String| DimFact::from(TDim::from(self.model.symbols.sym(&name)));
        let dims = dims.iter().enumerate().map(|(axis, dim)| {
            let rows = || symbol("rows__".into());
            // Exporters write 0 for unknown too, which tract would take at its word.
            let parsed =
                shipped.shape.dim(axis).filter(|dim| dim.concretize().is_some_and(|dim| dim.to_i64().is_err()));
            match (dim, openness) {
                (Dim::Fixed(length), _) => DimFact::from(length.to_dim()),
                (_, Openness::RowsForced) if axis == 0 => rows(),
                (_, Openness::Rows | Openness::Named) if axis == 0 => parsed.unwrap_or_else(rows),
                (_, Openness::Named) => parsed.unwrap_or_else(|| symbol(format!("axis_{input}_{axis}__"))),
                _ => parsed.unwrap_or_default(),
            }
        });
        InferenceFact::dt_shape(datum_type, ShapeFactoid::closed(dims.collect()))
    }

    /// The plan for inputs with these facts; `None` is an input that takes its default.
    fn plan(&self, facts: &[Option<InferenceFact>]) -> TractResult<Plan> {
        let mut model = self.model.clone();
        let mut given = Vec::new();
        for ((source, spec), fact) in self.sources.iter().zip(&self.signature.inputs).zip(facts) {
            if let Some(fact) = fact {
                model.set_outlet_fact(source.outlet, fact.clone())?;
                given.push(source.outlet);
            } else {
                let default = source.default.as_ref();
                let default =
                    default.ok_or_else(|| TractError::msg(format!("input {:?} has no plain default", spec.name)))?;
                model.set_outlet_fact(source.outlet, TypedFact::try_from(Arc::clone(default))?.into())?;
                model.node_mut(source.outlet.node).op = Const::new(Arc::clone(default))?.into();
            }
        }
        model.set_input_outlets(&given)?;
        let typed = model.into_typed()?;
        for (position, spec) in self.signature.outputs.iter().enumerate() {
            let made = typed.output_fact(position)?.datum_type.unquantized();
            let is_length = made == tract_onnx::prelude::DatumType::TDim;
            if Some(made) != datum_type(spec.dtype) && !is_length {
                return Err(TractError::msg(format!("output {:?} would be {made:?}, not {}", spec.name, spec.dtype)));
            }
        }
        let options = RunOptions { executor: Some(Executor::SingleThread), ..RunOptions::default() };
        let runnable = typed.into_optimized()?.into_runnable_with_options(&options)?;
        Ok(Plan { runnable, ties: ties(facts), is_open: facts.iter().flatten().any(is_open) })
    }
}

fn named(dim: &Dim) -> bool {
    matches!(dim, Dim::Dynamic(Some(_)))
}

fn is_open(fact: &InferenceFact) -> bool {
    fact.shape.as_concrete_finite().ok().flatten().is_none()
}

/// The axes that share a symbol.
fn ties(facts: &[Option<InferenceFact>]) -> Vec<Vec<(usize, usize)>> {
    let mut axes: BTreeMap<Symbol, Vec<(usize, usize)>> = BTreeMap::new();
    for (input, fact) in facts.iter().enumerate() {
        for (axis, dim) in fact.iter().flat_map(|fact| fact.shape.dims()).enumerate() {
            if let Some(TDim::Sym(symbol)) = dim.concretize() {
                axes.entry(symbol).or_default().push((input, axis));
            }
        }
    }
    axes.into_values().filter(|tied| tied.len() > 1).collect()
}

/// tract panics on an output that nothing makes.
fn check_outputs(graph: &GraphProto) -> Result<(), String> {
    let made: HashSet<&str> = graph
        .node
        .iter()
        .flat_map(|node| &node.output)
        .chain(graph.input.iter().map(|input| &input.name))
        .chain(graph.initializer.iter().map(|weight| &weight.name))
        .map(String::as_str)
        .collect();
    match graph.output.iter().find(|output| !made.contains(&*output.name)) {
        Some(output) => Err(format!("nothing in the graph makes output {:?}", output.name)),
        None => Ok(()),
    }
}

/// Whether a weight has as many bytes as its shape asks for, here or in its file.
fn check_weight(weight: &TensorProto, beside: &BTreeMap<String, Arc<[u8]>>) -> Result<(), String> {
    use tensor_proto::DataType;

    let width: usize = match DataType::try_from(weight.data_type) {
        Ok(DataType::Bool | DataType::Uint8 | DataType::Int8) => 1,
        Ok(DataType::Uint16 | DataType::Int16 | DataType::Float16) => 2,
        Ok(DataType::Uint32 | DataType::Int32 | DataType::Float) => 4,
        Ok(DataType::Uint64 | DataType::Int64 | DataType::Double) => 8,
        _ => return Ok(()),
    };
    let lengths = weight.dims.iter().map(|&length| usize::try_from(length).ok());
    let expected = lengths.chain([Some(width)]).try_fold(1usize, |bytes, length| bytes.checked_mul(length?));
    let expected = expected.ok_or_else(|| format!("weight {:?} has an impossible shape", weight.name))?;
    let external = weight.data_location == Some(tensor_proto::DataLocation::External as i32);
    let entry = |key: &str| weight.external_data.iter().find(|entry| entry.key == key).map(|entry| &*entry.value);
    if external {
        let location = entry("location").ok_or_else(|| format!("weight {:?} has no location", weight.name))?;
        let number = |key: &str| entry(key).map(str::parse::<u64>).transpose();
        let (Ok(offset), Ok(length)) = (number("offset"), number("length")) else {
            return Err(format!("weight {:?}: its place in {location:?} is not a number", weight.name));
        };
        let file = beside.get(location).ok_or_else(|| format!("external data file {location:?} is missing"))?;
        let size = file.len() as u64;
        let rest = size.saturating_sub(offset.unwrap_or(0));
        let there = length.unwrap_or(rest);
        if there > rest || there != expected as u64 {
            let there = there.min(rest);
            return Err(format!("weight {:?} has {there} bytes in {location:?}, not {expected}", weight.name));
        }
    } else if !weight.raw_data.is_empty() && weight.raw_data.len() != expected {
        return Err(format!("weight {:?} has {} bytes, not {expected}", weight.name, weight.raw_data.len()));
    }
    Ok(())
}
