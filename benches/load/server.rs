//! How is a server started for a measurement, looked at and ended?

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::Fault;
use crate::process;

/// How long the server may take to start, and to end.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two looks at whether something has happened.
const PAUSE: Duration = Duration::from_millis(2);

/// After a question to the admin port, until the server has closed its connection.
const CLOSING_PAUSE: Duration = Duration::from_millis(40);

/// How often the server looks at its folder: often enough that many changes fit into two hours.
pub(crate) const POLL_INTERVAL: &str = "20ms";

/// How long files must rest until the server reads them: longer than any way of writing here stands still.
pub(super) const SETTLE_TIME: &str = "200ms";

/// Questions that one look at the cost of a route takes.
const ROUTE_QUESTIONS: usize = 60;

/// A running server; it is ended with this value.
pub(crate) struct Server {
    child: Child,
    data: PathBuf,
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended by itself where all went well; either way nothing of it is left.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[derive(Deserialize)]
struct Ports {
    http: u16,
    grpc: u16,
    admin: u16,
}

/// A version as the admin port tells of it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Told {
    name: String,
    version: String,
    state: String,
    #[serde(default)]
    pub(crate) reason: String,
    #[serde(default)]
    batch_rows_max: Option<u64>,
}

/// What the process holds: compared when nobody asks it anything.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Holdings {
    /// By kind, as `tiltyard_live` tells; empty where the server does not tell.
    pub(crate) live: BTreeMap<String, u64>,
    /// Threads of the process, by name as far as the kernel keeps it.
    pub(crate) threads: BTreeMap<String, u64>,
    /// Files and sockets it has open.
    pub(crate) open_files: usize,
}

impl Server {
    /// Starts the program on a repository and waits until it says that it is ready. What it says goes to a file in
    /// `folder`, and what it remembers too.
    pub(crate) fn start(binary: &Path, models: &Path, folder: &Path, flags: &[String]) -> Result<Server, Fault> {
        let (ports_file, log_file, data) = (folder.join("ports.json"), folder.join("log"), folder.join("data"));
        let log = File::create(&log_file)?;
        let mut command = Command::new(binary);
        command.arg("serve").arg("--models").arg(models).arg("--ports-file").arg(&ports_file);
        command.arg("--data-dir").arg(&data).args(["--poll-interval", POLL_INTERVAL, "--settle-time", SETTLE_TIME]);
        command.args(["--http-port", "0", "--grpc-port", "0", "--admin-port", "0"]).args(flags);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().map_err(|error| format!("{}: {error}", binary.display()))?;
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut server = Server { child, data, http: nowhere, grpc: nowhere, admin: nowhere };
        let began = Instant::now();
        loop {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("the server ended with {status}; its log is {}", log_file.display()).into());
            }
            if let Some(ports) = fs::read(&ports_file).ok().and_then(|text| serde_json::from_slice::<Ports>(&text).ok())
            {
                server.http.set_port(ports.http);
                server.grpc.set_port(ports.grpc);
                server.admin.set_port(ports.admin);
                if get(server.http, "/v2/health/ready").is_ok_and(|(status, _)| status == 200) {
                    return Ok(server);
                }
            }
            if began.elapsed() > START_TIMEOUT {
                return Err(format!("the server is not ready after {} s", START_TIMEOUT.as_secs()).into());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the admin port tells of a model's version; `None` where it is not there.
    pub(crate) fn told(&self, model: &str, version: u64) -> Result<Option<Told>, Fault> {
        let (_, body) = get(self.admin, "/admin/models")?;
        let all: Vec<Told> = serde_json::from_slice(&body)?;
        let version = version.to_string();
        Ok(all.into_iter().find(|told| told.name == model && told.version == version))
    }

    /// Every figure of `/metrics`, by its name and labels.
    pub(crate) fn metrics(&self) -> Result<BTreeMap<String, f64>, Fault> {
        let (_, body) = get(self.admin, "/metrics")?;
        Ok(samples(std::str::from_utf8(&body)?))
    }

    /// What the process holds.
    pub(crate) fn holdings(&self) -> Result<Holdings, Fault> {
        // The connection of the question before this one is closed by now.
        std::thread::sleep(CLOSING_PAUSE);
        let open_files = fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count();
        let mut threads = BTreeMap::new();
        for thread in process::threads(self.pid())? {
            *threads.entry(thread).or_default() += 1;
        }
        let metrics = self.metrics()?;
        let kind = |series: &str| Some(series.strip_prefix("tiltyard_live{kind=\"")?.strip_suffix("\"}")?.to_owned());
        let live = metrics.iter().filter_map(|(series, value)| Some((kind(series)?, *value as u64)));
        Ok(Holdings { live: live.collect(), threads, open_files })
    }

    /// Files below the folder for what the server remembers.
    pub(crate) fn files_kept(&self) -> usize {
        count_files(&self.data)
    }

    /// Memory that it holds now.
    pub(crate) fn memory(&self) -> Result<process::Memory, Fault> {
        process::memory(self.pid())
    }

    /// The median time of a small question about a model, in microseconds, over one connection.
    pub(crate) fn route_us(&self, path: &str) -> Result<f64, Fault> {
        let mut stream = BufReader::new(TcpStream::connect(self.http)?);
        stream.get_ref().set_nodelay(true)?;
        stream.get_ref().set_read_timeout(Some(Duration::from_secs(10)))?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.http);
        let mut times = Vec::with_capacity(ROUTE_QUESTIONS);
        for _ in 0..ROUTE_QUESTIONS {
            let began = Instant::now();
            stream.get_mut().write_all(request.as_bytes())?;
            let mut length = 0;
            let mut line = String::new();
            while stream.read_line(&mut line)? > 2 {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse()?;
                }
                line.clear();
            }
            stream.read_exact(&mut vec![0; length])?;
            times.push(began.elapsed().as_secs_f64() * 1e6);
        }
        times.sort_unstable_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    /// Ends the server as an operator does. Fails where it does not end in a minute.
    pub(crate) fn stop(mut self) -> Result<ExitStatus, Fault> {
        let status = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status()?;
        if !status.success() {
            return Err(format!("the server could not be told to end: kill ended with {status}").into());
        }
        let began = Instant::now();
        while began.elapsed() < END_TIMEOUT {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(PAUSE);
        }
        Err(format!("the server did not end in {} s", END_TIMEOUT.as_secs()).into())
    }
}

impl Told {
    /// Whether it answers, with so many rows in one run at most.
    pub(crate) fn runs_rows(&self, rows_max: u64) -> bool {
        self.state == "READY" && self.batch_rows_max == Some(rows_max)
    }

    /// Whether it answers.
    pub(crate) fn is_ready(&self) -> bool {
        self.state == "READY"
    }

    /// Whether it was refused.
    pub(crate) fn is_refused(&self) -> bool {
        self.state == "UNAVAILABLE" && !self.reason.is_empty()
    }
}

impl Holdings {
    /// What differs, in words; empty where nothing does.
    pub(crate) fn differences(&self, later: &Holdings) -> Vec<String> {
        let mut differ = Vec::new();
        if self.open_files != later.open_files {
            differ.push(format!("open files {} → {}", self.open_files, later.open_files));
        }
        differ.extend(different(&self.threads, &later.threads).map(|(name, told)| format!("threads {name} {told}")));
        differ.extend(different(&self.live, &later.live).map(|(kind, told)| format!("{kind} {told}")));
        differ
    }
}

/// The names whose counts differ, with both.
fn different<'a>(
    before: &'a BTreeMap<String, u64>,
    after: &'a BTreeMap<String, u64>,
) -> impl Iterator<Item = (&'a String, String)> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let of = |counts: &BTreeMap<String, u64>, name| counts.get(name).copied().unwrap_or(0);
    names
        .into_iter()
        .map(move |name| (name, of(before, name), of(after, name)))
        .filter(|(_, before, after)| before != after)
        .map(|(name, before, after)| (name, format!("{before} → {after}")))
}

fn count_files(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let count = |path: PathBuf| if path.is_dir() { count_files(&path) } else { 1 };
    entries.flatten().map(|entry| count(entry.path())).sum()
}

/// Reads the text form of metrics.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' ').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?))))
        .collect()
}

/// Whether a figure counts up only.
pub(crate) fn is_counter(series: &str) -> bool {
    let name = series.split('{').next().unwrap_or_default();
    ["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end))
}

/// One question over a connection of its own: status and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<(u16, Vec<u8>), Fault> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = memchr::memmem::find(&answer, b"\r\n\r\n").ok_or("the answer has no head")?;
    let status = std::str::from_utf8(answer.get(9..12).unwrap_or_default())?.parse()?;
    Ok((status, answer.split_off(head + 4)))
}

/// What a model's version index says, for messages about what did not happen.
pub(crate) fn state_of(server: &Server, model: &str, version: u64) -> String {
    match server.told(model, version) {
        Ok(Some(told)) => format!("the server says {} {}", told.state, Value::String(told.reason)),
        Ok(None) => "the server does not know it".to_owned(),
        Err(fault) => format!("the server says nothing: {fault}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_by_series() {
        let read = samples("# HELP a b\na 1\na_total{x=\"y z\"} 2.5\n\n");
        assert_eq!(read, [("a".to_owned(), 1.0), ("a_total{x=\"y z\"}".to_owned(), 2.5)].into());
        assert!(is_counter("a_total{x=\"_y\"}") && is_counter("a_bucket{le=\"1\"}") && !is_counter("a{b=\"_total\"}"));
    }

    #[test]
    fn holdings_are_compared_to_the_unit() {
        let before = Holdings {
            live: [("jobs".to_owned(), 0)].into(),
            threads: [("tiltyard-run-0".into(), 1)].into(),
            open_files: 20,
        };
        assert!(before.differences(&before).is_empty());
        let threads = [("tiltyard-run-0".into(), 1), ("tiltyard-timer".into(), 1)].into();
        let after = Holdings { live: [("sessions".to_owned(), 3)].into(), threads, ..before.clone() };
        assert_eq!(before.differences(&after), ["threads tiltyard-timer 0 → 1", "sessions 0 → 3"]);
    }
}
