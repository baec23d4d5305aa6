//! What do people see of an endpoint's shadows?

use serde_json::{Map, Value, json};
use tiltyard_rollout::evidence::Moments;
use tiltyard_runtime::stats::Dropped;

use super::budget::Budget;
use super::lane::{Book, Watching};
use super::{Shadows, watching};
use crate::catalog::Catalog;

/// All shadows of an endpoint with what pairs showed so far.
pub fn of_endpoint(shadows: &Shadows, catalog: &Catalog, endpoint: &str) -> Value {
    let budget = &shadows.budget;
    let forms: Vec<Value> = watching(catalog, endpoint).iter().map(|watching| of_shadow(watching, budget)).collect();
    json!({
        "endpoint": endpoint, "shadows": forms,
        "bytes": { "held": budget.used(), "max": budget.bytes_max },
    })
}

fn of_shadow(Watching { lane, sampling }: &Watching, budget: &Budget) -> Value {
    let (book, counted) = (lane.book(), lane.counted());
    let identity = &lane.arm.deployment.identity;
    let dropped = Dropped::ALL.iter().zip(counted.dropped).map(|(why, count)| (why.name().to_owned(), count.into()));
    let state = match (sampling, lane.is_asked()) {
        (0, _) => "missing",
        (_, true) => "asked",
        (_, false) => "left_alone",
    };
    json!({
        "arm": lane.arm.name, "model": identity.model, "version": lane.arm.version, "digest": identity.digest.to_string(),
        "champion": { "model": lane.champion.deployment.identity.model, "version": lane.champion.version },
        "state": state, "reason": book.trouble,
        "sampling": sampling, "sampling_now": lane.rate(*sampling, budget), "waiting": lane.waiting(),
        "offered": counted.offered, "sampled": counted.sampled, "dropped": dropped.collect::<Map<_, _>>(),
        "compared": counted.compared, "errors": counted.errors, "rows": book.rows,
        "measures": book.all.iter().map(|(name, values)| (name.clone(), of_values(values))).collect::<Map<_, _>>(),
        "row_seconds": times(&book), "failures": failures(&book), "worst": book.worst.form(),
    })
}

fn of_values(values: &Moments) -> Value {
    json!({ "requests": values.n, "mean": mean(values) })
}

fn mean(values: &Moments) -> Option<f64> {
    (values.n > 0).then(|| values.x.value() / values.n as f64)
}

fn times(book: &Book) -> Value {
    let of = |at: usize| (book.timed > 0).then(|| book.row_ns[at] / book.timed as f64 / 1e9);
    json!({ "champion": of(0), "shadow": of(1) })
}

fn failures(book: &Book) -> Vec<Value> {
    let form =
        |(id, reason): &(tiltyard_types::RequestId, String)| json!({ "request": id.to_string(), "reason": reason });
    book.failures.iter().map(form).collect()
}
