//! How do labels that come late decide between versions that compete?
//!
//! An answer that is evidence leaves a note (`notes.rs`), or a pair of champion's and shadow's answers where pairs decide, which the
//! rollouts' thread brings to the endpoint's desk. What is said
//! of rows afterwards (`line.rs` reads it, `said.rs` is what it is worth) is joined there (`store.rs`), before or after the
//! note has come, and what is old enough goes into the judge's next block of evidence.

pub mod figures;
pub mod line;
pub mod notes;
pub mod said;
pub mod store;
pub mod written;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tiltyard_rollout::cohort;
use tiltyard_rollout::evidence::{Block, Share};
use tiltyard_rollout::plan::{Arm, KeySource, Plan, Primary};
use tiltyard_types::{Error, ErrorKind, Result};

use self::figures::{Figures, Who};
use self::notes::Taken;
use self::said::Said;
use self::store::Store;
use super::aim;
use crate::clock;
use crate::rollouts::observer::Side;

/// What became of something that was said. Where one name means two rows, the first of this order is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    /// It is the row's label now, which had none.
    Joined,
    /// It takes the place of what was said before.
    Corrected,
    /// The row has no label any more.
    Withdrawn,
    /// It was said before.
    Doubled,
    /// Something that was observed later is known already.
    Outdated,
    /// The row is not known yet: it may be soon.
    Waiting,
    /// The row belongs to a key that counts already.
    Beside,
    /// The row's time is over.
    Late,
    /// There is no such row.
    Unknown,
}

impl Heard {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Heard); 9] = [
        ("joined", Heard::Joined),
        ("corrected", Heard::Corrected),
        ("withdrawn", Heard::Withdrawn),
        ("doubled", Heard::Doubled),
        ("outdated", Heard::Outdated),
        ("waiting", Heard::Waiting),
        ("beside", Heard::Beside),
        ("late", Heard::Late),
        ("unknown", Heard::Unknown),
    ];
}

/// All desks of the process, and what was counted at them.
pub struct Feedback {
    rows_max: usize,
    /// Whether labels are joined by the replica that leads, and only taken in here.
    is_shared: bool,
    desks: ArcSwap<BTreeMap<String, Arc<Desk>>>,
    /// Counts that outlive rollouts.
    pub figures: Arc<Figures>,
}

impl Feedback {
    /// Nobody waits for labels yet; of each rollout, so many rows may. `is_shared` where the replica that leads joins labels.
    pub fn new(rows_max: usize, is_shared: bool) -> Feedback {
        Feedback { rows_max, is_shared, desks: ArcSwap::default(), figures: Arc::default() }
    }

    /// A desk for a plan that labels decide; none for any other, nor where pairs are to decide and no shadow makes any.
    pub fn desk(&self, plan: &Plan) -> Option<Arc<Desk>> {
        let primary = plan.policy.primary.as_ref()?;
        let is_paired = cohort::is_paired(primary);
        let judged = if is_paired { aim::shadow(plan)? } else { aim::challenger(plan) };
        let store = self.store(primary, plan);
        let who = |arm: &Arm| Who {
            endpoint: plan.endpoint.clone(),
            model: arm.model.clone(),
            version: arm.version.to_string(),
            arm: arm.name.clone(),
        };
        Some(Arc::new(Desk {
            endpoint: plan.endpoint.clone(),
            metric: primary.metric.clone(),
            arms: [who(aim::champion(plan)), who(judged)],
            is_paired,
            store: Mutex::new(store),
            figures: Arc::clone(&self.figures),
            lost: Mutex::default(),
            incoming: self.is_shared.then(Mutex::default),
        }))
    }

    fn store(&self, primary: &Primary, plan: &Plan) -> Store {
        // Whoever leads next may join what was answered before it began to.
        let begun_ms = if self.is_shared { 0 } else { clock::unix_ms() };
        Store::new(primary, plan.key != KeySource::PerRequest, self.rows_max, begun_ms)
    }

    /// Has a desk of this plan forget all rows.
    pub fn begin_anew(&self, desk: &Desk, plan: &Plan) {
        if let Some(primary) = &plan.policy.primary {
            *desk.store() = self.store(primary, plan);
        }
    }

    /// These desks are open, and no others.
    pub fn show(&self, desks: impl Iterator<Item = Arc<Desk>>) {
        let now: BTreeMap<String, Arc<Desk>> = desks.map(|desk| (desk.endpoint.clone(), desk)).collect();
        let held = self.desks.load();
        let is_same = held.len() == now.len() && held.values().zip(now.values()).all(|(a, b)| Arc::ptr_eq(a, b));
        if !is_same {
            self.desks.store(Arc::new(now));
        }
    }

    /// Counts what was said of rows of endpoints where nobody waits for labels: their names may be anything.
    pub fn unknown(&self, count: usize) {
        (0..count).for_each(|_| self.figures.heard("", Heard::Unknown));
    }

    /// The desks that are open, by endpoint.
    pub fn desks(&self) -> Arc<BTreeMap<String, Arc<Desk>>> {
        self.desks.load_full()
    }
}

/// Where labels are joined to what one rollout's arms answered.
#[derive(Debug)]
pub struct Desk {
    /// The name that clients call.
    pub endpoint: String,
    metric: String,
    /// The champion, and the challenger or its shadow.
    arms: [Who; 2],
    /// Whether both answered each row.
    is_paired: bool,
    store: Mutex<Store>,
    figures: Arc<Figures>,
    lost: Mutex<Lost>,
    /// What was said here and is on its way to the replica that leads; none where labels are joined here.
    incoming: Option<Mutex<Vec<Said>>>,
}

/// Labels that may be on their way to the replica that leads.
const INCOMING_MAX: usize = 100_000;

/// Rows that never came to the desk.
#[derive(Clone, Copy, Debug, Default)]
struct Lost {
    unseen: u64,
    unread: u64,
}

impl Desk {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self) -> MutexGuard<'_, Lost> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what was answered under `share`.
    pub fn expose(&self, share: Share, taken: Taken) {
        let Taken { notes, unseen, unread } = taken;
        if unseen + unread > 0 {
            let mut lost = self.lost();
            (lost.unseen, lost.unread) = (lost.unseen + unseen, lost.unread + unread);
        }
        if notes.is_empty() {
            return;
        }
        let mut store = self.store();
        for note in notes {
            store.expose(share, note, |side, heard| self.count(Some(side), heard));
        }
    }

    /// Takes in what is said of rows, one after the other. Where replicas share a rollout it only waits here for its way to the
    /// one that leads, which joins it.
    pub fn tell<'a>(&self, said: impl Iterator<Item = &'a Said>) -> Vec<Result<Heard>> {
        let Some(incoming) = &self.incoming else { return self.join(said) };
        let rule = self.store().rule();
        let mut incoming = incoming.lock().unwrap_or_else(PoisonError::into_inner);
        let told = said.map(|said| {
            rule.check(said.what)?;
            if incoming.len() >= INCOMING_MAX {
                return Err(Error::new(
                    ErrorKind::Overloaded,
                    format!("{INCOMING_MAX} labels wait for the registry already: send it again later"),
                ));
            }
            incoming.push(Said { at_ms: Some(said.at_ms.unwrap_or_else(clock::unix_ms)), ..*said });
            self.figures.heard(&self.endpoint, Heard::Waiting);
            Ok(Heard::Waiting)
        });
        told.collect()
    }

    /// What was said here since the last time and is for the replica that leads.
    pub fn take_incoming(&self) -> Vec<Said> {
        let take =
            |incoming: &Mutex<Vec<Said>>| std::mem::take(&mut *incoming.lock().unwrap_or_else(PoisonError::into_inner));
        self.incoming.as_ref().map(take).unwrap_or_default()
    }

    /// Joins what is said of rows, one after the other.
    pub fn join<'a>(&self, said: impl Iterator<Item = &'a Said>) -> Vec<Result<Heard>> {
        let now_ms = clock::unix_ms();
        let mut store = self.store();
        let before = store.counts.expired;
        let told = said.map(|said| {
            let (side, heard) = store.tell(said, now_ms)?;
            self.count(side, heard);
            Ok(heard)
        });
        let told = told.collect();
        self.count_expired(store.counts.expired - before);
        told
    }

    fn count(&self, side: Option<Side>, heard: Heard) {
        self.figures.heard(&self.endpoint, heard);
        if let Some(side) = side.filter(|_| heard == Heard::Joined) {
            let is_its = |(at, _): &(usize, &Who)| self.is_paired || *at == side as usize;
            self.arms.iter().enumerate().filter(is_its).for_each(|(_, who)| self.figures.joined(who));
        }
    }

    fn count_expired(&self, count: u64) {
        (0..count).for_each(|_| self.figures.heard(&self.endpoint, Heard::Unknown));
    }

    /// Forgets rows that were old enough then: whoever led before had them count.
    pub fn skip(&self, counted_ms: u64) {
        let mut store = self.store();
        store.mature(counted_ms);
        drop(store.take());
    }

    /// Has rows count that are old enough now.
    pub fn mature(&self) {
        let (ripe, expired) = {
            let mut store = self.store();
            let before = store.counts.expired;
            (store.mature(clock::unix_ms()), store.counts.expired - before)
        };
        self.count_expired(expired);
        for (who, outcomes) in self.arms.iter().zip(&ripe.outcomes) {
            self.figures.matured(who, outcomes.n, outcomes.y.value());
        }
    }

    /// Puts what has matured since the last time into a block of evidence.
    pub fn hand_over(&self, block: &mut Block) {
        if let Some(labels) = self.store().take() {
            block.labels.insert(self.metric.clone(), labels);
        }
    }

    /// Rows in memory.
    pub fn rows(&self) -> usize {
        self.store().rows()
    }

    /// How it stands, for people. Pairs are the champion's and the challenger's.
    pub fn form(&self) -> Value {
        let store = self.store();
        let (units_waiting, labels_waiting) = store.waiting();
        let (counts, lost) = (store.counts, *self.lost());
        json!({
            "metric": self.metric,
            "paired": self.is_paired,
            "rows": counts.rows,
            "rows_labelled": counts.labelled,
            "units_matured": counts.matured,
            "units_waiting": units_waiting,
            "labels_waiting": labels_waiting,
            "labels_expired": counts.expired,
            "rows_without_room": counts.no_room + lost.unseen,
            "rows_without_output": lost.unread,
        })
    }
}
