//! How are the values of the command line read?

use std::net::SocketAddr;
use std::time::Duration;

use clap::builder::ValueParser;
use clap::{Arg, ArgMatches, value_parser};

use crate::Fault;

/// The longest time that any stretch of load may take.
const DURATION_MAX: Duration = Duration::from_secs(3600);

/// Reads an integer or fraction with a unit: `500ms`, `1.5s`, `2m`. At most an hour.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration: expected a number with a unit (us, ms, s, m), such as 500ms");
    let unit_at = text.find(|character: char| character.is_ascii_alphabetic()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let duration = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
    match duration <= DURATION_MAX {
        true => Ok(duration),
        false => Err(format!("{text:?} is longer than an hour, which is the most that any load may take")),
    }
}

/// Reads an address of this machine. Others are refused: this tool saturates what it points at.
pub(crate) fn parse_target(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| format!("{text:?} is no address: expected one such as 127.0.0.1:8001"))?;
    match address.ip().is_loopback() {
        true => Ok(address),
        false => Err(format!("{text:?} is not on this machine's loopback: load is sent nowhere else")),
    }
}

/// A flag with a value and a default.
pub(crate) fn flag(
    name: &'static str,
    default: &'static str,
    parser: impl Into<ValueParser>,
    help: &'static str,
) -> Arg {
    Arg::new(name).long(name).default_value(default).value_parser(parser).help(help)
}

/// A flag with a value that may be left out.
pub(crate) fn optional(name: &'static str, parser: impl Into<ValueParser>, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_parser(parser).help(help)
}

/// A number of something, at least one.
pub(crate) fn count(name: &'static str, default: &'static str, help: &'static str) -> Arg {
    flag(name, default, value_parser!(u32).range(1..=1 << 20), help)
}

/// The value of a flag that [`count`] made.
pub(crate) fn count_of(matches: &ArgMatches, name: &str) -> Result<usize, Fault> {
    Ok(value::<u32>(matches, name)? as usize)
}

/// The value of a flag that was given or has a default.
pub(crate) fn value<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> Result<T, Fault> {
    matches.get_one::<T>(name).cloned().ok_or_else(|| format!("--{name} is missing").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_a_bound() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("20us"), Ok(Duration::from_micros(20)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "5", "s", "-1s", "1h", "61m", "1e9s", "nans"] {
            assert!(parse_duration(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_this_machine_is_a_target() {
        assert!(parse_target("127.0.0.1:80").is_ok());
        assert!(parse_target("[::1]:80").is_ok());
        let refused = parse_target("10.0.0.1:80").unwrap_err();
        assert_eq!(refused, "\"10.0.0.1:80\" is not on this machine's loopback: load is sent nowhere else");
        assert!(parse_target("localhost:80").is_err());
    }
}
