//! How fast are gRPC's messages read and written, and how much of it is copying?
//!
//! `cargo bench -p tiltyard-benches --bench grpc`. One line per message and contender: nanoseconds for each, and the ratio
//! to the last one in the same run, which does nothing but copy the message's bytes.
#![allow(clippy::print_stdout, reason = "the report is what a bench is for")]

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tiltyard_benches::{Contender, side_by_side};
use tiltyard_proto::inference as pb;

/// The server's own allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 21;
const SLICE: Duration = Duration::from_millis(12);

fn report(what: &str, contenders: &mut [Contender<'_>]) {
    let times = side_by_side(contenders, ROUNDS, SLICE);
    let baseline = times.last().map_or(f64::NAN, Duration::as_secs_f64);
    for (contender, time) in contenders.iter().zip(&times) {
        let seconds = time.as_secs_f64();
        println!("{what:<24} {:<26} {:>10.0} ns {:>8.2}x", contender.name, seconds * 1e9, seconds / baseline);
    }
}

/// A request with one FP32 tensor, raw or typed.
fn request(shape: &[i64], typed: bool) -> pb::ModelInferRequest {
    let count = shape.iter().product::<i64>() as usize;
    let values: Vec<f32> = (0..count).map(|number| number as f32 / count as f32).collect();
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let contents = typed.then(|| pb::InferTensorContents { fp32_contents: values, ..Default::default() });
    pb::ModelInferRequest {
        model_name: "mlp".to_owned(),
        inputs: vec![pb::model_infer_request::InferInputTensor {
            name: "features".to_owned(),
            datatype: "FP32".to_owned(),
            shape: shape.to_vec(),
            contents,
            ..Default::default()
        }],
        raw_input_contents: if typed { Vec::new() } else { vec![raw.into()] },
        ..Default::default()
    }
}

fn response(shape: &[i64]) -> pb::ModelInferResponse {
    let count = shape.iter().product::<i64>() as usize;
    pb::ModelInferResponse {
        model_name: "mlp".to_owned(),
        model_version: "1".to_owned(),
        outputs: vec![pb::model_infer_response::InferOutputTensor {
            name: "scores".to_owned(),
            datatype: "FP32".to_owned(),
            shape: shape.to_vec(),
            ..Default::default()
        }],
        raw_output_contents: vec![vec![7; count * 4].into()],
        ..Default::default()
    }
}

fn read<B: bytes::Buf>(bytes: B) -> usize {
    let request = pb::ModelInferRequest::decode(bytes).expect("the bench's message is good");
    black_box(&request).inputs.len()
}

fn bench_decode(what: &str, message: &pb::ModelInferRequest) {
    let bytes = Bytes::from(message.encode_to_vec());
    let mut contenders = [
        Contender::new("decode, tensors as slices", || read(bytes.clone())),
        Contender::new("decode, tensors copied", || read(&bytes[..])),
        Contender::new("copy", || black_box(bytes.to_vec()).len()),
    ];
    report(what, &mut contenders);
}

fn bench_encode(what: &str, message: &pb::ModelInferResponse) {
    let bytes = message.encode_to_vec();
    let mut contenders = [
        Contender::new("encode", || {
            let mut buffer = Vec::with_capacity(5 + message.encoded_len());
            buffer.extend_from_slice(&[0; 5]);
            message.encode_raw(&mut buffer);
            black_box(buffer).len()
        }),
        Contender::new("copy", || black_box(bytes.clone()).len()),
    ];
    report(what, &mut contenders);
}

fn main() {
    bench_decode("1x30, raw", &request(&[1, 30], false));
    bench_decode("1x30, typed", &request(&[1, 30], true));
    bench_decode("image, raw", &request(&[1, 3, 224, 224], false));
    bench_decode("image, typed", &request(&[1, 3, 224, 224], true));
    bench_encode("answer 1x2", &response(&[1, 2]));
    bench_encode("answer 1x1000", &response(&[1, 1000]));
}
