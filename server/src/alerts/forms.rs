//! What do the receivers of alerts want to read? Our own form, Alertmanager's, and Slack's.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::book::{Message, Phase, Told};
use crate::config::AlertsForm;

/// Characters of one alert's reasons that a chat is shown.
const CHAT_MAX: usize = 1_000;

/// The message as its receiver reads it.
pub(super) fn body(form: AlertsForm, message: &Message) -> Value {
    match form {
        AlertsForm::Tiltyard => ours(message),
        AlertsForm::Alertmanager => alertmanager(message),
        AlertsForm::Slack => json!({ "text": chat(message) }),
    }
}

fn time(ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// One name for one alert from its beginning to its end, also where it is told several times.
fn id(message: &Message, told: &Told) -> String {
    let labels = told.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",");
    format!("{}{{{labels}}}@{}", message.rule, told.alert.fired_ms)
}

fn ours(message: &Message) -> Value {
    let is_firing = message.alerts.iter().any(|told| told.alert.phase == Phase::Firing);
    let alerts = message.alerts.iter().map(|told| {
        let ended = (told.alert.phase != Phase::Firing).then(|| time(told.alert.since_ms));
        json!({
            "id": id(message, told), "status": status(told), "labels": told.labels, "why": told.alert.why,
            "since": time(told.alert.fired_ms), "ended": ended,
        })
    });
    json!({
        "version": "1", "rule": message.rule, "severity": message.severity, "time": time(message.time_ms),
        "status": if is_firing { "firing" } else { "resolved" }, "alerts": alerts.collect::<Vec<_>>(),
    })
}

fn status(told: &Told) -> &'static str {
    if told.alert.phase == Phase::Firing { "firing" } else { "resolved" }
}

/// The body of `POST /api/v2/alerts`. What fires ends where nothing is heard of it for twice the time after which it is told again.
fn alertmanager(message: &Message) -> Value {
    let alerts = message.alerts.iter().map(|told| {
        let mut labels = json!({ "alertname": message.rule, "severity": message.severity, "job": "tiltyard" });
        told.labels.iter().for_each(|(name, value)| labels[name] = json!(value));
        let ends_ms = if told.alert.phase == Phase::Firing { message.holds_ms } else { told.alert.since_ms };
        json!({
            "labels": labels, "annotations": { "summary": told.alert.why },
            "startsAt": time(told.alert.fired_ms), "endsAt": time(ends_ms),
        })
    });
    Value::Array(alerts.collect())
}

fn chat(message: &Message) -> String {
    let line = |told: &Told| {
        let labels = told.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ");
        let why: String = told.alert.why.chars().take(CHAT_MAX).collect();
        let (status, severity) = (status(told).to_uppercase(), message.severity.name());
        // What chats take for markup is a name that a client may have written.
        let escaped = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        format!("{status} ({severity}) {}: {}: {}", message.rule, escaped(&labels), escaped(&why))
    };
    message.alerts.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::book::{Book, Finding, Kept, Labels, Pace, Severity, Terms};
    use super::*;

    /// A message of an alert that fires, and of one that is over.
    fn message() -> Message {
        let terms = Terms { severity: Severity::Critical, hold: Duration::ZERO, calm: Duration::ZERO };
        let pace = Pace { group: Duration::ZERO, repeat: Duration::from_secs(3600) };
        let mut book = Book::open(BTreeMap::from([("errors".to_owned(), terms)]), pace, Kept::default(), 0);
        let finding = |version: &str, is_met| Finding {
            rule: "errors".into(),
            labels: Labels::from([("version".to_owned(), version.to_owned())]),
            is_met: Some(is_met),
            why: "5 of 9 <failed>".into(),
        };
        book.look(&[finding("1", true), finding("2", true)], 1_000);
        let first = book.due(1_000).remove(0);
        book.settle(&first, true, 1_000);
        book.look(&[finding("1", true), finding("2", false)], 61_000);
        book.due(61_000).remove(0)
    }

    #[test]
    fn our_own_form_names_each_alert_the_same_to_its_end() {
        let body = body(AlertsForm::Tiltyard, &message());
        assert_eq!(
            body,
            json!({
                "version": "1", "rule": "errors", "severity": "critical", "time": "1970-01-01T00:01:01.000Z", "status": "firing",
                "alerts": [
                    {"id": "errors{version=1}@1000", "status": "firing", "labels": {"version": "1"}, "why": "5 of 9 <failed>",
                     "since": "1970-01-01T00:00:01.000Z", "ended": null},
                    {"id": "errors{version=2}@1000", "status": "resolved", "labels": {"version": "2"}, "why": "5 of 9 <failed>",
                     "since": "1970-01-01T00:00:01.000Z", "ended": "1970-01-01T00:01:01.000Z"},
                ],
            })
        );
    }

    #[test]
    fn others_read_what_they_know() {
        let alerts = body(AlertsForm::Alertmanager, &message());
        assert_eq!(
            (&alerts[0]["labels"], &alerts[0]["endsAt"], &alerts[1]["endsAt"]),
            (
                &json!({"alertname": "errors", "severity": "critical", "job": "tiltyard", "version": "1"}),
                &json!("1970-01-01T02:01:01.000Z"),
                &json!("1970-01-01T00:01:01.000Z")
            )
        );
        let chat = body(AlertsForm::Slack, &message());
        let expected = "FIRING (critical) errors: version=1: 5 of 9 &lt;failed&gt;\nRESOLVED (critical) errors: version=2: 5 of 9 &lt;failed&gt;";
        assert_eq!(chat, json!({ "text": expected }));
    }
}
