//! What should somebody read about a version before it is trusted?
//!
//! A model card is made of what the record has of a version, and of the text that people wrote for it. It says nothing
//! of where the version is or who approved it: approvals are bound to it, and would void themselves. Its form is part
//! of that: the same facts must give the same text in every release, or approvals no longer match.

use std::fmt::Write as _;

use serde::Serialize;
use tiltyard_types::Digest;

use super::Book;
use super::forms::{canonical, digest};
use super::model::{Dataset, Lineage, Lock, Model, Source, Version};
use super::moments::Instant;

/// A model card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Card {
    /// Markdown.
    pub markdown: String,
}

impl Card {
    /// SHA-256 of its text.
    pub fn digest(&self) -> Digest {
        digest(&self.markdown)
    }
}

/// The model card of a version of this book.
pub fn card(book: &Book, version: &Version) -> Card {
    let mut card = Sheet(String::new());
    card.0.push_str(&format!("# {} version {}\n\n", plain(&version.model), version.number));
    card.paragraph(&version.description);
    if let Some(model) = book.model(&version.model) {
        about(&mut card, model);
    }
    artifact(&mut card, version);
    if !version.metrics.is_empty() {
        metrics(&mut card, version);
    }
    if let Some(lock) = &version.lock {
        runs_on(&mut card, lock);
    }
    made_of(&mut card, &version.lineage);
    if !version.tags.is_empty() {
        card.heading("Tags");
        version.tags.iter().for_each(|(key, value)| card.item(key, value));
    }
    if !version.text.is_empty() {
        card.heading("In words");
        card.0.push_str(version.text.trim_end());
        card.0.push('\n');
    }
    Card { markdown: card.0 }
}

/// A text that grows.
struct Sheet(String);

impl Sheet {
    fn heading(&mut self, heading: &str) {
        if !self.0.ends_with("\n\n") {
            self.0.push('\n');
        }
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "## {heading}\n");
    }

    fn item(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            let _ = writeln!(self.0, "- {}: {}", plain(name), plain(value.trim()));
        }
    }

    fn paragraph(&mut self, text: &str) {
        if !text.is_empty() {
            let _ = writeln!(self.0, "{}\n", plain(text));
        }
    }
}

/// One line, in which nothing is markup: what somebody typed as a name cannot make a heading or end a table's cell.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' | '\r' => plain.push(' '),
            '|' | '*' | '`' | '<' | '[' | '#' | '\\' | '!' => plain.extend(['\\', c]),
            c => plain.push(c),
        }
    }
    plain
}

fn about(card: &mut Sheet, model: &Model) {
    card.heading("Model");
    card.item("owner", &model.owner);
    card.item("purpose", &model.description);
    card.item("task", &model.task);
    card.item("risk", &model.risk);
    card.item("predictions are kept for", &model.retention.map(|span| span.to_string()).unwrap_or_default());
}

fn artifact(card: &mut Sheet, version: &Version) {
    card.heading("Artifact");
    card.item("digest", &format!("sha256:{}", version.artifact));
    card.item("pushed", &format!("{} by {}", Instant(version.pushed.time_ms), version.pushed.by));
    if let Source::Imported { system, uri } = &version.source {
        card.item("imported", &format!("from {system}, {uri}"));
    }
    card.item("golden examples", &version.golden_examples().to_string());
    card.0.push_str("\n| file | bytes | sha256 |\n|---|---|---|\n");
    for file in &version.files {
        let _ = writeln!(card.0, "| {} | {} | {} |", plain(&file.path), file.size, file.sha256);
    }
    if !version.signature.is_null() {
        card.heading("Signature");
        let _ = writeln!(card.0, "```json\n{}\n```", canonical(&version.signature));
    }
}

fn metrics(card: &mut Sheet, version: &Version) {
    card.heading("Metrics");
    card.0.push_str("| metric | dataset | slice | value | interval | evaluator |\n|---|---|---|---|---|---|\n");
    for measured in &version.metrics {
        let metric = &measured.metric;
        let interval = metric.interval.map(|[low, high]| format!("{low} to {high}")).unwrap_or_default();
        let key = [&metric.key.metric, &metric.key.dataset, &metric.key.slice].map(|part| plain(part));
        let evaluator = plain(&metric.evaluator);
        let _ = writeln!(card.0, "| {} | {} | {interval} | {evaluator} |", key.join(" | "), metric.value);
    }
}

fn runs_on(card: &mut Sheet, lock: &Lock) {
    card.heading("Runs on");
    card.item("engine", &lock.engine);
    card.item("build", &lock.build);
    card.item("provider", &lock.provider);
    let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
    card.item("opset", &number(lock.opset));
    card.item("threads", &number(lock.threads));
    card.item("rows of a batch, at most", &number(lock.batch_rows_max));
    lock.others.iter().for_each(|(key, value)| card.item(key, value));
}

fn made_of(card: &mut Sheet, lineage: &Lineage) {
    if *lineage == Lineage::default() {
        return;
    }
    card.heading("Made of");
    lineage.datasets.iter().for_each(|dataset| card.item("dataset", &words(dataset)));
    if let Some(code) = &lineage.code {
        let dirty = if code.is_dirty { ", with changes that are not in it" } else { "" };
        card.item("code", &format!("{} {}{dirty}", code.repository, code.commit));
    }
    if let Some(run) = &lineage.run {
        card.item("run", &format!("{} {} {}", run.system, run.id, run.uri));
    }
    if let Some(parent) = &lineage.parent {
        card.item("parent", &format!("{}@{}", parent.model, parent.version));
    }
}

/// A dataset on one line.
pub(crate) fn words(dataset: &Dataset) -> String {
    let digest = dataset.digest.map(|digest| format!("sha256:{digest}")).unwrap_or_default();
    let version = if dataset.version.is_empty() { String::new() } else { format!("version {}", dataset.version) };
    let all = [dataset.name.as_str(), &dataset.namespace, &version, &digest, &dataset.uri];
    all.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ")
}
