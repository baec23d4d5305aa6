//! Does the server without settings do as well as with the best ones that a search finds?
//!
//! What counts is answers within a bound, per second: throughput where requests follow each other, and what is left of it
//! where they come in bursts that no setting can answer in time.

use std::time::Duration;

use crate::Fault;
use crate::compare::report::{Section, Table, number, percent};
use crate::compare::rounds::{self, Contender, GOOD, Outcome, P50, THROUGHPUT};
use crate::compare::subjects::{Repository, Subject};
use crate::compare::{Ask, Bench};
use crate::payload::Protocol;
use crate::run::Pace;
use crate::schedule::{Arrivals, Burst};

/// Settings of the grid.
const ROWS_MAX: [usize; 3] = [1, 8, 64];
const DELAYS_MAX: [&str; 2] = ["0ms", "1ms"];
const INSTANCES: [usize; 2] = [1, 2];

/// The name of the setting without settings.
const PLAIN: &str = "no settings";

/// Of the best throughput in a closed loop.
const POISSON_LOAD: f64 = 0.7;

/// Between bursts. With bursts of ten times as much for a fifth of the time the mean is 0.56 of the best throughput, and a
/// burst is twice of it.
const BASE_LOAD: f64 = 0.2;

const IN_FLIGHT_MAX: usize = 1024;

/// An answer is good within this many times the latency of an idle server, and within the second in any case.
const BOUND_TIMES: f64 = 20.0;
const BOUND_MIN: Duration = Duration::from_millis(20);

/// The settings: a name in the table, a name on the wire, and what `model.toml` says.
fn grid(model: &str) -> Vec<(String, String, String)> {
    let mut all = vec![(PLAIN.to_owned(), model.to_owned(), String::new())];
    for rows in ROWS_MAX {
        for delay in DELAYS_MAX {
            for instances in INSTANCES {
                let settings =
                    format!("instances = {instances}\n[batching]\nrows_max = {rows}\ndelay_max = \"{delay}\"\n");
                let name = format!("{rows} rows, {delay} delay, {instances} instances");
                all.push((name, format!("{model}_{rows}_{delay}_{instances}"), settings));
            }
        }
    }
    all
}

pub(super) fn measure(bench: &Bench) -> Result<Section, Fault> {
    let mut section = Section::default();
    let columns = ["model", "arrivals", "subject", "of the best", PLAIN, "the best", "which", "bound, ms", "failed"];
    let mut table = Table::new("Answers within the bound per second, grpc", &columns);
    for &(model, longer) in &bench.only {
        let grid = grid(model);
        let mut repository = Repository::new(bench.folder("models-arrivals"))?;
        for (_, name, settings) in &grid {
            repository.add(&bench.models, model, name, settings)?;
        }
        for server in &bench.start_all(&repository)? {
            let on = On { bench, server, model, grid: &grid, longer };
            let idle = rounds::measure(&[on.contender(&grid[0], "idle", Pace::Closed { concurrency: 1 }, None)?], 1)?;
            let bound = Duration::from_secs_f64(idle[0].median(P50) / 1e6 * BOUND_TIMES).max(BOUND_MIN);
            let steady_pace = Pace::Closed { concurrency: 64 };
            let steady = on.all("steady", steady_pace, None)?;
            let best = steady.iter().map(|outcome| outcome.median(THROUGHPUT)).fold(0.0, f64::max);
            let open = |arrivals| Pace::Open { arrivals, in_flight_max: IN_FLIGHT_MAX };
            let poisson_pace = open(Arrivals::Poisson { rate: best * POISSON_LOAD });
            // A whole burst and its aftermath in each stretch.
            let period = bench.duration.mul_f64(longer);
            let burst = Burst { factor: 10.0, length: period / 5, period };
            let bursts_pace = open(Arrivals::Bursts { rate: best * BASE_LOAD, burst });
            let poisson = on.all("Poisson", poisson_pace, Some(bound))?;
            let bursts = on.all("bursts of 10x", bursts_pace, Some(bound))?;
            section.outcomes.extend(idle);
            let searched = [
                ("steady", steady_pace, None, steady),
                ("Poisson", poisson_pace, Some(bound), poisson),
                ("bursts of 10x", bursts_pace, Some(bound), bursts),
            ];
            for (arrivals, pace, within, search) in searched {
                let duel = on.duel(arrivals, pace, within, &search)?;
                table.rows.push(on.row(arrivals, &duel, bound).ok_or("nothing was measured")?);
                section.outcomes.extend(search.into_iter().chain(duel));
            }
        }
    }
    section.tables.push(table);
    Ok(section)
}

/// A server with all settings of one model.
struct On<'a> {
    bench: &'a Bench,
    server: &'a Subject,
    model: &'static str,
    grid: &'a [(String, String, String)],
    longer: f64,
}

impl On<'_> {
    fn contender(
        &self,
        (setting, name, _): &(String, String, String),
        arrivals: &str,
        pace: Pace,
        bound: Option<Duration>,
    ) -> Result<Contender, Fault> {
        let model = format!("{name}={}", self.model);
        let ask = Ask { longer: self.longer, pace, ..Ask::closed(&model, Protocol::Grpc, 1) };
        let case = format!("{}, {arrivals}, {setting}", self.model);
        let mut contender = self.bench.contender(self.server, case, &ask)?;
        contender.load.bound = bound;
        Ok(contender)
    }

    fn all(&self, arrivals: &str, pace: Pace, bound: Option<Duration>) -> Result<Vec<Outcome>, Fault> {
        let contenders = self.grid.iter().map(|setting| self.contender(setting, arrivals, pace, bound));
        rounds::measure(&contenders.collect::<Result<Vec<_>, _>>()?, self.bench.rounds)
    }

    /// The setting without settings and the best of the others, measured once more: of twelve that are equally good, chance
    /// makes one the best, and the search's own rounds would count that for it.
    fn duel(
        &self,
        arrivals: &str,
        pace: Pace,
        bound: Option<Duration>,
        search: &[Outcome],
    ) -> Result<Vec<Outcome>, Fault> {
        let others = search.iter().zip(self.grid).skip(1);
        let best = others.max_by(|(one, _), (other, _)| one.median(GOOD).total_cmp(&other.median(GOOD)));
        let (_, best) = best.ok_or("nothing was searched")?;
        let arrivals = format!("{arrivals} again");
        let contenders = [&self.grid[0], best].map(|setting| self.contender(setting, &arrivals, pace, bound));
        rounds::measure(&contenders.into_iter().collect::<Result<Vec<_>, _>>()?, self.bench.rounds)
    }

    /// What a duel of two showed.
    fn row(&self, arrivals: &str, duel: &[Outcome], bound: Duration) -> Option<Vec<String>> {
        let [plain, best] = duel else { return None };
        let which = best.case.split(", ").skip(2).collect::<Vec<_>>().join(", ");
        let mut row = vec![self.model.to_owned(), arrivals.to_owned(), self.server.name.clone()];
        row.extend([percent(plain.ratio(best, GOOD)), number(plain.median(GOOD)), number(best.median(GOOD)), which]);
        row.extend([number(bound.as_secs_f64() * 1e3), (plain.failed() + best.failed()).to_string()]);
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_begins_without_settings_and_no_two_are_the_same() {
        let grid = grid("mlp");
        assert_eq!(grid.len(), 1 + ROWS_MAX.len() * DELAYS_MAX.len() * INSTANCES.len());
        assert_eq!(grid[0], (PLAIN.to_owned(), "mlp".to_owned(), String::new()));
        let names: std::collections::BTreeSet<&String> = grid.iter().map(|(_, name, _)| name).collect();
        assert_eq!(names.len(), grid.len());
        assert_eq!(grid[1].2, "instances = 1\n[batching]\nrows_max = 1\ndelay_max = \"0ms\"\n");
    }
}
