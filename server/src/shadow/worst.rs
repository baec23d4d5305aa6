//! Where do champion and shadow disagree most? A few examples for a person to look at.

use serde_json::{Map, Value, json};
use tiltyard_types::json::{NonFinite, write_data};
use tiltyard_types::{RequestId, Tensor};

use super::measure::Both;

/// Examples that are kept for one shadow.
pub const KEPT_MAX: usize = 20;

/// Outputs of an example that are shown.
const OUTPUTS_MAX: usize = 8;

/// Values of an output that are shown.
const VALUES_MAX: usize = 16;

/// Characters of a text that are shown.
const CHARS_MAX: usize = 120;

/// One row on which two answers differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The request.
    pub id: RequestId,
    /// The row in it.
    pub row: usize,
    /// When it was accepted, in milliseconds since 1970.
    pub unix_ms: u64,
    /// How far apart the answers are, 0 to 1.
    pub difference: f64,
    /// What each said, by output: the champion's and the shadow's.
    pub outputs: Value,
}

/// The examples with the largest differences, the largest first.
#[derive(Debug, Default)]
pub struct Worst(Vec<Example>);

impl Worst {
    /// Whether an example that differs so much would be kept.
    pub fn takes(&self, difference: f64) -> bool {
        self.0.len() < KEPT_MAX || self.0.last().is_some_and(|least| difference > least.difference)
    }

    /// Keeps an example if it is among the worst.
    pub fn add(&mut self, example: Example) {
        let place = self.0.partition_point(|other| other.difference >= example.difference);
        self.0.insert(place, example);
        self.0.truncate(KEPT_MAX);
    }

    /// For people, the worst first.
    pub fn form(&self) -> Vec<Value> {
        let form = |example: &Example| {
            json!({
                "prediction_id": example.id.prediction(example.row), "time_ms": example.unix_ms,
                "difference": example.difference, "outputs": example.outputs,
            })
        };
        self.0.iter().map(form).collect()
    }
}

/// One row of some outputs as both have it, cut to what a person looks at.
pub fn show(row: usize, rows: usize, outputs: &[Both<'_>]) -> Value {
    let shown = outputs.iter().take(OUTPUTS_MAX).map(|output| {
        let pair = json!({ "champion": cut(output.champion, row, rows), "shadow": cut(output.shadow, row, rows) });
        (output.name.to_owned(), pair)
    });
    Value::Object(shown.collect::<Map<_, _>>())
}

/// The row's first values, or those of a tensor without rows.
fn cut(tensor: &Tensor, row: usize, rows: usize) -> Value {
    let of_row = if tensor.shape().rows() == Some(rows) { tensor.rows(row..row + 1) } else { None };
    let tensor = of_row.as_ref().unwrap_or(tensor);
    if let Some(texts) = tensor.as_strings() {
        let text = |text: &bytes::Bytes| String::from_utf8_lossy(text).chars().take(CHARS_MAX).collect::<String>();
        return texts.iter().take(VALUES_MAX).map(text).collect();
    }
    let flat = tensor.reshaped([tensor.elements()].as_slice().into());
    let head = flat.ok().and_then(|flat| flat.rows(0..flat.elements().min(VALUES_MAX)));
    let mut text = Vec::new();
    let written = head.is_some_and(|head| write_data(&head, &mut text, NonFinite::Null).is_ok());
    let values = written.then(|| serde_json::from_slice(&text).ok()).flatten();
    values.unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use tiltyard_types::Shape;
    use uuid::Uuid;

    use super::*;

    fn example(number: u32) -> Example {
        let id = RequestId::new(Uuid::from_u128(u128::from(number)));
        Example { id, row: 0, unix_ms: 1, difference: f64::from(number) / 100.0, outputs: Value::Null }
    }

    #[test]
    fn the_worst_stay_in_order() {
        let mut worst = Worst::default();
        for number in [5, 50, 1].into_iter().chain(10..40) {
            worst.add(example(number));
        }
        assert_eq!(worst.0.len(), KEPT_MAX);
        assert_eq!((worst.0[0].difference, worst.0[1].difference), (0.5, 0.39));
        assert!(worst.takes(0.45) && !worst.takes(0.21));
    }

    #[test]
    fn rows_are_shown_in_part() {
        let values: Vec<f32> = (0..60).map(|value| value as f32).collect();
        let champion = Tensor::from_slice([2, 30], &values).unwrap();
        let nan = Tensor::from_slice([2, 30], &[f32::NAN; 60]).unwrap();
        let shown = show(1, 2, &[Both { name: "y", champion: &champion, shadow: &nan }]);
        let told = &shown["y"];
        assert_eq!((told["champion"][0].as_f64(), told["champion"].as_array().unwrap().len()), (Some(30.0), 16));
        assert_eq!(told["shadow"][0], Value::Null);
        let long = "é".repeat(300);
        let texts = Tensor::strings(Shape::from([1]), vec![long.into_bytes().into()]).unwrap();
        let shown = show(0, 1, &[Both { name: "t", champion: &texts, shadow: &texts }]);
        assert_eq!(shown["t"]["shadow"][0].as_str().unwrap().chars().count(), CHARS_MAX);
    }
}
