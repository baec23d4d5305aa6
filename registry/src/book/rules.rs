//! Which rules of an environment does a version not meet, and what would satisfy them?
//!
//! All of them are looked at, not the first alone: who is refused wants to know everything that is missing.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Book;
use super::environments::Environment;
use super::model::{Metric, MetricKey, Version, VersionState};
use super::moments::{Instant, Span};
use super::policy::{Better, RequiredMetric, Way};
use super::requests::Bound;

/// A rule that is not met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Need {
    /// The rule.
    pub rule: String,
    /// What is.
    pub is: String,
    /// What would satisfy it.
    pub needed: String,
}

impl Need {
    fn new(rule: &str, is: impl Into<String>, needed: impl Into<String>) -> Need {
        Need { rule: rule.into(), is: is.into(), needed: needed.into() }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; needed: {}", self.rule, self.is, self.needed)
    }
}

/// The rules that nobody may set aside.
const FIRM: [&str; 1] = ["state"];

/// Whether an admin may set this rule aside.
pub(crate) fn is_firm(rule: &str) -> bool {
    FIRM.contains(&rule)
}

/// A version on its way into an environment.
pub(crate) struct Candidate<'a> {
    pub(crate) version: &'a Version,
    pub(crate) environment: &'a Environment,
    /// What an approval of it must be bound to.
    pub(crate) bound: &'a Bound,
    /// How it comes.
    pub(crate) way: Way,
}

impl Book {
    /// Everything that keeps a candidate out at a moment.
    pub(crate) fn unmet(&self, candidate: &Candidate<'_>, now_ms: u64) -> Vec<Need> {
        let Candidate { version, environment, .. } = candidate;
        let policy = &environment.policy;
        let mut unmet: Vec<Need> = state(version).into_iter().collect();
        unmet.extend(self.approvals(candidate, now_ms));
        unmet.extend(policy.metrics.iter().flat_map(|rule| self.metric(rule, version, environment)));
        unmet.extend(made_ready(version, environment));
        unmet.extend(self.below(version, environment, now_ms));
        unmet.extend(frozen(environment, now_ms));
        if candidate.way < policy.rollout {
            let needed = format!("a rollout of the kind {}", policy.rollout.name());
            unmet.push(Need::new("rollout", format!("it would come as {}", candidate.way.name()), needed));
        }
        unmet
    }

    fn approvals(&self, candidate: &Candidate<'_>, now_ms: u64) -> Vec<Need> {
        let Candidate { version, environment, bound, .. } = candidate;
        let groups = &environment.policy.approvals;
        if groups.is_empty() {
            return Vec::new();
        }
        let Some(request) = self.open_request(&version.model, version.number, &environment.name) else {
            let needed = format!("a request for {} of {}@{}", environment.name, version.model, version.number);
            return vec![Need::new("approvals", "nobody has asked for it", needed)];
        };
        let mut unmet = Vec::new();
        for group in groups {
            let held = request.approvals.iter().filter(|approval| approval.holds(now_ms) && approval.bound == **bound);
            let held: Vec<_> = held.filter(|approval| group.has(&approval.by.name, &approval.by.roles)).collect();
            if held.len() as u64 >= group.required {
                continue;
            }
            let names: Vec<_> = held.iter().map(|approval| approval.by.name.as_str()).collect();
            let by = if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) };
            let missing = group.required - held.len() as u64;
            let lost: Vec<_> = request.approvals.iter().filter(|given| !held.contains(given)).collect();
            let lost = lost.last().map(|given| match &given.void {
                Some(void) => {
                    format!("; that of {} is void since entry {}: {}", given.by.name, void.at.sequence, void.why)
                }
                None if !given.holds(now_ms) => format!("; that of {} has expired", given.by.name),
                None => String::new(),
            });
            let is = format!(
                "{} of {}{by} in request {}{}",
                held.len(),
                group.required,
                request.id,
                lost.unwrap_or_default()
            );
            let needed = format!("{missing} more by {}{}", group.words(), self.barred(request, environment));
            unmet.push(Need::new("approvals", is, needed));
        }
        unmet
    }

    fn barred(&self, request: &super::requests::Request, environment: &Environment) -> String {
        if environment.policy.author_may_approve {
            return String::new();
        }
        let pushed = self.version(&request.model, request.version).map(|version| version.pushed.by.as_str());
        match pushed {
            Some(by) if by != request.asked.by => {
                format!(", not by {by}, who pushed it, or {}, who asks", request.asked.by)
            }
            _ => format!(", not by {}, who asks", request.asked.by),
        }
    }

    fn metric(&self, rule: &RequiredMetric, version: &Version, environment: &Environment) -> Vec<Need> {
        let key = rule.key();
        let Some(metric) = version.metric(&key) else {
            return vec![Need::new("metrics", format!("{key} is not on record"), bounds(rule, &key))];
        };
        let mut unmet: Vec<Need> = bound(rule, metric).into_iter().collect();
        unmet.extend(self.against_champion(rule, metric, environment, &version.model));
        unmet
    }

    /// Holds a figure against that of what is in the environment now.
    fn against_champion(
        &self,
        rule: &RequiredMetric,
        metric: &Metric,
        environment: &Environment,
        model: &str,
    ) -> Option<Need> {
        let worse_max = rule.worse_by_max?;
        let champion = self.version(model, environment.current(model)?.version)?;
        let name = format!("the champion {model}@{}", champion.number);
        let Some(theirs) = champion.metric(&metric.key) else {
            let needed = format!("{} of {name}, to be compared with", metric.key);
            return Some(Need::new("metrics", format!("{} is not on record for {name}", metric.key), needed));
        };
        let (least, words) = match rule.better {
            Better::Higher => (theirs.value - worse_max, "at least"),
            Better::Lower => (theirs.value + worse_max, "at most"),
        };
        let is_met = if rule.better == Better::Higher { metric.value >= least } else { metric.value <= least };
        (!is_met).then(|| {
            let is = format!("{} is {}, and {} of {name}", metric.key, metric.value, theirs.value);
            Need::new("metrics", is, format!("{words} {least}"))
        })
    }

    /// How long it has been in the environment below.
    fn below(&self, version: &Version, environment: &Environment, now_ms: u64) -> Option<Need> {
        let least = environment.policy.below?;
        let below = self.environments().filter(|other| other.rank < environment.rank).max_by_key(|other| other.rank)?;
        let (model, number) = (&version.model, version.number);
        let needed = |more: &str| format!("{model}@{number} in {} for {least}{more}", below.name);
        match below.current(model) {
            Some(position) if position.version == number => {
                let held = now_ms.saturating_sub(position.since.time_ms);
                (held < least.0).then(|| {
                    let until = Instant(position.since.time_ms.saturating_add(least.0));
                    Need::new(
                        "below",
                        format!("it has been in {} for {}", below.name, Span(held)),
                        needed(&format!(", which is so at {until}")),
                    )
                })
            }
            Some(position) => {
                Some(Need::new("below", format!("{} has {model}@{}", below.name, position.version), needed("")))
            }
            None => Some(Need::new("below", format!("{} has no version of {model}", below.name), needed(""))),
        }
    }
}

fn state(version: &Version) -> Option<Need> {
    let is = match (version.state, version.reason.as_str()) {
        (VersionState::Ready, _) => return None,
        (state, "") => format!("it is {}", state.name()),
        (state, why) => format!("it is {}: {why}", state.name()),
    };
    let needed = match version.state {
        VersionState::Quarantined => "a release by an admin, or another version",
        _ => "another version: one that is archived goes nowhere",
    };
    Some(Need::new("state", is, needed))
}

/// What the version itself must bring along.
fn made_ready(version: &Version, environment: &Environment) -> Vec<Need> {
    let policy = &environment.policy;
    let mut unmet = Vec::new();
    let golden = version.golden_examples() as u64;
    if golden < policy.golden_min {
        let needed = format!("a version with {} or more in golden/", policy.golden_min);
        unmet.push(Need::new("golden", format!("the artifact has {golden} golden examples"), needed));
    }
    match &version.baseline {
        _ if !policy.baseline => {}
        Some(baseline) if !baseline.is_provisional => {}
        Some(_) => unmet.push(Need::new(
            "baseline",
            "its baseline is provisional, of first traffic",
            "a baseline of rows that somebody chose",
        )),
        None => unmet.push(Need::new("baseline", "it has no baseline", "a baseline for drift")),
    }
    if policy.signed && version.signed.is_none() {
        unmet.push(Need::new("signed", "no signature of the artifact was verified", "a signature by a trusted key"));
    }
    let is_locked = version
        .lock
        .as_ref()
        .is_some_and(|lock| !lock.engine.is_empty() && !lock.build.is_empty() && !lock.provider.is_empty());
    if policy.lock && !is_locked {
        let needed = "an environment lock with engine, build and provider";
        unmet.push(Need::new("lock", "it may run on any engine", needed));
    }
    let chars = version.text.trim().chars().count() as u64;
    if chars < policy.card_chars_min {
        let is = format!("the model card's text has {chars} characters");
        unmet.push(Need::new("card", is, format!("{} or more", policy.card_chars_min)));
    }
    unmet
}

fn frozen(environment: &Environment, now_ms: u64) -> Vec<Need> {
    let windows = environment.policy.freeze.iter().filter_map(|freeze| Some((freeze, freeze.ends(now_ms)?)));
    let needs = windows.map(|(freeze, ends)| {
        let why = if freeze.reason().is_empty() { String::new() } else { format!(": {}", freeze.reason()) };
        Need::new("freeze", format!("{} is frozen{why}", environment.name), format!("a time from {ends} on"))
    });
    needs.collect()
}

fn bounds(rule: &RequiredMetric, key: &MetricKey) -> String {
    let words = if rule.better == Better::Higher { "at least" } else { "at most" };
    match rule.bound {
        Some(bound) => format!("{key}, {words} {bound}"),
        None => key.to_string(),
    }
}

/// Holds a figure, or the worse end of its interval, against the bound.
fn bound(rule: &RequiredMetric, metric: &Metric) -> Option<Need> {
    let bound = rule.bound?;
    let key = &metric.key;
    let (figure, which) = match (rule.by_interval, metric.interval, rule.better) {
        (false, _, _) => (metric.value, ""),
        (true, Some([low, _]), Better::Higher) => (low, "the low end of the interval of "),
        (true, Some([_, high]), Better::Lower) => (high, "the high end of the interval of "),
        (true, None, _) => {
            let needed = format!("{} with its interval", bounds(rule, key));
            return Some(Need::new("metrics", format!("{key} has no interval"), needed));
        }
    };
    let is_met = if rule.better == Better::Higher { figure >= bound } else { figure <= bound };
    let words = if rule.better == Better::Higher { "at least" } else { "at most" };
    (!is_met).then(|| Need::new("metrics", format!("{which}{key} is {figure}"), format!("{words} {bound}")))
}
