//! What did the answers say that labels will be held against?
//!
//! Where a rollout's quality is decided by labels, each answer that is evidence leaves a note: whose it was, and the class or
//! number of each row. Where pairs decide, each pair of champion's and challenger's answers does, once the challenger has answered as
//! a shadow. That is a push to one of a few bounded lists, as with the ends of requests, which the rollouts' thread takes away. No
//! input is kept.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::{bf16, f16};
use http::HeaderMap;
use http::header::HeaderName;
use ring::digest::{SHA256, digest};
use smallvec::SmallVec;
use tiltyard_rollout::cohort;
use tiltyard_rollout::evidence::Share;
use tiltyard_rollout::plan::{Gain, Plan};
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::job::Answer;
use tiltyard_types::shard::{SHARDS, shard};
use tiltyard_types::{DataType, Element, Parameter, Parameters, RequestId, Tensor};

use super::said::{Answered, Mark};
use crate::rollouts::aim;
use crate::rollouts::observer::{Observer, Side};

/// The client's own name for a request, as a header or as metadata.
pub const ROW_KEY: HeaderName = HeaderName::from_static("tiltyard-row-key");

/// The same as a parameter.
const ROW_KEY_PARAMETER: &str = "row_key";

/// Rows in one list.
const ROWS_MAX: usize = 1 << 15;

/// Rows of one request that are noted: its first.
const ROWS_OF_ONE_MAX: usize = 1 << 10;

/// Numbers of one answer that are looked at.
const NUMBERS_MAX: usize = 1 << 16;

/// Says class 1 from here on, where nobody says.
const THRESHOLD: f64 = 0.5;

/// An answer, as far as labels need it.
#[derive(Clone, Debug, PartialEq)]
pub struct Note {
    /// The server's name for the request.
    pub id: u128,
    /// A hash of the client's name for it.
    pub key: Option<u128>,
    /// When it was accepted, in milliseconds since 1970.
    pub at_ms: u64,
    /// Its key's name in evidence.
    pub unit: u64,
    /// Whose it was; of a pair, the champion's.
    pub side: Side,
    /// What was answered, by row.
    pub rows: SmallVec<[Answered; 1]>,
}

/// A request that was answered.
pub struct Asked {
    /// The server's name for it.
    pub id: RequestId,
    /// When it was accepted, in milliseconds since 1970.
    pub at_ms: u64,
    /// A hash of the client's name for it.
    pub key: Option<u128>,
    /// Its key's name in evidence.
    pub unit: u64,
    /// Whose it was.
    pub side: Side,
}

/// What is known of a request that may become a pair, until its shadow has answered.
pub struct Pairing {
    /// Who is told.
    pub observer: Arc<Observer>,
    /// A hash of the client's name for it.
    pub key: Option<u128>,
    /// Its key's name in evidence.
    pub unit: u64,
}

/// One of two answers to the same request.
pub struct Half<'a> {
    /// Who gave it.
    pub deployment: &'a Deployment,
    /// An output that the champion has under this name too.
    pub tensor: &'a Tensor,
}

/// Takes notes under one revision of a plan.
#[derive(Debug)]
pub struct Notes {
    /// The shadow whose answers are noted beside the champion's, where pairs decide.
    shadow: Option<String>,
    gain: Gain,
    output: Option<String>,
    threshold: f64,
    lists: [List; SHARDS],
    unseen: AtomicU64,
    unread: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct List(Mutex<(Vec<Note>, usize)>);

impl List {
    fn lock(&self) -> MutexGuard<'_, (Vec<Note>, usize)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was noted since the last time.
#[derive(Debug, Default)]
pub struct Taken {
    /// In the order of time.
    pub notes: Vec<Note>,
    /// Rows that were not noted, since too many came at once.
    pub unseen: u64,
    /// Rows whose answer has no such output, or nothing that a label can be held against.
    pub unread: u64,
}

impl Notes {
    /// Those of a plan whose arms are compared by the labels of what each answered, or of what both did; none of any other.
    pub fn of(plan: &Plan, share: Share) -> Option<Notes> {
        let primary = plan.policy.primary.as_ref()?;
        if plan.steps.is_empty() {
            return None;
        }
        let shadow = match cohort::is_paired(primary) {
            true => Some(aim::shadow(plan)?.name.clone()),
            false if share.is_split() => None,
            false => return None,
        };
        Some(Notes {
            shadow,
            gain: primary.gain,
            output: primary.output.clone(),
            threshold: primary.threshold.unwrap_or(THRESHOLD),
            lists: Default::default(),
            unseen: AtomicU64::new(0),
            unread: AtomicU64::new(0),
        })
    }

    /// Whether it is pairs that decide, and no answer counts alone.
    pub fn is_paired(&self) -> bool {
        self.shadow.is_some()
    }

    /// Notes what was answered. `wanted` says which of the model's outputs the answer has.
    pub fn note(&self, asked: &Asked, deployment: &Deployment, answer: &Answer, wanted: &[usize]) {
        let marks = self.read(deployment, answer, wanted);
        let rows = marks.map(|marks| marks.into_iter().map(Answered::One).collect());
        self.push(asked, answer.rows, rows);
    }

    /// Notes what the champion and the shadow of this name answered to so many rows. `outputs` are those that the champion was asked
    /// for, by their places in its signature, with what both said.
    pub fn pair<'a>(
        &self,
        asked: &Asked,
        shadow: &str,
        rows: usize,
        mut outputs: impl Iterator<Item = (usize, [Half<'a>; 2])>,
    ) {
        if self.shadow.as_deref() != Some(shadow) {
            return;
        }
        let judged = outputs.find_map(|(place, halves)| {
            let specs = &halves[0].deployment.signature.outputs;
            let is_judged = self.output.as_ref().map_or(place == 0, |name| specs[place].name == *name);
            is_judged.then(|| (specs[place].name.clone(), halves))
        });
        let marks = judged.and_then(|(name, [champion, challenger])| {
            let read = |half: Half<'_>| self.marks(half.deployment, &name, half.tensor, rows);
            Some((read(champion)?, read(challenger)?))
        });
        let both = marks.map(|(a, b)| a.into_iter().zip(b).map(|(a, b)| Answered::Both([a, b])).collect());
        self.push(asked, rows, both);
    }

    /// Keeps a note until it is taken away. `None`: there was nothing in the answer that a label can be held against.
    fn push(&self, asked: &Asked, count: usize, rows: Option<SmallVec<[Answered; 1]>>) {
        let Some(rows) = rows else {
            self.unread.fetch_add(count as u64, Relaxed);
            return;
        };
        let &Asked { id, at_ms, key, unit, side } = asked;
        let mut list = self.lists[shard()].lock();
        let (notes, count) = &mut *list;
        if *count + rows.len() > ROWS_MAX {
            self.unseen.fetch_add(rows.len() as u64, Relaxed);
            return;
        }
        *count += rows.len();
        notes.push(Note { id: id.bits(), key, at_ms, unit, side, rows });
    }

    fn read(&self, deployment: &Deployment, answer: &Answer, wanted: &[usize]) -> Option<SmallVec<[Mark; 1]>> {
        if self.gain == Gain::Value {
            return Some(SmallVec::from_elem(Mark::number(0.0), answer.rows.min(ROWS_OF_ONE_MAX)));
        }
        let outputs = &deployment.signature.outputs;
        let place =
            self.output.as_ref().map_or(Some(0), |name| outputs.iter().position(|output| output.name == *name))?;
        let tensor = answer.outputs.get(wanted.iter().position(|&wanted| wanted == place)?)?;
        self.marks(deployment, &outputs[place].name, tensor, answer.rows)
    }

    fn marks(
        &self,
        deployment: &Deployment,
        output: &str,
        tensor: &Tensor,
        rows: usize,
    ) -> Option<SmallVec<[Mark; 1]>> {
        let names = deployment.settings.labels.get(output).map_or(&[][..], Vec::as_slice);
        marks(tensor, rows, self.gain, self.threshold, names)
    }

    /// What was noted since the last time.
    pub fn take(&self) -> Taken {
        let mut notes: Vec<Note> = Vec::new();
        for list in &self.lists {
            let (taken, _) = std::mem::take(&mut *list.lock());
            notes.extend(taken);
        }
        notes.sort_by_key(|note| note.at_ms);
        Taken { notes, unseen: self.unseen.swap(0, Relaxed), unread: self.unread.swap(0, Relaxed) }
    }
}

/// What an output says of each row, as many as are noted. A class is the output itself, or the place of its largest number, or
/// whether its only number, a fraction, reaches the threshold.
fn marks(tensor: &Tensor, rows: usize, gain: Gain, threshold: f64, names: &[String]) -> Option<SmallVec<[Mark; 1]>> {
    if rows == 0 || tensor.shape().rows() != Some(rows) {
        return None;
    }
    let width = tensor.elements() / rows;
    if width == 0 || width > NUMBERS_MAX || (width > 1 && gain != Gain::Accuracy) {
        return None;
    }
    let seen = tensor.rows(0..rows.min(ROWS_OF_ONE_MAX).min(NUMBERS_MAX / width))?;
    if let Some(strings) = seen.as_strings() {
        let named = |text: &bytes::Bytes| Mark::name(&String::from_utf8_lossy(text));
        return (width == 1 && gain == Gain::Accuracy).then(|| strings.iter().map(named).collect());
    }
    let numbers = numbers(&seen)?;
    let is_score = width == 1 && gain == Gain::Accuracy && tensor.dtype().is_float();
    let mark = |row: &[f64]| match row {
        row if row.iter().any(|number| number.is_nan()) => Mark::nothing(),
        [score] if is_score => Mark::number(f64::from(u8::from(*score >= threshold))),
        [number] => Mark::number(*number),
        row => {
            let largest =
                row.iter().enumerate().fold(0, |held, (at, number)| if *number > row[held] { at } else { held });
            Mark::class(largest, names.get(largest).map(String::as_str))
        }
    };
    Some(numbers.chunks_exact(width).map(mark).collect())
}

/// The numbers of a tensor that has some.
pub(in crate::rollouts) fn numbers(tensor: &Tensor) -> Option<Vec<f64>> {
    fn each<T: Element>(tensor: &Tensor, number: impl Fn(T) -> f64) -> Option<Vec<f64>> {
        Some(tensor.to_vec::<T>()?.into_iter().map(number).collect())
    }
    match tensor.dtype() {
        DataType::Bool | DataType::Uint8 => each::<u8>(tensor, f64::from),
        DataType::Uint16 => each::<u16>(tensor, f64::from),
        DataType::Uint32 => each::<u32>(tensor, f64::from),
        DataType::Uint64 => each::<u64>(tensor, |number| number as f64),
        DataType::Int8 => each::<i8>(tensor, f64::from),
        DataType::Int16 => each::<i16>(tensor, f64::from),
        DataType::Int32 => each::<i32>(tensor, f64::from),
        DataType::Int64 => each::<i64>(tensor, |number| number as f64),
        DataType::Fp16 => each::<f16>(tensor, |number| number.to_f64()),
        DataType::Bf16 => each::<bf16>(tensor, |number| number.to_f64()),
        DataType::Fp32 => each::<f32>(tensor, f64::from),
        DataType::Fp64 => each::<f64>(tensor, |number| number),
        DataType::Bytes => None,
    }
}

/// A client's name for a request or a row, as it is kept.
pub fn hashed(key: &[u8]) -> u128 {
    let digest = digest(&SHA256, key);
    digest.as_ref().iter().take(16).fold(0, |number, &byte| number << 8 | u128::from(byte))
}

/// The client's name for its request, from the head.
pub fn key_of_head(headers: &HeaderMap) -> Option<u128> {
    headers.get(&ROW_KEY).map(|value| hashed(value.as_bytes()))
}

/// The same from the request's parameters: a text or a whole number.
pub fn key_of_parameters(parameters: &Parameters) -> Option<u128> {
    match parameters.get(ROW_KEY_PARAMETER)? {
        Parameter::Text(text) => Some(hashed(text.as_bytes())),
        Parameter::Int(number) => Some(hashed(number.to_string().as_bytes())),
        Parameter::Uint(number) => Some(hashed(number.to_string().as_bytes())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_read_from_whatever_an_answer_has() {
        let accuracy = |tensor: Tensor, rows, names: &[String]| marks(&tensor, rows, Gain::Accuracy, 0.5, names);
        let marks_of = |marks: &[Mark]| Some(SmallVec::from_slice(marks));
        let scores = Tensor::from_slice([2], &[0.49f32, 0.5]).unwrap();
        assert_eq!(accuracy(scores, 2, &[]), marks_of(&[Mark::number(0.0), Mark::number(1.0)]));
        let classes = Tensor::from_slice([2, 1], &[7i64, 3]).unwrap();
        assert_eq!(accuracy(classes, 2, &[]), marks_of(&[Mark::number(7.0), Mark::number(3.0)]));
        let each = Tensor::from_slice([2, 3], &[0.1f64, 0.7, 0.2, 9.0, 9.0, 1.0]).unwrap();
        let names = ["a", "b", "c"].map(str::to_owned);
        let expected = [Mark::class(1, Some("b")), Mark::class(0, Some("a"))];
        assert_eq!(accuracy(each.clone(), 2, &names), marks_of(&expected));
        let texts = Tensor::strings([1].into(), vec!["late".into()]).unwrap();
        assert_eq!(accuracy(texts.clone(), 1, &[]), marks_of(&[Mark::name("late")]));
        assert_eq!(accuracy(texts.clone(), 3, &[]), None, "not a row for each");
        let number = |tensor: &Tensor, rows| marks(tensor, rows, Gain::SquaredError, 0.5, &[]);
        assert_eq!(number(&Tensor::from_slice([1], &[2.5f32]).unwrap(), 1), marks_of(&[Mark::number(2.5)]));
        assert_eq!((number(&each, 2), number(&texts, 1)), (None, None));
        let broken = Tensor::from_slice([1, 2], &[f32::NAN, 0.5]).unwrap();
        assert_eq!(accuracy(broken, 1, &[]), marks_of(&[Mark::nothing()]), "it says no class");
    }

    #[test]
    fn a_request_has_the_name_that_its_client_gives_it() {
        let mut parameters = Parameters::new();
        assert_eq!(key_of_parameters(&parameters), None);
        parameters.insert("row_key".into(), Parameter::Int(17));
        assert_eq!(key_of_parameters(&parameters), Some(hashed(b"17")));
        let headers = HeaderMap::from_iter([(ROW_KEY, http::HeaderValue::from_static("17"))]);
        assert_eq!(key_of_head(&headers), Some(hashed(b"17")));
        assert_ne!(hashed(b"17"), hashed(b"18"));
    }
}
