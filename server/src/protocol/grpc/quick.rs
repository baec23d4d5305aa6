//! How is the commonest inference read and answered without a message in between?
//!
//! Most requests are names, shapes and raw tensors, and most answers too. These go from the wire straight into our request
//! and from the outcome straight onto the wire, in one pass each. Whatever else a request holds (parameters, typed
//! contents, a mistake) is left to the generated code, which knows everything and says what is wrong; a test holds both
//! to the same result.

use std::ops::Range;

use bytes::Bytes;
use prost::encoding::{encode_varint, encoded_len_varint};
use smallvec::SmallVec;
use tiltyard_types::json::AXES_MAX;
use tiltyard_types::{DataType, InferRequest, NamedTensor, RequestedOutput, Shape, Tensor};

use super::bounds::PARTS_MAX;
use super::wire;
use crate::protocol::{parse_version, strings};

/// The wire type of a field that has a length.
const LENGTH_DELIMITED: u64 = 2;

/// Fields of a message that are looked at before it is decoded.
const FIELDS_SEEN_MAX: usize = 32;

/// Reads a request that has names, shapes and raw tensors, and nothing else; `None` for any other.
pub(super) fn read(message: &Bytes) -> Option<InferRequest> {
    let mut request = InferRequest::default();
    let mut inputs: SmallVec<[Input<'_>; 2]> = SmallVec::new();
    let mut fields = Fields::new(message);
    let mut named = false;
    while let Some((tag, range)) = fields.next_delimited()? {
        match tag {
            // Whoever looked at the names alone must have seen the same.
            1 | 2 if named => return None,
            1 => request.model = text(message, range)?.to_owned(),
            2 => request.version = parse_version(text(message, range)?).ok()?,
            3 => request.id = text(message, range)?.to_owned(),
            // Too many are for the generated code, or rather for who looks before it.
            5 | 6 if inputs.len() + request.outputs.len() >= PARTS_MAX => return None,
            5 => inputs.push(Input::read(message, range)?),
            6 => request.outputs.push(output(message, range)?),
            7 => {
                // Each belongs to the next input that has none yet.
                let input = inputs.get(request.inputs.len())?.with(message.slice(range))?;
                if request.inputs.is_empty() {
                    request.inputs = Vec::with_capacity(inputs.len());
                }
                request.inputs.push(input);
            }
            _ => return None,
        }
        named |= tag > 2;
    }
    (request.inputs.len() == inputs.len()).then_some(request)
}

/// The model and the version that a message names, without a look at the rest; `None` where they do not come first, as all
/// known clients have them, or are not what they must be.
pub(super) fn names(message: &[u8]) -> Option<(&str, Option<u64>)> {
    let (mut model, mut version) = (None, None);
    let mut fields = Fields::new(message);
    while let Some((tag, range)) = fields.next_delimited()? {
        match tag {
            1 => model = Some(text(message, range)?),
            2 => version = parse_version(text(message, range)?).ok()?,
            _ => break,
        }
    }
    Some((model?, version))
}

/// Whether a message is sure to have no parameters of its own; false where that cannot be told from its first few fields.
pub(super) fn has_no_parameters(message: &[u8]) -> bool {
    let mut fields = Fields::new(message);
    for _ in 0..FIELDS_SEEN_MAX {
        match fields.next_delimited() {
            Some(None) => return true,
            Some(Some((4, _))) | None => return false,
            Some(Some(_)) => {}
        }
    }
    false
}

/// An input without its data.
struct Input<'a> {
    name: &'a str,
    dtype: DataType,
    shape: Shape,
}

impl<'a> Input<'a> {
    fn read(message: &'a [u8], range: Range<usize>) -> Option<Input<'a>> {
        let (mut name, mut dtype, mut axes) = ("", None, SmallVec::<[usize; 4]>::new());
        let mut fields = Fields::within(message, range);
        while let Some((tag, range)) = fields.next_delimited()? {
            match tag {
                1 => name = text(message, range)?,
                2 => dtype = text(message, range)?.parse().ok(),
                3 => {
                    let mut packed = Fields::within(message, range);
                    while !packed.is_over() {
                        // A length of more than 63 bits is a negative one on the wire.
                        axes.push(usize::try_from(packed.varint()? as i64).ok()?);
                    }
                }
                _ => return None,
            }
        }
        if axes.len() > AXES_MAX {
            return None;
        }
        Some(Input { name, dtype: dtype?, shape: Shape::from(&axes[..]) })
    }

    fn with(&self, raw: Bytes) -> Option<NamedTensor> {
        let Input { name, dtype, shape } = self;
        let tensor = match dtype {
            DataType::Bytes => strings::decode(name, shape.clone(), &raw).ok()?,
            _ => Tensor::fixed(*dtype, shape.clone(), raw).ok()?,
        };
        Some(NamedTensor { name: (*name).to_owned(), tensor })
    }
}

fn output(message: &[u8], range: Range<usize>) -> Option<RequestedOutput> {
    let mut output = RequestedOutput::default();
    let mut fields = Fields::within(message, range);
    while let Some((tag, range)) = fields.next_delimited()? {
        match tag {
            1 => output.name = text(message, range)?.to_owned(),
            _ => return None,
        }
    }
    Some(output)
}

fn text(message: &[u8], range: Range<usize>) -> Option<&str> {
    std::str::from_utf8(message.get(range)?).ok()
}

/// The fields of a message, one after the other.
pub(super) struct Fields<'a> {
    message: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Fields<'a> {
        Fields { message, at: 0, end: message.len() }
    }

    pub(super) fn within(message: &'a [u8], range: Range<usize>) -> Fields<'a> {
        Fields { message, at: range.start, end: range.end }
    }

    fn is_over(&self) -> bool {
        self.at >= self.end
    }

    /// The tag of the next field and where its content lies; `Some(None)` at the end. `None` where the next field has no
    /// length, or the message is broken.
    fn next_delimited(&mut self) -> Option<Option<(u64, Range<usize>)>> {
        if self.is_over() {
            return Some(None);
        }
        let key = self.varint()?;
        if key & 7 != LENGTH_DELIMITED {
            return None;
        }
        self.delimited().map(|range| Some((key >> 3, range)))
    }

    /// The same for fields of every kind: those without a length have an empty range.
    pub(super) fn next_of_any_kind(&mut self) -> Option<Option<(u64, Range<usize>)>> {
        if self.is_over() {
            return Some(None);
        }
        let key = self.varint()?;
        let skipped = match key & 7 {
            LENGTH_DELIMITED => return self.delimited().map(|range| Some((key >> 3, range))),
            0 => {
                self.varint()?;
                0
            }
            1 => 8,
            5 => 4,
            _ => return None,
        };
        self.at = self.at.checked_add(skipped).filter(|&at| at <= self.end)?;
        Some(Some((key >> 3, 0..0)))
    }

    fn delimited(&mut self) -> Option<Range<usize>> {
        let length = usize::try_from(self.varint()?).ok()?;
        let start = self.at;
        self.at = start.checked_add(length).filter(|&end| end <= self.end)?;
        Some(start..self.at)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.message[..self.end].get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                // The tenth byte has room for one bit.
                return (shift < 63 || byte <= 1).then_some(value);
            }
        }
        None
    }
}

/// The answer as a framed message: the model's name as the client sent it, its version, the client's id, and the outputs as
/// raw contents. `None` where it is too large for a frame.
pub(super) fn write<'a>(
    model: &str,
    version: &str,
    id: &str,
    outputs: impl Iterator<Item = (&'a str, &'a Tensor)> + Clone,
) -> Option<Bytes> {
    let names = [(1, model), (2, version), (3, id)];
    let output_length = |(name, tensor): (&str, &Tensor)| {
        delimited_bytes(output_bytes(name, tensor)) + delimited_bytes(raw_bytes(tensor))
    };
    let length = names.iter().map(|(_, text)| text_bytes(text)).sum::<usize>()
        + outputs.clone().map(output_length).sum::<usize>();
    let mut buffer = Vec::with_capacity(wire::PREFIX_BYTES + length);
    buffer.extend_from_slice(&wire::prefix(false, u32::try_from(length).ok()?));
    for (tag, text) in names {
        write_text(tag, text, &mut buffer);
    }
    for (name, tensor) in outputs.clone() {
        write_head(5, output_bytes(name, tensor), &mut buffer);
        write_text(1, name, &mut buffer);
        write_text(2, tensor.dtype().name(), &mut buffer);
        if !tensor.shape().is_empty() {
            write_head(3, shape_bytes(tensor.shape()), &mut buffer);
            tensor.shape().iter().for_each(|&axis| encode_varint(axis as u64, &mut buffer));
        }
    }
    for (_, tensor) in outputs {
        write_head(6, raw_bytes(tensor), &mut buffer);
        match tensor.as_strings() {
            Some(elements) => strings::write(elements, &mut buffer),
            None => buffer.extend_from_slice(tensor.bytes().map_or(&[], |bytes| bytes)),
        }
    }
    Some(Bytes::from(buffer))
}

/// Bytes of a tensor as raw contents.
fn raw_bytes(tensor: &Tensor) -> usize {
    tensor.as_strings().map_or_else(|| tensor.size(), strings::encoded_len)
}

fn output_bytes(name: &str, tensor: &Tensor) -> usize {
    let shape = if tensor.shape().is_empty() { 0 } else { delimited_bytes(shape_bytes(tensor.shape())) };
    text_bytes(name) + text_bytes(tensor.dtype().name()) + shape
}

fn shape_bytes(shape: &Shape) -> usize {
    shape.iter().map(|&axis| encoded_len_varint(axis as u64)).sum()
}

/// Bytes of a text field; an empty one is left out.
fn text_bytes(text: &str) -> usize {
    if text.is_empty() { 0 } else { delimited_bytes(text.len()) }
}

/// Bytes of a field with so many bytes of content. Tags below 16 take one byte.
fn delimited_bytes(content: usize) -> usize {
    1 + encoded_len_varint(content as u64) + content
}

/// The key and the length of a field. Tags are below 16.
fn write_head(tag: u8, length: usize, buffer: &mut Vec<u8>) {
    let key = tag << 3 | LENGTH_DELIMITED as u8;
    match length {
        0..0x80 => buffer.extend_from_slice(&[key, length as u8]),
        _ => {
            buffer.push(key);
            encode_varint(length as u64, buffer);
        }
    }
}

fn write_text(tag: u8, text: &str, buffer: &mut Vec<u8>) {
    if !text.is_empty() {
        write_head(tag, text.len(), buffer);
        buffer.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use prost::Message;
    use tiltyard_proto::inference as pb;

    use super::super::convert::{self, raw};
    use super::*;

    /// What the generated code makes of a message.
    fn by_generated(message: &Bytes) -> Option<InferRequest> {
        let decoded = pb::ModelInferRequest::decode(message.clone()).ok()?;
        let version = parse_version(&decoded.model_version).ok()?;
        convert::request(decoded, version).ok()
    }

    fn input() -> impl Strategy<Value = (pb::model_infer_request::InferInputTensor, Bytes)> {
        let dtype = prop_oneof![Just("FP32"), Just("INT64"), Just("BOOL"), Just("BYTES"), Just("FP99")];
        ("[a-z]{0,6}", dtype, vec(-1..4i64, 0..4), vec(0..2u8, 0..70), any::<bool>()).prop_map(
            |(name, datatype, shape, mut raw, fits)| {
                let elements: i64 = shape.iter().product();
                let width = datatype.parse::<DataType>().ok().and_then(|dtype| dtype.width()).unwrap_or(4);
                if fits && elements >= 0 {
                    raw.resize(elements as usize * width, 0);
                }
                let datatype = datatype.to_owned();
                let input = pb::model_infer_request::InferInputTensor { name, datatype, shape, ..Default::default() };
                (input, Bytes::from(raw))
            },
        )
    }

    fn message() -> impl Strategy<Value = pb::ModelInferRequest> {
        let version = prop_oneof![4 => Just(String::new()), 2 => Just("3".to_owned()), 1 => Just("x".to_owned())];
        (".{0,9}", version, ".{0,9}", vec(input(), 0..3), vec("[a-z]{0,4}", 0..3), 0..8u8).prop_map(
            |(model_name, model_version, id, inputs, outputs, odd)| {
                let (inputs, mut raw_input_contents): (Vec<_>, Vec<_>) = inputs.into_iter().unzip();
                let output = |name| pb::model_infer_request::InferRequestedOutputTensor { name, ..Default::default() };
                let outputs = outputs.into_iter().map(output).collect();
                let mut request =
                    pb::ModelInferRequest { model_name, model_version, id, inputs, outputs, ..Default::default() };
                if odd == 0 {
                    raw_input_contents.pop();
                }
                if odd == 1 {
                    let yes = pb::InferParameter {
                        parameter_choice: Some(pb::infer_parameter::ParameterChoice::BoolParam(true)),
                    };
                    request.parameters.insert("anything".to_owned(), yes);
                }
                pb::ModelInferRequest { raw_input_contents, ..request }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_the_generated_code_reads(message in message()) {
            let bytes = Bytes::from(message.encode_to_vec());
            let expected = by_generated(&bytes);
            if let (Some(expected), Some(named)) = (&expected, names(&bytes)) {
                prop_assert_eq!(named, (expected.model.as_str(), expected.version));
            }
            if has_no_parameters(&bytes) {
                prop_assert!(message.parameters.is_empty());
            } else {
                prop_assert!(!message.parameters.is_empty() || bytes.len() > FIELDS_SEEN_MAX);
            }
            match read(&bytes) {
                Some(request) => prop_assert_eq!(Some(request), expected),
                // Left to the generated code: only for what it refuses, or for what is not here.
                None => prop_assert!(expected.is_none() || !message.parameters.is_empty() || message.raw_input_contents.is_empty()),
            }
        }

        #[test]
        fn broken_messages_are_read_alike(message in message(), at in any::<usize>(), byte in any::<u8>(), cut in any::<bool>()) {
            let mut bytes = message.encode_to_vec();
            if !bytes.is_empty() {
                let at = at % bytes.len();
                bytes[at] = byte;
                if cut {
                    bytes.truncate(at);
                }
            }
            let bytes = Bytes::from(bytes);
            if let Some(request) = read(&bytes) {
                let seen = names(&bytes);
                prop_assert!(seen.is_none_or(|seen| seen == (request.model.as_str(), request.version)));
                prop_assert_eq!(Some(request), by_generated(&bytes));
            }
        }

        #[test]
        fn what_is_written_is_what_the_generated_code_writes(
            (model, id) in (".{0,200}", ".{0,9}"),
            outputs in vec(("[a-z]{0,6}", vec(0..300usize, 0..4), any::<bool>()), 0..3),
        ) {
            let outputs: Vec<NamedTensor> = outputs.into_iter().map(|(name, axes, strings)| {
                let shape = Shape::from(&axes[..axes.len().min(2)]);
                let elements = shape.elements().unwrap_or(0);
                let tensor = match strings {
                    true => Tensor::strings(shape, vec![Bytes::from_static(b"ab"); elements]),
                    false => Tensor::fixed(DataType::Uint8, shape, vec![7; elements]),
                };
                NamedTensor { name, tensor: tensor.unwrap() }
            }).collect();
            let message = pb::ModelInferResponse {
                model_name: model.clone(),
                model_version: "12".to_owned(),
                id: id.clone(),
                outputs: outputs.iter().map(|NamedTensor { name, tensor }| pb::model_infer_response::InferOutputTensor {
                    name: name.clone(),
                    datatype: tensor.dtype().name().to_owned(),
                    shape: tensor.shape().iter().map(|&axis| axis as i64).collect(),
                    ..Default::default()
                }).collect(),
                raw_output_contents: outputs.iter().map(|output| raw(&output.tensor)).collect(),
                ..Default::default()
            };
            let outputs = outputs.iter().map(|output| (output.name.as_str(), &output.tensor));
            prop_assert_eq!(write(&model, "12", &id, outputs), wire::frame(&message).ok());
        }
    }

    #[test]
    fn an_empty_message_has_no_inputs() {
        assert_eq!(read(&Bytes::new()), by_generated(&Bytes::new()));
        assert_eq!(read(&Bytes::from_static(&[0x08, 0])), None, "a number where a name is expected");
        let named_later = Bytes::from_static(b"\x0a\x01a\x1a\x01i\x0a\x01b");
        assert_eq!(names(&named_later), Some(("a", None)));
        assert_eq!(
            (read(&named_later), by_generated(&named_later).map(|read| read.model)),
            (None, Some("b".to_owned()))
        );
    }
}
