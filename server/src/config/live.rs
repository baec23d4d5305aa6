//! Which settings may change while the server runs, and what did somebody change?

use super::{Config, Setting};

/// The keys whose changes are taken in by a reload; all others need a restart. [`Config::renewed`] does what this says.
pub(crate) const LIVE: &[&str] = &[
    "version_policy",
    "poll_interval",
    "settle_time",
    "store_interval",
    "strict",
    "body_bytes_max",
    "request_timeout",
    "requests_max",
    "bytes_in_flight_max",
    "connections_max",
    "header_timeout",
    "idle_timeout",
    "drain_notice",
    "drain_timeout",
    "log_level",
    "triton_metrics",
    "capture_rules",
];

impl Config {
    /// These settings with what `new` says of the keys that may change while the server runs.
    pub(crate) fn renewed(&self, new: &Config) -> Config {
        Config {
            version_policy: new.version_policy.clone(),
            poll_interval: new.poll_interval,
            settle_time: new.settle_time,
            store_interval: new.store_interval,
            strict: new.strict,
            body_bytes_max: new.body_bytes_max,
            request_timeout: new.request_timeout,
            requests_max: new.requests_max,
            bytes_in_flight_max: new.bytes_in_flight_max,
            connections_max: new.connections_max,
            header_timeout: new.header_timeout,
            idle_timeout: new.idle_timeout,
            drain_notice: new.drain_notice,
            drain_timeout: new.drain_timeout,
            log_level: new.log_level,
            triton_metrics: new.triton_metrics,
            capture_rules: new.capture_rules.clone(),
            ..self.clone()
        }
    }
}

/// A setting that was written anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: &'static str,
    /// What holds until it is taken in.
    pub from: String,
    /// What is written now.
    pub to: String,
}

impl Change {
    /// Whether a reload takes it in.
    pub fn is_live(&self) -> bool {
        LIVE.contains(&self.key)
    }
}

/// What differs between two readings of all settings.
pub fn changes(old: &[Setting], new: &[Setting]) -> Vec<Change> {
    let pairs = old.iter().zip(new).filter(|(old, new)| old.key == new.key && old.value != new.value);
    pairs.map(|(old, new)| Change { key: new.key, from: old.value.clone(), to: new.value.clone() }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::keys::KEYS;
    use super::super::{Loaded, command_flags, load};
    use super::*;

    fn loaded(file: &str) -> Loaded {
        let command = clap::Command::new("serve").args(command_flags());
        load(&command.get_matches_from(["serve"]), &BTreeMap::new(), &|_| Ok(file.to_owned())).unwrap()
    }

    /// Another value than the default for every key that may change.
    const OTHERS: &str = "version_policy = 'latest:5'
poll_interval = '9s'
settle_time = '9s'
store_interval = '9s'
\
         strict = true
body_bytes_max = 999
\
         request_timeout = '9s'\nrequests_max = 9\nbytes_in_flight_max = 999\nconnections_max = 9\n\
         header_timeout = '9s'\nidle_timeout = '9s'\ndrain_notice = '9s'\ndrain_timeout = '9s'\nlog_level = 'trace'\n\
         triton_metrics = true\ncapture_rules = '/rules.toml'\n";

    #[test]
    fn every_live_key_is_a_key_and_is_taken_in() {
        for key in LIVE {
            assert!(KEYS.iter().any(|known| known.name == *key), "{key}");
        }
        let (old, new) = (loaded(""), loaded(OTHERS));
        let changed: Vec<&str> = changes(&old.origins, &new.origins).iter().map(|change| change.key).collect();
        assert_eq!(changed, LIVE);
        for line in OTHERS.lines() {
            let renewed = old.config.renewed(&loaded(line).config);
            assert_ne!(renewed, old.config, "{line} is not taken in");
        }
        assert_eq!(old.config.renewed(&new.config), new.config);
    }

    #[test]
    fn other_keys_stay_as_they_are() {
        let old = loaded("");
        let new = loaded("http_port = 9000\nmodels = '/elsewhere'\ndrain_timeout = '1m'\n");
        let renewed = old.config.renewed(&new.config);
        assert_eq!((renewed.http_port, &renewed.models), (old.config.http_port, &old.config.models));
        assert_eq!(renewed.drain_timeout, new.config.drain_timeout);
        let told: Vec<(&str, bool)> =
            changes(&old.origins, &new.origins).iter().map(|change| (change.key, change.is_live())).collect();
        assert_eq!(told, [("models", false), ("http_port", false), ("drain_timeout", true)]);
    }
}
