//! What does it cost to batch: to queue jobs, to put their rows together, and to cut the outputs apart?
//!
//! `cargo bench -p tiltyard-runtime --bench batch`. One line per step and contender: nanoseconds for all 64 jobs of one row,
//! and the ratio to the last one in the same run, which does the least that would do.
#![allow(clippy::print_stdout, reason = "the report is what a bench is for")]

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use tiltyard_benches::{Contender, side_by_side};
use tiltyard_runtime::batch::{Extent, Layout};
use tiltyard_runtime::queue::{Queue, QueuePolicy, Take, Waiting};
use tiltyard_types::{Buffer, DataType, Dim, Moment, Signature, Tensor, TensorSpec};

/// The server's own allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 21;
const SLICE: Duration = Duration::from_millis(12);
const JOBS: usize = 64;

/// What the queue asks of a job, and nothing more.
struct Small(usize);

impl Waiting for Small {
    fn rows(&self) -> usize {
        1
    }

    fn bytes(&self) -> usize {
        self.0
    }

    fn priority(&self) -> u32 {
        0
    }

    fn deadline(&self) -> Option<Moment> {
        None
    }

    fn is_cancelled(&self) -> bool {
        false
    }

    fn joins(&self, _: &Small) -> bool {
        true
    }

    fn length(&self) -> usize {
        0
    }

    fn can_cut(&self) -> bool {
        false
    }

    fn cut(&mut self, _: usize) -> Small {
        Small(self.0)
    }
}

fn report(what: &str, contenders: &mut [Contender<'_>]) {
    let times = side_by_side(contenders, ROUNDS, SLICE);
    let baseline = times.last().map_or(f64::NAN, Duration::as_secs_f64);
    for (contender, time) in contenders.iter().zip(&times) {
        let seconds = time.as_secs_f64();
        println!("{what:<16} {:<22} {:>10.0} ns {:>8.2}x", contender.name, seconds * 1e9, seconds / baseline);
    }
}

fn layout() -> Layout {
    let spec = |name: &str| TensorSpec {
        name: name.into(),
        dtype: DataType::Fp32,
        dims: Some(vec![Dim::Dynamic(None), Dim::Dynamic(None)]),
        optional: false,
    };
    let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] };
    Layout::of(&signature).expect("all of it has rows")
}

fn row(columns: usize, start: usize) -> Tensor {
    let values: Vec<f32> = (0..columns).map(|column| (start + column) as f32).collect();
    Tensor::from_slice([1, columns], &values).expect("one row holds them all")
}

fn bench_rows(columns: usize) {
    let layout = layout();
    let frame = Extent::of_rows(JOBS);
    let jobs: Vec<Vec<Option<Tensor>>> = (0..JOBS).map(|job| vec![Some(row(columns, job))]).collect();
    let views: Vec<&[Option<Tensor>]> = jobs.iter().map(Vec::as_slice).collect();
    let gather = || layout.gather(&views, frame).expect("the rows fit to one another");
    let joined = gather()[0].clone().expect("the input is there");
    let bytes = joined.bytes().expect("numbers have bytes");
    let mut contenders = [
        Contender::new("gather", || black_box(gather()).len()),
        Contender::new("copy of the same bytes", || black_box(Buffer::copy_of(black_box(bytes))).as_bytes().len()),
    ];
    report(&format!("64 of 1x{columns}"), &mut contenders);
    let parts = [Extent::of_rows(1); JOBS];
    let outputs = [joined.clone()];
    let split = || layout.split(&outputs, &[0], &parts, frame).expect("there is a row for each");
    let slices = || (0..JOBS).map(|row| bytes.slice(row * columns * 4..(row + 1) * columns * 4)).collect::<Vec<_>>();
    let mut contenders = [
        Contender::new("split", || black_box(split()).len()),
        Contender::new("slices alone", || black_box(slices()).len()),
    ];
    report(&format!("64 of 1x{columns}"), &mut contenders);
}

fn bench_queue() {
    let now = Moment::from_nanos(1);
    let mut queue = Queue::new(QueuePolicy { rows_max: JOBS, ..QueuePolicy::default() });
    let mut dead = Vec::new();
    let mut plain = VecDeque::new();
    let mut contenders = [
        Contender::new("enqueue, take, finish", || {
            for job in 0..JOBS {
                assert!(queue.enqueue(Small(job), now).is_ok());
            }
            let Take::Batch(batch) = queue.take(now, &mut dead) else { return 0 };
            queue.finish(None, now);
            black_box(batch).len()
        }),
        Contender::new("VecDeque push, drain", || {
            (0..JOBS).for_each(|job| plain.push_back(Small(job)));
            black_box(plain.drain(..).collect::<Vec<Small>>()).len()
        }),
    ];
    report("64 jobs", &mut contenders);
}

fn main() {
    bench_queue();
    // A row of a tabular model, an embedding, and an image.
    [30, 1_024, 150_528].into_iter().for_each(bench_rows);
}
