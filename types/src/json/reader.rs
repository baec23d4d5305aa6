//! What comes next in a JSON text, value by value?

use std::borrow::Cow;

use super::JsonError;
use super::number::{self, Decimal, nearest_f64};
use super::string;

/// How many arrays and objects may be open at once.
pub const DEPTH_MAX: usize = 64;

/// So many bytes at the start of a text are checked for UTF-8 at once: the names around a tensor are there. What comes
/// later is checked string by string, as numbers need no check.
const KNOWN_MAX: usize = 512;

/// What kind of value comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An object.
    Object,
    /// An array.
    Array,
    /// A string.
    String,
    /// A number, or one of the words `NaN`, `Infinity` and `-Infinity`.
    Number,
    /// True or false.
    Bool,
    /// Null.
    Null,
}

impl Kind {
    /// The kind with its article, for messages: `an object`.
    pub const fn described(self) -> &'static str {
        match self {
            Kind::Object => "an object",
            Kind::Array => "an array",
            Kind::String => "a string",
            Kind::Number => "a number",
            Kind::Bool => "a boolean",
            Kind::Null => "null",
        }
    }
}

/// A number of a JSON text, exact where it is an integer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// An integer without fraction and exponent.
    Int(i64),
    /// One above the greatest `i64`.
    Uint(u64),
    /// Any other number, rounded to the nearest double; `-0` is one.
    Float(f64),
}

/// Reads a JSON text front to back, without building anything.
///
/// Every method leaves the reader after what it read; after an error its position means nothing. A clone is a
/// bookmark: it reads the same text again from where it was taken.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    text: &'a [u8],
    /// The start of the text, where it is known to be UTF-8; empty where it is not.
    known: &'a str,
    position: usize,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `text`, whose bytes need not be UTF-8: that is checked where strings are read.
    pub fn new(text: &'a [u8]) -> Reader<'a> {
        let known = std::str::from_utf8(&text[..text.len().min(KNOWN_MAX)]).unwrap_or_default();
        Reader { text, known, position: 0, depth: 0 }
    }

    /// The same reader, which checks each string for UTF-8 when it comes to it.
    #[cfg(test)]
    pub(super) fn knowing_nothing(self) -> Reader<'a> {
        Reader { known: "", ..self }
    }

    /// The position in the text, in bytes from its start.
    pub fn offset(&self) -> usize {
        self.position
    }

    /// The number of bytes that were not read yet.
    pub fn remaining(&self) -> usize {
        self.text.len() - self.position
    }

    /// An error at this position: what was `expected`, against what is there.
    #[cold]
    #[inline(never)]
    pub fn unexpected(&self, expected: &str) -> JsonError {
        let found = found(self.text, self.position);
        JsonError::new(self.position, format!("expected {expected}, found {found}"))
    }

    /// What kind of value comes next; it is not read. Fails where no value can begin like this.
    #[inline]
    pub fn peek_kind(&mut self) -> Result<Kind, JsonError> {
        self.skip_whitespace();
        match self.peek() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9' | b'N' | b'I') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(self.unexpected("a value")),
        }
    }

    /// Reads an object. `field` is called after each key and must read exactly one value; a key that comes twice
    /// is given twice. Fails on anything else than an object, and where `field` fails.
    pub fn read_object<E: From<JsonError>>(
        &mut self,
        mut field: impl FnMut(&str, &mut Reader<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut more = self.enter::<b'{', b'}'>()?;
        while more {
            let escaped;
            let key = match self.read_plain_key() {
                Some(key) => key,
                None => {
                    escaped = self.read_key()?;
                    &escaped
                }
            };
            field(key, self)?;
            more = self.next_item(b'}')?;
        }
        Ok(())
    }

    /// Reads an array. `item` is called before each item and must read exactly one value. Fails on anything else
    /// than an array, and where `item` fails.
    pub fn read_array<E: From<JsonError>>(
        &mut self,
        mut item: impl FnMut(&mut Reader<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut more = self.enter::<b'[', b']'>()?;
        while more {
            item(self)?;
            more = self.next_item(b']')?;
        }
        Ok(())
    }

    /// Reads a string, borrowed from the text where it has no escapes. Fails on invalid UTF-8, bare control
    /// characters, unknown escapes and halves of surrogate pairs.
    #[inline]
    pub fn read_string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.skip_whitespace();
        match self.read_plain() {
            Some(plain) => Ok(Cow::Borrowed(plain)),
            None => self.read_any_string(),
        }
    }

    #[inline(never)]
    fn read_any_string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.expect(Kind::String)?;
        let (value, end) = string::read(self.text, self.position + 1)?;
        self.position = end;
        Ok(value)
    }

    /// Reads a number. Fails where it is finite and too large for a double.
    pub fn read_number(&mut self) -> Result<Number, JsonError> {
        self.skip_whitespace();
        if let Some(value) = self.read_count() {
            return Ok(Number::Int(value));
        }
        self.expect(Kind::Number)?;
        let start = self.position;
        if let Some(word) = self.read_number_word()? {
            return Ok(Number::Float(word));
        }
        let (decimal, token) = self.scan_number()?;
        if decimal.whole {
            let magnitude = if decimal.exact { Some(decimal.mantissa) } else { parse_u64(token) };
            match (magnitude, decimal.negative) {
                (Some(0), true) | (None, _) => {}
                (Some(value), false) => return Ok(i64::try_from(value).map_or(Number::Uint(value), Number::Int)),
                (Some(value), true) => {
                    if let Some(value) = 0i64.checked_sub_unsigned(value) {
                        return Ok(Number::Int(value));
                    }
                }
            }
        }
        match nearest_f64(decimal, token) {
            Ok(value) => Ok(Number::Float(value)),
            Err(number::OutOfRange) => Err(JsonError::new(start, "the number is out of range")),
        }
    }

    /// Reads true or false.
    pub fn read_bool(&mut self) -> Result<bool, JsonError> {
        self.expect(Kind::Bool)?;
        if self.peek() == Some(b't') {
            self.literal("true").map(|()| true)
        } else {
            self.literal("false").map(|()| false)
        }
    }

    /// Reads null.
    pub fn read_null(&mut self) -> Result<(), JsonError> {
        self.expect(Kind::Null)?;
        self.literal("null")
    }

    /// Reads a value of any kind, checks it wholly and gives its text. Fails on what is no JSON.
    pub fn skip_value(&mut self) -> Result<&'a [u8], JsonError> {
        self.skip_whitespace();
        let start = self.position;
        let outside = self.depth;
        // One bit for each open level, the innermost lowest: is it an object?
        let mut objects = 0u64;
        loop {
            let opened = match self.peek() {
                Some(b'-') if self.at_negative_word() => {
                    self.skip_word()?;
                    false
                }
                Some(b'-' | b'0'..=b'9') => {
                    self.position = number::skip(self.text, self.position)?;
                    false
                }
                Some(b'"') => {
                    self.position = string::skip(self.text, self.position + 1)?;
                    false
                }
                Some(open @ (b'{' | b'[')) => {
                    let object = open == b'{';
                    let opened = if object { self.enter::<b'{', b'}'>() } else { self.enter::<b'[', b']'>() }?;
                    if opened {
                        objects = objects << 1 | u64::from(object);
                    }
                    opened
                }
                _ => {
                    self.skip_word()?;
                    false
                }
            };
            let mut more = opened;
            while !more {
                if self.depth == outside {
                    return Ok(&self.text[start..self.position]);
                }
                more = self.next_item(if objects & 1 == 1 { b'}' } else { b']' })?;
                if !more {
                    objects >>= 1;
                }
            }
            if objects & 1 == 1 {
                self.skip_whitespace();
                if self.peek() != Some(b'"') {
                    return Err(self.unexpected("a key"));
                }
                self.position = string::skip(self.text, self.position + 1)?;
                self.colon()?;
            } else {
                self.skip_whitespace();
            }
        }
    }

    /// Goes to the end of an array without looking at what is in it: brackets are counted, strings are left out.
    /// What is in it must be read later, from a bookmark at its start; only then is it known to be JSON.
    pub(super) fn leave_array(&mut self) -> Result<(), JsonError> {
        self.expect(Kind::Array)?;
        let start = self.position;
        let mut open = 0usize;
        loop {
            self.position = string::bracket_or_quote(self.text, self.position);
            match self.peek() {
                Some(b'[') => open += 1,
                Some(b']') => open -= 1,
                Some(b'"') => {
                    self.position = string::skip(self.text, self.position + 1)?;
                    continue;
                }
                _ => return Err(JsonError::new(start, "the array does not end")),
            }
            self.position += 1;
            if open == 0 {
                return Ok(());
            }
        }
    }

    /// Ends the reading. Fails where anything but whitespace follows.
    pub fn finish(mut self) -> Result<(), JsonError> {
        self.skip_whitespace();
        if self.position == self.text.len() { Ok(()) } else { Err(self.unexpected("the end of the text")) }
    }

    /// The next byte, whitespace included.
    #[inline(always)]
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.position).copied()
    }

    #[inline(always)]
    pub(super) fn skip_whitespace(&mut self) {
        // Between the numbers of a tensor there is nothing, or one blank.
        if self.peek() == Some(b' ') {
            self.position += 1;
        }
        if let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.skip_long_whitespace();
        }
    }

    #[inline(never)]
    fn skip_long_whitespace(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.position += 1;
        }
    }

    /// Whether a value of `kind` comes next; where another does, the error names it.
    #[inline]
    pub(super) fn expect(&mut self, kind: Kind) -> Result<(), JsonError> {
        if self.peek_kind()? == kind { Ok(()) } else { Err(self.not_of_kind(kind)) }
    }

    /// What to say of a value that is not of the `expected` kind.
    #[cold]
    #[inline(never)]
    fn not_of_kind(&mut self, expected: Kind) -> JsonError {
        match self.peek_kind() {
            Ok(found) => {
                let message = format!("expected {}, found {}", expected.described(), found.described());
                JsonError::new(self.position, message)
            }
            Err(error) => error,
        }
    }

    #[cold]
    #[inline(never)]
    fn too_deep(&self) -> JsonError {
        JsonError::new(self.position, format!("more than {DEPTH_MAX} arrays and objects in each other"))
    }

    /// Reads the bracket that opens an array or object, and also the one that closes it where it is empty. Answers
    /// whether there is an item.
    #[inline(always)]
    pub(super) fn enter<const OPEN: u8, const CLOSE: u8>(&mut self) -> Result<bool, JsonError> {
        self.skip_whitespace();
        if self.peek() != Some(OPEN) {
            return Err(self.not_of_kind(if OPEN == b'{' { Kind::Object } else { Kind::Array }));
        }
        if self.depth == DEPTH_MAX {
            return Err(self.too_deep());
        }
        self.position += 1;
        self.skip_whitespace();
        if self.peek() == Some(CLOSE) {
            self.position += 1;
            return Ok(false);
        }
        self.depth += 1;
        Ok(true)
    }

    /// Reads what follows an item: a comma, or the bracket that ends the level. Answers whether another item comes.
    #[inline(always)]
    pub(super) fn next_item(&mut self, close: u8) -> Result<bool, JsonError> {
        if self.peek() != Some(b',') {
            self.skip_whitespace();
            match self.peek() {
                Some(b',') => {}
                Some(byte) if byte == close => {
                    self.position += 1;
                    self.depth -= 1;
                    return Ok(false);
                }
                _ => return Err(self.unexpected(if close == b'}' { "',' or '}'" } else { "',' or ']'" })),
            }
        }
        self.position += 1;
        Ok(true)
    }

    fn read_key(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.skip_whitespace();
        if self.peek() != Some(b'"') {
            return Err(self.unexpected("a key"));
        }
        let key = self.read_string()?;
        self.colon()?;
        Ok(key)
    }

    /// Reads the string at this position, if it is one that the text has as it is: without escapes, and where the text
    /// is known to be UTF-8. Any other, and what is no string, is not read.
    #[inline]
    fn read_plain(&mut self) -> Option<&'a str> {
        let known = self.known.as_bytes();
        let start = self.position + 1;
        if known.get(self.position) != Some(&b'"') {
            return None;
        }
        let end = string::plain_end(known, start);
        if known.get(end) != Some(&b'"') {
            return None;
        }
        self.position = end + 1;
        self.known.get(start..end)
    }

    /// Reads a key with its colon, if it is such a string. Else nothing is read but whitespace.
    #[inline(never)]
    fn read_plain_key(&mut self) -> Option<&'a str> {
        self.skip_whitespace();
        let start = self.position;
        let key = self.read_plain()?;
        self.skip_whitespace();
        if self.peek() != Some(b':') {
            self.position = start;
            return None;
        }
        self.position += 1;
        self.skip_whitespace();
        Some(key)
    }

    fn colon(&mut self) -> Result<(), JsonError> {
        self.skip_whitespace();
        if self.peek() != Some(b':') {
            return Err(self.unexpected("':'"));
        }
        self.position += 1;
        self.skip_whitespace();
        Ok(())
    }

    /// Reads the number at this position, if it is a whole one of at most 18 digits and without a sign: sizes and
    /// switches are. Any other, and what is no number, is not read.
    pub(super) fn read_count(&mut self) -> Option<i64> {
        const DIGITS_MAX: usize = 18;
        let text = self.text.get(self.position..)?;
        let (mut value, mut digits) = (0, 0);
        while let Some(digit @ b'0'..=b'9') = text.get(digits) {
            if digits == DIGITS_MAX {
                return None;
            }
            value = value * 10 + i64::from(digit - b'0');
            digits += 1;
        }
        let goes_on = matches!(text.get(digits), Some(b'.' | b'e' | b'E'));
        let leading_zero = digits > 1 && text[0] == b'0';
        if digits == 0 || goes_on || leading_zero {
            return None;
        }
        self.position += digits;
        Some(value)
    }

    /// Reads the number at this position, and answers what `convert` makes of it; where the number is of a rare form,
    /// or `convert` refuses, nothing is read.
    #[inline(always)]
    pub(super) fn scan_quick<T>(&mut self, convert: impl FnOnce(Decimal) -> Option<T>) -> Option<T> {
        let (decimal, length) = number::scan_quick(self.text, self.position)?;
        let value = convert(decimal)?;
        self.position += length;
        Some(value)
    }

    /// Reads the number at this position, a minus or a digit; gives it with its text.
    pub(super) fn scan_number(&mut self) -> Result<(Decimal, &'a [u8]), JsonError> {
        let (decimal, end) = number::scan(self.text, self.position)?;
        let token = &self.text[self.position..end];
        self.position = end;
        Ok((decimal, token))
    }

    /// Reads `NaN`, `Infinity` or `-Infinity` if one of them begins at this position.
    pub(super) fn read_number_word(&mut self) -> Result<Option<f64>, JsonError> {
        let (word, value) = match (self.peek(), self.text.get(self.position + 1)) {
            (Some(b'N'), _) => ("NaN", f64::NAN),
            (Some(b'I'), _) => ("Infinity", f64::INFINITY),
            (Some(b'-'), Some(b'I')) => ("-Infinity", f64::NEG_INFINITY),
            _ => return Ok(None),
        };
        self.literal(word).map(|()| Some(value))
    }

    /// Whether `-Infinity`, or what begins like it, stands at this position.
    #[inline(always)]
    pub(super) fn at_negative_word(&self) -> bool {
        self.text.get(self.position + 1) == Some(&b'I')
    }

    fn skip_word(&mut self) -> Result<(), JsonError> {
        match self.peek_kind()? {
            Kind::Bool => self.read_bool().map(drop),
            Kind::Null => self.read_null(),
            _ => self.read_number_word().map(drop),
        }
    }

    #[inline]
    fn literal(&mut self, word: &str) -> Result<(), JsonError> {
        if !self.text[self.position..].starts_with(word.as_bytes()) {
            return Err(self.not_the_word(word));
        }
        self.position += word.len();
        Ok(())
    }

    /// Where another text than `word` begins, and with what.
    #[cold]
    #[inline(never)]
    fn not_the_word(&self, word: &str) -> JsonError {
        let alike = word.bytes().zip(&self.text[self.position..]).take_while(|(expected, found)| expected == *found);
        let at = self.position + alike.count();
        JsonError::new(at, format!("expected the word {word}, found {}", found(self.text, at)))
    }
}

fn parse_u64(token: &[u8]) -> Option<u64> {
    std::str::from_utf8(token).ok()?.trim_start_matches('-').parse().ok()
}

/// What is at a position, for messages.
pub(super) fn found(text: &[u8], at: usize) -> String {
    match text.get(at) {
        None => "the end of the text".to_owned(),
        Some(byte @ b' '..=b'~') => format!("'{}'", char::from(*byte)),
        Some(byte) => format!("byte 0x{byte:02x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What skipping the text and reading it to its end answers.
    fn skipped(text: &str) -> Result<(), String> {
        let mut reader = Reader::new(text.as_bytes());
        reader.skip_value().and_then(|_| reader.finish()).map_err(|error| error.to_string())
    }

    #[test]
    fn errors_say_where_and_what() {
        fn check(text: &str, expected: &str) {
            assert_eq!(skipped(text), Err(expected.to_owned()), "{text}");
        }
        check("", "at byte 0: expected a value, found the end of the text");
        check("{\"data\": [1, 2, 3}", "at byte 17: expected ',' or ']', found '}'");
        check("{\"a\": 1]", "at byte 7: expected ',' or '}', found ']'");
        check("{\"a\" 1}", "at byte 5: expected ':', found '1'");
        check("{a: 1}", "at byte 1: expected a key, found 'a'");
        check("{\"a\": 1,}", "at byte 8: expected a key, found '}'");
        check("[1,]", "at byte 3: expected a value, found ']'");
        check("[1 2]", "at byte 3: expected ',' or ']', found '2'");
        check("[01]", "at byte 1: a number must not begin with a zero and another digit");
        check("[-]", "at byte 2: expected a digit, found ']'");
        check("[1.]", "at byte 3: expected a digit, found ']'");
        check("[1e+]", "at byte 4: expected a digit, found ']'");
        check("[+1]", "at byte 1: expected a value, found '+'");
        check("[.5]", "at byte 1: expected a value, found '.'");
        check("nul", "at byte 3: expected the word null, found the end of the text");
        check("Inf", "at byte 3: expected the word Infinity, found the end of the text");
        check("[-Infinite]", "at byte 9: expected the word -Infinity, found 'e'");
        check("1 2", "at byte 2: expected the end of the text, found '2'");
        check("\u{feff}1", "at byte 0: expected a value, found byte 0xef");
    }

    #[test]
    fn every_kind_is_read() {
        let text = b" {\"a\": [1, -2, 18446744073709551615, 1.5, -0, NaN, -Infinity], \"b\": {\"c\": [ ]}, \"d\": {}} ";
        let mut reader = Reader::new(text);
        let mut numbers = Vec::new();
        let mut keys = Vec::new();
        let outcome: Result<(), JsonError> = reader.read_object(|key, reader| {
            keys.push(key.to_owned());
            match reader.peek_kind()? {
                Kind::Array => reader.read_array(|reader| {
                    numbers.push(reader.read_number()?);
                    Ok(())
                }),
                _ => reader.skip_value().map(|raw| keys.push(String::from_utf8_lossy(raw).into_owned())),
            }
        });
        outcome.unwrap();
        reader.finish().unwrap();
        assert_eq!(keys, ["a", "b", "{\"c\": [ ]}", "d", "{}"]);
        assert_eq!(numbers[..4], [Number::Int(1), Number::Int(-2), Number::Uint(u64::MAX), Number::Float(1.5)]);
        assert!(matches!(numbers[4], Number::Float(zero) if zero == 0.0 && zero.is_sign_negative()));
        assert!(matches!(numbers[5], Number::Float(nan) if nan.is_nan()));
        assert_eq!(numbers[6], Number::Float(f64::NEG_INFINITY));
    }

    #[test]
    fn integers_are_exact_to_the_last_one() {
        fn check(text: &str, expected: Number) {
            assert_eq!(Reader::new(text.as_bytes()).read_number(), Ok(expected), "{text}");
        }
        check("9223372036854775807", Number::Int(i64::MAX));
        check("-9223372036854775808", Number::Int(i64::MIN));
        check("9223372036854775808", Number::Uint(1 << 63));
        check("-9223372036854775809", Number::Float(-9223372036854775808.0));
        check("18446744073709551616", Number::Float(18446744073709551616.0));
        check("3.0", Number::Float(3.0));
        let huge = Reader::new(b"[1e999]").read_array(|reader| reader.read_number().map(drop));
        assert_eq!(huge.unwrap_err().to_string(), "at byte 1: the number is out of range");
    }

    #[test]
    fn wrong_kinds_are_named() {
        assert_eq!(Reader::new(b" {}").read_string().unwrap_err().message, "expected a string, found an object");
        assert_eq!(Reader::new(b"1").read_bool().unwrap_err().message, "expected a boolean, found a number");
        assert_eq!(Reader::new(b"true").read_null().unwrap_err().message, "expected null, found a boolean");
        assert!(Reader::new(b"true").read_bool().unwrap());
        assert!(!Reader::new(b"false").read_bool().unwrap());
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(skipped(&deep(DEPTH_MAX)), Ok(()));
        assert_eq!(
            skipped(&deep(DEPTH_MAX + 1)),
            Err("at byte 64: more than 64 arrays and objects in each other".to_owned())
        );
        let wide = format!("[{}0]", "[[]],{\"a\": [{}]},".repeat(100));
        assert_eq!(skipped(&wide), Ok(()));
        assert!(skipped(&"[".repeat(1_000_000)).is_err());
    }
}
