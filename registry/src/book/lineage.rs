//! What was a version made from, and how is that told to others?
//!
//! OpenLineage is the language: [`events`] tells what happened here, and runs that other systems tell of are facts
//! here too, so that [`ancestors`] reaches beyond what a push said. Written after the specification 2-0-2 of
//! <https://openlineage.io/spec/2-0-2/OpenLineage.json> and its facets.

mod told;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::Serialize;
use serde_json::Value;

use super::Book;
use super::limits::{LIST_MAX, NAME_BYTES_MAX, RUNS_MAX};
use super::model::{Dataset, Stamp, Version};

pub use told::events;

/// How deep a tree of ancestors goes.
pub const DEPTH_MAX: usize = 32;

/// How many nodes it has.
pub const NODES_MAX: usize = 1_000;

/// A run that another system told of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ForeignRun {
    /// Its id, a UUID.
    pub id: String,
    /// The namespace of its job.
    pub namespace: String,
    /// The name of its job.
    pub job: String,
    /// The last state it was told in, such as `COMPLETE`.
    pub state: String,
    /// What it read.
    pub inputs: BTreeSet<DatasetName>,
    /// What it wrote.
    pub outputs: BTreeSet<DatasetName>,
    /// When it was told of first.
    pub told: Stamp,
}

/// A dataset as OpenLineage names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct DatasetName {
    /// Where it lies, such as `s3://data`.
    pub namespace: String,
    /// Its name there.
    pub name: String,
}

impl DatasetName {
    /// Whether this is what a version was made of: by namespace and name, or by its address.
    fn is(&self, dataset: &Dataset) -> bool {
        let is_same_name = self.name == dataset.name;
        let address = || format!("{}/{}", self.namespace.trim_end_matches('/'), self.name.trim_start_matches('/'));
        match dataset.namespace.is_empty() {
            false => is_same_name && self.namespace == dataset.namespace,
            true if dataset.uri.is_empty() => is_same_name,
            true => address() == dataset.uri,
        }
    }
}

/// Runs of other systems, the last of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Runs {
    by_id: BTreeMap<String, ForeignRun>,
    oldest: VecDeque<String>,
    /// The runs that wrote a dataset.
    makers: BTreeMap<DatasetName, BTreeSet<String>>,
}

impl Runs {
    /// The run of this id.
    pub fn get(&self, id: &str) -> Option<&ForeignRun> {
        self.by_id.get(id)
    }

    /// All that are known, by id.
    pub fn iter(&self) -> impl Iterator<Item = &ForeignRun> {
        self.by_id.values()
    }

    /// Takes in an event that was read before. Events of one run add up.
    pub(crate) fn take(&mut self, at: &Stamp, event: &Value) {
        let Ok(told) = read(event) else { return };
        for output in &told.outputs {
            self.makers.entry(output.clone()).or_default().insert(told.id.clone());
        }
        match self.by_id.get_mut(&told.id) {
            Some(run) => {
                let room = |held: &BTreeSet<DatasetName>| LIST_MAX.saturating_sub(held.len());
                let (inputs, outputs) = (room(&run.inputs), room(&run.outputs));
                run.inputs.extend(told.inputs.into_iter().take(inputs));
                run.outputs.extend(told.outputs.into_iter().take(outputs));
                run.state = told.state;
            }
            None => {
                self.oldest.push_back(told.id.clone());
                self.by_id.insert(told.id.clone(), ForeignRun { told: at.clone(), ..told });
            }
        }
        if self.oldest.len() > RUNS_MAX {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(run) = self.oldest.pop_front().and_then(|id| self.by_id.remove(&id)) else { return };
        self.makers.retain(|_, makers| {
            makers.remove(&run.id);
            !makers.is_empty()
        });
    }

    fn makers_of<'a>(&'a self, dataset: &'a Dataset) -> impl Iterator<Item = &'a ForeignRun> {
        let of = self.makers.iter().filter(|(name, _)| name.is(dataset));
        of.flat_map(|(_, makers)| makers).filter_map(|id| self.by_id.get(id))
    }
}

/// Reads a RunEvent. The error says what it lacks.
pub(crate) fn read(event: &Value) -> Result<ForeignRun, String> {
    let text = |value: &Value, what: &str| match value.as_str() {
        Some(text) if !text.is_empty() && text.len() <= 8 * NAME_BYTES_MAX => Ok(text.to_owned()),
        Some(_) => Err(format!("the event's {what} is empty or too long: expected 1 to {} bytes", 8 * NAME_BYTES_MAX)),
        None => Err(format!("the event has no {what}: expected a RunEvent of OpenLineage")),
    };
    let time = text(&event["eventTime"], "eventTime")?;
    humantime::parse_rfc3339_weak(&time.replace("+00:00", "Z")).map(drop).or_else(|error| {
        // Other offsets than UTC are allowed there; humantime reads UTC only.
        let has_offset = time.len() > 19 && time.get(19..).is_some_and(|end| end.contains(['+', '-']));
        if has_offset { Ok(()) } else { Err(format!("the event's eventTime {time:?} is no time: {error}")) }
    })?;
    text(&event["producer"], "producer")?;
    let id = text(&event["run"]["runId"], "run.runId")?;
    if !is_uuid(&id) {
        return Err(format!("the event's run.runId {id:?} is no UUID"));
    }
    let datasets = |side: &str| -> Result<BTreeSet<DatasetName>, String> {
        let list = match &event[side] {
            Value::Null => return Ok(BTreeSet::new()),
            Value::Array(list) if list.len() <= LIST_MAX => list,
            _ => return Err(format!("the event's {side}: expected a list of {LIST_MAX} datasets at most")),
        };
        let name = |dataset: &Value| {
            let namespace = text(&dataset["namespace"], &format!("{side}.namespace"))?;
            Ok(DatasetName { namespace, name: text(&dataset["name"], &format!("{side}.name"))? })
        };
        list.iter().map(name).collect()
    };
    let state = match &event["eventType"] {
        Value::Null => "OTHER".to_owned(),
        state => match state.as_str() {
            Some(state @ ("START" | "RUNNING" | "COMPLETE" | "ABORT" | "FAIL" | "OTHER")) => state.to_owned(),
            _ => {
                return Err(format!(
                    "the event's eventType is {state}: expected START, RUNNING, COMPLETE, ABORT, FAIL or OTHER"
                ));
            }
        },
    };
    Ok(ForeignRun {
        id: id.to_ascii_lowercase(),
        namespace: text(&event["job"]["namespace"], "job.namespace")?,
        job: text(&event["job"]["name"], "job.name")?,
        state,
        inputs: datasets("inputs")?,
        outputs: datasets("outputs")?,
        told: Stamp::default(),
    })
}

/// The id of an event's run, as it is kept; empty where it has none.
pub(crate) fn run_id(event: &Value) -> String {
    event["run"]["runId"].as_str().unwrap_or_default().to_ascii_lowercase()
}

pub(crate) fn is_uuid(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([8, 4, 4, 4, 12])
        && parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Something that went into a version, and what went into that.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ancestor {
    /// What it is.
    pub what: What,
    /// What it was made of.
    pub of: Vec<Ancestor>,
    /// Whether there is more that is not shown: it stands elsewhere in the tree, or lies too deep.
    pub is_cut: bool,
}

/// What an ancestor is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A version.
    Version {
        /// The model.
        model: String,
        /// The version.
        version: u64,
    },
    /// Data.
    Dataset {
        /// What is known of it, on one line.
        dataset: String,
    },
    /// A state of a repository.
    Code {
        /// Repository and commit, on one line.
        code: String,
    },
    /// A run of a system for training, or of another system that told of it.
    Run {
        /// Its job or system, and its id.
        run: String,
    },
}

/// What a version was made of, as a tree.
pub fn ancestors(book: &Book, version: &Version) -> Ancestor {
    Climb { book, seen: BTreeSet::new() }.version(version, 0)
}

struct Climb<'a> {
    book: &'a Book,
    seen: BTreeSet<What>,
}

impl Climb<'_> {
    /// Whether to climb on from here: not where we have been, and not without an end.
    fn enter(&mut self, what: &What, depth: usize) -> bool {
        depth < DEPTH_MAX && self.seen.len() < NODES_MAX && self.seen.insert(what.clone())
    }

    fn node(&mut self, what: What, depth: usize, of: impl FnOnce(&mut Self) -> Vec<Ancestor>) -> Ancestor {
        let is_cut = !self.enter(&what, depth);
        let of = if is_cut { Vec::new() } else { of(self) };
        Ancestor { what, of, is_cut }
    }

    fn version(&mut self, version: &Version, depth: usize) -> Ancestor {
        let what = What::Version { model: version.model.clone(), version: version.number };
        self.node(what, depth, |climb| {
            let lineage = &version.lineage;
            let parent = lineage.parent.as_ref().and_then(|parent| climb.book.version(&parent.model, parent.version));
            let mut of: Vec<_> = parent.map(|parent| climb.version(parent, depth + 1)).into_iter().collect();
            of.extend(lineage.datasets.iter().map(|dataset| climb.dataset(dataset, depth + 1)));
            of.extend(lineage.code.as_ref().map(|code| {
                let code = format!("{} {}", code.repository, code.commit).trim().to_owned();
                Ancestor { what: What::Code { code }, of: Vec::new(), is_cut: false }
            }));
            of.extend(lineage.run.as_ref().map(|run| match climb.book.runs().get(&run.id.to_ascii_lowercase()) {
                Some(foreign) => climb.run(foreign, depth + 1),
                None => {
                    let run = format!("{} {}", run.system, run.id).trim().to_owned();
                    Ancestor { what: What::Run { run }, of: Vec::new(), is_cut: false }
                }
            }));
            of
        })
    }

    fn dataset(&mut self, dataset: &Dataset, depth: usize) -> Ancestor {
        let what = What::Dataset { dataset: super::card::words(dataset) };
        self.node(what, depth, |climb| {
            let makers: Vec<_> = climb.book.runs().makers_of(dataset).collect();
            makers.into_iter().map(|run| climb.run(run, depth + 1)).collect()
        })
    }

    fn run(&mut self, run: &ForeignRun, depth: usize) -> Ancestor {
        let what = What::Run { run: format!("{}/{} {}", run.namespace, run.job, run.id) };
        self.node(what, depth, |climb| {
            let input = |input: &DatasetName| {
                let dataset =
                    Dataset { name: input.name.clone(), namespace: input.namespace.clone(), ..Dataset::default() };
                climb.dataset(&dataset, depth + 1)
            };
            run.inputs.iter().map(input).collect()
        })
    }
}

impl Ancestor {
    /// For a terminal: one line for each, set in by depth.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        self.write(0, &mut lines);
        lines
    }

    fn write(&self, depth: usize, lines: &mut Vec<String>) {
        let what = match &self.what {
            What::Version { model, version } => format!("{model}@{version}"),
            What::Dataset { dataset } => format!("dataset {dataset}"),
            What::Code { code } => format!("code {code}"),
            What::Run { run } => format!("run {run}"),
        };
        let more = if self.is_cut { " …" } else { "" };
        lines.push(format!("{}{what}{more}", "  ".repeat(depth)));
        self.of.iter().for_each(|ancestor| ancestor.write(depth + 1, lines));
    }
}
