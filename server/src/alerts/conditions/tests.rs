//! When does each rule's condition hold, and when can nobody say? Counters and time are the test's.

use tiltyard_runtime::stats::Histogram;
use tiltyard_types::Moment;

use super::super::history::Sample;
use super::super::rules::Rules;
use super::*;

const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;

fn rules(text: &str) -> Vec<Rule> {
    Rules::read(&format!("defaults = false\n[[rule]]\nname = 'it'\n{text}")).expect("rules").all
}

fn whose(arm: &str) -> Whose {
    let (endpoint, model) = ("risk".to_owned(), "risk".to_owned());
    Whose { endpoint, arm: arm.to_owned(), model, version: if arm == "champion" { "1" } else { "2" }.to_owned() }
}

/// `count` requests that took so many milliseconds each.
fn took(count: u64, millis: f64) -> Histogram {
    let mut counts = Histogram::default().counts().to_vec();
    let bucket = (0..counts.len()).find(|&at| {
        let mut one = vec![0; counts.len()];
        one[at] = 1;
        let most = Histogram::of(&one).and_then(|one| one.quantile(1.0)).expect("one");
        most.as_secs_f64() * 1e3 >= millis
    });
    counts[bucket.expect("a bucket")] = count;
    Histogram::of(&counts).expect("the same buckets")
}

/// What `of` says of each arm at each minute, of a process that has run for so long.
fn history(rules: &[Rule], seconds: u64, of: impl Fn(u64, &str) -> Figures) -> History {
    let lengths = Rules { all: rules.to_vec(), pace: Rules::standing().pace }.lengths();
    let mut history = History::new(lengths);
    for at in (0..=seconds).step_by(10) {
        let ways = ["champion", "challenger"].map(|arm| (whose(arm), of(at, arm)));
        let capture = [at, at / 50];
        history.push(Moment::default() + Duration::from_secs(at), Sample { ways: ways.into_iter().collect(), capture });
    }
    history
}

/// By arm, whether the condition is met.
fn met(rules: &[Rule], view: &View) -> BTreeMap<String, Option<bool>> {
    look(rules, view).into_iter().map(|found| (found.labels["arm"].clone(), found.is_met)).collect()
}

/// A request a second of the challenger, of which `failing` says which fail.
fn errors(seconds: u64, failing: impl Fn(u64) -> bool) -> Option<bool> {
    let rules = rules("watch = 'errors'\nlimit = 0.05");
    let count = |at: u64| (0..at).filter(|second| failing(*second)).count() as u64;
    let of = |at: u64, arm: &str| match arm {
        "challenger" => Figures { requests: at, failed: count(at), ..Figures::default() },
        _ => Figures::default(),
    };
    let view = View { history: history(&rules, seconds, of), ..View::default() };
    met(&rules, &view)["challenger"]
}

#[test]
fn errors_alarm_where_they_matter_and_still_go_on() {
    assert_eq!(errors(2 * HOUR, |_| false), Some(false));
    assert_eq!(errors(2 * HOUR, |second| second % 10 == 0), Some(true));
    assert_eq!(errors(2 * HOUR, |second| second % 100 == 0), Some(false), "1% is below the limit");
    assert_eq!(errors(2 * HOUR, |second| second > 7_000), Some(true), "200 s of failures are more than 5% of an hour");
    assert_eq!(errors(2 * HOUR, |second| second > 7_100), Some(false), "100 s are not");
    assert_eq!(errors(2 * HOUR, |second| (5_000..6_500).contains(&second)), Some(false), "it is over");
    assert_eq!(errors(50, |_| true), None, "50 requests are too few, and nobody can say yet that all is well");
    assert_eq!(errors(110, |_| true), Some(true), "a process that fails from its start is told of soon");
}

#[test]
fn latency_alarms_by_its_limit_and_by_the_champions() {
    let of = |at: u64, arm: &str| {
        let millis = if arm == "champion" { 10.0 } else { 30.0 };
        Figures { requests: at, total: took(at, millis), ..Figures::default() }
    };
    let check = |text: &str, expected: [Option<Option<bool>>; 2]| {
        let rules = rules(&format!("watch = 'latency'\n{text}"));
        let champions = BTreeMap::from([("risk".to_owned(), "champion".to_owned())]);
        let view = View { history: history(&rules, 2 * HOUR, of), champions, ..View::default() };
        let met = met(&rules, &view);
        assert_eq!(["champion", "challenger"].map(|arm| met.get(arm).copied()), expected, "{text}");
    };
    check("limit = '20ms'", [Some(Some(false)), Some(Some(true))]);
    check("limit = '20ms'\nendpoint = 'other'", [None, None]);
    check("limit = '100ms'\nquantile = 0.5", [Some(Some(false)), Some(Some(false))]);
    check("ratio = 2.0", [None, Some(Some(true))]);
    check("ratio = 10.0", [None, Some(Some(false))]);
}

#[test]
fn quality_and_cost_alarm_by_what_a_window_holds() {
    let of = |at: u64, arm: &str| {
        let good = if arm == "champion" { 0.9 } else { 0.6 };
        let cpu_nanos = at * if arm == "champion" { 1_000_000 } else { 50_000_000 };
        Figures { units: at, outcomes: at as f64 * good, rows: at, cpu_nanos, ..Figures::default() }
    };
    let check = |text: &str, seconds: u64, expected: [Option<bool>; 2]| {
        let rules = rules(text);
        let view = View { history: history(&rules, seconds, of), prices: [0.36, 0.0], ..View::default() };
        let met = met(&rules, &view);
        assert_eq!(["champion", "challenger"].map(|arm| met[arm]), expected, "{text}");
    };
    check("watch = 'quality'\nbelow = 0.8", 3 * HOUR, [Some(false), Some(true)]);
    check("watch = 'quality'\nabove = 0.8", 3 * HOUR, [Some(true), Some(false)]);
    check("watch = 'quality'\nbelow = 0.8", MINUTE, [None, None]);
    // 50 ms of a processor for each row at 0.0001 a second: 0.005 a thousand rows.
    check("watch = 'cost'\nlimit = 0.001", 3 * HOUR, [Some(false), Some(true)]);
    check("watch = 'cost'\nlimit = 0.01", 3 * HOUR, [Some(false), Some(false)]);
    check("watch = 'cost'\nlimit = 0.001", 10 * MINUTE, [None, None]);
}

#[test]
fn a_version_has_one_alert_of_all_its_columns() {
    let columns: Vec<(u8, String)> =
        (0..12).map(|at| (if at < 10 { 2 } else { 1 }, format!("input c{at}: moved"))).collect();
    let drifting = |version: &str, level| Drifting {
        model: "risk".into(),
        version: version.into(),
        level,
        columns: if level == 2 { columns.clone() } else { Vec::new() },
    };
    let view = View { drifting: vec![drifting("1", 0), drifting("2", 2), drifting("3", 1)], ..View::default() };
    let found = look(&rules("watch = 'drift'"), &view);
    assert_eq!(found.iter().map(|one| one.is_met).collect::<Vec<_>>(), [Some(false), Some(true), Some(false)]);
    assert!(found[1].why.contains("input c7") && found[1].why.ends_with("and 2 more columns"), "{}", found[1].why);
    let warned = look(&rules("watch = 'drift'\nlevel = 'warn'"), &view);
    assert_eq!(warned.iter().map(|one| one.is_met).collect::<Vec<_>>(), [Some(false), Some(true), Some(true)]);
    assert!(look(&rules("watch = 'drift'\nmodel = 'other'"), &view).is_empty());
}

#[test]
fn capture_registry_and_reviews_say_what_stands() {
    let capture = rules("watch = 'capture'\ndropped = 0.01");
    let history = || history(&capture, HOUR, |_, _| Figures::default());
    let of = |failing: Option<&str>| {
        let view = View { history: history(), capture: Some(failing.map(str::to_owned)), ..View::default() };
        look(&capture, &view).into_iter().map(|one| (one.labels["what"].clone(), one.is_met)).collect::<Vec<_>>()
    };
    let dropped = ("dropped".to_owned(), Some(true));
    assert_eq!(of(Some("the disk is full")), [("segments".to_owned(), Some(true)), dropped.clone()]);
    assert_eq!(of(None), [("segments".to_owned(), Some(false)), dropped]);
    assert!(look(&capture, &View { history: history(), ..View::default() }).is_empty(), "nothing is captured");

    let registry = |trouble: Option<Option<&str>>| {
        let view = View { registry: trouble.map(|trouble| trouble.map(str::to_owned)), ..View::default() };
        look(&rules("watch = 'registry'"), &view).first().map(|one| one.is_met)
    };
    assert_eq!([None, Some(None), Some(Some("gone"))].map(registry), [None, Some(Some(false)), Some(Some(true))]);

    let review = |before: &str, now_ms| {
        let due = Review { model: "risk".into(), version: "1".into(), due_ms: 100_000_000 };
        let view = View { now_ms, reviews: vec![due], ..View::default() };
        look(&rules(&format!("watch = 'review'\nbefore = '{before}'")), &view)[0].is_met
    };
    assert_eq!([review("0", 99_999_999), review("0", 100_000_000)], [Some(false), Some(true)]);
    assert_eq!(review("24h", 20_000_000), Some(true));
}

#[test]
fn traffic_of_three_hours_a_day_fits_batches() {
    let hour = |rows: u64, busy: f64| Slot {
        time: Duration::from_secs(HOUR),
        rows,
        device: Duration::from_secs_f64(busy * HOUR as f64),
    };
    let day = |at: &dyn Fn(usize) -> Slot| (0..24).map(at).collect::<Vec<_>>();
    let advised = |slots: &[Slot]| fits_batches(slots, 0.1, 0.25).map(|advice| advice.is_some());
    let nightly = day(&|at| if at < 3 { hour(100_000, 0.4) } else { hour(100, 0.001) });
    assert_eq!(advised(&nightly), Some(true));
    assert!(fits_batches(&nightly, 0.1, 0.25).flatten().expect("advice").contains("in 3 of 24 hours"));
    assert_eq!(advised(&day(&|_| hour(1_000, 0.01))), Some(false), "it comes all day");
    assert_eq!(advised(&day(&|at| if at < 3 { hour(100_000, 0.9) } else { hour(0, 0.0) })), Some(false), "it is busy");
    assert_eq!(advised(&day(&|_| hour(1_000, 0.0))), None, "it has no device");
    assert_eq!(advised(&nightly[..20]), None, "the day is not over");
}
