//! How does somebody write what a rollout shall be? As little as a version; the rest has defaults.
//!
//! One form for all who read it: `tiltyard apply`, files of `--endpoints`, `tiltyard rollout start --plan` and `rollout plan`.

use ring::digest::{SHA256, digest};
use serde::Deserialize;
use serde_json::{Map, Value};
use tiltyard_rollout::plan::{Agreement, Comparison, Guardrail, HeaderRule, KeySource, Policy, SLOW_OVER, Step};
use tiltyard_types::{Error, Result};

use super::feedback::written::{complete, wants_pairs};
use super::gatherer::ERRORS;
use crate::config::parse_duration;
use crate::endpoints::file::{Share, explain, parse};
use crate::shadow::{lane, measure};

/// The schedule where nobody says.
const STEPS: [(u32, u64); 4] = [(10_000, 10), (50_000, 10), (250_000, 10), (500_000, 10)];

const MINUTE_MS: u64 = 60_000;

/// A challenger so few of whose answers are slower than was declared passes, whatever its champion's are.
const SLOW_FLOOR: f64 = 0.01;

/// What only a rollout has: a file with one of these declares one.
const ITS_OWN: [&str; 6] = ["champion", "challenger", "steps", "policy", "shadow", "attempt"];

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// The name that clients call, where neither the file's name nor the path says it.
    pub endpoint: Option<String>,
    /// Whoever answers, where it is left out.
    pub champion: Option<WrittenArm>,
    /// Whom it is about; left out only where a flag says it.
    pub challenger: Option<WrittenArm>,
    /// That of the plan that holds, or else each request is on its own.
    pub key: Option<KeySource>,
    steps: Option<Vec<WrittenStep>>,
    #[serde(default)]
    policy: Map<String, Value>,
    /// How much of the traffic the challenger sees as a shadow, before and beside its share.
    pub(crate) shadow: Option<Share>,
    /// Those of the plan that holds, where they are left out.
    pub headers: Option<Vec<HeaderRule>>,
    /// Made of the rollout's name, where it is left out.
    pub salt: Option<String>,
    /// With another number the same is begun anew.
    #[serde(rename = "attempt")]
    _attempt: Option<u64>,
}

/// A version in one of the two parts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WrittenArm {
    /// What figures call it.
    pub name: Option<String>,
    /// The endpoint's name, or the champion's model, where it is left out.
    pub model: Option<String>,
    /// From 1.
    pub version: u64,
    /// Where only that deployment will do.
    pub digest: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStep {
    share: Share,
    min_time: Option<String>,
    #[serde(default)]
    min_units: u64,
    #[serde(default)]
    gates: Vec<String>,
}

/// A rollout that a file declares.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// The name that clients call.
    pub endpoint: String,
    /// What it shall be.
    pub written: Written,
    /// SHA-256 of what the file says, whatever its order, comments and white space: who declares that again means the same rollout.
    pub digest: String,
    /// What the file says.
    pub says: Value,
}

/// Whether a file declares a rollout, and no plan with shares. Fails where it is half of each.
pub fn is_rollout(says: &Value) -> Result<bool> {
    let has = |key: &&str| says.get(*key).is_some();
    let Some(found) = ITS_OWN.iter().find(|key| has(key)) else { return Ok(false) };
    match has(&"arms") {
        false => Ok(true),
        true => Err(Error::invalid(format!(
            "{found} is for versions that compete, and arms are for shares that stay: expected champion = {{ version = 1 }} and \
             challenger = {{ version = 2 }} in place of arms, or arms alone"
        ))),
    }
}

/// Reads TOML or JSON: what is written, and the same as a value.
pub fn read(text: &str) -> Result<(Written, Value)> {
    let says = parse(text)?;
    // A file that is half a plan is told so, and not which of its keys are unknown.
    is_rollout(&says)?;
    Ok((parse(text)?, says))
}

impl Declared {
    /// What a file declares for `endpoint`, or for the one that it names itself.
    pub fn new((written, says): (Written, Value), endpoint: Option<&str>) -> Result<Declared> {
        let endpoint = written.names(endpoint)?;
        if written.challenger.is_none() {
            return Err(without_challenger());
        }
        let mut canonical = says.clone();
        // Keys are sorted, and the name may be in the file or above it.
        canonical.as_object_mut().map(|says| says.remove("endpoint"));
        let digest = digest(&SHA256, canonical.to_string().as_bytes());
        let digest = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Declared { endpoint, written, digest, says })
    }
}

/// Fails where nobody said whom it is about.
pub fn without_challenger() -> Error {
    Error::invalid(
        "challenger is missing: expected the version that is to be judged, such as challenger = { version = 2 }",
    )
}

impl Written {
    /// The endpoint's name: `endpoint`, unless the file says it. Fails where both do and differ, or neither does.
    pub fn names(&self, endpoint: Option<&str>) -> Result<String> {
        match (self.endpoint.as_deref(), endpoint) {
            (Some(named), Some(endpoint)) if named != endpoint => {
                Err(Error::invalid(format!("endpoint is {named:?}, and it was to be that of {endpoint:?}")))
            }
            (Some(named), _) | (None, Some(named)) => Ok(named.to_owned()),
            (None, None) => Err(Error::invalid("endpoint is missing: expected the name that clients call")),
        }
    }

    /// The schedule.
    pub fn steps(&self) -> Result<Vec<Step>> {
        match &self.steps {
            None => Ok(STEPS.map(|(share, minutes)| step(share, minutes * MINUTE_MS)).into()),
            Some(steps) if steps.is_empty() => {
                Err(Error::invalid("steps is empty: expected one share at least, such as { share = \"5%\" }"))
            }
            Some(steps) => steps.iter().cloned().map(read_step).collect(),
        }
    }

    /// Whether pairs of both versions' answers are to decide, and can.
    pub fn wants_pairs(&self) -> bool {
        wants_pairs(&self.policy)
    }

    /// By what it is judged. Where there is a shadow, what its pairs show is told.
    pub fn policy(&self, has_shadow: bool) -> Result<Policy> {
        read_policy(self.policy.clone(), has_shadow)
    }
}

fn step(share: u32, min_time_ms: u64) -> Step {
    Step { share, min_time_ms, min_units: 0, gates: Vec::new() }
}

fn read_step(written: WrittenStep) -> Result<Step> {
    let WrittenStep { share: Share(share), min_time, min_units, gates } = written;
    let min_time_ms = min_time.as_deref().map_or(Ok(0), |text| time_ms("min_time", text))?;
    Ok(Step { min_units, gates, ..step(share, min_time_ms) })
}

/// A policy in its own words, and times such as `min_time = "24h"` in place of milliseconds.
fn read_policy(mut written: Map<String, Value>, has_shadow: bool) -> Result<Policy> {
    for key in ["shadow_time", "min_time", "max_time"] {
        if let Some(time) = written.remove(key) {
            let text = time.as_str().map_or_else(|| time.to_string(), str::to_owned);
            written.insert(format!("{key}_ms"), time_ms(key, &text)?.into());
        }
    }
    let slow_over = written.remove("slow_over").map(|time| {
        let text = time.as_str().map_or_else(|| time.to_string(), str::to_owned);
        let found = parse_duration(&text).and_then(|time| u64::try_from(time.as_micros()).ok());
        found.ok_or_else(|| Error::invalid(format!("policy.slow_over is {text:?}: expected a time such as \"50ms\"")))
    });
    if let Some(slow_over_us) = slow_over.transpose()? {
        written.insert("slow_over_us".into(), slow_over_us.into());
    }
    if let Some(primary) = written.get_mut("primary") {
        complete(primary)?;
    }
    let says_guardrails = written.contains_key("guardrails");
    let says_comparisons = written.contains_key("comparisons");
    let says_max = written.contains_key("max_time_ms");
    let mut policy: Policy = serde_json::from_value(Value::Object(written))
        .map_err(|error| Error::invalid(format!("policy: {}", explain(&error.to_string()))))?;
    if !says_guardrails {
        policy.guardrails = guardrails();
    }
    if policy.slow_over_us.is_some() && policy.guardrails.iter().all(|guardrail| guardrail.metric != SLOW_OVER) {
        policy.guardrails.push(Guardrail::new(SLOW_OVER).with_floor(SLOW_FLOOR));
    }
    if has_shadow && !says_comparisons {
        policy.comparisons = comparisons();
    }
    if !says_max {
        let horizon_ms = policy.primary.as_ref().map_or(0, |primary| primary.horizon_ms);
        let least_ms = policy.min_time_ms.saturating_add(horizon_ms).saturating_mul(2);
        policy.max_time_ms = policy.max_time_ms.max(least_ms);
    }
    Ok(policy)
}

/// What is watched where nobody says: failures, and runs that take clearly longer than nine in ten, or ninety-nine in a hundred, of the
/// champion's. A challenger that has them hardly more often than that passes, whatever its champion does meanwhile.
pub fn guardrails() -> Vec<Guardrail> {
    let watch = |metric: &str, floor| Guardrail::new(metric).with_floor(floor);
    vec![watch(ERRORS, 0.001), watch("slow_p90", 0.15), watch("slow_p99", 0.02)]
}

/// What is told of a shadow where nobody says what its answers must be like: it decides nothing.
fn comparisons() -> Vec<Comparison> {
    [measure::MISMATCH, measure::FLIPS, measure::DISTANCE, lane::ERRORS, lane::RUN_TIME]
        .map(|metric| Comparison { metric: metric.to_owned(), rule: Agreement::Report })
        .into()
}

/// A time such as `10m`, `24h` or `14d`.
pub fn time_ms(key: &str, text: &str) -> Result<u64> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()).filter(|days| *days <= 3_650);
    let found = match days {
        Some(days) => Some(days * 24 * 60 * MINUTE_MS),
        None => parse_duration(text).and_then(|time| u64::try_from(time.as_millis()).ok()),
    };
    found.ok_or_else(|| {
        Error::invalid(format!("{key} is {text:?}: expected a time such as \"10m\", \"24h\" or \"14d\""))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        # whom it is about
        champion = { version = 1 }
        challenger = { version = 2 }
        steps = [{ share = "5%", min_time = "1h" }]
    "#;

    fn declared(text: &str) -> Declared {
        Declared::new(read(text).unwrap(), Some("risk")).unwrap()
    }

    #[test]
    fn who_says_the_same_declares_the_same() {
        let first = declared(FILE);
        let json = r#"{"steps": [{"min_time": "1h", "share": "5%"}], "challenger": {"version": 2}, "champion": {"version": 1}, "endpoint": "risk"}"#;
        assert_eq!(
            (declared(json).digest, declared(json).written.endpoint.as_deref()),
            (first.digest.clone(), Some("risk"))
        );
        for other in ["attempt = 2", "salt = \"s\"", "shadow = \"1%\""] {
            assert_ne!(declared(&format!("{other}\n{FILE}")).digest, first.digest, "{other}");
        }
        assert_eq!(first.endpoint, "risk");
    }

    #[test]
    fn what_a_file_is_about_is_told_by_what_it_has() {
        let of = |text: &str| is_rollout(&toml::from_str(text).unwrap()).map_err(|error| error.message().to_owned());
        assert_eq!(
            (of(FILE), of("key = \"per_request\"\narms = []"), of("shadow = \"5%\"")),
            (Ok(true), Ok(false), Ok(true))
        );
        assert!(of("arms = []\nsteps = []").unwrap_err().contains("in place of arms"));
    }

    #[test]
    fn a_time_that_was_declared_is_watched() {
        let policy = |policy: &str| {
            let (written, _) = read(&format!("policy = {policy}")).unwrap();
            written.policy(false).map_err(|error| error.message().to_owned())
        };
        let slow = |policy: &Policy| policy.guardrails.last().map(|last| (last.metric.clone(), last.floor));
        let found = policy("{ slow_over = \"50ms\" }").unwrap();
        assert_eq!((found.slow_over_us, slow(&found)), (Some(50_000), Some((SLOW_OVER.to_owned(), Some(0.01)))));
        let found = policy("{ slow_over = \"1s\", guardrails = [{ metric = \"slow_over\", floor = 0.2 }] }").unwrap();
        assert_eq!((found.guardrails.len(), slow(&found)), (1, Some((SLOW_OVER.to_owned(), Some(0.2)))));
        assert!(policy("{ slow_over = 50 }").unwrap_err().contains("such as \"50ms\""));
    }

    #[test]
    fn what_is_wrong_is_told_with_what_was_meant() {
        let refused = |text: &str, expected: &str| {
            let read = read(text).and_then(|read| Declared::new(read, Some("risk")));
            let message = read.unwrap_err().message().to_owned();
            assert!(message.contains(expected), "{message}");
        };
        refused("chalenger = { version = 2 }", "did you mean challenger?");
        refused("challenger = { version = 2 }\nendpoint = \"fraud\"", "it was to be that of \"risk\"");
        refused("key = \"per_request\"", "challenger is missing: expected the version");
    }
}
