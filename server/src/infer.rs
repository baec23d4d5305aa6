//! How is one decoded request answered, whatever protocol it came by?
//!
//! check → admit → enqueue → wait → observe. Protocols decode before and encode after; they have no opinions.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderMap;
use smallvec::SmallVec;
use tiltyard_runtime::deployment::Deployment;
use tiltyard_runtime::job::{Answer, Demand};
use tiltyard_runtime::pool::Pool;
use tiltyard_runtime::stats::Served;
use tiltyard_types::{
    Error, ErrorKind, InferRequest, Moment, NamedTensor, Parameter, Parameters, RequestId, Result, Tensor,
};

use crate::admission::{Admission, Room};
use crate::arm::Arm;
use crate::capture::Captures;
use crate::catalog::Catalog;
use crate::clients::{Asker, Clients};
use crate::drift::Drifts;
use crate::logs::Seldom;
use crate::reload::Live;
use crate::rollouts::feedback::notes::{Asked, key_of_parameters};
use crate::rollouts::observer::Answered;
use crate::route::{Choice, Pick};
use crate::shadow::Shadows;
use crate::shadow::sample::Sample;
use crate::traces::{Open, Trace, Traces};
use crate::{clock, deadlines, ids};

/// What answers requests: shared by all connections.
pub struct Inference {
    /// What can answer.
    pub catalog: ArcSwap<Catalog>,
    /// Who runs it.
    pub pool: Arc<Pool>,
    /// How much may be in flight.
    pub admission: Arc<Admission>,
    /// How often each client may ask; `None` where that has no bound.
    pub clients: Option<Clients>,
    /// Who puts requests on record; `None` where nobody asked for that.
    pub captures: Option<Arc<Captures>>,
    /// Who watches what models are asked.
    pub drifts: Arc<Drifts>,
    /// Who shows live traffic to shadows.
    pub shadows: Arc<Shadows>,
    /// Who follows requests through their traces; `None` where nobody collects them.
    pub traces: Option<Traces>,
    /// The settings that hold now, with the time that a request has where its client gave none.
    pub live: Arc<Live>,
}

/// A request that was accepted: its name and its time.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    /// The server's name for it.
    pub id: RequestId,
    /// When it was accepted.
    pub at: Moment,
    /// When its body was here.
    pub here: Moment,
    /// The same on the wall clock, in milliseconds since 1970.
    pub unix_ms: u64,
    /// When its client stops waiting, if the protocol said so; what the `timeout` parameter says may be earlier.
    pub timeout: Option<Duration>,
    /// Bytes of its body.
    pub bytes: usize,
    /// Its place in its trace, where it has one.
    pub trace: Option<Trace>,
}

impl Accepted {
    /// Names a request that arrives now.
    pub fn now(timeout: Option<Duration>, bytes: usize) -> Accepted {
        let (unix_ms, now) = (clock::unix_ms(), clock::now());
        Accepted { id: ids::request_id(unix_ms), at: now, here: now, unix_ms, timeout, bytes, trace: None }
    }

    /// The same once its body is here, which has so many bytes.
    #[must_use]
    pub fn with_body(self, bytes: usize) -> Accepted {
        Accepted { here: clock::now(), bytes, ..self }
    }
}

/// A request's answer, with what the protocols tell about it.
pub struct Outcome {
    /// What answered, and in which part.
    pub arm: Arc<Arm>,
    /// The server's name for the request.
    pub id: RequestId,
    /// The outputs asked for, in that order.
    pub outputs: Vec<Tensor>,
    /// Where each of them is in the signature.
    wanted: Wanted,
    /// When they were there.
    answered: Moment,
    /// Follows it to its end, where it is traced.
    traced: Option<Open>,
    /// What shadows see of it, once this is dropped: when the answer is encoded.
    _sample: Option<Box<Sample>>,
}

type Wanted = SmallVec<[usize; 2]>;

/// Whoever encodes the answer drops this once that is done.
impl Drop for Outcome {
    fn drop(&mut self) {
        let now = clock::now();
        self.arm.requests.encoded(now - self.answered);
        self.traced.iter_mut().for_each(|open| open.end(now));
    }
}

impl Outcome {
    /// What the answer tells about who gave it, as headers.
    pub fn headers(&self) -> HeaderMap {
        self.traced_in(self.arm.headers(self.id))
    }

    /// The headers of an answer over gRPC: the same, and the content type.
    pub fn grpc_headers(&self) -> HeaderMap {
        self.traced_in(self.arm.grpc_headers(self.id))
    }

    fn traced_in(&self, mut headers: HeaderMap) -> HeaderMap {
        if let Some(trace) = self.traced.as_ref().and_then(Open::trace) {
            trace.name_in(&mut headers);
        }
        headers
    }

    /// The outputs asked for with their names, in that order.
    pub fn named(&self) -> impl Iterator<Item = (&str, &Tensor)> + Clone {
        let specs = &self.arm.deployment.signature.outputs;
        self.wanted.iter().zip(&self.outputs).map(|(&position, tensor)| (specs[position].name.as_str(), tensor))
    }
}

impl Inference {
    /// A request that arrives now, with these headers.
    pub fn accept(&self, headers: &HeaderMap, timeout: Option<Duration>, bytes: usize) -> Accepted {
        let accepted = Accepted::now(timeout, bytes);
        let trace = self.traces.as_ref().and_then(|traces| traces.begin(headers, accepted.id));
        Accepted { trace, ..accepted }
    }

    /// Tells of a request that failed: in the log, and in its trace. Protocols call it where they turn the failure into an
    /// answer.
    pub fn tell_failure(&self, accepted: Accepted, endpoint: &str, client_id: &str, error: &Error) {
        log_failure(accepted, endpoint, client_id, error);
        if let (Some(traces), Some(trace)) = (&self.traces, accepted.trace) {
            traces.failed(trace, accepted, endpoint, error, clock::now());
        }
    }

    /// Who asks, where that matters.
    pub fn asker(&self, headers: &HeaderMap, peer: Option<IpAddr>) -> Option<Asker> {
        self.clients.as_ref().map(|clients| clients.asker(headers, peer))
    }

    /// Counts a request of a client, or refuses it where the client asks too often.
    pub fn admit_client(&self, asker: Option<Asker>, now: Moment) -> Result<()> {
        match (&self.clients, asker) {
            (Some(clients), Some(asker)) => clients.admit(asker, now, self.admission.unknown()),
            _ => Ok(()),
        }
    }

    /// Refuses a request for `arm` that would surely be refused, by what is known before it is read or decoded. Where the
    /// transport said nothing of its time, its parameters may: how long it would wait is then for the queue to judge.
    pub fn foresee(&self, choice: &Choice, accepted: Accepted) -> Result<()> {
        let arm = &choice.arm;
        let (stats, left) = (&arm.deployment.stats, accepted.timeout.unwrap_or(Duration::MAX));
        let foreseen = self.admission.check(stats).and_then(|()| arm.deployment.foresee(left, accepted.at));
        foreseen.inspect_err(|error| count_refusal(choice, accepted, error))
    }

    /// Takes what a plan found in the body of a request, which counts for the arm that it is for from here on.
    pub fn settle(&self, choice: &mut Choice, pick: Pick, room: &mut Room, accepted: Accepted) -> Result<()> {
        choice.settle(pick)?;
        let room = room.belongs_to(&choice.arm.deployment.stats);
        room.inspect_err(|error| count_refusal(choice, accepted, error))
    }

    /// Answers a request by whom the protocol resolved when it decoded. Takes the inputs out of it. `room` is what it takes in
    /// memory, and is given back with its job; `headers` are those it came with, or its metadata.
    pub async fn infer(
        &self,
        request: &mut InferRequest,
        choice: Choice,
        accepted: Accepted,
        room: Room,
        headers: &HeaderMap,
    ) -> Result<Outcome> {
        choice.count_apart();
        let mut sample = self.shadows.pick(choice.shadows(), accepted.id, accepted.bytes, &request.inputs);
        if let Some(sample) = &mut sample {
            sample.pairing = choice.pairing(|| key_of_parameters(&request.parameters));
        }
        let begin =
            |captures: &Arc<Captures>| captures.begin(&choice.arm, accepted, choice.evidence, &request.inputs, headers);
        let begun = self.captures.as_ref().and_then(begin);
        let asked = self.drifts.asked(&choice.arm, choice.evidence, &request.inputs);
        let inputs = std::mem::take(&mut request.inputs);
        let mut watch = Watch { inference: self, choice: &choice, accepted, request, done: false };
        let mut answered = self.answer(request, inputs, &choice.arm.deployment, accepted, room).await;
        if let Some(begun) = begun {
            let ended = answered.as_ref().map(|(answer, wanted)| (answer, wanted.as_slice()));
            if let Err(error) = begun.end(ended).await {
                answered = Err(error);
            }
        }
        if let (Some(asked), Ok((answer, wanted))) = (asked, &answered) {
            self.drifts.answered(asked, &answer.outputs, wanted);
        }
        let ended = match &answered {
            Ok((answer, wanted)) => watch.succeeded(answer, wanted),
            Err(error) => watch.failed(error),
        };
        drop(watch);
        let (answer, wanted) = answered?;
        if let Some(sample) = &mut sample {
            sample.answered(&answer, &wanted, accepted.unix_ms);
        }
        let traced = self
            .traces
            .as_ref()
            .zip(accepted.trace)
            .map(|(traces, trace)| traces.answered(trace, accepted, &request.model, &choice.arm, &answer, ended));
        let (id, outputs) = (accepted.id, answer.outputs);
        Ok(Outcome { arm: choice.arm, id, outputs, wanted, answered: ended, traced, _sample: sample })
    }

    async fn answer(
        &self,
        request: &InferRequest,
        inputs: Vec<NamedTensor>,
        deployment: &Arc<Deployment>,
        accepted: Accepted,
        room: Room,
    ) -> Result<(Answer, Wanted)> {
        refuse_sequences(&request.parameters)?;
        let deadline = self.deadline(&request.parameters, accepted)?;
        let inputs = deployment.signature.arrange(inputs)?;
        let wanted = deployment.signature.select(request.outputs.iter().map(|output| output.name.as_str()))?;
        let permit = room.admit()?;
        let (priority, mark) = (priority(&request.parameters)?, accepted.trace.as_ref().map(Trace::mark));
        let demand = Demand { deadline: Some(deadline), priority, bytes: accepted.bytes, mark };
        let positions = Wanted::from_slice(&wanted);
        let pending = deployment.enqueue(inputs, wanted, demand, Box::new(permit), &self.pool)?;
        match deadlines::within(deadline, pending).await {
            Some(Ok(answer)) => Ok((answer?, positions)),
            Some(Err(_)) => Err(Error::new(ErrorKind::Engine, "the worker ended without an answer")),
            None => {
                let after = deadline.since(accepted.at);
                Err(deadlines::late(format!("no answer within {after:.0?}")))
            }
        }
    }

    /// The earlier of what the transport and the `timeout` parameter (microseconds) say; the configuration's where neither
    /// says anything.
    pub(crate) fn deadline(&self, parameters: &Parameters, accepted: Accepted) -> Result<Moment> {
        let parameter = match parameters.get("timeout") {
            None => None,
            Some(Parameter::Int(micros)) if *micros >= 0 => Some(micros.unsigned_abs()),
            Some(Parameter::Uint(micros)) => Some(*micros),
            Some(Parameter::Text(text)) if text.parse::<u64>().is_ok() => text.parse().ok(),
            Some(other) => {
                return Err(Error::invalid(format!("parameter \"timeout\": expected microseconds, got {other:?}")));
            }
        };
        let parameter = parameter.filter(|&micros| micros > 0).map(Duration::from_micros);
        let timeout =
            [accepted.timeout, parameter].into_iter().flatten().min().unwrap_or_else(|| self.live.request_timeout());
        Ok(accepted.at + timeout)
    }
}

/// Counts a request that was refused before it was decoded, as one of those that reached its arm, where that is known.
pub fn count_refusal(choice: &Choice, accepted: Accepted, error: &Error) {
    let Some(arm) = choice.known() else { return };
    arm.requests.failed(error.kind(), Duration::ZERO, accepted.unix_ms);
    if let Some((observer, side, key)) = choice.observed() {
        observer.failed(side, key, error, accepted.at, Duration::ZERO);
    }
}

/// The `priority` parameter: 1 is the most urgent; 0, as none, leaves it to the model.
fn priority(parameters: &Parameters) -> Result<u32> {
    let level = match parameters.get("priority") {
        None => Some(0),
        Some(Parameter::Int(level)) => u64::try_from(*level).ok(),
        Some(Parameter::Uint(level)) => Some(*level),
        Some(Parameter::Text(text)) => text.parse().ok(),
        Some(_) => None,
    };
    match (level, parameters.get("priority")) {
        // Beyond all levels that a model can have, as Triton takes it, is the same as none.
        (Some(level), _) => Ok(u32::try_from(level).unwrap_or(u32::MAX)),
        (None, got) => Err(Error::invalid(format!("parameter \"priority\": expected an integer from 0, got {got:?}"))),
    }
}

/// Stateful sequences need a scheduler of their own: answering without one would be wrong, so it is refused.
fn refuse_sequences(parameters: &Parameters) -> Result<()> {
    let set = match parameters.get("sequence_id") {
        None | Some(Parameter::Int(0) | Parameter::Uint(0)) => false,
        Some(Parameter::Text(text)) => !text.is_empty(),
        Some(_) => true,
    };
    match set {
        true => {
            Err(Error::unsupported("sequences (parameter \"sequence_id\") are not offered: send the state as an input"))
        }
        false => Ok(()),
    }
}

/// Counts a request when it ends, also when its client hangs up and the future is dropped.
struct Watch<'a> {
    inference: &'a Inference,
    choice: &'a Choice,
    accepted: Accepted,
    request: &'a InferRequest,
    done: bool,
}

impl Watch<'_> {
    /// Gives back the moment.
    fn succeeded(&mut self, answer: &Answer, wanted: &[usize]) -> Moment {
        self.done = true;
        let arm = &self.choice.arm;
        let (now, Accepted { at, here, unix_ms, id, .. }) = (clock::now(), self.accepted);
        let Answer { rows, enqueued, queue, times, used, .. } = *answer;
        let (decode, total, id) = (enqueued - here, now - at, id.bits());
        let trace = self.accepted.trace.map_or(0, |trace| trace.id);
        let served = Served { rows, decode, queue, times, used, total, unix_ms, id, trace };
        arm.requests.succeeded(&served);
        if let Some((observer, side, key)) = self.choice.observed() {
            let answered = Answered { answer, deployment: &arm.deployment, wanted };
            observer.answered(side, key, answered, now, total);
            if let Some(notes) = observer.notes_of_answers() {
                let Accepted { id, unix_ms: at_ms, .. } = self.accepted;
                let named = self.choice.row_key.or_else(|| key_of_parameters(&self.request.parameters));
                let asked = Asked { id, at_ms, key: named, unit: key, side };
                notes.note(&asked, &arm.deployment, answer, wanted);
            }
        }
        now
    }

    fn failed(&mut self, error: &Error) -> Moment {
        self.done = true;
        let now = clock::now();
        let after = now - self.accepted.at;
        self.choice.arm.requests.failed(error.kind(), after, self.accepted.unix_ms);
        if let Some((observer, side, key)) = self.choice.observed() {
            observer.failed(side, key, error, now, after);
        }
        now
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.done {
            let gone = Error::new(ErrorKind::Cancelled, "the client went away");
            self.failed(&gone);
            self.inference.tell_failure(self.accepted, &self.request.model, &self.request.id, &gone);
        }
    }
}

/// The one line for a request that failed, with the server's name for it and the client's. Refusals have one line for all of
/// them now and then: they come in floods, and must be cheap.
fn log_failure(accepted: Accepted, endpoint: &str, client_id: &str, error: &Error) {
    static REFUSALS: Seldom = Seldom::new();
    let id = accepted.id;
    if error.kind() == ErrorKind::Overloaded {
        tracing::debug!(request = %id, endpoint, reason = error.message(), "request refused");
        if let Some(count) = REFUSALS.note(clock::now()) {
            tracing::warn!(count, reason = error.message(), "requests are refused; this is the last of so many");
        }
        return;
    }
    let cut = |text: &str, chars_max: usize| text.chars().take(chars_max).collect::<String>();
    let (client_id, endpoint, reason) = (cut(client_id, 200), cut(endpoint, 200), cut(error.message(), 2000));
    let trace = accepted.trace.map(|trace| trace.shown());
    tracing::warn!(
        request = %id, id = client_id, trace, endpoint, error = error.kind().name(), reason, "request failed"
    );
}
