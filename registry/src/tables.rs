//! How does one ask the record in SQL?
//!
//! The log is the truth; the tables are what follows from it, and are dropped and made anew at will. There is one table that
//! is written, `entries`, a row for each entry with what it is about in columns, and views over it that say what the facts
//! come to: models, versions, tags, metrics, aliases, environments, requests, approvals, promotions, plans, rollouts and
//! verdicts. A view cannot disagree with its facts, and each row of it carries the sequence that made it.
//!
//! How far the log was read, and the hash there, is written in the same transaction as the rows. Whoever opens the tables goes
//! on from there; where the log has another entry in that place, all is made anew. The same holds for a database of an older
//! program; one of a newer program is refused. `docs/audit.md` has the tables.

mod postgres;
mod row;
mod schema;
mod sqlite;

use std::path::Path;

use crate::entry::Head;
use crate::log::Log;
use crate::postgres::Address;
use crate::{Error, Result};
use row::Row;

/// Rows of one transaction, and bytes beyond which it has no further row.
const ROWS: usize = 500;
const BYTES: usize = 8 << 20;

/// A database that holds the tables.
trait Database: Send {
    /// How far the log was read.
    fn applied(&mut self) -> Result<Head>;

    /// Adds rows and moves what was read on, if it is still `after`: otherwise nothing is done, and it says so.
    fn add(&mut self, after: Head, rows: &[Row], upto: Head) -> Result<bool>;

    /// Drops all, and begins anew.
    fn begin(&mut self) -> Result<()>;
}

/// The record in tables, as far as it was read.
pub struct Tables {
    database: Box<dyn Database>,
    applied: Head,
    rebuilt: u64,
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").field("applied", &self.applied).field("rebuilt", &self.rebuilt).finish_non_exhaustive()
    }
}

impl Tables {
    /// Opens the file of SQLite, or begins it. One that is no database any more is made anew.
    pub fn sqlite(path: &Path) -> Result<Tables> {
        Tables::new(Box::new(sqlite::Sqlite::open(path)?))
    }

    /// Opens the schema `tiltyard` in a database of Postgres, or makes it. Several replicas may keep it at once.
    pub fn postgres(address: &Address) -> Result<Tables> {
        Tables::new(Box::new(postgres::Postgres::open(address)?))
    }

    fn new(mut database: Box<dyn Database>) -> Result<Tables> {
        let applied = database.applied()?;
        Ok(Tables { database, applied, rebuilt: 0 })
    }

    /// The last entry that the tables have.
    pub fn applied(&self) -> Head {
        self.applied
    }

    /// How often all was made anew since it was opened, as the log is another one than was read.
    pub fn rebuilt(&self) -> u64 {
        self.rebuilt
    }

    /// Takes in what the log has promised and the tables do not have. Says how many entries that were. After an error it may
    /// be called again.
    pub fn follow(&mut self, log: &Log) -> Result<u64> {
        let promised = log.head();
        if self.applied == promised {
            return Ok(0);
        }
        self.applied = self.database.applied()?;
        if !is_of(self.applied, log, promised)? {
            self.database.begin()?;
            self.applied = self.database.applied()?;
            self.rebuilt += 1;
        }
        let mut added = 0;
        let (mut rows, mut bytes, mut head) = (Vec::new(), 0, self.applied);
        if head.sequence < promised.sequence {
            for entry in log.entries(head.sequence + 1)? {
                let entry = entry?;
                let row = Row::of(&entry);
                bytes += row.bytes();
                rows.push(row);
                head = entry.head();
                let is_last = head.sequence >= promised.sequence;
                if is_last || rows.len() >= ROWS || bytes >= BYTES {
                    if !self.database.add(self.applied, &rows, head)? {
                        // Another replica was faster. The next call goes on from what it wrote.
                        self.applied = self.database.applied()?;
                        return Ok(added);
                    }
                    added += rows.len() as u64;
                    (self.applied, bytes) = (head, 0);
                    rows.clear();
                }
                if is_last {
                    break;
                }
            }
        }
        Ok(added)
    }

    /// Makes all anew.
    pub fn rebuild(&mut self, log: &Log) -> Result<u64> {
        self.database.begin()?;
        self.applied = Head::START;
        self.follow(log)
    }
}

/// Whether the log, up to what it has promised, has this entry.
fn is_of(applied: Head, log: &Log, promised: Head) -> Result<bool> {
    if applied.sequence == 0 || applied.sequence > promised.sequence {
        return Ok(applied == Head::START);
    }
    let entry = log.entries(applied.sequence)?.next().transpose()?;
    Ok(entry.is_some_and(|entry| entry.head() == applied))
}

/// What a database says that was written by another version of this program.
fn check_version(database: &str, found: i64) -> Result<bool> {
    if found > schema::VERSION {
        return Err(Error::Unfit(format!(
            "the tables in {database} have the schema {found}, and this program knows {}: use the newer program that made \
             them, or drop them, and they are made anew from the log",
            schema::VERSION
        )));
    }
    Ok(found == schema::VERSION)
}
