//! What is a page of metrics as Prometheus' messages? The only form that has native histograms.
//!
//! The messages are those of `io.prometheus.client`, as far as they are used here.

use prost::Message;
use tiltyard_runtime::stats::Histogram as Counted;
use tiltyard_runtime::stats::{BATCH_ROWS_BOUNDS, CLASSIC_NS, Exemplar as Shown, NATIVE_SCHEMA, Native, Snapshot};

use super::page::example_labels;

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    help: String,
    #[prost(int32, tag = "3")]
    kind: i32,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// A gauge or a counter.
#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(double, tag = "1")]
    value: f64,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, tag = "1")]
    count: u64,
    #[prost(double, tag = "2")]
    sum: f64,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, tag = "5")]
    schema: i32,
    #[prost(double, tag = "6")]
    zero_threshold: f64,
    #[prost(uint64, tag = "7")]
    zero_count: u64,
    #[prost(message, repeated, tag = "12")]
    span: Vec<Span>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    delta: Vec<i64>,
    #[prost(message, repeated, tag = "16")]
    exemplars: Vec<Exemplar>,
}

#[derive(Clone, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, tag = "1")]
    below: u64,
    #[prost(double, tag = "2")]
    bound: f64,
    #[prost(message, optional, tag = "3")]
    exemplar: Option<Exemplar>,
}

/// Buckets in a row, and how many were left out before.
#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(sint32, tag = "1")]
    offset: i32,
    #[prost(uint32, tag = "2")]
    length: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Exemplar {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(double, tag = "2")]
    value: f64,
    #[prost(message, optional, tag = "3")]
    at: Option<prost_types::Timestamp>,
}

impl From<&Shown> for Exemplar {
    fn from(one: &Shown) -> Exemplar {
        let label = |(name, value): (&str, String)| LabelPair { name: name.to_owned(), value };
        let at = prost_types::Timestamp {
            seconds: (one.unix_ms / 1000) as i64,
            nanos: (one.unix_ms % 1000) as i32 * 1_000_000,
        };
        let label = example_labels(one).into_iter().map(label).collect();
        Exemplar { label, value: one.nanos as f64 / 1e9, at: Some(at) }
    }
}

/// The families so far, and the one that samples go to.
#[derive(Default)]
pub(super) struct Families {
    written: Vec<u8>,
    open: Option<MetricFamily>,
}

/// The numbers of the kinds that are used.
const COUNTER: i32 = 0;
const GAUGE: i32 = 1;
const HISTOGRAM: i32 = 4;

impl Families {
    pub(super) fn begin(&mut self, name: &str, kind: &str, help: &str) {
        self.close();
        let kind = match kind {
            "counter" => COUNTER,
            "histogram" => HISTOGRAM,
            _ => GAUGE,
        };
        self.open = Some(MetricFamily { name: name.to_owned(), help: help.to_owned(), kind, metric: Vec::new() });
    }

    pub(super) fn sample(&mut self, labels: &str, value: f64) {
        let number = Some(Number { value });
        let is_counter = self.open.as_ref().is_some_and(|family| family.kind == COUNTER);
        let (gauge, counter) = if is_counter { (None, number) } else { (number, None) };
        self.add(Metric { label: pairs(labels), gauge, counter, histogram: None });
    }

    pub(super) fn histogram(&mut self, labels: &str, counted: &Counted, shown: &[(usize, Shown)]) {
        let of = |bucket: usize| shown.iter().find(|(position, _)| *position == bucket).map(|(_, one)| one.into());
        let bounds = CLASSIC_NS.iter().map(|bound| *bound as f64 / 1e9).zip(counted.classic());
        let bucket = bounds.enumerate();
        let bucket = bucket.map(|(at, (bound, below))| Bucket { below, bound, exemplar: of(at) }).collect();
        let native = counted.native();
        let (span, delta) = spans(&native);
        let histogram = Histogram {
            count: counted.count(),
            sum: counted.nanos as f64 / 1e9,
            bucket,
            schema: NATIVE_SCHEMA,
            zero_threshold: Native::ZERO_SECONDS,
            zero_count: native.zero,
            span,
            delta,
            exemplars: shown.iter().map(|(_, one)| one.into()).collect(),
        };
        self.add(Metric { label: pairs(labels), histogram: Some(histogram), ..Metric::default() });
    }

    pub(super) fn batch_sizes(&mut self, labels: &str, sum: &Snapshot) {
        let mut below = 0;
        let bucket = BATCH_ROWS_BOUNDS.iter().zip(sum.sizes).map(|(bound, count)| {
            below += count;
            Bucket { below, bound: *bound as f64, exemplar: None }
        });
        let bucket = bucket.collect();
        let (count, sum) = (sum.sizes.iter().sum(), sum.run_rows as f64);
        let histogram = Histogram { count, sum, bucket, ..Histogram::default() };
        self.add(Metric { label: pairs(labels), histogram: Some(histogram), ..Metric::default() });
    }

    fn add(&mut self, metric: Metric) {
        if let Some(family) = &mut self.open {
            family.metric.push(metric);
        }
    }

    fn close(&mut self) {
        // One without samples would be refused.
        if let Some(family) = self.open.take().filter(|family| !family.metric.is_empty()) {
            self.written.extend_from_slice(&family.encode_length_delimited_to_vec());
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.close();
        self.written
    }
}

/// Buckets as the messages have them: runs of neighbours, and each count by what it is more than the one before.
fn spans(native: &Native) -> (Vec<Span>, Vec<i64>) {
    let (mut spans, mut deltas) = (Vec::<Span>::new(), Vec::new());
    // What follows the last one, and its count. The first offset is from 0.
    let (mut next, mut before) = (0, 0);
    for (number, count) in &native.buckets {
        match spans.last_mut().filter(|_| *number == next) {
            Some(span) => span.length += 1,
            None => spans.push(Span { offset: number - next, length: 1 }),
        }
        deltas.push(*count as i64 - before);
        (next, before) = (number + 1, *count as i64);
    }
    (spans, deltas)
}

/// Labels as the text forms have them, taken apart again.
fn pairs(labels: &str) -> Vec<LabelPair> {
    let mut pairs = Vec::new();
    let mut rest = labels;
    while let Some((name, after)) = rest.split_once("=\"") {
        let mut value = String::new();
        let mut characters = after.char_indices();
        let mut end = after.len();
        while let Some((at, character)) = characters.next() {
            match character {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => match characters.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, escaped)) => value.push(escaped),
                    None => {}
                },
                _ => value.push(character),
            }
        }
        pairs.push(LabelPair { name: name.trim_start_matches(',').to_owned(), value });
        rest = &after[end..];
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::super::page::escape;
    use super::*;

    #[test]
    fn labels_are_what_they_were() {
        let odd = "a\"b\\c\nd,e=\"";
        let labels = format!("model=\"{}\",arm=\"x\"", escape(odd));
        let told: Vec<(String, String)> = pairs(&labels).into_iter().map(|pair| (pair.name, pair.value)).collect();
        assert_eq!(told, [("model".to_owned(), odd.to_owned()), ("arm".to_owned(), "x".to_owned())]);
        assert!(pairs("").is_empty());
    }

    #[test]
    fn neighbours_are_in_one_span() {
        let native = Native { zero: 1, buckets: vec![(-5, 2), (-4, 7), (1, 4)] };
        let (span, delta) = spans(&native);
        assert_eq!(span, [Span { offset: -5, length: 2 }, Span { offset: 4, length: 1 }]);
        assert_eq!(delta, [2, 5, -3]);
    }

    #[test]
    fn a_family_is_a_message_and_one_without_samples_is_none() {
        let mut families = Families::default();
        families.begin("none", "gauge", "Nothing.");
        families.begin("t_total", "counter", "Times.");
        families.sample("a=\"b\"", 4.0);
        let written = families.finish();
        let read = MetricFamily::decode_length_delimited(written.as_slice()).unwrap();
        assert_eq!(read.encode_length_delimited_to_vec(), written);
        assert_eq!(
            (read.name.as_str(), read.kind, read.metric[0].counter.as_ref().unwrap().value),
            ("t_total", 0, 4.0)
        );
    }
}
