//! How many parts may an inference message have?
//!
//! An input takes two bytes on the wire and hundreds in memory, so that a message within the limit of bytes could ask for
//! gigabytes. Parts are counted before any is made.

use std::ops::Range;

use tiltyard_types::{Error, Result};

use super::quick::Fields;

/// Inputs, outputs, buffers and parameters of one message, together.
pub(super) const PARTS_MAX: usize = 4096;

/// Fails with TOO_LARGE where the message has more parts. One that is broken is left to who decodes it.
pub(super) fn check(message: &[u8]) -> Result<()> {
    let mut parts = 0;
    let mut fields = Fields::new(message);
    while let Some(Some((tag, range))) = fields.next_of_any_kind() {
        parts += match tag {
            // Parameters, outputs (with parameters of their own) and buffers.
            4 | 7 => 1,
            5 | 6 => 1 + nested(message, range, if tag == 5 { 4 } else { 2 }),
            _ => 0,
        };
        if parts > PARTS_MAX {
            return Err(Error::too_large(format!(
                "the message has more than {PARTS_MAX} inputs, outputs, buffers and parameters together"
            )));
        }
    }
    Ok(())
}

/// Parameters of one input or output.
fn nested(message: &[u8], range: Range<usize>, parameters: u64) -> usize {
    let mut count = 0;
    let mut fields = Fields::within(message, range);
    while let Some(Some((tag, _))) = fields.next_of_any_kind() {
        count += usize::from(tag == parameters);
    }
    count
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use tiltyard_proto::inference as pb;
    use tiltyard_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};

    use super::*;

    fn parameters(count: usize) -> std::collections::BTreeMap<String, pb::InferParameter> {
        (0..count).map(|number| (number.to_string(), pb::InferParameter::default())).collect()
    }

    #[test]
    fn parts_of_all_kinds_are_counted() {
        let half = PARTS_MAX / 2;
        let check = |message: pb::ModelInferRequest, fits: bool| {
            assert_eq!(check(&message.encode_to_vec()).is_ok(), fits);
        };
        let inputs = |count| vec![InferInputTensor::default(); count];
        let outputs = |count| vec![InferRequestedOutputTensor::default(); count];
        check(pb::ModelInferRequest { inputs: inputs(half), outputs: outputs(half), ..Default::default() }, true);
        check(pb::ModelInferRequest { inputs: inputs(half), outputs: outputs(half + 1), ..Default::default() }, false);
        check(pb::ModelInferRequest { parameters: parameters(PARTS_MAX + 1), ..Default::default() }, false);
        check(
            pb::ModelInferRequest { raw_input_contents: vec![Default::default(); PARTS_MAX + 1], ..Default::default() },
            false,
        );
        let input = InferInputTensor { parameters: parameters(PARTS_MAX), ..Default::default() };
        check(pb::ModelInferRequest { inputs: vec![input], ..Default::default() }, false);
        let output = InferRequestedOutputTensor { parameters: parameters(PARTS_MAX), ..Default::default() };
        check(pb::ModelInferRequest { outputs: vec![output], ..Default::default() }, false);
        // Data is no part: a shape and numbers may be as long as they like here.
        let contents = pb::InferTensorContents { fp32_contents: vec![0.5; 100_000], ..Default::default() };
        let input = InferInputTensor { shape: vec![1; 10_000], contents: Some(contents), ..Default::default() };
        check(pb::ModelInferRequest { inputs: vec![input], ..Default::default() }, true);
    }

    #[test]
    fn what_is_broken_is_for_who_decodes() {
        for message in [&b"\xff"[..], b"\x2a\xff", b"\x2b", b"", b"\x2d\x00"] {
            assert!(check(message).is_ok());
        }
    }
}
