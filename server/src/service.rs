//! What do the protocols stand on?

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tiltyard_runtime::measure::idle::Measurer;
use tiltyard_runtime::repository::policy::VersionPolicy;

use crate::config::ModelControl;
use crate::infer::Inference;
use crate::ledger::Ledger;
use crate::locks::access::Access;
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
    /// Who may do what; none where anybody may do anything.
    pub access: Option<Arc<Access>>,
    /// The largest body on any protocol.
    pub body_bytes_max: usize,
    /// The time a request has where its client gave none, and in which its body must arrive.
    pub request_timeout: Duration,
    /// Who decides what is loaded.
    pub control: ModelControl,
    /// Which versions are served where the model does not say.
    pub version_policy: VersionPolicy,
    /// Set once shutdown has begun.
    pub draining: AtomicBool,
}

impl Service {
    /// Whether load balancers shall send requests: bound, the first look is done, and not shutting down. One bad model
    /// does not change that.
    pub fn is_ready(&self) -> bool {
        *self.writer.first_look_done.borrow() && !self.draining.load(Relaxed)
    }

    /// Whether clients may change what is loaded and how it is logged.
    pub fn clients_may_manage(&self) -> bool {
        self.control == ModelControl::Explicit
    }
}
