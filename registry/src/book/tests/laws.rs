//! Whatever is ordered in whatever order: what holds always?
//!
//! Orders are drawn at random from a small world, most of them refused. After each that is not, the book that read the
//! log is held against the one that was kept along the way, and against rules that are worked out here a second time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// What is drawn: which order, by whom, and of what.
type Draw = (u8, u8, u8, u8);

const APPROVALS: usize = 2;

fn people() -> [Principal; 6] {
    [
        dana(),
        ann(),
        bob(),
        person("carol", "approver"),
        admin(),
        Principal { how: How::Nothing, ..person("eve", "admin") },
    ]
}

fn place(drawn: u8) -> String {
    ["dev", "staging", "prod", "prod"][usize::from(drawn) % 4].into()
}

fn policy(drawn: u8) -> Policy {
    let metric = RequiredMetric {
        metric: "auc".into(),
        dataset: "holdout".into(),
        slice: String::new(),
        better: Better::Higher,
        bound: Some(0.5),
        worse_by_max: None,
        by_interval: false,
    };
    let approval_holds = drawn.is_multiple_of(3).then_some(Span(5 * HOUR_MS));
    Policy { approvals: vec![approvers(APPROVALS as u64)], metrics: vec![metric], approval_holds, ..Policy::default() }
}

/// Draws an order that could be meant in this world.
fn wants(world: &mut World, (what, _, a, b): Draw) -> Wants {
    let model = ["risk", "fraud"][usize::from(a) % 4 / 3].to_owned();
    let version = u64::from(b) % 4 + 1;
    let pick = |count: usize| usize::from(a ^ b.rotate_left(3)) % count.max(1);
    let ids: Vec<String> = world.book.requests().map(|request| request.id.clone()).collect();
    // The latest ones most of the time: they are open.
    let request = ids.get(if b.is_multiple_of(3) { pick(ids.len()) } else { ids.len().saturating_sub(1 + pick(3)) });
    let request = request.cloned().unwrap_or_default();
    let ids: Vec<String> = world.book.promotions().map(|promotion| promotion.id.clone()).collect();
    let promotion = ids.get(pick(ids.len())).cloned().unwrap_or_default();
    let id = world.id();
    let reason = "because".to_owned();
    match what % 24 {
        0 | 1 => {
            let content = Content { metrics: vec![auc(f64::from(b) / 255.0)], ..content(a % 6) };
            Wants::Push(Push { model, content: Box::new(content), number_min: u64::from(b) % 4 })
        }
        2 => Wants::Measure(MetricsTold { model, version, metrics: vec![auc(f64::from(a) / 255.0)] }),
        3 if a > 150 => {
            let run = Some(Run { id: (b % 2).to_string(), ..Run::default() });
            Wants::Lineage(LineageTold { model, version, lineage: Lineage { run, ..Lineage::default() } })
        }
        3 => Wants::Tags(Tagged {
            model,
            version: Some(version),
            set: [("k".into(), (a % 2).to_string())].into(),
            unset: Vec::new(),
        }),
        4 => Wants::Describe(Described { model, version, text: Some((a % 2).to_string()), ..Described::default() }),
        5 => Wants::Lock(Locked { model, version, lock: Lock { threads: Some(u64::from(a % 2)), ..Lock::default() } }),
        6 => {
            let state = [VersionState::Ready, VersionState::Archived, VersionState::Quarantined][usize::from(a) % 3];
            Wants::State(StateSet { model, version, state, reason })
        }
        7 => Wants::Alias(Aliased { model, alias: "champion".into(), version: a.is_multiple_of(2).then_some(version) }),
        8 if a < 80 => Wants::Environment(EnvironmentSet { environment: "prod".into(), rank: 30, policy: policy(b) }),
        8 => Wants::Model(ModelSet { model, owner: Some(format!("team{}", a % 2)), ..ModelSet::default() }),
        9..=11 => Wants::Request(Ask { id, model, version, environment: place(a), reason }),
        12..=15 => Wants::Approve(Approve { request, seen: None, comment: reason }),
        16 if a.is_multiple_of(4) => Wants::Reject(Answered { request, reason }),
        16 => Wants::Withdraw(Answered { request, reason }),
        17 => Wants::Revoke(Revoke { request, approver: a.is_multiple_of(2).then(|| "ann".into()), reason }),
        18..=20 => {
            let rollout = a.is_multiple_of(3).then(|| Rollout { id: format!("r{b}"), way: Way::Canary });
            let overriding = b.is_multiple_of(16).then_some(reason);
            // What was asked for last, most of the time.
            let asked = world.book.request(&request).filter(|_| a % 8 > 0);
            let (model, version, environment) = match asked {
                Some(asked) => (asked.model.clone(), asked.version, asked.environment.clone()),
                None => (model, version, place(a)),
            };
            Wants::Promote(Promote { id, model, version, environment, rollout, overriding })
        }
        21 => {
            let outcome = [Ending::Promoted, Ending::RolledBack, Ending::Aborted][usize::from(b) % 3];
            Wants::End(End { promotion, outcome, verdict: None, reason, overriding: None })
        }
        22 => {
            Wants::GoBack(GoBack { environment: place(a), model, to: b.is_multiple_of(2).then_some(version), reason })
        }
        _ => Wants::Plan(plan(model, version, u64::from(a))),
    }
}

fn plan(model: String, version: u64, revision: u64) -> Planned {
    let arm = Arm {
        name: "a".into(),
        model,
        version,
        artifact: None,
        deployment: None,
        role: "champion".into(),
        weight: 1_000_000,
    };
    let (endpoint, rollout) = ("e".into(), String::new());
    Planned { endpoint, revision, arms: vec![arm], cause: Cause::Applied, rollout, plan: None }
}

/// What approvals of a version are bound to, told apart by what the book says and not by which facts it has seen.
#[derive(Default)]
struct Seen {
    /// By version: what an approval for prod would be bound to, and the entry since when that is so.
    bound: BTreeMap<(String, u64), (Bound, VersionState, u64)>,
    /// By request: who has approved, and when; without those who took it back.
    approved: BTreeMap<String, BTreeMap<String, (u64, Option<u64>)>>,
    ended: BTreeMap<String, (Option<RequestEnd>, Vec<Approval>)>,
    closed: BTreeMap<String, Option<PromotionEnd>>,
}

impl Seen {
    /// Notes what has changed with the last entry.
    fn look(&mut self, world: &World, fact: &Fact) {
        let sequence = world.head.sequence;
        for version in world.book.models().flat_map(|model| &model.versions) {
            let bound = world.book.bound(&version.model, version.number, "prod").expect("it is there");
            let key = (version.model.clone(), version.number);
            let now = (&bound, version.state);
            if self.bound.get(&key).is_none_or(|(before, state, _)| (before, *state) != now) {
                self.bound.insert(key, (bound, version.state, sequence));
            }
        }
        match &fact.says {
            Says::Approved(approved) => {
                let at = (sequence, approved.expires_ms);
                self.approved.entry(approved.request.clone()).or_default().insert(fact.by.name.clone(), at);
            }
            Says::Revoked(revoked) => {
                self.approved.get_mut(&revoked.request).map(|given| given.remove(&revoked.approver));
            }
            _ => {}
        }
    }

    /// Whether this promotion into prod had what the policy asks for.
    fn check_promotion(&self, world: &World, promotion: &Promotion) {
        if promotion.overridden.is_some() {
            assert_eq!(promotion.begun.by, "root", "only an admin sets rules aside");
            return;
        }
        let version = world.book.version(&promotion.model, promotion.version).expect("it is there");
        assert_eq!(version.state, VersionState::Ready);
        let environment = world.book.environment(&promotion.environment).expect("it is there");
        if environment.policy.approvals.is_empty() {
            return;
        }
        assert!(version.metrics.iter().all(|measured| measured.metric.value >= 0.5));
        let request = promotion.request.as_ref().and_then(|id| world.book.request(id)).expect("somebody asked");
        let (_, _, since) = &self.bound[&(promotion.model.clone(), promotion.version)];
        let given = self.approved.get(&request.id).cloned().unwrap_or_default();
        let holds = given.into_iter().filter(|(name, (at, expires_ms))| {
            at > since
                && expires_ms.is_none_or(|expires| world.now_ms < expires)
                && *name != request.asked.by
                && *name != version.pushed.by
        });
        let names: BTreeSet<String> = holds.map(|(name, _)| name).collect();
        assert!(names.len() >= APPROVALS, "{names:?} for {promotion:?}, unchanged since {since}");
    }

    /// Whether every approval for prod that counts was given since the last change, and not taken back.
    fn check_approvals(&self, world: &World) {
        let open = world.book.requests().filter(|request| request.is_open() && request.environment == "prod");
        for request in open {
            let (_, _, since) = &self.bound[&(request.model.clone(), request.version)];
            let given = self.approved.get(&request.id);
            for approval in request.approvals.iter().filter(|approval| approval.void.is_none()) {
                let at = given.and_then(|given| given.get(&approval.by.name)).map(|(at, _)| *at);
                assert_eq!(at, Some(approval.at.sequence), "it was taken back, or given again");
                assert!(approval.at.sequence > *since, "it was given before a change: {approval:?}");
            }
        }
    }

    /// Whether ends are ends.
    fn check_ends(&mut self, world: &World) {
        for request in world.book.requests() {
            if let Some((end, approvals)) = self.ended.get(&request.id).filter(|(end, _)| end.is_some()) {
                assert_eq!((end, approvals), (&request.end, &request.approvals), "an ended request changed");
            }
            self.ended.insert(request.id.clone(), (request.end.clone(), request.approvals.clone()));
        }
        for promotion in world.book.promotions() {
            if let Some(end) = self.closed.get(&promotion.id).filter(|end| end.is_some()) {
                assert_eq!(*end, promotion.end, "an ended promotion changed");
            }
            self.closed.insert(promotion.id.clone(), promotion.end.clone());
        }
    }
}

/// What holds of every book.
fn check(world: &World) {
    for model in world.book.models() {
        let bytes: BTreeSet<_> = model.versions.iter().map(|version| version.artifact).collect();
        assert_eq!(bytes.len(), model.versions.len(), "the same bytes are the same version");
    }
    for request in world.book.requests().filter(|request| request.is_open()) {
        let bound = world.book.bound(&request.model, request.version, &request.environment);
        for given in request.approvals.iter().filter(|given| given.void.is_none()) {
            assert_eq!(Some(&given.bound), bound.as_ref(), "an approval survived a change");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_the_truth_and_nothing_gets_past_the_rules(draws in prop::collection::vec(any::<Draw>(), 1..150)) {
        let mut world = World::new();
        world.rule("prod", policy(1));
        let mut along = world.book.clone();
        let mut seen = Seen::default();
        for draw in draws {
            world.now_ms += u64::from(draw.3) * HOUR_MS / 200;
            let by = people()[usize::from(draw.1) % 6].clone();
            let order = wants(&mut world, draw);
            let Ok(decided) = world.order(&by, order.into()) else { continue };
            for fact in &decided.facts {
                along.apply(world.head.sequence, world.now_ms, fact).expect("what was decided can follow");
                prop_assert_eq!(&along, &world.book);
                seen.look(&world, fact);
                let promoted = match &fact.says {
                    Says::Promoted(begun) => world.book.promotion(&begun.promotion),
                    Says::Ended(ended) if ended.outcome == Ending::Promoted => world.book.promotion(&ended.promotion),
                    _ => None,
                };
                if let Some(promotion) = promoted {
                    seen.check_promotion(&world, promotion);
                }
            }
            check(&world);
            seen.check_approvals(&world);
            seen.check_ends(&world);
        }
        let mut again = Book::default();
        for entry in &world.entries {
            prop_assert_eq!(again.doubt(entry), None);
            again.take(entry).expect("it was taken before");
        }
        prop_assert_eq!(again, world.book);
    }

    #[test]
    fn no_data_is_too_odd(
        kind in 0..Says::KINDS.len(),
        data in json(),
        draws in prop::collection::vec(any::<Draw>(), 0..20),
    ) {
        let mut world = World::new();
        for draw in draws {
            let order = wants(&mut world, draw);
            let _ = world.order(&admin(), order.into());
        }
        let text = json!({ "by": { "name": "x", "how": "key" }, "says": data }).to_string();
        let before = world.book.clone();
        if let Some(Ok(fact)) = Fact::read(Says::KINDS[kind], &text)
            && world.book.apply(world.head.sequence + 1, 0, &fact).is_ok()
        {
            return Ok(());
        }
        prop_assert_eq!(&world.book, &before);
        let _ = Fact::read(Says::KINDS[kind], &data.to_string());
        let _ = world.book.decide(Wants::Event(data).into(), &admin(), 0);
    }

    #[test]
    fn no_text_is_too_odd(text: String, kind in "[a-z]{1,9}\\.[a-z_]{1,9}") {
        let mut world = World::new();
        world.push(&dana(), content(1));
        let _ = (Fact::read(&kind, &text), Search::read(&text));
        let _ = (world.book.resolve(&text), world.book.resolve(&format!("risk@{text}")));
    }
}

/// Histories to play: more are asked for with `TILTYARD_HISTORIES`.
fn cases() -> u32 {
    std::env::var("TILTYARD_HISTORIES").ok().and_then(|count| count.parse().ok()).unwrap_or(128)
}

/// JSON that looks like what facts hold: their names, and values that some of them have.
fn json() -> impl Strategy<Value = serde_json::Value> {
    let names = prop::sample::select(vec![
        "model",
        "version",
        "content",
        "artifact",
        "files",
        "path",
        "size",
        "sha256",
        "request",
        "environment",
        "rank",
        "policy",
        "bound",
        "card",
        "promotion",
        "outcome",
        "reason",
        "state",
        "alias",
        "set",
        "unset",
        "metrics",
        "key",
        "value",
        "dataset",
        "metric",
        "endpoint",
        "revision",
        "arms",
        "cause",
        "event",
        "run",
        "runId",
        "lineage",
        "from",
        "to",
    ]);
    let plain = prop_oneof![
        any::<u64>().prop_map(serde_json::Value::from),
        (0..4_u64).prop_map(serde_json::Value::from),
        any::<f64>().prop_map(serde_json::Value::from),
        Just(serde_json::Value::Null),
        Just(json!("01".repeat(32))),
        prop::sample::select(vec!["risk", "prod", "id1", "promoted", "ready", "applied"])
            .prop_map(serde_json::Value::from),
        any::<String>().prop_map(serde_json::Value::from),
    ];
    plain.prop_recursive(4, 40, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
            prop::collection::vec((names.clone(), inner), 0..8).prop_map(|fields| {
                serde_json::Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
}
