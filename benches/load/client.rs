//! How does one request go out and its answer come back, at as little cost as can be?
//!
//! The generator shares the cores with what it measures. HTTP/1.1 is one write and mostly one read of our own; HTTP/2 is
//! the `h2` crate without anything above it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::client::SendRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::payload::Prepared;

/// Windows that no answer here fills.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// The longest head of an answer that is read.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How long a server may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a request has no good answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Failure {
    /// An HTTP status other than 200.
    Http(u16),
    /// A gRPC status other than 0.
    Grpc(String),
    /// The answer is not the one that it should be.
    Wrong(&'static str),
    /// The connection broke, or what came was no answer.
    Broken(String),
}

impl Failure {
    /// Whether the server refused the request for want of room or time.
    pub(crate) fn is_refusal(&self) -> bool {
        *self == Failure::Http(429) || matches!(self, Failure::Grpc(status) if status == "8")
    }

    /// Whether the time that the client gave was over.
    pub(crate) fn is_expiry(&self) -> bool {
        *self == Failure::Http(504) || matches!(self, Failure::Grpc(status) if status == "4")
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Http(status) => write!(f, "HTTP {status}"),
            Failure::Grpc(status) => write!(f, "gRPC {status}"),
            Failure::Wrong(what) => f.write_str(what),
            Failure::Broken(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Failure {}

fn broken(why: impl std::fmt::Display) -> Failure {
    Failure::Broken(why.to_string())
}

/// A way to the server that carries one request of ours at a time.
pub(crate) enum Way {
    /// A connection of its own.
    Http1(Http1),
    /// A stream at a time on a connection shared with others.
    Http2(SendRequest<Bytes>),
}

impl Way {
    /// Sends a request and waits for the whole answer, which is kept in `answer`.
    ///
    /// After a broken connection the way is of no use any more.
    pub(crate) async fn exchange(&mut self, request: &Prepared, answer: &mut BytesMut) -> Result<(), Failure> {
        answer.clear();
        match (self, request) {
            (Way::Http1(connection), Prepared::Http1(bytes)) => connection.exchange(bytes, answer).await,
            (Way::Http2(connection), Prepared::Grpc { head, body }) => {
                poll_fn(|context| connection.poll_ready(context)).await.map_err(broken)?;
                grpc_exchange(connection, head, body, answer).await
            }
            _ => Err(broken("the request was made for another protocol")),
        }
    }
}

/// Opens `ways` ways to the server. gRPC shares `connections` connections among them; HTTP/1.1 has one for each.
pub(crate) async fn connect(
    address: SocketAddr,
    grpc: bool,
    ways: usize,
    connections: usize,
) -> Result<Vec<Way>, Failure> {
    if !grpc {
        let mut all = Vec::with_capacity(ways);
        for _ in 0..ways {
            all.push(Way::Http1(Http1 { stream: tcp(address).await?, received: BytesMut::new() }));
        }
        return Ok(all);
    }
    let mut senders = Vec::new();
    for _ in 0..connections.clamp(1, ways.max(1)) {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(STREAM_WINDOW_BYTES).initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        builder.enable_push(false);
        let (sender, connection) = builder.handshake::<_, Bytes>(tcp(address).await?).await.map_err(broken)?;
        // It ends with its last sender; what breaks it is told to each request on it.
        tokio::spawn(async move { drop(connection.await) });
        senders.push(sender);
    }
    Ok(senders.iter().cycle().take(ways).map(|sender| Way::Http2(sender.clone())).collect())
}

async fn tcp(address: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| broken("no connection within 5 s"))?.map_err(broken)?;
    stream.set_nodelay(true).map_err(broken)?;
    Ok(stream)
}

async fn grpc_exchange(
    connection: &mut SendRequest<Bytes>,
    head: &http::Request<()>,
    body: &Bytes,
    answer: &mut BytesMut,
) -> Result<(), Failure> {
    let (response, mut stream) = connection.send_request(head.clone(), false).map_err(broken)?;
    stream.send_data(body.clone(), true).map_err(broken)?;
    let response = response.await.map_err(broken)?;
    if response.status() != http::StatusCode::OK {
        return Err(Failure::Http(response.status().as_u16()));
    }
    if let Some(status) = response.headers().get("grpc-status") {
        return grpc_status(Some(status));
    }
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let data = data.map_err(broken)?;
        body.flow_control().release_capacity(data.len()).map_err(broken)?;
        answer.extend_from_slice(&data);
    }
    let trailers = poll_fn(|context| body.poll_trailers(context)).await.map_err(broken)?;
    grpc_status(trailers.as_ref().and_then(|trailers| trailers.get("grpc-status")))
}

fn grpc_status(status: Option<&http::HeaderValue>) -> Result<(), Failure> {
    match status {
        Some(status) if status == "0" => Ok(()),
        Some(status) => Err(Failure::Grpc(String::from_utf8_lossy(status.as_bytes()).into_owned())),
        None => Err(broken("the answer has no grpc-status")),
    }
}

/// A connection that carries one request at a time.
pub(crate) struct Http1 {
    stream: TcpStream,
    /// What has arrived and is not read yet.
    received: BytesMut,
}

impl Http1 {
    async fn exchange(&mut self, request: &[u8], answer: &mut BytesMut) -> Result<(), Failure> {
        self.stream.write_all(request).await.map_err(broken)?;
        let head = loop {
            if let Some(head) = read_head(&self.received)? {
                break head;
            }
            if self.received.len() > HEAD_BYTES_MAX {
                return Err(broken("the answer's head does not end"));
            }
            self.receive().await?;
        };
        self.received.advance(head.bytes);
        while self.received.len() < head.body_bytes {
            self.receive().await?;
        }
        answer.extend_from_slice(&self.received[..head.body_bytes]);
        self.received.advance(head.body_bytes);
        match head.status {
            200 => Ok(()),
            status => Err(Failure::Http(status)),
        }
    }

    async fn receive(&mut self) -> Result<(), Failure> {
        self.received.reserve(8192);
        match self.stream.read_buf(&mut self.received).await.map_err(broken)? {
            0 => Err(broken("the server closed the connection")),
            _ => Ok(()),
        }
    }
}

/// What the head of an answer says.
#[derive(Debug, PartialEq)]
struct Head {
    /// Its own length, the empty line included.
    bytes: usize,
    status: u16,
    body_bytes: usize,
}

/// Reads the head of an answer; `None` while it is not all there. Fails on what is no HTTP/1.1 answer with a length.
fn read_head(received: &[u8]) -> Result<Option<Head>, Failure> {
    let Some(end) = memchr::memmem::find(received, b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&received[..end]).map_err(broken)?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).and_then(|rest| rest.get(..3));
    let status = status.and_then(|status| status.parse().ok()).ok_or_else(|| broken("the answer is not HTTP/1.1"))?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let body_bytes = length.ok_or_else(|| broken("the answer has no content-length"))?;
    Ok(Some(Head { bytes: end + 4, status, body_bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_when_they_are_whole() {
        assert_eq!(read_head(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n"), Ok(None));
        let whole = b"HTTP/1.1 429 Too Many Requests\r\ndate: x\r\nContent-Length:12\r\n\r\n{...";
        assert_eq!(read_head(whole), Ok(Some(Head { bytes: whole.len() - 4, status: 429, body_bytes: 12 })));
        assert!(read_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(read_head(b"SSH-2.0\r\n\r\n").is_err());
        assert!(read_head(b"HTTP/1.1 2\r\n\r\n").is_err());
    }
}
