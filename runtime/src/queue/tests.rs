//! Does the queue keep its promises, at moments that we choose?

use std::time::Duration;

use proptest::prelude::*;
use tiltyard_types::Moment;

use super::*;
use crate::batch::Extent;
use crate::cost::Fit;

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Job {
    pub(super) id: usize,
    pub(super) rows: usize,
    /// The row of its request that it begins at: above 0 in parts of a large one.
    from: usize,
    shape: u8,
    length: usize,
    bytes: usize,
    priority: u32,
    pub(super) deadline: Option<Moment>,
    cancelled: bool,
    whole: bool,
}

impl Waiting for Job {
    fn rows(&self) -> usize {
        self.rows
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn priority(&self) -> u32 {
        self.priority
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

    fn length(&self) -> usize {
        self.length
    }

    fn can_cut(&self) -> bool {
        !self.whole
    }

    fn cut(&mut self, rows: usize) -> Job {
        assert!(rows > 0 && rows < self.rows && !self.whole);
        let part = Job { rows, bytes: 0, ..self.clone() };
        self.rows -= rows;
        self.from += rows;
        part
    }
}

fn job(id: usize, rows: usize) -> Job {
    Job { id, rows, ..Job::default() }
}

fn queue(rows_max: usize, delay_ms: u64) -> Queue<Job> {
    queue_of(QueuePolicy { rows_max, delay_max: Duration::from_millis(delay_ms), ..QueuePolicy::default() })
}

fn queue_of(policy: QueuePolicy) -> Queue<Job> {
    Queue::new(QueuePolicy { jobs_max: 100, runs_max: 2, ..policy })
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
    queue.finish(None, at(0));
    takes(&mut queue, at(0), &[2]);
    assert_eq!(useful, [true, true, true]);
}

#[test]
fn a_large_job_that_may_not_be_cut_runs_alone() {
    let mut queue = queue(8, 0);
    queue.enqueue(job(0, 1), at(0)).unwrap();
    queue.enqueue(Job { whole: true, ..job(1, 50) }, at(0)).unwrap();
    queue.enqueue(job(2, 1), at(0)).unwrap();
    takes(&mut queue, at(0), &[0]);
    takes(&mut queue, at(0), &[1]);
    queue.finish(None, at(0));
    takes(&mut queue, at(0), &[2]);
}

#[test]
fn a_large_job_is_cut_and_its_parts_fill_up_with_others() {
    let mut queue = queue(8, 0);
    queue.enqueue(job(0, 1), at(0)).unwrap();
    queue.enqueue(Job { bytes: 7, ..job(1, 20) }, at(0)).unwrap();
    queue.enqueue(job(2, 1), at(0)).unwrap();
    let mut batches = Vec::new();
    while let Take::Batch(batch) = queue.take(at(0), &mut vec![]) {
        batches.push(batch.iter().map(|job| (job.id, job.from, job.rows)).collect::<Vec<_>>());
        assert_eq!(queue.calls_for_more(), batches.len() == 1, "the second of two sessions is of use");
        if batches.len() > 1 {
            queue.finish(None, at(0));
        }
    }
    assert_eq!(batches, [vec![(0, 0, 1), (1, 0, 7)], vec![(2, 0, 1), (1, 7, 7)], vec![(1, 14, 6)]]);
    assert_eq!((queue.rows, queue.bytes, queue.len()), (0, 0, 0));
}

#[test]
fn the_rest_of_a_large_job_takes_turns_with_others() {
    let mut queue = queue(2, 0);
    queue.enqueue(Job { deadline: Some(at(9)), ..job(0, 10) }, at(0)).unwrap();
    queue.enqueue(Job { shape: 1, ..job(1, 2) }, at(1)).unwrap();
    takes(&mut queue, at(2), &[0]);
    queue.enqueue(Job { shape: 2, ..job(2, 2) }, at(3)).unwrap();
    for (ms, id) in [(4, 1), (5, 0), (6, 2), (7, 0), (8, 0)] {
        queue.finish(None, at(0));
        takes(&mut queue, at(ms), &[id]);
    }
    queue.finish(None, at(0));
    // Its time counts from when it came.
    let mut dead = Vec::new();
    assert_eq!(queue.take(at(9), &mut dead), Take::Idle);
    assert_eq!((dead[0].id, dead[0].rows), (0, 2));
}

#[test]
fn the_rest_of_a_large_job_keeps_its_level() {
    let levels = vec![Level::default(); 2];
    let ageing = Duration::from_millis(10);
    let mut queue = queue_of(QueuePolicy { rows_max: 2, levels, ageing, ..QueuePolicy::default() });
    queue.enqueue(Job { priority: 2, ..job(0, 4) }, at(0)).unwrap();
    takes(&mut queue, at(5), &[0]);
    queue.enqueue(Job { priority: 1, shape: 1, ..job(1, 2) }, at(14)).unwrap();
    queue.enqueue(Job { priority: 1, shape: 1, ..job(2, 2) }, at(16)).unwrap();
    for id in [1, 0, 2] {
        queue.finish(None, at(0));
        takes(&mut queue, at(16), &[id]);
    }
}

#[test]
fn padding_makes_no_large_run_many_times_larger() {
    let pad = Some(PadPolicy { lengths: vec![100], waste_max: 1.0 });
    let policy = QueuePolicy { sizes: vec![64], pad, ..QueuePolicy::default() };
    let check = |parts: &[(usize, Option<usize>)], bytes: usize, expected: (usize, Option<usize>)| {
        let parts: Vec<Extent> = parts.iter().map(|&(rows, length)| Extent { rows, length }).collect();
        let frame = policy.frame(&parts, || bytes);
        assert_eq!((frame.rows, frame.length), expected, "{parts:?} of {bytes} bytes");
    };
    check(&[(1, None)], 4, (64, None));
    check(&[(1, None)], 1 << 20, (64, None));
    check(&[(1, None)], (1 << 20) + 1, (1, None));
    // Up to twice the real bytes is no matter of their number.
    check(&[(20, None), (12, None)], 1 << 30, (64, None));
    check(&[(20, None), (11, None)], 1 << 30, (31, None));
    check(&[(32, Some(50)), (32, Some(40))], 1 << 30, (64, Some(100)));
    check(&[(64, Some(49))], 1 << 30, (64, Some(49)));
    check(&[(1, Some(1))], 100, (64, Some(100)));
    check(&[(0, Some(1))], 0, (0, Some(100)));
}

#[test]
fn only_like_shapes_join_and_others_keep_their_place() {
    let mut queue = queue_of(QueuePolicy { rows_max: 8, look_max: 2, ..QueuePolicy::default() });
    for (id, shape) in [0, 1, 0, 1, 1, 0].into_iter().enumerate() {
        queue.enqueue(Job { shape, ..job(id, 1) }, at(0)).unwrap();
    }
    // The last one is behind more of the others than a take looks past.
    takes(&mut queue, at(0), &[0, 2]);
    takes(&mut queue, at(0), &[1, 3, 4]);
    queue.finish(None, at(0));
    takes(&mut queue, at(0), &[5]);
}

#[test]
fn the_urgent_go_first_but_not_for_ever() {
    let levels = vec![Level::default(); 3];
    let policy = QueuePolicy { rows_max: 1, level_default: 2, ageing: Duration::from_millis(10), ..Default::default() };
    let mut queue = queue_of(QueuePolicy { levels, ..policy });
    // Priority 0 and what is beyond the levels are the default.
    for (id, (priority, ms)) in [(3, 0), (0, 1), (9, 1), (2, 1), (1, 9), (1, 21)].into_iter().enumerate() {
        queue.enqueue(Job { priority, ..job(id, 1) }, at(ms)).unwrap();
    }
    for id in [4, 1, 2, 3, 0, 5] {
        takes(&mut queue, at(21), &[id]);
        queue.finish(None, at(0));
    }
}

#[test]
fn jobs_and_bytes_are_bounded_over_all_and_by_level() {
    let levels = vec![Level { jobs_max: 1, ..Level::default() }, Level::default()];
    let mut queue = Queue::new(QueuePolicy { jobs_max: 3, bytes_max: 10, levels, ..QueuePolicy::default() });
    let job = |id, priority, bytes| Job { priority, bytes, ..job(id, 1) };
    assert_eq!(queue.enqueue(job(0, 1, 99), at(0)), Ok(true), "what finds the queue empty is taken");
    assert_eq!(queue.enqueue(job(1, 2, 1), at(0)), Err(Refused::FullOfBytes(job(1, 2, 1))));
    takes(&mut queue, at(0), &[0]);
    queue.finish(None, at(0));
    queue.enqueue(job(1, 1, 5), at(0)).unwrap();
    assert_eq!(queue.enqueue(job(2, 1, 1), at(0)), Err(Refused::Full(job(2, 1, 1))));
    queue.enqueue(job(2, 2, 5), at(0)).unwrap();
    assert_eq!(queue.enqueue(job(3, 2, 1), at(0)), Err(Refused::FullOfBytes(job(3, 2, 1))));
    queue.enqueue(job(3, 2, 0), at(0)).unwrap();
    assert_eq!(queue.enqueue(job(4, 2, 0), at(0)), Err(Refused::Full(job(4, 2, 0))));
}

#[test]
fn a_batch_takes_the_largest_size_that_is_filled() {
    let sizes = vec![2, 4, 8];
    let mut queue = queue_of(QueuePolicy { rows_max: 9, sizes, runs_max: 9, ..QueuePolicy::default() });
    for id in 0..15 {
        queue.enqueue(job(id, 1), at(0)).unwrap();
    }
    for ids in [0..8, 8..12, 12..14, 14..15] {
        takes(&mut queue, at(0), &ids.collect::<Vec<_>>());
        queue.finish(None, at(0));
    }
    assert_eq!([0, 1, 3, 8, 20].map(|rows| queue.policy.padded_rows(rows)), [0, 2, 4, 8, 20]);
}

#[test]
fn a_preferred_size_ends_the_wait_and_never_pads() {
    let delay_max = Duration::from_millis(5);
    let mut queue = queue_of(QueuePolicy { sizes_preferred: vec![2, 4], delay_max, ..QueuePolicy::default() });
    assert_eq!(queue.enqueue(job(0, 1), at(0)), Ok(true));
    assert_eq!(queue.take(at(0), &mut vec![]), Take::Wait(at(5)));
    assert_eq!(queue.enqueue(job(1, 1), at(1)), Ok(true), "the smallest is filled");
    queue.enqueue(job(2, 1), at(1)).unwrap();
    takes(&mut queue, at(1), &[0, 1]);
    assert_eq!(queue.take(at(1), &mut vec![]), Take::Wait(at(6)));
    takes(&mut queue, at(6), &[2]);
    assert_eq!(queue.policy.padded_rows(3), 3);
}

#[test]
fn like_lengths_are_found_within_the_waste_that_is_allowed() {
    let pad = Some(PadPolicy { lengths: vec![], waste_max: 0.25 });
    let mut queue = queue_of(QueuePolicy { rows_max: 8, pad, ..QueuePolicy::default() });
    for (id, length) in [10, 100, 9, 90, 8, 4].into_iter().enumerate() {
        queue.enqueue(Job { length, ..job(id, 1) }, at(0)).unwrap();
    }
    takes(&mut queue, at(0), &[0, 2, 4]);
    takes(&mut queue, at(0), &[1, 3]);
    queue.finish(None, at(0));
    takes(&mut queue, at(0), &[5]);
}

#[test]
fn nobody_waits_for_company_until_it_is_too_late() {
    let mut queue = queue(8, 5);
    queue.enqueue(job(0, 1), at(0)).unwrap();
    assert_eq!(queue.take(at(0), &mut vec![]), Take::Wait(at(5)));
    assert_eq!(queue.enqueue(Job { deadline: Some(at(3)), ..job(1, 1) }, at(1)), Ok(true));
    takes(&mut queue, at(1), &[0, 1]);
}

#[test]
fn who_waited_longer_than_the_level_allows_does_not_run() {
    let levels = vec![Level { wait_max: Some(Duration::from_millis(2)), ..Level::default() }, Level::default()];
    let mut queue = queue_of(QueuePolicy { levels, ..QueuePolicy::default() });
    queue.enqueue(Job { priority: 1, ..job(0, 1) }, at(0)).unwrap();
    queue.enqueue(Job { priority: 2, ..job(1, 1) }, at(0)).unwrap();
    let dead = takes(&mut queue, at(2), &[1]);
    assert_eq!(dead[0].id, 0);
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
    queue.finish(None, at(0));
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

/// What a test does with a queue.
#[derive(Clone, Debug)]
enum Step {
    Enqueue(Job),
    Take,
    Finish,
    Pass(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let job = (0usize..12, 0u8..3, 0usize..20, 0usize..50, 0u32..5, prop::option::of(0u64..40), 0u8..10);
    let job = job.prop_map(|(rows, shape, length, bytes, priority, deadline, kind)| Job {
        rows,
        shape,
        length,
        bytes,
        priority,
        deadline: deadline.map(at),
        cancelled: kind == 0,
        whole: kind == 1,
        ..Job::default()
    });
    let step = prop_oneof![
        4 => job.prop_map(Step::Enqueue),
        2 => Just(Step::Take),
        1 => Just(Step::Finish),
        1 => (0u64..4).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..120).prop_map(|mut steps| {
        let jobs = steps.iter_mut().filter_map(|step| if let Step::Enqueue(job) = step { Some(job) } else { None });
        jobs.enumerate().for_each(|(id, job)| job.id = id);
        steps
    })
}

fn policies() -> impl Strategy<Value = QueuePolicy> {
    let sizes = || prop::collection::btree_set(1usize..10, 0..4).prop_map(|sizes| sizes.into_iter().collect());
    let level = (1usize..20, prop::option::of(1u64..20))
        .prop_map(|(jobs_max, wait_ms)| Level { jobs_max, wait_max: wait_ms.map(Duration::from_millis) });
    let pad = (prop::collection::btree_set(1usize..20, 0..3), 0f64..1.0)
        .prop_map(|(lengths, waste_max)| PadPolicy { lengths: lengths.into_iter().collect(), waste_max });
    let bounds = (1usize..10, 0u64..5, 1usize..40, 10usize..400, 1usize..4, 0usize..5);
    (bounds, sizes(), sizes(), prop::collection::vec(level, 1..4), 0u64..20, prop::option::of(pad)).prop_map(
        |((rows_max, delay_ms, jobs_max, bytes_max, runs_max, look_max), sizes, preferred, levels, ageing_ms, pad)| {
            QueuePolicy {
                rows_max,
                sizes,
                sizes_preferred: preferred,
                delay_max: Duration::from_millis(delay_ms),
                jobs_max,
                bytes_max,
                runs_max,
                level_default: 1,
                levels,
                ageing: Duration::from_millis(ageing_ms),
                look_max,
                pad,
            }
        },
    )
}

/// What the test knows of jobs that wait: the queue's own rules, said again in the plainest way.
struct Watch {
    policy: QueuePolicy,
    waiting: Vec<Known>,
}

/// A job that waits.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    /// When it came.
    since: Moment,
    /// When it came, or was last cut: then it took its turn, and waits for the next.
    turn: Moment,
    job: Job,
}

impl Watch {
    /// The place in the order in which jobs leave.
    fn rank(&self, Known { turn, job, .. }: &Known) -> Moment {
        *turn + self.policy.ageing * self.policy.level(job.priority) as u32
    }

    fn is_dead(&self, Known { since, job, .. }: &Known, now: Moment) -> bool {
        let waited = self.policy.levels[self.policy.level(job.priority)].wait_max;
        job.cancelled
            || job.deadline.is_some_and(|deadline| deadline <= now)
            || waited.is_some_and(|wait| *since + wait <= now)
    }

    /// Whether a refusal is one of those that the policy asks for.
    fn refuses(&self, job: &Job) -> bool {
        let level = self.policy.level(job.priority);
        let alike = self.waiting.iter().filter(|other| self.policy.level(other.job.priority) == level).count();
        let bytes: usize = self.waiting.iter().map(|known| known.job.bytes).sum();
        self.waiting.len() >= self.policy.jobs_max
            || alike >= self.policy.levels[level].jobs_max
            || (!self.waiting.is_empty() && bytes + job.bytes > self.policy.bytes_max)
    }

    /// Checks a batch against all that is promised, and takes it off.
    fn check(&mut self, batch: &[Job], now: Moment) {
        let policy = self.policy.clone();
        let alive = self.waiting.iter().filter(|waiting| !self.is_dead(waiting, now));
        let first = alive.clone().find(|known| known.job.id == batch[0].id).expect("it waited, and is alive");
        for other in alive.clone() {
            assert!(self.rank(first) <= self.rank(other), "{first:?} ran before {other:?}");
        }
        for job in batch {
            let known = alive.clone().find(|known| known.job.id == job.id).expect("it waited, and is alive");
            assert_eq!(known.job.from, job.from, "parts run in order");
            assert_eq!(job.shape, batch[0].shape);
        }
        let rows: usize = batch.iter().map(|job| job.rows).sum();
        let limit = policy.rows_limit();
        assert!(
            rows <= limit || (batch.len() == 1 && batch[0].whole) || batch.iter().all(|job| job.rows == 0 || job.whole)
        );
        assert!(
            rows > limit
                || rows == 0
                || policy.sizes.is_empty()
                || policy.sizes.contains(&policy.padded_rows(rows))
                || policy.sizes.iter().all(|&size| size > policy.rows_max)
        );
        if let Some(pad) = &policy.pad {
            let alone: usize = batch.iter().map(|job| job.rows * policy.padded_length(job.length)).sum();
            let length = batch.iter().map(|job| job.length).max().unwrap_or(0);
            let padded = rows * policy.padded_length(length);
            assert!(batch.len() == 1 || padded as f64 <= alone as f64 * (1.0 + pad.waste_max) + 1e-9);
        }
        for job in batch {
            let at = self.waiting.iter().position(|known| known.job.id == job.id).unwrap();
            let known = &mut self.waiting[at].job;
            // Like jobs of one level never overtake one another.
            known.rows -= job.rows;
            known.from += job.rows;
            let done = known.rows == 0;
            let Known { turn, job, .. } = self.waiting[at].clone();
            let overtaken = self.waiting[..at].iter().find(|earlier| {
                let other = &earlier.job;
                let alike = other.shape == job.shape && other.priority == job.priority && policy.pad.is_none();
                alike && earlier.turn <= turn && !self.is_dead(earlier, now)
            });
            assert_eq!(overtaken, None, "overtaken by {job:?}");
            let known = self.waiting.remove(at);
            if !done {
                self.waiting.push(Known { turn: now, ..known });
            }
        }
    }
}

/// A row takes 1 ms, a run 2 ms more.
const FIT: Fit = Fit { row_ns: 1e6, run_ns: 2e6 };

pub(super) fn due(id: usize, deadline: Moment) -> Job {
    Job { deadline: Some(deadline), ..job(id, 1) }
}

fn until(id: usize, deadline_ms: u64) -> Job {
    due(id, at(deadline_ms))
}

#[test]
fn who_would_be_done_too_late_makes_room_for_others() {
    let full = |ids: std::ops::Range<usize>, deadline_ms| {
        let mut queue = queue_of(QueuePolicy { rows_max: 2, ..QueuePolicy::default() });
        queue.expect(Some(FIT), true);
        ids.for_each(|id| assert!(queue.enqueue(until(id, deadline_ms), at(0)).is_ok()));
        queue
    };
    // With 4 ms it is for runs of one row, which take 3 ms, with doubt 3.75; at 1 ms there are 3 left of them. With 9 ms a
    // run may be full, takes 4 ms, with doubt 5, and is done at 6.
    let mut late = full(0..2, 4);
    (2..5).for_each(|id| assert!(late.enqueue(until(id, 9), at(0)).is_ok()));
    let dead = takes(&mut late, at(1), &[2, 3]);
    assert_eq!(dead.iter().map(|job| job.id).collect::<Vec<_>>(), [0, 1]);
    // What is left fills no run otherwise: then they run, and only that tells what it takes.
    assert_eq!(takes(&mut full(0..1, 4), at(2), &[0]), []);
    assert_eq!(takes(&mut full(0..2, 9), at(7), &[0, 1]), []);
    let dead = takes(&mut full(0..5, 9), at(7), &[3, 4]);
    assert_eq!(dead.iter().map(|job| job.id).collect::<Vec<_>>(), [0, 1, 2]);
    // A run grows as long as those in it are in time, even if it is one of the slower ones: of two rows 4.4 ms.
    assert_eq!(takes(&mut full(0..2, 5), at(0), &[0, 1]), []);
    let mut dear = full(0..2, 9);
    dear.expect(Some(Fit { row_ns: 2e6, run_ns: 0.0 }), true);
    assert_eq!(takes(&mut dear, at(5), &[0]), []);
    // Where rows leave much slower for that, it is not worth it.
    assert_eq!(takes(&mut full(0..2, 9), at(5), &[0, 1]), []);
    // Where each is a run of its own, that takes 3 ms, with doubt 3.75.
    let mut alone = full(0..5, 9);
    alone.expect(Some(FIT), false);
    assert_eq!(takes(&mut alone, at(5), &[0, 1]), []);
    // While nobody knows what a run takes, everybody is run who still waits.
    let mut unknown = full(0..5, 4);
    unknown.expect(None, true);
    assert_eq!(takes(&mut unknown, at(3), &[0, 1]), []);
}

/// A queue in which ten runs of one row each left another one behind, at 10 ms each.
fn paced(rows_max: usize, shape: impl Fn(usize) -> u8) -> Queue<Job> {
    let policy = QueuePolicy { rows_max, runs_max: 1, jobs_max: 6, ..QueuePolicy::default() };
    let mut queue = Queue::new(policy);
    queue.expect(Some(Fit { row_ns: 1e7, run_ns: 0.0 }), true);
    queue.enqueue(Job { shape: shape(0), ..job(0, 1) }, at(0)).unwrap();
    for id in 1..=10 {
        let now = at(id as u64 * 10);
        queue.enqueue(Job { shape: shape(id), ..job(id, 1) }, now).unwrap();
        takes(&mut queue, now, &[id - 1]);
        queue.finish(Some((now, 1)), at(id as u64 * 10 + 10));
    }
    queue
}

#[test]
fn a_run_is_as_large_as_runs_are() {
    // Up to 64 rows a run, but requests of different kinds, of which none shares a run.
    assert_eq!(paced(64, |id| id as u8).ahead(at(110)).rows_max, 2);
    // A batch that took all there was tells nothing of how well requests join.
    let mut alone = queue_of(QueuePolicy { rows_max: 64, ..QueuePolicy::default() });
    alone.expect(Some(FIT), true);
    for id in 0..20 {
        alone.enqueue(job(id, 1), at(id as u64 * 10)).unwrap();
        takes(&mut alone, at(id as u64 * 10), &[id]);
        alone.finish(Some((at(id as u64 * 10), 1)), at(id as u64 * 10 + 3));
    }
    let ahead = alone.ahead(at(200));
    assert_eq!((ahead.rows_max, ahead.is_seen, ahead.apart), (64, true, 0.5));
    assert!(ahead.line.is_some_and(|line| (line.ns(1) / 3e6 - 1.0).abs() < 1e-6));
    // A burst that one run can take is let in as a whole, though all before came alone.
    for id in 20..84 {
        let due = Job { deadline: Some(at(300)), ..job(id, 1) };
        assert!(alone.admit(due, at(200), &mut vec![]).is_ok(), "{id}");
    }
}

#[test]
fn the_pace_of_a_queue_that_was_left_is_forgotten() {
    let mut queue = paced(1, |_| 0);
    assert!(queue.ahead(at(110)).is_seen);
    takes(&mut queue, at(110), &[10]);
    assert!(queue.ahead(at(9_000)).is_seen, "its run goes on");
    queue.finish(Some((at(110), 1)), at(120));
    assert!(queue.ahead(at(900)).is_seen);
    // Nobody comes for an hour.
    assert!(!queue.ahead(at(3_600_000)).is_seen);
    queue.enqueue(job(11, 1), at(3_600_000)).unwrap();
    takes(&mut queue, at(3_600_000), &[11]);
    assert!(!queue.ahead(at(3_600_000)).is_seen);
}

#[test]
fn a_full_queue_is_swept_of_those_who_cannot_be_done_in_time() {
    let mut queue = paced(1, |_| 0);
    // Each is done 10 ms after those before it, and its own run is doubted: at 122.5, 132.5 ...
    let more = [until(11, 112), until(12, 143), Job { cancelled: true, ..job(13, 1) }, until(14, 142), job(15, 1)];
    for job in more {
        queue.enqueue(job, at(100)).unwrap();
    }
    assert_eq!(queue.enqueue(job(16, 1), at(100)), Err(Refused::Full(job(16, 1))));
    let mut dead = Vec::new();
    assert!(queue.sweep(at(100), &mut dead));
    // The first in turn stays whatever happens; 14 is third once the others are gone.
    assert_eq!(dead.iter().map(|job| job.id).collect::<Vec<_>>(), [11, 13]);
    queue.enqueue(until(16, 9_999), at(100)).unwrap();
    assert!(!queue.sweep(at(100), &mut dead), "not twice within a millisecond");
    assert!(queue.sweeps_from() > at(100));
    for (ms, id) in [(101, 10), (102, 12), (103, 14), (104, 15), (105, 16)] {
        takes(&mut queue, at(ms), &[id]);
        queue.finish(None, at(ms));
    }
}

/// Whether a worker that came now would find a batch to run.
fn is_ready(queue: &Queue<Job>, now: Moment) -> bool {
    let mut picks = Vec::new();
    let plan = queue.plan(now, &mut picks);
    let runs = picks.iter().any(|pick| matches!(pick.fate, Fate::Runs(_)));
    runs && plan.hold.is_none() && queue.running < queue.policy.runs_max
}

proptest! {
    /// Under any load, the rows that leave are done in time: at ten times what one session can run, at least nine in ten
    /// runs are for somebody, and a sweep takes nobody who could still be answered.
    #[test]
    fn a_flood_does_not_make_runs_late(rows_max in 1usize..9, deadline_ms in 60u64..200, load in 2usize..20, seed in any::<u64>()) {
        let mut queue = Queue::new(QueuePolicy { rows_max, runs_max: 1, jobs_max: 100, ..QueuePolicy::default() });
        queue.expect(Some(FIT), true);
        let run_ms = rows_max as u64 + 2;
        let (mut now, mut id, mut random) = (0, 0, seed | 1);
        let (mut good, mut runs) = (0, 0);
        while runs < 300 {
            for _ in 0..rows_max * load {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Some have less time than others, and some more than any queue takes.
                let left = deadline_ms / 2 + (random >> 33) % deadline_ms;
                id += 1;
                let job = until(id, now + left);
                if let Err(Refused::Full(job)) = queue.enqueue(job, at(now)) {
                    let mut dead = Vec::new();
                    if queue.sweep(at(now), &mut dead) {
                        queue.enqueue(job, at(now)).unwrap();
                    }
                    prop_assert!(dead.iter().all(|job| job.deadline.unwrap() < at(now + deadline_ms * 2)));
                }
            }
            let mut dead = Vec::new();
            if let Take::Batch(batch) = queue.take(at(now), &mut dead) {
                now += run_ms;
                runs += 1;
                good += usize::from(batch.iter().all(|job| job.deadline.unwrap() >= at(now)));
                queue.finish(None, at(now));
            }
        }
        prop_assert!(good * 10 >= runs * 9, "{} of {}", good, runs);
    }

    /// Each job that is taken in leaves once, all of its rows, within every bound of the policy; the next in turn always
    /// runs, like jobs of one level keep their order, and what is late or cancelled never runs.
    #[test]
    fn every_promise_is_kept_under_every_policy(policy in policies(), steps in steps()) {
        let mut queue = Queue::new(policy.clone());
        let mut watch = Watch { policy: policy.clone(), waiting: Vec::new() };
        let (mut running, mut now) = (0, 0u64);
        let run_out = [Step::Take, Step::Finish, Step::Pass(1)].into_iter().cycle().take(2000);
        for step in steps.into_iter().chain(run_out) {
            match step {
                Step::Enqueue(job) => {
                    let refused = watch.refuses(&job);
                    let was_ready = is_ready(&queue, at(now));
                    let useful = queue.enqueue(job.clone(), at(now));
                    prop_assert_eq!(useful.is_err(), refused);
                    // Whoever makes a batch ready must call for a worker: nobody else will.
                    prop_assert!(was_ready || !is_ready(&queue, at(now)) || useful == Ok(true) || refused);
                    if !refused {
                        watch.waiting.push(Known { since: at(now), turn: at(now), job });
                    }
                }
                Step::Take => {
                    let mut dead = Vec::new();
                    let take = queue.take(at(now), &mut dead);
                    for job in dead {
                        let place = watch.waiting.iter().position(|known| known.job.id == job.id).unwrap();
                        let known = watch.waiting.remove(place);
                        // Who could not be done in time makes room, but only for others that run.
                        let shed = known.job.deadline.is_some() && matches!(take, Take::Batch(_));
                        prop_assert!(shed || watch.is_dead(&known, at(now)));
                    }
                    match take {
                        Take::Batch(batch) => {
                            running += 1;
                            prop_assert!(running <= policy.runs_max && !batch.is_empty());
                            watch.check(&batch, at(now));
                        }
                        Take::Wait(until) => prop_assert!(until > at(now) && until <= at(now) + policy.delay_max),
                        Take::Idle => prop_assert!(running == policy.runs_max || queue.is_empty()),
                    }
                }
                Step::Finish => if running > 0 {
                    queue.finish(None, at(now));
                    running -= 1;
                },
                Step::Pass(ms) => now += ms,
            }
            prop_assert_eq!(queue.len(), watch.waiting.len());
            prop_assert_eq!(queue.rows, watch.waiting.iter().map(|known| known.job.rows).sum::<usize>());
            prop_assert_eq!(queue.bytes, watch.waiting.iter().map(|known| known.job.bytes).sum::<usize>());
        }
        prop_assert!(queue.is_idle());
    }
}
