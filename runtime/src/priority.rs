//! Which threads give way to those that serve?
//!
//! Those that load, measure and build ahead. A thread inherits the priority of the one that starts it, and nobody without
//! privileges gets it raised again: what starts threads that serve later must not run here.

use std::sync::{Mutex, PoisonError};
use std::thread;

/// Makes this thread take only what others leave of the processors.
///
/// A processor that runs nothing else counts as idle for whoever wakes, who is put there and runs at once. Beside a thread
/// of the lowest nice value it would wait for a turn: loads of another model then tripled the 99th percentile.
#[cfg(target_os = "linux")]
pub fn give_way() {
    use preempt_rt::sched::{Pid, Scheduler, SchedulerParams, set_scheduler};
    let left_over = set_scheduler(Pid::current_thread(), Scheduler::SCHED_IDLE, SchedulerParams { priority: 0 });
    // Where that is forbidden, the next best. On Linux it is of the calling thread alone.
    if left_over.is_err()
        && let Err(error) = rustix::process::nice(19)
    {
        tracing::debug!(%error, "a thread that should give way has normal priority");
    }
}

/// Elsewhere priorities are the whole process's.
#[cfg(not(target_os = "linux"))]
pub fn give_way() {}

/// Does something on a thread that gives way, and waits for it. Panics where the work does.
pub(crate) fn giving_way<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let work = Mutex::new(Some(work));
    let take = || work.lock().unwrap_or_else(PoisonError::into_inner).take().map(|work| work());
    let done = thread::scope(|scope| {
        let low = || {
            give_way();
            take()
        };
        match thread::Builder::new().name("tiltyard-beside".into()).spawn_scoped(scope, low) {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            // The system has no thread to spare: then here.
            Err(_) => take(),
        }
    });
    done.unwrap_or_else(|| unreachable!("it is done once"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use preempt_rt::sched::{Pid, Scheduler, get_scheduler};

    use super::*;

    #[test]
    fn only_the_work_gives_way() {
        let policy = || get_scheduler(Pid::current_thread()).unwrap();
        let before = policy();
        assert_eq!(giving_way(policy), Scheduler::SCHED_IDLE);
        assert_eq!(policy(), before);
        assert_eq!(thread::spawn(policy).join().unwrap(), before);
    }

    #[test]
    fn a_panic_comes_through() {
        let panicked = std::panic::catch_unwind(|| giving_way(|| panic!("on purpose")));
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"on purpose"));
    }
}
