//! How do rollouts stand, for those who watch figures?

use std::sync::Arc;

use serde_json::Value;

use super::page::{Page, escape};
use crate::rollouts::Told;

/// Writes the latest rollout of each endpoint.
pub(super) fn families(page: &mut Page, told: &Told) {
    let name = "tiltyard_rollouts_stand_still";
    page.family(name, "gauge", "Whether nothing can be put on the record, so that no rollout goes on.");
    page.sample(name, "", f64::from(u8::from(told.closed.is_some())));
    if let Some(fleet) = &told.fleet {
        for (name, key, help) in [
            ("tiltyard_registry_reachable", "reachable", "Whether the registry that replicas share answers."),
            ("tiltyard_fleet_leads", "leads", "Whether this replica looks at the evidence of all."),
        ] {
            page.family(name, "gauge", help);
            page.sample(name, "", f64::from(u8::from(fleet[key] == true)));
        }
        let name = "tiltyard_registry_lag_entries";
        page.family(name, "gauge", "Entries of the log that another replica has read and this one has not.");
        page.sample(name, "", fleet["lag"].as_f64().unwrap_or(0.0));
    }
    let latest: Vec<(String, &Arc<Value>)> = told
        .latest
        .iter()
        .filter_map(|(endpoint, id)| Some((format!("endpoint=\"{}\"", escape(endpoint)), told.rollouts.get(id)?)))
        .collect();
    let name = "tiltyard_rollout_state";
    page.family(name, "gauge", "Always 1: where the endpoint's latest rollout stands.");
    for (labels, form) in &latest {
        page.sample(name, &format!("{labels},state=\"{}\"", form["state"].as_str().unwrap_or_default()), 1.0);
    }
    let name = "tiltyard_rollout_share_ratio";
    page.family(name, "gauge", "The challenger's share of the traffic, 0 to 1.");
    for (labels, form) in &latest {
        page.sample(name, labels, form["share"].as_f64().unwrap_or(0.0) / 1e6);
    }
    let name = "tiltyard_rollout_units";
    page.family(name, "gauge", "Requests or keys that count in the rollout, by whose they are.");
    for (labels, form) in &latest {
        for (arm, role) in ["champion", "challenger"].into_iter().enumerate() {
            let units = form["units"][arm].as_f64().unwrap_or(0.0) + form["units_since"][arm].as_f64().unwrap_or(0.0);
            page.sample(name, &format!("{labels},role=\"{role}\""), units);
        }
    }
    let name = "tiltyard_rollout_harm_ratio";
    page.family(
        name,
        "gauge",
        "Evidence of harm by guardrail, as logarithms, by what it takes for an alarm: 1 is one.",
    );
    for (labels, form) in &latest {
        for reading in form["guardrails"].as_array().into_iter().flatten() {
            let metric = escape(reading["metric"].as_str().unwrap_or_default());
            let harm = reading["ln_e"].as_f64().unwrap_or(0.0) / reading["threshold"].as_f64().unwrap_or(1.0);
            page.sample(name, &format!("{labels},guardrail=\"{metric}\""), harm);
        }
    }
}
