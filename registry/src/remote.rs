//! How do several replicas share one log, and hand each other what is not on it yet?
//!
//! The log is a table of lines, the same lines as in a folder, and one row with the head. Who appends moves the head from where it
//! has read to, in the one statement that adds the lines: two who decide at once cannot both be heard. Beside it are letters,
//! which are what replicas saw and the one that leads has not put on the log yet, and who was heard when. One replica leads:
//! the one whose session holds a lock of the database, which that gives back when the session ends, however it ends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::entry::{Entry, Head, line};
use crate::letter::{Letter, Replica, Taken};
use crate::log::Draft;
use crate::postgres::{Client, Turn};
use crate::reader::Entries;
use crate::{Break, Error, Result};

pub use crate::postgres::Address;

/// What is made where it is not there yet.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS tiltyard_log (seq bigint PRIMARY KEY, line text NOT NULL);
    CREATE TABLE IF NOT EXISTS tiltyard_head (
        is_one boolean PRIMARY KEY DEFAULT true CHECK (is_one), seq bigint NOT NULL, hash text NOT NULL);
    INSERT INTO tiltyard_head (seq, hash) VALUES (0, repeat('0', 64)) ON CONFLICT DO NOTHING;
    CREATE TABLE IF NOT EXISTS tiltyard_letters (
        topic text NOT NULL, sender text NOT NULL, number bigint NOT NULL, body bytea NOT NULL,
        at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (topic, sender, number));
    CREATE TABLE IF NOT EXISTS tiltyard_replicas (
        sender text PRIMARY KEY, name text NOT NULL, seen timestamptz NOT NULL, seq bigint NOT NULL, leads boolean NOT NULL)";

/// A session that says nothing for so long is ended by the database: a replica that stands still does not lead.
const SILENCE_MAX: &str = "SET idle_session_timeout = '5s'";

/// How long an answer is waited for: whoever is served does not wait, but people do.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long after a failure nothing is tried.
const REST: Duration = Duration::from_secs(1);

/// Tries of an append whose only wish is to be on the log somewhere.
const TRIES: usize = 64;

/// Lines in one page, and bytes beyond which a page has no further line.
const PAGE_LINES: i64 = 500;
const PAGE_BYTES: i64 = 8 << 20;

/// Letters in one page.
const PAGE_LETTERS: i64 = 100;

/// A log in a database, and what lies beside it.
#[derive(Clone, Debug)]
pub struct Remote(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: Address,
    link: Mutex<Link>,
}

#[derive(Debug)]
struct Link {
    client: Option<Client>,
    /// Nothing is tried before.
    rest_until: Option<Instant>,
    last: Option<Error>,
    head: Head,
    /// Counts sessions.
    session: u64,
    /// Whether this session has the lock of the one that leads.
    leads: bool,
}

impl Remote {
    pub(crate) fn connect(address: &Address) -> Result<Remote> {
        let address = address.clone().patience(PATIENCE);
        let link = Link { client: None, rest_until: None, last: None, head: Head::START, session: 0, leads: false };
        let remote = Remote(Arc::new(Shared { address, link: Mutex::new(link) }));
        remote.with(|_, link| link.read_head())?;
        Ok(remote)
    }

    /// Where it is, without a password.
    pub fn address(&self) -> &Address {
        &self.0.address
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.0.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something on the session, or on a new one where there is none. Soon after a failure, fails with the same.
    fn with<T>(&self, work: impl FnOnce(&Remote, &mut Link) -> Result<T>) -> Result<T> {
        let mut link = self.link();
        link.open(&self.0.address)?;
        let done = work(self, &mut link);
        if let Err(error @ (Error::Unreachable { .. } | Error::Refused { .. })) = &done {
            link.rest(error);
        }
        done
    }

    pub(crate) fn head(&self) -> Head {
        self.link().head
    }

    pub(crate) fn entries(&self, from: u64) -> Result<Entries> {
        // The entry before says what the first must follow.
        let first = from.saturating_sub(1).max(1);
        let pages = Pages { remote: self.clone(), lines: VecDeque::new(), next: first };
        Ok(Entries::of_pages(pages, from))
    }

    /// The entries after `head`: one page of them, each checked against the one before. Fails where the log does not go on from
    /// there: somebody has put another in its place, such as an older copy.
    pub fn entries_after(&self, head: Head) -> Result<Vec<Entry>> {
        let lines = self.with(|_, link| {
            let last = link.read_head()?;
            if last == head {
                return Ok(Vec::new());
            }
            if last.sequence <= head.sequence {
                let (ends, read) = (last.sequence, head.sequence);
                return Err(broken(
                    ends,
                    format!("it ends here, and entry {read} with hash {} was read before", head.hash),
                ));
            }
            link.page(head.sequence + 1)
        })?;
        let mut last = head;
        let check = |line: String| {
            let entry = checked(&line, last.sequence + 1, Some(last))?;
            last = entry.head();
            Ok(entry)
        };
        lines.into_iter().map(check).collect()
    }

    /// Appends after whatever is the last entry.
    pub(crate) fn record(&self, drafts: &[Draft]) -> Result<Head> {
        let mut head = self.head();
        for _ in 0..TRIES {
            match self.record_after(head, drafts, None) {
                Err(Error::Moved { .. }) => head = self.with(|_, link| link.read_head())?,
                done => return done,
            }
        }
        Err(Error::Moved { after: head.sequence })
    }

    /// Appends right after `head`, all or none. With `taken`, only as the one that leads, and the letters that were taken are
    /// gone in the same moment: what they said is on the log once.
    pub fn record_after(&self, head: Head, drafts: &[Draft], taken: Option<&Taken>) -> Result<Head> {
        let (mut lines, mut numbers, mut last) = (Vec::new(), Vec::new(), head);
        for Draft { time_ms, kind, data } in drafts {
            let (mut line, next) = line(last, *time_ms, kind, data)?;
            line.pop();
            lines.push(line);
            numbers.push(signed(next.sequence));
            last = next;
        }
        self.with(|_, link| link.append(head, last, (&numbers, &lines), taken))
    }

    /// Whether this process leads now, and in which of its terms: one ends with the session, and another may have led since. It
    /// asks to lead where nobody else does.
    pub fn leads(&self) -> Result<Option<u64>> {
        self.with(|_, link| {
            if !link.leads {
                link.leads = link.client()?.takes(Turn::Lead)?;
            }
            Ok(link.leads.then_some(link.session))
        })
    }

    /// Fails where the database cannot be reached: whatever would have been sent was not.
    pub fn reach(&self) -> Result<()> {
        self.with(|_, link| link.client().map(drop))
    }

    /// Sends letters, unless their sender has so many of a topic under way already, where that is bounded: those are not sent. After an error they
    /// may be there all the same: who must not say anything twice sees to it with [`Remote::reach`] that it is not sent in vain.
    pub fn send(&self, letters: &[Letter], waiting_max: Option<u64>) -> Result<()> {
        let of = |text: fn(&Letter) -> &str| letters.iter().map(text).collect::<Vec<_>>();
        let (topics, senders) = (of(|letter| &letter.topic), of(|letter| &letter.sender));
        let numbers: Vec<i64> = letters.iter().map(|letter| signed(letter.number)).collect();
        let bodies: Vec<&[u8]> = letters.iter().map(|letter| &*letter.body).collect();
        let sql = "INSERT INTO tiltyard_letters (topic, sender, number, body)
            SELECT n.topic, n.sender, n.number, n.body
            FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) AS n (topic, sender, number, body)
            WHERE $5::bigint IS NULL OR (SELECT count(*) FROM tiltyard_letters m WHERE m.topic = n.topic AND m.sender = n.sender) < $5
            ON CONFLICT DO NOTHING";
        let waiting_max = waiting_max.map(signed);
        self.with(|_, link| {
            link.client()?.execute(sql, &[&topics, &senders, &numbers, &bodies, &waiting_max]).map(drop)
        })
    }

    /// Letters about these topics that are not among those taken, some of them: the oldest of each sender first.
    pub fn collect(&self, topics: &[String], taken: &Taken) -> Result<Vec<Letter>> {
        let (known, senders, numbers) = columns(taken);
        let sql = "SELECT m.topic, m.sender, m.number, m.body FROM tiltyard_letters m
            LEFT JOIN unnest($2::text[], $3::text[], $4::bigint[]) AS t (topic, sender, number)
                ON t.topic = m.topic AND t.sender = m.sender
            WHERE m.topic = ANY ($1) AND m.number > coalesce(t.number, 0)
            ORDER BY m.topic, m.sender, m.number LIMIT $5";
        let rows =
            self.with(|_, link| link.client()?.query(sql, &[&topics, &known, &senders, &numbers, &PAGE_LETTERS]))?;
        let letter = |row: &crate::postgres::Row| Letter {
            topic: row.get(0),
            sender: row.get(1),
            number: unsigned(row.get(2)),
            body: row.get(3),
        };
        Ok(rows.iter().map(letter).collect())
    }

    /// Throws away letters that nobody needs: of other topics than these and older than `strays_ms`, and of each of these older
    /// than it says. What replicas are not heard any more for a day is thrown away too.
    pub fn tidy(&self, kept: &BTreeMap<String, u64>, strays_ms: u64) -> Result<()> {
        let topics: Vec<&str> = kept.keys().map(String::as_str).collect();
        let ages: Vec<f64> = kept.values().map(|&age| age as f64 / 1e3).collect();
        let strays = strays_ms as f64 / 1e3;
        let sql = "DELETE FROM tiltyard_letters m WHERE m.at < now() - make_interval(secs => coalesce(
            (SELECT k.age FROM unnest($1::text[], $2::float8[]) AS k (topic, age) WHERE k.topic = m.topic), $3::float8))";
        self.with(|_, link| {
            let client = link.client()?;
            client.execute(sql, &[&topics, &ages, &strays])?;
            client.execute("DELETE FROM tiltyard_replicas WHERE seen < now() - interval '1 day'", &[]).map(drop)
        })
    }

    /// Says that this process is there, and has read the log up to `sequence`. Answers who else was heard in the last day.
    pub fn report(&self, sender: &str, name: &str, sequence: u64) -> Result<Vec<Replica>> {
        let write = "INSERT INTO tiltyard_replicas (sender, name, seen, seq, leads) VALUES ($1, $2, now(), $3, $4)
            ON CONFLICT (sender) DO UPDATE SET seen = now(), seq = excluded.seq, leads = excluded.leads";
        // Of a replica that was started anew, the latest process counts.
        let read = "SELECT DISTINCT ON (name) name, (extract(epoch FROM now() - seen) * 1000)::bigint, seq, leads
            FROM tiltyard_replicas ORDER BY name, seen DESC LIMIT 1000";
        let sequence = signed(sequence);
        let rows = self.with(|_, link| {
            let leads = link.leads;
            let client = link.client()?;
            client.execute(write, &[&sender, &name, &sequence, &leads])?;
            client.query(read, &[])
        })?;
        let replica = |row: &crate::postgres::Row| Replica {
            name: row.get(0),
            silent_ms: unsigned(row.get(1)),
            sequence: unsigned(row.get(2)),
            leads: row.get(3),
        };
        Ok(rows.iter().map(replica).collect())
    }
}

impl Link {
    fn open(&mut self, address: &Address) -> Result<()> {
        if self.client.as_ref().is_some_and(|client| !client.is_lost()) {
            return Ok(());
        }
        (self.client, self.leads) = (None, false);
        if let (Some(until), Some(error)) = (self.rest_until, &self.last)
            && Instant::now() < until
        {
            return Err(error.clone());
        }
        let opened = address.connect().and_then(|mut client| {
            // Who may not make tables may still use those that somebody has made.
            let there = client.query("SELECT to_regclass('tiltyard_replicas') IS NOT NULL", &[])?;
            if !there.first().is_some_and(|row| row.get(0)) {
                client.transaction(|client| {
                    client.wait_for(Turn::MakeLog)?;
                    client.batch(SCHEMA)
                })?;
            }
            client.batch(SILENCE_MAX)?;
            Ok(client)
        });
        match opened {
            Ok(client) => {
                self.client = Some(client);
                self.session += 1;
            }
            Err(error) => {
                self.rest(&error);
                return Err(error);
            }
        }
        Ok(())
    }

    fn rest(&mut self, error: &Error) {
        if self.client.as_ref().is_none_or(Client::is_lost) {
            (self.client, self.leads) = (None, false);
            (self.rest_until, self.last) = (Some(Instant::now() + REST), Some(error.clone()));
        }
    }

    fn client(&mut self) -> Result<&mut Client> {
        self.client.as_mut().ok_or_else(|| Error::Unfit("there is no session with the database".to_owned()))
    }

    fn read_head(&mut self) -> Result<Head> {
        let rows = self.client()?.query("SELECT seq, hash FROM tiltyard_head", &[])?;
        let head = rows
            .first()
            .and_then(|row| Some(Head { sequence: unsigned(row.get(0)), hash: row.get::<_, String>(1).parse().ok()? }));
        let lost = || broken(0, "the row of tiltyard_head is not there, or holds no hash: expected one row");
        self.head = head.ok_or_else(lost)?;
        Ok(self.head)
    }

    fn page(&mut self, from: u64) -> Result<Vec<String>> {
        let sql = "SELECT line FROM (
                SELECT seq, line, sum(length(line)) OVER (ORDER BY seq) - length(line) AS before
                FROM tiltyard_log WHERE seq >= $1 ORDER BY seq LIMIT $2) AS page
            WHERE before < $3 ORDER BY seq";
        let rows = self.client()?.query(sql, &[&signed(from), &PAGE_LINES, &PAGE_BYTES])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    fn append(
        &mut self,
        head: Head,
        last: Head,
        (numbers, lines): (&[i64], &[String]),
        taken: Option<&Taken>,
    ) -> Result<Head> {
        if taken.is_some() && !self.leads {
            return Err(Error::NotLeading);
        }
        let nothing = Taken::new();
        let (topics, senders, upto) = columns(taken.unwrap_or(&nothing));
        let sql = "WITH moved AS (
                UPDATE tiltyard_head SET seq = $3, hash = $4 WHERE seq = $1 AND hash = $2 RETURNING seq
            ), added AS (
                INSERT INTO tiltyard_log (seq, line) SELECT n.seq, n.line FROM unnest($5::bigint[], $6::text[]) AS n (seq, line)
                WHERE EXISTS (SELECT 1 FROM moved)
            ), gone AS (
                DELETE FROM tiltyard_letters m USING unnest($7::text[], $8::text[], $9::bigint[]) AS t (topic, sender, number)
                WHERE m.topic = t.topic AND m.sender = t.sender AND m.number <= t.number AND EXISTS (SELECT 1 FROM moved)
            )
            SELECT seq FROM moved";
        let (from, to) =
            ((signed(head.sequence), head.hash.to_string()), (signed(last.sequence), last.hash.to_string()));
        let client = self.client()?;
        let moved = client.query(sql, &[&from.0, &from.1, &to.0, &to.1, &numbers, &lines, &topics, &senders, &upto])?;
        if moved.is_empty() {
            return Err(Error::Moved { after: head.sequence });
        }
        self.head = last;
        Ok(last)
    }
}

/// The entries of a log in a database, page by page.
#[derive(Debug)]
pub(crate) struct Pages {
    remote: Remote,
    lines: VecDeque<String>,
    next: u64,
}

impl Pages {
    /// The next one, which must follow `head`, where that is known.
    pub(crate) fn next(&mut self, head: Option<Head>) -> Result<Option<Entry>> {
        if self.lines.is_empty() {
            self.lines = self.remote.with(|_, link| link.page(self.next))?.into();
        }
        let Some(line) = self.lines.pop_front() else { return Ok(None) };
        let entry = checked(&line, self.next, head)?;
        self.next += 1;
        Ok(Some(entry))
    }
}

/// The entry of a line, which is to be the one of this sequence and to follow `head`, where that is known.
fn checked(line: &str, sequence: u64, head: Option<Head>) -> Result<Entry> {
    let entry = Entry::read(line.as_bytes()).map_err(|what| broken(sequence, what))?;
    if entry.sequence != sequence {
        return Err(broken(sequence, format!("expected entry {sequence}, and entry {} is there", entry.sequence)));
    }
    match head.and_then(|head| entry.gap(head)) {
        Some(what) => Err(broken(sequence, what)),
        None => Ok(entry),
    }
}

fn broken(sequence: u64, what: impl Into<String>) -> Error {
    Error::Broken(Break { segment: "tiltyard_log".to_owned(), line: sequence, byte: 0, what: what.into() })
}

fn columns(taken: &Taken) -> (Vec<&str>, Vec<&str>, Vec<i64>) {
    let topics = taken.keys().map(|(topic, _)| topic.as_str()).collect();
    let senders = taken.keys().map(|(_, sender)| sender.as_str()).collect();
    (topics, senders, taken.values().map(|&number| signed(number)).collect())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
