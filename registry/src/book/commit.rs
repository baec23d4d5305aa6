//! What changes with a fact that can follow?
//!
//! Nothing fails here: whatever could be wrong was found before. Each change of what approvals are bound to voids them.

use super::Book;
use super::endpoints::Plan;
use super::environments::Position;
use super::facts::{Fact, ModelSet, Pushed, Says, StateSet, Tagged};
use super::model::{Alias, Measured, Metric, Model, Stamp, Version, VersionState};
use super::orders::Outcome;
use super::requests::Ending;

impl Book {
    /// Takes in a fact that was checked.
    pub(crate) fn commit(&mut self, at: &Stamp, fact: &Fact) {
        match &fact.says {
            Says::Model(set) => self.commit_model(at, set),
            Says::Version(pushed) => self.commit_version(at, pushed),
            Says::Tags(tagged) => self.commit_tags(at, tagged),
            Says::Alias(aliased) => {
                let Some(model) = self.touch(at, &aliased.model) else { return };
                match aliased.version {
                    Some(version) => {
                        drop(model.aliases.insert(aliased.alias.clone(), Alias { version, since: at.clone() }))
                    }
                    None => drop(model.aliases.remove(&aliased.alias)),
                }
            }
            Says::State(set) => self.commit_state(at, set),
            Says::Environment(set) => {
                let bare = super::Environment::bare(&set.environment, set.rank);
                let environment = self.environments.entry(set.environment.clone()).or_insert(bare);
                let before = environment.policy_digest;
                (environment.rank, environment.policy) = (set.rank, set.policy.clone());
                (environment.policy_digest, environment.set) = (set.policy.digest(), at.clone());
                if environment.policy_digest != before {
                    self.void_in(at, &set.environment);
                }
            }
            Says::WentBack(back) => {
                let Some(environment) = self.environments.get_mut(&back.environment) else { return };
                let Some(positions) = environment.positions.get_mut(&back.model) else { return };
                let Some(there) = positions.iter().rfind(|position| position.version == back.to).cloned() else {
                    return;
                };
                positions.push(Position { since: at.clone(), is_rollback: true, ..there });
                let ended: Vec<_> = self.open_of(&back.model, Some(back.to), Some(&back.environment));
                let reason = format!("{} went back to it", back.environment);
                ended.iter().for_each(|id| self.end_request(at, id, super::RequestState::Promoted, &reason));
                // Who said yes to what was taken back said so before it was.
                self.void(
                    at,
                    &back.model,
                    Some(back.from),
                    "rolled_back",
                    &format!("{} went back from it", back.environment),
                );
            }
            Says::Plan(planned) => {
                let plan = Plan { planned: planned.clone(), since: at.clone() };
                self.endpoints.entry(planned.endpoint.clone()).or_default().push(plan);
            }
            Says::Event(told) => self.runs.take(at, &told.event),
            says => match says {
                Says::Described(_)
                | Says::Metrics(_)
                | Says::Lock(_)
                | Says::Baseline(_)
                | Says::Signed(_)
                | Says::Lineage(_) => {
                    self.commit_said(at, says);
                }
                says => self.commit_request(at, &fact.by, says),
            },
        }
    }

    /// The model that something is said of.
    fn touch(&mut self, at: &Stamp, model: &str) -> Option<&mut Model> {
        let model = self.models.get_mut(model)?;
        model.changed = at.clone();
        Some(model)
    }

    /// The version that something is said of.
    fn touch_version(&mut self, at: &Stamp, model: &str, number: u64) -> Option<&mut Version> {
        let version = self.touch(at, model)?.version_mut(number)?;
        version.changed = at.clone();
        Some(version)
    }

    fn made(&mut self, at: &Stamp, name: &str) -> &mut Model {
        let made = || Model { name: name.into(), owner: at.by.clone(), created: at.clone(), ..Model::default() };
        let model = self.models.entry(name.into()).or_insert_with(made);
        model.changed = at.clone();
        model
    }

    fn commit_model(&mut self, at: &Stamp, set: &ModelSet) {
        let model = self.made(at, &set.model);
        let words = [
            (&set.owner, &mut model.owner),
            (&set.description, &mut model.description),
            (&set.task, &mut model.task),
            (&set.risk, &mut model.risk),
        ];
        let mut is_other = false;
        for (said, held) in words {
            if let Some(said) = said.as_ref().filter(|said| *said != held) {
                is_other = true;
                held.clone_from(said);
            }
        }
        if set.retention.is_some() && set.retention != model.retention {
            is_other = true;
            model.retention = set.retention;
        }
        if is_other {
            self.void(at, &set.model, None, "card", "the model was described otherwise");
        }
    }

    fn commit_version(&mut self, at: &Stamp, pushed: &Pushed) {
        let content = (*pushed.content).clone();
        self.artifacts.insert((pushed.model.clone(), content.artifact), pushed.version);
        let mut metrics: Vec<_> =
            content.metrics.into_iter().map(|metric| Measured { metric, at: at.clone() }).collect();
        metrics.sort_by(|one, other| one.metric.key.cmp(&other.metric.key));
        let version = Version {
            model: pushed.model.clone(),
            number: pushed.version,
            artifact: content.artifact,
            files: content.files,
            signature: content.signature,
            state: VersionState::Ready,
            reason: String::new(),
            state_before: VersionState::Ready,
            description: content.description,
            text: content.text,
            tags: content.tags,
            metrics,
            lock: content.lock,
            baseline: content.baseline,
            signed: content.signed,
            lineage: content.lineage,
            source: content.source,
            review_ms: None,
            pushed: at.clone(),
            changed: at.clone(),
        };
        self.made(at, &pushed.model).versions.push(version);
    }

    fn commit_tags(&mut self, at: &Stamp, tagged: &Tagged) {
        let tags = match tagged.version {
            Some(number) => self.touch_version(at, &tagged.model, number).map(|version| &mut version.tags),
            None => self.touch(at, &tagged.model).map(|model| &mut model.tags),
        };
        let Some(tags) = tags else { return };
        let before = tags.clone();
        tags.retain(|key, _| !tagged.unset.contains(key));
        tags.extend(tagged.set.clone());
        if *tags != before && tagged.version.is_some() {
            self.void(at, &tagged.model, tagged.version, "card", "its tags changed");
        }
    }

    fn commit_state(&mut self, at: &Stamp, set: &StateSet) {
        let Some(version) = self.touch_version(at, &set.model, set.version) else { return };
        version.state = match set.state {
            VersionState::Ready => version.state_before,
            state => {
                version.state_before = version.state;
                state
            }
        };
        version.reason.clone_from(&set.reason);
        let why = match set.state {
            VersionState::Ready => "it left quarantine".to_owned(),
            state => format!("it was {}", state.name()),
        };
        self.void(at, &set.model, Some(set.version), "state", &why);
    }

    /// Takes in what is said of a version in other words.
    fn commit_said(&mut self, at: &Stamp, says: &Says) {
        let (model, number) = match says {
            Says::Described(said) => (&said.model, said.version),
            Says::Metrics(told) => (&told.model, told.version),
            Says::Lock(locked) => (&locked.model, locked.version),
            Says::Baseline(set) => (&set.model, set.version),
            Says::Signed(by) => (&by.model, by.version),
            Says::Lineage(told) => (&told.model, told.version),
            _ => return,
        };
        let Some(version) = self.touch_version(at, model, number) else { return };
        if let Some((what, why)) = change(version, says, at) {
            self.void(at, model, Some(number), what, why);
        }
    }

    /// Moves an environment on to what was promoted.
    pub(crate) fn place(&mut self, at: &Stamp, environment: &str, model: &str, version: u64, promotion: &str) {
        let Some(environment) = self.environments.get_mut(environment) else { return };
        let positions = environment.positions.entry(model.to_owned()).or_default();
        let before = positions.len().checked_sub(1);
        let promotion = promotion.to_owned();
        positions.push(Position { version, since: at.clone(), promotion, is_rollback: false, before });
    }

    /// What a fact that was taken in comes to, for whoever ordered it.
    pub(crate) fn outcome(&self, fact: &Fact) -> Outcome {
        let version =
            |model: &String, version: u64, is_new: bool| Outcome::Version { model: model.clone(), version, is_new };
        let request = |id: &String| Outcome::Request { request: id.clone() };
        match &fact.says {
            Says::Model(set) => Outcome::Model { model: set.model.clone() },
            Says::Version(pushed) => version(&pushed.model, pushed.version, true),
            Says::Tags(tagged) => match tagged.version {
                Some(number) => version(&tagged.model, number, false),
                None => Outcome::Model { model: tagged.model.clone() },
            },
            Says::Described(said) => version(&said.model, said.version, false),
            Says::Metrics(told) => version(&told.model, told.version, false),
            Says::Alias(aliased) => match aliased.version {
                Some(number) => version(&aliased.model, number, false),
                None => Outcome::Model { model: aliased.model.clone() },
            },
            Says::State(set) => version(&set.model, set.version, false),
            Says::Lock(locked) => version(&locked.model, locked.version, false),
            Says::Baseline(set) => version(&set.model, set.version, false),
            Says::Signed(by) => version(&by.model, by.version, false),
            Says::Lineage(told) => version(&told.model, told.version, false),
            Says::Environment(set) => {
                Outcome::Environment { environment: set.environment.clone(), policy: set.policy.digest() }
            }
            Says::WentBack(back) => {
                Outcome::Position { environment: back.environment.clone(), model: back.model.clone(), version: back.to }
            }
            Says::Requested(asked) => request(&asked.request),
            Says::Approved(approved) => request(&approved.request),
            Says::Rejected(answered) | Says::Withdrawn(answered) => request(&answered.request),
            Says::Revoked(revoked) => request(&revoked.request),
            Says::Promoted(begun) => {
                Outcome::Promotion { promotion: begun.promotion.clone(), ended: Some(Ending::Promoted) }
            }
            Says::Begun(begun) => Outcome::Promotion { promotion: begun.promotion.clone(), ended: None },
            Says::Ended(ended) => Outcome::Promotion { promotion: ended.promotion.clone(), ended: Some(ended.outcome) },
            Says::Plan(planned) => Outcome::Plan { endpoint: planned.endpoint.clone(), revision: planned.revision },
            Says::Event(told) => Outcome::Event { run: super::lineage::run_id(&told.event).to_owned() },
        }
    }
}

/// Changes a version, and says what of that approvals are bound to: nothing where all is as it was.
fn change(version: &mut Version, says: &Says, at: &Stamp) -> Option<(&'static str, &'static str)> {
    /// Puts a value in place, and tells whether it is another one.
    fn put<T: Clone + PartialEq>(held: &mut T, said: &T) -> bool {
        let is_other = held != said;
        held.clone_from(said);
        is_other
    }
    match says {
        Says::Described(said) => {
            let is_described = said.description.as_ref().is_some_and(|said| put(&mut version.description, said));
            let is_told = said.text.as_ref().is_some_and(|said| put(&mut version.text, said));
            if let Some(review_ms) = said.review_ms {
                version.review_ms = (review_ms > 0).then_some(review_ms);
            }
            (is_described || is_told).then_some(("card", "it was described otherwise"))
        }
        Says::Metrics(told) => {
            let others = told.metrics.iter().filter(|metric| measure(version, metric, at)).count();
            (others > 0).then_some(("card", "something was measured"))
        }
        Says::Lock(locked) => {
            put(&mut version.lock, &Some(locked.lock.clone())).then_some(("lock", "it got another environment lock"))
        }
        Says::Baseline(set) => {
            put(&mut version.baseline, &Some(set.baseline.clone())).then_some(("baseline", "it got another baseline"))
        }
        Says::Signed(by) => {
            version.signed = Some(by.signed.clone());
            None
        }
        Says::Lineage(told) => {
            let told = &told.lineage;
            let held = &mut version.lineage;
            let is_other = [
                !told.datasets.is_empty() && put(&mut held.datasets, &told.datasets),
                told.code.is_some() && put(&mut held.code, &told.code),
                told.run.is_some() && put(&mut held.run, &told.run),
                told.parent.is_some() && put(&mut held.parent, &told.parent),
            ];
            is_other.contains(&true).then_some(("card", "it was told what it was made of"))
        }
        _ => None,
    }
}

/// Puts a measurement in its place, and tells whether it says something else than the one before.
fn measure(version: &mut Version, metric: &Metric, at: &Stamp) -> bool {
    let measured = Measured { metric: metric.clone(), at: at.clone() };
    match version.metrics.binary_search_by(|held| held.metric.key.cmp(&metric.key)) {
        Ok(place) => {
            let is_other = version.metrics[place].metric != *metric;
            version.metrics[place] = measured;
            is_other
        }
        Err(place) => {
            version.metrics.insert(place, measured);
            true
        }
    }
}
