//! How does a message get to whoever is told of alerts? Over HTTPS, on a thread that may be slow.

use std::path::Path;
use std::time::Duration;

use super::book::Message;
use super::forms;
use crate::config::{AlertsForm, Config};
use crate::locks::fetch;

/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Where Alertmanager takes alerts.
const ALERTMANAGER_PATH: &str = "/api/v2/alerts";

/// Whoever is told. The URL is a secret with some of them: it is in no error and no log.
pub struct Receiver {
    url: String,
    authorization: Option<String>,
    form: AlertsForm,
    agent: ureq::Agent,
}

impl Receiver {
    /// Whom the settings name, if anybody. Fails, in words, where they cannot be used.
    pub fn of(config: &Config) -> Result<Option<Receiver>, String> {
        let url = match (&config.alerts_webhook, &config.alerts_webhook_file) {
            (Some(_), Some(_)) => {
                return Err("alerts_webhook and alerts_webhook_file are both set: expected one of them".to_owned());
            }
            (Some(url), None) => url.clone(),
            (None, Some(path)) => first_line("alerts_webhook_file", path)?,
            (None, None) => match (&config.alerts_token_file, &config.alerts_ca) {
                (None, None) => return Ok(None),
                _ => {
                    return Err("alerts_token_file and alerts_ca need alerts_webhook or alerts_webhook_file".to_owned());
                }
            },
        };
        let mut url =
            fetch::safe(&url).ok_or("alerts_webhook: expected https://, or http:// on this machine itself")?;
        if config.alerts_form == AlertsForm::Alertmanager && !url.ends_with(ALERTMANAGER_PATH) {
            url = format!("{}{ALERTMANAGER_PATH}", url.trim_end_matches('/'));
        }
        let token =
            config.alerts_token_file.as_deref().map(|path| first_line("alerts_token_file", path)).transpose()?;
        let tls = fetch::tls(config.alerts_ca.as_deref(), None).map_err(|reason| format!("alerts_ca: {reason}"))?;
        let settings = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(ANSWER_MAX))
            .tls_config(tls);
        let (authorization, agent) = (token.map(|token| format!("Bearer {token}")), settings.build().new_agent());
        Ok(Some(Receiver { url, authorization, form: config.alerts_form, agent }))
    }

    /// Tells once. Blocks; fails in words without the URL.
    pub(super) fn tell(&self, message: &Message) -> Result<(), String> {
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let body = forms::body(self.form, message).to_string();
        let response =
            request.send(body.as_bytes()).map_err(|error| error.to_string().replace(&self.url, "the webhook"))?;
        match response.status().as_u16() {
            200..=299 => Ok(()),
            status => Err(format!("it answered with status {status}")),
        }
    }
}

fn first_line(key: &str, path: &Path) -> Result<String, String> {
    let said = |reason: String| format!("{key} {}: {reason}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| said(error.to_string()))?;
    let line = text.lines().next().unwrap_or_default().trim().to_owned();
    if line.is_empty() { Err(said("expected a line".to_owned())) } else { Ok(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_used_are_told_without_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        std::fs::write(&file, "http://hooks.example/secret\n").unwrap();
        let webhook = || Some("http://127.0.0.1:1/x".to_owned());
        let of = |config: Config| Receiver::of(&config).map(|receiver| receiver.map(|receiver| receiver.url));
        let wrong = of(Config { alerts_webhook_file: Some(file.clone()), ..Config::default() }).unwrap_err();
        assert!(wrong.contains("https://") && !wrong.contains("secret"), "{wrong}");
        let both = Config { alerts_webhook: webhook(), alerts_webhook_file: Some(file.clone()), ..Config::default() };
        assert!(of(both).unwrap_err().contains("one of them"));
        assert!(of(Config { alerts_ca: Some(file), ..Config::default() }).unwrap_err().contains("need"));
        assert_eq!(of(Config::default()), Ok(None));
        let form = AlertsForm::Alertmanager;
        let url = of(Config { alerts_webhook: webhook(), alerts_form: form, ..Config::default() });
        assert_eq!(url, Ok(Some("http://127.0.0.1:1/x/api/v2/alerts".to_owned())));
    }
}
