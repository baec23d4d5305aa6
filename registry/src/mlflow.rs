//! How do models come here from MLflow, and how do its clients find them here?
//!
//! [`folder`] reads what MLflow writes beside a model, [`remote`] asks a tracking server, [`follow`] notices when an alias moves, and
//! [`face`] answers MLflow's own clients. All of this is pure: who calls it reads files, speaks HTTP and knows the time.

pub mod face;
pub mod folder;
pub mod follow;
pub mod remote;
mod yaml;

/// A result of what has to do with MLflow.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model of MLflow's cannot come here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file `MLmodel` is not one that MLflow writes.
    #[error("MLmodel: {0}")]
    Malformed(String),
    /// It is a model, but not one that can be served here.
    #[error("{0}")]
    Unfit(String),
    /// It is not there, or not yet.
    #[error("{0}")]
    Missing(String),
    /// The tracking server cannot be reached.
    #[error("the tracking server does not answer {path}: {why}")]
    Unreachable {
        /// What it was asked for.
        path: String,
        /// What kept the answer from coming.
        why: String,
    },
    /// The tracking server refuses.
    #[error("the tracking server answers {status}{}", told(*status, code, message))]
    Refused {
        /// The status of HTTP.
        status: u16,
        /// MLflow's word for it, where there is one.
        code: String,
        /// What it says.
        message: String,
    },
    /// What the tracking server answers is not what MLflow answers.
    #[error("the tracking server's answer is not understood: {0}")]
    Answer(String),
    /// A reference such as `models:/risk@champion` that is none.
    #[error(
        "{given:?} names nothing in MLflow: {why}; expected models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN/PATH"
    )]
    Reference {
        /// What was given.
        given: String,
        /// What is wrong with it.
        why: String,
    },
}

fn told(status: u16, code: &str, message: &str) -> String {
    let way_out = match status {
        401 | 403 => ": set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        _ => "",
    };
    let space = if code.is_empty() { "" } else { " " };
    let said = if message.is_empty() { String::new() } else { format!(" ({message})") };
    format!("{space}{code}{said}{way_out}")
}
