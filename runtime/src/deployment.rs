//! What is a version that is ready to answer?

mod faults;
mod lane;
mod leases;
mod meter;
mod refuse;
mod runs;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, SystemTime};

use tiltyard_types::live::{Kind, Live};
use tiltyard_types::{Digest, Error, Moment, Result, Signature, Tensor};

use self::refuse::Outlook;
use crate::batch::{Layout, Pad};
use crate::cost::{Cost, QUICK};
use crate::engine::{CompiledModel, EngineBuild, EngineError, OutputClasses};
use crate::explain::Explaining;
use crate::health::Health;
use crate::job::{Demand, Held, Job, Pending, Reply};
use crate::made::Made;
use crate::onnx::Graph;
use crate::pool::Pool;
use crate::providers::Placement;
use crate::queue::{Queue, QueuePolicy, Refused, Take};
use crate::repository::settings::Settings;
use crate::stats::Stats;
use crate::sync::{Mutex, MutexGuard};
use crate::turn;

pub use self::faults::Stuck;
pub use self::meter::Instances;

use self::leases::Leases;
use self::runs::GivenUp;

/// What the axes of an input without elements may multiply to, those of length 0 left out.
const EMPTY_EXTENT_MAX: usize = 1 << 20;

/// What the load found out about a version: its identity and how it will be run.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The model's name.
    pub model: String,
    /// The version.
    pub version: u64,
    /// Digest of the files.
    pub artifact: Digest,
    /// Digest of the files, the effective configuration, and the engine with its build and provider.
    pub digest: Digest,
    /// The engine's name.
    pub engine: &'static str,
    /// Its build.
    pub build: EngineBuild,
    /// The execution provider it runs on.
    pub provider: String,
    /// Which nodes run on which provider, where the engine tells.
    pub placement: Vec<Placement>,
    /// Bytes of all its files.
    pub size: u64,
    /// When it was loaded, on the wall clock.
    pub loaded: SystemTime,
    /// How long loading took, all proofs included.
    pub load_time: Duration,
    /// Golden examples that it passed.
    pub goldens: usize,
}

/// Whether requests' rows may share a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchAxis {
    /// The model has none: a request is one run.
    None,
    /// There is one, but rows are not proved to be independent; the reason is for people.
    Unproved(String),
    /// Rows answered the same alone, together, permuted and beside other neighbours.
    Proved,
}

/// Whether requests of different lengths may share a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Padding {
    /// Its owner declares no axis.
    Undeclared,
    /// One is declared, but padded rows are not proved to answer as others do; the reason is for people.
    Unproved(String),
    /// Padded rows answered as they did alone.
    Proved(Pad),
}

/// A version made ready to answer.
pub struct Deployment {
    /// Who it is.
    pub identity: Identity,
    /// Its contract.
    pub signature: Signature,
    /// What the file says about itself.
    pub graph: Graph,
    /// What its owner says.
    pub settings: Settings,
    /// Whether rows may share a run.
    pub batch_axis: BatchAxis,
    /// Whether rows of different lengths may, too.
    pub padding: Padding,
    /// What the queue may hold, and how it batches.
    pub policy: QueuePolicy,
    /// An example request with its answer, where one is known: documentation shows it.
    pub example: Option<crate::golden::Golden>,
    /// What it has done.
    pub stats: Arc<Stats>,
    /// What its runs cost.
    pub cost: Cost,
    /// The rows that one run takes at most; 0 where requests are never batched.
    rows_taken_max: AtomicUsize,
    /// Whether that follows what is measured: nobody said how many it shall be.
    learns_rows: bool,
    /// The most bytes of one row's inputs that were seen to run in a moment.
    quick_row_bytes: AtomicUsize,
    /// How rows are put together; `None` where they may not be.
    layout: Option<Arc<Layout>>,
    /// Whether it is fit to answer.
    pub health: Health,
    compiled: Arc<dyn CompiledModel>,
    leases: Leases,
    waiting: Mutex<Waiting>,
    outlook: Outlook,
    /// What it takes to explain its answers; `None` where nobody asks that of it.
    pub(crate) explaining: Option<Explaining>,
    /// What is known of who made it, where somebody asked.
    pub made: Option<Made>,
    _live: Option<Live>,
    /// Of a lane, whose model it runs: the last to go, so that whoever frees models frees this one too.
    _model: Option<Arc<Deployment>>,
}

/// The queue, and how many workers were sent to it: under one lock, so that no wake-up is lost.
struct Waiting {
    queue: Queue<Job>,
    workers: usize,
}

/// What a deployment is made of. Loading finds it out; simulations make it up.
pub struct Parts {
    /// Who it is.
    pub identity: Identity,
    /// What the file says about itself.
    pub graph: Graph,
    /// What its owner says.
    pub settings: Settings,
    /// Whether rows may share a run.
    pub batch_axis: BatchAxis,
    /// Whether rows of different lengths may, too.
    pub padding: Padding,
    /// What the queue may hold, and how it batches.
    pub policy: QueuePolicy,
    /// An example request with its answer, where one is known.
    pub example: Option<crate::golden::Golden>,
    /// Whether the rows of a batch follow what is measured.
    pub learns_rows: bool,
    /// The model, ready to run.
    pub compiled: Box<dyn CompiledModel>,
}

impl Deployment {
    /// A deployment that nobody has published yet.
    pub fn new(parts: Parts) -> Deployment {
        let rows_taken_max = if parts.batch_axis == BatchAxis::Proved { parts.policy.rows_max } else { 0 };
        let signature = parts.compiled.signature().clone();
        let pad = match &parts.padding {
            Padding::Proved(pad) => Some(pad.clone()),
            Padding::Undeclared | Padding::Unproved(_) => None,
        };
        let proved = parts.batch_axis == BatchAxis::Proved;
        let layout = proved.then(|| Layout::of(&signature)).flatten().map(|layout| Arc::new(layout.padded(pad)));
        let health = Health::default();
        Deployment {
            signature,
            identity: parts.identity,
            graph: parts.graph,
            settings: parts.settings,
            batch_axis: parts.batch_axis,
            padding: parts.padding,
            policy: parts.policy.clone(),
            example: parts.example,
            stats: Arc::new(Stats::with(&health.faults)),
            cost: Cost::default(),
            quick_row_bytes: AtomicUsize::new(0),
            rows_taken_max: AtomicUsize::new(rows_taken_max),
            learns_rows: parts.learns_rows,
            layout,
            compiled: Arc::from(parts.compiled),
            health,
            leases: Leases::default(),
            waiting: Mutex::new(Waiting { queue: Queue::new(parts.policy), workers: 0 }),
            outlook: Outlook::default(),
            explaining: None,
            made: None,
            _live: Some(Live::new(Kind::Deployments)),
            _model: None,
        }
    }

    /// The classes that columns of outputs are of, where the graph itself says so.
    pub fn classes(&self) -> &[OutputClasses] {
        self.compiled.classes()
    }

    /// The rows one run may take by its settings: 0 where requests are never batched.
    pub fn rows_max(&self) -> usize {
        if self.batch_axis == BatchAxis::Proved { self.policy.rows_max } else { 0 }
    }

    /// The rows one run takes: what is allowed, or less where less was measured to be as good.
    pub fn rows_taken_max(&self) -> usize {
        self.rows_taken_max.load(Relaxed)
    }

    /// Makes runs take at most the rows that were measured to be best, unless its owner said how many. What the settings
    /// allow stays the bound, and alone is part of the deployment's digest: two machines may learn different sizes and
    /// still answer alike.
    pub fn learn_rows(&self, best: usize) {
        let rows = best.min(self.rows_max());
        if self.learns_rows && rows > 0 {
            self.rows_taken_max.store(rows, Relaxed);
            lock(&self.waiting).queue.limit_rows(rows);
        }
    }

    /// How long a request that comes `now` would wait; `None` while nobody knows what runs cost.
    pub fn predicted_wait(&self, now: Moment) -> Option<Duration> {
        let mut waiting = lock(&self.waiting);
        waiting.queue.expect(self.cost.fit(), self.layout.is_some());
        waiting.queue.ahead(now).wait(now)
    }

    /// Whether the model has inputs without rows, about which requests must agree to share a run.
    pub fn has_shared_inputs(&self) -> bool {
        self.layout.as_ref().is_some_and(|layout| layout.has_shared())
    }

    /// Requests that wait.
    pub fn queue_len(&self) -> usize {
        lock(&self.waiting).queue.len()
    }

    /// How many rows `inputs` carry. Fails when inputs disagree about it where rows are proved to be the axis; elsewhere
    /// their first axes may be different things.
    pub fn rows(&self, inputs: &[Option<Tensor>]) -> Result<usize> {
        if self.batch_axis != BatchAxis::Proved {
            self.refuse_vast(inputs)?;
        }
        if self.batch_axis == BatchAxis::None {
            return Ok(1);
        }
        let mut lengths = inputs
            .iter()
            .zip(&self.signature.inputs)
            .enumerate()
            .filter(|(position, _)| self.layout.as_ref().is_none_or(|layout| layout.has_rows(*position)))
            .filter_map(|(_, (tensor, spec))| Some((spec.name.as_str(), tensor.as_ref()?.shape().rows()?)));
        let Some((first_name, rows)) = lengths.next() else { return Ok(1) };
        match lengths.find(|(_, other)| *other != rows) {
            Some((name, other)) if self.batch_axis == BatchAxis::Proved => Err(Error::invalid(format!(
                "inputs disagree about the number of rows: {first_name:?} has {rows}, {name:?} has {other}"
            ))),
            _ if self.batch_axis == BatchAxis::Proved && rows > self.policy.rows_max && self.are_empty(inputs) => {
                Err(Error::invalid(format!(
                    "{first_name:?} has {rows} rows without a single element, expected at most {} of such rows: send rows that hold data",
                    self.policy.rows_max
                )))
            }
            _ => Ok(rows),
        }
    }

    /// Refuses an input without elements whose other axes are long: it costs its client nothing, but outputs that lack the
    /// empty axis may be as large as the others say.
    fn refuse_vast(&self, inputs: &[Option<Tensor>]) -> Result<()> {
        let extent = |tensor: &Tensor| {
            let axes = tensor.shape().iter().filter(|&&axis| axis > 0);
            axes.fold(1usize, |product, &axis| product.saturating_mul(axis))
        };
        let is_vast = |input: &Option<Tensor>| {
            input.as_ref().is_some_and(|tensor| tensor.elements() == 0 && extent(tensor) > EMPTY_EXTENT_MAX)
        };
        match self.signature.inputs.iter().zip(inputs).find(|(_, input)| is_vast(input)) {
            None => Ok(()),
            Some((spec, input)) => Err(Error::invalid(format!(
                "{:?} has shape {} without a single element, expected the other axes to have at most {EMPTY_EXTENT_MAX} together: send data",
                spec.name,
                input.as_ref().map(|tensor| tensor.shape().to_string()).unwrap_or_default(),
            ))),
        }
    }

    /// Whether no input that has rows has an element. Such rows cost their client nothing, whatever their number: nothing
    /// bounds what they cost here but to refuse them.
    fn are_empty(&self, inputs: &[Option<Tensor>]) -> bool {
        let has_rows = |position| self.layout.as_ref().is_none_or(|layout| layout.has_rows(position));
        let mut with_rows = inputs.iter().enumerate().filter(|(position, _)| has_rows(*position));
        with_rows.all(|(_, input)| input.as_ref().is_none_or(|tensor| tensor.elements() == 0))
    }

    /// Puts a checked request into the queue and sends a worker if one is of use. The answer arrives at the
    /// returned receiver; dropping it cancels the request. `held` is dropped when the job is gone, answered or not.
    /// Fails when the queue is full or draining, or when the request would surely wait longer than it has time.
    pub fn enqueue(
        self: &Arc<Self>,
        inputs: Vec<Option<Tensor>>,
        wanted: Vec<usize>,
        demand: Demand,
        held: Held,
        pool: &Pool,
    ) -> Result<Pending> {
        let rows = self.rows(&inputs)?;
        let (reply, pending) = Reply::new();
        let now = pool.now();
        let layout = self.layout.clone();
        let length = layout.as_ref().and_then(|layout| layout.length(&inputs));
        let job = Job { inputs, wanted, rows, rows_gone: 0, layout, length, demand, enqueued: now, reply, held };
        match if self.is_quick(&job) { turn::keep(self, job) } else { Some(job) } {
            None => Ok(pending),
            Some(job) => self.leave_to_workers(job, now, pool).map(|()| pending),
        }
    }

    /// Whether a job may run on the thread that brought it: with the rows that it will be padded to, and with rows no
    /// larger than those that were seen to run in a moment.
    fn is_quick(&self, job: &Job) -> bool {
        job.rows > 0
            && self.policy.padded_rows(job.rows) <= self.rows_here()
            && bytes_of(&job.inputs) / job.rows <= self.quick_row_bytes.load(Relaxed)
    }

    /// Rows that whoever brings a request runs on the spot at most; 0 where not even one is quick, where requests are to
    /// wait for company, and on devices, whose runs are waited for.
    fn rows_here(&self) -> usize {
        let workers_only = !self.policy.delay_max.is_zero() || self.compiled.sessions_max().is_some();
        if workers_only { 0 } else { self.cost.rows_quick() }
    }

    /// Takes in that a run of `rows` rows of these inputs took `run`.
    pub(crate) fn observe(&self, rows: usize, inputs: &[Option<Tensor>], run: Duration) {
        self.cost.observe(rows, run);
        if run <= QUICK {
            let row_bytes = bytes_of(inputs) / rows.max(1);
            // Read first: it grows a few times in a deployment's life, and is looked at for every request.
            if row_bytes > self.quick_row_bytes.load(Relaxed) {
                self.quick_row_bytes.fetch_max(row_bytes, Relaxed);
            }
        }
    }

    /// Puts a job into the queue and sends a worker if one is of use.
    fn leave_to_workers(self: &Arc<Self>, job: Job, now: Moment, pool: &Pool) -> Result<()> {
        let mut dead = Vec::new();
        let (taken_in, send_worker) = {
            let mut waiting = lock(&self.waiting);
            waiting.queue.expect(self.cost.fit(), self.layout.is_some());
            let taken_in = waiting.queue.admit(job, now, &mut dead);
            self.outlook.tell(&waiting.queue, now);
            let send = matches!(taken_in, Ok(true)) && waiting.workers < self.policy.runs_max;
            waiting.workers += usize::from(send);
            (taken_in, send)
        };
        if send_worker {
            pool.send(Arc::clone(self));
        }
        self.refuse_dead(dead, now);
        match taken_in {
            Ok(_) => Ok(()),
            Err(unfit) => Err(self.refuse(unfit)),
        }
    }

    /// Runs jobs that never waited on the thread that brought them, in batches that each take a moment, until `until`. The
    /// rest, and all of them where others wait or no session is free, go to the workers.
    pub(crate) fn run_here(self: &Arc<Self>, jobs: Vec<Job>, until: Moment, pool: &Pool) {
        // Others may come while all sessions are leased here: they are seen to however this ends.
        let _wake = Wake(self, pool);
        let started = pool.now();
        // The queue's own rules, on jobs that only this thread knows of.
        let rows_max = self.rows_taken_max().min(self.rows_here()).max(1);
        let (jobs_max, bytes_max) = (usize::MAX, usize::MAX);
        let mut queue = Queue::new(QueuePolicy { rows_max, jobs_max, bytes_max, runs_max: 1, ..self.policy.clone() });
        let (mut left, mut dead) = (Vec::new(), Vec::new());
        for job in jobs {
            match queue.enqueue(job, started) {
                Ok(_) => {}
                Err(Refused::Full(job) | Refused::FullOfBytes(job) | Refused::Draining(job)) => left.push(job),
            }
        }
        let mut now = started;
        while now < until && !queue.is_empty() && lock(&self.waiting).queue.pass() {
            let mut finish = Finish { deployment: self, pool, run: None };
            if let Take::Batch(jobs) = queue.take(now, &mut dead) {
                finish.run = Some((now, rows_of(&jobs)));
                if self.run_batch(jobs, now, true, pool).is_err() {
                    // It was finished in its absence.
                    std::mem::forget(finish);
                    break;
                }
            }
            let run = finish.run;
            drop(finish);
            now = pool.now();
            if run.is_some() {
                queue.finish(None, now);
            }
        }
        self.refuse_dead(dead, now);
        for job in queue.into_jobs().chain(left) {
            // A refusal is answered where it is made.
            drop(self.leave_to_workers(job, now, pool));
        }
    }

    /// Refuses requests from now on; those that wait are still run.
    pub fn drain(&self) {
        lock(&self.waiting).queue.drain();
    }

    /// Whether nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        lock(&self.waiting).queue.is_idle()
    }

    /// Runs the model on this thread, outside the queue: for golden examples, proofs and tools.
    pub fn run_alone(&self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        let aligned: Vec<Option<Tensor>> = inputs.iter().map(|input| input.as_ref().map(Tensor::aligned)).collect();
        self.with_session(|session| session.run(&aligned, wanted))
    }

    /// A worker's visit: runs one batch if there is one. Says what became of it.
    ///
    /// Engines are contained where they run. A panic anywhere else is ours: its jobs are answered as they are dropped, and the
    /// thread goes on.
    pub(crate) fn visit(self: &Arc<Self>, pool: &Pool) -> Visit {
        let mut became = Visit::Ran;
        drop(catch_unwind(AssertUnwindSafe(|| self.attend(pool, &mut became))));
        became
    }

    /// What becomes of the visit is noted at the moment at which its worker ceases to count here: true however this ends.
    fn attend(self: &Arc<Self>, pool: &Pool, became: &mut Visit) {
        let mut dead = Vec::new();
        let now = pool.now();
        let (take, send_another) = {
            let mut waiting = lock(&self.waiting);
            waiting.queue.expect(self.cost.fit(), self.layout.is_some());
            waiting.queue.note_came(self.outlook.refused());
            let take = waiting.queue.take(now, &mut dead);
            self.outlook.tell(&waiting.queue, now);
            let send = match take {
                // What is left may run at once, or has a time to wait for.
                Take::Batch(_) => waiting.queue.calls_for_more() && waiting.workers < self.policy.runs_max,
                Take::Wait(_) | Take::Idle => {
                    waiting.workers -= 1;
                    *became = if let Take::Wait(until) = take { Visit::LeftUntil(until) } else { Visit::Left };
                    false
                }
            };
            waiting.workers += usize::from(send);
            (take, send)
        };
        if send_another {
            pool.send(Arc::clone(self));
        }
        self.refuse_dead(dead, now);
        if let Take::Batch(jobs) = take {
            let finish = Finish { deployment: self, pool, run: Some((now, rows_of(&jobs))) };
            if let Err(GivenUp) = self.run_batch(jobs, now, false, pool) {
                // It was finished in its absence.
                std::mem::forget(finish);
                *became = Visit::GivenUp;
            }
        }
    }

    /// Sends a worker if something waits and there is room for one: called when a wait is over, and after runs here.
    pub(crate) fn wake(self: &Arc<Self>, pool: &Pool) {
        let send = {
            let mut waiting = lock(&self.waiting);
            let send = !waiting.queue.is_empty() && waiting.workers < self.policy.runs_max;
            waiting.workers += usize::from(send);
            send
        };
        if send {
            pool.send(Arc::clone(self));
        }
    }
}

/// Rows of all jobs.
fn rows_of(jobs: &[Job]) -> usize {
    jobs.iter().map(|job| job.rows).sum()
}

/// Bytes of all inputs.
fn bytes_of(inputs: &[Option<Tensor>]) -> usize {
    inputs.iter().flatten().map(Tensor::size).sum()
}

/// Sends a worker to what waits, when this is dropped.
struct Wake<'a>(&'a Arc<Deployment>, &'a Pool);

impl Drop for Wake<'_> {
    fn drop(&mut self) {
        self.0.wake(self.1);
    }
}

/// Tells the queue that a batch has ended, however it did.
struct Finish<'a> {
    deployment: &'a Deployment,
    pool: &'a Pool,
    /// When it was taken, and its rows; nothing where there was none.
    run: Option<(Moment, usize)>,
}

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let now = self.pool.now();
        lock(&self.deployment.waiting).queue.finish(self.run, now);
    }
}

/// What became of a worker's visit.
pub(crate) enum Visit {
    /// It ran a batch and may come again.
    Ran,
    /// There was nothing; the worker is free.
    Left,
    /// There will be something at this moment; the worker is free.
    LeftUntil(Moment),
    /// The run hung, and another worker has taken this one's place.
    GivenUp,
}

/// The text of a panic, where it has one.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_else(|| "without a message".to_owned())
}

/// Locks are held for a few instructions and never across an engine's run; a panic between cannot leave a half-made
/// state, so poisoning is ignored.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod scripted;

#[cfg(all(test, not(shuttle)))]
pub(crate) mod tests;

#[cfg(all(test, not(shuttle)))]
mod batching_tests;

#[cfg(all(test, not(shuttle)))]
mod turn_tests;

#[cfg(all(test, not(shuttle)))]
mod fault_tests;

#[cfg(all(test, shuttle))]
mod interleavings;
