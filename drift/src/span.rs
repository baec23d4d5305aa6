//! Which hour, day and week does a moment belong to?
//!
//! Hours since 1970, days and weeks of UTC, weeks from Monday on.

use serde::{Deserialize, Serialize};

/// Milliseconds of an hour.
pub(crate) const HOUR_MS: u64 = 3_600_000;

/// Hours of a week.
pub(crate) const WEEK: u64 = 168;

/// How long a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Span {
    /// For who looks now.
    Hour,
    /// What alarms rest on.
    Day,
    /// For what goes slowly.
    Week,
}

impl Span {
    /// All of them, the shortest first.
    pub const ALL: [Span; 3] = [Span::Hour, Span::Day, Span::Week];

    /// How many closed windows are kept.
    pub const fn kept(self) -> usize {
        match self {
            Span::Hour => 24,
            Span::Day => 14,
            Span::Week => 8,
        }
    }

    /// Its hours.
    pub const fn hours(self) -> u64 {
        match self {
            Span::Hour => 1,
            Span::Day => 24,
            Span::Week => WEEK,
        }
    }

    /// The name in metrics and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Span::Hour => "hour",
            Span::Day => "day",
            Span::Week => "week",
        }
    }

    /// The first hour of the window that `hour` belongs to. The first of January 1970 was a Thursday.
    pub(crate) fn first(self, hour: u64) -> u64 {
        match self {
            Span::Week => ((hour + 72) / WEEK * WEEK).saturating_sub(72),
            other => hour / other.hours() * other.hours(),
        }
    }

    /// The hour in which the window's next begins.
    pub(crate) fn end(self, hour: u64) -> u64 {
        match self {
            Span::Week => (hour + 72) / WEEK * WEEK + WEEK - 72,
            other => self.first(hour) + other.hours(),
        }
    }
}

/// The hour of a moment, since 1970.
pub(crate) fn hour(unix_ms: u64) -> u64 {
    // So that nothing that is reckoned from it overflows.
    (unix_ms / HOUR_MS).min(1 << 40)
}

/// The hour of its week, from Monday 00:00.
pub(crate) fn hour_of_week(hour: u64) -> u8 {
    ((hour + 72) % WEEK) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_have_their_windows() {
        // Sunday, 29 November 2026, 00:42 UTC.
        let hour = hour(1_795_912_920_000);
        assert_eq!(hour_of_week(hour), 6 * 24);
        assert_eq!((Span::Day.first(hour), Span::Day.end(hour)), (hour, hour + 24));
        assert_eq!((Span::Week.first(hour), Span::Week.end(hour)), (hour - 144, hour + 24));
        assert_eq!((Span::Hour.first(hour), Span::Hour.end(hour)), (hour, hour + 1));
        assert_eq!((Span::Week.first(3), Span::Week.end(3)), (0, 96));
        assert_eq!(super::hour(u64::MAX), 1 << 40);
    }
}
