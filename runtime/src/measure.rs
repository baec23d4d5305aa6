//! What do a deployment's runs cost before anybody asked it anything?

use std::time::Duration;

use tiltyard_types::Tensor;

use crate::deployment::{BatchAxis, Deployment};
use crate::pool::Clock;

/// How long a deployment's first look at its own cost takes at most: a thousand models must not take minutes to start.
const FIRST_LOOK_MAX: Duration = Duration::from_millis(20);

/// Runs of a first look at most.
const FIRST_LOOK_RUNS: usize = 32;

/// Times a few runs of one row, so that the first request finds the deployment's cost known where it is small. `inputs`
/// is a request in the signature's order. One that does not run says nothing.
pub(crate) fn first_look(deployment: &Deployment, inputs: &[Option<Tensor>], clock: Clock) {
    let row = match deployment.batch_axis {
        BatchAxis::None => inputs.to_vec(),
        BatchAxis::Unproved(_) | BatchAxis::Proved => one_row(inputs),
    };
    let Ok(rows) = deployment.rows(&row) else { return };
    let wanted: Vec<usize> = (0..deployment.signature.outputs.len()).collect();
    let started = clock();
    // The first run meets cold caches.
    let mut cold = true;
    for _ in 0..=FIRST_LOOK_RUNS {
        let before = clock();
        if before - started >= FIRST_LOOK_MAX || deployment.run_alone(&row, &wanted).is_err() {
            break;
        }
        if !std::mem::take(&mut cold) {
            deployment.cost.observe(rows, clock() - before);
        }
    }
    deployment.cost.settle();
}

/// The first row of a request that has a batch axis.
fn one_row(inputs: &[Option<Tensor>]) -> Vec<Option<Tensor>> {
    let first = |tensor: &Tensor| tensor.rows(0..1).map_or_else(|| tensor.clone(), |row| row.aligned());
    inputs.iter().map(|input| input.as_ref().map(first)).collect()
}
