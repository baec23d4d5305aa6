//! How is a model read that XGBoost's `save_model` wrote, as JSON or as UBJSON?
//!
//! Trees are parallel lists. A leaf has no left child, and its value where a branch has its threshold. A branch goes left
//! if the value is less than the threshold; one over categories goes right if the value is one of its own.

use bytes::Bytes;
use smallvec::smallvec;
use tiltyard_runtime::onnx::Graph;
use tiltyard_types::DataType;

use super::document::{self, Item};
use super::{Explained, Head, Link, Refusal, Scorer, Words, ensemble, shown, ubjson};
use crate::trees::{Forest, Node, Precision, Test, Tree};

pub(super) const NAME: &str = "XGBoost";

/// How much of the training rows came by each node: what explanations read beside the rest.
const COVERS: &str = "sum_hessian";

/// What is nothing to predictions, and much of the file.
const ASIDE: [&str; 7] =
    ["loss_changes", "sum_hessian", "base_weights", "parents", "attributes", "cats", "iteration_indptr"];

/// With the trees left out too.
const ALL_BUT_HEAD: [&str; 10] = [
    "loss_changes",
    "sum_hessian",
    "base_weights",
    "parents",
    "attributes",
    "cats",
    "iteration_indptr",
    "trees",
    "tree_info",
    "weight_drop",
];

/// Categories are less than this there: above, single precision has gaps.
const CATEGORIES: f64 = 16_777_216.0;

/// What the file says about itself.
pub(super) fn graph(file: &Bytes) -> Result<Graph, Refusal> {
    let document = document(file, &ALL_BUT_HEAD)?;
    Ok(head(&document)?.0.graph())
}

/// Reads the model.
pub(super) fn read(file: &Bytes) -> Result<(Head, Scorer<f32>), Refusal> {
    let document = document(file, &ASIDE)?;
    let (head, objective) = head(&document)?;
    let forest = forest(&document, &head, objective, &mut |_| {})?;
    let ensemble = ensemble(forest, Precision::F32)?;
    Ok((head, Scorer { ensemble, zeros: Vec::new(), link: objective.link() }))
}

/// Reads what explanations need.
pub(super) fn explained(file: &Bytes) -> Result<(Head, Explained), Refusal> {
    let aside: Vec<&str> = ASIDE.into_iter().filter(|name| *name != COVERS).collect();
    let document = document(file, &aside)?;
    let (head, objective) = head(&document)?;
    // Base scores are trees of a single leaf, which all rows reach.
    let mut covers = vec![vec![1.0]; head.targets];
    let mut note = |tree: &Item| covers.push(tree.get(COVERS).and_then(Item::numbers).unwrap_or_default().to_vec());
    let forest = forest(&document, &head, objective, &mut note)?;
    for (covers, tree) in covers.iter_mut().zip(&forest.trees) {
        // Nodes that the file does not have are one with others, which have a cover.
        covers.resize(covers.len().max(tree.nodes.len()), f64::NAN);
    }
    let space = match objective {
        Objective::Logistic | Objective::Logit | Objective::Probabilities | Objective::Class => "log-odds",
        Objective::Exp => "log",
        Objective::Identity | Objective::Sorted => "value",
        Objective::Hinge => "raw",
    };
    Ok((head, Explained { forest, covers: Some(covers), precision: Precision::F32, zeros: Vec::new(), space }))
}

/// The trees, each of which is shown to `note` as the file has it.
fn forest(document: &Item, head: &Head, objective: Objective, note: &mut dyn FnMut(&Item)) -> Result<Forest, Refusal> {
    let model = booster(document)?;
    let listed = model.get("trees").and_then(Item::items).ok_or_else(|| lacks("trees"))?;
    head.check_targets(listed.len())?;
    let groups = model.get("tree_info").and_then(Item::numbers).ok_or_else(|| lacks("tree_info"))?;
    if groups.len() != listed.len() {
        return Err(Refusal::Bad(format!("{} trees, and tree_info of {}", listed.len(), groups.len())));
    }
    let drops = drops(document, model, listed.len())?;
    let mut trees = base_trees(document, head, objective)?;
    let mut words = Words::new();
    for (number, tree) in listed.iter().enumerate() {
        let told = |what: String| Refusal::Bad(format!("tree {number}: {what}"));
        let group = whole(groups[number]).filter(|&group| (group as usize) < head.targets);
        let group = group.ok_or_else(|| told(format!("it is of score {}", groups[number])))?;
        let weight = drops.map_or(1.0, |drops| drops[number] as f32);
        let lists = Lists::of(tree).map_err(|error| match error {
            Refusal::Bad(what) => told(what),
            other => other,
        })?;
        trees.push(lists.tree(group, weight, &mut words)?);
        note(tree);
    }
    Ok(Forest { columns: head.columns, targets: head.targets, trees, base: Vec::new() })
}

/// JSON or UBJSON, whatever the file is called: keys are quoted in one, and follow their length in the other.
fn document(file: &Bytes, skipped: &[&str]) -> Result<Item, Refusal> {
    let document = match file.first_chunk::<2>() {
        Some([b'{', b'L' | b'i' | b'U' | b'I' | b'l' | b'$' | b'#']) => ubjson::read(file, skipped)?,
        _ => document::of_json(file, skipped)?,
    };
    if document.get("learner").is_none() {
        return Err(Refusal::Bad(
            "it has no learner: expected a model that XGBoost's save_model wrote, not a dump of its trees or another \
             library's file"
                .into(),
        ));
    }
    Ok(document)
}

fn lacks(what: &str) -> Refusal {
    Refusal::Bad(format!("it lacks {what}, which XGBoost writes"))
}

fn head(document: &Item) -> Result<(Head, Objective), Refusal> {
    let learner = document.get("learner").ok_or_else(|| lacks("learner"))?;
    let parameter = |name: &str| learner.at(&["learner_model_param", name]).and_then(Item::text);
    let number = |name: &str| -> Result<usize, Refusal> {
        let text = parameter(name).unwrap_or("0");
        text.parse().map_err(|_| Refusal::Bad(format!("its {name} is {}", shown(text))))
    };
    let version: Vec<f64> = document.get("version").and_then(Item::numbers).unwrap_or(&[]).to_vec();
    let name = learner.at(&["objective", "name"]).and_then(Item::text).ok_or_else(|| lacks("objective"))?;
    let targets = number("num_class")?.max(number("num_target")?).max(1);
    let objective = Objective::named(name, (version.first().copied(), version.get(1).copied()), targets)?;
    let names = learner.get("feature_names").and_then(Item::items).unwrap_or(&[]);
    let head = Head {
        format: NAME,
        producer: version.iter().map(f64::to_string).collect::<Vec<_>>().join("."),
        dtype: DataType::Fp32,
        columns: number("num_feature")?,
        names: names.iter().filter_map(Item::text).map(str::to_owned).collect(),
        targets,
        outputs: if objective == Objective::Class { 1 } else { targets },
    };
    head.check()?;
    Ok((head, objective))
}

/// The model of a booster of trees, which a dart has inside itself.
fn booster(document: &Item) -> Result<&Item, Refusal> {
    let booster = document.at(&["learner", "gradient_booster"]).ok_or_else(|| lacks("gradient_booster"))?;
    match booster.get("name").and_then(Item::text) {
        Some("gbtree" | "dart") => {}
        Some(other) => {
            return Err(Refusal::Unsupported(format!("booster {other:?} is not served: gbtree and dart are")));
        }
        None => return Err(lacks("the booster's name")),
    }
    let model = booster.get("model").or_else(|| booster.at(&["gbtree", "model"]));
    model.ok_or_else(|| lacks("the booster's model"))
}

/// What each tree of a dart counts.
fn drops<'a>(document: &'a Item, model: &'a Item, trees: usize) -> Result<Option<&'a [f64]>, Refusal> {
    let of_booster = document.at(&["learner", "gradient_booster", "weight_drop"]);
    let Some(drops) = of_booster.or_else(|| model.get("weight_drop")).and_then(Item::numbers) else {
        return Ok(None);
    };
    match drops.len() {
        // Newer releases write none where all are 1.
        0 => Ok(None),
        count if count == trees => Ok(Some(drops)),
        count => Err(Refusal::Bad(format!("{trees} trees, and weight_drop of {count}"))),
    }
}

/// The base score as a tree of one leaf for each target: sums begin with it.
fn base_trees(document: &Item, head: &Head, objective: Objective) -> Result<Vec<Tree>, Refusal> {
    let text = document.at(&["learner", "learner_model_param", "base_score"]).and_then(Item::text);
    let text = text.ok_or_else(|| lacks("base_score"))?;
    // A number, or since release 3.1 a list.
    let list = text.trim().trim_start_matches('[').trim_end_matches(']');
    let values: Result<Vec<f32>, _> = list.split(',').map(|value| value.trim().parse::<f32>()).collect();
    let values = values.ok().filter(|values| values.len() == 1 || values.len() == head.targets);
    let values = values.ok_or_else(|| Refusal::Bad(format!("its base_score is {}", shown(text))))?;
    let tree = |target: usize| {
        let base = objective.margin(values[if values.len() == 1 { 0 } else { target }]);
        Tree { nodes: vec![Node::Leaf { weights: smallvec![(target as u32, base.into())] }] }
    };
    Ok((0..head.targets).map(tree).collect())
}

/// A whole number, as lists have them.
fn whole(number: f64) -> Option<u32> {
    (number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number)).then_some(number as u32)
}

/// The lists of a tree, each as long as there are nodes but for those of categories.
struct Lists<'a> {
    left: &'a [f64],
    right: &'a [f64],
    columns: &'a [f64],
    values: &'a [f64],
    default_left: &'a [f64],
    /// For each branch over categories: its node, where its categories begin and how many there are.
    sets: [&'a [f64]; 3],
    categories: &'a [f64],
}

impl<'a> Lists<'a> {
    fn of(tree: &'a Item) -> Result<Lists<'a>, Refusal> {
        let list = |name: &str| tree.get(name).and_then(Item::numbers);
        let needed = |name: &str| list(name).ok_or_else(|| lacks(name));
        let leaf_vector = tree.at(&["tree_param", "size_leaf_vector"]).and_then(Item::text);
        if leaf_vector.is_some_and(|size| !matches!(size, "0" | "1")) {
            return Err(Refusal::Unsupported(
                "trees with a vector in each leaf (multi_strategy=\"multi_output_tree\") are not served: train with \
                 \"one_output_per_tree\""
                    .into(),
            ));
        }
        let lists = Lists {
            left: needed("left_children")?,
            right: needed("right_children")?,
            columns: needed("split_indices")?,
            values: needed("split_conditions")?,
            default_left: needed("default_left")?,
            sets: ["categories_nodes", "categories_segments", "categories_sizes"]
                .map(|name| list(name).unwrap_or_default()),
            categories: list("categories").unwrap_or_default(),
        };
        let lengths = [lists.right, lists.columns, lists.values, lists.default_left].map(<[f64]>::len);
        if lengths != [lists.left.len(); 4] {
            return Err(Refusal::Bad(format!("{} nodes with lists of {lengths:?}", lists.left.len())));
        }
        if lists.sets.iter().any(|set| set.len() != lists.sets[0].len()) {
            return Err(Refusal::Bad("its lists of categories differ in length".into()));
        }
        Ok(lists)
    }

    fn tree(&self, group: u32, weight: f32, words: &mut Words) -> Result<Tree, Refusal> {
        let mut nodes = Vec::with_capacity(self.left.len());
        let mut sets = (0..self.sets[0].len()).peekable();
        // Nodes that the file does not have, and come after its own.
        let mut more = Vec::new();
        for at in 0..self.left.len() {
            if self.left[at] == -1.0 {
                let value = self.values[at] as f32 * weight;
                nodes.push(Node::Leaf { weights: smallvec![(group, value.into())] });
                continue;
            }
            let number = |list: &[f64], what: &str| {
                whole(list[at]).ok_or_else(|| Refusal::Bad(format!("node {at} of a tree has {what} {}", list[at])))
            };
            let column = number(self.columns, "column")?;
            let (left, right) = (number(self.left, "child")?, number(self.right, "child")?);
            let default_left = self.default_left[at] != 0.0;
            let Some(set) = sets.next_if(|&set| self.sets[0][set] == at as f64) else {
                let test = Test::Lt(self.values[at]);
                nodes.push(Node::Branch { column, test, then: left, other: right, missing_then: default_left });
                continue;
            };
            let set = self.set(set, words)?;
            let has_first = set.first().is_some_and(|word| word & 1 == 1);
            let test = Test::In(set);
            let branch = Node::Branch { column, test, then: right, other: left, missing_then: !default_left };
            if has_first {
                // What is less than 0 goes left, though the whole part of -0.5 is 0.
                let other = (self.left.len() + more.len()) as u32;
                nodes.push(Node::Branch { column, test: Test::Lt(0.0), then: left, other, missing_then: false });
                more.push(branch);
            } else {
                nodes.push(branch);
            }
        }
        match sets.next() {
            Some(set) => Err(Refusal::Bad(format!("categories of node {}, which is no branch", self.sets[0][set]))),
            None => {
                nodes.append(&mut more);
                Ok(Tree { nodes })
            }
        }
    }

    /// The categories of a branch.
    fn set(&self, set: usize, words: &mut Words) -> Result<Box<[u64]>, Refusal> {
        let bad = || Refusal::Bad("its categories are not where they are said to be".into());
        let [_, starts, sizes] = self.sets.map(|list| whole(list[set]));
        let (start, size) = (starts.ok_or_else(bad)? as usize, sizes.ok_or_else(bad)? as usize);
        let end = start.checked_add(size).ok_or_else(bad)?;
        let categories = self.categories.get(start..end).ok_or_else(bad)?;
        let most = categories.iter().copied().fold(0.0, f64::max);
        if let Some(odd) = categories.iter().find(|category| whole(**category).is_none() || **category >= CATEGORIES) {
            return Err(Refusal::Bad(format!("category {odd}: expected a whole number below {CATEGORIES}")));
        }
        let mut bits = words.set(most as usize + 1)?;
        for &category in categories {
            let category = category as usize;
            bits[category / 64] |= 1 << (category % 64);
        }
        Ok(bits)
    }
}

/// What becomes of sums, and how base scores become a part of them.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Objective {
    Identity,
    Logistic,
    /// A base score that is a probability, and sums as they are.
    Logit,
    Exp,
    Hinge,
    Probabilities,
    /// The number of the class with the largest sum.
    Class,
    /// Quantiles, which must not cross.
    Sorted,
}

impl Objective {
    /// `version` is the release that wrote the file.
    fn named(name: &str, version: (Option<f64>, Option<f64>), targets: usize) -> Result<Objective, Refusal> {
        let since = |major: f64, minor: f64| version >= (Some(major), Some(minor));
        Ok(match name {
            "reg:squarederror"
            | "reg:linear"
            | "reg:squaredlogerror"
            | "reg:pseudohubererror"
            | "reg:absoluteerror"
            | "rank:pairwise"
            | "rank:ndcg"
            | "rank:map" => Objective::Identity,
            "reg:quantileerror" if targets > 1 && since(3.0, 4.0) => Objective::Sorted,
            "reg:quantileerror" => Objective::Identity,
            "reg:logistic" | "binary:logistic" => Objective::Logistic,
            "binary:logitraw" if since(3.0, 2.0) => Objective::Identity,
            "binary:logitraw" => Objective::Logit,
            "binary:hinge" => Objective::Hinge,
            "count:poisson" | "reg:gamma" | "reg:tweedie" => Objective::Exp,
            "multi:softprob" => Objective::Probabilities,
            "multi:softmax" => Objective::Class,
            other => {
                return Err(Refusal::Unsupported(format!(
                    "objective {} is not served: reg:*, binary:*, multi:*, rank:* and count:poisson are",
                    shown(other)
                )));
            }
        })
    }

    /// A base score as the sums have it.
    fn margin(self, base: f32) -> f32 {
        match self {
            Objective::Logistic | Objective::Logit => -(1.0 / base - 1.0).ln(),
            Objective::Exp => base.ln(),
            _ => base,
        }
    }

    fn link(self) -> Link<f32> {
        let each = |function: fn(f32) -> f32| -> Link<f32> {
            Box::new(move |sums, out| out.iter_mut().zip(sums).for_each(|(out, &sum)| *out = function(sum)))
        };
        match self {
            Objective::Identity | Objective::Logit => each(|sum| sum),
            // With the bound of XGBoost, where the exponential would overflow.
            Objective::Logistic => each(|sum| 1.0 / ((-sum).min(88.7).exp() + 1.0)),
            Objective::Exp => each(f32::exp),
            Objective::Hinge => each(|sum| f32::from(u8::from(sum > 0.0))),
            Objective::Probabilities => Box::new(softmax),
            Objective::Class => Box::new(|sums, out| {
                let mut best = 0;
                for (class, sum) in sums.iter().enumerate() {
                    if *sum > sums[best] {
                        best = class;
                    }
                }
                out[0] = best as f32;
            }),
            Objective::Sorted => Box::new(|sums, out| {
                out.copy_from_slice(sums);
                out.sort_by(f32::total_cmp);
            }),
        }
    }
}

/// In single precision but for the sum, as XGBoost has it.
fn softmax(sums: &[f32], out: &mut [f32]) {
    let largest = sums.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for (out, sum) in out.iter_mut().zip(sums) {
        *out = (sum - largest).exp();
        total += f64::from(*out);
    }
    out.iter_mut().for_each(|out| *out /= total as f32);
}
