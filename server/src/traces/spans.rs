//! How is a traced request told in OTLP's JSON?

use serde_json::{Value, json};
use tiltyard_types::Moment;

use super::context::span_below;
use super::{Answered, Became, Ended};

/// Kinds of spans.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;

/// The status of what failed.
const STATUS_ERROR: u8 = 2;

/// Requests as one message. `since_1970` is what the process's clock is behind the wall's, in nanoseconds.
pub(super) fn message(ended: &[Box<Ended>], since_1970: u64) -> String {
    let spans: Vec<Value> = ended.iter().flat_map(|ended| spans(ended, since_1970)).collect();
    let version = env!("CARGO_PKG_VERSION");
    let resource = json!({ "attributes": [text("service.name", "tiltyard"), text("service.version", version)] });
    let scope = json!({ "scope": { "name": "tiltyard", "version": version }, "spans": spans });
    json!({ "resourceSpans": [{ "resource": resource, "scopeSpans": [scope] }] }).to_string()
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn number(key: &str, value: u64) -> Value {
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}

/// The request, and of one that was answered its steps.
fn spans(ended: &Ended, since_1970: u64) -> Vec<Value> {
    let (trace, accepted) = (&ended.trace, &ended.accepted);
    let at = |moment: Moment| (since_1970 + moment.as_nanos()).to_string();
    let span = |id: u64, parent: u64, name: &str, kind: u8, from: Moment, to: Moment, attributes: Vec<Value>| {
        let mut span = json!({
            "traceId": format!("{:032x}", trace.id), "spanId": format!("{id:016x}"), "name": name, "kind": kind,
            "startTimeUnixNano": at(from), "endTimeUnixNano": at(to.max(from)), "attributes": attributes,
        });
        if parent != 0 {
            span["parentSpanId"] = json!(format!("{parent:016x}"));
        }
        span
    };
    let mut attributes = vec![
        text("tiltyard.endpoint", &ended.endpoint),
        text("tiltyard.prediction_id", &accepted.id.prediction(0)),
        number("tiltyard.request_bytes", accepted.bytes as u64),
    ];
    if let Became::Answered(answered) = &ended.became {
        attributes.extend(who(answered));
    }
    if let Became::Failed { kind, .. } = &ended.became {
        attributes.push(text("error.type", kind.name()));
    }
    let name = format!("infer {}", ended.endpoint);
    let mut request = span(trace.span, trace.parent, &name, SERVER, accepted.at, ended.ended, attributes);
    let answered = match &ended.became {
        Became::Failed { message, .. } => {
            request["status"] = json!({ "code": STATUS_ERROR, "message": message });
            return vec![request];
        }
        Became::Answered(answered) => answered,
    };
    let step = |order: u64, name: &str, from: Moment, to: Moment, attributes: Vec<Value>| {
        span(span_below(trace.span, order), trace.span, name, INTERNAL, from, to, attributes)
    };
    let of_run = vec![
        number("tiltyard.run", answered.run),
        number("tiltyard.batch_rows", answered.batch_rows as u64),
        text("tiltyard.engine", answered.arm.deployment.identity.engine),
        text("tiltyard.provider", &answered.arm.deployment.identity.provider),
    ];
    let mut run = step(3, "run", answered.taken, answered.ran, of_run);
    run["links"] = links(ended, answered);
    vec![
        request,
        step(1, "decode", accepted.here, answered.enqueued, Vec::new()),
        step(2, "queue", answered.enqueued, answered.taken, Vec::new()),
        run,
        step(4, "encode", answered.answered, ended.ended, Vec::new()),
    ]
}

/// Who answered.
fn who(answered: &Answered) -> [Value; 5] {
    let identity = &answered.arm.deployment.identity;
    [
        text("tiltyard.model", &identity.model),
        text("tiltyard.version", &answered.arm.version),
        text("tiltyard.arm", &answered.arm.name),
        text("tiltyard.digest", &identity.digest.to_string()),
        number("tiltyard.rows", answered.rows as u64),
    ]
}

/// The other traced requests of the run.
fn links(ended: &Ended, answered: &Answered) -> Value {
    let mates = answered.mates.iter().flat_map(|mates| mates.iter()).filter(|mark| **mark != ended.trace.mark());
    let link = |mark: &tiltyard_runtime::job::Mark| json!({ "traceId": format!("{:032x}", mark.trace), "spanId": format!("{:016x}", mark.span) });
    mates.map(link).collect()
}
