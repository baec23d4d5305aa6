//! Does each refusal say which rule is in the way, and what would satisfy it?

use super::*;

/// A policy that asks for all there is.
fn strict() -> Policy {
    let metric = |slice: &str| RequiredMetric {
        metric: "auc".into(),
        dataset: "holdout".into(),
        slice: slice.into(),
        better: Better::Higher,
        bound: Some(0.85),
        worse_by_max: Some(0.005),
        by_interval: false,
    };
    Policy {
        approvals: vec![approvers(2)],
        metrics: vec![metric(""), metric("age<30")],
        golden_min: 3,
        baseline: true,
        signed: true,
        lock: true,
        card_chars_min: 20,
        below: Some("2days".parse().expect("a span")),
        freeze: vec![Freeze::Weekly {
            days: vec![Weekday::Sat],
            from: "22:00".parse().expect("a time"),
            to: "06:00".parse().expect("a time"),
            reason: "nobody is there".into(),
        }],
        rollout: Way::Canary,
        ..Policy::default()
    }
}

#[test]
fn every_rule_that_is_not_met_is_named_at_once() {
    let mut world = World::new();
    world.rule("prod", strict());
    world.push(&dana(), content(1));
    let promote = world.promote(1, "prod");
    let refusal = world.refusal(&dana(), promote.clone());
    assert!(refusal.message.starts_with("risk@1 in prod is refused by 11 rules: approvals, metrics"), "{refusal}");
    let expected = [
        ("approvals", "approvals: nobody has asked for it; needed: a request for prod of risk@1"),
        ("metrics", "metrics: auc on holdout is 0.8; needed: at least 0.85"),
        (
            "metrics",
            "metrics: auc on holdout, slice age<30 is not on record; needed: auc on holdout, slice age<30, at least 0.85",
        ),
        ("golden", "golden: the artifact has 1 golden examples; needed: a version with 3 or more in golden/"),
        ("baseline", "baseline: it has no baseline; needed: a baseline for drift"),
        ("signed", "signed: no signature of the artifact was verified; needed: a signature by a trusted key"),
        ("lock", "lock: it may run on any engine; needed: an environment lock with engine, build and provider"),
        ("card", "card: the model card's text has 0 characters; needed: 20 or more"),
        ("below", "below: staging has no version of risk; needed: risk@1 in staging for 2days"),
        ("freeze", "freeze: prod is frozen: nobody is there; needed: a time from 2026-11-29T06:00:00.000Z on"),
        ("rollout", "rollout: it would come as direct; needed: a rollout of the kind canary"),
    ];
    check_needs(&refusal, &expected);
    assert_eq!(refusal.kind, tiltyard_types::ErrorKind::Forbidden);
    // An admin may, with a reason, and what was set aside is on the record.
    let overriding = |by: &Principal, why: &str, world: &mut World| {
        let Wants::Promote(promote) = promote.clone() else { unreachable!("it is one") };
        world.order(by, Wants::Promote(Promote { overriding: Some(why.into()), ..promote }).into())
    };
    let text = overriding(&dana(), "fire", &mut world).expect_err("she is none").to_string();
    assert_eq!(text, "to set rules aside is for an admin, and dana has the role deployer");
    assert!(overriding(&admin(), " ", &mut world).is_err_and(|refusal| refusal.rule == "reason"));
    overriding(&admin(), "the old one is on fire", &mut world).expect("she may");
    let promotion = world.book.promotions().next().expect("it was made");
    let overridden = promotion.overridden.as_ref().expect("it is shown");
    assert_eq!((overridden.reason.as_str(), overridden.needed.len()), ("the old one is on fire", 11));
}

#[test]
fn nobody_sets_a_quarantine_aside() {
    let mut world = World::new();
    world.push(&dana(), content(1));
    world.does(&dana(), state(1, VersionState::Quarantined, "a strange operator"));
    let Wants::Promote(promote) = world.promote(1, "prod") else { unreachable!("it is one") };
    let refusal = world.refusal(&admin(), Wants::Promote(Promote { overriding: Some("fire".into()), ..promote }));
    check_needs(
        &refusal,
        &[("state", "it is quarantined: a strange operator; needed: a release by an admin, or another version")],
    );
}

#[test]
fn who_may_approve_is_said_to_who_may_not() {
    let mut world = World::new();
    let group = Approvers { required: 1, roles: vec!["risk-officer".into()], persons: vec!["carol".into()] };
    world.rule("prod", Policy { approvals: vec![group], ..Policy::default() });
    world.push(&person("carol", "deployer"), content(1));
    let id = world.ask(&dana(), 1, "prod");
    let mut check = |by: &Principal, rule: &str, expected: &str| {
        let refusal = world.refusal(by, approve(&id));
        assert_eq!((refusal.rule, refusal.message.as_str()), (rule, expected));
    };
    let expected =
        "ann has the role approver, and does not answer for prod: expected anybody with the role risk-officer, carol";
    check(&ann(), "approver", expected);
    let expected = "carol pushed risk@1: the policy of prod wants the approval of somebody else";
    check(&person("carol", "deployer"), "author", expected);
    let dana_too = Principal { roles: vec!["risk-officer".into()], ..dana() };
    check(&dana_too, "author", "dana asks for it: the policy of prod wants the approval of somebody else");
    let nobody = Principal { how: How::Nothing, ..person("x", "risk-officer") };
    check(
        &nobody,
        "identity",
        "an approval needs to know who it is by: expected a caller with a key, a certificate or a token",
    );
    world.does(&person("olga", "risk-officer"), approve(&id));
    let again = world.refusal(&person("olga", "risk-officer"), approve(&id));
    assert_eq!(again.message, format!("olga has approved this in request {id} already: one person counts once"));
    let promote = world.promote(1, "prod");
    world.does(&dana(), promote);
    let ended = world.refusal(&person("carol", "approver"), approve(&id));
    assert!(ended.message.contains(&format!("the request {id} is promoted since entry")), "{ended}");
}

#[test]
fn an_approval_is_void_when_anything_changes_and_says_by_what() {
    let check = |what: &str, change: &dyn Fn(&mut World), expected: &str| {
        let mut world = World::new();
        world.rule("prod", Policy { approvals: vec![approvers(1)], ..Policy::default() });
        world.push(&dana(), content(1));
        let id = world.ask(&dana(), 1, "prod");
        world.does(&ann(), approve(&id));
        let policy = |world: &World| world.book.environment("prod").expect("it is there").policy.clone();
        assert_eq!(world.request(&id).state(&policy(&world), world.now_ms), RequestState::Approved);
        change(&mut world);
        assert_eq!(world.request(&id).state(&policy(&world), world.now_ms), RequestState::Requested, "{what}");
        let void = world.request(&id).approvals[0].void.clone().expect("it is void");
        assert_eq!(void.what, what);
        let promote = world.promote(1, "prod");
        let refusal = world.refusal(&dana(), promote);
        let text = refusal.needed.first().expect("a need").to_string();
        assert!(text.contains(&format!("that of ann is void since entry {}: {expected}", void.at.sequence)), "{text}");
    };
    check("card", &|world| drop(world.does(&dana(), measured(1, auc(0.81)))), "something was measured, by dana");
    let tagged = Tagged { model: "risk".into(), version: Some(1), unset: vec!["team".into()], ..Tagged::default() };
    check("card", &|world| drop(world.does(&dana(), Wants::Tags(tagged.clone()))), "its tags changed, by dana");
    let described = Described { model: "risk".into(), version: 1, text: Some("More.".into()), ..Described::default() };
    check(
        "card",
        &|world| drop(world.does(&dana(), Wants::Describe(described.clone()))),
        "it was described otherwise, by dana",
    );
    let model = ModelSet { model: "risk".into(), owner: Some("erin".into()), ..ModelSet::default() };
    check(
        "card",
        &|world| drop(world.does(&dana(), Wants::Model(model.clone()))),
        "the model was described otherwise, by dana",
    );
    let run = Some(Run { id: "4711".into(), ..Run::default() });
    let lineage = LineageTold { model: "risk".into(), version: 1, lineage: Lineage { run, ..Lineage::default() } };
    check(
        "card",
        &|world| drop(world.does(&dana(), Wants::Lineage(lineage.clone()))),
        "it was told what it was made of, by dana",
    );
    let lock = Locked { model: "risk".into(), version: 1, lock: Lock { engine: "tract".into(), ..Lock::default() } };
    check(
        "lock",
        &|world| drop(world.does(&dana(), Wants::Lock(lock.clone()))),
        "it got another environment lock, by dana",
    );
    let baseline = Baseline { digest: digest(7), rows: 10_000, is_provisional: false };
    let baseline = BaselineSet { model: "risk".into(), version: 1, baseline };
    check(
        "baseline",
        &|world| drop(world.does(&dana(), Wants::Baseline(baseline.clone()))),
        "it got another baseline, by dana",
    );
    let policy = Policy { approvals: vec![approvers(1)], golden_min: 1, ..Policy::default() };
    check("policy", &|world| world.rule("prod", policy.clone()), "the policy of prod changed, by root");
    let quarantine = |world: &mut World| {
        world.does(&dana(), state(1, VersionState::Quarantined, "a strange operator"));
        world.does(&admin(), state(1, VersionState::Ready, "it is known"));
    };
    check("state", &quarantine, "it was quarantined, by dana");
    let revoke = |world: &mut World| {
        let request = world.book.requests().next().expect("it is there").id.clone();
        world.does(
            &ann(),
            Wants::Revoke(Revoke { request, approver: None, reason: "I had not seen the slices".into() }),
        );
    };
    check("revoked", &revoke, "I had not seen the slices, by ann");
}

#[test]
fn what_was_void_stays_void_when_the_change_is_taken_back() {
    let mut world = World::new();
    world.rule("prod", Policy { approvals: vec![approvers(1)], ..Policy::default() });
    world.push(&dana(), content(1));
    let id = world.ask(&dana(), 1, "prod");
    world.does(&ann(), approve(&id));
    // To say the same again changes nothing.
    world.does(&dana(), measured(1, auc(0.8)));
    assert!(world.request(&id).approvals[0].holds(world.now_ms));
    world.does(&dana(), measured(1, auc(0.9)));
    world.does(&dana(), measured(1, auc(0.8)));
    let bound = world.book.bound("risk", 1, "prod").expect("it is there");
    assert_eq!(world.request(&id).approvals[0].bound, bound, "all is as it was");
    assert!(!world.request(&id).approvals[0].holds(world.now_ms));
    world.does(&ann(), approve(&id));
    let promote = world.promote(1, "prod");
    world.does(&dana(), promote);
}

#[test]
fn who_looked_at_something_else_approves_nothing() {
    let mut world = World::new();
    world.push(&dana(), content(1));
    let id = world.ask(&dana(), 1, "prod");
    let seen = Some(world.book.bound("risk", 1, "prod").expect("it is there").digest());
    world.does(&dana(), measured(1, auc(0.1)));
    let wants = Wants::Approve(Approve { request: id.clone(), seen, comment: String::new() });
    let refusal = world.refusal(&ann(), wants);
    assert!(refusal.message.starts_with("risk@1 or the policy of prod is not what you saw"), "{refusal}");
    let seen = Some(world.book.bound("risk", 1, "prod").expect("it is there").digest());
    world.does(&ann(), Wants::Approve(Approve { request: id, seen, comment: String::new() }));
}

#[test]
fn an_approval_that_has_expired_does_not_count() {
    let mut world = World::new();
    let holds = Some("1h".parse().expect("a span"));
    world.rule("prod", Policy { approvals: vec![approvers(1)], approval_holds: holds, ..Policy::default() });
    world.push(&dana(), content(1));
    let id = world.ask(&dana(), 1, "prod");
    world.does(&ann(), approve(&id));
    world.now_ms += HOUR_MS;
    let promote = world.promote(1, "prod");
    let refusal = world.refusal(&dana(), promote.clone());
    let expected = format!(
        "approvals: 0 of 1 in request {id}; that of ann has expired; needed: 1 more by anybody with the role approver or \
         admin, not by dana, who asks"
    );
    check_needs(&refusal, &[("approvals", &expected)]);
    world.does(&ann(), approve(&id));
    world.does(&dana(), promote);
}

#[test]
fn a_challenger_is_held_against_the_champion_of_the_environment() {
    let mut world = World::new();
    let metric = RequiredMetric {
        metric: "auc".into(),
        dataset: "holdout".into(),
        slice: String::new(),
        better: Better::Higher,
        bound: None,
        worse_by_max: Some(-0.01),
        by_interval: false,
    };
    world.rule("prod", Policy { metrics: vec![metric.clone()], ..Policy::default() });
    world.push(&dana(), content(1));
    world.push(&dana(), Content { metrics: vec![auc(0.805)], ..content(2) });
    world.push(&dana(), Content { metrics: Vec::new(), ..content(3) });
    // The first has nobody to be better than.
    let promote = world.promote(1, "prod");
    world.does(&dana(), promote);
    let promote = world.promote(2, "prod");
    let refusal = world.refusal(&dana(), promote.clone());
    check_needs(
        &refusal,
        &[("metrics", "auc on holdout is 0.805, and 0.8 of the champion risk@1; needed: at least 0.81")],
    );
    world.does(&dana(), measured(2, auc(0.82)));
    world.does(&dana(), promote);
    let other = RequiredMetric { dataset: "spring".into(), ..metric.clone() };
    world.rule("prod", Policy { metrics: vec![other], ..Policy::default() });
    let mut spring = auc(0.9);
    spring.key.dataset = "spring".into();
    world.does(&dana(), measured(3, spring));
    let promote = world.promote(3, "prod");
    let refusal = world.refusal(&dana(), promote);
    check_needs(
        &refusal,
        &[("metrics", "auc on spring is not on record for the champion risk@2; needed: auc on spring of the champion")],
    );
    let by_interval = RequiredMetric { bound: Some(0.7), by_interval: true, worse_by_max: None, ..metric };
    world.rule("prod", Policy { metrics: vec![by_interval], ..Policy::default() });
    let promote = world.promote(1, "prod");
    let refusal = world.refusal(&dana(), promote.clone());
    check_needs(
        &refusal,
        &[("metrics", "auc on holdout has no interval; needed: auc on holdout, at least 0.7 with its interval")],
    );
    world.does(&dana(), measured(1, Metric { interval: Some([0.69, 0.9]), ..auc(0.8) }));
    let refusal = world.refusal(&dana(), promote);
    check_needs(
        &refusal,
        &[("metrics", "the low end of the interval of auc on holdout is 0.69; needed: at least 0.7")],
    );
}

#[test]
fn a_version_waits_in_the_environment_below() {
    let mut world = World::new();
    world.rule("prod", Policy { below: Some("2h".parse().expect("a span")), ..Policy::default() });
    world.push(&dana(), content(1));
    let staging = world.promote(1, "staging");
    world.does(&dana(), staging);
    world.now_ms += HOUR_MS;
    let promote = world.promote(1, "prod");
    let refusal = world.refusal(&dana(), promote.clone());
    let expected = "below: it has been in staging for 1h; needed: risk@1 in staging for 2h, which is so at 2026-11-29T06:25:00.000Z";
    check_needs(&refusal, &[("below", expected)]);
    world.now_ms += HOUR_MS;
    world.does(&dana(), promote);
}

#[test]
fn a_freeze_holds_over_midnight_and_ends() {
    let window = Freeze::Weekly {
        days: vec![Weekday::Sat],
        from: "22:00".parse().expect("a time"),
        to: "06:00".parse().expect("a time"),
        reason: String::new(),
    };
    let check = |at: &str, ends: Option<&str>| {
        let at: Instant = at.parse().expect("a moment");
        assert_eq!(window.ends(at.0).map(|ends| ends.to_string()).as_deref(), ends, "{at}");
    };
    check("2026-11-28T21:59:59Z", None);
    check("2026-11-28T22:00:00Z", Some("2026-11-29T06:00:00.000Z"));
    check("2026-11-29T05:59:59Z", Some("2026-11-29T06:00:00.000Z"));
    check("2026-11-29T06:00:00Z", None);
    check("2026-11-29T22:00:00Z", None);
    let once = Freeze::Once { from: Instant(10), to: Instant(20), reason: String::new() };
    assert_eq!([9, 10, 19, 20].map(|at| once.ends(at).is_some()), [false, true, true, false]);
}

#[test]
fn a_policy_that_cannot_be_met_is_refused() {
    let mut world = World::new();
    let mut check = |policy: Policy, expected: &str| {
        let set = EnvironmentSet { environment: "prod".into(), rank: 30, policy };
        let text = world.refusal(&admin(), Wants::Environment(set)).to_string();
        assert!(text.contains(expected), "{text}");
    };
    let group = Approvers { required: 2, roles: Vec::new(), persons: vec!["ann".into()] };
    check(
        Policy { approvals: vec![group], ..Policy::default() },
        "2 approvals by ann: expected a number that can be met",
    );
    check(Policy { approvals: vec![approvers(0)], ..Policy::default() }, "expected a number that can be met");
    let never = Freeze::Once { from: Instant(20), to: Instant(10), reason: String::new() };
    check(Policy { freeze: vec![never], ..Policy::default() }, "never is");
    let set = |environment: &str, rank| {
        Wants::Environment(EnvironmentSet { environment: environment.into(), rank, policy: Policy::default() })
    };
    assert!(world.refusal(&admin(), set("qa", 30)).message.contains("cannot have the rank 30, which is that of prod"));
    assert!(world.refusal(&dana(), set("qa", 25)).message.contains("is for an admin"));
    world.does(&admin(), set("qa", 25));
}
