//! How long do runs take: most of them, and nearly all?
//!
//! Times are counted in buckets a quarter of a power of two wide. Each also holds the sum of its times, so that what is
//! read from it is a mean of what was measured, not the middle of a bucket.

/// Buckets from 256 ns to 34 s; what is shorter or longer is counted at the ends.
pub(super) const BUCKETS: usize = 4 * (LONGEST_LOG2 - SHORTEST_LOG2) as usize;

const SHORTEST_LOG2: u32 = 8;
const LONGEST_LOG2: u32 = 35;

/// The longest time that is told from longer ones, in nanoseconds.
pub(super) const LONGEST_NS: u64 = (1 << LONGEST_LOG2) - 1;

/// The share of runs, the fastest, whose mean is the typical time. The rest met something that others do not.
const TYPICAL_SHARE: f64 = 0.9;

/// A run this many times longer than the median was interrupted rather than slow: its thread lost the processor.
const INTERRUPTED_FACTOR: f64 = 8.0;

/// The share of runs that may count as interrupted. Where more are that slow, slow is how the model is.
const INTERRUPTED_SHARE_MAX: f64 = 0.02;

/// Runs of one size at least, for a statement about nearly all of them.
const P99_RUNS_MIN: u64 = 16;

/// The bucket of a time in nanoseconds.
pub(super) fn bucket(nanos: u64) -> usize {
    let nanos = nanos.clamp(1 << SHORTEST_LOG2, LONGEST_NS);
    let octave = nanos.ilog2();
    let quarter = (nanos >> (octave - 2)) & 3;
    (octave - SHORTEST_LOG2) as usize * 4 + quarter as usize
}

/// The times of runs of about one size.
#[derive(Clone, Debug)]
pub(super) struct Times {
    /// Per bucket: how many, and the sum of their nanoseconds.
    buckets: [(u64, u64); BUCKETS],
}

impl Times {
    pub(super) fn new() -> Times {
        Times { buckets: [(0, 0); BUCKETS] }
    }

    /// Adds what a bucket counted.
    pub(super) fn add(&mut self, bucket: usize, count: u64, nanos: u64) {
        self.buckets[bucket].0 += count;
        self.buckets[bucket].1 += nanos;
    }

    /// How many runs there were.
    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().map(|(count, _)| count).sum()
    }

    /// Nanoseconds of a typical run: the mean of the fastest nine in ten.
    pub(super) fn typical(&self) -> Option<f64> {
        let share = self.count() as f64 * TYPICAL_SHARE;
        let (mut left, mut sum) = (share, 0.0);
        for &(count, nanos) in self.buckets.iter().filter(|(count, _)| *count > 0) {
            let taken = left.min(count as f64);
            sum += nanos as f64 / count as f64 * taken;
            left -= taken;
        }
        (share > 0.0).then(|| sum / share)
    }

    /// Nanoseconds that 99 in 100 runs take at most, those that were interrupted left out. `None` where too few ran for
    /// that to mean anything.
    pub(super) fn p99(&self) -> Option<f64> {
        let count = self.count();
        if count < P99_RUNS_MIN {
            return None;
        }
        let far = self.at(0.5 * count as f64)? * INTERRUPTED_FACTOR;
        let slow: u64 =
            self.buckets.iter().filter(|(count, nanos)| *nanos as f64 >= far * *count as f64).map(|(c, _)| c).sum();
        let forgiven = (count as f64 * INTERRUPTED_SHARE_MAX).ceil();
        let kept = count as f64 - forgiven.min(slow as f64);
        self.at((0.99 * kept).ceil())
    }

    /// The mean of the bucket in which the run of this rank is, counted from 1.
    fn at(&self, rank: f64) -> Option<f64> {
        let mut seen = 0;
        let found = self.buckets.iter().find(|(count, _)| {
            seen += count;
            *count > 0 && seen as f64 >= rank
        })?;
        Some(found.1 as f64 / found.0 as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(runs: impl IntoIterator<Item = (u64, u64)>) -> Times {
        let mut times = Times::new();
        runs.into_iter().for_each(|(count, nanos)| times.add(bucket(nanos), count, count * nanos));
        times
    }

    #[test]
    fn buckets_are_in_order_and_narrow() {
        assert_eq!((bucket(0), bucket(256), bucket(319), bucket(320)), (0, 0, 0, 1));
        assert_eq!((bucket(LONGEST_NS), bucket(u64::MAX)), (BUCKETS - 1, BUCKETS - 1));
        let mut last = 0;
        for nanos in (256..200_000).step_by(7) {
            assert!(bucket(nanos) == last || bucket(nanos) == last + 1, "{nanos}");
            last = bucket(nanos);
        }
    }

    #[test]
    fn typical_is_a_mean_without_the_slowest() {
        assert_eq!(times([]).typical(), None);
        assert_eq!(times([(1, 5_000)]).typical(), Some(5_000.0));
        assert_eq!(times([(90, 5_000), (10, 900_000)]).typical(), Some(5_000.0));
        assert_eq!(times([(45, 5_000), (45, 7_000), (10, 900_000)]).typical(), Some(6_000.0));
    }

    #[test]
    fn p99_forgives_interruptions_and_nothing_else() {
        let check = |runs: &[(u64, u64)], expected: Option<f64>| {
            assert_eq!(times(runs.iter().copied()).p99(), expected, "{runs:?}");
        };
        check(&[(15, 5_000)], None);
        check(&[(16, 5_000)], Some(5_000.0));
        // One thread of 32 lost its processor for 4 ms.
        check(&[(31, 5_000), (1, 4_000_000)], Some(5_000.0));
        // One run in twenty really is slow.
        check(&[(950, 5_000), (50, 4_000_000)], Some(4_000_000.0));
        // Twice as slow is slow, not interrupted.
        check(&[(970, 5_000), (30, 10_000)], Some(10_000.0));
    }
}
