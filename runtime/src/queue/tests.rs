//! Does the queue keep its promises, at moments that we choose?

use std::time::Duration;

use proptest::prelude::*;
use tiltyard_types::Moment;

use super::*;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Job {
    id: usize,
    rows: usize,
    shape: u8,
    deadline: Option<Moment>,
    cancelled: bool,
}

impl Waiting for Job {
    fn rows(&self) -> usize {
        self.rows
    }

    fn deadline(&self) -> Option<Moment> {
        self.deadline
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    fn joins(&self, other: &Job) -> bool {
        self.shape == other.shape
    }
}

fn job(id: usize, rows: usize) -> Job {
    Job { id, rows, shape: 0, deadline: None, cancelled: false }
}

fn queue(rows_max: usize, delay_ms: u64) -> Queue<Job> {
    Queue::new(QueuePolicy { rows_max, delay_max: Duration::from_millis(delay_ms), jobs_max: 100, runs_max: 2 })
}

fn at(ms: u64) -> Moment {
    Moment::from_nanos(ms * 1_000_000)
}

#[track_caller]
fn takes(queue: &mut Queue<Job>, now: Moment, expected: &[usize]) -> Vec<Job> {
    let mut dead = Vec::new();
    match queue.take(now, &mut dead) {
        Take::Batch(batch) => assert_eq!(batch.iter().map(|job| job.id).collect::<Vec<_>>(), expected),
        other => panic!("expected batch {expected:?}, got {other:?}"),
    }
    dead
}

#[test]
fn a_batch_is_what_waits() {
    let mut queue = queue(8, 0);
    for id in 0..5 {
        queue.enqueue(job(id, 2), at(0)).unwrap();
    }
    takes(&mut queue, at(0), &[0, 1, 2, 3]);
    takes(&mut queue, at(0), &[4]);
    assert_eq!(queue.take(at(0), &mut vec![]), Take::Idle);
}

#[test]
fn no_more_batches_run_than_there_are_sessions() {
    let mut queue = queue(1, 0);
    let mut useful = Vec::new();
    for id in 0..3 {
        useful.push(queue.enqueue(job(id, 1), at(0)).unwrap());
    }
    takes(&mut queue, at(0), &[0]);
    takes(&mut queue, at(0), &[1]);
    assert_eq!(queue.take(at(0), &mut vec![]), Take::Idle);
    assert_eq!(queue.enqueue(job(3, 1), at(0)), Ok(false));
    queue.finish();
    takes(&mut queue, at(0), &[2]);
    assert_eq!(useful, [true, true, true]);
}

#[test]
fn a_large_job_runs_alone() {
    let mut queue = queue(8, 0);
    queue.enqueue(job(0, 1), at(0)).unwrap();
    queue.enqueue(job(1, 50), at(0)).unwrap();
    queue.enqueue(job(2, 1), at(0)).unwrap();
    takes(&mut queue, at(0), &[0]);
    takes(&mut queue, at(0), &[1]);
    queue.finish();
    takes(&mut queue, at(0), &[2]);
}

#[test]
fn only_like_shapes_join() {
    let mut queue = queue(8, 0);
    queue.enqueue(job(0, 1), at(0)).unwrap();
    queue.enqueue(Job { shape: 1, ..job(1, 1) }, at(0)).unwrap();
    takes(&mut queue, at(0), &[0]);
    takes(&mut queue, at(0), &[1]);
}

#[test]
fn a_delay_ends_when_it_is_over_or_the_batch_is_full() {
    let mut queue = queue(2, 5);
    queue.enqueue(job(0, 1), at(10)).unwrap();
    assert_eq!(queue.take(at(10), &mut vec![]), Take::Wait(at(15)));
    takes(&mut queue, at(15), &[0]);
    queue.enqueue(job(1, 1), at(20)).unwrap();
    queue.enqueue(job(2, 1), at(21)).unwrap();
    takes(&mut queue, at(21), &[1, 2]);
}

#[test]
fn draining_refuses_the_new_and_hurries_the_old() {
    let mut queue = queue(8, 5);
    queue.enqueue(job(0, 1), at(0)).unwrap();
    queue.drain();
    assert_eq!(queue.enqueue(job(1, 1), at(0)), Err(Refused::Draining(job(1, 1))));
    takes(&mut queue, at(0), &[0]);
    assert!(!queue.is_idle());
    queue.finish();
    assert!(queue.is_idle());
}

#[test]
fn the_dead_do_not_run() {
    let mut queue = queue(8, 0);
    queue.enqueue(Job { cancelled: true, ..job(0, 1) }, at(0)).unwrap();
    queue.enqueue(job(1, 1), at(0)).unwrap();
    queue.enqueue(Job { deadline: Some(at(5)), ..job(2, 1) }, at(0)).unwrap();
    queue.enqueue(job(3, 1), at(0)).unwrap();
    let dead = takes(&mut queue, at(5), &[1, 3]);
    assert_eq!(dead.iter().map(|job| job.id).collect::<Vec<_>>(), [0, 2]);
}

proptest! {
    /// Each accepted job is run once or buried once, in order of arrival, within the bounds.
    #[test]
    fn every_job_leaves_exactly_once(
        jobs in prop::collection::vec((1usize..6, 0u8..3, prop::option::of(0u64..40), any::<bool>()), 0..60),
        rows_max in 1usize..10,
        delay_ms in 0u64..5,
        pattern in prop::collection::vec(0u8..3, 0..200),
    ) {
        let mut queue = queue(rows_max, delay_ms);
        let mut incoming = jobs.iter().enumerate().map(|(id, &(rows, shape, deadline, cancelled))| {
            Job { id, rows, shape, deadline: deadline.map(at), cancelled: cancelled && id % 5 == 0 }
        });
        let (mut ran, mut dead, mut running, mut now) = (Vec::new(), Vec::new(), 0, 0u64);
        for step in pattern.into_iter().chain([1, 2].repeat(400)) {
            match step {
                0 => if let Some(job) = incoming.next() { queue.enqueue(job, at(now)).unwrap(); },
                1 => if let Take::Batch(batch) = queue.take(at(now), &mut dead) {
                    running += 1;
                    let rows: usize = batch.iter().map(|job| job.rows).sum();
                    prop_assert!(!batch.is_empty() && (rows <= rows_max || batch.len() == 1));
                    prop_assert!(batch.iter().all(|job| job.shape == batch[0].shape));
                    prop_assert!(batch.iter().all(|job| !job.cancelled && job.deadline.is_none_or(|d| d > at(now))));
                    prop_assert!(running <= 2);
                    ran.extend(batch);
                },
                _ => { if running > 0 { queue.finish(); running -= 1; } now += 1; }
            }
            prop_assert!(ran.is_sorted_by_key(|job: &Job| job.id));
        }
        for job in incoming { dead.push(job); }
        prop_assert!(queue.is_idle());
        let mut all: Vec<usize> = ran.iter().chain(&dead).map(|job| job.id).collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..jobs.len()).collect::<Vec<_>>());
    }
}
