//! Do all kernels say what a naive walk says, to the bit, and are forests refused that are none?

use smallvec::smallvec;

use super::simd::wide::Wide;
use super::*;

fn leaf(weight: f64) -> Node {
    Node::Leaf { weights: smallvec![(0, weight)] }
}

fn branch(column: u32, test: Test, then: u32, other: u32) -> Node {
    Node::Branch { column, test, then, other, missing_then: false }
}

fn forest(columns: usize, targets: usize, trees: Vec<Vec<Node>>) -> Forest {
    let trees = trees.into_iter().map(|nodes| Tree { nodes }).collect();
    Forest { columns, targets, trees, base: Vec::new() }
}

fn scores(forest: Forest, aggregate: Aggregate, rows: &[f32]) -> Vec<f32> {
    let ensemble = Ensemble::new(forest, Precision::F32, aggregate).expect("a forest");
    let mut scores = vec![7.0; rows.len() / ensemble.columns() * ensemble.targets()];
    ensemble.score_f32(rows, &mut scores);
    scores
}

#[test]
fn each_test_asks_what_it_says() {
    #[track_caller]
    fn check(test: Test, expected: [f32; 5]) {
        let of = |missing_then| {
            let root = Node::Branch { column: 0, test: test.clone(), then: 1, other: 2, missing_then };
            let tree = vec![root, leaf(1.0), leaf(0.0)];
            scores(forest(1, 1, vec![tree]), Aggregate::Sum, &[1.0, 2.0, 3.0, f32::NEG_INFINITY, f32::NAN])
        };
        assert_eq!(of(false), expected);
        assert_eq!(of(true)[4], 1.0);
        assert_eq!(of(true)[..4], expected[..4]);
    }
    check(Test::Leq(2.0), [1.0, 1.0, 0.0, 1.0, 0.0]);
    check(Test::Lt(2.0), [1.0, 0.0, 0.0, 1.0, 0.0]);
    check(Test::Gt(2.0), [0.0, 0.0, 1.0, 0.0, 0.0]);
    check(Test::Geq(2.0), [0.0, 1.0, 1.0, 0.0, 0.0]);
    check(Test::Eq(2.0), [0.0, 1.0, 0.0, 0.0, 0.0]);
    check(Test::Neq(2.0), [1.0, 0.0, 1.0, 1.0, 1.0]);
    check(Test::Lt(f64::NEG_INFINITY), [0.0; 5]);
    check(Test::Geq(f64::NEG_INFINITY), [1.0, 1.0, 1.0, 1.0, 0.0]);
    check(Test::Leq(f64::INFINITY), [1.0, 1.0, 1.0, 1.0, 0.0]);
    check(Test::Leq(f64::NAN), [0.0; 5]);
    check(Test::Gt(f64::NAN), [0.0; 5]);
    check(Test::Member(vec![3.0, 1.0]), [1.0, 0.0, 1.0, 0.0, 0.0]);
    check(Test::In(vec![0b1010].into()), [1.0, 0.0, 1.0, 0.0, 0.0]);
    check(Test::In(vec![0b1010, u64::MAX].into()), [1.0, 0.0, 1.0, 0.0, 0.0]);
}

#[test]
fn aggregates_are_of_the_trees() {
    let two = || forest(1, 2, vec![vec![leaf(3.0)], vec![Node::Leaf { weights: smallvec![(0, -1.0), (1, 4.0)] }]]);
    assert_eq!(scores(two(), Aggregate::Sum, &[0.0]), [2.0, 4.0]);
    assert_eq!(scores(two(), Aggregate::Average, &[0.0]), [1.0, 2.0]);
    assert_eq!(scores(two(), Aggregate::Min, &[0.0]), [-1.0, 4.0]);
    assert_eq!(scores(two(), Aggregate::Max, &[0.0]), [3.0, 4.0]);
    assert_eq!(scores(forest(1, 2, vec![vec![leaf(-3.0)]]), Aggregate::Max, &[0.0]), [-3.0, 0.0]);
}

#[test]
fn targets_without_a_weight_are_told() {
    let split = || vec![branch(0, Test::Leq(0.0), 1, 2), leaf(1.0), Node::Leaf { weights: smallvec![(1, 1.0)] }];
    let ensemble = |trees| Ensemble::new(forest(1, 2, trees), Precision::F32, Aggregate::Sum).expect("a forest");
    assert_eq!(ensemble(vec![split()]).gives(), [Gives::Sometimes; 2]);
    let mut given = [true; 4];
    ensemble(vec![split()]).given_f32(&[0.0, 1.0], &mut given);
    assert_eq!(given, [true, false, false, true]);
    let both = vec![Node::Leaf { weights: smallvec![(1, 0.0), (0, 0.0), (1, 0.0)] }];
    assert_eq!(ensemble(vec![split(), both]).gives(), [Gives::Always; 2]);
    assert_eq!(ensemble(vec![vec![leaf(0.0)]]).gives(), [Gives::Always, Gives::Never]);
}

#[test]
fn what_is_no_forest_is_refused() {
    #[track_caller]
    fn check(forest: Forest, expected: &str) {
        let error = Ensemble::new(forest, Precision::F32, Aggregate::Sum).expect_err("no forest");
        assert_eq!(error.to_string(), expected);
    }
    let one = |nodes| forest(2, 2, vec![vec![leaf(0.0)], nodes]);
    let leq = || Test::Leq(0.0);
    check(forest(0, 1, vec![]), "a forest without columns: one at least is expected");
    check(forest(1, 0, vec![]), "a forest without targets: one at least is expected");
    check(forest(1, 1 << 40, vec![]), "a forest of 1099511627776 targets, of which at most 1048576 are possible");
    check(one(vec![]), "tree 1 has no nodes: one at least is expected");
    check(one(vec![branch(0, leq(), 1, 2), leaf(0.0)]), "node 0 of tree 1 leads to node 2, but the tree has 2 nodes");
    check(one(vec![branch(2, leq(), 1, 1), leaf(0.0)]), "node 0 of tree 1 looks at column 2, but rows have 2 columns");
    let stranger = Node::Leaf { weights: smallvec![(2, 0.0)] };
    check(one(vec![stranger]), "leaf 0 of tree 1 has a weight for target 2, but there are 2 targets");
    let again = "node 0 of tree 1 is reached again from itself: a tree has no cycles";
    check(one(vec![branch(0, leq(), 0, 1), leaf(0.0)]), again);
    check(one(vec![branch(0, leq(), 2, 1), leaf(0.0), branch(0, leq(), 1, 0)]), again);
}

#[test]
fn depth_and_sharing_cost_no_more_than_nodes() {
    // A chain, deeper than any stack, and a diamond of diamonds, of more paths than there are atoms.
    let deep = 1_000_000;
    let chain = (0..deep).map(|node| branch(0, Test::Gt(f64::from(node)), node + 1, deep)).chain([leaf(5.0)]).collect();
    assert_eq!(scores(forest(1, 1, vec![chain]), Aggregate::Sum, &[0.5, 1e9]), [5.0, 5.0]);
    let diamonds = (0..300).map(|node| branch(0, Test::Gt(0.0), node + 1, node + 1)).chain([leaf(2.0)]).collect();
    assert_eq!(scores(forest(1, 1, vec![diamonds]), Aggregate::Sum, &[0.5]), [2.0]);
}

/// Forests of all kinds: few thresholds, so that inputs meet them, with infinities, NaN and both zeros among them.
mod random {
    use proptest::prelude::*;

    use super::*;

    const NUMBERS: [f64; 10] = [-1.5, -0.0, 0.0, 0.5, 1.0, 2.25, 1e-40, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![3 => proptest::sample::select(&NUMBERS[..6]), 1 => proptest::sample::select(&NUMBERS[..])]
    }

    fn test(all: bool) -> impl Strategy<Value = Test> {
        let ordered = prop_oneof![
            number().prop_map(Test::Leq),
            number().prop_map(Test::Lt),
            number().prop_map(Test::Gt),
            number().prop_map(Test::Geq),
        ];
        let other = prop_oneof![
            number().prop_map(Test::Eq),
            number().prop_map(Test::Neq),
            proptest::collection::vec(number(), 0..4).prop_map(Test::Member),
            proptest::collection::vec(any::<u64>(), 0..2).prop_map(|words| Test::In(words.into())),
        ];
        if all { prop_oneof![3 => ordered, 1 => other].boxed() } else { ordered.boxed() }
    }

    /// What a leaf says: one weight for one target of the tree's, one for each, or any.
    #[derive(Clone, Copy, Debug)]
    enum Say {
        One,
        Each,
        Any,
    }

    fn weights(kind: Say, targets: u32, home: u32) -> BoxedStrategy<Vec<(u32, f64)>> {
        let weight = || (-100i32..100).prop_map(|weight| f64::from(weight) / 7.0);
        match kind {
            Say::One => weight().prop_map(move |weight| vec![(home % targets, weight)]).boxed(),
            Say::Each => proptest::collection::vec(weight(), targets as usize)
                .prop_map(|weights| (0..).zip(weights).collect())
                .boxed(),
            Say::Any => proptest::collection::vec((0..targets, weight()), 0..3).boxed(),
        }
    }

    /// A tree with as many branches as are drawn: each takes the place of a leaf, which may be the deepest.
    fn tree(columns: u32, targets: u32, leaves: Say, all: bool, branches: usize) -> impl Strategy<Value = Tree> {
        let grown = (any::<prop::sample::Index>(), any::<bool>(), 0..columns, test(all), any::<bool>());
        let grown = proptest::collection::vec(grown, 0..=branches);
        (grown, any::<u32>()).prop_flat_map(move |(grown, home)| {
            let leaf = weights(leaves, targets, home);
            proptest::collection::vec(leaf, grown.len() + 1).prop_map(move |mut weights| {
                let empty = || Node::Leaf { weights: Weights::new() };
                let mut nodes = vec![empty()];
                let mut ends = vec![0usize];
                for (place, deepest, column, test, missing_then) in grown.clone() {
                    let place = if deepest { ends.len() - 1 } else { place.index(ends.len()) };
                    let end = ends.swap_remove(place);
                    let (then, other) = (nodes.len() as u32 + 1, nodes.len() as u32);
                    nodes[end] = Node::Branch { column, test, then, other, missing_then };
                    nodes.extend([empty(), empty()]);
                    ends.extend([other as usize, then as usize]);
                }
                for end in ends {
                    nodes[end] = Node::Leaf { weights: weights.pop().expect("one for each leaf").into() };
                }
                Tree { nodes }
            })
        })
    }

    fn forests(all: bool, branches: usize) -> impl Strategy<Value = Forest> {
        let kind = proptest::sample::select(&[Say::One, Say::Each, Say::Any][..]);
        (1..70u32, 1..4u32, kind).prop_flat_map(move |(columns, targets, kind)| {
            let trees = proptest::collection::vec(tree(columns, targets, kind, all, branches), 1..24);
            trees.prop_map(move |trees| Forest {
                columns: columns as usize,
                targets: targets as usize,
                trees,
                base: Vec::new(),
            })
        })
    }

    fn aggregates() -> impl Strategy<Value = Aggregate> {
        proptest::sample::select(&[Aggregate::Sum, Aggregate::Average, Aggregate::Min, Aggregate::Max][..])
    }

    fn rows(forest: &Forest, count: usize) -> impl Strategy<Value = Vec<f64>> + use<> {
        proptest::collection::vec(number(), count * forest.columns)
    }

    /// What a person would write who reads the format's documentation.
    fn naive<S: Scalar>(forest: &Forest, aggregate: Aggregate, rows: &[S]) -> Vec<S> {
        let mut scores = Vec::new();
        for row in rows.chunks(forest.columns) {
            let mut said: Vec<Vec<S>> = vec![Vec::new(); forest.targets];
            for tree in &forest.trees {
                let mut at = 0;
                let weights = loop {
                    match &tree.nodes[at] {
                        Node::Leaf { weights } => break weights,
                        Node::Branch { column, test, then, other, missing_then } => {
                            let value = row[*column as usize];
                            let is_true = match test {
                                Test::Leq(than) => value <= S::of(*than),
                                Test::Lt(than) => value < S::of(*than),
                                Test::Gt(than) => value > S::of(*than),
                                Test::Geq(than) => value >= S::of(*than),
                                Test::Eq(to) => value == S::of(*to),
                                Test::Neq(to) => value != S::of(*to),
                                Test::Member(of) => of.iter().any(|member| value == S::of(*member)),
                                Test::In(words) => value.category().is_some_and(|bit| {
                                    bit < words.len() * 64 && words[bit / 64] & 1 << (bit % 64) != 0
                                }),
                            };
                            let missing = value.partial_cmp(&value).is_none();
                            at = if is_true || (missing && *missing_then) { *then } else { *other } as usize;
                        }
                    }
                };
                let counted = if forest.targets == 1 { 1 } else { weights.len() };
                for (target, weight) in weights.iter().take(counted) {
                    said[if forest.targets == 1 { 0 } else { *target as usize }].push(S::of(*weight));
                }
            }
            scores.extend(said.into_iter().map(|said| {
                let mut sum = S::default();
                said.iter().for_each(|weight| sum += *weight);
                let least = |a: S, b: S| if b < a { b } else { a };
                let greatest = |a: S, b: S| if b > a { b } else { a };
                match aggregate {
                    Aggregate::Sum => sum,
                    Aggregate::Average => {
                        sum /= S::of(forest.trees.len() as f64);
                        sum
                    }
                    Aggregate::Min => said.into_iter().reduce(least).unwrap_or_default(),
                    Aggregate::Max => said.into_iter().reduce(greatest).unwrap_or_default(),
                }
            }));
        }
        scores
    }

    /// Every kernel that takes the forest, at these numbers of rows.
    fn kernels<S: Scalar>(forest: &Forest, aggregate: Aggregate) -> Vec<(&'static str, Laid<S>)> {
        let leaves = || Leaves::new(forest, aggregate);
        let laid = |kernel| Laid { kernel, leaves: leaves(), given: None };
        let mut all = vec![
            ("chosen", Laid::new(forest.clone(), aggregate)),
            ("generic", laid(Kernel::Generic(Generic::new(forest)))),
        ];
        if plain::is_plain(forest) {
            let trees = plain::plain(forest.clone());
            all.push(("walk", laid(Kernel::Walk(Walk::new(&trees, &leaves())))));
            let wides = Wide::of_this_machine().into_iter().chain([Wide::plain()]);
            let words = wides.filter_map(|wide| Word::with(&trees, &leaves(), wide));
            all.extend(words.map(|word| ("word", laid(Kernel::Word(word)))));
        }
        all
    }

    fn agree<S: Scalar>(forest: &Forest, aggregate: Aggregate, rows: &[f64]) -> Result<(), TestCaseError> {
        let rows: Vec<S> = rows.iter().map(|value| S::of(*value)).collect();
        let expected = naive(forest, aggregate, &rows);
        for (name, laid) in kernels::<S>(forest, aggregate) {
            for count in [1, 3, 8, rows.len() / forest.columns] {
                let rows = &rows[..count * forest.columns];
                let mut scores = vec![S::INFINITY; count * forest.targets];
                laid.score(rows, forest.columns, &mut scores);
                let bits = |scores: &[S]| scores.iter().map(|score| format!("{score:?}")).collect::<Vec<_>>();
                prop_assert_eq!(bits(&scores), bits(&expected[..scores.len()]), "{} of {} rows", name, count);
            }
        }
        Ok(())
    }

    fn with_rows(forests: impl Strategy<Value = Forest>) -> impl Strategy<Value = (Forest, Vec<f64>)> {
        forests.prop_flat_map(|forest| {
            let rows = rows(&forest, 77);
            (Just(forest), rows)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn small_forests((forest, rows) in with_rows(forests(false, 8)), aggregate in aggregates()) {
            agree::<f32>(&forest, aggregate, &rows)?;
            agree::<f64>(&forest, aggregate, &rows)?;
        }

        #[test]
        fn large_forests((forest, rows) in with_rows(forests(false, 90)), aggregate in aggregates()) {
            agree::<f32>(&forest, aggregate, &rows)?;
            agree::<f64>(&forest, aggregate, &rows)?;
        }

        #[test]
        fn forests_of_any_tests((forest, rows) in with_rows(forests(true, 20)), aggregate in aggregates()) {
            agree::<f32>(&forest, aggregate, &rows)?;
            agree::<f64>(&forest, aggregate, &rows)?;
        }
    }

    #[test]
    fn many_thresholds_and_columns() {
        // More than a byte can tell apart, and more columns than a line of codes has.
        let mut state = 1u64;
        let mut draw = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for columns in [2, 64, 130, 400] {
            let mut tree = || {
                let mut nodes: Vec<Node> = (0..63)
                    .map(|node| {
                        let test = Test::Lt(draw(100_000) as f64);
                        let column = draw(columns) as u32;
                        let (then, other) = (2 * node + 1, 2 * node + 2);
                        Node::Branch { column, test, then, other, missing_then: draw(2) == 0 }
                    })
                    .collect();
                nodes.extend((0..64).map(|_| leaf(draw(1000) as f64)));
                Tree { nodes }
            };
            let trees = (0..40).map(|_| tree()).collect();
            let forest = Forest { columns: columns as usize, targets: 1, trees, base: Vec::new() };
            let value = |value| if value < 3_000.0 { f64::NAN } else { value };
            let rows: Vec<f64> = (0..150 * columns).map(|_| value(draw(100_000) as f64)).collect();
            agree::<f32>(&forest, Aggregate::Sum, &rows).expect("all say the same");
            agree::<f64>(&forest, Aggregate::Sum, &rows).expect("all say the same");
        }
    }
}
