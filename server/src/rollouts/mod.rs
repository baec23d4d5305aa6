//! How does a rollout live in this process: decided by `tiltyard-rollout`, on the record in `tiltyard-registry`?
//!
//! One thread sees to all rollouts: it gathers what was seen of requests, lets the judge look, and has each endpoint's plan be
//! what its rollout says. People's wishes come to it as orders.

pub mod aim;
pub mod begin;
mod driver;
pub mod feedback;
mod form;
pub mod gatherer;
pub mod hooks;
pub mod live;
pub mod observer;
pub mod record;

use std::collections::BTreeMap;
use std::sync::Arc;
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

/// What is told until the log has been read.
const UNREAD: &str = "the log of rollouts is still being read: ask again in a moment";

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
}

/// What somebody wants of a rollout.
enum Wish {
    Start(Box<Plan>),
    Tell(Command),
    Gate { gate: String, passed: bool },
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

    /// Fails where the endpoint's plan is a rollout's to change.
    pub fn may_change(&self, endpoint: &str) -> Result<()> {
        match self.told.load().governed.get(endpoint) {
            None => Ok(()),
            Some(id) => Err(Error::invalid(format!(
                "the plan of endpoint {endpoint:?} is that of rollout {id}, which goes on: promote or abort it first"
            ))),
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

    /// Begins a rollout of the plan, which has steps. Answers how it stands.
    pub async fn begin(&self, plan: Plan, by: String) -> Result<Value> {
        self.give(plan.endpoint.clone(), by, Wish::Start(Box::new(plan))).await
    }

    /// Tells an endpoint's rollout what a person wants.
    pub async fn tell(&self, endpoint: &str, command: Command, by: String) -> Result<Value> {
        self.give(endpoint.to_owned(), by, Wish::Tell(command)).await
    }

    /// Answers for a gate.
    pub async fn gate(&self, endpoint: &str, gate: String, passed: bool, by: String) -> Result<Value> {
        self.give(endpoint.to_owned(), by, Wish::Gate { gate, passed }).await
    }

    async fn give(&self, endpoint: String, by: String, wish: Wish) -> Result<Value> {
        let Some(orders) = &self.orders else {
            return Err(Error::unsupported("rollouts need a data folder that can be written"));
        };
        let (answer, answered) = oneshot::channel();
        drop(orders.send(Order { endpoint, by, wish, answer }));
        answered.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Draining, "the server is shutting down")))
    }
}
