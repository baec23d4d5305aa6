//! How does the process end without anybody noticing?
//!
//! In phases, which only go forward. What is to happen in each of them is done by those who watch: readiness, listeners,
//! connections and streams. This file knows no signal, no socket and no clock.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tiltyard_types::Moment;
use tokio::sync::watch;

/// How long those whose time is over may take to hear of it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where the process stands between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Requests are answered.
    Serving,
    /// Requests are answered, and load balancers are told to look elsewhere.
    Notice,
    /// Nothing new comes in; what is under way is finished.
    Draining,
    /// The time is over: whoever still waits is told so.
    Cutting,
    /// Nothing is left to do.
    Ended,
}

/// How long the phases may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Of [`Phase::Notice`].
    pub notice: Duration,
    /// Of [`Phase::Draining`].
    pub drain: Duration,
}

/// The way from serving to the end.
#[derive(Debug)]
pub struct Drain {
    phase: Phase,
    until: Option<Moment>,
    patience: Patience,
}

impl Drain {
    /// A process that serves.
    pub fn new() -> Drain {
        Drain {
            phase: Phase::Serving,
            until: None,
            patience: Patience { notice: Duration::ZERO, drain: Duration::ZERO },
        }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When [`Drain::look`] is due; `None` where time changes nothing.
    pub fn until(&self) -> Option<Moment> {
        self.until
    }

    /// Somebody asks the process to end. A second time is for those who do not want to wait: what is under way is cut off,
    /// and a third time ends all. A server that never was ready has no notice to give.
    pub fn ask(&mut self, now: Moment, was_ready: bool, patience: Patience) {
        match self.phase {
            Phase::Serving => {
                self.patience = patience;
                match was_ready && !patience.notice.is_zero() {
                    true => self.enter(Phase::Notice, now, patience.notice),
                    false => self.enter(Phase::Draining, now, patience.drain),
                }
            }
            Phase::Notice | Phase::Draining => self.enter(Phase::Cutting, now, LAST_WORDS),
            Phase::Cutting | Phase::Ended => self.end(),
        }
    }

    /// Goes on where the time of a phase is over.
    pub fn look(&mut self, now: Moment) {
        while let Some(until) = self.until
            && until <= now
        {
            match self.phase {
                Phase::Notice => self.enter(Phase::Draining, until, self.patience.drain),
                Phase::Draining => self.enter(Phase::Cutting, until, LAST_WORDS),
                Phase::Serving | Phase::Cutting | Phase::Ended => self.end(),
            }
        }
    }

    /// Nothing is open any more, and nothing can come.
    pub fn all_ended(&mut self) {
        if self.phase >= Phase::Draining {
            self.end();
        }
    }

    fn enter(&mut self, phase: Phase, now: Moment, time: Duration) {
        self.phase = phase;
        self.until = Some(now + time);
    }

    fn end(&mut self) {
        self.phase = Phase::Ended;
        self.until = None;
    }
}

impl Default for Drain {
    fn default() -> Drain {
        Drain::new()
    }
}

/// Waits until the process is in `phase` or beyond. For ever where nobody drives the phases.
pub async fn reached(phases: &mut watch::Receiver<Phase>, phase: Phase) {
    if phases.wait_for(|now| *now >= phase).await.is_err() {
        std::future::pending().await
    }
}

/// What was cut off.
#[derive(Debug, Default)]
pub struct Cut {
    requests: AtomicUsize,
    connections: AtomicUsize,
}

impl Cut {
    /// Notes a connection that was open when the time was over, with as many requests under way.
    pub fn note(&self, requests: usize) {
        if requests > 0 {
            self.requests.fetch_add(requests, Relaxed);
            self.connections.fetch_add(1, Relaxed);
        }
    }

    /// Requests that were not answered in time, streams included.
    pub fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }

    /// Connections that carried them.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience { notice: Duration::from_secs(5), drain: Duration::from_secs(30) };

    fn at(seconds: u64) -> Moment {
        Moment::from_nanos(seconds * 1_000_000_000)
    }

    fn asked(patience: Patience) -> Drain {
        let mut drain = Drain::new();
        drain.ask(at(100), true, patience);
        drain
    }

    #[test]
    fn a_server_that_nobody_asks_serves_for_ever() {
        let mut drain = Drain::new();
        drain.look(at(1_000_000));
        drain.all_ended();
        assert_eq!((drain.phase(), drain.until()), (Phase::Serving, None));
    }

    #[test]
    fn each_phase_has_its_whole_time() {
        let mut drain = asked(PATIENCE);
        let mut seen = Vec::new();
        for second in 100..=137 {
            drain.look(at(second));
            if seen.last().is_none_or(|(_, phase)| *phase != drain.phase()) {
                seen.push((second, drain.phase()));
            }
        }
        let expected = [(100, Phase::Notice), (105, Phase::Draining), (135, Phase::Cutting), (136, Phase::Ended)];
        assert_eq!(seen, expected);
        assert_eq!(drain.until(), None);
    }

    #[test]
    fn a_late_look_catches_up() {
        let mut drain = asked(PATIENCE);
        drain.look(at(106));
        assert_eq!((drain.phase(), drain.until()), (Phase::Draining, Some(at(135))), "the notice ended at 105");
        drain.look(at(1000));
        assert_eq!(drain.phase(), Phase::Ended);
    }

    #[test]
    fn without_notice_the_drain_begins_at_once() {
        let drain = asked(Patience { notice: Duration::ZERO, ..PATIENCE });
        assert_eq!((drain.phase(), drain.until()), (Phase::Draining, Some(at(130))));
    }

    #[test]
    fn a_server_that_never_was_ready_gives_no_notice() {
        let mut drain = Drain::new();
        drain.ask(at(100), false, PATIENCE);
        assert_eq!((drain.phase(), drain.until()), (Phase::Draining, Some(at(130))));
    }

    #[test]
    fn it_ends_as_soon_as_nothing_is_open_but_never_during_the_notice() {
        let mut drain = asked(PATIENCE);
        drain.all_ended();
        assert_eq!(drain.phase(), Phase::Notice, "load balancers still send requests");
        drain.look(at(105));
        drain.all_ended();
        assert_eq!((drain.phase(), drain.until()), (Phase::Ended, None));
    }

    #[test]
    fn whoever_asks_again_does_not_want_to_wait() {
        for seconds in [101, 110] {
            let mut drain = asked(PATIENCE);
            drain.look(at(seconds));
            drain.ask(at(seconds), true, PATIENCE);
            assert_eq!((drain.phase(), drain.until()), (Phase::Cutting, Some(at(seconds + 1))));
            drain.ask(at(seconds), true, PATIENCE);
            assert_eq!(drain.phase(), Phase::Ended);
        }
    }

    #[test]
    fn no_patience_cuts_at_once() {
        let mut drain = asked(Patience { notice: Duration::ZERO, drain: Duration::ZERO });
        drain.look(at(100));
        assert_eq!(drain.phase(), Phase::Cutting);
    }

    #[test]
    fn idle_connections_are_not_cut_off() {
        let cut = Cut::default();
        [0, 3, 0, 2].into_iter().for_each(|requests| cut.note(requests));
        assert_eq!((cut.requests(), cut.connections()), (5, 2));
    }
}
