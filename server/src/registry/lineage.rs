//! How do other systems hear what became of which version? As OpenLineage events, sent on a thread of their own.
//!
//! Who sends nothing waits for nothing: what is told is on the record first, and a receiver that does not answer costs events, which
//! are counted and said, and no more.

use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use serde_json::Value;

use crate::config::Config;
use crate::locks::fetch;

/// Events that wait to be sent.
const WAITING_MAX: usize = 1024;

/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The pauses before an event is sent once more.
const AGAIN: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5)];

/// The way of events to whoever is told of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Lineage(Option<Sender<Value>>);

impl Lineage {
    /// Starts the thread, where the settings name somebody. Fails, in words, where they cannot be used.
    pub(super) fn start(config: &Config) -> Result<Lineage, String> {
        let Some(url) = &config.lineage_url else { return Ok(Lineage::default()) };
        let url = fetch::safe(url).ok_or("lineage_url: expected https://, or http:// on this machine itself")?;
        let token = config.lineage_token_file.as_deref().map(token).transpose()?;
        let tls = fetch::tls(None, None).map_err(|reason| format!("lineage_url: {reason}"))?;
        let settings = ureq::Agent::config_builder().max_redirects(0).timeout_global(Some(ANSWER_MAX)).tls_config(tls);
        let agent = settings.build().new_agent();
        let (events, waiting) = bounded(WAITING_MAX);
        let send = move || send_all(&waiting, &agent, &url, token.as_deref());
        let started: io::Result<_> = thread::Builder::new().name("tiltyard-lineage".into()).spawn(send);
        started.map_err(|error| format!("a thread cannot be started: {error}"))?;
        Ok(Lineage(Some(events)))
    }

    /// Has an event sent, if there is room for it.
    pub(super) fn tell(&self, event: Value) {
        if let Some(events) = &self.0
            && let Err(TrySendError::Full(_)) = events.try_send(event)
        {
            tracing::warn!("an event of lineage was not sent, since {WAITING_MAX} wait already");
        }
    }

    /// Whether anybody is told.
    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

fn token(path: &Path) -> Result<String, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("lineage_token_file {}: {error}", path.display()))?;
    Ok(format!("Bearer {}", text.trim()))
}

/// The thread's life.
fn send_all(waiting: &Receiver<Value>, agent: &ureq::Agent, url: &str, token: Option<&str>) {
    let mut is_down = false;
    for event in waiting {
        let body = event.to_string();
        let post = || {
            let request = agent.post(url).header("content-type", "application/json");
            let request = token.into_iter().fold(request, |request, token| request.header("authorization", token));
            request.send(body.as_bytes())
        };
        let mut sent = post();
        for pause in AGAIN {
            if sent.is_ok() {
                break;
            }
            thread::sleep(pause);
            sent = post();
        }
        match (&sent, is_down) {
            (Err(error), false) => {
                tracing::error!(%error, "events of lineage cannot be sent: they are lost until that is over")
            }
            (Ok(_), true) => tracing::info!("events of lineage are sent again"),
            _ => {}
        }
        is_down = sent.is_err();
    }
}
