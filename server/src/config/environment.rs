//! Which variables are settings, and which only look like it?

use std::collections::BTreeMap;

use super::keys::KEYS;
use super::{Origin, RawConfig, did_you_mean};
use tiltyard_types::nearest;

/// The start of every variable that is ours.
pub(super) const PREFIX: &str = "TILTYARD_";

/// Takes every setting from the environment. What is ours by name but no setting comes back as warnings; an empty
/// variable counts as none, since that is what templates leave behind.
pub(super) fn read(environment: &BTreeMap<String, String>, raw: &mut RawConfig) -> Vec<String> {
    let mut injected = Vec::new();
    let mut warnings = Vec::new();
    for (variable, value) in environment.iter().filter(|(variable, _)| variable.starts_with(PREFIX)) {
        let value = value.trim();
        if is_from_kubernetes(variable, value) {
            injected.push(variable.as_str());
        } else if let Some(key) = KEYS.iter().find(|key| key.variable() == *variable) {
            if !value.is_empty() {
                raw.offer(key.name, value, Origin::Environment { variable: variable.clone() });
            }
        } else if !is_reserved(variable) {
            warnings.push(unknown(variable));
        }
    }
    if !injected.is_empty() {
        warnings.push(format!("ignored, since Kubernetes sets them for services: {}", injected.join(", ")));
    }
    warnings
}

/// The names are compared without their common start, which would make any two of them alike.
fn unknown(variable: &str) -> String {
    let name = variable.trim_start_matches(PREFIX).to_ascii_lowercase();
    let nearest = nearest(&name, KEYS.iter().map(|key| key.name));
    let nearest = nearest.map(|name| format!("{PREFIX}{}", name.to_ascii_uppercase()));
    format!("unknown variable {variable}{}", did_you_mean(nearest.as_deref()))
}

/// Variables that other parts of the program read, and that are no settings of a server.
fn is_reserved(variable: &str) -> bool {
    matches!(variable, "TILTYARD_SERVER" | "TILTYARD_ADMIN" | "TILTYARD_TOKEN" | "TILTYARD_TOKEN_FILE")
        || matches!(variable, "TILTYARD_CA" | "TILTYARD_CLIENT_CERT" | "TILTYARD_CLIENT_KEY" | "TILTYARD_REGENERATE")
        || variable.starts_with("TILTYARD_TEST_")
}

/// Whether Kubernetes sets `variable` in every pod beside a service called tiltyard, or tiltyard-something:
/// `…_SERVICE_HOST`, `…_SERVICE_PORT[_NAME]`, `…_PORT=tcp://…`, `…_PORT_8000_TCP[_PROTO|_PORT|_ADDR]`.
fn is_from_kubernetes(variable: &str, value: &str) -> bool {
    if variable.ends_with("_SERVICE_HOST") || variable.ends_with("_SERVICE_PORT") {
        return true;
    }
    if variable.contains("_SERVICE_PORT_") {
        return true;
    }
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    if variable.ends_with("_PORT") && is_address {
        return true;
    }
    let Some((_, details)) = variable.rsplit_once("_PORT_") else {
        return false;
    };
    let mut details = details.split('_');
    let is_port = details.next().is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    is_port && details.next().is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol))
}
