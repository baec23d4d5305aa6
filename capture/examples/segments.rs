//! What do segments look like? Writes a small capture into the folder that is named, for `readers/check.py` and for people.
//!
//! `cargo run --release -p tiltyard-capture --example segments -- FOLDER`
#![allow(clippy::print_stdout, reason = "it says what it wrote")]

use std::path::Path;

use tiltyard_capture::{Capture, Field, Form, Layout, Limits, Outcome, Record, Value};
use tiltyard_types::{DataType, Digest, ErrorKind, RequestId, Shape, Tensor, TensorError};

/// Noon on 29 November 2025, in microseconds.
const NOON_US: u64 = 1_764_417_600_000_000;
const REQUESTS: u64 = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: segments FOLDER")?;
    let capture = Capture::open(Path::new(&folder), &Limits { ring_bytes: 4 << 20, ..Limits::default() })?;
    let field = |name: &str, dtype, axes, form| Field { name: name.into(), dtype, axes, form };
    let layout = capture.note(Layout {
        inputs: vec![
            field("features", DataType::Fp32, 2, Form::Columns(vec!["age".into(), "income".into()])),
            field("country", DataType::Bytes, 1, Form::One),
            field("tokens", DataType::Int64, 2, Form::List),
        ],
        outputs: vec![field("score", DataType::Fp64, 1, Form::One), field("is_fraud", DataType::Bool, 1, Form::One)],
        headers: vec!["x-tenant".into()],
        is_sealed: false,
    })?;
    for request in 0..REQUESTS {
        // From ten in the evening on, a little more than two hours: there are two days.
        let unix_us = NOON_US + 36_000_000_000 + request * 8_000_000;
        offer(&capture, request, unix_us, layout)?;
    }
    let drained = capture.flush(NOON_US + 86_400_000_000)?;
    println!("{} rows in {} segments below {folder}/segments", drained.rows, drained.segments.len());
    Ok(())
}

/// A request of two rows; every tenth fails.
fn offer(capture: &Capture, request: u64, unix_us: u64, layout: u64) -> Result<(), TensorError> {
    let age = request as f32;
    let features = Tensor::from_slice([2, 2], &[age, f32::NAN, age + 0.5, 2000.0])?;
    let country = Tensor::strings(Shape::from([2]), vec!["GB".into(), "Zürich".into()])?;
    let tokens = Tensor::from_slice([2, 3], &[1i64, -2, i64::MAX, 4, 5, 6])?;
    let score = Tensor::from_slice([2], &[0.25f64, f64::INFINITY])?;
    let is_fraud = Tensor::fixed(DataType::Bool, Shape::from([2]), vec![1, 0])?;
    let has_failed = request % 10 == 9;
    let outputs = match has_failed {
        true => vec![],
        false => vec![Value::of("score", &score), Value::of("is_fraud", &is_fraud)],
    };
    let record = Record {
        request: RequestId::from_bits(u128::from(request)),
        rows: 2,
        first_row: 0,
        unix_us,
        latency_ns: 1000 * request,
        endpoint: "risk/eu".into(),
        model: "risk".into(),
        version: 3,
        digest: Digest::new([7; 32]),
        arm: if request.is_multiple_of(2) { "champion".into() } else { "challenger".into() },
        key: request.is_multiple_of(3).then_some(request),
        layout,
        outcome: match has_failed {
            true => Outcome::Failed(ErrorKind::Engine, "it broke".into()),
            false => Outcome::Answered,
        },
        headers: vec![("x-tenant".into(), request.is_multiple_of(2).then(|| "blue".into()))],
        inputs: vec![Value::of("features", &features), Value::of("country", &country), Value::of("tokens", &tokens)],
        outputs,
        subjects: vec![],
    };
    if let Err(reason) = capture.offer(&record) {
        println!("request {request} was dropped: {}", reason.name());
    }
    Ok(())
}
