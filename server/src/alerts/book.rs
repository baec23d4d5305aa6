//! Which alerts are there, and what is still to be told of them?
//!
//! A state machine without clock or IO: it is shown what rules find, and says which messages are due.
//!
//! ```text
//!   nothing ── met ──→ pending ── for so long ──→ firing ── not met for so long ──→ resolved ── a day ──→ nothing
//!      ↑                  │                                                            │
//!      └──── not met ─────┘←────────────────────────── met ────────────────────────────┘
//! ```
//!
//! Alerts of one rule are told together, in one message at a time, and not sooner than a while after the last one. What was not
//! delivered is tried again, as things stand then: so nothing waits in a queue, and nothing old is told. What is only firing still
//! is told again now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What tells one rule's alerts apart: model, version, endpoint.
pub type Labels = BTreeMap<String, String>;

/// Alerts that are held; more are counted.
const ALERTS_MAX: usize = 1_000;

/// Silences that may hold at a time.
const SILENCES_MAX: usize = 100;

/// How long an alert that is over is shown.
const SHOWN_MS: u64 = 24 * 3_600_000;

/// How long nothing is concluded from a rule having nothing to say of a subject: after a start, not all is there at once.
const SETTLE_MS: u64 = 10 * 60_000;

/// How long it is waited after a message that was not delivered: this, and twice as long each time, up to [`RETRY_MAX_MS`].
const RETRY_MS: u64 = 2_000;
const RETRY_MAX_MS: u64 = 5 * 60_000;

/// How soon somebody should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is broken.
    Info,
    /// In working hours.
    Warning,
    /// Now.
    Critical,
}

impl Severity {
    /// The name in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// How a rule's alerts are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How soon somebody should look.
    pub severity: Severity,
    /// How long it must be met until it fires.
    pub hold: Duration,
    /// How long it must not be met until it is over.
    pub calm: Duration,
}

/// When messages may follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The least time between two messages of one rule.
    pub group: Duration,
    /// After how long what still fires is told again.
    pub repeat: Duration,
}

/// What a rule finds of one subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The rule's name.
    pub rule: String,
    /// Of whom.
    pub labels: Labels,
    /// Whether its condition is met; `None` where nobody can say yet.
    pub is_met: Option<bool>,
    /// A sentence with figures.
    pub why: String,
}

/// Where an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Met, and not for long enough.
    Pending,
    /// Somebody should look.
    Firing,
    /// It is over.
    Resolved,
}

impl Phase {
    /// The name in listings and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Pending => "pending",
            Phase::Firing => "firing",
            Phase::Resolved => "resolved",
        }
    }
}

/// One subject of one rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Where it stands.
    pub phase: Phase,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// When it began to fire; 0 for never.
    pub fired_ms: u64,
    /// When its condition was met last.
    met_ms: u64,
    /// Why, as it was found last while it was met.
    pub why: String,
    /// Whether whoever is told knows it as firing.
    is_told: bool,
}

/// Nobody is told of such alerts for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Its number.
    pub id: u64,
    /// Of this rule; of all where it is none.
    pub rule: Option<String>,
    /// With these labels.
    pub labels: Labels,
    /// Until when, in milliseconds since 1970.
    pub until_ms: u64,
    /// Who wants it.
    pub by: String,
    /// What for.
    pub why: String,
}

impl Silence {
    fn covers(&self, rule: &str, labels: &Labels) -> bool {
        let has = |(name, value): (&String, &String)| labels.get(name) == Some(value);
        self.rule.as_deref().is_none_or(|own| own == rule) && self.labels.iter().all(has)
    }
}

/// What becomes of one rule's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Group {
    /// When one was delivered last.
    told_ms: u64,
    /// None is sent before.
    not_before_ms: u64,
    /// Tries in a row that failed.
    failures: u32,
    /// One is under way.
    is_sent: bool,
}

/// An alert in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Of whom.
    pub labels: Labels,
    /// As it stood when the message was made.
    pub alert: Alert,
}

/// What is to be told of one rule's alerts: all that fire, and those that are over since the last message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The rule.
    pub rule: String,
    /// How soon somebody should look.
    pub severity: Severity,
    /// When it was made, in milliseconds since 1970.
    pub time_ms: u64,
    /// Until when, without another message, it holds: for receivers that forget.
    pub holds_ms: u64,
    /// At least one.
    pub alerts: Vec<Told>,
}

/// What is kept between processes.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kept {
    alerts: Vec<KeptAlert>,
    told_ms: BTreeMap<String, u64>,
    silences: Vec<Silence>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptAlert {
    rule: String,
    labels: Labels,
    #[serde(flatten)]
    alert: Alert,
}

/// All alerts.
#[derive(Debug)]
pub struct Book {
    terms: BTreeMap<String, Terms>,
    pace: Pace,
    alerts: BTreeMap<(String, Labels), Alert>,
    groups: BTreeMap<String, Group>,
    silences: Vec<Silence>,
    /// Until then what is not found need not be over.
    settled_ms: u64,
    left_out: u64,
    is_changed: bool,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Book {
    /// The alerts of these rules, as a process before this one left them. What it said of rules that are gone is dropped.
    pub fn open(terms: BTreeMap<String, Terms>, pace: Pace, kept: Kept, now_ms: u64) -> Book {
        let alerts = kept.alerts.into_iter().filter(|kept| terms.contains_key(&kept.rule)).take(ALERTS_MAX);
        let alerts = alerts.map(|kept| ((kept.rule, kept.labels), kept.alert)).collect();
        let told = kept.told_ms.into_iter().filter(|(rule, _)| terms.contains_key(rule));
        let group = |told_ms: u64| Group { told_ms, not_before_ms: told_ms + ms(pace.group), ..Group::default() };
        let groups = told.map(|(rule, told_ms)| (rule, group(told_ms))).collect();
        let silences = kept.silences.into_iter().take(SILENCES_MAX).collect();
        let settled_ms = now_ms + SETTLE_MS;
        Book { terms, pace, alerts, groups, silences, settled_ms, left_out: 0, is_changed: false }
    }

    /// What the next process must know.
    pub fn keep(&self) -> Kept {
        let alerts = self.alerts.iter().map(|((rule, labels), alert)| KeptAlert {
            rule: rule.clone(),
            labels: labels.clone(),
            alert: alert.clone(),
        });
        let told_ms = self.groups.iter().map(|(rule, group)| (rule.clone(), group.told_ms)).collect();
        Kept { alerts: alerts.collect(), told_ms, silences: self.silences.clone() }
    }

    /// Whether something changed that the next process must know, since this was asked last.
    pub fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// Takes in all that the rules find now.
    pub fn look(&mut self, findings: &[Finding], now_ms: u64) {
        self.left_out = 0;
        let silences = self.silences.len();
        self.silences.retain(|silence| silence.until_ms > now_ms);
        self.is_changed |= self.silences.len() != silences;
        let mut found = BTreeSet::new();
        for finding in findings {
            let Some(terms) = self.terms.get(&finding.rule).copied() else { continue };
            let key = (finding.rule.clone(), finding.labels.clone());
            match finding.is_met {
                Some(true) => self.met(&key, terms, &finding.why, now_ms),
                Some(false) => self.not_met(&key, terms, now_ms),
                None => {}
            }
            found.insert(key);
        }
        if now_ms >= self.settled_ms {
            let gone: Vec<_> = self.alerts.keys().filter(|key| !found.contains(*key)).cloned().collect();
            for key in gone {
                if let Some(terms) = self.terms.get(&key.0).copied() {
                    self.not_met(&key, terms, now_ms);
                }
            }
        }
        let before = self.alerts.len();
        let is_old = |alert: &Alert| alert.phase == Phase::Resolved && now_ms >= alert.since_ms + SHOWN_MS;
        self.alerts.retain(|_, alert| !is_old(alert));
        self.is_changed |= self.alerts.len() != before;
    }

    fn met(&mut self, key: &(String, Labels), terms: Terms, why: &str, now_ms: u64) {
        if !self.alerts.contains_key(key) {
            // What is over makes room.
            let over = |(_, alert): &(_, &Alert)| alert.phase == Phase::Resolved && !alert.is_told;
            if self.alerts.len() >= ALERTS_MAX {
                let Some(gone) = self.alerts.iter().find(over).map(|(key, _)| key.clone()) else {
                    self.left_out += 1;
                    return;
                };
                self.alerts.remove(&gone);
            }
        }
        let begun = || Alert {
            phase: Phase::Pending,
            since_ms: now_ms,
            fired_ms: 0,
            met_ms: now_ms,
            why: String::new(),
            is_told: false,
        };
        let alert = self.alerts.entry(key.clone()).or_insert_with(begun);
        if alert.phase == Phase::Resolved {
            (alert.phase, alert.since_ms) = (Phase::Pending, now_ms);
        }
        if alert.phase == Phase::Pending && now_ms.saturating_sub(alert.since_ms) >= ms(terms.hold) {
            (alert.phase, alert.since_ms, alert.fired_ms) = (Phase::Firing, now_ms, now_ms);
            self.is_changed = true;
        }
        alert.met_ms = now_ms;
        if alert.why != why {
            why.clone_into(&mut alert.why);
        }
    }

    fn not_met(&mut self, key: &(String, Labels), terms: Terms, now_ms: u64) {
        let Some(alert) = self.alerts.get_mut(key) else { return };
        match alert.phase {
            // It fired once, and nobody was told that this is over.
            Phase::Pending if alert.is_told => (alert.phase, alert.since_ms) = (Phase::Resolved, now_ms),
            Phase::Pending => drop(self.alerts.remove(key)),
            Phase::Firing if now_ms.saturating_sub(alert.met_ms) >= ms(terms.calm) => {
                (alert.phase, alert.since_ms) = (Phase::Resolved, now_ms);
            }
            Phase::Firing | Phase::Resolved => return,
        }
        self.is_changed = true;
    }

    /// The messages that are due. Each is under way from now on until it is told what became of it: [`Book::settle`].
    pub fn due(&mut self, now_ms: u64) -> Vec<Message> {
        let mut due = Vec::new();
        for (rule, terms) in &self.terms {
            let group = self.groups.get(rule).copied().unwrap_or_default();
            if group.is_sent || now_ms < group.not_before_ms {
                continue;
            }
            let from = (rule.clone(), Labels::new());
            let own = self.alerts.range(from..).take_while(|((of, _), _)| of == rule);
            let heard =
                own.filter(|((_, labels), _)| !self.silences.iter().any(|silence| silence.covers(rule, labels)));
            let told = heard.filter(|(_, alert)| alert.phase == Phase::Firing || alert.is_told);
            let told: Vec<Told> =
                told.map(|((_, labels), alert)| Told { labels: labels.clone(), alert: alert.clone() }).collect();
            let is_news = told.iter().any(|one| (one.alert.phase == Phase::Firing) != one.alert.is_told);
            let is_again = !told.is_empty() && now_ms >= group.told_ms.saturating_add(ms(self.pace.repeat));
            if is_news || is_again {
                let holds_ms = now_ms.saturating_add(2 * ms(self.pace.repeat));
                let (rule, severity) = (rule.clone(), terms.severity);
                due.push(Message { rule, severity, time_ms: now_ms, holds_ms, alerts: told });
            }
        }
        for message in &due {
            self.groups.entry(message.rule.clone()).or_default().is_sent = true;
        }
        due
    }

    /// Takes in what became of a message.
    pub fn settle(&mut self, message: &Message, is_delivered: bool, now_ms: u64) {
        let group = self.groups.entry(message.rule.clone()).or_default();
        group.is_sent = false;
        if !is_delivered {
            let wait = RETRY_MS.saturating_mul(1 << group.failures.min(20)).min(RETRY_MAX_MS);
            (group.failures, group.not_before_ms) = (group.failures.saturating_add(1), now_ms + wait);
            return;
        }
        *group = Group { told_ms: now_ms, not_before_ms: now_ms + ms(self.pace.group), failures: 0, is_sent: false };
        for told in &message.alerts {
            if let Some(alert) = self.alerts.get_mut(&(message.rule.clone(), told.labels.clone())) {
                alert.is_told = told.alert.phase == Phase::Firing;
            }
        }
        self.is_changed = true;
    }

    /// Silences alerts. Fails where there are too many silences, or the rule is none.
    pub fn silence(&mut self, silence: Silence) -> Result<u64, String> {
        if let Some(rule) = silence.rule.as_ref().filter(|rule| !self.terms.contains_key(*rule)) {
            let known = self.terms.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(format!("there is no rule {rule:?}: expected one of {known}"));
        }
        if self.silences.len() >= SILENCES_MAX {
            return Err(format!("{SILENCES_MAX} silences hold already: end one first"));
        }
        let id = self.silences.iter().map(|silence| silence.id).max().unwrap_or(0) + 1;
        self.silences.push(Silence { id, ..silence });
        self.is_changed = true;
        Ok(id)
    }

    /// Ends a silence; whether there was one of this number.
    pub fn unsilence(&mut self, id: u64) -> bool {
        let before = self.silences.len();
        self.silences.retain(|silence| silence.id != id);
        self.is_changed |= self.silences.len() != before;
        self.silences.len() != before
    }

    /// Alerts that fire, by rule; every rule is named.
    pub fn firing(&self) -> BTreeMap<&str, u64> {
        let mut firing: BTreeMap<&str, u64> = self.terms.keys().map(|rule| (rule.as_str(), 0)).collect();
        for ((rule, _), _) in self.alerts.iter().filter(|(_, alert)| alert.phase == Phase::Firing) {
            *firing.entry(rule).or_default() += 1;
        }
        firing
    }

    /// All of it, for programs.
    pub fn form(&self) -> Value {
        let alerts = self.alerts.iter().map(|((rule, labels), alert)| {
            let silenced = self.silences.iter().find(|silence| silence.covers(rule, labels)).map(|silence| silence.id);
            json!({
                "rule": rule, "severity": self.terms.get(rule).map(|terms| terms.severity), "labels": labels,
                "state": alert.phase, "since_ms": alert.since_ms, "why": alert.why, "told": alert.is_told,
                "silence": silenced,
            })
        });
        json!({ "alerts": alerts.collect::<Vec<_>>(), "silences": self.silences, "left_out": self.left_out })
    }
}

#[cfg(test)]
mod tests;
