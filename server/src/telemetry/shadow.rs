//! What do shadows see, and what is kept from them?

use tiltyard_rollout::plan::MILLION;
use tiltyard_runtime::stats::{Dropped, ShadowSums};

use super::page::Page;
use super::{Row, labels_of};
use crate::catalog::Catalog;
use crate::service::Service;
use crate::shadow::lane::Watching;
use crate::shadow::watching;

/// Writes the families of shadows.
pub(super) fn families(page: &mut Page, service: &Service, catalog: &Catalog, ways: &[Row]) {
    let seen: Vec<(&str, ShadowSums)> =
        ways.iter().map(|row| (row.labels.as_str(), row.sum.shadow)).filter(|(_, sums)| sums.offered > 0).collect();
    type Pick = fn(&ShadowSums) -> u64;
    let counters: [(&str, &str, Pick); 4] = [
        ("tiltyard_shadow_offered_total", "Requests to its champion that a shadow could have seen.", |sums| {
            sums.offered
        }),
        ("tiltyard_shadow_sampled_total", "Requests that were sampled for a shadow.", |sums| sums.sampled),
        ("tiltyard_shadow_compared_total", "Requests that a shadow answered too.", |sums| sums.compared),
        ("tiltyard_shadow_errors_total", "Requests that a shadow failed, its champion having answered.", |sums| {
            sums.errors
        }),
    ];
    for (name, help, pick) in counters {
        page.family(name, "counter", help);
        for (labels, sums) in &seen {
            page.sample(name, labels, pick(sums) as f64);
        }
    }
    let name = "tiltyard_shadow_dropped_total";
    page.family(name, "counter", "Requests that were sampled for a shadow and did not come to an answer, by reason.");
    for (labels, sums) in &seen {
        for (why, count) in Dropped::ALL.iter().zip(sums.dropped).filter(|(_, count)| *count > 0) {
            page.sample(name, &format!("{labels},reason=\"{}\"", why.name()), count as f64);
        }
    }
    let name = "tiltyard_shadow_run_seconds_total";
    page.family(name, "counter", "Time in the engine of the batches with a shadow's requests, once for each of these.");
    for (labels, sums) in &seen {
        page.sample(name, labels, sums.run.nanos as f64 / 1e9);
    }
    gauges(page, service, catalog);
}

fn gauges(page: &mut Page, service: &Service, catalog: &Catalog) {
    let budget = &service.inference.shadows.budget;
    type Pick<'a> = &'a dyn Fn(&Watching) -> f64;
    let gauges: [(&str, &str, Pick<'_>); 3] = [
        (
            "tiltyard_shadow_sampling_ratio",
            "The share of requests that is sampled for a shadow now, 0 to 1.",
            &|shadow| f64::from(shadow.lane.rate(shadow.sampling, budget)) / f64::from(MILLION),
        ),
        ("tiltyard_shadow_waiting", "Requests that wait for a shadow, or run there.", &|shadow| {
            shadow.lane.waiting() as f64
        }),
        ("tiltyard_shadow_left_alone", "1 while a shadow is not asked, since it fails or hangs.", &|shadow| {
            f64::from(u8::from(!shadow.lane.is_asked()))
        }),
    ];
    for (name, help, pick) in gauges {
        page.family(name, "gauge", help);
        for endpoint in catalog.endpoints.keys() {
            for shadow in watching(catalog, endpoint) {
                let (lane, identity) = (&shadow.lane, &shadow.lane.arm.deployment.identity);
                let labels = labels_of(endpoint, &identity.model, &lane.arm.version, &lane.arm.name);
                page.sample(name, &labels, pick(shadow));
            }
        }
    }
    page.family("tiltyard_shadow_bytes", "gauge", "Bytes that shadows hold of requests and answers.");
    page.sample("tiltyard_shadow_bytes", "", budget.used() as f64);
}
