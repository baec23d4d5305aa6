//! Is a version whose runs keep failing taken out, answered for, and taken back? Time is the test's.

use std::sync::atomic::AtomicU64;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use tiltyard_runtime::deployment::{BatchAxis, Identity, Padding, Parts};
use tiltyard_runtime::engine::{CompiledModel, EngineBuild, EngineError, Session};
use tiltyard_runtime::job::Demand;
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

/// Gives back what it gets, unless it is broken.
#[derive(Clone)]
struct Echo {
    signature: Signature,
    is_broken: Arc<AtomicBool>,
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
        match self.is_broken.load(Relaxed) {
            true => Err(EngineError::Failed("at /home/someone/model".into())),
            false => Ok(inputs.iter().flatten().cloned().collect()),
        }
    }
}

fn version(number: u64, is_broken: &Arc<AtomicBool>) -> Arc<Deployment> {
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
        compiled: Box::new(Echo { signature, is_broken: Arc::clone(is_broken) }),
    }))
}

struct Scene {
    guard: Guard,
    on_failure: OnFailure,
}

impl Scene {
    fn new(versions: &[Arc<Deployment>], on_failure: OnFailure) -> Scene {
        let mut catalog = Catalog { revision: 1, ..Catalog::default() };
        let model = catalog.models.entry("echo".into()).or_default();
        for deployment in versions {
            let ready = Version { state: VersionState::Ready, deployment: Some(Arc::clone(deployment)) };
            model.versions.insert(deployment.identity.version, ready);
        }
        model.resolve_arms("echo", on_failure);
        let inference = Arc::new(Inference {
            catalog: ArcSwap::from_pointee(catalog),
            pool: Pool::start(1, now).unwrap(),
            admission: Admission::new(100, 1 << 20),
            live: Arc::new(Live::new(&Config::default())),
            clients: None,
        });
        let (known, loop_hangs) = (Vec::new(), Arc::default());
        let run_timeout = Duration::from_secs(60);
        Scene { guard: Guard { inference, run_timeout, revision: 0, known, loop_hangs }, on_failure }
    }

    /// Asks the endpoint, or a version. Says which version answered.
    fn ask(&self, version: Option<u64>) -> tiltyard_types::Result<u64> {
        let inference = &self.guard.inference;
        let arm = inference.catalog.load().route("echo", version)?;
        let input = Tensor::from_slice([1], &[1f32]).unwrap();
        let asked =
            arm.deployment.enqueue(vec![Some(input)], vec![0], Demand::default(), Box::new(()), &inference.pool)?;
        asked.blocking_recv().unwrap().map(|_| arm.deployment.identity.version)
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
        catalog.models.get_mut("echo").unwrap().resolve_arms("echo", self.on_failure);
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
