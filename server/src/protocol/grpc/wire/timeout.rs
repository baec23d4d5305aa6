//! How long does the client wait for its answer?

use std::time::Duration;

use super::{Code, Head, Status};

/// The longest number that `grpc-timeout` may hold.
const DIGITS_MAX: usize = 8;

/// The client's `grpc-timeout`, counted from the arrival of the request; `None` where it waits for ever.
///
/// Fails with INVALID_ARGUMENT where the header is not one to eight digits and a unit.
pub(crate) fn timeout(head: &Head<'_>) -> Result<Option<Duration>, Status> {
    let Some(value) = head.timeout else { return Ok(None) };
    match parse(value.as_bytes()) {
        Some(duration) => Ok(Some(duration)),
        None => Err(Status::new(
            Code::InvalidArgument,
            format!("grpc-timeout is {value:?}; expected one to eight digits and one of the units H, M, S, m, u and n"),
        )),
    }
}

fn parse(value: &[u8]) -> Option<Duration> {
    let (&unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0, |amount: u64, digit| amount * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(amount * 3600)),
        b'M' => Some(Duration::from_secs(amount * 60)),
        b'S' => Some(Duration::from_secs(amount)),
        b'm' => Some(Duration::from_millis(amount)),
        b'u' => Some(Duration::from_micros(amount)),
        b'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}
