//! Which gRPC method does what? The inference service, with health and reflection beside it.

mod bounds;
mod callers;
mod convert;
pub(crate) mod health;
mod manage;
mod quick;
pub(crate) mod reflection;
pub(crate) mod wire;

use std::pin::pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body;
use prost::Message;
use tiltyard_proto::inference as pb;
use tiltyard_proto::inference::infer_parameter::ParameterChoice;
use tiltyard_types::{Error, InferRequest, Moment, Result, Tensor};

use super::{beside_the_loop, classification, is_light, parse_version, status};
use crate::admission::Room;
use crate::clients::Asker;
use crate::drain::{self, Phase};
use crate::infer::{Accepted, Outcome, count_refusal};
use crate::listen::{CameIn, STREAM_WINDOW_BYTES};
use crate::locks::calls::Call;
use crate::route::{Asking, Choice};
use crate::service::Service;
use crate::{clock, deadlines};
use callers::{Known, Shown};
use wire::{Code, CompressionPolicy, Encoder, GrpcBody, Head, MessageStream, Status, late};

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
        let status = Status::new(status::codes(error.kind()).1, error.message().to_owned());
        match error.wait() {
            Some(wait) => status.retry_after(wait),
            None => status,
        }
    }
}

/// Answers one gRPC request, whatever happens.
pub(crate) async fn answer<B>(service: Arc<Service>, request: Request<B>, came_in: &CameIn) -> Response<GrpcBody>
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
    // Before anything of the body is read; whom the message names is asked about once that is known.
    let caller = match callers::known(&service, path, &parts.headers, came_in.certificate.as_deref()) {
        Ok(caller) => caller,
        Err(error) => {
            service.totals.note_failure(error.kind());
            return Status::from(error).into_response();
        }
    };
    if let Some(method) = path.strip_prefix(INFERENCE) {
        return match method {
            "ModelInfer" => {
                let asker = service.inference.asker(&parts.headers, came_in.from);
                let sender = Sender { caller: &caller, headers: &parts.headers };
                model_infer(&service, sender, &head, asker, body).await.unwrap_or_else(Status::into_response)
            }
            "ModelStreamInfer" => {
                let asker = service.inference.asker(&parts.headers, came_in.from);
                let shown = Shown::of(&service, &parts, came_in);
                model_stream_infer(service, shown, &head, asker, body)
            }
            // Rare calls are boxed, here and below, so that the future that every request is moved about with stays small.
            method => Box::pin(unary(&service, &caller, method, &head, body)).await,
        };
    }
    if let Some(method) = path.strip_prefix(health::PATH_PREFIX) {
        let (changes, phases) = (service.writer.first_look_done.clone(), service.phase.subscribe());
        let shown = Shown::of(&service, &parts, came_in);
        let serving = move |name: &str| {
            shown.look()?;
            Ok(HEALTH_SERVICES.contains(&name).then(|| service.is_ready()))
        };
        let health = health::Health::new(HEALTH_SERVICES, serving, changes, phases);
        return Box::pin(health.answer(method, &parts, body)).await;
    }
    if reflection::PATHS.contains(&path) {
        return match reflection() {
            Some(reflection) => {
                let shown = Shown::of(&service, &parts, came_in);
                reflection.answer(&parts, body, service.phase.subscribe(), move || shown.look().map(drop))
            }
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

async fn model_infer<B>(
    service: &Service,
    sender: Sender<'_>,
    head: &Head<'_>,
    asker: Option<Asker>,
    body: B,
) -> Result<Response<GrpcBody>, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let mut started = service.inference.accept(sender.headers, None, 0);
    count(service, asker, started)?;
    started.timeout = wire::timeout(head)?;
    let mut room = service.inference.admission.room_for_unknown();
    let message = read(service, started.at, head, body, &mut room).await?;
    let accepted = started.with_body(message.len());
    let choice = receive(service, sender, &message, accepted, &mut room)?;
    // What is light is done without being moved into a future first, here and below.
    let mut incoming = match is_light(accepted.bytes) {
        true => Incoming::read(message, choice)?,
        false => beside_the_loop(accepted.bytes, move || Incoming::read(message, choice)).await?,
    };
    let outcome = infer(service, sender, &mut incoming, accepted, room).await?;
    let headers = outcome.grpc_headers();
    let (encoder, request) = (Encoder::negotiate(head, COMPRESSION), incoming.request);
    let bytes = outcome.outputs.iter().map(Tensor::size).sum();
    let framed = match is_light(bytes) {
        true => framed(&request, &outcome, encoder)?,
        false => beside_the_loop(bytes, move || framed(&request, &outcome, encoder)).await?,
    };
    Ok(wire::unary_response_with(framed, headers))
}

/// Finds out whom a message is for before it is decoded, and refuses it where it would be refused anyway. `None` where that
/// can only be known from all of it, there is nobody of the name, or the caller may not ask it, which it is told later.
fn receive(
    service: &Service,
    sender: Sender<'_>,
    message: &[u8],
    accepted: Accepted,
    room: &mut Room,
) -> Result<Option<Choice>, Status> {
    let Some((model, version)) = quick::names(message) else { return Ok(None) };
    if sender.caller.may(Call::Score(model)).is_err() {
        return Ok(None);
    }
    let routed = service.inference.catalog.load().route(model, version, &sender.asking(accepted));
    let Ok(choice) = routed else { return Ok(None) };
    // Where all of it must be read to know whom it is for, nobody's load speaks against it yet.
    let Some(arm) = choice.known() else { return Ok(Some(choice)) };
    let received = room.belongs_to(&arm.deployment.stats);
    let received = received.inspect_err(|error| count_refusal(&choice, accepted, error));
    // A message without parameters asks for no other time than that.
    let timeout =
        accepted.timeout.or_else(|| quick::has_no_parameters(message).then(|| service.live.request_timeout()));
    let received = received.and_then(|()| service.inference.foresee(&choice, Accepted { timeout, ..accepted }));
    received.inspect_err(|error| note(service, accepted, model, "", error))?;
    Ok(Some(choice))
}

/// Whom a message is from.
#[derive(Clone, Copy)]
struct Sender<'a> {
    caller: &'a Known,
    headers: &'a HeaderMap,
}

impl<'a> Sender<'a> {
    fn asking(self, accepted: Accepted) -> Asking<'a> {
        Asking { headers: self.headers, caller: self.caller.name(), id: accepted.id }
    }
}

/// Counts a request of a client before it is decoded, or refuses it.
fn count(service: &Service, asker: Option<Asker>, accepted: Accepted) -> Result<()> {
    let counted = service.inference.admit_client(asker, accepted.at);
    counted.inspect_err(|error| note(service, accepted, "", "", error))
}

/// Counts and logs a failure.
fn note(service: &Service, accepted: Accepted, model: &str, id: &str, error: &Error) {
    service.totals.note_failure(error.kind());
    service.inference.tell_failure(accepted, model, id, error);
}

/// An inference as it was read.
struct Incoming {
    /// Of one that asks what cannot be, only whom it names.
    request: InferRequest,
    /// Who answers, where that was looked up already.
    choice: Option<Choice>,
    /// What is wrong with the version it names.
    version: Result<()>,
    /// What is wrong with what it asks.
    asked: Result<()>,
}

impl Incoming {
    fn read(message: Bytes, choice: Option<Choice>) -> Result<Incoming, Status> {
        match quick::read(&message) {
            Some(request) => Ok(Incoming { request, choice, version: Ok(()), asked: Ok(()) }),
            // It may name another model further on.
            None => Incoming::decode(message),
        }
    }

    fn decode(message: Bytes) -> Result<Incoming, Status> {
        bounds::check(&message)?;
        decode(message).map(Incoming::of)
    }

    fn of(message: pb::ModelInferRequest) -> Incoming {
        let (model, id) = (message.model_name.clone(), message.id.clone());
        let (version, wrong) = match parse_version(&message.model_version) {
            Ok(version) => (version, Ok(())),
            Err(error) => (None, Err(error)),
        };
        match convert::request(message, version) {
            Ok(request) => Incoming { request, choice: None, version: wrong, asked: Ok(()) },
            Err(error) => {
                let request = InferRequest { model, version, id, ..InferRequest::default() };
                Incoming { request, choice: None, version: wrong, asked: Err(error) }
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

async fn infer(
    service: &Service,
    sender: Sender<'_>,
    incoming: &mut Incoming,
    accepted: Accepted,
    room: Room,
) -> Result<Outcome> {
    let answered = try_infer(service, sender, incoming, accepted, room).await;
    answered.inspect_err(|error: &Error| note(service, accepted, &incoming.request.model, &incoming.request.id, error))
}

async fn try_infer(
    service: &Service,
    sender: Sender<'_>,
    incoming: &mut Incoming,
    accepted: Accepted,
    mut room: Room,
) -> Result<Outcome> {
    let Incoming { request, choice, version, asked } = incoming;
    sender.caller.may(Call::Score(&request.model))?;
    // A model that is not there is told before a mistake in the inputs.
    std::mem::replace(version, Ok(()))?;
    let mut choice = match choice.take() {
        Some(choice) => choice,
        None => {
            let asking = sender.asking(accepted);
            let choice = service.inference.catalog.load().route(&request.model, request.version, &asking)?;
            if let Some(arm) = choice.known() {
                let room = room.belongs_to(&arm.deployment.stats);
                room.inspect_err(|error| count_refusal(&choice, accepted, error))?;
            }
            choice
        }
    };
    std::mem::replace(asked, Ok(()))?;
    if let Some(route) = choice.open() {
        let pick = route.look_into(request, b"")?;
        service.inference.settle(&mut choice, pick, &mut room, accepted)?;
    }
    let classes: Vec<Option<usize>> =
        request.outputs.iter().map(|output| classification::requested(&output.parameters)).collect::<Result<_>>()?;
    let mut outcome = service.inference.infer(request, choice, accepted, room, sender.asking(accepted).headers).await?;
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
fn model_stream_infer<B>(
    service: Arc<Service>,
    shown: Shown,
    head: &Head<'_>,
    asker: Option<Asker>,
    body: B,
) -> Response<GrpcBody>
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
        let empty = || service.inference.admission.room_for_unknown();
        let mut room = empty();
        let mut phases = service.phase.subscribe();
        let mut late_bytes = 0;
        while messages.begins(drain::reached(&mut phases, Phase::Draining)).await? {
            let until = clock::now() + service.live.request_timeout();
            let next = deadlines::within(until, messages.next(Some(&mut room)));
            let Some(message) = next.await.ok_or_else(late)?? else { return Ok(()) };
            if *service.phase.borrow() >= Phase::Draining {
                late_bytes += message.len();
            }
            let caller = shown.look()?;
            let accepted = service.inference.accept(shown.headers(), None, message.len());
            let counted = count(&service, asker, accepted);
            let room = std::mem::replace(&mut room, empty());
            let read = move || {
                bounds::check(&message)?;
                let request: pb::ModelInferRequest = decode(message)?;
                let wants_final = asks_for_final_marker(&request);
                Ok::<_, Status>((wants_final, Incoming::of(request)))
            };
            let (wants_final, mut incoming) = beside_the_loop(accepted.bytes, read).await?;
            let answered = match counted {
                Ok(()) => {
                    let sender = Sender { caller: &caller, headers: shown.headers() };
                    infer(&service, sender, &mut incoming, accepted, room).await
                }
                Err(refused) => Err(refused),
            };
            let answer = match answered {
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
async fn unary<B>(service: &Arc<Service>, caller: &Known, method: &str, head: &Head<'_>, body: B) -> Response<GrpcBody>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let encoder = Encoder::negotiate(head, COMPRESSION);
    let answer = async {
        let mut room = service.inference.admission.room_for_unknown();
        let message = read(service, clock::now(), head, body, &mut room).await?;
        manage::answer(service, caller, method, message, encoder).await
    };
    match answer.await {
        Ok(framed) => wire::unary_response(framed),
        Err(status) => status.into_response(),
    }
}

/// The one message of a unary call, which must arrive within the time a request has.
async fn read<B>(service: &Service, now: Moment, head: &Head<'_>, body: B, room: &mut Room) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    // Where it is, it stays: it is larger than what waits for it.
    let read = pin!(wire::read_message(head, body, service.live.body_bytes_max(), Some(room)));
    match deadlines::within(now + service.live.request_timeout(), read).await {
        Some(message) => message,
        None => Err(late()),
    }
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message)
        .map_err(|error| Status::new(Code::InvalidArgument, format!("the message cannot be read: {error}")))
}
