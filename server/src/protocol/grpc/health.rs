//! Does the server answer? gRPC's standard health service, over whatever knows it.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body::Body;
use prost::Message;
use tiltyard_proto::health::health_check_response::ServingStatus;
use tiltyard_proto::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse};
use tiltyard_types::Result;
use tokio::sync::watch;

use super::wire::{
    Code, Encoder, GrpcBody, Head, MESSAGE_TIME_MAX, MessageSender, Status, frame, late, read_message,
    streaming_response, unary_response,
};
use crate::drain::Phase;
use crate::{clock, deadlines};

/// The path of every method of the service starts with this.
pub(crate) const PATH_PREFIX: &str = "/grpc.health.v1.Health/";

/// The longest request: a service's name.
const MESSAGE_BYTES_MAX: usize = 4096;

/// Between two looks at what changes without telling.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The health service.
#[derive(Clone)]
pub(crate) struct Health<S> {
    services: &'static [&'static str],
    serving: S,
    changes: watch::Receiver<bool>,
    phases: watch::Receiver<Phase>,
}

impl<S> Health<S>
where
    S: Fn(&str) -> Result<Option<bool>> + Clone + Send + Sync + 'static,
{
    /// `serving` says whether a service answers, `None` where it is not known, and fails where the caller may not ask, or not
    /// any more; the empty name is the server as a whole.
    /// `services` are the names that List lists. Each new value of `changes` and `phases` makes Watch ask `serving` again;
    /// it ends when the server drains.
    pub(crate) fn new(
        services: &'static [&'static str],
        serving: S,
        changes: watch::Receiver<bool>,
        phases: watch::Receiver<Phase>,
    ) -> Health<S> {
        Health { services, serving, changes, phases }
    }

    /// The answer to a call of a method by its bare name: Check, List or Watch.
    pub(crate) async fn answer<B>(&self, method: &str, request: &Parts, body: B) -> Response<GrpcBody>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let head = Head::of(&request.headers);
        let read = read_message(&head, body, MESSAGE_BYTES_MAX, None);
        let message = match deadlines::within(clock::now() + MESSAGE_TIME_MAX, read).await {
            Some(Ok(message)) => message,
            Some(Err(status)) => return status.into_response(),
            None => return late().into_response(),
        };
        let framed = match method {
            "Check" => decode(message).and_then(|request| frame(&self.check(&request)?)),
            "List" => decode(message).and_then(|HealthListRequest {}| frame(&self.list()?)),
            "Watch" => match decode(message) {
                Ok(request) => return self.watch(request),
                Err(status) => Err(status),
            },
            other => Err(Status::new(Code::Unimplemented, format!("the health service has no method {other:?}"))),
        };
        framed.map_or_else(Status::into_response, unary_response)
    }

    fn check(&self, request: &HealthCheckRequest) -> Result<HealthCheckResponse, Status> {
        let serving = (self.serving)(&request.service)?;
        let unknown = || Status::new(Code::NotFound, format!("there is no service {:?}", request.service));
        Ok(response(state(Some(serving.ok_or_else(unknown)?))))
    }

    fn list(&self) -> Result<HealthListResponse, Status> {
        let status = |name: &&str| Ok(((*name).to_owned(), response(state((self.serving)(name)?))));
        let statuses = self.services.iter().map(status).collect::<Result<BTreeMap<_, _>>>()?;
        Ok(HealthListResponse { statuses })
    }

    fn watch(&self, request: HealthCheckRequest) -> Response<GrpcBody> {
        let Health { serving, changes, phases, .. } = self.clone();
        streaming_response(Encoder::PLAIN, 1, |sender| watch(request.service, serving, changes, phases, sender))
    }
}

/// Sends the state of a service now and whenever it changes, until the client leaves, may not ask any more, or the server
/// ends.
async fn watch(
    service: String,
    serving: impl Fn(&str) -> Result<Option<bool>>,
    mut changes: watch::Receiver<bool>,
    mut phases: watch::Receiver<Phase>,
    sender: MessageSender,
) -> Result<(), Status> {
    let mut sent = None;
    loop {
        // Marked as seen before the question, so that a change in between is asked about again and not lost.
        changes.mark_unchanged();
        let phase = *phases.borrow_and_update();
        let now = state(serving(&service)?);
        if sent != Some(now) {
            sender.send(&response(now)).await?;
            sent = Some(now);
        }
        if phase >= Phase::Draining {
            return Err(Status::shutting_down());
        }
        let changed = tokio::select! {
            changed = changes.changed() => changed,
            changed = phases.changed() => changed,
            // Whether anybody can answer also hangs on faults, which nobody tells of.
            () = tokio::time::sleep(LOOK_AGAIN) => Ok(()),
        };
        if changed.is_err() {
            return Err(Status::shutting_down());
        }
    }
}

fn state(serving: Option<bool>) -> ServingStatus {
    match serving {
        Some(true) => ServingStatus::Serving,
        Some(false) => ServingStatus::NotServing,
        None => ServingStatus::ServiceUnknown,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message)
        .map_err(|error| Status::new(Code::InvalidArgument, format!("the request is no message: {error}")))
}
