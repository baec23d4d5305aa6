//! How does somebody write by which labels a challenger must win?

use serde_json::{Map, Value, json};
use tiltyard_types::{Error, Result};

use crate::rollouts::written::time_ms;

/// The number of labels that is planned for where nobody says.
const PLANNED_UNITS: u64 = 10_000;

/// What must be said, and why.
const NEEDED: [(&str, &str); 4] = [
    ("metric", "the outcome's name, such as \"late\""),
    (
        "label_depends_on_decision",
        "true where what the model says changes the label itself (a payment that is blocked is never seen to be fraud), false \
         where the label comes either way. There is no default: somebody must have thought of it",
    ),
    ("horizon", "how long after its answer a row's label is waited for, such as \"7d\""),
    ("missing", "what a row counts as that has no label by then: an outcome such as 0, or \"exclude\""),
];

/// Makes `policy.primary` as people write it what a plan has: a horizon in words, a bare outcome, and defaults.
pub fn complete(primary: &mut Value) -> Result<()> {
    let Some(fields) = primary.as_object_mut() else {
        return Err(Error::invalid("policy.primary: expected a table, such as { metric = \"late\", … }"));
    };
    if let Some(time) = fields.remove("horizon") {
        let text = time.as_str().map_or_else(|| time.to_string(), str::to_owned);
        fields.insert("horizon_ms".into(), time_ms("policy.primary.horizon", &text)?.into());
    }
    let is_paired = says_pairs(fields);
    if is_paired {
        // It is for rows of a split: a pair without a label never counts.
        fields.entry("missing").or_insert_with(|| "exclude".into());
    }
    let has = |key: &str| fields.contains_key(if key == "horizon" { "horizon_ms" } else { key });
    if let Some((key, why)) = NEEDED.iter().find(|(key, _)| !has(key)) {
        return Err(Error::invalid(format!("policy.primary.{key} is missing: expected {why}")));
    }
    if fields["missing"].is_number() {
        fields["missing"] = json!({ "value": fields["missing"] });
    }
    fields.entry("design").or_insert_with(|| "split".into());
    fields.entry("planned_units").or_insert_with(|| PLANNED_UNITS.into());
    if !is_paired {
        // What does not pass by its margin does harm, once it is shown. Pairs end as futile before anybody is harmed.
        let margin = fields.get("margin").filter(|margin| margin.is_number()).cloned();
        fields.entry("harm").or_insert_with(|| margin.unwrap_or_else(|| 0.0.into()));
    }
    if is_paired && fields.get("gain").is_none_or(|gain| gain == "value") {
        return Err(Error::invalid(
            "policy.primary.design is \"paired_shadow\", and its gain is the label itself, which is the same whoever answered: expected \
             gain = \"accuracy\", \"absolute_error\" or \"squared_error\", or design = \"split\"",
        ));
    }
    Ok(())
}

/// Whether a policy wants pairs of champion's and challenger's answers to decide, and they can.
pub fn wants_pairs(policy: &Map<String, Value>) -> bool {
    policy.get("primary").and_then(Value::as_object).is_some_and(says_pairs)
}

fn says_pairs(primary: &Map<String, Value>) -> bool {
    let is = |key: &str, value: Value| primary.get(key) == Some(&value);
    is("design", "paired_shadow".into()) && is("label_depends_on_decision", false.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_with_its_meaning() {
        let completed = |text: &str| {
            let mut primary = serde_json::from_str(text).unwrap();
            complete(&mut primary).map(|()| primary).map_err(|error| error.message().to_owned())
        };
        let whole = r#"{"metric": "late", "label_depends_on_decision": false, "horizon": "2s", "missing": 0}"#;
        let expected = json!({
            "metric": "late", "label_depends_on_decision": false, "horizon_ms": 2_000, "missing": {"value": 0},
            "design": "split", "planned_units": 10_000, "harm": 0.0,
        });
        assert_eq!(completed(whole), Ok(expected));
        let harm = |more: &str| {
            completed(&whole.replace("{\"metric\"", &format!("{{{more}, \"metric\""))).unwrap()["harm"].clone()
        };
        assert_eq!([harm("\"margin\": 0.01"), harm("\"margin\": 0.01, \"harm\": 0.5")], [json!(0.01), json!(0.5)]);
        let refused = |text: &str, words: &str| {
            let message = completed(text).unwrap_err();
            assert!(message.contains(words), "{message}");
        };
        refused(
            &whole.replace("\"label_depends_on_decision\": false, ", ""),
            "label_depends_on_decision is missing: expected true",
        );
        refused(&whole.replace("\"horizon\": \"2s\", ", ""), "how long after its answer");
        refused(&whole.replace(", \"missing\": 0", ""), "or \"exclude\"");
        refused(&whole.replace("2s", "soon"), "expected a time such as");
        let paired =
            whole.replace("{\"metric\"", "{\"design\": \"paired_shadow\", \"metric\"").replace(", \"missing\": 0", "");
        refused(&paired, "the same whoever answered: expected gain");
        let paired = paired.replace("{\"design\"", "{\"gain\": \"accuracy\", \"design\"");
        assert_eq!(completed(&paired).unwrap()["missing"], "exclude", "it is not asked for");
        refused(&paired.replace("false", "true"), "or \"exclude\"");
        refused("7", "expected a table");
    }
}
