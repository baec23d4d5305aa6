//! How many replicas does it take?

use std::time::Duration;

use super::load::Load;
use crate::config::parse_duration;

/// Without an objective, one replica is planned to carry the load of this part of saturation: queues grow without end
/// near 1.
const SHARE_WITHOUT_OBJECTIVE: f64 = 0.75;

/// What requests must keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Objective {
    percentile: Percentile,
    time: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Percentile {
    P50,
    P99,
}

impl Objective {
    /// Reads `p99=20ms`.
    pub(super) fn parse(text: &str) -> Result<Objective, String> {
        let wrong = || format!("{text:?}: expected p50 or p99 and a duration, such as p99=20ms");
        let (percentile, time) = text.split_once('=').ok_or_else(wrong)?;
        let percentile = match percentile {
            "p50" => Percentile::P50,
            "p99" => Percentile::P99,
            _ => return Err(wrong()),
        };
        let time = parse_duration(time).filter(|time| !time.is_zero()).ok_or_else(wrong)?;
        Ok(Objective { percentile, time })
    }

    fn is_kept(self, load: &Load) -> bool {
        let time = match self.percentile {
            Percentile::P50 => load.p50,
            Percentile::P99 => load.p99,
        };
        load.failed == 0 && time.is_some_and(|time| time <= self.time)
    }
}

impl std::fmt::Display for Objective {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let percentile = match self.percentile {
            Percentile::P50 => "p50",
            Percentile::P99 => "p99",
        };
        write!(f, "{percentile}={:?}", self.time)
    }
}

/// What one replica carries, and how many are needed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) objective: Option<Objective>,
    /// Rows in a second that one replica carries; `None` where it kept the objective at no load.
    pub(super) rows_per_second: Option<f64>,
    /// Rows in a second that are wanted.
    pub(super) rate: Option<f64>,
    /// Replicas for them.
    pub(super) replicas: Option<u64>,
}

/// The highest load at which the objective was kept, there and at every lower one.
pub(super) fn plan(saturation: &Load, loads: &[Load], objective: Option<Objective>, rate: Option<f64>) -> Plan {
    let rows_per_second = match objective {
        Some(objective) => loads.iter().take_while(|load| objective.is_kept(load)).last().map(carried),
        None => Some(saturation.rows_per_second * SHARE_WITHOUT_OBJECTIVE),
    };
    let rows_per_second = rows_per_second.filter(|carried| *carried > 0.0);
    let replicas = rate.zip(rows_per_second).map(|(rate, carried)| (rate / carried).ceil() as u64);
    Plan { objective, rows_per_second, rate, replicas }
}

/// What was carried of a load: chance may have sent more than was meant, which is no promise.
fn carried(load: &Load) -> f64 {
    load.offered.map_or(load.rows_per_second, |offered| offered.min(load.rows_per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(rows_per_second: f64, p99_ms: u64, failed: u64) -> Load {
        let p99 = Some(Duration::from_millis(p99_ms));
        Load { rows_per_second, p50: p99.map(|time| time / 2), p99, failed, ..Load::default() }
    }

    #[test]
    fn objectives() {
        let shown = |text| Objective::parse(text).map(|objective| objective.to_string());
        assert_eq!(shown("p99=20ms"), Ok("p99=20ms".to_owned()));
        assert_eq!(shown("p50=1500us"), Ok("p50=1.5ms".to_owned()));
        for wrong in ["", "p99", "p99=", "p99=20", "p95=1s", "p99=0", "99=1s", "p99=1s=2s"] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn replicas() {
        let loads = [load(250.0, 5, 0), load(500.0, 8, 0), load(750.0, 30, 0), load(900.0, 15, 0)];
        let check = |objective: Option<&str>, rate, expected: (Option<f64>, Option<u64>)| {
            let objective = objective.map(|text| Objective::parse(text).unwrap());
            let plan = plan(&load(1_000.0, 99, 0), &loads, objective, rate);
            assert_eq!((plan.rows_per_second, plan.replicas), expected);
        };
        check(None, Some(1_000.0), (Some(750.0), Some(2)));
        check(None, None, (Some(750.0), None));
        check(Some("p99=40ms"), Some(900.0), (Some(900.0), Some(1)));
        // A load above one that missed the objective kept it by luck.
        check(Some("p99=20ms"), Some(1_001.0), (Some(500.0), Some(3)));
        check(Some("p50=4ms"), Some(500.0), (Some(500.0), Some(1)));
        check(Some("p99=1ms"), Some(500.0), (None, None));
        let lucky = Load { offered: Some(200.0), ..load(250.0, 5, 0) };
        assert_eq!(carried(&lucky), 200.0);
        let failing = plan(&load(1.0, 1, 0), &[load(250.0, 1, 1)], Objective::parse("p99=1s").ok(), None);
        assert_eq!(failing.rows_per_second, None, "a load with failures keeps nothing");
    }
}
