//! When is each request meant to be sent?
//!
//! An open loop decides this before it knows any answer. Latency is counted from the intended moment, so that a server
//! that stalls is charged for everybody who came meanwhile (coordinated omission).

use std::str::FromStr;
use std::time::Duration;

use crate::arguments::parse_duration;
use crate::random::Random;

/// How requests arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Arrivals {
    /// Evenly spaced.
    Constant {
        /// Requests per second.
        rate: f64,
    },
    /// Independent of each other: a Poisson process.
    Poisson {
        /// Requests per second.
        rate: f64,
    },
    /// A Poisson process whose rate is multiplied for a while, again and again.
    Bursts {
        /// Requests per second between the bursts.
        rate: f64,
        /// What they are multiplied by.
        burst: Burst,
    },
}

/// A stretch of more load, which comes again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Burst {
    /// What the rate is multiplied by.
    pub(crate) factor: f64,
    /// How long a burst takes, from the start of each period.
    pub(crate) length: Duration,
    /// From the start of a burst to that of the next.
    pub(crate) period: Duration,
}

impl FromStr for Burst {
    type Err = String;

    /// Reads `10x1s/5s`: ten times the rate, for one second of every five.
    fn from_str(text: &str) -> Result<Burst, String> {
        let wrong = || format!("{text:?} is no burst: expected FACTORxLENGTH/PERIOD, such as 10x1s/5s");
        let (factor, times) = text.split_once('x').ok_or_else(wrong)?;
        let (length, period) = times.split_once('/').ok_or_else(wrong)?;
        let factor = factor.parse().ok().filter(|factor: &f64| *factor >= 0.0 && factor.is_finite());
        let burst = Burst {
            factor: factor.ok_or_else(wrong)?,
            length: parse_duration(length)?,
            period: parse_duration(period)?,
        };
        match burst.length < burst.period && burst.length > Duration::ZERO {
            true => Ok(burst),
            false => Err(format!("{text:?}: a burst must be longer than 0 and shorter than its period")),
        }
    }
}

/// The moments from the start of a run, in order, without end.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    arrivals: Arrivals,
    random: Random,
    /// Seconds from the start to the last arrival.
    now: f64,
    count: u64,
}

impl Schedule {
    /// The schedule that follows from a seed. Rates must be above 0.
    pub(crate) fn new(arrivals: Arrivals, seed: u64) -> Schedule {
        Schedule { arrivals, random: Random::new(seed), now: 0.0, count: 0 }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.now = match self.arrivals {
            // A product and not a sum: errors must not add up.
            Arrivals::Constant { rate } => self.count as f64 / rate,
            Arrivals::Poisson { rate } => self.now + self.random.exponential() / rate,
            Arrivals::Bursts { rate, burst } => next_in_bursts(self.now, self.random.exponential(), rate, burst),
        };
        self.count += 1;
        Some(Duration::from_secs_f64(self.now))
    }
}

/// The moment until which `expected` requests are to be expected from `now` on.
fn next_in_bursts(mut now: f64, mut expected: f64, rate: f64, burst: Burst) -> f64 {
    let (length, period) = (burst.length.as_secs_f64(), burst.period.as_secs_f64());
    let mut number = (now / period).floor();
    loop {
        let start = number * period;
        for (rate, end) in [(rate * burst.factor, start + length), (rate, start + period)] {
            if now >= end {
                continue;
            }
            let here = rate * (end - now);
            if expected < here {
                return now + expected / rate;
            }
            expected -= here;
            now = end;
        }
        number += 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: Burst = Burst { factor: 10.0, length: Duration::from_secs(1), period: Duration::from_secs(5) };

    fn within(arrivals: Arrivals, from_s: f64, to_s: f64) -> usize {
        let times = Schedule::new(arrivals, 3).map(|time| time.as_secs_f64());
        times.skip_while(|time| *time < from_s).take_while(|time| *time < to_s).count()
    }

    #[test]
    fn constant_arrivals_are_evenly_spaced() {
        let times: Vec<_> = Schedule::new(Arrivals::Constant { rate: 4.0 }, 1).take(3).collect();
        assert_eq!(times, [0, 250, 500].map(Duration::from_millis));
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_chance() {
        let arrivals = Arrivals::Poisson { rate: 1000.0 };
        let count = within(arrivals, 0.0, 20.0);
        assert!((19_400..20_600).contains(&count), "{count}");
        // In a Poisson process the variance of a count is its mean.
        let counts: Vec<f64> =
            (0..200).map(|at| within(arrivals, at as f64 * 0.1, (at + 1) as f64 * 0.1) as f64).collect();
        let mean = counts.iter().sum::<f64>() / 200.0;
        let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 199.0;
        assert!((0.7..1.4).contains(&(variance / mean)), "{variance} / {mean}");
    }

    #[test]
    fn bursts_multiply_the_rate_for_their_length() {
        let arrivals = Arrivals::Bursts { rate: 100.0, burst: BURST };
        for period in 0..4 {
            let start = f64::from(period) * 5.0;
            let (burst, calm) = (within(arrivals, start, start + 1.0), within(arrivals, start + 1.0, start + 5.0));
            assert!((880..1120).contains(&burst), "period {period}: {burst}");
            assert!((330..470).contains(&calm), "period {period}: {calm}");
        }
    }

    #[test]
    fn a_burst_of_factor_zero_is_a_pause() {
        let arrivals = Arrivals::Bursts { rate: 100.0, burst: Burst { factor: 0.0, ..BURST } };
        assert_eq!(within(arrivals, 0.0, 1.0), 0);
        assert!(within(arrivals, 1.0, 5.0) > 300);
    }

    #[test]
    fn moments_never_go_back() {
        let shapes = [
            Arrivals::Constant { rate: 1e5 },
            Arrivals::Poisson { rate: 1e5 },
            Arrivals::Bursts { rate: 1e4, burst: BURST },
        ];
        for arrivals in shapes {
            let times: Vec<_> = Schedule::new(arrivals, 9).take(20_000).collect();
            assert!(times.is_sorted(), "{arrivals:?}");
        }
    }

    #[test]
    fn bursts_are_read() {
        assert_eq!("10x1s/5s".parse(), Ok(BURST));
        assert_eq!(
            "10x1s".parse::<Burst>().unwrap_err(),
            "\"10x1s\" is no burst: expected FACTORxLENGTH/PERIOD, such as 10x1s/5s"
        );
        assert!("10x5s/5s".parse::<Burst>().is_err());
        assert!("-1x1s/5s".parse::<Burst>().is_err());
    }
}
