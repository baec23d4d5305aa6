//! How does a command end, and which code tells that to scripts?

use std::fmt;
use std::io;
use std::process::ExitCode;

/// The exit codes of every command. Scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// It was tried and failed.
    Failed = 1,
    /// The command line or the settings are wrong; nothing was tried.
    Usage = 2,
    /// The server cannot be reached.
    Unreachable = 3,
    /// The server refuses it by its policy.
    Refused = 4,
    /// A rollout ended by going back.
    RolledBack = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command did not get to its end, in words for the person who typed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    /// It was tried and failed.
    pub(crate) fn failed(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Failed, message: message.into() }
    }

    /// The command line or the settings are wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Usage, message: message.into() }
    }

    /// The server cannot be reached.
    pub(crate) fn unreachable(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Unreachable, message: message.into() }
    }

    /// The server refuses it by its policy.
    pub(crate) fn refused(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::Refused, message: message.into() }
    }

    /// A rollout ended by going back.
    pub(crate) fn rolled_back(message: impl Into<String>) -> Failure {
        Failure { exit: Exit::RolledBack, message: message.into() }
    }

    /// It failed, and what was printed says why.
    pub(crate) fn told() -> Failure {
        Failure::failed("")
    }

    /// The code to end with.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// The same with words that say where it happened.
    pub(crate) fn at(self, place: &str) -> Failure {
        Failure { message: format!("{place}: {}", self.message), ..self }
    }
}

impl From<io::Error> for Failure {
    /// Writing to standard output failed. A reader that has seen enough, such as `head`, is no failure.
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure { exit: Exit::Done, message: String::new() },
            _ => Failure::failed(format!("cannot write to standard output: {error}")),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_manual() {
        let all = [Exit::Done, Exit::Failed, Exit::Usage, Exit::Unreachable, Exit::Refused, Exit::RolledBack];
        assert_eq!(all.map(|exit| exit as u8), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let left = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((left.exit(), left.to_string().as_str()), (Exit::Done, ""));
        assert_eq!(Failure::from(io::Error::other("disk full")).exit(), Exit::Failed);
    }

    #[test]
    fn a_place_keeps_the_code() {
        let failure = Failure::refused("not allowed").at("risk");
        assert_eq!((failure.exit(), failure.to_string().as_str()), (Exit::Refused, "risk: not allowed"));
    }
}
