//! What must hold for whatever bytes a decoder is given? That it does not panic, that what it accepted it can write and
//! read again, and that a server answers without blaming itself.
//!
//! libFuzzer calls these functions, and so does the test `noise`, which includes this file.

use std::path::Path;
use std::sync::OnceLock;

use bytes::Bytes;
use tiltyard_runtime::{golden, onnx, repository::pbtxt};
use tiltyard_server::config::Config;
use tiltyard_server::local::Local;
use tiltyard_types::json::{NonFinite, Reader, read_data, read_tensor, write_data};

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
    Decoder { name: "rest", read: rest_infer, is_served: true },
    Decoder { name: "score", read: score_rows, is_served: true },
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

/// The first line names the model; the rest is the body.
fn rest_infer(data: &[u8]) {
    let end = data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len());
    let (head, body) = (String::from_utf8_lossy(&data[..end]), data.get(end + 1..).unwrap_or_default());
    answer_rest(&format!("/v2/models/{}/infer", head.split(' ').next().unwrap_or_default()), body);
}

fn score_rows(data: &[u8]) {
    answer_rest("/v1/models/risk/score", data);
}

fn answer_rest(path: &str, body: &[u8]) {
    // Paths that no HTTP parser lets through are not of interest here.
    let Ok((status, body)) = server().call("POST", path, body.to_vec()) else { return };
    assert_ne!(status, 500, "{}", String::from_utf8_lossy(&body));
}
