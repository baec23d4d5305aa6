//! How does a plan come to hold, and how is another gone back to?
//!
//! A plan that is proposed waits until each of its versions is ready, and is refused where one will not be. Then it holds with
//! one new catalog, and is kept in the journal before whoever asked is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tiltyard_rollout::plan::Plan;
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::repository;
use tiltyard_types::{Error, ErrorKind, Moment, Result};
use tokio::sync::oneshot;

use super::{Command, State, Writer};
use crate::catalog::{Catalog, Endpoint, VersionState};
use crate::clock;
use crate::endpoints::file::Said;
use crate::endpoints::folder::Folder;
use crate::endpoints::journal::Journal;
use crate::endpoints::{Endpoints, differences};
use crate::rollouts::begin;
use crate::rollouts::written::Declared;
use crate::route::{self, Missing, stand};

/// How long a plan that was removed can be brought back, and its versions stay loaded for that.
const REMOVED_KEPT: Duration = Duration::from_secs(3600);

/// Where plans come from and where they are kept.
#[derive(Default)]
pub struct PlanSources {
    /// What was kept when the process ended last.
    pub endpoints: Endpoints,
    /// Keeps what is applied; none where nothing shall be kept.
    pub journal: Option<Journal>,
    /// Files that are followed.
    pub folder: Option<Folder>,
    /// Whether callers are known by name.
    pub has_locks: bool,
}

/// What is known of the endpoints' plans, for people.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The plans.
    pub endpoints: Endpoints,
    /// Why the plan in a file does not hold, by endpoint.
    pub troubles: BTreeMap<String, String>,
    /// What files declare and nobody has begun yet, nor decided otherwise, by endpoint.
    pub declared: BTreeMap<String, Arc<Declared>>,
}

/// What somebody wants of an endpoint's plan.
#[derive(Debug)]
pub(super) enum Order {
    Apply { draft: Box<Plan>, how: How },
    Rollback { endpoint: String, to: Option<u64> },
    Remove { endpoint: String, is_followed: bool },
}

/// How a plan is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// As somebody's decision.
    Decided,
    /// As a promotion: where there was no plan, what answered until then becomes the plan before.
    Promoted,
    /// As one that held before, by what replicas share: at once, where its revision is known here and still warm.
    Back,
    /// As somebody decided on another replica, who may have gone back to it. What somebody waits for here goes on, and is told to the
    /// others when it holds.
    Followed {
        /// Whether it held before.
        is_back: bool,
    },
    /// Until what the endpoint's file declares can begin, which is still to come.
    Meanwhile,
    /// Only to find out what would become of it.
    DryRun,
}

impl How {
    fn is_followed(self) -> bool {
        matches!(self, How::Followed { .. })
    }

    fn is_back(self) -> bool {
        matches!(self, How::Back | How::Followed { is_back: true })
    }
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The endpoint.
    pub endpoint: String,
    /// The revision that held before.
    pub before: Option<u64>,
    /// The revision that holds now, or would.
    pub revision: Option<u64>,
    /// What differs between the two, a line for each.
    pub changes: Vec<String>,
    /// What would have to be loaded first.
    pub loads: Vec<String>,
    /// Whether a restart would find it so.
    pub is_kept: bool,
}

pub(super) type OrderAnswer = oneshot::Sender<Result<Report>>;

/// A plan that waits for its versions.
struct Proposal {
    draft: Plan,
    /// Who asked; nobody where it is a file's.
    answer: Option<OrderAnswer>,
    /// How it came.
    how: How,
    /// Whether the repository was looked at for it.
    is_looked_for: bool,
    /// Why what it waits for could not be looked at.
    unreadable: Vec<String>,
}

impl Proposal {
    fn new(draft: Plan, answer: Option<OrderAnswer>, how: How) -> Proposal {
        Proposal { draft, answer, how, is_looked_for: false, unreadable: Vec::new() }
    }
}

/// The writer's part that has to do with plans.
pub(super) struct Plans {
    sources: PlanSources,
    proposals: BTreeMap<String, Proposal>,
    told: Arc<ArcSwap<Told>>,
    troubles: BTreeMap<String, String>,
    /// What files declare, by endpoint.
    declared: BTreeMap<String, Arc<Declared>>,
    /// Endpoints whose plan was removed, and since when this process knows it.
    removed: BTreeMap<String, Moment>,
    /// Whether files were looked at since the start.
    looked_before: bool,
}

impl Plans {
    pub(super) fn new(sources: PlanSources, told: Arc<ArcSwap<Told>>) -> Plans {
        let (proposals, troubles, declared) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let removed = BTreeMap::new();
        let plans = Plans { sources, proposals, told, troubles, declared, removed, looked_before: false };
        plans.tell();
        plans
    }

    /// The plan that holds for each endpoint.
    pub(super) fn current(&self) -> BTreeMap<String, Arc<Plan>> {
        self.sources.endpoints.current()
    }

    /// Whether the endpoint has a plan.
    pub(super) fn has(&self, endpoint: &str) -> bool {
        self.sources.endpoints.plan(endpoint).is_some()
    }

    /// Whether the endpoint's plan is that of a rollout on its way.
    fn is_competing(&self, endpoint: &str) -> bool {
        self.sources.endpoints.plan(endpoint).is_some_and(|held| !held.steps.is_empty())
    }

    /// Notes what the endpoint's file declares, and tells it where that is news.
    fn declare(&mut self, endpoint: &str, declared: Option<Declared>) {
        if self.declared.get(endpoint).map(|known| &**known) == declared.as_ref() {
            return;
        }
        match declared {
            Some(declared) => drop(self.declared.insert(endpoint.to_owned(), Arc::new(declared))),
            None => drop(self.declared.remove(endpoint)),
        }
        self.tell();
    }

    /// Why new bytes may not take the place of these, which a plan wants by their digest; `None` where they may.
    pub(super) fn refuse_other(&self, old: &Deployment) -> Option<String> {
        let (identity, digest) = (&old.identity, old.identity.digest.to_string());
        let endpoint = self.sources.endpoints.pins(&identity.model, identity.version, &digest)?;
        Some(format!(
            "new bytes under a version that the plan of endpoint {endpoint:?} pins by its digest are refused: to take them, \
             apply the plan without the digest"
        ))
    }

    /// Forgets plans that were removed long enough ago. Says when the next one's time comes.
    pub(super) fn forget_removed(&mut self, now: Moment) -> Option<Duration> {
        let removed: BTreeSet<String> = self.sources.endpoints.removed().cloned().collect();
        self.removed.retain(|name, _| removed.contains(name));
        let (mut wait, mut forgot): (Option<Duration>, bool) = (None, false);
        for name in removed {
            let left = REMOVED_KEPT.saturating_sub(now - *self.removed.entry(name.clone()).or_insert(now));
            match left.is_zero() {
                true => self.sources.endpoints.forget(&name),
                false => wait = wait.into_iter().chain([left]).min(),
            }
            forgot |= left.is_zero();
        }
        if forgot {
            self.keep();
        }
        wait
    }

    /// The versions of a model that are held for plans, those that are proposed among them.
    pub(super) fn versions(&self, model: &str) -> BTreeSet<u64> {
        let proposed = self.proposals.values().flat_map(|proposal| &proposal.draft.arms);
        let proposed = proposed.filter(|arm| arm.model == model).map(|arm| arm.version);
        self.sources.endpoints.versions(model).into_iter().chain(proposed).collect()
    }

    /// Every model that a version is held of.
    pub(super) fn models(&self) -> BTreeSet<String> {
        self.sources.endpoints.models()
    }

    /// Fails where a plan has the model, which then must stay.
    pub(super) fn may_leave(&self, model: &str) -> Result<()> {
        let users = self.sources.endpoints.users(model);
        if users.is_empty() {
            return Ok(());
        }
        let message = format!(
            "model {model:?} is in the plan of endpoint {}: apply another plan first, or remove it",
            users.join(", ")
        );
        Err(Error::invalid(message))
    }

    /// Takes the place of what was proposed for the endpoint before.
    fn propose(&mut self, draft: Plan, answer: Option<OrderAnswer>, how: How) {
        self.drop_proposal(&draft.endpoint, "another plan came for it in the meantime");
        self.proposals.insert(draft.endpoint.clone(), Proposal::new(draft, answer, how));
    }

    /// Whether somebody waits here for a plan of the endpoint to hold.
    fn is_awaited(&self, endpoint: &str) -> bool {
        self.proposals.get(endpoint).is_some_and(|proposal| {
            let is_here = matches!(proposal.how, How::Decided | How::Promoted | How::Back);
            is_here && proposal.answer.as_ref().is_some_and(|answer| !answer.is_closed())
        })
    }

    /// What a file proposed and does not say any more.
    fn drop_proposal_of_file(&mut self, endpoint: &str) {
        if self.proposals.get(endpoint).is_some_and(|proposal| proposal.answer.is_none()) {
            self.proposals.remove(endpoint);
        }
    }

    fn drop_proposal(&mut self, endpoint: &str, why: &str) {
        if let Some(Proposal { answer: Some(answer), .. }) = self.proposals.remove(endpoint) {
            drop(answer.send(Err(Error::invalid(format!("the plan of endpoint {endpoint:?} was not applied: {why}")))));
        }
    }

    /// Keeps what holds now. False, and said, where it cannot be kept.
    fn keep(&mut self) -> bool {
        self.tell();
        let PlanSources { journal, endpoints, .. } = &mut self.sources;
        let Some(journal) = journal else { return false };
        let kept = journal.keep(endpoints);
        if let Err(error) = &kept {
            tracing::error!(%error, "plans cannot be kept: a restart forgets what was changed");
        }
        kept.is_ok()
    }

    fn tell(&self) {
        let (endpoints, troubles) = (self.sources.endpoints.clone(), self.troubles.clone());
        let is_awaited = |(name, _): &(&String, &Arc<Declared>)| endpoints.is_awaited(name);
        let awaited = self.declared.iter().filter(is_awaited);
        let declared = awaited.map(|(name, declared)| (name.clone(), Arc::clone(declared))).collect();
        self.told.store(Arc::new(Told { endpoints, troubles, declared }));
    }

    /// The revision that a draft would be, where it may be one in a server like this, whoever is ready.
    fn next(&self, draft: &Plan, champion: Option<&Deployment>, how: How) -> Result<Option<Plan>> {
        let next = match how.is_followed() || how.is_back() {
            true => self.sources.endpoints.next_anyhow(draft)?,
            false => self.sources.endpoints.next(draft)?,
        };
        next.as_ref().map_or(Ok(()), |next| route::check(next, champion, self.sources.has_locks))?;
        Ok(next)
    }

    fn report(&self, endpoint: &str, before: Option<&Plan>, after: Option<&Plan>, is_kept: bool) -> Report {
        Report {
            endpoint: endpoint.to_owned(),
            before: before.map(|plan| plan.revision),
            revision: after.map(|plan| plan.revision),
            changes: after.map_or_else(Vec::new, |after| differences::between(before, after)),
            loads: Vec::new(),
            is_kept,
        }
    }
}

impl Writer {
    /// Lets a plan hold once its versions are ready, as the next revision of its endpoint. Fails where one of them will not
    /// be, or the plan may not follow the one before. A dry run only says what would become of it.
    pub async fn apply(&self, draft: Plan, how: How) -> Result<Report> {
        self.give(Order::Apply { draft: Box::new(draft), how }).await
    }

    /// The same, for whoever looks again later what became of it.
    pub(crate) fn propose(&self, draft: Plan, how: How) -> oneshot::Receiver<Result<Report>> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Apply { draft: Box::new(draft), how };
        drop(self.commands.send(Command::Order(order, answer)));
        answered
    }

    /// Lets no plan hold for an endpoint, as another replica does, for whoever looks again later what became of it.
    pub(crate) fn follow_none(&self, endpoint: &str) -> oneshot::Receiver<Result<Report>> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Remove { endpoint: endpoint.to_owned(), is_followed: true };
        drop(self.commands.send(Command::Order(order, answer)));
        answered
    }

    /// Goes back to a revision that is still warm: the one named, or else the one before the current one.
    pub async fn roll_back(&self, endpoint: &str, to: Option<u64>) -> Result<Report> {
        self.give(Order::Rollback { endpoint: endpoint.to_owned(), to }).await
    }

    /// Lets no plan hold for an endpoint any more.
    pub async fn remove_plan(&self, endpoint: &str) -> Result<Report> {
        self.give(Order::Remove { endpoint: endpoint.to_owned(), is_followed: false }).await
    }

    async fn give(&self, order: Order) -> Result<Report> {
        let (answer, answered) = oneshot::channel();
        drop(self.commands.send(Command::Order(order, answer)));
        answered.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Draining, "the server is shutting down")))
    }
}

impl State {
    /// Does what somebody wants, or begins with it. True if the repository is to be looked at.
    pub(super) fn order(&mut self, order: Order, answer: OrderAnswer) -> bool {
        match order {
            Order::Apply { draft, how } => {
                // What is wrong in itself changes nothing, and takes nobody's turn who waits.
                if let Err(error) = self.plans.next(&draft, None, how) {
                    drop(answer.send(Err(error)));
                } else if how == How::DryRun {
                    drop(answer.send(self.try_out(&draft)));
                } else if let Some(report) = self.point_back(&draft, how) {
                    let lacks_some = !report.loads.is_empty();
                    drop(answer.send(Ok(report)));
                    return lacks_some;
                } else if how.is_followed() && self.plans.is_awaited(&draft.endpoint) {
                    // It holds beside what waits, or is asked for again.
                    let busy = || Err(Error::new(ErrorKind::NotReady, "another plan waits here for its versions"));
                    drop(answer.send(self.settle(&Proposal::new(*draft, None, how)).unwrap_or_else(busy)));
                } else {
                    self.arm_models(&draft);
                    self.plans.propose(*draft, Some(answer), how);
                    self.settle_proposals();
                    return !self.plans.proposals.is_empty();
                }
            }
            Order::Rollback { endpoint, to } => {
                let report = self.roll_back(&endpoint, to, How::Decided);
                let lacks_some = report.as_ref().is_ok_and(|report| !report.loads.is_empty());
                drop(answer.send(report));
                return lacks_some;
            }
            Order::Remove { endpoint, is_followed } => {
                drop(answer.send(self.remove_plan(&endpoint, is_followed)));
                // That there is something to forget, and when, is found by a look.
                return true;
            }
        }
        false
    }

    fn arm_models(&mut self, draft: &Plan) {
        self.armed.extend(draft.arms.iter().map(|arm| arm.model.clone()));
        self.looked_before = false;
    }

    /// What would become of a plan.
    fn try_out(&self, draft: &Plan) -> Result<Report> {
        let catalog = self.inference.catalog.load();
        let standing = stand(draft, &catalog.models);
        let champion = standing.get(draft.champion()).and_then(|found| found.as_deref().ok());
        let before = self.plans.sources.endpoints.plan(&draft.endpoint).map(|plan| &**plan);
        let Some(next) = self.plans.next(draft, champion, How::DryRun)? else {
            return Ok(self.plans.report(&draft.endpoint, before, before, true));
        };
        let scan = repository::scan_with(&self.plan.root, self.plan.pushed.as_deref())
            .map_err(|error| Error::new(ErrorKind::NotReady, format!("the repository cannot be read: {error}")))?;
        let is_there = |model: &str, version: u64| {
            scan.models.get(model).is_some_and(|model| model.versions.contains_key(&version))
        };
        let is_known = |model: &str, version: u64| {
            let version = catalog.models.get(model).and_then(|model| model.versions.get(&version));
            version.is_some_and(|version| version.state != VersionState::Unloaded)
        };
        let (mut loads, mut missing) = (Vec::new(), Vec::new());
        for (arm, found) in next.arms.iter().zip(standing) {
            match found {
                Ok(_) => {}
                Err(_) if !is_known(&arm.model, arm.version) && is_there(&arm.model, arm.version) => {
                    loads.push(format!("{} version {}", arm.model, arm.version));
                }
                Err(Missing { reason, is_coming: true }) => loads.push(reason),
                Err(Missing { reason, is_coming: false }) => missing.push(reason),
            }
        }
        match missing.is_empty() {
            true => Ok(Report { loads, ..self.plans.report(&draft.endpoint, before, Some(&next), true) }),
            false => Err(cannot_hold(&draft.endpoint, &missing)),
        }
    }

    /// Lets plans hold whose versions are ready now, and refuses those that wait for what will not come.
    pub(super) fn settle_proposals(&mut self) {
        for endpoint in self.plans.proposals.keys().cloned().collect::<Vec<_>>() {
            let Some(proposal) = self.plans.proposals.remove(&endpoint) else { continue };
            // Nobody waits for it any more.
            if proposal.answer.as_ref().is_some_and(oneshot::Sender::is_closed) {
                continue;
            }
            let Some(outcome) = self.settle(&proposal) else {
                self.plans.proposals.insert(endpoint, proposal);
                continue;
            };
            match proposal.answer {
                Some(answer) => drop(answer.send(outcome)),
                None => self.note_trouble(&endpoint, outcome.err()),
            }
        }
    }

    /// What becomes of a proposal; `None` while that is open.
    fn settle(&mut self, proposal: &Proposal) -> Option<Result<Report>> {
        let Proposal { draft, answer: _, how, is_looked_for, unreadable } = proposal;
        let how = *how;
        let standing = stand(draft, &self.inference.catalog.load().models);
        let champion = standing.get(draft.champion()).and_then(|found| found.as_deref().ok());
        let next = match self.plans.next(draft, champion, how) {
            Ok(next) => next,
            Err(error) => return Some(Err(error)),
        };
        let missing: Vec<&Missing> = standing.iter().filter_map(|found| found.as_ref().err()).collect();
        if next.is_some() && !missing.is_empty() {
            let is_open = !is_looked_for || missing.iter().all(|missing| missing.is_coming);
            let reasons = missing.iter().map(|missing| missing.reason.clone()).chain(unreadable.iter().cloned());
            let reasons: Vec<String> = reasons.collect();
            return (!is_open).then(|| Err(cannot_hold(&draft.endpoint, &reasons)));
        }
        Some(Ok(match next {
            Some(next) => self.let_hold(next, how),
            None => {
                let held = self.plans.sources.endpoints.plan(&draft.endpoint).cloned();
                if how != How::Meanwhile {
                    self.plans.sources.endpoints.decide(&draft.endpoint);
                }
                let is_kept = self.plans.keep();
                self.plans.report(&draft.endpoint, held.as_deref(), held.as_deref(), is_kept)
            }
        }))
    }

    fn let_hold(&mut self, mut next: Plan, how: How) -> Report {
        let before = self.plans.sources.endpoints.plan(&next.endpoint).cloned();
        let endpoint = next.endpoint.clone();
        if how == How::Promoted && before.is_none() {
            let but = next.arms[next.champion()].version;
            let first = begin::as_it_is(&self.inference.catalog.load(), &endpoint, but);
            if let Some(Ok(Some(first))) = first.map(|first| self.plans.next(&first, None, how)) {
                next.revision = first.revision + 1;
                self.plans.sources.endpoints.add(first);
            }
        }
        let revision = next.revision;
        match how.is_back() {
            true => self.plans.sources.endpoints.add_back(next.clone()),
            false => self.plans.sources.endpoints.add(next.clone()),
        }
        if how == How::Meanwhile {
            self.plans.sources.endpoints.await_file(&endpoint);
        }
        self.publish(self.catalog());
        self.retry_refused();
        tracing::info!(endpoint, revision, "the plan holds");
        let is_kept = self.plans.keep();
        self.plans.report(&endpoint, before.as_deref(), Some(&next), is_kept)
    }

    /// Goes back to the revision that says what a draft does, where there is one that is warm.
    fn point_back(&mut self, draft: &Plan, how: How) -> Option<Report> {
        let revision = self.plans.sources.endpoints.revision_of(draft).filter(|_| how.is_back())?;
        self.roll_back(&draft.endpoint, Some(revision), how).ok()
    }

    /// One new catalog that points at a revision whose champion is ready. Its other arms are loaded where they can be.
    fn roll_back(&mut self, endpoint: &str, to: Option<u64>, how: How) -> Result<Report> {
        let back = self.plans.sources.endpoints.back(endpoint, to)?;
        let before = self.plans.sources.endpoints.plan(endpoint).cloned();
        let standing = stand(&back, &self.inference.catalog.load().models);
        if let Some(Err(missing)) = standing.get(back.champion()) {
            let message =
                format!("revision {} of endpoint {endpoint:?} is not warm any more: {}", back.revision, missing.reason);
            return Err(Error::new(ErrorKind::NotReady, message));
        }
        if !(how.is_followed() && self.plans.is_awaited(endpoint)) {
            self.plans.drop_proposal(endpoint, "the endpoint was rolled back in the meantime");
        }
        self.plans.sources.endpoints.point(endpoint, back.revision);
        self.publish(self.catalog());
        self.retry_refused();
        tracing::warn!(endpoint, from = before.as_ref().map(|plan| plan.revision), to = back.revision, "rolled back");
        let missing = back.arms.iter().zip(standing).filter_map(|(arm, found)| Some((arm, found.err()?)));
        let loads: Vec<String> = missing.map(|(arm, missing)| format!("{}: {}", arm.name, missing.reason)).collect();
        if !loads.is_empty() {
            self.arm_models(&back);
        }
        let is_kept = self.plans.keep();
        Ok(Report { loads, ..self.plans.report(endpoint, before.as_deref(), Some(&back), is_kept) })
    }

    fn remove_plan(&mut self, endpoint: &str, is_followed: bool) -> Result<Report> {
        let before = self.plans.sources.endpoints.plan(endpoint).cloned();
        self.plans.sources.endpoints.remove(endpoint)?;
        if !(is_followed && self.plans.is_awaited(endpoint)) {
            self.plans.drop_proposal(endpoint, "the plan was removed in the meantime");
        }
        self.plans.removed.remove(endpoint);
        self.publish(self.catalog());
        self.retry_refused();
        tracing::warn!(endpoint, "the plan was removed");
        let is_kept = self.plans.keep();
        Ok(self.plans.report(endpoint, before.as_deref(), None, is_kept))
    }

    /// Looks at the files of plans. Says how long they must still rest.
    pub(super) fn look_at_plans(&mut self) -> Option<Duration> {
        let settle_time = self.plan.following.settle_time;
        let PlanSources { endpoints, folder, .. } = &mut self.plans.sources;
        let found = folder.as_mut()?.look(clock::now(), settle_time, endpoints.from_files());
        let is_first = !std::mem::replace(&mut self.plans.looked_before, true);
        found.problem.into_iter().for_each(|problem| self.tell_once(problem));
        if let Some(files) = found.files {
            let told: Vec<String> = self.plans.troubles.keys().filter(|name| !files.contains(*name)).cloned().collect();
            told.iter().for_each(|endpoint| self.note_trouble(endpoint, None));
        }
        for (endpoint, reason) in found.unread {
            self.plans.drop_proposal_of_file(&endpoint);
            self.plans.declare(&endpoint, None);
            self.note_trouble(&endpoint, Some(Error::invalid(reason)));
        }
        for endpoint in &found.gone {
            if self.plans.is_competing(endpoint) {
                self.note_trouble(endpoint, Some(still_competing("its file is gone")));
                continue;
            }
            self.plans.sources.endpoints.forget_file(endpoint);
            self.plans.drop_proposal_of_file(endpoint);
            self.plans.declare(endpoint, None);
            match self.plans.has(endpoint) {
                true => drop(self.remove_plan(endpoint, false)),
                // A file that comes back is news, after a restart too.
                false => {
                    self.plans.keep();
                }
            }
        }
        for said in found.said {
            let endpoint = said.endpoint().to_owned();
            if let Err(error) = self.take_in_file(said, is_first) {
                self.note_trouble(&endpoint, Some(error));
            }
        }
        found.wait
    }

    /// Proposes what a file says, if that is still to hold. What was seen is kept when somebody decides otherwise.
    fn take_in_file(&mut self, said: Said, is_first: bool) -> Result<()> {
        let endpoint = said.endpoint().to_owned();
        if self.plans.is_competing(&endpoint) && self.plans.sources.endpoints.is_news(&said) {
            // It is not seen until then, so that no step of the rollout is taken for a later decision.
            return Err(still_competing("what its file says comes after that"));
        }
        let is_news = self.plans.sources.endpoints.see_file(&said)?;
        if !self.plans.sources.endpoints.is_awaited(&endpoint) {
            self.plans.declare(&endpoint, None);
            self.note_trouble(&endpoint, None);
            return Ok(());
        }
        let draft = match said {
            Said::Plan(draft) => *draft,
            Said::Rollout(declared) => return self.take_in_rollout(*declared, is_first),
        };
        self.plans.declare(&endpoint, None);
        self.plans.next(&draft, None, How::Decided)?;
        self.arm_models(&draft);
        if is_first && !self.plans.has(&endpoint) {
            self.adopt(&draft, How::Decided)?;
            self.note_trouble(&endpoint, None);
            return Ok(());
        }
        // What somebody asks for in this moment comes after a file that has been there for longer.
        if is_news || !self.plans.proposals.contains_key(&endpoint) {
            self.plans.propose(draft, None, How::Decided);
        }
        Ok(())
    }

    /// Tells what a file declares, for the rollouts' thread to begin.
    fn take_in_rollout(&mut self, declared: Declared, is_first: bool) -> Result<()> {
        let endpoint = declared.endpoint.clone();
        if let Some(champion) = declared.written.champion.as_ref().filter(|_| is_first && !self.plans.has(&endpoint)) {
            let alone = begin::alone(&endpoint, champion, declared.written.key.as_ref());
            self.arm_models(&alone);
            self.adopt(&alone, How::Meanwhile)?;
        }
        self.plans.declare(&endpoint, Some(declared));
        self.note_trouble(&endpoint, None);
        Ok(())
    }

    /// Lets the plan of a file hold at the start where none did: nobody is to be answered by a version that no plan names while
    /// its own versions are being loaded. Later, whoever answered before answers until they are there.
    fn adopt(&mut self, draft: &Plan, how: How) -> Result<()> {
        let Some(next) = self.plans.next(draft, None, how)? else { return Ok(()) };
        self.let_hold(next, how);
        Ok(())
    }

    /// Says which arms of plans have nobody, once everybody who could come is there.
    pub(super) fn tell_missing_arms(&self, catalog: &Catalog) {
        for (endpoint, answering) in &catalog.endpoints {
            let Endpoint::Planned(route) = answering else { continue };
            for (arm, missing) in
                route.plan.arms.iter().zip(route.seats()).filter_map(|(a, seat)| Some((a, seat.err()?)))
            {
                tracing::error!(
                    endpoint,
                    arm = arm.name,
                    reason = missing.reason,
                    "an arm of the plan does not answer"
                );
            }
        }
    }

    /// From here on, what a proposal waits for and is not there will not come. `trouble` says why the repository could not be
    /// looked at.
    pub(super) fn note_looked_for(&mut self, trouble: Option<&str>) {
        for proposal in self.plans.proposals.values_mut() {
            let models: BTreeSet<&String> = proposal.draft.arms.iter().map(|arm| &arm.model).collect();
            let of_models = models.into_iter().filter_map(|model| self.unreadable.get_key_value(model));
            let of_models = of_models.map(|(model, why)| format!("model {model:?} cannot be looked at: {why}"));
            proposal.unreadable = trouble.map(str::to_owned).into_iter().chain(of_models).collect();
            proposal.is_looked_for = true;
        }
    }

    fn note_trouble(&mut self, endpoint: &str, error: Option<Error>) {
        let trouble = error.map(|error| error.message().to_owned());
        if let Some(trouble) = &trouble {
            self.tell_once(format!("the plan in the file of endpoint {endpoint:?} does not hold: {trouble}"));
        }
        let before = match trouble {
            Some(trouble) => self.plans.troubles.insert(endpoint.to_owned(), trouble),
            None => self.plans.troubles.remove(endpoint),
        };
        if before.as_ref() != self.plans.troubles.get(endpoint) {
            self.plans.tell();
        }
    }
}

fn still_competing(then: &str) -> Error {
    Error::invalid(format!("a rollout goes on, and its plan holds until it has ended: {then}"))
}

fn cannot_hold(endpoint: &str, missing: &[String]) -> Error {
    let message = format!("the plan of endpoint {endpoint:?} cannot hold: {}", missing.join("; "));
    Error::new(ErrorKind::NotReady, message)
}

#[cfg(test)]
mod tests;
