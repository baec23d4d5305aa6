//! How do versions see live traffic without anybody noticing?
//!
//! A plan's shadows are asked what the champion was asked, once its answer is on the way. Their answers are compared with the
//! champion's and never returned. Nothing a shadow does reaches a request: it runs in a lane of its own, on threads that take
//! what others leave, and what finds no room is dropped and counted.

pub mod breaker;
pub mod budget;
pub mod desk;
pub mod form;
pub mod lane;
pub mod measure;
pub mod run;
pub mod sample;
pub mod sampling;
pub mod worst;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst, fence};
use std::thread::{self, Thread};
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use smallvec::SmallVec;
use tiltyard_rollout::evidence::Pairs;
use tiltyard_runtime::pool::Clock;
use tiltyard_runtime::priority::give_way;
use tiltyard_types::{NamedTensor, RequestId};

use self::budget::Budget;
use self::desk::{Desk, Ticket};
use self::lane::Watching;
use self::run::Known;
use self::sample::Sample;
use crate::catalog::{Catalog, Endpoint};

/// The shadows of a plan at most.
pub const SHADOWS_MAX: usize = 16;

/// Where requests leave samples. The thread that takes them ends with it.
pub struct Shadows {
    /// What shadows may hold.
    pub budget: Arc<Budget>,
    /// Unbounded, but what is in it is not: each lane has so many places.
    inbox: Sender<Ticket>,
    is_asleep: Arc<AtomicBool>,
    thread: Thread,
}

impl Shadows {
    /// Starts the thread. Shadows may hold `bytes_max` together, and each run on so many threads for `run_timeout` at most.
    pub fn start(
        bytes_max: usize,
        threads: usize,
        run_timeout: Duration,
        clock: Clock,
    ) -> std::io::Result<Arc<Shadows>> {
        let (inbox, samples) = unbounded();
        let (is_asleep, budget) = (Arc::<AtomicBool>::default(), Budget::new(bytes_max));
        let known = Known { threads: threads.max(1), run_timeout };
        let mut desk = Desk {
            inbox: samples,
            is_asleep: Arc::clone(&is_asleep),
            budget: Arc::clone(&budget),
            known,
            clock,
            runs: Vec::new(),
        };
        let work = move || {
            give_way();
            desk.work();
        };
        let thread = thread::Builder::new().name("tiltyard-shadow".into()).spawn(work)?.thread().clone();
        Ok(Arc::new(Shadows { budget, inbox, is_asleep, thread }))
    }

    /// Whether shadows shall see a request that goes to their champion, and which. Nothing waits, and nothing is copied
    /// until it is answered. A plan without shadows costs one look at an empty list.
    pub fn pick(
        self: &Arc<Self>,
        watching: &[Watching],
        id: RequestId,
        body: usize,
        inputs: &[NamedTensor],
    ) -> Option<Box<Sample>> {
        if watching.is_empty() {
            return None;
        }
        let mut lanes = SmallVec::new();
        for Watching { lane, sampling } in watching.iter().filter(|watching| watching.sampling > 0) {
            lane.counts().offered();
            if sampling::is_sampled(id, lane.rate(*sampling, &self.budget)) {
                lanes.push(Arc::clone(lane));
            }
        }
        let sample = |lanes| {
            let (shadows, inputs) = (Arc::clone(self), inputs.to_vec());
            Box::new(Sample { shadows, lanes, id, body, inputs, answered: None, pairing: None })
        };
        (!lanes.is_empty()).then(|| sample(lanes))
    }

    /// Takes samples, and wakes the thread if it sleeps.
    fn hand(&self, tickets: impl Iterator<Item = Ticket>) {
        // Fails only when the thread has ended, which it does after this.
        tickets.for_each(|ticket| drop(self.inbox.send(ticket)));
        fence(SeqCst);
        if self.is_asleep.load(SeqCst) && self.is_asleep.swap(false, SeqCst) {
            self.thread.unpark();
        }
    }
}

impl Drop for Shadows {
    fn drop(&mut self) {
        // The sender goes after this: a thread that sleeps deeply hears of it at its next look.
        let (inbox, _) = unbounded();
        drop(std::mem::replace(&mut self.inbox, inbox));
        self.thread.unpark();
    }
}

/// What pairs of a champion's answers and one of its shadows' showed since this was called last; nothing where there is no
/// such shadow.
pub fn take(catalog: &Catalog, endpoint: &str, arm: &str) -> Pairs {
    let watching = watching(catalog, endpoint).iter().find(|watching| watching.lane.arm.name == arm);
    watching.map(|watching| watching.lane.take()).unwrap_or_default()
}

/// The shadows of an endpoint.
pub fn watching<'a>(catalog: &'a Catalog, endpoint: &str) -> &'a [Watching] {
    match catalog.endpoints.get(endpoint) {
        Some(Endpoint::Planned(route)) => route.watching(),
        Some(Endpoint::Newest(_)) | None => &[],
    }
}
