//! Is a version whose runs keep failing taken out, answered for, and taken back? Time is the test's.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use tiltyard_runtime::deployment::{BatchAxis, Identity, Padding, Parts};
use tiltyard_runtime::engine::{CompiledModel, EngineBuild, EngineError, Session};
use tiltyard_runtime::job::{Demand, Pending};
use tiltyard_runtime::onnx::Graph;
use tiltyard_runtime::pool::Pool;
use tiltyard_runtime::queue::QueuePolicy;
use tiltyard_runtime::repository::settings::Settings;
use tiltyard_types::{DataType, Digest, Dim, ErrorKind, Signature, Tensor, TensorSpec};

use super::*;
use crate::admission::Admission;
use crate::catalog::{Catalog, Version, VersionState};
use crate::config::{Config, OnFailure};
use crate::reload::Live;

static NOW_MS: AtomicU64 = AtomicU64::new(0);

fn now() -> Moment {
    Moment::from_nanos(NOW_MS.load(Relaxed) * 1_000_000)
}

/// Holds up runs for as long as it is told to.
#[derive(Default)]
struct Brake {
    is_on: AtomicBool,
    held_up: AtomicU64,
}

/// Gives back what it gets, unless it is broken.
#[derive(Clone)]
struct Echo {
    signature: Signature,
    is_broken: Arc<AtomicBool>,
    brake: Arc<Brake>,
}

impl CompiledModel for Echo {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> &str {
        "cpu"
    }

    fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(self.clone()))
    }
}

impl Session for Echo {
    fn run(&mut self, inputs: &[Option<Tensor>], _: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        if self.brake.is_on.load(Relaxed) {
            self.brake.held_up.fetch_add(1, Relaxed);
            while self.brake.is_on.load(Relaxed) {
                thread::yield_now();
            }
        }
        match self.is_broken.load(Relaxed) {
            true => Err(EngineError::Failed("at /home/someone/model".into())),
            false => Ok(inputs.iter().flatten().cloned().collect()),
        }
    }
}

fn version(number: u64, is_broken: &Arc<AtomicBool>) -> Arc<Deployment> {
    version_with_brake(number, is_broken, &Arc::default())
}

fn version_with_brake(number: u64, is_broken: &Arc<AtomicBool>, brake: &Arc<Brake>) -> Arc<Deployment> {
    let spec = |name: &str| TensorSpec {
        name: name.into(),
        dtype: DataType::Fp32,
        dims: Some(vec![Dim::Dynamic(None)]),
        optional: false,
    };
    let signature = Signature { inputs: vec![spec("x")], outputs: vec![spec("y")] };
    let identity = Identity {
        model: "echo".into(),
        version: number,
        artifact: Digest::new([0; 32]),
        digest: Digest::new([0; 32]),
        engine: "scripted",
        build: EngineBuild { version: "1".into(), library: None, providers: Vec::new() },
        provider: "cpu".into(),
        placement: Vec::new(),
        size: 0,
        loaded: SystemTime::UNIX_EPOCH,
        load_time: Duration::ZERO,
        goldens: 0,
    };
    Arc::new(Deployment::new(Parts {
        identity,
        graph: Graph::default(),
        settings: Settings::default(),
        batch_axis: BatchAxis::Proved,
        padding: Padding::Undeclared,
        policy: QueuePolicy::default(),
        example: None,
        learns_rows: false,
        compiled: Box::new(Echo { signature, is_broken: Arc::clone(is_broken), brake: Arc::clone(brake) }),
    }))
}

struct Scene {
    guard: Guard,
    on_failure: OnFailure,
}

impl Scene {
    fn new(versions: &[Arc<Deployment>], on_failure: OnFailure) -> Scene {
        Scene::with_clock(versions, on_failure, now)
    }

    fn with_clock(versions: &[Arc<Deployment>], on_failure: OnFailure, now: fn() -> Moment) -> Scene {
        let mut catalog = Catalog { revision: 1, ..Catalog::default() };
        let model = catalog.models.entry("echo".into()).or_default();
        for deployment in versions {
            let ready = Version::new(VersionState::Ready, Some(Arc::clone(deployment)));
            model.versions.insert(deployment.identity.version, ready);
        }
        catalog.resolve(&BTreeMap::new(), on_failure);
        let inference = Arc::new(Inference {
            captures: None,
            drifts: Arc::new(crate::drift::Drifts::new(&Config::default())),
            catalog: ArcSwap::from_pointee(catalog),
            pool: Pool::start(1, now).unwrap(),
            admission: Admission::new(100, 1 << 20),
            live: Arc::new(Live::new(&Config::default())),
            clients: None,
            traces: None,
            shadows: crate::shadow::Shadows::start(1, 1, Duration::ZERO, now).unwrap(),
        });
        let (known, loop_hangs) = (Vec::new(), Arc::default());
        let (run_timeout, awake_since) = (Duration::from_secs(60), Moment::from_nanos(0));
        let guard = Guard { inference, run_timeout, revision: 0, known, loop_hangs, awake_since };
        Scene { guard, on_failure }
    }

    /// Asks the endpoint, or a version. Says which version answered.
    fn ask(&self, version: Option<u64>) -> tiltyard_types::Result<u64> {
        let (asked, number) = self.begin(version)?;
        asked.blocking_recv().unwrap().map(|_| number)
    }

    fn begin(&self, version: Option<u64>) -> tiltyard_types::Result<(Pending, u64)> {
        let inference = &self.guard.inference;
        let arm = inference.catalog.load().speaker("echo", version)?;
        let input = Tensor::from_slice([1], &[1f32]).unwrap();
        let asked =
            arm.deployment.enqueue(vec![Some(input)], vec![0], Demand::default(), Box::new(()), &inference.pool)?;
        Ok((asked, arm.deployment.identity.version))
    }

    /// Looks until there is news, and publishes it as the writer does.
    fn await_news(&mut self) {
        let started = Instant::now();
        while !self.guard.look() {
            assert!(started.elapsed() < Duration::from_secs(20), "nobody went out of service, or came back");
            thread::yield_now();
        }
        let mut catalog = Catalog::clone(&self.guard.inference.catalog.load());
        assert!(catalog.judge());
        catalog.resolve(&BTreeMap::new(), self.on_failure);
        self.guard.inference.catalog.store(Arc::new(catalog));
    }
}

#[test]
fn the_version_before_answers_for_one_that_is_out() {
    let is_broken = Arc::new(AtomicBool::new(true));
    let versions = [version(1, &Arc::default()), version(2, &is_broken)];
    let mut scene = Scene::new(&versions, OnFailure::Previous);
    for _ in 0..5 {
        assert_eq!(scene.ask(None).unwrap_err().kind(), ErrorKind::Engine);
    }
    scene.await_news();
    assert_eq!(scene.ask(None).unwrap(), 1);
    let refused = scene.ask(Some(2)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotReady);
    assert!(refused.message().contains("version 2 is out of service: its runs kept failing"), "{refused}");
    assert!(!refused.message().contains("/home"), "what the engine says is the operator's: {refused}");
    assert!(!scene.guard.inference.catalog.load().is_out());
    is_broken.store(false, Relaxed);
    NOW_MS.fetch_add(1_000, Relaxed);
    scene.await_news();
    assert_eq!(scene.ask(None).unwrap(), 2);
    assert_eq!(scene.ask(Some(2)).unwrap(), 2);
    assert_eq!(versions[1].health.times_out(), 1);
}

#[test]
fn nobody_answers_for_it_where_that_is_not_wanted() {
    let is_broken = Arc::new(AtomicBool::new(true));
    let versions = [version(1, &Arc::default()), version(2, &is_broken)];
    let mut scene = Scene::new(&versions, OnFailure::Refuse);
    (0..5).for_each(|_| drop(scene.ask(None)));
    scene.await_news();
    assert_eq!(scene.ask(None).unwrap_err().kind(), ErrorKind::NotReady);
    assert_eq!(scene.ask(Some(1)).unwrap(), 1);
}

#[test]
fn with_every_version_out_nobody_can_be_answered() {
    let versions = [version(1, &Arc::new(AtomicBool::new(true)))];
    let mut scene = Scene::new(&versions, OnFailure::Previous);
    (0..5).for_each(|_| drop(scene.ask(None)));
    scene.await_news();
    assert!(scene.guard.inference.catalog.load().is_out());
    assert!(!Catalog::default().is_out(), "a server without models is not out");
}

fn eventually(mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < Duration::from_secs(20), "it never came to that");
        thread::yield_now();
    }
}

#[test]
fn a_version_that_takes_too_long_to_answer_is_tried_again() {
    static NOW_S: AtomicU64 = AtomicU64::new(0);
    let (is_broken, brake) = (Arc::new(AtomicBool::new(true)), Arc::new(Brake::default()));
    let versions = [version_with_brake(1, &is_broken, &brake)];
    let clock = || Moment::from_nanos(NOW_S.load(Relaxed) * 1_000_000_000);
    let mut scene = Scene::with_clock(&versions, OnFailure::Previous, clock);
    (0..5).for_each(|_| drop(scene.ask(None)));
    is_broken.store(false, Relaxed);
    brake.is_on.store(true, Relaxed);
    assert!(!scene.guard.look());
    eventually(|| brake.held_up.load(Relaxed) == 1);
    NOW_S.fetch_add(61, Relaxed);
    scene.await_news();
    let refused = scene.ask(None).unwrap_err();
    assert!(refused.message().contains("it is tried again until it answers"), "{refused}");
    NOW_S.fetch_add(1, Relaxed);
    assert!(!scene.guard.look());
    eventually(|| brake.held_up.load(Relaxed) == 2);
    brake.is_on.store(false, Relaxed);
    scene.await_news();
    assert_eq!(scene.ask(None).unwrap(), 1);
}

#[test]
fn a_version_that_hangs_whenever_it_is_tried_is_out_for_good() {
    static NOW_S: AtomicU64 = AtomicU64::new(0);
    let (is_broken, brake) = (Arc::new(AtomicBool::new(true)), Arc::new(Brake::default()));
    let versions = [version_with_brake(1, &is_broken, &brake)];
    let clock = || Moment::from_nanos(NOW_S.load(Relaxed) * 1_000_000_000);
    let mut scene = Scene::with_clock(&versions, OnFailure::Previous, clock);
    (0..5).for_each(|_| drop(scene.ask(None)));
    brake.is_on.store(true, Relaxed);
    for hanging in 1..=3 {
        scene.guard.look();
        eventually(|| brake.held_up.load(Relaxed) == hanging);
        NOW_S.fetch_add(61, Relaxed);
        scene.guard.look();
        let refused = versions[0].health.out().unwrap();
        assert_eq!(refused.contains("its runs hang"), hanging == 3, "{refused}");
        // Longer than any pause between two tries.
        NOW_S.fetch_add(61, Relaxed);
    }
    brake.is_on.store(false, Relaxed);
}

#[test]
fn a_process_that_was_frozen_gives_up_no_run_for_that() {
    static NOW_S: AtomicU64 = AtomicU64::new(0);
    let brake = Arc::new(Brake::default());
    let versions = [version_with_brake(1, &Arc::default(), &brake)];
    let clock = || Moment::from_nanos(NOW_S.load(Relaxed) * 1_000_000_000);
    let mut scene = Scene::with_clock(&versions, OnFailure::Previous, clock);
    brake.is_on.store(true, Relaxed);
    let (asked, _) = scene.begin(None).unwrap();
    eventually(|| brake.held_up.load(Relaxed) == 1);
    let asleep_since = clock();
    NOW_S.fetch_add(3600, Relaxed);
    scene.guard.wake(asleep_since);
    for _ in 0..60 {
        assert!(!scene.guard.look());
        let asleep_since = clock();
        NOW_S.fetch_add(1, Relaxed);
        scene.guard.wake(asleep_since);
    }
    assert_eq!(versions[0].health.runs_stuck(), 0);
    brake.is_on.store(false, Relaxed);
    assert!(asked.blocking_recv().unwrap().is_ok());
}
