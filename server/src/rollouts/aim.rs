//! Which plan shall an endpoint have, by where its rollout stands?

use tiltyard_rollout::judge::{Judge, State};
use tiltyard_rollout::plan::{Arm, Plan, Policy, Role};

/// The plan, whose revision is not known yet. Where the challenger was promoted it is still watched for a while; where it became
/// worse since, the champion of before is back.
pub fn plan(judge: &Judge, went_back: bool, is_watched: bool) -> Plan {
    let plan = judge.plan();
    match judge.state() {
        State::Promoted if !went_back => alone(plan, challenger(plan), is_watched),
        State::Promoted | State::RolledBack | State::Futile | State::Aborted => before(plan),
        _ => draft(plan.at_share(judge.share())),
    }
}

/// The plan where the champion of `plan` answers everybody: what a rollout goes back to.
pub fn before(plan: &Plan) -> Plan {
    alone(plan, champion(plan), false)
}

/// The plan where the challenger of `plan` answers everybody: what a rollout is there for.
pub fn after(plan: &Plan) -> Plan {
    alone(plan, challenger(plan), false)
}

/// Whether an endpoint's plan is one that this rollout gave it, or may take the place of.
pub fn is_ours(current: &Plan, judge: &Judge) -> bool {
    let plan = judge.plan();
    (!current.steps.is_empty() && current.salt == plan.salt) || is_same(current, &alone(plan, challenger(plan), true))
}

/// Whether two plans say the same, whatever their revisions.
pub fn is_same(a: &Plan, b: &Plan) -> bool {
    draft(a.clone()) == draft(b.clone())
}

/// The arm that is judged.
pub fn challenger(plan: &Plan) -> &Arm {
    let challenger = plan.arms.iter().find(|arm| matches!(arm.role, Role::Challenger { .. }));
    challenger.unwrap_or_else(|| champion(plan))
}

/// The shadow whose answers are held against the champion's on the challenger's account: it is the same version.
pub fn shadow(plan: &Plan) -> Option<&Arm> {
    let judged = challenger(plan);
    let is_judged = |arm: &&Arm| {
        matches!(arm.role, Role::Shadow { .. }) && (&arm.model, arm.version) == (&judged.model, judged.version)
    };
    plan.arms.iter().find(is_judged)
}

/// The arm that it is held against. A plan that was validated has one.
pub fn champion(plan: &Plan) -> &Arm {
    &plan.arms[plan.champion()]
}

/// The same without a number.
pub fn draft(plan: Plan) -> Plan {
    Plan { revision: 0, ..plan }
}

/// One arm answers everybody, in the champion's name. Shadows of other versions go on.
fn alone(plan: &Plan, arm: &Arm, watched: bool) -> Plan {
    let first = Arm { name: champion(plan).name.clone(), role: Role::Champion, digest: None, ..arm.clone() };
    let challenger = challenger(plan);
    let is_other = |arm: &&Arm| {
        matches!(arm.role, Role::Shadow { .. }) && (&arm.model, arm.version) != (&challenger.model, challenger.version)
    };
    let arms: Vec<Arm> = std::iter::once(first).chain(plan.arms.iter().filter(is_other).cloned()).collect();
    Plan {
        endpoint: plan.endpoint.clone(),
        revision: 0,
        key: plan.key.clone(),
        salt: Plan::salt_of(&plan.endpoint, &arms, &plan.key),
        arms,
        headers: Vec::new(),
        steps: Vec::new(),
        policy: Policy::default(),
        watched,
    }
}

#[cfg(test)]
mod tests {
    use tiltyard_rollout::judge::{Command, Event};
    use tiltyard_rollout::plan::{HeaderRule, KeySource, MILLION, Step};

    use super::*;

    fn begun() -> Judge {
        let arm =
            |name: &str, version, role| Arm { name: name.into(), model: "risk".into(), version, digest: None, role };
        let plan = Plan {
            endpoint: "risk".into(),
            revision: 1,
            arms: vec![
                arm("old", 1, Role::Champion),
                arm("new", 2, Role::Challenger { weight: 0, final_weight: 500_000 }),
                arm("seen", 2, Role::Shadow { sampling: MILLION }),
                arm("other", 3, Role::Shadow { sampling: MILLION }),
            ],
            key: KeySource::PerRequest,
            salt: "risk-1".into(),
            headers: vec![HeaderRule { header: "x-tester".into(), value: "yes".into(), arm: "new".into() }],
            steps: vec![Step { share: 10_000, min_time_ms: 0, min_units: 0, gates: Vec::new() }],
            policy: Policy::default(),
            watched: false,
        };
        let mut judge = Judge::new(plan).unwrap();
        command(&mut judge, Command::Start);
        judge.feed(&Event::Validated { time_ms: 0, fault: None }).unwrap();
        judge
    }

    fn command(judge: &mut Judge, command: Command) {
        judge.feed(&Event::Command { time_ms: 0, by: "ada".into(), command }).unwrap();
    }

    fn weight(plan: &Plan) -> Role {
        challenger(plan).role
    }

    #[test]
    fn the_share_follows_the_state() {
        let mut judge = begun();
        assert_eq!(weight(&plan(&judge, false, true)), Role::Challenger { weight: 0, final_weight: 500_000 });
        command(&mut judge, Command::Step);
        assert_eq!(weight(&plan(&judge, false, true)), Role::Challenger { weight: 10_000, final_weight: 500_000 });
        assert_eq!(shadow(&plan(&judge, false, true)).map(|arm| &*arm.name), Some("seen"), "beside its share");
        let current = Plan { revision: 7, ..plan(&judge, false, true) };
        assert!(is_ours(&current, &judge) && is_same(&current, &plan(&judge, false, true)));
    }

    #[test]
    fn at_the_end_one_answers_and_shadows_of_others_go_on() {
        let named = |plan: &Plan| plan.arms.iter().map(|arm| (arm.name.clone(), arm.version)).collect::<Vec<_>>();
        let mut judge = begun();
        command(&mut judge, Command::Promote);
        let promoted = plan(&judge, false, true);
        assert_eq!(named(&promoted), [("old".to_owned(), 2), ("other".to_owned(), 3)]);
        assert!(promoted.watched && is_ours(&promoted, &judge));
        assert_eq!(Plan { revision: 1, ..promoted }.validate(), Ok(()));
        let at_last = plan(&judge, false, false);
        assert!(!at_last.watched && !is_ours(&at_last, &judge), "it is left to itself");
        assert_eq!(named(&plan(&judge, true, true))[0], ("old".to_owned(), 1));
        let mut judge = begun();
        command(&mut judge, Command::Abort);
        let back = plan(&judge, false, true);
        assert_eq!((named(&back)[0].1, back.watched, is_ours(&back, &judge)), (1, false, false));
    }
}
