//! What does `tiltyard.toml` say?

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::keys::{KEYS, KeyDefinition};
use super::kinds::Form;
use super::{ConfigError, Origin, RawConfig};
use tiltyard_types::nearest;

/// Takes every setting from the file's `text`. Fails on text that is not TOML, on keys that are no settings, and on
/// values of another type than the key's.
pub(super) fn read(path: &Path, text: &str, raw: &mut RawConfig) -> Result<(), ConfigError> {
    let table = DeTable::parse(text).map_err(|error| {
        let (line, column) = place(text, error.span().map_or(0, |span| span.start));
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        ConfigError::Syntax { path: path.to_owned(), line, column, message }
    })?;
    // In the order they are written, so that the first mistake of the file is the one that is told.
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    for (name, value) in entries {
        let key = definition(name.get_ref()).ok_or_else(|| ConfigError::UnknownKey {
            key: name.get_ref().to_string(),
            path: path.to_owned(),
            line: place(text, name.span().start).0,
            nearest: nearest(name.get_ref(), KEYS.iter().filter(|key| key.in_file()).map(|key| key.name)),
        })?;
        let origin = Origin::File { path: path.to_owned(), key: key.name };
        match written(key.form, value.get_ref()) {
            Some(written) => raw.offer(key.name, &written, origin),
            None => {
                let value = text.get(value.span()).unwrap_or_default().trim().to_owned();
                return Err(ConfigError::BadValue { key: key.name, value, origin, expected: in_toml(key) });
            }
        }
    }
    Ok(())
}

fn definition(name: &str) -> Option<&'static KeyDefinition> {
    KEYS.iter().find(|key| key.name == name && key.in_file())
}

/// What a key expects, with the TOML type that carries it.
fn in_toml(key: &KeyDefinition) -> String {
    let as_type = match key.form {
        Form::Text => " as a string",
        Form::Integer | Form::Number | Form::Boolean => " without quotes",
        Form::IntegerOrText => " as an integer or a string",
        Form::List => " as an array or a string",
    };
    format!("{}{as_type}", key.expected)
}

/// The text of a TOML value, as a flag would have it; `None` if its type does not fit.
fn written(form: Form, value: &DeValue<'_>) -> Option<String> {
    match (form, value) {
        (Form::Text | Form::IntegerOrText | Form::List, DeValue::String(text)) => Some(text.to_string()),
        (Form::Number, DeValue::Float(number)) => Some(number.as_str().to_owned()),
        (Form::Integer | Form::IntegerOrText | Form::Number, DeValue::Integer(integer)) => {
            Some(i128::from_str_radix(integer.as_str(), integer.radix()).ok()?.to_string())
        }
        (Form::Boolean, DeValue::Boolean(value)) => Some(value.to_string()),
        (Form::List, DeValue::Array(items)) => {
            let items: Option<Vec<String>> = items.iter().map(item).collect();
            Some(items?.join(","))
        }
        _ => None,
    }
}

/// One item of a list. A comma inside would make two of it.
fn item(value: &Spanned<DeValue<'_>>) -> Option<String> {
    written(Form::IntegerOrText, value.get_ref()).filter(|item| !item.contains(','))
}

/// Line and column of a byte, both from 1.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
