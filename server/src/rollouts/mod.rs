//! How does a rollout live in this process: decided by `tiltyard-rollout`, on the record in `tiltyard-registry`?
//!
//! One thread sees to all rollouts: it gathers what was seen of requests, lets the judge look, and has each endpoint's plan be
//! what its rollout says. People's wishes come to it as orders.

pub mod aim;
pub mod begin;
pub mod declared;
mod driver;
pub mod feedback;
mod form;
pub mod gatherer;
pub mod hooks;
pub mod live;
pub mod observer;
mod output;
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

use self::feedback::Feedback;
use self::hooks::{Hook, Hooks};
use crate::infer::Inference;
use crate::state::StateFolder;
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
}

/// What somebody wants of a rollout.
enum Wish {
    /// To be answered.
    Nothing,
    /// With the digest of what declares it, if anything does.
    Start(Box<Plan>, Option<String>),
    Tell(Command),
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
    /// What is said of rows that were answered.
    pub feedback: Arc<Feedback>,
}

impl Rollouts {
    /// Starts the thread; its log is in the state folder, without which there are no rollouts. Verdicts are told to `hook`. Of each
    /// rollout, so many rows wait for their labels at most.
    pub fn start(
        state: Option<&StateFolder>,
        hook: Option<Hook>,
        writer: &Writer,
        inference: &Arc<Inference>,
        feedback_rows_max: usize,
    ) -> io::Result<Rollouts> {
        let (told, feedback) = (Arc::<ArcSwap<Told>>::default(), Arc::new(Feedback::new(feedback_rows_max)));
        let Some(state) = state else { return Ok(Rollouts { orders: None, told, feedback }) };
        told.store(Arc::new(Told { closed: Some(UNREAD.to_owned()), ..Told::default() }));
        let (orders, incoming) = unbounded();
        let hooks = Hooks::start(hook, orders.clone())?;
        let (log, shown) = (state.path.join("log"), (Arc::clone(&told), Arc::clone(&feedback)));
        let driver = driver::Driver::new(log, hooks, writer.clone(), Arc::clone(inference), shown);
        thread::Builder::new().name("tiltyard-rollouts".into()).spawn(move || driver.run(&incoming))?;
        Ok(Rollouts { orders: Some(orders), told, feedback })
    }

    /// What is known of them.
    pub fn told(&self) -> Arc<Told> {
        self.told.load_full()
    }

    /// Fails where the endpoint's plan is a rollout's to change, or nobody knows yet whether it is, which is waited for a moment.
    pub async fn may_change(&self, endpoint: &str) -> Result<()> {
        self.wait_for_log().await?;
        self.is_free(endpoint)
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
            let (told, feedback) = (Arc::new(ArcSwap::from_pointee(told)), Arc::new(Feedback::new(1)));
            Rollouts { orders: None, told, feedback }
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
