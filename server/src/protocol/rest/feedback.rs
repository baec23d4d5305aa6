//! How is it said over REST what became of rows that were answered? One JSON object, or many, a line each.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use http_body::Body;
use serde_json::{Value, json};
use tiltyard_types::{Error, Result};

use super::{Head, headers};
use crate::clock;
use crate::locks::calls::{Call, Caller};
use crate::protocol::reply::Reply;
use crate::protocol::{beside_the_loop, body};
use crate::rollouts::feedback::line::{Line, read};
use crate::rollouts::feedback::{Desk, Feedback, Heard};
use crate::service::Service;

/// The type of many lines.
pub(crate) const NDJSON: &str = "application/x-ndjson";

/// The endpoint of all lines that name none.
const ENDPOINT: HeaderName = HeaderName::from_static("tiltyard-endpoint");

/// Lines in one request.
const LINES_MAX: usize = 100_000;

/// Lines that are joined at a time: meanwhile nobody else is at the desk.
const LINES_AT_ONCE: usize = 1_000;

/// Errors that are told one by one.
const ERRORS_MAX: usize = 100;

/// Takes in what is said.
pub(super) async fn answer<B>(service: &Arc<Service>, head: &Head<'_>, body: B) -> Result<Reply>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_many = content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(NDJSON);
    if !is_many {
        headers::check_content_type(head.headers.get(CONTENT_TYPE))?;
    }
    let endpoint = head.headers.get(&ENDPOINT).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut room = service.inference.admission.room_for_unknown();
    let (bytes_max, time_max) = (service.live.body_bytes_max(), service.live.request_timeout());
    let encoding = head.headers.get(CONTENT_ENCODING);
    let bytes = body::read(encoding, body, bytes_max, time_max, &mut room).await?;
    let (feedback, caller) = (Arc::clone(&service.rollouts.feedback), head.caller.clone());
    // Each line costs some microseconds, however short it is.
    let work = bytes.len().saturating_mul(16);
    let answered = beside_the_loop(work, move || {
        let said = Incoming { feedback: &feedback, endpoint: endpoint.as_deref(), caller: caller.as_deref() };
        match is_many {
            true => said.many(&bytes),
            false => said.one(&bytes),
        }
    });
    Ok(Reply::json(&answered.await?))
}

/// What came, and from whom.
struct Incoming<'a> {
    feedback: &'a Feedback,
    endpoint: Option<&'a str>,
    caller: Option<&'a Caller>,
}

/// What became of lines.
#[derive(Default)]
struct Summary {
    received: usize,
    heard: [u64; Heard::ALL.len()],
    failed: usize,
    /// By the line's number, from 1.
    errors: BTreeMap<usize, String>,
}

impl Summary {
    fn fail(&mut self, number: usize, error: &Error) {
        self.failed += 1;
        self.errors.insert(number, error.message().to_owned());
        if self.errors.len() > ERRORS_MAX {
            self.errors.pop_last();
        }
    }

    fn form(&self) -> Value {
        let mut form = json!({ "received": self.received });
        for ((name, _), count) in Heard::ALL.iter().zip(self.heard) {
            form[name] = count.into();
        }
        form["failed"] = self.failed.into();
        let errors = self.errors.iter().map(|(line, error)| json!({ "line": line, "error": error }));
        form["errors"] = errors.collect();
        form
    }
}

impl Incoming<'_> {
    fn one(&self, text: &[u8]) -> Result<Value> {
        let line = read(text, clock::unix_ms())?;
        let mut summary = Summary { received: 1, ..Summary::default() };
        self.allow([&line].into_iter())?;
        self.join(&[(1, &line)], &mut summary);
        match summary.errors.into_values().next() {
            Some(error) => Err(Error::invalid(error)),
            None => Ok(Summary { errors: BTreeMap::new(), ..summary }.form()),
        }
    }

    fn many(&self, text: &[u8]) -> Result<Value> {
        let now_ms = clock::unix_ms();
        let mut summary = Summary::default();
        let lines = text.split(|&byte| byte == b'\n').zip(1..).filter(|(line, _)| !line.trim_ascii().is_empty());
        let mut read_lines = Vec::new();
        for (line, number) in lines {
            summary.received += 1;
            if summary.received > LINES_MAX {
                return Err(Error::too_large(format!(
                    "more than {LINES_MAX} lines in one request, and none was taken: send them in parts"
                )));
            }
            match read(line.trim_ascii(), now_ms) {
                Ok(line) => read_lines.push((number, line)),
                Err(error) => summary.fail(number, &error),
            }
        }
        self.allow(read_lines.iter().map(|(_, line)| line))?;
        let read_lines: Vec<(usize, &Line)> = read_lines.iter().map(|(number, line)| (*number, line)).collect();
        for part in read_lines.chunks(LINES_AT_ONCE) {
            self.join(part, &mut summary);
        }
        Ok(summary.form())
    }

    fn endpoint_of<'a>(&'a self, line: &'a Line) -> Option<&'a str> {
        line.endpoint.as_deref().or(self.endpoint)
    }

    /// Fails, before anything is taken, where the caller may not ask one of the endpoints.
    fn allow<'a>(&'a self, lines: impl Iterator<Item = &'a Line>) -> Result<()> {
        let Some(caller) = self.caller else { return Ok(()) };
        let mut allowed: Vec<&str> = Vec::new();
        for endpoint in lines.filter_map(|line| self.endpoint_of(line)) {
            if !allowed.contains(&endpoint) {
                caller.may(Call::Score(endpoint))?;
                allowed.push(endpoint);
            }
        }
        Ok(())
    }

    /// Joins lines in the order in which they came.
    fn join(&self, lines: &[(usize, &Line)], summary: &mut Summary) {
        let desks = self.feedback.desks();
        for part in lines.chunk_by(|(_, a), (_, b)| self.endpoint_of(a) == self.endpoint_of(b)) {
            let Some(endpoint) = part.first().and_then(|(_, line)| self.endpoint_of(line)) else {
                let error = Error::invalid(
                    "endpoint is missing: expected the name that was called, in the line or in the header tiltyard-endpoint",
                );
                part.iter().for_each(|(number, _)| summary.fail(*number, &error));
                continue;
            };
            let told = match desks.get(endpoint) {
                Some(desk) => told_at(desk, part),
                None => {
                    self.feedback.unknown(part.len());
                    part.iter().map(|_| Ok(Heard::Unknown)).collect()
                }
            };
            for ((number, _), told) in part.iter().zip(told) {
                match told {
                    Ok(heard) => summary.heard[heard as usize] += 1,
                    Err(error) => summary.fail(*number, &error),
                }
            }
        }
    }
}

fn told_at(desk: &Desk, lines: &[(usize, &Line)]) -> Vec<Result<Heard>> {
    desk.tell(lines.iter().map(|(_, line)| &line.said))
}

/// What OpenAPI says of it.
pub(crate) fn operation() -> Value {
    let count = json!({ "type": "integer" });
    let mut counts: serde_json::Map<String, Value> =
        Heard::ALL.iter().map(|(name, _)| ((*name).to_owned(), count.clone())).collect();
    counts.insert("received".into(), count.clone());
    counts.insert("failed".into(), count);
    counts.insert(
        "errors".into(),
        json!({ "type": "array", "items": { "type": "object",
        "properties": { "line": { "type": "integer" }, "error": { "type": "string" } } } }),
    );
    let line = json!({ "schema": { "type": "object", "additionalProperties": false, "properties": {
        "endpoint": { "type": "string" }, "prediction_id": { "type": "string" },
        "row_key": { "type": ["string", "integer"] }, "row": { "type": "integer" },
        "label": { "type": ["string", "number", "boolean"] }, "outcome": { "type": "number" },
        "withdrawn": { "type": "boolean" }, "time": { "type": ["string", "integer"] },
    } } });
    let mut content = json!({ "application/json": line });
    content[NDJSON] = json!({ "schema": { "type": "string", "description": "Such an object on each line" } });
    json!({
        "operationId": "feedback",
        "summary": "What became of rows that were answered",
        "requestBody": { "required": true, "content": content },
        "responses": { "200": { "description": "What became of each line", "content": { "application/json": {
            "schema": { "type": "object", "properties": counts } } } } },
    })
}
