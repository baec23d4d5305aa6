//! Which model of a tracking server does somebody mean?

use std::fmt;
use std::str::FromStr;

use super::super::folder::plain_path;
use super::{Error, Result};

/// Bytes of a name, at most: as MLflow has it.
const NAME_BYTES_MAX: usize = 256;

/// A model on a tracking server, as MLflow's users write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `models:/risk/3`.
    Version {
        /// The registered model.
        name: String,
        /// Its version.
        version: u64,
    },
    /// `models:/risk@champion`.
    Alias {
        /// The registered model.
        name: String,
        /// The pointer to one of its versions.
        alias: String,
    },
    /// `models:/m-0f8c…`: a logged model, from MLflow 3 on.
    Logged(String),
    /// `runs:/1ab2…/model`.
    Run {
        /// The run.
        run: String,
        /// The model's folder among its artifacts, or its name.
        path: String,
    },
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(given: &str) -> Result<Reference> {
        let wrong = |why: &str| {
            let given = given.chars().take(100).collect();
            Err(Error::Reference { given, why: why.to_owned() })
        };
        if let Some(rest) = given.strip_prefix("runs:/") {
            return match rest.trim_start_matches('/').split_once('/') {
                Some((run, path)) if is_name(run) => match plain_path(path) {
                    Ok(path) => Ok(Reference::Run { run: run.to_owned(), path }),
                    Err(why) => wrong(&why),
                },
                _ => wrong("it has no run and path"),
            };
        }
        let Some(rest) = given.strip_prefix("models:/").map(|rest| rest.trim_start_matches('/')) else {
            return wrong("it begins with neither models:/ nor runs:/");
        };
        if let Some((name, alias)) = rest.split_once('@') {
            return match is_name(name) && is_name(alias) && !alias.contains('@') {
                true => Ok(Reference::Alias { name: name.to_owned(), alias: alias.to_owned() }),
                false => wrong("it has no name before or no alias after the @"),
            };
        }
        match rest.split_once('/') {
            Some((name, version)) if is_name(name) => match version.parse() {
                Ok(version) if version > 0 => Ok(Reference::Version { name: name.to_owned(), version }),
                _ => wrong("its version is no number; stages are gone from MLflow, aliases are what is left"),
            },
            None if is_name(rest) && rest.starts_with("m-") => Ok(Reference::Logged(rest.to_owned())),
            _ => wrong("it has no name, or neither version nor alias"),
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(['/', ':']) && !name.chars().any(char::is_control)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Version { name, version } => write!(f, "models:/{name}/{version}"),
            Reference::Alias { name, alias } => write!(f, "models:/{name}@{alias}"),
            Reference::Logged(id) => write!(f, "models:/{id}"),
            Reference::Run { run, path } => write!(f, "runs:/{run}/{path}"),
        }
    }
}
