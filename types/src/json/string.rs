//! Where does a JSON string end, and what does it say?

use std::borrow::Cow;

use super::JsonError;
use super::reader::found;

const ONES: u64 = u64::from_le_bytes([1; 8]);
const HIGH: u64 = ONES << 7;

/// The position of the next `[`, `]` or `"` from `at` on; the text's length where there is none.
#[inline]
pub(super) fn bracket_or_quote(text: &[u8], at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + memchr::memchr3(b'[', b']', b'"', rest).unwrap_or(rest.len())
}

/// The position of the first byte from `at` on that is not plain: a quote, a backslash, a control character, the end.
#[inline]
pub(super) fn plain_end(text: &[u8], mut at: usize) -> usize {
    while let Some(bytes) = text.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*bytes);
        // Bytes that are small borrow, which shows in their highest bits: those below the blank, and those that are zero
        // when a quote or a backslash is taken out. Bytes of other characters than ASCII have that bit of themselves. A
        // borrow may mark bytes after the first one wrongly, never before it.
        let control = word.wrapping_sub(ONES * 0x20);
        let quote = (word ^ (ONES * b'"' as u64)).wrapping_sub(ONES);
        let backslash = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
        let special = (control | quote | backslash) & !word & HIGH;
        if special != 0 {
            return at + (special.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let rest = text.get(at..).unwrap_or_default();
    let plain = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\');
    at + plain.unwrap_or(rest.len())
}

/// Checks that a run of plain bytes is UTF-8.
fn utf8(text: &[u8], start: usize, end: usize) -> Result<&str, JsonError> {
    std::str::from_utf8(&text[start..end])
        .map_err(|error| JsonError::new(start + error.valid_up_to(), "a string must be UTF-8"))
}

/// Why a string cannot go on at a byte that is neither plain nor a backslash.
#[cold]
fn broken(text: &[u8], at: usize) -> JsonError {
    let rule =
        if at < text.len() { "control characters in strings must be escaped" } else { "the string does not end" };
    JsonError::new(at, format!("{rule}, found {}", found(text, at)))
}

/// Reads the string whose first byte, after the quote, is at `start`; gives it with the position after its end.
pub(super) fn read(text: &[u8], start: usize) -> Result<(Cow<'_, str>, usize), JsonError> {
    let end = plain_end(text, start);
    let plain = utf8(text, start, end)?;
    if text.get(end) == Some(&b'"') {
        return Ok((Cow::Borrowed(plain), end + 1));
    }
    let mut value = plain.to_owned();
    let end = walk(text, end, |piece| value.push_str(piece))?;
    Ok((Cow::Owned(value), end))
}

/// The position after the string whose first byte, after the quote, is at `start`.
pub(super) fn skip(text: &[u8], start: usize) -> Result<usize, JsonError> {
    let end = plain_end(text, start);
    utf8(text, start, end)?;
    if text.get(end) == Some(&b'"') {
        return Ok(end + 1);
    }
    walk(text, end, |_| {})
}

/// Goes from a byte that is not plain to the end of the string and hands out its pieces on the way, escapes resolved;
/// gives the position after the end.
fn walk(text: &[u8], mut at: usize, mut piece: impl FnMut(&str)) -> Result<usize, JsonError> {
    loop {
        match text.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => {
                let (escaped, end) = escape(text, at)?;
                piece(escaped.encode_utf8(&mut [0; 4]));
                at = end;
            }
            _ => return Err(broken(text, at)),
        }
        let end = plain_end(text, at);
        piece(utf8(text, at, end)?);
        at = end;
    }
}

/// Reads the escape whose backslash is at `at`; gives its character with the position after it.
fn escape(text: &[u8], at: usize) -> Result<(char, usize), JsonError> {
    let character = match text.get(at + 1) {
        Some(b'"') => '"',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode_escape(text, at),
        _ => return Err(JsonError::new(at + 1, format!("no such escape, found {}", found(text, at + 1)))),
    };
    Ok((character, at + 2))
}

/// Reads `\u` and four digits, or two of them that are a surrogate pair.
fn unicode_escape(text: &[u8], at: usize) -> Result<(char, usize), JsonError> {
    let first = hex4(text, at + 2)?;
    let end = at + 6;
    if let Some(character) = char::from_u32(first) {
        return Ok((character, end));
    }
    if first < 0xdc00 && text.get(end..end + 2) == Some(b"\\u") {
        let second = hex4(text, end + 2)?;
        if (0xdc00..0xe000).contains(&second)
            && let Some(character) = char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))
        {
            return Ok((character, end + 6));
        }
    }
    Err(JsonError::new(at, "half of a surrogate pair"))
}

fn hex4(text: &[u8], at: usize) -> Result<u32, JsonError> {
    (at..at + 4).try_fold(0, |value, at| {
        let digit = text.get(at).and_then(|&byte| char::from(byte).to_digit(16));
        let digit = digit
            .ok_or_else(|| JsonError::new(at, format!("expected a hexadecimal digit, found {}", found(text, at))))?;
        Ok(value << 4 | digit)
    })
}

#[cfg(test)]
mod tests {
    use super::super::Reader;

    #[test]
    fn strings_say_what_was_written() {
        fn check(text: &str, expected: &str) {
            let mut reader = Reader::new(text.as_bytes());
            assert_eq!(reader.read_string().as_deref(), Ok(expected), "{text}");
            assert_eq!(reader.finish(), Ok(()), "{text}");
            let mut reader = Reader::new(text.as_bytes());
            assert_eq!(reader.skip_value(), Ok(text.as_bytes()), "{text}");
        }
        check(r#""""#, "");
        check(r#""abc""#, "abc");
        check(r#""a long one, and é, 語, 🦀 beyond""#, "a long one, and é, 語, 🦀 beyond");
        check(r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t");
        check(r#""\u0000\u00e9\uD83E\uDD80""#, "\0é🦀");
        check(r#""é\n語""#, "é\n語");
        check("\"\u{7f}\"", "\u{7f}");
    }

    #[test]
    fn broken_strings_are_refused() {
        fn check(text: &[u8], expected: &str) {
            let shown = String::from_utf8_lossy(text);
            assert_eq!(Reader::new(text).read_string().unwrap_err().to_string(), expected, "{shown}");
            assert_eq!(Reader::new(text).skip_value().unwrap_err().to_string(), expected, "{shown}");
        }
        check(b"\"abc", "at byte 4: the string does not end, found the end of the text");
        check(b"\"abcdefgh\n\"", "at byte 9: control characters in strings must be escaped, found byte 0x0a");
        check(b"\"\\x\"", "at byte 2: no such escape, found 'x'");
        check(b"\"\\", "at byte 2: no such escape, found the end of the text");
        check(b"\"\\u12g4\"", "at byte 5: expected a hexadecimal digit, found 'g'");
        check(b"\"\\ud800\"", "at byte 1: half of a surrogate pair");
        check(b"\"\\ud800\\u0041\"", "at byte 1: half of a surrogate pair");
        check(b"\"\\udc00\"", "at byte 1: half of a surrogate pair");
        check(b"\"ab\xff\"", "at byte 3: a string must be UTF-8");
        check(b"\"\\n\xe8\xaa\"", "at byte 3: a string must be UTF-8");
    }
}
