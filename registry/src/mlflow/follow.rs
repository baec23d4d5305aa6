//! Has an alias moved since we last took what it points to?
//!
//! A state machine without a clock: whoever drives it asks [`Follow::due`], looks, and says what was seen. A move is told once and then
//! waits until somebody says that it was dealt with; what was dealt with is all that has to be remembered over a restart, and the
//! registry remembers it: the version that was imported last through this alias.

use std::time::Duration;

/// The longest wait after failures, as a multiple of the usual one.
const BACKOFF_MAX: u32 = 32;

/// One alias that is followed.
#[derive(Clone, Debug)]
pub struct Follow {
    every: Duration,
    /// The version that was dealt with last.
    known: Option<u64>,
    /// A move that is told and not dealt with.
    moving: Option<u64>,
    next_ms: u64,
    /// How often in a row something failed: the server, or what a move needs.
    failures: u32,
    is_silent: bool,
    is_gone: bool,
}

/// What somebody should do or know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The alias points to another version. To be answered by [`Follow::done`] or [`Follow::failed`].
    Moved {
        /// What was imported last; none at the first time.
        from: Option<u64>,
        /// What it points to now.
        to: u64,
    },
    /// The alias is gone. What serves goes on: an alias that is deleted says nothing about what should serve instead.
    Gone,
    /// The server does not answer, for the first time since it last did.
    Failing(String),
    /// It answers again.
    Answers,
}

impl Follow {
    /// Follows an alias, looking every so often. `known` is the version that the registry has through it already.
    pub fn new(every: Duration, known: Option<u64>) -> Follow {
        Follow { every, known, moving: None, next_ms: 0, failures: 0, is_silent: false, is_gone: false }
    }

    /// Whether it is time to look. Not while a move is being dealt with.
    pub fn due(&self, now_ms: u64) -> bool {
        self.moving.is_none() && now_ms >= self.next_ms
    }

    /// When to look next, in milliseconds since 1970.
    pub fn next_ms(&self) -> u64 {
        self.next_ms
    }

    /// What the server said: the version that the alias points to, or that there is no such alias, or why it does not say.
    pub fn seen(&mut self, seen: Result<Option<u64>, String>, now_ms: u64) -> Vec<Event> {
        let mut events = Vec::new();
        let seen = match seen {
            Ok(seen) => seen,
            Err(why) => {
                if !self.is_silent {
                    self.is_silent = true;
                    events.push(Event::Failing(why));
                }
                self.wait_longer(now_ms);
                return events;
            }
        };
        if self.is_silent {
            (self.is_silent, self.failures) = (false, 0);
            events.push(Event::Answers);
        }
        self.next_ms = now_ms.saturating_add(milliseconds(self.every));
        match seen {
            None if !self.is_gone => {
                self.is_gone = true;
                events.push(Event::Gone);
            }
            None => {}
            Some(to) => {
                self.is_gone = false;
                if self.moving.is_none() && self.known != Some(to) {
                    self.moving = Some(to);
                    events.push(Event::Moved { from: self.known, to });
                }
            }
        }
        events
    }

    /// The version that the alias moved to was dealt with: it is in the registry, and its rollout is begun.
    pub fn done(&mut self) {
        if let Some(to) = self.moving.take() {
            (self.known, self.failures) = (Some(to), 0);
        }
    }

    /// It could not be dealt with. Later it is told again, if the alias still points there.
    pub fn failed(&mut self, now_ms: u64) {
        if self.moving.take().is_some() {
            self.wait_longer(now_ms);
        }
    }

    /// What was dealt with last.
    pub fn known(&self) -> Option<u64> {
        self.known
    }

    fn wait_longer(&mut self, now_ms: u64) {
        let times = 1u32.checked_shl(self.failures).unwrap_or(BACKOFF_MAX).min(BACKOFF_MAX);
        self.failures = self.failures.saturating_add(1);
        self.next_ms = now_ms.saturating_add(milliseconds(self.every.saturating_mul(times)));
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVERY: Duration = Duration::from_secs(10);

    #[test]
    fn a_move_is_told_once_and_again_only_if_it_was_not_dealt_with() {
        let mut follow = Follow::new(EVERY, Some(1));
        assert!(follow.due(0));
        assert_eq!(follow.seen(Ok(Some(1)), 0), []);
        assert!(!follow.due(9_999) && follow.due(10_000));
        assert_eq!(follow.seen(Ok(Some(2)), 10_000), [Event::Moved { from: Some(1), to: 2 }]);
        assert!(!follow.due(100_000), "one move at a time");
        follow.failed(20_000);
        assert!(!follow.due(29_999) && follow.due(30_000));
        assert_eq!(follow.seen(Ok(Some(2)), 30_000), [Event::Moved { from: Some(1), to: 2 }]);
        follow.failed(30_000);
        assert_eq!((follow.next_ms(), follow.seen(Ok(Some(2)), 50_000).len()), (50_000, 1), "longer each time");
        follow.done();
        assert_eq!((follow.known(), follow.seen(Ok(Some(2)), 60_000)), (Some(2), vec![]));
        // A restart that knows what the registry knows says nothing new.
        assert_eq!(Follow::new(EVERY, follow.known()).seen(Ok(Some(2)), 0), []);
        assert_eq!(follow.seen(Ok(Some(1)), 70_000), [Event::Moved { from: Some(2), to: 1 }], "back is a move too");
    }

    #[test]
    fn an_alias_that_is_gone_and_a_server_that_is_silent_are_told_once() {
        let mut follow = Follow::new(EVERY, None);
        assert_eq!(follow.seen(Ok(None), 0), [Event::Gone]);
        assert_eq!(follow.seen(Ok(None), 10_000), []);
        assert_eq!(follow.seen(Err("refused".into()), 20_000), [Event::Failing("refused".into())]);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let now = follow.next_ms();
            assert_eq!(follow.seen(Err("refused".into()), now), []);
            waits.push((follow.next_ms() - now) / 1000);
        }
        assert_eq!(waits, [20, 40, 80, 160, 320, 320, 320, 320]);
        assert_eq!(follow.seen(Ok(Some(4)), 10_000_000), [Event::Answers, Event::Moved { from: None, to: 4 }]);
    }

    proptest! {
        /// Whatever the server says and whoever fails or restarts: what is dealt with is each time another version than before, and
        /// at the end it is the one that the alias points to.
        #[test]
        fn what_is_dealt_with_follows_the_alias(steps in prop::collection::vec((0u64..4, 0u8..6), 1..60)) {
            let (mut follow, mut dealt, mut now) = (Follow::new(EVERY, None), Vec::new(), 0);
            for (alias, what) in steps {
                now = follow.next_ms().max(now);
                let seen = match what {
                    0 => Err("no".into()),
                    _ => Ok((alias > 0).then_some(alias)),
                };
                for event in follow.seen(seen, now) {
                    if let Event::Moved { from, to } = event {
                        prop_assert_eq!(from, dealt.last().copied());
                        prop_assert!(from != Some(to));
                        if what == 1 {
                            follow.failed(now);
                        } else if what == 2 {
                            // Killed before it was dealt with.
                            follow = Follow::new(EVERY, dealt.last().copied());
                        } else {
                            follow.done();
                            dealt.push(to);
                        }
                    }
                }
                prop_assert!(follow.due(follow.next_ms()));
            }
            for _ in 0..2 {
                let events = follow.seen(Ok(Some(9)), now + 1_000_000);
                if events.iter().any(|event| matches!(event, Event::Moved { .. })) {
                    follow.done();
                }
            }
            prop_assert_eq!(follow.known(), Some(9));
        }
    }
}
