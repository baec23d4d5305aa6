//! Do revisions count up, are old ones gone back to, and does a ramp keep its keys?

use tiltyard_rollout::plan::{Arm, HeaderRule, KeySource, MILLION, Policy, Role};

use super::*;

/// Version 1 against version 2, which has this weight.
pub(crate) fn draft(weight: u32) -> Plan {
    let arm = |name: &str, version, role| Arm { name: name.into(), model: "risk".into(), version, digest: None, role };
    let challenger = Role::Challenger { weight, final_weight: MILLION };
    Plan {
        endpoint: "risk".into(),
        revision: 0,
        arms: vec![arm("champion", 1, Role::Champion), arm("new", 2, challenger)],
        key: KeySource::Header("x-user".into()),
        salt: "s".into(),
        headers: Vec::new(),
        steps: Vec::new(),
        policy: Policy::default(),
        watched: false,
    }
}

/// Version 3 alone.
fn promoted() -> Plan {
    let mut plan = draft(0);
    plan.arms.truncate(1);
    plan.arms[0].version = 3;
    Plan { salt: "t".into(), ..plan }
}

fn apply(endpoints: &mut Endpoints, draft: &Plan) -> Option<u64> {
    let next = endpoints.next(draft).unwrap()?;
    let revision = next.revision;
    endpoints.add(next);
    Some(revision)
}

#[test]
fn each_change_is_a_revision_and_no_change_is_none() {
    let mut endpoints = Endpoints::default();
    assert_eq!(apply(&mut endpoints, &draft(10)), Some(1));
    assert_eq!(apply(&mut endpoints, &draft(10)), None);
    assert_eq!(apply(&mut endpoints, &draft(20)), Some(2));
    assert_eq!(apply(&mut endpoints, &draft(10)), Some(3));
    assert_eq!(endpoints.current()["risk"].revision, 3);
    for weight in 0..2 * REVISIONS_MAX as u32 {
        apply(&mut endpoints, &draft(1_000 + weight));
    }
    let remembered = |endpoints: &Endpoints| endpoints.form_of("risk").unwrap()["revisions"].as_array().unwrap().len();
    assert_eq!(remembered(&endpoints), REVISIONS_MAX);
    // What is gone back to over and over is not forgotten.
    let first = endpoints.plan("risk").unwrap().revision;
    for weight in 0..2 * REVISIONS_MAX as u32 {
        apply(&mut endpoints, &draft(9_000 + weight));
        assert_eq!(endpoints.back("risk", None).unwrap().revision, first);
        endpoints.point("risk", first);
    }
    assert_eq!(remembered(&endpoints), REVISIONS_MAX);
}

#[test]
fn going_back_goes_further_back_each_time() {
    let mut endpoints = Endpoints::default();
    for weight in 1..=3 {
        apply(&mut endpoints, &draft(weight));
    }
    let back = |endpoints: &mut Endpoints, to| {
        let revision = endpoints.back("risk", to).map(|plan| plan.revision);
        revision.inspect(|revision| endpoints.point("risk", *revision)).map_err(|error| error.message().to_owned())
    };
    assert_eq!(back(&mut endpoints, None), Ok(2));
    assert_eq!(back(&mut endpoints, None), Ok(1));
    assert!(back(&mut endpoints, None).unwrap_err().contains("no revision to go back to: revisions 1, 2, 3"));
    assert_eq!(back(&mut endpoints, Some(3)), Ok(3));
    assert_eq!((back(&mut endpoints, None), apply(&mut endpoints, &draft(8))), (Ok(2), Some(4)));
    assert_eq!(back(&mut endpoints, None), Ok(2), "what was gone back from is not gone back to");
    assert!(back(&mut endpoints, Some(9)).unwrap_err().contains("has no revision 9"));
    assert!(endpoints.back("other", None).unwrap_err().message().contains("there are \"risk\""));
    endpoints.point("risk", 1);
    assert_eq!(apply(&mut endpoints, &draft(9)), Some(5), "numbers are not used twice");
}

#[test]
fn versions_of_the_plan_and_of_the_one_before_are_held() {
    let mut endpoints = Endpoints::default();
    apply(&mut endpoints, &draft(10));
    apply(&mut endpoints, &promoted());
    assert_eq!(endpoints.versions("risk"), BTreeSet::from([1, 2, 3]));
    apply(&mut endpoints, &draft(20));
    apply(&mut endpoints, &draft(30));
    assert_eq!(endpoints.versions("risk"), BTreeSet::from([1, 2]));
    assert_eq!((endpoints.users("risk"), endpoints.users("other")), (vec!["risk"], Vec::new()));
}

#[test]
fn within_a_test_no_key_is_moved() {
    let mut endpoints = Endpoints::default();
    apply(&mut endpoints, &draft(10));
    let mut other = draft(20);
    other.key = KeySource::PerRequest;
    let refused = endpoints.next(&other).unwrap_err();
    assert!(refused.message().contains("give the plan a salt of its own to begin anew"), "{refused:?}");
    other.salt = "t".into();
    assert_eq!(apply(&mut endpoints, &other), Some(2));
    assert!(endpoints.next(&Plan { salt: String::new(), ..draft(1) }).unwrap_err().message().contains("salt is empty"));
}

#[test]
fn plans_are_bounded() {
    let refused = |change: &dyn Fn(&mut Plan)| {
        let mut plan = draft(1);
        change(&mut plan);
        Endpoints::default().next(&plan).unwrap_err().message().to_owned()
    };
    assert!(refused(&|plan| plan.endpoint = "x".repeat(129)).contains("expected 128 bytes at most"));
    assert!(refused(&|plan| plan.arms[1].name = "a\nb".into()).contains("no control characters"));
    let rule = |at: usize| HeaderRule { header: "x".into(), value: at.to_string(), arm: "new".into() };
    assert!(refused(&|plan| plan.headers = (0..33).map(rule).collect()).contains("33 header rules: expected 32"));
    let many = |plan: &mut Plan| {
        let more =
            (0..32).map(|at| Arm { name: at.to_string(), role: Role::Shadow { sampling: 1 }, ..plan.arms[0].clone() });
        let more: Vec<Arm> = more.collect();
        plan.arms.extend(more);
    };
    assert!(refused(&many).contains("34 arms: expected 32"));
}

#[test]
fn what_was_removed_can_be_brought_back() {
    let mut endpoints = Endpoints::default();
    apply(&mut endpoints, &draft(10));
    endpoints.remove("risk").unwrap();
    assert!(endpoints.current().is_empty() && endpoints.versions("risk") == BTreeSet::from([1, 2]));
    assert_eq!(endpoints.back("risk", None).unwrap().revision, 1);
    assert_eq!(apply(&mut endpoints, &draft(10)), Some(2));
    assert!(endpoints.remove("other").is_err());
}

#[test]
fn what_was_removed_is_forgotten_but_for_its_number() {
    let mut endpoints = Endpoints::default();
    apply(&mut endpoints, &draft(10));
    apply(&mut endpoints, &draft(20));
    endpoints.point("risk", 1);
    endpoints.forget("risk");
    assert_eq!(endpoints.current()["risk"].revision, 1, "what holds is not forgotten");
    endpoints.see_file(&Said::Plan(Box::new(draft(30)))).unwrap();
    endpoints.remove("risk").unwrap();
    assert_eq!(endpoints.removed().collect::<Vec<_>>(), ["risk"]);
    endpoints.forget("risk");
    assert!(endpoints.versions("risk").is_empty() && endpoints.removed().next().is_none());
    let refused = endpoints.back("risk", None).unwrap_err();
    assert!(refused.message().ends_with("no revision to go back to: none is remembered"), "{refused:?}");
    assert_eq!(Endpoints::read(endpoints.form()), Ok(endpoints.clone()));
    assert_eq!(
        (endpoints.see_file(&Said::Plan(Box::new(draft(30)))), endpoints.is_awaited("risk")),
        (Ok(false), false)
    );
    assert_eq!(apply(&mut endpoints, &draft(10)), Some(3), "numbers are not used twice");
}

#[test]
fn names_are_bounded_by_those_that_are_in_use() {
    let mut endpoints = Endpoints::default();
    let of = |name: String| Plan { endpoint: name, ..draft(10) };
    for number in 0..=NAMES_MAX {
        apply(&mut endpoints, &of(format!("old-{number}")));
        endpoints.remove(&format!("old-{number}")).unwrap();
        endpoints.forget(&format!("old-{number}"));
    }
    assert_eq!(endpoints.held.len(), NAMES_MAX);
    for number in 0..ENDPOINTS_MAX {
        apply(&mut endpoints, &of(format!("new-{number}")));
    }
    let refused = endpoints.next(&of("more".into())).unwrap_err();
    assert!(refused.message().contains("1000 endpoints have a plan already"), "{refused:?}");
    let noted = (0..NAMES_MAX)
        .filter(|number| endpoints.see_file(&Said::Plan(Box::new(of(format!("file-{number}"))))).is_ok())
        .count();
    assert_eq!((noted, endpoints.held.len()), (NAMES_MAX - ENDPOINTS_MAX, NAMES_MAX));
}

#[test]
fn only_a_file_that_changes_is_news() {
    let mut endpoints = Endpoints::default();
    let see = |endpoints: &mut Endpoints, weight| {
        let is_news = endpoints.see_file(&Said::Plan(Box::new(draft(weight)))).unwrap();
        // As a restart finds it.
        assert_eq!(Endpoints::read(endpoints.form()).as_ref(), Ok(&*endpoints));
        (is_news, endpoints.is_awaited("risk"))
    };
    assert_eq!(see(&mut endpoints, 10), (true, true));
    assert_eq!(see(&mut endpoints, 10), (false, true), "it waits, and is no news");
    assert!(endpoints.current().is_empty() && endpoints.form_of("risk").unwrap()["current"].is_null());
    apply(&mut endpoints, &draft(10));
    assert_eq!(see(&mut endpoints, 10), (false, false));
    apply(&mut endpoints, &draft(20));
    assert_eq!(see(&mut endpoints, 10), (false, false), "what was applied since holds until the file changes");
    // A plan in a file that waits does not overrule what is decided meanwhile, whatever that is.
    let decisions: [&dyn Fn(&mut Endpoints); 4] = [
        &|endpoints| assert!(apply(endpoints, &draft(21)).is_some()),
        &|endpoints| endpoints.point("risk", 1),
        &|endpoints| endpoints.remove("risk").unwrap(),
        &|endpoints| endpoints.decide("risk"),
    ];
    for (weight, decide) in (30..).zip(decisions) {
        assert_eq!(see(&mut endpoints, weight), (true, true));
        decide(&mut endpoints);
        assert_eq!(see(&mut endpoints, weight), (false, false));
    }
    endpoints.forget_file("risk");
    assert_eq!(see(&mut endpoints, 33), (true, true), "a file that comes back is news");
    let mut waiting = Endpoints::default();
    see(&mut waiting, 10);
    waiting.forget_file("risk");
    assert_eq!(waiting, Endpoints::default());
}

#[test]
fn the_end_of_a_watch_is_nothing_to_go_back_to() {
    // Alone before, promoted and watched, and then for good, or back since it became worse.
    let before = Plan { salt: "before".into(), arms: vec![draft(0).arms[0].clone()], ..draft(0) };
    for end in [promoted(), Plan { salt: "again".into(), ..before.clone() }] {
        let mut endpoints = Endpoints::default();
        apply(&mut endpoints, &before);
        apply(&mut endpoints, &Plan { watched: true, ..promoted() });
        apply(&mut endpoints, &end);
        assert_eq!(endpoints.back("risk", None).unwrap().salt, "before", "{}", end.salt);
    }
    // Who applies another plan meanwhile comes after the promoted one.
    let mut endpoints = Endpoints::default();
    apply(&mut endpoints, &before);
    apply(&mut endpoints, &Plan { watched: true, ..promoted() });
    let mut other = draft(5);
    other.arms[0].version = 7;
    apply(&mut endpoints, &other);
    assert_eq!(endpoints.back("risk", None).unwrap().salt, "t");
}

#[test]
fn what_held_before_elsewhere_takes_nothing_back() {
    let mut endpoints = Endpoints::default();
    apply(&mut endpoints, &draft(1));
    apply(&mut endpoints, &draft(2));
    assert_eq!((endpoints.revision_of(&draft(1)), endpoints.revision_of(&draft(2))), (Some(1), None));
    // One that is not known here is a new revision, and there is no way back to what it took the place of.
    let other = promoted();
    endpoints.add_back(endpoints.next_anyhow(&other).unwrap().unwrap());
    assert!(endpoints.back("risk", None).is_err());
    // Whatever shares the salt: it was decided elsewhere.
    let moved = Plan { key: KeySource::Header("x-account".into()), ..other };
    assert!(endpoints.next(&moved).is_err() && endpoints.next_anyhow(&moved).is_ok());
}

#[test]
fn a_way_back_may_leave_versions_out() {
    let mut endpoints = Endpoints::default();
    for plan in [promoted(), draft(1), draft(2)] {
        apply(&mut endpoints, &plan);
    }
    assert_eq!(endpoints.without("risk", &[("risk".into(), 2)]).map(|plan| plan.revision), Some(1));
    assert!(endpoints.without("risk", &[("risk".into(), 1), ("risk".into(), 3)]).is_none());
}
