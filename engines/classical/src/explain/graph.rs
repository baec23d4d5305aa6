//! Which node of a graph gives the score, and what leads to it?

use prost::Message;
use tiltyard_runtime::engine::{EngineError, ModelFile};
use tiltyard_types::{Dim, Tensor};

use super::forest::NOBODY;
use super::origin::{Origin, follow};
use crate::node::Node;
use crate::ops::raw::{self, Raw};
use crate::program::{Opsets, Program, State};
use crate::value::{Slice, Type};
use crate::wire;

/// The steps up to the features of the one operator that scores, and what that operator sums.
pub(super) struct Scored {
    pub(super) raw: Raw,
    pub(super) lead: Lead,
    /// The column of the request that each feature is of; [`NOBODY`] for one that is the same in all rows.
    pub(super) players: Vec<u32>,
    /// Features that several columns have a part in.
    pub(super) mixed: Vec<u32>,
}

/// What makes features of a request.
pub(super) struct Lead {
    program: Program,
    /// Whether features are seen in single precision.
    single: bool,
    features: usize,
}

impl Lead {
    /// The features of rows: how many rows there are, and rows × features.
    pub(super) fn features(&self, inputs: &[Option<Tensor>]) -> Result<(usize, Vec<f64>), EngineError> {
        let made = self.program.run(&mut State::default(), inputs, &[0])?;
        let view = crate::value::View::of_tensor(&made[0])?;
        let (rows, columns) = view.matrix()?;
        if columns != self.features {
            return Err(EngineError::BadInput(format!("a row has {columns} features, {} are expected", self.features)));
        }
        let values = match view.data {
            Slice::F32(values) => values.iter().map(|&value| value.into()).collect(),
            Slice::F64(values) if self.single => values.iter().map(|&value| f64::from(value as f32)).collect(),
            Slice::F64(values) => values.to_vec(),
            Slice::I64(values) => values.iter().map(|&value| f64::from(value as f32)).collect(),
            Slice::I32(values) => values.iter().map(|&value| f64::from(value as f32)).collect(),
            _ => return Err(EngineError::Failed("features are no numbers".into())),
        };
        Ok((rows, values))
    }
}

/// How many columns each input has. Fails where that is not known.
pub(super) fn columns(file: &ModelFile) -> Result<Vec<usize>, EngineError> {
    let inputs = file.graph.signature.inputs.iter();
    let columns = inputs.map(|spec| match spec.dims.as_deref() {
        Some([_]) => Ok(1),
        Some([_, Dim::Fixed(columns)]) => Ok(*columns),
        _ => {
            Err(EngineError::Unsupported(format!("input {spec} is not a table of columns, which explanations are of")))
        }
    });
    columns.collect()
}

/// Finds the operator, and reads what is needed of the file. Fails where there is none or are several, and where what
/// follows it is no matter of the score alone.
pub(super) fn read(file: &ModelFile, columns: &[usize]) -> Result<Scored, EngineError> {
    let model: wire::Model = Message::decode(file.bytes.clone())
        .map_err(|error| EngineError::BadModel(format!("not a whole ONNX model: {error}")))?;
    let graph = model.graph.ok_or_else(|| EngineError::BadModel("not a whole ONNX model: it has no graph".into()))?;
    let opsets = Opsets::of(&model.opset_import);
    let node = scoring(&graph)?;
    let features = node.input.first().map(String::as_str).unwrap_or_default();
    check_after(&graph, node, features)?;
    let (program, kind) = Program::up_to(file, &graph, opsets, features)?;
    let origins = follow(file, &graph, opsets, features, columns)?;
    let raw = raw::read(&Node {
        wire: node,
        attributes: &node.attributes()?,
        types: vec![Some(kind)],
        weights: vec![None],
        widths: vec![None],
        opset: opsets.version(&node.domain),
        external: &file.external,
    })?;
    let player = |origin: &Origin| match origin {
        Origin::Column(column) => *column,
        Origin::Nowhere | Origin::Several => NOBODY,
    };
    let mixed = (0..).zip(&origins).filter(|(_, origin)| **origin == Origin::Several).map(|(at, _)| at).collect();
    let single = kind != Type::F64 || node.op_type.starts_with("Linear");
    let lead = Lead { program, single, features: origins.len() };
    Ok(Scored { raw, lead, players: origins.iter().map(player).collect(), mixed })
}

/// The one operator that scores, among those that the outputs need.
fn scoring(graph: &wire::Graph) -> Result<&wire::Node, EngineError> {
    let needed = wire::ancestors(graph, graph.output.iter().map(|output| output.name.as_str()));
    let scores = |node: &&wire::Node| {
        raw::scores(&node.domain, &node.op_type) && node.output.iter().any(|output| needed.contains(output.as_str()))
    };
    let found: Vec<&wire::Node> = graph.node.iter().filter(scores).collect();
    match found[..] {
        [only] => Ok(only),
        [] => Err(EngineError::Unsupported(
            "none of its operators is explained: trees and the linear models of ai.onnx.ml are".into(),
        )),
        [first, second, ..] => Err(EngineError::Unsupported(format!(
            "its scores come of {} operators, of which {:?} ({}) and {:?} ({}) are two: models of one are explained",
            found.len(),
            first.name,
            first.op_type,
            second.name,
            second.op_type
        ))),
    }
}

/// Fails where what follows the score reads anything else of the request.
fn check_after(graph: &wire::Graph, scoring: &wire::Node, features: &str) -> Result<(), EngineError> {
    let needed = wire::ancestors(graph, graph.output.iter().map(|output| output.name.as_str()));
    let before = wire::ancestors(graph, [features]);
    let weights = |name: &str| graph.initializer.iter().any(|tensor| tensor.name == name);
    let made = |name: &str| graph.node.iter().any(|node| node.output.iter().any(|output| output == name));
    let after = graph.node.iter().filter(|node| {
        let is_needed = node.output.iter().any(|output| needed.contains(output.as_str()));
        let is_before = node.output.iter().any(|output| before.contains(output.as_str()));
        is_needed && !is_before && !std::ptr::eq(*node, scoring) && node.op_type != "Shape"
    });
    for node in after {
        let is_of_request =
            |name: &&String| !name.is_empty() && !weights(name) && (before.contains(name.as_str()) || !made(name));
        // What constants and shapes come of is before the score too, and no matter of a row.
        let depends = |name: &&String| {
            let of = wire::ancestors(graph, [name.as_str()]);
            of.iter().any(|name| !weights(name) && !made(name))
        };
        if let Some(name) = node.input.iter().filter(is_of_request).find(depends) {
            return Err(EngineError::Unsupported(format!(
                "node {:?} ({}) makes more of the score with {name:?}: only what the score says is explained",
                node.name, node.op_type
            )));
        }
    }
    Ok(())
}
