//! How are servers and echoes started, found and ended?

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::Fault;
use crate::payload::Protocol;
use crate::process;

/// How long a server may take until all models answer.
const READY_TIMEOUT: Duration = Duration::from_secs(300);

/// Between two looks at whether it is ready.
const READY_PAUSE: Duration = Duration::from_millis(2);

/// A server is quiet when it uses less than this share of a core over one look and the next.
const QUIET_CORES: f64 = 0.03;

/// How long a look takes, and how many quiet ones follow each other before nothing more is expected.
const QUIET_LOOK: Duration = Duration::from_millis(500);
const QUIET_LOOKS: usize = 3;

/// How long a server may be busy before anybody asked it anything: 13 deployments of 2 s each, on a busy machine.
const QUIET_TIMEOUT: Duration = Duration::from_secs(120);

/// A running process that is ended with this value.
pub(super) struct Subject {
    /// Who it is.
    pub(super) name: String,
    child: Child,
    http: SocketAddr,
    grpc: SocketAddr,
    /// From its start until everything asked for was ready.
    pub(super) ready_after: Duration,
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It may have ended by itself; either way nothing of it is left.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Subject {
    /// The process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has measured what it measures in idle time; says so and goes on when it is busy after two minutes.
    pub(super) fn wait_until_quiet(&self) -> Result<(), Fault> {
        let began = Instant::now();
        let mut quiet = 0;
        while quiet < QUIET_LOOKS {
            if began.elapsed() > QUIET_TIMEOUT {
                eprintln!(
                    "{}: still busy with itself after {} s: its figures suffer",
                    self.name,
                    QUIET_TIMEOUT.as_secs()
                );
                return Ok(());
            }
            let before = process::cpu_time(self.pid())?;
            std::thread::sleep(QUIET_LOOK);
            let used = process::cpu_time(self.pid())?.saturating_sub(before);
            quiet = if used <= QUIET_LOOK.mul_f64(QUIET_CORES) { quiet + 1 } else { 0 };
        }
        eprintln!("{}: quiet after {:.1} s", self.name, began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Where it answers a protocol.
    pub(super) fn address(&self, protocol: Protocol) -> SocketAddr {
        if protocol.is_grpc() { self.grpc } else { self.http }
    }
}

/// Starts the echo of a protocol, which is this program again.
pub(super) fn echo(protocol: Protocol, model: &str) -> Result<Subject, Fault> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["echo", "--protocol", &protocol.to_string(), "--model", model]);
    told("hyper echo", command)
}

/// Starts the echo on tonic.
pub(super) fn tonic(binary: &Path) -> Result<Subject, Fault> {
    told("tonic echo", Command::new(binary))
}

/// Starts a program that says its address in its first line.
fn told(name: &str, mut command: Command) -> Result<Subject, Fault> {
    let began = Instant::now();
    let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn()?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    let address = line.split_ascii_whitespace().next().and_then(|address| address.parse().ok());
    let unknown = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let at = address.unwrap_or(unknown);
    let subject = Subject { name: name.to_owned(), child, http: at, grpc: at, ready_after: began.elapsed() };
    match address {
        Some(_) => Ok(subject),
        None => Err(format!("the {name} did not say its address").into()),
    }
}

/// What to start, and with what.
pub(super) struct ServerPlan<'a> {
    /// Who it is.
    pub(super) name: &'a str,
    /// The program.
    pub(super) binary: &'a Path,
    /// The folder of models.
    pub(super) models: &'a Path,
    /// Models that must be ready.
    pub(super) wanted: &'a [String],
    /// A folder of its own, emptied first.
    pub(super) folder: &'a Path,
    /// Further flags.
    pub(super) flags: &'a [String],
}

#[derive(Deserialize)]
struct Ports {
    http: u16,
    grpc: u16,
}

/// Starts a server and waits until all wanted models are ready. Fails when it ends, or is not ready in five minutes.
///
/// It is told to be strict: a model that cannot be served ends it at once, with the reason in its log.
pub(super) fn server(plan: &ServerPlan<'_>) -> Result<Subject, Fault> {
    fresh(plan.folder)?;
    let (ports_file, log_file) = (plan.folder.join("ports.json"), plan.folder.join("log"));
    let log = File::create(&log_file)?;
    let mut command = Command::new(plan.binary);
    command.arg("serve").arg("--models").arg(plan.models).arg("--ports-file").arg(&ports_file);
    command.arg("--data-dir").arg(plan.folder.join("data"));
    command.args(["--http-port", "0", "--grpc-port", "0", "--admin-port", "0", "--log-level", "warn", "--strict"]);
    command.args(plan.flags).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let began = Instant::now();
    let child = command.spawn().map_err(|error| format!("{}: {error}", plan.binary.display()))?;
    let unknown = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut subject =
        Subject { name: plan.name.to_owned(), child, http: unknown, grpc: unknown, ready_after: Duration::ZERO };
    let mut waiting = plan.wanted.iter().map(|model| format!("/v2/models/{model}/ready")).peekable();
    let told = |what: String| format!("{}: {what}; its log is {}", plan.name, log_file.display());
    loop {
        if let Some(status) = subject.child.try_wait()? {
            return Err(told(format!("the server ended with {status}")).into());
        }
        if subject.http.port() == 0
            && let Some(ports) = fs::read(&ports_file).ok().and_then(|text| serde_json::from_slice::<Ports>(&text).ok())
        {
            subject.http.set_port(ports.http);
            subject.grpc.set_port(ports.grpc);
        }
        if subject.http.port() != 0 && answers(subject.http, "/v2/health/ready") {
            while waiting.peek().is_some_and(|path| answers(subject.http, path)) {
                waiting.next();
            }
            if waiting.peek().is_none() {
                subject.ready_after = began.elapsed();
                return Ok(subject);
            }
        }
        if began.elapsed() > READY_TIMEOUT {
            return Err(told(format!("not ready after {} s", READY_TIMEOUT.as_secs())).into());
        }
        std::thread::sleep(READY_PAUSE);
    }
}

/// Whether a path answers 200.
fn answers(address: SocketAddr, path: &str) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(start == *b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// Makes a folder, without what was in it.
pub(super) fn fresh(folder: &Path) -> Result<(), Fault> {
    if folder.exists() {
        fs::remove_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()).into())
}

/// A folder of models, put together from files that are elsewhere.
pub(super) struct Repository {
    /// Where it is.
    pub(super) folder: PathBuf,
    /// The models in it.
    pub(super) names: Vec<String>,
}

impl Repository {
    /// An empty one.
    pub(super) fn new(folder: PathBuf) -> Result<Repository, Fault> {
        fresh(&folder)?;
        Ok(Repository { folder, names: Vec::new() })
    }

    /// Adds a model from the folder of the benches' models, under a name and with settings; where these are empty, with those
    /// that it has there.
    pub(super) fn add(&mut self, from: &Path, model: &str, name: &str, settings: &str) -> Result<(), Fault> {
        let file = from.join(model).join("1/model.onnx");
        let own = fs::read_to_string(from.join(model).join("model.toml")).unwrap_or_default();
        let to =
            self.version_folder(name, &if settings.is_empty() { own } else { settings.to_owned() })?.join("model.onnx");
        let linked = fs::hard_link(&file, &to).or_else(|_| fs::copy(&file, &to).map(drop));
        linked.map_err(|error| format!("{}: {error}: benches/models/make.py makes it", file.display()).into())
    }

    /// Adds a model of these bytes.
    pub(super) fn add_bytes(&mut self, bytes: &[u8], name: &str) -> Result<(), Fault> {
        let to = self.version_folder(name, "")?.join("model.onnx");
        fs::write(&to, bytes).map_err(|error| format!("{}: {error}", to.display()).into())
    }

    fn version_folder(&mut self, name: &str, settings: &str) -> Result<PathBuf, Fault> {
        let folder = self.folder.join(name).join("1");
        fs::create_dir_all(&folder)?;
        if !settings.is_empty() {
            fs::write(self.folder.join(name).join("model.toml"), settings)?;
        }
        self.names.push(name.to_owned());
        Ok(folder)
    }
}
