//! Does the book say what the log says, and does nothing get past its rules?
//!
//! All goes the way that production goes: an order is decided, its facts become lines of a log, and the book takes what
//! is read back from them.

mod history;
mod laws;
mod refusals;
mod telling;
mod versions;

use serde_json::json;
use tiltyard_types::Digest;

use super::*;
use crate::entry::line;
use crate::{Entry, Head};

const HOUR_MS: u64 = 60 * 60 * 1_000;

/// A Sunday, at 4:25.
const BEGIN_MS: u64 = 1_795_926_300_000;

/// A book with the log that it is a fold of.
pub(super) struct World {
    pub(super) book: Book,
    pub(super) entries: Vec<Entry>,
    pub(super) head: Head,
    pub(super) now_ms: u64,
    ids: u64,
}

impl World {
    pub(super) fn new() -> World {
        World { book: Book::default(), entries: Vec::new(), head: Head::START, now_ms: BEGIN_MS, ids: 0 }
    }

    /// A new id, as a server would make one.
    pub(super) fn id(&mut self) -> String {
        self.ids += 1;
        format!("id{}", self.ids)
    }

    pub(super) fn order(&mut self, by: &Principal, order: Order) -> Result<Decided, Refusal> {
        let decided = self.book.decide(order, by, self.now_ms)?;
        for fact in &decided.facts {
            self.write(fact);
        }
        Ok(decided)
    }

    /// Puts a fact on the record.
    pub(super) fn write(&mut self, fact: &Fact) {
        self.write_entry(fact.kind(), fact);
    }

    pub(super) fn write_entry(&mut self, kind: &str, data: &impl serde::Serialize) {
        let (text, head) = line(self.head, self.now_ms, kind, data).expect("it is an entry");
        let entry = Entry::read(text.trim_end().as_bytes()).expect("it is read back");
        self.book.take(&entry).expect("what was decided can be taken");
        self.head = head;
        self.entries.push(entry);
    }

    /// Does what is not to be refused.
    #[track_caller]
    pub(super) fn does(&mut self, by: &Principal, wants: Wants) -> Outcome {
        match self.order(by, wants.into()) {
            Ok(decided) => decided.outcome,
            Err(refusal) => panic!("{refusal}"),
        }
    }

    /// What an order is refused with.
    #[track_caller]
    pub(super) fn refusal(&mut self, by: &Principal, wants: Wants) -> Refusal {
        match self.order(by, wants.into()) {
            Ok(decided) => panic!("it was done: {decided:?}"),
            Err(refusal) => refusal,
        }
    }

    pub(super) fn push(&mut self, by: &Principal, content: Content) -> u64 {
        match self.does(by, Wants::Push(Push { model: "risk".into(), content: Box::new(content), number_min: 0 })) {
            Outcome::Version { version, .. } => version,
            other => panic!("{other:?}"),
        }
    }

    /// Asks for a version of `risk`.
    pub(super) fn ask(&mut self, by: &Principal, version: u64, environment: &str) -> String {
        let id = self.id();
        let reason = "it is better".into();
        let ask = Ask { id: id.clone(), model: "risk".into(), version, environment: environment.into(), reason };
        self.does(by, Wants::Request(ask));
        id
    }

    pub(super) fn promote(&mut self, version: u64, environment: &str) -> Wants {
        let (id, model, environment) = (self.id(), "risk".into(), environment.into());
        Wants::Promote(Promote { id, model, version, environment, rollout: None, overriding: None })
    }

    /// Gives an environment a policy.
    pub(super) fn rule(&mut self, environment: &str, policy: Policy) {
        let rank = self.book.environment(environment).map_or(40, |known| known.rank);
        let set = EnvironmentSet { environment: environment.into(), rank, policy };
        self.does(&admin(), Wants::Environment(set));
    }

    pub(super) fn request(&self, id: &str) -> &Request {
        self.book.request(id).expect("it was made")
    }
}

pub(super) fn person(name: &str, role: &str) -> Principal {
    Principal { name: name.into(), roles: vec![role.into()], how: How::Key }
}

pub(super) fn admin() -> Principal {
    person("root", "admin")
}

pub(super) fn dana() -> Principal {
    person("dana", "deployer")
}

pub(super) fn ann() -> Principal {
    person("ann", "approver")
}

pub(super) fn bob() -> Principal {
    person("bob", "approver")
}

pub(super) fn digest(byte: u8) -> Digest {
    Digest::new([byte; 32])
}

/// A version's content, whose bytes are told apart by one.
pub(super) fn content(byte: u8) -> Content {
    let file = |path: &str, size| FileEntry { path: path.into(), size, sha256: digest(byte) };
    let tensor = |name: &str| json!({ "name": name, "datatype": "FP32", "shape": [-1, 4] });
    Content {
        artifact: digest(byte),
        files: vec![file("golden/first.json", 210), file("model.onnx", 4_711)],
        signature: json!({ "inputs": [tensor("features")], "outputs": [tensor("score")] }),
        description: "Scores applications.".into(),
        text: String::new(),
        tags: [("team".to_owned(), "fraud".to_owned())].into(),
        metrics: vec![auc(0.8)],
        lock: None,
        baseline: None,
        signed: None,
        lineage: Lineage::default(),
        source: Source::Pushed,
    }
}

pub(super) fn auc(value: f64) -> Metric {
    let key = MetricKey { dataset: "holdout".into(), slice: String::new(), metric: "auc".into() };
    Metric { key, value, interval: None, evaluator: "backtest".into() }
}

pub(super) fn measured(version: u64, metric: Metric) -> Wants {
    Wants::Measure(MetricsTold { model: "risk".into(), version, metrics: vec![metric] })
}

pub(super) fn approve(request: &str) -> Wants {
    Wants::Approve(Approve { request: request.into(), seen: None, comment: String::new() })
}

pub(super) fn state(version: u64, state: VersionState, reason: &str) -> Wants {
    Wants::State(StateSet { model: "risk".into(), version, state, reason: reason.into() })
}

pub(super) fn approvers(required: u64) -> Approvers {
    Approvers { required, roles: Vec::new(), persons: Vec::new() }
}

/// The rules of a refused promotion, and the whole text.
#[track_caller]
pub(super) fn check_needs(refusal: &Refusal, expected: &[(&str, &str)]) {
    let found: Vec<_> = refusal.needed.iter().map(|need| (need.rule.as_str(), need.to_string())).collect();
    assert_eq!(found.len(), expected.len(), "{refusal}");
    for ((rule, text), (expected_rule, expected_text)) in found.iter().zip(expected) {
        assert_eq!(rule, expected_rule, "{refusal}");
        assert!(text.contains(expected_text), "expected {expected_text:?} in:\n{text}");
    }
}
