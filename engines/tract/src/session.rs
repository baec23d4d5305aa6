//! How does one thread run a model?

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use tiltyard_runtime::engine::{EngineError, Session};
use tiltyard_types::{Shape, Tensor};
use tract_onnx::prelude::{TValue, TractResult, TypedSimpleState};

use crate::blueprint::Plan;
use crate::convert::{from_tract, to_tract};
use crate::nan;
use crate::plans::Plans;
use crate::refusal::{cause, panic_message};

/// A session: the shared plans, and the working state of the one that ran last.
pub(crate) struct TractSession {
    plans: Arc<Plans>,
    last: Option<Last>,
}

struct Last {
    plan: Arc<Plan>,
    /// Whether the plan stands for every request with the same inputs given, so that it need not be looked up.
    settled: Option<Vec<bool>>,
    /// Between runs; a run takes it, so that one that fails or panics leaves nothing behind.
    state: Option<TypedSimpleState>,
}

impl TractSession {
    pub(crate) fn new(plans: Arc<Plans>) -> TractSession {
        TractSession { plans, last: None }
    }

    fn state(&mut self, inputs: &[Option<Tensor>]) -> Result<TypedSimpleState, EngineError> {
        if let Some(last) = &mut self.last
            && let Some(given) = &last.settled
            && given.iter().zip(inputs).all(|(given, input)| *given == input.is_some())
            && last.plan.fits(|input, axis| inputs[input].as_ref().and_then(|tensor| tensor.shape().get(axis).copied()))
            && let Some(state) = last.state.take()
        {
            return Ok(state);
        }
        let shapes: Vec<Option<Shape>> =
            inputs.iter().map(|input| input.as_ref().map(|tensor| tensor.shape().clone())).collect();
        let choice = self.plans.choose(&shapes)?;
        if let Some(last) = &mut self.last
            && Arc::ptr_eq(&last.plan, &choice.plan)
            && let Some(state) = last.state.take()
        {
            return Ok(state);
        }
        let settled = choice.settled.then(|| inputs.iter().map(Option::is_some).collect());
        let state = choice.plan.spawn()?;
        self.last = Some(Last { plan: choice.plan, settled, state: None });
        Ok(state)
    }
}

/// tract panics on an index outside a table, where the request's values are at fault. Any other panic goes on: it is
/// for the caller to contain.
fn blamed<T>(run: impl FnOnce() -> TractResult<T>) -> Result<T, EngineError> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(|error| EngineError::Failed(format!("tract failed: {}", cause(&error)))),
        Err(panic) => match panic_message(&*panic) {
            message if message.contains("out of bounds") || message.contains("out of range") => {
                Err(EngineError::BadInput(format!("an index is outside its table: {message}")))
            }
            _ => resume_unwind(panic),
        },
    }
}

impl Session for TractSession {
    /// Computes all outputs, whatever is wanted: a plan for each set of outputs would cost more than it saves.
    fn run(&mut self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        let specs = &self.plans.signature().inputs;
        if let Some(loser) = self.plans.nan_loser() {
            let given = specs.iter().zip(inputs).filter_map(|(spec, tensor)| Some((spec, tensor.as_ref()?)));
            given.into_iter().try_for_each(|(spec, tensor)| nan::check(loser, &spec.name, tensor))?;
        }
        let mut state = self.state(inputs)?;
        let specs = &self.plans.signature().inputs;
        let values = specs.iter().zip(inputs).filter_map(|(spec, tensor)| Some((spec, tensor.as_ref()?)));
        let values: Vec<TValue> = values
            .map(|(spec, tensor)| to_tract(&spec.name, tensor).map(TValue::from))
            .collect::<Result<_, EngineError>>()?;
        let outputs = blamed(|| state.run(values.into_iter().collect()))?;
        // Loops keep what they last saw in their own state: those start afresh each time.
        if let Some(last) = &mut self.last
            && state.op_states.iter().all(Option::is_none)
        {
            last.state = Some(state);
        }
        let specs = &self.plans.signature().outputs;
        wanted
            .iter()
            .map(|&position| {
                let spec = &specs[position];
                let value = outputs.get(position).cloned().ok_or_else(|| {
                    EngineError::Failed(format!("tract gave {} outputs, {:?} is missing", outputs.len(), spec.name))
                })?;
                from_tract(&spec.name, value, spec.dtype)
            })
            .collect()
    }
}
