//! What can a model be asked when nobody has asked it anything yet?

use tiltyard_types::Tensor;

use crate::batch::{Extent, Layout};
use crate::deployment::{BatchAxis, Deployment};
use crate::engine::EngineError;
use crate::prove::{LENGTHS, made_up_rows};

/// Rows of an example that are used at most.
const ROWS_MAX: usize = 64;

type Row = Vec<Option<Tensor>>;

/// Rows that a model runs on: those of its golden example, or made-up ones.
#[derive(Clone, Debug)]
pub struct Sample {
    rows: Vec<Row>,
    /// How rows are put under one another; `None` where there is no batch axis.
    layout: Option<Layout>,
}

/// Why a model cannot be asked anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NoSample {
    /// For people.
    pub reason: String,
    /// Whether it only refused values that were made up: it may well be sound.
    pub is_refused: bool,
}

impl From<NoSample> for String {
    fn from(none: NoSample) -> String {
        none.reason
    }
}

impl Sample {
    /// The sample for a deployment. Runs it once for each kind of row that is tried; fails with why none ran.
    pub fn of(deployment: &Deployment) -> Result<Sample, NoSample> {
        let signature = &deployment.signature;
        let layout = Layout::of(signature).filter(|_| deployment.batch_axis != BatchAxis::None);
        let wanted: Vec<usize> = (0..signature.outputs.len()).collect();
        let example = deployment.example.as_ref().and_then(|golden| golden.arranged(signature).ok());
        let from_example = example.map(|inputs| match &layout {
            Some(layout) => rows_of(&inputs, layout),
            None => vec![inputs],
        });
        let made_up = LENGTHS.iter().filter_map(|&length| made_up_rows(signature, length));
        let mut none = NoSample { reason: "no request can be made up for its inputs".to_owned(), is_refused: true };
        for rows in from_example.into_iter().chain(made_up) {
            let Some(first) = rows.first() else { continue };
            match deployment.run_alone(first, &wanted) {
                Ok(_) => return Ok(Sample { rows, layout }),
                Err(error) => {
                    none.is_refused &= matches!(error, EngineError::BadInput(_));
                    none.reason = error.to_string();
                }
            }
        }
        Err(none)
    }

    /// A request of `rows` rows, in aligned memory; one row as it is where there is no batch axis.
    pub fn request(&self, rows: usize) -> Row {
        let some: Vec<&[Option<Tensor>]> = self.rows.iter().map(Vec::as_slice).cycle().take(rows).collect();
        let joined = self.layout.as_ref().and_then(|layout| layout.gather(&some, Extent::of_rows(rows)).ok());
        joined.unwrap_or_else(|| self.rows[0].clone())
    }
}

/// The rows of an example, one by one; none where its inputs disagree about their number. Inputs without rows are the same
/// for all.
fn rows_of(inputs: &[Option<Tensor>], layout: &Layout) -> Vec<Row> {
    let inputs: Vec<(bool, Option<&Tensor>)> =
        inputs.iter().enumerate().map(|(position, input)| (layout.has_rows(position), input.as_ref())).collect();
    let with_rows = inputs.iter().filter(|(has_rows, _)| *has_rows).filter_map(|(_, input)| *input);
    let mut counts = with_rows.map(|tensor| tensor.shape().rows().unwrap_or(0));
    let count = counts.next().unwrap_or(0);
    if counts.any(|other| other != count) {
        return Vec::new();
    }
    let part = |has_rows: bool, tensor: &Tensor, number: usize| match has_rows {
        true => tensor.rows(number..number + 1).map(|row| row.aligned()),
        false => Some(tensor.clone()),
    };
    let row = |number| inputs.iter().map(|(has_rows, input)| part(*has_rows, (*input)?, number)).collect::<Row>();
    (0..count.min(ROWS_MAX)).map(row).collect()
}

#[cfg(test)]
mod tests {
    use tiltyard_types::{DataType, Dim, Signature, TensorSpec};

    use super::*;

    fn layout(axes: &[Dim]) -> Layout {
        let spec = |dim: &Dim| TensorSpec {
            name: "x".into(),
            dtype: DataType::Fp32,
            dims: Some(vec![dim.clone(), Dim::Fixed(2)]),
            optional: false,
        };
        let inputs: Vec<TensorSpec> = axes.iter().map(spec).collect();
        Layout::of(&Signature { outputs: vec![inputs[0].clone()], inputs }).unwrap()
    }

    fn values(tensor: &Option<Tensor>) -> Vec<f32> {
        tensor.as_ref().unwrap().to_vec().unwrap()
    }

    #[test]
    fn rows_are_taken_in_turn() {
        let layout = layout(&[Dim::Dynamic(None), Dim::Fixed(1)]);
        let inputs = vec![
            Some(Tensor::from_slice([3, 2], &[1f32, 2., 3., 4., 5., 6.]).unwrap()),
            Some(Tensor::from_slice([1, 2], &[8f32, 9.]).unwrap()),
        ];
        let sample = Sample { rows: rows_of(&inputs, &layout), layout: Some(layout) };
        assert_eq!(sample.rows.len(), 3);
        let request = sample.request(4);
        assert_eq!(values(&request[0]), [1., 2., 3., 4., 5., 6., 1., 2.]);
        assert_eq!(values(&request[1]), [8., 9.], "what has no rows is passed once");
        assert_eq!(values(&sample.request(1)[0]), [1., 2.]);
    }

    #[test]
    fn without_an_axis_there_is_one_request() {
        let inputs = vec![Some(Tensor::from_slice([3], &[1f32, 2., 3.]).unwrap())];
        let sample = Sample { rows: vec![inputs.clone()], layout: None };
        assert_eq!(sample.request(5), inputs);
        let uneven = vec![inputs[0].clone(), Some(Tensor::from_slice([2], &[1f32, 2.]).unwrap())];
        assert!(rows_of(&uneven, &layout(&[Dim::Dynamic(None), Dim::Dynamic(None)])).is_empty());
    }
}
