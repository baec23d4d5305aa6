//! How does one talk to the registry's Postgres, and find out in time that it does not answer?
//!
//! A thin, blocking client: each call has an end, whatever the database, the network or the machine over there does. A
//! statement's limit at the server does not help where that server stands still, so there is one here too; a connection on
//! which it passed is lost, and who wants to go on connects anew. Over the network all is TLS by rustls, unless the URL says
//! otherwise in words. Calls block, and must not be made from an event loop: use a thread.

mod tls;

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Config, NoTls};

pub use tokio_postgres::Row;
pub use tokio_postgres::types::ToSql;

use crate::{Error, Result};

/// How long a connection may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long any one statement may take, if nobody says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What only one of those who share a database does at a time. Each has an advisory lock of its own, in this one place, so that
/// who makes tables never waits for who leads.
#[derive(Clone, Copy)]
pub(crate) enum Turn {
    MakeLog = 1,
    Lead = 2,
    MakeTables = 3,
}

impl fmt::Display for Turn {
    /// As the arguments of Postgres's functions: the first number is this program's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1953066100, {}", *self as i32)
    }
}

/// Where the database is, and who asks. Shown without the password.
#[derive(Clone)]
pub struct Address {
    config: Config,
    /// The authorities to believe, in PEM; without it those of the system.
    roots: Option<PathBuf>,
    patience: Duration,
    shown: String,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// Whether it is the URL of a Postgres, and no folder.
pub fn is_url(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

impl Address {
    /// Reads `postgres://USER[:PASSWORD]@HOST[:PORT]/DATABASE[?…]`, with the parameters that `psql` has. `password`, where one
    /// is known from elsewhere, wins over the URL's. Over TCP, to another machine, `sslmode` is `require` if it is not given,
    /// and `require` is what `psql` calls `verify-full`: the certificate must be of that host, by an authority of the system
    /// or one in the file `sslrootcert`. The error shows no password.
    pub fn parse(url: &str, password: Option<&str>) -> Result<Address> {
        let unfit = |why: &str| {
            Err(Error::Unfit(format!(
                "the registry's URL is not one of Postgres: {why}; expected postgres://USER@HOST:PORT/DATABASE, or \
                 postgres:///DATABASE?host=/FOLDER for a Unix socket"
            )))
        };
        if !is_url(url) {
            return unfit("it does not begin with postgres://");
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut roots, mut mode, mut kept) = (None, None, Vec::new());
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("sslrootcert", path)) => roots = Some(PathBuf::from(path)),
                Some(("sslmode", said)) => mode = Some(said),
                _ => kept.push(parameter),
            }
        }
        // The library's words may repeat a part of the URL, and so of the password.
        let Ok(mut config) = format!("{base}?{}", kept.join("&")).parse::<Config>() else {
            return unfit(
                "its parts cannot be read (characters such as @ or / in a password are written as %40 or %2F)",
            );
        };
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return unfit("it names no host");
        }
        let mode = match mode {
            Some("disable") => SslMode::Disable,
            Some("prefer") => SslMode::Prefer,
            Some("require" | "verify-full") => SslMode::Require,
            Some(_) => return unfit("sslmode is unknown (disable, prefer, require and verify-full are known)"),
            None if config.get_hosts().iter().all(is_here) => SslMode::Disable,
            None => SslMode::Require,
        };
        if let Some(password) = password {
            config.password(password);
        }
        config.ssl_mode(mode).connect_timeout(CONNECT_MAX).application_name("tiltyard");
        config.keepalives_idle(PATIENCE).keepalives_interval(Duration::from_secs(2)).keepalives_retries(3);
        config.tcp_user_timeout(PATIENCE);
        let shown = shown(&config);
        Ok(Address { config, roots, patience: PATIENCE, shown })
    }

    /// The same, with another limit for each statement.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Address {
        Address { patience, ..self }
    }

    /// Connects. Fails with [`Error::Unreachable`] where there is no answer, with [`Error::Refused`] where it is no.
    pub fn connect(&self) -> Result<Client> {
        let tls = tls::Tls::new(self.roots.as_deref())?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| self.unreachable(format!("no event loop: {error}")))?;
        let mut config = self.config.clone();
        let said = config.get_options().unwrap_or_default().to_owned();
        let limit = self.patience.as_millis();
        config.options(format!("-c statement_timeout={limit} -c idle_in_transaction_session_timeout={limit} {said}"));
        let connected = runtime.block_on(async {
            let connecting = async {
                if config.get_ssl_mode() == SslMode::Disable {
                    let (client, connection) = config.connect(NoTls).await?;
                    tokio::spawn(connection);
                    return Ok(client);
                }
                let (client, connection) = config.connect(tls).await?;
                tokio::spawn(connection);
                Ok::<_, tokio_postgres::Error>(client)
            };
            // The library's limit is for the socket alone: who listens may still say nothing.
            tokio::time::timeout(CONNECT_MAX * 2, connecting).await
        });
        match connected {
            Ok(Ok(client)) => Ok(Client { client, runtime, address: self.clone(), is_lost: false }),
            Ok(Err(error)) => Err(self.failed("connect", &error)),
            Err(_) => Err(self.unreachable(format!("no answer within {} s", CONNECT_MAX.as_secs() * 2))),
        }
    }

    fn unreachable(&self, what: String) -> Error {
        Error::Unreachable { database: self.shown.clone(), what }
    }

    fn failed(&self, doing: &'static str, error: &tokio_postgres::Error) -> Error {
        let Some(refused) = error.as_db_error() else {
            // The library's own words are general; what is behind them is not.
            let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
            return self.unreachable(format!("{error}{cause}"));
        };
        let code = refused.code().code();
        // Classes 08, 53, 57 and 58: connections, room, an operator's doing, the system. They pass.
        if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) {
            return self.unreachable(format!("{} ({code})", refused.message()));
        }
        let (database, what) = (self.shown.clone(), refused.message().to_owned());
        Error::Refused { database, doing, what, code: code.to_owned() }
    }
}

fn is_here(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => matches!(name.as_str(), "localhost" | "127.0.0.1" | "::1"),
    }
}

fn shown(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => config.get_hostaddrs().first().map(ToString::to_string).unwrap_or_default(),
    };
    let user = config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
    let port = config.get_ports().first().map(|port| format!(":{port}")).unwrap_or_default();
    format!("postgres://{user}{host}{port}/{}", config.get_dbname().unwrap_or_default())
}

/// A connection. Each call has an end.
pub struct Client {
    client: tokio_postgres::Client,
    /// Drives the connection, while a call waits.
    runtime: Runtime,
    address: Address,
    is_lost: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.address).field("is_lost", &self.is_lost).finish()
    }
}

impl Client {
    /// To whom it is connected.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Whether it is of no use any more: connect anew.
    pub fn is_lost(&self) -> bool {
        self.is_lost || self.client.is_closed()
    }

    /// Runs a statement with `$1`, `$2` …, and says how many rows it touched.
    pub fn execute(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64> {
        self.within("run a statement", |client| async move { client.execute(sql, parameters).await })
    }

    /// Asks for rows. What comes back is all in memory: ask for pages.
    pub fn query(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        self.within("answer a query", |client| async move { client.query(sql, parameters).await })
    }

    /// Waits for a turn, which ends with the transaction.
    pub(crate) fn wait_for(&mut self, turn: Turn) -> Result<()> {
        self.query(&format!("SELECT pg_advisory_xact_lock({turn})"), &[]).map(drop)
    }

    /// Takes a turn where nobody else has it, and says whether it did. It ends with the session.
    pub(crate) fn takes(&mut self, turn: Turn) -> Result<bool> {
        let rows = self.query(&format!("SELECT pg_try_advisory_lock({turn})"), &[])?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    /// Runs statements without parameters, one after the other.
    pub fn batch(&mut self, sql: &str) -> Result<()> {
        self.within("run statements", |client| async move { client.batch_execute(sql).await })
    }

    /// Has `work` done as a whole or not at all. After [`Error::Unreachable`] it may have been done: only who looks at what
    /// is there, on a new connection, knows.
    pub fn transaction<T, E: From<Error>>(&mut self, work: impl FnOnce(&mut Client) -> Result<T, E>) -> Result<T, E> {
        self.batch("BEGIN")?;
        match work(self) {
            Ok(done) => {
                self.batch("COMMIT")?;
                Ok(done)
            }
            Err(error) => {
                // Where not even that arrives, the connection is gone, and the transaction with it.
                self.is_lost |= self.batch("ROLLBACK").is_err();
                Err(error)
            }
        }
    }

    fn within<'a, T, F: Future<Output = Result<T, tokio_postgres::Error>> + 'a>(
        &'a mut self,
        doing: &'static str,
        asked: impl FnOnce(&'a tokio_postgres::Client) -> F,
    ) -> Result<T> {
        if self.is_lost {
            return Err(self.address.unreachable("the connection was lost".to_owned()));
        }
        // A little more than the server has: its own words are better.
        let limit = self.address.patience + Duration::from_millis(500);
        let asked = asked(&self.client);
        let answered = self.runtime.block_on(async { tokio::time::timeout(limit, asked).await });
        match answered {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let failed = self.address.failed(doing, &error);
                self.is_lost |= self.client.is_closed();
                Err(failed)
            }
            Err(_) => {
                self.is_lost = true;
                Err(self.address.unreachable(format!("no answer within {} s", limit.as_secs_f32())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        let url = "postgres://tilt:s%40cret@db.example:5433/registry?connect_timeout=3";
        let address = Address::parse(url, None).expect("a URL");
        assert_eq!(address.to_string(), "postgres://tilt@db.example:5433/registry");
        assert_eq!(format!("{address:?}"), address.to_string());
        assert_eq!(address.config.get_password(), Some(&b"s@cret"[..]));
        let address = Address::parse(url, Some("other")).expect("a URL");
        assert_eq!(address.config.get_password(), Some(&b"other"[..]));
    }

    #[test]
    fn what_leaves_the_machine_is_encrypted() {
        let mode = |url: &str| Address::parse(url, None).expect(url).config.get_ssl_mode();
        assert_eq!(mode("postgres://u@db.example/r"), SslMode::Require);
        assert_eq!(mode("postgres://u@db.example/r?sslmode=verify-full&sslrootcert=/etc/ca.pem"), SslMode::Require);
        assert_eq!(mode("postgres://u@db.example/r?sslmode=disable"), SslMode::Disable);
        assert_eq!(mode("postgresql://u@localhost/r"), SslMode::Disable);
        assert_eq!(mode("postgres:///r?host=/run/postgresql&user=u"), SslMode::Disable);
    }

    #[test]
    fn what_is_no_url_of_postgres_is_refused_without_its_password() {
        let check = |url: &str, expected: &str| {
            let error = Address::parse(url, None).expect_err(url).to_string();
            assert!(error.contains(expected) && error.contains("postgres://USER@HOST"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        };
        check("mysql://u:s3cret@h/r", "does not begin with postgres://");
        check("postgres:///r", "names no host");
        check("postgres://u:s3cret@h/r?sslmode=maybe", "sslmode is unknown");
        check("postgres://u:s3cret@h:s3cret/r", "parts cannot be read");
        check("postgres://u:s3cret@h/r?what=s3cret", "parts cannot be read");
    }

    #[test]
    fn nobody_there_is_said_with_the_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("postgres:///r?host={}&user=u", folder.path().display());
        let error = Address::parse(&url, None).expect("a URL").connect().expect_err("nobody is there");
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(&folder.path().display().to_string()), "{error}");
    }

    /// Who listens and says nothing must not hold a thread for good.
    #[test]
    fn silence_has_an_end() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("postgres://u@127.0.0.1:{}/r", listener.local_addr().expect("an address").port());
        let begun = std::time::Instant::now();
        let error = Address::parse(&url, None).expect("a URL").connect().expect_err("it says nothing");
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        assert!(begun.elapsed() < CONNECT_MAX * 3, "{:?}", begun.elapsed());
    }
}
