//! Does a resolved plan choose as it says, and who answers where an arm does not?

use tiltyard_rollout::plan::{Arm as PlanArm, HeaderRule, MILLION, Policy};
use tiltyard_runtime::deployment::{BatchAxis, Identity, Padding, Parts};
use tiltyard_runtime::engine::{CompiledModel, EngineBuild, EngineError, Session};
use tiltyard_runtime::onnx::Graph;
use tiltyard_runtime::queue::QueuePolicy;
use tiltyard_runtime::repository::settings::Settings;
use tiltyard_types::{DataType, Digest, Dim, NamedTensor, Signature, Tensor, TensorSpec};

use super::*;
use crate::arm::PINNED;
use crate::catalog::{Catalog, Version};

struct Still(Signature);

impl CompiledModel for Still {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn provider(&self) -> &str {
        "cpu"
    }

    fn open(&self) -> std::result::Result<Box<dyn Session>, EngineError> {
        Err(EngineError::Failed("it only stands there".into()))
    }
}

/// A deployment of a model whose input `x` has values of this type.
pub(crate) fn deployment(model: &str, version: u64, dtype: DataType) -> Arc<Deployment> {
    let spec = |name: &str, dtype| TensorSpec {
        name: name.into(),
        dtype,
        dims: Some(vec![Dim::Dynamic(None)]),
        optional: false,
    };
    let signature = Signature { inputs: vec![spec("x", dtype)], outputs: vec![spec("y", DataType::Fp32)] };
    let identity = Identity {
        model: model.into(),
        version,
        artifact: Digest::new([0; 32]),
        digest: Digest::new([version as u8; 32]),
        engine: "scripted",
        build: EngineBuild { version: "1".into(), library: None, providers: Vec::new() },
        provider: "cpu".into(),
        placement: Vec::new(),
        size: 0,
        loaded: std::time::SystemTime::UNIX_EPOCH,
        load_time: std::time::Duration::ZERO,
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

fn arm(name: &str, version: u64, role: Role) -> PlanArm {
    PlanArm { name: name.into(), model: "risk".into(), version, digest: None, role }
}

/// Version 1 against version 2, which has this weight.
fn plan(key: KeySource, weight: u32) -> Plan {
    let challenger = Role::Challenger { weight, final_weight: MILLION };
    Plan {
        endpoint: "risk".into(),
        revision: 1,
        arms: vec![arm("champion", 1, Role::Champion), arm("new", 2, challenger)],
        key,
        salt: "s".into(),
        headers: vec![HeaderRule { header: "X-Tester".into(), value: "yes".into(), arm: "new".into() }],
        steps: Vec::new(),
        policy: Policy::default(),
        watched: false,
    }
}

/// A catalog with these versions of `risk` in these states under the plan.
fn catalog(plan: &Plan, versions: &[(u64, VersionState)], on_failure: OnFailure) -> Catalog {
    let mut catalog = Catalog::default();
    let model = catalog.models.entry("risk".into()).or_default();
    for (number, state) in versions {
        let is_there = matches!(state, VersionState::Ready | VersionState::Out(_));
        let deployment = is_there.then(|| deployment("risk", *number, DataType::Fp32));
        model.versions.insert(*number, Version::new(state.clone(), deployment));
    }
    catalog.resolve(&BTreeMap::from([("risk".to_owned(), Arc::new(plan.clone()))]), on_failure);
    catalog
}

fn both_ready(plan: &Plan) -> Catalog {
    catalog(plan, &[(1, VersionState::Ready), (2, VersionState::Ready)], OnFailure::Previous)
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let pair = |&(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    pairs.iter().map(pair).collect()
}

fn choose(catalog: &Catalog, headers: &HeaderMap, caller: Option<&str>, id: u128) -> Result<Choice> {
    let id = RequestId::new(uuid::Uuid::from_u128(id));
    catalog.route("risk", None, &Asking { headers, caller, id })
}

/// The arm, and whether the request is evidence.
fn chosen(catalog: &Catalog, pairs: &[(&'static str, &'static str)]) -> (String, bool) {
    let choice = choose(catalog, &headers(pairs), None, 1).unwrap();
    choice.count_apart();
    (choice.arm.name.clone(), choice.evidence.is_some())
}

fn apart(catalog: &Catalog, why: Apart) -> u64 {
    let deployments = catalog.deployments();
    deployments.map(|deployment| deployment.stats.snapshot().apart[why as usize]).sum()
}

#[test]
fn a_key_in_a_header_sticks_and_its_absence_is_counted() {
    let plan = plan(KeySource::Header("X-User".into()), MILLION / 2);
    let catalog = both_ready(&plan);
    let assignment = Assignment::new(&plan);
    for user in ["a", "b", "c", "d", "e", "f"] {
        let expected = assignment.assign(Some(user.as_bytes()));
        let found = choose(&catalog, &headers(&[("x-user", user)]), None, 1).unwrap();
        assert_eq!((&found.arm.name, found.evidence), (&plan.arms[expected.arm].name, expected.evidence));
        assert!(found.open().is_none());
    }
    assert_eq!(chosen(&catalog, &[]), ("champion".into(), false));
    assert_eq!(apart(&catalog, Apart::NoKey), 1);
}

#[test]
fn a_testers_header_picks_an_arm_and_is_no_evidence() {
    let catalog = both_ready(&plan(KeySource::Header("x-user".into()), 0));
    assert_eq!(chosen(&catalog, &[("x-user", "a")]), ("champion".into(), true));
    assert_eq!(chosen(&catalog, &[("x-user", "a"), ("x-tester", "yes")]), ("new".into(), false));
    assert_eq!(chosen(&catalog, &[("x-user", "a"), ("x-tester", "no")]), ("champion".into(), true));
    assert_eq!(apart(&catalog, Apart::Header), 1);
}

#[test]
fn callers_and_requests_are_keys() {
    let by_caller = plan(KeySource::ClientIdentity, MILLION / 2);
    let catalog = both_ready(&by_caller);
    let ask = |caller| choose(&catalog, &HeaderMap::new(), caller, 1).unwrap();
    let expected = |caller: &str| Assignment::new(&by_caller).assign(Some(caller.as_bytes())).evidence;
    assert_eq!((ask(Some("ada")).evidence, ask(None).evidence), (expected("ada"), None));
    let by_request = plan(KeySource::PerRequest, MILLION / 2);
    let catalog = both_ready(&by_request);
    for id in 0..20 {
        let text = uuid::Uuid::from_u128(id).hyphenated().to_string();
        let expected = Assignment::new(&by_request).assign(Some(text.as_bytes()));
        assert_eq!(choose(&catalog, &HeaderMap::new(), None, id).unwrap().evidence, expected.evidence);
    }
}

#[test]
fn a_key_in_the_body_waits_for_the_body() {
    let plan = plan(KeySource::TensorColumn("x".into()), MILLION);
    let catalog = both_ready(&plan);
    let mut choice = choose(&catalog, &HeaderMap::new(), None, 1).unwrap();
    assert_eq!(choice.arm.name, "champion");
    let route = choice.open().unwrap();
    let request = |values: &[f32]| {
        let tensor = Tensor::from_slice([values.len()], values).unwrap();
        let inputs = vec![NamedTensor { name: "x".into(), tensor }];
        InferRequest { inputs, ..InferRequest::default() }
    };
    let mixed = route.look_into(&request(&[1.0, 2.0]), b"").unwrap_err();
    assert!(mixed.message().contains("the rows of this request have different keys, such as \"1\" and \"2\""));
    assert!(mixed.message().contains("endpoint \"risk\""), "{mixed:?}");
    let pick = route.look_into(&request(&[1.0, 1.0]), b"").unwrap();
    choice.settle(pick).unwrap();
    assert_eq!((choice.arm.name.as_str(), choice.contract().name.as_str()), ("new", "champion"));
    assert_eq!(choice.evidence, Assignment::new(&plan).assign(Some(b"1")).evidence);
    assert!(choice.open().is_none());
}

#[test]
fn until_the_body_is_read_a_request_is_for_nobody() {
    let plan = plan(KeySource::TensorColumn("x".into()), MILLION);
    let request = |values: &[f32]| {
        let inputs =
            vec![NamedTensor { name: "x".into(), tensor: Tensor::from_slice([values.len()], values).unwrap() }];
        InferRequest { inputs, ..InferRequest::default() }
    };
    let known = |choice: &Choice| choice.known().map(|arm| arm.name.clone());
    let catalog = both_ready(&plan);
    let mut choice = choose(&catalog, &HeaderMap::new(), None, 1).unwrap();
    assert_eq!((known(&choice), choice.contract().name.as_str()), (None, "champion"));
    choice.settle(choice.open().unwrap().look_into(&request(&[]), b"").unwrap()).unwrap();
    assert_eq!(known(&choice), Some("champion".into()));
    assert_eq!(apart(&catalog, Apart::NoKey), 0, "it may be read again");
    choice.count_apart();
    assert_eq!(apart(&catalog, Apart::NoKey), 1);
    // While the champion is out, its challengers answer their keys.
    let alone = self::catalog(&plan, &[(2, VersionState::Ready)], OnFailure::Previous);
    let mut choice = choose(&alone, &HeaderMap::new(), None, 1).unwrap();
    assert_eq!((known(&choice), choice.contract().name.as_str()), (None, "new"));
    let route = choice.open().unwrap();
    choice.settle(route.look_into(&request(&[1.0]), b"").unwrap()).unwrap();
    assert_eq!((known(&choice), choice.evidence.is_some()), (Some("new".into()), true));
    let mut keyless = choose(&alone, &HeaderMap::new(), None, 1).unwrap();
    let refused = keyless.settle(route.look_into(&request(&[]), b"").unwrap()).unwrap_err();
    assert!(refused.message().contains("arm \"champion\": risk version 1 is not there"), "{refused:?}");
    let nobody = self::catalog(&plan, &[], OnFailure::Previous);
    assert!(choose(&nobody, &HeaderMap::new(), None, 1).err().unwrap().message().contains("arm \"champion\""));
}

#[test]
fn an_empty_key_is_none_wherever_it_comes_from() {
    let by_header = both_ready(&plan(KeySource::Header("x-user".into()), MILLION));
    assert_eq!(chosen(&by_header, &[("x-user", "")]), ("champion".into(), false));
    let by_caller = both_ready(&plan(KeySource::ClientIdentity, MILLION));
    assert_eq!(choose(&by_caller, &HeaderMap::new(), Some(""), 1).unwrap().arm.name, "champion");
    for (path, text) in [("$.id", "{}"), ("$.parameters.user", "{}"), ("$.user", r#"{"user": ""}"#)] {
        let catalog = both_ready(&plan(KeySource::JsonPath(path.into()), MILLION));
        let mut choice = choose(&catalog, &HeaderMap::new(), None, 1).unwrap();
        let mut request = InferRequest::default();
        request.parameters.insert("user".into(), tiltyard_types::Parameter::Text(String::new()));
        choice.settle(choice.open().unwrap().look_into(&request, text.as_bytes()).unwrap()).unwrap();
        assert_eq!((choice.arm.name.as_str(), choice.evidence), ("champion", None), "{path}");
    }
}

#[test]
fn a_column_that_is_not_there_is_told() {
    let trouble = |catalog: &Catalog| match &catalog.endpoints["risk"] {
        crate::catalog::Endpoint::Planned(route) => route.trouble.clone(),
        crate::catalog::Endpoint::Newest(_) => panic!("it has a plan"),
    };
    let wrong = plan(KeySource::TensorColumn("z".into()), MILLION);
    let told = trouble(&both_ready(&wrong)).unwrap();
    assert!(told.contains("no request has a key") && told.contains("its inputs are x"), "{told}");
    assert_eq!(trouble(&self::catalog(&wrong, &[(2, VersionState::Ready)], OnFailure::Previous)), None);
    assert_eq!(trouble(&both_ready(&plan(KeySource::TensorColumn("x".into()), MILLION))), None);
}

#[test]
fn a_version_that_is_named_is_of_no_plan() {
    let catalog = both_ready(&plan(KeySource::Header("x-user".into()), MILLION));
    let asking =
        Asking { headers: &headers(&[("x-tester", "yes")]), caller: None, id: RequestId::new(uuid::Uuid::nil()) };
    let pinned = catalog.route("risk", Some(1), &asking).unwrap();
    assert_eq!((pinned.arm.name.as_str(), pinned.arm.version.as_str(), pinned.evidence), (PINNED, "1", None));
    assert!(Arc::ptr_eq(&pinned.arm, &catalog.route("risk", Some(1), &asking).unwrap().arm));
}

#[test]
fn the_champion_stands_in_for_an_arm_that_is_out_and_for_none_that_is_coming() {
    let plan = plan(KeySource::Header("x-user".into()), MILLION);
    let with = |state: VersionState, on_failure| catalog(&plan, &[(1, VersionState::Ready), (2, state)], on_failure);
    let out = with(VersionState::Out("hangs"), OnFailure::Previous);
    assert_eq!(chosen(&out, &[("x-user", "a")]), ("champion".into(), false));
    assert_eq!(apart(&out, Apart::StandIn), 1);
    for (state, on_failure) in
        [(VersionState::Out("hangs"), OnFailure::Refuse), (VersionState::Loading, OnFailure::Previous)]
    {
        let refused = choose(&with(state, on_failure), &headers(&[("x-user", "a")]), None, 1).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::NotReady);
        assert!(refused.message().contains("endpoint \"risk\", arm \"new\": risk version 2"), "{refused:?}");
    }
    // Who stood in does so until the arm is there again.
    let plans = BTreeMap::from([("risk".to_owned(), Arc::new(plan.clone()))]);
    let mut back = out;
    for (state, expected) in [(VersionState::Failed("no".into()), "champion"), (VersionState::Loading, "champion")] {
        back.models.get_mut("risk").unwrap().versions.insert(2, Version::new(state, None));
        back.resolve(&plans, OnFailure::Previous);
        assert_eq!(chosen(&back, &[("x-user", "a")]).0, expected);
    }
    let alone = catalog(&plan, &[(2, VersionState::Ready)], OnFailure::Previous);
    assert_eq!(chosen(&alone, &[("x-tester", "yes")]).0, "new");
    assert_eq!(chosen(&alone, &[("x-user", "a")]), ("new".into(), true), "its own keys are answered");
    assert_eq!(choose(&alone, &headers(&[]), None, 1).err().unwrap().kind(), ErrorKind::NotReady);
    assert_eq!(alone.speaker("risk", None).err().unwrap().kind(), ErrorKind::NotReady);
}

#[test]
fn arms_that_break_the_champions_clients_do_not_answer() {
    let other =
        PlanArm { model: "other".into(), ..arm("new", 1, Role::Challenger { weight: 0, final_weight: MILLION }) };
    let plan = Plan { arms: vec![arm("champion", 1, Role::Champion), other], ..plan(KeySource::PerRequest, 0) };
    let standing = |dtype| {
        let mut catalog = Catalog::default();
        for (model, dtype) in [("risk", DataType::Fp32), ("other", dtype)] {
            let ready = Version::new(VersionState::Ready, Some(deployment(model, 1, dtype)));
            catalog.models.entry(model.into()).or_default().versions.insert(1, ready);
        }
        stand(&plan, &catalog.models).remove(1)
    };
    assert!(standing(DataType::Fp32).is_ok());
    let missing = standing(DataType::Int64).err().unwrap();
    assert!(missing.reason.contains("other version 1: input \"x\" is INT64 and was FP32"), "{missing:?}");
}

#[test]
fn a_plan_without_arms_has_nobody() {
    let plan = Plan { arms: Vec::new(), ..plan(KeySource::PerRequest, 0) };
    assert!(stand(&plan, &BTreeMap::new()).is_empty());
}

#[test]
fn an_endpoint_may_have_a_name_of_its_own() {
    let plan = Plan { endpoint: "fraud".into(), ..plan(KeySource::PerRequest, 0) };
    let mut catalog = both_ready(&plan);
    catalog.resolve(&BTreeMap::from([("fraud".to_owned(), Arc::new(plan))]), OnFailure::Previous);
    assert_eq!(catalog.speaker("fraud", None).unwrap().deployment.identity.version, 1);
    assert_eq!(catalog.speaker("risk", None).unwrap().deployment.identity.version, 2);
    let refused = catalog.speaker("fraud", Some(1)).err().unwrap();
    assert!(refused.message().contains("has no versions of its own"), "{refused:?}");
    assert!(catalog.speaker("nobody", None).err().unwrap().message().contains("\"fraud\", \"risk\""));
}

#[test]
fn what_has_not_changed_is_not_made_anew() {
    let plans = BTreeMap::from([("risk".to_owned(), Arc::new(plan(KeySource::PerRequest, 1)))]);
    let mut catalog = both_ready(&plans["risk"]);
    let route = |catalog: &Catalog| match &catalog.endpoints["risk"] {
        crate::catalog::Endpoint::Planned(route) => Arc::clone(route),
        crate::catalog::Endpoint::Newest(_) => panic!("it has a plan"),
    };
    catalog.resolve(&plans, OnFailure::Previous);
    let before = route(&catalog);
    catalog.resolve(&plans, OnFailure::Previous);
    assert!(Arc::ptr_eq(&before, &route(&catalog)));
    let replaced = deployment("risk", 2, DataType::Fp32);
    catalog.models.get_mut("risk").unwrap().versions.get_mut(&2).unwrap().deployment = Some(replaced);
    catalog.resolve(&plans, OnFailure::Previous);
    assert!(!Arc::ptr_eq(&before, &route(&catalog)));
}

#[test]
fn what_a_server_cannot_carry_out_is_refused() {
    let champion = deployment("risk", 1, DataType::Fp32);
    let refused = |plan: &Plan| check(plan, Some(&champion), false).unwrap_err().message().to_owned();
    assert_eq!(check(&plan(KeySource::TensorColumn("x".into()), 0), Some(&champion), false), Ok(()));
    assert_eq!(check(&plan(KeySource::ClientIdentity, 0), None, true), Ok(()));
    assert!(refused(&plan(KeySource::ClientIdentity, 0)).contains("set access_file"));
    assert!(refused(&plan(KeySource::TensorColumn("z".into()), 0)).contains("its inputs are x"));
    assert!(refused(&plan(KeySource::JsonPath("customer".into()), 0)).contains("expected such as $.customer.id"));
    assert!(refused(&plan(KeySource::Header("x user".into()), 0)).contains("cannot be the name of a header"));
    let mut shadowed = plan(KeySource::PerRequest, 0);
    shadowed.arms.push(arm("shadow", 3, Role::Shadow { sampling: 1 }));
    assert_eq!(check(&shadowed, Some(&champion), false), Ok(()));
    shadowed.headers[0].arm = "shadow".into();
    assert!(refused(&shadowed).contains("picks shadow, which is a shadow"));
    let many = (0..17).map(|number| arm(&format!("s{number}"), 3, Role::Shadow { sampling: 1 }));
    shadowed.arms = shadowed.arms[..1].iter().cloned().chain(many).collect();
    shadowed.headers.clear();
    assert!(refused(&shadowed).contains("17 shadows: expected 16 at most"));
}

/// The champion, a challenger that gets half, and a shadow, version 3.
fn shadowed() -> Plan {
    let mut plan = plan(KeySource::PerRequest, MILLION / 2);
    plan.arms.push(arm("shadow", 3, Role::Shadow { sampling: 400_000 }));
    plan
}

fn watched(catalog: &Catalog) -> Vec<(Arc<Lane>, u32)> {
    let watching = crate::shadow::watching(catalog, "risk").iter();
    watching.map(|watching| (Arc::clone(&watching.lane), watching.sampling)).collect()
}

#[test]
fn shadows_see_what_the_champion_answers_as_evidence() {
    let ready = [1, 2, 3].map(|version| (version, VersionState::Ready));
    let catalog = catalog(&shadowed(), &ready, OnFailure::Previous);
    let mut seen = [0, 0];
    for id in 0..200 {
        let choice = choose(&catalog, &headers(&[]), None, id).unwrap();
        assert_ne!(choice.arm.name, "shadow");
        assert_eq!(!choice.shadows().is_empty(), choice.arm.name == "champion");
        seen[choice.shadows().len()] += 1;
    }
    assert!(seen.iter().all(|count| *count > 50), "{seen:?}");
    let mut picked = shadowed();
    picked.headers[0].arm = "champion".into();
    let catalog = self::catalog(&picked, &ready, OnFailure::Previous);
    let choice = choose(&catalog, &headers(&[("x-tester", "yes")]), None, 1).unwrap();
    assert!(choice.arm.name == "champion" && choice.shadows().is_empty(), "a tester is no evidence");
    assert!(catalog.route("risk", Some(1), &asking_nothing()).unwrap().shadows().is_empty());
}

fn asking_nothing() -> Asking<'static> {
    static NONE: std::sync::LazyLock<HeaderMap> = std::sync::LazyLock::new(HeaderMap::new);
    Asking { headers: &NONE, caller: None, id: RequestId::new(uuid::Uuid::from_u128(1)) }
}

#[test]
fn what_is_known_of_a_shadow_outlives_revisions_and_pauses_of_its_versions() {
    let ready = [1, 2, 3].map(|version| (version, VersionState::Ready));
    let mut catalog = catalog(&shadowed(), &ready, OnFailure::Previous);
    let first = watched(&catalog);
    assert_eq!(first[0].1, 400_000);
    let resolve = |catalog: &mut Catalog, plan: Plan| {
        catalog.resolve(&BTreeMap::from([("risk".to_owned(), Arc::new(plan))]), OnFailure::Previous);
        watched(catalog)
    };
    let mut next = Plan { revision: 2, ..shadowed() };
    next.arms[2].role = Role::Shadow { sampling: 100 };
    let ramped = resolve(&mut catalog, next.clone());
    assert!(Arc::ptr_eq(&ramped[0].0, &first[0].0) && ramped[0].1 == 100);
    let state = |catalog: &mut Catalog, version, state| {
        catalog.models.get_mut("risk").unwrap().versions.get_mut(&version).unwrap().state = state;
    };
    state(&mut catalog, 3, VersionState::Out("it fails"));
    let out = resolve(&mut catalog, next.clone());
    assert!(Arc::ptr_eq(&out[0].0, &first[0].0) && out[0].1 == 0, "it is not asked, and not forgotten");
    state(&mut catalog, 3, VersionState::Ready);
    assert!(Arc::ptr_eq(&resolve(&mut catalog, next.clone())[0].0, &first[0].0));
    // Another champion is another comparison.
    let replaced = deployment("risk", 1, DataType::Fp32);
    catalog.models.get_mut("risk").unwrap().versions.get_mut(&1).unwrap().deployment = Some(replaced);
    assert!(!Arc::ptr_eq(&resolve(&mut catalog, next)[0].0, &first[0].0));
}
