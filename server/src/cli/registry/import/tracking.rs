//! How is a tracking server of MLflow's spoken to?

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use tiltyard_registry::mlflow::remote::{Fetch, authorization};

use crate::cli::exit::Failure;
use crate::cli::output::{note, variable};
use crate::locks::fetch;

/// How long a connection may take to stand.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// How long the server may take to begin an answer.
const ANSWER_MAX: Duration = Duration::from_secs(120);

/// A tracking server at an address.
pub(super) struct Server {
    address: String,
    agent: ureq::Agent,
    authorization: Option<String>,
}

impl Server {
    /// The server that a flag names, or MLflow's own variable.
    pub(super) fn of(flag: Option<String>) -> Result<Server, Failure> {
        let expected =
            "expected --tracking-uri or MLFLOW_TRACKING_URI with http:// or https://, such as http://localhost:5000";
        let Some(address) = flag.or_else(|| variable("MLFLOW_TRACKING_URI")) else {
            return Err(Failure::usage(format!("no tracking server is named: {expected}")));
        };
        let address = address.trim().trim_end_matches('/').to_owned();
        let is_secret = address.starts_with("https://");
        if !is_secret && !address.starts_with("http://") || address.contains(['@', '?', '#']) {
            return Err(Failure::usage(format!("{address:?} is no tracking server to be asked: {expected}")));
        }
        let authorization = authorization(variable);
        // Nothing of ours goes where the server leads: its answers are its own.
        let settings = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_recv_response(Some(ANSWER_MAX));
        let settings = match is_secret {
            true => {
                let ca = variable("MLFLOW_TRACKING_SERVER_CERT_PATH");
                settings.tls_config(fetch::tls(ca.as_deref().map(Path::new), None).map_err(Failure::usage)?)
            }
            false => {
                if authorization.is_some()
                    && !["http://localhost", "http://127.0.0.1"].iter().any(|near| address.starts_with(near))
                {
                    note(format_args!("warning: the credentials travel to {address} in the clear: use https://"));
                }
                settings
            }
        };
        Ok(Server { address, agent: settings.build().new_agent(), authorization })
    }
}

impl Fetch for Server {
    fn get(&mut self, path: &str, bytes_max: u64, into: &mut dyn Write) -> Result<u16, String> {
        let mut request = self.agent.get(format!("{}{path}", self.address));
        if let Some(value) = &self.authorization {
            request = request.header("authorization", value);
        }
        let mut response = request.call().map_err(|error| format!("{}: {error}", self.address))?;
        // One byte more than may come tells that it is too much.
        let mut body = response.body_mut().with_config().limit(bytes_max.saturating_add(1)).reader();
        let copied = io::copy(&mut body, into).map_err(|error| format!("{}: {error}", self.address))?;
        if copied > bytes_max {
            return Err(format!("it is larger than {bytes_max} bytes"));
        }
        Ok(response.status().as_u16())
    }
}
