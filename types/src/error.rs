//! In which ways can a request fail? One closed set, the same on every protocol.

use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

/// A result whose error a client may see.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kinds of failure. Each protocol has one exhaustive match from these to its own codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The client's mistake: the message says what was wrong and what was expected.
    Invalid,
    /// No credentials, or wrong ones.
    Unauthenticated,
    /// Known, but not allowed.
    Forbidden,
    /// No such model, version or path.
    NotFound,
    /// A body, tensor or message over its limit.
    TooLarge,
    /// No room now; to be tried again after a moment.
    Overloaded,
    /// The model or the server cannot answer yet.
    NotReady,
    /// The server is shutting down.
    Draining,
    /// The time the client gave has run out.
    Deadline,
    /// The client went away or withdrew the request.
    Cancelled,
    /// The engine failed on a good request.
    Engine,
    /// Not offered here.
    Unsupported,
}

impl ErrorKind {
    /// All kinds, in the order of their declaration.
    pub const ALL: [ErrorKind; 12] = [
        ErrorKind::Invalid,
        ErrorKind::Unauthenticated,
        ErrorKind::Forbidden,
        ErrorKind::NotFound,
        ErrorKind::TooLarge,
        ErrorKind::Overloaded,
        ErrorKind::NotReady,
        ErrorKind::Draining,
        ErrorKind::Deadline,
        ErrorKind::Cancelled,
        ErrorKind::Engine,
        ErrorKind::Unsupported,
    ];

    /// The name in metrics and logs, such as `not_found`.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorKind::Invalid => "invalid",
            ErrorKind::Unauthenticated => "unauthenticated",
            ErrorKind::Forbidden => "forbidden",
            ErrorKind::NotFound => "not_found",
            ErrorKind::TooLarge => "too_large",
            ErrorKind::Overloaded => "overloaded",
            ErrorKind::NotReady => "not_ready",
            ErrorKind::Draining => "draining",
            ErrorKind::Deadline => "deadline",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Engine => "engine",
            ErrorKind::Unsupported => "unsupported",
        }
    }
}

/// A failure that is told to the client: its kind, a sentence, and when to try again if that helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    retry_after: Option<Duration>,
    run: Option<NonZeroU64>,
}

impl Error {
    /// A failure of `kind`; `message` says what was wrong, what was expected and where.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), retry_after: None, run: None }
    }

    /// The client's mistake.
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }

    /// Something named that is not there.
    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::NotFound, message)
    }

    /// Something this server does not offer.
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// A body, tensor or message over its limit.
    pub fn too_large(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::TooLarge, message)
    }

    /// Adds when to try again.
    pub fn retry_after(mut self, wait: Duration) -> Error {
        self.retry_after = Some(wait);
        self
    }

    /// Adds the number of the run that failed: whoever was in it failed for one cause.
    pub fn in_run(mut self, run: u64) -> Error {
        self.run = NonZeroU64::new(run);
        self
    }

    /// The run that failed, where one did.
    pub fn run(&self) -> Option<u64> {
        self.run.map(NonZeroU64::get)
    }

    /// The kind, which decides the protocol's code.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The sentence for the client.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// How long to wait before trying again, where known.
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
