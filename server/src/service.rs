//! What do the protocols stand on?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tiltyard_runtime::measure::idle::Measurer;
use tiltyard_runtime::repository::policy::VersionPolicy;

use crate::config::ModelControl;
use crate::infer::Inference;
use crate::ledger::Ledger;
use crate::logs::Logs;
use crate::telemetry::Totals;
use crate::writer::Writer;

/// Everything a protocol needs to answer any request.
pub struct Service {
    /// Answers inference requests.
    pub inference: Arc<Inference>,
    /// Changes what can answer.
    pub writer: Writer,
    /// Measures in idle time what runs cost, once it is told to begin.
    pub measurer: Arc<Measurer>,
    /// Levels of logging that clients may ask for and, under explicit control, change.
    pub logs: Logs,
    /// Counters that belong to no deployment.
    pub totals: Totals,
    /// What deployments counted, those that are gone included.
    pub ledger: Arc<Ledger>,
    /// The largest body on any protocol.
    pub body_bytes_max: usize,
    /// The time a request has where its client gave none, and in which its body must arrive.
    pub request_timeout: Duration,
    /// Who decides what is loaded.
    pub control: ModelControl,
    /// Which versions are served where the model does not say.
    pub version_policy: VersionPolicy,
    /// Whether a run hangs on a thread that reads requests.
    pub loop_hangs: Arc<AtomicBool>,
    /// Set once shutdown has begun.
    pub draining: AtomicBool,
}

impl Service {
    /// Whether load balancers shall send requests: bound, the first look is done, not shutting down, and able to
    /// answer. One bad model does not change that.
    pub fn is_ready(&self) -> bool {
        *self.writer.first_look_done.borrow() && !self.draining.load(Relaxed) && self.can_answer()
    }

    /// Whether anybody is answered: not where runs that hang hold an event loop or every worker, nor where each version that
    /// is loaded is out of service.
    fn can_answer(&self) -> bool {
        !self.inference.pool.is_lost() && !self.loop_hangs.load(Relaxed) && !self.inference.catalog.load().is_out()
    }

    /// Whether clients may change what is loaded and how it is logged.
    pub fn clients_may_manage(&self) -> bool {
        self.control == ModelControl::Explicit
    }
}
