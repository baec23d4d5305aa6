//! Does the record tell who was where, when, and on what grounds?

use super::*;

fn begin(world: &mut World, version: u64, rollout: &str) -> String {
    let rollout = Some(Rollout { id: rollout.into(), way: Way::Canary });
    let (id, model, environment) = (world.id(), "risk".into(), "prod".into());
    world.does(
        &dana(),
        Wants::Promote(Promote { id: id.clone(), model, version, environment, rollout, overriding: None }),
    );
    id
}

fn end(promotion: &str, outcome: Ending) -> Wants {
    let promotion = promotion.to_owned();
    Wants::End(End { promotion, outcome, verdict: Some(4_711), reason: "the verdict".into(), overriding: None })
}

fn plan(revision: u64, versions: &[(u64, u8)]) -> Wants {
    let arms = versions.iter().map(|(version, byte)| Arm {
        name: format!("v{version}"),
        model: "risk".into(),
        version: *version,
        artifact: Some(digest(*byte)),
        deployment: None,
        role: "champion".into(),
        weight: 1_000_000,
    });
    let (arms, endpoint) = (arms.collect(), "risk".into());
    Wants::Plan(Planned { endpoint, revision, arms, cause: Cause::Applied, rollout: String::new(), plan: None })
}

fn program() -> Principal {
    Principal { name: "tiltyard".into(), roles: Vec::new(), how: How::Program }
}

#[test]
fn a_promotion_by_a_rollout_moves_the_environment_when_it_ends_well() {
    let mut world = World::new();
    world.rule("prod", Policy { approvals: vec![approvers(1)], rollout: Way::Shadow, ..Policy::default() });
    for byte in 1..=2 {
        world.push(&dana(), content(byte));
        let id = world.ask(&dana(), u64::from(byte), "prod");
        world.does(&ann(), approve(&id));
    }
    let current = |world: &World| world.book.environment("prod").expect("it").current("risk").map(|at| at.version);
    let first = begin(&mut world, 1, "r1");
    assert_eq!(current(&world), None);
    let second = world.promote(2, "prod");
    let Wants::Promote(second) = second else { unreachable!("it is one") };
    let second = Promote { rollout: Some(Rollout { id: "r2".into(), way: Way::Canary }), ..second };
    let refusal = world.refusal(&dana(), Wants::Promote(second));
    assert!(refusal.message.contains(&format!("by promotion {first}: end that one first")), "{refusal}");
    world.does(&program(), end(&first, Ending::Promoted));
    assert_eq!(current(&world), Some(1));
    let refusal = world.refusal(&program(), end(&first, Ending::RolledBack));
    assert!(refusal.message.contains("is promoted since entry"), "{refusal}");
    // Who did harm needs the word of somebody who knows of it.
    let second = begin(&mut world, 2, "r2");
    world.does(&program(), end(&second, Ending::RolledBack));
    assert_eq!(current(&world), Some(1));
    let Wants::Promote(third) = world.promote(2, "prod") else { unreachable!("it is one") };
    let third = Promote { rollout: Some(Rollout { id: "r3".into(), way: Way::Canary }), ..third };
    let refusal = world.refusal(&dana(), Wants::Promote(third));
    let expected = format!("promotion {second} was rolled back, by tiltyard; needed: 1 more by anybody");
    check_needs(&refusal, &[("approvals", &expected)]);
}

#[test]
fn what_was_taken_back_meanwhile_keeps_a_promotion_from_its_end() {
    let mut world = World::new();
    world.rule("prod", Policy { approvals: vec![approvers(1)], ..Policy::default() });
    world.push(&dana(), content(1));
    let request = world.ask(&dana(), 1, "prod");
    world.does(&ann(), approve(&request));
    let promotion = begin(&mut world, 1, "r1");
    let revoke =
        Revoke { request: request.clone(), approver: Some("ann".into()), reason: "a bug in the features".into() };
    assert!(world.refusal(&bob(), Wants::Revoke(revoke.clone())).message.contains("is for an admin"));
    world.does(&admin(), Wants::Revoke(revoke));
    let refusal = world.refusal(&program(), end(&promotion, Ending::Promoted));
    check_needs(&refusal, &[("approvals", "a bug in the features, by root")]);
    world.does(&bob(), approve(&request));
    world.does(&program(), end(&promotion, Ending::Promoted));
    assert_eq!(world.request(&request).end.as_ref().map(|end| end.state), Some(RequestState::Promoted));
}

#[test]
fn an_environment_goes_back_step_by_step() {
    let mut world = World::new();
    for byte in 1..=3 {
        world.push(&dana(), content(byte));
        let promote = world.promote(u64::from(byte), "prod");
        world.does(&dana(), promote);
        world.now_ms += HOUR_MS;
    }
    let back =
        |to| Wants::GoBack(GoBack { environment: "prod".into(), model: "risk".into(), to, reason: "it fails".into() });
    let at = |world: &World| world.book.environment("prod").expect("it").current("risk").map(|at| at.version);
    world.does(&dana(), back(None));
    assert_eq!(at(&world), Some(2));
    world.does(&dana(), back(None));
    // Not to 3, which was just taken away.
    assert_eq!(at(&world), Some(1));
    let refusal = world.refusal(&dana(), back(None));
    assert!(refusal.message.contains("nothing that is ready was there before risk@1"), "{refusal}");
    world.does(&dana(), state(2, VersionState::Quarantined, "a pickle"));
    let refusal = world.refusal(&dana(), back(Some(2)));
    assert!(refusal.message.contains("risk@2 is quarantined: expected a version that is ready; risk@3"), "{refusal}");
    world.does(&dana(), back(Some(3)));
    assert_eq!(at(&world), Some(3));
    // What is in quarantine is passed over.
    world.does(&dana(), back(None));
    assert_eq!(at(&world), Some(1));
    world.does(&dana(), back(Some(3)));
    let environment = world.book.environment("prod").expect("it");
    let then = |hours: u64| environment.at("risk", BEGIN_MS + hours * HOUR_MS).map(|at| at.version);
    assert_eq!([then(0), then(1), then(2), then(3)], [Some(1), Some(2), Some(3), Some(3)]);
    assert!(environment.at("risk", BEGIN_MS - 1).is_none());
}

#[test]
fn history_says_who_served_and_on_what_grounds() {
    let mut world = World::new();
    world.rule("prod", Policy { approvals: vec![approvers(1)], ..Policy::default() });
    world.push(&dana(), content(1));
    world.push(&dana(), content(2));
    world.does(&program(), plan(1, &[(1, 1)]));
    world.now_ms += HOUR_MS;
    let request = world.ask(&dana(), 2, "prod");
    world.does(&ann(), approve(&request));
    let promotion = begin(&mut world, 2, "r1");
    world.does(&program(), plan(2, &[(1, 1), (2, 2)]));
    world.now_ms += HOUR_MS;
    world.does(&program(), end(&promotion, Ending::Promoted));
    world.does(&program(), plan(3, &[(2, 2)]));
    assert!(world.book.served_at("risk", BEGIN_MS - 1).is_none() && world.book.served_at("other", u64::MAX).is_none());
    let first = world.book.served_at("risk", BEGIN_MS + HOUR_MS - 1).expect("a plan");
    assert_eq!((first.plan.planned.revision, first.until_ms), (1, Some(BEGIN_MS + HOUR_MS)));
    assert!(first.arms[0].is_recorded && first.arms[0].promotions.is_empty());
    let last = world.book.served_at("risk", u64::MAX).expect("a plan");
    assert_eq!((last.plan.planned.revision, last.until_ms, last.arms.len()), (3, None, 1));
    let arm = &last.arms[0];
    assert_eq!((arm.pushed.map(|pushed| pushed.by.as_str()), arm.metrics[0].metric.value), (Some("dana"), 0.8));
    let ended = arm.promotions[0].end.as_ref().expect("it ended");
    assert_eq!((arm.promotions[0].id.as_str(), ended.verdict), (promotion.as_str(), Some(4_711)));
    assert_eq!(arm.promotions[0].rollout.as_ref().map(|rollout| rollout.id.as_str()), Some("r1"));
    assert_eq!(arm.requests[0].approvals[0].by, ann());
    let revisions = world.book.history("risk", BEGIN_MS + HOUR_MS..).map(|plan| plan.planned.revision);
    assert_eq!(revisions.collect::<Vec<_>>(), [2, 3]);
    // Another artifact under that number is not what was approved.
    world.does(&program(), plan(4, &[(2, 9)]));
    let arm = &world.book.served_at("risk", u64::MAX).expect("a plan").arms[0];
    assert!(!arm.is_recorded && arm.promotions.is_empty());
}

#[test]
fn evidence_is_what_was_measured_then() {
    let mut world = World::new();
    let metric = RequiredMetric {
        metric: "auc".into(),
        dataset: "holdout".into(),
        slice: String::new(),
        better: Better::Higher,
        bound: Some(0.9),
        worse_by_max: None,
        by_interval: false,
    };
    world.rule("prod", Policy { metrics: vec![metric], ..Policy::default() });
    world.push(&dana(), Content { metrics: vec![auc(0.95)], ..content(1) });
    let promotion = begin(&mut world, 1, "r1");
    world.does(&dana(), measured(1, auc(0.5)));
    let refusal = world.refusal(&program(), end(&promotion, Ending::Promoted));
    check_needs(&refusal, &[("metrics", "auc on holdout is 0.5; needed: at least 0.9")]);
    let Wants::End(ending) = end(&promotion, Ending::Promoted) else { unreachable!("it is one") };
    world.does(&admin(), Wants::End(End { overriding: Some("the figure is of other rows".into()), ..ending }));
    let promotion = world.book.promotion(&promotion).expect("it is there");
    assert_eq!(promotion.evidence, [auc(0.95)]);
    let overridden = promotion.end.as_ref().and_then(|end| end.overridden.as_ref()).expect("it is shown");
    assert_eq!((overridden.reason.as_str(), overridden.needed.len()), ("the figure is of other rows", 1));
}

#[test]
fn who_is_in_an_environment_is_looked_at_again() {
    let mut world = World::new();
    world.push(&dana(), content(1));
    let review =
        |review_ms| Described { model: "risk".into(), version: 1, review_ms: Some(review_ms), ..Described::default() };
    world.does(&dana(), Wants::Describe(review(BEGIN_MS)));
    assert_eq!(world.book.reviews_due(BEGIN_MS).count(), 0, "it is nowhere");
    let promote = world.promote(1, "prod");
    world.does(&dana(), promote);
    assert_eq!(world.book.reviews_due(BEGIN_MS - 1).count(), 0);
    let due: Vec<_> =
        world.book.reviews_due(BEGIN_MS).map(|(at, version)| (at.name.as_str(), version.number)).collect();
    assert_eq!(due, [("prod", 1)]);
    world.does(&dana(), Wants::Describe(review(0)));
    assert_eq!(world.book.reviews_due(u64::MAX).count(), 0);
}

/// Whoever can write the files can write what makes sense and was never allowed.
#[test]
fn what_was_not_allowed_is_found_when_the_log_is_read_again() {
    let check = |by: &Principal, change: &dyn Fn(&mut Says), expected: Option<&str>| {
        let mut world = World::new();
        world.rule("prod", Policy { approvals: vec![approvers(1)], ..Policy::default() });
        world.push(&dana(), content(1));
        let id = world.ask(&dana(), 1, "prod");
        world.does(&ann(), approve(&id));
        let promote = world.promote(1, "prod");
        let mut fact = world.book.decide(promote.into(), &dana(), world.now_ms).expect("it is allowed").facts.remove(0);
        let (before, at) = (world.book.clone(), world.entries.len());
        fact.by = by.clone();
        change(&mut fact.says);
        world.write(&fact);
        let doubt = before.doubt(&world.entries[at]);
        match expected {
            None => assert_eq!(doubt, None),
            Some(expected) => {
                let doubt = doubt.expect(expected);
                assert!(doubt.starts_with("entry 5: ") && doubt.contains(expected), "{doubt}");
            }
        }
    };
    fn begun(says: &mut Says) -> &mut Begun {
        match says {
            Says::Promoted(begun) => begun,
            other => panic!("{other:?}"),
        }
    }
    check(&dana(), &|_| (), None);
    check(
        &dana(),
        &|says| begun(says).approvers = vec!["bob".into()],
        Some("promotion.made by dana is not what the rules"),
    );
    check(&dana(), &|says| begun(says).bound.card = digest(9), Some("is not what the rules come to"));
    check(&dana(), &|says| begun(says).request = None, Some("is not what the rules come to"));
    let nobody = |says: &mut Says| {
        *says = Says::State(StateSet {
            model: "risk".into(),
            version: 1,
            state: VersionState::Quarantined,
            reason: "x".into(),
        })
    };
    check(&dana(), &nobody, None);
    let approved = |says: &mut Says| {
        let bound = begun(says).bound.clone();
        let request = begun(says).request.clone().expect("there is one");
        *says = Says::Approved(Approved { request, bound, comment: String::new(), expires_ms: None, seal: None });
    };
    check(&dana(), &approved, Some("approval.approved by dana was not allowed: dana has the role deployer"));
    check(&bob(), &approved, None);
    let weaker = |says: &mut Says| {
        let policy = Policy::default();
        *says = Says::Environment(EnvironmentSet { environment: "prod".into(), rank: 30, policy });
    };
    check(
        &dana(),
        &weaker,
        Some("environment.set by dana was not allowed: the declaration of an environment is for an admin"),
    );
}

#[test]
fn a_promotion_that_nobody_approved_is_found() {
    let mut world = World::new();
    world.rule("prod", Policy { approvals: vec![approvers(1)], ..Policy::default() });
    world.push(&dana(), content(1));
    let Wants::Promote(promote) = world.promote(1, "prod") else { unreachable!("it is one") };
    let wants = Wants::Promote(Promote { overriding: Some("fire".into()), ..promote });
    let decided = world.book.decide(wants.into(), &admin(), world.now_ms).expect("an admin may");
    let mut fact = decided.facts[0].clone();
    let Says::Promoted(begun) = &mut fact.says else { unreachable!("it is one") };
    begun.overridden = None;
    let before = world.book.clone();
    world.write(&fact);
    let doubt = before.doubt(&world.entries[2]).expect("it was not allowed");
    let expected = "entry 3: promotion.made by root was not allowed: risk@1 in prod is refused by 1 rule: approvals";
    assert!(doubt.starts_with(expected), "{doubt}");
}

#[test]
fn entries_of_others_are_passed_over_and_unknown_ones_of_ours_are_not() {
    let mut world = World::new();
    world.write_entry("rollout.event", &json!({ "anything": 1 }));
    world.push(&dana(), content(1));
    assert_eq!(world.book.sequence(), 2);
    let before = world.book.clone();
    let mut wrong = |kind: &str, data: serde_json::Value, expected: &str| {
        let (text, _) = line(world.head, 0, kind, &data).expect("it is an entry");
        let entry = Entry::read(text.trim_end().as_bytes()).expect("it is read");
        let fault = world.book.take(&entry).expect_err(expected).to_string();
        assert!(fault.starts_with("entry 3: ") && fault.contains(expected), "{fault}");
        assert_eq!(world.book, before, "the book is as it was");
    };
    wrong("model.merged", json!({}), "model.merged is not known: expected a program as new as its writer");
    wrong("model.tags", json!({}), "its data is not that of model.tags: missing field `by`");
    let by = json!({ "name": "x", "how": "key" });
    wrong("model.tags", json!({ "by": by, "says": { "model": "risk", "more": 1 } }), "unknown field `more`");
    wrong("model.tags", json!({ "by": by, "says": { "model": "rsk" } }), "no model \"rsk\" is on record");
    wrong(
        "promotion.ended",
        json!({ "by": by, "says": { "promotion": "p", "outcome": "promoted" } }),
        "no promotion \"p\"",
    );
    let entry = world.entries[1].clone();
    let fault = world.book.take(&entry).expect_err("it was taken").to_string();
    assert_eq!(fault, "entry 2: it comes after entry 2: expected entries in their order, each once");
}
