//! How does a deployment run what must never be in the way of its requests?

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::leases::Leases;
use super::refuse::Outlook;
use super::{Deployment, Waiting};
use crate::cost::Cost;
use crate::health::Health;
use crate::queue::{Queue, QueuePolicy};
use crate::sync::Mutex;

impl Deployment {
    /// A lane of its own on this deployment's model: nothing is shared but the model itself. Queue, batches, sessions,
    /// counters, costs and health are the lane's, and so is the pool that it is run by. At most `jobs_max` jobs wait there,
    /// and `runs_max` batches run at a time. It is no deployment of the catalog's, and nobody else looks after it.
    pub fn lane(self: &Arc<Self>, jobs_max: usize, runs_max: usize) -> Deployment {
        let own = &self.policy;
        let runs_max = runs_max.min(own.runs_max).max(1);
        let policy = QueuePolicy {
            rows_max: own.rows_max,
            sizes: own.sizes.clone(),
            sizes_preferred: own.sizes_preferred.clone(),
            look_max: own.look_max,
            pad: own.pad.clone(),
            jobs_max,
            runs_max,
            ..QueuePolicy::default()
        };
        let rows = self.rows_taken_max();
        let mut queue = Queue::new(policy.clone());
        if rows > 0 {
            queue.limit_rows(rows);
        }
        Deployment {
            identity: self.identity.clone(),
            signature: self.signature.clone(),
            graph: self.graph.clone(),
            settings: self.settings.clone(),
            batch_axis: self.batch_axis.clone(),
            padding: self.padding.clone(),
            policy,
            example: None,
            stats: Arc::default(),
            cost: Cost::default(),
            rows_taken_max: AtomicUsize::new(rows),
            learns_rows: false,
            quick_row_bytes: AtomicUsize::new(self.quick_row_bytes.load(Relaxed)),
            layout: self.layout.clone(),
            health: Health::default(),
            compiled: Arc::clone(&self.compiled),
            leases: Leases::default(),
            waiting: Mutex::new(Waiting { queue, workers: 0 }),
            outlook: Outlook::default(),
            explaining: None,
            made: None,
            _live: None,
            _model: Some(Arc::clone(self)),
        }
    }
}
