//! How is a page of metrics written, in each of the forms that Prometheus reads?

use std::fmt::Write as _;
use std::time::Duration;

use tiltyard_runtime::stats::{BATCH_ROWS_BOUNDS, CLASSIC_NS, Exemplar, Histogram, Snapshot};
use tiltyard_types::RequestId;

use super::protobuf::Families;

/// A form of the page. Exemplars are in all but the first, native histograms in the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// Prometheus' own text.
    #[default]
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' messages, each with its length in front.
    Protobuf,
}

impl Form {
    /// What the scraper likes best of what it accepts; text where it says nothing.
    pub(crate) fn of(accept: &str) -> Form {
        let mut best = (0.0, Form::Text);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
            let kind = parts.next().unwrap_or_default();
            let parameters: Vec<String> = parts.map(|part| part.replace([' ', '"'], "")).collect();
            let has = |wanted: &str| parameters.iter().any(|parameter| parameter == wanted);
            let version = parameters.iter().find_map(|parameter| parameter.strip_prefix("version="));
            let form = match kind.as_str() {
                "application/vnd.google.protobuf"
                    if has("proto=io.prometheus.client.metricfamily") && has("encoding=delimited") =>
                {
                    Form::Protobuf
                }
                "application/openmetrics-text" if version.is_none_or(|version| version == "1.0.0") => Form::OpenMetrics,
                "text/plain" | "text/*" | "*/*" => Form::Text,
                _ => continue,
            };
            let weight = parameters.iter().find_map(|parameter| parameter.strip_prefix("q=")?.parse::<f64>().ok());
            let weight = weight.unwrap_or(1.0);
            if weight > best.0 {
                best = (weight, form);
            }
        }
        best.1
    }

    /// The content type of a page in this form.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Form::Text => "text/plain; version=0.0.4; charset=utf-8",
            Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Form::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
        }
    }

    pub(super) fn has_exemplars(self) -> bool {
        self != Form::Text
    }
}

/// A page of metrics under construction.
pub(super) struct Page {
    form: Form,
    text: String,
    families: Families,
}

impl Page {
    pub(super) fn new(form: Form) -> Page {
        Page { form, text: String::new(), families: Families::default() }
    }

    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        let (named, kind) = match (self.form, kind) {
            (Form::Protobuf, _) => return self.families.begin(name, kind, help),
            // There the family of a counter is called without what its samples end with; Triton's have no such end.
            (Form::OpenMetrics, "counter") => match name.strip_suffix("_total") {
                Some(family) => (family, kind),
                None => (name, "unknown"),
            },
            _ => (name, kind),
        };
        // Writing into a string cannot fail.
        let _ = writeln!(self.text, "# HELP {named} {help}\n# TYPE {named} {kind}");
    }

    pub(super) fn sample(&mut self, name: &str, labels: &str, value: f64) {
        let _ = match (self.form, labels) {
            (Form::Protobuf, _) => return self.families.sample(labels, value),
            (_, "") => writeln!(self.text, "{name} {value}"),
            _ => writeln!(self.text, "{name}{{{labels}}} {value}"),
        };
    }

    /// A histogram of times, with requests as examples.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        labels: &str,
        histogram: &Histogram,
        exemplars: &[(usize, Exemplar)],
    ) {
        if self.form == Form::Protobuf {
            return self.families.histogram(labels, histogram, exemplars);
        }
        let (count, below) = (histogram.count(), histogram.classic());
        let shown = exemplars.iter().filter(|_| self.form.has_exemplars());
        let shown: Vec<(usize, String)> = shown.map(|(bucket, one)| (*bucket, example(one))).collect();
        let bounds = CLASSIC_NS.iter().map(|bound| Bound::Seconds(*bound as f64 / 1e9));
        let buckets = bounds.chain([Bound::Infinity]).zip(below.into_iter().chain([count]));
        for (position, (bound, below)) in buckets.enumerate() {
            let example = shown.iter().find(|(bucket, _)| *bucket == position).map_or("", |(_, text)| text.as_str());
            let _ = writeln!(self.text, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}{example}");
        }
        let _ = writeln!(self.text, "{name}_sum{{{labels}}} {}", histogram.nanos as f64 / 1e9);
        let _ = writeln!(self.text, "{name}_count{{{labels}}} {count}");
    }

    /// The histogram of rows in runs.
    pub(super) fn batch_sizes(&mut self, name: &str, labels: &str, sum: &Snapshot) {
        if self.form == Form::Protobuf {
            return self.families.batch_sizes(labels, sum);
        }
        let mut below = 0;
        let bounds = BATCH_ROWS_BOUNDS.iter().map(|bound| Bound::Rows(*bound)).chain([Bound::Infinity]);
        for (bound, count) in bounds.zip(sum.sizes) {
            below += count;
            let _ = writeln!(self.text, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(self.text, "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {below}", sum.run_rows);
    }

    /// The page as it is sent.
    pub(super) fn finish(mut self) -> Vec<u8> {
        match self.form {
            Form::Text => {}
            Form::OpenMetrics => self.text += "# EOF\n",
            Form::Protobuf => return self.families.finish(),
        }
        self.text.into_bytes()
    }
}

/// A bucket's upper bound.
enum Bound {
    Seconds(f64),
    Rows(usize),
    Infinity,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bound::Seconds(seconds) => write!(f, "{seconds}"),
            Bound::Rows(rows) => write!(f, "{rows}"),
            Bound::Infinity => f.write_str("+Inf"),
        }
    }
}

/// The labels of an example.
pub(super) fn example_labels(one: &Exemplar) -> Vec<(&'static str, String)> {
    let mut labels = vec![("prediction_id", RequestId::from_bits(one.id).prediction(0))];
    if one.trace != 0 {
        labels.push(("trace_id", format!("{:032x}", one.trace)));
    }
    labels
}

/// An example as it stands behind its bucket.
fn example(one: &Exemplar) -> String {
    let labels: Vec<String> =
        example_labels(one).into_iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let seconds = Duration::from_nanos(one.nanos).as_secs_f64();
    format!(" # {{{}}} {seconds} {}.{:03}", labels.join(","), one.unix_ms / 1000, one.unix_ms % 1000)
}

/// A label's value as the text forms have it.
pub(super) fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_liked_best_is_sent() {
        let protobuf = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited";
        for (accept, expected) in [
            ("", Form::Text),
            ("*/*", Form::Text),
            ("text/plain", Form::Text),
            ("application/openmetrics-text", Form::OpenMetrics),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", Form::OpenMetrics),
            ("application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5", Form::Text),
            (
                "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
                Form::OpenMetrics,
            ),
            ("text/plain;q=0.9,application/openmetrics-text;q=0.2", Form::Text),
            (&format!("{protobuf};q=0.7,application/openmetrics-text;version=1.0.0;q=0.6"), Form::Protobuf),
            ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text", Form::Text),
            ("application/json", Form::Text),
        ] {
            assert_eq!(Form::of(accept), expected, "{accept}");
        }
    }

    #[test]
    fn examples_are_in_openmetrics_alone_of_the_texts() {
        let one =
            Exemplar { id: 0x0192_0000_0000_7000_8000_0000_0000_00ab, trace: 0xabc, nanos: 20_000, unix_ms: 1_500 };
        let written = |form: Form| {
            let mut page = Page::new(form);
            page.family("t_requests_total", "counter", "Requests.");
            page.sample("t_requests_total", "a=\"b\"", 3.0);
            page.family("t_seconds", "histogram", "Time.");
            page.histogram("t_seconds", "a=\"b\"", &Histogram::default(), &[(1, one)]);
            String::from_utf8(page.finish()).unwrap()
        };
        let (text, open) = (written(Form::Text), written(Form::OpenMetrics));
        assert!(text.starts_with(
            "# HELP t_requests_total Requests.\n# TYPE t_requests_total counter\nt_requests_total{a=\"b\"} 3\n"
        ));
        assert!(text.contains("t_seconds_bucket{a=\"b\",le=\"0.000025\"} 0\n") && !text.contains("EOF"));
        assert!(
            open.starts_with("# HELP t_requests Requests.\n# TYPE t_requests counter\nt_requests_total{a=\"b\"} 3\n")
        );
        let expected = "t_seconds_bucket{a=\"b\",le=\"0.000025\"} 0 # {prediction_id=\"01920000-0000-7000-8000-0000000000ab:0\",\
                        trace_id=\"00000000000000000000000000000abc\"} 0.00002 1.500\n";
        assert!(open.contains(expected), "{open}");
        assert!(open.ends_with(
            "t_seconds_bucket{a=\"b\",le=\"+Inf\"} 0\nt_seconds_sum{a=\"b\"} 0\nt_seconds_count{a=\"b\"} 0\n# EOF\n"
        ));
    }
}
