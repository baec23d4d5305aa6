//! How are quick models run without a second thread?
//!
//! For a model of a few microseconds, handing a job to another thread costs more than the model. On an event loop's thread
//! such jobs are therefore kept until the loop has seen to everything that was ready, and then run right there, together:
//! a lone request meets no other thread, and a busy loop makes batches of whatever one turn of it brought. What cannot be
//! run at once goes to the workers.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::deployment::Deployment;
use crate::job::Job;
use crate::pool::Pool;

/// How long an event loop may be kept by the runs of one turn.
pub(crate) const TURN_MAX: Duration = Duration::from_micros(200);

thread_local! {
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

/// What one event loop has gathered since its last turn.
struct Turn {
    waiting: Vec<(Arc<Deployment>, Vec<Job>)>,
    ends: Arc<Notify>,
}

/// Lets the event loop of this thread run jobs, on a runtime that has no other thread. What it cannot run at once goes to
/// `pool`.
pub fn install(pool: Arc<Pool>) {
    let ends = by_hand();
    tokio::spawn(async move {
        loop {
            // A task that is woken runs after those that were ready before it: after them, the turn is over.
            ends.notified().await;
            end(&pool);
        }
    });
}

/// Lets this thread run jobs in turns that it [ends](end) itself, when or after it is notified: for simulations.
pub fn by_hand() -> Arc<Notify> {
    let ends = Arc::new(Notify::new());
    TURN.set(Some(Turn { waiting: Vec::new(), ends: Arc::clone(&ends) }));
    ends
}

/// Keeps a job until the end of this thread's turn; gives it back where the thread has none.
pub(crate) fn keep(deployment: &Arc<Deployment>, job: Job) -> Option<Job> {
    TURN.with_borrow_mut(|turn| {
        let Some(turn) = turn else { return Some(job) };
        if turn.waiting.is_empty() {
            turn.ends.notify_one();
        }
        match turn.waiting.iter_mut().find(|(known, _)| Arc::ptr_eq(known, deployment)) {
            Some((_, jobs)) => jobs.push(job),
            None => turn.waiting.push((Arc::clone(deployment), vec![job])),
        }
        None
    })
}

/// Ends this thread's turn: runs what it brought. What cannot be run at once goes to `pool`.
pub fn end(pool: &Pool) {
    let waiting =
        TURN.with_borrow_mut(|turn| turn.as_mut().map_or_else(Vec::new, |turn| std::mem::take(&mut turn.waiting)));
    let until = pool.now() + TURN_MAX;
    for (deployment, jobs) in waiting {
        // Engines are contained where they run. A panic anywhere else is ours: its jobs are answered as they are dropped,
        // and the loop goes on.
        drop(catch_unwind(AssertUnwindSafe(|| deployment.run_here(jobs, until, pool))));
    }
}
