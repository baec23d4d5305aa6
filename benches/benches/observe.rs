//! What does it cost to count what a request did?
//!
//! `cargo bench -p tiltyard-benches --bench observe`. One line per part: nanoseconds for each. A request pays for one that is
//! answered and for one that is encoded, and for two readings of the clock that nothing else needs.
#![allow(clippy::print_stdout, reason = "the report is what a bench is for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use tiltyard_benches::{Contender, side_by_side};
use tiltyard_runtime::stats::{RunTimes, Served, Stats, Used};

/// The server's own allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 41;
const SLICE: Duration = Duration::from_millis(10);

fn main() {
    let stats = Stats::default();
    let requests = stats.way("risk", "champion");
    let begun = Instant::now();
    let unix_ms = 1_700_000_000_000;
    let served = |unix_ms: u64| Served {
        rows: 1,
        decode: Duration::from_micros(3),
        queue: Duration::from_micros(9),
        times: RunTimes { run: Duration::from_micros(40), ..RunTimes::default() },
        used: Used { cpu: Duration::from_micros(40), ..Used::default() },
        total: Duration::from_micros(70),
        unix_ms,
        id: u128::from(unix_ms),
        trace: 0,
    };
    let (counted, encoded, ran) = (&requests, &requests, &stats);
    let mut contenders = [
        Contender::new("a reading of the clock", || black_box(begun.elapsed()).subsec_nanos() as usize),
        Contender::new("a request that is answered", || {
            counted.succeeded(black_box(&served(unix_ms)));
            1
        }),
        Contender::new("an answer that is encoded", || {
            encoded.encoded(black_box(Duration::from_micros(2)));
            1
        }),
        Contender::new("a run", || {
            ran.executed(black_box(4), RunTimes { run: Duration::from_micros(40), ..RunTimes::default() });
            1
        }),
    ];
    let times = side_by_side(&mut contenders, ROUNDS, SLICE);
    for (contender, time) in contenders.iter().zip(&times) {
        println!("{:<28} {:>6.1} ns", contender.name, time.as_secs_f64() * 1e9);
    }
}
