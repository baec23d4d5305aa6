//! How does the process serve? Protocols, admission, the catalog's one writer, telemetry, admin and command line.

mod admin;
pub mod admission;
pub mod catalog;
pub mod cli;
mod clock;
pub mod config;
pub mod cores;
mod deadlines;
pub mod describe;
pub mod engines;
pub mod fronts;
mod guard;
mod ids;
pub mod infer;
pub mod ledger;
pub mod listen;
pub mod local;
pub mod logs;
pub mod manage;
mod protocol;
pub mod reaper;
pub mod service;
pub mod start;
pub mod telemetry;
pub mod writer;
