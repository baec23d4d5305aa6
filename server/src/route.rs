//! Which arm of a plan answers a request?
//!
//! A plan is resolved when a catalog is made: arms to what answers, names of headers to what a map of headers is asked by. A
//! request then takes no lock, and what its head tells is enough unless the plan's key lies in the body.

mod key;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use tiltyard_rollout::assign::{Assigned, Assignment};
use tiltyard_rollout::plan::{KeySource, Plan, Role};
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::stats::Apart;
use tiltyard_types::{Error, ErrorKind, InferRequest, RequestId, Result};

use crate::arm::Arm;
use crate::catalog::{Model, VersionState};
use crate::config::OnFailure;
use crate::rollouts::feedback::notes::{Pairing, key_of_head};
use crate::rollouts::observer::{Observer, Side};
use crate::shadow::SHADOWS_MAX;
use crate::shadow::lane::{Lane, Watching};

use self::key::BodyKey;

/// The request's id as text: what a plan by request deals by.
const REQUEST_ID_BYTES: usize = 36;

/// What is known of a request before its body is read.
pub struct Asking<'a> {
    /// Its headers, or its metadata.
    pub headers: &'a HeaderMap,
    /// Who sent it, as the server's locks know them.
    pub caller: Option<&'a str>,
    /// The server's name for it.
    pub id: RequestId,
}

/// Who answers a request.
pub struct Choice {
    /// What answers; whoever speaks for the endpoint until the key is known.
    pub arm: Arc<Arm>,
    /// The key's name in evidence; `None` where the request is kept out of all tests.
    pub evidence: Option<u64>,
    /// Why it is kept out, where a plan says so.
    apart: Option<Apart>,
    /// The plan that chose.
    route: Option<Arc<Route>>,
    /// The arm that the request belongs to, by its place in the plan.
    picked: usize,
    is_open: bool,
    /// A hash of the client's own name for the request, where labels may come by it.
    pub(crate) row_key: Option<u128>,
}

/// An arm by its place in the plan, and the key's name in evidence or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    arm: usize,
    evidence: Result<u64, Apart>,
}

impl Choice {
    /// Where there is no plan to ask.
    pub fn of(arm: Arc<Arm>) -> Choice {
        Choice { arm, evidence: None, apart: None, route: None, picked: 0, is_open: false, row_key: None }
    }

    /// Whose inputs, outputs and columns the request is read by: an endpoint's contract is its champion's.
    pub fn contract(&self) -> Arc<Arm> {
        let champion = self.route.as_ref().and_then(|route| route.champion().ok());
        champion.unwrap_or_else(|| Arc::clone(&self.arm))
    }

    /// The plan that must see the body before it can choose.
    pub fn open(&self) -> Option<Arc<Route>> {
        self.route.as_ref().filter(|_| self.is_open).cloned()
    }

    /// The arm that the request is for, where its head tells that already.
    pub fn known(&self) -> Option<&Arc<Arm>> {
        (!self.is_open).then_some(&self.arm)
    }

    /// The shadows that see the request: those of its plan, where the champion itself answers and it is evidence.
    pub fn shadows(&self) -> &[Watching] {
        let watched =
            |route: &&Arc<Route>| self.evidence.is_some() && !route.watching.is_empty() && route.is_champion(&self.arm);
        self.route.as_ref().filter(watched).map_or(&[], |route| route.watching())
    }

    /// Takes what the plan found in the body. Fails where that arm does not answer, nor anybody in its stead.
    pub fn settle(&mut self, pick: Pick) -> Result<()> {
        if let Some(route) = self.route.take() {
            let row_key = self.row_key.take();
            *self = Choice { row_key, ..route.take(pick)? };
        }
        Ok(())
    }

    /// Counts the request where it is no evidence. To be called once, when it goes to its arm: until then it may be read twice.
    pub fn count_apart(&self) {
        self.apart.into_iter().for_each(|why| self.arm.requests.apart(why));
    }

    /// Who is told how the request ends, as whose it counts, and under which key; `None` where no rollout asks.
    pub fn observed(&self) -> Option<(&Observer, Side, u64)> {
        let observer = self.route.as_ref()?.observer.as_deref()?;
        Some((observer, observer.side(self.picked)?, self.evidence?))
    }

    /// What is to be known of a request that shadows see, where labels of pairs are waited for. `named` finds the client's name for it
    /// where its head has none.
    pub fn pairing(&self, named: impl FnOnce() -> Option<u128>) -> Option<Pairing> {
        let observer = self.route.as_ref()?.observer.as_ref()?;
        observer.notes.as_ref().filter(|notes| notes.is_paired())?;
        Some(Pairing { observer: Arc::clone(observer), key: self.row_key.or_else(named), unit: self.evidence? })
    }
}

/// A plan made ready to be asked for every request.
pub struct Route {
    /// What was resolved.
    pub plan: Arc<Plan>,
    assignment: Assignment,
    key: Key,
    rules: Vec<Rule>,
    /// In the order of the plan's arms.
    seats: Vec<Seat>,
    champion: usize,
    /// Who sees how requests end, where a rollout asks.
    pub(crate) observer: Option<Arc<Observer>>,
    /// Why no request has a key, though the champion is there.
    pub trouble: Option<String>,
    /// The shadows.
    watching: Vec<Watching>,
}

/// Where the key is, in the form that is asked for each request.
enum Key {
    Header(HeaderName),
    Caller,
    Request,
    Body(BodyKey),
    /// In a header whose name no header can have, or in a column that is not there: nobody has one.
    Nowhere,
}

struct Rule {
    header: HeaderName,
    value: HeaderValue,
    arm: usize,
}

/// One arm of the plan.
struct Seat {
    /// What the catalog has for it.
    found: Result<Arc<Arm>, Missing>,
    /// What answers for it: itself, or the champion in its stead.
    answers: Result<(Arc<Arm>, bool), Error>,
}

/// Why an arm does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// In words.
    pub reason: String,
    /// Whether it is on its way, so that waiting helps.
    pub is_coming: bool,
}

impl Route {
    /// Resolves a valid plan in these models. Takes `before` where all of it is still so.
    pub fn resolve(
        plan: &Arc<Plan>,
        models: &BTreeMap<String, Model>,
        on_failure: OnFailure,
        before: Option<&Arc<Route>>,
    ) -> Arc<Route> {
        let standing = stand(plan, models);
        let lanes: &[Watching] = before.map_or(&[], |before| &before.watching);
        let before = before.filter(|before| Arc::ptr_eq(&before.plan, plan));
        if let Some(before) = before.filter(|before| before.stands_as(&standing)) {
            return Arc::clone(before);
        }
        let champion = plan.champion();
        let arm = |(arm, found): (&tiltyard_rollout::plan::Arm, Result<Arc<Deployment>, Missing>)| {
            found.map(|deployment| Arm::new(&plan.endpoint, &arm.name, &deployment))
        };
        let found: Vec<Result<Arc<Arm>, Missing>> = plan.arms.iter().zip(standing).map(arm).collect();
        // While the champion is out, others like it say which column the key is in.
        let speaker = std::iter::once(&found[champion]).chain(&found).find_map(|found| found.as_ref().ok());
        let (key, trouble) = match Key::of(plan, speaker.map(|speaker| &*speaker.deployment)) {
            Ok(key) => (key, None),
            Err(error) => (Key::Nowhere, found[champion].is_ok().then(|| without_keys(&error))),
        };
        if let Some(reason) = trouble.as_ref().filter(|_| before.is_none_or(|before| before.trouble != trouble)) {
            tracing::error!(endpoint = plan.endpoint, reason, "the plan cannot be carried out as it is meant");
        }
        let stood_in = |at: usize| before.is_some_and(|before| matches!(before.seats[at].answers, Ok((_, true))));
        let seats = (0..found.len()).map(|at| {
            // Whoever belongs to an arm that will be there in a moment is not sent elsewhere until then, but may stay there.
            let may_stand_in =
                |missing: &Missing| on_failure == OnFailure::Previous && (!missing.is_coming || stood_in(at));
            seat(plan, &found, at, may_stand_in)
        });
        let seats = seats.collect();
        let watching = watch(plan, &found, lanes);
        let rule = |rule: &tiltyard_rollout::plan::HeaderRule| {
            Some(Rule {
                header: HeaderName::from_bytes(rule.header.as_bytes()).ok()?,
                value: HeaderValue::from_str(&rule.value).ok()?,
                arm: plan.arms.iter().position(|arm| arm.name == rule.arm)?,
            })
        };
        // Versions come and go under a plan, and what was seen of it stays.
        let observer = before.map_or_else(|| Observer::of(plan).map(Arc::new), |before| before.observer.clone());
        Arc::new(Route {
            observer,
            assignment: Assignment::new(plan),
            key,
            rules: plan.headers.iter().filter_map(rule).collect(),
            seats,
            champion,
            trouble,
            watching,
            plan: Arc::clone(plan),
        })
    }

    fn stands_as(&self, standing: &[Result<Arc<Deployment>, Missing>]) -> bool {
        self.seats.iter().zip(standing).all(|(seat, now)| match (&seat.found, now) {
            (Ok(arm), Ok(deployment)) => Arc::ptr_eq(&arm.deployment, deployment),
            (Err(before), Err(now)) => before == now,
            _ => false,
        })
    }

    /// What each arm of the plan is, or why it does not answer.
    pub fn seats(&self) -> impl Iterator<Item = Result<&Arc<Arm>, &Missing>> {
        self.seats.iter().map(|seat| seat.found.as_ref())
    }

    /// The shadows, with what is known of them.
    pub fn watching(&self) -> &[Watching] {
        &self.watching
    }

    fn is_champion(&self, arm: &Arc<Arm>) -> bool {
        self.seats[self.champion].found.as_ref().is_ok_and(|champion| Arc::ptr_eq(champion, arm))
    }

    /// Who answers whoever no challenger answers.
    pub fn champion(&self) -> Result<Arc<Arm>> {
        self.answering(self.champion).map(|(arm, _)| arm)
    }

    /// Who answers a request, as far as its head tells.
    pub(crate) fn choose(self: &Arc<Self>, asking: &Asking<'_>) -> Result<Choice> {
        let is_noted = self.observer.as_ref().is_some_and(|observer| observer.notes.is_some());
        let row_key = if is_noted { key_of_head(asking.headers) } else { None };
        let Some(pick) = self.pick(asking) else {
            // While the champion is out, whoever else is there can say how the body is to be read.
            let champion = self.champion();
            let others = || self.seats().find_map(|found| found.ok().cloned());
            let arm = champion.or_else(|error| others().ok_or(error))?;
            return Ok(Choice { is_open: true, route: Some(Arc::clone(self)), row_key, ..Choice::of(arm) });
        };
        Ok(Choice { row_key, ..Arc::clone(self).take(pick)? })
    }

    /// `None` where the key is in the body.
    fn pick(&self, asking: &Asking<'_>) -> Option<Pick> {
        let picked = self.rules.iter().find(|rule| asking.headers.get(&rule.header) == Some(&rule.value));
        if let Some(rule) = picked {
            return Some(Pick { arm: rule.arm, evidence: Err(Apart::Header) });
        }
        match &self.key {
            Key::Header(name) => Some(self.deal(asking.headers.get(name).map(HeaderValue::as_bytes))),
            Key::Caller => Some(self.deal(asking.caller.map(str::as_bytes))),
            Key::Request => Some(self.deal(Some(&asking.id.first_prediction()[..REQUEST_ID_BYTES]))),
            Key::Nowhere => Some(self.deal(None)),
            Key::Body(_) => None,
        }
    }

    /// Looks for the key in a request that was read; `text` is the JSON that it came as, if it did. Fails where its rows have
    /// different keys.
    pub fn look_into(&self, request: &InferRequest, text: &[u8]) -> Result<Pick> {
        let Key::Body(key) = &self.key else { return Ok(self.deal(None)) };
        let found = key.find(request, text);
        let found = found.map_err(|error| self.explain(&error))?;
        Ok(self.deal(found.as_deref()))
    }

    fn explain(&self, error: &Error) -> Error {
        let message = format!(
            "{}; it is what makes requests to endpoint {:?} stick to an arm",
            error.message(),
            self.plan.endpoint
        );
        Error::new(error.kind(), message)
    }

    /// An empty key is none, wherever it comes from: not every protocol can tell the two apart.
    fn deal(&self, key: Option<&[u8]>) -> Pick {
        let key = key.filter(|key| !key.is_empty());
        let Assigned { arm, evidence } = self.assignment.assign(key);
        Pick { arm, evidence: evidence.ok_or(Apart::NoKey) }
    }

    fn take(self: Arc<Self>, pick: Pick) -> Result<Choice> {
        let (arm, stands_in) = self.answering(pick.arm)?;
        let evidence = if stands_in { Err(Apart::StandIn) } else { pick.evidence };
        let (apart, picked) = (evidence.err(), pick.arm);
        Ok(Choice { arm, evidence: evidence.ok(), apart, route: Some(self), picked, is_open: false, row_key: None })
    }

    fn answering(&self, arm: usize) -> Result<(Arc<Arm>, bool)> {
        self.seats[arm].answers.clone()
    }
}

/// What the models have for each arm of a plan.
pub(crate) fn stand(plan: &Plan, models: &BTreeMap<String, Model>) -> Vec<Result<Arc<Deployment>, Missing>> {
    let mut standing: Vec<Result<Arc<Deployment>, Missing>> = plan.arms.iter().map(|arm| find(arm, models)).collect();
    if let Some(Ok(champion)) = standing.get(plan.champion()).cloned() {
        for found in &mut standing {
            let breaks = found.as_ref().ok().and_then(|arm| misfit(&champion, arm));
            if let Some(reason) = breaks {
                *found = Err(Missing { reason, is_coming: false });
            }
        }
    }
    standing
}

fn find(arm: &tiltyard_rollout::plan::Arm, models: &BTreeMap<String, Model>) -> Result<Arc<Deployment>, Missing> {
    let missing = |reason: String, is_coming| Err(Missing { reason, is_coming });
    let called = format!("{} version {}", arm.model, arm.version);
    let Some(version) = models.get(&arm.model).and_then(|model| model.versions.get(&arm.version)) else {
        return missing(format!("{called} is not there"), false);
    };
    let Some(deployment) = version.answering() else {
        return missing(format!("{called} {}", version.why_not()), version.state == VersionState::Loading);
    };
    match &arm.digest {
        Some(digest) if *digest != deployment.identity.digest.to_string() => missing(
            format!(
                "{called} has the digest {}, and the plan wants {digest}: put the files back that had it, or apply a plan \
                 with the other digest or without one",
                deployment.identity.digest
            ),
            false,
        ),
        _ => Ok(Arc::clone(deployment)),
    }
}

/// Why clients of the champion would stumble over an arm.
fn misfit(champion: &Arc<Deployment>, arm: &Arc<Deployment>) -> Option<String> {
    if Arc::ptr_eq(champion, arm) {
        return None;
    }
    let mut breaks = champion.signature.breaks_with(&arm.signature);
    let columns = |deployment: &Deployment| -> Vec<(String, Option<String>, Vec<String>)> {
        let columns = deployment.settings.columns.iter();
        columns.map(|column| (column.name.clone(), column.input.clone(), column.categories.clone())).collect()
    };
    let (expected, got) = (columns(champion), columns(arm));
    if !expected.is_empty() && !got.is_empty() && expected != got {
        breaks.push("the columns that model.toml declares are others, or in another order".to_owned());
    }
    let identity = &arm.identity;
    (!breaks.is_empty()).then(|| {
        let called = format!("{} version {}", identity.model, identity.version);
        format!("clients of the champion would stumble over {called}: {}", breaks.join(", "))
    })
}

fn seat(plan: &Plan, found: &[Result<Arc<Arm>, Missing>], at: usize, may_stand_in: impl Fn(&Missing) -> bool) -> Seat {
    let error = |missing: &Missing| {
        let message = format!("endpoint {:?}, arm {:?}: {}", plan.endpoint, plan.arms[at].name, missing.reason);
        Error::new(ErrorKind::NotReady, message)
    };
    let answers = match (&found[at], &found[plan.champion()]) {
        (Ok(arm), _) => Ok((Arc::clone(arm), false)),
        (Err(missing), Ok(stand_in)) if may_stand_in(missing) => Ok((Arc::clone(stand_in), true)),
        (Err(missing), _) => Err(error(missing)),
    };
    Seat { found: found[at].clone(), answers }
}

/// The shadows of a plan. Where shadow and champion are the same as before, so is what is known of them; where one of them does
/// not answer, it is kept until both do.
fn watch(plan: &Plan, found: &[Result<Arc<Arm>, Missing>], before: &[Watching]) -> Vec<Watching> {
    let champion = found[plan.champion()].as_ref().ok();
    let watch = |(arm, found): (&tiltyard_rollout::plan::Arm, &Result<Arc<Arm>, Missing>)| {
        let Role::Shadow { sampling } = arm.role else { return None };
        let known = || before.iter().map(|before| &before.lane).filter(|lane| lane.arm.name == arm.name);
        let Some((found, champion)) = found.as_ref().ok().zip(champion) else {
            let lane = known().find(|lane| lane.is_called(&arm.model, arm.version))?;
            return Some(Watching { lane: Arc::clone(lane), sampling: 0 });
        };
        let lane = known().find(|lane| lane.is_of(found, champion));
        let lane = lane.map_or_else(|| Lane::new(&plan.endpoint, found, champion), Arc::clone);
        Some(Watching { lane, sampling })
    };
    plan.arms.iter().zip(found).filter_map(watch).collect()
}

impl Key {
    /// Where nobody is there to say which column it is, a key in a column cannot be found. Fails where there is no such column.
    fn of(plan: &Plan, speaker: Option<&Deployment>) -> Result<Key> {
        Ok(match &plan.key {
            KeySource::Header(name) | KeySource::Metadata(name) => {
                HeaderName::from_bytes(name.as_bytes()).map_or(Key::Nowhere, Key::Header)
            }
            KeySource::ClientIdentity => Key::Caller,
            KeySource::PerRequest => Key::Request,
            KeySource::JsonPath(path) => BodyKey::at_path(path).map_or(Key::Nowhere, Key::Body),
            KeySource::TensorColumn(name) => {
                let found = speaker.map(|speaker| BodyKey::in_column(name, speaker)).transpose()?;
                found.map_or(Key::Nowhere, Key::Body)
            }
        })
    }
}

fn without_keys(error: &Error) -> String {
    format!("no request has a key, so that the champion answers all of them and none is evidence: {}", error.message())
}

/// Whether the server can carry out a plan whose arms are there: what the plan itself cannot know. `has_locks` tells whether
/// callers are known by name.
pub(crate) fn check(plan: &Plan, champion: Option<&Deployment>, has_locks: bool) -> Result<()> {
    let header = |name: &str| match HeaderName::from_bytes(name.as_bytes()) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::invalid(format!("{name:?} cannot be the name of a header"))),
    };
    match &plan.key {
        KeySource::Header(name) | KeySource::Metadata(name) => header(name)?,
        KeySource::JsonPath(path) => drop(BodyKey::at_path(path)?),
        KeySource::TensorColumn(name) => {
            champion.map(|champion| BodyKey::in_column(name, champion)).transpose()?;
        }
        KeySource::ClientIdentity if !has_locks => {
            return Err(Error::invalid(
                "the key is the client's identity, and this server does not ask who its clients are: set access_file",
            ));
        }
        KeySource::ClientIdentity | KeySource::PerRequest => {}
    }
    for rule in &plan.headers {
        header(&rule.header)?;
        if HeaderValue::from_str(&rule.value).is_err() {
            return Err(Error::invalid(format!("{:?} cannot be the value of a header", rule.value)));
        }
    }
    check_shadows(plan)
}

fn check_shadows(plan: &Plan) -> Result<()> {
    let shadows = || plan.arms.iter().filter(|arm| matches!(arm.role, Role::Shadow { .. }));
    let picked = |rule: &&tiltyard_rollout::plan::HeaderRule| shadows().any(|shadow| shadow.name == rule.arm);
    if let Some(rule) = plan.headers.iter().find(picked) {
        let message = format!("header {} picks {}, which is a shadow: a shadow answers nobody", rule.header, rule.arm);
        return Err(Error::invalid(message));
    }
    match shadows().count() {
        0..=SHADOWS_MAX => Ok(()),
        count => Err(Error::invalid(format!("the plan has {count} shadows: expected {SHADOWS_MAX} at most"))),
    }
}

#[cfg(test)]
pub(crate) mod tests;
