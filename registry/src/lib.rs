//! Which durable facts are there, and who can prove that nobody changed them?
//!
//! One append-only log, whose entries are chained by their hashes. It knows no model, rollout or approval: what an entry
//! means is its kind, and those who write it say what stands in it. It reads no clock: who appends says what time it is.
//! `docs/log.md` has the format, and `verify.py` checks it without a line of this crate.

mod disk;
mod entry;
mod error;
mod lines;
mod log;
mod reader;

pub use entry::{Entry, Head, LINE_BYTES_MAX};
pub use error::{Break, Error, Result};
pub use lines::Lines;
pub use log::{Cut, Limits, Log, Ticket};
pub use reader::{Entries, Verified, verify};
