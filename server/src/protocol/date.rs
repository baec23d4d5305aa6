//! What does the date header of an answer say?

use std::cell::RefCell;
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;

use crate::clock;

/// Now, as HTTP writes it. Made once a second on each thread.
pub(crate) fn header() -> HeaderValue {
    thread_local! {
        static MADE: RefCell<(u64, HeaderValue)> = RefCell::new((0, of(0)));
    }
    let seconds = clock::unix_ms() / 1000;
    MADE.with_borrow_mut(|(known, value)| {
        if *known != seconds {
            (*known, *value) = (seconds, of(seconds));
        }
        value.clone()
    })
}

fn of(unix_seconds: u64) -> HeaderValue {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_seconds));
    HeaderValue::from_str(&date).unwrap_or(HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_http() {
        assert_eq!(of(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(header().len(), 29);
    }
}
