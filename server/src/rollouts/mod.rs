//! How does a rollout live in this process: decided by `tiltyard-rollout`, on the record in `tiltyard-registry`?
//!
//! One thread sees to all rollouts: it gathers what was seen of requests, lets the judge look, and has each endpoint's plan be
//! what its rollout says. People's wishes come to it as orders.

pub mod aim;
pub mod begin;
pub mod declared;
mod driver;
pub mod feedback;
pub mod fleet;
mod form;
pub mod gatherer;
pub(crate) mod hold;
pub mod hooks;
pub mod live;
pub mod observer;
mod output;
pub mod past;
pub mod record;
pub mod written;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use arc_swap::ArcSwap;
use crossbeam_channel::{Sender, unbounded};
use serde_json::Value;
use tiltyard_rollout::judge::Command;
use tiltyard_rollout::plan::Plan;
use tiltyard_types::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

use self::driver::Place;
use self::feedback::Feedback;
use self::fleet::{Fleet, Shared};
use self::hooks::{Hook, Hooks};
use self::record::Change;
use crate::chain::Chain;
use crate::infer::Inference;
use crate::writer::Writer;
use crate::{clock, deadlines};

/// What is told until the log has been read.
const UNREAD: &str = "the log of rollouts is still being read: ask again in a moment";

/// How long whoever wants to change a plan waits for that.
const LOG_WAIT: Duration = Duration::from_secs(5);

/// What is told where there can be none.
const WITHOUT_LOG: &str = "rollouts need a data folder that can be written";

/// What is known of all rollouts, for people.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// By id.
    pub rollouts: BTreeMap<String, Arc<Value>>,
    /// The latest of each endpoint.
    pub latest: BTreeMap<String, String>,
    /// Endpoints whose plan is a rollout's to change.
    pub governed: BTreeMap<String, String>,
    /// Why no rollout goes on: nothing can be put on the record.
    pub closed: Option<String>,
    /// Why what a file declares does not begin, by endpoint.
    pub waiting: BTreeMap<String, String>,
    /// Why the plan that replicas share does not hold here, by endpoint, and whose plan that is: a model and its version.
    pub unheld: BTreeMap<String, (String, u64, String)>,
    /// How the fleet does, where replicas share their log.
    pub fleet: Option<Value>,
}

/// What somebody wants of a rollout.
enum Wish {
    /// To be answered.
    Nothing,
    /// With the digest of what declares it, if anything does.
    Start(Box<Plan>, Option<String>),
    Tell(Command),
    /// To tell the other replicas what somebody did to the plan.
    Changed(Change),
    /// To tell them of the plan of a promotion, and where there was none before, of what answers until then.
    Promoted(Box<Plan>, Option<Box<Plan>>),
    /// To be told what a rollback leads to, by a log that replicas share, without these versions.
    Before(Vec<(String, u64)>, oneshot::Sender<Option<Plan>>),
    /// With what the answer rests on, where that is known.
    Gate {
        gate: String,
        passed: bool,
        evidence: Option<String>,
    },
}

struct Order {
    endpoint: String,
    by: String,
    wish: Wish,
    answer: oneshot::Sender<Result<Value>>,
}

/// The way to ask for rollouts.
#[derive(Clone)]
pub struct Rollouts {
    orders: Option<Sender<Order>>,
    told: Arc<ArcSwap<Told>>,
    is_shared: bool,
    /// What is said of rows that were answered.
    pub feedback: Arc<Feedback>,
}

impl Rollouts {
    /// Starts the thread; without a log there are no rollouts; it may be `shared` with other replicas.
    /// Verdicts are told to `hook`. Of each rollout, so many rows wait for their labels at most.
    pub fn start(
        chain: Option<Arc<Chain>>,
        shared: Option<Shared>,
        hook: Option<Hook>,
        writer: &Writer,
        inference: &Arc<Inference>,
        feedback_rows_max: usize,
    ) -> io::Result<Rollouts> {
        let is_shared = shared.is_some();
        let (told, feedback) = (Arc::<ArcSwap<Told>>::default(), Arc::new(Feedback::new(feedback_rows_max, is_shared)));
        let Some(chain) = chain else { return Ok(Rollouts { orders: None, told, is_shared, feedback }) };
        let fleet = shared.as_ref().map(|shared| Fleet::new(shared.clone(), clock::now()).form(0));
        told.store(Arc::new(Told { closed: Some(UNREAD.to_owned()), fleet, ..Told::default() }));
        let (orders, incoming) = unbounded();
        let hooks = Hooks::start(hook, orders.clone())?;
        let place = shared.map_or_else(|| Place::Folder(chain), |shared| Place::Fleet(Box::new(shared)));
        let shown = (Arc::clone(&told), Arc::clone(&feedback));
        let driver = driver::Driver::new(place, hooks, writer.clone(), Arc::clone(inference), shown);
        thread::Builder::new().name("tiltyard-rollouts".into()).spawn(move || driver.run(&incoming))?;
        Ok(Rollouts { orders: Some(orders), told, is_shared, feedback })
    }

    /// What is known of them.
    pub fn told(&self) -> Arc<Told> {
        self.told.load_full()
    }

    /// Fails where the endpoint's plan is a rollout's to change, or nobody knows yet whether it is, which is waited for a moment.
    pub async fn may_change(&self, endpoint: &str) -> Result<()> {
        self.wait_for_log().await?;
        self.may_share()?;
        self.is_free(endpoint)
    }

    /// Fails where other replicas could not be told of a change.
    pub fn may_share(&self) -> Result<()> {
        match &self.told.load().closed {
            Some(why) if self.is_shared => Err(Error::new(ErrorKind::NotReady, why.clone())),
            _ => Ok(()),
        }
    }

    /// Tells the other replicas, if there are any, what somebody did to the plan.
    pub async fn share(&self, endpoint: &str, change: Change, by: String) -> Result<()> {
        match self.is_shared {
            true => self.give(endpoint.to_owned(), by, Wish::Changed(change)).await.map(drop),
            false => Ok(()),
        }
    }

    /// The plan that a rollback of the endpoint leads to, on whichever replica; where versions are `out` of the question, without those.
    /// None where nobody shares the log, what holds is not from there, or the log knows of nothing before: then it is what this
    /// process remembers.
    pub async fn before(&self, endpoint: &str, out: Vec<(String, u64)>) -> Result<Option<Plan>> {
        if !self.is_shared {
            return Ok(None);
        }
        let (answer, answered) = oneshot::channel();
        self.give(endpoint.to_owned(), String::new(), Wish::Before(out, answer)).await?;
        Ok(answered.await.ok().flatten())
    }

    /// Whether this process speaks for all that share its log, which it does where it is alone.
    pub fn speaks(&self) -> bool {
        !self.is_shared || self.told.load().fleet.as_ref().is_some_and(|fleet| fleet["leads"] == true)
    }

    /// Has the plan of a promotion hold on every replica, in a moment, and where there was none, what answers until then before it.
    /// None where nobody shares the log: then it is this process's alone.
    pub fn have_hold(&self, plan: Plan, before: Option<Plan>, by: &str) -> Option<()> {
        let orders = self.orders.as_ref().filter(|_| self.is_shared)?;
        let (endpoint, wish) = (plan.endpoint.clone(), Wish::Promoted(Box::new(plan), before.map(Box::new)));
        let (answer, _) = oneshot::channel();
        orders.send(Order { endpoint, by: by.to_owned(), wish, answer }).ok()
    }

    /// Has the endpoint's rollout end with the champion, in a moment.
    pub fn abort(&self, endpoint: &str, by: &str) {
        let (answer, _) = oneshot::channel();
        let wish = Wish::Tell(Command::Abort);
        let order = Order { endpoint: endpoint.to_owned(), by: by.to_owned(), wish, answer };
        if let Some(orders) = &self.orders {
            drop(orders.send(order));
        }
    }

    fn is_free(&self, endpoint: &str) -> Result<()> {
        match self.told.load().governed.get(endpoint) {
            None => Ok(()),
            Some(id) => Err(Error::invalid(format!(
                "the plan of endpoint {endpoint:?} is that of rollout {id}, which goes on: promote or abort it first"
            ))),
        }
    }

    /// Waits until the log has been read, but not for long.
    pub async fn wait_for_log(&self) -> Result<()> {
        if self.is_read().is_err() {
            // Nobody obeys before it is.
            let read = self.give(String::new(), String::new(), Wish::Nothing);
            drop(deadlines::within(clock::now() + LOG_WAIT, read).await);
        }
        self.is_read()
    }

    /// Why the log cannot be used, where it was tried.
    pub fn trouble(&self) -> Option<String> {
        self.told.load().closed.clone().filter(|why| why != UNREAD)
    }

    /// Fails until the log has been read: what was decided now, a rollout that goes on would undo in a moment.
    fn is_read(&self) -> Result<()> {
        match &self.told.load().closed {
            Some(why) if why == UNREAD => Err(Error::new(ErrorKind::NotReady, UNREAD)),
            _ => Ok(()),
        }
    }

    /// How the latest rollout stands that was declared by this.
    pub fn declared(&self, endpoint: &str, digest: &str) -> Option<Arc<Value>> {
        declared::latest(&self.told.load().rollouts, endpoint, digest).cloned()
    }

    /// Why what the endpoint's file declares does not begin.
    pub fn waits(&self, endpoint: &str) -> Option<String> {
        match self.orders {
            Some(_) => self.told.load().waiting.get(endpoint).cloned(),
            None => Some(WITHOUT_LOG.to_owned()),
        }
    }

    /// The rollout that changes an endpoint's plan now.
    pub fn governs(&self, endpoint: &str) -> Option<String> {
        self.told.load().governed.get(endpoint).cloned()
    }

    /// How an endpoint's latest rollout stands.
    pub fn of(&self, endpoint: &str) -> Result<Value> {
        let told = self.told.load();
        let found = told.latest.get(endpoint).and_then(|id| told.rollouts.get(id)).map(|form| Value::clone(form));
        found.ok_or_else(|| match &told.closed {
            Some(why) => Error::new(ErrorKind::NotReady, why.clone()),
            None => Error::not_found(format!(
                "endpoint {endpoint:?} has had no rollout: tiltyard rollout start {endpoint} --challenger VERSION"
            )),
        })
    }

    /// Begins a rollout of the plan, which has steps and was declared by what has this digest, if anything. Answers how it stands.
    pub async fn begin(&self, plan: Plan, declared: Option<String>, by: String) -> Result<Value> {
        self.give(plan.endpoint.clone(), by, Wish::Start(Box::new(plan), declared)).await
    }

    /// Tells an endpoint's rollout what a person wants.
    pub async fn tell(&self, endpoint: &str, command: Command, by: String) -> Result<Value> {
        self.give(endpoint.to_owned(), by, Wish::Tell(command)).await
    }

    /// Answers for a gate, with what that rests on.
    pub async fn gate(
        &self,
        endpoint: &str,
        (gate, passed): (String, bool),
        evidence: Option<String>,
        by: String,
    ) -> Result<Value> {
        self.give(endpoint.to_owned(), by, Wish::Gate { gate, passed, evidence }).await
    }

    async fn give(&self, endpoint: String, by: String, wish: Wish) -> Result<Value> {
        let Some(orders) = &self.orders else {
            return Err(Error::unsupported(WITHOUT_LOG));
        };
        let (answer, answered) = oneshot::channel();
        drop(orders.send(Order { endpoint, by, wish, answer }));
        answered.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Draining, "the server is shutting down")))
    }
}

/// Where a rollout's id stands among those of its endpoint: they count up.
fn number(id: &str) -> u64 {
    id.rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_the_log_is_read_nobody_changes_a_plan() {
        let rollouts = |closed: &str| {
            let told = Told { closed: Some(closed.to_owned()), ..Told::default() };
            let (told, feedback) = (Arc::new(ArcSwap::from_pointee(told)), Arc::new(Feedback::new(1, false)));
            Rollouts { orders: None, told, is_shared: false, feedback }
        };
        let refused = rollouts(UNREAD).is_read().unwrap_err();
        assert_eq!((refused.kind(), refused.message()), (ErrorKind::NotReady, UNREAD));
        let full = rollouts("the disk is full");
        assert_eq!((full.is_read(), full.is_free("risk")), (Ok(()), Ok(())), "people can do something");
    }

    #[test]
    fn ids_count_up() {
        assert_eq!(["risk-9", "risk-10", "a-b-3", "", "risk"].map(number), [9, 10, 3, 0, 0]);
    }
}
