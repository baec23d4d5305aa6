//! What is the least that a front end can cost? Servers that read a whole request and answer the same bytes each time.
//!
//! Bare hyper: HTTP/1.1, and HTTP/2 with an answer that is gRPC's. (The tonic echo is a program of its own,
//! `benches/tonic`: its dependencies would make the whole workspace compile anew.)

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use clap::{ArgMatches, Command, value_parser};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::Fault;
use crate::arguments::{count, count_of, flag, optional, parse_duration, value};
use crate::model::AskedModel;
use crate::payload::{Protocol, answer};

/// The server's windows: a large tensor must not wait for a round trip here where it does not there.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// Requests that one HTTP/2 connection may have open.
const STREAMS_MAX: u32 = 1024;

/// Connections that wait for a thread to take them.
const WAITING_MAX: usize = 1024;

/// The command line of `echo`.
pub(crate) fn command() -> Command {
    Command::new("echo")
        .about("Answers every request with the same bytes, on bare hyper; prints its address and its process")
        .arg(flag("protocol", "grpc", value_parser!(Protocol), "grpc (HTTP/2), http or json (HTTP/1.1)"))
        .arg(optional("model", value_parser!(AskedModel), "The model whose answer it sends").required(true))
        .arg(count("rows", "1", "Rows of the answer"))
        .arg(flag("port", "0", value_parser!(u16), "The port; 0 takes a free one"))
        .arg(count("threads", "1", "Threads, each with connections of its own"))
        .arg(flag("lifetime", "60m", parse_duration, "How long it runs at most"))
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    grpc: bool,
    body: Bytes,
    json_bytes: Option<HeaderValue>,
}

impl Answer {
    /// The answer to a request for a model.
    pub(crate) fn new(model: &AskedModel, protocol: Protocol, rows: usize) -> Answer {
        let (body, json_bytes) = answer(model, protocol, rows);
        Answer { grpc: protocol.is_grpc(), body, json_bytes: json_bytes.map(HeaderValue::from) }
    }

    fn response(&self) -> Response<Whole> {
        let mut response = Response::new(Whole { data: Some(self.body.clone()), with_trailers: self.grpc });
        let content_type = match (self.grpc, &self.json_bytes) {
            (true, _) => "application/grpc",
            (false, Some(_)) => "application/octet-stream",
            (false, None) => "application/json",
        };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        if let Some(json_bytes) = &self.json_bytes {
            response.headers_mut().insert("inference-header-content-length", json_bytes.clone());
        }
        response
    }
}

/// A body in one piece, and gRPC's trailers where it is gRPC's.
struct Whole {
    data: Option<Bytes>,
    with_trailers: bool,
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if !std::mem::take(&mut self.with_trailers) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::with_capacity(1);
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && !self.with_trailers
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.data.as_ref().map_or(0, Bytes::len) as u64)
    }
}

/// Runs `echo`.
pub(crate) fn main(matches: &ArgMatches) -> Result<(), Fault> {
    let model: AskedModel = value(matches, "model")?;
    let answer = Answer::new(&model, value(matches, "protocol")?, count_of(matches, "rows")?);
    let lifetime: Duration = value(matches, "lifetime")?;
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, value::<u16>(matches, "port")?))?;
    println!("{} {}", listener.local_addr()?, std::process::id());
    serve(listener, count_of(matches, "threads")?, lifetime, &answer)
}

/// Serves for `lifetime`. One thread accepts and serves; with more, they are handed connections in turns.
pub(crate) fn serve(
    listener: std::net::TcpListener,
    threads: usize,
    lifetime: Duration,
    answer: &Answer,
) -> Result<(), Fault> {
    listener.set_nonblocking(true)?;
    let mut others = Vec::new();
    for _ in 1..threads {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let answer = answer.clone();
        std::thread::spawn(move || serve_given(receiver, &answer));
        others.push(sender);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        let accept = async {
            for turn in 0.. {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                match others.get(turn % threads) {
                    Some(other) => other.send(stream.into_std()?).await?,
                    None => drop(tokio::spawn(connection(stream, answer.clone()))),
                }
            }
            Ok(())
        };
        tokio::time::timeout(lifetime, accept).await.unwrap_or(Ok(()))
    })
}

fn serve_given(mut given: mpsc::Receiver<std::net::TcpStream>, answer: &Answer) -> Result<(), Fault> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        while let Some(stream) = given.recv().await {
            tokio::spawn(connection(TcpStream::from_std(stream)?, answer.clone()));
        }
        Ok(())
    })
}

/// Serves one connection to its end. What goes wrong on it is the client's to notice.
async fn connection(stream: TcpStream, answer: Answer) {
    let io = TokioIo::new(stream);
    let grpc = answer.grpc;
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            let mut body = request.into_body();
            while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
                frame?;
            }
            Ok::<_, hyper::Error>(answer.response())
        }
    });
    let served = match grpc {
        true => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .max_concurrent_streams(STREAMS_MAX)
                .serve_connection(io, service)
                .await
        }
        false => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
    };
    drop(served);
}
