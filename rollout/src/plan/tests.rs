//! Is a wrong plan refused with a reason, and a right one named the same everywhere?

use super::*;

fn arm(name: &str, version: u64, role: Role) -> Arm {
    Arm { name: name.into(), model: "risk".into(), version, digest: None, role }
}

/// A plan with a champion and challengers of these (weight, final weight).
pub(crate) fn split(weights: &[(u32, u32)]) -> Plan {
    let challengers = weights.iter().enumerate().map(|(at, &(weight, final_weight))| {
        arm(&format!("challenger-{at}"), at as u64 + 2, Role::Challenger { weight, final_weight })
    });
    Plan {
        endpoint: "risk".into(),
        revision: 1,
        arms: std::iter::once(arm("champion", 1, Role::Champion)).chain(challengers).collect(),
        key: KeySource::Header("x-user".into()),
        salt: "7f0c1d".into(),
        headers: Vec::new(),
        steps: Vec::new(),
        policy: Policy::default(),
        watched: false,
    }
}

/// One challenger that grows by these shares, each for ten minutes.
pub(crate) fn ramp(shares: &[u32]) -> Plan {
    let steps = shares.iter().map(|&share| Step { share, min_time_ms: 600_000, min_units: 0, gates: Vec::new() });
    Plan { steps: steps.collect(), ..split(&[(0, 500_000)]) }
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Plan), expected: &str) {
    let mut plan = ramp(&[10_000, 50_000]);
    assert_eq!(plan.validate(), Ok(()));
    change(&mut plan);
    let message = plan.validate().expect_err("it is wrong").message().to_owned();
    assert!(message.contains(expected), "{message:?} does not say {expected:?}");
}

#[test]
fn a_wrong_plan_is_refused_with_what_was_expected() {
    refused(|plan| plan.salt.clear(), "salt is empty: expected some random text");
    refused(|plan| plan.revision = 0, "revisions count from 1");
    refused(|plan| plan.arms[1].name = "champion".into(), "two arms are called champion");
    refused(|plan| plan.arms[1].role = Role::Champion, "the plan has 2 champions: expected exactly one");
    refused(|plan| plan.arms[1].version = 0, "arm challenger-0: version is 0");
    refused(|plan| plan.arms[1].digest = Some("abc".into()), "expected 64 hexadecimal digits");
    let above = Role::Challenger { weight: 2, final_weight: 1 };
    refused(|plan| plan.arms[1].role = above, "expected weight ≤ final weight");
    let all = Role::Challenger { weight: 0, final_weight: MILLION };
    refused(|plan| plan.arms.extend([arm("more", 3, all)]), "add up to 1500000: expected 1000000 millionths at most");
    let unseen = Role::Shadow { sampling: 0 };
    refused(|plan| plan.arms.extend([arm("shadow", 3, unseen)]), "arm shadow: sampling is 0");
    refused(|plan| plan.arms.truncate(1), "the plan has steps and 0 challengers");
    refused(|plan| plan.steps[1].share = 10_000, "step 2: share 10000 is not above 10000: shares must grow");
    refused(|plan| plan.steps[1].share = 600_000, "step 2: share 600000 is above the challenger's final weight 500000");
    let rule = HeaderRule { header: "x-tester".into(), value: "yes".into(), arm: "chalenger".into() };
    refused(|plan| plan.headers.push(rule), "names arm \"chalenger\", which the plan does not have");
    refused(
        |plan| plan.policy.alpha_guardrails = 0.0,
        "policy.alpha_guardrails is 0: expected a number between 0 and 1",
    );
    refused(|plan| plan.policy.alpha_primary = f64::NAN, "policy.alpha_primary is NaN");
    refused(|plan| plan.policy.guardrails.clear(), "policy.guardrails is empty");
    refused(|plan| plan.policy.slices.push(Guardrail::new("errors")), "two guardrails watch errors");
    refused(|plan| plan.policy.guardrails[0].tolerance = -1.0, "tolerance is -1: expected 0 to 10");
}

#[test]
fn unknown_fields_are_errors_and_whether_a_label_depends_must_be_said() {
    let mut value = serde_json::to_value(ramp(&[10_000])).expect("it is JSON");
    let parse = |value: &serde_json::Value| serde_json::from_value::<Plan>(value.clone()).map_err(|e| e.to_string());
    assert_eq!(parse(&value), Ok(ramp(&[10_000])));
    value["policy"]["primary"] = serde_json::json!({
        "metric": "default_90d", "design": "paired_shadow", "horizon_ms": 1000, "missing": {"value": 0.0},
        "planned_units": 50_000,
    });
    assert!(parse(&value).is_err_and(|message| message.contains("missing field `label_depends_on_decision`")));
    value["policy"]["primary"]["label_depends_on_decision"] = true.into();
    assert!(parse(&value).is_ok());
    value["arms"][1]["canaryPercent"] = 5.into();
    assert!(parse(&value).is_err_and(|message| message.contains("unknown field `canaryPercent`")));
}

#[test]
fn the_digest_is_that_of_the_canonical_form_and_of_nothing_else() {
    let plan = split(&[(10_000, 200_000)]);
    let start = r#"{"arms":[{"model":"risk","name":"champion","role":"champion","version":1},{"model":"#;
    assert!(plan.canonical().starts_with(start), "{}", plan.canonical());
    assert_eq!(plan.digest(), plan.clone().digest());
    assert_ne!(plan.digest(), plan.at_share(20_000).digest());
}

#[test]
fn within_a_rollout_no_key_may_be_dealt_anew() {
    let plan = ramp(&[10_000, 50_000]);
    let next = plan.at_share(50_000);
    assert_eq!(next.follows(&plan), Ok(()));
    assert_eq!(next.arms[1].role, Role::Challenger { weight: 50_000, final_weight: 500_000 });
    assert_eq!(plan.at_share(MILLION).arms[1].role, Role::Challenger { weight: 500_000, final_weight: 500_000 });
    assert!(plan.follows(&next).is_err());
    assert!(Plan { salt: "other".into(), ..next.clone() }.follows(&plan).is_err());
    let mut moved = next;
    moved.arms[1].role = Role::Challenger { weight: 50_000, final_weight: 400_000 };
    assert!(moved.follows(&plan).is_err());
}

#[test]
fn a_testers_header_picks_the_arm() {
    let rule = HeaderRule { header: "x-tester".into(), value: "yes".into(), arm: "challenger-0".into() };
    let plan = Plan { headers: vec![rule], ..ramp(&[10_000]) };
    assert_eq!(plan.validate(), Ok(()));
    assert_eq!(plan.picked(|name| (name == "x-tester").then_some("yes")), Some(1));
    assert_eq!(plan.picked(|name| (name == "x-tester").then_some("no")), None);
    assert_eq!(plan.picked(|_| None), None);
}
