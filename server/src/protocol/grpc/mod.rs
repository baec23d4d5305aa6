//! Which gRPC method does what? The inference service, with health and reflection beside it.

mod convert;
pub(crate) mod health;
mod manage;
mod quick;
pub(crate) mod reflection;
pub(crate) mod wire;

use std::pin::pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use prost::Message;
use tiltyard_proto::inference as pb;
use tiltyard_proto::inference::infer_parameter::ParameterChoice;
use tiltyard_types::{Error, InferRequest, Moment, Result, Tensor};

use super::{beside_the_loop, classification, is_light, parse_version, status};
use crate::drain::{self, Phase};
use crate::infer::{Accepted, Outcome, log_failure};
use crate::listen::STREAM_WINDOW_BYTES;
use crate::service::Service;
use crate::{clock, deadlines};
use wire::{Code, CompressionPolicy, Encoder, GrpcBody, Head, MessageStream, Status};

const INFERENCE: &str = "/inference.GRPCInferenceService/";

/// The services that health knows; the empty name is the server as a whole.
const HEALTH_SERVICES: &[&str] = &["", "inference.GRPCInferenceService"];

/// Answers smaller than this stay plain even where the client accepts compression.
const COMPRESSION: CompressionPolicy = CompressionPolicy { enabled: true, message_bytes_min: 512 };

/// Bytes of requests that a stream takes once the server drains: as many as can be here already. A client that goes on
/// sending would else never hear the end.
const LATE_BYTES_MAX: usize = STREAM_WINDOW_BYTES as usize;

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
    let head = Head::of(&parts.headers);
    if let Some(refusal) = wire::refusal(&parts, &head) {
        return refusal;
    }
    let path = parts.uri.path();
    if let Some(method) = path.strip_prefix(INFERENCE) {
        return match method {
            "ModelInfer" => model_infer(&service, &head, body).await.unwrap_or_else(refused),
            "ModelStreamInfer" => model_stream_infer(service, &head, body),
            // Rare calls are boxed, here and below, so that the future that every request is moved about with stays small.
            method => Box::pin(unary(&service, method, &head, body)).await,
        };
    }
    if let Some(method) = path.strip_prefix(health::PATH_PREFIX) {
        let (changes, phases) = (service.writer.first_look_done.clone(), service.phase.subscribe());
        let serving = move |name: &str| HEALTH_SERVICES.contains(&name).then(|| service.is_ready());
        let health = health::Health::new(HEALTH_SERVICES, serving, changes, phases);
        return Box::pin(health.answer(method, &parts, body)).await;
    }
    if reflection::PATHS.contains(&path) {
        return match reflection() {
            Some(reflection) => reflection.answer(&parts, body, service.phase.subscribe()),
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

async fn model_infer<B>(service: &Service, head: &Head<'_>, body: B) -> Result<Response<GrpcBody>, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let timeout = wire::timeout(head)?;
    let started = Accepted::now(timeout, 0);
    let message = read(service, started.at, head, body).await?;
    let accepted = Accepted { bytes: message.len(), ..started };
    // What is light is done without being moved into a future first, here and below.
    let mut incoming = match is_light(accepted.bytes) {
        true => Incoming::read(message)?,
        false => beside_the_loop(accepted.bytes, move || Incoming::read(message)).await?,
    };
    let outcome = infer(service, &mut incoming, accepted).await?;
    let headers = outcome.arm.grpc_headers(accepted.id);
    let (encoder, request) = (Encoder::negotiate(head, COMPRESSION), incoming.request);
    let bytes = outcome.outputs.iter().map(Tensor::size).sum();
    let framed = match is_light(bytes) {
        true => framed(&request, &outcome, encoder)?,
        false => beside_the_loop(bytes, move || framed(&request, &outcome, encoder)).await?,
    };
    Ok(wire::unary_response_with(framed, headers))
}

/// An inference as it was read.
struct Incoming {
    /// Of one that asks what cannot be, only whom it names.
    request: InferRequest,
    /// What is wrong with the version it names.
    version: Result<()>,
    /// What is wrong with what it asks.
    asked: Result<()>,
}

impl Incoming {
    fn read(message: Bytes) -> Result<Incoming, Status> {
        match quick::read(&message) {
            Some(request) => Ok(Incoming { request, version: Ok(()), asked: Ok(()) }),
            None => decode(message).map(Incoming::of),
        }
    }

    fn of(message: pb::ModelInferRequest) -> Incoming {
        let (model, id) = (message.model_name.clone(), message.id.clone());
        let (version, wrong) = match parse_version(&message.model_version) {
            Ok(version) => (version, Ok(())),
            Err(error) => (None, Err(error)),
        };
        match convert::request(message, version) {
            Ok(request) => Incoming { request, version: wrong, asked: Ok(()) },
            Err(error) => {
                let request = InferRequest { model, version, id, ..InferRequest::default() };
                Incoming { request, version: wrong, asked: Err(error) }
            }
        }
    }
}

/// The answer as a frame.
fn framed(request: &InferRequest, outcome: &Outcome, encoder: Encoder) -> Result<Bytes, Status> {
    match quick::write(&request.model, &outcome.arm.version, &request.id, outcome.named()) {
        Some(framed) => Ok(encoder.pack(framed)),
        // Too large: the generated code says so.
        None => encoder.frame(&convert::response(request, outcome)),
    }
}

/// The answer to a call that failed, with a line for who looks for it.
fn refused(status: Status) -> Response<GrpcBody> {
    tracing::debug!(code = ?status.code(), reason = status.message(), "refused");
    status.into_response()
}

async fn infer(service: &Service, incoming: &mut Incoming, accepted: Accepted) -> Result<Outcome> {
    let answered = try_infer(service, incoming, accepted).await;
    answered.inspect_err(|error: &Error| {
        service.totals.note_failure(error.kind());
        log_failure(accepted.id, &incoming.request.model, &incoming.request.id, error);
    })
}

async fn try_infer(service: &Service, incoming: &mut Incoming, accepted: Accepted) -> Result<Outcome> {
    let Incoming { request, version, asked } = incoming;
    // A model that is not there is told before a mistake in the inputs.
    std::mem::replace(version, Ok(()))?;
    let arm = service.inference.catalog.load().route(&request.model, request.version)?;
    std::mem::replace(asked, Ok(()))?;
    let classes: Vec<Option<usize>> =
        request.outputs.iter().map(|output| classification::requested(&output.parameters)).collect::<Result<_>>()?;
    let mut outcome = service.inference.infer(request, arm, accepted).await?;
    // As many as were asked for by name, in that order.
    for ((output, tensor), count) in request.outputs.iter().zip(&mut outcome.outputs).zip(classes) {
        if let Some(count) = count {
            *tensor = classification::classify(&outcome.arm.deployment, &output.name, tensor, count)?;
        }
    }
    Ok(outcome)
}

/// Each request of the stream is answered in its turn; one that fails is told in its answer and does not end the stream.
///
/// A server that ends answers what is here already and then ends the stream with UNAVAILABLE: what has no answer was not
/// run, and may be asked for elsewhere.
fn model_stream_infer<B>(service: Arc<Service>, head: &Head<'_>, body: B) -> Response<GrpcBody>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::fmt::Display + Send + Sync + 'static,
{
    let encoder = Encoder::negotiate(head, COMPRESSION);
    let mut messages = match MessageStream::new(head, body, service.live.body_bytes_max()) {
        Ok(messages) => messages,
        Err(status) => return status.into_response(),
    };
    wire::streaming_response(encoder, STREAM_WAITING_MAX, move |sender| async move {
        let mut phases = service.phase.subscribe();
        let mut late_bytes = 0;
        while messages.begins(drain::reached(&mut phases, Phase::Draining)).await? {
            let Some(message) = messages.next().await? else { return Ok(()) };
            if *service.phase.borrow() >= Phase::Draining {
                late_bytes += message.len();
            }
            let accepted = Accepted::now(None, message.len());
            let read = move || {
                let request: pb::ModelInferRequest = decode(message)?;
                let wants_final = asks_for_final_marker(&request);
                Ok::<_, Status>((wants_final, Incoming::of(request)))
            };
            let (wants_final, mut incoming) = beside_the_loop(accepted.bytes, read).await?;
            let answer = match infer(&service, &mut incoming, accepted).await {
                Ok(outcome) => {
                    let mut response = convert::response(&incoming.request, &outcome);
                    if wants_final {
                        let yes = pb::InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
                        response.parameters.insert("triton_final_response".to_owned(), yes);
                    }
                    pb::ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
                }
                // The id says which of the stream's requests it was.
                Err(error) => pb::ModelStreamInferResponse {
                    error_message: error.message().to_owned(),
                    infer_response: Some(pb::ModelInferResponse { id: incoming.request.id, ..Default::default() }),
                },
            };
            sender.send(&answer).await?;
            if late_bytes > LATE_BYTES_MAX || *service.phase.borrow() >= Phase::Cutting {
                break;
            }
        }
        tokio::spawn(messages.discard());
        Err(Status::shutting_down())
    })
}

/// Every request has one answer here, so that it is the final one too, for clients that ask to be told.
fn asks_for_final_marker(request: &pb::ModelInferRequest) -> bool {
    let parameter = request.parameters.get("triton_enable_empty_final_response");
    parameter.is_some_and(|parameter| parameter.parameter_choice == Some(ParameterChoice::BoolParam(true)))
}

/// The methods that answer about the server and its models.
async fn unary<B>(service: &Arc<Service>, method: &str, head: &Head<'_>, body: B) -> Response<GrpcBody>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let encoder = Encoder::negotiate(head, COMPRESSION);
    let answer = async {
        let message = read(service, clock::now(), head, body).await?;
        manage::answer(service, method, message, encoder).await
    };
    match answer.await {
        Ok(framed) => wire::unary_response(framed),
        Err(status) => refused(status),
    }
}

/// The one message of a unary call, which must arrive within the time a request has.
async fn read<B>(service: &Service, now: Moment, head: &Head<'_>, body: B) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    // Where it is, it stays: it is larger than what waits for it.
    let read = pin!(wire::read_message(head, body, service.live.body_bytes_max()));
    match deadlines::within(now + service.live.request_timeout(), read).await {
        Some(message) => message,
        None => Err(deadlines::late("the message did not arrive in time".to_owned()).into()),
    }
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message)
        .map_err(|error| Status::new(Code::InvalidArgument, format!("the message cannot be read: {error}")))
}
