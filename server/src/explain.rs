//! Where do explanations run, and what bounds them?
//!
//! On threads of their own that take only what others leave of the processors, started at the first question: a flood of
//! explanations slows no inference. How many wait is bounded; beyond, they are refused at once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tiltyard_runtime::priority::give_way;
use tiltyard_types::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

/// Explanations that wait at most, beside those that run.
const WAITING_MAX: usize = 32;

/// Threads at most: each costs the caches of those that serve, whatever its priority.
const THREADS_MAX: usize = 2;

/// When to ask again after a refusal.
const COME_AGAIN: Duration = Duration::from_secs(1);

type Work = Box<dyn FnOnce() + Send>;

/// Runs explanations.
#[derive(Default)]
pub struct Explainers {
    /// Where work is left; nobody is there before the first.
    desk: Mutex<Option<SyncSender<Work>>>,
    /// What became of it.
    pub(crate) counts: Arc<Counts>,
}

/// What explanations did since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Requests that were answered, failed, and were refused since too many waited.
    pub(crate) outcomes: [AtomicU64; 3],
    /// Rows of those that were answered.
    pub(crate) rows: AtomicU64,
    /// Nanoseconds that threads worked on them.
    pub(crate) busy_ns: AtomicU64,
}

impl Counts {
    /// The names of [`outcomes`](Self::outcomes).
    pub(crate) const OUTCOMES: [&str; 3] = ["answered", "failed", "refused"];

    /// Notes what a request came to, and the rows that it had.
    pub(crate) fn note(&self, rows: Option<usize>, took: Duration) {
        self.outcomes[usize::from(rows.is_none())].fetch_add(1, Relaxed);
        self.rows.fetch_add(rows.unwrap_or(0) as u64, Relaxed);
        self.busy_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// What comes of work that was left at the desk, and whether anybody still waits for it.
pub(crate) struct Answered<T>(oneshot::Sender<Result<T>>);

impl<T> Answered<T> {
    /// Whether nobody waits any more.
    pub(crate) fn is_left(&self) -> bool {
        self.0.is_closed()
    }
}

impl Explainers {
    /// Has `work` done as soon as a thread is free; dropping the receiver tells it so. Refuses where too much waits.
    pub(crate) fn submit<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Answered<T>) -> Result<T> + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T>>> {
        let (sender, receiver) = oneshot::channel();
        let answered = Answered(sender);
        let run = move || {
            if answered.is_left() {
                return;
            }
            let done = catch_unwind(AssertUnwindSafe(|| work(&answered)));
            let failed = |_| Err(Error::new(ErrorKind::Engine, "the explanation failed: the engine panicked"));
            // Whoever asked may be gone by now.
            drop(answered.0.send(done.unwrap_or_else(failed)));
        };
        match self.desk()?.try_send(Box::new(run)) {
            Ok(()) => Ok(receiver),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.counts.outcomes[2].fetch_add(1, Relaxed);
                let told = format!("{WAITING_MAX} explanations wait already");
                Err(Error::new(ErrorKind::Overloaded, told).retry_after(COME_AGAIN))
            }
        }
    }

    fn desk(&self) -> Result<SyncSender<Work>> {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(desk) = &*desk {
            return Ok(desk.clone());
        }
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        let cores = thread::available_parallelism().map_or(1, usize::from);
        for at in 0..(cores / 2).clamp(1, THREADS_MAX) {
            let receiver = Arc::clone(&receiver);
            let started = thread::Builder::new().name(format!("tiltyard-why-{at}")).spawn(move || work_off(&receiver));
            if let Err(error) = started
                && at == 0
            {
                let told = format!("no thread can be started for explanations: {error}");
                return Err(Error::new(ErrorKind::Overloaded, told).retry_after(COME_AGAIN));
            }
        }
        Ok(desk.insert(sender).clone())
    }
}

/// Works until nobody can leave anything any more.
fn work_off(desk: &Mutex<Receiver<Work>>) {
    give_way();
    loop {
        let next = desk.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next {
            Ok(work) => work(),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_much_is_refused_and_panics_stay_inside() {
        let explainers = Explainers::default();
        let (held, hold) = sync_channel::<()>(0);
        let hold = Arc::new(Mutex::new(hold));
        let wait = || {
            let hold = Arc::clone(&hold);
            explainers.submit(move |_| {
                assert!(hold.lock().unwrap().recv().is_err());
                Ok(1)
            })
        };
        let mut waiting = Vec::new();
        let error = loop {
            match wait() {
                Ok(pending) => waiting.push(pending),
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), error.wait()), (ErrorKind::Overloaded, Some(COME_AGAIN)));
        assert!((WAITING_MAX..=WAITING_MAX + THREADS_MAX).contains(&waiting.len()), "{}", waiting.len());
        assert_eq!(explainers.counts.outcomes[2].load(Relaxed), 1);
        drop(held);
        for pending in waiting {
            assert_eq!(pending.blocking_recv().unwrap(), Ok(1));
        }
        let failed = explainers.submit(|_| -> Result<()> { panic!("on purpose") }).unwrap();
        assert_eq!(failed.blocking_recv().unwrap().unwrap_err().kind(), ErrorKind::Engine);
        assert_eq!(explainers.submit(|_| Ok(2)).unwrap().blocking_recv().unwrap(), Ok(2));
    }
}
