//! How does a model get into the registry?
//!
//! The files are digested here, the server says which of them it does not have yet, and only those travel. Then the server
//! loads the version once, has it answer its golden examples, and gives it a number: the same bytes have the same one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Arg, ArgAction, ArgMatches, Command};
use ring::digest::{Context, SHA256};
use serde_json::{Map, Value, json};
use tiltyard_runtime::artifact::is_temporary;
use tiltyard_runtime::onnx::Graph;
use tiltyard_runtime::repository::{MODEL_FILE, SETTINGS_FILES};
use tiltyard_types::Digest;

use super::{Asked, read_text};
use crate::cli::drift;
use crate::cli::exit::Failure;
use crate::cli::output::{self, Form};
use crate::cli::predict::ModelName;
use crate::cli::progress;
use crate::cli::settings;
use crate::cli::target::{admin_flag, path_part, server_flags};
use crate::config::Config;

/// More files than this in one version are a folder that nobody meant.
const FILES_MAX: usize = 10_000;

/// Folders below a version's folder are followed this deep.
const DEPTH_MAX: usize = 8;

pub(crate) fn command() -> Command {
    let many = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).action(ArgAction::Append).help(help)
    };
    let one = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("push")
        .about("Put a model's file or folder into the registry of a running server, as a version of its own")
        .long_about(
            "Put a model's file or folder into the registry of a running server. The server loads it once and has it answer its \
             golden examples; what cannot be loaded is refused with the reason. Bytes that are there already are that version, \
             under its number. Nothing answers any client for having been pushed: `tiltyard promote` has it.",
        )
        .arg(Arg::new("model").value_name("MODEL").required(true).help("The model's name"))
        .arg(
            Arg::new("path")
                .value_name("PATH")
                .required(true)
                .help("An .onnx file, or a version's folder with model.onnx and what belongs to it, such as golden/"),
        )
        .arg(one("description", "TEXT", "What it is, in a sentence"))
        .arg(one("card", "FILE", "Text for its model card: intended use, limits, whatever facts do not say"))
        .arg(many("tag", "KEY=VALUE", "A tag; as often as needed"))
        .arg(many("metric", "NAME=VALUE[@DATASET[/SLICE]]", "What it reached, on which data; as often as needed"))
        .arg(many("data", "NAME[@VERSION][=DIGEST]", "Data that it was trained on"))
        .arg(one("code", "COMMIT", "The commit of the code that made it"))
        .arg(one("repository", "URL", "Where that code is"))
        .arg(one("run", "ID", "The run that made it"))
        .arg(one("baseline", "FILE", "Rows that it was made for, as predict takes them: its traffic is compared with them"))
        .args(server_flags())
        .arg(admin_flag())
        .after_help(
            "Examples:\n  tiltyard push risk model.onnx\n  tiltyard push risk models/risk/3 --tag team=fraud --metric auc=0.91@holdout-2026\n  \
             tiltyard push risk out/ --code $(git rev-parse HEAD) --data claims@2026-10 --card card.md",
        )
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let (model, path) = (text("model").unwrap_or_default(), Path::new(text("path").unwrap_or_default()));
    let (places, facts) = (places(path)?, facts(matches)?);
    if let Some(rows) = text("baseline") {
        // Nothing is pushed for what cannot be done after it.
        fs::metadata(rows).map_err(|error| Failure::failed(format!("cannot read {rows}: {error}")))?;
    }
    let asked = Asked::of(matches)?;
    let mut answer = send_version(&asked, model, places.clone(), facts)?;
    if let Some(rows) = text("baseline") {
        let made = baseline(matches, &answer, &places, Path::new(rows));
        let made = made
            .map_err(|failure| failure.at("the version is in the registry, and its baseline is not: push it again"))?;
        let place = format!("/admin/registry/versions/{}/baseline", path_part(&reference_of(&answer)));
        answer["baseline"] = asked.put(&place, made)?["baseline"].take();
    }
    match Form::of(matches) {
        Form::Json => output::print_json(&answer),
        Form::Table => output::print(&told(&answer)),
    }
}

/// Asks the version, in this process and with the engine that it is locked to, about rows that it was made for.
fn baseline(matches: &ArgMatches, answer: &Value, files: &[(String, PathBuf)], rows: &Path) -> Result<String, Failure> {
    let (model, number) = (answer["model"].as_str().unwrap_or_default(), answer["version"].as_u64().unwrap_or(0));
    let folder = std::env::temp_dir().join(format!("tiltyard-push-{}", std::process::id()));
    let version = folder.join(model).join(number.to_string());
    let copied = files.iter().try_for_each(|(name, from)| {
        let to = version.join(name);
        to.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::copy(from, &to).map(drop)
    });
    let made = copied
        .map_err(|error| Failure::failed(format!("cannot copy to {}: {error}", version.display())))
        .and_then(|()| {
            let loaded = settings::load(matches)?;
            let engine = answer["lock"]["engine"].as_str().map(str::to_owned);
            let config = Config { models: folder.clone(), engines: engine.into_iter().collect(), ..loaded.config };
            let name = ModelName { name: model.to_owned(), version: Some(number) };
            drift::made_of(config, &name, rows)
        });
    // What stays in the folder for temporary files is the system's to remove.
    drop(fs::remove_dir_all(&folder));
    made.map(|made| made.to_json())
}

fn reference_of(answer: &Value) -> String {
    format!("{}@{}", answer["model"].as_str().unwrap_or_default(), answer["version"])
}

/// Pushes files, each under its name in the version, with what is said of them.
pub(super) fn send_version(
    asked: &Asked,
    model: &str,
    files: Vec<(String, PathBuf)>,
    mut body: Map<String, Value>,
) -> Result<Value, Failure> {
    let files = Sent::of(files)?;
    body.insert("files".to_owned(), files.iter().map(Sent::form).collect());
    let body = Value::Object(body);
    let place = format!("/admin/registry/models/{}/versions", path_part(model));
    let mut answer = asked.post(&place, &body)?;
    if let Some(missing) = answer["missing"].as_array() {
        let missing: BTreeSet<&str> = missing.iter().filter_map(Value::as_str).collect();
        send(asked, &files, &missing)?;
        answer = asked.post(&place, &body)?;
    }
    if !answer["missing"].is_null() {
        return Err(Failure::failed("the server does not keep the files that it was sent: its log says why"));
    }
    Ok(answer)
}

/// What came of it, for people.
pub(super) fn told(answer: &Value) -> String {
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    let reference = reference_of(answer);
    let artifact: String = text("artifact").chars().take(12).collect();
    let lock = answer["lock"].as_object().map_or_else(String::new, |lock| {
        let part = |key: &str| lock.get(key).and_then(Value::as_str).unwrap_or_default();
        format!("runs with   {} {} on {}\n", part("engine"), part("build"), part("provider"))
    });
    let goldens = answer["goldens"].as_u64().unwrap_or(0);
    let head = match answer["is_new"].as_bool() {
        Some(false) => format!("{reference} is there already: these are its bytes, {artifact}.\n"),
        _ => format!("{reference} is in the registry, artifact {artifact}.\n"),
    };
    let examples = match goldens {
        0 => "answers     nothing was checked: it has no golden examples\n".to_owned(),
        goldens => format!("answers     {goldens} golden examples, rightly\n"),
    };
    format!("{head}{lock}{examples}Next: tiltyard promote {reference} --to prod\n")
}

/// What the command line says of the version, beside its files.
fn facts(matches: &ArgMatches) -> Result<Map<String, Value>, Failure> {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let many = |name: &str| matches.get_many::<String>(name).into_iter().flatten();
    let mut facts = Map::new();
    if let Some(description) = text("description") {
        facts.insert("description".to_owned(), description.into());
    }
    if let Some(file) = text("card") {
        facts.insert("card".to_owned(), read_text(&file)?.into());
    }
    let tags = many("tag").map(|tag| pair(tag).map(|(key, value)| (key.to_owned(), Value::from(value))));
    facts.insert("tags".to_owned(), Value::Object(tags.collect::<Result<_, _>>()?));
    facts.insert("metrics".to_owned(), many("metric").map(|metric| self::metric(metric)).collect::<Result<_, _>>()?);
    facts.insert("lineage".to_owned(), lineage(matches));
    Ok(facts)
}

/// `key=value`.
pub(super) fn pair(text: &str) -> Result<(&str, &str), Failure> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.ok_or_else(|| Failure::usage(format!("{text:?}: expected KEY=VALUE")))
}

/// `name=value[@dataset[/slice]]`.
pub(super) fn metric(text: &str) -> Result<Value, Failure> {
    let wrong =
        || Failure::usage(format!("{text:?}: expected NAME=NUMBER[@DATASET[/SLICE]], such as auc=0.91@holdout"));
    let (name, rest) = pair(text).map_err(|_| wrong())?;
    let (value, place) = rest.split_once('@').map_or((rest, None), |(value, place)| (value, Some(place)));
    let value: f64 = value.parse().ok().filter(|value: &f64| value.is_finite()).ok_or_else(wrong)?;
    let (dataset, slice) = match place {
        None => (None, None),
        Some(place) => {
            place.split_once('/').map_or((Some(place), None), |(dataset, slice)| (Some(dataset), Some(slice)))
        }
    };
    Ok(json!({ "name": name, "value": value, "dataset": dataset, "slice": slice }))
}

/// What it was made of.
fn lineage(matches: &ArgMatches) -> Value {
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let datasets = matches.get_many::<String>("data").into_iter().flatten().map(|data| {
        let (named, digest) =
            data.split_once('=').map_or((data.as_str(), None), |(named, digest)| (named, Some(digest)));
        let (name, version) = named.split_once('@').map_or((named, None), |(name, version)| (name, Some(version)));
        said(&[("name", Some(name)), ("version", version), ("digest", digest)])
    });
    let code = text("code").map(|commit| said(&[("commit", Some(commit)), ("repository", text("repository"))]));
    let run = text("run").map(|id| said(&[("id", Some(id))]));
    let mut lineage = json!({ "datasets": datasets.collect::<Vec<_>>() });
    code.into_iter().for_each(|code| lineage["code"] = code);
    run.into_iter().for_each(|run| lineage["run"] = run);
    lineage
}

/// What is said, and nothing of what is not.
fn said(fields: &[(&str, Option<&str>)]) -> Value {
    fields.iter().filter_map(|(name, value)| Some(((*name).to_owned(), Value::from((*value)?)))).collect()
}

/// A file that belongs to the version.
#[derive(Debug)]
struct Sent {
    /// Its name in the version.
    name: String,
    path: PathBuf,
    size: u64,
    digest: Digest,
}

impl Sent {
    /// The files of a version by their names in it, each digested.
    fn of(places: Vec<(String, PathBuf)>) -> Result<Vec<Sent>, Failure> {
        let total: u64 = places.iter().filter_map(|(_, path)| fs::metadata(path).ok()).map(|found| found.len()).sum();
        let bar = progress::bytes_bar(total).with_message("digesting");
        let digested = places.into_iter().map(|(name, path)| {
            let failed = |error| Failure::failed(format!("cannot read {}: {error}", path.display()));
            let (size, digest) = digest(&path, &|bytes| bar.inc(bytes)).map_err(failed)?;
            Ok(Sent { name, path, size, digest })
        });
        let digested = digested.collect();
        bar.finish_and_clear();
        digested
    }

    fn form(&self) -> Value {
        json!({ "path": self.name, "size": self.size, "sha256": self.digest.to_string() })
    }
}

/// The names and places of a version's files.
fn places(path: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let failed = |error: io::Error| Failure::failed(format!("cannot read {}: {error}", path.display()));
    if !fs::metadata(path).map_err(failed)?.is_dir() {
        return lone(path);
    }
    let mut found = Vec::new();
    collect(path, "", 0, &mut found)?;
    // In a repository, settings stand beside the versions; here each version has its own.
    let is_version = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u64>().is_ok());
    let beside = path.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned)).filter(|_| is_version);
    for name in SETTINGS_FILES {
        let of_model = beside.as_ref().map(|folder| folder.join(name)).filter(|path| path.is_file());
        if let Some(of_model) = of_model.filter(|_| found.iter().all(|(known, _)| known != name)) {
            found.push((name.to_owned(), of_model));
        }
    }
    match found.is_empty() {
        true => Err(Failure::failed(format!("{} has no files: expected {MODEL_FILE} in it", path.display()))),
        false => Ok(found),
    }
}

/// A file that is the whole version, with the files that it keeps its weights in.
fn lone(path: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or("onnx");
    let mut found = vec![(format!("model.{extension}"), path.to_owned())];
    if extension != "onnx" {
        return Ok(found);
    }
    let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("{}: {error}", path.display()));
    let bytes = Bytes::from(fs::read(path).map_err(|error| failed(&error))?);
    let graph = Graph::read(&bytes).map_err(|error| failed(&error))?;
    for external in graph.external_files.keys() {
        found.push((external.clone(), path.with_file_name(external)));
    }
    Ok(found)
}

fn collect(folder: &Path, prefix: &str, depth: usize, found: &mut Vec<(String, PathBuf)>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::failed(format!("cannot read {}: {error}", folder.display()));
    if depth > DEPTH_MAX {
        return Err(Failure::failed(format!("{} is nested too deep", folder.display())));
    }
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else {
            return Err(Failure::failed(format!("{}: expected names in UTF-8", entry.path().display())));
        };
        if is_temporary(&name) {
            continue;
        }
        let (name, path) = (format!("{prefix}{name}"), entry.path());
        match fs::metadata(&path).map_err(failed)?.is_dir() {
            true => collect(&path, &format!("{name}/"), depth + 1, found)?,
            false => found.push((name, path)),
        }
        if found.len() > FILES_MAX {
            return Err(Failure::failed(format!("more than {FILES_MAX} files below {}", folder.display())));
        }
    }
    Ok(())
}

/// Bytes and digest of a file; tells how many it has read.
fn digest(path: &Path, read: &dyn Fn(u64)) -> io::Result<(u64, Digest)> {
    let (mut file, mut hash, mut size) = (File::open(path)?, Context::new(&SHA256), 0);
    let mut chunk = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok((size, finished(hash)));
        }
        hash.update(&chunk[..count]);
        size += count as u64;
        read(count as u64);
    }
}

/// The digest of what was hashed.
pub(super) fn finished(hash: Context) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.finish().as_ref());
    Digest::new(bytes)
}

/// Sends the files that the server lacks, each once.
fn send(asked: &Asked, files: &[Sent], missing: &BTreeSet<&str>) -> Result<(), Failure> {
    let mut sent = BTreeSet::new();
    let mut to_send: Vec<(&Sent, String)> = files.iter().map(|file| (file, file.digest.to_string())).collect();
    to_send.retain(|(_, digest)| missing.contains(digest.as_str()) && sent.insert(digest.clone()));
    let bar = progress::bytes_bar(to_send.iter().map(|(file, _)| file.size).sum()).with_message("sending");
    for (file, digest) in to_send {
        let opened = File::open(&file.path);
        let opened =
            opened.map_err(|error| Failure::failed(format!("cannot read {}: {error}", file.path.display())))?;
        let counted = bar.wrap_read(opened);
        asked.put_file(&format!("/admin/registry/blobs/{digest}"), counted, file.size)?;
    }
    bar.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_as_people_type_them() {
        let form = |text: &str| metric(text).map_err(|failure| failure.to_string());
        assert_eq!(form("auc=0.91"), Ok(json!({"name": "auc", "value": 0.91, "dataset": null, "slice": null})));
        let whole = json!({"name": "auc", "value": 0.5, "dataset": "holdout", "slice": "age>60"});
        assert_eq!(form("auc=0.5@holdout/age>60"), Ok(whole));
        for wrong in ["auc", "auc=", "=1", "auc=high", "auc=NaN"] {
            assert!(form(wrong).is_err_and(|why| why.contains("expected NAME=NUMBER")), "{wrong}");
        }
    }

    #[test]
    fn a_version_in_a_repository_takes_its_settings_along() {
        let root = tempfile::tempdir().unwrap();
        let version = root.path().join("risk/3");
        fs::create_dir_all(version.join("golden")).unwrap();
        for name in ["risk/model.toml", "risk/3/model.onnx", "risk/3/golden/a.json", "risk/3/.hidden", "risk/3/x.tmp"] {
            fs::write(root.path().join(name), name).unwrap();
        }
        let mut names: Vec<String> = places(&version).unwrap().into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, ["golden/a.json", "model.onnx", "model.toml"]);
        let sent = Sent::of(places(&version).unwrap()).unwrap();
        let model = sent.iter().find(|file| file.name == "model.onnx").unwrap();
        let mut hash = Context::new(&SHA256);
        hash.update(b"risk/3/model.onnx");
        assert_eq!(model.digest, finished(hash));
    }
}
