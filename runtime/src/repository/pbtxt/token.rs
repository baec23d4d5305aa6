//! How does the text fall into names, numbers, strings and symbols?

use std::fmt;

use super::PbtxtError;

/// A piece of the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// A field's or a value's name.
    Name(&'a str),
    /// A number as it is written, without a sign.
    Number(&'a str),
    /// One quoted literal, with its escapes resolved.
    Quoted(Vec<u8>),
    /// Punctuation.
    Symbol(char),
    /// Nothing is left.
    End,
}

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Name(text) | Token::Number(text) => write!(f, "found {:?}", short(text)),
            Token::Quoted(_) => f.write_str("found a string"),
            Token::Symbol(symbol) => write!(f, "found {symbol:?}"),
            Token::End => f.write_str("the text ends"),
        }
    }
}

/// The beginning of a text that may be long.
pub(super) fn short(text: &str) -> String {
    if text.chars().nth(64).is_some() { text.chars().take(64).chain(['…']).collect() } else { text.to_owned() }
}

/// Something wrong at a byte of the text.
#[derive(Clone, Debug)]
pub(super) struct Mistake {
    pub(super) at: usize,
    pub(super) found: String,
    pub(super) expected: String,
}

impl Mistake {
    pub(super) fn new(at: usize, found: impl Into<String>, expected: impl Into<String>) -> Mistake {
        Mistake { at, found: found.into(), expected: expected.into() }
    }

    /// Turns the byte into a line and a column.
    pub(super) fn in_text(self, text: &str) -> PbtxtError {
        let before = text.get(..self.at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        PbtxtError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            found: self.found,
            expected: self.expected,
        }
    }
}

/// Cuts a text into tokens, one at a time.
pub(super) struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Tokens<'a> {
        // Editors on Windows begin files with a byte order mark.
        Tokens { text, at: if text.starts_with('\u{feff}') { 3 } else { 0 } }
    }

    /// The next token and the byte where it begins.
    pub(super) fn next(&mut self) -> Result<(usize, Token<'a>), Mistake> {
        self.skip_blanks();
        let start = self.at;
        let Some(first) = self.rest().chars().next() else { return Ok((start, Token::End)) };
        let starts_number = first.is_ascii_digit()
            || first == '.' && self.text.as_bytes().get(start + 1).is_some_and(u8::is_ascii_digit);
        let token = if first.is_ascii_alphabetic() || first == '_' {
            Token::Name(self.take_while(|_, byte| byte.is_ascii_alphanumeric() || byte == b'_'))
        } else if starts_number {
            Token::Number(self.number())
        } else if first == '"' || first == '\'' {
            Token::Quoted(self.quoted(first)?)
        } else {
            self.at += first.len_utf8();
            Token::Symbol(first)
        };
        Ok((start, token))
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_blanks(&mut self) {
        loop {
            self.take_while(|_, byte| byte.is_ascii_whitespace() || byte == 0x0b);
            if !self.rest().starts_with('#') {
                return;
            }
            self.take_while(|_, byte| byte != b'\n');
        }
    }

    /// Takes bytes while `wanted`, which is told the byte before each, agrees. It must refuse either all or none of
    /// the bytes outside ASCII, so that no character is cut.
    fn take_while(&mut self, wanted: impl Fn(u8, u8) -> bool) -> &'a str {
        let rest = self.rest();
        let mut previous = 0;
        let length = rest.bytes().take_while(|&byte| wanted(std::mem::replace(&mut previous, byte), byte)).count();
        self.at += length;
        &rest[..length]
    }

    /// A run of what can be part of a number. Whether it is one, the reader of its field knows.
    fn number(&mut self) -> &'a str {
        let hexadecimal = self.rest().starts_with("0x") || self.rest().starts_with("0X");
        self.take_while(|previous, byte| {
            let exponent_sign = matches!(byte, b'+' | b'-') && matches!(previous, b'e' | b'E') && !hexadecimal;
            byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_' || exponent_sign
        })
    }

    fn quoted(&mut self, quote: char) -> Result<Vec<u8>, Mistake> {
        let start = self.at;
        self.at += 1;
        let mut bytes = Vec::new();
        loop {
            let plain = self.take_while(|_, byte| byte != quote as u8 && byte != b'\\' && byte != b'\n');
            bytes.extend_from_slice(plain.as_bytes());
            match self.rest().as_bytes().first() {
                Some(b'\\') => self.escape(&mut bytes)?,
                Some(&byte) if byte == quote as u8 => {
                    self.at += 1;
                    return Ok(bytes);
                }
                _ => return Err(Mistake::new(start, "a string without an end", format!("{quote} on the same line"))),
            }
        }
    }

    /// Resolves the escape that begins here.
    fn escape(&mut self, bytes: &mut Vec<u8>) -> Result<(), Mistake> {
        const EXPECTED: &str = "\\n, \\t, \\\", \\\\, three octal digits, \\x with two digits or \\u with four";
        let start = self.at;
        let mistake = || Mistake::new(start, "a bad escape in a string", EXPECTED);
        self.at += 1;
        let letter = *self.rest().as_bytes().first().ok_or_else(mistake)?;
        // Octal digits begin at once, all others after a letter.
        if !letter.is_ascii_digit() {
            self.at += if letter.is_ascii() { 1 } else { return Err(mistake()) };
        }
        let simple = match letter {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'a' => 0x07,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'v' => 0x0b,
            b'\\' | b'\'' | b'"' | b'?' => letter,
            b'0'..=b'7' => u8::try_from(self.digits(8, 1, 3).ok_or_else(mistake)?).map_err(|_| mistake())?,
            b'x' | b'X' => u8::try_from(self.digits(16, 1, 2).ok_or_else(mistake)?).map_err(|_| mistake())?,
            b'u' | b'U' => {
                let length = if letter == b'u' { 4 } else { 8 };
                let code = self.digits(16, length, length).ok_or_else(mistake)?;
                let character = char::from_u32(code).ok_or_else(mistake)?;
                bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(mistake()),
        };
        bytes.push(simple);
        Ok(())
    }

    /// Between `least` and `most` digits, as many as there are; eight hexadecimal ones just fit.
    fn digits(&mut self, radix: u32, least: usize, most: usize) -> Option<u32> {
        let is_digit = |byte: &u8| char::from(*byte).is_digit(radix);
        let length = self.rest().bytes().take(most).take_while(is_digit).count();
        let digits = &self.rest()[..length];
        self.at += length;
        if length < least { None } else { u32::from_str_radix(digits, radix).ok() }
    }
}
