//! Has the challenger failed so often one after the other that no statistics are needed, and it alone?
//!
//! Where the champion fails meanwhile too, it is nobody's fault. Meanwhile is from the challenger's first failure on: after an
//! outage the champion, with more of the traffic, is the first to answer again, and who looked at its latest answer alone would
//! blame the challenger for what came before.

/// A champion that fails a few times on its own is healthy: up to one time in so many of the challenger's.
const PARTS: u32 = 4;

/// Failures of the challenger one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streak {
    failures: u32,
    /// The champion's one after the other: the latest, and most since the challenger's first.
    champions: u32,
    worst: u32,
}

impl Streak {
    /// The champion answered well, or failed.
    pub fn champion(&mut self, has_failed: bool) {
        self.champions = if has_failed { self.champions.saturating_add(1) } else { 0 };
        self.worst = self.worst.max(self.champions);
    }

    /// The challenger answered well, or failed.
    pub fn challenger(&mut self, has_failed: bool) {
        if self.failures == 0 || !has_failed {
            self.worst = self.champions;
        }
        self.failures = if has_failed { self.failures.saturating_add(1) } else { 0 };
    }

    /// Whether the champion's latest failed.
    pub fn is_champion_failing(&self) -> bool {
        self.champions > 0
    }

    /// How many.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether the champion answers well, and did meanwhile.
    pub fn is_champion_healthy(&self) -> bool {
        !self.is_champion_failing() && self.worst.saturating_mul(PARTS) <= self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_after_an_outage_does_not_make_it_the_challengers_fault() {
        let mut streak = Streak::default();
        for _ in 0..20 {
            streak.challenger(true);
            streak.champion(true);
        }
        (0..500).for_each(|_| streak.champion(false));
        assert_eq!((streak.failures(), streak.is_champion_healthy()), (20, false));
        streak.challenger(false);
        assert_eq!((streak.failures(), streak.is_champion_healthy()), (0, true));
    }

    #[test]
    fn who_fails_beside_a_champion_that_answers_is_to_blame() {
        let mut streak = Streak::default();
        // What was over before does not count.
        (0..50).for_each(|at| streak.champion(at < 49));
        for _ in 0..20 {
            streak.challenger(true);
            (0..200).for_each(|at| streak.champion(at == 7));
        }
        assert_eq!((streak.failures(), streak.is_champion_healthy()), (20, true));
        streak.champion(true);
        assert!(!streak.is_champion_healthy(), "it does not answer now");
    }
}
