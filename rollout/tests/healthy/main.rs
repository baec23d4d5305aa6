//! Are challengers left alone that are as good as their champions, whatever the world does meanwhile, and are bad ones caught?
//!
//! ```sh
//! cargo test --release -p tiltyard-rollout --test healthy                      # some hundred rollouts, as everywhere
//! cargo test --release -p tiltyard-rollout --test healthy -- --runs 100000     # the long form: docs/statistics.md
//! ```
//!
//! Whole rollouts go through the real judge, each from a seed. Traffic is drawn in bulk, a minute at a time, and told as the
//! server tells it: by request or first by key, by cause, and slow runs by kind. `traffic.rs` has the worlds, `play.rs` the
//! judge's way through them, `rules.rs` what Argo Rollouts and Flagger would have done. Where evidence is kept from the judge,
//! it must fail: otherwise these worlds would prove nothing.
//!
//! `--runs N`: so many healthy rollouts, as many in each world at each rate. `--minutes N`: no more of them are begun after that
//! time. `--threads N`: on so many threads; seeds have their rollouts whichever plays them. `--only 0`, `1` or `2`: bad challengers,
//! what is kept from the judge, healthy rollouts. `--from N`: seeds from there on, for a run beside another.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it reports as a test does")]
#![allow(clippy::disallowed_methods, reason = "it tells how long it took")]
#![allow(clippy::needless_range_loop, reason = "arms are numbers here")]

mod chance;
mod crowd;
#[path = "../simulation/lot.rs"]
#[expect(dead_code, reason = "the other simulations draw more")]
mod lot;
mod play;
mod rules;
mod runs;
mod traffic;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use play::{End, Outcome, play};
use rules::{Ruled, Threshold, argo, flagger};
use traffic::{SCENES, Scene, Strip};

/// Healthy rollouts of the short form.
const RUNS: u64 = 300;

/// Rollouts of a cell of the table that are begun together: of users one by one, each of which takes longer, and others.
const ROUND: [u64; 2] = [4, 12];

/// Rollouts of a cell that the thresholds are held against: they are crossed often enough that fewer tell.
const RULED: u64 = 100;

const RATES: [f64; 3] = [10.0, 100.0, 1_000.0];

/// What the command line asks for.
struct Options {
    runs: u64,
    minutes: u64,
    threads: u64,
    only: u64,
    from: u64,
}

/// What else test harnesses take is not for us; a name that does not fit leaves nothing to do.
fn wanted() -> Result<Option<Options>, String> {
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let (mut options, mut is_meant) = (Options { runs: RUNS, minutes: 600, threads, only: u64::MAX, from: 0 }, true);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let option = match argument.as_str() {
            "--runs" => &mut options.runs,
            "--minutes" => &mut options.minutes,
            "--threads" => &mut options.threads,
            "--only" => &mut options.only,
            "--from" => &mut options.from,
            "--list" | "--ignored" => {
                is_meant = false;
                continue;
            }
            name => {
                is_meant &= name.starts_with('-') || "healthy".contains(name);
                continue;
            }
        };
        let value = arguments.next().unwrap_or_default();
        *option = value.parse().map_err(|_| format!("{argument}: expected a whole number, got {value:?}"))?;
    }
    Ok(Some(options).filter(|_| is_meant))
}

/// Does pieces of work from 0 on, on all threads; what comes of each, in their order.
fn share_out<T: Send>(threads: u64, pieces: u64, work: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let (next, found) = (AtomicU64::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let piece = next.fetch_add(1, Relaxed);
                    if piece >= pieces {
                        break;
                    }
                    let result = work(piece);
                    found.lock().expect("nobody panicked").push((piece, result));
                }
            });
        }
    });
    let mut found = found.into_inner().expect("nobody panicked");
    found.sort_by_key(|(piece, _)| *piece);
    found.into_iter().map(|(_, result)| result).collect()
}

/// What was promised and did not hold.
type Faults = Vec<String>;

fn main() -> ExitCode {
    let options = match wanted() {
        Ok(Some(options)) => options,
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            return ExitCode::from(2);
        }
    };
    let started = Instant::now();
    let mut faults = Faults::new();
    let is_wanted = |part| options.only == part || options.only == u64::MAX;
    if is_wanted(0) {
        harmful(&options, &mut faults);
    }
    if is_wanted(1) {
        stripped(&options, &mut faults);
    }
    if is_wanted(2) {
        healthy(&options, started + Duration::from_secs(60 * options.minutes), &mut faults);
    }
    println!("\n{:.0} s", started.elapsed().as_secs_f64());
    if faults.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("healthy: {} promises are broken\n  {}", faults.len(), faults.join("\n  "));
    ExitCode::FAILURE
}

/// A share in percent, as it is written in the tables.
fn percent(count: u64, of: u64) -> String {
    match count {
        0 => "0 %".into(),
        _ => {
            let share = 100.0 * count as f64 / of as f64;
            if share < 1.0 { format!("{share:.2} %") } else { format!("{share:.1} %") }
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A seed of a cell of a table: no two cells share any.
fn seed(cell: u64, run: u64) -> u64 {
    (cell << 32) + run
}

fn ended(outcomes: &[Outcome], end: End) -> u64 {
    outcomes.iter().filter(|outcome| outcome.end == end).count() as u64
}

fn aborted(ruled: &[Ruled]) -> u64 {
    ruled.iter().filter(|ruled| ruled.aborted).count() as u64
}

/// What the other rules come to on the same traffic.
fn ruled(scene: Scene, rps: f64, ratio: f64, seed: u64) -> [Ruled; 3] {
    [
        argo(scene, rps, ratio, seed, Threshold::OnePercent),
        argo(scene, rps, ratio, seed, Threshold::Baseline),
        flagger(scene, rps, ratio, seed),
    ]
}

/// The share that `count` of `of` may stand for at most: the one-sided bound of Clopper and Pearson, wrong one time in twenty.
fn upper_bound(count: u64, of: u64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let p: f64 = (low + high) / 2.0;
        let (mut term, mut sum) = (of as f64 * libm::log1p(-p), 0.0);
        for k in 0..=count {
            sum += libm::exp(term);
            term += libm::log((of - k) as f64 / (k + 1) as f64 * p / (1.0 - p));
        }
        if sum > 0.05 { low = p } else { high = p }
    }
    high
}

/// One cell of the table: a world at a rate.
#[derive(Clone, Debug, Default)]
struct Cell {
    /// How rollouts ended, in the order of [`ENDS`].
    ends: [u64; 4],
    /// How many of the first were aborted by each of the other rules.
    aborted: [u64; 3],
    ruled: u64,
    reasons: Vec<String>,
}

const ENDS: [End; 4] = [End::Promoted, End::Inconclusive, End::Halted, End::RolledBack];

fn healthy(options: &Options, deadline: Instant, faults: &mut Faults) {
    let places: Vec<(Scene, f64)> = SCENES.iter().flat_map(|scene| RATES.map(|rps| (*scene, rps))).collect();
    let each = |cell: usize| ROUND[usize::from(places[cell].0.crowd.is_none())];
    let mut cells = vec![Cell::default(); places.len()];
    let (mut all, mut round) = (0, 0);
    while all < options.runs && Instant::now() < deadline {
        let pieces: Vec<(usize, u64)> = (0..places.len())
            .flat_map(|cell| (round * each(cell)..(round + 1) * each(cell)).map(move |run| (cell, run)))
            .collect();
        let found = share_out(options.threads, pieces.len() as u64, |piece| {
            let (cell, run) = pieces[piece as usize];
            let ((scene, rps), seed) = (places[cell], seed(cell as u64, options.from + run));
            (play(scene, rps, 1.0, seed, Strip::Nothing), (run < RULED).then(|| ruled(scene, rps, 1.0, seed)))
        });
        for ((outcome, ruled), (cell, _)) in found.into_iter().zip(&pieces) {
            let cell = &mut cells[*cell];
            (0..4).for_each(|end| cell.ends[end] += u64::from(outcome.end == ENDS[end]));
            if let Some(ruled) = ruled {
                cell.ruled += 1;
                (0..3).for_each(|rule| cell.aborted[rule] += u64::from(ruled[rule].aborted));
            }
            cell.reasons.extend(outcome.why);
        }
        (all, round) = (all + pieces.len() as u64, round + 1);
        if round % 10 == 0 {
            let back: u64 = cells.iter().map(|cell| cell.ends[3]).sum();
            eprintln!("{all} rollouts, {back} rolled back");
        }
    }
    println!("\nhealthy rollouts; the first {RULED} of each world and rate for the other rules");
    println!(
        "| world | requests/s | rollouts | promoted | inconclusive | halted | rolled back | Argo, 1 % | Argo, 1.2x | Flagger |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for ((scene, rps), cell) in places.iter().zip(&cells) {
        let runs: u64 = cell.ends.iter().sum();
        let ends = cell.ends.map(|ended| percent(ended, runs)).join(" | ");
        let others = cell.aborted.map(|aborted| percent(aborted, cell.ruled)).join(" | ");
        println!("| {} | {rps} | {runs} | {ends} | {others} |", scene.name);
        judged_well(*scene, *rps, runs, cell.ends, faults);
    }
    summed_up(&cells, all, faults);
}

fn summed_up(cells: &[Cell], all: u64, faults: &mut Faults) {
    let [halted, rolled_back] = [2, 3].map(|end| cells.iter().map(|cell| cell.ends[end]).sum::<u64>());
    let [back, halts] = [rolled_back, halted].map(|count| 100.0 * upper_bound(count, all));
    println!(
        "{all} healthy rollouts: {rolled_back} rolled back, at most {back:.4} % (95 %); {halted} halted, at most {halts:.4} %"
    );
    for why in cells.iter().flat_map(|cell| &cell.reasons).take(100) {
        println!("  rolled back: {why}");
    }
    // Fewer than this are chance where the mean is 0.1 %.
    if rolled_back > 1 + all / 1_000 || halted > 2 + all / 1_000 {
        faults
            .push(format!("of {all} healthy rollouts {rolled_back} are rolled back, {halted} halted: more than 0.1 %"));
    }
}

/// What a cell of the table must be like.
fn judged_well(scene: Scene, rps: f64, runs: u64, [promoted, _, halted, rolled_back]: [u64; 4], faults: &mut Faults) {
    // The mean may be 0.1 %; of few runs, one or two more are chance.
    let most = 1 + runs / 500;
    if rolled_back > most || halted > most {
        faults.push(format!("{} at {rps}/s: of {runs}, {rolled_back} are rolled back, {halted} halted", scene.name));
    }
    if rps > 50.0 && (promoted as f64) < scene.promoted * runs as f64 {
        faults.push(format!("{} at {rps}/s: only {promoted} of {runs} are promoted", scene.name));
    }
}

/// Which worlds bad challengers are played in: by number, at a rate, failing so many times as often.
const HARMFUL: [(usize, f64, f64); 14] = [
    (0, 10.0, 2.0),
    (0, 10.0, 3.0),
    (0, 100.0, 1.5),
    (0, 100.0, 2.0),
    (0, 100.0, 3.0),
    (0, 1_000.0, 1.5),
    (0, 1_000.0, 2.0),
    (0, 1_000.0, 3.0),
    (1, 100.0, 2.0),
    (2, 100.0, 2.0),
    (6, 100.0, 2.0),
    (8, 100.0, 2.0),
    (8, 1_000.0, 2.0),
    (3, 100.0, 3.0),
];

fn harmful(options: &Options, faults: &mut Faults) {
    let runs = (options.runs / 50).clamp(50, 2_000);
    println!("{runs} rollouts each: caught, median minutes of those, median failures above the champion's rate");
    println!("| world | true ratio, requests/s | judge | Argo, 1 % | Argo, 1.2x | Flagger |");
    println!("|---|---|---|---|---|---|");
    for (at, (world, rps, ratio)) in HARMFUL.into_iter().enumerate() {
        let scene = SCENES[world];
        let found = share_out(options.threads, runs, |run| {
            let seed = seed(100 + at as u64, run);
            (play(scene, rps, ratio, seed, Strip::Nothing), ruled(scene, rps, ratio, seed))
        });
        let minutes = |caught: Vec<u64>| median(caught.into_iter().map(|minutes| minutes as f64).collect());
        let caught: Vec<u64> = found
            .iter()
            .filter(|(judged, _)| judged.end == End::RolledBack)
            .map(|(judged, _)| judged.minutes)
            .collect();
        let (share, excess) =
            (caught.len() as f64 / runs as f64, median(found.iter().map(|(judged, _)| judged.excess).collect()));
        let told = [0, 1, 2].map(|rule| {
            let ruled: Vec<Ruled> = found.iter().map(|(_, ruled)| ruled[rule]).collect();
            let took = ruled.iter().filter(|ruled| ruled.aborted).map(|ruled| ruled.minutes).collect();
            let excess = median(ruled.iter().map(|ruled| ruled.excess).collect());
            format!("{}, {:.0}, {excess:.0}", percent(aborted(&ruled), runs), minutes(took))
        });
        println!(
            "| {} | {ratio}x at {rps} | {}, {:.0}, {excess:.0} | {} |",
            scene.name,
            percent(caught.len() as u64, runs),
            minutes(caught),
            told.join(" | "),
        );
        if world == 0 && rps >= 100.0 && ratio >= 2.0 && (share < 0.99 || excess > 100.0) {
            faults.push(format!("{ratio}x at {rps}/s: {share} caught, with {excess} failures too many in the median"));
        }
    }
}

/// What is kept from the judge is needed: without it, healthy rollouts do not go well in the world that it is for.
fn stripped(options: &Options, faults: &mut Faults) {
    let runs = (options.runs / 100).clamp(50, 1_000);
    println!("\n{runs} healthy rollouts each");
    println!("| world | requests/s | kept from the judge | promoted | halted | rolled back |");
    println!("|---|---|---|---|---|---|");
    // And what part of them must be halted or rolled back then; 0 where they are told and judge nothing: too few are harmed for the short
    // form, or nobody is.
    let cases = [
        (4, 100.0, Strip::Causes, "failures by cause", 0.05),
        (4, 1_000.0, Strip::Causes, "failures by cause", 0.05),
        (9, 100.0, Strip::Causes, "failures by cause", 0.0),
        (2, 100.0, Strip::IllnessAndRequests, "failures by request, and when the champion failed", 0.05),
        (2, 1_000.0, Strip::IllnessAndRequests, "failures by request, and when the champion failed", 0.0),
        (9, 100.0, Strip::IllnessAndRequests, "failures by request, and when the champion failed", 0.0),
        (2, 100.0, Strip::Requests, "failures by request", 0.0),
        (9, 100.0, Strip::Requests, "failures by request", 0.0),
        (6, 100.0, Strip::Kinds, "kinds of runs", 0.05),
        (3, 100.0, Strip::Keys, "keys", 0.05),
        (7, 100.0, Strip::Keys, "keys", 0.05),
        (9, 100.0, Strip::Illness, "when the champion failed", 0.0),
        (9, 1_000.0, Strip::Illness, "when the champion failed", 0.0),
        (2, 10.0, Strip::Window, "what the champion did but last", 0.0),
        (2, 100.0, Strip::Window, "what the champion did but last", 0.0),
    ];
    for (at, (world, rps, strip, what, least)) in cases.into_iter().enumerate() {
        let scene = SCENES[world];
        let outcomes = share_out(options.threads, runs, |run| play(scene, rps, 1.0, seed(200 + at as u64, run), strip));
        let counts = [End::Promoted, End::Halted, End::RolledBack].map(|end| ended(&outcomes, end));
        let told = counts.map(|count| percent(count, runs)).join(" | ");
        println!("| {} | {rps} | {what} | {told} |", scene.name);
        let harmed = counts[1] + counts[2];
        if (harmed as f64) < least * runs as f64 {
            faults.push(format!("{} without {what}: only {harmed} of {runs} are halted or rolled back", scene.name));
        }
    }
}
