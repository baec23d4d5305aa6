//! How long did it take, of many times?
//!
//! One set of buckets serves both of Prometheus' forms: its bounds are those of the classic histogram, which people know by heart,
//! and those of the native one, which are four to each power of two. Either is had exactly by adding buckets up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::nanos;

/// Upper bounds of the classic buckets, in nanoseconds: 10 µs to 10 s in steps of 1, 2.5, 5.
pub const CLASSIC_NS: [u64; 19] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// The native histogram's schema: bucket `i` ends at 2^(i/4) seconds.
pub const NATIVE_SCHEMA: i32 = 2;

/// Native buckets of a power of two.
const PER_OCTAVE: usize = 1 << NATIVE_SCHEMA;

/// The first of them that is counted ends at 2^-17 s, 7.6 µs; what is shorter counts as zero.
const NATIVE_FIRST: i32 = -17 * PER_OCTAVE as i32;

/// Native buckets, up to 2^9 s; what is longer counts in one more.
const NATIVE: usize = 26 * PER_OCTAVE + 1;

/// Bounds of both forms, of which they share three: a second, its half and its quarter.
const BOUNDS: usize = CLASSIC_NS.len() + NATIVE - 3;

/// Where every bucket ends, in nanoseconds.
static BOUNDS_NS: [u64; BOUNDS] = both();

/// The `at`-th native bound, in nanoseconds: what is counted in whole nanoseconds is as large at most, or larger.
const fn native_ns(at: usize) -> u64 {
    // The roots of two, to the nearest.
    const ROOTS: [f64; PER_OCTAVE] = [1.0, 1.189_207_115_002_721, std::f64::consts::SQRT_2, 1.681_792_830_507_429];
    // Seconds at 2^-17, in nanoseconds, are not whole; times 2^octave they are exact in a float.
    (1e9 / 131_072.0 * ROOTS[at % PER_OCTAVE] * (1u64 << (at / PER_OCTAVE)) as f64) as u64
}

/// Merges both lists.
const fn both() -> [u64; BOUNDS] {
    let mut all = [0; BOUNDS];
    let (mut classic, mut native, mut at) = (0, 0, 0);
    while at < BOUNDS {
        let left = if classic < CLASSIC_NS.len() { CLASSIC_NS[classic] } else { u64::MAX };
        let right = if native < NATIVE { native_ns(native) } else { u64::MAX };
        all[at] = if left < right { left } else { right };
        classic += (left <= right) as usize;
        native += (right <= left) as usize;
        at += 1;
    }
    all
}

/// A histogram of times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Observations between each bound and the one before; the last is for those above every bound.
    buckets: [u64; BOUNDS + 1],
    /// Their sum in nanoseconds.
    pub nanos: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: [0; BOUNDS + 1], nanos: 0 }
    }
}

/// The same in the native form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Native {
    /// Observations up to [`Native::ZERO_SECONDS`].
    pub zero: u64,
    /// Those above by the bucket's number, where there are any.
    pub buckets: Vec<(i32, u64)>,
}

impl Native {
    /// What is no longer counts as zero.
    pub const ZERO_SECONDS: f64 = 1.0 / 131_072.0;
}

impl Histogram {
    /// Observations by bucket, for who has the same buckets.
    pub fn counts(&self) -> &[u64] {
        &self.buckets
    }

    /// The one with these counts, and no sum. `None` where they are of other buckets.
    pub fn of(counts: &[u64]) -> Option<Histogram> {
        Some(Histogram { buckets: counts.try_into().ok()?, nanos: 0 })
    }

    /// The number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Histogram) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(sum, more)| *sum += more);
        self.nanos += other.nanos;
    }

    /// What was counted since it was `before`.
    #[must_use]
    pub fn since(&self, before: &Histogram) -> Histogram {
        let buckets = std::array::from_fn(|at| self.buckets[at].saturating_sub(before.buckets[at]));
        Histogram { buckets, nanos: self.nanos.saturating_sub(before.nanos) }
    }

    /// Observations up to each of [`CLASSIC_NS`].
    pub fn classic(&self) -> [u64; CLASSIC_NS.len()] {
        let mut below = 0;
        let mut buckets = self.buckets.iter().zip(&BOUNDS_NS);
        CLASSIC_NS.map(|classic| {
            for (count, bound) in buckets.by_ref() {
                below += count;
                if *bound == classic {
                    break;
                }
            }
            below
        })
    }

    /// The native form.
    pub fn native(&self) -> Native {
        let mut native = Native::default();
        let (mut at, mut count) = (0, 0);
        for (position, more) in self.buckets.iter().enumerate() {
            count += more;
            let ends = BOUNDS_NS.get(position).is_none_or(|bound| at < NATIVE && *bound == native_ns(at));
            if ends {
                match at {
                    0 => native.zero = count,
                    _ if count > 0 => native.buckets.push((NATIVE_FIRST + at as i32, count)),
                    _ => {}
                }
                (at, count) = (at + 1, 0);
            }
        }
        native
    }

    /// About how long `share` of them took at most; nothing where there are none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((share * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut below = 0;
        let position = self.buckets.iter().position(|more| {
            below += more;
            below >= rank
        });
        let (high, low) =
            (|at: usize| BOUNDS_NS[at.min(BOUNDS - 1)], |at: usize| if at == 0 { 0 } else { BOUNDS_NS[at - 1] });
        // Within the bucket they are taken to lie evenly.
        position.filter(|_| count > 0).map(|at| {
            let inside = self.buckets[at];
            let part = (inside - (below - rank)) as f64 / inside as f64;
            Duration::from_nanos(low(at) + (part * high(at).saturating_sub(low(at)) as f64) as u64)
        })
    }
}

/// A histogram that threads count in.
pub(super) struct Buckets {
    buckets: [AtomicU64; BOUNDS + 1],
    nanos: AtomicU64,
}

impl Default for Buckets {
    fn default() -> Buckets {
        Buckets { buckets: [const { AtomicU64::new(0) }; BOUNDS + 1], nanos: AtomicU64::new(0) }
    }
}

impl Buckets {
    pub(super) fn add(&self, duration: Duration) {
        let value = nanos(duration);
        let bucket = BOUNDS_NS.partition_point(|&bound| bound < value);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.nanos.fetch_add(value, Relaxed);
    }

    pub(super) fn add_to(&self, sum: &mut Histogram) {
        for (sum, bucket) in sum.buckets.iter_mut().zip(&self.buckets) {
            *sum += bucket.load(Relaxed);
        }
        sum.nanos += self.nanos.load(Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(nanos: &[u64]) -> Histogram {
        let (counted, mut sum) = (Buckets::default(), Histogram::default());
        nanos.iter().for_each(|nanos| counted.add(Duration::from_nanos(*nanos)));
        counted.add_to(&mut sum);
        sum
    }

    #[test]
    fn bounds_are_those_of_both_forms_in_order() {
        assert!(BOUNDS_NS.is_sorted_by(|one, other| one < other));
        assert!(CLASSIC_NS.iter().all(|bound| BOUNDS_NS.contains(bound)));
        for at in 0..NATIVE {
            let expected = 2f64.powf(f64::from(NATIVE_FIRST + at as i32) / 4.0) * 1e9;
            assert!((native_ns(at) as f64 - expected).abs() < 1.5, "{at}: {} and {expected}", native_ns(at));
        }
    }

    #[test]
    fn both_forms_count_the_same() {
        let times = [0, 7_000, 10_000, 10_001, 30_000, 1_000_000_000, 1_000_000_001, 11_000_000_000, 700_000_000_000];
        let sum = histogram(&times);
        let below = |bound: u64| times.iter().filter(|time| **time <= bound).count() as u64;
        assert_eq!(sum.classic(), CLASSIC_NS.map(below));
        assert_eq!((sum.count(), sum.nanos), (times.len() as u64, times.iter().sum()));
        let native = sum.native();
        assert_eq!(native.zero, 2);
        assert_eq!(native.zero + native.buckets.iter().map(|(_, count)| count).sum::<u64>(), times.len() as u64);
        for (number, count) in native.buckets {
            let bound = |number: i32| 2f64.powf(f64::from(number) / 4.0) * 1e9;
            // The last one is also for what is longer than all.
            let high = if number == NATIVE_FIRST + NATIVE as i32 { f64::INFINITY } else { bound(number) };
            let within = |time: &&u64| (**time as f64) > bound(number - 1) && **time as f64 <= high;
            assert_eq!(times.iter().filter(within).count() as u64, count, "bucket {number}");
        }
    }

    #[test]
    fn quantiles_are_near_the_times() {
        let sum = histogram(&(1..=1000).map(|millis| millis * 1_000_000).collect::<Vec<_>>());
        for (share, expected) in [(0.5, 0.5), (0.99, 0.99), (1.0, 1.0)] {
            let told = sum.quantile(share).unwrap().as_secs_f64();
            assert!((told / expected - 1.0f64).abs() < 0.05, "{share}: {told}");
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
        let more = histogram(&[5_000_000]);
        let mut both = sum.clone();
        both.merge(&more);
        assert_eq!(both.since(&sum), more);
    }
}
