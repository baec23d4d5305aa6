//! When is a shadow left alone?
//!
//! A state machine without threads or clock. A shadow that fails again and again, or whose run hangs, costs time and memory
//! that others could use and shows nothing new. It is left alone for a while, then tried with what comes, and left alone for
//! longer each time that this fails.

use std::time::Duration;

use tiltyard_types::Moment;

/// Failures one after the other after which it is left alone. So many are evidence of a model that does not work.
pub const FAILURES_MAX: u32 = 50;

/// The same while it is tried again.
const FAILURES_ON_TRIAL_MAX: u32 = 5;

/// For how long at first.
pub const PAUSE_FIRST: Duration = Duration::from_secs(1);

/// For how long at most: each trial that fails doubles it.
pub const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Whether a shadow is asked.
#[derive(Clone, Debug)]
pub struct Breaker {
    state: State,
    failures: u32,
    /// The next pause.
    pause: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// It is.
    Asked,
    /// It is, and has yet to show that it answers.
    OnTrial,
    /// Not until this moment.
    Alone(Moment),
    /// Not any more.
    Gone,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker { state: State::Asked, failures: 0, pause: PAUSE_FIRST }
    }
}

impl Breaker {
    /// It answered.
    pub fn answered(&mut self) {
        self.failures = 0;
        if self.state == State::OnTrial {
            (self.state, self.pause) = (State::Asked, PAUSE_FIRST);
        }
    }

    /// It failed. True if it is left alone since this failure.
    pub fn failed(&mut self, now: Moment) -> bool {
        self.failures = self.failures.saturating_add(1);
        let most = match self.state {
            State::Asked => FAILURES_MAX,
            State::OnTrial => FAILURES_ON_TRIAL_MAX,
            State::Alone(_) | State::Gone => return false,
        };
        self.failures >= most && self.leave(now)
    }

    /// A run of it hangs now. True if it is left alone since then.
    pub fn hangs(&mut self, now: Moment) -> bool {
        match self.state {
            State::Asked | State::OnTrial => self.leave(now),
            // It is not tried while it hangs.
            State::Alone(_) => {
                self.state = State::Alone(now + PAUSE_FIRST);
                false
            }
            State::Gone => false,
        }
    }

    /// It is never asked again.
    pub fn gives_up(&mut self) {
        self.state = State::Gone;
    }

    /// Whether it is asked now.
    pub fn asks(&mut self, now: Moment) -> bool {
        if let State::Alone(until) = self.state
            && until <= now
        {
            (self.state, self.failures) = (State::OnTrial, 0);
        }
        matches!(self.state, State::Asked | State::OnTrial)
    }

    fn leave(&mut self, now: Moment) -> bool {
        self.state = State::Alone(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn who_fails_again_and_again_is_tried_ever_more_rarely() {
        let mut breaker = Breaker::default();
        let told: Vec<bool> = (0..FAILURES_MAX + 3).map(|_| breaker.failed(at(0))).collect();
        assert_eq!(told.iter().position(|told| *told), Some(FAILURES_MAX as usize - 1));
        let mut now = 0;
        for pause in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            assert!(!breaker.asks(at(now + pause - 1)));
            now += pause;
            assert!(breaker.asks(at(now)));
            assert_eq!((0..5).filter(|_| breaker.failed(at(now))).count(), 1, "on trial, a few are enough");
        }
        assert!(breaker.asks(at(now + 60_000)));
        breaker.answered();
        assert!((0..FAILURES_MAX - 1).all(|_| !breaker.failed(at(now + 60_000))) && breaker.asks(at(now + 60_000)));
        breaker.failed(at(now + 60_000));
        assert!(breaker.asks(at(now + 61_000)), "who has answered begins anew");
    }

    #[test]
    fn one_answer_among_failures_is_enough() {
        let mut breaker = Breaker::default();
        for _ in 0..10 {
            assert!((0..FAILURES_MAX - 1).all(|_| !breaker.failed(at(0))));
            breaker.answered();
        }
        assert!(breaker.asks(at(0)));
    }

    #[test]
    fn who_hangs_is_left_alone_until_it_does_not() {
        let mut breaker = Breaker::default();
        assert!(breaker.hangs(at(10_000)));
        for second in 11..40 {
            assert!(!breaker.hangs(at(second * 1_000)) && !breaker.asks(at(second * 1_000)));
        }
        assert!(breaker.asks(at(40_000)), "a second after the last look at which it hung");
        breaker.answered();
        breaker.gives_up();
        assert!(!breaker.hangs(at(41_000)) && !breaker.failed(at(41_000)) && !breaker.asks(at(1_000_000)));
    }
}
