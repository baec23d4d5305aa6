//! Which plans does the server have, and which may be gone back to?
//!
//! A plan is an immutable revision. What is current is a pointer to one: to apply a plan adds a revision and moves the
//! pointer there, to roll back moves it to one that was there before, and to remove takes it away. No IO, no clock.

pub mod differences;
pub mod file;
pub mod folder;
pub mod journal;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};
use tiltyard_rollout::plan::{Arm, Plan};
use tiltyard_types::{Error, Result};

use self::file::Said;
use crate::arm::PINNED;
use crate::ledger::OTHER;
use crate::telemetry::ALL_ARMS;

/// Endpoints that have a plan.
const ENDPOINTS_MAX: usize = 1000;

/// Names that something is remembered of: those that have a plan, had one, or have a file that waits.
const NAMES_MAX: usize = 2 * ENDPOINTS_MAX;

/// Revisions of one endpoint that are remembered.
const REVISIONS_MAX: usize = 16;

/// Arms of one plan.
const ARMS_MAX: usize = 32;

/// Header rules of one plan: each is looked for in each request.
const RULES_MAX: usize = 32;

/// What figures call requests that are of no single arm.
const RESERVED: [&str; 3] = [PINNED, ALL_ARMS, OTHER];

/// Bytes of a name that becomes a label.
const NAME_BYTES_MAX: usize = 128;

/// The plans of all endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Endpoints {
    held: BTreeMap<String, Held>,
}

/// The plans of one endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Held {
    /// In the order of their numbers.
    revisions: Vec<Revision>,
    /// The revision that holds, or held until the plan was removed. Where revisions are forgotten, the last that there was.
    current: u64,
    #[serde(default)]
    is_removed: bool,
    /// The digest of what its file said when it was last seen; none where there is no file.
    file: Option<String>,
    /// Whether that is still to come: nobody has decided anything about the endpoint since it was seen.
    #[serde(default)]
    is_awaited: bool,
}

/// A plan that was applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Revision {
    #[serde(serialize_with = "write", deserialize_with = "read")]
    plan: Arc<Plan>,
    /// The revision that held when it was applied.
    before: Option<u64>,
}

impl Held {
    /// The number of the last revision; 0 where there was none.
    fn last(&self) -> u64 {
        self.revisions.last().map_or(self.current, |last| last.plan.revision)
    }

    fn find(&self, revision: u64) -> Option<&Revision> {
        self.revisions.iter().find(|found| found.plan.revision == revision)
    }

    fn current(&self) -> Option<&Arc<Plan>> {
        (!self.is_removed).then(|| self.find(self.current)).flatten().map(|found| &found.plan)
    }

    /// Whether a plan ends the watch over a promoted one, for good or since it became worse: then it is that one without the watch,
    /// or has the champion of before.
    fn settles(&self, last: &Plan, before: Option<u64>, plan: &Plan) -> bool {
        let champion = |plan: &Plan| {
            let arm = &plan.arms[plan.champion()];
            (arm.model.clone(), arm.version)
        };
        let is_unwatched = || Plan { watched: false, revision: plan.revision, ..last.clone() } == *plan;
        let is_before = || {
            let before = before.and_then(|before| self.find(before));
            before.is_some_and(|before| champion(&before.plan) == champion(plan))
        };
        last.watched && (is_unwatched() || is_before())
    }

    /// What a rollback goes back to: what held when the current revision was applied, or until it was removed. So no rollback
    /// brings back what another one took away.
    fn previous(&self) -> Option<&Arc<Plan>> {
        let revision = if self.is_removed { Some(self.current) } else { self.find(self.current)?.before };
        Some(&self.find(revision?)?.plan)
    }
}

impl Endpoints {
    /// The plan that holds for each endpoint.
    pub fn current(&self) -> BTreeMap<String, Arc<Plan>> {
        self.held.iter().filter_map(|(name, held)| Some((name.clone(), Arc::clone(held.current()?)))).collect()
    }

    /// The plan that holds for one.
    pub fn plan(&self, endpoint: &str) -> Option<&Arc<Plan>> {
        self.held.get(endpoint)?.current()
    }

    /// The versions of a model that are held for plans: those of the current revisions, and of the ones before them, which are
    /// gone back to in a moment.
    pub fn versions(&self, model: &str) -> BTreeSet<u64> {
        let plans = self.held.values().flat_map(|held| held.current().into_iter().chain(held.previous()));
        let arms = plans.flat_map(|plan| &plan.arms).filter(|arm| arm.model == model);
        arms.map(|arm| arm.version).collect()
    }

    /// Every model that a version is held of.
    pub fn models(&self) -> BTreeSet<String> {
        let plans = self.held.values().flat_map(|held| held.current().into_iter().chain(held.previous()));
        plans.flat_map(|plan| &plan.arms).map(|arm| arm.model.clone()).collect()
    }

    /// The endpoints whose current plan has this model.
    pub fn users(&self, model: &str) -> Vec<&str> {
        let uses = |held: &Held| held.current().is_some_and(|plan| plan.arms.iter().any(|arm| arm.model == model));
        self.held.iter().filter(|(_, held)| uses(held)).map(|(name, _)| name.as_str()).collect()
    }

    /// Notes what a file says. True if it said something else when it was last seen: from now on that is awaited, until it
    /// holds or somebody decides otherwise. Fails where there are too many names.
    pub fn see_file(&mut self, said: &Said) -> Result<bool> {
        if !self.is_news(said) {
            return Ok(false);
        }
        if !self.held.contains_key(said.endpoint()) {
            self.make_room()?;
        }
        let nothing = || Held { is_removed: true, ..Held::default() };
        let held = self.held.entry(said.endpoint().to_owned()).or_insert_with(nothing);
        (held.file, held.is_awaited) = (Some(said.digest()), true);
        Ok(true)
    }

    /// Whether a file says something else than when it was last seen.
    pub fn is_news(&self, said: &Said) -> bool {
        let digest = said.digest();
        self.held.get(said.endpoint()).is_none_or(|held| held.file.as_ref() != Some(&digest))
    }

    /// What a file says is still to come, though a plan was made to hold until then.
    pub fn await_file(&mut self, endpoint: &str) {
        if let Some(held) = self.held.get_mut(endpoint) {
            held.is_awaited = held.file.is_some();
        }
    }

    /// Whether it is still to become what its file says.
    pub fn is_awaited(&self, endpoint: &str) -> bool {
        self.held.get(endpoint).is_some_and(|held| held.is_awaited)
    }

    /// Notes that somebody decided what holds: what its file says is no news until it changes.
    pub fn decide(&mut self, endpoint: &str) {
        if let Some(held) = self.held.get_mut(endpoint) {
            held.is_awaited = false;
        }
    }

    /// Endpoints that had a file when files were last seen.
    pub fn from_files(&self) -> impl Iterator<Item = &String> {
        self.held.iter().filter(|(_, held)| held.file.is_some()).map(|(name, _)| name)
    }

    /// The latest revision that says what a draft does, where that is not what holds already.
    pub fn revision_of(&self, draft: &Plan) -> Option<u64> {
        let held = self.held.get(&draft.endpoint)?;
        let says_so =
            |plan: &Plan| plan.steps.is_empty() && Plan { revision: draft.revision, ..plan.clone() } == *draft;
        if held.current().is_some_and(|current| says_so(current)) {
            return None;
        }
        held.revisions.iter().rev().find(|found| says_so(&found.plan)).map(|found| found.plan.revision)
    }

    /// The revision that a draft would be; `None` where it says what holds already. Fails where it may not follow what holds.
    pub fn next(&self, draft: &Plan) -> Result<Option<Plan>> {
        let next = self.next_anyhow(draft)?;
        if let (Some(next), Some(current)) = (&next, self.plan(&draft.endpoint))
            && current.salt == next.salt
        {
            next.follows(current).map_err(|error| {
                let message = format!("{}: give the plan a salt of its own to begin anew", error.message());
                Error::invalid(message)
            })?;
        }
        Ok(next)
    }

    /// The same, whatever holds: it was decided elsewhere, or held before.
    pub fn next_anyhow(&self, draft: &Plan) -> Result<Option<Plan>> {
        let held = self.held.get(&draft.endpoint);
        let last = held.map_or(0, Held::last);
        let next = Plan { revision: last + 1, ..draft.clone() };
        next.validate()?;
        check_bounds(&next)?;
        let Some(current) = held.and_then(Held::current) else {
            if self.held.values().filter(|held| held.current().is_some()).count() >= ENDPOINTS_MAX {
                return Err(Error::invalid(format!(
                    "{ENDPOINTS_MAX} endpoints have a plan already, which is the most"
                )));
            }
            return Ok(Some(next));
        };
        if (Plan { revision: current.revision, ..next.clone() }) == **current {
            return Ok(None);
        }
        Ok(Some(next))
    }

    /// Adds a revision that [`Endpoints::next`] made, and lets it hold.
    pub fn add(&mut self, plan: Plan) {
        if !self.held.contains_key(&plan.endpoint) {
            // There is room: no more have plans than half of the names.
            drop(self.make_room());
        }
        let held = self.held.entry(plan.endpoint.clone()).or_default();
        // What a rollout made on its way is nothing to go back to: what held before it is.
        let before = match held.find(held.current) {
            Some(Revision { plan: last, before }) if !last.steps.is_empty() || held.settles(last, *before, &plan) => {
                *before
            }
            found => found.map(|found| found.plan.revision),
        };
        (held.current, held.is_removed, held.is_awaited) = (plan.revision, false, false);
        held.revisions.push(Revision { plan: Arc::new(plan), before });
        // The oldest is forgotten, unless it is what a rollback leads to.
        let oldest = held.revisions.iter().position(|found| Some(found.plan.revision) != before);
        if held.revisions.len() > REVISIONS_MAX {
            oldest.map(|oldest| held.revisions.remove(oldest));
        }
    }

    /// The same of one that held before: what it takes the place of is nothing to go back to.
    pub fn add_back(&mut self, plan: Plan) {
        let endpoint = plan.endpoint.clone();
        self.add(plan);
        if let Some(added) = self.held.get_mut(&endpoint).and_then(|held| held.revisions.last_mut()) {
            added.before = None;
        }
    }

    /// Forgets a name without a plan and a file, if that many are remembered that another one is too many.
    fn make_room(&mut self) -> Result<()> {
        if self.held.len() < NAMES_MAX {
            return Ok(());
        }
        let idle = self.held.iter().find(|(_, held)| held.current().is_none() && held.file.is_none());
        match idle.map(|(name, _)| name.clone()) {
            Some(idle) => drop(self.held.remove(&idle)),
            None => return Err(Error::invalid(format!("there are {NAMES_MAX} endpoints already, which is the most"))),
        }
        Ok(())
    }

    /// The revision that a rollback leads to: the one named, or else the one before.
    pub fn back(&self, endpoint: &str, to: Option<u64>) -> Result<Arc<Plan>> {
        let held = self.held(endpoint)?;
        let known = || {
            let all = held.revisions.iter().map(|found| found.plan.revision.to_string()).collect::<Vec<_>>();
            if all.is_empty() {
                "none is remembered".into()
            } else {
                format!("revisions {} are remembered", all.join(", "))
            }
        };
        let found = match to {
            Some(revision) => held.find(revision).map(|found| &found.plan),
            None => held.previous(),
        };
        if let Some(plan) = found.filter(|plan| !plan.steps.is_empty()) {
            let message =
                format!("revision {} of endpoint {endpoint:?} was made by a rollout on its way", plan.revision);
            return Err(Error::invalid(format!(
                "{message}: expected one that a person applied, or that a rollout ended with"
            )));
        }
        found.cloned().ok_or_else(|| match to {
            Some(revision) => {
                Error::not_found(format!("endpoint {endpoint:?} has no revision {revision}: {}", known()))
            }
            None => Error::not_found(format!("endpoint {endpoint:?} has no revision to go back to: {}", known())),
        })
    }

    /// The latest plan on the way back that has none of these versions.
    pub fn without(&self, endpoint: &str, out: &[(String, u64)]) -> Option<&Arc<Plan>> {
        let held = self.held.get(endpoint)?;
        let first = if held.is_removed { Some(held.current) } else { held.find(held.current)?.before };
        let mut way = std::iter::successors(first, |revision| held.find(*revision)?.before);
        way.find_map(|revision| {
            Some(&held.find(revision)?.plan).filter(|plan| plan.steps.is_empty() && !plan.has_any(out))
        })
    }

    /// Lets a revision hold that is there.
    pub fn point(&mut self, endpoint: &str, revision: u64) {
        if let Some(held) = self.held.get_mut(endpoint) {
            (held.current, held.is_removed, held.is_awaited) = (revision, false, false);
        }
    }

    /// Lets no plan hold for an endpoint. What it had is remembered.
    pub fn remove(&mut self, endpoint: &str) -> Result<()> {
        self.held(endpoint)?;
        if let Some(held) = self.held.get_mut(endpoint) {
            (held.is_removed, held.is_awaited) = (true, false);
        }
        Ok(())
    }

    /// Endpoints whose plan was removed and can be brought back.
    pub fn removed(&self) -> impl Iterator<Item = &String> {
        let removed = self.held.iter().filter(|(_, held)| held.is_removed && !held.revisions.is_empty());
        removed.map(|(name, _)| name)
    }

    /// Forgets the plans of an endpoint that has none any more. The number of the last one stays, so that it is not used twice,
    /// and so does what its file said.
    pub fn forget(&mut self, endpoint: &str) {
        if let Some(held) = self.held.get_mut(endpoint).filter(|held| held.is_removed) {
            held.current = held.last();
            held.revisions.clear();
        }
    }

    /// Notes that there is no file any more: whatever comes in one is news.
    pub fn forget_file(&mut self, endpoint: &str) {
        if let Some(held) = self.held.get_mut(endpoint) {
            (held.file, held.is_awaited) = (None, false);
            if held.last() == 0 {
                self.held.remove(endpoint);
            }
        }
    }

    /// An endpoint whose current plan has this version of a model as this very deployment.
    pub fn pins(&self, model: &str, version: u64, digest: &str) -> Option<&str> {
        let is_it = |arm: &Arm| arm.model == model && arm.version == version && arm.digest.as_deref() == Some(digest);
        let pins = |held: &Held| held.current().is_some_and(|plan| plan.arms.iter().any(is_it));
        self.held.iter().find(|(_, held)| pins(held)).map(|(name, _)| name.as_str())
    }

    fn held(&self, endpoint: &str) -> Result<&Held> {
        self.held.get(endpoint).ok_or_else(|| {
            let shown: String = endpoint.chars().take(200).collect();
            let known = self.held.iter().filter(|(_, held)| !held.revisions.is_empty());
            let known: Vec<String> = known.take(12).map(|(name, _)| format!("{name:?}")).collect();
            let known = if known.is_empty() {
                "no endpoint has one".to_owned()
            } else {
                format!("there are {}", known.join(", "))
            };
            Error::not_found(format!("endpoint {shown:?} has no plan: {known}"))
        })
    }

    /// All of it as JSON.
    pub fn form(&self) -> Value {
        // Plans hold nothing that JSON cannot.
        serde_json::to_value(&self.held).unwrap_or_default()
    }

    /// One endpoint as JSON.
    pub fn form_of(&self, endpoint: &str) -> Result<Value> {
        let held = self.held(endpoint)?;
        let current = held.current().map(|plan| plan.revision);
        Ok(json!({ "endpoint": endpoint, "current": current, "revisions": held.revisions }))
    }

    /// Reads what [`Endpoints::form`] wrote.
    pub fn read(form: Value) -> Result<Endpoints, String> {
        let held: BTreeMap<String, Held> = serde_json::from_value(form).map_err(|error| error.to_string())?;
        for (name, held) in &held {
            for Revision { plan, .. } in &held.revisions {
                plan.validate().map_err(|error| format!("{name}, revision {}: {}", plan.revision, error.message()))?;
            }
            if !held.is_removed && held.current().is_none() {
                return Err(format!("{name}: its current revision is not among its revisions"));
            }
        }
        Ok(Endpoints { held })
    }
}

/// Fails where a plan has more of something than a server wants to carry.
fn check_bounds(plan: &Plan) -> Result<()> {
    let within = |what: &str, count: usize, most: usize| match count <= most {
        true => Ok(()),
        false => Err(Error::invalid(format!("the plan has {count} {what}: expected {most} at most"))),
    };
    within("arms", plan.arms.len(), ARMS_MAX)?;
    within("header rules", plan.headers.len(), RULES_MAX)?;
    for name in std::iter::once(&plan.endpoint).chain(plan.arms.iter().map(|arm| &arm.name)) {
        if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            let shown: String = name.chars().take(40).collect();
            return Err(Error::invalid(format!(
                "{shown:?} cannot be a name: expected {NAME_BYTES_MAX} bytes at most, and no control characters"
            )));
        }
    }
    match plan.arms.iter().find(|arm| RESERVED.contains(&arm.name.as_str())) {
        Some(arm) => Err(Error::invalid(format!(
            "no arm can be called {:?}: in figures that is what no arm answers; expected another name",
            arm.name
        ))),
        None => Ok(()),
    }
}

fn write<S: Serializer>(plan: &Arc<Plan>, serializer: S) -> Result<S::Ok, S::Error> {
    plan.serialize(serializer)
}

fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Plan>, D::Error> {
    Plan::deserialize(deserializer).map(Arc::new)
}

fn file_digest(draft: &Plan) -> String {
    Plan { revision: 0, ..draft.clone() }.digest().to_string()
}

#[cfg(test)]
pub(crate) mod tests;
