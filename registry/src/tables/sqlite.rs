//! How do the tables lie in a file of SQLite?
//!
//! In WAL mode, so that whoever reads never waits for who writes, nor the other way round. `synchronous = NORMAL`: a loss of
//! power may take the last transactions, and never leaves a broken file; what was taken is read from the log again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension as _, TransactionBehavior, params};

use super::schema::{self, Dialect};
use super::{Database, Row, check_version};
use crate::entry::Head;
use crate::{Error, Result};

/// How long somebody else's transaction is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Sqlite {
    connection: Connection,
    path: PathBuf,
}

impl Sqlite {
    pub(super) fn open(path: &Path) -> Result<Sqlite> {
        match Sqlite::open_as_it_is(path) {
            Err((_, Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))) => {
                remove(path)?;
                Sqlite::open_as_it_is(path).map_err(|(error, _)| error)
            }
            opened => opened.map_err(|(error, _)| error),
        }
    }

    fn open_as_it_is(path: &Path) -> Result<Sqlite, (Error, Option<ErrorCode>)> {
        let fail = |error: rusqlite::Error| (refused(path, "open", &error), error.sqlite_error_code());
        let connection = Connection::open(path).map_err(fail)?;
        connection.busy_timeout(PATIENCE).map_err(fail)?;
        use_wal(&connection).map_err(fail)?;
        connection.pragma_update(None, "synchronous", "NORMAL").map_err(fail)?;
        let is_there: bool = connection
            .query_row("SELECT count(*) > 0 FROM sqlite_schema WHERE name = 'applied'", [], |row| row.get(0))
            .map_err(fail)?;
        let version = if is_there {
            let version = connection.query_row("SELECT schema_version FROM applied", [], |row| row.get(0)).optional();
            version.map_err(fail)?.unwrap_or(0)
        } else {
            0
        };
        let mut opened = Sqlite { connection, path: path.to_owned() };
        if !check_version(&path.display().to_string(), version).map_err(|error| (error, None))? {
            opened.begin().map_err(|error| (error, None))?;
        }
        Ok(opened)
    }

    fn refused(&self, doing: &'static str) -> impl Fn(rusqlite::Error) -> Error + use<> {
        let path = self.path.clone();
        move |error| refused(&path, doing, &error)
    }
}

/// SQLite waits for others with everything but this: where two open a new file at once, one is told that it is locked.
fn use_wal(connection: &Connection) -> rusqlite::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && Instant::now() < until => {
                thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

fn refused(path: &Path, doing: &'static str, error: &rusqlite::Error) -> Error {
    let code = error.sqlite_error().map_or(0, |error| error.extended_code);
    Error::Refused { database: path.display().to_string(), doing, what: error.to_string(), code: code.to_string() }
}

/// Takes away the file, and what SQLite keeps beside it.
fn remove(path: &Path) -> Result<()> {
    for end in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        match fs::remove_file(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", path, error)),
            _ => {}
        }
    }
    Ok(())
}

impl Database for Sqlite {
    fn applied(&mut self) -> Result<Head> {
        let row = self.connection.query_row("SELECT seq, hash FROM applied", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        });
        let (sequence, hash) = row.map_err(self.refused("say how far it is"))?;
        Ok(head(sequence, &hash))
    }

    fn add(&mut self, after: Head, rows: &[Row], upto: Head) -> Result<bool> {
        let fail = self.refused("add entries");
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&fail)?;
        let moved = transaction.execute(
            "UPDATE applied SET seq = ?1, hash = ?2 WHERE seq = ?3 AND hash = ?4",
            params![number(upto.sequence), upto.hash.to_string(), number(after.sequence), after.hash.to_string()],
        );
        if moved.map_err(&fail)? == 0 {
            return Ok(false);
        }
        {
            // What SQLite does not take for JSON would make each query over it fail.
            let mut insert = transaction
                .prepare(
                    "INSERT INTO entries VALUES
                     (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, CASE WHEN json_valid(?13) THEN ?13 END)",
                )
                .map_err(&fail)?;
            for row in rows {
                let Row { seq, time_ms, kind, hash, author, model, version, environment, request, .. } = row;
                let Row { promotion, endpoint, rollout, data, .. } = row;
                let added = insert.execute(params![
                    seq,
                    time_ms,
                    kind,
                    hash,
                    author,
                    model,
                    version,
                    environment,
                    request,
                    promotion,
                    endpoint,
                    rollout,
                    data
                ]);
                added.map_err(&fail)?;
            }
        }
        transaction.commit().map_err(&fail)?;
        Ok(true)
    }

    fn begin(&mut self) -> Result<()> {
        let fail = self.refused("make its tables");
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&fail)?;
        let found: Vec<(String, String)> = {
            // Views before what they look at; indexes go with their tables.
            let sql =
                "SELECT type, name FROM sqlite_schema WHERE type IN ('view', 'table') AND name NOT LIKE 'sqlite_%'
                       ORDER BY type DESC";
            let mut query = transaction.prepare(sql).map_err(&fail)?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(&fail)?;
            rows.collect::<rusqlite::Result<_>>().map_err(&fail)?
        };
        for (kind, name) in found {
            let name = name.replace('"', "\"\"");
            transaction.execute_batch(&format!("DROP {kind} \"{name}\"")).map_err(&fail)?;
        }
        transaction.execute_batch(&schema::statements(Dialect::Sqlite)).map_err(&fail)?;
        let start = Head::START.hash.to_string();
        let written = transaction.execute("INSERT INTO applied VALUES (1, ?1, 0, ?2)", params![schema::VERSION, start]);
        written.map_err(&fail)?;
        transaction.commit().map_err(&fail)
    }
}

fn number(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

/// What was read, as the database has it. What is no head at all is none that a log has: all is made anew.
pub(super) fn head(sequence: i64, hash: &str) -> Head {
    let sequence = u64::try_from(sequence).unwrap_or(u64::MAX);
    hash.parse().map_or(Head { sequence: u64::MAX, ..Head::START }, |hash| Head { sequence, hash })
}
