//! How is one shadow asked, and what becomes of its answers?

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::health::STUCK_MAX;
use tiltyard_runtime::job::{Answer, Demand, Pending};
use tiltyard_runtime::pool::{Clock, Pool};
use tiltyard_runtime::stats::Dropped;
use tiltyard_types::{Error, ErrorKind, Moment, Result};
use tokio::sync::oneshot::error::TryRecvError;

use super::breaker::Breaker;
use super::budget::{Budget, LARGEST};
use super::desk::{Backlog, Ticket};
use super::lane::{ERRORS, Lane};
use super::measure::{Both, compare};
use super::sample::Sampled;
use super::sampling::{Controller, fullness};
use super::worst::{Example, show};
use crate::rollouts::feedback::notes::{Asked, Half, Pairing};
use crate::rollouts::observer::Side;

/// How long a sample may wait.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A shadow that was asked and has not answered anything for so long hangs, or might as well.
const HANGS_AFTER: Duration = Duration::from_secs(5);

/// Between two looks at how it is doing.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A look that comes so late says that this thread was kept from running: a run's time is counted anew.
const KEPT: Duration = Duration::from_secs(3);

/// Jobs that its queue holds beyond those that fill its runs.
const AHEAD: usize = 8;

/// What is known to every run.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Threads that one shadow may run on.
    pub threads: usize,
    /// How long one run may take; zero for as long as it likes.
    pub run_timeout: Duration,
}

/// One shadow at work.
pub struct Run {
    /// What is known of it.
    pub lane: Arc<Lane>,
    /// Samples that wait to be begun.
    pub backlog: Backlog,
    under_way: Vec<UnderWay>,
    /// Its own side of the model, and who runs it.
    shadow: Arc<Deployment>,
    pool: Option<Arc<Pool>>,
    /// How many of its jobs may be under way.
    ahead_max: usize,
    run_timeout: Duration,
    breaker: Breaker,
    controller: Controller,
    looked: Moment,
    awake_since: Moment,
    /// When it last answered something, or had nothing to answer.
    heard: Moment,
    /// What of its samples found no room, at the last look.
    turned_away: u64,
}

/// A sample that the shadow has.
struct UnderWay {
    ticket: Ticket,
    pending: Pending,
    begun: Moment,
}

impl Run {
    /// Makes the shadow of a lane ready, with threads of its own.
    pub fn new(lane: &Arc<Lane>, known: &Known, clock: Clock) -> Run {
        let of = &lane.arm.deployment;
        let rows = of.rows_taken_max().max(1);
        let ahead_max = 2 * rows * known.threads + AHEAD;
        let pool = Pool::start_giving_way(known.threads, clock, crate::clock::kept_waiting);
        let now = clock();
        let pool = pool.inspect_err(|error| {
            tracing::error!(endpoint = lane.endpoint, arm = lane.arm.name, %error, "no thread for a shadow");
        });
        Run::of(lane, Arc::new(of.lane(ahead_max, known.threads)), pool.ok(), ahead_max, known, now)
    }

    fn of(
        lane: &Arc<Lane>,
        shadow: Arc<Deployment>,
        pool: Option<Arc<Pool>>,
        ahead_max: usize,
        known: &Known,
        now: Moment,
    ) -> Run {
        let mut breaker = Breaker::default();
        if pool.is_none() {
            breaker.gives_up();
        }
        Run {
            lane: Arc::clone(lane),
            backlog: Backlog::new(),
            under_way: Vec::new(),
            shadow,
            pool,
            ahead_max,
            run_timeout: known.run_timeout,
            breaker,
            controller: Controller::new(now),
            looked: now,
            awake_since: Moment::default(),
            heard: now,
            turned_away: 0,
        }
    }

    /// Whether it has something to do.
    pub fn is_busy(&self) -> bool {
        !self.backlog.is_empty() || !self.under_way.is_empty()
    }

    /// Whether no plan has it any more, and nothing is left to do.
    pub fn is_over(&self) -> bool {
        !self.is_busy() && Arc::strong_count(&self.lane) == 1
    }

    /// Takes what came back, begins what can be, and now and then looks at how it is doing.
    pub fn turn(&mut self, budget: &Budget, now: Moment) {
        self.collect(false, now);
        self.begin(budget.bytes_max / LARGEST, now);
        if !self.is_busy() {
            self.heard = now;
        }
        if now - self.looked >= LOOK_EVERY {
            self.look(budget, now);
        }
    }

    /// Gives the shadow's own queue what fills its next runs, up to so many bytes: what lies there cannot be taken back when it
    /// hangs.
    fn begin(&mut self, bytes_max: usize, now: Moment) {
        let mut bytes: usize = self.under_way.iter().map(|under_way| under_way.ticket.sampled.charge.bytes).sum();
        while let Some((_, came)) = self.backlog.front() {
            let is_late = now - *came > PATIENCE;
            let is_asked = self.lane.is_asked();
            let is_full = self.under_way.len() >= self.ahead_max || bytes >= bytes_max;
            if is_full && is_asked && !is_late {
                return;
            }
            let Some((ticket, came)) = self.backlog.pop_front() else { return };
            let Some(pool) = self.pool.clone().filter(|_| is_asked && !is_late) else {
                self.lane.counts().dropped(if is_late { Dropped::Late } else { Dropped::Breaker });
                continue;
            };
            bytes += ticket.sampled.charge.bytes;
            match self.enqueue(&ticket.sampled, came + PATIENCE, &pool) {
                Ok(pending) => self.under_way.push(UnderWay { ticket, pending, begun: now }),
                Err(error) => self.failed(&ticket.sampled, &error, false, now),
            }
        }
    }

    fn enqueue(&self, sampled: &Arc<Sampled>, deadline: Moment, pool: &Pool) -> Result<Pending> {
        let inputs = self.shadow.signature.arrange(sampled.inputs.clone())?;
        let wanted = self.shadow.signature.select(names(&self.lane, sampled))?;
        let demand = Demand { deadline: Some(deadline), ..Demand::default() };
        self.shadow.enqueue(inputs, wanted, demand, Box::new(Arc::clone(sampled)), pool)
    }

    /// Takes what came back. What failed right after runs were `given_up` belonged to those.
    fn collect(&mut self, given_up: bool, now: Moment) {
        let waiting = self.under_way.len();
        for mut under_way in std::mem::take(&mut self.under_way) {
            match under_way.pending.try_recv() {
                Err(TryRecvError::Empty) => self.under_way.push(under_way),
                Ok(Ok(answer)) => self.answered(&under_way.ticket.sampled, &answer, now),
                Ok(Err(error)) => self.failed(&under_way.ticket.sampled, &error, given_up, now),
                Err(TryRecvError::Closed) => {
                    let error = Error::new(ErrorKind::Engine, "the worker ended without an answer");
                    self.failed(&under_way.ticket.sampled, &error, given_up, now);
                }
            }
        }
        if self.under_way.len() < waiting {
            self.heard = now;
        }
    }

    fn answered(&mut self, sampled: &Sampled, answer: &Answer, now: Moment) {
        let lane = Arc::clone(&self.lane);
        let pairs = names(&lane, sampled).zip(&sampled.outputs).zip(&answer.outputs);
        let outputs: Vec<Both<'_>> =
            pairs.map(|((name, (_, champion)), shadow)| Both { name, champion, shadow }).collect();
        let Ok(found) = catch_unwind(AssertUnwindSafe(|| compare(sampled.rows, &outputs))) else {
            let error = Error::new(ErrorKind::Engine, "its answer cannot be compared");
            return self.failed(sampled, &error, false, now);
        };
        self.note_pair(sampled, answer);
        lane.arm.requests.used(answer.used);
        let row_ns = answer.times.run.as_nanos() as f64 / answer.batch_rows.max(1) as f64;
        lane.counts().compared(answer.times.run);
        let mut book = lane.book();
        book.rows += sampled.rows as u64;
        found.values.iter().for_each(|(measure, value)| book.add(measure, *value));
        book.add(ERRORS, f64::from(u8::from(found.is_broken)));
        book.add_times([sampled.row_ns, row_ns]);
        if let Some((row, difference)) = found.worst.filter(|(_, difference)| book.worst.takes(*difference)) {
            let outputs = show(row, sampled.rows, &outputs);
            book.worst.add(Example { id: sampled.id, row, unix_ms: sampled.unix_ms, difference, outputs });
        }
        if found.is_broken {
            lane.counts().failed();
            book.note_failure(sampled.id, "it answered NaN or infinity where the champion has a number");
        }
        drop(book);
        self.breaker.answered();
    }

    /// Tells what both answered where labels are waited for.
    fn note_pair(&self, sampled: &Sampled, answer: &Answer) {
        let Some(Pairing { observer, key, unit }) = &sampled.pairing else { return };
        let Some(notes) = &observer.notes else { return };
        let (id, at_ms, key, unit) = (sampled.id, sampled.unix_ms, *key, *unit);
        let [champion, shadow] = [&self.lane.champion.deployment, &self.lane.arm.deployment];
        let outputs = sampled.outputs.iter().zip(&answer.outputs).map(|((place, theirs), ours)| {
            (*place, [Half { deployment: champion, tensor: theirs }, Half { deployment: shadow, tensor: ours }])
        });
        notes.pair(&Asked { id, at_ms, key, unit, side: Side::Champion }, &self.lane.arm.name, sampled.rows, outputs);
    }

    /// Counts a sample that it did not answer: as its failure, or as dropped where it had no chance.
    fn failed(&mut self, sampled: &Sampled, error: &Error, given_up: bool, now: Moment) {
        let counts = self.lane.counts();
        let why = match error.kind() {
            ErrorKind::Engine if given_up => Some(Dropped::Hung),
            ErrorKind::Deadline | ErrorKind::Overloaded | ErrorKind::Cancelled => Some(Dropped::Late),
            ErrorKind::NotReady | ErrorKind::Draining => Some(Dropped::Breaker),
            _ => None,
        };
        match why {
            Some(why) => counts.dropped(why),
            None => {
                counts.failed();
                let mut book = self.lane.book();
                book.add(ERRORS, 1.0);
                book.note_failure(sampled.id, error.message());
                drop(book);
                if self.breaker.failed(now) {
                    self.tell(error.message());
                }
            }
        }
    }

    fn look(&mut self, budget: &Budget, now: Moment) {
        if now - self.looked > LOOK_EVERY + KEPT {
            (self.awake_since, self.heard) = (now, now);
        }
        self.looked = now;
        self.give_up_stuck(now);
        if !self.under_way.is_empty() && now - self.heard > HANGS_AFTER && self.breaker.hangs(now) {
            self.tell("it has not answered anything for a while: its runs hang, or take too long");
        }
        let begun = self.under_way.iter().map(|under_way| under_way.begun);
        let oldest = self.backlog.front().map(|(_, came)| *came).into_iter().chain(begun).min();
        let wait = fullness((now - oldest.unwrap_or(now)).as_millis() as usize, PATIENCE.as_millis() as usize);
        let counted = self.lane.counts().read();
        let turned_away = [Dropped::QueueFull, Dropped::Memory, Dropped::Late].map(|why| counted.dropped[why as usize]);
        let turned_away = turned_away.iter().sum();
        let has_dropped = std::mem::replace(&mut self.turned_away, turned_away) != turned_away;
        let full = self.lane.fullness(budget).max(wait);
        let fraction = self.controller.look(full, has_dropped, now);
        let is_asked = self.breaker.asks(now);
        if is_asked {
            self.lane.book().trouble = None;
        }
        self.lane.set(fraction, wait, is_asked);
    }

    fn give_up_stuck(&mut self, now: Moment) {
        let Some(pool) = self.pool.clone().filter(|_| !self.run_timeout.is_zero()) else { return };
        // What has come back by now is not what hung.
        self.collect(false, now);
        if self.shadow.give_up_stuck(self.run_timeout, self.awake_since, &pool).is_empty() {
            return;
        }
        self.collect(true, now);
        if self.shadow.lost_runs().0 >= STUCK_MAX {
            self.breaker.gives_up();
            self.tell("its runs hang, and it is not tried again: load the version again, or start the server anew");
        }
    }

    /// Says that it is left alone, and why.
    fn tell(&self, why: &str) {
        let Lane { endpoint, arm, .. } = &*self.lane;
        tracing::warn!(
            endpoint,
            arm = arm.name,
            model = arm.deployment.identity.model,
            version = arm.version,
            why,
            "a shadow is left alone for a while"
        );
        self.lane.book().trouble = Some(why.to_owned());
    }
}

/// The outputs that the champion gave, by name.
fn names<'a>(lane: &'a Lane, sampled: &'a Sampled) -> impl Iterator<Item = &'a str> {
    let specs = &lane.champion.deployment.signature.outputs;
    sampled.outputs.iter().map(|(position, _)| specs[*position].name.as_str())
}

#[cfg(test)]
mod tests;
