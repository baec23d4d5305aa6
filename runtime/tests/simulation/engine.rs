//! What does the engine under the simulation do? Numbers that prove who answered what, and every fault there is.

use std::panic::resume_unwind;

use tiltyard_runtime::engine::{CompiledModel, EngineError, Session};
use tiltyard_types::{DataType, Dim, Signature, Tensor, TensorSpec};

use crate::actors::pause;
use crate::world::{Row, world};

/// Rows that one request may have in the numbers below.
pub(crate) const ROWS_MAX: usize = 64;

/// Columns, likewise.
pub(crate) const COLUMNS_MAX: usize = 4;

/// Models in one run, likewise.
pub(crate) const MODELS_MAX: i64 = 64;

/// How a run of the engine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Fine,
    /// These values are at fault.
    Refused,
    Failed,
    Panics,
    /// The outputs lack a row.
    Short,
    /// An output is missing.
    Few,
    /// An output is of another data type.
    OtherType,
}

/// What is sent in each place: the request, its row and the column.
pub(crate) fn question(request: usize, row: usize, column: usize) -> i64 {
    ((request * ROWS_MAX + row) * COLUMNS_MAX + column) as i64
}

/// What comes back: who answered, and what was asked.
pub(crate) fn answer(question: i64, model: usize, output: usize) -> i64 {
    let answer = question * MODELS_MAX + model as i64;
    if output == 0 { answer } else { -1 - answer }
}

/// The model of one version.
pub(crate) struct Simulated {
    signature: Signature,
    model: usize,
}

impl Simulated {
    pub(crate) fn new(model: usize) -> Simulated {
        let spec = |name: &str| TensorSpec {
            name: name.into(),
            dtype: DataType::Int64,
            dims: Some(vec![Dim::Dynamic(None), Dim::Dynamic(None)]),
            optional: false,
        };
        Simulated { signature: Signature { inputs: vec![spec("x")], outputs: vec![spec("y"), spec("z")] }, model }
    }
}

impl CompiledModel for Simulated {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn provider(&self) -> &str {
        "cpu"
    }

    fn open(&self) -> Result<Box<dyn Session>, EngineError> {
        match world().opens(self.model) {
            true => Ok(Box::new(SimulatedSession { model: self.model, panicked: false })),
            false => Err(EngineError::Failed("no session can be opened, as ordered".into())),
        }
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        world().freed(self.model);
    }
}

struct SimulatedSession {
    model: usize,
    panicked: bool,
}

impl Drop for SimulatedSession {
    fn drop(&mut self) {
        world().closed(self.model);
    }
}

impl Session for SimulatedSession {
    fn run(&mut self, inputs: &[Option<Tensor>], wanted: &[usize]) -> Result<Vec<Tensor>, EngineError> {
        let input = inputs[0].as_ref().expect("it is not optional");
        let values: Vec<i64> = input.to_vec().expect("it is INT64");
        let columns = input.shape()[1];
        let rows: Vec<Row> = values.chunks(columns).map(|row| Row::asked_by(row[0])).collect();
        let run = world().begins(self.model, &rows, self.panicked);
        pause();
        world().ends(&run);
        let count = rows.len() - usize::from(run.fate == Fate::Short);
        let output = |position: usize| {
            let values: Vec<i64> =
                values[..count * columns].iter().map(|&value| answer(value, self.model, position)).collect();
            Tensor::from_slice([count, columns], &values).expect("it fits")
        };
        let mut outputs: Vec<Tensor> = wanted.iter().map(|&position| output(position)).collect();
        match run.fate {
            Fate::Fine | Fate::Short => {}
            Fate::Refused => return Err(EngineError::BadInput("as ordered".into())),
            Fate::Failed => return Err(EngineError::Failed("as ordered".into())),
            Fate::Panics => {
                self.panicked = true;
                // Without the hook, which would print it.
                resume_unwind(Box::new("as ordered"));
            }
            Fate::Few => drop(outputs.pop()),
            Fate::OtherType => {
                outputs[0] = Tensor::from_slice([count, columns], &vec![0f64; count * columns]).expect("it fits");
            }
        }
        Ok(outputs)
    }
}
