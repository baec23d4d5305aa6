//! Which plan does a rollout begin with, by what somebody wrote and by what answers now?

use std::collections::BTreeMap;

use tiltyard_rollout::plan::{Arm, KeySource, MILLION, Plan, Policy, Role};
use tiltyard_types::{Error, ErrorKind, Result};

use super::aim;
use super::written::{Written, WrittenArm, without_challenger};
use crate::catalog::{Catalog, Endpoint, Model};
use crate::endpoints::file::Share;

/// The versions of an endpoint's namesake model that answer, the newest first.
pub fn answering(models: &BTreeMap<String, Model>, endpoint: &str) -> Vec<u64> {
    let versions = models.get(endpoint).into_iter().flat_map(|model| model.versions.iter().rev());
    versions.filter(|(_, version)| version.answering().is_some()).map(|(at, _)| *at).collect()
}

/// The plan of a rollout on an endpoint that has the plan `held`, or none and a namesake model of which these versions answer, the
/// newest first. Its salt is empty where nobody gave one.
pub fn plan(endpoint: &str, written: &Written, held: Option<&Plan>, answering: &[u64]) -> Result<Plan> {
    let challenger = written.challenger.as_ref().ok_or_else(without_challenger)?;
    let mut arms = standing(endpoint, written, held, answering, challenger)?;
    let (champion, taken) =
        (arms[0].clone(), |name: &str| held.is_some_and(|held| held.arms.iter().any(|arm| arm.name == name)));
    let steps = written.steps()?;
    let final_weight = steps.iter().map(|step| step.share).max().unwrap_or(0);
    let WrittenArm { name, model, version, digest } = challenger.clone();
    let name = name.unwrap_or_else(|| if taken("challenger") { format!("v{version}") } else { "challenger".into() });
    let model = model.unwrap_or_else(|| champion.model.clone());
    if (&model, version) == (&champion.model, champion.version) {
        return Err(Error::invalid(format!(
            "{model} version {version} is what answers endpoint {endpoint:?} already: expected another version"
        )));
    }
    let role = Role::Challenger { weight: 0, final_weight };
    let judged = Arm { name, model, version, digest, role };
    let is_paired = written.wants_pairs();
    // Pairs need a shadow, whether or not somebody says how much it sees.
    let is_shown = arms.iter().skip(1).any(|arm| (&arm.model, arm.version) == (&judged.model, judged.version));
    let shadow = written.shadow.or((is_paired && !is_shown).then_some(Share(MILLION)));
    if let Some(Share(sampling)) = shadow.filter(|share| share.0 > 0) {
        arms.push(Arm { name: format!("{}-shadow", judged.name), role: Role::Shadow { sampling }, ..judged.clone() });
    }
    arms.insert(1, judged);
    let headers = written.headers.clone().unwrap_or_else(|| {
        let known = held.map_or(Vec::new(), |held| held.headers.clone());
        known.into_iter().filter(|rule| arms.iter().any(|arm| arm.name == rule.arm)).collect()
    });
    let key = written.key.clone().or_else(|| held.map(|held| held.key.clone())).unwrap_or(KeySource::PerRequest);
    let policy = written.policy(arms.iter().any(|arm| matches!(arm.role, Role::Shadow { .. })))?;
    let (endpoint, salt) = (endpoint.to_owned(), written.salt.clone().unwrap_or_default());
    let plan = Plan { endpoint, revision: 0, arms, key, salt, headers, steps, policy, watched: false };
    salted(&plan).validate()?;
    if is_paired && aim::shadow(&plan).is_none() {
        return Err(Error::invalid(
            "policy.primary.design is \"paired_shadow\", and shadow is 0: expected how much of the traffic the challenger is shown, such \
             as \"100%\"",
        ));
    }
    Ok(plan)
}

/// The plan as one that could hold.
pub fn salted(plan: &Plan) -> Plan {
    let salt = if plan.salt.is_empty() { "-".to_owned() } else { plan.salt.clone() };
    Plan { revision: 1, salt, ..plan.clone() }
}

/// What is written as a plan, with stand-ins for whom it does not name: whether it is a good one, and how long it would take.
pub fn rehearse(endpoint: &str, written: &Written) -> Result<Plan> {
    let version = written.champion.as_ref().map_or(2, |champion| champion.version + 1);
    let stand_in = WrittenArm { name: None, model: None, version, digest: None };
    let challenger = written.challenger.clone().unwrap_or(stand_in);
    let other = if challenger.version == 1 { 2 } else { 1 };
    let mut whole = written.clone();
    whole.challenger = Some(challenger);
    plan(endpoint, &whole, None, &[other]).map(|plan| salted(&plan))
}

/// The plan in which the champion that is named answers alone, until its challenger is there.
pub fn alone(endpoint: &str, champion: &WrittenArm, key: Option<&KeySource>) -> Plan {
    let (arms, key) = (vec![named(endpoint, champion)], key.cloned().unwrap_or(KeySource::PerRequest));
    let salt = Plan::salt_of(endpoint, &arms, &key);
    let (endpoint, policy) = (endpoint.to_owned(), Policy::default());
    Plan { endpoint, revision: 0, arms, key, salt, headers: Vec::new(), steps: Vec::new(), policy, watched: false }
}

/// The plan that says what answers an endpoint without one; none where it has one, or this version answers already.
pub fn as_it_is(catalog: &Catalog, endpoint: &str, but: u64) -> Option<Plan> {
    let Some(Endpoint::Newest(arm)) = catalog.endpoints.get(endpoint) else { return None };
    let identity = &arm.deployment.identity;
    let champion =
        WrittenArm { name: None, model: Some(identity.model.clone()), version: identity.version, digest: None };
    (identity.version != but).then(|| alone(endpoint, &champion, None))
}

fn named(endpoint: &str, champion: &WrittenArm) -> Arm {
    let WrittenArm { name, model, version, digest } = champion.clone();
    let (name, model) = (name.unwrap_or_else(|| "champion".into()), model.unwrap_or_else(|| endpoint.to_owned()));
    Arm { name, model, version, digest, role: Role::Champion }
}

/// The champion first, and shadows. Without a plan it is the one that is named, or the newest version, or else, where that is what
/// is to be judged, the one before: a version that came into the folder answers everybody until somebody wants it judged.
fn standing(
    endpoint: &str,
    written: &Written,
    held: Option<&Plan>,
    answering: &[u64],
    judged: &WrittenArm,
) -> Result<Vec<Arm>> {
    let Some(held) = held else {
        if let Some(champion) = &written.champion {
            return Ok(vec![named(endpoint, champion)]);
        }
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
    if !held.steps.is_empty() {
        let message = format!(
            "the rollout of endpoint {endpoint:?} has just ended, and its plan gives way: ask again in a moment"
        );
        return Err(Error::new(ErrorKind::NotReady, message));
    }
    if let Some(arm) = held.arms.iter().find(|arm| matches!(arm.role, Role::Challenger { .. })) {
        return Err(Error::invalid(format!(
            "the plan of endpoint {endpoint:?} gives arm {} a share: apply one without challengers first, since one at a time is \
             judged",
            arm.name
        )));
    }
    let mut champion = held.arms[held.champion()].clone();
    if let Some(wanted) = written.champion.as_ref().map(|wanted| named(endpoint, wanted)) {
        if (&wanted.model, wanted.version) != (&champion.model, champion.version) {
            return Err(Error::invalid(format!(
                "{} version {} answers endpoint {endpoint:?}, and the champion was to be {} version {}: name the one that answers, \
                 or leave champion out, or apply a plan of the other alone first",
                champion.model, champion.version, wanted.model, wanted.version
            )));
        }
        champion.digest = wanted.digest.or(champion.digest);
    }
    let shadows = held.arms.iter().filter(|arm| matches!(arm.role, Role::Shadow { .. })).cloned();
    Ok(std::iter::once(champion).chain(shadows).collect())
}

#[cfg(test)]
mod tests {
    use super::super::written::read;
    use super::*;

    fn begin_among(text: &str, held: Option<&Plan>, answering: &[u64]) -> Result<Plan> {
        read(text).and_then(|(written, _)| plan("risk", &written, held, answering))
    }

    fn begin(text: &str, held: Option<&Plan>) -> Result<Plan> {
        begin_among(text, held, &[1])
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
    fn pairs_need_a_shadow_and_have_one() {
        let text = r#"{"challenger": {"version": 2}, "policy": {"primary": {
            "metric": "late", "gain": "accuracy", "label_depends_on_decision": false, "horizon": "7d", "design": "paired_shadow"}}}"#;
        let role = |text: &str| aim::shadow(&begin(text, None).unwrap()).map(|arm| arm.role);
        assert_eq!(role(text), Some(Role::Shadow { sampling: MILLION }));
        let sampled = |share: &str| text.replacen('{', &format!("{{\"shadow\": \"{share}\", "), 1);
        assert_eq!(role(&sampled("10%")), Some(Role::Shadow { sampling: 100_000 }));
        refused(&sampled("0%"), "expected how much of the traffic the challenger is shown");
        let split = text.replace("\"paired_shadow\"", "\"split\", \"missing\": 0");
        assert_eq!(role(&split), None);
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
        let newest = begin_among(r#"{"challenger": {"version": 3}}"#, None, &[3, 2, 1]).unwrap();
        assert_eq!(
            (newest.arms[0].version, newest.arms[1].version),
            (2, 3),
            "the newest is held against the one before"
        );
        let ending = begin(r#"{"challenger": {"version": 4}}"#, Some(&newest)).unwrap_err();
        assert!(ending.message().contains("ask again in a moment"), "{ending}");
        let champion = Plan { arms: vec![newest.arms[0].clone()], steps: Vec::new(), ..newest };
        let again = begin(r#"{"challenger": {"version": 2}}"#, Some(&champion)).unwrap_err();
        assert!(again.message().contains("is what answers endpoint \"risk\" already"));
    }

    #[test]
    fn a_champion_that_is_named_is_the_one_that_answers() {
        let text = r#"{"champion": {"version": 1}, "challenger": {"version": 2}}"#;
        let first = begin_among(text, None, &[2, 1]).unwrap();
        assert_eq!((first.arms[0].version, first.arms[1].version), (1, 2), "whoever is the newest");
        let held = Plan { arms: vec![first.arms[0].clone()], steps: Vec::new(), ..first };
        assert!(begin(text, Some(&held)).is_ok());
        let promoted = alone("risk", &WrittenArm { name: None, model: None, version: 2, digest: None }, None);
        let refused = begin(text, Some(&promoted)).unwrap_err();
        assert!(
            refused.message().contains("risk version 2 answers endpoint \"risk\", and the champion was"),
            "{refused}"
        );
        assert_eq!(Plan { revision: 1, ..promoted }.validate(), Ok(()));
    }

    #[test]
    fn what_names_nobody_can_be_rehearsed() {
        let (written, _) = read(r#"{"steps": [{"share": "100%"}], "champion": {"version": 4}}"#).unwrap();
        let plan = rehearse("risk", &written).unwrap();
        assert_eq!((plan.steps[0].share, plan.arms[0].version, plan.validate()), (MILLION, 4, Ok(())));
    }
}
