//! Who is told of verdicts, and asked before a step?
//!
//! One thread posts CloudEvents 1.0 to one URL, one after the other, each signed as Standard Webhooks has it (HMAC-SHA256 over id,
//! time and body). Nobody waits for it: what cannot be told after some tries is logged, and what it was asked is asked again.

use std::path::Path;
use std::time::Duration;
use std::{io, thread};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crossbeam_channel::{Receiver, Sender, bounded};
use ring::hmac;
use serde_json::{Value, json};
use tiltyard_rollout::judge::{Decision, Reason, Verdict};
use tokio::sync::oneshot;

use super::{Order, Wish};
use crate::clock;
use crate::config::Config;
use crate::locks::fetch;

/// What a gate's name begins with that the webhook answers for.
pub(super) const GATE: &str = "webhook";

/// Events that wait for their turn.
const WAITING_MAX: usize = 1_000;

/// How long it is waited between tries.
const TRIES: [Duration; 3] = [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(5)];

/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 1 << 16;

/// The way to the thread; none where there is no webhook.
#[derive(Debug)]
pub(super) struct Hooks(Option<Sender<Post>>);

/// Where events go.
pub struct Hook {
    url: String,
    key: Option<hmac::Key>,
    agent: ureq::Agent,
}

#[derive(Debug)]
struct Post {
    /// The event's name: whoever hears it twice knows.
    id: String,
    body: String,
    /// The endpoint and gate that are asked about.
    asks: Option<(String, String)>,
}

impl Hook {
    /// The hook that the settings name, if any. Fails, in words, where it cannot be used.
    pub fn of(config: &Config) -> Result<Option<Hook>, String> {
        let Some(url) = &config.webhook_url else {
            return match (&config.webhook_secret_file, &config.webhook_ca) {
                (None, None) => Ok(None),
                _ => Err("webhook_secret_file and webhook_ca need webhook_url".to_owned()),
            };
        };
        let url = fetch::safe(url)
            .ok_or_else(|| format!("webhook_url is {url:?}: expected https://, or http:// on this machine itself"))?;
        let tls = fetch::tls(config.webhook_ca.as_deref(), None).map_err(|reason| format!("webhook_ca: {reason}"))?;
        let key = config.webhook_secret_file.as_deref().map(secret).transpose()?;
        let settings = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(ANSWER_MAX))
            .tls_config(tls);
        Ok(Some(Hook { url, key, agent: settings.build().new_agent() }))
    }

    /// Posts once. The answer's body where that was good; fails in words.
    fn post(&self, post: &Post) -> Result<Vec<u8>, String> {
        let seconds = (clock::unix_ms() / 1_000).to_string();
        let mut request = self
            .agent
            .post(&self.url)
            .header("content-type", "application/cloudevents+json; charset=utf-8")
            .header("webhook-id", &post.id)
            .header("webhook-timestamp", &seconds);
        if let Some(key) = &self.key {
            request = request.header("webhook-signature", signature(key, &post.id, &seconds, &post.body));
        }
        let mut response = request.send(post.body.as_bytes()).map_err(|error| error.to_string())?;
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec();
        match response.status().as_u16() {
            200..=299 => body.map_err(|error| error.to_string()),
            status => Err(format!("it answered with status {status}")),
        }
    }
}

/// The key in a file: `whsec_` and base64, or the bytes themselves.
fn secret(path: &Path) -> Result<hmac::Key, String> {
    let said = |reason: &str| format!("webhook_secret_file {}: {reason}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| said(&error.to_string()))?;
    let text = text.trim();
    let bytes = match text.strip_prefix("whsec_") {
        Some(encoded) => STANDARD.decode(encoded).map_err(|_| said("what follows whsec_ is not base64"))?,
        None => text.as_bytes().to_vec(),
    };
    if bytes.len() < 16 {
        return Err(said("expected a secret of 16 bytes at least"));
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn signature(key: &hmac::Key, id: &str, seconds: &str, body: &str) -> String {
    let signed = hmac::sign(key, format!("{id}.{seconds}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(signed))
}

impl Hooks {
    /// Starts the thread where there is a hook. What gates are answered comes as `orders`.
    pub(super) fn start(hook: Option<Hook>, orders: Sender<Order>) -> io::Result<Hooks> {
        let Some(hook) = hook else { return Ok(Hooks(None)) };
        let (sender, posts) = bounded(WAITING_MAX);
        thread::Builder::new().name("tiltyard-hooks".into()).spawn(move || deliver(&hook, &posts, &orders))?;
        Ok(Hooks(Some(sender)))
    }

    /// Whether anybody answers for gates.
    pub(super) fn are_there(&self) -> bool {
        self.0.is_some()
    }

    /// Tells of a decision; of what is waited for only people who look.
    pub(super) fn tell(&self, rollout: &str, endpoint: &str, verdict: &Verdict) {
        if verdict.decision != Decision::NotYet {
            let data = json!({ "rollout": rollout, "endpoint": endpoint, "verdict": verdict });
            let id = format!("{rollout}/{}", verdict.sequence);
            self.send(event("verdict", &id, rollout, verdict.time_ms, data), id, None);
        }
    }

    /// Asks whether a gate lets through, that the verdict waits for.
    pub(super) fn ask(&self, rollout: &str, endpoint: &str, verdict: &Verdict, gate: &str) {
        let data = json!({ "rollout": rollout, "endpoint": endpoint, "gate": gate, "verdict": verdict });
        let id = format!("{rollout}/{}/{gate}", verdict.sequence);
        let asks = Some((endpoint.to_owned(), gate.to_owned()));
        self.send(event("gate", &id, rollout, verdict.time_ms, data), id, asks);
    }

    fn send(&self, event: Value, id: String, asks: Option<(String, String)>) {
        let Some(sender) = &self.0 else { return };
        let post = Post { id, body: event.to_string(), asks };
        if let Err(error) = sender.try_send(post) {
            tracing::error!(
                event = error.into_inner().id,
                "too many events wait for the webhook: this one is not told"
            );
        }
    }
}

/// The gates of the webhook that a verdict waits for.
pub(super) fn asked(verdict: &Verdict) -> impl Iterator<Item = &str> {
    verdict.reasons.iter().filter_map(|reason| match reason {
        Reason::Gate { gate, refused: false } if gate.starts_with(GATE) => Some(gate.as_str()),
        _ => None,
    })
}

/// A CloudEvent in its structured form.
fn event(kind: &str, id: &str, rollout: &str, time_ms: u64, data: Value) -> Value {
    let time = std::time::UNIX_EPOCH + Duration::from_millis(time_ms);
    json!({
        "specversion": "1.0",
        "id": id,
        "source": "/tiltyard/rollouts",
        "type": format!("tiltyard.rollout.{kind}"),
        "subject": rollout,
        "time": humantime::format_rfc3339_millis(time).to_string(),
        "datacontenttype": "application/json",
        "data": data,
    })
}

/// The thread's life.
fn deliver(hook: &Hook, posts: &Receiver<Post>, orders: &Sender<Order>) {
    for post in posts {
        let Some(answer) = deliver_one(hook, &post) else { continue };
        let Some((endpoint, gate)) = post.asks else { continue };
        let (answer_to, _) = oneshot::channel();
        let wish = Wish::Gate { gate, passed: lets_through(&answer), evidence: None };
        drop(orders.send(Order { endpoint, by: GATE.to_owned(), wish, answer: answer_to }));
    }
}

fn deliver_one(hook: &Hook, post: &Post) -> Option<Vec<u8>> {
    let mut last = String::new();
    for pause in TRIES {
        thread::sleep(pause);
        match hook.post(post) {
            Ok(answer) => return Some(answer),
            Err(error) => last = error,
        }
    }
    tracing::error!(event = post.id, error = last, "the webhook cannot be told");
    None
}

/// Whether a good answer lets through: `{"passed": false}` does not.
fn lets_through(answer: &[u8]) -> bool {
    serde_json::from_slice::<Value>(answer).map_or(true, |answer| answer["passed"] != false)
}

#[cfg(test)]
mod tests {
    use tiltyard_rollout::judge::{Stage, State};

    use super::*;

    /// The example of the Standard Webhooks specification.
    #[test]
    fn signatures_are_those_of_the_standard() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
        let signed =
            signature(&secret(&file).unwrap(), "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        std::fs::write(&file, "short").unwrap();
        assert!(secret(&file).unwrap_err().contains("16 bytes"));
    }

    #[test]
    fn only_a_plain_no_holds_a_gate_shut() {
        for (answer, expected) in
            [("", true), ("ok", true), ("{}", true), (r#"{"passed": true}"#, true), (r#"{"passed": false}"#, false)]
        {
            assert_eq!(lets_through(answer.as_bytes()), expected, "{answer}");
        }
    }

    #[test]
    fn gates_that_are_the_webhooks_are_asked_about() {
        let gate = |gate: &str, refused| Reason::Gate { gate: gate.into(), refused };
        let reasons =
            vec![gate("webhook", false), gate("ada", false), gate("webhook:late", true), gate("webhook:50", false)];
        let state = State::Running(Stage::Baking);
        let verdict = Verdict { sequence: 3, time_ms: 0, decision: Decision::NotYet, state, share: 1, reasons };
        assert_eq!(asked(&verdict).collect::<Vec<_>>(), ["webhook", "webhook:50"]);
        let told = event("gate", "risk-1/3", "risk-1", 1_500, json!({}));
        assert_eq!(
            (&told["time"], &told["type"]),
            (&json!("1970-01-01T00:00:01.500Z"), &json!("tiltyard.rollout.gate"))
        );
    }
}
