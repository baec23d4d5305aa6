//! Who syncs the ring and makes segments of it, while others answer?
//!
//! Two threads: a segment takes a second or so, and pages and syncs cannot wait for that. With nothing to capture both
//! sleep, until a producer's record wakes the keeper.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use crate::Capture;

/// How long a drain that failed waits before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Threads that end when this is dropped. What is in the ring then stays there; [`Capture::flush`] is for the end.
#[derive(Debug)]
pub struct Threads {
    is_stopped: Arc<AtomicBool>,
    keeper: Option<JoinHandle<()>>,
    drainer: Option<JoinHandle<()>>,
}

impl Threads {
    /// Starts them. `now_us` tells the time in microseconds since 1970; `begin` runs first on each of them, for a priority
    /// below those that answer. Once for a capture. Fails where the system starts no thread.
    pub fn start(
        capture: &Arc<Capture>,
        now_us: impl Fn() -> u64 + Clone + Send + 'static,
        begin: impl Fn() + Clone + Send + 'static,
    ) -> std::io::Result<Threads> {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let mut threads = Threads { is_stopped: is_stopped.clone(), keeper: None, drainer: None };
        let drainer = thread::Builder::new().name("capture-drain".into()).spawn({
            let (capture, now_us, begin, is_stopped) =
                (capture.clone(), now_us.clone(), begin.clone(), is_stopped.clone());
            move || {
                begin();
                drain(&capture, &now_us, &is_stopped);
            }
        })?;
        let woken = drainer.thread().clone();
        threads.drainer = Some(drainer);
        let keeper = thread::Builder::new().name("capture-keep".into()).spawn({
            let capture = capture.clone();
            move || {
                begin();
                capture.ring.kept_by(thread::current());
                keep(&capture, &now_us, &woken, &is_stopped);
            }
        })?;
        threads.keeper = Some(keeper);
        Ok(threads)
    }
}

fn keep(capture: &Capture, now_us: &impl Fn() -> u64, drainer: &Thread, is_stopped: &AtomicBool) {
    while !is_stopped.load(Relaxed) {
        let next = capture.keep(now_us());
        if next.is_due {
            drainer.unpark();
        }
        match next.wait {
            Some(wait) => thread::park_timeout(wait.max(Duration::from_millis(1))),
            None => thread::park(),
        }
    }
}

fn drain(capture: &Capture, now_us: &impl Fn() -> u64, is_stopped: &AtomicBool) {
    while !is_stopped.load(Relaxed) {
        // Whoever unparks before this has it return at once.
        thread::park();
        while !is_stopped.load(Relaxed) {
            match capture.drain(now_us()) {
                Ok(drained) if drained.has_more => {}
                Ok(_) => break,
                Err(_) => thread::park_timeout(RETRY),
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.is_stopped.store(true, Relaxed);
        for thread in [self.keeper.take(), self.drainer.take()].into_iter().flatten() {
            thread.thread().unpark();
            // A thread that panicked has said so already.
            drop(thread.join());
        }
    }
}
