//! Is each alert told once when it begins and once when it ends, whatever else happens? Time is the test's.

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;

fn terms() -> BTreeMap<String, Terms> {
    let calm = Duration::from_secs(60);
    let terms = |severity, hold| Terms { severity, hold: Duration::from_secs(hold), calm };
    BTreeMap::from([
        ("drift".to_owned(), terms(Severity::Warning, 0)),
        ("errors".to_owned(), terms(Severity::Critical, 120)),
    ])
}

fn open(kept: Kept, now_ms: u64) -> Book {
    let pace = Pace { group: Duration::from_secs(60), repeat: Duration::from_secs(4 * 3600) };
    Book::open(terms(), pace, kept, now_ms)
}

fn labels(version: &str) -> Labels {
    BTreeMap::from([("version".to_owned(), version.to_owned())])
}

fn finding(rule: &str, version: &str, is_met: impl Into<Option<bool>>) -> Finding {
    Finding { rule: rule.into(), labels: labels(version), is_met: is_met.into(), why: "so it is".into() }
}

/// Looks, and delivers what is due: rule, state and version of each.
fn told(book: &mut Book, findings: &[Finding], now_ms: u64) -> Vec<String> {
    book.look(findings, now_ms);
    let due = book.due(now_ms);
    due.iter().for_each(|message| book.settle(message, true, now_ms));
    let line = |message: &Message, told: &Told| {
        format!("{} {} {}", message.rule, told.alert.phase.name(), told.labels["version"])
    };
    due.iter().flat_map(|message| message.alerts.iter().map(|told| line(message, told)).collect::<Vec<_>>()).collect()
}

#[test]
fn an_alert_is_told_when_it_begins_and_when_it_ends() {
    let mut book = open(Kept::default(), 0);
    assert_eq!(told(&mut book, &[finding("drift", "1", true)], HOUR), ["drift firing 1"]);
    assert_eq!(book.firing(), BTreeMap::from([("drift", 1), ("errors", 0)]));
    for minute in 1..9 {
        assert!(told(&mut book, &[finding("drift", "1", true)], HOUR + minute * MINUTE).is_empty());
    }
    let later = HOUR + 9 * MINUTE;
    assert_eq!(told(&mut book, &[finding("drift", "1", false)], later), ["drift resolved 1"]);
    assert!(told(&mut book, &[finding("drift", "1", false)], later + HOUR).is_empty());
    assert_eq!(book.form()["alerts"][0]["state"], "resolved");
    book.look(&[], later + 25 * HOUR);
    assert_eq!(book.form()["alerts"], json!([]));
}

#[test]
fn what_is_met_for_a_moment_only_fires_nothing() {
    let mut book = open(Kept::default(), 0);
    for round in 0..20 {
        let at = HOUR + round * 3 * MINUTE;
        assert!(told(&mut book, &[finding("errors", "1", true)], at).is_empty());
        assert_eq!(book.form()["alerts"][0]["state"], "pending");
        assert!(told(&mut book, &[finding("errors", "1", true)], at + MINUTE).is_empty());
        assert!(told(&mut book, &[finding("errors", "1", false)], at + 2 * MINUTE).is_empty());
    }
    told(&mut book, &[finding("errors", "1", true)], 3 * HOUR);
    assert_eq!(told(&mut book, &[finding("errors", "1", true)], 3 * HOUR + 2 * MINUTE), ["errors firing 1"]);
}

#[test]
fn what_still_fires_is_told_again_and_together() {
    let mut book = open(Kept::default(), 0);
    let both = [finding("drift", "1", true), finding("drift", "2", true)];
    assert_eq!(told(&mut book, &both[..1], HOUR), ["drift firing 1"]);
    // The second waits until the group may be told of again.
    assert!(told(&mut book, &both, HOUR + 30 * SECOND).is_empty());
    assert_eq!(told(&mut book, &both, HOUR + MINUTE), ["drift firing 1", "drift firing 2"]);
    assert!(told(&mut book, &both, 4 * HOUR).is_empty());
    assert_eq!(told(&mut book, &both, 5 * HOUR + MINUTE).len(), 2);
}

#[test]
fn a_restart_tells_nothing_twice_and_forgets_nothing() {
    let mut book = open(Kept::default(), 0);
    let firing = [finding("drift", "1", true)];
    assert_eq!(told(&mut book, &firing, HOUR), ["drift firing 1"]);
    assert!(book.take_change() && !book.take_change());
    let text = serde_json::to_string(&book.keep()).unwrap();
    let mut book = open(serde_json::from_str(&text).unwrap(), 2 * HOUR);
    // Nobody can say yet, or not everything is there: that ends nothing.
    assert!(told(&mut book, &[], 2 * HOUR).is_empty());
    assert!(told(&mut book, &[finding("drift", "1", None)], 2 * HOUR + 5 * MINUTE).is_empty());
    assert_eq!(book.firing()["drift"], 1);
    assert!(told(&mut book, &firing, 2 * HOUR + 6 * MINUTE).is_empty());
    // The version is gone for good.
    assert_eq!(told(&mut book, &[], 2 * HOUR + 10 * MINUTE), ["drift resolved 1"]);
    let file: Kept = serde_json::from_str(&text.replace("drift", "gone")).unwrap();
    assert_eq!(open(file, 0).form()["alerts"], json!([]), "a rule that is gone says nothing");
}

#[test]
fn what_is_not_delivered_is_tried_again_less_and_less_often() {
    let mut book = open(Kept::default(), 0);
    let firing = [finding("drift", "1", true)];
    book.look(&firing, 0);
    let mut tries = Vec::new();
    for now_ms in (0..HOUR).step_by(1_000) {
        for message in book.due(now_ms) {
            assert!(book.due(now_ms).is_empty(), "it is under way");
            book.settle(&message, false, now_ms);
            tries.push(now_ms);
        }
    }
    assert_eq!(tries[..5], [0, 2, 6, 14, 30].map(|second| second * SECOND));
    assert_eq!(tries.windows(2).map(|two| two[1] - two[0]).max(), Some(5 * MINUTE));
    assert_eq!(told(&mut book, &firing, HOUR + 5 * MINUTE), ["drift firing 1"]);
    // What is over before anybody was told of it is not told at all.
    let both = |errors| [finding("drift", "1", true), finding("errors", "1", errors)];
    book.look(&both(true), 2 * HOUR);
    book.look(&both(true), 2 * HOUR + 2 * MINUTE);
    let [message] = &book.due(2 * HOUR + 2 * MINUTE)[..] else { panic!("one message") };
    assert_eq!(message.rule, "errors");
    book.settle(message, false, 2 * HOUR + 2 * MINUTE);
    assert!(told(&mut book, &both(false), 2 * HOUR + 9 * MINUTE).is_empty());
}

#[test]
fn silenced_alerts_are_told_to_nobody_until_that_is_over() {
    let mut book = open(Kept::default(), 0);
    let silence = |rule: Option<&str>, version: &str| Silence {
        id: 0,
        rule: rule.map(str::to_owned),
        labels: labels(version),
        until_ms: 2 * HOUR,
        by: "ada".into(),
        why: "a known fault".into(),
    };
    assert!(book.silence(silence(Some("drfit"), "1")).unwrap_err().contains("drift"));
    let id = book.silence(silence(Some("drift"), "1")).unwrap();
    let both = [finding("drift", "1", true), finding("drift", "2", true)];
    assert_eq!(told(&mut book, &both, HOUR), ["drift firing 2"]);
    assert_eq!(book.form()["alerts"][0]["silence"], id);
    assert_eq!(told(&mut book, &both, 2 * HOUR), ["drift firing 1", "drift firing 2"]);
    assert!(!book.unsilence(id), "it ended by itself");
    let id = book.silence(Silence { until_ms: 9 * HOUR, ..silence(None, "3") }).unwrap();
    assert!(book.unsilence(id));
}

#[test]
fn alerts_are_bounded() {
    let mut book = open(Kept::default(), 0);
    let many: Vec<Finding> = (0..ALERTS_MAX + 7).map(|at| finding("drift", &at.to_string(), true)).collect();
    book.look(&many, 0);
    assert_eq!((book.alerts.len(), book.form()["left_out"].as_u64()), (ALERTS_MAX, Some(7)));
}

proptest! {
    /// Whatever is found when, and whatever is delivered: what was delivered last of each alert alternates between firing and over,
    /// and once all is quiet and delivered, nobody believes that anything fires.
    #[test]
    fn receivers_are_never_told_the_end_of_what_did_not_begin(
        steps in prop::collection::vec((0..2usize, 0..3u8, any::<bool>(), 1..10u64), 1..80)
    ) {
        let mut book = open(Kept::default(), 0);
        let mut believed: BTreeMap<String, bool> = BTreeMap::new();
        let mut now_ms = HOUR;
        let quiet = [finding("drift", "0", false), finding("drift", "1", false)];
        let ends = (0..80).map(|_| (2, 1, true, 1));
        for (version, met, is_delivered, minutes) in steps.into_iter().chain(ends) {
            now_ms += minutes * MINUTE;
            let met = [None, Some(false), Some(true)][usize::from(met)];
            match version {
                2 => book.look(&quiet, now_ms),
                _ => book.look(&[finding("drift", &version.to_string(), met)], now_ms),
            }
            for message in book.due(now_ms) {
                book.settle(&message, is_delivered, now_ms);
                if !is_delivered {
                    continue;
                }
                for told in &message.alerts {
                    let fires = told.alert.phase == Phase::Firing;
                    let before = believed.insert(told.labels["version"].clone(), fires).unwrap_or(false);
                    prop_assert!(fires || before, "the end of what did not begin");
                }
            }
        }
        prop_assert!(believed.values().all(|fires| !fires), "{:?}", believed);
    }
}
