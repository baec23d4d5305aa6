//! What time is it? The only file that reads a clock for the request path.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use tiltyard_types::Moment;

/// The moment it is, on a clock that never goes back.
pub(crate) fn now() -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    Moment::from_nanos(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
}

/// Milliseconds since 1970 on the wall clock, which may jump: for records, never for measuring.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// The same in nanoseconds.
pub(crate) fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

/// The processor's time that this thread has taken so far.
pub(crate) fn thread_taken() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The processors' time that the process has taken so far.
pub(crate) fn process_taken() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// For how long this thread wanted to run so far and was not let, as Linux tells it; nothing elsewhere.
pub(crate) fn kept_waiting() -> Duration {
    use std::cell::RefCell;
    use std::fs::File;
    use std::io::{Read, Seek};

    thread_local! {
        static TOLD: RefCell<Option<File>> = RefCell::new(File::open("/proc/thread-self/schedstat").ok());
    }
    TOLD.with_borrow_mut(|told| {
        let told = told.as_mut()?;
        let mut text = [0; 64];
        told.rewind().ok()?;
        let length = told.read(&mut text).ok()?;
        // Nanoseconds that it ran, nanoseconds that it waited, and how often.
        let waited = std::str::from_utf8(&text[..length]).ok()?.split_ascii_whitespace().nth(1)?;
        waited.parse().ok().map(Duration::from_nanos)
    })
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_the_time_of_its_thread() {
        let (began, of_all, before) = (now(), process_taken(), thread_taken());
        let mut sum = 0u64;
        while thread_taken() == before {
            sum = std::hint::black_box(sum.wrapping_mul(3) ^ 1);
        }
        let taken = thread_taken() - before;
        assert!(process_taken() - of_all >= taken);
        assert!(taken <= now() - began + Duration::from_millis(1));
    }

    #[test]
    fn a_thread_is_kept_waiting_no_longer_than_it_lives() {
        let (began, before) = (now(), kept_waiting());
        let mut sum = 0u64;
        (0..3_000_000u64).for_each(|number| sum = std::hint::black_box(sum.wrapping_mul(3) ^ number));
        assert!(kept_waiting() >= before && kept_waiting() - before <= now() - began);
    }
}
