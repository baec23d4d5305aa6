//! How does somebody get a version's files out of the registry, byte for byte?

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Component, Path, PathBuf};

use clap::{Arg, ArgMatches, Command};
use ring::digest::{Context, SHA256};
use serde_json::{Value, json};

use super::Asked;
use super::push::finished;
use crate::cli::exit::Failure;
use crate::cli::output::{self, Form};
use crate::cli::progress;
use crate::cli::target::{admin_flag, path_part, server_flags};

/// Bytes of a file that travel in one answer.
const PART_BYTES: u64 = 8 << 20;

pub(crate) fn command() -> Command {
    Command::new("pull")
        .about("Get a version's files out of the registry, each checked against its digest")
        .arg(Arg::new("reference").value_name("MODEL@VERSION").required(true).help("Such as risk@3, or risk@prod"))
        .arg(
            Arg::new("to")
                .long("to")
                .value_name("FOLDER")
                .help("Where they go; must not be there [default: MODEL-VERSION]"),
        )
        .args(server_flags())
        .arg(admin_flag())
        .after_help("Examples:\n  tiltyard pull risk@3\n  tiltyard pull risk@prod --to models/risk/1")
}

pub(crate) fn run(matches: &ArgMatches) -> Result<(), Failure> {
    let reference = matches.get_one::<String>("reference").map(String::as_str).unwrap_or_default();
    let asked = Asked::of(matches)?;
    let version = asked.get(&format!("/admin/registry/versions/{}", path_part(reference)))?;
    let (model, number) = (version["model"].as_str().unwrap_or_default(), version["version"].as_u64().unwrap_or(0));
    let to = matches.get_one::<String>("to").cloned().unwrap_or_else(|| format!("{model}-{number}"));
    let files = version["files"].as_array().map(Vec::as_slice).unwrap_or_default();
    let to = Path::new(&to);
    if to.exists() {
        return Err(Failure::failed(format!("{} is there already: name another folder with --to", to.display())));
    }
    let total = files.iter().filter_map(|file| file["size"].as_u64()).sum();
    let bar = progress::bytes_bar(total).with_message("fetching");
    for file in files {
        fetch(&asked, file, to, &|bytes| bar.inc(bytes))?;
    }
    bar.finish_and_clear();
    match Form::of(matches) {
        Form::Json => output::print_json(&json!({ "model": model, "version": number, "folder": to, "files": files })),
        Form::Table => output::print(&format!(
            "{model}@{number}: {} files in {}, digests as recorded.\n",
            files.len(),
            to.display()
        )),
    }
}

/// Brings one file, and leaves none where its bytes are others than the record says.
fn fetch(asked: &Asked, file: &Value, to: &Path, got: &dyn Fn(u64)) -> Result<(), Failure> {
    let text = |key: &str| file[key].as_str().unwrap_or_default();
    let (name, digest, size) = (text("path"), text("sha256"), file["size"].as_u64().unwrap_or(0));
    let path = inside(to, name)?;
    let failed = |error: std::io::Error| Failure::failed(format!("cannot write {}: {error}", path.display()));
    fs::create_dir_all(path.parent().unwrap_or(to)).map_err(failed)?;
    let part = path.with_file_name(format!(".{}.part", path.file_name().unwrap_or_default().to_string_lossy()));
    let (mut out, mut hash, mut from) = (File::create(&part).map_err(failed)?, Context::new(&SHA256), 0);
    while from < size {
        let bytes = asked.bytes(&format!("/admin/registry/blobs/{digest}?from={from}&bytes={PART_BYTES}"))?;
        if bytes.is_empty() {
            break;
        }
        hash.update(&bytes);
        out.write_all(&bytes).map_err(failed)?;
        from += bytes.len() as u64;
        got(bytes.len() as u64);
    }
    out.sync_all().map_err(failed)?;
    let found = finished(hash).to_string();
    if found != digest || from != size {
        drop(fs::remove_file(&part));
        let message = format!("{name}: expected {size} bytes with the digest {digest}, and {from} with {found} came");
        return Err(Failure::failed(message));
    }
    fs::rename(&part, &path).map_err(failed)
}

/// The place of a file below `folder`. Fails where its name leads elsewhere.
fn inside(folder: &Path, name: &str) -> Result<PathBuf, Failure> {
    let is_plain = !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    match is_plain {
        true => Ok(folder.join(name)),
        false => Err(Failure::failed(format!("{name:?} is no name of a file in a version: nothing was written"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_in_their_folder() {
        let check = |name: &str, good: bool| assert_eq!(inside(Path::new("x"), name).is_ok(), good, "{name}");
        check("model.onnx", true);
        check("golden/a.json", true);
        check("../model.onnx", false);
        check("/etc/passwd", false);
        check("a/../../b", false);
        check("", false);
    }
}
