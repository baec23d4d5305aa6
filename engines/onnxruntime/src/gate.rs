//! When may a CUDA graph be recorded, and what waits for that?
//!
//! ONNX Runtime records in `cudaStreamCaptureModeGlobal` (`CUDAGraphManager::CaptureBegin`): while it does, an allocation, a
//! synchronous copy or the like by any other thread of this process is refused with error 900 and spoils the recording,
//! whatever session it is for. So everything here that may ask a device for such a thing is on one side of this gate, and a
//! recording on the other.
//!
//! Making a session takes seconds and a run milliseconds. A recording waits for the former before it holds up the latter:
//! runs wait for a recording, which takes as long as some runs do, and never for a session that is made.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Locked before [`RUNS`] where both are.
static SESSIONS: RwLock<()> = RwLock::new(());
static RUNS: RwLock<()> = RwLock::new(());

/// Held while a session on a device is made or freed.
pub(crate) struct Making(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>);

/// Held while a session on a device runs.
pub(crate) struct Running(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>);

/// Held while a graph is recorded.
pub(crate) struct Recording(#[expect(dead_code, reason = "held")] [RwLockWriteGuard<'static, ()>; 2]);

/// Waits for a recording to end. Must not be asked for again, nor for a recording, by a thread that has it.
pub(crate) fn making() -> Making {
    Making(SESSIONS.read().unwrap_or_else(PoisonError::into_inner))
}

/// Waits for a recording to end. Must not be asked for again, nor for a recording, by a thread that has it.
pub(crate) fn running() -> Running {
    Running(RUNS.read().unwrap_or_else(PoisonError::into_inner))
}

/// Waits until no session is made, freed or run.
pub(crate) fn recording() -> Recording {
    let sessions = SESSIONS.write().unwrap_or_else(PoisonError::into_inner);
    Recording([sessions, RUNS.write().unwrap_or_else(PoisonError::into_inner)])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI32, Ordering};

    use super::*;

    #[test]
    fn nothing_goes_on_beside_a_recording() {
        // Those inside: 1 for each that runs or makes, 1,000 for one that records.
        let inside = AtomicI32::new(0);
        let visit = |weight: i32, is_allowed: fn(i32) -> bool| {
            let before = inside.fetch_add(weight, Ordering::SeqCst);
            assert!(is_allowed(before), "{weight} beside {before}");
            std::thread::yield_now();
            inside.fetch_sub(weight, Ordering::SeqCst);
        };
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let visit = &visit;
                scope.spawn(move || {
                    for _ in 0..300 {
                        match thread {
                            0 | 1 => {
                                let _recording = recording();
                                visit(1000, |others| others == 0);
                            }
                            2 | 3 => {
                                let _making = making();
                                visit(1, |others| others < 1000);
                            }
                            _ => {
                                let _running = running();
                                visit(1, |others| others < 1000);
                            }
                        }
                    }
                });
            }
        });
    }
}
