//! How fast are forests of trees scored, beside ONNX Runtime on the same files, on one thread and on all processors?
//!
//! `python benches/trees.py make`, then `cargo bench -p tiltyard-benches --bench trees [-- FOLDER [NAMES]]`, with ONNX Runtime's
//! library where `ORT_DYLIB_PATH` or `VIRTUAL_ENV` say. One line per forest, batch and contender: rows/s, nanoseconds per tree
//! and row, and the ratio to ONNX Runtime in the same run. Batches go through 8,192 different rows, so that no path through
//! the trees is in the cache because the last batch took it. ONNX Runtime's time holds its own call, ours our ensemble's alone.
//! Before that, both have answered the same, and the time that each took to load the file is told. On all processors each thread
//! has batches of its own, and a session of its own of ONNX Runtime's.
#![allow(clippy::print_stdout, reason = "the report is what a bench is for")]

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ort::environment::Environment;
use ort::session::{Session, SessionInputValue};
use ort::value::TensorRef;
use prost::Message;
use tiltyard_benches::onnxruntime::{find_library, session};
use tiltyard_benches::{Contender, side_by_side};
use tiltyard_classical::trees::{Aggregate, Ensemble, Forest, Node, Precision, Test, Tree, Weights};

const COLUMNS: usize = 30;
const BATCHES: [usize; 4] = [1, 8, 128, 4096];
const ROUNDS: usize = 15;
const SLICE: Duration = Duration::from_millis(40);

/// How far an answer may be from ONNX Runtime's, which has its own exponential.
const CLOSE: f32 = 2e-6;

/// What of a model's file a forest is made of: the first node of trees in it.
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    nodes: Vec<Operator>,
}

#[derive(Clone, PartialEq, Message)]
struct Operator {
    #[prost(string, tag = "4")]
    kind: String,
    #[prost(message, repeated, tag = "5")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, tag = "3")]
    number: i64,
    #[prost(bytes = "vec", tag = "4")]
    text: Vec<u8>,
    #[prost(float, repeated, tag = "7")]
    floats: Vec<f32>,
    #[prost(int64, repeated, tag = "8")]
    numbers: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    strings: Vec<Vec<u8>>,
}

/// The node of trees of a file.
fn read(file: &Path) -> Operator {
    let bytes = std::fs::read(file).expect("the file can be read");
    let model = Model::decode(bytes.as_slice()).expect("the file is a model");
    let mut nodes = model.graph.expect("it has a graph").nodes.into_iter();
    nodes.find(|node| node.kind.starts_with("TreeEnsemble")).expect("it has trees")
}

/// The forest of a node, as our graph reader would tell it: trees' nodes are numbered from 0 in these files.
fn forest(node: &Operator) -> Forest {
    let empty = Attribute::default();
    let of = |name: &str| node.attributes.iter().find(|attribute| attribute.name == name).unwrap_or(&empty);
    let prefix = if node.kind.ends_with("Classifier") { "class" } else { "target" };
    let weighing = |name: &str| of(&format!("{prefix}_{name}"));
    let labels = of("classlabels_int64s").numbers.len().max(of("classlabels_strings").strings.len());
    let targets = labels.max(of("n_targets").number as usize);
    let mut trees: Vec<Tree> = Vec::new();
    let [nodes, values, columns] = [of("nodes_nodeids"), of("nodes_values"), of("nodes_featureids")];
    let [thens, others, missing] =
        [of("nodes_truenodeids"), of("nodes_falsenodeids"), of("nodes_missing_value_tracks_true")];
    for (at, mode) in of("nodes_modes").strings.iter().enumerate() {
        if nodes.numbers[at] == 0 {
            trees.push(Tree::default());
        }
        let value = f64::from(values.floats[at]);
        let test = match mode.as_slice() {
            b"BRANCH_LEQ" => Some(Test::Leq(value)),
            b"BRANCH_LT" => Some(Test::Lt(value)),
            b"BRANCH_GT" => Some(Test::Gt(value)),
            b"BRANCH_GTE" => Some(Test::Geq(value)),
            b"LEAF" => None,
            other => panic!("{:?} is not for this bench", String::from_utf8_lossy(other)),
        };
        let node = test.map_or(Node::Leaf { weights: Weights::new() }, |test| Node::Branch {
            column: columns.numbers[at] as u32,
            test,
            then: thens.numbers[at] as u32,
            other: others.numbers[at] as u32,
            missing_then: missing.numbers.get(at) == Some(&1),
        });
        trees.last_mut().expect("a tree has begun").nodes.push(node);
    }
    let [of_trees, of_nodes, ids] = ["treeids", "nodeids", "ids"].map(weighing);
    for (at, &weight) in weighing("weights").floats.iter().enumerate() {
        let [tree, node] = [of_trees, of_nodes].map(|of| of.numbers[at] as usize);
        if let Node::Leaf { weights } = &mut trees[tree].nodes[node] {
            weights.push((ids.numbers[at] as u32, f64::from(weight)));
        }
    }
    let base = of("base_values").floats.iter().map(|value| f64::from(*value)).collect();
    Forest { columns: COLUMNS, targets, trees, base }
}

/// The next batch, round and round.
fn next<'a>(rows: &'a [f32], at: &mut usize, batch: usize) -> &'a [f32] {
    let size = batch * COLUMNS;
    *at = if *at + 2 * size > rows.len() { 0 } else { *at + size };
    &rows[*at..*at + size]
}

/// Whether the probability of the second class is the same: in these files all weights are for one class.
fn assert_agree(node: &Operator, base: &[f64], ensemble: &Ensemble, session: &mut Session, rows: &[f32]) {
    let mut scores = vec![0.0; rows.len() / COLUMNS * ensemble.targets()];
    ensemble.score_f32(rows, &mut scores);
    let input = TensorRef::from_array_view(([rows.len() / COLUMNS, COLUMNS], rows)).expect("a shape of rows");
    let inputs: [SessionInputValue<'_>; 1] = [input.into()];
    let outputs = session.run(inputs).expect("it answers");
    let (_, theirs) = outputs[1].try_extract_tensor::<f32>().expect("probabilities");
    let logistic = node.attributes.iter().any(|attribute| attribute.text == b"LOGISTIC");
    for (scores, theirs) in scores.chunks(ensemble.targets()).zip(theirs.chunks(2)) {
        let score = scores.iter().sum::<f32>() + base.first().map_or(0.0, |base| *base as f32);
        let ours = if logistic { 1.0 / (1.0 + (-score).exp()) } else { score };
        assert!((ours - theirs[1]).abs() < CLOSE, "we say {ours}, ONNX Runtime says {}", theirs[1]);
    }
}

fn bench(name: &str, folder: &Path, environment: &Environment, rows: &[f32]) {
    let file = folder.join(format!("{name}.onnx"));
    let start = Instant::now();
    let node = read(&file);
    let forest = forest(&node);
    let (trees, base) = (forest.trees.len(), forest.base.clone());
    let read = start.elapsed();
    let ensemble = Ensemble::new(forest, Precision::F32, Aggregate::Sum).expect("a forest");
    let ours = start.elapsed();
    let start = Instant::now();
    let session = RefCell::new(session(environment, &file).expect("ONNX Runtime takes the file"));
    let theirs = start.elapsed();
    println!("{name:<14} loaded in {ours:.0?}, of which {read:.0?} were for reading; by ONNX Runtime in {theirs:.0?}");
    assert_agree(&node, &base, &ensemble, &mut session.borrow_mut(), rows);
    for batch in BATCHES {
        let mut scores = vec![0.0; batch * ensemble.targets()];
        let (mut ours, mut theirs) = (0, 0);
        let mut contenders = [
            Contender::new("ours", || {
                ensemble.score_f32(next(rows, &mut ours, batch), &mut scores);
                scores[0].to_bits() as usize
            }),
            Contender::new("ONNX Runtime", || {
                let values = next(rows, &mut theirs, batch);
                let input = TensorRef::from_array_view(([batch, COLUMNS], values)).expect("a shape of rows");
                let mut session = session.borrow_mut();
                let inputs: [SessionInputValue<'_>; 1] = [input.into()];
                session.run(inputs).expect("it answers").len()
            }),
        ];
        let times = side_by_side(&mut contenders, ROUNDS, SLICE);
        let baseline = times[1].as_secs_f64();
        for (contender, time) in contenders.iter().zip(&times) {
            let seconds = time.as_secs_f64();
            println!(
                "{name:<14} batch {batch:>5} {:<14} {:>12.0} rows/s {:>8.2} ns per tree and row {:>7.2}x",
                contender.name,
                batch as f64 / seconds,
                seconds * 1e9 / (batch * trees) as f64,
                baseline / seconds,
            );
        }
    }
    bench_all_processors(name, &ensemble, &file, environment, rows);
}

/// Rows a second of all threads together, each of which runs batches of its own for a while.
fn together(threads: usize, batch: usize, run: impl Fn(usize, &mut usize) + Sync) -> f64 {
    let (is_over, start) = (AtomicBool::new(false), Instant::now());
    let runs: usize = std::thread::scope(|scope| {
        let work = |thread: usize| {
            let (mut runs, mut at) = (0, 0);
            while !is_over.load(Relaxed) {
                run(thread, &mut at);
                runs += 1;
            }
            runs
        };
        let threads: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        std::thread::sleep(4 * SLICE);
        is_over.store(true, Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("a thread")).sum()
    });
    (runs * batch) as f64 / start.elapsed().as_secs_f64()
}

fn bench_all_processors(name: &str, ensemble: &Ensemble, file: &Path, environment: &Environment, rows: &[f32]) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let open = |_| Mutex::new(session(environment, file).expect("ONNX Runtime takes the file"));
    let sessions: Vec<Mutex<Session>> = (0..threads).map(open).collect();
    for batch in BATCHES {
        let ours = |_: usize, at: &mut usize| {
            let mut scores = vec![0.0; batch * ensemble.targets()];
            ensemble.score_f32(next(rows, at, batch), &mut scores);
        };
        let theirs = |thread: usize, at: &mut usize| {
            let input = TensorRef::from_array_view(([batch, COLUMNS], next(rows, at, batch))).expect("a shape of rows");
            let inputs: [SessionInputValue<'_>; 1] = [input.into()];
            let mut session = sessions[thread].lock().expect("nobody panics");
            assert!(session.run(inputs).expect("it answers").len() > 0);
        };
        let mut rates: Vec<[f64; 2]> =
            (0..ROUNDS).map(|_| [together(threads, batch, ours), together(threads, batch, theirs)]).collect();
        let ours = median(&mut rates, |rates| rates[0]);
        let theirs = median(&mut rates, |rates| rates[1]);
        let ratio = median(&mut rates, |rates| rates[0] / rates[1]);
        println!(
            "{name:<14} batch {batch:>5} on {threads} threads: ours {ours:>12.0} rows/s, ONNX Runtime {theirs:>12.0}, {ratio:>6.2}x"
        );
    }
}

fn median(rates: &mut [[f64; 2]], of: impl Fn(&[f64; 2]) -> f64) -> f64 {
    rates.sort_by(|a, b| of(a).total_cmp(&of(b)));
    of(&rates[rates.len() / 2])
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-trees");
    let folder = arguments.first().map_or(home, PathBuf::from);
    let bytes = std::fs::read(folder.join("rows.f32")).expect("`python benches/trees.py make` has made the rows");
    let rows: Vec<f32> =
        bytes.chunks_exact(4).map(|value| f32::from_le_bytes([value[0], value[1], value[2], value[3]])).collect();
    let environment =
        ort::init_from(find_library(None).expect("ONNX Runtime")).expect("a library").build().expect("an environment");
    let names = [
        "xgboost-200",
        "xgboost-1000",
        "lightgbm-200",
        "lightgbm-1000",
        "leafwise-200",
        "exact-200",
        "forest-100",
        "forest-500",
    ];
    for name in names {
        if arguments.len() < 2 || arguments[1..].iter().any(|asked| name.starts_with(asked)) {
            bench(name, &folder, &environment, &rows);
        }
    }
}
