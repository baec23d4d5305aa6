//! How does somebody write what a rollout shall be? As little as a version; the rest has defaults.

use serde::Deserialize;
use serde_json::{Map, Value};
use tiltyard_rollout::plan::{Agreement, Arm, Comparison, Guardrail, HeaderRule, KeySource, Plan, Policy, Role, Step};
use tiltyard_types::{Error, Result};

use super::feedback::written::complete;
use super::gatherer::ERRORS;
use crate::config::parse_duration;
use crate::endpoints::file::{Share, explain};
use crate::shadow::{lane, measure};

/// The schedule where nobody says.
const STEPS: [(u32, u64); 4] = [(10_000, 10), (50_000, 10), (250_000, 10), (500_000, 10)];

const MINUTE_MS: u64 = 60_000;

/// What somebody wants.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    challenger: WrittenArm,
    /// That of the plan that holds, or else each request is on its own.
    key: Option<KeySource>,
    steps: Option<Vec<WrittenStep>>,
    #[serde(default)]
    policy: Map<String, Value>,
    /// How much of the traffic the challenger sees as a shadow, before and beside its share.
    shadow: Option<Share>,
    headers: Option<Vec<HeaderRule>>,
    salt: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenArm {
    name: Option<String>,
    /// The champion's, where it is left out.
    model: Option<String>,
    version: u64,
    digest: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    share: Share,
    min_time: Option<String>,
    #[serde(default)]
    min_units: u64,
    #[serde(default)]
    gates: Vec<String>,
}

/// The plan of a rollout on an endpoint that has the plan `held`, or none and a namesake model of which these versions answer, the
/// newest first. Its salt is empty where nobody gave one.
pub fn plan(endpoint: &str, text: &[u8], held: Option<&Plan>, answering: &[u64]) -> Result<Plan> {
    let written: Written = serde_json::from_slice(text).map_err(|error| Error::invalid(explain(&error.to_string())))?;
    let Written { challenger, key, steps, policy, shadow, headers, salt } = written;
    let mut arms = standing(endpoint, held, answering, &challenger)?;
    let (champion, taken) =
        (arms[0].clone(), |name: &str| held.is_some_and(|held| held.arms.iter().any(|arm| arm.name == name)));
    let steps = match steps {
        None => STEPS.map(|(share, minutes)| step(share, minutes * MINUTE_MS)).into(),
        Some(steps) => steps.into_iter().map(read_step).collect::<Result<Vec<Step>>>()?,
    };
    let final_weight = steps.iter().map(|step| step.share).max().unwrap_or(0);
    let WrittenArm { name, model, version, digest } = challenger;
    let name = name.unwrap_or_else(|| if taken("challenger") { format!("v{version}") } else { "challenger".into() });
    let model = model.unwrap_or_else(|| champion.model.clone());
    if (&model, version) == (&champion.model, champion.version) {
        return Err(Error::invalid(format!(
            "{model} version {version} is what answers endpoint {endpoint:?} already: expected another version"
        )));
    }
    let role = Role::Challenger { weight: 0, final_weight };
    let judged = Arm { name, model, version, digest, role };
    if let Some(Share(sampling)) = shadow.filter(|share| share.0 > 0) {
        arms.push(Arm { name: format!("{}-shadow", judged.name), role: Role::Shadow { sampling }, ..judged.clone() });
    }
    arms.insert(1, judged);
    let headers = headers.unwrap_or_else(|| {
        let known = held.map_or(Vec::new(), |held| held.headers.clone());
        known.into_iter().filter(|rule| arms.iter().any(|arm| arm.name == rule.arm)).collect()
    });
    let key = key.or_else(|| held.map(|held| held.key.clone())).unwrap_or(KeySource::PerRequest);
    let policy = read_policy(policy, arms.iter().any(|arm| matches!(arm.role, Role::Shadow { .. })))?;
    let plan = Plan {
        endpoint: endpoint.to_owned(),
        revision: 0,
        arms,
        key,
        salt: salt.unwrap_or_default(),
        headers,
        steps,
        policy,
        watched: false,
    };
    let whole =
        Plan { revision: 1, salt: if plan.salt.is_empty() { "-".into() } else { plan.salt.clone() }, ..plan.clone() };
    whole.validate()?;
    if plan.steps.is_empty() {
        return Err(Error::invalid("steps is empty: expected one share at least, such as { share = \"5%\" }"));
    }
    Ok(plan)
}

/// The champion first, and shadows. Without a plan the newest version is the champion, or else, where that is what is to be judged,
/// the one before: a version that came into the folder answers everybody until somebody wants it judged.
fn standing(endpoint: &str, held: Option<&Plan>, answering: &[u64], judged: &WrittenArm) -> Result<Vec<Arm>> {
    let Some(held) = held else {
        let is_judged =
            |version: u64| judged.version == version && judged.model.as_deref().is_none_or(|model| model == endpoint);
        let Some(&version) = answering.iter().find(|version| !is_judged(**version)) else {
            return Err(Error::not_found(format!(
                "nobody but the challenger answers endpoint {endpoint:?}: a rollout needs a champion that is ready"
            )));
        };
        let (name, model) = ("champion".to_owned(), endpoint.to_owned());
        return Ok(vec![Arm { name, model, version, digest: None, role: Role::Champion }]);
    };
    if let Some(arm) = held.arms.iter().find(|arm| matches!(arm.role, Role::Challenger { .. })) {
        return Err(Error::invalid(format!(
            "the plan of endpoint {endpoint:?} gives arm {} a share: apply one without challengers first, since one at a time is \
             judged",
            arm.name
        )));
    }
    let champion = held.arms[held.champion()].clone();
    let shadows = held.arms.iter().filter(|arm| matches!(arm.role, Role::Shadow { .. })).cloned();
    Ok(std::iter::once(champion).chain(shadows).collect())
}

fn step(share: u32, min_time_ms: u64) -> Step {
    Step { share, min_time_ms, min_units: 0, gates: Vec::new() }
}

fn read_step(written: WrittenStep) -> Result<Step> {
    let WrittenStep { share: Share(share), min_time, min_units, gates } = written;
    let min_time_ms = min_time.as_deref().map_or(Ok(0), |text| time_ms("min_time", text))?;
    Ok(Step { min_units, gates, ..step(share, min_time_ms) })
}

/// A policy in its own words, and times such as `min_time = "24h"` in place of milliseconds.
fn read_policy(mut written: Map<String, Value>, has_shadow: bool) -> Result<Policy> {
    for key in ["shadow_time", "min_time", "max_time"] {
        if let Some(time) = written.remove(key) {
            let text = time.as_str().map_or_else(|| time.to_string(), str::to_owned);
            written.insert(format!("{key}_ms"), time_ms(key, &text)?.into());
        }
    }
    if let Some(primary) = written.get_mut("primary") {
        complete(primary)?;
    }
    let says_guardrails = written.contains_key("guardrails");
    let says_comparisons = written.contains_key("comparisons");
    let says_max = written.contains_key("max_time_ms");
    let mut policy: Policy = serde_json::from_value(Value::Object(written))
        .map_err(|error| Error::invalid(format!("policy: {}", explain(&error.to_string()))))?;
    if !says_guardrails {
        policy.guardrails = guardrails();
    }
    if has_shadow && !says_comparisons {
        policy.comparisons = comparisons();
    }
    if !says_max {
        policy.max_time_ms = policy.max_time_ms.max(policy.min_time_ms.saturating_mul(2));
    }
    Ok(policy)
}

/// What is watched where nobody says: failures, and runs that take clearly longer than nine in ten, or ninety-nine in a hundred, of the
/// champion's. A challenger that has them hardly more often than that passes, whatever its champion does meanwhile.
pub fn guardrails() -> Vec<Guardrail> {
    let watch = |metric: &str, floor| Guardrail::new(metric).with_floor(floor);
    vec![watch(ERRORS, 0.001), watch("slow_p90", 0.15), watch("slow_p99", 0.02)]
}

/// What is told of a shadow where nobody says what its answers must be like: it decides nothing.
fn comparisons() -> Vec<Comparison> {
    [measure::MISMATCH, measure::FLIPS, measure::DISTANCE, lane::ERRORS, lane::RUN_TIME]
        .map(|metric| Comparison { metric: metric.to_owned(), rule: Agreement::Report })
        .into()
}

/// A time such as `10m`, `24h` or `14d`.
pub fn time_ms(key: &str, text: &str) -> Result<u64> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()).filter(|days| *days <= 3_650);
    let found = match days {
        Some(days) => Some(days * 24 * 60 * MINUTE_MS),
        None => parse_duration(text).and_then(|time| u64::try_from(time.as_millis()).ok()),
    };
    found.ok_or_else(|| {
        Error::invalid(format!("{key} is {text:?}: expected a time such as \"10m\", \"24h\" or \"14d\""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(text: &str, held: Option<&Plan>) -> Result<Plan> {
        plan("risk", text.as_bytes(), held, &[1])
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        let message = begin(text, None).unwrap_err().message().to_owned();
        assert!(message.contains(expected), "{message}");
    }

    #[test]
    fn a_version_is_enough() {
        let plan = begin(r#"{"challenger": {"version": 2}}"#, None).unwrap();
        let arms: Vec<_> = plan.arms.iter().map(|arm| (arm.name.as_str(), arm.model.as_str(), arm.version)).collect();
        assert_eq!(arms, [("champion", "risk", 1), ("challenger", "risk", 2)]);
        assert_eq!(plan.arms[1].role, Role::Challenger { weight: 0, final_weight: 500_000 });
        assert_eq!((plan.key, plan.steps.len(), plan.policy.guardrails.len()), (KeySource::PerRequest, 4, 3));
    }

    #[test]
    fn times_and_shares_are_written_as_people_write_them() {
        let text = r#"{
            "challenger": {"model": "risk-b", "version": 7}, "key": {"header": "x-customer"}, "shadow": "10%",
            "steps": [{"share": "1%", "min_time": "30s"}, {"share": "20%", "min_units": 500, "gates": ["ada"]}],
            "policy": {"min_time": "2m", "max_time": "14d", "min_units": 5, "guardrails": [{"metric": "errors"}]}
        }"#;
        let plan = begin(text, None).unwrap();
        assert_eq!((plan.steps[0].share, plan.steps[0].min_time_ms, plan.steps[1].min_units), (10_000, 30_000, 500));
        assert_eq!((plan.policy.min_time_ms, plan.policy.max_time_ms), (120_000, 14 * 24 * 3_600_000));
        assert_eq!((plan.policy.guardrails.len(), plan.arms.len()), (1, 3));
        assert_eq!((plan.arms[2].version, plan.arms[2].role), (7, Role::Shadow { sampling: 100_000 }));
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_was_meant() {
        refused(r#"{"challenger": {"version": 1}}"#, "nobody but the challenger answers endpoint \"risk\"");
        refused(r#"{"challengr": {"version": 2}}"#, "did you mean challenger?");
        refused(r#"{"challenger": {"version": 2}, "policy": {"min_tme_ms": 1}}"#, "did you mean min_time_ms?");
        refused(r#"{"challenger": {"version": 2}, "policy": {"min_time": "soon"}}"#, "expected a time such as");
        refused(r#"{"challenger": {"version": 2}, "steps": []}"#, "steps is empty");
        refused(r#"{"challenger": {"version": 2}, "steps": [{"share": "5%"}, {"share": "1%"}]}"#, "shares must grow");
        let split = crate::endpoints::tests::draft(10);
        assert!(
            begin(r#"{"challenger": {"version": 3}}"#, Some(&split))
                .unwrap_err()
                .message()
                .contains("gives arm new a share")
        );
        let newest = plan("risk", br#"{"challenger": {"version": 3}}"#, None, &[3, 2, 1]).unwrap();
        assert_eq!(
            (newest.arms[0].version, newest.arms[1].version),
            (2, 3),
            "the newest is held against the one before"
        );
        let champion = Plan { arms: vec![newest.arms[0].clone()], ..newest };
        let again = begin(r#"{"challenger": {"version": 2}}"#, Some(&champion)).unwrap_err();
        assert!(again.message().contains("is what answers endpoint \"risk\" already"));
    }
}
