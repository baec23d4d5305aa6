//! How are alerts looked at and silenced over the admin port?

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http_body::Body;
use serde::Deserialize;
use serde_json::{Value, json};
use tiltyard_types::{Error, Result};

use super::endpoints::read;
use crate::alerts::Alerts;
use crate::alerts::book::{Labels, Silence};
use crate::clock;
use crate::config::parse_duration;
use crate::locks::calls::Caller;

/// The longest silence: what is silenced for longer is better said in the file of rules.
const SILENCE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Characters of what a silence is for.
const WHY_MAX: usize = 1_000;

/// Labels that a silence may name.
const LABELS_MAX: usize = 16;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    rule: Option<String>,
    #[serde(default)]
    labels: Labels,
    r#for: String,
    #[serde(default)]
    why: String,
}

/// Answers a request to `/admin/alerts` and below, whose caller may send it.
pub(super) async fn answer<B>(
    alerts: &Alerts,
    caller: Option<&Caller>,
    method: &Method,
    path: &str,
    body: B,
) -> Result<Value>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let rest = path.strip_prefix("/admin/alerts").unwrap_or_default();
    match (method, rest) {
        (&Method::GET | &Method::HEAD, "") => Ok(alerts.form()),
        (&Method::POST, "/silences") => {
            let by = caller.map_or("somebody", |caller| &caller.name);
            let id = alerts.silence(silence(&read(body).await?, by)?).map_err(Error::invalid)?;
            Ok(json!({ "silence": id }))
        }
        (&Method::DELETE, rest) if rest.starts_with("/silences/") => {
            let id = rest.trim_start_matches("/silences/").parse().ok();
            match id.is_some_and(|id| alerts.unsilence(id)) {
                true => Ok(json!({ "silence": id, "ended": true })),
                false => {
                    Err(Error::not_found(format!("there is no silence {:?}", rest.trim_start_matches("/silences/"))))
                }
            }
        }
        _ => Err(Error::not_found(format!(
            "nothing is at {method} {path}: expected GET /admin/alerts, POST /admin/alerts/silences, or DELETE /admin/alerts/silences/ID"
        ))),
    }
}

fn silence(body: &[u8], by: &str) -> Result<Silence> {
    let expected = "expected such as {\"rule\": \"drift\", \"labels\": {\"model\": \"risk\"}, \"for\": \"2h\", \"why\": \"known\"}";
    let written: Written = serde_json::from_slice(body)
        .map_err(|error| Error::invalid(format!("the body cannot be read: {error}; {expected}")))?;
    let length = parse_duration(&written.r#for).filter(|length| !length.is_zero() && *length <= SILENCE_MAX);
    let length =
        length.ok_or_else(|| Error::invalid(format!("for is {:?}: expected up to 720h; {expected}", written.r#for)))?;
    if written.rule.is_none() && written.labels.is_empty() {
        return Err(Error::invalid(format!("a silence of everything is none: name a rule or a label; {expected}")));
    }
    if written.labels.len() > LABELS_MAX || written.why.chars().count() > WHY_MAX {
        return Err(Error::invalid(format!("expected {LABELS_MAX} labels and {WHY_MAX} characters at most")));
    }
    let until_ms = clock::unix_ms() + u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    let Written { rule, labels, why, .. } = written;
    Ok(Silence { id: 0, rule, labels, until_ms, by: by.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silences_that_are_wrong() {
        for (text, told) in [
            ("{}", "for"),
            (r#"{"for": "2h"}"#, "a silence of everything"),
            (r#"{"rule": "drift", "for": "2 weeks"}"#, "up to 720h"),
            (r#"{"rule": "drift", "for": "721h"}"#, "up to 720h"),
            (r#"{"rul": "drift", "for": "1h"}"#, "rul"),
        ] {
            let error = silence(text.as_bytes(), "ada").expect_err(text);
            assert!(error.message().contains(told), "{error}");
        }
        assert_eq!(silence(br#"{"rule": "drift", "for": "1h"}"#, "ada").unwrap().by, "ada");
    }
}
