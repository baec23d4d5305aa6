//! Which gRPC method does what? The inference service, with health and reflection beside it.

mod convert;
pub(crate) mod health;
mod manage;
mod quick;
pub(crate) mod reflection;
pub(crate) mod wire;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use prost::Message;
use tiltyard_proto::inference as pb;
use tiltyard_proto::inference::infer_parameter::ParameterChoice;
use tiltyard_types::{Error, InferRequest, NamedTensor, Result};

use super::{beside_the_loop, classification, identity_headers, parse_version, status};
use crate::catalog::Arm;
use crate::infer::{Accepted, Outcome, log_failure};
use crate::service::Service;
use wire::{Code, CompressionPolicy, Encoder, GrpcBody, MessageStream, Status};

const INFERENCE: &str = "/inference.GRPCInferenceService/";

/// The services that health knows; the empty name is the server as a whole.
const HEALTH_SERVICES: &[&str] = &["", "inference.GRPCInferenceService"];

/// Answers smaller than this stay plain even where the client accepts compression.
const COMPRESSION: CompressionPolicy = CompressionPolicy { enabled: true, message_bytes_min: 512 };

/// Stream answers that may wait for a client to take them.
const STREAM_WAITING_MAX: usize = 16;

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        Status::new(status::codes(error.kind()).1, error.message().to_owned())
    }
}

/// Answers one gRPC request, whatever happens.
pub(crate) async fn answer<B>(service: Arc<Service>, request: Request<B>) -> Response<GrpcBody>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send + Sync + 'static,
{
    let (parts, body) = request.into_parts();
    if let Some(refusal) = wire::refusal(&parts) {
        return refusal;
    }
    let path = parts.uri.path();
    if let Some(method) = path.strip_prefix(INFERENCE) {
        return match method {
            "ModelInfer" => model_infer(&service, &parts, body).await.unwrap_or_else(refused),
            "ModelStreamInfer" => model_stream_infer(service, &parts, body),
            // Rare calls are boxed, here and below, so that the future that every request is moved about with stays small.
            method => Box::pin(unary(&service, method, &parts, body)).await,
        };
    }
    if let Some(method) = path.strip_prefix(health::PATH_PREFIX) {
        let changes = service.writer.first_look_done.clone();
        let serving = move |name: &str| HEALTH_SERVICES.contains(&name).then(|| service.is_ready());
        let health = health::Health::new(HEALTH_SERVICES, serving, changes);
        return Box::pin(health.answer(method, &parts, body)).await;
    }
    if reflection::PATHS.contains(&path) {
        return match reflection() {
            Some(reflection) => reflection.answer(&parts, body),
            None => Status::new(Code::Internal, "the descriptors cannot be read").into_response(),
        };
    }
    Status::new(Code::Unimplemented, format!("there is no method {path:?}")).into_response()
}

fn reflection() -> Option<&'static reflection::Reflection> {
    static REFLECTION: OnceLock<Option<reflection::Reflection>> = OnceLock::new();
    REFLECTION.get_or_init(|| reflection::Reflection::new(tiltyard_proto::FILE_DESCRIPTOR_SET).ok()).as_ref()
}

// A future that is kept in a variable before it is awaited has room there and where it is awaited: each is awaited where
// it is made.

async fn model_infer<B>(service: &Service, parts: &Parts, body: B) -> Result<Response<GrpcBody>, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let timeout = wire::timeout(&parts.headers)?;
    let started = Accepted::now(timeout, 0);
    let message = read(service, parts, body).await?;
    let accepted = Accepted { bytes: message.len(), ..started };
    let incoming = beside_the_loop(accepted.bytes, move || Incoming::read(message)).await?;
    let encoder = Encoder::negotiate(&parts.headers, COMPRESSION);
    let answered = infer(service, incoming, accepted).await?;
    let metadata = identity_headers(&answered.outcome);
    let bytes = answered.outcome.outputs.iter().map(|output| output.tensor.size()).sum();
    let framed = beside_the_loop(bytes, move || answered.framed(encoder)).await?;
    Ok(wire::unary_response(framed, metadata))
}

/// An inference as it was read: whom it names, and what it asks or what is wrong with that.
struct Incoming {
    model: String,
    version: Result<Option<u64>>,
    id: String,
    request: Result<InferRequest>,
}

impl Incoming {
    fn read(message: Bytes) -> Result<Incoming, Status> {
        match quick::read(&message) {
            Some(request) => Ok(Incoming {
                model: request.model.clone(),
                version: Ok(request.version),
                id: request.id.clone(),
                request: Ok(request),
            }),
            None => decode(message).map(Incoming::of),
        }
    }

    fn of(message: pb::ModelInferRequest) -> Incoming {
        let (model, id) = (message.model_name.clone(), message.id.clone());
        let version = parse_version(&message.model_version);
        let request = convert::request(message, version.as_ref().ok().copied().flatten());
        Incoming { model, version, id, request }
    }
}

/// An outcome, with what its answer repeats of the request.
struct Answered {
    model: String,
    id: String,
    outcome: Outcome,
}

impl Answered {
    /// The answer as a frame.
    fn framed(self, encoder: Encoder) -> Result<Bytes, Status> {
        match quick::write(&self.model, &self.outcome.arm.version, &self.id, &self.outcome.outputs) {
            Some(framed) => Ok(encoder.pack(framed)),
            // Too large: the generated code says so.
            None => encoder.frame(&self.message()),
        }
    }

    /// The answer as a message.
    fn message(self) -> pb::ModelInferResponse {
        convert::response(self.model, self.id, self.outcome)
    }
}

/// The answer to a call that failed, with a line for who looks for it.
fn refused(status: Status) -> Response<GrpcBody> {
    tracing::debug!(code = ?status.code(), reason = status.message(), "refused");
    status.into_response()
}

async fn infer(service: &Service, incoming: Incoming, accepted: Accepted) -> Result<Answered> {
    let Incoming { model, version, id, request } = incoming;
    // A model that is not there is told before a mistake in the inputs.
    let arm = version.and_then(|version| service.inference.catalog.load().route(&model, version));
    let resolved = arm.and_then(|arm| Ok((arm, request?)));
    match try_infer(service, resolved, accepted).await {
        Ok(outcome) => Ok(Answered { model, id, outcome }),
        Err(error) => {
            service.totals.note_failure(error.kind());
            log_failure(accepted.id, &model, &id, &error);
            Err(error)
        }
    }
}

async fn try_infer(
    service: &Service,
    resolved: Result<(Arc<Arm>, InferRequest)>,
    accepted: Accepted,
) -> Result<Outcome> {
    let (arm, request) = resolved?;
    let classes: Vec<Option<usize>> =
        request.outputs.iter().map(|output| classification::requested(&output.parameters)).collect::<Result<_>>()?;
    let mut outcome = service.inference.infer(request, arm, accepted).await?;
    for (NamedTensor { name, tensor }, count) in outcome.outputs.iter_mut().zip(classes) {
        if let Some(count) = count {
            *tensor = classification::classify(&outcome.arm.deployment, name, tensor, count)?;
        }
    }
    Ok(outcome)
}

/// Each request of the stream is answered in its turn; one that fails is told in its answer and does not end the stream.
fn model_stream_infer<B>(service: Arc<Service>, parts: &Parts, body: B) -> Response<GrpcBody>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send + Sync + 'static,
{
    let encoder = Encoder::negotiate(&parts.headers, COMPRESSION);
    let mut messages = match MessageStream::new(&parts.headers, body, service.body_bytes_max) {
        Ok(messages) => messages,
        Err(status) => return status.into_response(),
    };
    wire::streaming_response(encoder, STREAM_WAITING_MAX, move |sender| async move {
        while let Some(message) = messages.next().await? {
            let accepted = Accepted::now(None, message.len());
            let read = move || {
                let request: pb::ModelInferRequest = decode(message)?;
                let wants_final = asks_for_final_marker(&request);
                Ok::<_, Status>((wants_final, Incoming::of(request)))
            };
            let (wants_final, incoming) = beside_the_loop(accepted.bytes, read).await?;
            let id = incoming.id.clone();
            let answer = match infer(&service, incoming, accepted).await {
                Ok(answered) => {
                    let mut response = answered.message();
                    if wants_final {
                        let yes = pb::InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
                        response.parameters.insert("triton_final_response".to_owned(), yes);
                    }
                    pb::ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
                }
                // The id says which of the stream's requests it was.
                Err(error) => pb::ModelStreamInferResponse {
                    error_message: error.message().to_owned(),
                    infer_response: Some(pb::ModelInferResponse { id, ..Default::default() }),
                },
            };
            sender.send(&answer).await?;
        }
        Ok(())
    })
}

/// Every request has one answer here, so that it is the final one too, for clients that ask to be told.
fn asks_for_final_marker(request: &pb::ModelInferRequest) -> bool {
    let parameter = request.parameters.get("triton_enable_empty_final_response");
    parameter.is_some_and(|parameter| parameter.parameter_choice == Some(ParameterChoice::BoolParam(true)))
}

/// The methods that answer about the server and its models.
async fn unary<B>(service: &Arc<Service>, method: &str, parts: &Parts, body: B) -> Response<GrpcBody>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let encoder = Encoder::negotiate(&parts.headers, COMPRESSION);
    let answer = async {
        let message = read(service, parts, body).await?;
        manage::answer(service, method, message, encoder).await
    };
    match answer.await {
        Ok(framed) => wire::unary_response(framed, HeaderMap::new()),
        Err(status) => refused(status),
    }
}

/// The one message of a unary call, which must arrive within the time a request has.
async fn read<B>(service: &Service, parts: &Parts, body: B) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let read = wire::read_message(&parts.headers, body, service.body_bytes_max);
    match tokio::time::timeout(service.request_timeout, read).await {
        Ok(message) => message,
        Err(_) => Err(Status::new(Code::DeadlineExceeded, "the message did not arrive in time")),
    }
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message)
        .map_err(|error| Status::new(Code::InvalidArgument, format!("the message cannot be read: {error}")))
}
