//! Which server is meant, and how is it asked?
//!
//! Over REST, or in this process: both answer the same calls.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use clap::{Arg, ArgMatches};
use serde_json::Value;

use super::credentials::{self, Credentials};
use super::exit::Failure;
use super::output::{self, variable};
use crate::local::Local;

/// Where a server listens unless it was told otherwise.
const DEFAULT_SERVER: &str = "http://127.0.0.1:8000";

/// Where a server's admin port is unless it was told otherwise.
const DEFAULT_ADMIN: &str = "http://127.0.0.1:8002";

/// Connections that wait for the next request: as many as ask at a time.
const CONNECTIONS_KEPT: usize = 16;

/// How long a connection may take to stand.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long an answer may take in all. The server's own deadline is far shorter.
const ANSWER_MAX: Duration = Duration::from_secs(600);

/// The largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 1 << 30;

/// Something that answers requests as the REST port does.
pub(crate) trait Target {
    /// The status and the body of the answer. Fails only where there is none.
    fn call(&self, method: &str, path: &str, body: Vec<u8>) -> Result<(u16, Vec<u8>), Failure>;
}

impl Target for Local {
    fn call(&self, method: &str, path: &str, body: Vec<u8>) -> Result<(u16, Vec<u8>), Failure> {
        Local::call(self, method, path, body).map_err(Failure::failed)
    }
}

/// Asks for the body of a good answer. Any other answer is a failure with the server's reason.
pub(crate) fn ask(target: &dyn Target, method: &str, path: &str, body: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let (status, body) = target.call(method, path, body)?;
    good(status, body)
}

/// Posts a body with these headers to a server, and asks for the body of a good answer.
pub(crate) fn ask_as(
    http: &Http,
    path: &str,
    headers: &[(&str, Option<&str>)],
    body: Vec<u8>,
) -> Result<Vec<u8>, Failure> {
    let (status, body) = http.post(path, headers, &body)?;
    good(status, body)
}

/// The body of a good answer. Any other is a failure with the server's reason.
pub(crate) fn good(status: u16, body: Vec<u8>) -> Result<Vec<u8>, Failure> {
    match status {
        200..=299 => Ok(body),
        401 | 403 => Err(Failure::refused(reason(status, &body))),
        _ => Err(Failure::failed(reason(status, &body))),
    }
}

/// What a server said of a request that it did not answer.
fn reason(status: u16, body: &[u8]) -> String {
    const SHOWN_CHARS_MAX: usize = 500;
    let told =
        serde_json::from_slice::<Value>(body).ok().and_then(|form| Some(form.get("error")?.as_str()?.to_owned()));
    told.unwrap_or_else(|| {
        let text: String = String::from_utf8_lossy(body).trim().chars().take(SHOWN_CHARS_MAX).collect();
        format!("the server answered with status {status}{}{text}", if text.is_empty() { "" } else { ": " })
    })
}

/// A server at an address.
pub(crate) struct Http {
    address: String,
    agent: ureq::Agent,
    /// The header's value, where there is a token.
    authorization: Option<String>,
}

impl Http {
    /// The server at an address such as `http://127.0.0.1:8000`, to which nobody speaks yet. Fails where it is none, and
    /// where files of the credentials cannot be read.
    pub(crate) fn new(address: &str, credentials: &Credentials) -> Result<Http, Failure> {
        let address = address_of(address)?;
        // The client connects to where the operator said: variables for proxies are for the open network.
        let settings = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .max_redirects(0)
            .max_idle_connections_per_host(CONNECTIONS_KEPT)
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_global(Some(ANSWER_MAX));
        let authorization = credentials.authorization();
        let settings = match address.starts_with("https://") {
            true => settings.tls_config(credentials.tls()?),
            false => {
                if authorization.is_some() && !is_near(&address) {
                    output::note(format_args!("warning: the token travels to {address} in the clear: use https://"));
                }
                settings
            }
        };
        Ok(Http { agent: settings.build().new_agent(), authorization, address })
    }
}

impl Http {
    fn post(&self, path: &str, headers: &[(&str, Option<&str>)], body: &[u8]) -> Result<(u16, Vec<u8>), Failure> {
        let given = headers.iter().filter_map(|&(name, value)| Some((name, value?)));
        let request = given.fold(self.agent.post(format!("{}{path}", self.address)), |request, (name, value)| {
            request.header(name, value)
        });
        self.answer(with(request, self.authorized()).send(body))
    }

    /// Puts so many bytes from a reader to a server, and asks for the body of a good answer. How long they travel is bounded by
    /// nothing but the wait for each part of them.
    pub(crate) fn put_file(&self, path: &str, mut from: impl std::io::Read, size: u64) -> Result<Vec<u8>, Failure> {
        let request = with(self.agent.put(format!("{}{path}", self.address)), self.authorized());
        let request = request.content_type("application/octet-stream").header("content-length", size.to_string());
        let request = request.config().timeout_global(None).timeout_recv_response(Some(ANSWER_MAX)).build();
        let (status, body) = self.answer(request.send(ureq::SendBody::from_reader(&mut from)))?;
        good(status, body)
    }

    fn authorized(&self) -> Option<(&str, &str)> {
        self.authorization.as_deref().map(|value| ("authorization", value))
    }

    fn answer(&self, answered: Result<http::Response<ureq::Body>, ureq::Error>) -> Result<(u16, Vec<u8>), Failure> {
        let silent = |error: ureq::Error| {
            Failure::unreachable(format!(
                "no answer from {}: {}; is a server running there? `tiltyard serve` starts one, --server URL and \
                 --ports-file PATH say where one is",
                self.address,
                plain(&error)
            ))
        };
        let mut response = answered.map_err(silent)?;
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_vec().map_err(silent)?;
        Ok((response.status().as_u16(), body))
    }
}

impl Target for Http {
    fn call(&self, method: &str, path: &str, body: Vec<u8>) -> Result<(u16, Vec<u8>), Failure> {
        let (url, authorization) = (format!("{}{path}", self.address), self.authorized());
        self.answer(match method {
            "GET" => with(self.agent.get(&url), authorization).call(),
            "DELETE" => with(self.agent.delete(&url), authorization).call(),
            "PUT" => with(self.agent.put(&url), authorization).content_type("application/json").send(&body),
            _ => return self.post(path, &[("content-type", Some("application/json"))], &body),
        })
    }
}

fn with<B>(request: ureq::RequestBuilder<B>, header: Option<(&str, &str)>) -> ureq::RequestBuilder<B> {
    match header {
        Some((name, value)) => request.header(name, value),
        None => request,
    }
}

/// An error of the client in words that help.
fn plain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        ureq::Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
            format!("{error} (--ca names the authorities to believe)")
        }
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Timeout(_) => "it took too long".into(),
        error => error.to_string(),
    }
}

/// An address as calls need it: with its scheme and without a slash at the end.
fn address_of(text: &str) -> Result<String, Failure> {
    let text = text.trim();
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some((scheme, _)) => {
            return Err(Failure::usage(format!(
                "{text:?}: {scheme}:// is not offered, only http:// and https://HOST:PORT"
            )));
        }
        None => ("http", text),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.is_empty() || rest.contains(|c: char| c == '/' || c == '?' || c == '#' || c.is_whitespace()) {
        return Err(Failure::usage(format!("{text:?} is not the address of a server: expected http://HOST:PORT")));
    }
    Ok(format!("{scheme}://{rest}"))
}

/// Whether an address is this machine's own.
fn is_near(address: &str) -> bool {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The flags that say which server is meant.
pub(crate) fn server_flags() -> Vec<Arg> {
    let mut flags = vec![
        Arg::new("server")
            .long("server")
            .value_name("URL")
            .help_heading("Server")
            .help(format!("The server's REST address [env: TILTYARD_SERVER] [default: {DEFAULT_SERVER}]")),
        Arg::new("ports_file")
            .long("ports-file")
            .value_name("PATH")
            .help_heading("Server")
            .conflicts_with("server")
            .help("The file that a server on this machine wrote its ports to (serve --ports-file)"),
    ];
    flags.extend(credentials::flags());
    flags
}

/// The flag that says where the admin port is.
pub(crate) fn admin_flag() -> Arg {
    Arg::new("admin")
        .long("admin")
        .value_name("URL")
        .help_heading("Server")
        .help(format!("The server's admin address [env: TILTYARD_ADMIN] [default: {DEFAULT_ADMIN}]"))
}

/// What the command line and the environment say of the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    /// `--server`, else what the file of ports says, else the variable.
    server: Option<String>,
    /// `--admin`, else what the file of ports says, else the variable.
    admin: Option<String>,
}

impl Named {
    /// Reads flags, file and variables. Fails on a file that is no file of ports.
    pub(crate) fn of(matches: &ArgMatches) -> Result<Named, Failure> {
        let flag = |name: &str| matches.try_get_one::<String>(name).ok().flatten().cloned();
        let ports = flag("ports_file").map(|path| read_ports(&path)).transpose()?.unwrap_or_default();
        Ok(Named {
            server: flag("server").or(ports.server).or_else(|| variable("TILTYARD_SERVER")),
            admin: flag("admin").or(ports.admin).or_else(|| variable("TILTYARD_ADMIN")),
        })
    }

    /// The REST address to use.
    pub(crate) fn server(&self) -> &str {
        self.server.as_deref().unwrap_or(DEFAULT_SERVER)
    }

    /// The admin address to use; none where only another server's REST address is known, since the usual admin port
    /// may then belong to somebody else.
    pub(crate) fn admin(&self) -> Option<&str> {
        match (&self.admin, &self.server) {
            (Some(admin), _) => Some(admin),
            (None, None) => Some(DEFAULT_ADMIN),
            (None, Some(_)) => None,
        }
    }

    /// Whether somebody said where the admin port is.
    pub(crate) fn has_admin(&self) -> bool {
        self.admin.is_some()
    }
}

fn read_ports(path: &str) -> Result<Named, Failure> {
    let text = fs::read_to_string(path).map_err(|error| {
        Failure::unreachable(format!("cannot read the file of ports {path}: {error}; is the server up?"))
    })?;
    parse_ports(&text).ok_or_else(|| {
        Failure::failed(format!(
            "{path} is not a file of ports: expected {{\"http\": PORT, \"grpc\": PORT, \"admin\": PORT}}"
        ))
    })
}

fn parse_ports(text: &str) -> Option<Named> {
    let form: Value = serde_json::from_str(text).ok()?;
    let scheme = if form.get("tls") == Some(&Value::Bool(true)) { "https" } else { "http" };
    let address = |key: &str| {
        let port = u16::try_from(form.get(key)?.as_u64()?).ok()?;
        Some(format!("{scheme}://127.0.0.1:{port}"))
    };
    Some(Named { server: Some(address("http")?), admin: address("admin") })
}

/// A name as a part of a path.
pub(crate) fn path_part(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    #[test]
    fn addresses_that_people_type() {
        let check = |text: &str, expected: Result<&str, Exit>| {
            let address = address_of(text).map_err(|failure| failure.exit());
            assert_eq!(address.as_deref().map_err(|exit| *exit), expected, "{text}");
        };
        check("http://127.0.0.1:8000", Ok("http://127.0.0.1:8000"));
        check(" localhost:9000/ ", Ok("http://localhost:9000"));
        check("http://[::1]:8000", Ok("http://[::1]:8000"));
        check("https://models.example", Ok("https://models.example"));
        check("ftp://models.example", Err(Exit::Usage));
        check("http://", Err(Exit::Usage));
        check("http://host/v2", Err(Exit::Usage));
    }

    #[test]
    fn this_machine_and_others() {
        let check = |address: &str, near: bool| assert_eq!(is_near(address), near, "{address}");
        check("http://127.0.0.1:8000", true);
        check("http://[::1]:8000", true);
        check("http://localhost", true);
        check("http://10.0.0.1:8000", false);
        check("http://localhost.example.com:8000", false);
    }

    #[test]
    fn the_usual_admin_port_is_only_asked_about_the_usual_server() {
        let named = |server: Option<&str>, admin: Option<&str>| Named {
            server: server.map(str::to_owned),
            admin: admin.map(str::to_owned),
        };
        assert_eq!(named(None, None).admin(), Some(DEFAULT_ADMIN));
        assert_eq!(named(Some("http://far:8000"), None).admin(), None);
        assert_eq!(named(Some("http://far:8000"), Some("http://far:8002")).admin(), Some("http://far:8002"));
    }

    #[test]
    fn files_of_ports() {
        let named = parse_ports(r#"{"http": 41000, "grpc": 41001, "admin": 41002}"#).unwrap();
        assert_eq!((named.server(), named.admin()), ("http://127.0.0.1:41000", Some("http://127.0.0.1:41002")));
        let named = parse_ports(r#"{"http": 41000, "tls": true}"#).unwrap();
        assert_eq!(named.server(), "https://127.0.0.1:41000");
        assert_eq!(parse_ports(r#"{"http": 70000}"#), None);
        assert_eq!(parse_ports("41000"), None);
    }

    #[test]
    fn answers_that_are_failures() {
        struct Fixed(u16, &'static str);
        impl Target for Fixed {
            fn call(&self, _: &str, _: &str, _: Vec<u8>) -> Result<(u16, Vec<u8>), Failure> {
                Ok((self.0, self.1.into()))
            }
        }
        let check = |status, body, exit, message: &str| {
            let failure = ask(&Fixed(status, body), "GET", "/v2", Vec::new()).unwrap_err();
            assert_eq!((failure.exit(), failure.to_string().as_str()), (exit, message));
        };
        check(404, r#"{"error": "no model \"x\""}"#, Exit::Failed, "no model \"x\"");
        check(401, r#"{"error": "who are you"}"#, Exit::Refused, "who are you");
        check(403, r#"{"error": "switched off"}"#, Exit::Refused, "switched off");
        check(502, "<h1>Bad Gateway</h1>", Exit::Failed, "the server answered with status 502: <h1>Bad Gateway</h1>");
        check(500, "", Exit::Failed, "the server answered with status 500");
        assert_eq!(ask(&Fixed(200, "{}"), "GET", "/v2", Vec::new()), Ok(b"{}".to_vec()));
    }

    #[test]
    fn nobody_listens() {
        // Port 1 of the loopback interface: nothing unprivileged can be there.
        let failure = Http::new("http://127.0.0.1:1", &Credentials::default())
            .unwrap()
            .call("GET", "/v2", Vec::new())
            .unwrap_err();
        assert_eq!(failure.exit(), Exit::Unreachable);
        assert!(failure.to_string().contains("http://127.0.0.1:1: connection refused"), "{failure}");
    }

    #[test]
    fn names_in_paths() {
        assert_eq!(path_part("my model/ü"), "my%20model%2F%C3%BC");
    }
}
