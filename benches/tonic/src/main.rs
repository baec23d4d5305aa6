//! What does a front end on tonic cost that decodes each inference request and answers the same message each time?
//!
//! tonic as people run it: its own server and routes, its codec, one thread. Prints its address and its process, and
//! ends after an hour at the latest.
#![allow(clippy::print_stdout, reason = "a command line tool answers on its standard output")]

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tiltyard_proto::inference as pb;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic_prost::ProstCodec;
use tower_service::Service;

/// The server's own allocator: an echo with another one would be another limit.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The server's windows.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

const LIFETIME: Duration = Duration::from_secs(3600);

/// The answer of the model `mlp` to one row.
fn answer(model: String) -> pb::ModelInferResponse {
    let output = pb::model_infer_response::InferOutputTensor {
        name: "scores".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![1, 2],
        ..Default::default()
    };
    let scores: Vec<u8> = [0.25f32, 0.75].iter().flat_map(|score| score.to_le_bytes()).collect();
    pb::ModelInferResponse {
        model_name: model,
        model_version: "1".to_owned(),
        outputs: vec![output],
        raw_output_contents: vec![scores.into()],
        ..Default::default()
    }
}

/// The method.
struct ModelInfer;

impl UnaryService<pb::ModelInferRequest> for ModelInfer {
    type Response = pb::ModelInferResponse;
    type Future = Ready<Result<tonic::Response<pb::ModelInferResponse>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<pb::ModelInferRequest>) -> Self::Future {
        ready(Ok(tonic::Response::new(answer(request.into_inner().model_name))))
    }
}

/// The service, as tonic's generator writes it.
#[derive(Clone)]
struct Inference;

impl NamedService for Inference {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

impl Service<http::Request<Body>> for Inference {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/inference.GRPCInferenceService/ModelInfer" => {
                    Grpc::new(ProstCodec::default()).unary(ModelInfer, request).await
                }
                _ => tonic::Status::unimplemented("only ModelInfer is answered").into_http(),
            })
        })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        println!("{} {}", listener.local_addr()?, std::process::id());
        let server = tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .add_service(Inference)
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        tokio::time::timeout(LIFETIME, server).await.unwrap_or(Ok(()))?;
        Ok(())
    })
}
