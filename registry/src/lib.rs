//! Which durable facts are there, and who can prove that nobody changed them?
//!
//! One append-only log, whose entries are chained by their hashes. The log knows no model, rollout or approval: what an entry
//! means is its kind, and those who write it say what stands in it. It reads no clock: who appends says what time it is.
//! [`book`] is what it says of models, environments and approvals.
//! `docs/log.md` has the format, and `verify.py` checks it without a line of this crate.

pub mod artifacts;
pub mod audit;
pub mod backup;
pub mod book;
mod copy;
mod disk;
mod entry;
mod error;
mod folder;
mod letter;
mod lines;
mod log;
pub mod mlflow;
#[cfg(feature = "sql")]
pub mod postgres;
mod reader;
mod recent;
#[cfg(feature = "sql")]
mod remote;
#[cfg(not(feature = "sql"))]
#[path = "remote/absent.rs"]
mod remote;
pub mod signing;
#[cfg(feature = "sql")]
pub mod tables;

pub use copy::{Migrated, migrate};
pub use entry::{Entry, Head, LINE_BYTES_MAX};
pub use error::{Break, Error, Result};
pub use letter::{Letter, Replica, Taken};
pub use lines::Lines;
pub use log::{Cut, Draft, Limits, Log, Ticket};
pub use reader::{Entries, Verified, verify};
pub use remote::{Address, Remote};
