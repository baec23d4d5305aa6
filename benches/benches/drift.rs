//! What does it cost to count values against frozen bins, and what to hold the counts?
//!
//! `cargo bench -p tiltyard-benches --bench drift`. One line per kind of column and rows at a time: nanoseconds for each value. Then
//! what it costs to empty a shard and to look at a closed day, for each feature, and the memory that 100 deployments of 1,000 features take
//! with all their windows full, by the growth of the process.
//! `-- DEPLOYMENTS` holds so many of them.
#![allow(clippy::print_stdout, reason = "the report is what a bench is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tiltyard_benches::{Contender, side_by_side};
use tiltyard_drift::alarm::{Rule, Watch};
use tiltyard_drift::baseline::{Baseline, Builder, Role, Spec};
use tiltyard_drift::shard::Shard;
use tiltyard_drift::values::Values;
use tiltyard_drift::windows::Windows;
use tiltyard_types::{Element, Tensor};

/// The server's own allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 41;
const SLICE: Duration = Duration::from_millis(10);
const FEATURES: usize = 1_000;
const HOUR_MS: u64 = 3_600_000;

/// Numbers from 0 to 1, each time the same.
struct Lot(u64);

impl Lot {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Rows side by side: a tensor of `rows` by `columns`.
fn tensor<T: Element>(rows: usize, columns: usize, mut value: impl FnMut(f64) -> T) -> Tensor {
    let mut lot = Lot(7);
    let values: Vec<T> = (0..rows * columns).map(|_| value(lot.next())).collect();
    Tensor::from_slice([rows, columns], &values).expect("so many values")
}

fn words(rows: usize, columns: usize, count: f64) -> Tensor {
    let mut lot = Lot(7);
    let word = |at: f64| Bytes::from(format!("category {}", (at * count) as u64));
    let words = (0..rows * columns).map(|_| word(lot.next())).collect();
    Tensor::strings([rows, columns].into(), words).expect("so many words")
}

/// A baseline of each column, over four weeks where hours shall be told apart.
fn baseline(tensor: &Tensor, has_times: bool) -> Baseline {
    let rows = tensor.shape().rows().unwrap_or(0);
    let mut builder = Builder::new(rows);
    if has_times {
        let times: Vec<u64> = (0..rows as u64).map(|row| row * 28 * 24 * HOUR_MS / rows as u64).collect();
        builder = builder.times(&times).expect("one for each row");
    }
    for column in 0..tensor.elements() / rows {
        let spec = Spec { name: format!("f{column}"), role: Role::Input, importance: 1.0 };
        builder.add(spec, &[Values::of(tensor, column).expect("it is there")]).expect("as many as rows");
    }
    builder.finish().expect("it is one")
}

/// Bytes that the process holds in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
}

/// A case's name, what the baseline is made of, what is asked, and how many rows at a time.
type Case<'a> = (&'a str, Tensor, &'a dyn Fn(usize, usize) -> Tensor, usize);

fn counting() {
    let numbers = |rows, columns| tensor(rows, columns, |at| at as f32);
    let wholes = |rows, columns| tensor(rows, columns, |at| (at * 1e6) as i64);
    let doubles = |rows, columns| tensor(rows, columns, |at| at * at);
    let few = |rows, columns| tensor(rows, columns, |at| (at * 10.0) as i32);
    let known = |rows, columns| words(rows, columns, 50.0);
    let cases: [Case<'_>; 10] = [
        ("FP32, 1,000 columns, 1 row", numbers(2_000, FEATURES), &numbers, 1),
        ("FP32, 1,000 columns, 32 rows", numbers(2_000, FEATURES), &numbers, 32),
        ("FP32, 1 column, 1,000 rows", numbers(2_000, 1), &numbers, 1_000),
        ("FP64, 1,000 columns, 1 row", doubles(2_000, FEATURES), &doubles, 1),
        ("INT64, 1,000 columns, 1 row", wholes(2_000, FEATURES), &wholes, 1),
        ("INT32 of 10, 1,000 columns, 1 row", few(2_000, FEATURES), &few, 1),
        ("INT32 of 10, 1 column, 1,000 rows", few(2_000, 1), &few, 1_000),
        ("texts of 50, 1,000 columns, 1 row", known(2_000, FEATURES), &known, 1),
        ("texts of 50, 1 column, 1,000 rows", known(2_000, 1), &known, 1_000),
        (
            "texts unseen, 1 column, 1,000 rows",
            words(2_000, 1, 50.0),
            &|rows, columns| words(rows, columns, 1e9),
            1_000,
        ),
    ];
    for (name, made_of, like, rows) in cases {
        let columns = made_of.elements() / 2_000;
        let baseline = baseline(&made_of, false);
        let mut shard = Shard::new(&baseline);
        let asked = like(rows, columns);
        let features: Vec<Option<usize>> = (0..columns).map(Some).collect();
        let work = || {
            shard.rows(rows);
            shard.tensor(black_box(&features), black_box(&asked));
            rows
        };
        let time = side_by_side(&mut [Contender::new(name, work)], ROUNDS, SLICE)[0];
        println!("{name:<38} {:>6.1} ns a value", time.as_secs_f64() * 1e9 / (rows * columns) as f64);
    }
}

fn holding(deployments: usize) {
    let columns = tensor(20_000, FEATURES, |at| at as f32);
    let made_of = baseline(&columns, true);
    println!("a baseline's JSON: {} KB for each feature", made_of.to_json().len() / FEATURES / 1_000);
    let json = made_of.to_json();
    let asked = tensor(500, FEATURES, |at| at as f32);
    let features: Vec<Option<usize>> = (0..FEATURES).map(Some).collect();
    drop(columns);
    // What a busy deployment's thread counts in an hour: so many rows that counts are long.
    let mut busy = Shard::new(&made_of);
    for _ in 0..800 {
        busy.rows(500);
        busy.tensor(&features, &asked);
    }
    let before = resident();
    let (mut held, mut emptying, mut looking, mut looks) = (Vec::new(), Duration::ZERO, Duration::ZERO, 0);
    for _ in 0..deployments {
        let baseline = Baseline::from_json(&json).expect("it was one");
        let shards = [Shard::new(&baseline), Shard::new(&baseline)];
        let (mut windows, mut watch) = (Windows::new(&baseline), Watch::new(&baseline, Rule::default()));
        // Ten weeks, so that all that is kept is there: an hour in six is enough for that, and all of the last day.
        for hour in (0..10 * 168).filter(|hour| hour % 6 == 0 || *hour > 10 * 168 - 26) {
            let start = Instant::now();
            let closed = windows.advance(hour * HOUR_MS);
            for window in &closed {
                watch.take(window);
            }
            looking += start.elapsed();
            looks += closed.len();
            let mut shard = busy.clone();
            let start = Instant::now();
            windows.absorb(&mut shard, hour * HOUR_MS);
            emptying += start.elapsed();
        }
        held.push((shards, windows, watch));
    }
    let grown = resident().saturating_sub(before);
    let each = grown as f64 / (deployments * FEATURES) as f64;
    let (nanoseconds, hours) = (|time: Duration| time.as_secs_f64() * 1e9 / FEATURES as f64, 305 * deployments);
    println!("emptying a shard: {:.0} ns for each feature", nanoseconds(emptying) / hours as f64);
    println!("closing and looking at a window: {:.0} ns for each feature", nanoseconds(looking) / looks as f64);
    println!(
        "{deployments} deployments of {FEATURES} features: {} MB, {:.1} KB for each feature",
        grown >> 20,
        each / 1024.0
    );
    let told: usize = made_of.features().iter().map(tiltyard_drift::baseline::Feature::memory).sum();
    println!("what a deployment is said to take: {} MB", told >> 20);
    black_box(held);
}

fn main() {
    let deployments = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(100);
    counting();
    holding(deployments);
}
