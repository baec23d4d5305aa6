//! How do connections come in and become requests?
//!
//! Every listener answers HTTP/1.1, HTTP/2 and gRPC, on TCP within TLS where there is a certificate. A connection must send
//! its first request head within a deadline, may idle for a while between requests, and is told to go when it is old or the
//! server drains.

mod unread;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use pin_project_lite::pin_project;
use tiltyard_types::Moment;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::drain::{self, Cut, Phase};
use crate::fronts::{Fronts, Open};
use crate::handed::Socket;
use crate::locks::certificate::ClientCertificate;
use crate::locks::tls::Tls;
use crate::logs::Seldom;
use crate::reload::Live;

pub use self::unread::Arriving;

use self::unread::{Discarding, Lingering, Unread};

/// Bytes a client may send before the server has taken them, per stream and per connection: large tensors would else
/// wait for a round trip every 64 KiB.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Requests that one HTTP/2 connection may have open.
const STREAMS_MAX: u32 = 1024;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: u32 = 64 * 1024;

/// How a connection came in.
#[derive(Clone, Debug, Default)]
pub struct CameIn {
    /// The address that it came in on; none on a Unix socket.
    pub on: Option<IpAddr>,
    /// The address that it came from; none on a Unix socket.
    pub from: Option<IpAddr>,
    /// What its client showed of itself, where TLS asked for it.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// How long a connection that has just come in may still bring its first request once the server drains.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// How long a connection may stay that was told to go and has nothing under way: for the answers to get off, and for
/// HTTP/2's farewells to be answered.
const LINGER: Duration = Duration::from_secs(2);

/// Answers of which a piece is at least this large count as under way until the client's machine has it.
const LARGE_BYTES: usize = 64 * 1024;

/// What the end of the process means to listeners and connections.
#[derive(Clone)]
pub struct End {
    /// Where the process stands.
    pub phases: watch::Receiver<Phase>,
    /// Takes in what was cut off.
    pub cut: Arc<Cut>,
}

/// Bounds on connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections over all listeners.
    pub connections_max: usize,
    /// From accept to the end of the first request's head.
    pub header_timeout: Duration,
    /// Between requests.
    pub idle_timeout: Duration,
    /// From accept until the client is told to come again on another connection; zero for never.
    pub age_max: Duration,
}

impl Limits {
    /// Those that hold now.
    fn of(live: &Live) -> Limits {
        let config = live.config();
        Limits {
            connections_max: config.connections_max,
            header_timeout: config.header_timeout,
            idle_timeout: config.idle_timeout,
            age_max: config.connection_age_max,
        }
    }
}

/// Connections over all listeners.
#[derive(Default)]
pub struct Connections {
    open: Arc<AtomicUsize>,
    refused: AtomicU64,
}

impl Connections {
    /// Those that are open.
    pub fn count(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Those that were closed at once, since there were too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    fn one_more(&self) -> Open {
        Open::new(&self.open)
    }

    fn note_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }
}

/// The line about connections that were refused.
static TOO_MANY: Seldom = Seldom::new();

/// A bound socket.
pub enum Listener {
    /// On an address.
    Tcp(TcpListener, Owner),
    /// On a path.
    Unix(UnixListener, Owner),
}

/// Whose a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Ours. A path, where it has one, is removed with it.
    Us(Option<PathBuf>),
    /// That of whoever handed it over, and who may have others listen on it.
    Another,
}

impl Listener {
    /// Binds an address; port 0 chooses one.
    pub async fn tcp(host: &str, port: u16) -> io::Result<Listener> {
        TcpListener::bind((host, port)).await.map(|listener| Listener::Tcp(listener, Owner::Us(None)))
    }

    /// Binds a path, over a socket that nobody listens on any more.
    pub fn unix(path: &Path) -> io::Result<Listener> {
        // Only a socket is ever removed: a connection to any other file is refused too.
        let is_socket = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
        if is_socket
            && std::os::unix::net::UnixStream::connect(path)
                .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        {
            std::fs::remove_file(path)?;
        }
        UnixListener::bind(path).map(|listener| Listener::Unix(listener, Owner::Us(Some(path.to_owned()))))
    }

    /// Listens on what somebody else opened.
    pub fn handed(socket: Socket) -> io::Result<Listener> {
        match socket {
            Socket::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Listener::Tcp(TcpListener::from_std(listener)?, Owner::Another))
            }
            Socket::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Ok(Listener::Unix(UnixListener::from_std(listener)?, Owner::Another))
            }
        }
    }

    /// Whether others keep the socket open, or even listen on it: those who connect are not lost with this listener.
    pub fn is_shared(&self) -> bool {
        let (Listener::Tcp(_, owner) | Listener::Unix(_, owner)) = self;
        *owner == Owner::Another
    }

    /// The address, for TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener, _) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, Owner::Us(Some(path))) = self {
            // Somebody may have removed it already.
            drop(std::fs::remove_file(path));
        }
    }
}

/// Accepts connections until the server drains and deals them out, then lets open requests finish. Ends when all
/// connections have.
pub async fn serve<H, F, R>(
    listener: Listener,
    live: Arc<Live>,
    open: Arc<Connections>,
    end: End,
    fronts: Arc<Fronts>,
    tls: Option<Arc<Tls>>,
    handler: H,
) where
    H: Fn(Request<Arriving>, CameIn) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<R>> + Send + 'static,
    R: Body<Data = Bytes> + Send + Unpin + 'static,
    R::Error: std::error::Error + Send + Sync,
{
    // Each connection holds a sender and sends nothing: there is none any more when nothing can arrive.
    let (alive, mut all_ended) = mpsc::channel::<std::convert::Infallible>(1);
    let deal = |stream: Accepted| {
        let limits = Limits::of(&live);
        if open.count() >= limits.connections_max {
            open.note_refused();
            if let Some(refused) = TOO_MANY.note(clock::now()) {
                tracing::warn!(
                    connections = limits.connections_max,
                    refused,
                    "too many connections: new ones are closed"
                );
            }
            return;
        }
        let held = (open.one_more(), alive.clone());
        let (handler, end, tls) = (handler.clone(), end.clone(), tls.clone());
        fronts.deal(async move {
            // Fails only where the system is out of memory for its watch.
            match (stream.here(), tls) {
                (Ok((Stream::Tcp(stream), came_in)), None) => {
                    connection(TokioIo::new(stream), came_in, limits, end, handler).await;
                }
                // Boxed, so that plain connections do not carry the room for it.
                (Ok((Stream::Tcp(stream), came_in)), Some(tls)) => {
                    Box::pin(secured(stream, came_in, tls, limits, end, handler)).await;
                }
                (Ok((Stream::Unix(stream), came_in)), _) => {
                    connection(TokioIo::new(stream), came_in, limits, end, handler).await;
                }
                (Err(error), _) => tracing::warn!(%error, "a connection cannot be served"),
            }
            drop(held);
        });
    };
    let mut phases = end.phases.clone();
    loop {
        let accepted = tokio::select! {
            // Nobody is taken from a server beside this one by a server that drains.
            biased;
            () = drain::reached(&mut phases, Phase::Draining) => break,
            accepted = accept(&listener) => accepted,
        };
        match accepted {
            Ok(stream) => deal(stream),
            Err(error) => {
                // Out of file descriptors, mostly: wait a little instead of spinning.
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    if !listener.is_shared() {
        accept_rest(&listener, deal).await;
    }
    drop((listener, alive));
    // Nothing is ever received but the end.
    let None = all_ended.recv().await;
}

/// Accepts those who have connected already: they would be refused with the listener's end.
async fn accept_rest(listener: &Listener, deal: impl Fn(Accepted)) {
    // Lets the event loop hear of them.
    tokio::task::yield_now().await;
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = accept(listener) => accepted,
            () = std::future::ready(()) => return,
        };
        match accepted {
            Ok(stream) => deal(stream),
            Err(_) => return,
        }
    }
}

/// A connection on its way to the event loop that will serve it.
enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Accepted {
    /// Lets the event loop of this thread watch the connection.
    fn here(self) -> io::Result<(Stream, CameIn)> {
        match self {
            Accepted::Tcp(stream) => {
                let on = stream.local_addr().ok().map(|address| address.ip());
                let from = stream.peer_addr().ok().map(|address| address.ip());
                Ok((Stream::Tcp(TcpStream::from_std(stream)?), CameIn { on, from, certificate: None }))
            }
            Accepted::Unix(stream) => Ok((Stream::Unix(UnixStream::from_std(stream)?), CameIn::default())),
        }
    }
}

async fn accept(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(listener, _) => {
            let (stream, _) = listener.accept().await?;
            // Without this, small answers wait for the client's delayed acknowledgement: 40 ms each. It fails only for a
            // client that has gone already.
            drop(stream.set_nodelay(true));
            stream.into_std().map(Accepted::Tcp)
        }
        Listener::Unix(listener, _) => listener.accept().await?.0.into_std().map(Accepted::Unix),
    }
}

/// What a connection is doing, for its idle clock.
#[derive(Default)]
struct Activity {
    /// Requests between their head and the end of their answer.
    running: AtomicUsize,
    /// When the last of them ended, in nanoseconds of the process's clock; 0 before the first.
    ended: AtomicU64,
    /// Whether the client was told that nothing new is taken.
    told: AtomicBool,
    /// The same, and long ago: what it asks for now does not count.
    deaf: AtomicBool,
    /// What nobody read of the last request's body.
    unread: Unread,
}

impl Activity {
    /// Whether nothing is under way.
    fn is_quiet(&self) -> bool {
        self.running.load(Relaxed) == 0
    }

    /// Whether the client was told that nothing new is taken.
    fn is_told_to_go(&self) -> bool {
        self.told.load(Relaxed)
    }

    /// Whether no request came yet.
    fn is_fresh(&self) -> bool {
        self.is_quiet() && self.ended.load(Relaxed) == 0
    }
}

/// A connection within TLS, once both sides have shaken hands.
async fn secured<H, F, R>(stream: TcpStream, came_in: CameIn, tls: Arc<Tls>, limits: Limits, end: End, handler: H)
where
    H: Fn(Request<Arriving>, CameIn) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<R>> + Send + 'static,
    R: Body<Data = Bytes> + Send + Unpin + 'static,
    R::Error: std::error::Error + Send + Sync,
{
    let mut phases = end.phases.clone();
    let leaving = async {
        drain::reached(&mut phases, Phase::Draining).await;
        tokio::time::sleep(LINGER).await;
    };
    let accepted = tokio::select! {
        accepted = tls.accept(stream, limits.header_timeout) => accepted,
        () = leaving => None,
    };
    if let Some((stream, certificate)) = accepted {
        connection(TokioIo::new(stream), CameIn { certificate, ..came_in }, limits, end, handler).await;
    }
}

async fn connection<I, H, F, R>(io: I, came_in: CameIn, limits: Limits, end: End, handler: H)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    H: Fn(Request<Arriving>, CameIn) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<R>> + Send + 'static,
    R: Body<Data = Bytes> + Send + Unpin + 'static,
    R::Error: std::error::Error + Send + Sync,
{
    let activity = Arc::new(Activity::default());
    let service = {
        let activity = Arc::clone(&activity);
        service_fn(move |request: Request<Incoming>| {
            let request = Arriving::of(request, &activity);
            Answering {
                running: (!activity.deaf.load(Relaxed)).then(|| Running::new(&activity)),
                may_leave: request.body().may_leave(),
                waiting: None,
                answer: handler(request, came_in.clone()),
            }
        })
    };
    let mut builder = auto::Builder::new(InBoxes);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout.max(limits.idle_timeout))
        .max_buf_size(HEAD_BYTES_MAX as usize);
    // The table of headers that both sides of an HTTP/2 connection keep would fill with the dates of each second, which
    // are then all compared with that of each answer. gRPC has no date; who answers anything else says it.
    builder
        .http2()
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX);
    let io = Lingering::new(io, &activity);
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut idle = pin!(until_idle(&activity, limits));
    let mut old = pin!(until_old(limits.age_max));
    let mut leaving = pin!(until_leaving(&activity, end.phases.clone()));
    let mut gone = pin!(until_gone(&activity, end));
    loop {
        tokio::select! {
            // What a client has sent already is read before it is told to go.
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error, "a connection ended");
                }
                return;
            }
            () = idle.as_mut(), if !activity.is_told_to_go() => {
                activity.told.store(true, Relaxed);
                if activity.is_fresh() {
                    tracing::debug!("a connection sent no request in time");
                    return;
                }
                connection.as_mut().graceful_shutdown();
            }
            () = old.as_mut(), if !activity.is_told_to_go() => {
                activity.told.store(true, Relaxed);
                connection.as_mut().graceful_shutdown();
            }
            () = leaving.as_mut(), if !activity.is_told_to_go() => {
                activity.told.store(true, Relaxed);
                connection.as_mut().graceful_shutdown();
            }
            () = gone.as_mut(), if activity.is_told_to_go() => return,
        }
    }
}

/// Ends when the server drains: at once, but for a connection that has just come in to ask something.
async fn until_leaving(activity: &Activity, mut phases: watch::Receiver<Phase>) {
    drain::reached(&mut phases, Phase::Draining).await;
    let until = clock::now() + FIRST_REQUEST;
    while activity.is_fresh() && clock::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Lets the event loop hear of a request that is here already.
    tokio::task::yield_now().await;
}

/// Ends when a connection that was told to go has had nothing under way for a while: its client ignores what it was told.
/// Notes what is under way when the server's time is over; those who wait are told so, and end their requests themselves.
async fn until_gone(activity: &Activity, End { mut phases, cut }: End) {
    tokio::select! {
        () = until_quiet(activity) => return,
        () = drain::reached(&mut phases, Phase::Cutting) => {}
    }
    cut.note(activity.running.load(Relaxed));
    std::future::pending().await
}

/// Ends when nothing has been under way for [`LINGER`], apart from what the client went on to ask for.
async fn until_quiet(activity: &Activity) {
    tokio::time::sleep(LINGER).await;
    activity.deaf.store(true, Relaxed);
    loop {
        let wait = (Moment::from_nanos(activity.ended.load(Relaxed)) + LINGER).since(clock::now());
        if activity.is_quiet() && wait.is_zero() {
            return;
        }
        tokio::time::sleep(wait.max(Duration::from_millis(50))).await;
    }
}

/// Runs the requests of a connection, each in a task of its own. In a box, since a task is moved several times before it
/// first runs.
#[derive(Clone)]
struct InBoxes;

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for InBoxes {
    fn execute(&self, request: F) {
        tokio::spawn(Box::pin(request));
    }
}

/// Ends when a connection is old; never where the age is zero. Spread over the last tenth, so that connections that began
/// together do not all come again together.
async fn until_old(age_max: Duration) {
    if age_max.is_zero() {
        return std::future::pending().await;
    }
    let spread = RandomState::new().hash_one(()) as f64 / u64::MAX as f64;
    tokio::time::sleep(age_max.mul_f64(1.0 - spread / 10.0)).await;
}

/// Ends when no request came for too long: sooner before the first one.
///
/// Requests only leave a note of when they ended; this looks at it when the time would be over, so that they never wake it.
async fn until_idle(activity: &Activity, limits: Limits) {
    let started = clock::now();
    loop {
        let now = clock::now();
        let over = match (activity.running.load(Relaxed), activity.ended.load(Relaxed)) {
            (0, 0) => started + limits.header_timeout,
            (0, ended) => Moment::from_nanos(ended) + limits.idle_timeout,
            _ => now + limits.idle_timeout,
        };
        if over <= now {
            return;
        }
        tokio::time::sleep(over.since(now).min(limits.idle_timeout)).await;
    }
}

/// A request between its head and the end of its answer.
struct Running(Arc<Activity>);

impl Running {
    fn new(activity: &Arc<Activity>) -> Running {
        activity.running.fetch_add(1, Relaxed);
        Running(Arc::clone(activity))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Before the count falls, so that a look in between finds it running or ended.
        self.0.ended.store(clock::now().as_nanos().max(1), Relaxed);
        self.0.running.fetch_sub(1, Relaxed);
    }
}

pin_project! {
    /// A request that is being answered. Written out, since an `async` block would keep room for the answer's future twice,
    /// and the task of each request is moved about with all of it.
    struct Answering<F, R> {
        running: Option<Running>,
        // Whether a rest of the request's body may be left to its connection.
        may_leave: bool,
        // In a box, since few have it.
        waiting: Option<Box<Waiting<R>>>,
        #[pin]
        answer: F,
    }
}

/// An answer that lets the rest of its request be thrown away before it.
struct Waiting<R> {
    response: Response<R>,
    discarding: Discarding,
}

impl<F: Future<Output = Response<R>>, R> Future for Answering<F, R> {
    type Output = Result<Response<Watched<R>>, std::convert::Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.waiting.is_none() {
            let mut response = ready!(this.answer.poll(context));
            let connection = this.running.as_ref().filter(|_| *this.may_leave).map(|running| &running.0);
            match connection.and_then(|connection| connection.unread.discard()) {
                Some(discarding) if !discarding.is_endless => {
                    *this.waiting = Some(Box::new(Waiting { response, discarding }));
                }
                left => {
                    if left.is_some() {
                        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                    }
                    return Poll::Ready(Ok(watched(response, this.running.take())));
                }
            }
        }
        if let Some(waiting) = this.waiting {
            ready!(waiting.discarding.poll_begun(context));
        }
        match this.waiting.take() {
            Some(waiting) => Poll::Ready(Ok(watched(waiting.response, this.running.take()))),
            None => Poll::Pending,
        }
    }
}

fn watched<R>(response: Response<R>, running: Option<Running>) -> Response<Watched<R>> {
    response.map(|body| Watched { body, running })
}

/// An answer's body that keeps its request in the count until it is sent.
struct Watched<R> {
    body: R,
    running: Option<Running>,
}

/// A large piece of an answer, which waits in the connection's buffers for a client that is slow to read.
struct Unsent {
    bytes: Bytes,
    _running: Running,
}

impl AsRef<[u8]> for Unsent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<R: Body<Data = Bytes> + Unpin> Body for Watched<R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, R::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(match (frame, &self.running) {
            (Some(Ok(frame)), Some(running)) if frame.data_ref().is_some_and(|data| data.len() >= LARGE_BYTES) => {
                let unsent = |bytes| Bytes::from_owner(Unsent { bytes, _running: Running::new(&running.0) });
                Some(Ok(frame.map_data(unsent)))
            }
            (frame, _) => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
