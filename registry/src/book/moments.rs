//! How do people write times and spans, and what do they mean?
//!
//! Everything is UTC: a rule that depends on where a server stands would be two rules.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MINUTE_MS: u64 = 60 * 1_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;

/// The last moment that can be written, 9999-12-31T23:59:59.999Z: times beyond it are shown as this one.
const WRITTEN_MS_MAX: u64 = 253_402_300_799_999;

/// A span of time in milliseconds, written such as `7days` or `2h 30m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub u64);

/// A moment in milliseconds since 1970, written such as `2026-12-24T18:00:00Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

/// A minute of the day, written such as `22:30`; `24:00` is the day's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u16);

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weekday {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl Weekday {
    const ALL: [Weekday; 7] =
        [Weekday::Mon, Weekday::Tue, Weekday::Wed, Weekday::Thu, Weekday::Fri, Weekday::Sat, Weekday::Sun];

    /// The day on which a moment falls.
    pub fn of(time_ms: u64) -> Weekday {
        // 1 January 1970 was a Thursday.
        Weekday::ALL[((time_ms / DAY_MS + 3) % 7) as usize]
    }

    /// The day before.
    pub fn before(self) -> Weekday {
        Weekday::ALL[(self as usize + 6) % 7]
    }
}

impl TimeOfDay {
    /// The minute in which a moment falls.
    pub fn of(time_ms: u64) -> TimeOfDay {
        TimeOfDay((time_ms % DAY_MS / MINUTE_MS) as u16)
    }

    /// Milliseconds from the day's begin.
    pub fn into_day_ms(self) -> u64 {
        u64::from(self.0) * MINUTE_MS
    }
}

/// When the day of a moment began, in milliseconds since 1970.
pub(crate) fn day_begins_ms(time_ms: u64) -> u64 {
    time_ms - time_ms % DAY_MS
}

/// Milliseconds of a day.
pub(crate) const fn day_ms() -> u64 {
    DAY_MS
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(Duration::from_millis(self.0)))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = UNIX_EPOCH + Duration::from_millis(self.0.min(WRITTEN_MS_MAX));
        write!(f, "{}", humantime::format_rfc3339_millis(time))
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let wrong = |why: String| format!("{text:?} is no span of time: {why}; expected such as 7days or 2h 30m");
        let span = humantime::parse_duration(text).map_err(|error| wrong(error.to_string()))?;
        u64::try_from(span.as_millis()).map(Span).map_err(|_| wrong("it is too long".into()))
    }
}

impl FromStr for Instant {
    type Err = String;

    fn from_str(text: &str) -> Result<Instant, String> {
        let wrong = |why: String| format!("{text:?} is no moment: {why}; expected such as 2026-12-24T18:00:00Z");
        let time = humantime::parse_rfc3339(text).map_err(|error| wrong(error.to_string()))?;
        let since = time.duration_since(UNIX_EPOCH).map_err(|_| wrong("it is before 1970".into()))?;
        u64::try_from(since.as_millis()).map(Instant).map_err(|_| wrong("it is too far away".into()))
    }
}

impl FromStr for TimeOfDay {
    type Err = String;

    fn from_str(text: &str) -> Result<TimeOfDay, String> {
        let wrong = || format!("{text:?} is no time of day: expected such as 22:30, up to 24:00");
        let (hours, minutes) = text.split_once(':').ok_or_else(wrong)?;
        let number = |digits: &str| {
            let is_plain = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            is_plain.then(|| digits.parse::<u16>().ok()).flatten().ok_or_else(wrong)
        };
        let (hours, minutes) = (number(hours)?, number(minutes)?);
        let time = hours * 60 + minutes;
        if minutes < 60 && time <= 24 * 60 { Ok(TimeOfDay(time)) } else { Err(wrong()) }
    }
}

macro_rules! as_text {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$name, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(Span, Instant, TimeOfDay);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(ms in 0..WRITTEN_MS_MAX, span: u64, minute in 0..=24 * 60_u16) {
            prop_assert_eq!(Instant(ms).to_string().parse(), Ok(Instant(ms)));
            prop_assert_eq!(Span(span).to_string().parse(), Ok(Span(span)));
            prop_assert_eq!(TimeOfDay(minute).to_string().parse(), Ok(TimeOfDay(minute)));
        }

        #[test]
        fn no_text_is_too_odd(text: String) {
            let _ = (text.parse::<Span>(), text.parse::<Instant>(), text.parse::<TimeOfDay>());
        }
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        let at = |text: &str| text.parse::<Instant>().expect("a moment").0;
        assert_eq!(Weekday::of(0), Weekday::Thu);
        assert_eq!(Weekday::of(at("2026-11-29T04:25:00Z")), Weekday::Sun);
        assert_eq!(Weekday::of(at("2026-11-28T23:59:59Z")).before(), Weekday::Fri);
        assert_eq!(TimeOfDay::of(at("2026-11-29T04:25:59Z")).to_string(), "04:25");
        assert_eq!(Instant(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn what_means_nothing_is_refused_with_an_example() {
        assert!("25:00".parse::<TimeOfDay>().is_err_and(|why| why.contains("expected such as 22:30")));
        assert!("24:01".parse::<TimeOfDay>().is_err() && "+1:00".parse::<TimeOfDay>().is_err());
        assert!(
            "1969-01-01T00:00:00Z".parse::<Instant>().is_err_and(|why| why.contains("expected such as 2026-12-24"))
        );
        assert!("soon".parse::<Span>().is_err_and(|why| why.contains("expected such as 7days")));
    }
}
