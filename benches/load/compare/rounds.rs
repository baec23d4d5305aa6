//! How are several subjects measured fairly on a machine that is never quiet, and what do their rounds say?
//!
//! Each round measures every subject once, one after the other: what disturbs the machine for longer than a round disturbs
//! them all. Every second round goes backwards, so that nobody is always the first. Ratios are made within a round, and
//! medians over the rounds.

use serde::Serialize;

use crate::Fault;
use crate::run::{Load, drive};
use crate::summary::Summary;

/// Somebody to measure.
#[derive(Clone, Debug)]
pub(super) struct Contender {
    /// Who it is: server, against, hyper echo …
    pub(super) subject: String,
    /// What sets it apart from the subject's other stretches, such as the model and the concurrency.
    pub(super) case: String,
    /// What it is given.
    pub(super) load: Load,
}

/// What a contender's rounds showed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) subject: String,
    pub(super) case: String,
    pub(super) protocol: crate::payload::Protocol,
    pub(super) rounds: Vec<Summary>,
}

/// A figure of a round.
pub(super) type Figure = fn(&Summary) -> f64;

/// Requests per second.
pub(super) const THROUGHPUT: Figure = |summary| summary.requests_per_second;

/// Processor time of the subject for each request, in microseconds; not a number where it was not read.
pub(super) const CPU: Figure = |summary| summary.server.map_or(f64::NAN, |server| server.cpu_us_per_request);

/// The median latency in microseconds.
pub(super) const P50: Figure = |summary| summary.latency_us.p50;

/// The 99th percentile of latency in microseconds.
pub(super) const P99: Figure = |summary| summary.latency_us.p99;

/// The 99.9th percentile of latency in microseconds.
pub(super) const P999: Figure = |summary| summary.latency_us.p999;

/// Answers within the bound, per second.
pub(super) const GOOD: Figure = |summary| summary.good_per_second;

impl Outcome {
    /// The median of a figure over the rounds.
    pub(super) fn median(&self, figure: Figure) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }

    /// The median over the rounds of the ratio to another subject's figure of the same round.
    pub(super) fn ratio(&self, other: &Outcome, figure: Figure) -> f64 {
        median(self.rounds.iter().zip(&other.rounds).map(|(one, other)| figure(one) / figure(other)).collect())
    }

    /// The least and the most of that ratio over the rounds.
    pub(super) fn ratio_range(&self, other: &Outcome, figure: Figure) -> (f64, f64) {
        let ratios = self.rounds.iter().zip(&other.rounds).map(|(one, other)| figure(one) / figure(other));
        ratios.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), ratio| (least.min(ratio), most.max(ratio)))
    }

    /// How far throughput went apart over the rounds: the largest less the smallest, by the median.
    pub(super) fn spread(&self) -> f64 {
        let figures = self.rounds.iter().map(THROUGHPUT);
        let (low, high) = figures.fold((f64::MAX, f64::MIN), |(low, high), one| (low.min(one), high.max(one)));
        (high - low) / self.median(THROUGHPUT)
    }

    /// Requests that went wrong in all rounds.
    pub(super) fn failed(&self) -> u64 {
        self.rounds.iter().map(Summary::failed).sum()
    }
}

/// The middle one; of an even count the mean of the two; not a number where there is none or one is none.
pub(super) fn median(mut figures: Vec<f64>) -> f64 {
    if figures.is_empty() || figures.iter().any(|figure| figure.is_nan()) {
        return f64::NAN;
    }
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() % 2 {
        1 => figures[middle],
        _ => f64::midpoint(figures[middle - 1], figures[middle]),
    }
}

/// Measures all contenders in turns. Fails when one of them does not answer at all.
pub(super) fn measure(contenders: &[Contender], rounds: usize) -> Result<Vec<Outcome>, Fault> {
    let outcome = |contender: &Contender| Outcome {
        subject: contender.subject.clone(),
        case: contender.case.clone(),
        protocol: contender.load.protocol,
        rounds: Vec::new(),
    };
    let mut outcomes: Vec<Outcome> = contenders.iter().map(outcome).collect();
    for round in 0..rounds {
        let mut turns: Vec<(&Contender, &mut Outcome)> = contenders.iter().zip(&mut outcomes).collect();
        if round % 2 == 1 {
            turns.reverse();
        }
        for (Contender { subject, case, load }, outcome) in turns {
            // Other chance in every round, and the same for all in one.
            let load = Load { seed: load.seed + round as u64, ..load.clone() };
            let summary = drive(&load).map_err(|fault| format!("{subject}, {case}, {}: {fault}", load.protocol))?;
            eprintln!("round {} of {rounds}: {subject}, {case}, {}: {summary}", round + 1, load.protocol);
            outcome.rounds.push(summary);
        }
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Recorder;

    fn outcome(throughputs: &[f64]) -> Outcome {
        let summary = |throughput: &f64| Summary {
            requests_per_second: *throughput,
            ..Recorder::new(None).expect("the bounds are right").summary(std::time::Duration::from_secs(1), 1, 0)
        };
        Outcome {
            subject: "server".into(),
            case: "mlp".into(),
            protocol: crate::payload::Protocol::Grpc,
            rounds: throughputs.iter().map(summary).collect(),
        }
    }

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(vec![]).is_nan() && median(vec![1.0, f64::NAN]).is_nan());
    }

    #[test]
    fn ratios_are_made_within_rounds() {
        // The machine was half as fast in the second round: no round says anything but 0.5.
        let (ours, limit) = (outcome(&[50.0, 25.0, 45.0]), outcome(&[100.0, 50.0, 90.0]));
        assert_eq!(ours.ratio(&limit, THROUGHPUT), 0.5);
        assert_eq!(limit.ratio_range(&outcome(&[50.0, 45.0, 90.0]), THROUGHPUT), (1.0, 2.0));
        assert_eq!(limit.spread(), 50.0 / 90.0);
        assert_eq!((ours.failed(), ours.median(THROUGHPUT)), (0, 45.0));
        assert!(ours.median(CPU).is_nan());
    }
}
