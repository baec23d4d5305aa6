//! Which deployments that nobody is sent to any more may be freed?

use std::sync::Arc;

use crate::deployment::{Deployment, Identity};

/// Deployments that were taken out. Each is kept until nobody else holds it, so that it is freed here, where no request
/// waits for it.
#[derive(Default)]
pub struct Retired(Vec<Arc<Deployment>>);

impl Retired {
    /// Takes in one that the catalog no longer has.
    pub fn add(&mut self, deployment: Arc<Deployment>) {
        self.0.push(deployment);
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Frees those that nobody else holds any more, and says who they were.
    pub fn free_unused(&mut self) -> Vec<Identity> {
        let unused = self.0.extract_if(.., |deployment| Arc::strong_count(deployment) == 1);
        let freed: Vec<Identity> = unused.map(|deployment| deployment.identity.clone()).collect();
        for id in &freed {
            tracing::info!(model = id.model, version = id.version, digest = id.digest.short(), "freed");
        }
        freed
    }
}
