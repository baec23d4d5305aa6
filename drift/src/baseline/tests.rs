//! Are bins cut where they should be, are like hours found, and does what is left out say why?

use bytes::Bytes;
use tiltyard_types::DataType;

use super::*;
use crate::span::HOUR_MS;
use crate::values::{Values, mixed};

fn spec(name: &str, importance: f64) -> Spec {
    Spec { name: name.into(), role: Role::Input, importance }
}

fn bytes(numbers: impl IntoIterator<Item = f64>) -> Vec<u8> {
    numbers.into_iter().flat_map(f64::to_le_bytes).collect()
}

fn numbers(bytes: &[u8]) -> Values<'_> {
    Values::numbers(DataType::Fp64, bytes).unwrap()
}

/// A baseline of one column of numbers, of which each has its time in hours.
fn of(rows: &[(u64, f64)]) -> Baseline {
    let column = bytes(rows.iter().map(|row| row.1));
    let times: Vec<u64> = rows.iter().map(|row| row.0 * HOUR_MS).collect();
    let mut builder = Builder::new(rows.len()).times(&times).unwrap();
    builder.add(spec("x", 1.0), &[numbers(&column)]).unwrap();
    builder.finish().unwrap()
}

#[test]
fn numbers_are_cut_into_twenty_of_equal_mass() {
    let column = bytes((0..1_000).map(|row| f64::from(row * 7 % 1_000)));
    let mut builder = Builder::new(1_002);
    builder.add(spec("x", 1.0), &[numbers(&column), Values::missing(1), numbers(&f64::NAN.to_le_bytes())]).unwrap();
    let baseline = builder.finish().unwrap();
    let feature = &baseline.features()[0];
    let Bins::Numeric(numeric) = &feature.bins else { panic!("{:?}", feature.bins) };
    let cuts: Vec<f64> = [0.0].into_iter().chain((1..=20).map(|part| f64::from(part) * 50.0 - 1.0)).collect();
    assert_eq!(numeric.cuts(), cuts);
    assert!((numeric.mean() - 499.5).abs() < 1e-9 && (numeric.sd() - 288.675).abs() < 1e-3, "{numeric:?}");
    let totals = feature.totals();
    assert_eq!(totals[..22], [vec![0], vec![50; 20], vec![0]].concat()[..]);
    assert_eq!(totals[22..], [1, 1, 0, 0]);
    let whole = feature.expected(&[(0, 100)], 1.0);
    assert_eq!((whole.expected.m.round(), (whole.missing - 2.0 / 1_002.0).abs() < 1e-12), (1_000.0, true));
}

#[test]
fn few_numbers_texts_and_truth_values_are_categories() {
    let rows = 2_000;
    let few = bytes((0..rows).map(|row| f64::from(row % 20)));
    let more = bytes((0..rows).map(|row| f64::from(row % 21)));
    let texts = |count: i32| (0..rows).map(|row| Bytes::from(format!("t{}", row % count))).collect::<Vec<_>>();
    let (some, many) = (texts(100), texts(2_000));
    let truths: Vec<u8> = (0..rows).map(|row| u8::from(row % 3 == 0)).collect();
    let mut builder = Builder::new(rows as usize);
    builder.add(spec("few", 1.0), &[numbers(&few)]).unwrap();
    builder.add(spec("more", 1.0), &[numbers(&more)]).unwrap();
    builder.add(spec("some", 1.0), &[Values::texts(&some)]).unwrap();
    builder.add(spec("many", 1.0), &[Values::texts(&many)]).unwrap();
    builder.add(spec("truth", 1.0), &[Values::numbers(DataType::Bool, &truths).unwrap()]).unwrap();
    builder.add(spec("none", 1.0), &[Values::missing(2_000)]).unwrap();
    builder.add(spec("both", 1.0), &[Values::texts(&some[..1_000]), numbers(&few[..8_000])]).unwrap();
    assert!(builder.add(spec("few", 1.0), &[numbers(&few)]).unwrap_err().contains("twice"));
    assert!(builder.add(spec("short", 1.0), &[numbers(&few[8..])]).unwrap_err().contains("1999 values of \"short\""));
    let baseline = builder.finish().unwrap();
    let shape = |feature: &Feature| (feature.bins.are_numeric(), feature.bins.bins(), feature.bins.strange().len());
    let shapes: Vec<_> = baseline.features().iter().map(shape).collect();
    // 100 texts are 64 and others; 2,000 are more than are told apart, so that none is new.
    assert_eq!(shapes, [(false, 22, 1), (true, 22, 2), (false, 66, 1), (false, 66, 0), (false, 4, 1)]);
    let left: Vec<(&str, &str)> = baseline.facts().left_out.iter().map(|out| (&*out.name, &*out.why)).collect();
    assert_eq!(left, [("none", "no row has a value"), ("both", "some of its values are texts and some numbers")]);
}

#[test]
fn hours_that_are_alike_are_found() {
    // Values spread from 0 to 1, in four weeks from a Monday on.
    let rows = |value: &dyn Fn(u64) -> f64| {
        let row = |at: u64| (at / 20 + 96, value(at / 20) + (mixed(at, 9) % 1_000) as f64 / 1_000.0);
        (0..28 * 24 * 20).map(row).collect::<Vec<_>>()
    };
    let by_day = |hour: u64| if hour % 24 < 8 { 0.5 } else { 0.0 };
    let weekend = |hour: u64| if hour / 24 % 7 >= 5 { 0.5 } else { 0.0 };
    let cycle = |value: &dyn Fn(u64) -> f64| of(&rows(value)).features()[0].cycle;
    assert_eq!(cycle(&|_| 0.0), Cycle::None);
    assert_eq!(cycle(&by_day), Cycle::Day);
    assert_eq!(cycle(&weekend), Cycle::Week);
    assert_eq!(cycle(&|hour| by_day(hour) + weekend(hour)), Cycle::DayAndWeekend);
    // One day alone tells nothing of others.
    assert_eq!(of(&rows(&by_day)[..480]).features()[0].cycle, Cycle::None);
    let baseline = of(&rows(&by_day));
    let feature = &baseline.features()[0];
    let day = feature.steadiness(Span::Day).unwrap();
    assert!(day.windows == 28 && day.mean < 0.01 && day.strange < 0.05, "{day:?}");
    assert_eq!(feature.steadiness(Span::Week), None);
    // What is expected of the night is what the night had, and of both what both had.
    let below = |hours: &[(u8, u64)]| {
        let expected = feature.expected(hours, 1.0).expected;
        expected.shares[..7].iter().sum::<f64>()
    };
    let [night, noon, both] = [below(&[(3, 10)]), below(&[(12, 10)]), below(&[(3, 10), (12, 10)])];
    assert!(night < 0.01 && noon > 0.3 && (both - (night + noon) / 2.0).abs() < 1e-9, "{night} {noon} {both}");
}

#[test]
fn what_matters_least_is_left_out_first() {
    let column = bytes((0..100).map(f64::from));
    let mut builder = Builder::new(100);
    for (name, importance) in [("a", 1.0), ("b", 3.0), ("c", 2.0)] {
        builder.add(spec(name, importance), &[numbers(&column)]).unwrap();
    }
    let output = Spec { name: "y".into(), role: Role::Output, importance: 0.5 };
    builder.add(output, &[numbers(&column)]).unwrap();
    let baseline = builder.finish().unwrap();
    let each = baseline.features()[0].memory();
    let some = baseline.within(3 * each + 10).unwrap();
    let names: Vec<&str> = some.features().iter().map(|feature| feature.name.as_str()).collect();
    assert_eq!((names, some.facts().left_out[0].name.as_str()), (vec!["b", "c", "y"], "a"));
    assert!(some.facts().left_out[0].why.starts_with("no room"));
    assert_ne!(some.digest(), baseline.digest());
    assert_eq!(baseline.within(1 << 20).unwrap().digest(), baseline.digest());
}
