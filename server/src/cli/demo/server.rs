//! How does the demo have a server of its own, which is gone when the demo is, however that ends?
//!
//! The server is this program as a child process, whose standard input nobody writes to: when the demo ends, or is killed, that is
//! closed, and the child drains, removes what is not to be kept, and ends.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, Command, value_parser};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::Value;

use crate::cli::credentials::Credentials;
use crate::cli::exit::Failure;
use crate::cli::serve;
use crate::cli::target::{Http, Target};
use crate::config::command_flags;

/// The command of the child.
pub(super) const NAME: &str = "server";

const REMOVE: &str = "remove";

/// How long a server may take to be ready.
const START_MAX: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(50);

/// How often it is tried to remove what is not to be kept.
const REMOVE_TRIES: u32 = 20;

/// The end of its log that is told where it did not start.
const LOG_SHOWN: usize = 2_000;

pub(super) fn command() -> Command {
    Command::new(NAME)
        .about("Serve until standard input is closed")
        .hide(true)
        .arg(
            Arg::new(REMOVE)
                .long(REMOVE)
                .value_name("FOLDER")
                .value_parser(value_parser!(PathBuf))
                .help("Remove this folder at the end"),
        )
        .args(command_flags())
}

/// What the child does.
pub(super) fn run(matches: &ArgMatches) -> Result<ExitCode, Failure> {
    // It touches neither sockets nor variables, which the server takes before it has threads.
    let watch = || {
        drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
        // As an operator would: what is under way is finished.
        let _ = kill_process(getpid(), Signal::TERM);
    };
    thread::Builder::new()
        .name("demo".to_owned())
        .spawn(watch)
        .map_err(|error| Failure::failed(format!("a thread cannot be started: {error}")))?;
    let ended = serve::run(matches);
    matches.get_one::<PathBuf>(REMOVE).map_or(Ok(()), |folder| remove(folder))?;
    ended
}

/// Settings of somebody's own server are not meant here.
pub(super) fn forget_settings(command: &mut process::Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("TILTYARD_") || text.starts_with("LISTEN_") || text == "NOTIFY_SOCKET" {
            command.env_remove(&name);
        }
    }
}

/// Removes a folder. Threads that are given up may write to it for a moment still.
fn remove(folder: &Path) -> Result<(), Failure> {
    let mut tries = 0;
    while let Err(error) = fs::remove_dir_all(folder) {
        tries += 1;
        if tries > REMOVE_TRIES {
            return Err(Failure::failed(format!("cannot remove {}: {error}", folder.display())));
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// A server that runs.
pub(super) struct Server {
    child: Child,
    log: PathBuf,
    /// Its REST address.
    pub(super) rest: String,
    /// Its admin address.
    pub(super) admin: String,
}

impl Server {
    /// Starts a server of the models in `folder`, with more flags, and waits until it is ready. It removes the folder at its end
    /// unless it is to be kept.
    pub(super) fn start(folder: &Path, keep: bool, more: &[&str]) -> Result<Server, Failure> {
        let cannot = |error: io::Error| Failure::failed(format!("the server cannot be started: {error}"));
        let (ports, log) = (folder.join("ports.json"), folder.join("server.log"));
        let mut command = process::Command::new(std::env::current_exe().map_err(cannot)?);
        command.args(["demo", NAME]);
        for (flag, path) in [("--models", "models"), ("--data-dir", "data"), ("--ports-file", "ports.json")] {
            command.arg(flag).arg(folder.join(path));
        }
        for port in ["--http-port", "--grpc-port", "--admin-port"] {
            command.args([port, "0"]);
        }
        command.args(["--engines", "tract", "--settle-time", "100ms"]).args(more);
        if !keep {
            command.arg("--remove").arg(folder);
        }
        // Nor is the file in this folder.
        forget_settings(&mut command);
        let written = File::create(&log).map_err(cannot)?;
        let child = command
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(written)
            .spawn()
            .map_err(cannot)?;
        let mut server = Server { child, log, rest: String::new(), admin: String::new() };
        server.wait_until_ready(&ports)?;
        Ok(server)
    }

    fn wait_until_ready(&mut self, ports: &Path) -> Result<(), Failure> {
        let deadline = Instant::now() + START_MAX;
        let pause = |server: &mut Server| {
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(server.failure(&format!("the server ended with {status}")));
            }
            if Instant::now() > deadline {
                return Err(server.failure("the server is not ready in time"));
            }
            thread::sleep(PAUSE);
            Ok(())
        };
        while !ports.exists() {
            pause(self)?;
        }
        let text = fs::read_to_string(ports).map_err(|error| self.failure(&error.to_string()))?;
        let form: Value = serde_json::from_str(&text).map_err(|error| self.failure(&error.to_string()))?;
        let address = |key: &str| format!("http://127.0.0.1:{}", form[key]);
        (self.rest, self.admin) = (address("http"), address("admin"));
        let http = Http::new(&self.rest, &Credentials::default())?;
        while !http.call("GET", "/v2/health/ready", Vec::new()).is_ok_and(|(status, _)| status == 200) {
            pause(self)?;
        }
        Ok(())
    }

    /// A failure with the end of the server's log.
    fn failure(&self, why: &str) -> Failure {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let from = log.char_indices().rev().nth(LOG_SHOWN).map_or(0, |(at, _)| at);
        Failure::failed(format!("{why}; its log ends with\n{}", log[from..].trim_end()))
    }

    /// Has it end, and waits until it has.
    pub(super) fn end(mut self) -> Result<(), Failure> {
        drop(self.child.stdin.take());
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(self.failure(&format!("the server ended with {status}"))),
            Err(error) => Err(self.failure(&error.to_string())),
        }
    }
}

impl Drop for Server {
    /// A demo that fails waits for its server too; one that is killed does not, and it ends all the same.
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}
