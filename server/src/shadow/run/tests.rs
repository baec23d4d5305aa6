//! What becomes of samples, whatever their shadow does? Time stands still, and who runs is said by the test.

use std::cell::Cell;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use serde_json::json;
use tiltyard_rollout::evidence::Pairs;
use tiltyard_runtime::deployment::{BatchAxis, Identity, Padding, Parts};
use tiltyard_runtime::engine::{CompiledModel, EngineBuild, EngineError, Session};
use tiltyard_runtime::pool::Workers;
use tiltyard_runtime::queue::QueuePolicy;
use tiltyard_types::{DataType, Digest, Dim, NamedTensor, RequestId, Signature, Tensor, TensorSpec};
use uuid::Uuid;

use super::super::breaker::FAILURES_MAX;
use super::super::lane::WAITING_MAX;
use super::*;
use crate::arm::Arm;
use crate::rollouts::feedback::notes::{Note, Taken};
use crate::rollouts::feedback::said::{Answered, Mark};
use crate::rollouts::observer::Observer;

thread_local! {
    static NOW: Cell<u64> = const { Cell::new(0) };
}

fn now() -> Moment {
    Moment::from_nanos(NOW.get() * 1_000_000)
}

fn pass(ms: u64) {
    NOW.set(NOW.get() + ms);
}

const RUNS: u8 = 0;
const FAILS: u8 = 1;
const PANICS: u8 = 2;
const NO_NUMBER: u8 = 3;

/// y = factor · x, and whether that is above 1.
struct Times {
    signature: Signature,
    factor: f32,
    does: Arc<AtomicU8>,
}

impl CompiledModel for Times {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> &str {
        "cpu"
    }

    fn open(&self) -> std::result::Result<Box<dyn Session>, EngineError> {
        Ok(Box::new(Opened(self.factor, Arc::clone(&self.does))))
    }
}

struct Opened(f32, Arc<AtomicU8>);

impl Session for Opened {
    fn run(&mut self, inputs: &[Option<Tensor>], wanted: &[usize]) -> std::result::Result<Vec<Tensor>, EngineError> {
        pass(1);
        let factor = match self.1.load(Relaxed) {
            FAILS => return Err(EngineError::Failed("as ordered".into())),
            PANICS => panic!("as ordered"),
            NO_NUMBER => f32::NAN,
            _ => self.0,
        };
        let x = inputs[0].as_ref().unwrap().to_vec::<f32>().unwrap();
        let outputs = answer(factor, &x);
        Ok(wanted.iter().map(|position| outputs[*position].clone()).collect())
    }
}

fn answer(factor: f32, x: &[f32]) -> [Tensor; 2] {
    let y: Vec<f32> = x.iter().map(|x| x * factor).collect();
    let labels: Vec<i64> = y.iter().map(|y| i64::from(*y > 1.0)).collect();
    [Tensor::from_slice([x.len()], &y).unwrap(), Tensor::from_slice([x.len()], &labels).unwrap()]
}

fn deployment(version: u64, factor: f32, does: &Arc<AtomicU8>) -> Arc<Deployment> {
    let spec = |name: &str, dtype| TensorSpec {
        name: name.into(),
        dtype,
        dims: Some(vec![Dim::Dynamic(None)]),
        optional: false,
    };
    let outputs = vec![spec("y", DataType::Fp32), spec("label", DataType::Int64)];
    let signature = Signature { inputs: vec![spec("x", DataType::Fp32)], outputs };
    let identity = Identity {
        model: "m".into(),
        version,
        artifact: Digest::new([0; 32]),
        digest: Digest::new([version as u8; 32]),
        engine: "scripted",
        build: EngineBuild { version: "1".into(), library: None, providers: Vec::new() },
        provider: "cpu".into(),
        placement: Vec::new(),
        size: 0,
        loaded: std::time::SystemTime::UNIX_EPOCH,
        load_time: Duration::ZERO,
        goldens: 0,
    };
    Arc::new(Deployment::new(Parts {
        identity,
        graph: tiltyard_runtime::onnx::Graph::default(),
        settings: tiltyard_runtime::repository::settings::Settings::default(),
        batch_axis: BatchAxis::Proved,
        padding: Padding::Undeclared,
        policy: QueuePolicy { rows_max: 4, ..QueuePolicy::default() },
        example: None,
        learns_rows: false,
        compiled: Box::new(Times { signature, factor, does: Arc::clone(does) }),
    }))
}

/// A shadow of this factor beside a champion that multiplies by 1.
struct Scene {
    run: Run,
    lane: Arc<Lane>,
    workers: Workers,
    budget: Arc<Budget>,
    does: Arc<AtomicU8>,
    asked: u128,
    /// Who is told of the next pair.
    pairing: Option<Pairing>,
}

fn scene(factor: f32, run_timeout: Duration) -> Scene {
    NOW.set(1_000);
    let does = Arc::new(AtomicU8::new(RUNS));
    let champion = Arm::new("e", "champion", &deployment(1, 1.0, &does));
    let arm = Arm::new("e", "new", &deployment(2, factor, &does));
    let lane = Lane::new("e", &arm, &champion);
    let known = Known { threads: 1, run_timeout };
    let (pool, workers, _) = Pool::by_hand(now);
    let run = Run::of(&lane, Arc::new(arm.deployment.lane(16, 1)), Some(pool), 16, &known, now());
    Scene { run, lane, workers, budget: Budget::new(1 << 20), does, asked: 0, pairing: None }
}

impl Scene {
    /// One more request with these rows, which the champion has answered. Whether it found room.
    fn sample(&mut self, x: &[f32]) -> bool {
        self.asked += 1;
        self.lane.counts().sampled();
        let place = match self.lane.enter() {
            Ok(place) => place,
            Err(why) => {
                self.lane.counts().dropped(why);
                return false;
            }
        };
        let tensor = Tensor::from_slice([x.len()], x).unwrap();
        let [y, label] = answer(1.0, x);
        let sampled = Arc::new(Sampled {
            id: RequestId::new(Uuid::from_u128(self.asked)),
            unix_ms: 7,
            rows: x.len(),
            inputs: vec![NamedTensor { name: "x".into(), tensor }],
            // As asked for, in another order than the model's.
            outputs: vec![(1, label), (0, y)],
            row_ns: 500_000.0,
            charge: self.budget.take(100).unwrap(),
            pairing: self.pairing.take(),
        });
        self.run.backlog.push_back((Ticket { place, sampled }, now()));
        true
    }

    /// Lets everything happen that can, the shadow's runs too where it `runs`.
    fn settle(&mut self, runs: bool) {
        for _ in 0..200 {
            self.run.turn(&self.budget, now());
            while runs && self.workers.attend() {}
        }
        self.run.turn(&self.budget, now());
    }

    /// Lets time pass, and looks at each tenth of a second.
    fn wait(&mut self, ms: u64, runs: bool) {
        for _ in 0..ms / 100 {
            pass(100);
            self.settle(runs);
        }
    }

    fn mean(pairs: &Pairs, measure: &str) -> (u64, f64) {
        let moments = pairs.values.get(measure).copied().unwrap_or_default();
        (moments.n, moments.x.value() / moments.n.max(1) as f64)
    }
}

#[test]
fn the_same_model_shows_no_difference() {
    let mut scene = scene(1.0, Duration::ZERO);
    for number in 0..40 {
        scene.sample(&[number as f32, 0.5, 3.0]);
    }
    scene.settle(true);
    let pairs = scene.lane.take();
    assert_eq!((pairs.sampled, pairs.dropped), (40, 0));
    for measure in ["flips", "mismatch", "distance", "errors", "flips.label", "distance.y"] {
        assert_eq!(Scene::mean(&pairs, measure), (40, 0.0), "{measure}");
    }
    assert_eq!(scene.lane.take(), Pairs::default(), "what was taken is not taken again");
    assert!(scene.lane.book().worst.form().is_empty());
    assert_eq!((scene.lane.book().rows, scene.lane.waiting(), scene.budget.used()), (120, 0, 0));
}

#[test]
fn another_model_shows_where_it_differs() {
    let mut scene = scene(2.0, Duration::ZERO);
    scene.sample(&[0.1, 0.75, 5.0]);
    scene.sample(&[0.0]);
    scene.settle(true);
    let pairs = scene.lane.take();
    // One of three rows of one request, none of the other's.
    let (requests, flips) = Scene::mean(&pairs, "flips");
    assert!(requests == 2 && (flips - 1.0 / 6.0).abs() < 1e-9, "{flips}");
    assert_eq!(Scene::mean(&pairs, "mismatch"), (2, 0.5));
    // 1 ms for 3 or 4 rows of the shadow's, half a millisecond for each of the champion's.
    assert_eq!(Scene::mean(&pairs, "run_time").0, 2);
    let worst = scene.lane.book().worst.form();
    assert_eq!(worst.len(), 1);
    let expected = RequestId::new(Uuid::from_u128(1)).prediction(1);
    assert_eq!((worst[0]["prediction_id"].as_str(), worst[0]["time_ms"].as_u64()), (Some(&*expected), Some(7)));
    assert_eq!(worst[0]["outputs"]["label"].to_string(), r#"{"champion":[0],"shadow":[1]}"#);
    assert_eq!(worst[0]["outputs"]["y"]["shadow"][0], 1.5);
}

#[test]
fn both_answers_leave_a_note_where_labels_are_waited_for() {
    let noted = |shadow: &str, output: serde_json::Value| {
        let role =
            |name: &str, version: u64, role| json!({"name": name, "model": "m", "version": version, "role": role});
        let plan = json!({
            "endpoint": "e", "revision": 1, "key": "per_request", "salt": "s", "steps": [{"share": 10_000}],
            "arms": [
                role("champion", 1, json!("champion")),
                role("challenger", 2, json!({"challenger": {"weight": 0, "final_weight": 10_000}})),
                role(shadow, 2, json!({"shadow": {"sampling": 1_000_000}})),
            ],
            "policy": {"primary": {
                "metric": "right", "design": "paired_shadow", "gain": "accuracy", "output": output,
                "label_depends_on_decision": false, "horizon_ms": 1, "missing": "exclude", "planned_units": 1,
            }},
        });
        let observer = Arc::new(Observer::of(&serde_json::from_value(plan).unwrap()).unwrap());
        assert!(observer.notes_of_answers().is_none(), "no answer counts alone");
        let mut scene = scene(2.0, Duration::ZERO);
        scene.pairing = Some(Pairing { observer: Arc::clone(&observer), key: Some(7), unit: 9 });
        scene.sample(&[0.75, 0.1]);
        scene.sample(&[0.75]);
        scene.settle(true);
        let Taken { notes, unseen, unread } = observer.notes.as_ref().unwrap().take();
        assert_eq!((unseen, Arc::strong_count(&observer)), (0, 1), "nobody else holds it once it is told");
        (notes, unread)
    };
    let note = |rows: [[f64; 2]; 2]| {
        let rows = rows.map(|marks| Answered::Both(marks.map(Mark::number))).into_iter().collect();
        Note { id: 1, key: Some(7), at_ms: 7, unit: 9, side: Side::Champion, rows }
    };
    assert_eq!(noted("new", json!("label")), (vec![note([[0.0, 1.0], [0.0, 0.0]])], 0));
    assert_eq!(noted("new", json!(null)), (vec![note([[1.0, 1.0], [0.0, 0.0]])], 0), "the model's first, as a score");
    assert_eq!(noted("new", json!("nothing")), (vec![], 2), "two rows with nothing to hold a label against");
    assert_eq!(noted("another", json!("label")), (vec![], 0), "another shadow is nobody's challenger");
}

#[test]
fn a_shadow_that_fails_is_counted_and_then_left_alone() {
    for does in [FAILS, PANICS] {
        let mut scene = scene(1.0, Duration::ZERO);
        scene.does.store(does, Relaxed);
        for _ in 0..FAILURES_MAX {
            assert!(scene.sample(&[1.0]));
            scene.settle(true);
        }
        scene.wait(100, true);
        assert_eq!(Scene::mean(&scene.lane.take(), "errors"), (u64::from(FAILURES_MAX), 1.0));
        assert!(!scene.sample(&[1.0]) && !scene.lane.is_asked());
        assert!(scene.lane.book().trouble.is_some());
        let pairs = scene.lane.take();
        assert_eq!((pairs.sampled, pairs.dropped), (1, 1), "what it is kept from counts as dropped");
        scene.does.store(RUNS, Relaxed);
        scene.wait(1_200, true);
        assert!(scene.sample(&[1.0]), "it is tried again");
        scene.settle(true);
        assert_eq!(Scene::mean(&scene.lane.take(), "errors"), (1, 0.0));
        assert_eq!((scene.lane.waiting(), scene.budget.used()), (0, 0));
        assert!(scene.lane.book().trouble.is_none() && scene.lane.book().failures.len() == 5);
    }
}

#[test]
fn no_number_is_an_error_of_the_shadows() {
    let mut scene = scene(1.0, Duration::ZERO);
    scene.does.store(NO_NUMBER, Relaxed);
    scene.sample(&[1.0]);
    scene.settle(true);
    let pairs = scene.lane.take();
    assert_eq!((Scene::mean(&pairs, "errors"), Scene::mean(&pairs, "distance")), ((1, 1.0), (1, 1.0)));
}

#[test]
fn what_a_shadow_that_hangs_keeps_is_bounded_and_comes_back() {
    let mut scene = scene(1.0, Duration::from_secs(60));
    for _ in 0..WAITING_MAX {
        assert!(scene.sample(&[1.0]));
    }
    assert!(!scene.sample(&[1.0]), "as many wait as may");
    assert!(scene.lane.rate(1_000_000, &scene.budget) <= 125_000);
    scene.wait(5_200, false);
    assert!(!scene.lane.is_asked(), "nothing came back for too long");
    scene.wait(6_000, false);
    // Only those are left that lie in its own queue.
    assert_eq!((scene.lane.waiting(), scene.budget.used()), (16, 1_600));
    let pairs = scene.lane.take();
    assert_eq!((pairs.sampled, pairs.dropped), (1_025, 1_009));
    assert!(pairs.values.is_empty(), "to be late is no error");
    // It runs after all: those that it had are too late by now.
    scene.settle(true);
    assert_eq!((scene.lane.take().dropped, scene.lane.waiting(), scene.budget.used()), (16, 0, 0));
    scene.wait(1_200, true);
    assert!(scene.sample(&[1.0]));
    scene.settle(true);
    assert_eq!(Scene::mean(&scene.lane.take(), "errors"), (1, 0.0));
}

#[test]
fn the_rate_falls_while_a_shadow_is_behind_and_nothing_is_dropped() {
    let mut scene = scene(1.0, Duration::ZERO);
    for _ in 0..WAITING_MAX / 2 {
        scene.sample(&[1.0]);
    }
    scene.wait(1_000, false);
    assert!(scene.lane.rate(1_000_000, &scene.budget) < 100_000);
    scene.settle(true);
    scene.wait(60_000, true);
    assert_eq!(scene.lane.rate(400_000, &scene.budget), 400_000, "it comes back");
    assert_eq!(scene.lane.take().dropped, 0);
}
