//! What must hold for whatever bytes a decoder is given? That it does not panic, that what it accepted it can write and
//! read again, and that a server answers without blaming itself.
//!
//! libFuzzer calls these functions, and so does the test `noise`, which includes this file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, Version};
use http_body_util::Full;
use prost::Message;
use sha2::{Digest, Sha256};
use tiltyard_capture::Record;
use tiltyard_proto::inference::ModelInferRequest;
use tiltyard_proto::inference::model_infer_request::InferInputTensor;
use tiltyard_registry::book::Fact;
use tiltyard_registry::{Entry, Lines};
use tiltyard_runtime::engine::{CompileOptions, Engine, EngineError, ModelFile};
use tiltyard_runtime::{golden, onnx, repository::pbtxt};
use tiltyard_server::config::{Algorithm, Config};
use tiltyard_server::endpoints::file::{self, Said};
use tiltyard_server::local::Local;
use tiltyard_server::locks::certificate::ClientCertificate;
use tiltyard_server::locks::jwks::Keys;
use tiltyard_server::locks::jwt::{self, Expected};
use tiltyard_server::locks::list::List;
use tiltyard_server::rollouts::begin;
use tiltyard_server::rollouts::feedback::line;
use tiltyard_server::traces::{Trace, context};
use tiltyard_types::json::{NonFinite, Reader, read_data, read_tensor, write_data};
use tiltyard_types::{DataType, Dim, Shape, Tensor, TensorSpec};

/// A reader of bytes from outside.
pub(crate) struct Decoder {
    /// Its name, and that of its folder of seeds.
    pub(crate) name: &'static str,
    /// Panics where a promise is broken.
    pub(crate) read: fn(&[u8]),
    /// Whether a model runs behind it, so that a call costs a thousand times more. libFuzzer does not ask.
    #[allow(dead_code)]
    pub(crate) is_served: bool,
}

/// All of them.
pub(crate) const DECODERS: &[Decoder] = &[
    Decoder { name: "json", read: json, is_served: false },
    Decoder { name: "golden", read: golden, is_served: false },
    Decoder { name: "pbtxt", read: config_pbtxt, is_served: false },
    Decoder { name: "onnx", read: onnx_facts, is_served: false },
    Decoder { name: "access", read: access_file, is_served: false },
    Decoder { name: "keys", read: key_set, is_served: false },
    Decoder { name: "token", read: web_token, is_served: false },
    Decoder { name: "certificate", read: client_certificate, is_served: false },
    Decoder { name: "log", read: log_lines, is_served: false },
    Decoder { name: "record", read: record, is_served: false },
    Decoder { name: "fact", read: fact, is_served: false },
    Decoder { name: "mlmodel", read: mlmodel, is_served: false },
    Decoder { name: "feedback", read: feedback_line, is_served: false },
    Decoder { name: "endpoint", read: endpoint_file, is_served: false },
    Decoder { name: "traceparent", read: traceparent, is_served: false },
    Decoder { name: "classical", read: classical_model, is_served: true },
    Decoder { name: "rest", read: rest_infer, is_served: true },
    Decoder { name: "score", read: score_rows, is_served: true },
    Decoder { name: "grpc", read: grpc_infer, is_served: true },
    Decoder { name: "strings", read: strings, is_served: true },
];

/// A tensor in JSON; one that is accepted is the same after it was written and read again.
fn json(data: &[u8]) {
    let mut reader = Reader::new(data);
    let read = read_tensor(&mut reader, &|_| None);
    // What is no JSON must be so to the part that skips, too.
    let mut skipping = Reader::new(data);
    if read.is_ok() {
        assert!(skipping.skip_value().is_ok(), "what was read cannot be skipped");
        assert_eq!(skipping.offset(), reader.offset(), "reading and skipping end apart");
    }
    let Some(tensor) = read.ok().and_then(|text| text.data) else { return };
    let mut written = Vec::new();
    // All strings of JSON are UTF-8, so nothing can fail here.
    write_data(&tensor, &mut written, NonFinite::Bare).expect("what came from JSON can be written as it");
    let again = read_data(&mut Reader::new(&written), tensor.dtype(), tensor.shape());
    assert_eq!(again.as_ref(), Ok(&tensor), "{}", String::from_utf8_lossy(&written));
}

fn golden(data: &[u8]) {
    drop(golden::parse("golden/a.json", data));
}

fn config_pbtxt(data: &[u8]) {
    drop(pbtxt::parse(&String::from_utf8_lossy(data)));
}

fn onnx_facts(data: &[u8]) {
    drop(onnx::Graph::read(&Bytes::copy_from_slice(data)));
}

/// A fact of the registry, its kind in the first line: one that is read is the same after it was written and read again.
fn fact(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (kind, said) = text.split_once('\n').unwrap_or((&text, ""));
    let Some(Ok(fact)) = Fact::read(kind, said) else { return };
    let written = serde_json::to_string(&fact).expect("a fact is JSON");
    let again = Fact::read(fact.kind(), &written);
    assert_eq!(again, Some(Ok(fact)), "{written}");
}

/// What MLflow says of a model.
fn mlmodel(data: &[u8]) {
    drop(tiltyard_registry::mlflow::folder::Model::read(&String::from_utf8_lossy(data)));
}

/// A model of trees and what goes with them; one that compiles takes rows and gives what its signature says.
fn classical_model(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let Ok(graph) = onnx::Graph::read(&bytes) else { return };
    let file = ModelFile { path: "model.onnx".into(), bytes, external: BTreeMap::new(), graph };
    let Ok(model) = tiltyard_classical::engine().compile(&file, &CompileOptions::default()) else { return };
    let (inputs, outputs) = (&model.signature().inputs, &model.signature().outputs);
    let Some(asked) = inputs.iter().map(|spec| rows(spec).map(Some)).collect::<Option<Vec<_>>>() else { return };
    let wanted: Vec<usize> = (0..outputs.len()).collect();
    let answered = model.open().and_then(|mut session| session.run(&asked, &wanted));
    assert!(!matches!(answered, Err(EngineError::Panicked(_))), "{answered:?}");
    for (spec, tensor) in outputs.iter().zip(answered.iter().flatten()) {
        assert_eq!(spec.dtype, tensor.dtype(), "output {:?}", spec.name);
    }
}

/// Three rows of what the input takes, unless they are large.
fn rows(spec: &TensorSpec) -> Option<Tensor> {
    let length = |dim: &Dim| if let Dim::Fixed(length) = dim { *length } else { 3 };
    let lengths: Vec<usize> = spec.dims.as_ref()?.iter().map(length).collect();
    let count =
        lengths.iter().try_fold(1usize, |count, &length| count.checked_mul(length)).filter(|&count| count < 4096)?;
    let shape = Shape::from(lengths.as_slice());
    let made = match spec.dtype {
        DataType::Bytes => Tensor::strings(shape, vec![Bytes::from_static(b"red"); count]),
        dtype => Tensor::fixed(dtype, shape, vec![0; count * dtype.width()?]),
    };
    Some(made.expect("as many elements as the shape has").aligned())
}

/// What is said of a row.
fn feedback_line(data: &[u8]) {
    drop(line::read(data, 1_800_000_000_000));
}

/// What a file says of an endpoint: a plan, or versions that are to compete. Whoever says the same in other words means the same,
/// and what competes can be rehearsed or is refused.
fn endpoint_file(data: &[u8]) {
    let Ok(said) = file::read(&String::from_utf8_lossy(data), Some("risk")) else { return };
    let written = match &said {
        Said::Plan(plan) => file::write(plan),
        Said::Rollout(declared) => {
            if let Ok(plan) = begin::rehearse(&declared.endpoint, &declared.written) {
                assert_eq!(plan.validate(), Ok(()), "what was rehearsed cannot begin");
            }
            declared.says.clone()
        }
    };
    let again = file::read(&written.to_string(), Some("risk"));
    assert_eq!(again.map(|again| again.digest()), Ok(said.digest()), "{written}");
}

/// A trace's name from a caller; one that is taken is written as it came, but for what later versions may add.
fn traceparent(data: &[u8]) {
    let Ok(value) = http::HeaderValue::from_bytes(data) else { return };
    let Some(parent) =
        context::read(&http::HeaderMap::from_iter([(http::HeaderName::from_static("traceparent"), value)]))
    else {
        return;
    };
    let text = data.trim_ascii();
    let written = context::written(&Trace { id: parent.trace, span: parent.span, parent: 0 });
    assert_eq!(text[2..53], written.as_bytes()[2..53], "another trace was read");
    assert_eq!(
        parent.is_sampled,
        u8::from_str_radix(&String::from_utf8_lossy(&text[53..55]), 16).unwrap_or(0) % 2 == 1
    );
}

/// The list of who may do what.
fn access_file(data: &[u8]) {
    drop(List::parse(&String::from_utf8_lossy(data)));
}

/// A provider's keys.
fn key_set(data: &[u8]) {
    drop(Keys::parse(data));
}

/// A JSON web token as it comes; and as claims alone, since no noise gets past a signature.
fn web_token(data: &[u8]) {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    let keys = KEYS.get_or_init(|| {
        let coordinate = "A".repeat(43);
        let key = format!(r#"{{"keys": [{{"kty": "EC", "crv": "P-256", "x": "{coordinate}", "y": "{coordinate}"}}]}}"#);
        Keys::parse(key.as_bytes()).expect("a set with a key")
    });
    let expected = Expected {
        issuer: "https://login".to_owned(),
        audiences: vec!["tiltyard".to_owned()],
        algorithms: vec![Algorithm::Es256],
        groups_claim: "realm_access.roles".to_owned(),
    };
    let read = jwt::read(&String::from_utf8_lossy(data), &expected, keys, 0);
    assert!(read.is_err(), "a token that nobody signed was taken");
    if let Ok(claims) = serde_json::from_slice(data) {
        drop(jwt::check(&claims, &expected, 1_800_000_000));
    }
}

/// A certificate, as one comes out of a handshake.
fn client_certificate(data: &[u8]) {
    drop(ClientCertificate::read(&data.into()));
}

/// A segment of a log as it comes; and as what is hashed of one line, since no noise gets past a hash.
fn log_lines(data: &[u8]) {
    let mut lines = Lines::new(data, "noise", None);
    let mut before = None;
    for entry in lines.by_ref().map_while(Result::ok) {
        let head = entry.head();
        assert!(before.is_none_or(|sequence: u64| sequence + 1 == head.sequence), "a gap was not seen");
        before = Some(head.sequence);
    }
    assert!(lines.unfinished() <= data.len() as u64, "more is left than there was");

    let body = data.strip_suffix(b"\n").unwrap_or(data);
    let hash: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
    let line = [b"{\"hash\":\"", hash.as_bytes(), b"\",", body].concat();
    if let Ok(Entry { sequence, time_ms, kind, data, previous, .. }) = Entry::read(&line) {
        let written =
            format!(r#""prev":"{previous}","seq":{sequence},"time_ms":{time_ms},"kind":"{kind}","data":{data}}}"#);
        assert_eq!(body, written.as_bytes(), "one entry has two forms");
    }
}

/// What is captured of a request; one that is accepted has these bytes and no others, and so has each row of it.
fn record(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let Ok(read) = Record::read(&bytes) else { return };
    let mut written = Vec::new();
    read.write(&mut written);
    assert_eq!(written, data, "one record has two forms");
    for row in 0..read.rows.min(8) {
        written.clear();
        read.row(row).write(&mut written);
        assert!(Record::read(&Bytes::copy_from_slice(&written)).is_ok(), "a row is no record");
    }
}

/// The sample models, on the engine that is always there.
fn server() -> &'static Local {
    static SERVER: OnceLock<Local> = OnceLock::new();
    SERVER.get_or_init(|| {
        let config = Config {
            models: Path::new(env!("CARGO_MANIFEST_DIR")).join("../models"),
            engines: vec!["tract".to_owned()],
            data_dir: std::env::temp_dir().join("tiltyard-noise"),
            ..Config::default()
        };
        Local::start(&config).expect("the sample models load")
    })
}

/// The first line names the model and, if any, the header that says where JSON ends; the rest is the body.
fn rest_infer(data: &[u8]) {
    let end = data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len());
    let (head, body) = (String::from_utf8_lossy(&data[..end]), data.get(end + 1..).unwrap_or_default());
    let mut words = head.split(' ');
    let path = format!("/v2/models/{}/infer", words.next().unwrap_or_default());
    let mut request = Request::post(path);
    for (header, value) in ["inference-header-content-length", "content-encoding"].into_iter().zip(words) {
        if value != "-" {
            request = request.header(header, value);
        }
    }
    answer_rest(request, body);
}

fn score_rows(data: &[u8]) {
    answer_rest(Request::post("/v1/models/risk/score"), data);
}

fn answer_rest(request: http::request::Builder, body: &[u8]) {
    // Heads that no HTTP parser lets through are not of interest here.
    let Ok(request) = request.body(Full::new(Bytes::copy_from_slice(body))) else { return };
    let response = server().answer(request).expect("an answer");
    let status = response.status();
    let body = String::from_utf8_lossy(&response.into_body().to_bytes()).into_owned();
    assert_ne!(status, 500, "{body}");
}

/// An inference message; gRPC's framing is ours.
fn grpc_infer(data: &[u8]) {
    let mut framed = BytesMut::with_capacity(5 + data.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(data.len()).expect("noise is short"));
    framed.put_slice(data);
    let request = Request::post("/inference.GRPCInferenceService/ModelInfer")
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(framed.freeze()))
        .expect("the head is right");
    let response = server().answer(request).expect("an answer");
    let trailers = response.body().trailers().cloned().unwrap_or_default();
    let status = |map: &http::HeaderMap| map.get("grpc-status").map(|status| status.as_bytes().to_vec());
    let code = status(response.headers()).or_else(|| status(&trailers)).expect("every answer has a status");
    // 2 is UNKNOWN, 13 is INTERNAL: never what is said of a client's mistake.
    assert!(code != b"2" && code != b"13", "{:?} {trailers:?}", response.headers());
}

/// BYTES elements in binary, in a message that is right otherwise.
fn strings(data: &[u8]) {
    let shape = i64::from(data.first().copied().unwrap_or(0) % 8);
    let message = ModelInferRequest {
        model_name: "risk".to_owned(),
        inputs: vec![InferInputTensor {
            name: "features".to_owned(),
            datatype: "BYTES".to_owned(),
            shape: vec![shape],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![Bytes::copy_from_slice(data.get(1..).unwrap_or_default())],
        ..ModelInferRequest::default()
    };
    grpc_infer(&message.encode_to_vec());
}
