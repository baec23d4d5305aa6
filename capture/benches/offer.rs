//! What does it cost to capture an answer, in the request's path?
//!
//! `cargo bench -p tiltyard-capture --bench offer`. One line for each way: nanoseconds of processor time, faults of pages
//! included, for a record of 1 KiB of tensors: the median and the 90th percentile of rounds. Beside it a copy of the same
//! bytes. Segments are written between the rounds; the keeper runs meanwhile, as in a server. Back to back, producers
//! outrun it and meet the faults that it spares those who have something else to do between two answers; of these it is the
//! time by the wall's clock that is told, without what reading it takes.
#![allow(clippy::print_stdout, reason = "the report is what a bench is for")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};
use tiltyard_capture::{Capture, Limits, Outcome, Record, Threads, Value};
use tiltyard_types::{Digest, RequestId, Tensor};

const ROUNDS: usize = 15;
const RECORDS: u32 = 20_000;

fn now_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_micros() as u64)
}

fn record<'a>(number: u32, features: &'a Tensor, score: &'a Tensor) -> Record<'a> {
    Record {
        request: RequestId::from_bits(u128::from(number)),
        rows: 1,
        first_row: 0,
        unix_us: 1_764_374_400_000_000,
        latency_ns: 85_000,
        endpoint: "risk".into(),
        model: "risk".into(),
        version: 3,
        digest: Digest::new([0; 32]),
        arm: "champion".into(),
        key: Some(7),
        layout: 0,
        outcome: Outcome::Answered,
        headers: vec![],
        inputs: vec![Value::of("features", features)],
        outputs: vec![Value::of("score", score)],
        subjects: vec![],
    }
}

/// Processor time of this thread.
fn used() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a thread has a clock").into()
}

/// Nanoseconds for each record of a thread that does nothing else.
fn back_to_back(capture: &Capture, threads: u32) -> f64 {
    let each = RECORDS / threads;
    let work = || {
        let features = Tensor::from_slice([1, 255], &[0.5f32; 255]).expect("255 of them");
        let score = Tensor::from_slice([1], &[0.25f32]).expect("one");
        let begun = used();
        for number in 0..each {
            capture.offer(&record(number, &features, &score)).expect("there is room");
        }
        used() - begun
    };
    let times: Vec<Duration> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().expect("it ends")).collect()
    });
    times.iter().map(Duration::as_secs_f64).sum::<f64>() * 1e9 / f64::from(each * threads)
}

/// The median time that `work` takes by the wall's clock, in a thread that does something else for 10 µs in between.
fn paced(mut work: impl FnMut(u32)) -> f64 {
    let mut times: Vec<Duration> = (0..RECORDS)
        .map(|number| {
            let begun = Instant::now();
            work(number);
            let took = begun.elapsed();
            while begun.elapsed() < Duration::from_micros(10) {}
            took
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e9
}

/// Nanoseconds for each time that `work` is done.
fn per_record(mut work: impl FnMut(u32)) -> f64 {
    let begun = used();
    (0..RECORDS).for_each(&mut work);
    (used() - begun).as_secs_f64() * 1e9 / f64::from(RECORDS)
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = Limits { segment_bytes: 1 << 40, segment_time: Duration::from_secs(3600), ..Limits::default() };
    let capture = Arc::new(Capture::open(folder.path(), &limits).expect("it opens"));
    let _threads = Threads::start(&capture, now_us, || {}).expect("threads start");
    let features = Tensor::from_slice([1, 255], &[0.5f32; 255]).expect("255 of them");
    let score = Tensor::from_slice([1], &[0.25f32]).expect("one");
    let (source, mut target, mut encoded) = (vec![7u8; 1024], vec![0u8; 32 << 20], Vec::new());
    let names = [
        "a copy of 1 KiB",
        "the record's bytes alone",
        "captured, 1 producer, back to back",
        "captured, 2 producers, back to back",
        "captured, 1 producer, one each 10 µs",
        "into a segment, not in the path",
    ];
    let mut times: [Vec<f64>; 6] = Default::default();
    for _ in 0..ROUNDS {
        times[0].push(per_record(|number| {
            let at = number as usize * 1024 % target.len();
            black_box(&mut target)[at..at + 1024].copy_from_slice(black_box(&source));
        }));
        times[1].push(per_record(|number| {
            encoded.clear();
            record(number, &features, &score).write(black_box(&mut encoded));
        }));
        times[2].push(back_to_back(&capture, 1));
        times[3].push(back_to_back(&capture, 2));
        let clock = paced(|_| {});
        times[4].push(
            paced(|number| {
                capture.offer(&record(number, &features, &score)).expect("there is room");
            }) - clock,
        );
        let begun = used();
        let rows = capture.flush(now_us()).expect("there is room for segments").rows;
        times[5].push((used() - begun).as_secs_f64() * 1e9 / rows as f64);
    }
    println!("{} bytes a record", encoded.len());
    for (name, times) in names.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        println!("{name:<40} {:>6.0} ns  {:>6.0} ns", times[ROUNDS / 2], times[ROUNDS * 9 / 10]);
    }
}
