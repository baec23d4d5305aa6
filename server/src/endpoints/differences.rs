//! What does a plan change? A line for each difference, for people.

use std::time::Duration;

use tiltyard_rollout::plan::{Arm, HeaderRule, KeySource, Plan, Role, Step};

/// What differs, in the order in which it matters; empty where nothing does.
pub fn between(before: Option<&Plan>, after: &Plan) -> Vec<String> {
    let Some(before) = before else { return after.arms.iter().map(|arm| format!("+ {}", told(arm))).collect() };
    let mut lines = Vec::new();
    let find = |plan: &'_ Plan, name: &str| plan.arms.iter().find(|arm| arm.name == name).cloned();
    for arm in &before.arms {
        match find(after, &arm.name) {
            None => lines.push(format!("- {}", told(arm))),
            Some(new) if new != *arm => {
                lines.push(format!("- {}", told(arm)));
                lines.push(format!("+ {}", told(&new)));
            }
            Some(_) => {}
        }
    }
    let added = after.arms.iter().filter(|arm| find(before, &arm.name).is_none());
    lines.extend(added.map(|arm| format!("+ {}", told(arm))));
    let order = |plan: &Plan| plan.arms.iter().map(|arm| arm.name.clone()).collect::<Vec<_>>();
    if lines.is_empty() && order(before) != order(after) {
        lines.push(format!("~ arms in the order {}", order(after).join(", ")));
    }
    if before.key != after.key {
        lines.push(format!("- {}", key(&before.key)));
        lines.push(format!("+ {}", key(&after.key)));
    }
    if before.salt != after.salt {
        lines.push("~ another salt: every key is dealt anew".to_owned());
    }
    let rules = |of: &Plan, not_of: &Plan, sign: &str| {
        let surplus = of.headers.iter().filter(|rule| !not_of.headers.contains(rule));
        surplus.map(|rule| format!("{sign} {}", rule_told(rule))).collect::<Vec<_>>()
    };
    lines.extend(rules(before, after, "-"));
    lines.extend(rules(after, before, "+"));
    if lines.is_empty() && before.headers != after.headers {
        lines.push("~ headers in another order".to_owned());
    }
    lines
}

/// What a rollout that begins on a plan changes.
pub fn of_rollout(held: Option<&Plan>, plan: &Plan) -> Vec<String> {
    // Each has a salt of its own.
    let salt = held.map_or_else(String::new, |held| held.salt.clone());
    let mut lines = between(held, &Plan { salt, ..plan.clone() });
    for Step { share: millionths, min_time_ms, min_units, gates } in &plan.steps {
        let time = humantime::format_duration(Duration::from_millis(*min_time_ms));
        let units = if *min_units > 0 { format!(", {min_units} units") } else { String::new() };
        lines.push(format!("> {} for {time}{units}{}", share(*millionths), gated(gates)));
    }
    let metrics = plan.policy.guardrails.iter().map(|guardrail| guardrail.metric.as_str()).collect::<Vec<_>>();
    let time = humantime::format_duration(Duration::from_millis(plan.policy.min_time_ms));
    lines.push(format!("> promoted after {time} at least, by {}{}", metrics.join(", "), gated(&plan.policy.gates)));
    lines
}

fn gated(gates: &[String]) -> String {
    if gates.is_empty() { String::new() } else { format!(", gates {}", gates.join(", ")) }
}

fn told(arm: &Arm) -> String {
    let Arm { name, model, version, digest, role } = arm;
    let role = match *role {
        Role::Champion => "champion".to_owned(),
        Role::Challenger { weight, final_weight } => {
            format!("challenger {} of up to {}", share(weight), share(final_weight))
        }
        Role::Shadow { sampling } => format!("shadow {}", share(sampling)),
    };
    let digest = digest.as_ref().map_or_else(String::new, |digest| format!(", digest {digest}"));
    format!("{name}: {model} version {version}, {role}{digest}")
}

/// Where a plan's key is, in words.
pub fn key(source: &KeySource) -> String {
    match source {
        KeySource::Header(name) | KeySource::Metadata(name) => format!("key: header or metadata {name}"),
        KeySource::JsonPath(path) => format!("key: JSON path {path}"),
        KeySource::TensorColumn(name) => format!("key: column {name}"),
        KeySource::ClientIdentity => "key: who the client is".to_owned(),
        KeySource::PerRequest => "key: each request for itself".to_owned(),
    }
}

fn rule_told(rule: &HeaderRule) -> String {
    format!("header {}: {} goes to {}", rule.header, rule.value, rule.arm)
}

/// Millionths as per cent.
pub fn share(millionths: u32) -> String {
    let text = format!("{}.{:04}", millionths / 10_000, millionths % 10_000);
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::super::tests::draft;
    use super::*;

    #[test]
    fn differences_are_told_line_by_line() {
        assert_eq!(between(Some(&draft(10)), &draft(10)), [""; 0]);
        assert_eq!(
            between(None, &draft(125_000)),
            ["+ champion: risk version 1, champion", "+ new: risk version 2, challenger 12.5% of up to 100%"]
        );
        let mut after = draft(500_000);
        after.key = KeySource::PerRequest;
        after.salt = "other".into();
        after.headers.push(HeaderRule { header: "x-tester".into(), value: "yes".into(), arm: "new".into() });
        assert_eq!(
            between(Some(&draft(10)), &after),
            [
                "- new: risk version 2, challenger 0.001% of up to 100%",
                "+ new: risk version 2, challenger 50% of up to 100%",
                "- key: header or metadata x-user",
                "+ key: each request for itself",
                "~ another salt: every key is dealt anew",
                "+ header x-tester: yes goes to new",
            ]
        );
    }
}
