//! What is told of alerts? How many fire, by rule, and whether anybody can be told.

use super::page::Page;
use crate::alerts::Alerts;

/// Its figures.
pub(super) fn families(page: &mut Page, alerts: &Alerts) {
    let name = "tiltyard_alerts_firing";
    page.family(name, "gauge", "Alerts that fire, by rule.");
    for (rule, count) in alerts.firing() {
        page.sample(name, &format!("rule=\"{rule}\""), count as f64);
    }
    let Some([delivered, failed]) = alerts.told() else { return };
    let name = "tiltyard_alerts_messages_total";
    page.family(
        name,
        "counter",
        "Messages to whoever is told of alerts, by what became of them; those that fail are tried again.",
    );
    for (outcome, count) in [("delivered", delivered), ("failed", failed)] {
        page.sample(name, &format!("outcome=\"{outcome}\""), count as f64);
    }
}
