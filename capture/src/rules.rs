//! What of a request may be captured?
//!
//! Rules are of an endpoint, and name columns as segments do, such as `input_age`. They are applied before the ring:
//! what they leave out never touches the disk. Everything here is a pure function; which requests are drawn hangs on
//! their ids alone, so that two nodes agree, and so does whoever asks later.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use ::ring::hmac;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tiltyard_types::{DataType, RequestId, Shape, Tensor, TensorData, nearest};

use crate::layout::{Field, Form, Layout};
use crate::record::Value;

/// What stands in the place of a text that is redacted.
const REDACTED: &[u8] = b"[redacted]";

/// Hexadecimal digits of a value that is hashed: 128 bits.
const HASH_DIGITS: usize = 32;

/// What becomes of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// It is left out.
    Drop,
    /// Each of its texts becomes `[redacted]`: for BYTES only.
    Redact,
    /// Each of its values becomes 32 hexadecimal digits: HMAC-SHA-256 under the endpoint's key of the text, or of the
    /// number's little-endian bytes. Equal values stay equal, and nobody without the key finds out which they were.
    Hash,
}

/// An endpoint's rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How many of a million requests are captured.
    pub sample_per_million: u32,
    /// The only columns that are captured; `None` for all. A column with an action must be among them.
    pub columns: Option<BTreeSet<String>>,
    /// Columns that are not captured as they are.
    pub actions: BTreeMap<String, Action>,
    /// The key of hashes; without one nothing can be hashed.
    pub key: Option<[u8; 32]>,
}

impl Default for Rules {
    /// Everything, as it is.
    fn default() -> Rules {
        Rules { sample_per_million: 1_000_000, columns: None, actions: BTreeMap::new(), key: None }
    }
}

/// Rules that a deployment cannot follow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A column that there is not.
    #[error("there is no column {name:?}{}", nearest.as_ref().map(|near| format!("; did you mean {near:?}?")).unwrap_or_default())]
    Unknown {
        /// The name.
        name: String,
        /// One that there is, and that is much like it.
        nearest: Option<String>,
    },
    /// Only texts can be redacted.
    #[error("column {0:?} holds numbers, which cannot be redacted: expected \"drop\" or \"hash\"")]
    Number(String),
    /// A hash without a key.
    #[error("column {0:?} is to be hashed, and no key is given")]
    NoKey(String),
    /// A column with an action that is not captured.
    #[error("column {0:?} has an action but is not among the columns that are captured: expected it there too")]
    NotCaptured(String),
}

impl Rules {
    /// What these rules make of a deployment with this layout. Fails where they name what it does not have.
    pub fn select(&self, layout: &Layout) -> Result<Selection, Unfit> {
        let sides = [("input", &layout.inputs), ("output", &layout.outputs)];
        let names: Vec<String> =
            sides.iter().flat_map(|(side, fields)| fields.iter().flat_map(|field| names(side, field))).collect();
        for name in self.columns.iter().flatten().chain(self.actions.keys()) {
            if !names.contains(name) {
                let nearest = nearest(name, names.iter().map(String::as_str)).map(str::to_owned);
                return Err(Unfit::Unknown { name: name.clone(), nearest });
            }
        }
        let mut selection = Selection {
            layout: Layout { headers: layout.headers.clone(), ..Layout::default() },
            sample_per_million: self.sample_per_million,
            inputs: Vec::new(),
            outputs: Vec::new(),
            key: self.key.map(|key| hmac::Key::new(hmac::HMAC_SHA256, &key)),
        };
        for (side, fields) in sides {
            for field in fields {
                let (part, becomes) = self.part(side, field)?;
                let (parts, layout) = match side {
                    "input" => (&mut selection.inputs, &mut selection.layout.inputs),
                    _ => (&mut selection.outputs, &mut selection.layout.outputs),
                };
                parts.push((field.name.clone(), part));
                layout.extend(becomes);
            }
        }
        Ok(selection)
    }

    fn action(&self, name: &str, dtype: DataType) -> Result<Option<Action>, Unfit> {
        let action = self.actions.get(name).copied();
        if self.columns.as_ref().is_some_and(|columns| !columns.contains(name)) {
            return match action {
                None | Some(Action::Drop) => Ok(Some(Action::Drop)),
                Some(_) => Err(Unfit::NotCaptured(name.to_owned())),
            };
        }
        match action {
            Some(Action::Redact) if dtype != DataType::Bytes => Err(Unfit::Number(name.to_owned())),
            Some(Action::Hash) if self.key.is_none() => Err(Unfit::NoKey(name.to_owned())),
            action => Ok(action),
        }
    }

    /// What becomes of a tensor, and the fields that come of it.
    fn part(&self, side: &str, field: &Field) -> Result<(Part, Vec<Field>), Unfit> {
        let Form::Columns(columns) = &field.form else {
            let action = self.action(&format!("{side}_{}", field.name), field.dtype)?;
            return Ok(match action {
                None => (Part::Keep, vec![field.clone()]),
                Some(Action::Drop) => (Part::Drop, vec![]),
                Some(action) => (Part::All(action), vec![Field { dtype: DataType::Bytes, ..field.clone() }]),
            });
        };
        let (mut kept, mut changed, mut becomes) = (Vec::new(), Vec::new(), Vec::new());
        for (at, column) in columns.iter().enumerate() {
            match self.action(&format!("{side}_{column}"), field.dtype)? {
                None => kept.push(at),
                Some(Action::Drop) => {}
                Some(action) => changed.push((at, column.clone(), action)),
            }
        }
        if kept.len() == columns.len() {
            return Ok((Part::Keep, vec![field.clone()]));
        }
        if !kept.is_empty() {
            let form = Form::Columns(kept.iter().map(|at| columns[*at].clone()).collect());
            becomes.push(Field { form, ..field.clone() });
        }
        for (_, column, _) in &changed {
            let (name, form) = (part_name(&field.name, column), Form::Columns(vec![column.clone()]));
            becomes.push(Field { name, dtype: DataType::Bytes, axes: 2, form });
        }
        let changed =
            changed.into_iter().map(|(at, column, action)| (at, part_name(&field.name, &column), action)).collect();
        Ok((Part::Split { width: columns.len(), kept, changed }, becomes))
    }
}

/// What the tensor of one column is called.
fn part_name(tensor: &str, column: &str) -> String {
    format!("{tensor}/{column}")
}

fn names(side: &str, field: &Field) -> Vec<String> {
    match &field.form {
        Form::Columns(names) => names.iter().map(|name| format!("{side}_{name}")).collect(),
        Form::One | Form::List | Form::Whole => vec![format!("{side}_{}", field.name)],
    }
}

/// What becomes of a tensor.
#[derive(Clone, Debug)]
enum Part {
    Keep,
    Drop,
    All(Action),
    /// Of a tensor with named columns, some are kept, and some become tensors of their own.
    Split {
        width: usize,
        kept: Vec<usize>,
        changed: Vec<(usize, String, Action)>,
    },
}

/// Rules for one deployment.
#[derive(Clone, Debug)]
pub struct Selection {
    layout: Layout,
    sample_per_million: u32,
    inputs: Vec<(String, Part)>,
    outputs: Vec<(String, Part)>,
    key: Option<hmac::Key>,
}

impl Selection {
    /// The layout of what is left; to be noted before the first record.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Whether this request is captured.
    pub fn draws(&self, request: RequestId) -> bool {
        if self.sample_per_million >= 1_000_000 {
            return true;
        }
        let hash = Sha256::new().chain_update(b"capture\0").chain_update(request.bits().to_be_bytes()).finalize();
        let first = hash.first_chunk::<8>().map_or(0, |first| u64::from_be_bytes(*first));
        (u128::from(first) * 1_000_000) >> 64 < u128::from(self.sample_per_million)
    }

    /// What is left of a request's inputs. What the deployment does not have is left out.
    pub fn inputs<'a>(&self, values: &[Value<'a>]) -> Vec<Value<'a>> {
        self.apply(&self.inputs, values)
    }

    /// What is left of its outputs.
    pub fn outputs<'a>(&self, values: &[Value<'a>]) -> Vec<Value<'a>> {
        self.apply(&self.outputs, values)
    }

    fn apply<'a>(&self, parts: &[(String, Part)], values: &[Value<'a>]) -> Vec<Value<'a>> {
        let mut left = Vec::with_capacity(values.len());
        for value in values {
            let Some((_, part)) = parts.iter().find(|(name, _)| *name == value.name) else { continue };
            let tensor = value.tensor.as_ref();
            match part {
                Part::Keep => left.push(value.clone()),
                Part::Drop => {}
                Part::All(action) => {
                    let elements = (0..tensor.elements()).map(|at| self.changed(tensor, at, *action)).collect();
                    left.extend(made(value.name.clone(), Tensor::strings(tensor.shape().clone(), elements)));
                }
                Part::Split { width, kept, changed } => {
                    if tensor.shape().len() != 2 || tensor.shape()[1] != *width {
                        continue;
                    }
                    let rows = tensor.shape()[0];
                    if !kept.is_empty() {
                        left.extend(made(value.name.clone(), columns(tensor, rows, *width, kept)));
                    }
                    for (column, name, action) in changed {
                        let elements =
                            (0..rows).map(|row| self.changed(tensor, row * width + column, *action)).collect();
                        left.extend(made(Cow::Owned(name.clone()), Tensor::strings(Shape::from([rows, 1]), elements)));
                    }
                }
            }
        }
        left
    }

    fn changed(&self, tensor: &Tensor, at: usize, action: Action) -> Bytes {
        let (Action::Hash, Some(key)) = (action, &self.key) else { return Bytes::from_static(REDACTED) };
        let tag = match tensor.data() {
            TensorData::Strings(strings) => hmac::sign(key, &strings[at]),
            TensorData::Fixed(bytes) => {
                let width = tensor.dtype().width().unwrap_or(1);
                hmac::sign(key, &bytes[at * width..(at + 1) * width])
            }
        };
        let digits = tag.as_ref().iter().flat_map(|byte| [byte >> 4, byte & 15]).take(HASH_DIGITS);
        digits.map(|digit| b"0123456789abcdef"[usize::from(digit)]).collect()
    }
}

fn made(name: Cow<'_, str>, tensor: Result<Tensor, tiltyard_types::TensorError>) -> Option<Value<'_>> {
    Some(Value { name, tensor: Cow::Owned(tensor.ok()?) })
}

/// The tensor of these columns alone.
fn columns(tensor: &Tensor, rows: usize, width: usize, kept: &[usize]) -> Result<Tensor, tiltyard_types::TensorError> {
    let shape = Shape::from([rows, kept.len()]);
    let elements = (0..rows).flat_map(|row| kept.iter().map(move |column| row * width + column));
    match tensor.data() {
        TensorData::Strings(strings) => Tensor::strings(shape, elements.map(|at| strings[at].clone()).collect()),
        TensorData::Fixed(bytes) => {
            let size = tensor.dtype().width().unwrap_or(1);
            let bytes: Vec<u8> = elements.flat_map(|at| &bytes[at * size..(at + 1) * size]).copied().collect();
            Tensor::fixed(tensor.dtype(), shape, bytes)
        }
    }
}

#[cfg(test)]
mod tests;
