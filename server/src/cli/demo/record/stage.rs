//! Who takes part in the release, and how do they give their commands?

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use std::{fs, io};

use serde_json::{Value, json};

use super::Step;
use crate::cli::credentials::Credentials;
use crate::cli::demo::data::{INPUT, MODEL, Rows};
use crate::cli::demo::server::{Server, forget_settings};
use crate::cli::demo::traffic::Traffic;
use crate::cli::exit::Failure;
use crate::cli::target::{Http, Target as _, ask};

/// How often something is looked at that is waited for.
const PAUSE: Duration = Duration::from_millis(200);

/// So much of a command's complaint is told.
const SHOWN_CHARS: usize = 1_500;

/// All that takes part.
pub(super) struct Stage {
    pub(super) folder: PathBuf,
    pub(super) keep: bool,
    /// The step that is being played.
    pub(super) step: Step,
    // The traffic ends before the server does.
    pub(super) traffic: Option<Traffic>,
    pub(super) server: Option<Server>,
    /// Flights, of which the first is asked about to see who answers.
    pub(super) probe: Vec<u8>,
    /// How often that was done.
    pub(super) probes: usize,
    /// Moments, in milliseconds since 1970, at which it is known who answered.
    pub(super) moments: Vec<u64>,
}

/// What a command said.
pub(super) struct Said {
    pub(super) code: i32,
    /// What it printed, as JSON.
    pub(super) form: Value,
    /// What it printed, as it is.
    pub(super) text: String,
    pub(super) error: String,
}

impl Said {
    /// The same, where the command did what it was to do.
    pub(super) fn done(self) -> Result<Said, Failure> {
        match self.code {
            0 => Ok(self),
            code => Err(Failure::failed(format!("it ended with {code}: {}", self.error))),
        }
    }
}

impl Stage {
    pub(super) fn new(folder: &Path, keep: bool) -> Result<Stage, Failure> {
        let rows = Rows::read()?;
        let (numbers, _) = rows.get(0).ok_or_else(|| Failure::failed("the demo has no rows"))?;
        let input =
            format!("{{\"name\":\"{INPUT}\",\"datatype\":\"FP32\",\"shape\":[1,{}],\"data\":[{numbers}]}}", rows.width);
        Ok(Stage {
            folder: folder.to_owned(),
            keep,
            step: Step::default(),
            traffic: None,
            server: None,
            probe: format!("{{\"inputs\":[{input}]}}").into_bytes(),
            probes: 0,
            moments: Vec::new(),
        })
    }

    /// Notes what was looked at, and whether it was so.
    pub(super) fn look(&mut self, what: impl Into<String>, is_so: bool) {
        self.step.looks.push((what.into(), is_so));
    }

    /// Writes a file of the folder.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<(), Failure> {
        fs::write(self.folder.join(name), text).map_err(|error| self.cannot_write(name, &error))
    }

    pub(super) fn cannot_write(&self, name: &str, error: &io::Error) -> Failure {
        Failure::failed(format!("cannot write {}: {error}", self.folder.join(name).display()))
    }

    /// Has somebody give a command to the server.
    pub(super) fn asks(&mut self, who: &str, arguments: &[&str]) -> Result<Said, Failure> {
        let line = format!("tiltyard {} --token-file {who}.token", shown(arguments));
        self.step.commands.push(line);
        self.quietly(who, arguments)
    }

    /// The same of a command that only looks, and is not told of.
    pub(super) fn quietly(&self, who: &str, arguments: &[&str]) -> Result<Said, Failure> {
        let token = format!("{who}.token");
        self.run(&[arguments, &["--token-file", &token, "--ports-file", "ports.json"]].concat())
    }

    /// Gives a command that needs no server.
    pub(super) fn does(&mut self, arguments: &[&str]) -> Result<Said, Failure> {
        self.step.commands.push(format!("tiltyard {}", shown(arguments)));
        self.run(arguments)
    }

    /// Gives a command that needs no server, only looks, and is not told of.
    pub(super) fn quietly_here(&self, arguments: &[&str]) -> Result<Said, Failure> {
        self.run(arguments)
    }

    fn run(&self, arguments: &[&str]) -> Result<Said, Failure> {
        let cannot = |error: io::Error| Failure::failed(format!("a command cannot be given: {error}"));
        let mut command = Command::new(std::env::current_exe().map_err(cannot)?);
        forget_settings(&mut command);
        let done = command
            .args(arguments)
            .args(["--output", "json"])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .map_err(cannot)?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let error = String::from_utf8_lossy(&done.stderr);
        let error = error.trim().trim_start_matches("error: ").chars().take(SHOWN_CHARS).collect();
        let form = serde_json::from_str(&text).unwrap_or_default();
        Ok(Said { code: done.status.code().unwrap_or(-1), form, text, error })
    }

    pub(super) fn server(&self) -> Result<&Server, Failure> {
        self.server.as_ref().ok_or_else(|| Failure::failed("no server runs"))
    }

    /// Whose token a file has.
    pub(super) fn credentials(&self, who: &str) -> Result<Credentials, Failure> {
        let path = self.folder.join(format!("{who}.token"));
        let token = fs::read_to_string(&path)
            .map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?;
        Ok(Credentials::of_token(&token))
    }

    /// What the admin port has at a path.
    pub(super) fn admin(&self, path: &str) -> Result<Value, Failure> {
        let http = Http::new(&self.server()?.admin, &self.credentials("ann")?)?;
        let answer = ask(&http, "GET", path, Vec::new())?;
        Ok(serde_json::from_slice(&answer).unwrap_or_else(|_| json!(String::from_utf8_lossy(&answer))))
    }

    /// The version that answers a caller.
    pub(super) fn answers(&mut self) -> Result<u64, Failure> {
        let http = Http::new(&self.server()?.rest, &self.credentials("app")?)?;
        let (status, answer) = http.call("POST", &format!("/v2/models/{MODEL}/infer"), self.probe.clone())?;
        self.probes += 1;
        let form: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let version = form["model_version"].as_str().and_then(|version| version.parse().ok());
        version.ok_or_else(|| Failure::failed(format!("a caller got {status}: {}", String::from_utf8_lossy(&answer))))
    }

    /// The status that a caller gets who shows no token.
    pub(super) fn status_without_token(&self) -> Result<u16, Failure> {
        let http = Http::new(&self.server()?.rest, &Credentials::default())?;
        Ok(http.call("POST", &format!("/v2/models/{MODEL}/infer"), self.probe.clone())?.0)
    }

    /// Waits until something is so, or for this long, and says whether it is.
    pub(super) fn until(
        &mut self,
        at_most: Duration,
        mut is_so: impl FnMut(&mut Stage) -> Result<bool, Failure>,
    ) -> Result<bool, Failure> {
        let deadline = Instant::now() + at_most;
        loop {
            if let Some(traffic) = &self.traffic {
                traffic.check()?;
            }
            if is_so(self)? {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            thread::sleep(PAUSE);
        }
    }
}

/// A command's words as a shell takes them.
fn shown(arguments: &[&str]) -> String {
    let word = |word: &&str| if word.contains(' ') { format!("\"{word}\"") } else { (*word).to_owned() };
    arguments.iter().map(word).collect::<Vec<_>>().join(" ")
}
