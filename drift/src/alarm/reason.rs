//! How is an alarm told in a sentence?

use std::fmt::Write;

use super::{Level, Reading, Signal};
use crate::baseline::{Feature, Role};
use crate::bins::Bins;
use crate::span::Span;

/// A moment as `2026-11-28 14:00` UTC, of milliseconds since 1970.
pub fn moment(unix_ms: u64) -> String {
    let minutes = unix_ms / 60_000;
    let [year, month, day] = date(minutes / 1_440);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", minutes / 60 % 24, minutes % 60)
}

/// Year, month and day of a day since 1970 (Gregorian, years from March on).
fn date(days: u64) -> [u64; 3] {
    let days = days.min(1 << 40) + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    [era * 400 + year + later, month, day]
}

/// What is to be said of a feature.
pub(super) fn sentence(
    feature: &Feature,
    level: Level,
    by: Option<(Signal, Span)>,
    reading: Option<&Reading>,
    windows: u8,
) -> String {
    let what = match feature.role {
        Role::Input => "input",
        Role::Output => "output",
    };
    let mut text = format!("{what} {}: ", feature.name);
    let Some(reading) = reading else {
        text.push_str(match level {
            Level::Ok => "too few rows yet to tell.",
            _ => "it alarmed before a restart, and too few rows are known since to say more.",
        });
        return text;
    };
    // Writing to a text cannot fail.
    let _ = match by {
        None => write!(text, "as expected"),
        Some((Signal::Shape, span)) => shape(&mut text, feature, level, span, reading, windows),
        Some((Signal::Missing, _)) => {
            let (found, expected) = (percent(reading.missing.found), percent(reading.missing.expected));
            write!(text, "{found} of the rows have no usable value, where {expected} were expected")
        }
        Some((Signal::Strange, _)) => strange(&mut text, feature, reading),
    };
    let _ = write!(text, " ({} rows from {} to {} UTC).", reading.rows, moment(reading.from_ms), moment(reading.to_ms));
    text
}

fn shape(
    text: &mut String,
    feature: &Feature,
    level: Level,
    span: Span,
    reading: &Reading,
    windows: u8,
) -> std::fmt::Result {
    let Some(distance) = &reading.distance else { return write!(text, "distributed otherwise") };
    let limit = reading.limit[usize::from(level == Level::Alert)];
    let (psi, span) = (distance.psi_corrected, span.name());
    write!(text, "distributed otherwise for {windows} {span}s or more: PSI {psi:.2}, and {limit:.2} is the limit")?;
    if let Some(w1) = distance.w1 {
        write!(text, "; values moved by {w1:.2} standard deviations on the whole")?;
    }
    let (bin, largest) = (feature.bins.name(distance.bin), percent(distance.largest));
    write!(text, "; most in the bin \"{bin}\", by {largest} of the rows")
}

fn strange(text: &mut String, feature: &Feature, reading: &Reading) -> std::fmt::Result {
    let found = percent(reading.strange.found);
    match (&feature.bins, reading.summary) {
        (Bins::Numeric(numeric), Some(summary)) => {
            let cuts = numeric.cuts();
            let (from, to) = (cuts[0], cuts[cuts.len() - 1]);
            write!(text, "{found} of the values are out of the baseline's range, {from} to {to}")?;
            write!(text, "; the smallest is {}, the largest {}", summary.min, summary.max)
        }
        _ => {
            write!(text, "{found} of the values are none that the baseline had")?;
            for (at, (name, rows)) in reading.newcomers.iter().enumerate() {
                write!(text, "{} {name:?} ({rows} rows)", if at == 0 { ":" } else { "," })?;
            }
            Ok(())
        }
    }
}

/// What is to be said of all features together.
pub(super) fn of_the_whole(level: Level, output: Option<&str>, share: f64, names: &[String]) -> String {
    match (level, output) {
        (Level::Ok, _) => "as expected on the whole again.".to_owned(),
        (_, Some(output)) => format!("what the model answers is distributed otherwise: output {output}."),
        (_, None) => {
            let shown: Vec<&str> = names.iter().take(5).map(String::as_str).collect();
            let more = if names.len() > shown.len() { " and others" } else { "" };
            format!("{} of the inputs, by importance, are not as expected: {}{more}.", percent(share), shown.join(", "))
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_people_do() {
        assert_eq!(moment(0), "1970-01-01 00:00");
        assert_eq!(moment(1_795_912_920_000), "2026-11-29 00:42");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00");
        assert_eq!(moment(4_107_542_399_999), "2100-02-28 23:59");
        let _ = moment(u64::MAX);
    }
}
