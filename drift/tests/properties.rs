//! Does it matter in which order, where and how often rows are put together, and does anything break it?

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tiltyard_drift::alarm::{Rule, Watch};
use tiltyard_drift::baseline::{Baseline, Builder, Role, Spec};
use tiltyard_drift::counts::Counts;
use tiltyard_drift::shard::Shard;
use tiltyard_drift::span::Span;
use tiltyard_drift::values::Values;
use tiltyard_drift::windows::{Window, Windows};
use tiltyard_types::DataType;

const HOUR_MS: u64 = 3_600_000;

/// Some rows of a moment: a number, a text and whether there is one.
#[derive(Clone, Debug)]
struct Batch {
    unix_ms: u64,
    numbers: Vec<f64>,
    texts: Vec<Bytes>,
    missing: usize,
    keys: Vec<u64>,
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        10 => -5.0..5.0f64,
        1 => any::<f64>(),
        1 => prop_oneof![Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY), Just(-0.0), Just(f64::MAX)],
    ]
}

fn text() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        8 => (0..6u8).prop_map(|at| Bytes::from(vec![b'a' + at])),
        1 => vec(any::<u8>(), 0..400).prop_map(Bytes::from),
    ]
}

fn batch() -> impl Strategy<Value = Batch> {
    (0..50u64, 1..20usize).prop_flat_map(|(hour, rows)| {
        let parts = (vec(number(), rows), vec(text(), rows), 0..3usize, vec(any::<u64>(), rows));
        parts.prop_map(move |(numbers, texts, missing, keys)| Batch {
            unix_ms: hour * HOUR_MS,
            numbers,
            texts,
            missing,
            keys,
        })
    })
}

fn bytes(numbers: &[f64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn baseline() -> Baseline {
    let numbers: Vec<f64> = (0..500).map(|row| f64::from(row) / 125.0 - 2.0).collect();
    let texts: Vec<Bytes> = (0..500usize).map(|row| Bytes::from(vec![b'a' + (row % 5) as u8])).collect();
    let mut builder = Builder::new(500);
    let spec = |name: &str, role| Spec { name: name.into(), role, importance: 1.0 };
    let numbers = bytes(&numbers);
    builder.add(spec("x", Role::Input), &[Values::numbers(DataType::Fp64, &numbers).unwrap()]).unwrap();
    builder.add(spec("word", Role::Output), &[Values::texts(&texts)]).unwrap();
    builder.finish().unwrap()
}

fn count(shard: &mut Shard, batch: &Batch) {
    let numbers = bytes(&batch.numbers);
    shard.rows(batch.numbers.len() + batch.missing);
    shard.count(0, &Values::numbers(DataType::Fp64, &numbers).unwrap());
    shard.count(1, &Values::texts(&batch.texts));
    (0..2).for_each(|feature| shard.count(feature, &Values::missing(batch.missing)));
    batch.keys.iter().for_each(|&key| shard.key(key));
}

/// What a window says, to be compared.
type Said = (Span, u64, u64, Vec<(u8, u64)>, Option<f64>, Vec<Counts>);

/// All but the names of newcomers, of which there may be more than places.
fn exact(mut windows: Vec<Window>) -> Vec<Said> {
    windows.sort_by_key(|window| (window.span, window.from_ms()));
    let parts = |window: Window| {
        (window.span, window.from_ms(), window.rows, window.hours().to_vec(), window.keys().count(), window.features)
    };
    windows.into_iter().map(parts).collect()
}

fn all(windows: &Windows) -> Vec<Window> {
    let closed = Span::ALL.into_iter().flat_map(|span| windows.closed(span));
    closed.chain(Span::ALL.into_iter().filter_map(|span| windows.open(span))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// One shard, or three of which each has some of the rows in some order, with a restart after each hour.
    #[test]
    fn together_is_the_same_as_in_parts(batches in vec(batch(), 1..30), deal in vec(0..3usize, 30), seed in any::<u64>()) {
        let baseline = baseline();
        let mut batches = batches;
        batches.sort_by_key(|batch| batch.unix_ms);
        let (mut one, mut together) = (Shard::new(&baseline), Windows::new(&baseline));
        for batch in &batches {
            count(&mut one, batch);
            together.absorb(&mut one, batch.unix_ms);
        }
        let mut shards = [(); 3].map(|()| Shard::new(&baseline));
        let mut parts = Windows::new(&baseline);
        for hour in batches.chunk_by(|a, b| a.unix_ms == b.unix_ms) {
            let mut order: Vec<usize> = (0..hour.len()).collect();
            order.sort_by_key(|&at| (at as u64 + 1).wrapping_mul(seed | 1));
            order.into_iter().for_each(|at| count(&mut shards[deal[at]], &hour[at]));
            shards.iter_mut().for_each(|shard| { parts.absorb(shard, hour[0].unix_ms); });
            parts = Windows::read(&baseline, &parts.write()).unwrap();
        }
        // There are fewer different words than places, or what is beyond is not compared.
        let words: std::collections::HashSet<&Bytes> = batches.iter().flat_map(|batch| &batch.texts).collect();
        if words.len() < 30 {
            let ordered = |windows: &Windows| exact(all(windows)).into_iter().map(|mut window| {
                let names = window.5[1].newcomers().map(|new| new.commonest().into_iter().map(|(new, rows)| (new.clone(), rows)).collect::<Vec<_>>());
                window.5.truncate(1);
                (window, names)
            }).collect::<Vec<_>>();
            prop_assert_eq!(ordered(&parts), ordered(&together));
        }
        let bins = |windows: &Windows| exact(all(windows)).into_iter().flat_map(|window| window.5)
            .map(|counts| (counts.bins().to_vec(), counts.null(), counts.nan(), counts.infinite())).collect::<Vec<_>>();
        prop_assert_eq!(bins(&parts), bins(&together));
    }

    /// Replicas' windows add up in any order.
    #[test]
    fn windows_add_up_in_any_order(batches in vec(batch(), 3..9)) {
        let baseline = baseline();
        let of = |batch: &Batch| {
            let (mut shard, mut windows) = (Shard::new(&baseline), Windows::new(&baseline));
            count(&mut shard, batch);
            windows.absorb(&mut shard, 0);
            windows.open(Span::Hour).unwrap()
        };
        let windows: Vec<Window> = batches.iter().map(of).collect();
        let sum = |order: Vec<&Window>| {
            let mut sum = Window::new(&baseline, Span::Hour, 0);
            order.into_iter().for_each(|window| sum.merge(window).unwrap());
            (sum.rows, sum.hours().to_vec(), sum.keys().count(), sum.features[0].clone(), sum.features[1].bins().to_vec())
        };
        prop_assert_eq!(sum(windows.iter().collect()), sum(windows.iter().rev().collect()));
        prop_assert!(Window::new(&baseline, Span::Day, 0).merge(&windows[0]).is_err());
    }

    /// Whatever numbers a column has, a baseline comes of it and back, or it is said why not, and windows of it are looked at.
    #[test]
    fn nothing_breaks_it(column in vec(number(), 0..300), asked in vec(number(), 0..300), words in vec(text(), 300), hours in vec(0..2_000u64, 300)) {
        let mut builder = Builder::new(column.len()).times(&hours[..column.len()].iter().map(|hour| hour * HOUR_MS).collect::<Vec<_>>()).unwrap();
        let spec = |name: &str| Spec { name: name.into(), role: Role::Input, importance: 1.0 };
        let numbers = bytes(&column);
        builder.add(spec("x"), &[Values::numbers(DataType::Fp64, &numbers).unwrap()]).unwrap();
        builder.add(spec("word"), &[Values::texts(&words[..column.len()])]).unwrap();
        let baseline = builder.finish().unwrap();
        prop_assert_eq!(baseline.features().len() + baseline.facts().left_out.len(), 2);
        let back = Baseline::from_json(&baseline.to_json()).unwrap();
        prop_assert_eq!((back.digest(), back.facts()), (baseline.digest(), baseline.facts()));
        let (mut shard, mut windows) = (Shard::new(&back), Windows::new(&back));
        let mut watch = Watch::new(&back, Rule::default());
        let asked = bytes(&asked);
        for day in 0..5 {
            shard.rows(asked.len() / 8);
            for feature in 0..2 {
                shard.count(feature, &Values::numbers(DataType::Fp64, &asked).unwrap());
            }
            for window in windows.absorb(&mut shard, day * 24 * HOUR_MS) {
                watch.take(&window);
                let read = Window::read(&back, &window.write());
                prop_assert_eq!(read, Ok(window));
            }
            let kept = watch.write();
            prop_assert_eq!(Watch::read(&back, Rule::default(), &kept).unwrap().write(), kept);
        }
        for feature in 0..back.features().len() {
            let standing = watch.standing(feature);
            prop_assert!(!standing.why.is_empty());
        }
    }

    /// Bytes that are no windows are refused, and never more than that.
    #[test]
    fn what_is_broken_is_refused(batches in vec(batch(), 1..9), at in any::<prop::sample::Index>(), bit in 0..8u8, cut in any::<prop::sample::Index>()) {
        let baseline = baseline();
        let (mut shard, mut windows) = (Shard::new(&baseline), Windows::new(&baseline));
        for batch in &batches {
            count(&mut shard, batch);
        }
        windows.absorb(&mut shard, 0);
        let written = windows.write();
        let mut broken = written.clone();
        broken[at.index(written.len())] ^= 1 << bit;
        prop_assert!(Windows::read(&baseline, &broken).is_err());
        prop_assert!(Windows::read(&baseline, &written[..cut.index(written.len())]).is_err());
        // Without the check at the end.
        let mut window = windows.open(Span::Hour).unwrap().write();
        let at = at.index(window.len());
        window[at] ^= 1 << bit;
        let _ = Window::read(&baseline, &window);
        let json = baseline.to_json();
        let mut json = json.into_bytes();
        let at = cut.index(json.len());
        json[at] ^= 1 << (bit % 7);
        // A digit may be written in two ways.
        if let Ok(read) = Baseline::from_json(&String::from_utf8_lossy(&json)) {
            prop_assert_eq!(read.digest(), baseline.digest());
        }
    }
}
