//! Which of a version's outputs is its prediction, and what does a row of it say?

use std::borrow::Cow;

use half::{bf16, f16};
use tiltyard_types::{DataType, Element, Signature, Tensor, TensorSpec};

use super::batch::shortened;
use super::options::Loss;

/// The score above which a lone score says 1, where nobody says.
const THRESHOLD: f64 = 0.5;

/// What a version says of a row, or what its label says in the same words.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    /// The class of this index.
    Class(i64),
    /// The class of this name.
    Name(String),
    /// A number.
    Number(f64),
    /// Not a number, which is no answer.
    Nothing,
}

/// How a version's prediction is read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Prediction {
    /// The output's name.
    pub(super) output: String,
    /// Its place in the signature.
    pub(super) position: usize,
    /// Names of the classes, where `model.toml` has some.
    names: Vec<String>,
    loss: Loss,
}

impl Prediction {
    /// Finds it: the output called `wanted`, or the only one that can be meant. `names` are those along an output's last axis.
    /// The error says which outputs there are.
    pub(super) fn find(
        signature: &Signature,
        names: impl Fn(&str) -> Vec<String>,
        loss: Loss,
        wanted: Option<&str>,
    ) -> Result<Prediction, String> {
        let position = match wanted {
            Some(name) => signature.outputs.iter().position(|output| output.name == name),
            None => obvious(signature, loss),
        };
        let Some(position) = position else {
            let outputs: Vec<String> = signature.outputs.iter().map(ToString::to_string).collect();
            let what = match wanted {
                Some(name) => format!("no output is called {name:?}"),
                None => "more than one output could be the prediction: name it with --prediction".to_owned(),
            };
            return Err(format!("{what}; there are {}", outputs.join(", ")));
        };
        let output = &signature.outputs[position];
        if !loss.is_binary() && output.dtype == DataType::Bytes {
            return Err(format!("output {output} is text, and --loss {} needs numbers", loss.name()));
        }
        Ok(Prediction { output: output.name.clone(), position, names: names(&output.name), loss })
    }

    /// What each of `rows` rows of the output says.
    pub(super) fn read(&self, output: &Tensor, rows: usize) -> Result<Vec<Said>, String> {
        let per_row = output.elements().checked_div(rows).unwrap_or(0);
        if output.shape().rows() != Some(rows) || per_row == 0 {
            let shape = output.shape();
            return Err(format!("output {:?} has shape {shape}, not a row for each of {rows}", self.output));
        }
        let is_list = per_row > 1;
        if let Some(strings) = output.as_strings() {
            let text = |bytes: &bytes::Bytes| Said::Name(String::from_utf8_lossy(bytes).into_owned());
            return if is_list { Err(self.refuse_list(per_row)) } else { Ok(strings.iter().map(text).collect()) };
        }
        let is_float = matches!(output.dtype(), DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64);
        match self.loss {
            Loss::ZeroOne { .. } if !is_list && !is_float => {
                Ok(integers(output).into_iter().map(Said::Class).collect())
            }
            Loss::ZeroOne { threshold } => {
                let (numbers, threshold) = (numbers(output), threshold.unwrap_or(THRESHOLD));
                Ok(numbers.chunks_exact(per_row).map(|scores| class(scores, threshold)).collect())
            }
            Loss::Absolute { .. } | Loss::Squared { .. } if is_list => Err(self.refuse_list(per_row)),
            Loss::Absolute { .. } | Loss::Squared { .. } => {
                let said = |number: f64| if number.is_finite() { Said::Number(number) } else { Said::Nothing };
                Ok(numbers(output).into_iter().map(said).collect())
            }
        }
    }

    fn refuse_list(&self, per_row: usize) -> String {
        format!(
            "output {:?} has {per_row} values for each row, where --loss {} needs one",
            self.output,
            self.loss.name()
        )
    }

    /// What a label says, in the words of `said`: what this version said of the same row. The error says what was expected.
    pub(super) fn read_label(&self, text: &str, said: &Said) -> Result<Said, String> {
        let text = text.trim();
        if !self.loss.is_binary() {
            let number =
                text.parse().ok().filter(|number: &f64| number.is_finite()).or_else(|| truth(text).map(|t| t as f64));
            return number
                .map(Said::Number)
                .ok_or_else(|| format!("the label is {}: expected a number", shortened(text)));
        }
        if matches!(said, Said::Name(_)) {
            return Ok(Said::Name(text.to_owned()));
        }
        if let Some(index) = self.names.iter().position(|name| name == text) {
            return Ok(Said::Class(index as i64));
        }
        // Tables that have had empty cells write whole numbers as 1.0.
        let whole = text.parse::<f64>().ok().filter(|number| number.fract() == 0.0 && number.abs() < 1e15);
        let class = text.parse::<i64>().ok().or_else(|| whole.map(|number| number as i64)).or_else(|| truth(text));
        class.map(Said::Class).ok_or_else(|| {
            let names =
                if self.names.is_empty() { String::new() } else { format!(" or one of {}", self.names.join(", ")) };
            format!("the label is {}: expected a class's number{names}", shortened(text))
        })
    }

    /// The loss of what was said, 0 to 1.
    pub(super) fn loss(&self, said: &Said, label: &Said) -> f64 {
        match (self.loss, said, label) {
            (Loss::ZeroOne { .. }, said, label) => f64::from(u8::from(said != label)),
            (Loss::Absolute { scale }, Said::Number(a), Said::Number(b)) => ((a - b).abs() / scale).min(1.0),
            (Loss::Squared { scale }, Said::Number(a), Said::Number(b)) => ((a - b) / scale).powi(2).min(1.0),
            // No answer is the worst one.
            (Loss::Absolute { .. } | Loss::Squared { .. }, ..) => 1.0,
        }
    }

    /// How far two versions are apart on a row, 0 to 1: whether their classes differ, or their numbers by the scale.
    pub(super) fn distance(&self, said: &Said, other: &Prediction, theirs: &Said) -> f64 {
        match (self.loss, said, theirs) {
            (_, Said::Nothing, Said::Nothing) => 0.0,
            (Loss::Absolute { scale } | Loss::Squared { scale }, Said::Number(a), Said::Number(b)) => {
                ((a - b).abs() / scale).min(1.0)
            }
            (_, Said::Class(a), Said::Class(b)) if self.names == other.names => f64::from(u8::from(a != b)),
            _ => f64::from(u8::from(self.name_of(said) != other.name_of(theirs))),
        }
    }

    fn name_of<'a>(&'a self, said: &'a Said) -> Option<Cow<'a, str>> {
        match said {
            Said::Class(index) => {
                let name = usize::try_from(*index).ok().and_then(|index| self.names.get(index));
                Some(name.map_or_else(|| Cow::Owned(index.to_string()), |name| Cow::Borrowed(name.as_str())))
            }
            Said::Name(name) => Some(Cow::Borrowed(name)),
            Said::Number(_) | Said::Nothing => None,
        }
    }
}

/// The only output that can be meant: for classes the one class, unless a threshold asks for the one score; else the one
/// number.
fn obvious(signature: &Signature, loss: Loss) -> Option<usize> {
    let outputs = &signature.outputs;
    let is_float =
        |spec: &TensorSpec| matches!(spec.dtype, DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64);
    let is_list = |spec: &TensorSpec| matches!(spec.wire_dims()[..], [_, width] if width > 1);
    let only = |fits: &dyn Fn(&TensorSpec) -> bool| {
        let mut found = outputs.iter().enumerate().filter(|(_, spec)| fits(spec)).map(|(at, _)| at);
        found.next().filter(|_| found.next().is_none())
    };
    if outputs.len() == 1 {
        return Some(0);
    }
    match loss {
        Loss::ZeroOne { threshold: None } => {
            only(&|spec| !is_float(spec) && !is_list(spec)).or_else(|| only(&is_float))
        }
        Loss::ZeroOne { .. } | Loss::Absolute { .. } | Loss::Squared { .. } => {
            only(&|spec| is_float(spec) && !is_list(spec))
        }
    }
}

/// The class of some scores: by the threshold where there is one score, else the first of the largest.
fn class(scores: &[f64], threshold: f64) -> Said {
    if scores.iter().any(|score| score.is_nan()) {
        return Said::Nothing;
    }
    match scores {
        [score] => Said::Class(i64::from(*score > threshold)),
        _ => {
            let mut top = 0;
            for (at, score) in scores.iter().enumerate() {
                if *score > scores[top] {
                    top = at;
                }
            }
            Said::Class(top as i64)
        }
    }
}

fn truth(text: &str) -> Option<i64> {
    match text {
        "true" | "True" | "TRUE" => Some(1),
        "false" | "False" | "FALSE" => Some(0),
        _ => None,
    }
}

fn each<T: Element, U>(tensor: &Tensor, convert: impl Fn(T) -> U) -> Vec<U> {
    tensor.to_vec::<T>().unwrap_or_default().into_iter().map(convert).collect()
}

/// The elements of whole numbers. What does not fit is cut off, and is nobody's class.
fn integers(tensor: &Tensor) -> Vec<i64> {
    match tensor.dtype() {
        DataType::Bool => each::<u8, _>(tensor, |value| i64::from(value != 0)),
        DataType::Uint8 => each::<u8, _>(tensor, i64::from),
        DataType::Uint16 => each::<u16, _>(tensor, i64::from),
        DataType::Uint32 => each::<u32, _>(tensor, i64::from),
        DataType::Uint64 => each::<u64, _>(tensor, |value| i64::try_from(value).unwrap_or(i64::MAX)),
        DataType::Int8 => each::<i8, _>(tensor, i64::from),
        DataType::Int16 => each::<i16, _>(tensor, i64::from),
        DataType::Int32 => each::<i32, _>(tensor, i64::from),
        DataType::Int64 => each::<i64, _>(tensor, |value| value),
        DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64 | DataType::Bytes => Vec::new(),
    }
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    match tensor.dtype() {
        DataType::Fp16 => each::<f16, _>(tensor, f64::from),
        DataType::Bf16 => each::<bf16, _>(tensor, f64::from),
        DataType::Fp32 => each::<f32, _>(tensor, f64::from),
        DataType::Fp64 => each::<f64, _>(tensor, |value| value),
        _ => integers(tensor).into_iter().map(|value| value as f64).collect(),
    }
}

#[cfg(test)]
mod tests;
