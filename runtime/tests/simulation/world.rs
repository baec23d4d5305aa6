//! What has happened so far, and was it right? The clock, the dice, and all that is promised.

use std::cell::Cell;
use std::fmt;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tiltyard_runtime::deployment::BatchAxis;
use tiltyard_runtime::job::{Answer, Demand};
use tiltyard_runtime::queue::QueuePolicy;
use tiltyard_types::{Error, ErrorKind, Moment, Tensor};

use crate::actors::{pause, runs_turns};
use crate::engine::{self, COLUMNS_MAX, Fate, ROWS_MAX};
use crate::random::Random;

/// Faults that are told of one history.
const FAULTS_MAX: usize = 8;

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(|| Mutex::new(World::of(0, false)));

/// The one world. Only one thread goes at a time, and none stops while it holds this.
pub(crate) fn world() -> MutexGuard<'static, World> {
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

thread_local! {
    /// When this thread last let others go before it in the history of this seed, the latest last.
    static STOPS: Cell<(u64, [Instant; STOPS_KEPT])> = const { Cell::new((0, NO_STOPS)) };
}

/// More than there are between the take of a batch and its run, which is put together again where some of it are late.
const STOPS_KEPT: usize = 6;
const NO_STOPS: [Instant; STOPS_KEPT] = [Instant { tick: 0, at: Moment::from_nanos(0) }; STOPS_KEPT];

/// A point in a history.
#[derive(Clone, Copy)]
pub(crate) struct Instant {
    /// Counts up with whatever happens.
    tick: u64,
    at: Moment,
}

/// The runtime's clock. Others may go before it is read; every reading is later than the one before.
pub(crate) fn clock() -> Moment {
    let others_go = world().random.chance(1, 4);
    if others_go {
        pause();
    }
    let step = world().random.below(40) as u64;
    world().passes(Duration::from_nanos(1 + step)).at
}

/// When this thread last read the clock.
pub(crate) fn last_read() -> Moment {
    STOPS.get().1[STOPS_KEPT - 1].at
}

/// One row of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) request: usize,
    pub(crate) row: usize,
}

impl Row {
    /// The row that sends this number in its first column.
    pub(crate) fn asked_by(question: i64) -> Row {
        let row = question as usize / COLUMNS_MAX;
        Row { request: row / ROWS_MAX, row: row % ROWS_MAX }
    }
}

/// A run of the engine.
pub(crate) struct Run {
    pub(crate) fate: Fate,
    model: usize,
    rows: Vec<Row>,
    requests: Vec<usize>,
    due: Moment,
}

/// What is known of a version.
pub(crate) struct Model {
    policy: QueuePolicy,
    shares: bool,
    /// Whether a request has as many rows as it sent; else it is one, whatever it sent.
    has_rows: bool,
    is_shaky: bool,
    cost: Duration,
    running: usize,
    sessions: usize,
    opens_failed: usize,
    drained: bool,
    freed: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Waits,
    Runs,
    Done,
}

/// What is known of a request.
pub(crate) struct Request {
    model: usize,
    columns: usize,
    demand: Demand,
    wanted: Vec<usize>,
    /// How every run with it ends.
    poison: Option<Fate>,
    /// Whether it came by a thread that runs nothing itself.
    plain: bool,
    rows: Vec<State>,
    /// Runs that it is in now.
    running: usize,
    tried: bool,
    /// Whether an event loop ran it.
    on_loop: bool,
    enqueued: Moment,
    /// From when on nobody waits for it: its client has gone, or a part of it has failed.
    gone: Option<u64>,
    /// How runs failed that had no other request in them.
    failed_alone: Vec<Fate>,
    answered: bool,
    refused: bool,
    taken: Option<Moment>,
    let_go: usize,
}

/// Everything about one history.
pub(crate) struct World {
    seed: u64,
    pub(crate) random: Random,
    pub(crate) figures: Figures,
    tells: bool,
    now: Instant,
    models: Vec<Model>,
    requests: Vec<Request>,
    faults: Vec<String>,
    frees: bool,
}

impl World {
    fn of(seed: u64, tells: bool) -> World {
        World {
            seed,
            random: Random::new(seed),
            figures: Figures::default(),
            tells,
            now: Instant { tick: 0, at: Moment::from_nanos(0) },
            models: Vec::new(),
            requests: Vec::new(),
            faults: Vec::new(),
            frees: false,
        }
    }

    /// Begins a history.
    pub(crate) fn begin(seed: u64, tells: bool) {
        STOPS.set((seed, NO_STOPS));
        *world() = World::of(seed, tells);
    }

    /// Notes a promise that was broken.
    pub(crate) fn fault(&mut self, fault: impl Into<String>) {
        let fault = fault.into();
        self.tell(|| format!("BROKEN: {fault}"));
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(fault);
        }
    }

    /// Promises that were broken.
    pub(crate) fn faults(&self) -> &[String] {
        &self.faults
    }

    /// Prints a step where somebody reads along.
    pub(crate) fn tell(&self, what: impl FnOnce() -> String) {
        if self.tells {
            println!("{:>6} {:>10.3?} {}", self.now.tick, self.now.at - Moment::from_nanos(0), what());
        }
    }

    /// Lets time pass.
    pub(crate) fn passes(&mut self, time: Duration) -> Instant {
        self.now = Instant { tick: self.now.tick + 1, at: self.now.at + time };
        let (seed, stops) = STOPS.get();
        let mut stops = if seed == self.seed { stops } else { NO_STOPS };
        stops.rotate_left(1);
        stops[STOPS_KEPT - 1] = self.now;
        STOPS.set((self.seed, stops));
        self.now
    }

    /// Lets time pass up to `until`.
    pub(crate) fn passes_to(&mut self, until: Moment) {
        self.passes(until - self.now.at);
    }

    /// A new version, with what decides how it behaves.
    pub(crate) fn new_model(&mut self, policy: QueuePolicy, axis: &BatchAxis) -> usize {
        let cost = self.random.pick(&[1, 5, 5, 10, 100, 2_000]);
        self.models.push(Model {
            policy,
            shares: *axis == BatchAxis::Proved,
            has_rows: *axis != BatchAxis::None,
            is_shaky: self.random.chance(2, 5),
            cost: Duration::from_micros(cost),
            running: 0,
            sessions: 0,
            opens_failed: 0,
            drained: false,
            freed: false,
        });
        self.figures.versions += 1;
        self.models.len() - 1
    }

    /// Whether a session can be opened now.
    pub(crate) fn opens(&mut self, model: usize) -> bool {
        let fails = self.models[model].is_shaky && self.random.chance(1, 12);
        let known = &mut self.models[model];
        if fails {
            known.opens_failed += 1;
            return false;
        }
        known.sessions += 1;
        let (sessions, runs_max, freed) = (known.sessions, known.policy.runs_max, known.freed);
        if sessions > runs_max || freed {
            self.fault(format!("model {model} has {sessions} sessions, expected at most {runs_max}; freed: {freed}"));
        }
        true
    }

    /// A session was closed.
    pub(crate) fn closed(&mut self, model: usize) {
        self.models[model].sessions -= 1;
    }

    /// Whether what is freed from now on is freed where it may be.
    pub(crate) fn may_free(&mut self, frees: bool) {
        self.frees = frees;
    }

    /// A version was freed.
    pub(crate) fn freed(&mut self, model: usize) {
        self.tell(|| format!("model {model} is freed"));
        self.figures.freed += 1;
        self.models[model].freed = true;
        let asked = self.requests.iter().position(|request| {
            request.model == model && !request.answered && !request.refused && request.gone.is_none()
        });
        if let Some(request) = asked {
            self.fault(format!("model {model} was freed before request {request} was answered"));
        }
        if self.models[model].running > 0 {
            self.fault(format!("model {model} was freed while it ran"));
        }
        if !self.frees {
            self.fault(format!("model {model} was freed by who serves requests"));
        }
    }

    /// Versions that were made and are not freed.
    pub(crate) fn models_alive(&self) -> usize {
        self.models.iter().filter(|model| !model.freed).count()
    }

    /// A version takes no requests from now on.
    pub(crate) fn drains(&mut self, model: usize) {
        self.tell(|| format!("model {model} drains"));
        self.figures.drains += 1;
        self.models[model].drained = true;
    }

    /// Makes a request up: its number, its input, the outputs wanted, and what it asks of the queue.
    pub(crate) fn new_request(&mut self, model: usize, plain: bool) -> (usize, Tensor, Vec<usize>, Demand) {
        let (id, random) = (self.requests.len(), &mut self.random);
        let rows = if random.chance(1, 12) { 1 + random.below(20) } else { 1 + random.below(3) };
        let columns = if random.chance(1, 4) { 1 + random.below(COLUMNS_MAX - 1) } else { 1 };
        let wanted = [vec![0], vec![1], vec![0, 1], vec![1, 0]][random.below(4)].clone();
        let deadline = random.chance(1, 4).then(|| self.now.at + Duration::from_micros(random.below(4_000) as u64));
        let demand = Demand { deadline, priority: random.below(5) as u32, bytes: random.below(100), mark: None };
        let poison = random.chance(1, 25).then(|| random.pick(&[Fate::Refused, Fate::Panics, Fate::Failed]));
        self.tell(|| format!("request {id} for model {model}: {rows} x {columns}, {demand:?}, poison {poison:?}"));
        let request = Request {
            model,
            columns,
            demand,
            wanted: wanted.clone(),
            poison,
            plain,
            rows: vec![State::Waits; rows],
            running: 0,
            tried: false,
            on_loop: false,
            enqueued: self.now.at,
            gone: None,
            failed_alone: Vec::new(),
            answered: false,
            refused: false,
            taken: None,
            let_go: 0,
        };
        self.requests.push(request);
        self.figures.requests += 1;
        let place = |place: usize| engine::question(id, place / columns, place % columns);
        let values: Vec<i64> = (0..rows * columns).map(place).collect();
        let input = Tensor::from_slice([rows, columns], &values).expect("it fits");
        (id, input, wanted, demand)
    }

    /// The queue took a request in.
    pub(crate) fn enqueued(&mut self, id: usize, waiting: usize) {
        self.requests[id].enqueued = last_read();
        let model = &self.models[self.requests[id].model];
        let jobs_max = model.policy.jobs_max;
        if model.drained && self.requests[id].plain {
            self.fault(format!("request {id} was taken in by a queue that drains"));
        }
        if waiting > jobs_max {
            self.fault(format!("{waiting} requests wait, expected at most {jobs_max}"));
        }
    }

    /// The queue refused a request at once.
    pub(crate) fn refused(&mut self, id: usize, error: &Error, waiting: usize) {
        self.tell(|| format!("request {id} is refused: {error}"));
        self.requests[id].refused = true;
        self.is_refusal(id, error, Some(waiting));
    }

    /// Checks a refusal; how many wait is known where it was just made.
    fn is_refusal(&mut self, id: usize, error: &Error, waiting: Option<usize>) {
        let request = &self.requests[id];
        let policy = &self.models[request.model].policy;
        match error.kind() {
            ErrorKind::NotReady if self.models[request.model].drained => self.figures.not_ready += 1,
            ErrorKind::Overloaded => {
                let by_count = request.demand.deadline.is_none()
                    && policy.bytes_max == usize::MAX
                    && waiting.is_some_and(|waiting| waiting < policy.jobs_max_at(request.demand.priority))
                    && policy.levels.len() == 1;
                // Nobody waits before it: then somebody runs for longer than it has, or did when last looked at.
                let in_hand = |other: &Request| other.model == request.model && !other.refused;
                let by_nobody =
                    waiting == Some(0) && (request.demand.deadline.is_none() || !self.requests.iter().any(in_hand));
                if by_nobody || by_count || error.wait().is_none() {
                    let fault = format!("request {id} was refused with {waiting:?} before it: {error}, {policy:?}");
                    self.fault(fault);
                }
                self.figures.overloaded += 1;
            }
            _ => self.fault(format!("request {id} was refused without a reason: {error}")),
        }
    }

    /// A client hangs up.
    pub(crate) fn leaves(&mut self, id: usize) {
        self.tell(|| format!("request {id}: its client goes"));
        self.passes(Duration::ZERO);
        self.figures.cancelled += 1;
        let tick = self.now.tick;
        self.requests[id].gone.get_or_insert(tick);
        self.requests[id].answered = true;
    }

    /// What a request held is let go.
    pub(crate) fn lets_go(&mut self, id: usize) {
        let request = &mut self.requests[id];
        request.let_go += 1;
        if request.running > 0 {
            self.fault(format!("what request {id} held was let go while it ran"));
        }
    }
}

// Runs of the engine.
impl World {
    /// A run of `rows` begins.
    pub(crate) fn begins(&mut self, model: usize, rows: &[Row], panicked_before: bool) -> Run {
        let mut requests: Vec<usize> = rows.iter().map(|row| row.request).collect();
        requests.dedup();
        let fate = self.fate(model, &requests);
        self.tell(|| format!("model {model} runs {:?}, which will be {fate:?}", Shown(rows)));
        let known = &mut self.models[model];
        known.running += 1;
        let (running, runs_max, freed) = (known.running, known.policy.runs_max, known.freed);
        if running > runs_max || freed || panicked_before {
            self.fault(format!(
                "{running} runs of model {model}, expected at most {runs_max}; freed: {freed}, panicked before: {panicked_before}"
            ));
        }
        self.check_batch(model, rows, &requests);
        for &id in &requests {
            self.check_start(model, id);
            self.requests[id].running += 1;
            self.requests[id].tried = true;
            self.requests[id].on_loop = runs_turns();
        }
        self.figures.note_run(fate, &requests, runs_turns());
        let cost = self.models[model].cost.mul_f64(1.0 + rows.len() as f64 / 8.0);
        let due = self.now.at + if self.random.chance(1, 40) { cost * 20 } else { cost };
        Run { fate, model, rows: rows.to_vec(), requests, due }
    }

    fn fate(&mut self, model: usize, requests: &[usize]) -> Fate {
        if let Some(poison) = requests.iter().find_map(|&id| self.requests[id].poison) {
            return poison;
        }
        if !self.models[model].is_shaky || self.random.chance(7, 8) {
            return Fate::Fine;
        }
        // Where rows are not known to be the axis, nobody can tell how many an output should have.
        let short = if self.models[model].shares { Fate::Short } else { Fate::Failed };
        self.random.pick(&[Fate::Refused, Fate::Failed, Fate::Panics, Fate::Few, Fate::OtherType, short])
    }

    /// Whether these rows may be together, and each runs once.
    fn check_batch(&mut self, model: usize, rows: &[Row], requests: &[usize]) {
        let (policy, shares) = (&self.models[model].policy, self.models[model].shares);
        let real = rows.iter().enumerate().take_while(|(place, row)| *place == 0 || rows[place - 1] != **row).count();
        let (limit, pads) = (policy.padded_rows(policy.rows_limit()), !policy.sizes.is_empty());
        let whole = requests.len() == 1;
        if shares && rows.len() > limit || !shares && !whole || (rows.len() > real && !pads) {
            self.fault(format!("a run of {:?}, expected at most {limit} rows; shares: {shares}", Shown(rows)));
        }
        if rows[real..].iter().any(|row| *row != rows[real - 1]) {
            self.fault(format!("a run of {:?}: padding is the last row alone", Shown(rows)));
        }
        for row in &rows[..real] {
            let request = &mut self.requests[row.request];
            let state = std::mem::replace(&mut request.rows[row.row], State::Runs);
            if state != State::Waits {
                self.fault(format!("row {} of request {} runs twice", row.row, row.request));
            }
        }
    }

    /// Whether a request may run now.
    fn check_start(&mut self, model: usize, id: usize) {
        // Whether it was still wanted was looked at after the last stop but one, if not later; how long it had waited when it
        // was taken, which was before.
        let (_, [taken, .., looked, _]) = STOPS.get();
        let (request, known) = (&self.requests[id], &self.models[model]);
        let wait_max = known.policy.levels[known.policy.level(request.demand.priority)].wait_max;
        let waited_too_long = request.plain
            && !request.tried
            && known.opens_failed == 0
            && wait_max.is_some_and(|wait| request.enqueued + wait <= taken.at);
        let faults = [
            (request.model != model, "runs on a model that it was not sent to"),
            (request.gone.is_some_and(|gone| gone < looked.tick), "runs, and nobody waits for it"),
            (request.demand.deadline.is_some_and(|deadline| deadline <= looked.at), "runs after its deadline"),
            (waited_too_long, "runs though it waited longer than its level allows"),
            (request.refused || request.let_go > 0, "runs though it was refused, or let go what it holds"),
        ];
        for (is_so, fault) in faults {
            if is_so {
                self.fault(format!("request {id} {fault}"));
            }
        }
    }

    /// A run has ended.
    pub(crate) fn ends(&mut self, run: &Run) {
        self.passes_to(run.due);
        self.tell(|| format!("model {} ran {:?}: {:?}", run.model, Shown(&run.rows), run.fate));
        self.models[run.model].running -= 1;
        let state = if run.fate == Fate::Fine { State::Done } else { State::Waits };
        for row in &run.rows {
            self.requests[row.request].rows[row.row] = state;
        }
        let (tick, alone) = (self.now.tick, run.requests.len() == 1);
        for &id in &run.requests {
            let request = &mut self.requests[id];
            request.running -= 1;
            if run.fate != Fate::Fine && alone {
                request.failed_alone.push(run.fate);
                // Answered with the engine's error before anybody else goes; after other faults a little later.
                if matches!(run.fate, Fate::Refused | Fate::Failed | Fate::Panics) {
                    request.gone.get_or_insert(tick);
                }
            }
        }
    }
}

// Answers.
impl World {
    /// A client has its answer.
    pub(crate) fn answered(&mut self, id: usize, answer: Result<Answer, Error>) {
        self.tell(|| format!("request {id} is answered: {:?}", answer.as_ref().map(|answer| answer.batch_rows)));
        if std::mem::replace(&mut self.requests[id].answered, true) {
            self.fault(format!("request {id} was answered twice"));
        }
        match answer {
            Ok(answer) => self.check_answer(id, &answer),
            Err(error) => self.check_error(id, &error),
        }
    }

    fn check_answer(&mut self, id: usize, answer: &Answer) {
        self.figures.answered += 1;
        let request = &mut self.requests[id];
        let (rows, columns, model) = (request.rows.len(), request.columns, request.model);
        let rows_told = if self.models[model].has_rows { rows } else { 1 };
        let expected = |&output: &usize| -> Vec<i64> {
            (0..rows * columns)
                .map(|place| engine::answer(engine::question(id, place / columns, place % columns), model, output))
                .collect()
        };
        let expected: Vec<Vec<i64>> = request.wanted.iter().map(expected).collect();
        let got: Vec<Vec<i64>> = answer.outputs.iter().map(|output| output.to_vec().unwrap_or_default()).collect();
        let done = request.rows.iter().all(|state| *state == State::Done);
        request.taken = Some(request.enqueued + answer.queue);
        if got != expected || answer.rows != rows_told || !done {
            self.fault(format!("request {id} got {got:?} of {} rows, expected {expected:?}", answer.rows));
        }
    }

    fn check_error(&mut self, id: usize, error: &Error) {
        let (request, now) = (&self.requests[id], self.now.at);
        let model = &self.models[request.model];
        let level = &model.policy.levels[model.policy.level(request.demand.priority)];
        let until = request.demand.deadline.into_iter().chain(level.wait_max.map(|wait| request.enqueued + wait)).min();
        let failed = |by_request: bool| request.failed_alone.iter().any(|fate| (*fate == Fate::Refused) == by_request);
        let is_right = match error.kind() {
            ErrorKind::Invalid => failed(true),
            ErrorKind::Engine => {
                (failed(false) || model.opens_failed > 0) && !error.message().contains("dropped the request")
            }
            ErrorKind::Deadline => until.is_some_and(|until| until <= now),
            ErrorKind::NotReady | ErrorKind::Overloaded if !request.plain => return self.is_refusal(id, error, None),
            // Shed: it would have been answered too late, and others need not be.
            ErrorKind::Overloaded => request.demand.deadline.is_some(),
            _ => false,
        };
        match error.kind() {
            ErrorKind::Deadline => self.figures.late += 1,
            _ => self.figures.failed += 1,
        }
        if !is_right {
            self.fault(format!("request {id} was answered with {:?} without a reason: {error}", error.kind()));
        }
    }

    /// Nobody answered a request, and nobody will.
    pub(crate) fn unanswered(&mut self, id: usize, why: &str) {
        self.fault(format!("request {id} was never answered: {why}"));
    }

    /// Whether all of so many threads that have stopped did so in the engine.
    pub(crate) fn all_run(&self, stopped: usize) -> bool {
        self.models.iter().map(|model| model.running).sum::<usize>() == stopped
    }

    /// So many wait, and no worker is on its way: right only where as many runs go on as may, or company is waited for.
    pub(crate) fn nobody_comes(&mut self, model: usize, waiting: usize) {
        let Model { policy, running, .. } = &self.models[model];
        if waiting > 0 && *running < policy.runs_max && policy.delay_max.is_zero() {
            let fault = format!("{waiting} requests wait for model {model}, {running} runs go on, and no worker comes");
            self.fault(fault);
        }
    }

    /// Looks at the whole of a history.
    pub(crate) fn end(&mut self) {
        for id in 0..self.requests.len() {
            let Request { let_go, running, answered, refused, .. } = self.requests[id];
            if let_go != 1 || running > 0 || !(answered || refused) {
                self.fault(format!("request {id}: let go {let_go} times, in {running} runs, answered: {answered}"));
            }
        }
        for (number, model) in self.models.iter().enumerate() {
            if model.running > 0 || model.sessions > 0 || !model.freed {
                let fault = format!("model {number}: {} sessions left, freed: {}", model.sessions, model.freed);
                self.faults.push(fault);
            }
        }
        self.check_order();
    }

    /// Whether nobody was overtaken by one that came after it in turn and could have shared its run, or by one that did not
    /// wait at all.
    fn check_order(&mut self) {
        let mut faults = Vec::new();
        let (plain, others): (Vec<&Request>, Vec<&Request>) =
            self.requests.iter().filter(|request| request.taken.is_some()).partition(|request| request.plain);
        let rank = |request: &Request| {
            let policy = &self.models[request.model].policy;
            request.enqueued + policy.ageing * policy.level(request.demand.priority) as u32
        };
        for first in &plain {
            for second in others.iter().filter(|second| second.model == first.model && second.on_loop) {
                if Some(first.enqueued) < second.taken && second.taken < first.taken {
                    faults.push(format!("a request of {:?} was overtaken by an event loop's", first.enqueued));
                }
            }
            for second in plain.iter().filter(|second| second.model == first.model && rank(first) < rank(second)) {
                let alike = first.columns == second.columns || !self.models[first.model].shares;
                let was_there = Some(first.enqueued) < second.taken;
                if alike && was_there && first.taken > second.taken {
                    faults.push(format!(
                        "a request of {:?} was overtaken by one of {:?}",
                        first.enqueued, second.enqueued
                    ));
                }
            }
        }
        faults.into_iter().for_each(|fault| self.fault(fault));
    }
}

/// Rows in short.
struct Shown<'a>(&'a [Row]);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|row| format!("{}.{}", row.request, row.row))).finish()
    }
}

/// What happened, in numbers.
#[derive(Clone, Default)]
pub(crate) struct Figures {
    requests: u64,
    answered: u64,
    failed: u64,
    late: u64,
    overloaded: u64,
    not_ready: u64,
    cancelled: u64,
    runs: u64,
    shared: u64,
    on_loops: u64,
    faulty: u64,
    panics: u64,
    versions: u64,
    drains: u64,
    freed: u64,
}

impl Figures {
    fn note_run(&mut self, fate: Fate, requests: &[usize], on_loop: bool) {
        self.runs += 1;
        self.shared += u64::from(requests.len() > 1);
        self.on_loops += u64::from(on_loop);
        self.faulty += u64::from(fate != Fate::Fine);
        self.panics += u64::from(fate == Fate::Panics);
    }

    fn each(&mut self) -> [(&'static str, &mut u64); 15] {
        [
            ("requests", &mut self.requests),
            ("answered well", &mut self.answered),
            ("failed by the engine", &mut self.failed),
            ("too late", &mut self.late),
            ("refused, queue full", &mut self.overloaded),
            ("refused, draining", &mut self.not_ready),
            ("cancelled", &mut self.cancelled),
            ("runs", &mut self.runs),
            ("runs of several requests", &mut self.shared),
            ("runs on event loops", &mut self.on_loops),
            ("runs that went wrong", &mut self.faulty),
            ("panics", &mut self.panics),
            ("versions", &mut self.versions),
            ("drains", &mut self.drains),
            ("versions freed", &mut self.freed),
        ]
    }

    /// Adds those of another history.
    pub(crate) fn add(&mut self, other: &Figures) {
        let mut other = other.clone();
        for ((_, sum), (_, more)) in self.each().into_iter().zip(other.each()) {
            *sum += *more;
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut figures = self.clone();
        let shown = figures.each().map(|(name, count)| format!("{count} {name}"));
        f.write_str(&shown.join(", "))
    }
}
