//! Which requests does a shadow see?
//!
//! A sample by the request's own name, which says nothing of its content, at a rate that falls before anything has to be
//! dropped and comes back slowly. A state machine without clock; shares are in millionths.

use std::time::Duration;

use tiltyard_rollout::plan::MILLION;
use tiltyard_types::{Moment, RequestId};

/// How full a shadow may be before fewer requests are sampled for it.
const FULL_FROM: u32 = MILLION / 4;

/// What is left of the rate where it is full.
const LEFT_WHEN_FULL: u32 = MILLION / 8;

/// The least that the rate is lowered to, as a share of the plan's: so much goes on finding out whether there is room again.
const FRACTION_MIN: u32 = MILLION / 1_000;

/// How long a lowered rate is given to show before it is lowered again.
const LOWER_EVERY: Duration = Duration::from_millis(250);

/// How long nothing may have been wrong before the rate is raised, and between two raises.
const RAISE_EVERY: Duration = Duration::from_secs(1);

/// Whether a request is in the sample of this rate. Whoever is in a small one is in every larger one, so that shadows of the
/// same rate see the same requests.
pub fn is_sampled(id: RequestId, rate: u32) -> bool {
    // The finaliser of splitmix64 over the id's random bits, with those of its time.
    let bits = id.bits();
    let mut mixed = (bits as u64) ^ ((bits >> 64) as u64).rotate_left(32);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    ((u128::from(mixed) * u128::from(MILLION)) >> 64) < u128::from(rate)
}

/// The share `part` of `whole`, both in millionths.
pub fn share_of(whole: u32, part: u32) -> u32 {
    u32::try_from(u64::from(whole) * u64::from(part) / u64::from(MILLION)).unwrap_or(MILLION)
}

/// How full something is that holds `used` of `most`.
pub fn fullness(used: usize, most: usize) -> u32 {
    let share = used.saturating_mul(MILLION as usize) / most.max(1);
    u32::try_from(share).unwrap_or(MILLION).min(MILLION)
}

/// What is sampled of the rate where a shadow is so full: all of it up to a quarter, then ever less.
pub fn thinned(fullness: u32) -> u32 {
    let above = fullness.min(MILLION).saturating_sub(FULL_FROM);
    let lost = u64::from(MILLION - LEFT_WHEN_FULL) * u64::from(above) / u64::from(MILLION - FULL_FROM);
    MILLION - u32::try_from(lost).unwrap_or(MILLION)
}

/// Lowers a shadow's rate while it cannot keep up, and raises it again.
#[derive(Clone, Copy, Debug)]
pub struct Controller {
    /// The share of the plan's rate that is sampled.
    fraction: u32,
    lowered: Moment,
    /// When something was wrong last, or the rate was raised.
    unrest: Moment,
}

impl Controller {
    /// One that samples all that the plan says.
    pub fn new(now: Moment) -> Controller {
        Controller { fraction: MILLION, lowered: Moment::default(), unrest: now }
    }

    /// Takes in how full the shadow is, and whether something was dropped since the last look. Gives the share of the plan's
    /// rate that is to be sampled from now on.
    pub fn look(&mut self, fullness: u32, has_dropped: bool, now: Moment) -> u32 {
        if fullness > FULL_FROM || has_dropped {
            self.unrest = now;
            if now - self.lowered >= LOWER_EVERY {
                self.lowered = now;
                self.fraction = (self.fraction / 2).max(FRACTION_MIN);
            }
        } else if fullness > FULL_FROM / 2 {
            self.unrest = now;
        } else if now - self.unrest >= RAISE_EVERY {
            self.unrest = now;
            self.fraction = (self.fraction + self.fraction / 10).min(MILLION);
        }
        self.fraction
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    /// Names as the server gives them: a moment in milliseconds, then chance, which here is a counter's hash.
    fn id(number: u64) -> RequestId {
        let random = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bd1) as u128;
        RequestId::new(Uuid::from_u128((0x0192_0000_0000_7000 + u128::from(number / 50)) << 64 | (0b10 << 62) | random))
    }

    #[test]
    fn samples_have_the_size_of_their_rate_and_grow_in_place() {
        let count = |rate| (0..200_000).filter(|number| is_sampled(id(*number), rate)).count();
        let check = |rate: u32| {
            let (share, count) = (f64::from(rate) / 1e6, count(rate) as f64);
            let spread = 5.0 * (200_000.0 * share * (1.0 - share)).sqrt();
            assert!((count - 200_000.0 * share).abs() <= spread, "{rate}: {count}");
        };
        [10_000, 100_000, 500_000, 900_000].into_iter().for_each(check);
        assert_eq!((count(0), count(MILLION)), (0, 200_000));
        assert!((0..20_000).all(|number| !is_sampled(id(number), 100_000) || is_sampled(id(number), 100_001)));
    }

    #[test]
    fn less_is_sampled_the_fuller_it_is() {
        assert_eq!([0, 250_000, 1_000_000].map(thinned), [1_000_000, 1_000_000, 125_000]);
        assert!((0..=MILLION).step_by(1_000).map(thinned).is_sorted_by(|a, b| a >= b));
        assert_eq!((fullness(256, 1024), fullness(2048, 1024), fullness(1, 0)), (250_000, MILLION, MILLION));
        assert_eq!(share_of(100_000, 500_000), 50_000);
    }

    #[test]
    fn the_rate_falls_at_once_and_comes_back_slowly() {
        let mut controller = Controller::new(at(1_000));
        assert_eq!(controller.look(0, false, at(1_100)), MILLION);
        assert_eq!(controller.look(300_000, false, at(1_200)), 500_000, "before anything is dropped");
        assert_eq!(controller.look(300_000, false, at(1_300)), 500_000, "what was lowered is given time");
        assert_eq!(controller.look(300_000, false, at(1_450)), 250_000);
        assert_eq!(controller.look(0, true, at(1_700)), 125_000);
        assert_eq!(controller.look(0, false, at(2_699)), 125_000);
        assert_eq!(controller.look(0, false, at(2_700)), 137_500);
        assert_eq!(controller.look(200_000, false, at(3_700)), 137_500, "half full is no reason to raise it");
        let seconds = (5..).find(|second| controller.look(0, false, at(second * 1_000)) == MILLION).unwrap();
        assert!((20..40).contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_rate_never_falls_to_nothing() {
        let mut controller = Controller::new(at(0));
        for second in 1..60 {
            controller.look(MILLION, true, at(second * 1_000));
        }
        assert_eq!(controller.look(MILLION, true, at(60_000)), FRACTION_MIN);
        assert!(controller.look(0, false, at(61_001)) > FRACTION_MIN);
    }
}
