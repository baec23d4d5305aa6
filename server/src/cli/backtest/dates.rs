//! When was that, and how long is ninety days?

use std::time::Duration;

use crate::config::parse_duration;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// Seconds since 1970 from here on are milliseconds: 1e11 seconds are the year 5138.
const SECONDS_MAX: f64 = 1e11;

/// Milliseconds since 1970 of a date (`2026-03-01`, `20260301`), a time (`2026-03-01T12:30:00Z`, with an offset, or without
/// one, which is UTC) or a count of seconds or milliseconds since 1970. `None` for all else.
pub(in crate::cli) fn parse_time(text: &str) -> Option<i64> {
    let text = text.trim();
    if text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return midnight(&text[..4], &text[4..6], &text[6..]);
    }
    if let Ok(count) = text.parse::<f64>() {
        let ms = if count.abs() < SECONDS_MAX { count * 1_000.0 } else { count };
        return (ms.abs() < 1e15).then_some(ms.round() as i64);
    }
    let (date, rest) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], text[at + 1..].trim_start()),
        None => (text, ""),
    };
    let [year, month, day] = parts::<3>(date, '-')?;
    let midnight = midnight(year, month, day)?;
    if rest.is_empty() {
        // A date with a separator behind it and nothing more is cut off.
        return (date.len() == text.len()).then_some(midnight);
    }
    let (clock, offset_ms) = offset(rest)?;
    Some(midnight + clock_ms(clock)? - offset_ms)
}

fn parts<const N: usize>(text: &str, separator: char) -> Option<[&str; N]> {
    text.split(separator).collect::<Vec<&str>>().try_into().ok()
}

fn number(text: &str, digits: usize, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
    let is_plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_plain && range.contains(number))
}

/// Days are counted in eras of 400 years, which begin in March so that the leap day is the last: all have 146,097 days.
fn midnight(year: &str, month: &str, day: &str) -> Option<i64> {
    let (year, month) = (number(year, 4, 0..=9_999)?, number(month, 2, 1..=12)?);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let day = number(day, 2, 1..=days)?;
    let from_march = (month + 9) % 12;
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + day_of_year;
    // 719,468 days from 0000-03-01 to 1970-01-01.
    Some((era * 146_097 + day_of_era - 719_468) * DAY_MS)
}

/// Year, month and day of a count of days since 1970: the way of [`midnight`] back.
#[cfg(feature = "record")]
pub(super) fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(719_468);
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * of_era + of_era / 4 - of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * from_march + 2) / 5 + 1)
}

/// `12:30`, `12:30:05`, `12:30:05.123`.
fn clock_ms(text: &str) -> Option<i64> {
    let (text, fraction) = text.split_once('.').unwrap_or((text, ""));
    let (hours, rest) = text.split_once(':')?;
    let (minutes, seconds) = rest.split_once(':').unwrap_or((rest, "00"));
    let (hours, minutes) = (number(hours, 2, 0..=23)?, number(minutes, 2, 0..=59)?);
    let seconds = number(seconds, 2, 0..=60)?;
    let is_plain = fraction.len() <= 9 && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let thousandths = format!("{fraction:0<3}").get(..3)?.parse::<i64>().ok().filter(|_| is_plain)?;
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000 + thousandths)
}

/// Splits `Z`, `+02:00` or `+0200` off, in milliseconds.
fn offset(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let Some(at) = text.rfind(['+', '-']) else { return Some((text, 0)) };
    let digits = text[at + 1..].replace(':', "");
    let minutes = match digits.len() {
        2 => number(&digits, 2, 0..=23)? * 60,
        4 => number(digits.get(..2)?, 2, 0..=23)? * 60 + number(digits.get(2..)?, 2, 0..=59)?,
        _ => return None,
    };
    let sign = if text.as_bytes()[at] == b'-' { -1 } else { 1 };
    Some((text[..at].trim_end(), sign * minutes * 60_000))
}

/// `90d`, `2w`, or a duration as settings have it (`36h`).
pub(super) fn parse_horizon(text: &str) -> Option<Duration> {
    let days = |count: &str, days: u64| count.parse::<u64>().ok()?.checked_mul(days * 86_400).map(Duration::from_secs);
    let found = match (text.strip_suffix('d'), text.strip_suffix('w')) {
        (Some(count), _) => days(count, 1),
        (_, Some(count)) => days(count, 7),
        _ => parse_duration(text),
    };
    // A thousand years: whatever is longer is a mistake, and sums with it stay far from overflowing.
    found.filter(|horizon| *horizon <= Duration::from_secs(365_000 * 86_400))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_as_tools_write_them() {
        let check = |text: &str, expected: Option<i64>| assert_eq!(parse_time(text), expected, "{text}");
        check("1970-01-01", Some(0));
        check("19700102", Some(DAY_MS));
        check("2000-02-29", Some(951_782_400_000));
        check("2026-03-01T12:30:05Z", Some(1_772_368_205_000));
        check("2026-03-01 12:30:05.25", Some(1_772_368_205_250));
        check("2026-03-01T14:30:05+02:00", Some(1_772_368_205_000));
        check("2026-03-01 07:00:05 -0530", Some(1_772_368_205_000));
        check("2026-03-01T12:30", Some(1_772_368_200_000));
        check("1772368205", Some(1_772_368_205_000));
        check("1772368205.5", Some(1_772_368_205_500));
        check("1772368205000", Some(1_772_368_205_000));
        check("1969-12-31", Some(-DAY_MS));
        for wrong in [
            "",
            "yesterday",
            "2026-13-01",
            "2026-02-29",
            "2026-3-1",
            "01.03.2026",
            "2026-03-01T",
            "2026-03-01T25:00",
            "nan",
            "2026-03-01T12:30:05+2",
            "2026-03-01T12:30:05.x",
            "1e300",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn horizons() {
        let check = |text: &str, hours: Option<u64>| {
            assert_eq!(parse_horizon(text), hours.map(|hours| Duration::from_secs(hours * 3_600)), "{text}");
        };
        check("90d", Some(2_160));
        check("2w", Some(336));
        check("36h", Some(36));
        check("0", Some(0));
        check("90", None);
        check("d", None);
        check("99999999999999d", None);
    }

    proptest! {
        #[test]
        fn days_follow_each_other(days in -600_000i64..2_000_000) {
            // By the calendar, day by day from a day that is known, in steps of whole eras.
            let written = calendar(days);
            prop_assert_eq!(parse_time(&written), (written.len() == 10).then_some(days * DAY_MS), "{}", written);
        }

        #[test]
        fn no_text_breaks_it(text in "\\PC{0,40}") {
            parse_time(&text);
            parse_horizon(&text);
        }
    }

    /// The date of a day since 1970, found by counting years and months.
    fn calendar(days: i64) -> String {
        let (mut year, mut left) = (1970 + 400 * days.div_euclid(146_097), days.rem_euclid(146_097));
        let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        while left >= 365 + i64::from(is_leap(year)) {
            left -= 365 + i64::from(is_leap(year));
            year += 1;
        }
        let lengths = [31, 28 + i64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let mut month = 0;
        while left >= lengths[month] {
            left -= lengths[month];
            month += 1;
        }
        format!("{year:04}-{:02}-{:02}", month + 1, left + 1)
    }
}
