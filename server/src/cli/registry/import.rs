//! How does a model come from MLflow into the registry of a running server?
//!
//! From a folder with `MLmodel`, or from a tracking server: what is taken, what of it is put on the record, and what an alias means is
//! decided in `tiltyard_registry::mlflow`. Here files are fetched and pushed, and with `--follow` that goes on as the alias moves.

mod facts;
mod tracking;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value, json};
use tiltyard_registry::mlflow::folder::{MLMODEL, Model};
use tiltyard_registry::mlflow::follow::{Event, Follow};
use tiltyard_registry::mlflow::remote::{Found, Reference, Tracking, Version};
use tiltyard_runtime::onnx::Graph;

use super::{Asked, promote, push, read_text};
use crate::cli::exit::Failure;
use crate::cli::output::{self, Form, variable};
use crate::cli::target::{admin_flag, path_part, server_flags};
use tracking::Server;

/// Bytes of one file of a model, at most.
const FILE_BYTES_MAX: u64 = 1 << 40;

pub(crate) fn command() -> Command {
    let steps =
        Arg::new("steps").long("steps").value_name("SHARE/TIME,…").requires("to").help("The steps of that rollout");
    let shadow = Arg::new("shadow")
        .long("shadow")
        .value_name("SHARE")
        .requires("to")
        .help("How much of the traffic its shadow sees");
    let mlflow = Command::new("mlflow")
        .about("Take a model of MLflow's into the registry: from a folder, or from a tracking server")
        .long_about(
            "Take a model of MLflow's into the registry of a running server. SOURCE is a folder with the file MLmodel, or what a tracking \
             server knows as models:/NAME/VERSION, models:/NAME@ALIAS, models:/m-ID or runs:/RUN/PATH. Taken are the ONNX flavor's files \
             and, on the record, where they came from: tags, and of a run its metrics, parameters, commit and data. With --follow an \
             alias is followed: whenever it moves, its version is imported, promoted where --to says so, and the alias of the same \
             name here is moved. MLFLOW_TRACKING_URI, _USERNAME, _PASSWORD, _TOKEN and _SERVER_CERT_PATH are read as MLflow's clients do.",
        )
        .arg(Arg::new("model").value_name("MODEL").required(true).help("The model's name here"))
        .arg(Arg::new("source").value_name("SOURCE").required(true).help("The folder, or what names the model on the tracking server"))
        .arg(
            Arg::new("tracking_uri")
                .long("tracking-uri")
                .value_name("URL")
                .help("The tracking server, such as http://localhost:5000 [env: MLFLOW_TRACKING_URI]"),
        )
        .arg(Arg::new("follow").long("follow").action(ArgAction::SetTrue).help("Stay, and import whenever the alias moves"))
        .arg(
            Arg::new("every")
                .long("every")
                .value_name("DURATION")
                .default_value("30s")
                .requires("follow")
                .help("How often the alias is looked at"),
        )
        .arg(Arg::new("to").long("to").value_name("ENVIRONMENT").help("Promote what was imported to this environment"))
        .arg(
            Arg::new("rollout")
                .long("rollout")
                .value_name("FILE")
                .num_args(0..=1)
                .default_missing_value("")
                .requires("to")
                .help("Promote it by a rollout: as the file says, or with its defaults"),
        )
        .args([steps, shadow])
        .args(server_flags())
        .arg(admin_flag())
        .after_help(
            "Examples:\n  tiltyard import mlflow risk ./mlruns/models/m-1/artifacts\n  \
             tiltyard import mlflow risk models:/risk/3 --tracking-uri http://localhost:5000\n  \
             tiltyard import mlflow risk models:/risk@champion --follow --to prod --rollout",
        );
    Command::new("import")
        .about("Take a model of another system into the registry")
        .subcommand_required(true)
        .subcommand(mlflow)
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let Some(("mlflow", matches)) = matches.subcommand() else { return Err(Failure::usage("expected import mlflow")) };
    let of = |name: &str| matches.get_one::<String>(name).cloned();
    let (model, source) = (of("model").unwrap_or_default(), of("source").unwrap_or_default());
    let asked = Asked::of(matches)?;
    let importing = Importing { asked: &asked, model: &model, matches };
    let reference = match source.starts_with("models:") || source.starts_with("runs:") {
        true => source.parse::<Reference>().map_err(|error| Failure::usage(error.to_string()))?,
        false if matches.get_flag("follow") => {
            return Err(Failure::usage("--follow follows an alias: expected models:/NAME@ALIAS"));
        }
        false => {
            let answer = importing.push(&Taken::of_folder(Path::new(&source))?)?;
            importing.promote(&answer)?;
            return importing.tell(&answer);
        }
    };
    let mut server = Server::of(of("tracking_uri"))?;
    match (&reference, matches.get_flag("follow")) {
        (Reference::Alias { name, alias }, true) => importing.follow(&mut server, name, alias, of("every").as_deref()),
        (_, true) => Err(Failure::usage(format!(
            "--follow follows an alias, and {reference} is none: expected models:/NAME@ALIAS"
        ))),
        (_, false) => {
            let answer = importing.push(&Taken::of_server(&mut server, &reference)?)?;
            importing.promote(&answer)?;
            importing.tell(&answer)
        }
    }
}

/// What was taken from MLflow: files, each under its name here, and what is said of them.
struct Taken {
    files: Vec<(String, PathBuf)>,
    facts: Map<String, Value>,
    /// Where fetched files lie until they are pushed.
    _scratch: Option<Scratch>,
}

impl Taken {
    fn of_folder(folder: &Path) -> Result<Taken, Failure> {
        let place = folder.join(MLMODEL);
        if !place.is_file() {
            return Err(Failure::failed(format!(
                "{} has no file {MLMODEL}: expected a model that MLflow saved; other files come with tiltyard push",
                folder.display()
            )));
        }
        let text = read_text(&place.to_string_lossy())?;
        let at = |error: tiltyard_registry::mlflow::Error| {
            Failure::failed(error.to_string()).at(&folder.display().to_string())
        };
        let model = Model::read(&text).map_err(at)?;
        let graph = graph(&folder.join(&model.file))?;
        let files = model.files(graph.external_files.keys().map(String::as_str)).map_err(at)?;
        let facts = facts::of(&model, &graph, None, None, &folder.display().to_string());
        let files = files.into_iter().map(|file| (file.to, folder.join(file.from))).collect();
        Ok(Taken { files, facts, _scratch: None })
    }

    fn of_server(server: &mut Server, reference: &Reference) -> Result<Taken, Failure> {
        let failed = |error: tiltyard_registry::mlflow::Error| Failure::failed(error.to_string());
        let mut tracking = Tracking::new(server);
        let Found { version, run_id, place } = tracking.find(reference).map_err(failed)?;
        let model = Model::read(&tracking.mlmodel(&place).map_err(failed)?).map_err(failed)?;
        let scratch = Scratch::new()?;
        let mut fetch = |from: &str, to: &str| -> Result<PathBuf, Failure> {
            let path = scratch.0.join(to);
            let write = |error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", path.display()));
            path.parent().map_or(Ok(()), fs::create_dir_all).map_err(write)?;
            let mut file = File::create_new(&path).map_err(write)?;
            tracking.read(&place, from, FILE_BYTES_MAX, &mut file).map_err(failed)?;
            Ok(path)
        };
        let whole = model.files([]).map_err(failed)?;
        let mut files = Vec::new();
        for file in whole {
            files.push((file.to.clone(), fetch(&file.from, &file.to)?));
        }
        let graph = graph(&files[0].1)?;
        let weights = model.files(graph.external_files.keys().map(String::as_str)).map_err(failed)?;
        for file in weights.into_iter().skip(1) {
            files.push((file.to.clone(), fetch(&file.from, &file.to)?));
        }
        let run_id = run_id.or_else(|| model.origin.run_id.clone());
        // A run may be deleted while its model lives on: then it is only named.
        let run =
            run_id.as_deref().and_then(|run| tracking.run(run).map_err(|error| facts::note(&error.to_string())).ok());
        let uri = version.as_ref().map_or_else(|| reference.to_string(), uri_of);
        let facts = facts::of(&model, &graph, version.as_ref(), run.as_ref(), &uri);
        Ok(Taken { files, facts, _scratch: Some(scratch) })
    }
}

/// The one name that a version has for good.
fn uri_of(version: &Version) -> String {
    format!("models:/{}/{}", version.name, version.version)
}

fn graph(path: &Path) -> Result<Graph, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("{}: {error}", path.display()));
    Graph::read(&fs::read(path).map_err(|error| failed(&error))?.into()).map_err(|error| failed(&error))
}

/// One model that is imported into.
struct Importing<'a> {
    asked: &'a Asked,
    model: &'a str,
    matches: &'a ArgMatches,
}

impl Importing<'_> {
    fn push(&self, taken: &Taken) -> Result<Value, Failure> {
        push::send_version(self.asked, self.model, taken.files.clone(), taken.facts.clone())
    }

    /// Has what was imported answer, where that is wanted and not so yet.
    fn promote(&self, answer: &Value) -> Result<(), Failure> {
        let Some(to) = self.matches.get_one::<String>("to") else { return Ok(()) };
        let version = format!("{}@{}", self.model, answer["version"]);
        let standing = self.asked.get(&format!("/admin/registry/versions/{}", path_part(&version)))?;
        if standing["environments"].as_array().is_some_and(|all| all.iter().any(|environment| environment == to)) {
            return Ok(());
        }
        let body = json!({ "version": version, "to": to, "rollout": promote::rollout(self.matches)? });
        let answer = self.asked.post("/admin/registry/promote", &body)?;
        if answer["answers"] == false {
            let why = answer["why"].as_str().unwrap_or_default();
            return Err(Failure::failed(format!("{version} is in {to} on the record, and does not answer: {why}")));
        }
        match answer["rollout"].as_str() {
            Some(rollout) => facts::note(&format!("{version} competes for {to} in rollout {rollout}")),
            None => facts::note(&format!("{version} is in {to}")),
        }
        Ok(())
    }

    fn tell(&self, answer: &Value) -> Result<(), Failure> {
        match Form::of(self.matches) {
            Form::Json => output::print_json(answer),
            Form::Table => output::print(&push::told(answer)),
        }
    }

    /// Imports whenever the alias moves. What was dealt with is where the alias of the same name points here, so that whoever begins
    /// again goes on from there.
    fn follow(&self, server: &mut Server, name: &str, alias: &str, every: Option<&str>) -> Result<(), Failure> {
        let every = every.and_then(crate::config::parse_duration).filter(|every| *every >= Duration::from_secs(1));
        let every = every.ok_or_else(|| Failure::usage("--every: expected a duration of 1s or more, such as 30s"))?;
        let (mut follow, begun) = (Follow::new(every, self.known(name, alias)?), Instant::now());
        let now = || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        facts::note(&format!("following models:/{name}@{alias}, every {}", humantime::format_duration(every)));
        loop {
            let seen = Tracking::new(server).alias(name, alias);
            let seen = seen.map(|version| version.map(|version| version.version)).map_err(|error| error.to_string());
            for event in follow.seen(seen, now()) {
                match event {
                    Event::Moved { to, .. } => match self.moved(server, name, alias, to) {
                        Ok(()) => follow.done(),
                        Err(failure) => {
                            facts::note(&format!("models:/{name}/{to} is not imported: {failure}; it is tried again"));
                            follow.failed(now());
                        }
                    },
                    Event::Gone => facts::note(&format!("models:/{name}@{alias} is not there; what serves goes on")),
                    Event::Failing(why) => facts::note(&format!("{why}; it is asked again")),
                    Event::Answers => facts::note("the tracking server answers again"),
                }
            }
            thread::sleep(Duration::from_millis(follow.next_ms().saturating_sub(now())));
        }
    }

    fn moved(&self, server: &mut Server, name: &str, alias: &str, to: u64) -> Result<(), Failure> {
        let reference = Reference::Version { name: name.to_owned(), version: to };
        let answer = self.push(&Taken::of_server(server, &reference)?)?;
        self.promote(&answer)?;
        // The same bytes may have come under another number before.
        let tags = json!({ "mlflow.imported": reference.to_string() });
        self.asked.order(&json!({ "tags": { "model": self.model, "version": answer["version"], "set": tags } }))?;
        // Last: it says that all before it is done.
        self.asked.order(&json!({ "alias": { "model": self.model, "alias": alias, "version": answer["version"] } }))?;
        facts::note(&format!("{reference} is {}@{}, and {}@{alias}", self.model, answer["version"], self.model));
        Ok(())
    }

    /// The version on the tracking server that our alias points to the copy of.
    fn known(&self, name: &str, alias: &str) -> Result<Option<u64>, Failure> {
        let reference = format!("{}@{alias}", self.model);
        let Ok(version) = self.asked.get(&format!("/admin/registry/versions/{}", path_part(&reference))) else {
            // There is no such model or alias yet: whatever else keeps the server from answering shows at the first import.
            return Ok(None);
        };
        let uri = version["tags"]["mlflow.imported"].as_str().or_else(|| version["source"]["imported"]["uri"].as_str());
        let number =
            uri.and_then(|uri| uri.strip_prefix(&format!("models:/{name}/"))).and_then(|number| number.parse().ok());
        Ok(number)
    }
}

/// A folder that is gone when nobody needs it any more.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Scratch, Failure> {
        let folder = variable("TMPDIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = folder.join(format!("tiltyard-import-{}", uuid::Uuid::now_v7()));
        fs::create_dir(&folder)
            .map_err(|error| Failure::failed(format!("cannot make {}: {error}", folder.display())))?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays lies among temporary files.
        drop(fs::remove_dir_all(&self.0));
    }
}
