//! How do the tables lie in a schema of Postgres, which several replicas keep at once?

use super::schema::{self, Dialect};
use super::sqlite::head;
use super::{Database, Row, check_version};
use crate::entry::Head;
use crate::postgres::{Address, Client, Turn};
use crate::{Error, Result};

pub(super) struct Postgres {
    address: Address,
    client: Option<Client>,
}

/// What came of adding rows.
enum Added {
    Done,
    Moved,
    /// Some row holds what Postgres does not take for JSON.
    Unfit,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble(Some(error))
    }
}

/// Why a transaction is taken back; nothing, where somebody else was faster.
struct Trouble(Option<Error>);

impl Postgres {
    pub(super) fn open(address: &Address) -> Result<Postgres> {
        let mut opened = Postgres { address: address.clone(), client: None };
        opened.client()?;
        Ok(opened)
    }

    /// The connection, which is made anew where it was lost.
    fn client(&mut self) -> Result<&mut Client> {
        let usable = self.client.take().filter(|client| !client.is_lost());
        let client = match usable {
            Some(client) => client,
            None => {
                let mut client = self.address.connect()?;
                let shown = self.address.to_string();
                client.transaction(|client| {
                    client.wait_for(Turn::MakeTables)?;
                    if !check_version(&shown, version(client)?)? {
                        make(client)?;
                    }
                    Ok::<_, Error>(())
                })?;
                client.batch("SET search_path TO tiltyard")?;
                client
            }
        };
        Ok(self.client.insert(client))
    }

    fn try_to_add(&mut self, after: Head, rows: &[Row], upto: Head, is_checked: bool) -> Result<Added> {
        let done = self.client()?.transaction(|client| {
            let moved = client.execute(
                "UPDATE applied SET seq = $1, hash = $2 WHERE seq = $3 AND hash = $4",
                &[&number(upto.sequence), &upto.hash.to_string(), &number(after.sequence), &after.hash.to_string()],
            )?;
            if moved == 0 {
                return Err(Trouble(None));
            }
            if is_checked {
                rows.iter().try_for_each(|row| insert_one(client, row))?;
            } else {
                insert(client, rows)?;
            }
            Ok(())
        });
        match done {
            Ok(()) => Ok(Added::Done),
            Err(Trouble(None)) => Ok(Added::Moved),
            // Classes 22 and 54: data that it cannot hold, and limits. Each row by itself then.
            Err(Trouble(Some(Error::Refused { code, .. }))) if !is_checked && is_unfit(&code) => Ok(Added::Unfit),
            Err(Trouble(Some(error))) => Err(error),
        }
    }
}

fn is_unfit(code: &str) -> bool {
    code.starts_with("22") || code.starts_with("54")
}

fn version(client: &mut Client) -> Result<i64> {
    let is_there = client.query("SELECT to_regclass('tiltyard.applied') IS NOT NULL", &[])?;
    if !is_there.first().is_some_and(|row| row.get(0)) {
        return Ok(0);
    }
    let rows = client.query("SELECT schema_version FROM tiltyard.applied", &[])?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}

fn make(client: &mut Client) -> Result<()> {
    client
        .batch("DROP SCHEMA IF EXISTS tiltyard CASCADE; CREATE SCHEMA tiltyard; SET LOCAL search_path TO tiltyard")?;
    client.batch(&schema::statements(Dialect::Postgres))?;
    let start = Head::START.hash.to_string();
    client.execute("INSERT INTO applied VALUES (1, $1, 0, $2)", &[&schema::VERSION, &start]).map(drop)
}

fn insert(client: &mut Client, rows: &[Row]) -> Result<()> {
    fn column<'a, T>(rows: &'a [Row], of: impl Fn(&'a Row) -> T) -> Vec<T> {
        rows.iter().map(of).collect()
    }
    let sql = "INSERT INTO entries
        SELECT seq, time_ms, kind, hash, author, model, version, environment, request, promotion, endpoint, rollout, data::jsonb
        FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::text[],
                    $9::text[], $10::text[], $11::text[], $12::text[], $13::text[])
        AS r (seq, time_ms, kind, hash, author, model, version, environment, request, promotion, endpoint, rollout, data)";
    let added = client.execute(
        sql,
        &[
            &column(rows, |row| row.seq),
            &column(rows, |row| row.time_ms),
            &column(rows, |row| &row.kind),
            &column(rows, |row| &row.hash),
            &column(rows, |row| &row.author),
            &column(rows, |row| &row.model),
            &column(rows, |row| row.version),
            &column(rows, |row| &row.environment),
            &column(rows, |row| &row.request),
            &column(rows, |row| &row.promotion),
            &column(rows, |row| &row.endpoint),
            &column(rows, |row| &row.rollout),
            &column(rows, |row| &row.data),
        ],
    );
    added.map(drop)
}

/// Adds a row; where Postgres cannot hold what it says, without that.
fn insert_one(client: &mut Client, row: &Row) -> Result<()> {
    client.batch("SAVEPOINT one")?;
    match insert(client, std::slice::from_ref(row)) {
        Err(Error::Refused { code, .. }) if is_unfit(&code) => {
            client.batch("ROLLBACK TO one")?;
            let Row { seq, time_ms, kind, hash, .. } = row.clone();
            insert(client, &[Row { seq, time_ms, kind, hash, ..Row::default() }])
        }
        done => done,
    }
}

impl Database for Postgres {
    fn applied(&mut self) -> Result<Head> {
        let rows = self.client()?.query("SELECT seq, hash FROM applied", &[])?;
        Ok(rows.first().map_or(Head { sequence: u64::MAX, ..Head::START }, |row| head(row.get(0), row.get(1))))
    }

    fn add(&mut self, after: Head, rows: &[Row], upto: Head) -> Result<bool> {
        let added = match self.try_to_add(after, rows, upto, false)? {
            Added::Unfit => self.try_to_add(after, rows, upto, true)?,
            added => added,
        };
        Ok(matches!(added, Added::Done))
    }

    fn begin(&mut self) -> Result<()> {
        self.client()?.transaction(|client| {
            client.wait_for(Turn::MakeTables)?;
            make(client)
        })
    }
}

fn number(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}
