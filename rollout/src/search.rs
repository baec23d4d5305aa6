//! Where does a function that goes one way reach a level?
//!
//! By halving, so that the place is the same to the bit however it is found; but most of the halves are known without asking.
//! A few secants find about where the level is reached, and what is farther from there than rounding can reach is not computed.

/// Halvings of an interval, more than an `f64` can tell apart.
pub(crate) const HALVINGS: u32 = 60;

/// Halvings after which the rest is nearly straight, and secants that find the level there.
const COARSE: u32 = 10;
const SECANTS: u32 = 5;

/// How far from a place nobody can doubt on which side it is, where places are logarithms.
const DOUBT: f64 = 1e-6;

/// A function that rises all along, or falls, but for rounding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<F> {
    /// The function.
    pub(crate) value: F,
    /// Whether it rises.
    pub(crate) rises: bool,
    /// What it shall reach.
    pub(crate) level: f64,
    /// What rounding makes of its values near there, at most.
    pub(crate) noise: f64,
}

impl<F: Fn(f64) -> f64> Way<F> {
    /// Whether the level is reached at `x` or before.
    pub(crate) fn is_past(&self, x: f64) -> bool {
        self.passes((self.value)(x))
    }

    fn passes(&self, value: f64) -> bool {
        if self.rises { value >= self.level } else { value < self.level }
    }

    /// Whether it is reached before `x`; `None` where it may be just there.
    pub(crate) fn is_clearly_past(&self, x: f64) -> Option<bool> {
        if self.is_past(x - DOUBT) {
            return Some(true);
        }
        (!self.is_past(x + DOUBT)).then_some(false)
    }

    /// Where it is reached between `from` and `to`.
    pub(crate) fn first(&self, from: f64, to: f64) -> f64 {
        let mut ends = [(from, f64::NAN), (to, f64::NAN)];
        // Up to here it is not reached, and from here on it is.
        let mut sure = [f64::NEG_INFINITY, f64::INFINITY];
        for halving in 0..HALVINGS {
            if halving == COARSE {
                sure = self.narrowed(ends).unwrap_or(sure);
            }
            let middle = (ends[0].0 + ends[1].0) / 2.0;
            let (side, value) = if middle <= sure[0] {
                (0, f64::NAN)
            } else if middle >= sure[1] {
                (1, f64::NAN)
            } else {
                let value = (self.value)(middle);
                let side = usize::from(self.passes(value));
                sure[side] = middle;
                (side, value)
            };
            ends[side] = (middle, value);
        }
        ends[1].0
    }

    /// Two places near each other between which it is reached, and clearly not elsewhere.
    fn narrowed(&self, [from, to]: [(f64, f64); 2]) -> Option<[f64; 2]> {
        let slope = (to.1 - from.1) / (to.0 - from.0);
        let (mut last, mut next) = (from, to);
        for _ in 0..SECANTS {
            let x = next.0 + (self.level - next.1) * (next.0 - last.0) / (next.1 - last.1);
            if !(x > from.0 && x < to.0) {
                return None;
            }
            (last, next) = (next, (x, (self.value)(x)));
            if (next.1 - self.level).abs() <= self.noise {
                break;
            }
        }
        let reach = 4.0 * self.noise / slope.abs();
        let places = [next.0 - reach, next.0 + reach];
        let [before, after] = places.map(|x| ((self.value)(x) - self.level) * slope.signum());
        (before <= -self.noise && after >= self.noise).then_some(places)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn plain(is_past: impl Fn(f64) -> bool, mut from: f64, mut to: f64) -> f64 {
        for _ in 0..HALVINGS {
            let middle = (from + to) / 2.0;
            if is_past(middle) { to = middle } else { from = middle }
        }
        to
    }

    #[test]
    fn what_is_not_asked_is_known() {
        for level in [-4.0, -0.3, 0.0, 1e-9, 0.7, 2.0, 3.99, 17.0] {
            for rises in [true, false] {
                let asked = Cell::new(0);
                let sign = if rises { 1.0 } else { -1.0 };
                let value = |x: f64| {
                    asked.set(asked.get() + 1);
                    // It trembles in the last digits.
                    sign * (x * x * x / 4.0 + x) + if (x.to_bits() & 4) == 0 { 3e-16 } else { -3e-16 }
                };
                let way = Way { value, rises, level: sign * level, noise: 1e-14 };
                let expected = plain(|x| way.is_past(x), -3.0, 3.0);
                asked.set(0);
                assert_eq!(way.first(-3.0, 3.0).to_bits(), expected.to_bits(), "{level}");
                assert!(asked.get() < 40 || expected.abs() > 2.9, "{level}: {} times", asked.get());
                let is_there = way.is_clearly_past(expected + 1e-7).is_none() || expected.abs() > 2.9;
                assert!(is_there && way.is_clearly_past(expected + 1e-3) == Some(level < 10.0), "{level}");
            }
        }
    }
}
