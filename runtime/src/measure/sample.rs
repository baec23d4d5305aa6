//! What can a model be asked when nobody has asked it anything yet?

use tiltyard_types::Tensor;

use crate::batch::gather;
use crate::deployment::{BatchAxis, Deployment};
use crate::prove::{LENGTHS, made_up_rows};

/// Rows of an example that are used at most.
const ROWS_MAX: usize = 64;

type Row = Vec<Option<Tensor>>;

/// Rows that a model runs on: those of its golden example, or made-up ones.
#[derive(Clone, Debug)]
pub struct Sample {
    rows: Vec<Row>,
    has_axis: bool,
}

impl Sample {
    /// The sample for a deployment. Runs it once for each kind of row that is tried; fails with why none ran.
    pub fn of(deployment: &Deployment) -> Result<Sample, String> {
        let signature = &deployment.signature;
        let has_axis = deployment.batch_axis != BatchAxis::None;
        let wanted: Vec<usize> = (0..signature.outputs.len()).collect();
        let example = deployment.example.as_ref().and_then(|golden| golden.arranged(signature).ok());
        let from_example = example.map(|inputs| if has_axis { rows_of(&inputs) } else { vec![inputs] });
        let made_up = LENGTHS.iter().filter_map(|&length| made_up_rows(signature, length));
        let mut reason = String::from("no request can be made up for its inputs");
        for rows in from_example.into_iter().chain(made_up) {
            let Some(first) = rows.first() else { continue };
            match deployment.run_alone(first, &wanted) {
                Ok(_) => return Ok(Sample { rows, has_axis }),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(reason)
    }

    /// A request of `rows` rows, in aligned memory; one row as it is where there is no batch axis.
    pub fn request(&self, rows: usize) -> Row {
        let some: Vec<&[Option<Tensor>]> = self.rows.iter().map(Vec::as_slice).cycle().take(rows).collect();
        let joined = if self.has_axis && rows > 1 { gather(&some).ok() } else { None };
        joined.unwrap_or_else(|| self.rows[0].clone())
    }
}

/// The rows of an example, one by one; none where its inputs disagree about their number.
fn rows_of(inputs: &[Option<Tensor>]) -> Vec<Row> {
    let mut counts = inputs.iter().flatten().map(|tensor| tensor.shape().rows().unwrap_or(0));
    let count = counts.next().unwrap_or(0);
    if counts.any(|other| other != count) {
        return Vec::new();
    }
    let row = |number: usize| {
        inputs.iter().map(|input| Some(input.as_ref()?.rows(number..number + 1)?.aligned())).collect::<Row>()
    };
    (0..count.min(ROWS_MAX)).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_taken_in_turn() {
        let inputs = vec![Some(Tensor::from_slice([3, 2], &[1f32, 2., 3., 4., 5., 6.]).unwrap()), None];
        let sample = Sample { rows: rows_of(&inputs), has_axis: true };
        assert_eq!(sample.rows.len(), 3);
        let request = sample.request(4);
        assert_eq!(request[0].as_ref().unwrap().to_vec::<f32>().unwrap(), [1., 2., 3., 4., 5., 6., 1., 2.]);
        assert!(request[1].is_none());
        assert_eq!(sample.request(1)[0].as_ref().unwrap().to_vec::<f32>().unwrap(), [1., 2.]);
    }

    #[test]
    fn without_an_axis_there_is_one_request() {
        let inputs = vec![Some(Tensor::from_slice([3], &[1f32, 2., 3.]).unwrap())];
        let sample = Sample { rows: vec![inputs.clone()], has_axis: false };
        assert_eq!(sample.request(5), inputs);
        let uneven = vec![inputs[0].clone(), Some(Tensor::from_slice([2], &[1f32, 2.]).unwrap())];
        assert!(rows_of(&uneven).is_empty());
    }
}
