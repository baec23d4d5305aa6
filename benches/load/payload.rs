//! Which bytes is one request, and which bytes would answer it?
//!
//! Requests are made once, before the load; sending one copies nothing but its headers.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, TE};
use prost::Message;
use tiltyard_proto::inference as pb;

use crate::Fault;
use crate::model::{AskedModel, Lengths, ModelForm, Values};
use crate::random::Random;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const TIMEOUT: HeaderName = HeaderName::from_static("tiltyard-timeout");

/// How requests travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Protocol {
    /// gRPC with `raw_input_contents`.
    Grpc,
    /// gRPC with typed contents.
    GrpcTyped,
    /// REST with binary tensors in both directions.
    Http,
    /// REST with JSON.
    Json,
}

impl Protocol {
    const NAMES: [(&str, Protocol); 4] = [
        ("grpc", Protocol::Grpc),
        ("grpc-typed", Protocol::GrpcTyped),
        ("http", Protocol::Http),
        ("json", Protocol::Json),
    ];

    /// Whether it is gRPC and not REST.
    pub(crate) fn is_grpc(self) -> bool {
        matches!(self, Protocol::Grpc | Protocol::GrpcTyped)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Protocol::NAMES.iter().find(|(_, protocol)| protocol == self).map_or("?", |(name, _)| name);
        f.write_str(name)
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Protocol, String> {
        let found = Protocol::NAMES.iter().find(|(name, _)| *name == text).map(|(_, protocol)| *protocol);
        found.ok_or_else(|| format!("{text:?} is no protocol: expected grpc, grpc-typed, http or json"))
    }
}

/// A request, ready to be sent again and again.
#[derive(Clone, Debug)]
pub(crate) enum Prepared {
    /// Over HTTP/2: the head, and the message with its prefix.
    Grpc {
        /// Method, path and headers.
        head: Box<http::Request<()>>,
        /// The whole body.
        body: Bytes,
    },
    /// Over HTTP/1.1: all that goes on the wire.
    Http1(Bytes),
}

impl Prepared {
    /// The same request, which says that its client waits no longer than this.
    pub(crate) fn within(self, deadline: Duration) -> Prepared {
        let micros = deadline.as_micros();
        match self {
            // At most eight digits, as gRPC has it.
            Prepared::Grpc { .. } if micros < 100_000_000 => self.saying(&GRPC_TIMEOUT, &format!("{micros}u")),
            Prepared::Grpc { .. } => self.saying(&GRPC_TIMEOUT, &format!("{}S", micros / 1_000_000)),
            Prepared::Http1(_) => self.saying(&TIMEOUT, &format!("{}ms", micros as f64 / 1000.0)),
        }
    }

    /// The same request with one header more. A value that no header can hold is left out.
    pub(crate) fn saying(self, name: &HeaderName, value: &str) -> Prepared {
        match self {
            Prepared::Grpc { mut head, body } => {
                head.headers_mut().extend(HeaderValue::try_from(value).ok().map(|value| (name.clone(), value)));
                Prepared::Grpc { head, body }
            }
            Prepared::Http1(bytes) => {
                let line = memchr::memmem::find(&bytes, b"\r\n").map_or(0, |end| end + 2);
                let header = format!("{name}: {value}\r\n");
                Prepared::Http1([&bytes[..line], header.as_bytes(), &bytes[line..]].concat().into())
            }
        }
    }
}

/// One input of one request.
struct Input<'a> {
    name: &'a str,
    kind: &'static str,
    shape: Vec<usize>,
    values: Values,
}

/// Makes `count` requests that differ in their values, and in their lengths where the model has such an axis.
///
/// Each model's share is its weight, in an order drawn from the seed. Fails for an address that no URI can hold.
pub(crate) fn prepare(
    models: &[AskedModel],
    address: SocketAddr,
    protocol: Protocol,
    rows: usize,
    lengths: Lengths,
    count: usize,
) -> Result<Vec<Prepared>, Fault> {
    let mut random = Random::new(0x7117_ab1e);
    let all: u32 = models.iter().map(|model| model.weight).sum();
    (0..count)
        .map(|_| {
            let mut drawn = random.below(u64::from(all)) as u32;
            let model = models.iter().find(|model| {
                let found = drawn < model.weight;
                drawn = drawn.saturating_sub(model.weight);
                found
            });
            let model = model.ok_or("no model is asked for")?;
            let length = lengths.draw(&mut random);
            let inputs = inputs(&model.form, rows, length, &mut random);
            match protocol.is_grpc() {
                true => grpc_request(&model.name, address, &inputs, protocol == Protocol::GrpcTyped),
                false => Ok(http1_request(&model.name, address, &inputs, protocol == Protocol::Http)),
            }
        })
        .collect()
}

fn inputs<'a>(form: &'a ModelForm, rows: usize, length: usize, random: &mut Random) -> Vec<Input<'a>> {
    let input = form.inputs.iter().map(|input| {
        let shape = input.shape(rows, length);
        let values = input.values(shape.iter().product(), random);
        Input { name: &input.name, kind: input.kind.name(), shape, values }
    });
    input.collect()
}

fn grpc_request(model: &str, address: SocketAddr, inputs: &[Input<'_>], typed: bool) -> Result<Prepared, Fault> {
    let mut message = pb::ModelInferRequest { model_name: model.to_owned(), ..Default::default() };
    for input in inputs {
        let contents = typed.then(|| match &input.values {
            Values::Fp32(values) => pb::InferTensorContents { fp32_contents: values.clone(), ..Default::default() },
            Values::Int64(values) => pb::InferTensorContents { int64_contents: values.clone(), ..Default::default() },
        });
        if contents.is_none() {
            message.raw_input_contents.push(input.values.bytes().into());
        }
        message.inputs.push(pb::model_infer_request::InferInputTensor {
            name: input.name.to_owned(),
            datatype: input.kind.to_owned(),
            shape: input.shape.iter().map(|&axis| axis as i64).collect(),
            contents,
            ..Default::default()
        });
    }
    let head = http::Request::post(format!("http://{address}/inference.GRPCInferenceService/ModelInfer"))
        .version(http::Version::HTTP_2)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"))
        .body(())?;
    Ok(Prepared::Grpc { head: Box::new(head), body: frame(&message) })
}

/// A message with gRPC's prefix: uncompressed, and its length.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let mut body = BytesMut::with_capacity(5 + message.encoded_len());
    body.extend_from_slice(&[0]);
    body.extend_from_slice(&(message.encoded_len() as u32).to_be_bytes());
    body.extend_from_slice(&message.encode_to_vec());
    body.freeze()
}

fn http1_request(model: &str, address: SocketAddr, inputs: &[Input<'_>], binary: bool) -> Prepared {
    let mut tensors = Vec::new();
    let mut tail = Vec::new();
    for Input { name, kind, shape, values } in inputs {
        let content = match binary {
            true => {
                let bytes = values.bytes();
                tail.extend_from_slice(&bytes);
                format!(r#""parameters":{{"binary_data_size":{}}}"#, bytes.len())
            }
            false => format!(r#""data":{}"#, values.json()),
        };
        tensors.push(format!(r#"{{"name":"{name}","shape":{shape:?},"datatype":"{kind}",{content}}}"#));
    }
    let parameters = if binary { r#""parameters":{"binary_data_output":true},"# } else { "" };
    let json = format!(r#"{{{parameters}"inputs":[{}]}}"#, tensors.join(","));
    let kind = match binary {
        true => format!("application/octet-stream\r\ninference-header-content-length: {}", json.len()),
        false => "application/json".to_owned(),
    };
    let mut bytes = format!(
        "POST /v2/models/{model}/infer HTTP/1.1\r\nhost: {address}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{json}",
        json.len() + tail.len(),
    )
    .into_bytes();
    bytes.extend_from_slice(&tail);
    Prepared::Http1(bytes.into())
}

/// The body that answers a request for one of the benches' models: as many bytes as our own server sends.
pub(crate) fn answer(model: &AskedModel, protocol: Protocol, rows: usize) -> (Bytes, Option<usize>) {
    let mut random = Random::new(1);
    let outputs: Vec<Input<'_>> = model
        .form
        .outputs
        .iter()
        .map(|output| {
            let shape = output.shape(rows, 1);
            // Probabilities rather than whole numbers: as JSON they are as long as those of a model.
            let values = output.values(shape.iter().product(), &mut random);
            Input { name: &output.name, kind: output.kind.name(), shape, values }
        })
        .collect();
    match protocol {
        Protocol::Grpc | Protocol::GrpcTyped => (grpc_answer(&model.name, &outputs), None),
        Protocol::Http => {
            let (json, tail) = rest_answer(&model.name, &outputs, true);
            let length = json.len();
            let mut body = json.into_bytes();
            body.extend_from_slice(&tail);
            (body.into(), Some(length))
        }
        Protocol::Json => (rest_answer(&model.name, &outputs, false).0.into(), None),
    }
}

fn grpc_answer(model: &str, outputs: &[Input<'_>]) -> Bytes {
    let mut message =
        pb::ModelInferResponse { model_name: model.to_owned(), model_version: "1".to_owned(), ..Default::default() };
    for output in outputs {
        message.outputs.push(pb::model_infer_response::InferOutputTensor {
            name: output.name.to_owned(),
            datatype: output.kind.to_owned(),
            shape: output.shape.iter().map(|&axis| axis as i64).collect(),
            ..Default::default()
        });
        message.raw_output_contents.push(output.values.bytes().into());
    }
    frame(&message)
}

fn rest_answer(model: &str, outputs: &[Input<'_>], binary: bool) -> (String, Vec<u8>) {
    let mut tail = Vec::new();
    let mut tensors = Vec::new();
    for Input { name, kind, shape, values } in outputs {
        let content = match binary {
            true => {
                let bytes = values.bytes();
                tail.extend_from_slice(&bytes);
                format!(r#""parameters":{{"binary_data_size":{}}}"#, bytes.len())
            }
            false => format!(r#""data":{}"#, values.json()),
        };
        let shape = format!("{shape:?}").replace(' ', "");
        tensors.push(format!(r#"{{"name":"{name}","datatype":"{kind}","shape":{shape},{content}}}"#));
    }
    (format!(r#"{{"model_name":"{model}","model_version":"1","outputs":[{}]}}"#, tensors.join(",")), tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 80))
    }

    fn asked(text: &str) -> AskedModel {
        text.parse().expect("it is right")
    }

    const LENGTHS: Lengths = Lengths { shortest: 2, longest: 4 };

    #[test]
    fn grpc_requests_are_messages_with_a_prefix() {
        for (protocol, raw) in [(Protocol::Grpc, 1), (Protocol::GrpcTyped, 0)] {
            let prepared = prepare(&[asked("mlp")], address(), protocol, 2, LENGTHS, 3).expect("it can be made");
            assert_eq!(prepared.len(), 3);
            let Prepared::Grpc { head, body } = &prepared[0] else { panic!("not gRPC") };
            assert_eq!(head.uri().path(), "/inference.GRPCInferenceService/ModelInfer");
            assert_eq!(body[..5], [&[0u8][..], &(body.len() as u32 - 5).to_be_bytes()].concat());
            let message = pb::ModelInferRequest::decode(body.slice(5..)).expect("it is a message");
            assert_eq!((message.model_name.as_str(), message.inputs[0].shape.as_slice()), ("mlp", &[2, 30][..]));
            assert_eq!(message.raw_input_contents.len(), raw);
        }
    }

    #[test]
    fn rest_requests_say_their_lengths() {
        let prepared = prepare(&[asked("mlp")], address(), Protocol::Http, 1, LENGTHS, 1).expect("it can be made");
        let Prepared::Http1(bytes) = &prepared[0] else { panic!("not HTTP/1.1") };
        let end = memchr::memmem::find(bytes, b"\r\n\r\n").expect("it has a head") + 4;
        let head = std::str::from_utf8(&bytes[..end]).expect("it is text");
        let json_bytes = bytes.len() - end - 120;
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", bytes.len() - end)), "{head}");
        assert!(head.contains(&format!("\r\ninference-header-content-length: {json_bytes}\r\n")), "{head}");
        let json: serde_json::Value = serde_json::from_slice(&bytes[end..end + json_bytes]).expect("it is JSON");
        assert_eq!(json["inputs"][0]["parameters"]["binary_data_size"], 120);
    }

    #[test]
    fn deadlines_are_said_as_each_protocol_has_them() {
        let prepared = |protocol| prepare(&[asked("mlp")], address(), protocol, 1, LENGTHS, 1).expect("it can be made");
        let within = |protocol, ms| prepared(protocol).remove(0).within(Duration::from_millis(ms));
        for (ms, said) in [(500, "500000u"), (200_000, "200S")] {
            let Prepared::Grpc { head, .. } = within(Protocol::Grpc, ms) else { panic!("not gRPC") };
            assert_eq!(head.headers()["grpc-timeout"], said);
        }
        let Prepared::Http1(bytes) = within(Protocol::Json, 500) else { panic!("not HTTP/1.1") };
        let start = b"POST /v2/models/mlp/infer HTTP/1.1\r\ntiltyard-timeout: 500ms\r\nhost: ";
        assert!(bytes.starts_with(start), "{bytes:?}");
    }

    #[test]
    fn headers_are_added_whatever_the_protocol() {
        let name = HeaderName::from_static("x-user");
        let prepared = |protocol| prepare(&[asked("mlp")], address(), protocol, 1, LENGTHS, 1).expect("it can be made");
        let Prepared::Grpc { head, .. } = prepared(Protocol::Grpc).remove(0).saying(&name, "7") else { panic!() };
        assert_eq!(head.headers()["x-user"], "7");
        let Prepared::Http1(bytes) = prepared(Protocol::Http).remove(0).saying(&name, "7") else { panic!() };
        assert!(bytes.starts_with(b"POST /v2/models/mlp/infer HTTP/1.1\r\nx-user: 7\r\nhost: "), "{bytes:?}");
    }

    #[test]
    fn texts_have_different_lengths_and_all_inputs_of_one_the_same() {
        let prepared = prepare(&[asked("minilm")], address(), Protocol::Json, 1, LENGTHS, 32).expect("it can be made");
        let mut seen = std::collections::BTreeSet::new();
        for request in &prepared {
            let Prepared::Http1(bytes) = request else { panic!("not HTTP/1.1") };
            let end = memchr::memmem::find(bytes, b"\r\n\r\n").expect("it has a head") + 4;
            let json: serde_json::Value = serde_json::from_slice(&bytes[end..]).expect("it is JSON");
            assert_eq!(json["inputs"][0]["shape"], json["inputs"][1]["shape"]);
            seen.insert(json["inputs"][0]["shape"][1].as_u64());
        }
        assert_eq!(seen, [Some(2), Some(3), Some(4)].into());
    }

    #[test]
    fn models_have_their_shares() {
        let models = [asked("mlp"), asked("gbdt@3")];
        let prepared = prepare(&models, address(), Protocol::Json, 1, LENGTHS, 400).expect("it can be made");
        let for_gbdt = |request: &&Prepared| match request {
            Prepared::Http1(bytes) => bytes.starts_with(b"POST /v2/models/gbdt/"),
            Prepared::Grpc { .. } => false,
        };
        let share = prepared.iter().filter(for_gbdt).count();
        assert!((250..350).contains(&share), "{share} of 400");
    }

    #[test]
    fn answers_are_what_a_server_would_say() {
        let (body, length) = answer(&asked("gbdt"), Protocol::Http, 1);
        let length = length.expect("it has a JSON part");
        assert_eq!(body.len() - length, 8 + 8);
        let json: serde_json::Value = serde_json::from_slice(&body[..length]).expect("it is JSON");
        assert_eq!(json["outputs"][1]["shape"], serde_json::json!([1, 2]));
        let (body, _) = answer(&asked("mlp"), Protocol::Grpc, 1);
        let message = pb::ModelInferResponse::decode(body.slice(5..)).expect("it is a message");
        assert_eq!(message.raw_output_contents[0].len(), 8);
    }
}
