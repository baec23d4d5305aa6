//! Which version does somebody mean by `risk@prod`, and which versions are like this?

use serde::Serialize;

use super::Book;
use super::model::{Model, Version, VersionState};
use super::refusal::Refusal;

impl Book {
    /// The version that a text names.
    ///
    /// | text | version |
    /// |---|---|
    /// | `risk`, `risk@latest` | the newest that is ready |
    /// | `risk@3` | the one of this number |
    /// | `risk@prod` | the one that is in this environment |
    /// | `risk@champion` | the one that this alias points to |
    /// | `risk@team=fraud` | the newest that is ready and has this tag |
    /// | `risk@sha256:0f8c…` | the one whose artifact's digest begins so |
    pub fn resolve(&self, text: &str) -> Result<&Version, Refusal> {
        let (name, which) = text.split_once('@').unwrap_or((text, "latest"));
        let model = self.known_model(name)?;
        let unknown = |what: String| Refusal::unknown("version", format!("{text:?} names no version: {what}"));
        if let Ok(number) = which.parse::<u64>() {
            return self.known_version(name, number);
        }
        if let Some(environment) = self.environment(which) {
            let current = environment.current(name).and_then(|position| model.version(position.version));
            return current.ok_or_else(|| unknown(format!("{which} has no version of {name}; promote one")));
        }
        if let Some(alias) = model.aliases.get(which) {
            return self.known_version(name, alias.version);
        }
        let ready = || model.versions.iter().rev().filter(|version| version.state == VersionState::Ready);
        if which == "latest" {
            return ready().next().ok_or_else(|| unknown(format!("no version of {name} is ready")));
        }
        if let Some(digits) = which.strip_prefix("sha256:") {
            return by_digest(model, digits).map_err(unknown);
        }
        if let Some((key, value)) = which.split_once('=') {
            let mut tagged = ready().filter(|version| version.tags.get(key).is_some_and(|held| held == value));
            return tagged.next().ok_or_else(|| unknown(format!("no version that is ready has the tag {which}")));
        }
        let known: Vec<_> = self.environments.keys().chain(model.aliases.keys()).map(String::as_str).collect();
        let near =
            tiltyard_types::nearest(which, known.iter().copied()).map(|near| format!("; did you mean {near:?}?"));
        Err(unknown(format!(
            "{which:?} is no number, environment ({}) or alias of {name}{}",
            self.environments.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
            near.unwrap_or_default()
        )))
    }

    /// The versions that a search finds: models by name, newest first.
    pub fn search<'a>(&'a self, search: &'a Search) -> impl Iterator<Item = &'a Version> {
        let versions = self.models.values().flat_map(|model| model.versions.iter().rev());
        versions.filter(|version| search.terms.iter().all(|term| term.finds(version)))
    }
}

fn by_digest<'a>(model: &'a Model, digits: &str) -> Result<&'a Version, String> {
    if digits.len() < 4 {
        return Err("expected 4 digits of the digest at least".into());
    }
    let mut found = model.versions.iter().filter(|version| version.artifact.to_string().starts_with(digits));
    match (found.next(), found.next()) {
        (Some(version), None) => Ok(version),
        (Some(one), Some(other)) => Err(format!("{} and {} begin so; expected more digits", one.number, other.number)),
        (None, _) => Err("no artifact's digest begins so".into()),
    }
}

/// What versions are searched for: all terms must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Search {
    /// The terms.
    pub terms: Vec<Term>,
}

/// One thing that a version must be like.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    /// Of this model.
    Model(String),
    /// In this state.
    State(VersionState),
    /// With this tag.
    Tag {
        /// The tag.
        key: String,
        /// Its value.
        value: String,
    },
    /// With a measurement within these bounds, on any dataset and slice.
    Metric {
        /// The metric.
        metric: String,
        /// The least value.
        least: f64,
        /// The largest value.
        most: f64,
    },
}

impl Term {
    fn finds(&self, version: &Version) -> bool {
        match self {
            Term::Model(model) => version.model == *model,
            Term::State(state) => version.state == *state,
            Term::Tag { key, value } => version.tags.get(key).is_some_and(|held| held == value),
            Term::Metric { metric, least, most } => {
                let of = version.metrics.iter().filter(|measured| measured.metric.key.metric == *metric);
                of.into_iter().any(|measured| (*least..=*most).contains(&measured.metric.value))
            }
        }
    }

    fn read(text: &str) -> Option<Term> {
        if let Some((metric, bound)) = text.split_once(">=") {
            return Some(Term::Metric { metric: metric.into(), least: bound.parse().ok()?, most: f64::INFINITY });
        }
        if let Some((metric, bound)) = text.split_once("<=") {
            return Some(Term::Metric { metric: metric.into(), least: f64::NEG_INFINITY, most: bound.parse().ok()? });
        }
        let (key, value) = text.split_once('=')?;
        Some(match key {
            "model" => Term::Model(value.into()),
            "state" => Term::State(serde_json::from_value(value.into()).ok()?),
            _ => Term::Tag { key: key.into(), value: value.into() },
        })
    }
}

impl Search {
    /// Reads such as `model=risk state=ready team=fraud auc>=0.8`: terms that must all hold, parted by white space.
    /// What has `=` and is neither `model` nor `state` is a tag.
    pub fn read(text: &str) -> Result<Search, Refusal> {
        let read = |term: &str| {
            let expected = "expected such as model=risk, state=ready, a tag as team=fraud, or a metric as auc>=0.8";
            Term::read(term).ok_or_else(|| Refusal::invalid("search", format!("{term:?} says nothing: {expected}")))
        };
        Ok(Search { terms: text.split_whitespace().map(read).collect::<Result<_, _>>()? })
    }
}
