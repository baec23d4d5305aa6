//! Which labels belong to which rows, and which of them are old enough to count?
//!
//! A state machine without threads or clock: notes of answers and labels go in, in whatever order, and what has matured comes
//! out. A unit is a request, or where requests stick to arms by a key the first request of a key: its outcome is the mean of its
//! rows', so that nobody counts for more by sending more. Where pairs decide, a unit's requests were answered twice, and its outcome
//! is by how much the challenger's answers are better.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;

use smallvec::SmallVec;
use tiltyard_rollout::cohort::{Cohort, Joined};
use tiltyard_rollout::evidence::{Labels, Outcomes, Share};
use tiltyard_rollout::plan::Primary;
use tiltyard_rollout::units::{Keys, Unit};
use tiltyard_types::{Error, ErrorKind, Result};

use super::Heard;
use super::notes::Note;
use super::said::{Answered, Name, Rule, Said, What};
use crate::rollouts::observer::Side;

/// How long a label waits for the record of its prediction.
pub const WAITING_MS: u64 = 5 * 60 * 1_000;

/// Labels that wait for the records of their predictions.
const WAITING_MAX: usize = 1 << 16;

/// Keys whose first request is known: beyond, a sample of them.
const KEYS_MAX: usize = 1 << 20;

/// What is known of the rows of one rollout.
#[derive(Debug)]
pub struct Store {
    rule: Rule,
    horizon_ms: u64,
    keys: Option<Keys>,
    cohort: Cohort,
    /// In the order of their exposure; those that have matured stay for a while, to tell what is late from what is unknown.
    requests: VecDeque<Request>,
    /// The number of the oldest.
    first: u64,
    /// The number of the oldest that has not matured.
    young: u64,
    rows: usize,
    rows_max: usize,
    by_id: HashMap<u128, u64>,
    by_key: HashMap<u128, SmallVec<[u64; 1]>>,
    early: Early,
    begun_ms: u64,
    matured_ms: u64,
    /// None where nothing has matured since it was taken.
    ripe: Option<Labels>,
    /// Counts, for people.
    pub counts: Counts,
}

/// What has matured at once.
#[derive(Debug, Default)]
pub struct Ripe {
    /// For the judge.
    pub labels: Labels,
    /// For people: outcomes by arm. Of pairs, those that have a label.
    pub outcomes: [Outcomes; 2],
}

/// What became of rows so far, by arm where it says so: of a pair's row, both have answered it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that may count.
    pub rows: [u64; 2],
    /// Those of them that got a label.
    pub labelled: [u64; 2],
    /// Units that were old enough, with or without a label.
    pub matured: [u64; 2],
    /// Rows for which there was no room.
    pub no_room: u64,
    /// Labels whose prediction never came on record.
    pub expired: u64,
}

#[derive(Debug)]
struct Request {
    id: u128,
    key: Option<u128>,
    at_ms: u64,
    side: Side,
    /// Whether it is a unit, or belongs to a key that is one already.
    counts: bool,
    rows: SmallVec<[Row; 1]>,
}

#[derive(Debug)]
struct Row {
    answered: Answered,
    said: Option<What>,
}

impl Store {
    /// For the labels of `primary` from `now_ms` on. `is_keyed` tells whether requests stick to arms.
    pub fn new(primary: &Primary, is_keyed: bool, rows_max: usize, now_ms: u64) -> Store {
        Store {
            rule: Rule::of(primary),
            horizon_ms: primary.horizon_ms,
            keys: is_keyed.then(|| Keys::new(KEYS_MAX)),
            cohort: Cohort::new(primary, rows_max),
            requests: VecDeque::new(),
            first: 0,
            young: 0,
            rows: 0,
            rows_max,
            by_id: HashMap::new(),
            by_key: HashMap::new(),
            early: Early::default(),
            begun_ms: now_ms,
            matured_ms: 0,
            ripe: None,
            counts: Counts::default(),
        }
    }

    /// How outcomes are made.
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// An answer was given under `share`. Labels that came before are joined; what became of them is told to `heard`.
    pub fn expose(&mut self, share: Share, note: Note, mut heard: impl FnMut(Side, Heard)) {
        let Note { id, key, at_ms, unit, side, rows } = note;
        if !self.make_room(rows.len()) {
            self.counts.no_room += rows.len() as u64;
            return;
        }
        // A pair is the same whatever the shares are, and its key one unit for all of the rollout.
        let share = if self.rule.is_paired { Share::of(0) } else { share };
        let unit = match &mut self.keys {
            None => Some(Unit { share, is_new: true }),
            Some(keys) => keys.count(unit, side == Side::Challenger, share),
        };
        let number = self.first + self.requests.len() as u64;
        let at_ms = at_ms.max(self.requests.back().map_or(0, |last| last.at_ms));
        let counts = unit.is_some_and(|unit| {
            let is_challengers = side == Side::Challenger;
            unit.is_new && self.cohort.expose(number, rows.len(), at_ms, unit.share, is_challengers, 0.0)
        });
        if counts {
            arms(self.rule, side).for_each(|arm| self.counts.rows[arm] += rows.len() as u64);
        }
        self.rows += rows.len();
        self.by_id.insert(id, number);
        if let Some(key) = key {
            self.by_key.entry(key).or_default().push(number);
        }
        let rows = rows.into_iter().map(|answered| Row { answered, said: None }).collect();
        self.requests.push_back(Request { id, key, at_ms, side, counts, rows });
        for name in [Some(Name::Request(id)), key.map(Name::Key)].into_iter().flatten() {
            for (row, what, at_ms) in self.early.take(name) {
                // A row that the request does not have is told to nobody any more.
                heard(side, self.join(number, row, what, at_ms).unwrap_or(Heard::Unknown));
            }
        }
    }

    /// Takes in what is said of a row at `now_ms`, and whose row it was found to be. Fails for what cannot be meant.
    pub fn tell(&mut self, said: &Said, now_ms: u64) -> Result<(Option<Side>, Heard)> {
        let Said { name, row, what, at_ms } = *said;
        // What is of the wrong kind is told at once, also where it would have to wait.
        self.rule.check(what)?;
        let at_ms = at_ms.unwrap_or(now_ms);
        let numbers: SmallVec<[u64; 1]> = match name {
            Name::Request(id) => self.by_id.get(&id).copied().into_iter().collect(),
            Name::Key(key) => self.by_key.get(&key).cloned().unwrap_or_default(),
        };
        let mut found = None;
        for number in numbers {
            let heard = self.join(number, row, what, at_ms)?;
            let side = self.requests[(number - self.first) as usize].side;
            // Whoever asked twice gave one name to two requests: both have this label, and the best of it is told.
            if found.is_none_or(|(_, held)| heard < held) {
                found = Some((Some(side), heard));
            }
        }
        match (found, name) {
            (Some(found), _) => Ok(found),
            (None, Name::Request(id)) if !self.may_come(id, now_ms) => Ok((None, Heard::Unknown)),
            (None, name) => {
                // What was shown to no shadow is no pair, and its labels may be many: whoever sends them cannot know.
                if self.rule.is_paired && self.early.len() >= WAITING_MAX {
                    self.counts.expired += self.early.forget_oldest();
                }
                self.early.keep(name, row, what, at_ms, now_ms)?;
                Ok((None, Heard::Waiting))
            }
        }
    }

    /// Whether the record of a request may still be on its way: its name says when it was made.
    fn may_come(&self, id: u128, now_ms: u64) -> bool {
        let made_ms = (id >> 80) as u64;
        made_ms >= self.begun_ms && made_ms.saturating_add(WAITING_MS) > now_ms && made_ms <= now_ms + WAITING_MS
    }

    fn join(&mut self, number: u64, row: usize, what: What, at_ms: u64) -> Result<Heard> {
        let request = &mut self.requests[(number - self.first) as usize];
        let count = request.rows.len();
        let Some(held) = request.rows.get_mut(row) else {
            return Err(Error::invalid(format!(
                "row {row} is not there: {count} rows of the request are known, counted from 0"
            )));
        };
        if !request.counts {
            return Ok(Heard::Beside);
        }
        let value = self.rule.value(held.answered, what)?;
        let joined = self.cohort.label(number, row, at_ms, value);
        let is_same = held.said.is_some_and(|held| held.is(what));
        Ok(match joined {
            _ if is_same => Heard::Doubled,
            Joined::Older => Heard::Outdated,
            Joined::OutOfTime | Joined::Unknown => Heard::Late,
            Joined::Counts => match (held.said.replace(what), what) {
                (_, What::Withdrawn) => Heard::Withdrawn,
                (None | Some(What::Withdrawn), _) => {
                    arms(self.rule, request.side).for_each(|arm| self.counts.labelled[arm] += 1);
                    Heard::Joined
                }
                (Some(_), _) => Heard::Corrected,
            },
        })
    }

    /// Has units count that are old enough at `now_ms`. Gives those that now do.
    pub fn mature(&mut self, now_ms: u64) -> Ripe {
        let (rule, mut ripe) = (self.rule, Ripe::default());
        if rule.is_paired {
            ripe.labels = self.cohort.mature_pairs(now_ms);
        } else {
            ripe.labels.matured = self.cohort.mature(now_ms);
            let all = ripe.labels.matured.iter().map(|matured| matured.outcomes);
            ripe.outcomes = all.fold(ripe.outcomes, |[a, b], [c, d]| [a.plus(c), b.plus(d)]);
        }
        self.matured_ms = self.matured_ms.max(now_ms);
        self.counts.expired += self.early.forget(now_ms);
        // Counted from the requests, since one without a label may count as if it had never been.
        while let Some(request) = self.requests.get((self.young - self.first) as usize)
            && self.is_old(request)
        {
            let units = arms(rule, request.side).filter(|_| request.counts);
            for arm in units {
                self.counts.matured[arm] += 1;
                let outcome = if rule.is_paired { request.outcome(rule, arm) } else { None };
                outcome.into_iter().for_each(|outcome| ripe.outcomes[arm].add(outcome, 0.0));
            }
            self.young += 1;
        }
        if !ripe.labels.matured.is_empty() || ripe.labels.paired.n > 0 {
            let fresh = ripe.labels.clone();
            self.ripe = Some(match self.ripe.take() {
                Some(held) => held.merge(fresh),
                None => fresh,
            });
        }
        let kept_ms = self.horizon_ms.saturating_mul(2).saturating_add(WAITING_MS);
        while self.requests.front().is_some_and(|oldest| oldest.at_ms.saturating_add(kept_ms) <= now_ms) {
            self.forget_oldest();
        }
        ripe
    }

    /// What has matured since the last time, if anything.
    pub fn take(&mut self) -> Option<Labels> {
        self.ripe.take()
    }

    /// Units that wait for their horizon, and labels that wait for the record of their prediction.
    pub fn waiting(&self) -> (usize, usize) {
        (self.cohort.waiting(), self.early.len())
    }

    /// Rows that are in memory.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn make_room(&mut self, rows: usize) -> bool {
        while self.rows + rows > self.rows_max {
            match self.requests.front() {
                Some(oldest) if !oldest.counts || self.is_old(oldest) => self.forget_oldest(),
                _ => return false,
            }
        }
        true
    }

    fn is_old(&self, request: &Request) -> bool {
        request.at_ms.saturating_add(self.horizon_ms) <= self.matured_ms
    }

    fn forget_oldest(&mut self) {
        let Some(Request { id, key, rows, .. }) = self.requests.pop_front() else { return };
        let number = self.first;
        self.first += 1;
        self.young = self.young.max(self.first);
        self.rows -= rows.len();
        if self.by_id.get(&id) == Some(&number) {
            self.by_id.remove(&id);
        }
        if let Some(key) = key
            && let Some(numbers) = self.by_key.get_mut(&key)
        {
            numbers.retain(|held| *held != number);
            if numbers.is_empty() {
                self.by_key.remove(&key);
            }
        }
    }
}

/// Whose a row is: that of the arm that answered it, or of both.
fn arms(rule: Rule, side: Side) -> Range<usize> {
    if rule.is_paired { 0..2 } else { side as usize..side as usize + 1 }
}

impl Request {
    /// The mean outcome of the rows with a label, as this arm answered them.
    fn outcome(&self, rule: Rule, arm: usize) -> Option<f64> {
        let of_row = |row: &Row| {
            let answered = match row.answered {
                Answered::One(mark) => mark,
                Answered::Both(marks) => marks[arm],
            };
            rule.outcome(answered, row.said?)
        };
        let (sum, n) = self.rows.iter().filter_map(of_row).fold((0.0, 0u32), |(sum, n), value| (sum + value, n + 1));
        (n > 0).then(|| sum / f64::from(n))
    }
}

/// Labels that came before the record of their prediction.
#[derive(Debug, Default)]
struct Early {
    by_name: HashMap<Name, SmallVec<[Kept; 1]>>,
    /// In the order in which they came.
    order: BTreeMap<u64, (u64, Name)>,
    next: u64,
}

#[derive(Debug)]
struct Kept {
    number: u64,
    row: usize,
    what: What,
    at_ms: u64,
}

impl Early {
    fn len(&self) -> usize {
        self.order.len()
    }

    fn keep(&mut self, name: Name, row: usize, what: What, at_ms: u64, now_ms: u64) -> Result<()> {
        if self.order.len() >= WAITING_MAX {
            return Err(Error::new(
                ErrorKind::Overloaded,
                format!("{WAITING_MAX} labels wait for the records of their predictions already: send it again later"),
            ));
        }
        let number = self.next;
        self.next += 1;
        self.order.insert(number, (now_ms, name));
        self.by_name.entry(name).or_default().push(Kept { number, row, what, at_ms });
        Ok(())
    }

    /// Those of this name, in the order in which they came.
    fn take(&mut self, name: Name) -> impl Iterator<Item = (usize, What, u64)> + use<> {
        let kept = self.by_name.remove(&name).unwrap_or_default();
        for Kept { number, .. } in &kept {
            self.order.remove(number);
        }
        kept.into_iter().map(|Kept { row, what, at_ms, .. }| (row, what, at_ms))
    }

    /// Forgets those that have waited long enough, and says how many.
    fn forget(&mut self, now_ms: u64) -> u64 {
        let mut forgotten = 0;
        while self.order.first_key_value().is_some_and(|(_, (at_ms, _))| at_ms.saturating_add(WAITING_MS) <= now_ms) {
            forgotten += self.forget_oldest();
        }
        forgotten
    }

    fn forget_oldest(&mut self) -> u64 {
        let Some((number, (_, name))) = self.order.pop_first() else { return 0 };
        if let Some(kept) = self.by_name.get_mut(&name) {
            kept.retain(|kept| kept.number != number);
            if kept.is_empty() {
                self.by_name.remove(&name);
            }
        }
        1
    }
}

#[cfg(test)]
mod tests;
