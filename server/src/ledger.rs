//! What did deployments do, those that are gone included?
//!
//! Counters that people graph must not fall. A deployment owns its counters; the ledger keeps them when it is gone, under
//! its model and version, so that a version that is loaded again counts on. After an hour, or behind many later versions,
//! they move to the version `retired`, so that labels do not grow for ever.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::stats::{Snapshot, Stats, Way};
use tiltyard_types::Moment;

/// How long counters of a version that is gone are told under its number.
const KEPT_MAX: Duration = Duration::from_secs(3600);

/// Versions of one model that are told so at most; the oldest go first.
const VERSIONS_GONE_MAX: usize = 64;

/// Models whose names are kept; what those beyond counted is told under [`OTHER`].
const MODELS_MAX: usize = 4096;

/// Ways that are told apart in one line.
const WAYS_MAX: usize = 256;

/// The model of those that are too many, and the way.
pub const OTHER: &str = "other";

/// A model and a version; `None` for all versions that are gone for long.
type Key = (String, Option<u64>);

/// What was counted under a model and a version.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Of requests, by the way they came.
    pub ways: BTreeMap<Way, Snapshot>,
    /// Of all runs of the engine and all refusals, whatever the way.
    pub runs: Snapshot,
}

impl Counts {
    fn of(stats: &Stats) -> Counts {
        // Nobody asks for batches by version once it is gone, and they are most of the bytes.
        let runs = Snapshot { batches: Vec::new(), ..stats.runs() };
        Counts { ways: stats.ways().into_iter().collect(), runs }
    }

    fn merge(&mut self, other: &Counts) {
        for (way, requests) in &other.ways {
            let is_known = self.ways.contains_key(way) || self.ways.len() < WAYS_MAX;
            let beyond = || Way { endpoint: OTHER.to_owned(), arm: OTHER.to_owned() };
            let way = if is_known { way.clone() } else { beyond() };
            self.ways.entry(way).or_default().merge(requests);
        }
        self.runs.merge(&other.runs);
    }

    /// Whatever the way.
    pub fn all(&self) -> Snapshot {
        let mut all = self.runs.clone();
        self.ways.values().for_each(|requests| all.merge(requests));
        all
    }
}

/// A line of the ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The model's name.
    pub model: String,
    /// The version; `None` for all that are gone for long.
    pub version: Option<u64>,
    /// What was counted.
    pub counts: Counts,
}

impl Line {
    /// The version as labels have it.
    pub fn version_label(&self) -> String {
        self.version.map_or_else(|| "retired".to_owned(), |version| version.to_string())
    }
}

/// Keeps what deployments counted.
#[derive(Default)]
pub struct Ledger(Mutex<State>);

#[derive(Default)]
struct State {
    /// Counters of deployments that may still count, by where they are in memory.
    open: BTreeMap<usize, (Key, Arc<Stats>)>,
    /// What those counted that are gone, and since when.
    gone: BTreeMap<Key, (Counts, Moment)>,
}

impl Ledger {
    /// Opens the account of a deployment, where it has none. It is kept whatever becomes of the deployment.
    pub fn open(&self, deployment: &Deployment) {
        let identity = &deployment.identity;
        self.lock().open(&identity.model, identity.version, &deployment.stats);
    }

    /// All that was ever counted, by model and version.
    pub fn lines(&self, now: Moment) -> Vec<Line> {
        self.lock().lines(now)
    }

    /// Closes accounts whose deployments are gone.
    pub fn close(&self, now: Moment) {
        self.lock().close(now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn open(&mut self, model: &str, version: u64, stats: &Arc<Stats>) {
        let account = || ((model.to_owned(), Some(version)), Arc::clone(stats));
        self.open.entry(Arc::as_ptr(stats).addr()).or_insert_with(account);
    }

    fn close(&mut self, now: Moment) {
        for (_, (key, stats)) in self.open.extract_if(.., |_, (_, stats)| Arc::strong_count(stats) == 1) {
            let (counts, since) = self.gone.entry(key).or_insert_with(|| (Counts::default(), now));
            counts.merge(&Counts::of(&stats));
            *since = now;
        }
        self.fold(now);
    }

    /// Moves what is gone for long, or is too much, to where it takes no room.
    fn fold(&mut self, now: Moment) {
        let mut later: BTreeMap<String, usize> = BTreeMap::new();
        let mut moved = Vec::new();
        // The newest versions first: those behind many later ones move.
        for ((model, version), (_, since)) in self.gone.iter().rev().filter(|((_, version), _)| version.is_some()) {
            let later = later.entry(model.clone()).or_default();
            *later += 1;
            if *later > VERSIONS_GONE_MAX || now - *since >= KEPT_MAX {
                moved.push((model.clone(), *version));
            }
        }
        for key in moved {
            self.move_to(&key, (key.0.clone(), None), now);
        }
        let mut names: Vec<&String> =
            self.gone.keys().map(|(model, _)| model).filter(|model| *model != OTHER).collect();
        names.dedup();
        let surplus: Vec<String> = names.into_iter().skip(MODELS_MAX).cloned().collect();
        let keys = |model: &String| self.gone.keys().filter(|key| key.0 == *model).cloned().collect::<Vec<_>>();
        for key in surplus.iter().flat_map(keys).collect::<Vec<_>>() {
            self.move_to(&key, (OTHER.to_owned(), None), now);
        }
    }

    fn move_to(&mut self, from: &Key, to: Key, now: Moment) {
        if let Some((counts, _)) = self.gone.remove(from) {
            self.gone.entry(to).or_insert_with(|| (Counts::default(), now)).0.merge(&counts);
        }
    }

    fn lines(&mut self, now: Moment) -> Vec<Line> {
        self.close(now);
        let mut lines: BTreeMap<Key, Counts> =
            self.gone.iter().map(|(key, (counts, _))| (key.clone(), counts.clone())).collect();
        for (key, stats) in self.open.values() {
            lines.entry(key.clone()).or_default().merge(&Counts::of(stats));
        }
        lines.into_iter().map(|((model, version), counts)| Line { model, version, counts }).collect()
    }
}

#[cfg(test)]
mod tests {
    use tiltyard_runtime::stats::{RunTimes, Served};

    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::default() + Duration::from_secs(seconds)
    }

    fn count(stats: &Stats, arm: &str) {
        let served = Served { rows: 2, total: Duration::from_micros(9), unix_ms: 1, ..Served::default() };
        stats.way("m", arm).succeeded(&served);
        stats.executed(2, RunTimes::default());
    }

    /// Successes by label.
    fn told(state: &mut State, now: Moment) -> Vec<(String, String, u64)> {
        let lines = state.lines(now);
        let told = |line: &Line| (line.model.clone(), line.version_label(), line.counts.all().success.count);
        lines.iter().map(told).collect()
    }

    fn line(model: &str, version: &str, count: u64) -> (String, String, u64) {
        (model.to_owned(), version.to_owned(), count)
    }

    #[test]
    fn a_version_that_is_loaded_again_counts_on() {
        let mut state = State::default();
        for _ in 0..2 {
            let stats = Arc::new(Stats::default());
            state.open("m", 1, &stats);
            state.open("m", 1, &stats);
            count(&stats, "champion");
            count(&stats, "pinned");
        }
        assert_eq!(told(&mut state, at(0)), [line("m", "1", 4)]);
        let counts = &state.lines(at(0))[0].counts;
        let told: Vec<(&str, u64)> =
            counts.ways.iter().map(|(way, counted)| (way.arm.as_str(), counted.success.count)).collect();
        assert_eq!(told, [("champion", 2), ("pinned", 2)]);
        assert_eq!((counts.runs.executions, counts.all().rows), (4, 8));
        assert!(state.open.is_empty());
    }

    #[test]
    fn a_retired_deployment_that_still_answers_is_counted() {
        let mut state = State::default();
        let stats = Arc::new(Stats::default());
        state.open("m", 1, &stats);
        assert_eq!(told(&mut state, at(0)), [line("m", "1", 0)]);
        count(&stats, "champion");
        assert_eq!(told(&mut state, at(7200)), [line("m", "1", 1)]);
        drop(stats);
        assert_eq!(told(&mut state, at(7201)), [line("m", "1", 1)]);
        assert_eq!(told(&mut state, at(7201 + 3600)), [line("m", "retired", 1)]);
    }

    /// Two versions take turns, each time with new counters, and now and then a new one comes.
    #[test]
    fn ten_thousand_swaps_leave_few_labels_and_no_count_falls() {
        let mut state = State::default();
        let (mut before, mut most) = (BTreeMap::new(), 0);
        for swap in 1..=10_000u64 {
            let version = if swap.is_multiple_of(10) { 10 + swap } else { 1 + swap % 2 };
            let stats = Arc::new(Stats::default());
            count(&stats, "champion");
            state.open("m", version, &stats);
            drop(stats);
            state.close(at(swap));
            if !swap.is_multiple_of(50) {
                continue;
            }
            let told = told(&mut state, at(swap));
            most = most.max(told.len());
            assert_eq!(told.iter().map(|line| line.2).sum::<u64>(), swap);
            for (_, label, count) in told {
                let earlier = before.insert(label.clone(), count).unwrap_or(0);
                assert!(count >= earlier, "{label} fell from {earlier} to {count}");
            }
        }
        assert!(most <= VERSIONS_GONE_MAX + 1, "{most}");
    }

    #[test]
    fn labels_are_bounded_and_nothing_is_lost() {
        let mut state = State::default();
        for version in 1..=1000 {
            let stats = Arc::new(Stats::default());
            count(&stats, "champion");
            state.open("m", version, &stats);
            drop(stats);
            let told = told(&mut state, at(version));
            assert!(told.len() <= VERSIONS_GONE_MAX + 1, "{}", told.len());
            assert_eq!(told.iter().map(|line| line.2).sum::<u64>(), version);
        }
        for model in 0..MODELS_MAX + 9 {
            state.gone.insert((format!("x{model}"), Some(1)), (Counts::default(), at(1000)));
        }
        let mut line = Counts::default();
        for endpoint in 0..2 * WAYS_MAX {
            let way = Way { endpoint: endpoint.to_string(), arm: "champion".to_owned() };
            line.merge(&Counts {
                ways: BTreeMap::from([(way, Snapshot { rows: 1, ..Snapshot::default() })]),
                ..Counts::default()
            });
        }
        assert_eq!((line.ways.len(), line.all().rows), (WAYS_MAX + 1, 2 * WAYS_MAX as u64));
        let told = told(&mut state, at(1000));
        assert!(told.len() <= MODELS_MAX + VERSIONS_GONE_MAX + 2, "{}", told.len());
        assert_eq!(told.iter().map(|line| line.2).sum::<u64>(), 1000);
    }
}
