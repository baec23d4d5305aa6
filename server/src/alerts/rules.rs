//! What is watched, and from where on does it alarm? The file of rules, and those that hold without one.
//!
//! ```toml
//! repeat = "4h"            # what still fires is told again
//! group = "1m"             # the least time between two messages of one rule
//! defaults = true          # the rules that hold without this file; one of the same name takes its place
//!
//! [[rule]]
//! name = "slow"
//! watch = "latency"
//! endpoint = "risk"
//! quantile = 0.99
//! limit = "50ms"
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::book::{Pace, Severity, Terms};
use crate::config::parse_duration;
use crate::endpoints::file::explain;

/// Rules that a file may have.
const RULES_MAX: usize = 200;

/// Windows of different lengths that all rules together may ask for: each keeps samples of all counters.
const LENGTHS_MAX: usize = 8;

/// The longest window.
const WINDOW_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A time as settings have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong =
            || serde::de::Error::custom(format!("{text:?}: expected a time such as \"500ms\", \"5m\" or \"4h\""));
        parse_duration(&text).map(Span).ok_or_else(wrong)
    }
}

/// What a rule looks at.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "watch", rename_all = "lowercase", deny_unknown_fields)]
pub enum Watch {
    /// Inputs and outputs against their baseline (`docs/drift.md`).
    Drift {
        /// From which level on.
        #[serde(default)]
        level: DriftLevel,
    },
    /// The share of requests that failed by the server's fault.
    Errors {
        /// The share that alarms.
        #[serde(default = "five_per_cent")]
        limit: f64,
        /// In both of these: the long one says that it matters, the short one that it still goes on.
        #[serde(default)]
        windows: Windows,
        /// Requests in the long window from which on it is looked at.
        #[serde(default = "a_hundred")]
        requests_min: u64,
    },
    /// How long answers take.
    Latency {
        /// Of so many of them at most: 0.99 is the p99.
        #[serde(default = "p99")]
        quantile: f64,
        /// The time that alarms.
        limit: Option<Span>,
        /// How many times the champion's that alarms, for the other arms of an endpoint.
        ratio: Option<f64>,
        /// As those of errors.
        #[serde(default)]
        windows: Windows,
        /// Requests in the long window from which on it is looked at; for a ratio, of both.
        #[serde(default = "a_hundred")]
        requests_min: u64,
    },
    /// The mean outcome that labels show (`docs/feedback.md`).
    Quality {
        /// Alarms below this.
        below: Option<f64>,
        /// Alarms above this.
        above: Option<f64>,
        /// Of the labels that became final within this time.
        #[serde(default = "a_day")]
        window: Span,
        /// Units with an outcome from which on it is looked at.
        #[serde(default = "a_hundred")]
        units_min: u64,
    },
    /// What a thousand rows cost, by the settings' prices.
    Cost {
        /// The amount that alarms.
        limit: f64,
        /// Of the rows of this time.
        #[serde(default = "an_hour")]
        window: Span,
        /// Rows from which on it is looked at.
        #[serde(default = "a_thousand")]
        rows_min: u64,
    },
    /// The record of requests and answers (`docs/capture.md`).
    Capture {
        /// The share of requests that are not on it against everybody's wish, that alarms.
        #[serde(default = "one_per_cent")]
        dropped: f64,
        /// Within this time.
        #[serde(default = "ten_minutes")]
        window: Span,
    },
    /// What must be on the disk, or in the registry, before anybody acts on it.
    Registry {},
    /// The date by which somebody is to look at a version in production again.
    Review {
        /// So long before.
        #[serde(default = "none")]
        before: Span,
    },
    /// Versions on a device whose traffic would fit batches at a few hours of the day.
    Batch {
        /// The device is busy for less than this share of the time.
        #[serde(default = "ten_per_cent")]
        busy: f64,
        /// Nine tenths of the rows come in less than this share of the hours.
        #[serde(default = "a_quarter")]
        hours: f64,
    },
}

/// A level of drift.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriftLevel {
    /// Different.
    Warn,
    /// Very different, or missing, unseen or out of range.
    #[default]
    Alert,
}

/// A long window and a short one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Windows(Span, Span);

impl Default for Windows {
    fn default() -> Windows {
        Windows(Span(HOUR), Span(5 * MINUTE))
    }
}

impl Windows {
    /// The long one.
    pub fn long(self) -> Duration {
        self.0.0.max(self.1.0)
    }

    /// The short one.
    pub fn short(self) -> Duration {
        self.0.0.min(self.1.0)
    }
}

fn p99() -> f64 {
    0.99
}
fn one_per_cent() -> f64 {
    0.01
}
fn five_per_cent() -> f64 {
    0.05
}
fn ten_per_cent() -> f64 {
    0.1
}
fn a_quarter() -> f64 {
    0.25
}
fn a_hundred() -> u64 {
    100
}
fn a_thousand() -> u64 {
    1_000
}
fn none() -> Span {
    Span(Duration::ZERO)
}
fn ten_minutes() -> Span {
    Span(10 * MINUTE)
}
fn an_hour() -> Span {
    Span(HOUR)
}
fn a_day() -> Span {
    Span(DAY)
}

/// How long the traffic is looked at that might fit batches.
pub const BATCH_WINDOW: Duration = DAY;

impl Watch {
    /// The windows that it asks for.
    fn lengths(&self) -> Vec<Duration> {
        match self {
            Watch::Errors { windows, .. } | Watch::Latency { windows, .. } => vec![windows.long(), windows.short()],
            Watch::Quality { window, .. } | Watch::Cost { window, .. } | Watch::Capture { window, .. } => {
                vec![window.0]
            }
            Watch::Batch { .. } => vec![BATCH_WINDOW],
            Watch::Drift { .. } | Watch::Registry {} | Watch::Review { .. } => Vec::new(),
        }
    }

    /// What is wrong with it, if anything is.
    fn fault(&self) -> Option<String> {
        let share = |name: &str, value: f64| {
            (!(value > 0.0 && value <= 1.0)).then(|| format!("{name} is {value}: expected a share above 0 and up to 1"))
        };
        let amount = |name: &str, value: f64| {
            (!(value.is_finite() && value > 0.0)).then(|| format!("{name} is {value}: expected a number above 0"))
        };
        let own = match self {
            Watch::Errors { limit, .. } => share("limit", *limit),
            Watch::Latency { quantile, limit, ratio, .. } => match (limit, ratio) {
                (None, None) => {
                    Some("expected a limit such as \"50ms\", or a ratio to the champion such as 2.0".into())
                }
                (Some(_), Some(_)) => Some("it has a limit and a ratio: expected one of them; write two rules".into()),
                (_, Some(ratio)) if *ratio <= 1.0 => Some(format!("ratio is {ratio}: expected a number above 1")),
                (_, ratio) => share("quantile", *quantile).or_else(|| amount("ratio", ratio.unwrap_or(2.0))),
            },
            Watch::Quality { below: None, above: None, .. } => Some("expected below or above, a mean outcome".into()),
            Watch::Cost { limit, .. } => amount("limit", *limit),
            Watch::Capture { dropped, .. } => share("dropped", *dropped),
            Watch::Batch { busy, hours } => share("busy", *busy).or_else(|| share("hours", *hours)),
            _ => None,
        };
        let is_odd = |length: &Duration| *length < MINUTE || *length > WINDOW_MAX;
        let window =
            || self.lengths().iter().any(is_odd).then(|| "windows: expected from \"1m\" to \"168h\"".to_owned());
        own.or_else(window)
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name in messages and metrics.
    pub name: String,
    /// Of this endpoint; of each where it is none.
    pub endpoint: Option<String>,
    /// Of this model; of each where it is none.
    pub model: Option<String>,
    /// How its alerts are treated.
    pub terms: Terms,
    /// What it looks at.
    pub watch: Watch,
}

/// All rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// In the order of the file, after those that hold without one.
    pub all: Vec<Rule>,
    /// When messages may follow each other.
    pub pace: Pace,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    repeat: Option<Span>,
    group: Option<Span>,
    #[serde(default = "yes")]
    defaults: bool,
    #[serde(default)]
    rule: Vec<toml::Table>,
}

fn yes() -> bool {
    true
}

/// What every rule may say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Common {
    name: String,
    endpoint: Option<String>,
    model: Option<String>,
    severity: Option<Severity>,
    r#for: Option<Span>,
    calm: Option<Span>,
}

const COMMON: [&str; 6] = ["name", "endpoint", "model", "severity", "for", "calm"];

impl Rules {
    /// Those that hold without a file. They are slow to alarm: each wants a good deal of evidence, and that it still goes on.
    pub fn standing() -> Rules {
        let rule = |name: &str, severity: Severity, hold: Duration, watch: Watch| Rule {
            name: name.to_owned(),
            endpoint: None,
            model: None,
            terms: Terms { severity, hold, calm: 5 * MINUTE },
            watch,
        };
        let (limit, windows, requests_min) = (five_per_cent(), Windows::default(), a_hundred());
        let errors = Watch::Errors { limit, windows, requests_min };
        let capture = Watch::Capture { dropped: one_per_cent(), window: ten_minutes() };
        let batch = Watch::Batch { busy: ten_per_cent(), hours: a_quarter() };
        let now = Duration::ZERO;
        let all = vec![
            rule("drift", Severity::Warning, now, Watch::Drift { level: DriftLevel::Alert }),
            rule("errors", Severity::Critical, now, errors),
            rule("capture", Severity::Critical, MINUTE, capture),
            rule("registry", Severity::Critical, MINUTE, Watch::Registry {}),
            rule("review", Severity::Info, now, Watch::Review { before: none() }),
            rule("batch", Severity::Info, HOUR, batch),
        ];
        Rules { all, pace: Pace { group: MINUTE, repeat: 4 * HOUR } }
    }

    /// Reads the file, where there is one. Fails, in words, where it is none.
    pub fn open(file: Option<&Path>) -> Result<Rules, String> {
        let Some(path) = file else { return Ok(Rules::standing()) };
        let of_file = |what: String| format!("alerts: {}: {what}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| of_file(error.to_string()))?;
        Rules::read(&text).map_err(of_file)
    }

    /// Reads what a file says.
    pub fn read(text: &str) -> Result<Rules, String> {
        let written: Written = toml::from_str(text).map_err(|error| explain(&error.to_string()))?;
        let mut rules = Rules::standing();
        if !written.defaults {
            rules.all.clear();
        }
        let Pace { group, repeat } = rules.pace;
        rules.pace.group = written.group.map_or(group, |group| group.0);
        rules.pace.repeat = written.repeat.map_or(repeat, |repeat| repeat.0).max(MINUTE);
        if written.rule.len() > RULES_MAX {
            return Err(format!("{} rules: expected {RULES_MAX} at most", written.rule.len()));
        }
        let mut names = BTreeMap::new();
        for (number, table) in (1..).zip(written.rule) {
            let rule = read_rule(table).map_err(|why| format!("rule {number}: {why}"))?;
            if let Some(other) = names.insert(rule.name.clone(), number) {
                return Err(format!("rules {other} and {number} are both called {:?}", rule.name));
            }
            match rules.all.iter_mut().find(|standing| standing.name == rule.name) {
                Some(standing) => *standing = rule,
                None => rules.all.push(rule),
            }
        }
        if rules.lengths().len() > LENGTHS_MAX {
            return Err(format!(
                "windows of {} different lengths: expected {LENGTHS_MAX} at most",
                rules.lengths().len()
            ));
        }
        Ok(rules)
    }

    /// The windows that all of them ask for.
    pub fn lengths(&self) -> Vec<Duration> {
        let mut lengths: Vec<Duration> = self.all.iter().flat_map(|rule| rule.watch.lengths()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        lengths
    }

    /// How the alerts of each are treated.
    pub fn terms(&self) -> BTreeMap<String, Terms> {
        self.all.iter().map(|rule| (rule.name.clone(), rule.terms)).collect()
    }
}

fn read_rule(mut table: toml::Table) -> Result<Rule, String> {
    let common: toml::Table = COMMON.iter().filter_map(|key| table.remove_entry(*key)).collect();
    let common: Common = common.try_into().map_err(|error: toml::de::Error| explain(error.message()))?;
    let named = |why: String| format!("{:?}: {why}", common.name);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if common.name.is_empty() || common.name.len() > 64 || !common.name.chars().all(is_plain) {
        return Err(named("expected a name of up to 64 letters, digits, dots, - and _".into()));
    }
    let watch: Watch = table.try_into().map_err(|error: toml::de::Error| named(explain(error.message())))?;
    if let Some(fault) = watch.fault() {
        return Err(named(fault));
    }
    let span = |span: Option<Span>, fallback: Duration| span.map_or(fallback, |span| span.0);
    let terms = Terms {
        severity: common.severity.unwrap_or(Severity::Warning),
        hold: span(common.r#for, Duration::ZERO),
        calm: span(common.calm, 5 * MINUTE),
    };
    Ok(Rule { name: common.name, endpoint: common.endpoint, model: common.model, terms, watch })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_adds_rules_and_takes_the_place_of_those_of_the_same_name() {
        let rules = Rules::read(
            "repeat = '12h'\n\
             [[rule]]\nname = 'slow'\nwatch = 'latency'\nendpoint = 'risk'\nlimit = '50ms'\nfor = '2m'\n\
             [[rule]]\nname = 'errors'\nwatch = 'errors'\nlimit = 0.01\nwindows = ['6h', '30m']\nseverity = 'warning'\n",
        )
        .expect("rules");
        assert_eq!(rules.all.len(), Rules::standing().all.len() + 1);
        assert_eq!((rules.pace.repeat, rules.pace.group), (12 * HOUR, MINUTE));
        let of = |name: &str| rules.all.iter().find(|rule| rule.name == name).expect("a rule");
        assert_eq!(of("errors").terms.severity, Severity::Warning);
        assert_eq!(of("slow").terms.hold, 2 * MINUTE);
        assert_eq!(rules.lengths(), [5 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 6 * HOUR, DAY]);
        assert_eq!(Rules::read("defaults = false").expect("none").all, []);
    }

    #[test]
    fn mistakes_are_told_with_the_rule_they_are_in() {
        for (text, told) in [
            ("rules = 1", "rules"),
            ("[[rule]]\nwatch = 'drift'", "name"),
            ("[[rule]]\nname = 'a b'\nwatch = 'drift'", "expected a name"),
            ("[[rule]]\nname = 'a'\nwatch = 'drif'", "`drift`, `errors`"),
            ("[[rule]]\nname = 'a'\nwatch = 'drift'\nlimit = 3", "limit"),
            ("[[rule]]\nname = 'a'\nwatch = 'latency'", "expected a limit"),
            ("[[rule]]\nname = 'a'\nwatch = 'latency'\nlimit = '3'", "\"3\": expected a time"),
            ("[[rule]]\nname = 'a'\nwatch = 'latency'\nratio = 0.5", "above 1"),
            ("[[rule]]\nname = 'a'\nwatch = 'errors'\nlimit = 5.0", "expected a share"),
            ("[[rule]]\nname = 'a'\nwatch = 'errors'\nwindows = ['1h', '1s']", "windows: expected"),
            ("[[rule]]\nname = 'a'\nwatch = 'quality'", "below or above"),
            ("[[rule]]\nname = 'a'\nwatch = 'drift'\n[[rule]]\nname = 'a'\nwatch = 'drift'", "rules 1 and 2"),
        ] {
            let error = Rules::read(text).expect_err(text);
            assert!(error.contains(told), "{error}");
        }
    }
}
