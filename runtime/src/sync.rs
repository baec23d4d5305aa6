//! Which locks, channels and threads do the thread shells use? The usual ones, or under `cfg(shuttle)` those of a
//! scheduler that tries out interleavings: see `runtime/threads/Cargo.toml`.

#[cfg(not(shuttle))]
pub(crate) use std::sync::{Mutex, MutexGuard};
#[cfg(not(shuttle))]
pub(crate) use std::thread;

#[cfg(not(shuttle))]
pub(crate) use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

#[cfg(shuttle)]
pub(crate) use shuttle::sync::{Mutex, MutexGuard};
#[cfg(shuttle)]
pub(crate) use shuttle::thread;

#[cfg(shuttle)]
pub(crate) use self::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

/// What the shells need of a channel, made of the scheduler's own parts.
#[cfg(shuttle)]
mod channel {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::Duration;

    use shuttle::sync::{Condvar, Mutex, MutexGuard};

    struct Channel<T> {
        state: Mutex<(VecDeque<T>, bool)>,
        changed: Condvar,
    }

    impl<T> Channel<T> {
        fn lock(&self) -> MutexGuard<'_, (VecDeque<T>, bool)> {
            self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
        }
    }

    /// The one sender: the channel ends with it.
    pub(crate) struct Sender<T>(Arc<Channel<T>>);

    /// One of the receivers.
    pub(crate) struct Receiver<T>(Arc<Channel<T>>);

    /// Why nothing was received.
    pub(crate) enum RecvTimeoutError {
        /// Time is over.
        #[expect(dead_code, reason = "the scheduler knows no time")]
        Timeout,
        /// The sender has gone.
        Disconnected,
    }

    /// A channel without a bound.
    pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
        let channel = Arc::new(Channel { state: Mutex::new((VecDeque::new(), false)), changed: Condvar::new() });
        (Sender(Arc::clone(&channel)), Receiver(channel))
    }

    impl<T> Sender<T> {
        pub(crate) fn send(&self, item: T) -> Result<(), T> {
            self.0.lock().0.push_back(item);
            self.0.changed.notify_one();
            Ok(())
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.lock().1 = true;
            self.0.changed.notify_all();
        }
    }

    impl<T> Clone for Receiver<T> {
        fn clone(&self) -> Receiver<T> {
            Receiver(Arc::clone(&self.0))
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn recv(&self) -> Result<T, ()> {
            let mut state = self.0.lock();
            loop {
                if let Some(item) = state.0.pop_front() {
                    return Ok(item);
                }
                if state.1 {
                    return Err(());
                }
                state = self.0.changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
            }
        }

        pub(crate) fn recv_timeout(&self, _: Duration) -> Result<T, RecvTimeoutError> {
            self.recv().map_err(|()| RecvTimeoutError::Disconnected)
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.0.lock().0.is_empty()
        }
    }
}
