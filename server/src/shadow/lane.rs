//! What is known of one shadow of one endpoint?
//!
//! The request path reads and counts here without a lock. What comparisons found is in the book, which nobody opens who
//! serves requests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tiltyard_rollout::evidence::{Moments, Pairs};
use tiltyard_rollout::plan::MILLION;
use tiltyard_runtime::stats::{Dropped, ShadowCounts, ShadowSums};
use tiltyard_types::RequestId;

use super::budget::Budget;
use super::sampling;
use super::worst::Worst;
use crate::arm::Arm;

/// Samples that may wait for one shadow, or run there.
pub const WAITING_MAX: usize = 1_024;

/// Measures that are kept for one shadow: those beyond are left out.
const MEASURES_MAX: usize = 256;

/// Failures whose text is kept.
const FAILURES_KEPT: usize = 5;

/// Characters of such a text.
const FAILURE_CHARS_MAX: usize = 500;

/// Whether the shadow failed on a request that the champion answered.
pub const ERRORS: &str = "errors";

/// How much of the shadow's run time for each row goes beyond the champion's: 0 where it is no slower, ½ where it takes
/// twice as long.
pub const RUN_TIME: &str = "run_time";

/// One shadow in one plan.
pub struct Watching {
    /// What is known of it.
    pub lane: Arc<Lane>,
    /// The plan's rate in millionths; 0 while the shadow, or its champion, does not answer.
    pub sampling: u32,
}

/// A shadow of an endpoint beside one champion. Lives as long as both are the same in the plans that follow each other.
pub struct Lane {
    /// The name that clients call.
    pub endpoint: String,
    /// The shadow.
    pub arm: Arc<Arm>,
    /// Whom it is compared with.
    pub champion: Arc<Arm>,
    /// The share of the plan's rate that is sampled.
    fraction: AtomicU32,
    /// How long samples wait, as a share of what they may.
    wait: AtomicU32,
    waiting: AtomicUsize,
    is_asked: AtomicBool,
    /// What was counted by lanes before it, of the same version and name.
    before: ShadowSums,
    book: Mutex<Book>,
}

/// What comparisons found.
#[derive(Default)]
pub struct Book {
    /// Since it was taken last.
    fresh: BTreeMap<String, Moments>,
    /// What was sampled and dropped when it was taken last.
    taken: [u64; 2],
    /// Since the lane is.
    pub all: BTreeMap<String, Moments>,
    /// Rows that both answered.
    pub rows: u64,
    /// Nanoseconds in the engine for each of them: the champion's and the shadow's, added up by request.
    pub row_ns: [f64; 2],
    /// Requests that were added up there.
    pub timed: u64,
    /// The worst disagreements.
    pub worst: Worst,
    /// The last failures: of which request, and why.
    pub failures: VecDeque<(RequestId, String)>,
    /// Why it is not asked, where it is not.
    pub trouble: Option<String>,
}

/// A place among those that wait for a shadow.
pub struct Place(pub Arc<Lane>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

impl Lane {
    /// The lane of the shadow `arm` beside `champion`.
    pub fn new(endpoint: &str, arm: &Arc<Arm>, champion: &Arc<Arm>) -> Arc<Lane> {
        let before = arm.requests.shadow.read();
        let taken = [before.sampled, before.dropped()];
        Arc::new(Lane {
            endpoint: endpoint.to_owned(),
            arm: Arc::clone(arm),
            champion: Arc::clone(champion),
            fraction: AtomicU32::new(MILLION),
            wait: AtomicU32::new(0),
            waiting: AtomicUsize::new(0),
            is_asked: AtomicBool::new(true),
            before,
            book: Mutex::new(Book { taken, ..Book::default() }),
        })
    }

    /// Whether it goes on where these are shadow and champion.
    pub fn is_of(&self, arm: &Arm, champion: &Arm) -> bool {
        self.arm.name == arm.name
            && Arc::ptr_eq(&self.arm.deployment, &arm.deployment)
            && Arc::ptr_eq(&self.champion.deployment, &champion.deployment)
    }

    /// Whether it is a shadow of this version, whatever became of it.
    pub fn is_called(&self, model: &str, version: u64) -> bool {
        let identity = &self.arm.deployment.identity;
        identity.model == model && identity.version == version
    }

    /// Its counters.
    pub fn counts(&self) -> &ShadowCounts {
        &self.arm.requests.shadow
    }

    /// What was counted since it is.
    pub fn counted(&self) -> ShadowSums {
        self.counts().read().since(&self.before)
    }

    /// Samples that wait for it, or run there.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// How full it is, in millionths.
    pub fn fullness(&self, budget: &Budget) -> u32 {
        let waiting = sampling::fullness(self.waiting(), WAITING_MAX);
        waiting.max(budget.fullness()).max(self.wait.load(Relaxed))
    }

    /// What of the traffic is sampled now, in millionths, where the plan says so much.
    pub fn rate(&self, plans: u32, budget: &Budget) -> u32 {
        let lowered = sampling::share_of(plans, self.fraction.load(Relaxed));
        sampling::share_of(lowered, sampling::thinned(self.fullness(budget)))
    }

    /// Sets the share of the plan's rate that is sampled, how long samples wait as a share of what they may, and whether it
    /// is asked at all.
    pub fn set(&self, fraction: u32, wait: u32, is_asked: bool) {
        self.fraction.store(fraction, Relaxed);
        self.wait.store(wait, Relaxed);
        self.is_asked.store(is_asked, Relaxed);
    }

    /// Whether it is asked, and not left alone.
    pub fn is_asked(&self) -> bool {
        self.is_asked.load(Relaxed)
    }

    /// Takes a place among those that wait. Looks at nothing but how things stand here.
    pub fn enter(self: &Arc<Self>) -> Result<Place, Dropped> {
        if !self.is_asked() {
            return Err(Dropped::Breaker);
        }
        let before = self.waiting.fetch_add(1, Relaxed);
        let place = Place(Arc::clone(self));
        if before < WAITING_MAX { Ok(place) } else { Err(Dropped::QueueFull) }
    }

    /// What pairs showed since this was called last.
    pub fn take(&self) -> Pairs {
        let mut book = self.book();
        let counted = self.counts().read();
        let now = [counted.sampled, counted.dropped()];
        let before = std::mem::replace(&mut book.taken, now);
        let values = std::mem::take(&mut book.fresh);
        Pairs { sampled: now[0] - before[0], dropped: now[1] - before[1], values }
    }

    /// Opens the book. Not for whoever serves requests.
    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Takes in a request's value of a measure.
    pub fn add(&mut self, measure: &str, value: f64) {
        for values in [&mut self.fresh, &mut self.all] {
            let is_known = values.contains_key(measure);
            if is_known || values.len() < MEASURES_MAX {
                values.entry(measure.to_owned()).or_default().add(value);
            }
        }
    }

    /// Notes why the shadow failed on a request.
    pub fn note_failure(&mut self, id: RequestId, reason: &str) {
        self.failures.truncate(FAILURES_KEPT - 1);
        self.failures.push_front((id, reason.chars().take(FAILURE_CHARS_MAX).collect()));
    }

    /// Takes in what a row of a request took in the engine, of the champion and of the shadow.
    pub fn add_times(&mut self, row_ns: [f64; 2]) {
        let [champion, shadow] = row_ns;
        if champion > 0.0 && shadow > 0.0 {
            self.add(RUN_TIME, (1.0 - champion / shadow).max(0.0));
            self.row_ns = [self.row_ns[0] + champion, self.row_ns[1] + shadow];
            self.timed += 1;
        }
    }
}
