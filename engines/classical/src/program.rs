//! How does a graph become a list of steps?
//!
//! Every name becomes a number here, once: a run looks nothing up. Steps are in an order in which each reads only what was
//! written before; what an output needs is a set of steps.

use std::collections::HashMap;

use smallvec::SmallVec;
use tiltyard_runtime::engine::{EngineError, ModelFile, OutputClasses};
use tiltyard_types::{DataType, Dim, Signature, Tensor, TensorSpec};

use crate::node::{Kernel, Node};
use crate::ops;
use crate::trial;
use crate::value::{ELEMENTS_MAX, Type, Value, View};
use crate::weights;
use crate::wire;

/// The most nodes that a graph may have. Pipelines of exporters have some hundred.
const NODES_MAX: usize = 20_000;

/// The versions of the operators of `ai.onnx.ml` that there are.
const ML_OPSETS: std::ops::RangeInclusive<i64> = 1..=5;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The request, at this position of the signature; a weight stands in where it may be left out.
    Input(usize, Option<usize>),
    Weight(usize),
    /// An earlier step.
    Slot(usize),
    Absent,
}

struct Step {
    kernel: Kernel,
    inputs: SmallVec<[Source; 4]>,
    /// The first slot that it writes, and how many follow each other.
    first: usize,
    count: usize,
    /// The operator's name, for messages.
    operator: String,
}

/// A graph that is ready to run.
pub(crate) struct Program {
    signature: Signature,
    steps: Vec<Step>,
    slots: usize,
    weights: Vec<Value>,
    outputs: Vec<Source>,
    classes: Vec<OutputClasses>,
}

/// What one thread needs to run a program: its values, and which steps the outputs asked for last time need.
#[derive(Default)]
pub(crate) struct State {
    values: Vec<Value>,
    wanted: Vec<usize>,
    plan: Vec<usize>,
}

impl Program {
    /// Understands the file. Fails with [`EngineError::Unsupported`] where it has an operator that is not known here, which is
    /// named, and with [`EngineError::BadModel`] where no engine could run it.
    pub(crate) fn read(file: &ModelFile) -> Result<Program, EngineError> {
        ops::check(&file.graph.operators)?;
        let model: wire::Model = prost::Message::decode(file.bytes.clone())
            .map_err(|error| EngineError::BadModel(format!("not a whole ONNX model: {error}")))?;
        let graph =
            model.graph.ok_or_else(|| EngineError::BadModel("not a whole ONNX model: it has no graph".into()))?;
        if graph.node.len() > NODES_MAX {
            return Err(EngineError::Unsupported(format!(
                "the graph has {} nodes; the classical engine takes {NODES_MAX}",
                graph.node.len()
            )));
        }
        if !graph.sparse_initializer.is_empty() {
            return Err(EngineError::Unsupported("the classical engine does not have sparse weights".into()));
        }
        let opsets = Opsets::of(&model.opset_import);
        if !ML_OPSETS.contains(&opsets.ml) {
            return Err(EngineError::Unsupported(format!(
                "the classical engine has versions {} to {} of the operators of ai.onnx.ml, not {}",
                ML_OPSETS.start(),
                ML_OPSETS.end(),
                opsets.ml
            )));
        }
        let mut program = Builder::new(file, &graph)?.build(file, &graph, opsets)?;
        let mut signature = program.signature.clone();
        trial::correct(&program, &mut signature);
        program.signature = signature;
        Ok(program)
    }

    /// The steps that lead to the value `name` of a file that [`read`](Self::read) understood, which is their only output,
    /// and its type.
    pub(crate) fn up_to(
        file: &ModelFile,
        graph: &wire::Graph,
        opsets: Opsets,
        name: &str,
    ) -> Result<(Program, Type), EngineError> {
        let mut builder = Builder::new(file, graph)?;
        let needed = wire::ancestors(graph, [name]);
        for node in in_order(graph, &builder.known)? {
            if node.output.iter().any(|output| needed.contains(output.as_str())) {
                builder.add(node, file, opsets)?;
            }
        }
        let Some(&(source, kind)) = builder.known.get(name) else {
            return Err(EngineError::BadModel(format!("nothing makes {name:?}")));
        };
        let Builder { weights, steps, slots, .. } = builder;
        let signature = Signature { inputs: file.graph.signature.inputs.clone(), outputs: Vec::new() };
        Ok((Program { signature, steps, slots, weights, outputs: vec![source], classes: Vec::new() }, kind))
    }

    pub(crate) fn signature(&self) -> &Signature {
        &self.signature
    }

    pub(crate) fn classes(&self) -> &[OutputClasses] {
        &self.classes
    }

    /// Runs what the outputs at the positions `wanted` need, and gives them in that order.
    pub(crate) fn run(
        &self,
        state: &mut State,
        inputs: &[Option<Tensor>],
        wanted: &[usize],
    ) -> Result<Vec<Tensor>, EngineError> {
        state.values.resize_with(self.slots, Value::default);
        if state.wanted != wanted || state.wanted.is_empty() {
            state.plan = self.plan(wanted);
            state.wanted = wanted.to_vec();
        }
        let given: SmallVec<[Option<View<'_>>; 8]> = inputs
            .iter()
            .map(|tensor| tensor.as_ref().map(View::of_tensor).transpose())
            .collect::<Result<_, EngineError>>()?;
        let mut held = 0usize;
        for &step in &state.plan {
            let step = &self.steps[step];
            let (earlier, rest) = state.values.split_at_mut(step.first);
            let views: SmallVec<[View<'_>; 4]> =
                step.inputs.iter().map(|&source| self.view(source, &given, earlier)).collect();
            (step.kernel)(&views, &mut rest[..step.count]).map_err(|error| named(&step.operator, error))?;
            held = rest[..step.count].iter().fold(held, |held, value| held.saturating_add(value.len()));
            if held > ELEMENTS_MAX {
                let told = format!("the values of this run have more than {ELEMENTS_MAX} elements together");
                return Err(named(&step.operator, EngineError::OutOfMemory(told)));
            }
        }
        let output = |&position: &usize| match self.outputs.get(position) {
            Some(&source) => self.view(source, &given, &state.values).to_tensor(),
            None => Err(EngineError::Failed(format!("there is no output {position}"))),
        };
        wanted.iter().map(output).collect()
    }

    fn view<'a>(&'a self, source: Source, given: &[Option<View<'a>>], values: &'a [Value]) -> View<'a> {
        match source {
            Source::Input(position, weight) => match given.get(position).copied().flatten() {
                Some(view) => view,
                None => weight.map_or(View::ABSENT, |weight| self.weights[weight].view()),
            },
            Source::Weight(weight) => self.weights[weight].view(),
            Source::Slot(slot) => values[slot].view(),
            Source::Absent => View::ABSENT,
        }
    }

    /// The steps that outputs need, in order.
    fn plan(&self, wanted: &[usize]) -> Vec<usize> {
        let mut needed = vec![false; self.slots];
        let need = |needed: &mut Vec<bool>, source: Source| {
            if let Source::Slot(slot) = source {
                needed[slot] = true;
            }
        };
        wanted.iter().filter_map(|&position| self.outputs.get(position)).for_each(|&source| need(&mut needed, source));
        let mut plan = Vec::new();
        for (position, step) in self.steps.iter().enumerate().rev() {
            if needed[step.first..step.first + step.count].contains(&true) {
                plan.push(position);
                step.inputs.iter().for_each(|&source| need(&mut needed, source));
            }
        }
        plan.reverse();
        plan
    }
}

/// Says which operator an error is of.
fn named(operator: &str, error: EngineError) -> EngineError {
    match error {
        EngineError::BadInput(what) => EngineError::BadInput(format!("{operator}: {what}")),
        EngineError::Failed(what) => EngineError::Failed(format!("{operator}: {what}")),
        EngineError::OutOfMemory(what) => EngineError::OutOfMemory(format!("{operator}: {what}")),
        other => other,
    }
}

/// The versions of the operators that a file is written in.
#[derive(Clone, Copy)]
pub(crate) struct Opsets {
    onnx: i64,
    ml: i64,
}

impl Opsets {
    pub(crate) fn of(sets: &[wire::OperatorSet]) -> Opsets {
        let opset = |domain: &str| {
            let of_domain = |set: &&wire::OperatorSet| {
                if set.domain.is_empty() { domain == "ai.onnx" } else { set.domain == domain }
            };
            sets.iter().find(of_domain).map_or(1, |set| set.version)
        };
        Opsets { onnx: opset("ai.onnx"), ml: opset("ai.onnx.ml") }
    }

    /// The version of the operators of a domain.
    pub(crate) fn version(self, domain: &str) -> i64 {
        if matches!(domain, "" | "ai.onnx") { self.onnx } else { self.ml }
    }
}

/// Names and what is known of them while steps are made.
struct Builder {
    known: HashMap<String, (Source, Type)>,
    weights: Vec<Value>,
    steps: Vec<Step>,
    slots: usize,
    /// What the columns of maps are of.
    classes: Vec<OutputClasses>,
}

impl Builder {
    /// Knows the weights and the inputs.
    fn new(file: &ModelFile, graph: &wire::Graph) -> Result<Builder, EngineError> {
        let mut builder =
            Builder { known: HashMap::new(), weights: Vec::new(), steps: Vec::new(), slots: 0, classes: Vec::new() };
        for tensor in &graph.initializer {
            let value = weights::read(tensor, &file.external)?;
            builder.know(&tensor.name, Source::Weight(builder.weights.len()), value.kind())?;
            builder.weights.push(value);
        }
        for (position, spec) in file.graph.signature.inputs.iter().enumerate() {
            let Some(kind) = Type::of(spec.dtype) else {
                return Err(EngineError::Unsupported(format!(
                    "the classical engine does not have datatype {} (of {:?})",
                    spec.dtype, spec.name
                )));
            };
            let weight = match builder.known.remove(&spec.name) {
                Some((Source::Weight(weight), of_weight)) if of_weight == kind => Some(weight),
                Some(_) => {
                    return Err(EngineError::BadModel(format!(
                        "input {:?} is there twice, or its default is of another type",
                        spec.name
                    )));
                }
                None => None,
            };
            builder.know(&spec.name, Source::Input(position, weight), kind)?;
        }
        Ok(builder)
    }

    fn know(&mut self, name: &str, source: Source, kind: Type) -> Result<(), EngineError> {
        match self.known.insert(name.to_owned(), (source, kind)) {
            None => Ok(()),
            Some(_) => Err(EngineError::BadModel(format!("{name:?} is made twice"))),
        }
    }

    fn build(mut self, file: &ModelFile, graph: &wire::Graph, opsets: Opsets) -> Result<Program, EngineError> {
        for node in in_order(graph, &self.known)? {
            self.add(node, file, opsets)?;
        }
        let mut signature = Signature { inputs: file.graph.signature.inputs.clone(), outputs: Vec::new() };
        let mut outputs = Vec::new();
        for output in &graph.output {
            let Some(spec) = self.output_spec(file, &output.name) else { continue };
            let Some(&(source, kind)) = self.known.get(&output.name) else {
                return Err(EngineError::BadModel(format!("nothing makes the output {:?}", output.name)));
            };
            if kind.dtype() != spec.dtype {
                return Err(EngineError::BadModel(format!(
                    "output {:?} is declared as {}, and is {}",
                    output.name,
                    spec.dtype,
                    kind.dtype()
                )));
            }
            signature.outputs.push(spec);
            outputs.push(source);
        }
        let mut classes = self.classes;
        classes.retain(|classes| signature.outputs.iter().any(|output| output.name == classes.output));
        Ok(Program { signature, steps: self.steps, slots: self.slots, weights: self.weights, outputs, classes })
    }

    /// The declared form of an output that is served: a tensor, or the map of a classifier, which is served as a tensor.
    fn output_spec(&self, file: &ModelFile, name: &str) -> Option<TensorSpec> {
        let declared = file.graph.signature.outputs.iter().find(|spec| spec.name == name).cloned();
        declared.or_else(|| {
            let map = file.graph.maps.iter().any(|map| map == name);
            let classes = map.then(|| self.classes.iter().find(|classes| classes.output == name)).flatten()?;
            let dims = Some(vec![Dim::Dynamic(None), Dim::Fixed(classes.labels.len())]);
            Some(TensorSpec { name: name.to_owned(), dtype: DataType::Fp32, dims, optional: false })
        })
    }

    fn add(&mut self, wire: &wire::Node, file: &ModelFile, opsets: Opsets) -> Result<(), EngineError> {
        let mut inputs: SmallVec<[Source; 4]> = SmallVec::new();
        let mut types = Vec::with_capacity(wire.input.len());
        for name in &wire.input {
            // An empty name is how a file leaves out an optional input.
            match self.known.get(name) {
                Some(&(source, kind)) => {
                    inputs.push(source);
                    types.push(Some(kind));
                }
                None if name.is_empty() => {
                    inputs.push(Source::Absent);
                    types.push(None);
                }
                None => {
                    return Err(EngineError::BadModel(format!(
                        "node {:?} reads {name:?}, which nothing makes",
                        wire.name
                    )));
                }
            }
        }
        let weights = inputs
            .iter()
            .map(|source| match source {
                Source::Weight(weight) => Some(&self.weights[*weight]),
                _ => None,
            })
            .collect();
        let width = |source: &Source| match source {
            Source::Input(position, _) => match file.graph.signature.inputs[*position].dims.as_deref() {
                Some([_, Dim::Fixed(columns)]) => Some(*columns),
                _ => None,
            },
            _ => None,
        };
        let widths = inputs.iter().map(width).collect();
        let opset = opsets.version(&wire.domain);
        let attributes = wire.attributes()?;
        let node = Node { wire, attributes: &attributes, types, weights, widths, opset, external: &file.external };
        let built = ops::build(&node)?;
        if node.wire.output.len() > built.outputs.len() {
            return Err(node.unsupported(format_args!("{} outputs", node.wire.output.len())));
        }
        if let (Some(labels), Some(output)) = (ops::labels_of_map(&node)?, node.wire.output.first()) {
            self.classes.push(OutputClasses { output: output.clone(), labels });
        }
        let (operator, passes) = (node.operator(), built.passes);
        drop(node);
        let first = self.slots;
        for (position, (name, kind)) in wire.output.iter().zip(&built.outputs).enumerate() {
            let source = if passes { inputs[0] } else { Source::Slot(first + position) };
            if !name.is_empty() {
                self.know(name, source, *kind)?;
            }
        }
        if !passes {
            self.slots += built.outputs.len();
            self.steps.push(Step { kernel: built.kernel, inputs, first, count: built.outputs.len(), operator });
        }
        Ok(())
    }
}

/// The nodes in an order in which each follows those it reads from. Files have them so, by the specification; one that does
/// not is put in order, and one in which a node waits for itself is refused.
pub(crate) fn in_order<'a, K>(
    graph: &'a wire::Graph,
    known: &HashMap<String, K>,
) -> Result<Vec<&'a wire::Node>, EngineError> {
    let mut makers: HashMap<&str, usize> = HashMap::new();
    for (position, node) in graph.node.iter().enumerate() {
        for name in node.output.iter().filter(|name| !name.is_empty()) {
            makers.insert(name, position);
        }
    }
    let mut waits: Vec<usize> = vec![0; graph.node.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); graph.node.len()];
    for (position, node) in graph.node.iter().enumerate() {
        for maker in
            node.input.iter().filter(|name| !known.contains_key(*name)).filter_map(|name| makers.get(name.as_str()))
        {
            waits[position] += 1;
            readers[*maker].push(position);
        }
    }
    let mut ready: std::collections::BinaryHeap<std::cmp::Reverse<usize>> =
        (0..waits.len()).filter(|&position| waits[position] == 0).map(std::cmp::Reverse).collect();
    let mut order = Vec::with_capacity(graph.node.len());
    while let Some(std::cmp::Reverse(position)) = ready.pop() {
        order.push(&graph.node[position]);
        for &reader in &readers[position] {
            waits[reader] -= 1;
            if waits[reader] == 0 {
                ready.push(std::cmp::Reverse(reader));
            }
        }
    }
    if order.len() < graph.node.len() {
        let waiting = graph.node.iter().zip(&waits).find(|(_, waits)| **waits > 0).map_or("", |(node, _)| &node.name);
        return Err(EngineError::BadModel(format!("the graph has a circle: node {waiting:?} waits for itself")));
    }
    Ok(order)
}
