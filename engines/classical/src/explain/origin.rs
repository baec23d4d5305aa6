//! Which column of the request does each feature of a scoring operator come from?
//!
//! Every value on the way there has a shadow for one row: numbers of columns in its place. Operators that move elements move the
//! shadow, by the same kernel; those that work element by element hand it on, and an operator that makes one number of several
//! columns ends it: what comes out belongs to nobody alone.

use std::collections::HashMap;

use tiltyard_runtime::engine::{EngineError, ModelFile};
use tiltyard_types::Shape;

use crate::node::Node;
use crate::ops;
use crate::program::{Opsets, in_order};
use crate::value::{Data, Slice, Type, Value};
use crate::{weights, wire};

/// An element that no column has a part in.
const NONE: i64 = -1;

/// An element that more than one column has a part in.
const SEVERAL: i64 = -2;

/// More columns or features than that are not followed.
const ELEMENTS_MAX: usize = 1 << 21;

/// Where a feature comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A column, counted over all inputs of the request side by side.
    Column(u32),
    /// Nowhere: it is the same for all rows.
    Nowhere,
    /// Several columns.
    Several,
}

/// What is known of a value for one row.
enum Known {
    /// The value itself: it does not depend on the row.
    Constant(Value),
    /// The column of each element, or [`NONE`] or [`SEVERAL`].
    Shadow(Value),
}

impl Known {
    fn dims(&self) -> &[usize] {
        match self {
            Known::Constant(value) | Known::Shadow(value) => &value.shape,
        }
    }

    /// The shadow, where there is none: of a constant.
    fn shadow(&self) -> Value {
        match self {
            Known::Shadow(value) => value.clone(),
            Known::Constant(value) => Value::of(value.shape.clone(), vec![NONE; value.len()]),
        }
    }
}

/// The origin of each element of the value `name`, which is a row of features. `columns` is how many each input has.
pub(super) fn follow(
    file: &ModelFile,
    graph: &wire::Graph,
    opsets: Opsets,
    name: &str,
    columns: &[usize],
) -> Result<Vec<Origin>, EngineError> {
    let mut known: HashMap<String, Known> = HashMap::new();
    for tensor in &graph.initializer {
        known.insert(tensor.name.clone(), Known::Constant(weights::read(tensor, &file.external)?));
    }
    let mut first = 0i64;
    for (spec, &columns) in file.graph.signature.inputs.iter().zip(columns) {
        let numbers: Vec<i64> = (first..).take(columns).collect();
        first += columns as i64;
        let shape = match spec.wire_dims().len() {
            1 => Shape::from([1]),
            _ => Shape::from([1, columns]),
        };
        known.insert(spec.name.clone(), Known::Shadow(Value::of(shape, numbers)));
    }
    let needed = wire::ancestors(graph, [name]);
    for node in in_order(graph, &known)? {
        if node.output.iter().any(|output| needed.contains(output.as_str())) {
            for (output, shadow) in node.output.iter().zip(step(file, opsets, node, &known)?) {
                known.insert(output.clone(), shadow);
            }
        }
    }
    let shadow = known.get(name).map(Known::shadow);
    let Some(Value { data: Data::I64(numbers), .. }) = shadow else {
        return Err(EngineError::BadModel(format!("nothing makes {name:?}")));
    };
    let origin = |&number: &i64| match number {
        NONE => Origin::Nowhere,
        column => u32::try_from(column).map_or(Origin::Several, Origin::Column),
    };
    Ok(numbers.iter().map(origin).collect())
}

/// What is known of a node's outputs.
fn step(
    file: &ModelFile,
    opsets: Opsets,
    wire: &wire::Node,
    known: &HashMap<String, Known>,
) -> Result<Vec<Known>, EngineError> {
    let inputs: Vec<Option<&Known>> = wire.input.iter().map(|name| known.get(name)).collect();
    let is_constant = |known: &&Known| matches!(known, Known::Constant(_));
    let elements = inputs.iter().flatten().map(|known| known.dims().iter().product::<usize>()).max().unwrap_or(0);
    if elements > ELEMENTS_MAX && !inputs.iter().flatten().all(is_constant) {
        return Err(EngineError::Unsupported(format!("a row has {elements} values on the way to its score")));
    }
    if wire.op_type == "Shape" && wire.domain != "ai.onnx.ml" {
        let dims = inputs.first().copied().flatten().map_or(&[][..], Known::dims);
        let dims: Vec<i64> = dims.iter().map(|&length| length as i64).collect();
        return Ok(vec![Known::Constant(Value::of(Shape::from([dims.len()]), dims))]);
    }
    if inputs.iter().flatten().all(is_constant) {
        let outputs = run(file, opsets, wire, &inputs, &[])?;
        return Ok(outputs.into_iter().map(Known::Constant).collect());
    }
    let all: Vec<usize> = (0..inputs.len()).collect();
    let shadows = match wire.op_type.as_str() {
        "Concat" => run(file, opsets, wire, &inputs, &all)?,
        "Identity"
        | "Dropout"
        | "Reshape"
        | "Flatten"
        | "Squeeze"
        | "Unsqueeze"
        | "Expand"
        | "Tile"
        | "Transpose"
        | "Split"
        | "Slice"
        | "Gather"
        | "GatherElements"
        | "ArrayFeatureExtractor" => run(file, opsets, wire, &inputs, &[0])?,
        "Scaler" | "Imputer" | "Binarizer" | "LabelEncoder" | "CategoryMapper" | "Cast" | "Clip" | "Abs" | "Neg"
        | "Sign" | "Floor" | "Ceil" | "Round" | "Sqrt" | "Exp" | "Log" | "Reciprocal" | "Sigmoid" | "Tanh" | "Relu"
        | "Erf" | "Sin" | "Cos" | "Not" | "IsNaN" => vec![shadow_of(&inputs, 0)],
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "Sum" | "Mean" | "Equal" | "Less" | "LessOrEqual"
        | "Greater" | "GreaterOrEqual" | "And" | "Or" | "Xor" | "Where" => {
            let shadows: Vec<Value> = all.iter().map(|&input| shadow_of(&inputs, input)).collect();
            vec![side_by_side(&shadows).ok_or_else(|| unsupported(wire, "shapes that do not fit"))?]
        }
        "OneHotEncoder" => vec![one_hot(wire, &shadow_of(&inputs, 0))?],
        "FeatureVectorizer" => {
            vec![vectorized(wire, &all.iter().map(|&at| shadow_of(&inputs, at)).collect::<Vec<_>>())?]
        }
        _ => return Err(unsupported(wire, "it makes one number of several columns, whose parts cannot be told apart")),
    };
    Ok(shadows.into_iter().map(Known::Shadow).collect())
}

fn unsupported(wire: &wire::Node, what: &str) -> EngineError {
    EngineError::Unsupported(format!("node {:?} ({}) is not explained: {what}", wire.name, wire.op_type))
}

fn shadow_of(inputs: &[Option<&Known>], input: usize) -> Value {
    inputs.get(input).copied().flatten().map_or_else(Value::default, Known::shadow)
}

/// Runs a node's own kernel over constants, and over shadows in the places `moved`.
fn run(
    file: &ModelFile,
    opsets: Opsets,
    wire: &wire::Node,
    inputs: &[Option<&Known>],
    moved: &[usize],
) -> Result<Vec<Value>, EngineError> {
    let given: Vec<Option<Value>> = inputs
        .iter()
        .enumerate()
        .map(|(at, known)| match known {
            Some(known) if moved.contains(&at) => Some(known.shadow()),
            Some(Known::Constant(value)) => Some(value.clone()),
            _ => None,
        })
        .collect();
    if given.iter().zip(inputs).any(|(given, known)| given.is_none() && known.is_some()) {
        return Err(unsupported(wire, "what it moves depends on the row"));
    }
    let node = Node {
        wire,
        attributes: &wire.attributes()?,
        types: given.iter().map(|value| value.as_ref().map(Value::kind)).collect(),
        weights: given.iter().map(Option::as_ref).collect(),
        widths: vec![None; given.len()],
        opset: opsets.version(&wire.domain),
        external: &file.external,
    };
    let built = ops::build(&node)?;
    if built.passes {
        return Ok(given.into_iter().take(1).flatten().collect());
    }
    let mut outputs = vec![Value::default(); built.outputs.len()];
    let views: Vec<_> =
        given.iter().map(|value| value.as_ref().map_or(crate::value::View::ABSENT, Value::view)).collect();
    (built.kernel)(&views, &mut outputs)?;
    debug_assert!(moved.is_empty() || outputs.iter().all(|output| output.kind() == Type::I64));
    Ok(outputs)
}

fn numbers(value: &Value) -> &[i64] {
    match value.view().data {
        Slice::I64(numbers) => numbers,
        _ => &[],
    }
}

/// What an element is of that comes of two others.
fn both(left: i64, right: i64) -> i64 {
    match (left, right) {
        (NONE, other) | (other, NONE) => other,
        (left, right) if left == right => left,
        _ => SEVERAL,
    }
}

/// Shadows of different shapes over each other, as elementwise operators have it; `None` where they do not fit.
fn side_by_side(shadows: &[Value]) -> Option<Value> {
    let rank = shadows.iter().map(|shadow| shadow.shape.len()).max()?;
    let length = |shadow: &Value, axis: usize| {
        let missing = rank - shadow.shape.len();
        if axis < missing { 1 } else { shadow.shape[axis - missing] }
    };
    let longest = |axis: usize| shadows.iter().map(|shadow| length(shadow, axis)).find(|&length| length != 1);
    let dims: Vec<usize> = (0..rank).map(|axis| longest(axis).unwrap_or(1)).collect();
    let count = dims.iter().product::<usize>();
    let fits =
        |shadow: &Value| (0..rank).all(|axis| matches!(length(shadow, axis), 1) || length(shadow, axis) == dims[axis]);
    if count > ELEMENTS_MAX || !shadows.iter().all(fits) {
        return None;
    }
    let mut all = vec![NONE; count];
    for shadow in shadows {
        let own = numbers(shadow);
        for (index, element) in all.iter_mut().enumerate() {
            let (mut rest, mut at, mut stride) = (index, 0, 1);
            for axis in (0..rank).rev() {
                let along = rest % dims[axis];
                rest /= dims[axis];
                let length = length(shadow, axis);
                at += if length == 1 { 0 } else { along * stride };
                stride *= length;
            }
            *element = both(*element, own[at]);
        }
    }
    Some(Value::of(dims.into_iter().collect(), all))
}

/// Each element as often as there are categories.
fn one_hot(wire: &wire::Node, shadow: &Value) -> Result<Value, EngineError> {
    let attributes = wire.attributes()?;
    let categories =
        attributes.iter().filter(|attribute| matches!(&attribute.name[..], "cats_int64s" | "cats_strings"));
    let count = categories.map(|categories| categories.lengths.ints.max(categories.lengths.strings)).max().unwrap_or(0);
    let shape: Shape = shadow.shape.iter().copied().chain([count]).collect();
    let elements = numbers(shadow).iter().flat_map(|&number| std::iter::repeat_n(number, count)).collect();
    Ok(Value::of(shape, elements))
}

/// The columns of each input, cut or filled up.
fn vectorized(wire: &wire::Node, shadows: &[Value]) -> Result<Value, EngineError> {
    let attributes = wire.attributes()?;
    let lengths = attributes.iter().find(|attribute| attribute.name == "inputdimensions");
    let of = |(shadow, length): (&Value, i64)| {
        let length = usize::try_from(length).unwrap_or(0).min(ELEMENTS_MAX);
        numbers(shadow).iter().copied().chain(std::iter::repeat(NONE)).take(length).collect::<Vec<_>>()
    };
    let lengths = lengths.into_iter().flat_map(wire::Attribute::each_int);
    let elements: Vec<i64> = shadows.iter().zip(lengths).flat_map(of).collect();
    Ok(Value::of(Shape::from([1, elements.len()]), elements))
}
