//! Which bytes is a request of the soak, and what does its answer say?

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, TE};
use prost::Message;
use serde_json::{Value, json};
use tiltyard_proto::inference as pb;

use super::truth::Shown;
use crate::Fault;
use crate::payload::{Prepared, frame};
use crate::template::WIDTH;

/// The paths of the gRPC methods that are called.
const UNARY: &str = "/inference.GRPCInferenceService/ModelInfer";
pub(super) const STREAM: &str = "/inference.GRPCInferenceService/ModelStreamInfer";

/// The largest first element of a row.
pub(super) const FIRST_MAX: u32 = 8;

/// What is asked: rows of small whole numbers, so that answers are exact.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// The model's name.
    pub(super) model: &'static str,
    /// The version, where one is named.
    pub(super) pin: Option<u64>,
    /// How many rows.
    pub(super) rows: usize,
    /// The first element of the first row; others count up from there.
    pub(super) first: u32,
}

impl Asked {
    /// The input, row by row. All numbers are at most 11.
    pub(super) fn values(&self) -> Vec<f32> {
        let row = |row: usize| (0..WIDTH).map(move |at| ((row as u32 + self.first) % FIRST_MAX + 1 + at as u32) as f32);
        (0..self.rows).flat_map(row).collect()
    }

    fn raw(&self) -> Vec<u8> {
        self.values().iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn path(&self) -> String {
        match self.pin {
            None => format!("/v2/models/{}/infer", self.model),
            Some(version) => format!("/v2/models/{}/versions/{version}/infer", self.model),
        }
    }

    /// The request as JSON over HTTP/1.1.
    pub(super) fn json(&self, address: SocketAddr) -> Bytes {
        let input = json!({ "name": "x", "datatype": "FP32", "shape": [self.rows, WIDTH], "data": self.values() });
        let body = json!({ "inputs": [input] }).to_string();
        self.http1(address, "content-type: application/json", body.into_bytes())
    }

    /// The request with binary tensors both ways over HTTP/1.1.
    pub(super) fn binary(&self, address: SocketAddr) -> Bytes {
        let raw = self.raw();
        let input = json!({ "name": "x", "datatype": "FP32", "shape": [self.rows, WIDTH], "parameters": { "binary_data_size": raw.len() } });
        let head = json!({ "parameters": { "binary_data_output": true }, "inputs": [input] }).to_string();
        let kind = format!("content-type: application/octet-stream\r\ninference-header-content-length: {}", head.len());
        self.http1(address, &kind, [head.as_bytes(), &raw].concat())
    }

    fn http1(&self, address: SocketAddr, kind: &str, body: Vec<u8>) -> Bytes {
        let (path, length) = (self.path(), body.len());
        let head = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\n{kind}\r\ncontent-length: {length}\r\n\r\n");
        [head.as_bytes(), &body].concat().into()
    }

    /// The message over gRPC, with its prefix.
    pub(super) fn message(&self) -> Bytes {
        frame(&pb::ModelInferRequest {
            model_name: self.model.to_owned(),
            model_version: self.pin.map(|version| version.to_string()).unwrap_or_default(),
            inputs: vec![pb::model_infer_request::InferInputTensor {
                name: "x".to_owned(),
                datatype: "FP32".to_owned(),
                shape: vec![self.rows as i64, WIDTH as i64],
                ..Default::default()
            }],
            raw_input_contents: vec![self.raw().into()],
            ..Default::default()
        })
    }

    /// The request as a gRPC call of its own.
    pub(super) fn unary(&self, address: SocketAddr) -> Result<Prepared, Fault> {
        Ok(Prepared::Grpc { head: Box::new(head(address, UNARY)?), body: self.message() })
    }

    /// What an answer in JSON shows, its tensors in the JSON or behind it.
    pub(super) fn shown_in_json(&self, body: &[u8]) -> Result<Shown, String> {
        let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
        let json = values.next().and_then(Result::ok).ok_or("the answer is no JSON")?;
        let tail = &body[values.byte_offset()..];
        let output = &json["outputs"][0];
        let data: Vec<f32> = match output["data"].as_array() {
            Some(data) => data.iter().filter_map(Value::as_f64).map(|value| value as f32).collect(),
            None => floats(tail),
        };
        self.shown(json["model_version"].as_str().unwrap_or_default(), &data)
    }

    /// What a message of an answer shows.
    pub(super) fn shown_in_message(&self, message: &pb::ModelInferResponse) -> Result<Shown, String> {
        let raw = message.raw_output_contents.first().ok_or("the answer has no output")?;
        self.shown(&message.model_version, &floats(raw))
    }

    /// What the framed message of a unary answer shows.
    pub(super) fn shown_in_frame(&self, body: &[u8]) -> Result<Shown, String> {
        let message = body.get(5..).ok_or("the answer is no message")?;
        let message = pb::ModelInferResponse::decode(message).map_err(|error| error.to_string())?;
        self.shown_in_message(&message)
    }

    /// The one factor between what was sent and what came. Fails where there are several: rows of two versions.
    fn shown(&self, version: &str, data: &[f32]) -> Result<Shown, String> {
        let sent = self.values();
        if data.len() != sent.len() {
            return Err(format!("{} numbers came for {}", data.len(), sent.len()));
        }
        let stamp = data.first().zip(sent.first()).map_or(0.0, |(came, sent)| came / sent);
        if let Some(at) = sent.iter().zip(data).position(|(sent, came)| sent * stamp != *came) {
            return Err(format!(
                "numbers of several versions, or of another request: {} for {} beside {} for {}",
                data[at], sent[at], data[0], sent[0]
            ));
        }
        let version = version.parse().map_err(|_| format!("the answer names version {version:?}"))?;
        Ok(Shown { stamp: stamp as u32, version })
    }
}

/// The head of a gRPC call.
pub(super) fn head(address: SocketAddr, path: &str) -> Result<http::Request<()>, Fault> {
    let head = http::Request::post(format!("http://{address}{path}"))
        .version(http::Version::HTTP_2)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
        .header(TE, HeaderValue::from_static("trailers"));
    Ok(head.body(())?)
}

fn floats(raw: &[u8]) -> Vec<f32> {
    raw.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(rows: usize) -> Asked {
        Asked { model: "soak", pin: None, rows, first: 3 }
    }

    fn answer(stamp: f32, rows: usize) -> Vec<f32> {
        asked(rows).values().iter().map(|value| value * stamp).collect()
    }

    #[test]
    fn answers_show_their_stamp_in_every_form() {
        let expected = Ok(Shown { stamp: 7, version: 9 });
        let json = json!({ "model_version": "9", "outputs": [{ "data": answer(7.0, 2) }] }).to_string();
        assert_eq!(asked(2).shown_in_json(json.as_bytes()), expected);
        let raw: Vec<u8> = answer(7.0, 2).iter().flat_map(|value| value.to_le_bytes()).collect();
        let binary = [br#"{"model_version":"9","outputs":[{"name":"y"}]}"#.as_slice(), &raw].concat();
        assert_eq!(asked(2).shown_in_json(&binary), expected);
        let message = pb::ModelInferResponse {
            model_version: "9".into(),
            raw_output_contents: vec![raw.into()],
            ..Default::default()
        };
        assert_eq!(asked(2).shown_in_frame(&frame(&message)), expected);
    }

    #[test]
    fn rows_of_two_versions_in_one_answer_are_seen() {
        let mut data = answer(7.0, 2);
        data[WIDTH..].copy_from_slice(&answer(8.0, 2)[WIDTH..]);
        assert!(asked(2).shown("9", &data).is_err_and(|what| what.contains("several versions")));
        assert!(asked(1).shown("9", &data).is_err());
        assert!(asked(2).shown("", &answer(7.0, 2)).is_err());
    }

    #[test]
    fn requests_name_the_version_they_pin() {
        let pinned = Asked { pin: Some(4), ..asked(1) };
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        assert!(pinned.json(address).starts_with(b"POST /v2/models/soak/versions/4/infer HTTP/1.1\r\n"));
        assert!(asked(1).binary(address).starts_with(b"POST /v2/models/soak/infer HTTP/1.1\r\n"));
        let message = pb::ModelInferRequest::decode(&pinned.message()[5..]).expect("it is a message");
        assert_eq!((message.model_version.as_str(), message.raw_input_contents[0].len()), ("4", 4 * WIDTH));
        assert!(pinned.values().iter().all(|value| (1.0..=11.0).contains(value)));
    }
}
