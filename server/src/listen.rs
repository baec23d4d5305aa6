//! How do connections come in and become requests?
//!
//! Every listener answers HTTP/1.1, HTTP/2 and gRPC. A connection must send its first request head within a deadline,
//! may idle for a while between requests, and is told to go when the server drains.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
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
use crate::fronts::{Fronts, Open};
use crate::logs::Seldom;

/// Bytes a client may send before the server has taken them, per stream and per connection: large tensors would else
/// wait for a round trip every 64 KiB.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Requests that one HTTP/2 connection may have open.
const STREAMS_MAX: u32 = 1024;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: u32 = 64 * 1024;

/// The ends of a connection; a Unix socket has no addresses.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The address that it came in on.
    pub came_in_on: Option<IpAddr>,
    /// The address that it came from.
    pub peer: Option<IpAddr>,
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
    Tcp(TcpListener),
    /// On a path, which is removed when the listener is.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Binds an address; port 0 chooses one.
    pub async fn tcp(host: &str, port: u16) -> io::Result<Listener> {
        TcpListener::bind((host, port)).await.map(Listener::Tcp)
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
        UnixListener::bind(path).map(|listener| Listener::Unix(listener, path.to_owned()))
    }

    /// The address, for TCP.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            // Somebody may have removed it already.
            drop(std::fs::remove_file(path));
        }
    }
}

/// Accepts connections until `drain` turns true and deals them out, then lets open requests finish. Ends when all
/// connections have.
pub async fn serve<H, F, R>(
    listener: Listener,
    limits: Limits,
    open: Arc<Connections>,
    drain: watch::Receiver<bool>,
    fronts: Arc<Fronts>,
    handler: H,
) where
    H: Fn(Request<Incoming>, Ends) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<R>> + Send + 'static,
    R: Body<Data = Bytes> + Send + Unpin + 'static,
    R::Error: std::error::Error + Send + Sync,
{
    // Each connection holds a sender and sends nothing: there is none any more when nothing can arrive.
    let (alive, mut all_ended) = mpsc::channel::<std::convert::Infallible>(1);
    let mut draining = drain.clone();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            _ = draining.wait_for(|drain| *drain) => break,
        };
        match accepted {
            Ok(_) if open.count() >= limits.connections_max => {
                open.note_refused();
                if let Some(refused) = TOO_MANY.note(clock::now()) {
                    tracing::warn!(
                        connections = limits.connections_max,
                        refused,
                        "too many connections: new ones are closed"
                    );
                }
            }
            Ok(stream) => {
                let held = (open.one_more(), alive.clone());
                let (handler, drain) = (handler.clone(), drain.clone());
                fronts.deal(async move {
                    // Fails only where the system is out of memory for its watch.
                    match stream.here() {
                        Ok((Stream::Tcp(stream), ends)) => {
                            connection(TokioIo::new(stream), ends, limits, drain, handler).await;
                        }
                        Ok((Stream::Unix(stream), ends)) => {
                            connection(TokioIo::new(stream), ends, limits, drain, handler).await;
                        }
                        Err(error) => tracing::warn!(%error, "a connection cannot be served"),
                    }
                    drop(held);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: wait a little instead of spinning.
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop((listener, alive));
    // Nothing is ever received but the end.
    let None = all_ended.recv().await;
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
    fn here(self) -> io::Result<(Stream, Ends)> {
        match self {
            Accepted::Tcp(stream) => {
                let came_in_on = stream.local_addr().ok().map(|address| address.ip());
                let peer = stream.peer_addr().ok().map(|address| address.ip());
                let ends = Ends { came_in_on, peer };
                Ok((Stream::Tcp(TcpStream::from_std(stream)?), ends))
            }
            Accepted::Unix(stream) => {
                let ends = Ends { came_in_on: None, peer: None };
                Ok((Stream::Unix(UnixStream::from_std(stream)?), ends))
            }
        }
    }
}

async fn accept(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(listener) => {
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
}

async fn connection<I, H, F, R>(io: I, ends: Ends, limits: Limits, mut drain: watch::Receiver<bool>, handler: H)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    H: Fn(Request<Incoming>, Ends) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<R>> + Send + 'static,
    R: Body<Data = Bytes> + Send + Unpin + 'static,
    R::Error: std::error::Error + Send + Sync,
{
    let activity = Arc::new(Activity::default());
    let service = {
        let activity = Arc::clone(&activity);
        service_fn(move |request: Request<Incoming>| Answering {
            running: Some(Running::new(&activity)),
            answer: handler(request, ends),
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
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut idle = pin!(until_idle(&activity, limits));
    let mut told = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error, "a connection ended");
                }
                return;
            }
            () = idle.as_mut(), if !told => {
                told = true;
                if activity.ended.load(Relaxed) == 0 {
                    tracing::debug!("a connection sent no request in time");
                    return;
                }
                connection.as_mut().graceful_shutdown();
            }
            _ = drain.wait_for(|drain| *drain), if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
        }
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
    struct Answering<F> {
        running: Option<Running>,
        #[pin]
        answer: F,
    }
}

impl<F: Future<Output = Response<R>>, R> Future for Answering<F> {
    type Output = Result<Response<Watched<R>>, std::convert::Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.answer.poll(context));
        let running = this.running.take();
        Poll::Ready(Ok(response.map(|body| Watched { body, _running: running })))
    }
}

/// An answer's body that keeps its request in the count until it is sent.
struct Watched<R> {
    body: R,
    _running: Option<Running>,
}

impl<R: Body + Unpin> Body for Watched<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<R::Data>, R::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
