//! Is an answer under load the answer that the request gets alone?
//!
//! Names, kinds and shapes must be equal, and so must whole numbers. Floats may differ by what another order of summing
//! does: rows of strangers in one run, or padding.

use bytes::Bytes;
use prost::Message;
use serde_json::Value;
use tiltyard_proto::inference as pb;

use crate::payload::Protocol;

/// What floats may differ by: this, and this part of their size.
const ABSOLUTE: f64 = 1e-4;
const RELATIVE: f64 = 1e-3;

/// Says what differs, in a few words; `None` where nothing does.
pub(crate) fn difference(protocol: Protocol, expected: &[u8], actual: &[u8]) -> Option<&'static str> {
    let same = match protocol {
        Protocol::Grpc | Protocol::GrpcTyped => match (message(expected), message(actual)) {
            (Some(expected), Some(actual)) => same_message(&expected, &actual),
            _ => return Some("the answer is no message"),
        },
        Protocol::Json | Protocol::Http => match (parts(expected), parts(actual)) {
            (Some((expected, expected_tail)), Some((actual, actual_tail))) => {
                same_json(&expected, &actual) && same_tails(&expected, expected_tail, actual_tail)
            }
            _ => return Some("the answer is no JSON"),
        },
    };
    (!same).then_some("another answer than alone")
}

fn close(expected: f64, actual: f64) -> bool {
    (expected - actual).abs() <= ABSOLUTE + RELATIVE * expected.abs() || (expected.is_nan() && actual.is_nan())
}

/// Raw contents of a kind; of all kinds only FP32 has a tolerance.
fn same_raw(kind: &str, expected: &[u8], actual: &[u8]) -> bool {
    if kind != "FP32" {
        return expected == actual;
    }
    let floats = |bytes: &[u8]| -> Vec<f64> {
        let (chunks, _) = bytes.as_chunks::<4>();
        chunks.iter().map(|chunk| f64::from(f32::from_le_bytes(*chunk))).collect()
    };
    let pairs = || floats(expected).into_iter().zip(floats(actual));
    expected.len() == actual.len() && pairs().all(|(expected, actual)| close(expected, actual))
}

/// The message behind gRPC's prefix.
fn message(body: &[u8]) -> Option<pb::ModelInferResponse> {
    pb::ModelInferResponse::decode(Bytes::copy_from_slice(body.get(5..)?)).ok()
}

fn same_message(expected: &pb::ModelInferResponse, actual: &pb::ModelInferResponse) -> bool {
    let mut raw = expected.outputs.iter().zip(expected.raw_output_contents.iter().zip(&actual.raw_output_contents));
    expected.outputs == actual.outputs
        && expected.raw_output_contents.len() == actual.raw_output_contents.len()
        && raw.all(|(output, (expected, actual))| same_raw(&output.datatype, expected, actual))
}

/// The JSON of an answer, and the binary tensors behind it.
fn parts(body: &[u8]) -> Option<(Value, &[u8])> {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    let value = values.next()?.ok()?;
    Some((value, &body[values.byte_offset()..]))
}

fn same_json(expected: &Value, actual: &Value) -> bool {
    match (expected, actual) {
        (Value::Number(expected), Value::Number(actual)) => match (expected.as_i64(), actual.as_i64()) {
            (Some(expected), Some(actual)) => expected == actual,
            _ => expected.as_f64().zip(actual.as_f64()).is_some_and(|(expected, actual)| close(expected, actual)),
        },
        (Value::Array(expected), Value::Array(actual)) => {
            expected.len() == actual.len()
                && expected.iter().zip(actual).all(|(expected, actual)| same_json(expected, actual))
        }
        (Value::Object(expected), Value::Object(actual)) => {
            let same =
                |(key, expected): (&String, &Value)| actual.get(key).is_some_and(|actual| same_json(expected, actual));
            expected.len() == actual.len() && expected.iter().all(same)
        }
        (expected, actual) => expected == actual,
    }
}

/// The binary tensors of outputs that say how long theirs is. The JSON parts are the same already.
fn same_tails(json: &Value, expected: &[u8], actual: &[u8]) -> bool {
    let mut rest = (expected, actual);
    for output in json["outputs"].as_array().into_iter().flatten() {
        let Some(size) = output["parameters"]["binary_data_size"].as_u64() else { continue };
        let (Some(one), Some(other)) = (rest.0.split_at_checked(size as usize), rest.1.split_at_checked(size as usize))
        else {
            return false;
        };
        if !same_raw(output["datatype"].as_str().unwrap_or_default(), one.0, other.0) {
            return false;
        }
        rest = (one.1, other.1);
    }
    rest.0.len() == rest.1.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::answer;

    /// The answer of a model with its last float moved.
    fn moved(protocol: Protocol, by: f32) -> (Bytes, Vec<u8>) {
        let (body, _) = answer(&"gbdt".parse().expect("it is known"), protocol, 1);
        let mut other = body.to_vec();
        let last = other.len() - 4;
        let value = f32::from_le_bytes(other[last..].try_into().expect("four bytes"));
        other[last..].copy_from_slice(&(value + by).to_le_bytes());
        (body, other)
    }

    #[test]
    fn rounding_is_no_difference_and_more_is() {
        for protocol in [Protocol::Grpc, Protocol::Http] {
            let (body, close) = moved(protocol, 1e-5);
            assert_eq!(difference(protocol, &body, &close), None, "{protocol}");
            let (body, far) = moved(protocol, 0.1);
            assert_eq!(difference(protocol, &body, &far), Some("another answer than alone"), "{protocol}");
        }
    }

    #[test]
    fn json_is_compared_number_by_number() {
        let check = |one: &str, other: &str| difference(Protocol::Json, one.as_bytes(), other.as_bytes());
        assert_eq!(check(r#"{"a":[1,0.5]}"#, r#"{ "a": [1, 0.50001] }"#), None);
        for other in [r#"{"a":[2,0.5]}"#, r#"{"a":[1,0.6]}"#, r#"{"a":[1]}"#, r#"{"b":[1,0.5]}"#] {
            assert_eq!(check(r#"{"a":[1,0.5]}"#, other), Some("another answer than alone"), "{other}");
        }
        assert_eq!(check("{}", "{"), Some("the answer is no JSON"));
    }

    #[test]
    fn what_is_left_out_is_a_difference() {
        for protocol in [Protocol::Grpc, Protocol::Http] {
            let (body, _) = answer(&"gbdt".parse().expect("it is known"), protocol, 1);
            assert!(difference(protocol, &body, &body[..body.len() - 4]).is_some(), "{protocol}");
            assert_eq!(difference(protocol, &body, &body), None);
        }
        let label = |value: i64| {
            let (body, _) = answer(&"gbdt".parse().expect("it is known"), Protocol::Grpc, 1);
            let mut message = message(&body).expect("it is a message");
            message.raw_output_contents[0] = value.to_le_bytes().to_vec().into();
            crate::payload::frame(&message)
        };
        assert!(difference(Protocol::Grpc, &label(1), &label(2)).is_some());
    }
}
