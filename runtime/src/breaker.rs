//! When does a version whose runs fail answer no more?
//!
//! A state machine without threads or clock. Runs that fail one after the other by the engine's fault make a version
//! suspect: it is then asked something that it is known to answer, which tells a version that is broken from requests that
//! it cannot take. If it fails there too it is out, and is asked again, ever more rarely, until it answers.

use std::time::Duration;

use tiltyard_types::Moment;

/// Runs that fail one after the other until a version is suspect.
pub const FAULTS_MAX: u32 = 5;

/// How long a version that is out is left alone at first, and how long a suspect is between two probes.
pub const WAIT_FIRST: Duration = Duration::from_secs(1);

/// How long it is left alone at most: each probe that fails doubles the wait.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// What became of asking a version something that it is known to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It answered.
    Answers,
    /// It did not, for this reason.
    Fails(String),
    /// Nothing is known that it should answer.
    Unknown,
}

/// Why a version is out, as its clients may read it.
pub const FAILS: &str = "is out of service: its runs kept failing, and it is tried again until it answers";

/// The same of one that is not tried again.
pub const HANGS: &str = "is out of service: its runs hang; load it again, or start the server anew";

/// Why a version is out whose probe takes too long: for the operator.
const SLOW: &str = "it takes too long to answer what it is known to answer";

/// Whether a version may answer, and why not.
#[derive(Debug, Default)]
pub struct Breaker {
    state: State,
    /// Runs that failed one after the other.
    faults: u32,
    /// What the engine said of the last of them, or of the probe: for the operator, not for clients.
    reason: String,
    /// Whether a probe is waited for.
    is_probed: bool,
    /// Probes that were begun and have not come back.
    probes: usize,
    /// When a probe last ended.
    probed: Option<Moment>,
}

#[derive(Debug, Default, PartialEq)]
enum State {
    /// It answers.
    #[default]
    In,
    /// It answers still, and is asked at this moment.
    Suspect(Moment),
    /// It does not answer, and is asked at this moment.
    Out { probe_at: Moment, wait: Duration },
    /// It does not answer, and is never asked again.
    Gone,
}

impl Breaker {
    /// A run went well.
    pub fn ran_well(&mut self) {
        self.faults = 0;
        if let State::Suspect(_) = self.state {
            self.state = State::In;
        }
    }

    /// A run failed by the engine's fault. True if a probe is called for since this one.
    pub fn failed(&mut self, reason: &str, now: Moment) -> bool {
        self.faults = self.faults.saturating_add(1);
        if self.state != State::In || self.faults < FAULTS_MAX {
            return false;
        }
        reason.clone_into(&mut self.reason);
        let rested = self.probed.map_or(now, |probed| probed + WAIT_FIRST);
        self.state = State::Suspect(rested.max(now));
        true
    }

    /// Whether it is to be asked now; it is then [told](Breaker::probed) what came of it, once.
    pub fn begins_probe(&mut self, now: Moment) -> bool {
        let is_due = match self.state {
            State::In | State::Gone => false,
            State::Suspect(probe_at) | State::Out { probe_at, .. } => probe_at <= now,
        };
        let begins = is_due && !self.is_probed;
        self.is_probed |= begins;
        self.probes += usize::from(begins);
        begins
    }

    /// Takes in what came of a probe, also of one that nobody waited for any more.
    pub fn probed(&mut self, probe: Probe, now: Moment) {
        self.probes = self.probes.saturating_sub(1);
        self.take_in(probe, now);
    }

    /// The probe takes too long: it has failed as far as anybody can tell, and another one is due after a pause. Says how
    /// many have not come back.
    pub fn overdue(&mut self, now: Moment) -> usize {
        self.take_in(Probe::Fails(SLOW.to_owned()), now);
        self.probes
    }

    fn take_in(&mut self, probe: Probe, now: Moment) {
        self.is_probed = false;
        self.probed = Some(now);
        let next = match self.state {
            State::Out { wait, .. } => (wait * 2).min(WAIT_MAX),
            State::In | State::Suspect(_) | State::Gone => WAIT_FIRST,
        };
        match (&self.state, probe) {
            (State::In | State::Gone, _) => {}
            (State::Suspect(_) | State::Out { .. }, Probe::Answers) => (self.state, self.faults) = (State::In, 0),
            // On probation: the next fault makes it suspect again.
            (State::Out { .. }, Probe::Unknown) => (self.state, self.faults) = (State::In, FAULTS_MAX - 1),
            (State::Suspect(_), Probe::Unknown) => self.state = State::Out { probe_at: now + next, wait: next },
            (State::Suspect(_) | State::Out { .. }, Probe::Fails(reason)) => {
                self.reason = reason;
                self.state = State::Out { probe_at: now + next, wait: next };
            }
        }
    }

    /// Takes it out for good.
    pub fn gives_up(&mut self, reason: String) {
        self.reason = reason;
        self.state = State::Gone;
    }

    /// Why it does not answer; `None` where it does.
    pub fn out(&self) -> Option<&'static str> {
        match self.state {
            State::In | State::Suspect(_) => None,
            State::Out { .. } => Some(FAILS),
            State::Gone => Some(HANGS),
        }
    }

    /// What the engine said when it failed last.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether it is being asked now.
    pub fn is_probed(&self) -> bool {
        self.is_probed
    }

    /// Whether it counts faults, so that a run that goes well is news.
    pub fn is_wary(&self) -> bool {
        self.faults > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    fn suspect() -> Breaker {
        let mut breaker = Breaker::default();
        let calls: Vec<bool> = (0..FAULTS_MAX).map(|_| breaker.failed("as ordered", at(0))).collect();
        assert_eq!(calls, [false, false, false, false, true]);
        breaker
    }

    fn out() -> Breaker {
        let mut breaker = suspect();
        assert!(breaker.begins_probe(at(0)) && breaker.out().is_none());
        breaker.probed(Probe::Fails("the example fails".into()), at(10));
        assert_eq!((breaker.out(), breaker.reason()), (Some(FAILS), "the example fails"));
        breaker
    }

    #[test]
    fn requests_that_no_version_could_take_take_none_out() {
        let mut breaker = suspect();
        assert!(breaker.begins_probe(at(0)));
        assert!(!breaker.begins_probe(at(0)), "one probe at a time");
        breaker.probed(Probe::Answers, at(1));
        assert_eq!(breaker.out(), None);
        // The next of them must wait: probes take time from others.
        assert!((0..FAULTS_MAX).any(|_| breaker.failed("as ordered", at(2))));
        assert!(!breaker.begins_probe(at(1_000)));
        assert!(breaker.begins_probe(at(1_001)));
    }

    #[test]
    fn a_run_that_goes_well_ends_the_suspicion() {
        let mut breaker = suspect();
        breaker.ran_well();
        assert!(!breaker.begins_probe(at(60_000)) && !breaker.is_wary());
    }

    #[test]
    fn who_is_out_is_asked_ever_more_rarely_until_it_answers() {
        let mut breaker = out();
        let mut now = 10;
        for wait in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            assert!(!breaker.begins_probe(at(now + wait - 1)));
            now += wait;
            assert!(breaker.begins_probe(at(now)));
            breaker.probed(Probe::Fails("still".into()), at(now));
            assert_eq!((breaker.out(), breaker.reason()), (Some(FAILS), "still"));
        }
        assert!(breaker.begins_probe(at(now + 60_000)));
        breaker.probed(Probe::Answers, at(now + 60_000));
        assert_eq!(breaker.out(), None);
    }

    #[test]
    fn where_nothing_is_known_that_it_should_answer_requests_are_the_probe() {
        let mut breaker = suspect();
        assert!(breaker.begins_probe(at(0)));
        breaker.probed(Probe::Unknown, at(0));
        assert_eq!((breaker.out(), breaker.reason()), (Some(FAILS), "as ordered"));
        assert!(breaker.begins_probe(at(1_000)));
        breaker.probed(Probe::Unknown, at(1_000));
        assert_eq!(breaker.out(), None);
        assert!(breaker.failed("again", at(1_001)), "one fault is enough now");
    }

    #[test]
    fn who_takes_too_long_is_asked_ever_more_rarely_and_may_answer_late() {
        let mut breaker = suspect();
        assert!(breaker.begins_probe(at(0)));
        assert_eq!(breaker.overdue(at(1_000)), 1);
        assert_eq!((breaker.out(), breaker.reason(), breaker.is_probed()), (Some(FAILS), SLOW, false));
        assert!(!breaker.begins_probe(at(1_999)) && breaker.begins_probe(at(2_000)));
        assert_eq!(breaker.overdue(at(3_000)), 2);
        assert!(!breaker.begins_probe(at(4_999)) && breaker.begins_probe(at(5_000)));
        // One of those that nobody waits for any more comes back after all.
        breaker.probed(Probe::Answers, at(5_001));
        assert_eq!(breaker.out(), None);
        breaker.probed(Probe::Fails("late".into()), at(5_002));
        assert_eq!(breaker.out(), None, "what a version failed before it answered is past");
    }

    #[test]
    fn who_is_gone_does_not_come_back() {
        let mut breaker = out();
        assert!(breaker.begins_probe(at(5_000)));
        breaker.gives_up("its runs hang".into());
        breaker.probed(Probe::Answers, at(5_000));
        breaker.ran_well();
        assert!(!breaker.begins_probe(at(1_000_000)));
        assert_eq!((breaker.out(), breaker.reason()), (Some(HANGS), "its runs hang"));
    }

    proptest! {
        /// Whatever happens: nobody is out without enough faults in a row, and a probe after them that did not answer.
        #[test]
        fn nobody_is_out_without_a_reason(steps in prop::collection::vec((0u8..6, 0u64..3_000), 0..80)) {
            let mut breaker = Breaker::default();
            let (mut now, mut row, mut enough, mut probes, mut failed) = (0, 0, false, false, false);
            for (step, ms) in steps {
                now += ms / 2;
                match step {
                    0 => {
                        breaker.ran_well();
                        row = 0;
                    }
                    1..=3 => {
                        breaker.failed("as ordered", at(now));
                        row += 1;
                        enough |= row >= FAULTS_MAX;
                    }
                    _ if probes => {
                        probes = false;
                        failed = step == 4;
                        breaker.probed(if failed { Probe::Fails("no".into()) } else { Probe::Answers }, at(now));
                    }
                    _ => probes = breaker.begins_probe(at(now)),
                }
                prop_assert!(breaker.out().is_none() || (enough && failed));
            }
        }
    }
}
