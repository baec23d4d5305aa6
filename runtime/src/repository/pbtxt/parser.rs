//! Which values does the text give to which fields of the schema?

use super::schema::{Field, Kind, MODEL_CONFIG, MessageType};
use super::token::{Mistake, Token, Tokens, short};
use tiltyard_types::nearest;

/// A message as it was written. Its values fit the schema.
pub(super) struct Record {
    /// The byte where its fields begin.
    pub(super) at: usize,
    values: Vec<(&'static str, Value)>,
}

enum Value {
    Text(String),
    Bool(bool),
    /// An integer, or the number of a name.
    Integer(i128),
    /// No field that is acted on has one, so it is checked and forgotten.
    Float,
    Message(Record),
}

impl Record {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &Value> {
        self.values.iter().filter(move |(field, _)| *field == name).map(|(_, value)| value)
    }

    /// The text of a field, if it was written.
    pub(super) fn text(&self, name: &'static str) -> Option<&str> {
        self.all(name).find_map(|value| if let Value::Text(text) = value { Some(text.as_str()) } else { None })
    }

    /// Whether a boolean field was written and true.
    pub(super) fn is_true(&self, name: &'static str) -> bool {
        self.all(name).any(|value| matches!(value, Value::Bool(true)))
    }

    /// All integers of a field. The schema has bounded them to what `T` holds.
    pub(super) fn integers<T: TryFrom<i128>>(&self, name: &'static str) -> Vec<T> {
        let integer = |value: &Value| if let Value::Integer(number) = value { T::try_from(*number).ok() } else { None };
        self.all(name).filter_map(integer).collect()
    }

    /// The integer of a field, if it was written.
    pub(super) fn integer<T: TryFrom<i128>>(&self, name: &'static str) -> Option<T> {
        self.integers(name).pop()
    }

    /// All messages of a field.
    pub(super) fn messages(&self, name: &'static str) -> impl Iterator<Item = &Record> {
        self.all(name).filter_map(|value| if let Value::Message(record) = value { Some(record) } else { None })
    }

    /// The message of a field, if it was written.
    pub(super) fn message(&self, name: &'static str) -> Option<&Record> {
        self.messages(name).next()
    }
}

/// Reads the whole text: the file's message, and the names of the fields that are present but ignored.
pub(super) fn parse(text: &str) -> Result<(Record, Vec<String>), Mistake> {
    let mut tokens = Tokens::new(text);
    let (at, token) = tokens.next()?;
    let mut parser = Parser { tokens, at, token, path: Vec::new(), in_ignored: false, ignored: Vec::new() };
    let record = parser.message(&MODEL_CONFIG, &Token::End)?;
    Ok((record, parser.ignored))
}

/// Recursion follows the schema, in which no message contains itself: no text can exhaust the stack.
struct Parser<'a> {
    tokens: Tokens<'a>,
    /// Where the token that is looked at begins.
    at: usize,
    token: Token<'a>,
    /// The names of the fields around.
    path: Vec<&'static str>,
    /// Whether a field around is ignored, and has been told.
    in_ignored: bool,
    ignored: Vec<String>,
}

impl<'a> Parser<'a> {
    fn advance(&mut self) -> Result<Token<'a>, Mistake> {
        let (at, next) = self.tokens.next()?;
        self.at = at;
        Ok(std::mem::replace(&mut self.token, next))
    }

    /// Takes the symbol if it is there.
    fn took(&mut self, symbol: char) -> Result<bool, Mistake> {
        let there = self.token == Token::Symbol(symbol);
        if there {
            self.advance()?;
        }
        Ok(there)
    }

    /// What is looked at is not what was expected.
    fn unexpected(&self, expected: impl Into<String>) -> Mistake {
        Mistake::new(self.at, self.token.to_string(), expected)
    }

    /// Reads fields up to `end`, which is left to be looked at.
    fn message(&mut self, kind: &'static MessageType, end: &Token<'static>) -> Result<Record, Mistake> {
        let mut record = Record { at: self.at, values: Vec::new() };
        let mut seen = vec![false; kind.fields.len()];
        while self.token != *end {
            let field = self.field(kind, end, &mut seen)?;
            self.path.push(field.name);
            let in_ignored_before = self.in_ignored;
            if field.ignored && !self.in_ignored {
                self.in_ignored = true;
                let name = self.path.join(".");
                if !self.ignored.contains(&name) {
                    self.ignored.push(name);
                }
            }
            self.values(field, &mut record)?;
            self.in_ignored = in_ignored_before;
            self.path.pop();
            if !self.took(',')? {
                self.took(';')?;
            }
        }
        Ok(record)
    }

    /// Takes a field's name, and refuses one that the message does not have, or not once more.
    fn field(
        &mut self,
        kind: &'static MessageType,
        end: &Token<'static>,
        seen: &mut [bool],
    ) -> Result<&'static Field, Mistake> {
        let Token::Name(name) = self.token else {
            let end = if let Token::Symbol(symbol) = end { format!("{symbol:?}") } else { "the end".to_owned() };
            return Err(self.unexpected(format!("a field of {} or {end}", kind.name)));
        };
        let Some(position) = kind.fields.iter().position(|field| field.name == name) else {
            let nearest = nearest(name, kind.fields.iter().map(|field| field.name));
            let such_as = nearest.map(|nearest| format!(", such as {nearest:?}")).unwrap_or_default();
            let found = format!("unknown field {:?}", short(name));
            return Err(Mistake::new(self.at, found, format!("a field of {}{such_as}", kind.name)));
        };
        let field = &kind.fields[position];
        let excludes = |other: &Field| other.choice.is_some() && other.choice == field.choice;
        let mut others = kind.fields.iter().zip(seen.iter()).enumerate();
        if seen[position] && !field.repeated {
            return Err(Mistake::new(self.at, format!("a second {name:?}"), "it once"));
        }
        if let Some((_, (other, _))) = others.find(|(i, (other, seen))| *i != position && **seen && excludes(other)) {
            return Err(Mistake::new(self.at, format!("{name:?} beside {:?}", other.name), "one of the two"));
        }
        seen[position] = true;
        self.advance()?;
        Ok(field)
    }

    /// Reads what follows a field's name: a value, or a list of them.
    fn values(&mut self, field: &'static Field, record: &mut Record) -> Result<(), Mistake> {
        let is_message = matches!(field.kind, Kind::Message(_));
        if !self.took(':')? && !is_message {
            return Err(self.unexpected(format!("':' after {:?}", field.name)));
        }
        if self.token != Token::Symbol('[') {
            record.values.push((field.name, self.value(&field.kind)?));
            return Ok(());
        }
        if !field.repeated {
            return Err(Mistake::new(
                self.at,
                "a list",
                format!("{}, since {:?} is one", expected(&field.kind), field.name),
            ));
        }
        self.advance()?;
        if self.took(']')? {
            return Ok(());
        }
        loop {
            record.values.push((field.name, self.value(&field.kind)?));
            if self.took(']')? {
                return Ok(());
            }
            if !self.took(',')? {
                return Err(self.unexpected("',' or ']'"));
            }
        }
    }

    fn value(&mut self, kind: &Kind) -> Result<Value, Mistake> {
        let wrong = |parser: &Parser<'_>| parser.unexpected(expected(kind));
        match (kind, &self.token) {
            (Kind::Message(inner), Token::Symbol(open @ ('{' | '<'))) => {
                let end = Token::Symbol(if *open == '{' { '}' } else { '>' });
                self.advance()?;
                let record = self.message(inner, &end)?;
                self.advance()?;
                Ok(Value::Message(record))
            }
            (Kind::Text, Token::Quoted(_)) => self.text(),
            (Kind::Bool, Token::Name(_) | Token::Number(_)) => {
                let value = boolean(&self.token).ok_or_else(|| wrong(self))?;
                self.advance()?;
                Ok(Value::Bool(value))
            }
            (Kind::Names(names), Token::Name(_) | Token::Number(_)) => {
                let number = number_of(names, &self.token).ok_or_else(|| self.unknown_name(kind, names))?;
                self.advance()?;
                Ok(Value::Integer(number))
            }
            (Kind::Integer(..) | Kind::Float, Token::Number(_) | Token::Name(_) | Token::Symbol('-')) => {
                self.number(kind)
            }
            _ => Err(wrong(self)),
        }
    }

    /// Literals that stand side by side are one string.
    fn text(&mut self) -> Result<Value, Mistake> {
        let start = self.at;
        let mut bytes = Vec::new();
        while let Token::Quoted(literal) = &self.token {
            bytes.extend_from_slice(literal);
            self.advance()?;
        }
        let text = String::from_utf8(bytes).map_err(|_| Mistake::new(start, "a string of other bytes", "UTF-8"))?;
        Ok(Value::Text(text))
    }

    fn number(&mut self, kind: &Kind) -> Result<Value, Mistake> {
        let start = self.at;
        let sign = if self.took('-')? { "-" } else { "" };
        let value = match (kind, &self.token) {
            (Kind::Integer(least, most), Token::Number(text)) => integer(text)
                .map(|magnitude| if sign.is_empty() { magnitude } else { -magnitude })
                .filter(|number| (least..=most).contains(&number))
                .map(Value::Integer),
            (Kind::Float, Token::Number(text)) => is_float(text).then_some(Value::Float),
            (Kind::Float, Token::Name(name)) => {
                ["inf", "infinity", "nan"].contains(&name.to_ascii_lowercase().as_str()).then_some(Value::Float)
            }
            _ => None,
        };
        match value {
            Some(value) => {
                self.advance()?;
                Ok(value)
            }
            None => {
                let found = match &self.token {
                    Token::Number(text) | Token::Name(text) => format!("found {:?}", short(&format!("{sign}{text}"))),
                    other => other.to_string(),
                };
                Err(Mistake::new(start, found, expected(kind)))
            }
        }
    }

    /// A name, or the number of one, that a field with fixed names does not have.
    fn unknown_name(&self, kind: &Kind, names: &[&'static str]) -> Mistake {
        let nearest = if let Token::Name(name) = self.token { nearest(name, names.iter().copied()) } else { None };
        let such_as = nearest.map(|nearest| format!(", such as {nearest}")).unwrap_or_default();
        self.unexpected(expected(kind) + &such_as)
    }
}

/// What a value of a kind looks like.
fn expected(kind: &Kind) -> String {
    match kind {
        Kind::Text => "a string in quotes".to_owned(),
        Kind::Bool => "true or false".to_owned(),
        Kind::Float => "a number".to_owned(),
        Kind::Integer(least, most) => format!("an integer from {least} to {most}"),
        Kind::Names(names) => format!("one of {}", names.join(", ")),
        Kind::Message(_) => "'{'".to_owned(),
    }
}

fn boolean(token: &Token<'_>) -> Option<bool> {
    match token {
        Token::Name("true" | "True" | "t") => Some(true),
        Token::Name("false" | "False" | "f") => Some(false),
        Token::Number(text) => match integer(text) {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        _ => None,
    }
}

/// The number of a name, which may itself be written as that number.
fn number_of(names: &[&str], token: &Token<'_>) -> Option<i128> {
    let position = match token {
        Token::Name(name) => names.iter().position(|known| known == name)?,
        Token::Number(text) => usize::try_from(integer(text)?).ok().filter(|number| *number < names.len())?,
        _ => return None,
    };
    i128::try_from(position).ok()
}

/// A decimal, hexadecimal or octal number of at most 64 bits.
fn integer(text: &str) -> Option<i128> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (digits, radix) = match (hexadecimal, text.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(digits)) if !digits.is_empty() => (digits, 8),
        _ => (text, 10),
    };
    u64::from_str_radix(digits, radix).ok().map(i128::from)
}

/// Whether the text is a number with or without a fraction, an exponent and the suffix of C.
fn is_float(text: &str) -> bool {
    let decimal = text.strip_suffix(['f', 'F']).unwrap_or(text);
    integer(text).is_some() || decimal.parse::<f64>().is_ok()
}
