//! How does a command ask a model in its own process? Through the same protocol code as a client, without a socket.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Collected, Full};
use tokio::runtime::Runtime;

use crate::config::{CaptureMode, Config, DriftMode, LogFormat, LogLevel, ModelControl};
use crate::listen::CameIn;
use crate::logs::Logs;
use crate::mirror::{self, Brought};
use crate::protocol;
use crate::service::Service;
use crate::start::start;
use crate::writer::PlanSources;

/// A server without listeners.
pub struct Local {
    service: Arc<Service>,
    runtime: Runtime,
    /// Where the models come from a store.
    _models: Option<Brought>,
}

impl Local {
    /// Loads the repository that the configuration names and waits until each version is ready or failed.
    pub fn start(config: &Config) -> Result<Local, String> {
        // Nothing is followed: what is loaded at the start is what answers, and it is not waited for.
        let model_control = match config.model_control {
            ModelControl::Explicit => ModelControl::Explicit,
            ModelControl::Watch | ModelControl::None => ModelControl::None,
        };
        // Whoever runs this may read the models anyway: locks are for doors.
        let brought = mirror::bring(config)?;
        let config = Config {
            models: brought.as_ref().map_or_else(|| config.models.clone(), |brought| brought.root.clone()),
            model_control,
            settle_time: Duration::ZERO,
            access_file: None,
            oidc_issuer: None,
            oidc_audience: Vec::new(),
            oidc_jwks: None,
            // What is asked in this process is nobody's traffic.
            capture: CaptureMode::Off,
            drift: DriftMode::Off,
            ..config.clone()
        };
        let logs = Logs::start(LogFormat::Human, LogLevel::Error);
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        // Plans say who answers on a server; here the newest version does.
        let service = start(&config, PlanSources::default(), logs)?;
        let mut done = service.writer.first_look_done.clone();
        // Fails only when the writer is gone, and then nothing would become ready any more.
        drop(runtime.block_on(done.wait_for(|done| *done)));
        Ok(Local { service, runtime, _models: brought })
    }

    /// What answers, for tools that look deeper than a client can.
    pub fn service(&self) -> &Service {
        &self.service
    }

    /// Answers one REST request: status and body.
    pub fn call(&self, method: &str, path: &str, body: Vec<u8>) -> Result<(u16, Vec<u8>), String> {
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())?)
            .uri(path)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let response = self.answer(request)?;
        Ok((response.status().as_u16(), response.into_body().to_bytes().to_vec()))
    }

    /// Answers one request of any protocol, its head as a listener would hand it over. Blocks until the answer is whole.
    pub fn answer(&self, request: Request<Full<Bytes>>) -> Result<Response<Collected<Bytes>>, String> {
        self.runtime.block_on(async {
            let (head, body) =
                protocol::answer(Arc::clone(&self.service), request, CameIn::default()).await.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?;
            Ok(Response::from_parts(head, body))
        })
    }
}
