//! Does an alarm rise when it should, not before, and end when it is over?

use bytes::Bytes;
use tiltyard_types::DataType;

use super::*;
use crate::baseline::{Builder, Spec};
use crate::shard::Shard;
use crate::span::HOUR_MS;
use crate::values::Values;
use crate::windows::Windows;

const DAY_MS: u64 = 24 * HOUR_MS;

/// Numbers from 0 to 1, evenly.
fn even(rows: usize) -> Vec<f64> {
    (0..rows).map(|row| (row as f64 + 0.5) / rows as f64).collect()
}

fn bytes(numbers: impl IntoIterator<Item = f64>) -> Vec<u8> {
    numbers.into_iter().flat_map(f64::to_le_bytes).collect()
}

fn numbers(bytes: &[u8]) -> Values<'_> {
    Values::numbers(DataType::Fp64, bytes).unwrap()
}

fn spec(name: &str, role: Role, importance: f64) -> Spec {
    Spec { name: name.into(), role, importance }
}

/// Inputs x and word, of which x matters more, and an output y like x.
fn baseline() -> Baseline {
    let rows = 20_000;
    let x = bytes(even(rows));
    let words: Vec<Bytes> = (0..rows).map(|row| Bytes::from(["a", "b", "c"][row % 3])).collect();
    let mut builder = Builder::new(rows);
    builder.add(spec("x", Role::Input, 3.0), &[numbers(&x)]).unwrap();
    builder.add(spec("word", Role::Input, 1.0), &[Values::texts(&words)]).unwrap();
    builder.add(spec("y", Role::Output, 1.0), &[numbers(&x)]).unwrap();
    builder.finish().unwrap()
}

/// What is asked in an hour.
#[derive(Clone)]
struct Hour {
    x: Vec<f64>,
    words: Vec<&'static str>,
    y: Vec<f64>,
    keys: Option<u64>,
}

impl Hour {
    fn plain(rows: usize) -> Hour {
        let words = (0..rows).map(|row| ["a", "b", "c"][row % 3]).collect();
        Hour { x: even(rows), words, y: even(rows), keys: None }
    }

    fn with_x(self, change: impl FnMut(f64) -> f64) -> Hour {
        Hour { x: self.x.into_iter().map(change).collect(), ..self }
    }
}

struct Played {
    shard: Shard,
    windows: Windows,
    watch: Watch,
    /// Those that closed.
    closed: Vec<Window>,
}

impl Played {
    fn new() -> Played {
        let baseline = baseline();
        let watch = Watch::new(&baseline, Rule::default());
        Played { shard: Shard::new(&baseline), windows: Windows::new(&baseline), watch, closed: Vec::new() }
    }

    fn ask(&mut self, unix_ms: u64, hour: &Hour) {
        let [x, y] = [&hour.x, &hour.y].map(|numbers| bytes(numbers.iter().copied()));
        let words: Vec<Bytes> = hour.words.iter().map(|word| Bytes::from_static(word.as_bytes())).collect();
        self.shard.rows(hour.x.len());
        self.shard.count(0, &numbers(&x));
        self.shard.count(1, &Values::texts(&words));
        self.shard.count(2, &numbers(&y));
        if let Some(keys) = hour.keys {
            (0..hour.x.len() as u64).for_each(|row| self.shard.key(row % keys));
        }
        assert!(self.windows.absorb(&mut self.shard, unix_ms).is_empty(), "what is over was looked at");
    }

    fn until(&mut self, unix_ms: u64) -> Vec<Change> {
        let closed = self.windows.advance(unix_ms);
        let changes = closed.iter().flat_map(|window| self.watch.take(window)).collect();
        self.closed.extend(closed);
        changes
    }

    /// A day in one hour.
    fn day(&mut self, day: u64, hour: &Hour) -> Vec<Change> {
        self.ask(day * DAY_MS, hour);
        self.until((day + 1) * DAY_MS)
    }
}

#[test]
fn two_days_in_a_row_alarm_and_two_end_it() {
    let mut played = Played::new();
    let [plain, moved] = [Hour::plain(500), Hour::plain(500).with_x(|x| x * x)];
    assert_eq!(played.day(0, &plain), []);
    assert_eq!(played.day(1, &moved), []);
    assert_eq!(played.day(2, &plain), []);
    assert_eq!(played.day(3, &moved), []);
    let changes = played.day(4, &moved);
    let told: Vec<_> = changes.iter().map(|change| (change.feature, change.from, change.to, change.signal)).collect();
    // x is three quarters of the inputs by importance.
    assert_eq!(told, [(None, Level::Ok, Level::Alert, None), (Some(0), Level::Ok, Level::Alert, Some(Signal::Shape))]);
    assert!(changes.iter().all(|change| change.severity == Severity::Important && !change.may_act()));
    assert_eq!(changes[0].why, "75.0 % of the inputs, by importance, are not as expected: x.");
    let why = "input x: distributed otherwise for 2 days or more: PSI ";
    assert!(changes[1].why.starts_with(why), "{}", changes[1].why);
    let when = "(500 rows from 1970-01-05 00:00 to 1970-01-06 00:00 UTC).";
    assert!(changes[1].why.ends_with(when), "{}", changes[1].why);
    assert_eq!((played.watch.level(Role::Input), played.watch.level(Role::Output)), (Level::Alert, Level::Ok));
    let standing = played.watch.standing(0);
    assert_eq!((standing.since_ms, standing.by), (5 * DAY_MS, Some((Signal::Shape, Span::Day))));
    assert_eq!(played.watch.whole(), (Level::Alert, 5 * DAY_MS));
    // One calm day is none.
    assert_eq!(played.day(5, &plain), []);
    assert_eq!(played.day(6, &moved), []);
    assert_eq!(played.day(7, &plain), []);
    let changes = played.day(8, &plain);
    assert_eq!(changes.iter().filter(|change| change.to == Level::Ok).count(), 2, "{changes:?}");
    let standing = played.watch.standing(0);
    assert_eq!((standing.level, standing.by, standing.since_ms), (Level::Ok, None, 9 * DAY_MS));
    assert!(standing.why.starts_with("input x: as expected"), "{}", standing.why);
}

#[test]
fn values_that_are_missing_alarm_within_the_hour() {
    let mut played = Played::new();
    let mut row = 0;
    let holes = Hour::plain(300).with_x(|x| {
        row += 1;
        if row % 4 == 0 { f64::NAN } else { x }
    });
    played.ask(0, &Hour::plain(300));
    assert_eq!(played.until(HOUR_MS), []);
    played.ask(HOUR_MS, &holes);
    let changes = played.until(2 * HOUR_MS);
    assert_eq!((changes.len(), changes[1].signal, changes[1].may_act()), (2, Some(Signal::Missing), true));
    let why = "input x: 25.0 % of the rows have no usable value, where 0.0 % were expected";
    assert!(changes[1].why.starts_with(why), "{}", changes[1].why);
    let mut over = Vec::new();
    for hour in 2..5 {
        played.ask(hour * HOUR_MS, &Hour::plain(300));
        over.extend(played.until((hour + 1) * HOUR_MS));
    }
    assert!(over.iter().all(|change| change.to == Level::Ok && change.at_ms == 4 * HOUR_MS), "{over:?}");
}

#[test]
fn values_that_were_never_seen_are_named() {
    let mut played = Played::new();
    let mut hour = Hour::plain(500);
    hour.words.iter_mut().step_by(10).for_each(|word| *word = "new");
    let changes = played.day(0, &hour);
    let why = "input word: 10.0 % of the values are none that the baseline had: \"new\" (50 rows)";
    assert!(changes.len() == 1 && changes[0].why.starts_with(why), "{changes:?}");
    // Four points more are none of this rule's five.
    let mut played = Played::new();
    let mut hour = Hour::plain(500);
    hour.words.iter_mut().step_by(25).for_each(|word| *word = "new");
    assert_eq!(played.day(0, &hour), []);
    let out = Hour::plain(500).with_x(|x| if x > 0.9 { 7.0 } else { x });
    let changes = played.day(1, &out);
    assert!(
        changes[1].why.contains("out of the baseline's range") && changes[1].why.contains("the largest 7"),
        "{changes:?}"
    );
}

#[test]
fn small_windows_wait_for_more_rows() {
    let mut played = Played::new();
    let moved = Hour::plain(60).with_x(|x| x * x);
    let mut at = Vec::new();
    for day in 0..12 {
        at.extend(played.day(day, &moved).iter().filter(|change| change.feature.is_some()).map(|change| change.at_ms));
    }
    // 240 rows in four days, twice.
    assert_eq!(at, [8 * DAY_MS]);
}

#[test]
fn rows_of_few_keys_are_few() {
    let mut played = Played::new();
    let moved = Hour { keys: Some(20), ..Hour::plain(500).with_x(|x| x * x) };
    assert!((0..8).all(|day| played.day(day, &moved).is_empty()));
    assert!(played.watch.standing(0).why.ends_with("too few rows yet to tell."), "{}", played.watch.standing(0).why);
}

#[test]
fn outputs_come_first() {
    let mut played = Played::new();
    let mut moved = Hour::plain(500).with_x(|x| x * x);
    moved.y = moved.x.clone();
    played.day(0, &moved);
    let changes = played.day(1, &moved);
    let order: Vec<_> = changes.iter().map(|change| (change.feature, change.severity)).collect();
    let [output, important] = [Severity::Output, Severity::Important];
    assert_eq!(order, [(None, output), (Some(2), output), (Some(0), important)]);
    assert_eq!(changes[0].why, "what the model answers is distributed otherwise: output y.");
}

/// From the windows that were kept, and from bytes in the middle, the same comes out.
#[test]
fn the_same_windows_give_the_same_alarms() {
    let mut played = Played::new();
    let moved = Hour::plain(300).with_x(|x| x * x * x);
    let plain = Hour { keys: Some(250), ..Hour::plain(300) };
    let mut changes = Vec::new();
    for day in 0..13 {
        changes.extend(played.day(day, if (4..8).contains(&day) { &moved } else { &plain }));
    }
    assert!(changes.len() >= 4, "{changes:?}");
    let baseline = played.windows.baseline().clone();
    let mut again = Watch::new(&baseline, Rule::default());
    let mut told = Vec::new();
    for (at, window) in played.closed.iter().enumerate() {
        told.extend(again.take(&Window::read(&baseline, &window.write()).unwrap()));
        if at % 3 == 0 {
            again = Watch::read(&baseline, Rule::default(), &again.write()).unwrap();
        }
    }
    assert_eq!(told, changes);
    // The days that are kept give the days' alarms.
    let mut kept = Watch::new(&baseline, Rule::default());
    let told: Vec<Change> = played.windows.closed(Span::Day).flat_map(|window| kept.take(&window)).collect();
    assert_eq!(told.len(), changes.len());
    assert!(Watch::read(&baseline, Rule::default(), b"TYWATCH1").is_err());
}

/// Half of the rows of each hour reach each of two replicas, whose clocks are a second apart.
#[test]
fn replicas_together_say_what_one_alone_would() {
    let (mut whole, mut first, mut second) = (Played::new(), Played::new(), Played::new());
    let part = |hour: &Hour, rest: usize| {
        fn half<T: Copy>(all: &[T], rest: usize) -> Vec<T> {
            all.iter().skip(rest).step_by(2).copied().collect()
        }
        Hour { x: half(&hour.x, rest), words: half(&hour.words, rest), y: half(&hour.y, rest), keys: None }
    };
    let moved = Hour::plain(500).with_x(|x| x * x);
    for hour in 0..60 {
        let at = hour * HOUR_MS;
        for (played, asked) in
            [(&mut whole, moved.clone()), (&mut first, part(&moved, 0)), (&mut second, part(&moved, 1))]
        {
            played.until(at);
            played.ask(at, &asked);
        }
    }
    let now_ms = 60 * HOUR_MS + 1_000;
    whole.until(now_ms);
    let mut merged = first.windows.clone();
    merged.merge(second.windows.clone(), now_ms).unwrap();
    assert!(merged.write() == whole.windows.write(), "to the byte");
    let watch = Watch::replay(Rule::default(), &merged);
    for feature in 0..3 {
        assert_eq!(watch.standing(feature), whole.watch.standing(feature));
    }
    assert_eq!(watch.standing(0).level, Level::Alert);
    let other = Windows::new(&Builder::new(0).finish().unwrap());
    assert!(merged.merge(other, now_ms).unwrap_err().contains("baseline"));
}

#[test]
fn why_it_alarms_is_known_again_after_a_restart() {
    let mut played = Played::new();
    let moved = Hour::plain(500).with_x(|x| x * x);
    (0..4).for_each(|day| drop(played.day(day, &moved)));
    let baseline = played.windows.baseline().clone();
    let mut again = Watch::read(&baseline, Rule::default(), &played.watch.write()).unwrap();
    assert!(again.standing(0).reading.is_none());
    again.recall(&played.windows);
    assert_eq!(again.standing(0), played.watch.standing(0));
    let days: Vec<Window> = played.windows.closed(Span::Day).collect();
    let found = readings(&baseline, &Rule::default(), 0, &days);
    assert_eq!((found.len(), found.last()), (4, played.watch.reading(0, Span::Day)));
}
