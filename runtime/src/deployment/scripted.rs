//! How is a deployment made of a model that no file has? For tests.

use std::path::PathBuf;

use super::*;

/// A deployment of a model that no file has.
pub(super) fn deployment(
    compiled: Box<dyn CompiledModel>,
    batch_axis: BatchAxis,
    padding: Padding,
    policy: QueuePolicy,
) -> Arc<Deployment> {
    let identity = Identity {
        model: "scripted".into(),
        version: 1,
        artifact: Digest::new([0; 32]),
        digest: Digest::new([0; 32]),
        engine: "scripted",
        build: EngineBuild { version: "1".into(), library: None::<PathBuf>, providers: Vec::new() },
        placement: Vec::new(),
        provider: "cpu".into(),
        size: 0,
        loaded: SystemTime::UNIX_EPOCH,
        load_time: Duration::ZERO,
        goldens: 0,
    };
    let (graph, settings) = (Graph::default(), Settings::default());
    let (example, learns_rows) = (None, true);
    let parts = Parts { identity, graph, settings, batch_axis, padding, policy, example, learns_rows, compiled };
    Arc::new(Deployment::new(parts))
}
