//! What may a queue hold, and which batches may it make?

use std::time::Duration;

use crate::batch::Extent;

/// Levels of priority at most: each take looks at the head of every level.
pub const LEVELS_MAX: usize = 64;

/// Bytes up to which a run may be padded whatever the real ones are. What waits is bounded in bytes as it came, and
/// nothing else bounds what padding makes of it.
const PADDED_BYTES_MAX: usize = 64 << 20;

/// How a queue batches.
#[derive(Clone, Debug, PartialEq)]
pub struct QueuePolicy {
    /// Rows in one batch at most; 1 means that every job runs alone. A single larger job is cut into parts where that
    /// is proved safe, and runs whole and alone elsewhere.
    pub rows_max: usize,
    /// The numbers of rows that a run may have, ascending; empty allows all. What waits takes the largest that is
    /// filled; fewer rows than the smallest are padded up to it, unless that would take more memory than
    /// [`QueuePolicy::frame`] allows.
    pub sizes: Vec<usize>,
    /// Numbers of rows worth aiming for, ascending: a batch stops at the largest that is filled, and waits no longer
    /// for company once the smallest is. Unlike `sizes` they never pad.
    pub sizes_preferred: Vec<usize>,
    /// How long the oldest job may wait for company.
    pub delay_max: Duration,
    /// Jobs that may wait at once.
    pub jobs_max: usize,
    /// Bytes that the waiting jobs may have together. A job that finds nothing waiting is taken whatever its size.
    pub bytes_max: usize,
    /// Batches that may run at once: the sessions there are.
    pub runs_max: usize,
    /// The levels of priority, the most urgent first; at least one.
    pub levels: Vec<Level>,
    /// The level of a job that names none, from 1.
    pub level_default: u32,
    /// A job of one level less waits as though it had come this much later. So the more urgent go first, but none for
    /// ever: who has waited this long is on a par with the fresh ones of the next level.
    pub ageing: Duration,
    /// Jobs that a take may look past, in search of some that fit to the one in front.
    pub look_max: usize,
    /// Whether jobs of different lengths share a batch, and how.
    pub pad: Option<PadPolicy>,
}

/// One level of priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Jobs of this level that may wait at once.
    pub jobs_max: usize,
    /// How long a job of this level may wait; then it is answered without a run.
    pub wait_max: Option<Duration>,
}

impl Default for Level {
    fn default() -> Level {
        Level { jobs_max: usize::MAX, wait_max: None }
    }
}

/// How jobs of different lengths share a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct PadPolicy {
    /// The lengths that a batch may have, ascending; empty allows all. Longer jobs keep their own.
    pub lengths: Vec<usize>,
    /// Padding that company may cost at most, as a fraction of what the jobs would take alone.
    pub waste_max: f64,
}

impl Default for QueuePolicy {
    fn default() -> QueuePolicy {
        QueuePolicy {
            rows_max: 64,
            sizes: Vec::new(),
            sizes_preferred: Vec::new(),
            delay_max: Duration::ZERO,
            jobs_max: 4096,
            bytes_max: usize::MAX,
            runs_max: 1,
            levels: vec![Level::default()],
            level_default: 1,
            ageing: Duration::from_secs(1),
            look_max: 64,
            pad: None,
        }
    }
}

impl QueuePolicy {
    /// Rows that one batch can hold: the largest allowed size within the bound.
    pub fn rows_limit(&self) -> usize {
        self.sizes.iter().copied().filter(|&size| size <= self.rows_max).max().unwrap_or(self.rows_max).max(1)
    }

    /// The rows that a run of `rows` rows is given: the next allowed size.
    pub fn padded_rows(&self, rows: usize) -> usize {
        match rows {
            0 => 0,
            _ => self.sizes.iter().copied().find(|&size| size >= rows).unwrap_or(rows),
        }
    }

    /// The length that a run of jobs up to `length` long is given: the next allowed one.
    pub fn padded_length(&self, length: usize) -> usize {
        let lengths = self.pad.iter().flat_map(|pad| &pad.lengths).copied();
        lengths.into_iter().find(|&allowed| allowed >= length).unwrap_or(length)
    }

    /// The size of a run of these parts: the next allowed one on both axes. Where that would take more than 64 MiB and
    /// more than twice the `bytes` of the parts, they run as they are, in a size that is not allowed but right: one row of
    /// many megabytes must not become dozens.
    pub fn frame(&self, parts: &[Extent], bytes: impl FnOnce() -> usize) -> Extent {
        let rows = parts.iter().map(|part| part.rows).sum();
        let tight = Extent { rows, length: parts.iter().filter_map(|part| part.length).max() };
        let length = tight.length.map(|length| self.padded_length(length));
        let padded = Extent { rows: self.padded_rows(rows), length };
        if padded == tight {
            return tight;
        }
        let area = |extent: Extent| extent.rows.max(1) as f64 * extent.length.unwrap_or(1).max(1) as f64;
        let bytes = bytes();
        let bytes_max = PADDED_BYTES_MAX.max(bytes.saturating_mul(2)) as f64;
        if bytes as f64 * area(padded) / area(tight) > bytes_max { tight } else { padded }
    }

    /// The position of the level that `priority` names: 1 is the most urgent; 0 and what is not there are the default.
    pub fn level(&self, priority: u32) -> usize {
        let named = |priority: u32| usize::try_from(priority).ok()?.checked_sub(1);
        let known = |level: &usize| *level < self.levels.len();
        named(priority).filter(known).or_else(|| named(self.level_default).filter(known)).unwrap_or(0)
    }

    /// Jobs of the level that `priority` names that may wait at once.
    pub fn jobs_max_at(&self, priority: u32) -> usize {
        self.levels.get(self.level(priority)).map_or(self.jobs_max, |level| level.jobs_max.min(self.jobs_max))
    }

    /// The rows that a batch shall have where `rows` wait for it: the largest size that is filled.
    pub(super) fn aim(&self, rows: usize) -> usize {
        let sizes = if self.sizes.is_empty() { &self.sizes_preferred } else { &self.sizes };
        sizes.iter().copied().filter(|&size| size <= rows).max().unwrap_or(rows)
    }

    /// The rows from which on a batch waits for no more company.
    pub(super) fn rows_full(&self) -> usize {
        let limit = self.rows_limit();
        self.sizes_preferred.first().map_or(limit, |&size| size.min(limit))
    }
}
