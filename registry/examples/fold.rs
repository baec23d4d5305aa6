//! How long does a large registry take to read, and how much memory does it hold?
//!
//! Writes a log of 10,000 versions and 100,000 facts into a folder of its own, folds it, and prints both. With
//! `-- VERSIONS FACTS` other numbers.

use std::time::Instant;

use serde_json::json;
use tiltyard_registry::book::{
    Book, Content, FileEntry, How, Lineage, Metric, MetricKey, MetricsTold, Order, Principal, Push, Source, Tagged,
    Wants,
};
use tiltyard_registry::{Limits, Log};
use tiltyard_types::Digest;

const MODELS: u64 = 50;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let (versions, facts) = (numbers.next().unwrap_or(10_000), numbers.next().unwrap_or(100_000));
    let folder = tempfile::tempdir()?;
    let log = Log::open(folder.path(), Limits::default())?;
    let (mut book, mut ticket) = (Book::default(), None);
    let by = Principal { name: "dana".into(), roles: vec!["deployer".into()], how: How::Key };
    let (before, began) = (resident(), Instant::now());
    for number in 0..facts {
        let order = if number < versions { push(number) } else { say(number, versions) };
        for fact in book.decide(order, &by, number)?.facts {
            let put = log.append(number, fact.kind(), &fact)?;
            book.apply(put.sequence(), number, &fact)?;
            ticket = Some(put);
        }
    }
    ticket.map(|ticket| log.wait(&ticket)).transpose()?;
    let (decided, after) = (began.elapsed(), resident());
    drop(book);
    let (mut again, mut bytes) = (Book::default(), 0);
    let began = Instant::now();
    for entry in log.entries(1)? {
        let entry = entry?;
        bytes += entry.data.get().len();
        again.take(&entry)?;
    }
    let read = began.elapsed();
    let held = again.models().map(|model| model.versions.len()).sum::<usize>();
    let lines = format!(
        "{facts} facts, {held} versions, {bytes} bytes of data\n\
         decided and written: {decided:.2?}\nread, checked and folded: {read:.2?}\n\
         the book holds {} MB\n",
        after.saturating_sub(before) / 1_000
    );
    std::io::Write::write_all(&mut std::io::stdout(), lines.as_bytes())?;
    Ok(())
}

fn push(number: u64) -> Order {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    let file = |path: &str| FileEntry { path: path.into(), size: number, sha256: Digest::new(bytes) };
    let content = Content {
        artifact: Digest::new(bytes),
        files: vec![file("golden/first.json"), file("model.onnx")],
        signature: json!({ "inputs": [{ "name": "features", "datatype": "FP32", "shape": [-1, 20] }], "outputs": [] }),
        description: "Scores applications.".into(),
        text: "Made for scale.".into(),
        tags: [("team".to_owned(), "fraud".to_owned())].into(),
        metrics: vec![metric(number)],
        lock: None,
        baseline: None,
        signed: None,
        lineage: Lineage::default(),
        source: Source::Pushed,
    };
    Wants::Push(Push { model: format!("model{}", number % MODELS), content: Box::new(content), number_min: 0 }).into()
}

fn metric(number: u64) -> Metric {
    let key = MetricKey { dataset: "holdout".into(), slice: format!("slice{}", number % 20), metric: "auc".into() };
    Metric { key, value: number as f64 / 1e6, interval: None, evaluator: String::new() }
}

/// Something that is said of a version.
fn say(number: u64, versions: u64) -> Order {
    let of = number % versions;
    let (model, version) = (format!("model{}", of % MODELS), of / MODELS + 1);
    if number.is_multiple_of(2) {
        return Wants::Measure(MetricsTold { model, version, metrics: vec![metric(number / 3)] }).into();
    }
    let set = [(format!("tag{}", number % 7), number.to_string())].into();
    Wants::Tags(Tagged { model, version: Some(version), set, unset: Vec::new() }).into()
}

/// Memory of this process, in thousands of bytes, as Linux says; 0 elsewhere.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0)
}
