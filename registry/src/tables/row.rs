//! What of an entry stands in columns, so that it is found without reading all?

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::Entry;

/// Members of an entry's data with more bytes are left out: the counts behind a verdict can have a million, and the log has
/// them. What facts say is smaller.
const MEMBER_BYTES_MAX: usize = 1 << 20;

/// A row of `entries`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Row {
    pub(super) seq: i64,
    pub(super) time_ms: i64,
    pub(super) kind: String,
    pub(super) hash: String,
    pub(super) author: Option<String>,
    pub(super) model: Option<String>,
    pub(super) version: Option<i64>,
    pub(super) environment: Option<String>,
    pub(super) request: Option<String>,
    pub(super) promotion: Option<String>,
    pub(super) endpoint: Option<String>,
    pub(super) rollout: Option<String>,
    pub(super) data: Option<String>,
}

/// What an entry is about: what facts have in `says`, and rollouts at the top.
#[derive(Default, Deserialize)]
struct About {
    model: Option<Value>,
    version: Option<Value>,
    environment: Option<Value>,
    request: Option<Value>,
    promotion: Option<Value>,
    endpoint: Option<Value>,
    rollout: Option<Value>,
}

#[derive(Default, Deserialize)]
struct Author {
    name: Option<Value>,
}

fn text(value: Option<Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text),
        // A promotion names its rollout with how far it goes.
        Value::Object(mut fields) => text(fields.remove("id")),
        _ => None,
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Row {
    pub(super) fn of(entry: &Entry) -> Row {
        let data = entry.data.get();
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(data).unwrap_or_default();
        let member = |name: &str| members.get(name).filter(|member| member.get().len() <= MEMBER_BYTES_MAX);
        let said = member("says").map_or(data, |says| says.get());
        let about: About = match said.len() {
            0..=MEMBER_BYTES_MAX => serde_json::from_str(said).unwrap_or_default(),
            _ => About {
                rollout: member("rollout").and_then(|id| serde_json::from_str(id.get()).ok()),
                ..About::default()
            },
        };
        let author: Option<Author> = member("by").and_then(|by| serde_json::from_str(by.get()).ok());
        Row {
            seq: signed(entry.sequence),
            time_ms: signed(entry.time_ms),
            kind: entry.kind.clone(),
            hash: entry.hash.to_string(),
            author: author.and_then(|author| text(author.name)),
            model: text(about.model),
            version: about.version.and_then(|version| version.as_i64()),
            environment: text(about.environment),
            request: text(about.request),
            promotion: text(about.promotion),
            endpoint: text(about.endpoint),
            rollout: text(about.rollout),
            data: kept(data, &members),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.data.as_ref().map_or(0, String::len) + 200
    }
}

/// The data without what is too large of it.
fn kept(data: &str, members: &BTreeMap<String, &RawValue>) -> Option<String> {
    if data.len() <= MEMBER_BYTES_MAX {
        return Some(data.to_owned());
    }
    let small: BTreeMap<_, _> = members.iter().filter(|(_, member)| member.get().len() <= MEMBER_BYTES_MAX).collect();
    (!small.is_empty()).then(|| serde_json::to_string(&small).ok())?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::entry::{Head, line};

    fn row(kind: &str, data: &Value) -> Row {
        let (line, _) = line(Head::START, 7, kind, data).expect("an entry");
        Row::of(&Entry::read(line.trim_end().as_bytes()).expect("it is whole"))
    }

    #[test]
    fn what_an_entry_is_about_is_in_columns() {
        let found = row(
            "promotion.begun",
            &json!({"by": {"name": "ann"}, "says": {"model": "risk", "version": 3, "rollout": {"id": "r1", "way": "full"}}}),
        );
        assert_eq!(
            (found.author.as_deref(), found.model.as_deref(), found.version),
            (Some("ann"), Some("risk"), Some(3))
        );
        assert_eq!(found.rollout.as_deref(), Some("r1"));
        let found = row("rollout.event", &json!({"rollout": "r1", "verdict": {}}));
        assert_eq!((found.rollout.as_deref(), found.author), (Some("r1"), None));
        for odd in
            [json!(null), json!([1]), json!({"says": 1, "by": "ann"}), json!({"says": {"model": 1, "version": -1.5}})]
        {
            let found = row("x", &odd);
            assert_eq!((found.model, found.author, found.data), (None, None, Some(odd.to_string())));
        }
    }

    #[test]
    fn what_is_too_large_is_left_out_and_the_rest_is_there() {
        let counts = "x".repeat(MEMBER_BYTES_MAX);
        let found =
            row("rollout.event", &json!({"event": counts, "rollout": "r1", "verdict": {"decision": "advance"}}));
        assert_eq!(found.rollout.as_deref(), Some("r1"));
        assert_eq!(found.data.as_deref(), Some(r#"{"rollout":"r1","verdict":{"decision":"advance"}}"#));
        assert_eq!(row("x", &json!(counts)).data, None);
    }
}
