//! How are several ways of doing the same work timed fairly on a machine that is never quiet?

pub mod onnxruntime;

use std::hint::black_box;
use std::time::{Duration, Instant};

/// One way of doing the work: its name in the report, and the work once.
pub struct Contender<'a> {
    /// The name in the report.
    pub name: &'a str,
    /// Does the work once; the answer is something that the optimizer must not drop.
    pub work: Box<dyn FnMut() -> usize + 'a>,
}

impl<'a> Contender<'a> {
    /// A contender that does `work`.
    pub fn new(name: &'a str, work: impl FnMut() -> usize + 'a) -> Contender<'a> {
        Contender { name, work: Box::new(work) }
    }
}

/// The median time that each contender takes to do its work once, in their order.
///
/// Each round times every contender for `slice`, one after the other, so that what disturbs the machine for longer
/// than a round disturbs them all.
pub fn side_by_side(contenders: &mut [Contender<'_>], rounds: usize, slice: Duration) -> Vec<Duration> {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); contenders.len()];
    for contender in contenders.iter_mut() {
        black_box((contender.work)());
    }
    for _ in 0..rounds {
        for (contender, times) in contenders.iter_mut().zip(&mut times) {
            times.push(time_once(&mut contender.work, slice));
        }
    }
    times.iter_mut().map(|times| median(times)).collect()
}

/// The mean time of as many repetitions as fit into the slice, one at least.
fn time_once(work: &mut dyn FnMut() -> usize, slice: Duration) -> Duration {
    let start = Instant::now();
    let mut repetitions = 0;
    loop {
        black_box(work());
        repetitions += 1;
        let passed = start.elapsed();
        if passed >= slice {
            return passed / repetitions;
        }
    }
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_takes_its_turn() {
        let (mut first, mut second) = (0, 0);
        let mut contenders = [
            Contender::new("first", || {
                first += 1;
                first
            }),
            Contender::new("second", || {
                second += 1;
                second
            }),
        ];
        let times = side_by_side(&mut contenders, 3, Duration::ZERO);
        drop(contenders);
        assert_eq!((times.len(), first, second), (2, 4, 4));
    }

    #[test]
    fn the_median_is_the_middle_one() {
        let seconds = Duration::from_secs;
        assert_eq!(median(&mut [seconds(9), seconds(1), seconds(2)]), seconds(2));
    }
}
