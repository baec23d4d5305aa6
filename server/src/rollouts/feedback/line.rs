//! How does somebody write what is said of a row? One JSON object.

use serde::Deserialize;
use serde_json::Value;
use tiltyard_types::{Error, Result};
use uuid::Uuid;

use super::notes::hashed;
use super::said::{Mark, Name, Said, What};
use crate::endpoints::file::explain;

/// Bytes of one object.
pub const LINE_BYTES_MAX: usize = 4096;

/// So much later than now may something have been observed by another clock.
const AHEAD_MS: u64 = 60 * 1_000;

/// What is earlier was not meant in milliseconds: 1973.
const MILLISECONDS_MIN: u64 = 100_000_000_000;

/// What is said of a row, and of which endpoint, where the line says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The name that clients call.
    pub endpoint: Option<String>,
    /// The rest.
    pub said: Said,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    endpoint: Option<String>,
    prediction_id: Option<String>,
    row_key: Option<Value>,
    row: Option<usize>,
    label: Option<Value>,
    outcome: Option<Value>,
    #[serde(default)]
    withdrawn: bool,
    time: Option<Value>,
}

/// Reads a line at `now_ms`. The error says what was expected.
pub fn read(text: &[u8], now_ms: u64) -> Result<Line> {
    if text.len() > LINE_BYTES_MAX {
        return Err(Error::too_large(format!("{} bytes: expected at most {LINE_BYTES_MAX}", text.len())));
    }
    let written: Written = serde_json::from_slice(text).map_err(|error| Error::invalid(explain(&error.to_string())))?;
    let (name, row) = name(&written)?;
    let what = what(&written)?;
    let at_ms = written.time.as_ref().map(|time| read_time(time, now_ms)).transpose()?;
    let endpoint = written.endpoint.filter(|endpoint| !endpoint.is_empty());
    Ok(Line { endpoint, said: Said { name, row, what, at_ms } })
}

fn name(written: &Written) -> Result<(Name, usize)> {
    let key = written.row_key.as_ref().map(|key| match key {
        Value::String(key) if !key.is_empty() => Ok(key.clone()),
        Value::Number(number) if !number.is_f64() => Ok(number.to_string()),
        _ => Err(Error::invalid("row_key: expected the text, or the whole number, that the request declared")),
    });
    match (&written.prediction_id, key.transpose()?, written.row) {
        (Some(id), None, row) => {
            let wrong = || {
                Error::invalid(format!(
                    "prediction_id {:?}: expected REQUEST:ROW, as the answer has it in tiltyard-prediction-id",
                    id.chars().take(80).collect::<String>()
                ))
            };
            let (request, of_id) = id.split_once(':').ok_or_else(wrong)?;
            let request = Uuid::try_parse(request).map_err(|_| wrong())?;
            let of_id: usize = of_id.parse().map_err(|_| wrong())?;
            if row.is_some_and(|row| row != of_id) {
                return Err(Error::invalid("row is not the one that prediction_id ends with: leave it out"));
            }
            Ok((Name::Request(request.as_u128()), of_id))
        }
        (None, Some(key), row) => Ok((Name::Key(hashed(key.as_bytes())), row.unwrap_or(0))),
        (Some(_), Some(_), _) => Err(Error::invalid("prediction_id and row_key are both given: expected one of them")),
        (None, None, _) => Err(Error::invalid("neither prediction_id nor row_key is given: expected one of them")),
    }
}

fn what(written: &Written) -> Result<What> {
    match (&written.label, &written.outcome, written.withdrawn) {
        (Some(label), None, false) => match label {
            Value::String(text) if !text.trim().is_empty() => Some(What::Label(Mark::name(text))),
            Value::Number(number) => number.as_f64().map(|number| What::Label(Mark::number(number))),
            Value::Bool(class) => Some(What::Label(Mark::class(usize::from(*class), Some(&class.to_string())))),
            _ => None,
        }
        .ok_or_else(|| Error::invalid("label: expected a class (text, number, true or false) or a number")),
        (None, Some(outcome), false) => match outcome.as_f64() {
            Some(outcome) => Ok(What::Outcome(outcome)),
            None => Err(Error::invalid("outcome: expected a number")),
        },
        (None, None, true) => Ok(What::Withdrawn),
        _ => Err(Error::invalid("expected one of label, outcome, and withdrawn = true")),
    }
}

/// Milliseconds since 1970, as a whole number or as RFC 3339 has it.
fn read_time(time: &Value, now_ms: u64) -> Result<u64> {
    let wrong = || {
        Error::invalid(format!(
            "time {time}: expected such as \"2026-11-28T14:00:00Z\", or whole milliseconds since 1970 such as {now_ms}"
        ))
    };
    let at_ms = match time {
        Value::String(text) => rfc3339(text.trim()).or_else(|| text.trim().parse().ok()),
        Value::Number(number) => number.as_u64(),
        _ => None,
    };
    let at_ms = at_ms.filter(|&at_ms| at_ms >= MILLISECONDS_MIN).ok_or_else(wrong)?;
    if at_ms > now_ms + AHEAD_MS {
        return Err(Error::invalid(format!("time {time} lies ahead: expected when it was observed")));
    }
    Ok(at_ms)
}

/// `2026-11-28T14:00:00.123+01:00`; finer than milliseconds is cut off.
fn rfc3339(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse::<i64>().ok()
    };
    let is_at = |at: usize, allowed: &[u8]| text.as_bytes().get(at).is_some_and(|byte| allowed.contains(byte));
    if !(is_at(4, b"-") && is_at(7, b"-") && is_at(10, b"Tt ") && is_at(13, b":") && is_at(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let is_good = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        None => ("", rest),
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?),
    };
    let thousandths: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let east_minutes = match zone {
        "Z" | "z" => 0,
        zone => {
            let two =
                |digits: &str| digits.parse::<i64>().ok().filter(|_| digits.len() == 2 && !digits.starts_with('-'));
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let minutes = two(hours)? * 60 + two(minutes)?;
            match zone.as_bytes().first()? {
                b'+' => minutes,
                b'-' => -minutes,
                _ => return None,
            }
        }
    };
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute - east_minutes) * 60 + second;
    u64::try_from(seconds * 1_000 + thousandths).ok().filter(|_| is_good)
}

/// Days since 1970 in the Gregorian calendar, whose years are counted from March so that the odd day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    // From 1 March of the year 0 to 1 January 1970.
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn said(text: &str) -> Said {
        read(text.as_bytes(), NOW_MS).unwrap().said
    }

    #[test]
    fn rows_have_two_names() {
        let id = "01920000-0000-7000-8000-0000000000ab";
        let of_id = said(&format!(r#"{{"prediction_id": "{id}:3", "label": "late", "time": "2026-11-28T14:00:00Z"}}"#));
        let name = Name::Request(Uuid::parse_str(id).unwrap().as_u128());
        let what = What::Label(Mark::name("late"));
        assert_eq!(of_id, Said { name, row: 3, what, at_ms: Some(1_795_874_400_000) });
        let of_key = read(br#"{"endpoint": "risk", "row_key": 17, "row": 2, "outcome": 12.5}"#, NOW_MS).unwrap();
        let expected = Said { name: Name::Key(hashed(b"17")), row: 2, what: What::Outcome(12.5), at_ms: None };
        assert_eq!(of_key, Line { endpoint: Some("risk".into()), said: expected });
        assert_eq!(said(r#"{"row_key": "17", "row": 2, "outcome": 12.5}"#), expected);
        assert_eq!(said(r#"{"row_key": "a", "withdrawn": true}"#).what, What::Withdrawn);
        assert_eq!(said(r#"{"row_key": "a", "label": 1}"#).what, What::Label(Mark::number(1.0)));
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_was() {
        let refused = |text: &str, expected: &str| {
            let message = read(text.as_bytes(), NOW_MS).unwrap_err().message().to_owned();
            assert!(message.contains(expected), "{text}: {message}");
        };
        refused(r#"{"prediction_id": "7", "label": 1}"#, "expected REQUEST:ROW");
        refused(r#"{"prediction_id": "01920000-0000-7000-8000-0000000000ab:1", "row": 2, "label": 1}"#, "leave it out");
        refused(r#"{"label": 1}"#, "neither prediction_id nor row_key");
        refused(r#"{"row_key": "a", "prediction_id": "b", "label": 1}"#, "both given");
        refused(r#"{"row_key": 1.5, "label": 1}"#, "the text, or the whole number");
        refused(r#"{"row_key": "a"}"#, "one of label, outcome");
        refused(r#"{"row_key": "a", "label": 1, "outcome": 1}"#, "one of label, outcome");
        refused(r#"{"row_key": "a", "label": [1]}"#, "expected a class");
        refused(r#"{"row_key": "a", "label": null}"#, "one of label, outcome");
        refused(r#"{"row_key": "a", "outcome": "1"}"#, "outcome: expected a number");
        refused(r#"{"row_key": "a", "lable": 1}"#, "did you mean label?");
        refused(r#"{"row_key": "a", "label": 1, "time": 1795874400}"#, "whole milliseconds");
        refused(r#"{"row_key": "a", "label": 1, "time": "yesterday"}"#, "whole milliseconds");
        refused(r#"{"row_key": "a", "label": 1, "time": 1800000070000}"#, "lies ahead");
        refused("{", "EOF");
        refused(&format!("{{\"row_key\": \"{}\"}}", "a".repeat(5_000)), "expected at most 4096");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(rfc3339(text), expected, "{text}");
        check("1970-01-01T00:00:00Z", Some(0));
        check("2000-02-29T12:30:45.5Z", Some(951_827_445_500));
        check("2026-11-28T14:00:00+01:30", Some(1_795_869_000_000));
        check("2026-11-28t14:00:00.1239-00:30", Some(1_795_876_200_123));
        check("2026-11-28T14:00:00", None);
        check("2026-11-28T14:00:00+00:9999999999999999999", None);
        check("2026-11-28T14:00:00+-1:00", None);
        check("2026-13-28T14:00:00Z", None);
        check("2026-11-28T24:00:00Z", None);
        check("28.11.2026", None);
        check("", None);
    }
}
