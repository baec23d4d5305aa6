//! What would the next batch be, if it were taken now? Asked before anything is moved.

use smallvec::{SmallVec, smallvec};
use tiltyard_types::Moment;

use super::{Entry, Queue, QueuePolicy, Waiting, earlier};
use crate::forecast::{Ahead, DOUBT};

/// A slow run takes so much longer than a typical one. Batches that end at the last moment of those in them would make
/// half of these late.
const SLOWER: f64 = 1.1;

/// A shorter run for those who have little time is worth it as long as rows leave this much as fast as they could.
const WORTH: f64 = 0.75;

/// What becomes of one job, in the order in which jobs leave.
#[derive(Debug)]
pub(super) struct Pick {
    pub(super) lane: usize,
    pub(super) fate: Fate,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It runs, with this many of its rows.
    Runs(usize),
    /// It does not fit to the one in front and keeps its place.
    Stays,
    /// Nobody waits for it any more, or will when it is done.
    Dies,
}

/// What the picks amount to.
pub(super) struct Plan {
    /// The moment until which the batch had better wait for company, if at all.
    pub(super) hold: Option<Moment>,
}

impl<J: Waiting> Queue<J> {
    /// Picks the next batch: the job that is first in turn, and then those that fit to it. Jobs that could share a run
    /// never overtake one another; others are passed over, a bounded number of them, and as the first in turn always
    /// runs, nobody waits for ever. A batch grows only as long as its run leaves those in time who would be.
    pub(super) fn plan(&self, now: Moment, picks: &mut Vec<Pick>) -> Plan {
        picks.clear();
        let mut cursors: SmallVec<[usize; 4]> = smallvec![0; self.lanes.len()];
        let mut filling = Filling::new(&self.policy, now, self.ahead(now));
        let mut first: Option<&J> = None;
        let (mut oldest, mut expires) = (None::<Moment>, None::<Moment>);
        let mut passed = 0;
        let mut others = self.rows;
        let mut late_first: Option<(usize, &J)> = None;
        while let Some((lane, entry)) = self.next(&cursors) {
            let job = &entry.job;
            let (dead, late) = (is_dead(entry, now), filling.does_without(entry, others));
            let fate = if dead || late {
                others = others.saturating_sub(job.rows());
                late_first = late_first.or(Some((picks.len(), job)).filter(|_| !dead));
                Fate::Dies
            } else if first.is_none_or(|first| job.joins(first) && filling.bears(job)) {
                match filling.room_for(job).filter(|&rows| filling.has_time_for(rows)) {
                    Some(rows) => Fate::Runs(rows),
                    None => break,
                }
            } else if passed < self.policy.look_max {
                passed += 1;
                Fate::Stays
            } else {
                break;
            };
            if let Fate::Runs(rows) = fate {
                first = first.or(Some(job));
                filling.add(job, rows);
                filling.keep_in_time(job);
                expires = earlier(expires, entry.expires);
            }
            if fate != Fate::Dies {
                oldest = earlier(oldest, Some(entry.enqueued));
            }
            cursors[lane] += 1;
            picks.push(Pick { lane, fate });
            if filling.rows >= filling.limit {
                break;
            }
        }
        // All that was to fill the run was dead: then the first that is late runs after all, and tells what it takes.
        if let (None, Some((place, job))) = (first, late_first) {
            let rows = filling.room_for(job).unwrap_or(job.rows());
            picks[place].fate = Fate::Runs(rows);
            filling.add(job, rows);
        }
        self.trim(picks, filling.rows);
        let ripe = oldest.map(|oldest| oldest + self.policy.delay_max);
        let waits = filling.rows < self.policy.rows_full() && expires.is_none_or(|expires| Some(expires) > ripe);
        let hold = earlier(ripe.filter(|_| waits), filling.starts_by().filter(|_| waits));
        Plan { hold: hold.filter(|hold| now < *hold) }
    }

    /// The job that is next in turn after those before the cursors, and its lane.
    fn next(&self, cursors: &[usize]) -> Option<(usize, &Entry<J>)> {
        if let [lane] = self.lanes.as_slice() {
            return Some((0, lane.get(cursors[0])?));
        }
        let heads = self.lanes.iter().zip(cursors).enumerate();
        heads.filter_map(|(lane, (jobs, &cursor))| Some((lane, jobs.get(cursor)?))).min_by_key(|(_, entry)| entry.rank)
    }

    /// Gives back from the end what is above the size to aim for. The first in turn always stays.
    fn trim(&self, picks: &mut Vec<Pick>, mut rows: usize) {
        let aim = self.policy.aim(rows);
        while rows > aim {
            let Some(last) = picks.iter().rposition(|pick| matches!(pick.fate, Fate::Runs(_))) else { return };
            let Fate::Runs(last_rows) = picks[last].fate else { return };
            if rows == last_rows {
                return;
            }
            picks.truncate(last);
            rows -= last_rows;
        }
    }
}

/// Whether nobody waits for a job any more.
pub(super) fn is_dead<J: Waiting>(entry: &Entry<J>, now: Moment) -> bool {
    entry.expires.is_some_and(|expires| expires <= now) || entry.job.is_cancelled()
}

/// A batch as it fills.
struct Filling<'a> {
    policy: &'a QueuePolicy,
    limit: usize,
    rows: usize,
    /// The length of the longest job.
    length: usize,
    /// Elements along the padded axis that the jobs would take alone.
    alone: usize,
    now: Moment,
    forecast: Ahead,
    /// The moment at which it must be done, for the first of those who can be in time.
    done_by: Option<Moment>,
}

impl Filling<'_> {
    fn new(policy: &QueuePolicy, now: Moment, forecast: Ahead) -> Filling<'_> {
        let limit = policy.rows_limit();
        Filling { policy, limit, rows: 0, length: 0, alone: 0, now, forecast, done_by: None }
    }

    /// When a run of so many rows that starts now is done, if it is one of the slower ones.
    fn done(&self, rows: usize) -> Moment {
        self.now + self.forecast.run(self.policy.padded_rows(rows)).mul_f64(SLOWER)
    }

    /// Whether a job would be late after a run as large as its time allows for, and what waits besides fills one
    /// without it: only then it must not be late.
    fn does_without<J: Waiting>(&self, entry: &Entry<J>, waiting: usize) -> bool {
        let Some(deadline) = entry.job.deadline() else { return false };
        let rows = self.forecast.rows_for(deadline - entry.enqueued);
        waiting.saturating_sub(entry.job.rows()) >= rows
            && deadline < self.now + self.forecast.run(self.policy.padded_rows(rows)).mul_f64(DOUBT)
    }

    /// Whether those who can be in time still are with so many rows more, or that is not worth it: much shorter runs make many
    /// late for a few.
    fn has_time_for(&self, rows: usize) -> bool {
        let in_time = self.done_by.is_none_or(|done_by| self.done(self.rows.saturating_add(rows)) <= done_by);
        in_time || self.rate(self.rows) < WORTH * self.rate(self.forecast.rows.min(self.limit))
    }

    /// Rows in a second of a run of so many.
    fn rate(&self, rows: usize) -> f64 {
        rows as f64 / self.forecast.run(self.policy.padded_rows(rows)).as_secs_f64().max(1e-9)
    }

    /// When it must start at the latest for those who can be in time.
    fn starts_by(&self) -> Option<Moment> {
        let run = self.done(self.rows) - self.now;
        self.done_by
            .map(|done_by| Moment::from_nanos((done_by - Moment::default()).saturating_sub(run).as_nanos() as u64))
    }

    /// From now on the batch grows no more than lets this job, which is in it, be in time, if it is.
    fn keep_in_time<J: Waiting>(&mut self, job: &J) {
        let in_time = job.deadline().filter(|&deadline| self.done(self.rows) <= deadline);
        self.done_by = earlier(self.done_by, in_time);
    }

    /// The rows of `job` that there is room for; of one that is larger than any batch, a part.
    fn room_for<J: Waiting>(&self, job: &J) -> Option<usize> {
        let (rows, room) = (job.rows(), self.limit.saturating_sub(self.rows));
        match rows {
            _ if rows <= room => Some(rows),
            _ if rows > self.limit && job.can_cut() => Some(room).filter(|&room| room > 0),
            _ => Some(rows).filter(|_| self.rows == 0 && rows > self.limit),
        }
    }

    /// Whether the padding that `job` would bring is within the bound.
    fn bears<J: Waiting>(&self, job: &J) -> bool {
        let Some(pad) = &self.policy.pad else { return true };
        let (rows, length, alone) = self.with(job, self.room_for(job).unwrap_or(job.rows()));
        let padded = rows as f64 * self.policy.padded_length(length) as f64;
        padded <= alone as f64 * (1.0 + pad.waste_max)
    }

    fn add<J: Waiting>(&mut self, job: &J, rows: usize) {
        (self.rows, self.length, self.alone) = self.with(job, rows);
    }

    fn with<J: Waiting>(&self, job: &J, rows: usize) -> (usize, usize, usize) {
        let alone = rows.saturating_mul(self.policy.padded_length(job.length()));
        (self.rows.saturating_add(rows), self.length.max(job.length()), self.alone.saturating_add(alone))
    }
}
