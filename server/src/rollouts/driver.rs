//! What does the rollouts' thread do, all day long?
//!
//! Four times a second it takes in what was seen, has the judge look where it is time, and compares each endpoint's plan with
//! what its rollout says it shall be. It acts on nothing that is not on the disk, and keeps no state that the log and the
//! endpoint's plan do not have: whoever is killed at any point goes on from there. Where replicas share the log, each has such a
//! thread, and one of them lets the judge look (`fleet.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde_json::Value;
use tiltyard_registry as registry;
use tiltyard_rollout::evidence::Pairs;
use tiltyard_rollout::judge::{Command, Decision, Event, Judge, Stage, State, Verdict};
use tiltyard_rollout::plan::{Arm, Plan, Role};
use tiltyard_types::{Error, ErrorKind, Moment, Result};
use tokio::sync::oneshot;

use super::declared::Waiting;
use super::feedback::Feedback;
use super::fleet::follow::Due;
use super::fleet::{Fleet, Shared};
use super::hooks::{self, Hooks};
use super::live::Live;
use super::record::{Failure, Record, Rollout};
use super::{Order, Told, Wish, aim, form, gatherer, hold, number};
use crate::catalog::{Catalog, Endpoint};
use crate::chain::Chain;
use crate::clock;
use crate::infer::Inference;
use crate::route::Route;
use crate::shadow;
use crate::writer::{How, Report, Writer};

/// How long nothing is looked at.
const TICK: Duration = Duration::from_millis(250);

/// How long until what failed is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(5);

/// So often is a start tried where others write to the log at the same time.
const STARTS: usize = 16;

/// How long a gate's answer is waited for until it is asked about again.
const ASK_AGAIN: Duration = Duration::from_secs(60);

/// Where the log is.
pub(super) enum Place {
    /// In this folder, for this process alone.
    Folder(Arc<Chain>),
    /// In the registry that replicas share.
    Fleet(Box<Shared>),
}

/// The thread's state.
pub(super) struct Driver {
    place: Place,
    /// What is known of the other replicas, where there may be some.
    pub(super) fleet: Option<Fleet>,
    hooks: Hooks,
    pub(super) writer: Writer,
    pub(super) inference: Arc<Inference>,
    told: Arc<ArcSwap<Told>>,
    pub(super) feedback: Arc<Feedback>,
    /// None where the log cannot be read or written.
    pub(super) record: Option<Record>,
    pub(super) closed: Option<String>,
    retry: Moment,
    /// By endpoint: those whose plan is a rollout's.
    pub(super) active: BTreeMap<String, Active>,
    /// Plans that are to give their challengers nothing, since nobody judges: on their way.
    quieted: BTreeMap<String, oneshot::Receiver<Result<Report>>>,
    /// What was told last of each rollout, by id.
    pub(super) forms: BTreeMap<String, Arc<Value>>,
    /// What files declare and has not begun, by endpoint.
    pub(super) waiting: BTreeMap<String, Waiting>,
    /// Plans that are to hold since others say so, by endpoint, and up to which entry that was looked for.
    pub(super) due: BTreeMap<String, Due>,
    pub(super) followed: u64,
}

/// A rollout that has an endpoint.
pub(super) struct Active {
    pub(super) id: String,
    pub(super) live: Live,
    /// A change of the plan that is on its way.
    pending: Option<oneshot::Receiver<Result<Report>>>,
    retry: Moment,
    trouble: Option<String>,
    /// When each gate was asked about last.
    asked: BTreeMap<String, Moment>,
}

impl Driver {
    #[cfg_attr(not(feature = "record"), expect(unreachable_code, reason = "without Postgres there is no fleet"))]
    pub(super) fn new(
        place: Place,
        hooks: Hooks,
        writer: Writer,
        inference: Arc<Inference>,
        (told, feedback): (Arc<ArcSwap<Told>>, Arc<Feedback>),
    ) -> Driver {
        let (active, forms) = (BTreeMap::new(), BTreeMap::new());
        let fleet = match &place {
            Place::Folder(_) => None,
            Place::Fleet(shared) => Some(Fleet::new(Shared::clone(shared), clock::now())),
        };
        Driver {
            place,
            fleet,
            hooks,
            writer,
            inference,
            told,
            feedback,
            record: None,
            closed: None,
            retry: Moment::default(),
            active,
            quieted: BTreeMap::new(),
            forms,
            waiting: BTreeMap::new(),
            due: BTreeMap::new(),
            followed: 0,
        }
    }

    /// The thread's life. To prove a long log takes its time, and nobody who is served waits for it.
    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        self.open();
        self.tell();
        let mut next = clock::now() + TICK;
        loop {
            match orders.recv_timeout(next - clock::now()) {
                Ok(order) => self.obey(order),
                Err(RecvTimeoutError::Timeout) => {
                    self.tick();
                    next = clock::now() + TICK;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Reads the log, and finds whose rollouts go on.
    fn open(&mut self) {
        self.record = None;
        self.retry = clock::now() + RETRY;
        let opened = match &self.place {
            Place::Folder(chain) => chain.open().map_err(Error::from).and_then(Record::over),
            Place::Fleet(shared) => Record::connect(&shared.address),
        };
        let mut record = match opened {
            Ok(record) => record,
            Err(error) => {
                self.close(&format!("rollouts stand still, since their log cannot be used: {error}"));
                return;
            }
        };
        // Another log may have been put in its place.
        self.active.retain(|_, active| record.rollouts().get(&active.id).is_ok());
        if let Some(cut) = record.log().cut() {
            tracing::warn!(segment = %cut.segment.display(), bytes = cut.bytes, "an unfinished line of the log was cut off");
        }
        self.resume(&record);
        // Who goes on must be able to say so; of several, whoever leads will.
        let going =
            self.active.values().filter(|_| self.fleet.is_none()).map(|active| active.id.clone()).collect::<Vec<_>>();
        for id in going {
            let time_ms = clock::unix_ms();
            if let Err(failure) = record.feed(&id, Event::Tick { time_ms }) {
                let error = Error::from(failure);
                self.close(&format!("rollouts stand still, since their log cannot be written: {error}"));
                return;
            }
        }
        if self.closed.take().is_some() {
            tracing::info!("the rollouts' log can be used again");
        }
        self.record = Some(record);
    }

    pub(super) fn close(&mut self, why: &str) {
        if self.closed.as_deref() != Some(why) {
            let log = match &self.place {
                Place::Folder(chain) => chain.place(),
                Place::Fleet(shared) => shared.address.to_string(),
            };
            tracing::error!(log, why, "challengers get no traffic");
        }
        (self.record, self.closed, self.retry) = (None, Some(why.to_owned()), clock::now() + RETRY);
        if let Some(fleet) = &mut self.fleet {
            fleet.lost(why.to_owned());
        }
    }

    /// Finds whose rollouts go on.
    pub(super) fn resume(&mut self, record: &Record) {
        let (now, plans) = (clock::now(), self.writer.plans.load());
        for (id, rollout) in record.rollouts().iter() {
            let judge = &rollout.judge;
            let endpoint = &judge.plan().endpoint;
            let current = plans.endpoints.plan(endpoint);
            let goes_on = !judge.state().is_terminal() || current.is_some_and(|current| aim::is_ours(current, judge));
            let goes_on = goes_on && self.is_latest(record, endpoint, id);
            if goes_on && self.active.get(endpoint).is_none_or(|active| active.id != id) {
                self.active.insert(endpoint.clone(), Active::new(id, judge, now, &self.feedback));
            }
            self.forms.insert(id.to_owned(), Arc::new(form::of(id, rollout, form::Beside::default())));
        }
        self.note_wanted(record);
    }

    fn tick(&mut self) {
        let now = clock::now();
        if self.record.is_none() && now >= self.retry {
            self.open();
        }
        self.follow(now);
        match self.fleet.is_some() {
            true => self.exchange(now),
            false => self.observe(),
        }
        let is_cut_off = self.fleet.as_ref().is_some_and(|fleet| fleet.is_cut_off(now));
        for endpoint in self.active.keys().cloned().collect::<Vec<_>>() {
            let route = self.route(&endpoint);
            if self.judges() {
                self.hold(&endpoint);
                self.look(&endpoint, route.as_deref(), now);
            }
            if !is_cut_off {
                self.reconcile(&endpoint, route.as_deref(), now);
            }
        }
        match self.record {
            Some(_) if !is_cut_off => {
                if self.judges() {
                    self.begin_declared(now);
                }
                self.converge(now);
            }
            _ => self.quiet(),
        }
        self.tell();
    }

    /// Whether this process lets the judge look: of several, one does.
    fn judges(&self) -> bool {
        self.fleet.as_ref().is_none_or(Fleet::leads)
    }

    /// Takes in what was seen, as the only one who sees anything.
    fn observe(&mut self) {
        for endpoint in self.active.keys().cloned().collect::<Vec<_>>() {
            let route = self.route(&endpoint);
            if let Some(active) = self.active.get_mut(&endpoint) {
                active.observe(route.as_ref());
            }
        }
    }

    /// Nobody judges: gives no challenger of a rollout any traffic.
    fn quiet(&mut self) {
        self.quieted.retain(|_, pending| matches!(pending.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        let plans = self.writer.plans.load();
        for (endpoint, plan) in plans.endpoints.current() {
            let is_judged = |arm: &Arm| matches!(arm.role, Role::Challenger { weight, .. } if weight > 0);
            if plan.steps.is_empty() || !plan.arms.iter().any(is_judged) || self.quieted.contains_key(&endpoint) {
                continue;
            }
            let quiet = Plan { revision: 0, ..plan.at_share(0) };
            self.quieted.insert(endpoint, self.writer.propose(quiet, How::Decided));
        }
    }

    pub(super) fn route(&self, endpoint: &str) -> Option<Arc<Route>> {
        match self.inference.catalog.load().endpoints.get(endpoint) {
            Some(Endpoint::Planned(route)) => Some(Arc::clone(route)),
            _ => None,
        }
    }

    pub(super) fn rollout(&self, endpoint: &str) -> Option<&Rollout> {
        let id = &self.active.get(endpoint)?.id;
        self.record.as_ref()?.rollouts().get(id).ok()
    }

    fn judge(&self, endpoint: &str) -> Option<&Judge> {
        self.rollout(endpoint).map(|rollout| &rollout.judge)
    }

    /// Tells the judge what is due.
    fn look(&mut self, endpoint: &str, route: Option<&Route>, now: Moment) {
        let (Some(record), Some(active)) = (&self.record, self.active.get_mut(endpoint)) else { return };
        let Ok(Rollout { judge, .. }) = record.rollouts().get(&active.id) else { return };
        let now_ms = clock::unix_ms();
        let mut events = Vec::new();
        if judge.state() == State::Running(Stage::Draft) {
            // The process ended before it began.
            events.push(Event::Command { time_ms: now_ms, by: "tiltyard".to_owned(), command: Command::Start });
        }
        // Each replica says what is wrong with those who compete there.
        let (route, heard) = match &self.fleet {
            None => (route, None),
            Some(_) => (None, Some(active.live.take_heard())),
        };
        let (told, heard) = heard.map_or((None, None), |(trip, pairs)| (trip, Some(pairs)));
        let may_trip = matches!(judge.state(), State::Running(stage) | State::Paused(stage) if stage >= Stage::Shadow);
        let trip = active.live.trip(judge, route).or(told.filter(|_| may_trip));
        let has_blocks = active.live.is_due(judge, now) || trip.is_some();
        if has_blocks {
            let pairs = heard.unwrap_or_else(|| pairs(&self.inference.catalog.load(), judge.plan()));
            events.extend(active.live.close(judge, now, now_ms, pairs).into_iter().map(Event::Block));
        } else if let Some(pairs) = heard {
            active.live.heard(None, pairs);
        }
        events.extend(trip.map(|trip| Event::Trip { time_ms: now_ms, trip }));
        if !events.is_empty() {
            drop(self.feed_all(endpoint, events, has_blocks));
        }
    }

    /// Tells a rollout of an event, which is on the disk when this comes back.
    pub(super) fn feed(&mut self, endpoint: &str, event: Event) -> Result<Verdict> {
        let mut verdicts = self.feed_all(endpoint, vec![event], false)?;
        verdicts.pop().ok_or_else(|| self.standstill())
    }

    /// Tells a rollout of events, all of which are on the disk when this comes back, or none. With blocks, what the replicas told
    /// that is in them is taken.
    fn feed_all(&mut self, endpoint: &str, events: Vec<Event>, has_blocks: bool) -> Result<Vec<Verdict>> {
        let (Some(record), Some(active)) = (&mut self.record, self.active.get_mut(endpoint)) else {
            return Err(self.standstill());
        };
        let id = active.id.clone();
        let is_command = matches!(events[..], [Event::Command { .. } | Event::Gate { .. }]);
        let taken = self.fleet.as_ref().filter(|_| has_blocks).map(|fleet| fleet.taken(&id));
        match record.feed_all(&id, events, taken.as_ref()) {
            Ok(verdicts) => {
                for verdict in &verdicts {
                    say(endpoint, &id, verdict);
                    self.hooks.tell(&id, endpoint, verdict);
                    active.ask(&self.hooks, endpoint, verdict);
                }
                Ok(verdicts)
            }
            // What a person wants may make no sense; nor may anything where others have just said something else.
            Err(Failure::Unfit(error))
                if (is_command || self.fleet.is_some()) && error.kind() == ErrorKind::Invalid =>
            {
                Err(error)
            }
            Err(failure) => Err(self.failed(failure)),
        }
    }

    /// Nothing could be put on the log.
    fn failed(&mut self, failure: Failure) -> Error {
        match (&mut self.fleet, failure) {
            (Some(fleet), Failure::Log(error)) => {
                // What was gathered is gathered anew from what the replicas told, if this one leads again.
                fleet.step_down();
                match error {
                    registry::Error::NotLeading | registry::Error::Moved { .. } => {
                        return Error::new(ErrorKind::NotReady, error.to_string());
                    }
                    error => self.lose(&error),
                }
            }
            (_, failure) => {
                let error = Error::from(failure);
                self.close(&format!("rollouts stand still, since their log cannot be written: {error}"));
            }
        }
        self.standstill()
    }

    pub(super) fn standstill(&self) -> Error {
        let why = self.closed.clone().unwrap_or_else(|| "the rollout is not there any more".to_owned());
        Error::new(ErrorKind::NotReady, why)
    }

    /// Has the endpoint's plan be what its rollout says.
    fn reconcile(&mut self, endpoint: &str, route: Option<&Route>, now: Moment) {
        if !self.settle(endpoint, now) {
            return;
        }
        let current = self.writer.plans.load().endpoints.plan(endpoint).cloned();
        let Some(rollout) = self.rollout(endpoint) else { return };
        let judge = &rollout.judge;
        let is_ours = current.as_ref().is_some_and(|current| aim::is_ours(current, judge));
        if judge.state().is_terminal() && !is_ours {
            // It has ended and its last plan holds, or somebody else's.
            self.leave(endpoint);
            return;
        }
        let wanted = aim::plan(judge, rollout.went_back, rollout.is_watched(clock::unix_ms()));
        let holds = current.as_ref().is_some_and(|current| aim::is_same(current, &wanted));
        if holds {
            self.validate(endpoint, route);
            return;
        }
        let Some(active) = self.active.get_mut(endpoint) else { return };
        if now >= active.retry {
            active.pending = Some(self.writer.propose(wanted, How::Decided));
            active.retry = now + RETRY;
        }
    }

    /// Whether no change of the plan is on its way. Takes in what became of the last one.
    fn settle(&mut self, endpoint: &str, now: Moment) -> bool {
        let Some(active) = self.active.get_mut(endpoint) else { return false };
        let Some(pending) = &mut active.pending else { return true };
        let outcome = match pending.try_recv() {
            Ok(outcome) => outcome,
            Err(oneshot::error::TryRecvError::Empty) => return false,
            Err(oneshot::error::TryRecvError::Closed) => {
                // Nobody says any more what became of it: it is asked for again.
                active.pending = None;
                return false;
            }
        };
        active.pending = None;
        let Err(error) = outcome else {
            (active.trouble, active.retry) = (None, now);
            return true;
        };
        tracing::warn!(endpoint, rollout = active.id, %error, "the plan that the rollout wants does not hold");
        active.trouble = Some(error.message().to_owned());
        let is_validating = |judge: &Judge| judge.state() == State::Running(Stage::Validating);
        if self.judges() && self.judge(endpoint).is_some_and(is_validating) {
            let fault = Some(error.message().to_owned());
            drop(self.feed(endpoint, Event::Validated { time_ms: clock::unix_ms(), fault }));
        }
        false
    }

    /// The plan holds: the challenger is ready once each of its arms is.
    fn validate(&mut self, endpoint: &str, route: Option<&Route>) {
        let is_validating = |judge: &Judge| judge.state() == State::Running(Stage::Validating);
        let is_ready =
            route.is_some_and(|route| !route.plan.steps.is_empty() && route.seats().all(|seat| seat.is_ok()));
        if is_ready && self.judges() && self.judge(endpoint).is_some_and(is_validating) {
            drop(self.feed(endpoint, Event::Validated { time_ms: clock::unix_ms(), fault: None }));
        }
    }

    fn leave(&mut self, endpoint: &str) {
        self.note(endpoint);
        if let Some(active) = self.active.remove(endpoint) {
            tracing::info!(endpoint, rollout = active.id, "the rollout has ended");
        }
    }

    fn obey(&mut self, Order { endpoint, by, wish, answer }: Order) {
        let answered = match wish {
            Wish::Nothing => Ok(()),
            Wish::Start(plan, declared) => self.start(&endpoint, *plan, declared.as_deref(), by),
            Wish::Tell(command) => self.command(&endpoint, command, by),
            Wish::Changed(change) => self.share(&endpoint, &change, &by),
            Wish::Promoted(plan, before) => self.share_promotion(&endpoint, plan, before, &by),
            Wish::Before(out, told) => self.before(&endpoint, &out).map(|plan| drop(told.send(plan))),
            Wish::Gate { gate, passed, evidence } => {
                let evidence = hold::signed(&gate, &by, evidence);
                let event = Event::Gate { time_ms: clock::unix_ms(), gate, passed, evidence };
                self.ongoing(&endpoint).and_then(|()| self.feed(&endpoint, event).map(drop))
            }
        };
        self.reconcile(&endpoint, self.route(&endpoint).as_deref(), clock::now());
        self.tell();
        let told = self.told.load();
        let form = || {
            told.latest
                .get(&endpoint)
                .and_then(|id| told.rollouts.get(id))
                .map(|form| Value::clone(form))
                .unwrap_or_default()
        };
        drop(answer.send(answered.map(|()| form())));
    }

    fn ongoing(&self, endpoint: &str) -> Result<()> {
        match (&self.record, self.active.contains_key(endpoint)) {
            (None, _) => Err(self.standstill()),
            (_, true) => Ok(()),
            (_, false) => Err(Error::not_found(format!("endpoint {endpoint:?} has no rollout that goes on"))),
        }
    }

    /// The rollout of an endpoint that has not ended.
    pub(super) fn going_on(&self, endpoint: &str) -> Option<&str> {
        self.rollout(endpoint).filter(|rollout| !rollout.judge.state().is_terminal())?;
        self.active.get(endpoint).map(|active| active.id.as_str())
    }

    /// Begins a rollout. Where the same is declared once more while it goes on, nothing is left to do.
    pub(super) fn start(&mut self, endpoint: &str, plan: Plan, declared: Option<&str>, by: String) -> Result<()> {
        for _ in 0..STARTS {
            if let Some(id) = self.going_on(endpoint) {
                let is_same = declared.is_some()
                    && self.rollout(endpoint).is_some_and(|found| found.declared.as_deref() == declared);
                let message = format!("rollout {id} of endpoint {endpoint:?} goes on: promote or abort it first");
                return if is_same { Ok(()) } else { Err(Error::invalid(message)) };
            }
            let Some(id) = self.draft(endpoint, plan.clone(), declared)? else { continue };
            tracing::info!(endpoint, rollout = id, by, "a rollout begins");
            let event = Event::Command { time_ms: clock::unix_ms(), by, command: Command::Start };
            let is_draft = |judge: &Judge| judge.state() == State::Running(Stage::Draft);
            return match self.feed(endpoint, event) {
                // Whoever leads may have seen the draft, and begun it.
                Err(error) if error.kind() == ErrorKind::Invalid && !self.judge(endpoint).is_some_and(is_draft) => {
                    Ok(())
                }
                told => told.map(drop),
            };
        }
        Err(Error::new(ErrorKind::NotReady, "others write to the log all the time: ask again in a moment"))
    }

    /// Puts a draft on the log, and says under which id; none where others were first: what they said is known now.
    fn draft(&mut self, endpoint: &str, mut plan: Plan, declared: Option<&str>) -> Result<Option<String>> {
        let Some(mut record) = self.record.take() else { return Err(self.standstill()) };
        let count = record.rollouts().iter().filter(|(_, rollout)| rollout.judge.plan().endpoint == endpoint).count();
        let id = format!("{endpoint}-{}", count + 1);
        plan.revision = plan.revision.max(1);
        hold::guard(&mut plan, &self.inference);
        if plan.salt.is_empty() {
            plan.salt = format!("{}-{id}", Plan::salt_of(endpoint, &plan.arms, &plan.key));
        }
        let begun = record.start(&id, &plan, declared, clock::unix_ms());
        if let Ok(true) = begun
            && let Ok(rollout) = record.rollouts().get(&id)
        {
            self.active.insert(endpoint.to_owned(), Active::new(&id, &rollout.judge, clock::now(), &self.feedback));
        } else if begun.is_ok() {
            self.resume(&record);
        }
        self.record = Some(record);
        begun.map(|has_begun| has_begun.then_some(id))
    }

    fn command(&mut self, endpoint: &str, command: Command, by: String) -> Result<()> {
        self.ongoing(endpoint)?;
        // What was seen until now was seen before the command.
        let route = self.route(endpoint);
        let mut blocks = Vec::new();
        // Of several replicas, the one that leads has what all have seen, and counts it when it has come.
        if let (None, Some(record), Some(active)) = (&self.fleet, &self.record, self.active.get_mut(endpoint)) {
            active.observe(route.as_ref());
            let judge = &record.rollouts().get(&active.id)?.judge;
            if judge.state().stage().is_some_and(|stage| stage >= Stage::Shadow) {
                let pairs = pairs(&self.inference.catalog.load(), judge.plan());
                blocks = active.live.close(judge, clock::now(), clock::unix_ms(), pairs);
            }
        }
        for block in blocks {
            self.feed(endpoint, Event::Block(block))?;
        }
        self.feed(endpoint, Event::Command { time_ms: clock::unix_ms(), by, command }).map(drop)
    }

    /// Notes how a rollout stands, for people.
    fn note(&mut self, endpoint: &str) {
        let (Some(active), Some(record)) = (self.active.get(endpoint), &self.record) else { return };
        let Ok(rollout) = record.rollouts().get(&active.id) else { return };
        let is_news = self.forms.get(&active.id).is_none_or(|form| {
            form["events"] != rollout.events || form["trouble"].as_str() != active.trouble.as_deref()
        });
        if is_news {
            let beside = form::Beside {
                trouble: active.trouble.as_deref(),
                unseen: active.live.unseen,
                sampling: active.live.sampling(),
            };
            self.forms.insert(active.id.clone(), Arc::new(form::of(&active.id, rollout, beside)));
        }
        if let Some(form) = self.forms.get_mut(&active.id) {
            let form = Arc::make_mut(form);
            form["held"] = hold::why(rollout).into();
            form["units_since"] = active.live.units().into();
            form["output_bins"] = active.live.bins_form();
            form["replicas"] = self.fleet.as_ref().map_or(Value::Null, Fleet::replicas_form);
            form["labels"] = active.live.desk.as_ref().map_or(Value::Null, |desk| desk.form());
        }
    }

    fn tell(&mut self) {
        for endpoint in self.active.keys().cloned().collect::<Vec<_>>() {
            self.note(&endpoint);
        }
        self.feedback.show(self.active.values().filter_map(|active| active.live.desk.clone()));
        let waiting = self.waiting.iter().filter_map(|(name, waiting)| Some((name.clone(), waiting.trouble.clone()?)));
        let (rollouts, closed, waiting) = (self.forms.clone(), self.closed.clone(), waiting.collect());
        let head = self.record.as_ref().map_or(0, |record| record.head().sequence);
        let fleet = self.fleet.as_ref().map(|fleet| fleet.form(head));
        let unheld = self.due.iter().filter_map(|(name, due)| Some((name.clone(), due.unheld()?))).collect();
        let mut told = Told { rollouts, closed, waiting, unheld, fleet, ..Told::default() };
        let Some(record) = &self.record else {
            let before = self.told.load();
            (told.latest, told.governed) = (before.latest.clone(), before.governed.clone());
            self.told.store(Arc::new(told));
            return;
        };
        let mut begun: BTreeMap<&str, u64> = BTreeMap::new();
        for (id, rollout) in record.rollouts().iter() {
            let judge = &rollout.judge;
            let endpoint = &judge.plan().endpoint;
            let number = number(id);
            if begun.get(endpoint.as_str()).is_none_or(|latest| *latest <= number) {
                begun.insert(endpoint, number);
                told.latest.insert(endpoint.clone(), id.to_owned());
            }
            let is_active = self.active.get(endpoint).is_some_and(|active| active.id == id);
            if is_active && !judge.state().is_terminal() {
                told.governed.insert(endpoint.clone(), id.to_owned());
            }
        }
        self.told.store(Arc::new(told));
    }
}

impl Active {
    fn new(id: &str, judge: &Judge, now: Moment, feedback: &Feedback) -> Active {
        let live = Live::new(judge, now, feedback);
        Active { id: id.to_owned(), live, pending: None, retry: now, trouble: None, asked: BTreeMap::new() }
    }
}

impl Active {
    /// Takes in what was seen in this process, as the only one.
    fn observe(&mut self, route: Option<&Arc<Route>>) {
        for seen in self.live.observe(route) {
            self.live.take(gatherer::OWN, seen);
        }
        self.live.mature();
    }

    /// Asks the webhook about gates that are waited for, now and then.
    fn ask(&mut self, hooks: &Hooks, endpoint: &str, verdict: &Verdict) {
        let now = clock::now();
        for gate in hooks::asked(verdict).filter(|_| hooks.are_there()) {
            if self.asked.get(gate).is_none_or(|asked| now - *asked >= ASK_AGAIN) {
                self.asked.insert(gate.to_owned(), now);
                hooks.ask(&self.id, endpoint, verdict, gate);
            }
        }
    }
}

/// What pairs of the champion's answers and the challenger's, where it is a shadow too, showed since this was asked last.
pub(super) fn pairs(catalog: &Catalog, plan: &Plan) -> Pairs {
    aim::shadow(plan).map(|arm| shadow::take(catalog, &plan.endpoint, &arm.name)).unwrap_or_default()
}

/// Decisions are told as they fall.
fn say(endpoint: &str, rollout: &str, verdict: &Verdict) {
    let Verdict { decision, state, share, reasons, .. } = verdict;
    let reasons = || serde_json::to_string(reasons).unwrap_or_default();
    match decision {
        Decision::NotYet => {}
        Decision::RollBack | Decision::Halt | Decision::Inconclusive => {
            tracing::warn!(endpoint, rollout, ?decision, %state, share, reasons = reasons(), "verdict");
        }
        _ => tracing::info!(endpoint, rollout, ?decision, %state, share, reasons = reasons(), "verdict"),
    }
}
