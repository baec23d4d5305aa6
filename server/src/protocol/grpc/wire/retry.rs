//! How is a client told when to try again? As gRPC's own retries read it, and as Google's error model says it.

use std::time::Duration;

use http::HeaderValue;
use http::header::HeaderName;
use prost::encoding::{int32, message, string};

use super::Code;

static PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
static DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// What `google.protobuf.Any` says of a `google.rpc.RetryInfo`.
const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

/// Metadata for a call that failed so, and may be tried again after `wait`.
pub(super) fn metadata(code: Code, text: &str, wait: Duration) -> [(HeaderName, HeaderValue); 2] {
    let details = base64(&details(code, text, wait));
    // Letters, digits, `+` and `/` are all that a header may hold.
    let details = HeaderValue::from_maybe_shared(bytes::Bytes::from(details)).unwrap_or(HeaderValue::from_static(""));
    [(PUSHBACK.clone(), HeaderValue::from(wait_ms(wait))), (DETAILS.clone(), details)]
}

/// Whole milliseconds that are not less, and at least one: 0 would mean at once.
pub(crate) fn wait_ms(wait: Duration) -> u64 {
    u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).max(1)
}

/// A `google.rpc.Status` with one detail, the `RetryInfo`.
fn details(code: Code, text: &str, wait: Duration) -> Vec<u8> {
    let delay = prost_types::Duration {
        seconds: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
        nanos: wait.subsec_nanos().cast_signed(),
    };
    let mut retry_info = Vec::new();
    message::encode(1, &delay, &mut retry_info);
    let detail = prost_types::Any { type_url: RETRY_INFO.to_owned(), value: retry_info };
    let mut status = Vec::with_capacity(text.len() + 96);
    int32::encode(1, &(code as i32), &mut status);
    string::encode(2, &text.to_owned(), &mut status);
    message::encode(3, &detail, &mut status);
    status
}

/// Base64 without padding, as gRPC has binary metadata.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::with_capacity(bytes.len() * 4 / 3 + 3);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        let letters = [18, 12, 6, 0].map(|shift| LETTERS[(word >> shift & 63) as usize]);
        text.extend_from_slice(&letters[..=chunk.len()]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_metadata_has_no_padding() {
        // The vectors of RFC 4648.
        for (plain, encoded) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), encoded.as_bytes());
        }
        assert_eq!(base64(&[0xfb, 0xff]), b"+/8");
    }

    #[test]
    fn waits_are_whole_milliseconds_and_never_none() {
        for (micros, ms) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (2_500_000, 2_500)] {
            assert_eq!(wait_ms(Duration::from_micros(micros)), ms, "{micros}");
        }
    }
}
