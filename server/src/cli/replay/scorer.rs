//! How is the other version asked what was asked then?
//!
//! In this process, where many requests are in its queue at a time, or of a running server over REST with binary tensors, by some
//! threads that each wait for an answer. Both take and give values to the bit.

use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use serde_json::{Value, json};
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::job::{Demand, Pending};
use tiltyard_types::{DataType, NamedTensor, Shape, Tensor, TensorData};

use crate::cli::bench::find;
use crate::cli::exit::{Exit, Failure};
use crate::cli::predict::{ModelName, start};
use crate::cli::target::{Http, ask, ask_as};
use crate::config::Config;
use crate::local::Local;

/// Requests that a server has of us at a time: enough that its batches fill.
const THREADS: usize = 16;

/// The other version.
pub(in crate::cli) enum Scorer {
    Here { local: Local, deployment: Arc<Deployment> },
    There { questions: Sender<Question>, inputs: Vec<String>, outputs: Vec<String> },
}

/// A question on its way.
pub(in crate::cli) enum Asked {
    Waits(Pending),
    Sent(Receiver<Result<Answer, Failure>>),
    Answered(Answer),
}

/// A request for a server, and where its answer is waited for.
pub(in crate::cli) struct Question {
    json_length: usize,
    body: Vec<u8>,
    answer: Sender<Result<Answer, Failure>>,
}

/// What came of a question: outputs, or why there are none.
pub(in crate::cli) type Answer = Result<Vec<NamedTensor>, String>;

impl Scorer {
    /// Loads a version as a server would.
    pub(in crate::cli) fn here(config: &Config, model: &ModelName) -> Result<Scorer, Failure> {
        let local = start(config.clone(), model)?;
        let deployment = find(&local, model)?;
        Ok(Scorer::Here { local, deployment })
    }

    /// Asks a server for what the version takes and gives.
    pub(super) fn there(http: Http, model: &ModelName) -> Result<Scorer, Failure> {
        let path = model.path("v2");
        let metadata: Value = serde_json::from_slice(&ask(&http, "GET", &path, Vec::new())?)
            .map_err(|_| Failure::failed("the server does not answer as a Tiltyard server does"))?;
        let names = |side: &str| {
            let tensors = metadata[side].as_array().map(Vec::as_slice).unwrap_or_default();
            tensors.iter().filter_map(|tensor| tensor["name"].as_str().map(str::to_owned)).collect()
        };
        let (questions, waiting) = unbounded::<Question>();
        let (http, place) = (Arc::new(http), format!("{path}/infer"));
        for number in 0..THREADS {
            let (http, place, waiting) = (Arc::clone(&http), place.clone(), waiting.clone());
            // It ends with the last question.
            let asks = move || {
                waiting.iter().for_each(|Question { json_length, body, answer }| {
                    drop(answer.send(send(&http, &place, json_length, body)));
                });
            };
            let started = thread::Builder::new().name(format!("asks-{number}")).spawn(asks);
            started.map_err(|error| Failure::failed(format!("a thread cannot be started: {error}")))?;
        }
        Ok(Scorer::There { questions, inputs: names("inputs"), outputs: names("outputs") })
    }

    /// The deployment, where it is in this process.
    pub(in crate::cli) fn deployment(&self) -> Option<&Arc<Deployment>> {
        match self {
            Scorer::Here { deployment, .. } => Some(deployment),
            Scorer::There { .. } => None,
        }
    }

    /// Whether it takes an input of this name.
    pub(in crate::cli) fn takes(&self, name: &str) -> bool {
        match self {
            Scorer::Here { deployment, .. } => deployment.signature.inputs.iter().any(|input| input.name == name),
            Scorer::There { inputs, .. } => inputs.iter().any(|input| input == name),
        }
    }

    /// Whether it gives an output of this name.
    pub(in crate::cli) fn gives(&self, name: &str) -> bool {
        match self {
            Scorer::Here { deployment, .. } => deployment.signature.outputs.iter().any(|output| output.name == name),
            Scorer::There { outputs, .. } => outputs.iter().any(|output| output == name),
        }
    }

    /// Asks for these outputs. A question that is refused is an answer.
    pub(in crate::cli) fn ask(&self, inputs: Vec<NamedTensor>, wanted: &[String]) -> Asked {
        match self {
            Scorer::Here { local, deployment } => {
                let signature = &deployment.signature;
                let wanted = signature.select(wanted.iter().map(String::as_str));
                let asked = wanted.and_then(|wanted| {
                    let inputs = signature.arrange(inputs)?;
                    deployment.enqueue(inputs, wanted, Demand::default(), Box::new(()), &local.service().inference.pool)
                });
                asked.map_or_else(|error| Asked::Answered(Err(error.to_string())), Asked::Waits)
            }
            Scorer::There { questions, .. } => {
                let (json_length, body) = written(&inputs, wanted);
                let (answer, answered) = bounded(1);
                // Where its thread is gone, whoever waits for the answer finds that out.
                drop(questions.send(Question { json_length, body, answer }));
                Asked::Sent(answered)
            }
        }
    }

    /// Waits for the answer to a question about these outputs. Fails where nobody could be asked.
    pub(in crate::cli) fn answer(&self, asked: Asked, wanted: &[String]) -> Result<Answer, Failure> {
        let pending = match asked {
            Asked::Answered(answer) => return Ok(answer),
            Asked::Sent(answered) => {
                return answered.recv().unwrap_or_else(|_| Err(Failure::failed("the thread that asks panicked")));
            }
            Asked::Waits(pending) => pending,
        };
        let Ok(answer) = pending.blocking_recv() else {
            return Ok(Err("the worker ended without an answer".to_owned()));
        };
        let named = |outputs: Vec<Tensor>| {
            wanted.iter().zip(outputs).map(|(name, tensor)| NamedTensor { name: name.clone(), tensor }).collect()
        };
        Ok(answer.map(|answer| named(answer.outputs)).map_err(|error| error.to_string()))
    }
}

/// Asks a server, whose refusal is an answer.
fn send(http: &Http, place: &str, json_length: usize, body: Vec<u8>) -> Result<Answer, Failure> {
    let length = json_length.to_string();
    match ask_as(http, place, &[("inference-header-content-length", Some(length.as_str()))], body) {
        Ok(body) => Ok(read(&body).map_err(str::to_owned)),
        Err(failure) if failure.exit() == Exit::Failed => Ok(Err(failure.to_string())),
        Err(failure) => Err(failure),
    }
}

/// The request's body, and how long the JSON at its beginning is.
fn written(inputs: &[NamedTensor], wanted: &[String]) -> (usize, Vec<u8>) {
    let mut parts = Vec::new();
    let mut input = |NamedTensor { name, tensor }: &NamedTensor| {
        let before = parts.len();
        match tensor.data() {
            TensorData::Fixed(bytes) => parts.extend_from_slice(bytes),
            TensorData::Strings(texts) => {
                for text in texts {
                    parts.extend_from_slice(&(text.len() as u32).to_le_bytes());
                    parts.extend_from_slice(text);
                }
            }
        }
        let length = parts.len() - before;
        let shape: Vec<usize> = tensor.shape().to_vec();
        json!({ "name": name, "datatype": tensor.dtype().name(), "shape": shape,
                "parameters": { "binary_data_size": length } })
    };
    let inputs: Vec<Value> = inputs.iter().map(&mut input).collect();
    let outputs: Vec<Value> = wanted.iter().map(|name| json!({ "name": name })).collect();
    let head = json!({ "inputs": inputs, "outputs": outputs, "parameters": { "binary_data_output": true } });
    let mut body = head.to_string().into_bytes();
    let length = body.len();
    body.append(&mut parts);
    (length, body)
}

/// The outputs in an answer's body: JSON, and behind it their elements.
fn read(body: &[u8]) -> Result<Vec<NamedTensor>, &'static str> {
    const OTHER: &str = "the server's answer is not one of the inference protocol";
    let mut reader = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    let head = reader.next().and_then(Result::ok).ok_or(OTHER)?;
    let mut rest = body.get(reader.byte_offset()..).unwrap_or_default();
    let mut outputs = Vec::new();
    for output in head["outputs"].as_array().ok_or(OTHER)? {
        let name = output["name"].as_str().ok_or(OTHER)?.to_owned();
        let dtype: DataType = output["datatype"].as_str().and_then(|name| name.parse().ok()).ok_or(OTHER)?;
        let axes = output["shape"].as_array().ok_or(OTHER)?.iter().map(|axis| axis.as_u64().map(|axis| axis as usize));
        let shape = Shape::from(axes.collect::<Option<Vec<usize>>>().ok_or(OTHER)?.as_slice());
        let length = output["parameters"]["binary_data_size"].as_u64().ok_or(OTHER)?;
        let (part, others) = rest.split_at_checked(length as usize).ok_or(OTHER)?;
        rest = others;
        let tensor = match dtype {
            DataType::Bytes => Tensor::strings(shape, texts(part).ok_or(OTHER)?),
            dtype => Tensor::fixed(dtype, shape, part.to_vec()),
        };
        outputs.push(NamedTensor { name, tensor: tensor.map_err(|_| OTHER)? });
    }
    Ok(outputs)
}

fn texts(mut part: &[u8]) -> Option<Vec<bytes::Bytes>> {
    let mut texts = Vec::new();
    while let Some((length, rest)) = part.split_first_chunk() {
        let (text, others) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        texts.push(bytes::Bytes::copy_from_slice(text));
        part = others;
    }
    part.is_empty().then_some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_to_the_bit() {
        let texts =
            Tensor::strings(Shape::from([2]), vec!["a".into(), bytes::Bytes::from_static(b"\xff")]).expect("two");
        let numbers = Tensor::from_slice([1, 2], &[f32::NAN, -0.0]).expect("two");
        let all =
            vec![NamedTensor { name: "t".into(), tensor: texts }, NamedTensor { name: "n".into(), tensor: numbers }];
        let (length, body) = written(&all, &[]);
        let head: Value = serde_json::from_slice(&body[..length]).expect("JSON");
        let mut answer = json!({ "outputs": head["inputs"] }).to_string().into_bytes();
        answer.extend_from_slice(&body[length..]);
        let found = read(&answer).expect("an answer");
        for (found, expected) in found.iter().zip(&all) {
            assert_eq!((&found.name, found.tensor.data()), (&expected.name, expected.tensor.data()));
        }
        assert!(read(&answer[..answer.len() - 1]).is_err() && read(b"{}").is_err() && read(b"").is_err());
    }
}
