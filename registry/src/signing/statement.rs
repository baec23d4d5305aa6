//! Which files does a statement name, and are they these?

use std::collections::BTreeMap;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;

use super::{Error, File};

const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";

const PREDICATE_TYPE: &str = "https://model_signing/signature/v1.0";

/// Resources of one statement, at most.
const RESOURCES_MAX: usize = 100_000;

/// Files with their digests, as somebody signed them.
#[derive(Debug)]
pub(super) struct Statement {
    /// What the signer called the model.
    pub(super) name: String,
    /// SHA-256 over the resources' digests.
    pub(super) root: Digest,
    /// Size, where the statement tells it, and digest, by path.
    pub(super) resources: BTreeMap<String, (Option<u64>, Digest)>,
}

#[derive(Deserialize)]
struct Written {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    #[serde(default)]
    predicate: serde_json::Value,
}

#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    name: String,
    digest: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Predicate {
    serialization: Serialization,
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Serialization {
    method: String,
    hash_type: String,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    digest: String,
}

impl Statement {
    /// Reads what was signed. Who calls this knows that it was.
    pub(super) fn read(payload: &[u8]) -> Result<Statement, Error> {
        let malformed = |why: String| Err(Error::Malformed(why));
        let unread = |error: serde_json::Error| {
            Error::Malformed(format!("what it signs is no statement about a model: {error}"))
        };
        let written: Written = serde_json::from_slice(payload).map_err(unread)?;
        if written.kind != STATEMENT_TYPE {
            return malformed(format!("it signs a {:?}, expected {STATEMENT_TYPE:?}", written.kind));
        }
        if written.predicate_type != PREDICATE_TYPE {
            return Err(Error::Unsupported(format!(
                "says {:?}, expected {PREDICATE_TYPE:?}: sign again with model-signing from 1.0 on",
                written.predicate_type
            )));
        }
        let Predicate { serialization, resources } = serde_json::from_value(written.predicate).map_err(unread)?;
        let Serialization { method, hash_type } = serialization;
        if hash_type != "sha256" {
            return Err(Error::Unsupported(format!("digests files with {hash_type}: sign again with sha256")));
        }
        let is_sharded = method == "shards";
        if !is_sharded && method != "files" {
            return Err(Error::Unsupported(format!("puts files together by {method:?}: sign again by files")));
        }
        if resources.len() > RESOURCES_MAX {
            return malformed(format!("it names {} files, expected at most {RESOURCES_MAX}", resources.len()));
        }
        let (mut root, mut named) = (Sha256::new(), BTreeMap::new());
        for Resource { name, digest } in resources {
            let digest: Digest = digest.parse().map_err(|error| Error::Malformed(format!("{name:?}: {error}")))?;
            root.update(digest.as_bytes());
            let (path, size) = if is_sharded { whole(&name)? } else { (name.as_str(), None) };
            if named.insert(path.to_owned(), (size, digest)).is_some() {
                return malformed(format!("it names {path:?} twice"));
            }
        }
        let root = Digest::new(root.finalize().into());
        let [Subject { name, digest }] = written.subject.as_slice() else {
            return malformed(format!("it is about {} models, expected one", written.subject.len()));
        };
        if digest.get("sha256").is_none_or(|digest| *digest != root.to_string()) {
            return malformed(format!("its files come to {root}, and it says {digest:?}"));
        }
        Ok(Statement { name: name.clone(), root, resources: named })
    }

    /// What is different in these files, one clause each, in the order of their paths.
    pub(super) fn differences<'a>(&self, files: impl IntoIterator<Item = File<'a>>) -> Result<Vec<String>, Error> {
        let mut there: BTreeMap<&str, File<'a>> = files.into_iter().map(|file| (file.path, file)).collect();
        let mut found = BTreeMap::new();
        for (path, (size, digest)) in &self.resources {
            match there.remove(path.as_str()) {
                Some(file) if file.digest == *digest && size.is_none_or(|size| size == file.size) => {}
                Some(_) => drop(found.insert(path.as_str(), format!("{path} was changed"))),
                // Nothing here reads a hidden file, so it is not looked for either.
                None if path.split('/').any(|part| part.starts_with('.')) => {}
                None => drop(found.insert(path.as_str(), format!("{path} is missing"))),
            }
        }
        let unsigned = there.into_keys().map(|path| (path, format!("{path} is not signed")));
        found.extend(unsigned);
        Ok(found.into_values().collect())
    }
}

/// The path and size of a file that is one shard. A part of a file could only be digested by reading that file twice.
fn whole(name: &str) -> Result<(&str, Option<u64>), Error> {
    let mut parts = name.rsplitn(3, ':');
    let (end, start, path) = (parts.next(), parts.next(), parts.next());
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok());
    match (path, number(start), number(end)) {
        (Some(path), Some(0), Some(end)) => Ok((path, Some(end))),
        (Some(_), Some(_), Some(_)) => {
            Err(Error::Unsupported(format!("digests files in parts, as in {name:?}: sign again by files")))
        }
        _ => Err(Error::Malformed(format!("{name:?} is no part of a file: expected PATH:START:END"))),
    }
}
