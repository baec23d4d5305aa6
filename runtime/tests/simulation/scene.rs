//! What happens in one history? Who does what next is drawn by lot.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tiltyard_runtime::cost::Point;
use tiltyard_runtime::deployment::{BatchAxis, Deployment, Identity, Padding, Parts};
use tiltyard_runtime::engine::EngineBuild;
use tiltyard_runtime::job::Pending;
use tiltyard_runtime::onnx::Graph;
use tiltyard_runtime::pool::{Pool, Timer, Workers};
use tiltyard_runtime::queue::{Level, QueuePolicy};
use tiltyard_runtime::repository::settings::Settings;
use tiltyard_runtime::retired::Retired;
use tiltyard_runtime::turn;
use tiltyard_types::Digest;
use tiltyard_types::live::Kind;
use tokio::sync::oneshot::error::TryRecvError;

use crate::actors::Actor;
use crate::engine::Simulated;
use crate::random::Random;
use crate::world::{Figures, World, clock, world};

/// Threads that run what waits.
const WORKERS: usize = 3;

/// Event loops that run what they bring.
const LOOPS: usize = 2;

/// Steps after which a history that only has to come to rest never will.
const REST_MAX: usize = 100_000;

/// Who waits for an answer. Like a request to the server, it holds what was to answer it.
struct Client {
    id: usize,
    pending: Pending,
    deployment: Arc<Deployment>,
}

static CLIENTS: Mutex<Vec<Client>> = Mutex::new(Vec::new());

fn clients() -> MutexGuard<'static, Vec<Client>> {
    CLIENTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The room that a request takes in the server's bounds.
struct Permit(usize);

impl Drop for Permit {
    fn drop(&mut self) {
        world().lets_go(self.0);
    }
}

/// Sends a request to `deployment`.
fn ask(deployment: &Arc<Deployment>, pool: &Pool, plain: bool) {
    let model = deployment.identity.version as usize;
    let (id, input, wanted, demand) = world().new_request(model, plain);
    let asked = deployment.enqueue(vec![Some(input)], wanted, demand, Box::new(Permit(id)), pool);
    let waiting = deployment.queue_len();
    match asked {
        Ok(pending) => {
            world().enqueued(id, waiting);
            clients().push(Client { id, pending, deployment: Arc::clone(deployment) });
        }
        Err(error) => world().refused(id, &error, waiting),
    }
}

/// The threads of all histories.
pub(crate) struct Cast {
    /// Workers, then event loops.
    actors: Vec<Actor>,
}

impl Cast {
    /// Starts them.
    pub(crate) fn start() -> Cast {
        Cast { actors: (0..WORKERS + LOOPS).map(|number| Actor::start(number >= WORKERS)).collect() }
    }

    /// Plays the history that follows from a seed. Fails with the promises that were broken.
    pub(crate) fn play(&mut self, seed: u64, tells: bool) -> Result<Figures, Vec<String>> {
        World::begin(seed, tells);
        let before = Kind::ALL.map(Kind::count);
        let ended = Scene::new(&mut self.actors).play();
        let after = Kind::ALL.map(Kind::count);
        let mut world = world();
        if let Err(fault) = ended {
            world.fault(fault);
        } else {
            world.end();
            for ((kind, before), after) in Kind::ALL.iter().zip(before).zip(after) {
                if before != after {
                    world.fault(format!("{after} {} are alive, expected {before} as before", kind.name()));
                }
            }
        }
        if world.faults().is_empty() { Ok(world.figures.clone()) } else { Err(world.faults().to_vec()) }
    }
}

/// One history.
struct Scene<'a> {
    actors: &'a mut [Actor],
    pool: Arc<Pool>,
    workers: Arc<Workers>,
    timer: Timer,
    /// What the newest catalog has: the version that answers, and the one before it, which clients may still name.
    current: Arc<Deployment>,
    previous: Option<Arc<Deployment>>,
    retired: Retired,
}

impl Scene<'_> {
    fn new(actors: &mut [Actor]) -> Scene<'_> {
        let (pool, workers, timer) = Pool::by_hand(clock);
        let (workers, retired) = (Arc::new(workers), Retired::default());
        Scene { actors, pool, workers, timer, current: new_version(), previous: None, retired }
    }

    /// Plays to the end, or to the first broken promise: what is then left behind is not accounted for.
    fn play(mut self) -> Result<(), String> {
        let ended = self.go_through();
        world().may_free(true);
        ended
    }

    fn go_through(&mut self) -> Result<(), String> {
        let steps = 30 + world().random.below(170);
        for _ in 0..steps {
            self.step()?;
            self.check_calls();
            if !world().faults().is_empty() {
                return Err("the rest of the history is left out".into());
            }
        }
        self.shut_down()
    }

    fn step(&mut self) -> Result<(), String> {
        let lot = world().random.below(100);
        match lot {
            0..26 => {
                let deployment = self.routed();
                ask(&deployment, &self.pool, true);
            }
            26..36 => self.begin_turn()?,
            36..58 => self.begin_visit()?,
            58..79 => return self.go_on().map(|_| ()),
            79..83 => self.cancel(),
            83..90 => self.pass_time(),
            90..93 => self.collect(),
            93..95 => self.swap(),
            95..96 => self.reap(),
            96..97 => self.drain(),
            97..98 => self.learn(),
            98..99 => self.rest()?,
            _ => self.timer.tick(),
        }
        Ok(())
    }

    /// Where something waits and may run, somebody was called.
    fn check_calls(&self) {
        let stopped = self.actors.iter().filter(|actor| actor.is_paused()).count();
        if self.workers.calls() > 0 || !world().all_run(stopped) {
            return;
        }
        for deployment in self.previous.iter().chain([&self.current]) {
            let waiting = deployment.queue_len();
            world().nobody_comes(deployment.identity.version as usize, waiting);
        }
    }

    /// Whom a request without a version reaches, or now and then one that names the version before.
    fn routed(&mut self) -> Arc<Deployment> {
        let pinned = world().random.chance(1, 8);
        Arc::clone(self.previous.as_ref().filter(|_| pinned).unwrap_or(&self.current))
    }

    /// An event loop brings some requests and ends its turn.
    fn begin_turn(&mut self) -> Result<(), String> {
        let Some(event_loop) = self.lot((WORKERS..WORKERS + LOOPS).collect(), false) else { return Ok(()) };
        let count = 1 + world().random.below(4);
        let asked: Vec<Arc<Deployment>> = (0..count).map(|_| self.routed()).collect();
        let pool = Arc::clone(&self.pool);
        self.actors[event_loop].begin(Box::new(move || {
            let _ends = turn::by_hand();
            asked.into_iter().for_each(|deployment| ask(&deployment, &pool, false));
            turn::end(&pool);
        }))
    }

    /// A worker goes where one was called for.
    fn begin_visit(&mut self) -> Result<(), String> {
        if self.workers.calls() == 0 {
            return Ok(());
        }
        let Some(worker) = self.lot((0..WORKERS).collect(), false) else { return Ok(()) };
        let workers = Arc::clone(&self.workers);
        self.actors[worker].begin(Box::new(move || {
            let _attended = workers.attend();
        }))
    }

    /// Somebody who stopped goes on. False where nobody did.
    fn go_on(&mut self) -> Result<bool, String> {
        let Some(paused) = self.lot((0..self.actors.len()).collect(), true) else { return Ok(false) };
        self.actors[paused].go_on().map(|()| true)
    }

    /// One of these actors that are paused, or are not.
    fn lot(&mut self, mut numbers: Vec<usize>, paused: bool) -> Option<usize> {
        numbers.retain(|&number| self.actors[number].is_paused() == paused);
        (!numbers.is_empty()).then(|| world().random.pick(&numbers))
    }

    fn cancel(&mut self) {
        let client = {
            let mut clients = clients();
            let count = clients.len();
            (count > 0).then(|| clients.swap_remove(world().random.below(count)))
        };
        let Some(Client { id, mut pending, deployment }) = client else { return };
        // An answer may be there already: it counts, though nobody reads it.
        match pending.try_recv() {
            Ok(answer) => world().answered(id, answer),
            Err(TryRecvError::Closed) => world().unanswered(id, "it was dropped"),
            Err(TryRecvError::Empty) => {
                world().leaves(id);
                drop(pending);
            }
        }
        drop(deployment);
    }

    fn pass_time(&mut self) {
        let step = world().random.pick(&[1, 10, 100, 1_000]);
        let steps = 1 + world().random.below(3) as u64;
        world().passes(Duration::from_micros(step * steps));
        // The timer's thread is late now and then.
        if world().random.chance(3, 4) {
            self.timer.tick();
        }
    }

    /// Clients look whether they were answered.
    fn collect(&mut self) {
        let waiting = std::mem::take(&mut *clients());
        for mut client in waiting {
            match client.pending.try_recv() {
                Ok(answer) => world().answered(client.id, answer),
                Err(TryRecvError::Closed) => world().unanswered(client.id, "its answer was dropped"),
                Err(TryRecvError::Empty) => clients().push(client),
            }
        }
    }

    /// A new version is published. The one before the last leaves.
    fn swap(&mut self) {
        let old = std::mem::replace(&mut self.current, new_version());
        if let Some(oldest) = self.previous.replace(old) {
            self.retired.add(oldest);
        }
    }

    /// A version refuses requests from now on; mostly another one follows.
    fn drain(&mut self) {
        let deployment = self.routed();
        world().drains(deployment.identity.version as usize);
        deployment.drain();
        if world().random.chance(7, 8) {
            self.swap();
        }
    }

    /// What runs cost becomes known.
    fn learn(&mut self) {
        let (best, typical) = {
            let random = &mut world().random;
            (1 + random.below(8), Duration::from_micros(random.pick(&[5, 10, 400])))
        };
        let point = |rows: f64| Point { rows, runs: 32, typical, p99: Some(typical * 2) };
        self.current.cost.recall(&[point(1.0), point(2.0), point(4.0)]);
        self.current.learn_rows(best);
    }

    fn reap(&mut self) {
        world().may_free(true);
        self.retired.free_unused();
        world().may_free(false);
    }

    /// Nothing more comes, and all that was begun ends: whoever still waits then was forgotten.
    fn rest(&mut self) -> Result<(), String> {
        for _ in 0..REST_MAX {
            let visits = world().random.chance(1, 2) && self.workers.calls() > 0;
            if visits && self.lot((0..WORKERS).collect(), false).is_some() {
                self.begin_visit()?;
            } else if self.go_on()? || self.workers.calls() > 0 {
            } else if let Some(until) = self.timer.due() {
                world().passes_to(until);
                self.timer.tick();
            } else {
                self.collect();
                self.check_rest();
                return Ok(());
            }
        }
        Err("it never comes to rest".into())
    }

    fn check_rest(&self) {
        let waiting = clients();
        for client in waiting.iter() {
            let idle = client.deployment.is_idle();
            world().unanswered(client.id, &format!("nothing runs any more; its deployment is idle: {idle}"));
        }
        drop(waiting);
        for deployment in self.previous.iter().chain([&self.current]) {
            let (version, waiting) = (deployment.identity.version, deployment.queue_len());
            if !deployment.is_idle() {
                world().fault(format!("model {version} has {waiting} requests in its queue, and no worker comes"));
            }
        }
    }

    /// The server ends: what was accepted is answered, and everything goes.
    fn shut_down(&mut self) -> Result<(), String> {
        for deployment in self.previous.iter().chain([&self.current]) {
            world().drains(deployment.identity.version as usize);
            deployment.drain();
        }
        self.rest()?;
        self.reap();
        let alive = world().models_alive();
        let expected = 1 + usize::from(self.previous.is_some());
        if alive != expected {
            return Err(format!("{alive} versions are alive when all is answered, expected {expected}"));
        }
        Ok(())
    }
}

/// A version with a policy of its own, ready to answer.
fn new_version() -> Arc<Deployment> {
    let (policy, batch_axis, knows_cost) = {
        let random = &mut world().random;
        let axis = match random.below(6) {
            0 => BatchAxis::None,
            1 => BatchAxis::Unproved("by the simulation".into()),
            _ => BatchAxis::Proved,
        };
        (policy(random), axis, random.chance(3, 4))
    };
    let model = world().new_model(policy.clone(), &batch_axis);
    world().tell(|| format!("model {model} is published: {batch_axis:?}, {policy:?}"));
    let identity = Identity {
        model: "simulated".into(),
        version: model as u64,
        artifact: Digest::new([0; 32]),
        digest: Digest::new([0; 32]),
        engine: "simulated",
        build: EngineBuild { version: "1".into(), library: None, providers: Vec::new() },
        provider: "cpu".into(),
        placement: Vec::new(),
        size: 0,
        loaded: SystemTime::UNIX_EPOCH,
        load_time: Duration::ZERO,
        goldens: 0,
    };
    let deployment = Arc::new(Deployment::new(Parts {
        identity,
        graph: Graph::default(),
        settings: Settings::default(),
        batch_axis,
        padding: Padding::Undeclared,
        policy,
        example: None,
        learns_rows: true,
        compiled: Box::new(Simulated::new(model)),
    }));
    if knows_cost {
        let quick = Duration::from_micros(10);
        let point = |rows: f64| Point { rows, runs: 32, typical: quick, p99: Some(quick * 2) };
        deployment.cost.recall(&[point(1.0), point(2.0), point(4.0)]);
    }
    deployment
}

fn policy(random: &mut Random) -> QueuePolicy {
    let millis = |millis: usize| Duration::from_millis(millis as u64);
    let sizes = |random: &mut Random| match random.below(4) {
        0 => vec![2, 4],
        1 => vec![1, 3, 8],
        _ => Vec::new(),
    };
    let levels = match random.below(3) {
        0 => 1 + random.below(3),
        _ => 1,
    };
    let level = |random: &mut Random| Level {
        jobs_max: if random.chance(1, 4) { 1 + random.below(6) } else { usize::MAX },
        wait_max: random.chance(1, 6).then(|| millis(1 + random.below(3))),
    };
    QueuePolicy {
        rows_max: 1 + random.below(8),
        sizes: sizes(random),
        sizes_preferred: sizes(random),
        delay_max: if random.chance(1, 4) { millis(1 + random.below(3)) } else { Duration::ZERO },
        jobs_max: 2 + random.below(20),
        bytes_max: if random.chance(1, 4) { 100 + random.below(400) } else { usize::MAX },
        runs_max: 1 + random.below(3),
        levels: (0..levels).map(|_| level(random)).collect(),
        level_default: 1,
        ageing: millis(random.below(3)),
        look_max: random.pick(&[0, 2, 64]),
        pad: None,
    }
}
