//! Who runs with which session, since when, and for whom?
//!
//! A run that does not come back cannot be ended: it keeps its thread and its session. Its jobs lie here while it runs, so
//! that somebody else can answer them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;

use tiltyard_types::Moment;
use tiltyard_types::live::{Kind, Live};

use super::meter::Instances;
use crate::engine::Session;
use crate::job::Job;
use crate::sync::{Mutex, MutexGuard};

/// A session that counts as alive until it is closed.
pub(super) struct Opened {
    pub(super) session: Box<dyn Session>,
    _live: Live,
}

impl Opened {
    pub(super) fn new(session: Box<dyn Session>) -> Opened {
        Opened { session, _live: Live::new(Kind::Sessions) }
    }

    /// Closes it, whatever its engine makes of that.
    pub(super) fn close(self) {
        if catch_unwind(AssertUnwindSafe(|| drop(self))).is_err() {
            tracing::error!("the engine panicked while it closed a session");
        }
    }
}

/// A run that is going on.
pub(super) struct Running {
    /// Which run of the process it is, from 1.
    pub(super) number: u64,
    /// When it began.
    pub(super) since: Moment,
    /// Rows in it, padding included.
    pub(super) rows: usize,
    /// Whether it is on an event loop's thread.
    pub(super) on_loop: bool,
    /// Those that it answers.
    pub(super) jobs: Vec<Job>,
    /// Those that the same thread shall run after it, each alone.
    pub(super) later: Vec<Job>,
}

/// A deployment's sessions, and what runs with those that are leased.
#[derive(Default)]
pub(super) struct Leases(Mutex<State>);

#[derive(Default)]
struct State {
    idle: Vec<Opened>,
    /// As many as there were runs at a time.
    slots: Vec<Slot>,
}

enum Slot {
    Free,
    Runs(Running),
    /// It was given up, and has not come back.
    Lost {
        on_loop: bool,
    },
}

impl Leases {
    /// Notes a run that begins, and hands out a session if one is idle. The run is known by the number from now on.
    pub(super) fn lease(&self, running: Running) -> (usize, Option<Opened>) {
        let mut state = self.lock();
        let slot = state.slots.iter().position(|slot| matches!(slot, Slot::Free)).unwrap_or_else(|| {
            state.slots.push(Slot::Free);
            state.slots.len() - 1
        });
        state.slots[slot] = Slot::Runs(running);
        (slot, state.idle.pop())
    }

    /// Notes that a run has come back, with its session unless that is not to be used again. `None` where it was given up.
    pub(super) fn give_back(&self, slot: usize, opened: Option<Opened>) -> Option<Running> {
        let mut state = self.lock();
        match std::mem::replace(&mut state.slots[slot], Slot::Free) {
            Slot::Runs(running) => {
                state.idle.extend(opened);
                Some(running)
            }
            // Another session was opened in place of this one.
            Slot::Lost { .. } | Slot::Free => {
                drop(state);
                opened.into_iter().for_each(Opened::close);
                None
            }
        }
    }

    /// Hands out a session for a run that answers nobody, if one is idle.
    pub(super) fn borrow(&self) -> Option<Opened> {
        self.lock().idle.pop()
    }

    /// Takes such a session back.
    pub(super) fn put_back(&self, opened: Opened) {
        self.lock().idle.push(opened);
    }

    /// Gives up the runs that are stuck, each with what `note` says of it before its thread may come back and hear of it. They
    /// are the caller's to answer.
    pub(super) fn give_up<T>(
        &self,
        is_stuck: impl Fn(&Running) -> bool,
        note: impl Fn(&Running) -> T,
    ) -> Vec<(Running, T)> {
        let mut given_up = Vec::new();
        for slot in &mut self.lock().slots {
            if matches!(slot, Slot::Runs(running) if is_stuck(running))
                && let Slot::Runs(running) = std::mem::replace(slot, Slot::Free)
            {
                *slot = Slot::Lost { on_loop: running.on_loop };
                let noted = note(&running);
                given_up.push((running, noted));
            }
        }
        given_up
    }

    /// Sessions that are open, and those of them that are leased.
    pub(super) fn instances(&self) -> Instances {
        let state = self.lock();
        let running = state.slots.iter().filter(|slot| !matches!(slot, Slot::Free)).count();
        Instances { open: state.idle.len() + running, running }
    }

    /// Runs that were given up and have not come back: all, and those on event loops.
    pub(super) fn lost(&self) -> (usize, usize) {
        let state = self.lock();
        let lost = state.slots.iter().filter_map(|slot| match slot {
            Slot::Lost { on_loop } => Some(usize::from(*on_loop)),
            Slot::Free | Slot::Runs(_) => None,
        });
        lost.fold((0, 0), |(all, on_loops), on_loop| (all + 1, on_loops + on_loop))
    }

    /// Held for a few instructions, never across a run.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
