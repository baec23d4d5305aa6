//! What do the answers to a set of rows show, beyond that the rows answer the same in any company?
//!
//! A set is worth as much as its answers tell. Where an output is NaN throughout, nothing could have differed: such a set
//! proves nothing. Where all rows answer alike, a row that answers for another is not seen. There the search goes on, and
//! any further set may refute; but if rows answer alike in all of them, then so does the model as far as anything shows
//! (a constant, a class that small numbers do not change), and its batches are right for the same reason: to refuse them
//! would slow such models down and make no answer better.

use half::{bf16, f16};
use tiltyard_types::{DataType, Element, Signature, Tensor};

use super::Failure;
use crate::compare::{Tolerance, compare};

/// What a set shows that ran without a difference.
#[derive(Debug, PartialEq)]
pub(super) enum Shown {
    /// Rows are told apart by their answers.
    Apart,
    /// All rows answer alike on every output.
    Alike,
    /// An output tells nothing; the reason is for people.
    Blind(String),
}

/// Whether NaN is an answer like any other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Nan {
    /// It is: a known good request may have it.
    Tells,
    /// Made-up numbers may be outside of what the model is made for, and then any NaN is as good as another.
    Excused,
}

impl Nan {
    /// Whether this output of a row alone tells nothing.
    fn hides(self, output: &Tensor) -> bool {
        match self {
            Nan::Tells => numbers_are(output, |nans, numbers| nans == numbers && nans > 0),
            Nan::Excused => numbers_are(output, |nans, _| nans > 0),
        }
    }

    /// Compares an output of a row in company with what the row answers alone.
    pub(super) fn compare(self, actual: &Tensor, expected: &Tensor) -> Result<(), String> {
        if self == Nan::Excused && self.hides(expected) {
            return Ok(());
        }
        compare(actual, expected, Tolerance::default())
    }
}

/// What the rows' answers show, by those that each gave alone.
pub(super) fn shown(alone: &[Vec<Tensor>], signature: &Signature, nan: Nan) -> Shown {
    for (position, output) in signature.outputs.iter().enumerate() {
        let answers = || alone.iter().filter_map(|answer| answer.get(position));
        if answers().next().is_some() && answers().all(|answer| nan.hides(answer)) {
            return Shown::Blind(format!(
                "output {:?} of all rows that were tried is NaN, which shows nothing",
                output.name
            ));
        }
    }
    let alike = |one: &[Tensor], other: &[Tensor]| {
        one.iter().zip(other).all(|(one, other)| compare(one, other, Tolerance::default()).is_ok())
    };
    match alone.windows(2).all(|pair| alike(&pair[0], &pair[1])) {
        true => Shown::Alike,
        false => Shown::Apart,
    }
}

/// What is known after some sets.
pub(super) struct Findings {
    proved: bool,
    reason: String,
}

impl Findings {
    /// Nothing yet, and why it would stay so.
    pub(super) fn none(reason: &str) -> Findings {
        Findings { proved: false, reason: reason.to_owned() }
    }

    /// Takes in a set that was made up. Says whether a further one like it would tell no more; fails where it refutes.
    /// One that does not run may not suit the model.
    pub(super) fn add(&mut self, outcome: Result<Shown, Failure>) -> Result<bool, String> {
        match outcome {
            Ok(Shown::Blind(reason)) => self.reason = reason,
            Ok(shown) => {
                self.proved = true;
                return Ok(shown == Shown::Apart);
            }
            Err(Failure::NoRun(error)) => self.reason = format!("the probes did not run: {error}"),
            Err(Failure::Differs(what)) => return Err(what),
        }
        Ok(false)
    }

    /// Takes in a set out of known good requests, which must run.
    pub(super) fn add_known(&mut self, outcome: Result<Shown, Failure>) -> Result<(), String> {
        let failed = matches!(outcome, Err(Failure::NoRun(_)));
        self.add(outcome)?;
        if failed { Err(std::mem::take(&mut self.reason)) } else { Ok(()) }
    }

    /// The verdict: fails with why nothing is proved.
    pub(super) fn verdict(self) -> Result<(), String> {
        if self.proved { Ok(()) } else { Err(self.reason) }
    }
}

/// Whether `is` holds for how many numbers of a tensor are NaN, and how many there are. Never for what is no float.
fn numbers_are(tensor: &Tensor, is: impl Fn(usize, usize) -> bool) -> bool {
    fn count<T: Element>(tensor: &Tensor, is_nan: fn(&T) -> bool) -> (usize, usize) {
        let numbers = tensor.to_vec::<T>().unwrap_or_default();
        (numbers.iter().filter(|number| is_nan(number)).count(), numbers.len())
    }
    let (nans, numbers) = match tensor.dtype() {
        DataType::Fp32 => count::<f32>(tensor, |number| number.is_nan()),
        DataType::Fp64 => count::<f64>(tensor, |number| number.is_nan()),
        DataType::Fp16 => count::<f16>(tensor, |number| number.is_nan()),
        DataType::Bf16 => count::<bf16>(tensor, |number| number.is_nan()),
        _ => return false,
    };
    is(nans, numbers)
}
