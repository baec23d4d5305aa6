//! What does it cost to find out which arm answers a request?
//!
//! `cargo bench -p tiltyard-benches --bench route`. One line per way: nanoseconds for each, and what a plan adds to the first,
//! which is a name without one. The server's own code, from the loaded catalog to the arm; of a rollout also how its request's end
//! is told and gathered.
#![allow(clippy::print_stdout, reason = "the report is what a bench is for")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use tiltyard_benches::{Contender, side_by_side};
use tiltyard_rollout::plan::{Arm, HeaderRule, KeySource, MILLION, Plan, Policy, Role, Step};
use tiltyard_runtime::deployment::{BatchAxis, Deployment, Identity, Padding, Parts};
use tiltyard_runtime::engine::{CompiledModel, EngineBuild, EngineError, Session};
use tiltyard_runtime::job::Answer;
use tiltyard_runtime::onnx::Graph;
use tiltyard_runtime::queue::QueuePolicy;
use tiltyard_runtime::repository::settings::Settings;
use tiltyard_runtime::stats::{RunTimes, Used};
use tiltyard_server::catalog::{Catalog, Version, VersionState};
use tiltyard_server::config::OnFailure;
use tiltyard_server::rollouts::gatherer::Gatherer;
use tiltyard_server::rollouts::observer::Answered;
use tiltyard_server::route::Asking;
use tiltyard_types::{DataType, Digest, Dim, Moment, RequestId, Signature, Tensor, TensorSpec};

/// The server's own allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 41;
const SLICE: Duration = Duration::from_millis(10);

/// What is routed to, and never run.
struct Still(Signature);

impl CompiledModel for Still {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn provider(&self) -> &str {
        "cpu"
    }

    fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        Err(EngineError::Failed("it only stands there".into()))
    }
}

fn deployment(version: u64) -> Arc<Deployment> {
    let spec =
        TensorSpec { name: "x".into(), dtype: DataType::Fp32, dims: Some(vec![Dim::Dynamic(None)]), optional: false };
    let signature = Signature { inputs: vec![spec.clone()], outputs: vec![spec] };
    let identity = Identity {
        model: "risk".into(),
        version,
        artifact: Digest::new([0; 32]),
        digest: Digest::new([0; 32]),
        engine: "none",
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
        compiled: Box::new(Still(signature)),
    }))
}

/// A catalog of one model with two versions, half of whose traffic goes to the second under a plan.
fn catalog(key: Option<KeySource>, rules: usize, steps: usize) -> Catalog {
    let mut catalog = Catalog::default();
    let model = catalog.models.entry("risk".to_owned()).or_default();
    for version in [1, 2] {
        model.versions.insert(version, Version::new(VersionState::Ready, Some(deployment(version))));
    }
    let arm = |name: &str, version, role| Arm { name: name.into(), model: "risk".into(), version, digest: None, role };
    let challenger = Role::Challenger { weight: MILLION / 2, final_weight: MILLION };
    let rule = |number| HeaderRule { header: format!("x-tester-{number}"), value: "yes".into(), arm: "new".into() };
    let step = Step { share: MILLION / 2, min_time_ms: 0, min_units: 0, gates: Vec::new() };
    let plan = key.map(|key| Plan {
        endpoint: "risk".into(),
        revision: 1,
        arms: vec![arm("champion", 1, Role::Champion), arm("new", 2, challenger)],
        key,
        salt: "0123456789abcdef".into(),
        headers: (0..rules).map(rule).collect(),
        steps: vec![step; steps],
        policy: Policy::default(),
        watched: false,
    });
    let plans: BTreeMap<String, Arc<Plan>> = plan.into_iter().map(|plan| ("risk".to_owned(), Arc::new(plan))).collect();
    catalog.resolve(&plans, OnFailure::Previous);
    catalog
}

fn main() {
    let pairs = [
        ("host", "127.0.0.1:8000"),
        ("user-agent", "bench"),
        ("content-type", "application/octet-stream"),
        ("content-length", "120"),
        ("x-user", "customer-0123456789"),
    ];
    let headers: HeaderMap =
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect();
    let id = RequestId::new(uuid::Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_00ab));
    let asking = Asking { headers: &headers, caller: Some("ada"), id };
    let by_header = || Some(KeySource::Header("x-user".into()));
    let catalogs = [
        ("no plan", catalog(None, 0, 0)),
        ("key in a header", catalog(by_header(), 0, 0)),
        ("the same, 3 header rules", catalog(by_header(), 3, 0)),
        ("by request", catalog(Some(KeySource::PerRequest), 0, 0)),
        ("by client", catalog(Some(KeySource::ClientIdentity), 0, 0)),
    ];
    let rollout = catalog(by_header(), 0, 1);
    let outputs = vec![Tensor::from_slice([1, 10], &[0.1f32; 10]).expect("ten numbers are ten")];
    let times = RunTimes { run: Duration::from_micros(50), ..RunTimes::default() };
    let (enqueued, used) = (Moment::default(), Used::default());
    let answer =
        Answer { outputs, rows: 1, enqueued, queue: Duration::ZERO, times, used, batch_rows: 1, run: 1, mates: None };
    let (mut gatherer, mut told) = (Gatherer::new(true), 0u64);
    let mut contenders: Vec<Contender<'_>> = catalogs
        .iter()
        .map(|(name, catalog)| {
            Contender::new(name, || {
                let choice = catalog.route(black_box("risk"), None, &asking).expect("both versions are ready");
                usize::from(black_box(&choice).evidence.is_some())
            })
        })
        .collect();
    contenders.push(Contender::new("a rollout, its end told", || {
        let choice = rollout.route(black_box("risk"), None, &asking).expect("both versions are ready");
        let Some((observer, side, key)) = choice.observed() else { return 0 };
        told += 1;
        let answered = Answered { answer: black_box(&answer), deployment: &choice.arm.deployment, wanted: &[0] };
        observer.answered(side, key, answered, Moment::from_nanos(told), Duration::from_micros(80));
        // As the rollouts' thread does now and then.
        if told % 1024 == 0 {
            let (ends, _) = observer.take();
            gatherer.add(tiltyard_server::rollouts::gatherer::OWN, observer.share, &ends);
        }
        1
    }));
    let times = side_by_side(&mut contenders, ROUNDS, SLICE);
    let plain = times[0].as_secs_f64();
    for (contender, time) in contenders.iter().zip(&times) {
        let (all, more) = (time.as_secs_f64() * 1e9, (time.as_secs_f64() - plain) * 1e9);
        println!("{:<26} {all:>6.0} ns {more:>+6.0} ns", contender.name);
    }
}
