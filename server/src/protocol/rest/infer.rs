//! How does an inference request over REST become one of ours, and its outcome an answer? JSON, the binary tensor
//! extension in both directions, mixed, and the raw body.

use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderValue;
use http_body::Body;
use smallvec::SmallVec;
use tiltyard_types::json::{
    self, NonFinite, Reader, read_parameters, read_tensor, write_data, write_string, write_unsigned,
};
use tiltyard_types::{
    Error, InferRequest, NamedTensor, Parameter, Parameters, RequestedOutput, Result, Shape, Signature, Tensor,
};

use super::headers::{HEADER_LENGTH, InferHeaders, check_content_type};
use super::{Head, receive};
use crate::infer::{Accepted, Outcome};
use crate::protocol::reply::{self, Reply};
use crate::protocol::{beside_the_loop, classification, strings};
use crate::route::Asking;
use crate::service::Service;

/// Reads, answers, writes.
pub(super) async fn infer<B>(
    service: &Arc<Service>,
    head: &Head<'_>,
    model: &str,
    version: Option<u64>,
    body: B,
) -> Result<Reply>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    let headers = InferHeaders::of(head.headers);
    let started = service.inference.accept(head.headers, headers.timeout()?, 0);
    let asking = head.asking(started.id);
    let asked = Asked { headers, asking, model, version, started };
    let mut id = String::new();
    let answer = try_infer(service, &asked, body, &mut id).await;
    answer.inspect_err(|error: &Error| service.inference.tell_failure(started, model, &id, error))
}

/// What the head asks.
struct Asked<'a> {
    headers: InferHeaders<'a>,
    asking: Asking<'a>,
    model: &'a str,
    version: Option<u64>,
    started: Accepted,
}

/// Puts the client's name for the request into `id` as soon as it is known.
async fn try_infer<B>(service: &Service, asked: &Asked<'_>, body: B, id: &mut String) -> Result<Reply>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display,
{
    let Asked { headers, asking, model, version, started } = asked;
    check_content_type(headers.content_type)?;
    // What cannot be answered is refused before its body is read.
    let mut choice = service.inference.catalog.load().route(model, *version, asking)?;
    let (body, mut room) = receive(service, &choice, *started, headers.content_encoding, body).await?;
    let accepted = started.with_body(body.len());
    let header_length = headers.header_length()?;
    let (contract, open) = (choice.contract(), choice.open());
    let decode = move || {
        let request = decode(header_length, &body, &contract.deployment.signature)?;
        let text = &body[..header_length.unwrap_or(body.len()).min(body.len())];
        let pick = open.map(|route| route.look_into(&request, text)).transpose()?;
        Ok::<_, Error>((request, pick))
    };
    let (mut request, pick) = beside_the_loop(accepted.bytes, decode).await?;
    request.model = (*model).to_owned();
    request.version = *version;
    id.clone_from(&request.id);
    if let Some(pick) = pick {
        service.inference.settle(&mut choice, pick, &mut room, accepted)?;
    }
    let outcome = service.inference.infer(&mut request, choice, accepted, room, asking.headers).await?;
    let answer = Answer {
        all_binary: header_length == Some(0) || flag(&request.parameters, "binary_data_output"),
        model: request.model,
        id: request.id,
        requested: request.outputs,
    };
    let bytes = outcome.outputs.iter().map(Tensor::size).sum();
    beside_the_loop(bytes, move || answer.encode(&outcome, bytes)).await
}

/// Reads the body into a request without the names that the path has.
fn decode(header_length: Option<usize>, body: &Bytes, signature: &Signature) -> Result<InferRequest> {
    let mut request = InferRequest::default();
    if header_length == Some(0) {
        request.inputs.push(raw_input(signature, body)?);
        return Ok(request);
    }
    let json_bytes = header_length.unwrap_or(body.len());
    if json_bytes > body.len() {
        return Err(Error::invalid(format!(
            "{HEADER_LENGTH} says {json_bytes} bytes of JSON, but the body has {}",
            body.len()
        )));
    }
    let mut binary = body.slice(json_bytes..);
    read_request(&body[..json_bytes], signature, &mut binary, &mut request)?;
    if !binary.is_empty() {
        return Err(Error::invalid(format!("{} bytes are left after the last binary input", binary.len())));
    }
    Ok(request)
}

fn read_request(text: &[u8], signature: &Signature, binary: &mut Bytes, request: &mut InferRequest) -> Result<()> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err(Error::invalid("the body is empty: expected a JSON object with \"inputs\""));
    }
    let mut inputs_seen = false;
    let mut reader = Reader::new(text);
    reader.read_object(|key, reader| {
        match key {
            "id" => request.id = reader.read_string()?.into_owned(),
            "parameters" => request.parameters = read_parameters(reader)?,
            "outputs" => request.outputs = read_outputs(reader, signature.outputs.len())?,
            "inputs" if inputs_seen => return Err(Error::invalid("\"inputs\" is given twice")),
            "inputs" => {
                inputs_seen = true;
                let known = signature.inputs.len();
                request.inputs = Vec::with_capacity(known);
                reader.read_array(|reader| {
                    if request.inputs.len() > known {
                        return Err(Error::invalid(format!(
                            "more inputs are given than the model takes, which is {known}"
                        )));
                    }
                    let input = read_input(reader, signature, binary)?;
                    request.inputs.push(input);
                    Ok::<(), Error>(())
                })?;
            }
            _ => drop(reader.skip_value()?),
        }
        Ok(())
    })?;
    reader.finish()?;
    match inputs_seen {
        true => Ok(()),
        false => Err(Error::invalid("\"inputs\" is missing: expected a list of tensors")),
    }
}

fn read_input(reader: &mut Reader<'_>, signature: &Signature, binary: &mut Bytes) -> Result<NamedTensor> {
    let dtype_of = |name: &str| signature.inputs.iter().find(|input| input.name == name).map(|input| input.dtype);
    let json::TensorText { name, dtype, shape, parameters, data } = read_tensor(reader, &dtype_of)?;
    if parameters.contains_key("shared_memory_region") {
        return Err(crate::manage::no_shared_memory(&format!("input {name:?}")));
    }
    let tensor = match (binary_size(&name, &parameters)?, data) {
        (None, Some(tensor)) => tensor,
        (None, None) => return Err(Error::invalid(format!("input {name:?}: \"data\" is missing"))),
        (Some(_), Some(_)) => {
            return Err(Error::invalid(format!("input {name:?}: both \"data\" and \"binary_data_size\" are given")));
        }
        (Some(size), None) => {
            if size > binary.len() {
                return Err(Error::invalid(format!(
                    "input {name:?}: binary_data_size is {size}, but {} bytes are left",
                    binary.len()
                )));
            }
            let raw = binary.split_to(size);
            match dtype.width() {
                None => strings::decode(&name, shape, &raw)?,
                Some(_) => Tensor::fixed(dtype, shape, raw)
                    .map_err(|error| Error::invalid(format!("input {name:?}: {error}")))?,
            }
        }
    };
    Ok(NamedTensor { name, tensor })
}

fn binary_size(name: &str, parameters: &Parameters) -> Result<Option<usize>> {
    match parameters.get("binary_data_size") {
        None => Ok(None),
        Some(Parameter::Int(size)) if *size >= 0 => Ok(usize::try_from(*size).ok()),
        Some(_) => Err(Error::invalid(format!("input {name:?}: binary_data_size: expected a number of bytes"))),
    }
}

/// Reads at most one more than `known`, which is enough for naming what is wrong with them.
fn read_outputs(reader: &mut Reader<'_>, known: usize) -> Result<Vec<RequestedOutput>> {
    let mut outputs = Vec::new();
    reader.read_array(|reader| {
        let mut output = RequestedOutput::default();
        reader.read_object(|key, reader| {
            match key {
                "name" => output.name = reader.read_string()?.into_owned(),
                "parameters" => output.parameters = read_parameters(reader)?,
                _ => drop(reader.skip_value()?),
            }
            Ok::<(), Error>(())
        })?;
        if output.parameters.contains_key("shared_memory_region") {
            return Err(crate::manage::no_shared_memory(&format!("output {:?}", output.name)));
        }
        if outputs.len() > known {
            return Err(Error::invalid(format!("more outputs are requested than the model gives, which is {known}")));
        }
        outputs.push(output);
        Ok::<(), Error>(())
    })?;
    Ok(outputs)
}

/// The whole body as the one input, one row of it. One axis beside the batch may be dynamic: its length follows.
fn raw_input(signature: &Signature, body: &Bytes) -> Result<NamedTensor> {
    let [spec] = signature.inputs.as_slice() else {
        return Err(Error::invalid(format!(
            "a raw body needs a model with one input; this one has {}: send JSON",
            signature.inputs.len()
        )));
    };
    let Some(width) = spec.dtype.width() else {
        let shape = spec.wire_dims().iter().map(|&dim| usize::try_from(dim).unwrap_or(1)).collect();
        return Ok(NamedTensor { name: spec.name.clone(), tensor: strings::decode(&spec.name, shape, body)? });
    };
    let dims = spec.wire_dims();
    let mut axes: Vec<Option<usize>> = dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    if axes.len() > 1 && axes[0].is_none() {
        axes[0] = Some(1);
    }
    let known: usize = axes.iter().flatten().product();
    let elements = body.len() / width;
    let shape: Shape = match axes.iter().filter(|axis| axis.is_none()).count() {
        0 => axes.iter().flatten().copied().collect(),
        1 if known > 0 && elements.is_multiple_of(known) => {
            axes.iter().map(|axis| axis.unwrap_or(elements / known)).collect()
        }
        _ => {
            return Err(Error::invalid(format!(
                "the raw body's shape cannot be told from {} bytes and {spec}: send JSON",
                body.len()
            )));
        }
    };
    let tensor = Tensor::fixed(spec.dtype, shape, body.clone())
        .map_err(|error| Error::invalid(format!("input {:?}: {error}", spec.name)))?;
    Ok(NamedTensor { name: spec.name.clone(), tensor })
}

/// What an answer repeats of its request, and how that wants it.
struct Answer {
    model: String,
    id: String,
    requested: Vec<RequestedOutput>,
    all_binary: bool,
}

impl Answer {
    /// Writes the outputs, which have about so many `bytes`: the JSON, and the binary parts behind it.
    fn encode(&self, outcome: &Outcome, bytes: usize) -> Result<Reply> {
        // Names, shapes and the words around them; where they are longer, the buffer grows.
        const OUTPUT_TEXT: usize = 160;
        let capacity = OUTPUT_TEXT * (1 + outcome.outputs.len()) + self.model.len() + self.id.len() + bytes;
        let mut body = Vec::with_capacity(capacity);
        body.extend_from_slice(b"{\"model_name\":");
        write_string(&self.model, &mut body);
        body.extend_from_slice(b",\"model_version\":\"");
        body.extend_from_slice(outcome.arm.version.as_bytes());
        body.push(b'"');
        if !self.id.is_empty() {
            body.extend_from_slice(b",\"id\":");
            write_string(&self.id, &mut body);
        }
        body.extend_from_slice(b",\"outputs\":[");
        let mut binary = SmallVec::<[Bytes; 2]>::new();
        for (position, (name, tensor)) in outcome.named().enumerate() {
            let parameters = self.requested.get(position).map(|output| &output.parameters);
            let classes = parameters.map(classification::requested).transpose()?.flatten();
            let classified = classes
                .map(|count| classification::classify(&outcome.arm.deployment, name, tensor, count))
                .transpose()?;
            let tensor = classified.as_ref().unwrap_or(tensor);
            if position > 0 {
                body.push(b',');
            }
            let binary_data = parameters.and_then(|parameters| choice(parameters, "binary_data"));
            let part = binary_data.unwrap_or(self.all_binary).then(|| binary_part(tensor));
            write_output(name, tensor, part.as_ref(), &mut body)?;
            binary.extend(part);
        }
        body.extend_from_slice(b"]}");
        let mut headers = outcome.headers();
        if binary.is_empty() {
            return Ok(Reply { headers, ..Reply::new(reply::JSON, body) });
        }
        headers.insert(HEADER_LENGTH, HeaderValue::from(body.len()));
        body.reserve_exact(binary.iter().map(Bytes::len).sum());
        binary.iter().for_each(|part| body.extend_from_slice(part));
        Ok(Reply { headers, ..Reply::new(reply::BINARY, body) })
    }
}

/// The tensor as it stands behind the JSON.
fn binary_part(tensor: &Tensor) -> Bytes {
    match tensor.as_strings() {
        Some(elements) => strings::encode(elements),
        None => tensor.bytes().cloned().unwrap_or_default(),
    }
}

/// Writes an output's JSON; its elements too, where they are in no binary part.
fn write_output(name: &str, tensor: &Tensor, binary: Option<&Bytes>, text: &mut Vec<u8>) -> Result<()> {
    text.extend_from_slice(b"{\"name\":");
    write_string(name, text);
    text.extend_from_slice(b",\"datatype\":\"");
    text.extend_from_slice(tensor.dtype().name().as_bytes());
    text.extend_from_slice(b"\",\"shape\":[");
    for (position, &axis) in tensor.shape().iter().enumerate() {
        if position > 0 {
            text.push(b',');
        }
        write_unsigned(axis as u64, text);
    }
    text.push(b']');
    match binary {
        Some(part) => {
            text.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
            write_unsigned(part.len() as u64, text);
            text.push(b'}');
        }
        None => {
            text.extend_from_slice(b",\"data\":");
            write_data(tensor, text, NonFinite::Bare).map_err(|error| {
                Error::invalid(format!(
                    "output {name:?}: element {} is not UTF-8 and cannot be written as JSON: ask for binary_data",
                    error.element
                ))
            })?;
        }
    }
    text.push(b'}');
    Ok(())
}

fn choice(parameters: &Parameters, key: &str) -> Option<bool> {
    match parameters.get(key) {
        Some(Parameter::Bool(value)) => Some(*value),
        _ => None,
    }
}

fn flag(parameters: &Parameters, key: &str) -> bool {
    choice(parameters, key).unwrap_or(false)
}
