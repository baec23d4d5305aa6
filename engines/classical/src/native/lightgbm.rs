//! How is a model read that LightGBM's `save_model` wrote?
//!
//! A text of `key=value` lines: a head, then a block for each tree. Branches and leaves of a tree are counted apart; a child
//! that is a leaf is written as minus one minus its number. A branch goes left if the value is at most the threshold, or,
//! over categories, if it is one of its own.

use std::collections::HashMap;
use std::str::FromStr;

use bytes::Bytes;
use smallvec::smallvec;
use tiltyard_runtime::onnx::Graph;
use tiltyard_types::DataType;

use super::{Explained, Head, Link, Real, Refusal, Scorer, Words, ZERO, ensemble, shown};
use crate::trees::{Forest, Node, Precision, Test, Tree};

pub(super) const NAME: &str = "LightGBM";

/// What the file says about itself.
pub(super) fn graph(file: &Bytes) -> Result<Graph, Refusal> {
    let (head, _, _) = head(&mut lines(file)?)?;
    Ok(head.graph())
}

/// Reads the model.
pub(super) fn read(file: &Bytes) -> Result<(Head, Scorer<f64>), Refusal> {
    let Parts { head, objective, average, forest, zeros } = parts(file, &mut |_| {})?;
    let ensemble = ensemble(forest, Precision::F64)?;
    Ok((head, Scorer { ensemble, zeros, link: objective.link(average) }))
}

/// Reads what explanations need.
pub(super) fn explained(file: &Bytes) -> Result<(Head, Explained), Refusal> {
    let mut covers = Vec::new();
    let mut note = |block: &Block<'_>| covers.push(block.covers());
    let Parts { head, objective, average, mut forest, zeros } = parts(file, &mut note)?;
    if let Some(iterations) = average {
        let leaves = forest.trees.iter_mut().flat_map(|tree| &mut tree.nodes);
        for node in leaves {
            if let Node::Leaf { weights } = node {
                weights.iter_mut().for_each(|(_, weight)| *weight /= iterations as f64);
            }
        }
    }
    let space = match objective {
        Objective::Logistic(1.0) | Objective::Softmax => "log-odds",
        Objective::Exp => "log",
        Objective::Identity => "value",
        Objective::Logistic(_) | Objective::Square | Objective::LogExp => "raw",
    };
    let covers = covers.into_iter().collect();
    Ok((head, Explained { forest, covers, precision: Precision::F64, zeros, space }))
}

/// What a file says, before it is laid out.
struct Parts {
    head: Head,
    objective: Objective,
    /// What sums are divided by, where they are.
    average: Option<usize>,
    forest: Forest,
    zeros: Vec<u32>,
}

/// Reads the file; each tree is shown to `note` as it is written.
fn parts(file: &Bytes, note: &mut dyn FnMut(&Block<'_>)) -> Result<Parts, Refusal> {
    let mut lines = lines(file)?;
    let (head, fields, objective) = head(&mut lines)?;
    let mut reading = Reading { zeros: Zeros { columns: head.columns, known: HashMap::new() }, words: Words::new() };
    let mut trees = Vec::new();
    let mut whole = false;
    // The line that ended the head was the first tree's.
    let mut line = lines.next();
    while let Some(text) = line {
        if text.starts_with("Tree=") {
            let number = trees.len();
            let tree = Block::read(&mut lines).and_then(|block| {
                note(&block);
                block.tree(number % head.targets, &mut reading)
            });
            trees.push(tree.map_err(|error| match error {
                Refusal::Bad(what) => Refusal::Bad(format!("tree {number}: {what}")),
                other => other,
            })?);
        } else if text == "end of trees" {
            whole = true;
            break;
        }
        line = lines.next();
    }
    check_count(&fields, trees.len(), whole, &head)?;
    let iterations = trees.len() / head.targets;
    let average = fields.contains_key("average_output").then_some(iterations);
    let zeros = reading.zeros.into_columns();
    let forest = Forest { columns: head.columns + zeros.len(), targets: head.targets, trees, base: Vec::new() };
    Ok(Parts { head, objective, average, forest, zeros })
}

/// Lines with the one in hand given back once.
struct Lines<'a> {
    rest: std::str::Lines<'a>,
    again: Option<&'a str>,
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;
    fn next(&mut self) -> Option<&'a str> {
        self.again.take().or_else(|| self.rest.next())
    }
}

fn lines(file: &Bytes) -> Result<Lines<'_>, Refusal> {
    let text = std::str::from_utf8(file).map_err(|_| Refusal::Bad("it is no text".into()))?;
    let mut rest = text.lines();
    match rest.next() {
        Some("tree") => Ok(Lines { rest, again: None }),
        first => Err(Refusal::Bad(format!(
            "its first line is {}: expected \"tree\", as LightGBM's save_model writes it",
            shown(first.unwrap_or_default())
        ))),
    }
}

/// Whether all trees are there that the head speaks of.
fn check_count(fields: &Fields<'_>, trees: usize, whole: bool, head: &Head) -> Result<(), Refusal> {
    let told = fields.get("tree_sizes").map(|sizes| sizes.split_ascii_whitespace().count());
    if told.is_some_and(|told| told != trees) || (told.is_none() && !whole) {
        let told = told.map_or("all".into(), |told| told.to_string());
        return Err(Refusal::Bad(format!("it ends after {trees} trees; {told} are expected: it is not whole")));
    }
    head.check_targets(trees)?;
    if !trees.is_multiple_of(head.targets) {
        return Err(Refusal::Bad(format!("{trees} trees for {} scores", head.targets)));
    }
    Ok(())
}

type Fields<'a> = HashMap<&'a str, &'a str>;

/// Reads up to the first tree.
fn head<'a>(lines: &mut Lines<'a>) -> Result<(Head, Fields<'a>, Objective), Refusal> {
    let mut fields = Fields::new();
    while let Some(line) = lines.next() {
        if line.starts_with("Tree=") || line == "end of trees" {
            lines.again = Some(line);
            break;
        }
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        fields.insert(key, value);
    }
    let number = |name: &str| -> Result<Option<usize>, Refusal> {
        let parse =
            |text: &&str| text.trim().parse().map_err(|_| Refusal::Bad(format!("its {name} is {}", shown(text))));
        fields.get(name).map(parse).transpose()
    };
    let classes = number("num_class")?.ok_or_else(|| lacks("num_class"))?;
    let targets = number("num_tree_per_iteration")?.unwrap_or(classes);
    let columns = number("max_feature_idx")?.ok_or_else(|| lacks("max_feature_idx"))?.saturating_add(1);
    let objective = Objective::of(fields.get("objective").copied().unwrap_or("custom"), targets)?;
    let names = fields.get("feature_names").ok_or_else(|| lacks("feature_names"))?;
    let head = Head {
        format: NAME,
        producer: fields.get("version").map(|version| (*version).to_owned()).unwrap_or_default(),
        dtype: DataType::Fp64,
        columns,
        names: names.split_ascii_whitespace().map(str::to_owned).collect(),
        targets,
        outputs: targets,
    };
    if targets == 0 {
        return Err(Refusal::Bad("its num_tree_per_iteration is 0".into()));
    }
    head.check()?;
    Ok((head, fields, objective))
}

fn lacks(what: &str) -> Refusal {
    Refusal::Bad(format!("it lacks {what}, which LightGBM writes"))
}

/// What trees add to while they are read.
struct Reading {
    zeros: Zeros,
    words: Words,
}

/// Columns that some branch sees with zeros missing: such a branch looks at a copy at the end of the row.
struct Zeros {
    columns: usize,
    known: HashMap<u32, u32>,
}

impl Zeros {
    fn place(&mut self, column: u32) -> u32 {
        let next = (self.columns + self.known.len()) as u32;
        *self.known.entry(column).or_insert(next)
    }

    /// The columns in the order of their copies.
    fn into_columns(self) -> Vec<u32> {
        let mut columns: Vec<(u32, u32)> = self.known.into_iter().map(|(column, place)| (place, column)).collect();
        columns.sort_unstable();
        columns.into_iter().map(|(_, column)| column).collect()
    }
}

/// The lines of a tree.
struct Block<'a>(Fields<'a>);

impl<'a> Block<'a> {
    /// Reads up to an empty line, or to the line that something else begins with.
    fn read(lines: &mut Lines<'a>) -> Result<Block<'a>, Refusal> {
        let mut fields = Fields::new();
        for line in lines.by_ref() {
            match line.split_once('=') {
                _ if line.is_empty() => break,
                Some((key, value)) if key != "Tree" => {
                    fields.insert(key, value);
                }
                _ => {
                    lines.again = Some(line);
                    break;
                }
            }
        }
        Ok(Block(fields))
    }

    fn text(&self, name: &str) -> Result<&'a str, Refusal> {
        self.0.get(name).copied().ok_or_else(|| lacks(name))
    }

    fn one<T: FromStr>(&self, name: &str) -> Result<T, Refusal> {
        let text = self.text(name)?;
        text.trim().parse().map_err(|_| Refusal::Bad(format!("its {name} is {}", shown(text))))
    }

    fn list<T: FromStr>(&self, name: &str, count: usize) -> Result<Vec<T>, Refusal> {
        let text = self.text(name)?;
        let parse = |word: &str| word.parse().map_err(|_| Refusal::Bad(format!("its {name} has {}", shown(word))));
        let list: Vec<T> = text.split_ascii_whitespace().map(parse).collect::<Result<_, Refusal>>()?;
        match list.len() == count {
            true => Ok(list),
            false => Err(Refusal::Bad(format!("its {name} has {} values, {count} are expected", list.len()))),
        }
    }

    fn tree(&self, target: usize, reading: &mut Reading) -> Result<Tree, Refusal> {
        if self.0.get("is_linear").is_some_and(|linear| linear.trim() != "0") {
            return Err(Refusal::Unsupported(
                "trees with linear models in their leaves are not served: train with linear_tree=false".into(),
            ));
        }
        let leaves: usize = self.one("num_leaves")?;
        let values: Vec<f64> = self.list("leaf_value", leaves)?;
        let leaf = |&value: &f64| Node::Leaf { weights: smallvec![(target as u32, value)] };
        let mut nodes = match leaves {
            0 => return Err(Refusal::Bad("its num_leaves is 0".into())),
            1 => Vec::new(),
            _ => self.branches(leaves - 1, reading)?,
        };
        nodes.extend(values.iter().map(leaf));
        Ok(Tree { nodes })
    }

    /// How many training rows came by each node, branches first; `None` where the file does not say so.
    fn covers(&self) -> Option<Vec<f64>> {
        let leaves: usize = self.one("num_leaves").ok()?;
        if leaves <= 1 {
            return Some(vec![1.0]);
        }
        let mut covers: Vec<f64> = self.list("internal_count", leaves - 1).ok()?;
        covers.append(&mut self.list("leaf_count", leaves).ok()?);
        Some(covers)
    }

    fn branches(&self, count: usize, reading: &mut Reading) -> Result<Vec<Node>, Refusal> {
        const CATEGORICAL: u8 = 1;
        const DEFAULT_LEFT: u8 = 2;
        let columns: Vec<u32> = self.list("split_feature", count)?;
        let thresholds: Vec<f64> = self.list("threshold", count)?;
        let (left, right): (Vec<i64>, Vec<i64>) = (self.list("left_child", count)?, self.list("right_child", count)?);
        let kinds: Vec<i8> = match self.0.contains_key("decision_type") {
            true => self.list("decision_type", count)?,
            false => vec![0; count],
        };
        let mut sets = self.sets(reading)?;
        let mut nodes = Vec::with_capacity(2 * count + 1);
        for at in 0..count {
            let child = |child: i64| {
                let place = if child < 0 { (count as i64).checked_sub(child.wrapping_add(1)) } else { Some(child) };
                let found = place.and_then(|place| u32::try_from(place).ok());
                found.ok_or_else(|| Refusal::Bad(format!("branch {at} leads to {child}")))
            };
            let (then, other) = (child(left[at])?, child(right[at])?);
            let (kind, mut column, threshold) = (kinds[at] as u8, columns[at], thresholds[at]);
            if column as usize >= reading.zeros.columns {
                let all = reading.zeros.columns;
                return Err(Refusal::Bad(format!("branch {at} looks at column {column}, but rows have {all}")));
            }
            if kind & CATEGORICAL != 0 {
                // NaN goes right whatever the rest says.
                let set = sets.get_mut(threshold as usize).and_then(Option::take).filter(|_| threshold >= 0.0);
                let set = set.ok_or_else(|| Refusal::Bad(format!("branch {at} has set {threshold} of categories")))?;
                nodes.push(Node::Branch { column, test: Test::In(set), then, other, missing_then: false });
                continue;
            }
            let default_left = kind & DEFAULT_LEFT != 0;
            let missing_then = match kind >> 2 & 3 {
                // NaN is a zero.
                0 => 0.0 <= threshold,
                1 => {
                    column = reading.zeros.place(column);
                    default_left
                }
                2 => default_left,
                other => return Err(Refusal::Bad(format!("branch {at} has missing values of kind {other}"))),
            };
            nodes.push(Node::Branch { column, test: at_most(threshold), then, other, missing_then });
        }
        Ok(nodes)
    }

    /// The sets of categories, each of which one branch takes.
    fn sets(&self, reading: &mut Reading) -> Result<Vec<Option<Box<[u64]>>>, Refusal> {
        let count: usize = self.one("num_cat")?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let bad = || Refusal::Bad("its cat_boundaries do not fit its cat_threshold".into());
        let bounds: Vec<usize> = self.list("cat_boundaries", count.checked_add(1).ok_or_else(bad)?)?;
        let words: Vec<u32> = self.list("cat_threshold", bounds.last().copied().unwrap_or(0))?;
        let mut sets = Vec::with_capacity(count);
        for bounds in bounds.windows(2) {
            let words = words.get(bounds[0]..bounds[1]).ok_or_else(bad)?;
            let mut set = reading.words.set(words.len() * 32)?;
            for (at, &word) in words.iter().enumerate() {
                set[at / 2] |= u64::from(word) << (at % 2 * 32);
            }
            sets.push(Some(set));
        }
        Ok(sets)
    }
}

/// The test of a branch. LightGBM takes what is next to zero for zero before it compares, which thresholds can say as well.
fn at_most(threshold: f64) -> Test {
    match threshold.is_zero() {
        true if threshold < 0.0 => Test::Lt(-ZERO),
        true => Test::Leq(ZERO),
        false => Test::Leq(threshold),
    }
}

/// What becomes of sums.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Objective {
    Identity,
    /// With what the sum is multiplied by.
    Logistic(f64),
    Exp,
    /// The square, with the sign of the sum.
    Square,
    /// The logarithm of one more than the exponential.
    LogExp,
    Softmax,
}

impl Objective {
    /// Reads the line of the head: a name and its parameters.
    fn of(line: &str, targets: usize) -> Result<Objective, Refusal> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        let parameter = |name: &str| words.iter().filter_map(|word| word.split_once(':')).find(|(key, _)| *key == name);
        let sigmoid = || -> Result<f64, Refusal> {
            let sigmoid = parameter("sigmoid").and_then(|(_, value)| value.parse().ok()).filter(|value| *value > 0.0);
            sigmoid.ok_or_else(|| Refusal::Bad(format!("its objective is {}, without a sigmoid above 0", shown(line))))
        };
        if name.starts_with("multiclass")
            && parameter("num_class").is_none_or(|(_, count)| count != targets.to_string())
        {
            return Err(Refusal::Bad(format!("its objective is {}, with {targets} scores", shown(line))));
        }
        Ok(match name {
            "regression" | "regression_l1" | "fair" | "quantile" | "mape" if words.contains(&"sqrt") => {
                Objective::Square
            }
            "regression" | "regression_l1" | "huber" | "fair" | "quantile" | "mape" | "lambdarank" | "rank_xendcg"
            | "custom" => Objective::Identity,
            "poisson" | "gamma" | "tweedie" => Objective::Exp,
            "binary" | "multiclassova" => Objective::Logistic(sigmoid()?),
            "cross_entropy" => Objective::Logistic(1.0),
            "cross_entropy_lambda" => Objective::LogExp,
            "multiclass" => Objective::Softmax,
            _ => return Err(Refusal::Unsupported(format!("objective {} is not served", shown(line)))),
        })
    }

    /// `average` is what sums are divided by first, where they are.
    fn link(self, average: Option<usize>) -> Link<f64> {
        let divisor = average.map(|iterations| iterations as f64);
        Box::new(move |sums, out| {
            out.copy_from_slice(sums);
            if let Some(divisor) = divisor {
                out.iter_mut().for_each(|out| *out /= divisor);
            }
            let each = |out: &mut [f64], function: &dyn Fn(f64) -> f64| {
                out.iter_mut().for_each(|out| *out = function(*out));
            };
            match self {
                Objective::Identity => {}
                Objective::Logistic(by) => each(out, &|sum| 1.0 / (1.0 + (-by * sum).exp())),
                Objective::Exp => each(out, &f64::exp),
                Objective::Square => each(out, &|sum| sum.abs() * sum),
                Objective::LogExp => each(out, &|sum| sum.exp().ln_1p()),
                Objective::Softmax => softmax(out),
            }
        })
    }
}

fn softmax(scores: &mut [f64]) {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut total = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - largest).exp();
        total += *score;
    }
    scores.iter_mut().for_each(|score| *score /= total);
}
