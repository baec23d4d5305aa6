//! Does the server without settings do as well as with the best ones that a search finds?
//!
//! A search by successive halving finds the best setting of a grid; then the finalist and the setting without settings
//! are measured in turns. All settings of a model are deployments of one server, so that nothing starts meanwhile.

use std::time::Duration;

use crate::Fault;
use crate::compare::report::{Section, Table, number, percent};
use crate::compare::rounds::{self, Contender, Figure, GOOD, Outcome, P50, P99, THROUGHPUT};
use crate::compare::subjects::{Repository, Subject};
use crate::compare::{Ask, Bench};
use crate::model::Lengths;
use crate::payload::Protocol;
use crate::run::Pace;
use crate::schedule::{Arrivals, Burst};
use crate::summary::Summary;

/// Settings of the grid.
const ROWS_MAX: [usize; 3] = [1, 8, 64];
const DELAYS_MAX: [&str; 2] = ["0ms", "1ms"];
const INSTANCES: [usize; 2] = [1, 2];

/// The name of the setting without settings.
const PLAIN: &str = "no settings";

/// Stretches of the search's rungs, as parts of the section's: of all settings, of the better half, of the half of it.
const RUNGS: [u32; 3] = [8, 4, 2];

/// Stretches of the duel, as a part of the section's, and its least number of rounds.
const DUEL: u32 = 2;
const ROUNDS_MIN: usize = 5;

/// A closed loop has 64 in flight, or 16 where 64 would take longer than this one by one: a stretch must see many answers.
const STEADY_MAX: Duration = Duration::from_millis(500);

/// The first rate tried, of the best throughput in a closed loop. An open loop costs both sides more for each request: what
/// comes at once with 64 in flight comes one by one, and the generator has the same cores.
const POISSON_LOAD: f64 = 0.5;

/// The rate is lowered by this while the setting that won the closed loop does not keep up, so many times at most.
const LOWERED_TO: f64 = 0.7;
const LOWERED_MAX: usize = 5;

/// Who answers this much of what came within the bound keeps up.
const KEEPS_UP: f64 = 0.95;

/// Between bursts, of the Poisson rate. With bursts of ten times as much for a fifth of the time the mean is 0.56 of that
/// rate, and a burst is twice of it.
const BASE_LOAD: f64 = 0.2;
const BURST_FACTOR: f64 = 10.0;
const BURST_SHARE: f64 = 0.2;

const IN_FLIGHT_MAX: usize = 1024;

/// An answer is good within this many times the latency of an idle server, and no sooner than this.
const BOUND_TIMES: f64 = 20.0;
const BOUND_MIN: Duration = Duration::from_millis(20);

/// A model, and how long its texts are.
struct Work {
    name: String,
    model: &'static str,
    lengths: Lengths,
    longer: f64,
}

/// The models, with the text model twice: texts of one length, and of different ones.
fn works(only: &[(&'static str, f64)]) -> Vec<Work> {
    let mut works = Vec::new();
    for &(model, longer) in only {
        works.push(Work { name: model.to_owned(), model, lengths: Lengths { shortest: 32, longest: 32 }, longer });
        if model == "minilm" {
            let lengths = Lengths { shortest: 8, longest: 64 };
            works.push(Work { name: format!("{model}, 8 to 64 tokens"), model, lengths, longer });
        }
    }
    works
}

/// A name in the table, a name on the wire, and what `model.toml` says.
#[derive(Clone, Debug, PartialEq)]
struct Setting {
    name: String,
    wire: String,
    toml: String,
}

/// The setting without settings, and all others.
fn grid(model: &str) -> (Setting, Vec<Setting>) {
    let mut all = Vec::new();
    for rows in ROWS_MAX {
        for delay in DELAYS_MAX {
            for instances in INSTANCES {
                all.push(Setting {
                    name: format!("{rows} rows, {delay} delay, {instances} instances"),
                    wire: format!("{model}_{rows}_{delay}_{instances}"),
                    toml: format!("instances = {instances}\n[batching]\nrows_max = {rows}\ndelay_max = \"{delay}\"\n"),
                });
            }
        }
    }
    (Setting { name: PLAIN.to_owned(), wire: model.to_owned(), toml: String::new() }, all)
}

/// How requests arrive, the same for all settings of a model.
#[derive(Clone, Copy)]
struct Flow {
    name: &'static str,
    pace: Pace,
    bound: Option<Duration>,
    /// Requests per second; none where they follow the answers.
    offered: Option<f64>,
}

impl Flow {
    fn closed(name: &'static str, concurrency: usize) -> Flow {
        Flow { name, pace: Pace::Closed { concurrency }, bound: None, offered: None }
    }

    fn open(name: &'static str, arrivals: Arrivals, offered: f64, bound: Duration) -> Flow {
        let pace = Pace::Open { arrivals, in_flight_max: IN_FLIGHT_MAX };
        Flow { name, pace, bound: Some(bound), offered: Some(offered) }
    }

    /// What counts: throughput where requests follow answers, answers within the bound where they do not.
    fn figure(&self) -> Figure {
        if self.offered.is_some() { GOOD } else { THROUGHPUT }
    }

    /// The contenders' places, the best first.
    ///
    /// Below saturation all answer what is offered: where whole percents of it are the same, the lower p99 is better.
    fn order(&self, outcomes: &[Outcome]) -> Vec<usize> {
        let value = |place: &usize| outcomes[*place].median(self.figure());
        let percents = |place: &usize| (outcomes[*place].median(Summary::good_share) * 100.0).round();
        let share = |place: &usize| self.offered.map(|_| percents(place));
        let mut places: Vec<usize> = (0..outcomes.len()).collect();
        places.sort_by(|one, other| match (share(one), share(other)) {
            (Some(mine), Some(theirs)) => {
                theirs.total_cmp(&mine).then(outcomes[*one].median(P99).total_cmp(&outcomes[*other].median(P99)))
            }
            _ => value(other).total_cmp(&value(one)),
        });
        places
    }
}

pub(super) fn measure(bench: &Bench) -> Result<Section, Fault> {
    let mut section = Section::default();
    let columns = [
        "model",
        "arrivals",
        "subject",
        "of the best",
        "least to most",
        "offered/s",
        "no settings/s",
        "the best/s",
        "p50 ms, no settings / the best",
        "p99 ms, no settings / the best",
        "which",
        "bound, ms",
        "failed",
    ];
    let mut table = Table::new(
        "Answers per second, within the bound where arrivals do not wait for answers; no settings by the best, grpc",
        &columns,
    );
    for work in works(&bench.only) {
        let (plain, grid) = grid(work.model);
        let mut repository = Repository::new(bench.folder("models-arrivals"))?;
        for Setting { wire, toml, .. } in [&plain].into_iter().chain(&grid) {
            repository.add(&bench.models, work.model, wire, toml)?;
        }
        for server in &bench.start_all(&repository)? {
            server.wait_until_quiet()?;
            On { bench, server, work: &work, plain: &plain, grid: &grid }.measure(&mut section, &mut table)?;
        }
    }
    section.tables.push(table);
    Ok(section)
}

/// A server with all settings of one model.
struct On<'a> {
    bench: &'a Bench,
    server: &'a Subject,
    work: &'a Work,
    plain: &'a Setting,
    grid: &'a [Setting],
}

impl On<'_> {
    fn measure(&self, section: &mut Section, table: &mut Table) -> Result<(), Fault> {
        let idle = [self.contender(self.plain, &Flow::closed("idle", 1), "idle", DUEL)?];
        let idle = rounds::measure(&idle, 1)?;
        let alone = Duration::from_secs_f64(idle[0].median(P50) / 1e6);
        let bound = alone.mul_f64(BOUND_TIMES).max(BOUND_MIN);
        section.outcomes.extend(idle);
        let steady = Flow::closed("steady", if alone * 64 > STEADY_MAX { 16 } else { 64 });
        let (winner, duel) = self.find_and_duel(&steady, bound, section, table)?;
        // Of the duel and not of the search, whose best is the luckiest of many short stretches.
        let best = duel.iter().map(|outcome| outcome.median(THROUGHPUT)).fold(0.0, f64::max);
        let poisson = |rate| Flow::open("Poisson", Arrivals::Poisson { rate }, rate, bound);
        let mut offered = best * POISSON_LOAD;
        for _ in 0..LOWERED_MAX {
            let tried = [self.contender(&winner, &poisson(offered), "rate", DUEL)?];
            let tried = rounds::measure(&tried, 1)?;
            let keeps_up = tried[0].median(Summary::good_share) >= KEEPS_UP;
            section.outcomes.extend(tried);
            if keeps_up {
                break;
            }
            offered *= LOWERED_TO;
        }
        self.find_and_duel(&poisson(offered), bound, section, table)?;
        // The shortest stretch of all holds a whole burst and its aftermath, the others several.
        let period = (self.bench.duration / RUNGS[0]).mul_f64(self.work.longer);
        let burst = Burst { factor: BURST_FACTOR, length: period.mul_f64(BURST_SHARE), period };
        let rate = offered * BASE_LOAD;
        let mean = rate * (BURST_FACTOR * BURST_SHARE + 1.0 - BURST_SHARE);
        let bursts = Flow::open("bursts of 10x", Arrivals::Bursts { rate, burst }, mean, bound);
        self.find_and_duel(&bursts, bound, section, table)?;
        Ok(())
    }

    fn contender(&self, setting: &Setting, flow: &Flow, stage: &str, part: u32) -> Result<Contender, Fault> {
        let Work { name, model, lengths, longer } = self.work;
        let asked = format!("{}={model}", setting.wire);
        let ask = Ask { lengths: *lengths, longer: *longer, pace: flow.pace, ..Ask::closed(&asked, Protocol::Grpc, 1) };
        let case = format!("{name}, {}, {stage}, {}", flow.name, setting.name);
        let mut contender = self.bench.contender(self.server, case, &ask)?;
        contender.load.bound = flow.bound;
        contender.load.duration /= part;
        Ok(contender)
    }

    fn find_and_duel(
        &self,
        flow: &Flow,
        bound: Duration,
        section: &mut Section,
        table: &mut Table,
    ) -> Result<(Setting, Vec<Outcome>), Fault> {
        let best = self.search(flow, section)?;
        let contenders = [self.plain, &best].map(|setting| self.contender(setting, flow, "duel", DUEL));
        let contenders = contenders.into_iter().collect::<Result<Vec<_>, _>>()?;
        let duel = rounds::measure(&contenders, self.bench.rounds.max(ROUNDS_MIN))?;
        table.rows.push(self.row(flow, &best, &duel, bound).ok_or("nothing was measured")?);
        section.outcomes.extend(duel.iter().cloned());
        Ok((best, duel))
    }

    /// Successive halving (Jamieson and Talwalkar, 2016): all settings for a short stretch, the better half for one of
    /// twice the length, and so on. Nothing of a rung counts in the next, so that luck does not stay with anybody.
    fn search(&self, flow: &Flow, section: &mut Section) -> Result<Setting, Fault> {
        let mut left: Vec<Setting> = self.grid.to_vec();
        for (rung, part) in RUNGS.into_iter().enumerate() {
            let contender = |setting: &Setting| {
                let mut contender = self.contender(setting, flow, &format!("rung {}", rung + 1), part)?;
                contender.load.warmup /= 2;
                // Other chance than in the rungs before, the same for all of this one.
                contender.load.seed = 100 * (rung as u64 + 1);
                Ok::<_, Fault>(contender)
            };
            let contenders = left.iter().map(contender).collect::<Result<Vec<_>, _>>()?;
            let outcomes = rounds::measure(&contenders, 1)?;
            let order = flow.order(&outcomes);
            let kept = if rung + 1 == RUNGS.len() { 1 } else { left.len().div_ceil(2) };
            left = order.into_iter().take(kept).map(|place| left[place].clone()).collect();
            section.outcomes.extend(outcomes);
        }
        left.into_iter().next().ok_or_else(|| "nothing was searched".into())
    }

    /// What a duel of two showed.
    fn row(&self, flow: &Flow, which: &Setting, duel: &[Outcome], bound: Duration) -> Option<Vec<String>> {
        let [plain, best] = duel else { return None };
        let figure = flow.figure();
        let (least, most) = plain.ratio_range(best, figure);
        let both = |figure: Figure| {
            let millis = |outcome: &Outcome| number(outcome.median(figure) / 1e3);
            format!("{} / {}", millis(plain), millis(best))
        };
        let mut row = vec![self.work.name.clone(), flow.name.to_owned(), self.server.name.clone()];
        row.extend([percent(plain.ratio(best, figure)), format!("{} to {}", percent(least), percent(most))]);
        row.push(flow.offered.map_or_else(|| "–".to_owned(), number));
        row.extend([number(plain.median(figure)), number(best.median(figure)), both(P50), both(P99)]);
        row.push(which.name.clone());
        row.push(flow.bound.map_or_else(|| "–".to_owned(), |_| number(bound.as_secs_f64() * 1e3)));
        row.push(format!("{} / {}", plain.failed(), best.failed()));
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::{Latency, Recorder};

    /// Of a second.
    fn outcome(throughput: f64, good: f64, late: u64, p99: f64) -> Outcome {
        let recorder = Recorder::new(None).expect("the bounds are right");
        let summary = Summary {
            requests_per_second: throughput,
            good_per_second: good,
            late,
            latency_us: Latency { p99, ..Latency::default() },
            ..recorder.summary(Duration::from_secs(1), 1, 0)
        };
        Outcome { subject: "server".into(), case: "mlp".into(), protocol: Protocol::Grpc, rounds: vec![summary] }
    }

    #[test]
    fn the_grid_has_every_setting_once() {
        let (plain, grid) = grid("mlp");
        assert_eq!(grid.len(), ROWS_MAX.len() * DELAYS_MAX.len() * INSTANCES.len());
        assert_eq!((plain.wire.as_str(), plain.toml.as_str()), ("mlp", ""));
        let names: std::collections::BTreeSet<&String> = grid.iter().map(|setting| &setting.wire).collect();
        assert_eq!(names.len(), grid.len());
        assert_eq!(grid[0].toml, "instances = 1\n[batching]\nrows_max = 1\ndelay_max = \"0ms\"\n");
    }

    #[test]
    fn the_text_model_counts_twice() {
        let names: Vec<String> = works(&crate::compare::MODELS).into_iter().map(|work| work.name).collect();
        assert_eq!(names, ["mlp", "gbdt", "minilm", "minilm, 8 to 64 tokens", "resnet18"]);
    }

    #[test]
    fn throughput_decides_where_requests_follow_answers() {
        let outcomes = [outcome(10.0, 30.0, 0, 1.0), outcome(30.0, 10.0, 0, 3.0), outcome(20.0, 20.0, 0, 2.0)];
        assert_eq!(Flow::closed("steady", 64).order(&outcomes), [1, 2, 0]);
    }

    #[test]
    fn p99_decides_among_those_that_reach_what_is_offered() {
        let rate = 1000.0;
        let flow = Flow::open("Poisson", Arrivals::Poisson { rate }, rate, Duration::from_millis(20));
        let outcomes = [outcome(0.0, 998.0, 2, 5.0), outcome(0.0, 800.0, 200, 1.0), outcome(0.0, 996.0, 4, 3.0)];
        assert_eq!(flow.order(&outcomes), [2, 0, 1]);
    }
}
