//! What do those hear of captured requests who listen for KServe's inference logs?
//!
//! Two CloudEvents for each request, in HTTP's binary mode, as KServe's logger posts them: the request, and the response, with
//! the payload as the inference protocol's JSON. They are made of segments, so that nothing of it is in a request's way.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;
use tiltyard_capture::{Capture, Listed, Outcome, Record, Segment, Value, joined};
use tiltyard_types::json::{NonFinite, write_data, write_string};

use super::sent::{Receiver, Taken};
use crate::clock;
use crate::locks::fetch;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Connections at a time.
const CONNECTIONS: usize = 4;

/// Requests that are in memory as events.
const AT_A_TIME: usize = 256;

/// Segments that are older than that are not sent any more: whoever was away for so long must not be fed with the past only.
const LATE: Duration = Duration::from_secs(3_600);

const REQUEST: &str = "org.kubeflow.serving.inference.request";
const RESPONSE: &str = "org.kubeflow.serving.inference.response";

/// Where events go.
pub(super) struct Sink {
    url: String,
    agent: ureq::Agent,
    /// The line that was being sent when it failed, and how many of its requests have arrived.
    arrived: (u64, usize),
}

impl Sink {
    /// The sink at a URL. Fails, in words, where that is none.
    pub(super) fn open(url: &str) -> Result<Sink, String> {
        let expected = || format!("capture_sink is {url:?}: expected http://HOST… or https://HOST… without a user");
        let rest = url.strip_prefix("http://").or(url.strip_prefix("https://")).ok_or_else(expected)?;
        if rest.is_empty() || rest.starts_with('/') || rest.contains('@') {
            return Err(expected());
        }
        if fetch::safe(url).is_none() {
            tracing::warn!(url, "captured payloads travel to the sink in the clear");
        }
        let tls = fetch::tls(None, None).map_err(|reason| format!("capture_sink: {reason}"))?;
        let settings = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(ANSWER_MAX))
            .tls_config(tls);
        Ok(Sink { url: url.to_owned(), agent: settings.build().new_agent(), arrived: (0, 0) })
    }

    fn post(&self, record: &Record<'_>, kind: &str, body: &[u8]) -> Result<(), String> {
        let id = record.request.to_string();
        let time = humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_micros(record.unix_us.min(1 << 57)));
        let model = format!("/v2/models/{}/versions/{}", record.model, record.version);
        let mut request = self
            .agent
            .post(&self.url)
            .header("content-type", "application/json")
            .header("ce-specversion", "1.0")
            .header("ce-id", &id)
            .header("ce-type", kind)
            .header("ce-source", escaped(&model))
            .header("ce-time", time.to_string())
            .header("ce-inferenceservicename", escaped(&record.endpoint))
            .header("ce-component", "predictor");
        // An attribute of CloudEvents is never empty.
        if !record.arm.is_empty() {
            request = request.header("ce-endpoint", escaped(&record.arm));
        }
        if !record.headers.is_empty() {
            let metadata: serde_json::Map<String, serde_json::Value> = record
                .headers
                .iter()
                .filter_map(|(name, value)| Some((name.to_string(), json!([value.as_deref()?]))))
                .collect();
            request = request.header("ce-metadata", escaped(&json!(metadata).to_string()));
        }
        let mut response = request.send(body).map_err(|error| format!("{}: {error}", self.url))?;
        // Read to its end, so that the connection is used again.
        drop(response.body_mut().with_config().limit(1 << 16).read_to_vec());
        match response.status().as_u16() {
            200..=299 => Ok(()),
            status => Err(format!("{}: status {status}", self.url)),
        }
    }

    /// Posts both events of each request; those that fail are posted again the next time.
    fn send(&self, requests: &[Record<'static>], is_ending: &AtomicBool) -> Result<(), String> {
        let sends = |part: &[Record<'static>]| {
            for record in part {
                if is_ending.load(Relaxed) {
                    return Err("the process ends".to_owned());
                }
                self.post(record, REQUEST, &asked(record))?;
                self.post(record, RESPONSE, &answered(record))?;
            }
            Ok(())
        };
        let each = requests.len().div_ceil(CONNECTIONS).max(1);
        std::thread::scope(|scope| {
            let parts: Vec<_> = requests.chunks(each).map(|part| scope.spawn(move || sends(part))).collect();
            parts
                .into_iter()
                .try_for_each(|part| part.join().unwrap_or_else(|_| Err("a thread ended early".to_owned())))
        })
    }
}

impl Receiver for Sink {
    fn name(&self) -> &'static str {
        "sink"
    }

    fn take(&mut self, _: &Capture, folder: &Path, listed: &Listed, is_ending: &AtomicBool) -> Result<Taken, String> {
        let now_us = clock::unix_ns() / 1_000;
        if now_us.saturating_sub(listed.facts.to_us) > LATE.as_micros() as u64 {
            return Ok(Taken { sent: 0, dropped: listed.facts.rows });
        }
        let segment =
            Segment::open(&folder.join("segments").join(&listed.facts.file)).map_err(|error| error.to_string())?;
        // What is encrypted here is not told in the clear elsewhere.
        if segment.is_sealed() {
            return Ok(Taken { sent: 0, dropped: listed.facts.rows });
        }
        let mut arrived = if self.arrived.0 == listed.line { self.arrived.1 } else { 0 };
        let (mut rows, mut requests, mut number) = (Vec::new(), Vec::new(), 0);
        let mut sequence = None;
        for row in segment.rows() {
            let row = row.map_err(|error| error.to_string())?;
            if sequence.is_some_and(|sequence| sequence != row.sequence) {
                number += 1;
                if number > arrived {
                    requests.extend(joined(&rows));
                }
                rows.clear();
            }
            if requests.len() == AT_A_TIME {
                self.send(&requests, is_ending)?;
                requests.clear();
                arrived = number;
                self.arrived = (listed.line, arrived);
            }
            sequence = Some(row.sequence);
            rows.push(row.record);
        }
        requests.extend(joined(&rows).filter(|_| number >= arrived));
        self.send(&requests, is_ending)?;
        Ok(Taken { sent: number as u64 + 1, dropped: 0 })
    }
}

/// The request as the protocol has it.
fn asked(record: &Record<'_>) -> Vec<u8> {
    let mut body = format!("{{\"id\":\"{}\",\"inputs\":", record.request).into_bytes();
    tensors(&record.inputs, &mut body);
    body.push(b'}');
    body
}

/// The response as the protocol has it.
fn answered(record: &Record<'_>) -> Vec<u8> {
    if let Outcome::Failed(_, why) = &record.outcome {
        return json!({ "id": record.request.to_string(), "error": why }).to_string().into_bytes();
    }
    let head = json!({ "model_name": record.model, "model_version": record.version.to_string(),
                       "id": record.request.to_string() });
    let mut body = head.to_string().into_bytes();
    body.pop();
    body.extend_from_slice(b",\"outputs\":");
    tensors(&record.outputs, &mut body);
    body.push(b'}');
    body
}

fn tensors(values: &[Value<'_>], out: &mut Vec<u8>) {
    out.push(b'[');
    for (at, Value { name, tensor }) in values.iter().enumerate() {
        out.extend_from_slice(if at > 0 { b",{\"name\":" } else { b"{\"name\":" });
        write_string(name, out);
        let shape: Vec<usize> = tensor.shape().to_vec();
        out.extend_from_slice(
            format!(",\"datatype\":\"{}\",\"shape\":{},\"data\":", tensor.dtype().name(), json!(shape)).as_bytes(),
        );
        // JSON has no words for NaN, nor for bytes that are no text.
        if write_data(tensor, out, NonFinite::Null).is_err() {
            out.extend_from_slice(b"null");
        }
        out.push(b'}');
    }
    out.push(b']');
}

/// A value as CloudEvents have it in headers: what is not printable ASCII, quotes and percent signs as %XX.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'!' | b'#'..=b'$' | b'&'..=b'~' => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_headers_are_escaped_as_the_standard_has_it() {
        assert_eq!(escaped("risk/€ \"a\" 50%"), "risk/%E2%82%AC%20%22a%22%2050%25");
    }

    #[test]
    fn addresses_of_sinks() {
        assert!(Sink::open("http://127.0.0.1:9/broker").is_ok() && Sink::open("https://broker.example").is_ok());
        for wrong in ["kafka://b", "http://", "http:///x", "http://user:pass@host/"] {
            assert!(Sink::open(wrong).is_err_and(|told| told.contains("capture_sink")), "{wrong}");
        }
    }
}
