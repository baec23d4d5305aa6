//! Which deployments shall a worker look at again, and when?

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Weak;

use tiltyard_types::Moment;

use super::Pool;
use crate::deployment::Deployment;

/// Deployments whose batches wait for company. One that is gone meanwhile is forgotten.
#[derive(Default)]
pub(super) struct Waits {
    /// Moments, and where in `deployments` the one that it is about lies.
    pending: BinaryHeap<Reverse<(Moment, usize)>>,
    deployments: Vec<Option<Weak<Deployment>>>,
}

impl Waits {
    /// Notes that `deployment` is to be looked at again at `until`.
    pub(super) fn add(&mut self, until: Moment, deployment: Weak<Deployment>) {
        let slot = self.deployments.iter().position(Option::is_none).unwrap_or_else(|| {
            self.deployments.push(None);
            self.deployments.len() - 1
        });
        self.deployments[slot] = Some(deployment);
        self.pending.push(Reverse((until, slot)));
    }

    /// The earliest moment there is.
    pub(super) fn next(&self) -> Option<Moment> {
        self.pending.peek().map(|Reverse((until, _))| *until)
    }

    /// Sends workers to those whose moment has come.
    pub(super) fn wake_due(&mut self, pool: &Pool) {
        while self.next().is_some_and(|until| until <= pool.now()) {
            let slot = self.pending.pop().map(|Reverse((_, slot))| slot);
            if let Some(deployment) = slot.and_then(|slot| self.deployments[slot].take()?.upgrade()) {
                deployment.wake(pool);
            }
        }
    }
}
