//! Which headers does an inference look at, and what do they say?

use std::time::Duration;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use tiltyard_types::{Error, Result};

/// Where the JSON ends and the binary tensors begin; 0 stands for a body that is one raw tensor.
pub(super) const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// How long the client waits, in milliseconds or with a unit.
const TIMEOUT: HeaderName = HeaderName::from_static("tiltyard-timeout");

/// The headers that matter to an inference, found in one pass over all of them. Of one that came twice it is the first.
#[derive(Default)]
pub(super) struct InferHeaders<'a> {
    pub(super) content_type: Option<&'a HeaderValue>,
    pub(super) content_encoding: Option<&'a HeaderValue>,
    header_length: Option<&'a HeaderValue>,
    timeout: Option<&'a HeaderValue>,
}

impl<'a> InferHeaders<'a> {
    pub(super) fn of(headers: &'a HeaderMap) -> InferHeaders<'a> {
        let mut found = InferHeaders::default();
        for (name, value) in headers {
            let place = match name.as_str() {
                "content-type" => &mut found.content_type,
                "content-encoding" => &mut found.content_encoding,
                "inference-header-content-length" => &mut found.header_length,
                "tiltyard-timeout" => &mut found.timeout,
                _ => continue,
            };
            place.get_or_insert(value);
        }
        found
    }

    /// How many bytes of the body are JSON; 0 where all of it is one raw tensor, `None` where all of it is JSON.
    pub(super) fn header_length(&self) -> Result<Option<usize>> {
        let Some(value) = self.header_length else { return Ok(None) };
        match value.to_str().ok().and_then(|text| text.trim().parse().ok()) {
            Some(length) => Ok(Some(length)),
            None => Err(Error::invalid(format!("{HEADER_LENGTH}: expected a number of bytes, got {value:?}"))),
        }
    }

    /// How long the client waits, if it says so.
    pub(super) fn timeout(&self) -> Result<Option<Duration>> {
        let Some(value) = self.timeout else { return Ok(None) };
        let text = value.to_str().unwrap_or("").trim();
        let (number, unit_ms) = match text.strip_suffix("ms") {
            Some(number) => (number, 1.0),
            None => match text.strip_suffix('s') {
                Some(number) => (number, 1000.0),
                None => (text, 1.0),
            },
        };
        match number.trim().parse::<f64>() {
            Ok(number) if number > 0.0 && number.is_finite() => {
                Ok(Some(Duration::from_secs_f64((number * unit_ms / 1000.0).min(1e9))))
            }
            _ => Err(Error::invalid(format!("{TIMEOUT}: expected milliseconds, or such as \"2s\", got {value:?}"))),
        }
    }
}

/// Refuses a body that says it is something else than JSON or binary tensors. `curl -d` says it is a form, and some say
/// nothing: their meaning is clear.
pub(super) fn check_content_type(value: Option<&HeaderValue>) -> Result<()> {
    let Some(value) = value else { return Ok(()) };
    // Most say it in just these words.
    if let b"application/json" | b"application/octet-stream" = value.as_bytes() {
        return Ok(());
    }
    let text = value.to_str().unwrap_or("?");
    let end = text.bytes().position(|byte| byte == b';').unwrap_or(text.len());
    let media_type = text[..end].trim();
    let fine = ["application/json", "application/octet-stream", "", "application/x-www-form-urlencoded", "text/plain"];
    let is_json = |suffix: &str| suffix.eq_ignore_ascii_case("json");
    match fine.iter().any(|fine| media_type.eq_ignore_ascii_case(fine))
        || media_type.rsplit_once('+').is_some_and(|(_, suffix)| is_json(suffix))
    {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "content type {:?} is not taken: expected application/json, or application/octet-stream with binary tensors",
            media_type.to_ascii_lowercase()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_each_header_counts() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("content-type", "a"), ("x", "b"), ("content-encoding", "c"), ("content-type", "d")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.append(HEADER_LENGTH, HeaderValue::from_static(" 12 "));
        headers.append(HEADER_LENGTH, HeaderValue::from_static("13"));
        headers.append(TIMEOUT, HeaderValue::from_static("2s"));
        let found = InferHeaders::of(&headers);
        assert_eq!(found.content_type, headers.get("content-type"));
        assert_eq!(found.content_encoding, headers.get("content-encoding"));
        assert_eq!(found.header_length().unwrap(), Some(12));
        assert_eq!(found.timeout().unwrap(), Some(Duration::from_secs(2)));
        let none = HeaderMap::new();
        let found = InferHeaders::of(&none);
        assert!(found.content_type.is_none() && found.content_encoding.is_none());
        assert_eq!((found.header_length().unwrap(), found.timeout().unwrap()), (None, None));
    }

    #[test]
    fn types_of_bodies_are_told_apart() {
        let check = |text: &'static str| check_content_type(Some(&HeaderValue::from_static(text)));
        for fine in [
            "application/json",
            "Application/JSON; charset=utf-8",
            " application/octet-stream ",
            "application/vnd.x+json",
            "application/x-www-form-urlencoded",
            "text/plain;a;b",
            "",
            "+JSON",
        ] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        for wrong in ["text/html", "json", "application/json+xml", "a+json+b", "application/jsonx"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            check("Text/HTML; charset=x").unwrap_err().message(),
            "content type \"text/html\" is not taken: expected application/json, or application/octet-stream with binary tensors"
        );
        assert_eq!(check_content_type(None), Ok(()));
    }
}
