//! What do the figures of a soak say, and how sure is that?

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use super::traffic::Sample;
use crate::random::Random;
use crate::server::is_counter;

/// Stretches that a run is cut into: what is in one stretch is taken to depend on each other, stretches are not.
const STRETCHES: usize = 48;

/// Runs that are drawn from the stretches.
const DRAWS: usize = 400;

/// The longest latency that is told apart from longer ones, in microseconds.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Blocks that a slope is fitted through, and Student's t for as many less 2, at 95 %.
const BLOCKS: usize = 16;
const STUDENT_T: f64 = 2.145;

/// An estimate with its interval of 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Estimate {
    pub(super) value: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// A stretch of time in which a change was under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) from: Instant,
    pub(super) until: Instant,
}

/// Latencies inside windows and outside, in microseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) inside_count: u64,
    pub(super) outside_count: u64,
    pub(super) inside_p50_us: u64,
    pub(super) outside_p50_us: u64,
    pub(super) inside_p99_us: u64,
    pub(super) outside_p99_us: u64,
    pub(super) inside_max_us: u64,
    pub(super) outside_max_us: u64,
    /// p99 inside by p99 outside.
    pub(super) ratio: Estimate,
}

/// Compares latencies within windows, which must be in order, with those between them. The interval is a bootstrap over
/// stretches of consecutive changes (Efron, 1979). `None` where one side is empty.
pub(super) fn compare(samples: &[Sample], windows: &[Window], seed: u64) -> Option<Comparison> {
    let mut samples: Vec<&Sample> = samples.iter().collect();
    samples.sort_unstable_by_key(|sample| sample.meant);
    let new = || Histogram::<u64>::new_with_bounds(1, LATENCY_US_MAX, 3).ok();
    let mut stretches = Vec::new();
    let per_stretch = samples.len().div_ceil(STRETCHES).max(1);
    let mut windows = windows.iter().peekable();
    for chunk in samples.chunks(per_stretch) {
        let (mut inside, mut outside) = (new()?, new()?);
        for sample in chunk {
            while windows.next_if(|window| window.until <= sample.meant).is_some() {}
            let within = windows.peek().is_some_and(|window| window.from <= sample.meant);
            let side = if within { &mut inside } else { &mut outside };
            side.saturating_record(sample.latency.as_micros() as u64);
        }
        stretches.push((inside, outside));
    }
    let (mut inside, mut outside) = (new()?, new()?);
    for (one, other) in &stretches {
        inside.add(one).ok()?;
        outside.add(other).ok()?;
    }
    if inside.is_empty() || outside.is_empty() {
        return None;
    }
    let ratio = |inside: &Histogram<u64>, outside: &Histogram<u64>| {
        inside.value_at_quantile(0.99) as f64 / outside.value_at_quantile(0.99).max(1) as f64
    };
    let mut random = Random::new(seed);
    let mut drawn = Vec::with_capacity(DRAWS);
    for _ in 0..DRAWS {
        let (mut one, mut other) = (new()?, new()?);
        for _ in 0..stretches.len() {
            let (inside, outside) = &stretches[random.below(stretches.len() as u64) as usize];
            one.add(inside).ok()?;
            other.add(outside).ok()?;
        }
        drawn.push(ratio(&one, &other));
    }
    drawn.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| drawn[((drawn.len() - 1) as f64 * share) as usize];
    Some(Comparison {
        inside_count: inside.len(),
        outside_count: outside.len(),
        inside_p50_us: inside.value_at_quantile(0.5),
        outside_p50_us: outside.value_at_quantile(0.5),
        inside_p99_us: inside.value_at_quantile(0.99),
        outside_p99_us: outside.value_at_quantile(0.99),
        inside_max_us: inside.max(),
        outside_max_us: outside.max(),
        ratio: Estimate { value: ratio(&inside, &outside), low: at(0.025), high: at(0.975) },
    })
}

/// The slope of `y` over `x`, through the means of blocks of consecutive points, which depend on each other less than
/// points do. `None` where there are too few.
pub(super) fn slope(points: &[(f64, f64)]) -> Option<Estimate> {
    if points.len() < BLOCKS {
        return None;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let block = |number: usize| &points[number * points.len() / BLOCKS..(number + 1) * points.len() / BLOCKS];
    let of = |pick: fn(&(f64, f64)) -> f64| -> Vec<f64> {
        (0..BLOCKS).map(|number| mean(&block(number).iter().map(pick).collect::<Vec<_>>())).collect()
    };
    let (x, y) = (of(|point| point.0), of(|point| point.1));
    let (middle, height) = (mean(&x), mean(&y));
    let spread: f64 = x.iter().map(|x| (x - middle).powi(2)).sum();
    if spread == 0.0 {
        return None;
    }
    let value = x.iter().zip(&y).map(|(x, y)| (x - middle) * (y - height)).sum::<f64>() / spread;
    let rest: f64 = x.iter().zip(&y).map(|(x, y)| (y - height - value * (x - middle)).powi(2)).sum();
    let error = (rest / (BLOCKS - 2) as f64 / spread).sqrt() * STUDENT_T;
    Some(Estimate { value, low: value - error, high: value + error })
}

/// The median; 0 where there is nothing.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// Counters that fell from one look to the next: each series that is in both, and for each metric the sum over all
/// versions, since what a version has counted may move under another label when it is gone, but not away.
pub(super) fn fallen(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> Vec<String> {
    let mut fell = Vec::new();
    for (series, was) in before.iter().filter(|(series, _)| is_counter(series)) {
        if let Some(is) = after.get(series).filter(|is| *is < was) {
            fell.push(format!("{series}: {was} → {is}"));
        }
    }
    let sums = |samples: &BTreeMap<String, f64>| {
        let mut sums: BTreeMap<String, f64> = BTreeMap::new();
        for (series, value) in samples.iter().filter(|(series, _)| is_counter(series)) {
            *sums.entry(without_version(series)).or_default() += value;
        }
        sums
    };
    let after = sums(after);
    for (series, was) in sums(before) {
        let is = after.get(&series).copied().unwrap_or(0.0);
        // Sums of seconds are fractions: their last bits depend on the order.
        if is < was * (1.0 - 1e-9) {
            fell.push(format!("{series} over all versions: {was} → {is}"));
        }
    }
    fell
}

/// A series' name and labels, the version left out.
fn without_version(series: &str) -> String {
    let Some((head, rest)) = series.split_once("version=\"") else { return series.to_owned() };
    let rest = rest.split_once('"').map_or("", |(_, rest)| rest);
    format!("{head}version=\"\"{rest}")
}

/// Windows that overlap or touch become one; they must be in the order of their beginnings.
pub(super) fn merged(windows: &[Window], after: Duration) -> Vec<Window> {
    let mut merged: Vec<Window> = Vec::new();
    for window in windows {
        let until = window.until + after;
        match merged.last_mut().filter(|last| last.until >= window.from) {
            Some(last) => last.until = last.until.max(until),
            None => merged.push(Window { from: window.from, until }),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_told_apart_by_windows() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let windows: Vec<Window> = (0..100).map(|n| Window { from: at(n * 100), until: at(n * 100 + 50) }).collect();
        let sample = |ms: u64| Sample {
            meant: at(ms),
            latency: Duration::from_micros(if ms % 100 < 50 { 2000 } else { 1000 }),
            beside: false,
        };
        let samples: Vec<Sample> = (0..10_000).map(sample).collect();
        let told = compare(&samples, &windows, 1).expect("both sides have samples");
        assert_eq!((told.inside_count, told.outside_count), (5000, 5000));
        assert!((told.ratio.value - 2.0).abs() < 0.01, "{told:?}");
        assert!(told.ratio.low > 1.9 && told.ratio.high < 2.1);
        assert!(compare(&samples, &[], 1).is_none());
    }

    #[test]
    fn slopes_are_found_with_their_doubt() {
        let mut random = Random::new(3);
        let mut line = |slope: f64| -> Vec<(f64, f64)> {
            (0..200).map(|x| (f64::from(x), f64::from(x) * slope + random.unit() * 10.0)).collect()
        };
        let flat = slope(&line(0.0)).expect("there are enough");
        assert!(flat.low < 0.0 && flat.high > 0.0, "{flat:?}");
        let steep = slope(&line(5.0)).expect("there are enough");
        assert!(steep.low > 4.9 && steep.high < 5.1, "{steep:?}");
        assert!(slope(&[(0.0, 1.0)]).is_none());
    }

    #[test]
    fn counters_that_fall_are_found_whatever_their_version() {
        let of = |pairs: &[(&str, f64)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let before: BTreeMap<_, _> = of(&[("a_total{m=\"x\",version=\"1\"}", 5.0), ("g", 3.0), ("b_total", 4.0)]);
        let moved: BTreeMap<_, _> = of(&[("a_total{m=\"x\",version=\"retired\"}", 5.0), ("g", 1.0), ("b_total", 4.0)]);
        assert!(fallen(&before, &moved).is_empty(), "{:?}", fallen(&before, &moved));
        let gone: BTreeMap<_, _> = of(&[("b_total", 3.0)]);
        assert_eq!(fallen(&before, &gone).len(), 3, "{:?}", fallen(&before, &gone));
    }

    #[test]
    fn windows_that_touch_are_one() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let window = |from, until| Window { from: at(from), until: at(until) };
        let merged = merged(&[window(0, 10), window(15, 20), window(100, 110)], Duration::from_millis(5));
        assert_eq!(merged.len(), 2);
        assert_eq!((merged[0].until, merged[1].until), (at(25), at(115)));
    }
}
