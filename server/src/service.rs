//! What do the protocols stand on?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tiltyard_runtime::load::Loader;
use tiltyard_runtime::measure::idle::Measurer;
use tokio::sync::watch;

use crate::alerts::Alerts;
use crate::config::ModelControl;
use crate::drain::Phase;
use crate::explain::Explainers;
use crate::infer::Inference;
use crate::ledger::Ledger;
use crate::locks::access::Access;
use crate::logs::Logs;
use crate::mirror::figures::Figures;
use crate::registry::Registry;
use crate::reload::Live;
use crate::rollouts::Rollouts;
use crate::state::StateFolder;
use crate::states::States;
use crate::telemetry::Totals;
use crate::writer::Writer;

/// Everything a protocol needs to answer any request.
pub struct Service {
    /// Answers inference requests.
    pub inference: Arc<Inference>,
    /// Explains answers to those who ask why.
    pub explainers: Explainers,
    /// Changes what can answer.
    pub writer: Writer,
    /// Has versions compete.
    pub rollouts: Rollouts,
    /// Versions, environments, approvals and history.
    pub registry: Arc<Registry>,
    /// Loads versions that are to be tried.
    pub loader: Arc<Loader>,
    /// Tells when something is not as it should be, once it is told to begin.
    pub alerts: Arc<Alerts>,
    /// Measures in idle time what runs cost, once it is told to begin.
    pub measurer: Arc<Measurer>,
    /// Levels of logging that clients may ask for and, under explicit control, change.
    pub logs: Logs,
    /// Counters that belong to no deployment.
    pub totals: Totals,
    /// What deployments counted, those that are gone included.
    pub ledger: Arc<Ledger>,
    /// Who may do what; none where anybody may do anything.
    pub access: Option<Arc<Access>>,
    /// The settings that hold now.
    pub live: Arc<Live>,
    /// Where every version stands.
    pub states: Arc<States>,
    /// Where what must be remembered of the repository is kept; none in commands that only look at it.
    pub state: Option<Arc<StateFolder>>,
    /// How the store is doing that models come from; none where they lie in a folder.
    pub store: Option<Arc<Figures>>,
    /// Who decides what is loaded.
    pub control: ModelControl,
    /// Whether a run hangs on a thread that reads requests.
    pub loop_hangs: Arc<AtomicBool>,
    /// Where the process stands between its start and its end.
    pub phase: watch::Sender<Phase>,
}

impl Service {
    /// Whether load balancers shall send requests: bound, the first look is done, not shutting down, and able to
    /// answer. One bad model does not change that.
    pub fn is_ready(&self) -> bool {
        *self.writer.first_look_done.borrow() && !self.is_leaving() && self.can_answer()
    }

    /// Whether anybody is answered: not where runs that hang hold an event loop or every worker, nor where each version that
    /// is loaded is out of service.
    fn can_answer(&self) -> bool {
        !self.inference.pool.is_lost() && !self.loop_hangs.load(Relaxed) && !self.inference.catalog.load().is_out()
    }

    /// Whether the process was told to end.
    pub fn is_leaving(&self) -> bool {
        *self.phase.borrow() > Phase::Serving
    }

    /// Whether clients may change what is loaded and how it is logged.
    pub fn clients_may_manage(&self) -> bool {
        self.control == ModelControl::Explicit
    }
}
