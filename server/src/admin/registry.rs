//! How is the registry looked at and changed over the admin port?
//!
//! Whoever may look sees everything. What is ordered names the model in its body: whether its caller may is asked once that is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tiltyard_registry::artifacts::Blobs;
use tiltyard_registry::audit::Part;
use tiltyard_registry::book::{
    self, Book, EnvironmentSet, GoBack, GraphDiff, Order, Version, VersionState, Wants, card, diff, lineage,
};
use tiltyard_runtime::onnx::Graph;
use tiltyard_types::{Digest, Error, ErrorKind, Result};
use tokio::sync::mpsc;

use crate::locks::calls::{Call, Caller, Role};
use crate::protocol::rest::decode_percent;
use crate::registry::promote::{self, Promoting};
use crate::registry::{principal, push, versions_of};
use crate::service::Service;
use crate::{clock, deadlines};

/// The beginning of every path here.
pub(super) const PREFIX: &str = "/admin/registry";

/// The largest order that is read: a version has many files.
const BODY_BYTES_MAX: usize = 16 << 20;

/// The largest file that is read for its graph.
const GRAPH_BYTES_MAX: u64 = 2 << 30;

/// The largest baseline.
const BASELINE_BYTES_MAX: usize = 64 << 20;

/// How long an order may take to arrive, and each part of a file.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// Bytes of a file of a version, at most.
const FILE_BYTES_MAX: u64 = 1 << 40;

/// Bytes of a file in one answer, at most.
const PART_BYTES_MAX: u64 = 16 << 20;

/// Parts of a file that wait to be written.
const PARTS_WAITING: usize = 4;

/// A part of the log that is to be written to a folder.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exporting {
    /// A folder of the server's machine, which is empty or not there.
    to: PathBuf,
    /// The first entry.
    #[serde(default)]
    from: Option<u64>,
    /// The last.
    #[serde(default)]
    until: Option<u64>,
}

/// What is to be put by, and where.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BackingUp {
    /// A folder of the server's machine, which is empty or not there.
    to: PathBuf,
    /// Whether with the key that signs.
    secret: bool,
    /// Whether with the files of versions.
    files: bool,
}

/// What is answered.
pub(super) enum Answer {
    /// A form.
    Form(Value),
    /// Text for people.
    Text(String),
    /// A part of a file.
    Bytes(Bytes),
}

impl Answer {
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let (kind, body) = match self {
            Answer::Form(form) => ("application/json", Bytes::from(form.to_string())),
            Answer::Text(text) => ("text/markdown; charset=utf-8", Bytes::from(text)),
            Answer::Bytes(bytes) => ("application/octet-stream", bytes),
        };
        let mut response = Response::new(Full::new(body));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }
}

/// What a request to such a path asks for, as far as permission goes, before its body is read.
pub(super) fn call(method: &Method) -> Call<'static> {
    match *method {
        Method::GET | Method::HEAD => Call::SeeAll,
        _ => Call::Server,
    }
}

/// Answers a request to `/admin/registry…`.
pub(super) async fn answer<B>(
    service: &Service,
    caller: Option<&Caller>,
    (method, path, query): (&Method, &str, &str),
    body: B,
) -> Result<Answer>
where
    B: Body<Data = Bytes> + Send + Unpin,
    B::Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let rest = path.strip_prefix(PREFIX).unwrap_or_default().trim_start_matches('/');
    let parts = rest.split('/').map(decode_percent).collect::<Result<Vec<String>>>()?;
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let is_get = *method == Method::GET || *method == Method::HEAD;
    if let (true, ["audit", "proof", sequence]) = (is_get, parts.as_slice()) {
        let sequence = sequence.parse().map_err(|_| Error::invalid("expected an entry's sequence, from 1"))?;
        return of(&service.registry.prove(sequence).await?).map(Answer::Form);
    }
    if let (true, ["diff", a, b]) = (is_get, parts.as_slice()) {
        return differences(service, a, b).await.map(Answer::Form);
    }
    if let (true, ["blobs", digest]) = (is_get, parts.as_slice()) {
        return part(service, parse_digest(digest)?, &asked(query)?).await.map(Answer::Bytes);
    }
    if is_get {
        return look(service, &parts, &asked(query)?);
    }
    match (method, parts.as_slice()) {
        (&Method::POST, ["models", model, "versions"]) => {
            may(caller, Call::Deploy(model))?;
            let pushing = read(body).await?;
            push::push(service, model, pushing, principal(caller, Some(model))).await.map(Answer::Form)
        }
        (&Method::PUT, ["blobs", digest]) => {
            may_push(caller)?;
            take_file(service, parse_digest(digest)?, body).await.map(Answer::Form)
        }
        (&Method::PUT, ["versions", reference, "baseline"]) => {
            let (model, number) = {
                let book = service.registry.book();
                let version = book.resolve(reference)?;
                (version.model.clone(), version.number)
            };
            may(caller, Call::Deploy(&model))?;
            let made = collect(body, BASELINE_BYTES_MAX).await?;
            let by = principal(caller, Some(&model));
            push::put_baseline(service, (&model, number), made, by).await.map(Answer::Form)
        }
        // As OpenLineage's own clients send what other systems did.
        (&Method::POST, ["api", "v1", "lineage"]) => {
            may(caller, Call::ChangeSettings)?;
            let event = Order::from(Wants::Event(read(body).await?));
            of(&service.registry.order(event, principal(caller, None)).await?).map(Answer::Form)
        }
        (&Method::POST, ["orders"]) => order(service, caller, read(body).await?).await.map(Answer::Form),
        (&Method::POST, ["promote"]) => {
            let promoting: Promoting = read(body).await?;
            promote::promote(service, caller, promoting).await.map(Answer::Form)
        }
        (&Method::POST, ["back"]) => {
            let back: GoBack = read(body).await?;
            promote::go_back(service, caller, back).await.map(Answer::Form)
        }
        (&Method::POST, ["backup" | "audit", ..]) => {
            may(caller, Call::ChangeSettings)?;
            keep(service, &parts, body).await.map(Answer::Form)
        }
        _ => Err(Error::not_found(format!("nothing is at {method} {path}: docs/registry.md has what there is"))),
    }
}

/// Puts the registry by, or has what is on the record proved.
async fn keep<B>(service: &Service, parts: &[&str], body: B) -> Result<Value>
where
    B: Body<Data = Bytes> + Send + Unpin,
    B::Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match parts {
        ["backup"] => {
            let BackingUp { to, secret, files } = read(body).await?;
            of(&service.registry.back_up(secret, files, to).await?)
        }
        ["audit", "checkpoint"] => {
            let checkpoint = service.registry.checkpoint().await?;
            Ok(json!({ "checkpoint": checkpoint.map(|checkpoint| checkpoint.to_string()) }))
        }
        ["audit", "export"] => {
            let Exporting { to, from, until } = read(body).await?;
            let exported = service.registry.export(Part { from, to: until }, to.clone()).await?;
            let (from, until) = (exported.from, exported.to);
            let checkpoint = exported.checkpoint.to_string();
            Ok(json!({ "folder": to, "from": from, "until": until, "checkpoint": checkpoint }))
        }
        _ => Err(Error::not_found(format!(
            "nothing is at POST {PREFIX}/{}: docs/audit.md has what there is",
            parts.join("/")
        ))),
    }
}

/// Answers what somebody only wants to see.
fn look(service: &Service, parts: &[&str], query: &BTreeMap<String, String>) -> Result<Answer> {
    let registry = &service.registry;
    let form = match parts {
        [""] | [] => overview(service),
        ["models", name] => model(&registry.book(), name)?,
        ["versions", reference] => registry.form_of(reference)?,
        ["versions", reference, "card"] => {
            let book = registry.book();
            return Ok(Answer::Text(card(&book, book.resolve(reference)?).markdown));
        }
        ["versions", reference, "lineage"] => {
            let book = registry.book();
            let version = book.resolve(reference)?;
            let ancestors = lineage::ancestors(&book, version);
            json!({ "ancestors": ancestors, "lines": ancestors.lines() })
        }
        ["environments"] => environments(&registry.book())?,
        ["requests"] => Value::Array(
            registry.book().requests().map(|request| request_form(&registry.book(), request)).collect::<Result<_>>()?,
        ),
        ["needs", reference, environment] => needs(&registry.book(), reference, environment)?,
        ["history", endpoint] => history(&registry.book(), endpoint, query)?,
        _ => {
            let path = parts.join("/");
            let message = format!("nothing is at GET {PREFIX}/{path}: docs/registry.md has what there is");
            return Err(Error::not_found(message));
        }
    };
    Ok(Answer::Form(form))
}

fn overview(service: &Service) -> Value {
    let registry = &service.registry;
    let book = registry.book();
    let models = book.models().map(|model| {
        let versions = versions_of(model).map(|version| {
            let at = book.environments_of(&version.model, version.number);
            let at: Vec<&str> = at.into_iter().map(|environment| environment.name.as_str()).collect();
            json!({
                "version": version.number, "artifact": version.artifact.to_string(), "state": version.state,
                "environments": at, "aliases": model.aliases_of(version.number).collect::<Vec<_>>(),
                "description": version.description, "pushed": version.pushed, "bytes": version.bytes(),
            })
        });
        json!({ "model": model.name, "owner": model.owner, "versions": versions.collect::<Vec<_>>() })
    });
    let models: Vec<Value> = models.collect();
    let trouble = registry.trouble().map(|why| (*why).clone());
    json!({ "models": models, "environment": registry.environment, "log": registry.head(), "trouble": trouble })
}

fn model(book: &Book, name: &str) -> Result<Value> {
    let model = book.model(name).ok_or_else(|| Error::not_found(format!("no model {name:?} is in the registry")))?;
    let mut form = of(model)?;
    let versions = versions_of(model).map(of).collect::<Result<Vec<_>>>()?;
    form["versions"] = versions.into();
    Ok(form)
}

fn environments(book: &Book) -> Result<Value> {
    let mut all: Vec<&book::Environment> = book.environments().collect();
    all.sort_by_key(|environment| environment.rank);
    let all = all.into_iter().map(|environment| {
        let mut form = of(environment)?;
        let current =
            environment.positions.keys().filter_map(|model| Some((model, environment.current(model)?.version)));
        form["current"] = current.map(|(model, version)| (model.clone(), Value::from(version))).collect();
        Ok(form)
    });
    Ok(Value::Array(all.collect::<Result<_>>()?))
}

fn request_form(book: &Book, request: &book::Request) -> Result<Value> {
    let mut form = of(request)?;
    if let Some(environment) = book.environment(&request.environment) {
        form["state"] = of(&request.state(&environment.policy, clock::unix_ms()))?;
    }
    if let Some(bound) = book.bound(&request.model, request.version, &request.environment) {
        form["seen"] = bound.digest().to_string().into();
    }
    Ok(form)
}

/// What keeps a version out of an environment, and the request for it.
fn needs(book: &Book, reference: &str, environment: &str) -> Result<Value> {
    let version = book.resolve(reference)?;
    let (model, number) = (version.model.as_str(), version.number);
    let needs = book.needs(model, number, environment, book::Way::Canary, clock::unix_ms());
    let needs = needs.ok_or_else(|| Error::not_found(format!("no environment is called {environment:?}")))?;
    let request = book.open_request(model, number, environment).map(|request| request_form(book, request));
    let way = book.environment(environment).map(|environment| environment.policy.rollout.name());
    Ok(json!({
        "model": model, "version": number, "needs": of(&needs)?, "rollout": way, "request": request.transpose()?,
    }))
}

fn history(book: &Book, endpoint: &str, query: &BTreeMap<String, String>) -> Result<Value> {
    if let Some(at) = query.get("at") {
        let time_ms: u64 = at.parse().map_err(|_| Error::invalid("at: expected milliseconds since 1970"))?;
        let served = book.served_at(endpoint, time_ms);
        let served = served.ok_or_else(|| {
            Error::not_found(format!("nothing is on the record of who answered {endpoint:?} at that time"))
        })?;
        return of(&served);
    }
    let plans = book.history(endpoint, ..).map(of).collect::<Result<Vec<_>>>()?;
    if plans.is_empty() {
        let known: Vec<&str> = book.endpoints().take(12).collect();
        let known = if known.is_empty() { "no endpoint yet".to_owned() } else { known.join(", ") };
        let message = format!("nothing is on the record of endpoint {endpoint:?}: there is {known}");
        return Err(Error::not_found(message));
    }
    Ok(Value::Array(plans))
}

/// How two versions differ, their graphs included, as far as these can be read.
async fn differences(service: &Service, a: &str, b: &str) -> Result<Value> {
    let (a, b) = {
        let book = service.registry.book();
        (book.resolve(a)?.clone(), book.resolve(b)?.clone())
    };
    let artifacts = Arc::clone(service.registry.artifacts()?);
    let compare = move || {
        let graphs = graph_of(&*artifacts, &a).zip(graph_of(&*artifacts, &b));
        diff(&a, &b, graphs.map(|(a, b)| GraphDiff { lines: graph_lines(&a, &b) }))
    };
    let found = tokio::task::spawn_blocking(compare).await;
    let found = found.map_err(|_| Error::new(ErrorKind::Engine, "the thread that compares panicked"))?;
    let mut form = of(&found)?;
    form["shown"] = found.to_string().into();
    Ok(form)
}

/// The graph of a version, where it has one that can be read.
fn graph_of(artifacts: &dyn Blobs, version: &Version) -> Option<Graph> {
    let file = version.files.iter().find(|file| file.path.ends_with(".onnx"))?;
    let mut bytes = Vec::new();
    artifacts.open(file.sha256).ok()?.take(GRAPH_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Graph::read(&Bytes::from(bytes)).ok()
}

/// In what two graphs differ, a line each.
fn graph_lines(a: &Graph, b: &Graph) -> Vec<String> {
    let mut lines = Vec::new();
    let opsets = |graph: &Graph| {
        let all = graph.opsets.iter().map(|(domain, version)| format!("{domain} {version}"));
        all.collect::<Vec<_>>().join(", ")
    };
    let list = |names: Vec<&String>| names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    let (gone, new) =
        (list(a.operators.difference(&b.operators).collect()), list(b.operators.difference(&a.operators).collect()));
    for (sign, names) in [("no longer", gone), ("new", new)] {
        if !names.is_empty() {
            lines.push(format!("operators, {sign}: {names}"));
        }
    }
    for (what, a, b) in [("operator sets", opsets(a), opsets(b)), ("producer", a.producer.clone(), b.producer.clone())]
    {
        if a != b {
            lines.push(format!("{what}: {a}, then {b}"));
        }
    }
    lines
}

/// A part of a file of a version, which may have to come from where replicas share files.
async fn part(service: &Service, digest: Digest, query: &BTreeMap<String, String>) -> Result<Bytes> {
    let number = |name: &str, otherwise: u64| query.get(name).map_or(Ok(otherwise), |text| text.parse::<u64>());
    let wrong = |_| Error::invalid("expected from and bytes as whole numbers");
    let (from, bytes) = (number("from", 0).map_err(wrong)?, number("bytes", PART_BYTES_MAX).map_err(wrong)?);
    let artifacts = Arc::clone(service.registry.artifacts()?);
    let read = move || -> Result<Bytes> {
        let failed = |error: io::Error| Error::new(ErrorKind::NotReady, format!("{digest} cannot be read: {error}"));
        if artifacts.file(digest).is_none() {
            drop(artifacts.open(digest)?);
        }
        let place = artifacts.file(digest);
        let place = place.ok_or_else(|| Error::not_found(format!("no file of a version has the digest {digest}")))?;
        let mut file = File::open(place).map_err(failed)?;
        file.seek(SeekFrom::Start(from)).map_err(failed)?;
        let mut part = Vec::new();
        file.take(bytes.min(PART_BYTES_MAX)).read_to_end(&mut part).map_err(failed)?;
        Ok(part.into())
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|_| Error::new(ErrorKind::Engine, "the thread that reads panicked"))?
}

/// Does what somebody orders, where they may.
async fn order(service: &Service, caller: Option<&Caller>, order: Order) -> Result<Value> {
    let model = model_of(&service.registry.book(), &order.wants);
    let name = model.as_deref();
    may(caller, permission(&order.wants, name.unwrap_or_default()))?;
    if let Wants::Promote(_) | Wants::GoBack(_) | Wants::Push(_) | Wants::Plan(_) | Wants::End(_) | Wants::Signed(_) =
        order.wants
    {
        return Err(Error::invalid("this is no order of its own: push, promote and back have paths of theirs"));
    }
    if let Wants::Environment(set) = &order.wants {
        check_roles(set)?;
    }
    let is_quarantine = matches!(&order.wants, Wants::State(state) if state.state == VersionState::Quarantined);
    let decided = service.registry.order(order, principal(caller, name)).await?;
    let mut answer = of(&decided)?;
    if is_quarantine {
        let still = promote::take_out(service, name.unwrap_or_default()).await;
        if !still.is_empty() {
            answer["still_answers"] = json!(still);
        }
    }
    Ok(answer)
}

/// Fails where approvals are asked of a role that nobody can have.
fn check_roles(set: &EnvironmentSet) -> Result<()> {
    let mut roles = set.policy.approvals.iter().flat_map(|group| &group.roles);
    match roles.find(|role| !Role::ALL.iter().any(|(name, _)| *name == role.as_str())) {
        None => Ok(()),
        Some(role) => Err(Error::invalid(format!(
            "approvals: {role:?} is no role: expected {}; who is meant by name is listed under persons",
            Role::ALL.map(|(name, _)| name).join(", ")
        ))),
    }
}

/// What an order takes.
fn permission<'a>(wants: &Wants, model: &'a str) -> Call<'a> {
    match wants {
        Wants::Environment(_) => Call::ChangeSettings,
        Wants::Approve(_) | Wants::Reject(_) | Wants::Revoke(_) => Call::Approve(model),
        _ => Call::Deploy(model),
    }
}

/// The model that an order is about.
fn model_of(book: &Book, wants: &Wants) -> Option<String> {
    let of_request = |id: &str| book.request(id).map(|request| request.model.clone());
    match wants {
        Wants::Model(set) => Some(set.model.clone()),
        Wants::Push(push) => Some(push.model.clone()),
        Wants::Tags(tags) => Some(tags.model.clone()),
        Wants::Describe(described) => Some(described.model.clone()),
        Wants::Measure(told) => Some(told.model.clone()),
        Wants::Alias(alias) => Some(alias.model.clone()),
        Wants::State(state) => Some(state.model.clone()),
        Wants::Lock(lock) => Some(lock.model.clone()),
        Wants::Baseline(baseline) => Some(baseline.model.clone()),
        Wants::Signed(signed) => Some(signed.model.clone()),
        Wants::Lineage(told) => Some(told.model.clone()),
        Wants::GoBack(back) => Some(back.model.clone()),
        Wants::Request(ask) => Some(ask.model.clone()),
        Wants::Promote(promote) => Some(promote.model.clone()),
        Wants::Approve(approve) => of_request(&approve.request),
        Wants::Reject(answered) | Wants::Withdraw(answered) => of_request(&answered.request),
        Wants::Revoke(revoke) => of_request(&revoke.request),
        Wants::Environment(_) | Wants::End(_) | Wants::Plan(_) | Wants::Event(_) => None,
    }
}

fn may(caller: Option<&Caller>, call: Call<'_>) -> Result<()> {
    caller.map_or(Ok(()), |caller| caller.may(call))
}

/// Fails where a caller may push no model at all: to which one a file belongs is said later.
fn may_push(caller: Option<&Caller>) -> Result<()> {
    let Some(caller) = caller else { return Ok(()) };
    let models = caller.grants.iter().flat_map(|grant| grant.models.iter());
    let mut some = models.map(|model| caller.may(Call::Deploy(model.trim_end_matches('*'))));
    if some.any(|may| may.is_ok()) { Ok(()) } else { caller.may(Call::Deploy("any")) }
}

/// Keeps a file that is sent, if it is the one that its digest says.
async fn take_file<B>(service: &Service, digest: Digest, mut body: B) -> Result<Value>
where
    B: Body<Data = Bytes> + Send + Unpin,
    B::Error: std::fmt::Display,
{
    let artifacts = Arc::clone(service.registry.artifacts()?);
    let (parts, waiting) = mpsc::channel::<io::Result<Bytes>>(PARTS_WAITING);
    let put = move || artifacts.put(&mut Arriving { waiting, part: Bytes::new() }, FILE_BYTES_MAX);
    let written = tokio::task::spawn_blocking(put);
    loop {
        let frame = deadlines::within(clock::now() + BODY_TIME_MAX, body.frame()).await;
        let part = match frame {
            None => Err(io::Error::other("no part of it came for a while")),
            Some(None) => break,
            Some(Some(Err(error))) => Err(io::Error::other(error.to_string())),
            Some(Some(Ok(frame))) => match frame.into_data() {
                Ok(part) => Ok(part),
                Err(_) => continue,
            },
        };
        let is_over = part.is_err();
        // Who writes has given up where nobody takes it.
        if parts.send(part).await.is_err() || is_over {
            break;
        }
    }
    drop(parts);
    let written = written.await.map_err(|_| Error::new(ErrorKind::Engine, "the thread that writes panicked"))?;
    let blob = written?;
    match blob.digest == digest {
        true => Ok(json!({ "sha256": digest.to_string(), "size": blob.size })),
        false => Err(Error::invalid(format!(
            "{} bytes came with the digest {}, and {digest} was told",
            blob.size, blob.digest
        ))),
    }
}

/// A file as it arrives, for who reads on a thread of its own.
struct Arriving {
    waiting: mpsc::Receiver<io::Result<Bytes>>,
    part: Bytes,
}

impl Read for Arriving {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.waiting.blocking_recv() {
                None => return Ok(0),
                Some(part) => self.part = part?,
            }
        }
        let count = self.part.len().min(to.len());
        self.part.copy_to_slice(&mut to[..count]);
        Ok(count)
    }
}

fn parse_digest(text: &str) -> Result<Digest> {
    text.parse().map_err(|_| Error::invalid(format!("{text:?} is no digest: expected 64 hexadecimal digits")))
}

/// What a query asks: `name=value` with `&` between them.
fn asked(query: &str) -> Result<BTreeMap<String, String>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((name.to_owned(), decode_percent(value)?))
    });
    pairs.collect()
}

fn of(what: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(what).map_err(|error| Error::new(ErrorKind::Engine, format!("it cannot be shown: {error}")))
}

pub(super) async fn read<T: DeserializeOwned, B>(body: B) -> Result<T>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let bytes = collect(body, BODY_BYTES_MAX).await?;
    serde_json::from_slice(&bytes).map_err(|error| Error::invalid(format!("the body cannot be read: {error}")))
}

async fn collect<B>(body: B, bytes_max: usize) -> Result<Bytes>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display + Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let read = deadlines::within(clock::now() + BODY_TIME_MAX, Limited::new(body, bytes_max).collect());
    match read.await {
        Some(Ok(body)) => Ok(body.to_bytes()),
        Some(Err(error)) => Err(Error::invalid(format!("the body cannot be read: {error}"))),
        None => Err(Error::new(ErrorKind::Deadline, format!("the body did not arrive within {BODY_TIME_MAX:?}"))),
    }
}
