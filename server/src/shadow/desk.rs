//! Who brings samples to shadows, and compares what comes back?
//!
//! One thread that takes only what others leave of the processors, as all that shadows run on. Each shadow has a queue, a
//! pool and sessions of its own, so that one that hangs keeps nobody but itself waiting. Requests leave their samples here
//! and never wait: the inbox takes no lock that this thread holds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use crossbeam_channel::{Receiver, TryRecvError};
use tiltyard_runtime::pool::Clock;
use tiltyard_types::Moment;

use super::budget::Budget;
use super::lane::Place;
use super::run::{Known, Run};
use super::sample::Sampled;

/// Between two looks while something is under way.
const TURN: Duration = Duration::from_millis(1);

/// The same where nothing is expected of it, since the shadow hangs.
const LONG_TURN: Duration = Duration::from_millis(100);

/// Between two looks while there are shadows.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Samples that are taken in before what came back is looked at.
const TAKEN_MAX: usize = 512;

/// A sample for one shadow.
pub struct Ticket {
    /// Its place among those that wait for the shadow.
    pub place: Place,
    /// The request with its answer.
    pub sampled: Arc<Sampled>,
}

/// What the thread has before it.
pub struct Desk {
    /// Where samples come in.
    pub inbox: Receiver<Ticket>,
    /// Whether the thread is to be woken for them.
    pub is_asleep: Arc<AtomicBool>,
    /// What all shadows hold.
    pub budget: Arc<Budget>,
    /// What is known to every run.
    pub known: Known,
    /// The clock.
    pub clock: Clock,
    /// One for each shadow that got a sample and may get more.
    pub runs: Vec<Run>,
}

/// For how long the thread may sleep.
#[derive(Debug, PartialEq, Eq)]
pub enum Rest {
    /// Not at all.
    None,
    /// So long, whatever comes in.
    Turn(Duration),
    /// Until something comes in, or so long.
    Sleep(Duration),
    /// Until something comes in.
    Deep,
    /// Nothing will come in any more.
    Over,
}

impl Desk {
    /// Works until nobody can send samples any more.
    pub fn work(&mut self) {
        loop {
            match self.turn() {
                Rest::None => {}
                Rest::Turn(rest) => std::thread::sleep(rest),
                Rest::Sleep(rest) => self.sleep(Some(rest)),
                Rest::Deep => self.sleep(None),
                Rest::Over => return,
            }
        }
    }

    fn sleep(&self, rest: Option<Duration>) {
        self.is_asleep.store(true, SeqCst);
        // What came in before that was seen by whoever sent it wakes nobody.
        if self.inbox.is_empty() {
            rest.map_or_else(std::thread::park, std::thread::park_timeout);
        }
        self.is_asleep.store(false, SeqCst);
    }

    /// Takes in what came, begins and ends what can be, and looks at how the shadows are doing.
    pub fn turn(&mut self) -> Rest {
        let mut is_over = false;
        let now = (self.clock)();
        for taken in 0.. {
            match self.inbox.try_recv() {
                Ok(ticket) => self.take(ticket, now),
                Err(TryRecvError::Disconnected) => is_over = true,
                Err(TryRecvError::Empty) => {}
            }
            if taken >= TAKEN_MAX || self.inbox.is_empty() {
                break;
            }
        }
        for run in &mut self.runs {
            run.turn(&self.budget, (self.clock)());
        }
        // Out of all plans and done: model, sessions and threads are let go of here, and not where requests are served.
        self.runs.retain(|run| !run.is_over());
        let busy = || self.runs.iter().filter(|run| run.is_busy());
        match (is_over, self.inbox.is_empty()) {
            (true, _) => Rest::Over,
            (_, false) => Rest::None,
            _ if busy().any(|run| run.lane.is_asked()) => Rest::Turn(TURN),
            _ if busy().next().is_some() => Rest::Sleep(LONG_TURN),
            _ if !self.runs.is_empty() => Rest::Sleep(LOOK_EVERY),
            _ => Rest::Deep,
        }
    }

    fn take(&mut self, ticket: Ticket, now: Moment) {
        let lane = &ticket.place.0;
        let at = self.runs.iter().position(|run| Arc::ptr_eq(&run.lane, lane)).unwrap_or_else(|| {
            self.runs.push(Run::new(lane, &self.known, self.clock));
            self.runs.len() - 1
        });
        self.runs[at].backlog.push_back((ticket, now));
    }
}

/// Samples that have not been begun, with when they came.
pub type Backlog = VecDeque<(Ticket, Moment)>;
