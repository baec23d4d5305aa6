//! In what do two versions differ?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::card::words;
use super::forms::canonical;
use super::model::{Lock, MetricKey, Version};

/// What differs between two versions. What is the same is not in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Diff {
    /// The first, such as `risk@3`.
    pub from: String,
    /// The second.
    pub to: String,
    /// Whether they have the same bytes, which only versions of different models can.
    pub same_artifact: bool,
    /// Files.
    pub files: Vec<Change>,
    /// Inputs and outputs, by name.
    pub signature: Vec<Change>,
    /// Nodes and weights, where the server has compared the graphs.
    pub graph: Option<GraphDiff>,
    /// Measurements.
    pub metrics: Vec<MetricDiff>,
    /// Tags.
    pub tags: Vec<Change>,
    /// What they must run on.
    pub lock: Vec<Change>,
    /// What they were made of.
    pub lineage: Vec<Change>,
    /// Lines of the model card's text that are in one only.
    pub text: Vec<Change>,
}

/// Something that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// What.
    pub what: String,
    /// In the first; none where it is only in the second.
    pub from: Option<String>,
    /// In the second; none where it is only in the first.
    pub to: Option<String>,
}

/// A measurement that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricDiff {
    /// Which.
    pub key: MetricKey,
    /// Of the first.
    pub from: Option<f64>,
    /// Of the second.
    pub to: Option<f64>,
    /// The second less the first, where both have it.
    pub difference: Option<f64>,
}

/// How two graphs differ, as the server finds by reading them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphDiff {
    /// In words, a line each, such as `Gemm: 3 nodes, then 4`.
    pub lines: Vec<String>,
}

/// Compares two versions; `graph` is what the server found of their graphs.
pub fn diff(from: &Version, to: &Version, graph: Option<GraphDiff>) -> Diff {
    let name = |version: &Version| format!("{}@{}", version.model, version.number);
    Diff {
        from: name(from),
        to: name(to),
        same_artifact: from.artifact == to.artifact,
        files: changes(&files(from), &files(to)),
        signature: changes(&tensors(&from.signature), &tensors(&to.signature)),
        graph,
        metrics: metrics(from, to),
        tags: changes(&from.tags, &to.tags),
        lock: changes(&lock(from.lock.as_ref()), &lock(to.lock.as_ref())),
        lineage: changes(&lineage(from), &lineage(to)),
        text: lines(&from.text, &to.text),
    }
}

type Named = BTreeMap<String, String>;

fn changes(from: &Named, to: &Named) -> Vec<Change> {
    let keys: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let change = |key: &String| Change { what: key.clone(), from: from.get(key).cloned(), to: to.get(key).cloned() };
    keys.into_iter().map(change).filter(|change| change.from != change.to).collect()
}

fn files(version: &Version) -> Named {
    let words = |file: &super::model::FileEntry| format!("{} bytes, sha256 {}", file.size, file.sha256.short());
    version.files.iter().map(|file| (file.path.clone(), words(file))).collect()
}

/// Inputs and outputs by name, each as its JSON: whatever the server says of them is compared.
fn tensors(signature: &Value) -> Named {
    let mut named = Named::new();
    for side in ["inputs", "outputs"] {
        for (place, tensor) in signature[side].as_array().into_iter().flatten().enumerate() {
            let name = tensor["name"].as_str().map_or_else(|| place.to_string(), str::to_owned);
            named.insert(format!("{} {name}", &side[..side.len() - 1]), canonical(tensor));
        }
    }
    named
}

fn lock(lock: Option<&Lock>) -> Named {
    let Some(lock) = lock else { return Named::new() };
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    let fixed = [
        ("engine", lock.engine.clone()),
        ("build", lock.build.clone()),
        ("provider", lock.provider.clone()),
        ("opset", number(lock.opset)),
        ("threads", number(lock.threads)),
        ("batch_rows_max", number(lock.batch_rows_max)),
    ];
    let fixed = fixed.into_iter().filter(|(_, value)| !value.is_empty()).map(|(key, value)| (key.to_owned(), value));
    fixed.chain(lock.others.clone()).collect()
}

fn lineage(version: &Version) -> Named {
    let lineage = &version.lineage;
    let mut named = Named::new();
    for dataset in &lineage.datasets {
        named.insert(format!("dataset {}", dataset.name), words(dataset));
    }
    if let Some(code) = &lineage.code {
        let dirty = if code.is_dirty { ", changed" } else { "" };
        named.insert("code".into(), format!("{} {}{dirty}", code.repository, code.commit));
    }
    if let Some(run) = &lineage.run {
        named.insert("run".into(), format!("{} {}", run.system, run.id));
    }
    if let Some(parent) = &lineage.parent {
        named.insert("parent".into(), format!("{}@{}", parent.model, parent.version));
    }
    named
}

fn metrics(from: &Version, to: &Version) -> Vec<MetricDiff> {
    let keys: BTreeSet<&MetricKey> =
        from.metrics.iter().chain(&to.metrics).map(|measured| &measured.metric.key).collect();
    let pairs = keys.into_iter().map(|key| {
        let value = |version: &Version| version.metric(key).map(|metric| metric.value);
        let (from, to) = (value(from), value(to));
        let difference = from.zip(to).map(|(from, to)| to - from);
        MetricDiff { key: key.clone(), from, to, difference }
    });
    pairs.filter(|pair| pair.from != pair.to).collect()
}

/// Lines that are in one text more often than in the other. Order is not compared: a card's text is read, not run.
fn lines(from: &str, to: &str) -> Vec<Change> {
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    from.lines().for_each(|line| *counts.entry(line).or_default() += 1);
    to.lines().for_each(|line| *counts.entry(line).or_default() -= 1);
    let side = |text: &str, sign: i64| -> Vec<Change> {
        let mut left = counts.clone();
        let mut changes = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let Some(count) = left.get_mut(line).filter(|count| **count * sign > 0) else { continue };
            *count -= sign;
            let (mut from, mut to) = (Some(line.to_owned()), None);
            if sign < 0 {
                std::mem::swap(&mut from, &mut to);
            }
            changes.push(Change { what: format!("line {}", number + 1), from, to });
        }
        changes
    };
    [side(from, 1), side(to, -1)].concat()
}

/// A difference without the digits that come of subtracting binary fractions.
fn shown(difference: f64) -> f64 {
    format!("{difference:.9e}").parse().unwrap_or(difference)
}

impl Diff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        let lists = [&self.files, &self.signature, &self.tags, &self.lock, &self.lineage, &self.text];
        lists.iter().all(|list| list.is_empty())
            && self.metrics.is_empty()
            && self.graph.as_ref().is_none_or(|graph| graph.lines.is_empty())
    }
}

impl fmt::Display for Diff {
    /// For a terminal: a line for each difference, with `-` for the first and `+` for the second.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "--- {}\n+++ {}", self.from, self.to)?;
        if self.is_empty() {
            return f.write_str("nothing differs\n");
        }
        let lists = [
            ("signature", &self.signature),
            ("files", &self.files),
            ("lock", &self.lock),
            ("tags", &self.tags),
            ("lineage", &self.lineage),
            ("text", &self.text),
        ];
        for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            writeln!(f, "{name}")?;
            for change in list {
                change.from.iter().try_for_each(|from| writeln!(f, "  - {}: {from}", change.what))?;
                change.to.iter().try_for_each(|to| writeln!(f, "  + {}: {to}", change.what))?;
            }
        }
        if !self.metrics.is_empty() {
            writeln!(f, "metrics")?;
        }
        let figure = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| figure.to_string());
        for pair in &self.metrics {
            let by = pair.difference.map(|by| format!(" ({:+})", shown(by))).unwrap_or_default();
            writeln!(f, "  {}: {} -> {}{by}", pair.key, figure(pair.from), figure(pair.to))?;
        }
        let graph = self.graph.iter().flat_map(|graph| &graph.lines);
        for (place, line) in graph.enumerate() {
            if place == 0 {
                writeln!(f, "graph")?;
            }
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}
