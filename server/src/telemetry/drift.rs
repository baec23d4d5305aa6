//! What is told of drift? How far inputs and outputs of each version are from what was expected.

use super::page::{Page, escape};
use crate::drift::Drifts;

/// Its figures: a few for each version, whatever its columns.
pub(super) fn families(page: &mut Page, drifts: &Drifts) {
    let levels = drifts.levels();
    if levels.is_empty() {
        return;
    }
    let name = "tiltyard_drift_level";
    page.family(name, "gauge", "The worst of a version's inputs or outputs: 0 as expected, 1 warns, 2 alerts.");
    for one in &levels {
        for (role, level) in one.roles {
            let labels = format!("model=\"{}\",version=\"{}\",role=\"{role}\"", escape(&one.model), one.version);
            page.sample(name, &labels, f64::from(level));
        }
    }
    let name = "tiltyard_drift_features";
    page.family(name, "gauge", "Columns of a version by how they stand.");
    for one in &levels {
        for (level, count) in one.features {
            let labels = format!("model=\"{}\",version=\"{}\",level=\"{level}\"", escape(&one.model), one.version);
            page.sample(name, &labels, count as f64);
        }
    }
}
