//! What was the server told, by whom, and what does it mean?
//!
//! Settings are held twice. As written (`RawConfig`): text from a flag, else a variable, else the file, else the
//! default, and perhaps missing. As meant ([`Config`]): typed and complete; only this one travels. The environment
//! and the file system are handed in, so the same sources always give the same answer.

mod environment;
mod file;
mod keys;
mod kinds;
mod live;
mod reference;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, io};

use clap::ArgMatches;

pub use keys::Config;
pub(crate) use kinds::parse_duration;
pub use kinds::{
    AlertsForm, Algorithm, Amount, CaptureMode, ClientAuth, DriftMode, Host, LogFormat, LogLevel, ModelControl,
    OnFailure, OpenCall, Signing,
};
pub use live::{Change, changes};
pub use reference::{command_flags, reference_markdown};

use keys::{Fallback, KEYS};
use kinds::Kind;

/// The file that is read where none is named and it exists.
const DEFAULT_FILE: &str = "./tiltyard.toml";

/// Who gave a setting its value. A stronger source wins: flag, environment, file, default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody: it is what holds unasked.
    Default,
    /// The file of settings.
    File {
        /// Which file.
        path: PathBuf,
        /// The key in it.
        key: &'static str,
    },
    /// A variable of the environment.
    Environment {
        /// Its name.
        variable: String,
    },
    /// The command line.
    Flag {
        /// The flag, with its dashes.
        flag: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, key } => write!(f, "file {}:{key}", path.display()),
            Origin::Environment { variable } => write!(f, "environment {variable}"),
            Origin::Flag { flag } => write!(f, "flag {flag}"),
        }
    }
}

/// Why the settings do not make a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file was named and cannot be read.
    #[error("cannot read {} ({origin}): {reason}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Who named it.
        origin: Origin,
        /// What the system said.
        reason: String,
    },
    /// The file is not TOML.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// The file has a key that is no setting.
    #[error("{}:{line}: unknown key {key:?}{}", path.display(), did_you_mean(*nearest))]
    UnknownKey {
        /// The key.
        key: String,
        /// Which file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The setting that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A value is not what its key expects.
    #[error("{key} = {value:?} ({origin}): expected {expected}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// The value as it was written.
        value: String,
        /// Who wrote it.
        origin: Origin,
        /// What is right.
        expected: String,
    },
}

/// The end of a message about an unknown name.
fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(": did you mean {name}?")).unwrap_or_default()
}

/// One setting as it was written, or as it holds by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key.
    pub key: &'static str,
    /// Its value as text; empty for none.
    pub value: String,
    /// Who gave it.
    pub origin: Origin,
}

/// The configuration, and how it came about.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the server was told.
    pub config: Config,
    /// Every setting with its origin, in the order of the docs.
    pub origins: Vec<Setting>,
    /// What an operator should know, such as variables that look like settings and are none.
    pub warnings: Vec<String>,
}

impl Loaded {
    /// All settings as a table for people: key, value, origin.
    pub fn listing(&self) -> String {
        let shown =
            |setting: &Setting| if setting.value.is_empty() { "none".to_owned() } else { setting.value.clone() };
        let key_width = self.origins.iter().map(|setting| setting.key.len()).max().unwrap_or(0);
        let value_width = self.origins.iter().map(|setting| shown(setting).chars().count()).max().unwrap_or(0);
        let line = |setting: &Setting| {
            let Setting { key, origin, .. } = setting;
            format!("{key:key_width$}  {:value_width$}  {origin}\n", shown(setting))
        };
        self.origins.iter().map(line).collect()
    }
}

/// The settings as written: those that somebody wrote, until the defaults fill the rest.
#[derive(Debug, Default)]
struct RawConfig {
    written: BTreeMap<&'static str, (String, Origin)>,
}

impl RawConfig {
    /// Takes a value unless a stronger source gave one: sources offer in the order of their strength.
    fn offer(&mut self, key: &'static str, text: &str, origin: Origin) {
        self.written.entry(key).or_insert_with(|| (text.to_owned(), origin));
    }

    /// The text of a key; empty for one that nobody wrote.
    fn text(&self, key: &str) -> &str {
        self.written.get(key).map_or("", |(text, _)| text)
    }

    /// Who gave a key its value.
    fn origin(&self, key: &str) -> Origin {
        self.written.get(key).map_or(Origin::Default, |(_, origin)| origin.clone())
    }

    /// The typed value of a key; fails if the text is not what the key's kind expects.
    fn meaning<T>(&self, key: &'static str, kind: &Kind<T>) -> Result<T, ConfigError> {
        (kind.parse)(self.text(key)).ok_or_else(|| ConfigError::BadValue {
            key,
            value: self.text(key).to_owned(),
            origin: self.origin(key),
            expected: kind.expected.to_owned(),
        })
    }

    /// Offers what holds where nobody said otherwise. Keys that take another's value come last.
    fn offer_defaults(&mut self, environment: &BTreeMap<String, String>) {
        for key in KEYS {
            match key.fallback {
                Fallback::Text(text) => self.offer(key.name, text, Origin::Default),
                Fallback::DataHome => self.offer(key.name, &data_home(environment), Origin::Default),
                Fallback::Like(_) => {}
            }
        }
        for key in KEYS {
            if let Fallback::Like(other) = key.fallback {
                let text = self.text(other).to_owned();
                self.offer(key.name, &text, Origin::Default);
            }
        }
    }
}

impl Default for Config {
    /// The settings of a server that was told nothing, in an environment without variables.
    fn default() -> Config {
        let mut raw = RawConfig::default();
        raw.offer_defaults(&BTreeMap::new());
        Config::mean(&raw).expect("the defaults are what their keys expect")
    }
}

/// Gathers the settings from the command line, the environment and the file, and says what they mean.
///
/// `matches` comes from a command with [`command_flags`]; `environment` holds all variables; `read_file` gives a
/// file's text, and is asked for the file that was named, or else for `./tiltyard.toml`, which may be missing.
/// Fails at the first setting that is wrong, in words for the operator.
pub fn load(
    matches: &ArgMatches,
    environment: &BTreeMap<String, String>,
    read_file: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<Loaded, ConfigError> {
    let mut raw = RawConfig::default();
    read_flags(matches, &mut raw);
    let warnings = environment::read(environment, &mut raw);

    let named = !raw.text("config").is_empty();
    let path = PathBuf::from(if named { raw.text("config") } else { DEFAULT_FILE });
    // An empty flag is the way to say that no file is to be read.
    if named || !raw.written.contains_key("config") {
        match read_file(&path) {
            Ok(text) => {
                raw.offer("config", DEFAULT_FILE, Origin::Default);
                file::read(&path, &text, &mut raw)?;
            }
            Err(error) if !named && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let origin = raw.origin("config");
                return Err(ConfigError::Unreadable { path, origin, reason: error.to_string() });
            }
        }
    }

    raw.offer_defaults(environment);
    let config = Config::mean(&raw)?;
    let shown = |name: &str| match name {
        "registry" => without_password(raw.text(name)),
        _ => raw.text(name).to_owned(),
    };
    let setting = |name: &'static str| Setting { key: name, value: shown(name), origin: raw.origin(name) };
    Ok(Loaded { config, origins: KEYS.iter().map(|key| setting(key.name)).collect(), warnings })
}

/// A URL as others may see it. It should have no password, and is refused with one.
fn without_password(url: &str) -> String {
    let hidden = || {
        let (scheme, rest) = url.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (who, host) = authority.rsplit_once('@')?;
        let (user, _) = who.split_once(':')?;
        Some(format!("{scheme}://{user}:…@{host}{path}"))
    };
    hidden().unwrap_or_else(|| url.to_owned())
}

/// Takes every setting from the command line. A command that lacks some of the flags is fine.
fn read_flags(matches: &ArgMatches, raw: &mut RawConfig) {
    for key in KEYS {
        if let Ok(Some(values)) = matches.try_get_many::<String>(key.name) {
            let text = values.map(|value| value.trim()).collect::<Vec<_>>().join(",");
            raw.offer(key.name, &text, Origin::Flag { flag: format!("--{}", key.flag()) });
        }
    }
}

/// Where a program of this user keeps its data, after the XDG base directory specification, which has relative paths
/// ignored. Without a home, as in some containers, it is beside the working directory.
fn data_home(environment: &BTreeMap<String, String>) -> String {
    let absolute = |name: &str| environment.get(name).filter(|path| Path::new(path).is_absolute());
    let folder = match (absolute("XDG_DATA_HOME"), absolute("HOME")) {
        (Some(data), _) => Path::new(data).join("tiltyard"),
        (None, Some(home)) => Path::new(home).join(".local/share/tiltyard"),
        (None, None) => PathBuf::from("./.tiltyard"),
    };
    folder.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
