//! What kinds of values can a key have, and how is each read from text?
//!
//! To add a kind, add a constant: a key's entry names it, and what it expects is said in help, docs and errors.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::header::HeaderName;
use tiltyard_runtime::repository::policy::VersionPolicy;

use crate::clients::ClientKey;

/// Durations above this are refused: sums of moments must stay far from the end of time.
const DURATION_MAX: Duration = Duration::from_secs(8760 * 3600);

/// How one kind of value is written, and what it then means.
pub(super) struct Kind<T> {
    /// What stands for the value in help, such as `PORT`.
    pub(super) placeholder: &'static str,
    /// What is right, for help, docs and errors.
    pub(super) expected: &'static str,
    /// How the file may spell it.
    pub(super) form: Form,
    /// The meaning; `None` for text that is not what was expected.
    pub(super) parse: fn(&str) -> Option<T>,
}

/// Which TOML values a kind takes in the file. Flags and variables are always text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A string.
    Text,
    /// An integer.
    Integer,
    /// An integer or a string.
    IntegerOrText,
    /// An integer or a number with a fraction.
    Number,
    /// `true` or `false`.
    Boolean,
    /// An array of strings or integers, or a string with commas.
    List,
}

pub(super) const BOOLEAN: Kind<bool> =
    Kind { placeholder: "BOOL", expected: "true or false", form: Form::Boolean, parse: |text| text.parse().ok() };

pub(super) const PORT: Kind<u16> = Kind {
    placeholder: "PORT",
    expected: "a port from 1 to 65535, or 0 for any that is free",
    form: Form::Integer,
    parse: |text| text.parse().ok(),
};

pub(super) const COUNT: Kind<usize> = Kind {
    placeholder: "COUNT",
    expected: "an integer from 1",
    form: Form::Integer,
    parse: |text| text.parse().ok().filter(|count| *count > 0),
};

pub(super) const COUNT_OR_NONE: Kind<Option<usize>> = Kind {
    placeholder: "COUNT",
    expected: "an integer from 1, or 0 for no bound",
    form: Form::Integer,
    parse: |text| text.parse().ok().map(|count| Some(count).filter(|count| *count > 0)),
};

pub(super) const CLIENT_KEY: Kind<ClientKey> = Kind {
    placeholder: "KEY",
    expected: "address, or the name of a header such as x-api-key",
    form: Form::Text,
    parse: |text| match text {
        "address" => Some(ClientKey::Address),
        name => HeaderName::from_bytes(name.as_bytes()).ok().map(ClientKey::Header),
    },
};

pub(super) const AMOUNT: Kind<Amount> = Kind {
    placeholder: "COUNT",
    expected: "an integer from 1, or 0 for automatic",
    form: Form::Integer,
    parse: |text| text.parse().ok().map(|count| NonZeroUsize::new(count).map_or(Amount::Auto, Amount::Exactly)),
};

pub(super) const SIZE: Kind<usize> = Kind {
    placeholder: "SIZE",
    expected: "a number of bytes above 0, such as 67108864, 64MiB or 64MB",
    form: Form::IntegerOrText,
    parse: parse_size,
};

pub(super) const AMOUNT_OF_BYTES: Kind<Amount> = Kind {
    placeholder: "SIZE",
    expected: "a number of bytes such as 67108864, 64MiB or 64MB, or 0 for automatic",
    form: Form::IntegerOrText,
    parse: |text| match text {
        "0" => Some(Amount::Auto),
        _ => parse_size(text).and_then(NonZeroUsize::new).map(Amount::Exactly),
    },
};

pub(super) const DURATION: Kind<Duration> = Kind {
    placeholder: "DURATION",
    expected: "0, or an integer with a unit (us, ms, s, m, h), such as 500ms, up to 8760h",
    form: Form::IntegerOrText,
    parse: parse_duration,
};

pub(super) const DURATION_ABOVE_ZERO: Kind<Duration> = Kind {
    placeholder: "DURATION",
    expected: "an integer above 0 with a unit (us, ms, s, m, h), such as 500ms, up to 8760h",
    form: Form::IntegerOrText,
    parse: |text| parse_duration(text).filter(|duration| !duration.is_zero()),
};

pub(super) const SHARE: Kind<f64> = Kind {
    placeholder: "SHARE",
    expected: "a number from 0 to 1, such as 0.05",
    form: Form::Number,
    parse: |text| text.parse().ok().filter(|share: &f64| (0.0..=1.0).contains(share)),
};

pub(super) const PRICE: Kind<f64> = Kind {
    placeholder: "PRICE",
    expected: "a number from 0, such as 0.048",
    form: Form::Number,
    parse: |text| text.parse().ok().filter(|price: &f64| price.is_finite() && *price >= 0.0),
};

pub(super) const PATH: Kind<PathBuf> = Kind {
    placeholder: "PATH",
    expected: "a path",
    form: Form::Text,
    parse: |text| (!text.is_empty()).then(|| PathBuf::from(text)),
};

pub(super) const PATH_OR_URL: Kind<PathBuf> =
    Kind { placeholder: "PATH", expected: "a path, or the URL of a store", ..PATH };

pub(super) const OPTIONAL_PATH: Kind<Option<PathBuf>> = Kind {
    placeholder: "PATH",
    expected: "a path, or nothing for none",
    form: Form::Text,
    parse: |text| Some((!text.is_empty()).then(|| PathBuf::from(text))),
};

pub(super) const OPTIONAL_PATH_OR_URL: Kind<Option<PathBuf>> =
    Kind { expected: "a path, the URL of a store, or nothing for none", ..OPTIONAL_PATH };

pub(super) const TEXT: Kind<String> = Kind {
    placeholder: "TEXT",
    expected: "some text",
    form: Form::Text,
    parse: |text| (!text.is_empty()).then(|| text.to_owned()),
};

pub(super) const OPTIONAL_TEXT: Kind<Option<String>> = Kind {
    placeholder: "TEXT",
    expected: "some text, or nothing for none",
    form: Form::Text,
    parse: |text| Some((!text.is_empty()).then(|| text.to_owned())),
};

pub(super) const OPEN_CALLS: Kind<Vec<OpenCall>> = Kind {
    placeholder: "CALLS",
    expected: "none, or some of health, metrics and docs with commas between them",
    form: Form::List,
    parse: |text| match text {
        "none" | "" => Some(Vec::new()),
        names => parse_names(names)?.iter().map(|name| (OPEN_CALL.parse)(name)).collect(),
    },
};

pub(super) const ALGORITHMS: Kind<Vec<Algorithm>> = Kind {
    placeholder: "NAMES",
    expected: "some of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA with commas between them",
    form: Form::List,
    parse: |text| parse_names(text)?.iter().map(|name| (ALGORITHM.parse)(name)).collect(),
};

pub(super) const HOST: Kind<Host> =
    Kind { placeholder: "HOST", expected: "an IP address or a host name", form: Form::Text, parse: parse_host };

pub(super) const NAMES: Kind<Vec<String>> = Kind {
    placeholder: "NAME",
    expected: "names with commas between them",
    form: Form::List,
    parse: |text| if text.is_empty() { Some(Vec::new()) } else { parse_names(text) },
};

pub(super) const ENGINES: Kind<Vec<String>> = Kind {
    placeholder: "ENGINES",
    expected: "auto alone, or engines with commas between them, such as classical,onnxruntime",
    form: Form::List,
    parse: |text| match text {
        "auto" => Some(Vec::new()),
        names => parse_names(names).filter(|names| names.iter().all(|name| name != "auto")),
    },
};

pub(super) const VERSION_POLICY: Kind<VersionPolicy> = Kind {
    placeholder: "POLICY",
    expected: "all, latest:N with N from 1, or versions with commas between them, such as 1,3",
    form: Form::List,
    parse: |text| text.parse().ok(),
};

/// A number that the server chooses unless it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// The server chooses.
    Auto,
    /// This many.
    Exactly(NonZeroUsize),
}

impl Amount {
    /// The number given, or else `auto`.
    pub fn or(self, auto: usize) -> usize {
        match self {
            Amount::Auto => auto,
            Amount::Exactly(count) => count.get(),
        }
    }
}

/// Where to listen: an address, or a name that is looked up when the socket is bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An IP address.
    Address(IpAddr),
    /// A host name, such as `localhost`.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Address(address) => address.fmt(f),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// Declares a setting with a fixed set of names, and its kind.
macro_rules! choice {
    ($(#[$doc:meta])* $type:ident, $kind:ident, $placeholder:literal, $expected:literal {
        $($(#[$variant_doc:meta])* $variant:ident = $name:literal),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $type {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $type {
            /// The name in settings.
            pub const fn name(self) -> &'static str {
                match self {
                    $($type::$variant => $name,)*
                }
            }
        }

        pub(super) const $kind: Kind<$type> = Kind {
            placeholder: $placeholder,
            expected: $expected,
            form: Form::Text,
            parse: |text| match text {
                $($name => Some($type::$variant),)*
                _ => None,
            },
        };
    };
}

choice! {
    /// Who decides which models are loaded.
    ModelControl, MODEL_CONTROL, "none|watch|explicit", "none, watch or explicit" {
        /// Everything in the folder when the server starts, and nothing afterwards.
        None = "none",
        /// Everything in the folder, followed as it changes.
        Watch = "watch",
        /// What clients ask for.
        Explicit = "explicit",
    }
}

choice! {
    /// Whether requests and answers are put on record.
    CaptureMode, CAPTURE_MODE, "off|on|audit", "off, on or audit" {
        /// They are not.
        Off = "off",
        /// They are where there is room, and counted where there is none: no request waits for it.
        On = "on",
        /// No answer goes out that is not on record, and on the disk.
        Audit = "audit",
    }
}

choice! {
    /// What of a model that nobody who is trusted has signed.
    Signing, SIGNING, "off|report|require", "off, report or require" {
        /// Nobody asks.
        Off = "off",
        /// It is told.
        Report = "report",
        /// It is not served.
        Require = "require",
    }
}

choice! {
    /// Whether what models are asked is compared with what they were made for.
    DriftMode, DRIFT_MODE, "off|baseline|traffic", "off, baseline or traffic" {
        /// It is not.
        Off = "off",
        /// Where there is a baseline.
        Baseline = "baseline",
        /// Where there is none, first traffic becomes one.
        Traffic = "traffic",
    }
}

choice! {
    /// What whoever is told of alerts wants to read.
    AlertsForm, ALERTS_FORM, "tiltyard|alertmanager|slack", "tiltyard, alertmanager or slack" {
        /// Our own form: `docs/alerts.md`.
        Tiltyard = "tiltyard",
        /// That of Prometheus' Alertmanager, version 2 of its API.
        Alertmanager = "alertmanager",
        /// A text, as Slack and others that do as it does take it.
        Slack = "slack",
    }
}

choice! {
    /// Who answers for a version that is out of service.
    OnFailure, ON_FAILURE, "previous|refuse", "previous or refuse" {
        /// The newest version before it that is loaded and answers.
        Previous = "previous",
        /// Nobody: requests are refused until it answers again.
        Refuse = "refuse",
    }
}

choice! {
    /// Whether clients must show a certificate.
    ClientAuth, CLIENT_AUTH, "required|optional", "required or optional" {
        /// No certificate, no connection.
        Required = "required",
        /// Who shows none is nobody yet.
        Optional = "optional",
    }
}

choice! {
    /// What may be asked without credentials.
    OpenCall, OPEN_CALL, "CALL", "health, metrics or docs" {
        /// Whether the server is up and ready.
        Health = "health",
        /// Figures for Prometheus.
        Metrics = "metrics",
        /// The pages for people, which name models and their inputs.
        Docs = "docs",
    }
}

choice! {
    /// How a JSON web token is signed: with a provider's private key, never with a secret that both sides share.
    Algorithm, ALGORITHM, "NAME", "a signature's name" {
        /// RSA, PKCS #1 v1.5, SHA-256.
        Rs256 = "RS256",
        /// The same with SHA-384.
        Rs384 = "RS384",
        /// The same with SHA-512.
        Rs512 = "RS512",
        /// RSA, PSS, SHA-256.
        Ps256 = "PS256",
        /// The same with SHA-384.
        Ps384 = "PS384",
        /// The same with SHA-512.
        Ps512 = "PS512",
        /// ECDSA on P-256, SHA-256.
        Es256 = "ES256",
        /// ECDSA on P-384, SHA-384.
        Es384 = "ES384",
        /// Ed25519.
        EdDsa = "EdDSA",
    }
}

choice! {
    /// How log lines look.
    LogFormat, LOG_FORMAT, "auto|human|json", "auto, human or json" {
        /// For people on a terminal, JSON elsewhere.
        Auto = "auto",
        /// For people.
        Human = "human",
        /// One JSON object per line.
        Json = "json",
    }
}

choice! {
    /// The least important lines that are still logged.
    LogLevel, LOG_LEVEL, "error|warn|info|debug|trace", "error, warn, info, debug or trace" {
        /// Failures that need somebody.
        Error = "error",
        /// What is odd, and was dealt with.
        Warn = "warn",
        /// What an operator wants to know.
        Info = "info",
        /// What a developer wants to know.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

/// Splits `15ms` into 15 and `ms`; the number is plain decimal digits.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

fn parse_size(text: &str) -> Option<usize> {
    let (number, unit) = number_and_unit(text)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    };
    usize::try_from(number.checked_mul(factor)?).ok().filter(|bytes| *bytes > 0)
}

/// A time as settings have it, such as `500ms`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = number_and_unit(text)?;
    let duration = match unit {
        "" if number == 0 => Duration::ZERO,
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(3600)?),
        _ => return None,
    };
    (duration <= DURATION_MAX).then_some(duration)
}

fn parse_host(text: &str) -> Option<Host> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse() {
        return Some(Host::Address(address));
    }
    let letters_fit = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    // A last label of digits alone is a mistyped address, such as 127.0.0.300: no name ends so.
    let last_label = text.trim_end_matches('.').rsplit('.').next()?;
    let named = last_label.bytes().any(|byte| !byte.is_ascii_digit());
    (letters_fit && named && text.len() <= 253).then(|| Host::Name(text.to_owned()))
}

fn parse_names(text: &str) -> Option<Vec<String>> {
    text.split(',').map(str::trim).map(|name| (!name.is_empty()).then(|| name.to_owned())).collect()
}
