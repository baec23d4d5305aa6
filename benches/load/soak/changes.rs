//! What is done to the repository, one change after the other, and did each come through?

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::SOAK;
use super::figures::{Window, fallen};
use super::repository::{Content, Repository, Way};
use super::traffic::Shared;
use crate::Fault;
use crate::server::{Server, state_of};

/// How long a change may take until answers show it.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);

/// Between two looks at whether something has happened.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// Between two questions to the admin port.
const ASK_PAUSE: Duration = Duration::from_millis(10);

/// Rows of a batch, in turns: what the settings change.
const ROWS_MAX: [u64; 4] = [16, 24, 32, 48];

/// The ways by which versions come that must be refused.
const BAD_WAYS: [Way; 3] = [Way::Rename, Way::Copy, Way::KeptTimes];

/// Swaps between two looks at all counters.
const COUNTERS_EVERY: usize = 10;

/// Things that went wrong that are told in words.
const TOLD_MAX: usize = 40;

/// What is known of the server at some moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// Changes that were made.
    pub(super) changes: usize,
    /// Bytes that are resident.
    pub(super) resident_bytes: u64,
}

/// One after the other, changes of what is served.
pub(super) struct Changes<'a> {
    shared: &'a Arc<Shared>,
    server: &'a Server,
    files: Repository,
    ways: Vec<Way>,
    turn: usize,
    bad_turn: usize,
    settings_turn: usize,
    /// The versions that are served, the newest last.
    good: Vec<u64>,
    version_next: u64,
    /// A bad version that stays until the next good one is there.
    left: Option<u64>,
    counters: BTreeMap<String, f64>,
    /// Changes so far.
    pub(super) made: usize,
    /// When changes were under way, in order.
    pub(super) windows: Vec<Window>,
    /// From the last byte written to the first answer that showed it, by way.
    pub(super) delays: BTreeMap<&'static str, Vec<f64>>,
    /// After each change.
    pub(super) points: Vec<Point>,
    /// Medians of the time that a small question takes, in microseconds.
    pub(super) routes_us: Vec<f64>,
    /// Changes that did not come through, and bad versions that did, in words.
    pub(super) broken: Vec<String>,
    /// How many there were.
    pub(super) broken_count: usize,
    /// Counters that fell, in words, and how many did.
    pub(super) fell: Vec<String>,
    pub(super) fell_count: usize,
}

impl<'a> Changes<'a> {
    /// On a repository with versions 1 and 2, which are served.
    pub(super) fn new(shared: &'a Arc<Shared>, server: &'a Server, files: Repository, ways: Vec<Way>) -> Changes<'a> {
        for version in [1, 2] {
            shared.truth().place(version, true);
        }
        shared.truth().pin(1);
        Changes {
            shared,
            server,
            files,
            ways,
            turn: 0,
            bad_turn: 0,
            settings_turn: 0,
            good: vec![1, 2],
            version_next: 3,
            left: None,
            counters: BTreeMap::new(),
            made: 0,
            windows: Vec::new(),
            delays: BTreeMap::new(),
            points: Vec::new(),
            routes_us: Vec::new(),
            broken: Vec::new(),
            broken_count: 0,
            fell: Vec::new(),
            fell_count: 0,
        }
    }

    /// Forgets what was measured so far, but not what went wrong: the warm-up is over.
    pub(super) fn begin_measuring(&mut self) {
        self.made = 0;
        self.windows.clear();
        self.delays.clear();
        self.points.clear();
        self.routes_us.clear();
        self.turn = 0;
    }

    fn break_promise(&mut self, what: String) {
        self.broken_count += 1;
        if self.broken.len() < TOLD_MAX {
            eprintln!("soak: {what}");
            self.broken.push(what);
        }
    }

    fn newest(&self) -> u64 {
        self.good.last().copied().unwrap_or(1)
    }

    /// The next swap, by the way whose turn it is.
    pub(super) fn swap(&mut self) -> Result<(), Fault> {
        let way = self.ways[self.turn % self.ways.len()];
        self.turn += 1;
        let newest = self.newest();
        let version = if way.is_new() { self.version_next } else { newest };
        if way.is_new() {
            // Two versions are served. The one before the newest leaves now, so that nobody may ask for it any more.
            self.move_pin(newest)?;
            self.version_next += 1;
        }
        let stamp = self.shared.truth().place(version, true);
        self.shared.doing(format!("version {version} (stamp {stamp}) comes by {}", way.name()));
        let from = Instant::now();
        self.files.place(way, version, Content { stamp, good: true })?;
        let written = Instant::now();
        let seen = self.wait_until(|changes| Ok(changes.shared.truth().seen(stamp)), LOOK_PAUSE)?;
        match seen {
            Some(seen) => {
                let delay = seen.saturating_duration_since(written);
                self.delays.entry(way.name()).or_default().push(delay.as_secs_f64());
                if way.is_new() {
                    self.good.push(version);
                }
            }
            None => {
                let state = state_of(self.server, SOAK, version);
                let waited = CHANGE_TIMEOUT.as_secs();
                self.break_promise(format!(
                    "version {version} (stamp {stamp}) by {} is not published after {waited} s: {state}",
                    way.name()
                ));
                if way.is_new() {
                    self.files.remove(version)?;
                }
            }
        }
        self.end_change(from)?;
        self.clear_away()
    }

    /// New settings: another number of rows in a batch, another number of instances, the same bytes.
    pub(super) fn configure(&mut self) -> Result<(), Fault> {
        self.settings_turn += 1;
        let rows_max = ROWS_MAX[self.settings_turn % ROWS_MAX.len()];
        self.settings(rows_max, 1 + self.settings_turn % 2)
    }

    fn settings(&mut self, rows_max: u64, instances: usize) -> Result<(), Fault> {
        self.shared.doing(format!("settings change: {rows_max} rows, {instances} instances"));
        let from = Instant::now();
        let text = format!("instances = {instances}\n\n[batching]\nrows_max = {rows_max}\n");
        self.files.configure(&text, self.settings_turn.is_multiple_of(2))?;
        let acts = |changes: &Changes<'_>| {
            let told = |version: &u64| changes.server.told(SOAK, *version);
            let all = changes.good.iter().map(told).collect::<Result<Vec<_>, _>>()?;
            Ok(all.iter().all(|told| told.as_ref().is_some_and(|told| told.runs_rows(rows_max))).then_some(()))
        };
        if self.wait_until(acts, ASK_PAUSE)?.is_none() {
            let waited = CHANGE_TIMEOUT.as_secs();
            let state = state_of(self.server, SOAK, self.newest());
            self.break_promise(format!("settings with {rows_max} rows do not act after {waited} s: {state}"));
        }
        self.end_change(from)
    }

    /// A version that fails its golden example: it must be refused, and nobody may see it.
    pub(super) fn refuse(&mut self) -> Result<(), Fault> {
        let way = BAD_WAYS[self.bad_turn % BAD_WAYS.len()];
        self.bad_turn += 1;
        let version = self.version_next;
        self.version_next += 1;
        let stamp = self.shared.truth().place(version, false);
        self.shared.doing(format!("version {version} (stamp {stamp}), which is bad, comes by {}", way.name()));
        let from = Instant::now();
        self.files.place(way, version, Content { stamp, good: false })?;
        let told = self.wait_until(
            |changes| Ok(changes.server.told(SOAK, version)?.filter(|told| told.is_refused() || told.is_ready())),
            ASK_PAUSE,
        )?;
        let refused = told.as_ref().is_some_and(|told| told.is_refused());
        if !refused {
            let what = if told.is_some() { "was published" } else { "is not reported as failed" };
            self.break_promise(format!(
                "version {version}, which fails its golden example, {what} (it came by {})",
                way.name()
            ));
        }
        // Every second one stays until the next good version is there: it must not cost the one before.
        if refused && self.bad_turn.is_multiple_of(2) {
            self.left = Some(version);
            return self.end_change(from);
        }
        self.take_away(version)?;
        self.end_change(from)
    }

    fn take_away(&mut self, version: u64) -> Result<(), Fault> {
        self.files.remove(version)?;
        let gone = |changes: &Changes<'_>| Ok(changes.server.told(SOAK, version)?.is_none().then_some(()));
        if self.wait_until(gone, ASK_PAUSE)?.is_none() {
            self.break_promise(format!("version {version} is still told of after its files are gone"));
        }
        Ok(())
    }

    /// Deletes what is served no more: all but the newest two, and what was left lying.
    fn clear_away(&mut self) -> Result<(), Fault> {
        while self.good.len() > 2 {
            let old = self.good.remove(0);
            self.files.remove(old)?;
        }
        if let Some(&oldest) = self.good.first() {
            self.shared.truth().forget_below(oldest);
        }
        match self.left.take() {
            Some(version) => self.take_away(version),
            None => Ok(()),
        }
    }

    /// Makes pinned requests name another version, and waits until none is on its way to the one before.
    fn move_pin(&mut self, version: u64) -> Result<(), Fault> {
        self.shared.truth().pin(version);
        let none_left = |changes: &Changes<'_>| Ok((changes.shared.truth().pinned_to_others() == 0).then_some(()));
        if self.wait_until(none_left, LOOK_PAUSE)?.is_none() {
            self.break_promise(format!("requests pinned to a version before {version} have no answer"));
        }
        Ok(())
    }

    /// The same state at every call, whatever came before: these settings, and two versions that nobody has asked anything.
    /// There must be no traffic.
    pub(super) fn level(&mut self) -> Result<(), Fault> {
        self.settings(ROWS_MAX[0], 1)?;
        for _ in 0..2 {
            let version = self.version_next;
            self.version_next += 1;
            let stamp = self.shared.truth().place(version, true);
            self.files.place(Way::Rename, version, Content { stamp, good: true })?;
            let ready = |changes: &Changes<'_>| Ok(changes.server.told(SOAK, version)?.filter(|told| told.is_ready()));
            if self.wait_until(ready, ASK_PAUSE)?.is_none() {
                return Err(format!("version {version} is not ready: {}", state_of(self.server, SOAK, version)).into());
            }
            self.good.push(version);
            self.clear_away()?;
        }
        let pin = self.good.first().copied().unwrap_or(1);
        self.shared.truth().pin(pin);
        Ok(())
    }

    /// Notes what the server is like after a change.
    fn end_change(&mut self, from: Instant) -> Result<(), Fault> {
        self.made += 1;
        self.windows.push(Window { from, until: Instant::now() });
        self.shared.doing("nothing".to_owned());
        let resident_bytes = self.server.memory()?.resident_bytes;
        self.points.push(Point { changes: self.made, resident_bytes });
        if self.made.is_multiple_of(COUNTERS_EVERY) {
            let counters = self.server.metrics()?;
            let fell = fallen(&self.counters, &counters);
            self.fell_count += fell.len();
            self.fell.extend(fell.into_iter().take(TOLD_MAX.saturating_sub(self.fell.len())));
            self.counters = counters;
        }
        Ok(())
    }

    /// Measures what a small question costs now.
    pub(super) fn note_route(&mut self) -> Result<(), Fault> {
        self.routes_us.push(self.server.route_us(&format!("/v2/models/{SOAK}/ready"))?);
        Ok(())
    }

    /// Waits until `look` finds something; `None` when the time is over.
    fn wait_until<T>(
        &self,
        look: impl Fn(&Changes<'a>) -> Result<Option<T>, Fault>,
        pause: Duration,
    ) -> Result<Option<T>, Fault> {
        let began = Instant::now();
        loop {
            if let Some(found) = look(self)? {
                return Ok(Some(found));
            }
            if began.elapsed() > CHANGE_TIMEOUT {
                return Ok(None);
            }
            std::thread::sleep(pause);
        }
    }
}
