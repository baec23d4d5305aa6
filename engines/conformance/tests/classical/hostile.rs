//! Is a model that means harm refused in words, in bounded time and memory, and never with a panic?
//!
//! Each is compiled and asked about three rows in a process of its own, so that one that would take the process down is told
//! by its name.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tiltyard_runtime::engine::{CompileOptions, Engine, EngineError, ModelFile};
use tiltyard_runtime::onnx::Graph;
use tiltyard_types::{DataType, Dim, Shape, Tensor, TensorSpec};

use crate::building::{Attribute, FLOAT, Given, INT64, Model, STRING, raw, tensor};

/// The variable that tells the process of its own which model it tries.
const VARIABLE: &str = "TILTYARD_HOSTILE_MODEL";

/// Begins the line in which that process says what came of it.
const MARK: &str = "it was ";

/// Address space of that process, and what of it may have been resident at any time.
const ADDRESSES_KIB_MAX: u64 = 4 << 20;
const RESIDENT_KIB_MAX: u64 = 1 << 20;

/// What is not done by then hangs. It takes some milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// What must come of a model.
enum Expected {
    /// It is answered: what looks like harm is none.
    Answered,
    /// It is refused when it is compiled or run, and the message has these words.
    Refused(&'static [&'static str]),
}
use Expected::{Answered, Refused};

type Case = (&'static str, Vec<u8>, Expected);

const SPLIT: &str = "BRANCH_LEQ";

fn texts(texts: &[&str]) -> Given {
    Given::Texts(texts.iter().map(|&text| text.to_owned()).collect())
}

/// A regressor of one tree with a split and two leaves, after `changes` replaced or added attributes.
fn trees(changes: &[Attribute]) -> Vec<u8> {
    let mut attributes: Vec<Attribute> = vec![
        ("nodes_treeids", Given::Ints(vec![0; 3])),
        ("nodes_nodeids", Given::Ints(vec![0, 1, 2])),
        ("nodes_featureids", Given::Ints(vec![0; 3])),
        ("nodes_values", Given::Floats(vec![0.5, 0.0, 0.0])),
        ("nodes_modes", texts(&[SPLIT, "LEAF", "LEAF"])),
        ("nodes_truenodeids", Given::Ints(vec![1, 0, 0])),
        ("nodes_falsenodeids", Given::Ints(vec![2, 0, 0])),
        ("nodes_missing_value_tracks_true", Given::Ints(vec![0; 3])),
        ("target_treeids", Given::Ints(vec![0, 0])),
        ("target_nodeids", Given::Ints(vec![1, 2])),
        ("target_ids", Given::Ints(vec![0, 0])),
        ("target_weights", Given::Floats(vec![1.0, 2.0])),
        ("n_targets", Given::Int(1)),
    ];
    for (name, given) in changes {
        attributes.retain(|(other, _)| other != name);
        attributes.push((name, given.clone()));
    }
    one_node("ml:TreeEnsembleRegressor", 3, &attributes)
}

/// A model of one node from four columns to an output of floats.
fn one_node(operator: &str, ml: u64, attributes: &[Attribute]) -> Vec<u8> {
    Model::of(ml).input("x", FLOAT, 4).output("y", FLOAT).node(operator, "x", "y", attributes).write()
}

/// A chain of `length` splits, each of which ends in a leaf on one side.
fn chain(length: usize) -> Vec<u8> {
    let count = 2 * length + 1;
    let last = count - 1;
    let split = |at: usize| at < last && at.is_multiple_of(2);
    let child = |offset: usize| move |at: usize| if split(at) { (at + offset) as i64 } else { 0 };
    let leaves: Vec<i64> = (0..count).filter(|&at| !split(at)).map(|at| at as i64).collect();
    trees(&[
        ("nodes_treeids", Given::Ints(vec![0; count])),
        ("nodes_nodeids", Given::Ints((0..count as i64).collect())),
        ("nodes_featureids", Given::Ints(vec![0; count])),
        ("nodes_values", Given::Floats(vec![-0.5; count])),
        ("nodes_modes", Given::Texts((0..count).map(|at| if split(at) { SPLIT } else { "LEAF" }.to_owned()).collect())),
        ("nodes_truenodeids", Given::Ints((0..count).map(child(1)).collect())),
        ("nodes_falsenodeids", Given::Ints((0..count).map(child(2)).collect())),
        ("nodes_missing_value_tracks_true", Given::Ints(vec![0; count])),
        ("target_treeids", Given::Ints(vec![0; leaves.len()])),
        ("target_ids", Given::Ints(vec![0; leaves.len()])),
        ("target_weights", Given::Floats(vec![1.0; leaves.len()])),
        ("target_nodeids", Given::Ints(leaves)),
    ])
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn tree_cases() -> Vec<Case> {
    let ints = |values: &[i64]| Given::Ints(values.to_vec());
    let mut cases: Vec<Case> = vec![
        ("a tree as it should be", trees(&[]), Answered),
        ("a tree whose child is its parent", trees(&[("nodes_truenodeids", ints(&[0, 0, 0]))]), Refused(&["tree 0"])),
        (
            "a tree without a root",
            trees(&[
                ("nodes_modes", texts(&[SPLIT, SPLIT, "LEAF"])),
                ("nodes_truenodeids", ints(&[1, 0, 0])),
                ("nodes_falsenodeids", ints(&[2, 2, 0])),
            ]),
            Refused(&["tree 0"]),
        ),
        ("a child that is not there", trees(&[("nodes_falsenodeids", ints(&[7, 0, 0]))]), Refused(&["7"])),
        ("a child below zero", trees(&[("nodes_falsenodeids", ints(&[-1, 0, 0]))]), Refused(&["-1"])),
        (
            "a child far away",
            trees(&[("nodes_falsenodeids", ints(&[i64::MAX, 0, 0]))]),
            Refused(&["node 9223372036854775807"]),
        ),
        ("a child in another tree", trees(&[("nodes_treeids", ints(&[0, 0, 1]))]), Refused(&["tree"])),
        ("one node twice", trees(&[("nodes_nodeids", ints(&[0, 1, 1]))]), Refused(&["1"])),
        (
            "a mode that nobody knows",
            trees(&[("nodes_modes", texts(&["BRANCH_ISH", "LEAF", "LEAF"]))]),
            Refused(&["BRANCH_ISH"]),
        ),
        ("a column that is not there", trees(&[("nodes_featureids", ints(&[4, 0, 0]))]), Refused(&["4"])),
        ("a column below zero", trees(&[("nodes_featureids", ints(&[-1, 0, 0]))]), Refused(&["-1"])),
        ("a column far away", trees(&[("nodes_featureids", ints(&[i64::MAX, 0, 0]))]), Refused(&["column"])),
        ("a target that is not there", trees(&[("target_ids", ints(&[0, 1]))]), Refused(&["none of the 1 scores"])),
        ("a target below zero", trees(&[("target_ids", ints(&[0, -1]))]), Refused(&["none of the 1 scores"])),
        ("a weight of no leaf", trees(&[("target_nodeids", ints(&[1, 9]))]), Refused(&["9"])),
        ("targets without end", trees(&[("n_targets", Given::Int(1 << 40))]), Refused(&["1099511627776 targets"])),
        ("targets below zero", trees(&[("n_targets", Given::Int(-1))]), Refused(&["0 scores"])),
        ("no targets", trees(&[("n_targets", Given::Int(0))]), Refused(&["0 scores"])),
        ("an aggregate that nobody knows", trees(&[("aggregate_function", Given::Text("MOST"))]), Refused(&["MOST"])),
        (
            "a transformation that nobody knows",
            trees(&[("post_transform", Given::Text("SOFTER"))]),
            Refused(&["SOFTER"]),
        ),
        (
            "base values without end",
            trees(&[("base_values", Given::Floats(vec![0.0; 9]))]),
            Refused(&["9 base values"]),
        ),
        ("numbers where words belong", trees(&[("nodes_modes", ints(&[1, 0, 0]))]), Refused(&["lists of"])),
        ("words where numbers belong", trees(&[("nodes_treeids", texts(&["0", "0", "0"]))]), Refused(&["0 nodes"])),
        (
            "doubles of which there are none",
            trees(&[("nodes_values_as_tensor", Given::Tensor(tensor("values", 11, &[1 << 40], &[])))]),
            Refused(&["values", "1099511627776"]),
        ),
        ("no nodes", one_node("ml:TreeEnsembleRegressor", 3, &[("n_targets", Given::Int(1))]), Refused(&["node"])),
        ("a tree 100,000 deep", chain(100_000), Answered),
    ];
    for (name, given) in [
        ("nodes_treeids", ints(&[0, 0])),
        ("nodes_nodeids", ints(&[0, 1])),
        ("nodes_featureids", ints(&[0, 0])),
        ("nodes_values", Given::Floats(vec![0.5, 0.0])),
        ("nodes_modes", texts(&[SPLIT, "LEAF"])),
        ("nodes_truenodeids", ints(&[1, 0])),
        ("nodes_falsenodeids", ints(&[2, 0])),
        ("target_treeids", ints(&[0])),
        ("target_nodeids", ints(&[1])),
        ("target_ids", ints(&[0])),
        ("target_weights", Given::Floats(vec![1.0])),
    ] {
        cases.push((name, trees(&[(name, given)]), Refused(&[])));
    }
    cases
}

/// Opset 5's ensemble of one split with two leaves, after `changes`.
fn ensemble(changes: &[Attribute]) -> Vec<u8> {
    let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut attributes: Vec<Attribute> = vec![
        ("tree_roots", Given::Ints(vec![0])),
        ("nodes_featureids", Given::Ints(vec![0])),
        ("nodes_splits", Given::Tensor(tensor("splits", FLOAT, &[1], &floats(&[0.5])))),
        ("nodes_modes", Given::Tensor(tensor("modes", 2, &[1], &[0]))),
        ("nodes_truenodeids", Given::Ints(vec![0])),
        ("nodes_falsenodeids", Given::Ints(vec![1])),
        ("nodes_trueleafs", Given::Ints(vec![1])),
        ("nodes_falseleafs", Given::Ints(vec![1])),
        ("leaf_targetids", Given::Ints(vec![0, 0])),
        ("leaf_weights", Given::Tensor(tensor("weights", FLOAT, &[2], &floats(&[1.0, 2.0])))),
        ("n_targets", Given::Int(1)),
    ];
    for (name, given) in changes {
        attributes.retain(|(other, _)| other != name);
        attributes.push((name, given.clone()));
    }
    one_node("ml:TreeEnsemble", 5, &attributes)
}

fn ensemble_cases() -> Vec<Case> {
    let ints = |values: &[i64]| Given::Ints(values.to_vec());
    vec![
        ("an ensemble as it should be", ensemble(&[]), Answered),
        ("a node that is its own child", ensemble(&[("nodes_trueleafs", ints(&[0]))]), Refused(&[])),
        ("a leaf that is not there", ensemble(&[("nodes_falsenodeids", ints(&[2]))]), Refused(&["2"])),
        ("a leaf below zero", ensemble(&[("nodes_falsenodeids", ints(&[-2]))]), Refused(&["-2"])),
        ("a root that is not there", ensemble(&[("tree_roots", ints(&[1]))]), Refused(&["root"])),
        ("a root below zero", ensemble(&[("tree_roots", ints(&[-1]))]), Refused(&["root"])),
        ("one root many times", ensemble(&[("tree_roots", ints(&[0; 1000]))]), Refused(&["share"])),
        (
            "a mode out of range",
            ensemble(&[("nodes_modes", Given::Tensor(tensor("modes", 2, &[1], &[77])))]),
            Refused(&["77"]),
        ),
        (
            "membership without members",
            ensemble(&[("nodes_modes", Given::Tensor(tensor("modes", 2, &[1], &[6])))]),
            Answered,
        ),
        (
            "splits without content",
            ensemble(&[("nodes_splits", Given::Tensor(tensor("splits", FLOAT, &[1 << 40], &[])))]),
            Refused(&["splits", "1099511627776"]),
        ),
        (
            "splits of no length",
            ensemble(&[("nodes_splits", Given::Tensor(tensor("splits", FLOAT, &[-1], &[])))]),
            Refused(&["splits", "-1"]),
        ),
        (
            "a leaf's target that is not there",
            ensemble(&[("leaf_targetids", ints(&[0, 5]))]),
            Refused(&["none of the 1 scores"]),
        ),
        ("more leaves than weights", ensemble(&[("leaf_targetids", ints(&[0, 0, 0]))]), Refused(&[])),
        (
            "an ensemble's targets without end",
            ensemble(&[("n_targets", Given::Int(i64::MAX))]),
            Refused(&["9223372036854775807 targets"]),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn operator_cases() -> Vec<Case> {
    let ints = |values: &[i64]| Given::Ints(values.to_vec());
    let floats = |count: usize| Given::Floats(vec![0.5; count]);
    let node = |operator: &str, attributes: &[Attribute]| one_node(operator, 3, attributes);
    let svm = |counts: &[i64]| {
        let given: &[Attribute] = &[
            ("kernel_type", Given::Text("RBF")),
            ("kernel_params", floats(3)),
            ("support_vectors", floats(8)),
            ("coefficients", floats(2)),
            ("rho", floats(1)),
            ("vectors_per_class", ints(counts)),
            ("classlabels_ints", ints(&[0, 1])),
        ];
        Model::of(3).input("x", FLOAT, 4).output("y", INT64).node("ml:SVMClassifier", "x", "y s", given).write()
    };
    let encode = |given: &[Attribute]| {
        Model::of(4).input("x", STRING, 1).output("y", INT64).node("ml:LabelEncoder", "x", "y", given).write()
    };
    let label = |given: &[Attribute]| {
        Model::of(3).input("x", FLOAT, 4).output("y", INT64).node("ml:LinearClassifier", "x", "y s", given).write()
    };
    let pick = |index: i64| {
        let model = Model::of(3).input("x", FLOAT, 4).output("y", FLOAT).weight("at", INT64, &[1], &raw(&[index]));
        model.node("ml:ArrayFeatureExtractor", "x at", "y", &[]).write()
    };
    vec![
        (
            "coefficients too few",
            node("ml:LinearRegressor", &[("coefficients", floats(3))]),
            Refused(&["coefficients"]),
        ),
        (
            "linear targets without end",
            node("ml:LinearRegressor", &[("coefficients", floats(4)), ("targets", Given::Int(1 << 50))]),
            Refused(&["targets"]),
        ),
        (
            "linear targets below zero",
            node("ml:LinearRegressor", &[("coefficients", floats(4)), ("targets", Given::Int(-1))]),
            Refused(&["targets"]),
        ),
        (
            "a classifier without labels",
            label(&[("coefficients", floats(8)), ("intercepts", floats(2))]),
            Refused(&["classlabels"]),
        ),
        (
            "a classifier without coefficients",
            label(&[("classlabels_ints", ints(&[0, 1]))]),
            Refused(&["coefficients"]),
        ),
        (
            "intercepts too many",
            label(&[("coefficients", floats(8)), ("intercepts", floats(9)), ("classlabels_ints", ints(&[0, 1]))]),
            Refused(&["9 scores"]),
        ),
        (
            "a scaler of three columns",
            node("ml:Scaler", &[("offset", floats(3)), ("scale", floats(3))]),
            Refused(&["3"]),
        ),
        (
            "a scaler of two lengths",
            node("ml:Scaler", &[("offset", floats(4)), ("scale", floats(1))]),
            Refused(&["offset"]),
        ),
        ("a norm that nobody knows", node("ml:Normalizer", &[("norm", Given::Text("L7"))]), Refused(&["L7"])),
        // As many values as columns, or the first for all: so has ONNX Runtime it.
        ("an imputer of three columns", node("ml:Imputer", &[("imputed_value_floats", floats(3))]), Answered),
        ("an imputer of nothing", node("ml:Imputer", &[]), Refused(&["fill in"])),
        (
            "categories of both kinds",
            node("ml:OneHotEncoder", &[("cats_int64s", ints(&[1])), ("cats_strings", texts(&["a"]))]),
            Refused(&["cats_"]),
        ),
        ("no categories", node("ml:OneHotEncoder", &[]), Refused(&["cats_"])),
        ("vectors below zero", svm(&[-1, 3]), Refused(&["-1 vectors"])),
        ("vectors without end", svm(&[i64::MAX, i64::MAX]), Refused(&["vectors"])),
        ("vectors of too many classes", svm(&[1, 1, 0, 0]), Refused(&["4 classes"])),
        (
            "supports without end",
            node(
                "ml:SVMRegressor",
                &[
                    ("kernel_type", Given::Text("RBF")),
                    ("kernel_params", floats(3)),
                    ("n_supports", Given::Int(1 << 60)),
                    ("support_vectors", floats(8)),
                    ("coefficients", floats(2)),
                    ("rho", floats(1)),
                ],
            ),
            Refused(&["1152921504606846976 vectors"]),
        ),
        (
            "a kernel that nobody knows",
            node(
                "ml:SVMRegressor",
                &[
                    ("kernel_type", Given::Text("CUBE")),
                    ("n_supports", Given::Int(2)),
                    ("support_vectors", floats(8)),
                    ("coefficients", floats(2)),
                    ("rho", floats(1)),
                ],
            ),
            Refused(&["CUBE"]),
        ),
        (
            "more keys than values",
            encode(&[("keys_strings", texts(&["a", "b"])), ("values_int64s", ints(&[1]))]),
            Refused(&["keys"]),
        ),
        ("keys of no kind", encode(&[("values_int64s", ints(&[1]))]), Refused(&["keys"])),
        (
            "keys without content",
            encode(&[
                ("keys_tensor", Given::Tensor(tensor("keys", STRING, &[1 << 40], &[]))),
                ("values_int64s", ints(&[1])),
            ]),
            Refused(&["keys"]),
        ),
        ("a column to pick that is not there", pick(4), Refused(&["4"])),
        ("a column to pick far away", pick(i64::MIN), Refused(&[])),
        (
            "dimensions that do not fit",
            node("ml:FeatureVectorizer", &[("inputdimensions", ints(&[1 << 40]))]),
            Refused(&["1099511627776"]),
        ),
        (
            "an operator set from the future",
            one_node("ml:Scaler", 9999, &[("offset", floats(1)), ("scale", floats(1))]),
            Refused(&["9999"]),
        ),
        ("an operator that nobody knows", node("ml:CrystalBall", &[]), Refused(&["CrystalBall"])),
    ]
}

/// A graph around a scaler, so that it is one of this engine's: `s` is what it gives.
fn scaled() -> Model {
    let one = |value| Given::Floats(vec![value]);
    Model::of(3).input("x", FLOAT, 4).output("y", FLOAT).node(
        "ml:Scaler",
        "x",
        "s",
        &[("offset", one(0.0)), ("scale", one(1.0))],
    )
}

/// Each node puts two of what came before beside each other.
fn doubling(times: usize) -> Vec<u8> {
    let axis: &[Attribute] = &[("axis", Given::Int(1))];
    let mut model = scaled().node("Concat", "s s", "c0", axis);
    for at in 1..times {
        model = model.node("Concat", &format!("c{0} c{0}", at - 1), &format!("c{at}"), axis);
    }
    model.node("Identity", &format!("c{}", times - 1), "y", &[]).write()
}

fn identities(count: usize) -> Vec<u8> {
    let mut model = scaled().node("Identity", "s", "c0", &[]);
    for at in 1..count {
        model = model.node("Identity", &format!("c{}", at - 1), &format!("c{at}"), &[]);
    }
    model.node("Identity", &format!("c{}", count - 1), "y", &[]).write()
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn graph_cases() -> Vec<Case> {
    let with = |operator: &str, weight: &[i64], attributes: &[Attribute]| {
        let model = scaled().weight("w", INT64, &[weight.len() as i64], &raw(weight));
        model.node(operator, "s w", "y", attributes).write()
    };
    let axis = |at: i64| -> Vec<Attribute> { vec![("axis", Given::Int(at))] };
    let zeros = scaled().weight("w", INT64, &[2], &raw(&[1 << 40, 1 << 40]));
    vec![
        (
            "nodes in a circle",
            scaled()
                .node("Add", "s b", "a", &[])
                .node("Identity", "a", "b", &[])
                .node("Identity", "b", "y", &[])
                .write(),
            Refused(&["circle"]),
        ),
        ("a node that feeds itself", scaled().node("Add", "s y", "y", &[]).write(), Refused(&["circle"])),
        ("a value that nobody makes", scaled().node("Add", "s ghost", "y", &[]).write(), Refused(&["ghost"])),
        ("an output that nobody makes", scaled().write(), Refused(&["y"])),
        (
            "one name for two values",
            scaled().node("Identity", "s", "s", &[]).node("Identity", "s", "y", &[]).write(),
            Refused(&["s"]),
        ),
        ("too few inputs", scaled().node("Add", "s", "y", &[]).write(), Refused(&["Add"])),
        ("no inputs", scaled().node("Concat", "", "y", &axis(0)).write(), Refused(&["Concat"])),
        (
            "a weight without content",
            scaled().weight("w", FLOAT, &[1 << 40], &[]).node("Add", "s w", "y", &[]).write(),
            Refused(&["w"]),
        ),
        (
            "a weight of no length",
            scaled().weight("w", FLOAT, &[-4], &[]).node("Add", "s w", "y", &[]).write(),
            Refused(&["w"]),
        ),
        (
            "a weight whose size overflows",
            scaled().weight("w", FLOAT, &[1 << 33, 1 << 33], &[]).node("Add", "s w", "y", &[]).write(),
            Refused(&["w"]),
        ),
        (
            "a weight of a type that nobody knows",
            scaled().weight("w", 99, &[1], &[0; 4]).node("Add", "s w", "y", &[]).write(),
            Refused(&["99"]),
        ),
        ("a shape without end", with("Reshape", &[1 << 40, 1 << 40], &[]), Refused(&["Reshape"])),
        ("two lengths to find out", with("Reshape", &[-1, -1], &[]), Refused(&["Reshape"])),
        ("a shape that does not fit", with("Reshape", &[5, -1], &[]), Refused(&["Reshape"])),
        ("a length below minus one", with("Reshape", &[-7], &[]), Refused(&["Reshape"])),
        ("tiles without end", with("Tile", &[1 << 40, 1 << 40], &[]), Refused(&["Tile"])),
        ("tiles below zero", with("Tile", &[-1, 1], &[]), Refused(&["Tile"])),
        ("a shape to spread to without end", with("Expand", &[1 << 40, 1, 4], &[]), Refused(&["Expand"])),
        (
            "zeros without end",
            zeros.node("ConstantOfShape", "w", "z", &[]).node("Add", "s z", "y", &[]).write(),
            Refused(&["ConstantOfShape"]),
        ),
        ("an index out of range", with("Gather", &[9], &axis(1)), Refused(&["9"])),
        ("an axis out of range", with("Gather", &[0], &axis(9)), Refused(&["axis"])),
        ("an axis far away", scaled().node("Concat", "s s", "y", &axis(i64::MIN)).write(), Refused(&["Concat"])),
        ("more of the largest than there are", with("TopK", &[1 << 40], &[]), Refused(&["TopK"])),
        (
            "a cast to what nobody knows",
            scaled().node("Cast", "s", "y", &[("to", Given::Int(99))]).write(),
            Refused(&["99"]),
        ),
        (
            "a division of whole numbers by zero",
            {
                let cast: &[Attribute] = &[("to", Given::Int(7))];
                let model = scaled().weight("w", INT64, &[1], &raw(&[0])).node("Cast", "s", "i", cast);
                model.node("Div", "i w", "d", &[]).node("Cast", "d", "y", &[("to", Given::Int(1))]).write()
            },
            Refused(&["Div"]),
        ),
        ("columns doubled forty times", doubling(40), Refused(&["elements together"])),
        ("ten thousand nodes", identities(10_000), Answered),
    ]
}

fn cases() -> Vec<Case> {
    [tree_cases(), ensemble_cases(), operator_cases(), graph_cases()].into_iter().flatten().collect()
}

/// Compiles it and asks about three rows. `Err` has the refusal.
fn attempt(bytes: Vec<u8>) -> Result<(), EngineError> {
    let bytes = Bytes::from(bytes);
    let graph = Graph::read(&bytes).map_err(|error| EngineError::BadModel(error.to_string()))?;
    let file = ModelFile { path: "model.onnx".into(), bytes, external: Default::default(), graph };
    let compiled = tiltyard_classical::engine().compile(&file, &CompileOptions::default())?;
    let inputs: Vec<Option<Tensor>> = compiled.signature().inputs.iter().map(|spec| Some(three_rows(spec))).collect();
    let wanted: Vec<usize> = (0..compiled.signature().outputs.len()).collect();
    compiled.open()?.run(&inputs, &wanted).map(drop)
}

fn three_rows(spec: &TensorSpec) -> Tensor {
    let length = |dim: &Dim| if let Dim::Fixed(length) = dim { *length } else { 3 };
    let lengths: Vec<usize> = spec.dims.iter().flatten().map(length).collect();
    let count = lengths.iter().product::<usize>();
    let shape = Shape::from(lengths.as_slice());
    let made = match spec.dtype {
        DataType::Bytes => Tensor::strings(shape, vec![Bytes::from_static(b"a"); count]),
        dtype => Tensor::fixed(dtype, shape, vec![0; count * dtype.width().unwrap_or(1)]),
    };
    made.expect("as many elements as the shape has").aligned()
}

/// The most memory that this process had at a time, in KiB.
fn most_resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
#[ignore = "the test below runs it, with a model's name, in a process of its own"]
#[allow(clippy::print_stdout, reason = "this is how the other process hears of it")]
fn one_hostile_model() {
    let Ok(name) = std::env::var(VARIABLE) else { return };
    let (_, bytes, _) = cases().into_iter().find(|(other, ..)| *other == name).unwrap();
    let before = most_resident();
    let outcome = attempt(bytes);
    let grown = most_resident() - before;
    assert!(grown < RESIDENT_KIB_MAX, "{grown} KiB were taken");
    match outcome {
        Ok(()) => println!("{MARK}answered"),
        Err(error) => println!("{MARK}refused: {error}"),
    }
}

/// What the process of its own says of a model.
fn outcome(name: &str) -> Result<String, String> {
    let limited = format!("ulimit -v {ADDRESSES_KIB_MAX}; exec \"$0\" \"$@\"");
    let mut process = Command::new("sh")
        .args(["-c", &limited])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "hostile::one_hostile_model", "--ignored", "--nocapture", "--test-threads", "1"])
        .env(VARIABLE, name)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while process.try_wait().unwrap().is_none() {
        if began.elapsed() > PATIENCE {
            process.kill().unwrap();
            process.wait().unwrap();
            return Err(format!("not done after {PATIENCE:?}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let (mut said, mut complained) = (String::new(), String::new());
    process.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    process.stderr.take().unwrap().read_to_string(&mut complained).unwrap();
    let outcome = said.lines().find_map(|line| Some(line.split_once(MARK)?.1.to_owned()));
    outcome.ok_or_else(|| format!("the process ended: {said}{complained}"))
}

fn fault(name: &str, expected: &Expected) -> Option<String> {
    let outcome = match outcome(name) {
        Ok(outcome) => outcome,
        Err(fault) => return Some(format!("{name}: {fault}")),
    };
    let right = match expected {
        Answered => outcome == "answered",
        Refused(words) => {
            let message = outcome.strip_prefix("refused: ");
            message.is_some_and(|said| said.len() < 1000 && words.iter().all(|word| said.contains(word)))
        }
    };
    let wanted = match expected {
        Answered => "an answer".to_owned(),
        Refused(words) => format!("a refusal that says {words:?}"),
    };
    (!right).then(|| format!("{name}: {outcome:?}, expected {wanted}"))
}

#[test]
fn hostile_models_are_refused_in_words() {
    let faults: Vec<String> = cases().iter().filter_map(|(name, _, expected)| fault(name, expected)).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
