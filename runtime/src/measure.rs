//! What do a deployment's runs cost before anybody asked it anything?
//!
//! A load takes a first look, bounded so that a thousand models do not take minutes to start; for small models that is all
//! there is to know. The rest is measured in idle time (see [`idle`]), once per artifact, engine and machine.

mod curve;
pub mod idle;
mod sample;

use std::time::Duration;

use tiltyard_types::Moment;

pub use self::curve::{Curve, Measured};
pub use self::sample::{NoSample, Sample};
use crate::deployment::{BatchAxis, Deployment};
use crate::engine::EngineError;
use crate::pool::Clock;

/// How long a deployment's first look at its own cost takes at most, but for the last run.
const FIRST_LOOK_MAX: Duration = Duration::from_millis(10);

/// Processor time that measuring one deployment takes at most.
pub const BUDGET: Duration = Duration::from_secs(2);

/// Times what it can in 10 ms, so that the first request finds the cost known where it is small. What was not reached is
/// left in the curve. A model that runs on nothing that can be made up has nothing to be measured.
pub(crate) fn first_look(deployment: &Deployment, clock: Clock) -> Curve {
    let started = clock();
    match Sample::of(deployment) {
        Ok(sample) => {
            let mut curve = Curve::new(rows_limit(deployment), BUDGET);
            let failed = measure(deployment, &sample, &mut curve, clock, &mut |now, _| now - started < FIRST_LOOK_MAX);
            if failed.is_ok() { curve } else { Curve::nothing() }
        }
        Err(_) => Curve::nothing(),
    }
}

/// Runs what the curve asks for next, as long as `goes_on` at the moment after each run. Every run is observed by the
/// deployment's cost. Fails with the first run that does.
pub fn measure(
    deployment: &Deployment,
    sample: &Sample,
    curve: &mut Curve,
    clock: Clock,
    goes_on: &mut dyn FnMut(Moment, &Curve) -> bool,
) -> Result<(), EngineError> {
    let wanted: Vec<usize> = (0..deployment.signature.outputs.len()).collect();
    let mut request = None;
    while let Some(rows) = curve.next() {
        let (_, inputs) = match request.take() {
            Some((size, inputs)) if size == rows => request.insert((size, inputs)),
            _ => request.insert((rows, sample.request(rows))),
        };
        let before = clock();
        deployment.run_alone(inputs, &wanted)?;
        let after = clock();
        if curve.note(rows, after - before) {
            deployment.observe(rows, inputs, after - before);
        }
        if !goes_on(after, curve) {
            break;
        }
    }
    deployment.cost.settle();
    Ok(())
}

/// The rows up to which a deployment is measured: what its queue may put together.
pub fn rows_limit(deployment: &Deployment) -> usize {
    if deployment.batch_axis == BatchAxis::Proved { deployment.policy.rows_max.max(1) } else { 1 }
}
