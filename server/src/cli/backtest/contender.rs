//! How is a version asked about many rows at once?

use std::ops::Range;
use std::sync::Arc;

use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::job::{Demand, Pending};
use tiltyard_runtime::repository;
use tiltyard_types::json::write_string;
use tiltyard_types::{DataType, NamedTensor, Tensor, TensorSpec};

use super::batch::Batch;
use super::options::Options;
use super::prediction::{Prediction, Said};
use crate::cli::bench::find;
use crate::cli::cells::write_cell;
use crate::cli::exit::Failure;
use crate::cli::predict::{ModelName, start};
use crate::config::Config;
use crate::local::Local;
use crate::protocol::score::{Field, Table, assemble, fields};

/// Rows that are asked at a time.
const ROWS_MAX: usize = 1_024;

/// One of the two, loaded.
pub(super) struct Contender {
    /// `model@version`.
    pub(super) name: String,
    pub(super) deployment: Arc<Deployment>,
    pub(super) fields: Vec<Field>,
    pub(super) prediction: Prediction,
    local: Local,
}

impl Contender {
    /// Loads a version as a server would, alone: whether it may follow the other one is not asked here.
    pub(super) fn load(
        config: &Config,
        model: &ModelName,
        options: &Options,
        side: usize,
    ) -> Result<Contender, Failure> {
        let local = start(config.clone(), model)?;
        let deployment = find(&local, model).map_err(|failure| missing(config, model).unwrap_or(failure))?;
        let name = format!("{}@{}", deployment.identity.model, deployment.identity.version);
        let fail = |error: String| Failure::failed(error).at(&name);
        let fields = fields(&deployment).map_err(|error| fail(error.to_string()))?;
        let names = |output: &str| deployment.settings.labels.get(output).cloned().unwrap_or_default();
        let wanted = options.predictions[side].as_deref();
        let prediction = Prediction::find(&deployment.signature, names, options.loss, wanted).map_err(fail)?;
        Ok(Contender { name, fields, prediction, local, deployment })
    }

    /// Whether both take the same inputs made of the same columns.
    pub(super) fn takes_the_same(&self, other: &Contender) -> bool {
        self.fields == other.fields && self.deployment.signature.inputs == other.deployment.signature.inputs
    }

    /// Rows that may be asked at a time: one where the graph knows no other number.
    pub(super) fn rows_max(&self) -> usize {
        let is_lone = |spec: &TensorSpec| spec.wire_dims().first() == Some(&1);
        if self.deployment.signature.inputs.iter().any(is_lone) { 1 } else { ROWS_MAX }
    }

    /// The inputs for some rows, as row scoring makes them. `columns` says where each field is in the batch; `None` where it is
    /// left out. The error says what is wrong with a value.
    pub(super) fn inputs(
        &self,
        batch: &Batch,
        rows: Range<usize>,
        columns: &[Option<usize>],
    ) -> Result<Vec<Option<Tensor>>, String> {
        let mut written = Vec::new();
        let mut places = Vec::with_capacity(self.fields.len());
        for (field, column) in self.fields.iter().zip(columns) {
            let Some(column) = *column else {
                places.push(None);
                continue;
            };
            let mut of_field = Vec::with_capacity(rows.len());
            for row in rows.clone() {
                let start = written.len();
                let cell = batch.cell(row, column).ok_or_else(|| format!("column {:?} is missing", field.name))?;
                match batch.is_json() {
                    true => written.extend_from_slice(cell),
                    false => write(field, &String::from_utf8_lossy(cell), &mut written),
                }
                of_field.push(start..written.len());
            }
            places.push(Some(of_field));
        }
        let slices = |places: Vec<Range<usize>>| places.into_iter().map(|place| &written[place]).collect();
        let columns = places.into_iter().map(|places| places.map(slices)).collect();
        let named: Vec<NamedTensor> = assemble(&self.deployment, &self.fields, &Table::of(rows.len(), columns))
            .map_err(|error| error.to_string())?;
        self.deployment.signature.arrange(named).map_err(|error| error.to_string())
    }

    /// Asks. The answer is waited for by [`Contender::answers`].
    pub(super) fn ask(&self, inputs: Vec<Option<Tensor>>) -> Result<Pending, Failure> {
        let pool = &self.local.service().inference.pool;
        let asked =
            self.deployment.enqueue(inputs, vec![self.prediction.position], Demand::default(), Box::new(()), pool);
        asked.map_err(|error| Failure::failed(error.to_string()).at(&self.name))
    }

    /// What was said of each of `rows` rows.
    pub(super) fn answers(&self, pending: Pending, rows: usize) -> Result<Vec<Said>, Failure> {
        let fail = |error: String| Failure::failed(error).at(&self.name);
        let answer = pending.blocking_recv().map_err(|_| fail("the worker ended without an answer".to_owned()))?;
        let answer = answer.map_err(|error| fail(error.to_string()))?;
        let output = answer.outputs.first().ok_or_else(|| fail("there is no output".to_owned()))?;
        self.prediction.read(output, rows).map_err(fail)
    }
}

/// Says which versions there are, where the one that is asked for is not among them.
fn missing(config: &Config, model: &ModelName) -> Option<Failure> {
    let (name, version) = (&model.name, model.version?);
    let scan = repository::scan(&config.models).ok()?;
    let versions = &scan.models.get(name)?.versions;
    let known: Vec<String> = versions.keys().map(u64::to_string).collect();
    let message = format!("there is no version {version} of {name}: there is {}", known.join(", "));
    (!versions.contains_key(&version)).then(|| Failure::failed(message))
}

/// Writes a cell of CSV as the value that its field takes. Who gives categories names means those before their numbers.
fn write(field: &Field, cell: &str, out: &mut Vec<u8>) {
    let categories = field.column.as_ref().map_or(&[][..], |column| column.categories.as_slice());
    match field.dtype {
        DataType::Bytes => write_cell(cell, Some("BYTES"), out),
        DataType::Bool => write_cell(cell, Some("BOOL"), out),
        _ if categories.iter().any(|category| category == cell) => write_string(cell, out),
        _ => write_cell(cell, None, out),
    }
}
