//! How do replicas of one fleet have one rollout between them?
//!
//! Each replica tells what its requests came to, in letters beside the shared log: once a second, or when there is harm. One of them
//! leads. It gathers what all have told, its own letters among them, as if all had happened in one process, and puts it on the log
//! as blocks of counts; the letters that are in a block are gone in the same moment. So each is in one block or in none, and
//! whoever leads next goes on with those that are in none. What is lost with a replica is what it had not told yet, of both arms
//! alike. `follow.rs` is what all of them do with the log.

mod code;
pub(super) mod follow;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tiltyard_registry::{self as registry, Address, Letter, Remote, Replica, Taken};
use tiltyard_rollout::evidence::{Pairs, Share};
use tiltyard_rollout::judge::Trip;
use tiltyard_types::Moment;
use uuid::Uuid;

use self::code::{Reader, begin, put_bytes, put_end, put_note, put_number, put_said};
use super::feedback::notes;
use super::feedback::said::Said;
use super::gatherer::Source;
use super::live::{Artifacts, Seen};
use super::observer::{End, Ended, Side};
use crate::config::Config;
use crate::state::StateFolder;

/// How often a replica tells what it saw, where there is no harm.
const TELL: Duration = Duration::from_secs(1);

/// How often it says that it is there.
const REPORT: Duration = Duration::from_secs(1);

/// How often what nobody needs is thrown away.
const TIDY: Duration = Duration::from_secs(60);

/// Who was not heard for so long is said to be lost.
const LOST: Duration = Duration::from_secs(10);

/// A replica that cannot reach the registry for so long gives challengers no traffic: it may be over, and nobody counts it.
pub(super) const QUIET_AFTER: Duration = Duration::from_secs(60);

/// Ends of requests in one letter, and in one second; of more, those of a part of the keys are told.
const ENDS_MAX: usize = 1 << 13;

/// Ends, and notes, that wait while the registry cannot be reached.
const WAITING_MAX: usize = 1 << 17;

/// Notes of answers, and labels, in one letter.
const ROWS_MAX: usize = 1 << 13;

/// Letters that wait for their way.
const OUTBOX_MAX: usize = 256;

/// Letters on what requests of one rollout came to that a replica may have under way. Notes and labels are bounded by their age.
const UNDER_WAY_MAX: u64 = 4_096;

/// Letters that nobody has taken are too old by then, where they are of no use any more.
const OLD_MS: u64 = 10 * 60 * 1_000;

/// Pages of letters that are read at once.
const PAGES_MAX: usize = 1_000;

/// Which fleet, and who in it.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The registry that all replicas share.
    pub address: Address,
    /// What people call this replica.
    pub name: String,
}

impl Shared {
    /// The fleet that the settings name, if any. Fails, in words, where they cannot be used.
    pub fn of(config: &Config, state: Option<&StateFolder>) -> Result<Option<Shared>, String> {
        let Some(url) = &config.registry else {
            return match (&config.registry_password_file, &config.replica) {
                (None, None) => Ok(None),
                _ => Err("registry_password_file and replica need registry".to_owned()),
            };
        };
        let authority = url.split_once("://").map_or("", |(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
        let has_password = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
        if has_password || url.contains("password=") {
            return Err(
                "registry has a password in it, which others may see: put it in registry_password_file".to_owned()
            );
        }
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|error| format!("registry_password_file {}: {error}", path.display()))
        };
        let password = config.registry_password_file.as_ref().map(read).transpose()?;
        let address = Address::parse(url, password.as_deref().map(str::trim_end)).map_err(|error| error.to_string())?;
        let name = config.replica.clone().unwrap_or_else(|| own_name(state));
        Ok(Some(Shared { address, name }))
    }
}

/// The machine's name and some random digits, which are kept where they can be.
fn own_name(state: Option<&StateFolder>) -> String {
    let file = state.map(|state| state.path.join("replica"));
    if let Some(name) = file.as_ref().and_then(|file| std::fs::read_to_string(file).ok()) {
        return name.trim().to_owned();
    }
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let machine = Some(machine.trim()).filter(|name| !name.is_empty()).unwrap_or("replica");
    let name = format!("{machine}-{:08x}", Uuid::now_v7().as_u128() as u32);
    // Where it cannot be kept, the next start has another name, and this one is said to be lost.
    drop(file.map(|file| std::fs::write(file, format!("{name}\n"))));
    name
}

/// What this replica knows of its fleet.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) shared: Shared,
    /// This process: another one with the same name counts its letters anew.
    sender: String,
    /// Letters so far.
    number: u64,
    outbox: VecDeque<Letter>,
    /// What is to be told, by rollout.
    gathered: BTreeMap<String, Gathered>,
    /// What this replica has read as the one that leads.
    taken: Taken,
    sources: BTreeMap<String, Source>,
    /// Its term as the one that leads.
    term: Option<u64>,
    /// When the registry last answered.
    reached: Moment,
    trouble: Option<String>,
    told: Moment,
    reported: Moment,
    tidied: Moment,
    replicas: Vec<Replica>,
    /// Letters that could not be read.
    unread: u64,
}

/// What one rollout's requests came to in this process.
#[derive(Debug, Default)]
struct Gathered {
    ends: BTreeMap<Share, (Vec<End>, u64)>,
    notes: Vec<(Share, notes::Taken)>,
    /// Rows in them.
    rows: usize,
    said: Vec<Said>,
    beside: Beside,
    /// Whether what is wrong here was told.
    has_tripped: bool,
    has_harm: bool,
}

impl Gathered {
    fn note(&mut self, share: Share, mut taken: notes::Taken) {
        let rows = |taken: &notes::Taken| taken.notes.iter().map(|note| note.rows.len()).sum::<usize>();
        if self.rows + rows(&taken) > WAITING_MAX {
            taken.unseen += rows(&taken) as u64;
            taken.notes.clear();
        }
        self.rows += rows(&taken);
        match self.notes.last_mut().filter(|(held, _)| *held == share) {
            Some((_, held)) => {
                held.notes.extend(taken.notes);
                held.unseen += taken.unseen;
                held.unread += taken.unread;
            }
            None if taken.notes.is_empty() && taken.unseen + taken.unread == 0 => {}
            None => self.notes.push((share, taken)),
        }
    }
}

/// What a letter about requests begins with, beside their share.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Beside {
    /// What pairs showed.
    #[serde(default)]
    pairs: Pairs,
    /// What is wrong there.
    #[serde(default)]
    trip: Option<Trip>,
    /// Whose files compete there.
    #[serde(default)]
    files: Option<Artifacts>,
}

/// What a replica has told.
#[derive(Debug)]
pub(super) enum Heard {
    /// How requests ended, and what is told beside that.
    Ends(Source, Seen, Beside),
    /// What requests were answered.
    Notes(Share, notes::Taken),
    /// What was said of rows.
    Said(Vec<Said>),
}

/// What letters are about. They are read in this order: labels come after the answers that they are of.
const TOPICS: [&str; 3] = ["ends", "notes", "said"];

fn topic(about: &str, rollout: &str) -> String {
    format!("{about}/{rollout}")
}

/// The term that begins, if one does, and what was heard of each rollout.
pub(super) type Exchanged = (bool, Vec<(String, Heard)>);

impl Fleet {
    pub(super) fn new(shared: Shared, now: Moment) -> Fleet {
        let sender = format!("{}#{}", shared.name, Uuid::now_v7());
        Fleet {
            shared,
            sender,
            number: 0,
            outbox: VecDeque::new(),
            gathered: BTreeMap::new(),
            taken: Taken::new(),
            sources: BTreeMap::new(),
            term: None,
            reached: now,
            trouble: None,
            told: now,
            reported: Moment::default(),
            tidied: now,
            replicas: Vec::new(),
            unread: 0,
        }
    }

    /// Whether this replica looks at evidence for all of them.
    pub(super) fn leads(&self) -> bool {
        self.term.is_some()
    }

    /// What is gathered did not get on the log: it is read and gathered anew.
    pub(super) fn step_down(&mut self) {
        self.term = None;
    }

    /// The registry did not answer. True where that is news.
    pub(super) fn lost(&mut self, why: String) -> bool {
        self.term = None;
        self.trouble.replace(why).is_none()
    }

    /// The registry answered. True where that is news.
    pub(super) fn found(&mut self, now: Moment) -> bool {
        self.reached = now;
        self.trouble.take().is_some()
    }

    /// Whether it was unreachable for so long that challengers get no traffic.
    pub(super) fn is_cut_off(&self, now: Moment) -> bool {
        self.trouble.is_some() && now - self.reached >= QUIET_AFTER
    }

    /// Notes what was seen of a rollout's requests, to be told.
    pub(super) fn gather(&mut self, rollout: &str, all: Vec<Seen>) {
        let gathered = self.gathered.entry(rollout.to_owned()).or_default();
        for Seen { share, ends, unseen, notes } in all {
            let is_harm = |end: &End| {
                end.side == Side::Challenger
                    && (end.is_over || !matches!(end.ended, Ended::Answered { .. } | Ended::Blameless))
            };
            gathered.has_harm |= ends.iter().any(is_harm);
            let (held, lost) = gathered.ends.entry(share).or_default();
            *lost += unseen;
            match held.len() + ends.len() <= WAITING_MAX {
                true => held.extend(ends),
                // Of both arms alike.
                false => *lost += ends.len() as u64,
            }
            gathered.note(share, notes);
        }
    }

    /// Notes what is to be told beside that: what is wrong here, once, and what was said of rows.
    pub(super) fn gather_rest(&mut self, rollout: &str, beside: Beside, said: Vec<Said>) {
        let gathered = self.gathered.entry(rollout.to_owned()).or_default();
        let Beside { pairs, trip, files } = beside;
        if trip.is_some() && !gathered.has_tripped {
            gathered.beside.trip = trip;
        }
        gathered.has_tripped = trip.is_some();
        gathered.beside.pairs = std::mem::take(&mut gathered.beside.pairs).plus(pairs);
        gathered.beside.files = files.or(gathered.beside.files.take());
        gathered.said.extend(said);
    }

    /// Whether labels can be told now: those that came here wait where there is a bound for them.
    pub(super) fn takes_labels(&self, now: Moment) -> bool {
        self.trouble.is_none() && self.is_due(now)
    }

    /// Forgets rollouts other than these.
    pub(super) fn keep(&mut self, rollouts: &[String]) {
        self.gathered.retain(|held, _| rollouts.contains(held));
        let is_about =
            |topic: &str| topic.split_once('/').is_some_and(|(_, id)| rollouts.iter().any(|held| held == id));
        self.taken.retain(|(topic, _), _| is_about(topic));
    }

    /// Whether it is time to tell.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        now - self.told >= TELL
            || self.gathered.values().any(|gathered| gathered.has_harm || gathered.beside.trip.is_some())
    }

    /// Tells what is to be told, and as the one that leads hears what all have told about these rollouts, each with how long what is
    /// said of its rows matters.
    pub(super) fn exchange(
        &mut self,
        remote: &Remote,
        now: Moment,
        rollouts: &BTreeMap<String, u64>,
        sequence: u64,
    ) -> registry::Result<Exchanged> {
        remote.reach()?;
        if self.is_due(now) {
            let seconds = usize::try_from((now - self.told).as_secs()).unwrap_or(usize::MAX).max(1);
            self.write(ENDS_MAX.saturating_mul(seconds));
            self.told = now;
        }
        self.send(remote)?;
        let term = remote.leads()?;
        let is_new = term.is_some() && term != self.term;
        if is_new {
            self.taken.clear();
            self.sources.clear();
        }
        self.term = term;
        if now - self.reported >= REPORT {
            self.replicas = remote.report(&self.sender, &self.shared.name, sequence)?;
            self.reported = now;
        }
        if term.is_none() {
            return Ok((false, Vec::new()));
        }
        if now - self.tidied >= TIDY {
            self.tidied = now;
            let ages = rollouts.iter().flat_map(|(id, rows_ms)| {
                TOPICS.map(|about| {
                    (topic(about, id), if about == "ends" { OLD_MS } else { rows_ms.saturating_add(OLD_MS) })
                })
            });
            remote.tidy(&ages.collect(), OLD_MS)?;
        }
        let heard = self.hear(remote, rollouts.keys())?;
        Ok((is_new, heard))
    }

    /// Makes letters of what was gathered: of each rollout and share, of so many ends at most.
    fn write(&mut self, ends_max: usize) {
        for (id, gathered) in std::mem::take(&mut self.gathered) {
            let Gathered { ends, notes, said, mut beside, has_tripped, .. } = gathered;
            let mut letters: Vec<(&str, Vec<u8>)> = Vec::new();
            for (share, (ends, unseen)) in ends {
                let (ends, left_out) = thinned(ends, ends_max);
                let mut lost = unseen + left_out;
                for part in parts(&ends, lost > 0, ENDS_MAX) {
                    let (beside, lost) = (std::mem::take(&mut beside), std::mem::take(&mut lost));
                    letters.push((TOPICS[0], ends_letter(share, part, lost, &beside)));
                }
            }
            if beside.trip.is_some() || beside.pairs.sampled > 0 {
                letters.push((TOPICS[0], ends_letter(Share::of(0), &[], 0, &beside)));
            }
            for (share, taken) in notes {
                letters.extend(notes_letters(share, &taken).map(|letter| (TOPICS[1], letter)));
            }
            for part in said.chunks(ROWS_MAX) {
                let mut letter = begin();
                part.iter().for_each(|said| put_said(&mut letter, said));
                letters.push((TOPICS[2], letter));
            }
            for (about, body) in letters {
                self.number += 1;
                let (topic, sender) = (topic(about, &id), self.sender.clone());
                self.outbox.push_back(Letter { topic, sender, number: self.number, body });
            }
            self.gathered.insert(id, Gathered { has_tripped, ..Gathered::default() });
        }
        while self.outbox.len() > OUTBOX_MAX {
            self.outbox.pop_front();
        }
    }

    /// What requests came to is told at most once, though it may be lost where the registry does not answer; labels until it is
    /// known that they are there, since to say them twice is to say them once.
    fn send(&mut self, remote: &Remote) -> registry::Result<()> {
        let is_about =
            |letter: &Letter, about: &str| letter.topic.split_once('/').is_some_and(|(found, _)| found == about);
        let (ends, rest): (Vec<_>, Vec<_>) = self.outbox.drain(..).partition(|letter| is_about(letter, TOPICS[0]));
        let (said, notes): (Vec<_>, Vec<_>) = rest.into_iter().partition(|letter| is_about(letter, TOPICS[2]));
        let parts = [(ends, Some(UNDER_WAY_MAX)), (notes, None), (said.clone(), None)];
        for (letters, waiting_max) in parts.into_iter().filter(|(letters, _)| !letters.is_empty()) {
            if let Err(error) = remote.send(&letters, waiting_max) {
                self.outbox = said.into();
                return Err(error);
            }
        }
        Ok(())
    }

    fn hear<'a>(
        &mut self,
        remote: &Remote,
        rollouts: impl Iterator<Item = &'a String>,
    ) -> registry::Result<Vec<(String, Heard)>> {
        let topics: Vec<String> = rollouts.flat_map(|id| TOPICS.map(|about| topic(about, id))).collect();
        let mut all = Vec::new();
        for _ in 0..PAGES_MAX {
            let letters = remote.collect(&topics, &self.taken)?;
            if letters.is_empty() {
                break;
            }
            for Letter { topic, sender, number, body } in letters {
                let next = Source::try_from(self.sources.len()).unwrap_or(Source::MAX);
                let source = *self.sources.entry(sender.clone()).or_insert(next);
                match topic.split_once('/').and_then(|(about, id)| Some((id.to_owned(), read(about, source, &body)?))) {
                    Some(heard) => all.push(heard),
                    None => {
                        self.unread += 1;
                        tracing::error!(
                            sender,
                            topic,
                            "what a replica tells cannot be read: is it of another release?"
                        );
                    }
                }
                self.taken.insert((topic, sender), number);
            }
        }
        // Answers are joined in the order of time, whoever gave them.
        all.sort_by_key(|(_, heard)| match heard {
            Heard::Ends(..) => (0, 0),
            Heard::Notes(_, taken) => (1, taken.notes.first().map_or(0, |note| note.at_ms)),
            Heard::Said(_) => (2, 0),
        });
        Ok(all)
    }

    /// The letters that are in what was gathered of a rollout's requests.
    pub(super) fn taken(&self, rollout: &str) -> Taken {
        let wanted = topic(TOPICS[0], rollout);
        self.taken
            .iter()
            .filter(|((topic, _), _)| *topic == wanted)
            .map(|(key, number)| (key.clone(), *number))
            .collect()
    }

    /// Who was heard, for people.
    pub(super) fn replicas_form(&self) -> Value {
        let replicas = self.replicas.iter().map(|replica| {
            let is_lost = u128::from(replica.silent_ms) >= LOST.as_millis();
            json!({
                "name": replica.name, "state": if is_lost { "lost" } else { "heard" }, "silent_ms": replica.silent_ms,
                "entry": replica.sequence, "leads": replica.leads && !is_lost,
            })
        });
        replicas.collect()
    }

    /// How the fleet does, for people.
    pub(super) fn form(&self, sequence: u64) -> Value {
        let last = self.replicas.iter().map(|replica| replica.sequence).max().unwrap_or(0);
        json!({
            "registry": self.shared.address.to_string(), "replica": self.shared.name, "reachable": self.trouble.is_none() && !self.replicas.is_empty(),
            "trouble": self.trouble, "leads": self.leads(), "entry": sequence, "lag": last.saturating_sub(sequence),
            "letters_unread": self.unread, "replicas": self.replicas_form(),
        })
    }
}

fn put_share(to: &mut Vec<u8>, share: Share) {
    put_number(to, u64::from(share.champion) << 32 | u64::from(share.challenger));
}

fn share(from: &mut Reader<'_>) -> Option<Share> {
    let both = from.number()?;
    Some(Share { champion: (both >> 32) as u32, challenger: both as u32 })
}

/// A list in parts; where there is something to say beside it, one at least.
fn parts<T>(list: &[T], has_more: bool, max: usize) -> Vec<&[T]> {
    if list.is_empty() && has_more { vec![list] } else { list.chunks(max).collect() }
}

fn ends_letter(share: Share, ends: &[End], unseen: u64, beside: &Beside) -> Vec<u8> {
    let mut letter = begin();
    put_share(&mut letter, share);
    put_number(&mut letter, unseen);
    put_bytes(&mut letter, &serde_json::to_vec(beside).unwrap_or_default());
    ends.iter().for_each(|end| put_end(&mut letter, end));
    letter
}

fn notes_letters(share: Share, taken: &notes::Taken) -> impl Iterator<Item = Vec<u8>> {
    let notes::Taken { notes, unseen, unread } = taken;
    parts(notes, true, ROWS_MAX).into_iter().enumerate().map(move |(at, part)| {
        let mut letter = begin();
        put_share(&mut letter, share);
        for lost in [unseen, unread] {
            put_number(&mut letter, if at == 0 { *lost } else { 0 });
        }
        part.iter().for_each(|note| put_note(&mut letter, note));
        letter
    })
}

/// What fits, and how many do not. Which keys those are depends on nothing but the keys, so that it is of both arms alike.
fn thinned(mut ends: Vec<End>, max: usize) -> (Vec<End>, u64) {
    let (all, mut bits) = (ends.len(), 0);
    while ends.len() > max && bits < 32 {
        bits += 1;
        ends.retain(|end| end.key.wrapping_mul(0x9e37_79b9_7f4a_7c15).leading_zeros() >= bits);
    }
    ends.truncate(max);
    let left_out = (all - ends.len()) as u64;
    (ends, left_out)
}

/// What a letter says.
fn read(about: &str, source: Source, body: &[u8]) -> Option<Heard> {
    let mut from = Reader::new(body)?;
    match about {
        "ends" => {
            let (share, unseen) = (share(&mut from)?, from.number()?);
            let beside = serde_json::from_slice(from.bytes()?).ok()?;
            let seen = Seen { share, ends: from.ends()?, unseen, notes: notes::Taken::default() };
            Some(Heard::Ends(source, seen, beside))
        }
        "notes" => {
            let (share, unseen, unread) = (share(&mut from)?, from.number()?, from.number()?);
            Some(Heard::Notes(share, notes::Taken { notes: from.notes()?, unseen, unread }))
        }
        "said" => from.said().map(Heard::Said),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
