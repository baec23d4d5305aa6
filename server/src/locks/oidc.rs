//! Where do a provider's keys come from, and when are they fetched again?

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use serde_json::Value;
use tiltyard_types::Moment;

use super::fetch::{self, Client};
use super::followed::Followed;
use super::jwks::Keys;
use super::jwt::Expected;
use crate::clock;
use crate::config::Config;

/// Between two fetches that went well.
const REFRESH: Duration = Duration::from_secs(300);

/// Before the next try after one that failed; doubled with each, up to [`REFRESH`].
const RETRY: Duration = Duration::from_secs(2);

/// Between two fetches at least, when tokens name keys that are not known: strangers can make up names.
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(10);

/// A provider of JSON web tokens.
pub(super) struct Oidc {
    pub(super) expected: Expected,
    /// None until they were fetched for the first time.
    pub(super) keys: ArcSwapOption<Keys>,
    /// Set when a token names a key that is not among them.
    key_missed: AtomicBool,
    source: Mutex<Source>,
}

enum Source {
    File(Followed),
    Url { client: Client, asked: Asked, schedule: Schedule },
}

/// What is asked for the keys.
enum Asked {
    Keys(String),
    /// The provider's description of itself, which names their place.
    Issuer(String),
}

impl Oidc {
    /// What the configuration asks for. Fails, in words, on settings that do not belong together and on a file of keys that
    /// cannot be read. A provider that does not answer yet is no failure.
    pub(super) fn open(config: &Config) -> Result<Option<Oidc>, String> {
        let Some(issuer) = config.oidc_issuer.clone() else {
            return match config.oidc_audience.is_empty() && config.oidc_jwks.is_none() {
                true => Ok(None),
                false => Err("oidc_audience and oidc_jwks need oidc_issuer".to_owned()),
            };
        };
        if config.oidc_audience.is_empty() {
            return Err("oidc_issuer needs oidc_audience: a token for somebody else must not open this door".to_owned());
        }
        let (source, keys) = source(config, &issuer)?;
        let expected = Expected {
            issuer,
            audiences: config.oidc_audience.clone(),
            algorithms: config.oidc_algorithms.clone(),
            groups_claim: config.oidc_groups_claim.clone(),
        };
        let keys = ArcSwapOption::from(keys.map(Arc::new));
        Ok(Some(Oidc { expected, keys, key_missed: AtomicBool::new(false), source: Mutex::new(source) }))
    }

    /// A token named a key that is not known: perhaps it is new.
    pub(super) fn miss_key(&self) {
        self.key_missed.store(true, Relaxed);
    }

    /// Reads or fetches the keys where it is time to. Says whether they changed. May block for seconds.
    pub(super) fn look(&self) -> bool {
        let mut source = self.source.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match &mut *source {
            Source::File(followed) => match followed.look() {
                None => return false,
                Some(read) => read.and_then(|contents| Keys::parse(&contents.concat())),
            },
            Source::Url { client, asked, schedule } => {
                if !schedule.is_due(clock::now(), self.key_missed.load(Relaxed)) {
                    return false;
                }
                self.key_missed.store(false, Relaxed);
                let found = asked.fetch(client);
                schedule.note(clock::now(), found.is_ok());
                found
            }
        };
        match found {
            Ok(keys) if self.keys.load().as_deref() == Some(&keys) => false,
            Ok(keys) => {
                self.keys.store(Some(Arc::new(keys)));
                tracing::info!(issuer = self.expected.issuer, "the provider's keys were read");
                true
            }
            Err(reason) => {
                tracing::warn!(reason, "the provider's keys cannot be read: those known before stay in force");
                false
            }
        }
    }
}

fn source(config: &Config, issuer: &str) -> Result<(Source, Option<Keys>), String> {
    let asked = match &config.oidc_jwks {
        Some(place) if !place.contains("://") => {
            let said = |reason: String| format!("oidc_jwks: {reason}");
            let (followed, contents) = Followed::open(vec![PathBuf::from(place)]).map_err(said)?;
            return Ok((Source::File(followed), Some(Keys::parse(&contents.concat()).map_err(said)?)));
        }
        Some(url) => Asked::Keys(safe(url, "oidc_jwks")?),
        None => Asked::Issuer(safe(issuer, "oidc_issuer")?),
    };
    let ca = config.oidc_ca.as_deref().map(Path::new);
    let client = Client::new(fetch::tls(ca, None).map_err(|reason| format!("oidc_ca: {reason}"))?);
    Ok((Source::Url { client, asked, schedule: Schedule::default() }, None))
}

/// Keys that came in the clear would be anybody's.
fn safe(url: &str, key: &str) -> Result<String, String> {
    let wrong = || format!("{key} is {url:?}: keys are fetched over https:// only (http:// from this machine itself)");
    fetch::safe(url).ok_or_else(wrong)
}

impl Asked {
    fn fetch(&self, client: &Client) -> Result<Keys, String> {
        match self {
            Asked::Keys(url) => Keys::parse(&client.get(url)?),
            Asked::Issuer(issuer) => {
                let about = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
                let form: Value =
                    serde_json::from_slice(&client.get(&about)?).map_err(|error| format!("{about}: {error}"))?;
                let text = |name: &str| form.get(name).and_then(Value::as_str);
                if text("issuer") != Some(issuer) {
                    return Err(format!("{about} is about another issuer: {:?}", text("issuer").unwrap_or_default()));
                }
                let place = text("jwks_uri").ok_or_else(|| format!("{about} names no jwks_uri"))?;
                Keys::parse(&client.get(&safe(place, "the provider's jwks_uri")?)?)
            }
        }
    }
}

/// When to fetch next.
#[derive(Debug, Default)]
struct Schedule {
    last: Option<Moment>,
    failures: u32,
}

impl Schedule {
    fn is_due(&self, now: Moment, key_missed: bool) -> bool {
        let Some(last) = self.last else { return true };
        let pause = match self.failures {
            0 if key_missed => UNKNOWN_KEY_PAUSE,
            0 => REFRESH,
            failures => RETRY.saturating_mul(1 << (failures - 1).min(16)).min(REFRESH),
        };
        now >= last + pause
    }

    fn note(&mut self, now: Moment, went_well: bool) {
        self.last = Some(now);
        self.failures = if went_well { 0 } else { self.failures.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetches_are_spread_and_failures_back_off() {
        let at = |seconds: u64| Moment::from_nanos(seconds * 1_000_000_000);
        let mut schedule = Schedule::default();
        assert!(schedule.is_due(at(0), false));
        schedule.note(at(0), true);
        assert!(!schedule.is_due(at(299), false) && schedule.is_due(at(300), false));
        assert!(!schedule.is_due(at(9), true) && schedule.is_due(at(10), true));
        schedule.note(at(300), false);
        assert!(!schedule.is_due(at(301), true) && schedule.is_due(at(302), false));
        schedule.note(at(302), false);
        assert!(!schedule.is_due(at(305), false) && schedule.is_due(at(306), false));
        (0..100).for_each(|_| schedule.note(at(400), false));
        assert!(!schedule.is_due(at(699), true) && schedule.is_due(at(700), true));
    }

    #[test]
    fn keys_come_over_https_or_from_here() {
        let check = |url: &str, right: bool| assert_eq!(safe(url, "k").is_ok(), right, "{url}");
        check("https://login.example.com/realms/a", true);
        check("http://127.0.0.1:9000/jwks", true);
        check("http://localhost/", true);
        check("http://login.example.com", false);
        check("http://127.0.0.1.example.com/", false);
        check("http://localhost.example.com:80/", false);
        check("https:///x", false);
        check("ftp://127.0.0.1", false);
    }

    #[test]
    fn settings_that_do_not_belong_together_are_told() {
        let check = |config: Config, expected: &str| {
            let reason = Oidc::open(&config).err().unwrap_or_default();
            assert!(reason.contains(expected), "{reason}");
        };
        let issuer = Some("https://login.example.com".to_owned());
        let audience = vec!["tiltyard".to_owned()];
        check(Config { oidc_issuer: issuer.clone(), ..Config::default() }, "needs oidc_audience");
        check(Config { oidc_audience: audience.clone(), ..Config::default() }, "need oidc_issuer");
        let oidc_jwks = Some("/nowhere/keys.json".to_owned());
        check(
            Config { oidc_issuer: issuer, oidc_audience: audience, oidc_jwks, ..Config::default() },
            "/nowhere/keys.json",
        );
        assert!(Oidc::open(&Config::default()).is_ok_and(|oidc| oidc.is_none()));
    }
}
