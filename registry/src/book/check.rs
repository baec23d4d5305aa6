//! Can this fact follow those that are on the record?
//!
//! The same question is asked of what an order comes to and of what stands in the log, so that whatever is decided can
//! be read again. It asks whether a fact makes sense, not whether anybody may say it: that is decided once, before it
//! is written.

use std::collections::BTreeMap;

use serde_json::Value;

use super::endpoints::Planned;
use super::environments::Environment;
use super::facts::{Content, EnvironmentSet, Fact, Principal, Pushed, Says, StateSet, Tagged, WentBack};
use super::forms::depth;
use super::limits::{self, at_most, line, name, text, words};
use super::model::{FileEntry, Lineage, Lock, Metric, Model, Source, Version, VersionState};
use super::policy::{Freeze, Policy};
use super::refusal::Refusal;
use super::{Book, lineage};

type Checked = Result<(), Refusal>;

impl Book {
    /// Fails, saying why, where a fact cannot follow.
    pub(crate) fn check(&self, fact: &Fact) -> Checked {
        principal(&fact.by)?;
        if let Some(order) = &fact.order {
            name("key", &order.key)?;
        }
        match &fact.says {
            Says::Model(set) => {
                self.check_model(&set.model)?;
                let words = [("owner", &set.owner), ("description", &set.description), ("task", &set.task)];
                words
                    .into_iter()
                    .chain([("risk", &set.risk)])
                    .try_for_each(|(what, said)| said.as_ref().map_or(Ok(()), |said| line(what, said)))
            }
            Says::Version(pushed) => self.check_push(pushed),
            Says::Tags(tagged) => self.check_tags(tagged),
            Says::Described(said) => {
                self.known_version(&said.model, said.version)?;
                line("description", said.description.as_deref().unwrap_or_default())?;
                text("text", said.text.as_deref().unwrap_or_default(), limits::TEXT_BYTES_MAX)
            }
            Says::Metrics(told) => self.check_metrics(self.known_version(&told.model, told.version)?, &told.metrics),
            Says::Alias(aliased) => self.check_alias(&aliased.model, &aliased.alias, aliased.version),
            Says::State(set) => self.check_state(set),
            Says::Lock(locked) => {
                self.known_version(&locked.model, locked.version)?;
                lock(&locked.lock)
            }
            Says::Baseline(set) => self.known_version(&set.model, set.version).map(drop),
            Says::Signed(by) => {
                self.known_version(&by.model, by.version)?;
                words("key", &by.signed.key)?;
                words("identity", &by.signed.identity)
            }
            Says::Lineage(told) => {
                self.known_version(&told.model, told.version)?;
                self.check_lineage(&told.model, told.version, &told.lineage)
            }
            Says::Environment(set) => self.check_environment(set),
            Says::WentBack(back) => self.check_back(back),
            Says::Plan(planned) => self.check_plan(planned),
            Says::Event(told) => {
                json("event", &told.event)?;
                lineage::read(&told.event).map(drop).map_err(|why| Refusal::invalid("event", why))
            }
            says => self.check_request_facts(&fact.by, says),
        }
    }

    /// The model, or who has not heard of it.
    pub(crate) fn known_model(&self, model: &str) -> Result<&Model, Refusal> {
        self.model(model).ok_or_else(|| {
            let near = tiltyard_types::nearest(model, self.models.keys().map(String::as_str));
            let near =
                near.map_or_else(|| "push a version of it first".into(), |near| format!("did you mean {near:?}?"));
            Refusal::unknown("model", format!("no model {model:?} is on record: {near}"))
        })
    }

    /// The version, or who has not heard of it.
    pub(crate) fn known_version(&self, model: &str, number: u64) -> Result<&Version, Refusal> {
        let known = self.known_model(model)?;
        known.version(number).ok_or_else(|| {
            let last = known.last();
            Refusal::unknown(
                "version",
                format!("{model}@{number} is not on record: the versions of {model} go up to {last}"),
            )
        })
    }

    /// The environment, or who has not heard of it.
    pub(crate) fn known_environment(&self, environment: &str) -> Result<&Environment, Refusal> {
        self.environment(environment).ok_or_else(|| {
            let names: Vec<_> = self.environments.keys().map(String::as_str).collect();
            let message = format!("no environment {environment:?} is declared: expected one of {}", names.join(", "));
            Refusal::unknown("environment", message)
        })
    }

    fn check_model(&self, model: &str) -> Checked {
        name("model", model)?;
        let more = usize::from(!self.models.contains_key(model));
        at_most("models", self.models.len() + more, limits::MODELS_MAX)
    }

    fn check_push(&self, pushed: &Pushed) -> Checked {
        let Pushed { model, version, content } = pushed;
        self.check_model(model)?;
        let count = self.model(model).map_or(0, |model| model.versions.len());
        at_most("versions", count + 1, limits::VERSIONS_MAX)?;
        let last = self.model(model).map_or(0, Model::last);
        if *version <= last || *version > limits::NUMBER_MAX {
            let expected = format!("expected {} to {}", last + 1, limits::NUMBER_MAX);
            let message = format!("{model}@{version} cannot follow version {last}: {expected}");
            return Err(Refusal::invalid("version", message));
        }
        if let Some(same) = self.with_artifact(model, content.artifact) {
            let message =
                format!("{model}@{} has these bytes already: the same bytes are the same version", same.number);
            return Err(Refusal::invalid("artifact", message));
        }
        self.check_lineage(model, *version, &content.lineage)?;
        check_content(content)
    }

    fn check_tags(&self, tagged: &Tagged) -> Checked {
        let held = match tagged.version {
            Some(number) => &self.known_version(&tagged.model, number)?.tags,
            None => &self.known_model(&tagged.model)?.tags,
        };
        at_most("tags", tagged.unset.len(), limits::TAGS_MAX)?;
        tags(&tagged.set)?;
        let new = tagged.set.keys().filter(|key| !held.contains_key(*key)).count();
        at_most("tags", held.len() + new, limits::TAGS_MAX)
    }

    fn check_metrics(&self, version: &Version, told: &[Metric]) -> Checked {
        metrics(told)?;
        let new = told.iter().filter(|metric| version.metric(&metric.key).is_none()).count();
        at_most("metrics", version.metrics.len() + new, limits::METRICS_MAX)
    }

    fn check_alias(&self, model: &str, alias: &str, version: Option<u64>) -> Checked {
        name("alias", alias)?;
        let known = self.known_model(model)?;
        let Some(version) = version else {
            return match known.aliases.contains_key(alias) {
                true => Ok(()),
                false => Err(Refusal::unknown("alias", format!("{model} has no alias {alias:?}"))),
            };
        };
        self.known_version(model, version)?;
        if self.environments.contains_key(alias) || alias == "latest" || alias.bytes().all(|byte| byte.is_ascii_digit())
        {
            let message =
                format!("{alias:?} cannot be an alias: {model}@{alias} means something else; expected another name");
            return Err(Refusal::invalid("alias", message));
        }
        let more = usize::from(!known.aliases.contains_key(alias));
        at_most("aliases", known.aliases.len() + more, limits::ALIASES_MAX)
    }

    fn check_state(&self, set: &StateSet) -> Checked {
        let StateSet { model, version: number, state, reason } = set;
        let version = self.known_version(model, *number)?;
        line("reason", reason)?;
        let wrong =
            |why: &str| Err(Refusal::invalid("state", format!("{model}@{number} is {}: {why}", version.state.name())));
        match (version.state, state) {
            (VersionState::Ready, VersionState::Archived) => {
                let places: Vec<_> = self.environments_of(model, *number).iter().map(|at| at.name.as_str()).collect();
                if places.is_empty() {
                    return Ok(());
                }
                let places = places.join(", ");
                let message =
                    format!("{model}@{number} is in {places}: expected another version there before it is archived");
                Err(Refusal::invalid("state", message))
            }
            (VersionState::Ready | VersionState::Archived, VersionState::Quarantined) if reason.trim().is_empty() => {
                Err(Refusal::invalid("reason", format!("{model}@{number} is to be quarantined: expected a reason")))
            }
            (VersionState::Ready | VersionState::Archived, VersionState::Quarantined) => Ok(()),
            (VersionState::Quarantined, VersionState::Ready) if reason.trim().is_empty() => {
                Err(Refusal::invalid("reason", format!("{model}@{number} is to leave quarantine: expected a reason")))
            }
            (VersionState::Quarantined, VersionState::Ready) => Ok(()),
            (VersionState::Archived, VersionState::Ready) => {
                wrong("what is archived does not come back; push it as another version")
            }
            (VersionState::Quarantined, VersionState::Archived) => wrong("expected its release by an admin first"),
            _ => wrong("it is so already"),
        }
    }

    fn check_lineage(&self, model: &str, number: u64, lineage: &Lineage) -> Checked {
        at_most("datasets", lineage.datasets.len(), limits::LIST_MAX)?;
        for dataset in &lineage.datasets {
            words("dataset", &dataset.name)?;
            words("dataset", &dataset.namespace)?;
            words("dataset", &dataset.version)?;
            words("dataset", &dataset.uri)?;
            if dataset.name.is_empty() {
                return Err(Refusal::invalid("dataset", "a dataset has no name: expected one"));
            }
        }
        if let Some(code) = &lineage.code {
            words("code", &code.repository)?;
            words("code", &code.commit)?;
        }
        if let Some(run) = &lineage.run {
            words("run", &run.id)?;
            words("run", &run.system)?;
            words("run", &run.uri)?;
        }
        let Some(parent) = &lineage.parent else { return Ok(()) };
        // Only what was pushed before: so no version can be its own ancestor.
        let pushed = |model: &str, number: u64| self.version(model, number).map(|version| version.pushed.sequence);
        let itself = pushed(model, number).unwrap_or(u64::MAX);
        if pushed(&parent.model, parent.version).is_some_and(|parent| parent < itself) {
            return Ok(());
        }
        let message = format!(
            "{}@{} cannot be the parent of {model}@{number}: expected a version that was pushed before",
            parent.model, parent.version
        );
        Err(Refusal::invalid("parent", message))
    }

    fn check_environment(&self, set: &EnvironmentSet) -> Checked {
        let EnvironmentSet { environment, rank, policy: asked } = set;
        name("environment", environment)?;
        let more = usize::from(!self.environments.contains_key(environment));
        at_most("environments", self.environments.len() + more, limits::ENVIRONMENTS_MAX)?;
        let others = || self.environments.values().filter(|other| other.name != *environment);
        if let Some(same) = others().find(|other| other.rank == *rank) {
            let message =
                format!("{environment} cannot have the rank {rank}, which is that of {}: expected another", same.name);
            return Err(Refusal::invalid("rank", message));
        }
        let is_digits = environment.bytes().all(|byte| byte.is_ascii_digit());
        let alias = self.models.values().find(|model| model.aliases.contains_key(environment));
        if is_digits || environment == "latest" || alias.is_some() {
            let what = alias.map_or("a version".into(), |model| format!("an alias of {}", model.name));
            let message = format!("{environment:?} cannot be an environment: it names {what}; expected another name");
            return Err(Refusal::invalid("environment", message));
        }
        policy(asked)
    }

    fn check_back(&self, back: &WentBack) -> Checked {
        let WentBack { environment, model, from, to, reason } = back;
        let known = self.known_environment(environment)?;
        line("reason", reason)?;
        if reason.trim().is_empty() {
            return Err(Refusal::invalid("reason", format!("{environment} is to go back: expected a reason")));
        }
        if let Some(promotion) = self.under_way(environment, model) {
            let message =
                format!("the promotion {} of {model} is under way in {environment}: end it first", promotion.id);
            return Err(Refusal::invalid("under_way", message));
        }
        if known.current(model).map(|position| position.version) != Some(*from) {
            return Err(Refusal::invalid("position", format!("{model}@{from} is not in {environment}")));
        }
        let was_there = known.positions.get(model).is_some_and(|all| all.iter().any(|at| at.version == *to));
        if from == to || !was_there {
            let message =
                format!("{environment} cannot go back to {model}@{to}: expected a version that was there before");
            return Err(Refusal::invalid("position", message));
        }
        self.known_version(model, *to).map(drop)
    }

    fn check_plan(&self, planned: &Planned) -> Checked {
        name("endpoint", &planned.endpoint)?;
        let more = usize::from(!self.endpoints.contains_key(&planned.endpoint));
        at_most("endpoints", self.endpoints.len() + more, limits::ENDPOINTS_MAX)?;
        at_most("arms", planned.arms.len(), limits::ARMS_MAX)?;
        words("rollout", &planned.rollout)?;
        for arm in &planned.arms {
            name("arm", &arm.name)?;
            name("model", &arm.model)?;
            words("role", &arm.role)?;
        }
        planned.plan.as_ref().map_or(Ok(()), |plan| json("plan", plan))
    }
}

fn principal(by: &Principal) -> Checked {
    limits::person(&by.name)?;
    at_most("roles", by.roles.len(), limits::LIST_MAX)?;
    by.roles.iter().try_for_each(|role| limits::person(role))
}

fn check_content(content: &Content) -> Checked {
    files(&content.files)?;
    json("signature", &content.signature)?;
    line("description", &content.description)?;
    text("text", &content.text, limits::TEXT_BYTES_MAX)?;
    at_most("tags", content.tags.len(), limits::TAGS_MAX)?;
    tags(&content.tags)?;
    at_most("metrics", content.metrics.len(), limits::METRICS_MAX)?;
    metrics(&content.metrics)?;
    content.lock.as_ref().map_or(Ok(()), lock)?;
    if let Some(signed) = &content.signed {
        words("key", &signed.key)?;
        words("identity", &signed.identity)?;
    }
    match &content.source {
        Source::Pushed => Ok(()),
        Source::Imported { system, uri } => words("source", system).and(words("source", uri)),
    }
}

fn files(files: &[FileEntry]) -> Checked {
    if files.is_empty() {
        return Err(Refusal::invalid("files", "a version without files: expected one at least"));
    }
    at_most("files", files.len(), limits::FILES_MAX)?;
    for file in files {
        words("path", &file.path)?;
        let is_plain =
            |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\n', '\t']);
        if !file.path.split('/').all(is_plain) {
            let message = format!("{:?} cannot be a file of an artifact: expected a plain relative path", file.path);
            return Err(Refusal::invalid("files", message));
        }
    }
    if files.windows(2).all(|pair| pair[0].path < pair[1].path) {
        return Ok(());
    }
    Err(Refusal::invalid("files", "the files are not in order: expected each path once, sorted"))
}

fn tags(tags: &BTreeMap<String, String>) -> Checked {
    tags.iter().try_for_each(|(key, value)| {
        text("tag", key, limits::NAME_BYTES_MAX)?;
        text("tag", value, limits::LINE_BYTES_MAX)?;
        match key.is_empty() || key.contains('=') || key.chars().any(char::is_control) {
            true => Err(Refusal::invalid(
                "tag",
                format!("{key:?} cannot be a tag: expected a name without = and control characters"),
            )),
            false => Ok(()),
        }
    })
}

fn metrics(told: &[Metric]) -> Checked {
    at_most("metrics", told.len(), limits::METRICS_MAX)?;
    for metric in told {
        let key = &metric.key;
        name_of_metric(&key.metric)?;
        name_of_metric(&key.dataset)?;
        words("slice", &key.slice)?;
        words("evaluator", &metric.evaluator)?;
        let is_finite =
            metric.value.is_finite() && metric.interval.is_none_or(|ends| ends.iter().all(|end| end.is_finite()));
        if !is_finite {
            return Err(Refusal::invalid("metrics", format!("{key} is not a finite number: expected one")));
        }
        if metric.interval.is_some_and(|[low, high]| low > high) {
            return Err(Refusal::invalid(
                "metrics",
                format!("the interval of {key} is upside down: expected low, then high"),
            ));
        }
    }
    let mut keys: Vec<_> = told.iter().map(|metric| &metric.key).collect();
    keys.sort_unstable();
    match keys.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(Refusal::invalid("metrics", format!("{} is told twice: expected it once", pair[0]))),
        None => Ok(()),
    }
}

fn name_of_metric(part: &str) -> Checked {
    text("metric", part, limits::NAME_BYTES_MAX)?;
    line("metric", part)?;
    if part.is_empty() {
        Err(Refusal::invalid("metrics", "a measurement without metric or dataset: expected both"))
    } else {
        Ok(())
    }
}

fn lock(lock: &Lock) -> Checked {
    words("lock", &lock.engine)?;
    words("lock", &lock.build)?;
    words("lock", &lock.provider)?;
    at_most("lock entries", lock.others.len(), limits::LIST_MAX)?;
    lock.others.iter().try_for_each(|(key, value)| words("lock", key).and(words("lock", value)))
}

fn policy(policy: &Policy) -> Checked {
    let wrong = |why: String| Err(Refusal::invalid("policy", why));
    at_most("groups of approvers", policy.approvals.len(), limits::RULES_MAX)?;
    at_most("required metrics", policy.metrics.len(), limits::RULES_MAX)?;
    at_most("freeze windows", policy.freeze.len(), limits::RULES_MAX)?;
    for group in &policy.approvals {
        at_most("approvers", group.roles.len() + group.persons.len(), limits::LIST_MAX)?;
        group.roles.iter().chain(&group.persons).try_for_each(|who| limits::person(who))?;
        let persons = group.persons.len() as u64;
        if group.required == 0 || (group.roles.is_empty() && persons > 0 && group.required > persons) {
            return wrong(format!(
                "{} approvals by {}: expected a number that can be met, from 1",
                group.required,
                group.words()
            ));
        }
    }
    for rule in &policy.metrics {
        name_of_metric(&rule.metric)?;
        name_of_metric(&rule.dataset)?;
        words("slice", &rule.slice)?;
        if !rule.bound.into_iter().chain(rule.worse_by_max).all(f64::is_finite) {
            return wrong(format!("a bound of {} is not a finite number", rule.metric));
        }
    }
    for freeze in &policy.freeze {
        line("reason", freeze.reason())?;
        match freeze {
            Freeze::Weekly { days, .. } if days.is_empty() || days.len() > 7 => {
                return wrong(
                    "a weekly freeze has no days, or more than a week has: expected such as [\"fri\", \"sat\"]".into(),
                );
            }
            Freeze::Once { from, to, .. } if to <= from => {
                return wrong(format!("a freeze from {from} to {to} never is"));
            }
            _ => {}
        }
    }
    // Numbers with 17 digits are not read back to the bit by every reader, and a policy must be the same for all.
    let again = serde_json::to_string(policy).ok().and_then(|text| serde_json::from_str::<Policy>(&text).ok());
    if again.as_ref() == Some(policy) {
        Ok(())
    } else {
        wrong("a bound has too many digits: expected 15 at most".into())
    }
}

fn json(what: &'static str, value: &Value) -> Checked {
    if depth(value) > limits::JSON_DEPTH_MAX {
        return Err(Refusal::too_large(what, format!("{what} is nested deeper than {}", limits::JSON_DEPTH_MAX)));
    }
    text(what, &value.to_string(), limits::JSON_BYTES_MAX)
}
