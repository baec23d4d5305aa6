//! How fast are tensors read from JSON and written as it, against serde_json on the same bytes?
//!
//! `cargo bench -p tiltyard-benches --bench json`. One line per text and contender: nanoseconds per number, and the
//! ratio to serde_json in the same run. serde_json reads the array alone; we read the whole input object, and check
//! its shape.
#![allow(clippy::print_stdout, reason = "the report is what a bench is for")]

use std::time::Duration;

use tiltyard_benches::{Contender, side_by_side};
use tiltyard_types::json::{NonFinite, Reader, read_tensor, write_data};
use tiltyard_types::{DataType, Tensor};

const ROUNDS: usize = 21;
const SLICE: Duration = Duration::from_millis(12);

/// Numbers between 0 and 1 that look random and are the same in every run.
fn uniform(count: usize) -> impl Iterator<Item = f64> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    (0..count).map(move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    })
}

/// A list as Python's `json` writes it, or without the blanks.
fn list(numbers: impl Iterator<Item = String>, separator: &str) -> String {
    format!("[{}]", numbers.collect::<Vec<_>>().join(separator))
}

fn shape_text(shape: &[usize]) -> String {
    list(shape.iter().map(usize::to_string), ",")
}

fn decode(text: &str) -> usize {
    let mut reader = Reader::new(text.as_bytes());
    let input = read_tensor(&mut reader, &|_| None).expect("the bench's text is good");
    input.data.map_or(0, |tensor| tensor.size())
}

fn report(what: &str, text_len: usize, numbers: usize, contenders: &mut [Contender<'_>]) {
    let times = side_by_side(contenders, ROUNDS, SLICE);
    let baseline = times.last().map_or(f64::NAN, Duration::as_secs_f64);
    for (contender, time) in contenders.iter().zip(&times) {
        let seconds = time.as_secs_f64();
        println!(
            "{what:<28} {:<22} {:>7.2} ns/number {:>7.0} MB/s {:>6.2}x",
            contender.name,
            seconds * 1e9 / numbers as f64,
            text_len as f64 / seconds / 1e6,
            seconds / baseline,
        );
    }
}

fn bench_decode(what: &str, dtype: DataType, shape: &[usize], data: &str) {
    let shape_text = shape_text(shape);
    let last = format!(r#"{{"name":"x","shape":{shape_text},"datatype":"{dtype}","data":{data}}}"#);
    let first = format!(r#"{{"data":{data},"name":"x","shape":{shape_text},"datatype":"{dtype}"}}"#);
    let numbers = shape.iter().product();
    let mut contenders = vec![
        Contender::new("ours, data last", || decode(&last)),
        Contender::new("ours, data first", || decode(&first)),
    ];
    contenders.push(match dtype {
        DataType::Fp64 => Contender::new("serde_json Vec<f64>", || {
            serde_json::from_str::<Vec<f64>>(data).expect("the bench's text is good").len()
        }),
        _ => Contender::new("serde_json Vec<f32>", || {
            serde_json::from_str::<Vec<f32>>(data).expect("the bench's text is good").len()
        }),
    });
    report(what, data.len(), numbers, &mut contenders);
}

fn bench_encode(what: &str, values: &[f32]) {
    let tensor = Tensor::from_slice([values.len()], values).expect("one axis holds them all");
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    write_data(&tensor, &mut ours, NonFinite::Null).expect("numbers are always written");
    let length = ours.len();
    let mut contenders = [
        Contender::new("ours", || {
            ours.clear();
            write_data(&tensor, &mut ours, NonFinite::Null).expect("numbers are always written");
            ours.len()
        }),
        Contender::new("serde_json to_writer", || {
            theirs.clear();
            serde_json::to_writer(&mut theirs, values).expect("a vector takes all");
            theirs.len()
        }),
    ];
    report(what, length, values.len(), &mut contenders);
}

fn main() {
    let image = [1, 3, 224, 224];
    let count = image.iter().product();
    let shortest = |count| uniform(count).map(|value| (value as f32).to_string());
    let normalized = uniform(count).map(|value| ((value as f32 - 0.45) / 0.225).to_string());
    let doubles = || uniform(count).map(|value| f64::from(value as f32).to_string());
    let integers = uniform(count).map(|value| ((value * 256.0) as u8).to_string());
    bench_decode("image, f32 text", DataType::Fp32, &image, &list(shortest(count), ","));
    bench_decode("image, f32 text, blanks", DataType::Fp32, &image, &list(shortest(count), ", "));
    bench_decode("image, normalized, blanks", DataType::Fp32, &image, &list(normalized, ", "));
    bench_decode("image, f64 text, blanks", DataType::Fp32, &image, &list(doubles(), ", "));
    bench_decode("image, integers, blanks", DataType::Fp32, &image, &list(integers, ", "));
    bench_decode("image, FP64", DataType::Fp64, &image, &list(doubles(), ", "));
    bench_decode("8x30, f32 text, blanks", DataType::Fp32, &[8, 30], &list(shortest(240), ", "));
    let values: Vec<f32> = uniform(count).map(|value| value as f32).collect();
    bench_encode("image", &values);
    bench_encode("8x30", &values[..240]);
    let bytes: Vec<f32> = uniform(count).map(|value| (value * 256.0).floor() as f32).collect();
    bench_encode("image, whole numbers", &bytes);
}
