//! Are parts Shapley values, to the letter of their definition?

use proptest::prelude::*;
use smallvec::smallvec;
use tiltyard_runtime::engine::{Engine, EngineError, Explanation};
use tiltyard_types::{DataType, Tensor};

use super::background::ByBackground;
use super::forest::{Covers, Step, Trees, are_covers};
use super::path::ByPath;
use crate::fixture::{ANY, Attr, Model, f32s, texts};
use crate::trees::{Forest, Node, Precision, Test, Tree};

const GO_ON: fn() -> bool = || true;

/// Shapley values of a game of `players`, by its worth for each coalition, whose members are bits.
fn shapley(players: usize, worth: impl Fn(usize) -> f64) -> Vec<f64> {
    let factorial = |n: usize| (1..=n).map(|at| at as f64).product::<f64>();
    let worths: Vec<f64> = (0..1 << players).map(worth).collect();
    let part = |player: usize| {
        let without = (0..1usize << players).filter(|coalition| coalition >> player & 1 == 0);
        without
            .map(|coalition| {
                let size = coalition.count_ones() as usize;
                let weight = factorial(size) * factorial(players - size - 1) / factorial(players);
                weight * (worths[coalition | 1 << player] - worths[coalition])
            })
            .sum()
    };
    (0..players).map(part).collect()
}

/// A random number below `count`.
fn draw(seed: &mut u64, count: usize) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize % count
}

/// A tree of random shape with the cover of each node: chains as well as bushes.
fn tree(seed: &mut u64, features: usize, targets: usize, nodes: usize) -> (Tree, Vec<f64>) {
    let leaf = |seed: &mut u64| {
        let target = draw(seed, targets) as u32;
        Node::Leaf { weights: smallvec![(target, draw(seed, 200) as f64 / 10.0 - 10.0)] }
    };
    let (mut tree, mut covers) = (Tree { nodes: vec![leaf(seed)] }, vec![1000.0]);
    let mut leaves = vec![0usize];
    while tree.nodes.len() < nodes {
        let picked = draw(seed, leaves.len());
        let at = leaves.swap_remove(picked);
        let here = tree.nodes.len() as u32;
        let value = draw(seed, 5) as f64;
        let test = match draw(seed, 6) {
            0 => Test::Lt(value),
            1 => Test::Geq(value),
            2 => Test::Neq(value),
            3 => Test::In(vec![draw(seed, 32) as u64].into()),
            4 => Test::Member(vec![value, 1.0]),
            _ => Test::Leq(value),
        };
        let column = draw(seed, features) as u32;
        let missing_then = draw(seed, 2) == 0;
        tree.nodes[at] = Node::Branch { column, test, then: here, other: here + 1, missing_then };
        // Some ways no row ever went.
        let share = draw(seed, 5) as f64 / 5.0 * 0.98 + 0.01;
        for share in [share, 1.0 - share] {
            covers.push(covers[at] * share);
            tree.nodes.push(leaf(seed));
            leaves.push(tree.nodes.len() - 1);
        }
    }
    (tree, covers)
}

struct Case {
    forest: Forest,
    covers: Covers,
    /// Which player each feature is of: some have several.
    of: Vec<u32>,
    players: usize,
    rows: Vec<Vec<f64>>,
}

fn case(mut seed: u64, trees: usize, targets: usize) -> Case {
    let seed = &mut seed;
    let players = 1 + draw(seed, 6);
    let features = players + draw(seed, 4);
    let of = (0..features).map(|at| if at < players { at } else { draw(seed, players) } as u32).collect();
    let (mut forest, mut covers) = (Forest { columns: features, targets, ..Forest::default() }, Vec::new());
    for _ in 0..trees {
        let nodes = 1 + draw(seed, 40);
        let (tree, of_tree) = tree(seed, features, targets, nodes);
        forest.trees.push(tree);
        covers.push(of_tree);
    }
    let value = |seed: &mut u64| if draw(seed, 8) == 0 { f64::NAN } else { draw(seed, 6) as f64 };
    let rows = (0..4).map(|_| (0..features).map(|_| value(seed)).collect()).collect();
    Case { forest, covers, of, players, rows }
}

/// What a forest says where players out of play go both ways, in proportion to the covers.
fn by_covers(trees: &Trees, at: usize, row: &[f64], coalition: usize, target: usize) -> f64 {
    match &trees.nodes[at] {
        Step::Leaf { start, end } => {
            let weights = trees.weights[*start as usize..*end as usize].iter();
            weights.filter(|(of, _)| *of as usize == target).map(|(_, weight)| weight).sum()
        }
        Step::Branch(branch) => {
            let other = branch.other as usize;
            let worth = |at: usize| by_covers(trees, at, row, coalition, target);
            match coalition >> trees.player(branch) & 1 {
                1 => worth(if branch.goes_then(row) { at + 1 } else { other }),
                _ => branch.shares[0] * worth(at + 1) + branch.shares[1] * worth(other),
            }
        }
    }
}

#[track_caller]
fn check_close(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-9, "{what}: {found} is not {expected}");
    }
}

/// Parts add up to what is between the score and the base.
#[track_caller]
fn check_sums(trees: &Trees, base: &[f64], row: &[f64], parts: &[f64], players: usize) {
    let mut scores = vec![0.0; trees.targets];
    trees.score(row, &mut scores);
    for (target, parts) in parts.chunks_exact(players).enumerate() {
        check_close(&[base[target] + parts.iter().sum::<f64>()], &[scores[target]], "the sum");
    }
}

proptest! {
    #[test]
    fn parts_by_path_are_shapley_values(seed: u64, trees in 1usize..4, targets in 1usize..4) {
        let Case { forest, covers, of, players, rows } = case(seed, trees, targets);
        prop_assert!(are_covers(&forest, &covers));
        let trees = Trees::new(&forest, Some(&covers), Precision::F64, of, players).unwrap();
        let by_path = ByPath::new(trees).unwrap();
        for row in &rows {
            let mut parts = vec![0.0; targets * players];
            prop_assert!(by_path.explain(row, &mut parts, &mut GO_ON.clone()));
            let trees = by_path.trees();
            for target in 0..targets {
                let worth = |coalition: usize| -> f64 {
                    trees.roots.iter().map(|&root| by_covers(trees, root as usize, row, coalition, target)).sum()
                };
                check_close(&parts[target * players..][..players], &shapley(players, worth), "by path");
                check_close(&[by_path.base()[target]], &[worth(0)], "the base");
            }
            check_sums(trees, by_path.base(), row, &parts, players);
        }
    }

    #[test]
    fn parts_by_background_are_shapley_values(seed: u64, trees in 1usize..4, targets in 1usize..4) {
        let Case { forest, of, players, rows, .. } = case(seed, trees, targets);
        let trees = Trees::new(&forest, None, Precision::F32, of.clone(), players).unwrap();
        let (row, others) = rows.split_first().unwrap();
        let by_background = ByBackground::new(trees, others.concat());
        let mut parts = vec![0.0; targets * players];
        prop_assert!(by_background.explain(row, &mut parts, &mut GO_ON.clone()));
        let trees = by_background.trees();
        for target in 0..targets {
            let worth = |coalition: usize| -> f64 {
                let scores = others.iter().map(|other| {
                    let mixed: Vec<f64> = (0..row.len())
                        .map(|feature| if coalition >> of[feature] & 1 == 1 { row[feature] } else { other[feature] })
                        .collect();
                    let mut scores = vec![0.0; targets];
                    trees.score(&mixed, &mut scores);
                    scores[target]
                });
                scores.sum::<f64>() / others.len() as f64
            };
            check_close(&parts[target * players..][..players], &shapley(players, worth), "by background");
        }
        check_sums(trees, by_background.base(), row, &parts, players);
    }
}

/// A tree that is one long chain, asking for a column after the other.
fn chain(depth: usize, columns: usize) -> (Forest, Covers) {
    let (mut nodes, mut covers) = (Vec::new(), Vec::new());
    for at in 0..depth {
        let (then, other) = (nodes.len() as u32 + 2, nodes.len() as u32 + 1);
        let column = (at % columns) as u32;
        nodes.push(Node::Branch { column, test: Test::Leq(0.5), then, other, missing_then: false });
        nodes.push(Node::Leaf { weights: smallvec![(0, at as f64)] });
        // All but a thousandth goes on.
        let here = 1e6 * 0.999f64.powi(at as i32);
        covers.extend([here, here * 0.001]);
    }
    nodes.push(Node::Leaf { weights: smallvec![(0, -1.0)] });
    covers.push(1e6 * 0.999f64.powi(depth as i32));
    (Forest { columns, targets: 1, trees: vec![Tree { nodes }], base: Vec::new() }, vec![covers])
}

#[test]
fn deep_trees_are_explained_without_recursion() {
    let (depth, columns) = (10_000, 300);
    let (forest, covers) = chain(depth, columns);
    let of: Vec<u32> = (0..columns as u32).collect();
    let row: Vec<f64> = (0..columns).map(|column| f64::from(u8::from(column == 299))).collect();
    let trees = Trees::new(&forest, Some(&covers), Precision::F64, of.clone(), columns).unwrap();
    let by_path = ByPath::new(trees).unwrap();
    let mut parts = vec![0.0; columns];
    assert!(by_path.explain(&row, &mut parts, &mut || true));
    check_sums(by_path.trees(), by_path.base(), &row, &parts, columns);
    let trees = Trees::new(&forest, None, Precision::F64, of, columns).unwrap();
    let by_background = ByBackground::new(trees, vec![0.0; columns]);
    let mut parts = vec![0.0; columns];
    assert!(by_background.explain(&row, &mut parts, &mut || true));
    check_sums(by_background.trees(), by_background.base(), &row, &parts, columns);
}

#[test]
fn who_is_told_to_stop_stops() {
    let (forest, covers) = chain(20_000, 3);
    let of = vec![0, 1, 2];
    let trees = Trees::new(&forest, Some(&covers), Precision::F64, of.clone(), 3).unwrap();
    assert!(!ByPath::new(trees).unwrap().explain(&[0.0; 3], &mut [0.0; 3], &mut || false));
    let trees = Trees::new(&forest, None, Precision::F64, of, 3).unwrap();
    let rows = [0.0, 0.0, 1.0].repeat(1000);
    assert!(!ByBackground::new(trees, rows).explain(&[0.0; 3], &mut [0.0; 3], &mut || false));
}

#[test]
fn trees_that_share_nodes_are_not_unfolded_without_bound() {
    // Each node leads twice to the next.
    let branch =
        |at: u32| Node::Branch { column: 0, test: Test::Leq(0.5), then: at + 1, other: at + 1, missing_then: false };
    let mut nodes: Vec<Node> = (0..60).map(branch).collect();
    nodes.push(Node::Leaf { weights: smallvec![(0, 1.0)] });
    let forest = Forest { columns: 1, targets: 1, trees: vec![Tree { nodes }], base: Vec::new() };
    let error = Trees::new(&forest, None, Precision::F32, vec![0], 1).err().unwrap();
    assert!(error.to_string().contains("share so many nodes"), "{error}");
}

#[test]
fn what_exporters_fill_in_is_no_cover() {
    let (mut forest, mut covers) = chain(3, 2);
    assert!(are_covers(&forest, &covers));
    covers[0].fill(1.0);
    assert!(!are_covers(&forest, &covers));
    covers[0].fill(0.0);
    assert!(!are_covers(&forest, &covers));
    forest.trees[0].nodes.truncate(1);
    assert!(!are_covers(&forest, &covers));
}

/// Says no class by a text and a number: strings become one-hot columns beside a scaled number.
fn pipeline() -> Model {
    let trees: [(&str, Attr<'_>); 13] = [
        ("nodes_treeids", Attr::Ints(&[0; 7])),
        ("nodes_nodeids", Attr::Ints(&[0, 1, 2, 3, 4, 5, 6])),
        ("nodes_featureids", Attr::Ints(&[0, 1, 2, 0, 0, 0, 0])),
        ("nodes_modes", Attr::Texts(&["BRANCH_LEQ", "BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF", "LEAF"])),
        ("nodes_values", Attr::Floats(&[0.5, 0.5, 0.5, 0.0, 0.0, 0.0, 0.0])),
        ("nodes_truenodeids", Attr::Ints(&[1, 3, 5, 0, 0, 0, 0])),
        ("nodes_falsenodeids", Attr::Ints(&[2, 4, 6, 0, 0, 0, 0])),
        ("target_treeids", Attr::Ints(&[0; 4])),
        ("target_nodeids", Attr::Ints(&[3, 4, 5, 6])),
        ("target_ids", Attr::Ints(&[0; 4])),
        ("target_weights", Attr::Floats(&[1.0, 2.0, 4.0, 8.0])),
        ("n_targets", Attr::Int(1)),
        ("base_values", Attr::Floats(&[100.0])),
    ];
    Model::new()
        .input("size", DataType::Fp32, &[ANY, 1])
        .input("kind", DataType::Bytes, &[ANY, 1])
        .ml("Scaler", &["size"], &["scaled"], &[("offset", Attr::Floats(&[1.0])), ("scale", Attr::Floats(&[2.0]))])
        .ml("OneHotEncoder", &["kind"], &["hot"], &[("cats_strings", Attr::Texts(&["a", "b"]))])
        .ints("flat", &[2], &[-1, 2])
        .node("Reshape", &["hot", "flat"], &["columns"], &[])
        .node("Concat", &["scaled", "columns"], &["features"], &[("axis", Attr::Int(1))])
        .ml("TreeEnsembleRegressor", &["features"], &["score"], &trees)
        .output("score", DataType::Fp32, &[ANY, 1])
}

fn explain(model: Model, background: &[Tensor], rows: &[Tensor]) -> Result<Explanation, EngineError> {
    let given = |tensors: &[Tensor]| tensors.iter().cloned().map(Some).collect::<Vec<_>>();
    let background = (!background.is_empty()).then(|| given(background));
    let explainer = crate::engine().explainer(&model.file(), background.as_deref())?;
    let wanted: Vec<usize> = (0..explainer.about().outputs.len()).collect();
    Ok(explainer.explain(&given(rows), &wanted, &mut || true)?.expect("nobody stops it"))
}

#[test]
fn a_pipeline_is_explained_by_its_own_columns() {
    let background = [f32s(&[2, 1], &[0.0, 2.0]), texts(&[2, 1], &["a", "b"])];
    let rows = [f32s(&[3, 1], &[2.0, 0.0, 1.5]), texts(&[3, 1], &["a", "c", "b"])];
    let explained = explain(pipeline(), &background, &rows).unwrap();
    let answered = pipeline().run(&rows)[0].to_vec::<f32>().unwrap();
    let score = |size: f32, kind: &str| {
        let outputs = pipeline().run(&[f32s(&[1, 1], &[size]), texts(&[1, 1], &[kind])]);
        f64::from(outputs[0].to_vec::<f32>().unwrap()[0])
    };
    let usual = [(0.0, "a"), (2.0, "b")];
    check_close(&explained.base, &[usual.iter().map(|(size, kind)| score(*size, kind)).sum::<f64>() / 2.0], "the base");
    for (at, (size, kind)) in [(2.0, "a"), (0.0, "c"), (1.5, "b")].into_iter().enumerate() {
        let worth = |coalition: usize| {
            let of = |(other_size, other_kind): &(f32, &str)| {
                let size = if coalition & 1 == 1 { size } else { *other_size };
                score(size, if coalition & 2 == 2 { kind } else { other_kind })
            };
            usual.iter().map(of).sum::<f64>() / 2.0
        };
        check_close(&explained.parts[2 * at..2 * at + 2], &shapley(2, worth), "the pipeline");
        check_close(&explained.scores[at..=at], &[f64::from(answered[at])], "the score");
    }
}

#[track_caller]
fn check_refused(model: Model, background: &[Tensor], expected: &str) {
    let error = explain(model, background, &[]).expect_err("it is refused").to_string();
    assert!(error.contains(expected), "{error:?} does not contain {expected:?}");
}

fn linear() -> Model {
    let weights = [
        ("coefficients", Attr::Floats(&[1.0, 2.0, 3.0])),
        ("intercepts", Attr::Floats(&[0.5])),
        ("targets", Attr::Int(1)),
    ];
    Model::new().input("x", DataType::Fp32, &[ANY, 3]).ml("LinearRegressor", &["features"], &["y"], &weights)
}

#[test]
fn what_cannot_be_explained_says_why_and_what_would_help() {
    let background = [f32s(&[1, 3], &[0.0, 1.0, 2.0])];
    let answers = |model: Model| model.output("y", DataType::Fp32, &[ANY, 1]);
    let plain = || answers(linear().node("Identity", &["x"], &["features"], &[]));
    check_refused(plain(), &[], "put some rows that stand for what is usual into explain/background.json");
    let explained = explain(plain(), &background, &[f32s(&[1, 3], &[1.0, 1.0, 1.0])]).unwrap();
    check_close(&explained.parts, &[1.0, 0.0, -3.0], "linear");
    check_close(&[explained.base[0], explained.scores[0]], &[8.5, 6.5], "linear");
    let mixing = answers(linear().ml("Normalizer", &["x"], &["features"], &[("norm", Attr::Text("L2"))]));
    check_refused(mixing, &background, "(Normalizer) is not explained: it makes one number of several columns");
    let added = linear().ints("first", &[1], &[0]).ml("ArrayFeatureExtractor", &["x", "first"], &["one"], &[]).node(
        "Add",
        &["x", "one"],
        &["features"],
        &[],
    );
    check_refused(answers(added), &background, "depends on feature 1, in which several columns have a part");
    let beside = linear().node("Identity", &["x"], &["features"], &[]).node("Add", &["y", "x"], &["more"], &[]).output(
        "more",
        DataType::Fp32,
        &[ANY, 3],
    );
    check_refused(beside, &background, "makes more of the score with \"x\"");
    let none = Model::new()
        .input("x", DataType::Fp32, &[ANY, 3])
        .ml("Normalizer", &["x"], &["y"], &[("norm", Attr::Text("L2"))])
        .output("y", DataType::Fp32, &[ANY, 3]);
    check_refused(none, &background, "none of its operators is explained");
}
