//! How do digests, numbers and JSON stand in a fact, so that whoever reads it has what was meant, to the bit?

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tiltyard_types::Digest;

/// SHA-256 of a text.
pub(crate) fn digest(text: &str) -> Digest {
    Digest::new(Sha256::digest(text).into())
}

/// SHA-256 of a value's JSON. Only for what has its fields in one order and holds no unordered maps.
pub(crate) fn digest_of(value: &impl Serialize) -> Digest {
    // What is digested here has text keys only, and writing it to memory cannot fail.
    digest(&serde_json::to_string(value).unwrap_or_default())
}

/// JSON without white space and with sorted keys, whatever order they came in.
pub(crate) fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, to: &mut String) {
    match value {
        Value::Array(items) => {
            to.push('[');
            for (position, item) in items.iter().enumerate() {
                to.push_str(if position == 0 { "" } else { "," });
                write(item, to);
            }
            to.push(']');
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(key, _)| *key);
            to.push('{');
            for (position, (key, item)) in sorted.into_iter().enumerate() {
                to.push_str(if position == 0 { "" } else { "," });
                to.push_str(&Value::from(key.as_str()).to_string());
                to.push(':');
                write(item, to);
            }
            to.push('}');
        }
        plain => to.push_str(&plain.to_string()),
    }
}

/// How deep JSON is nested: 0 for a plain value.
pub(crate) fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// A digest as 64 hexadecimal digits.
pub(crate) mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use tiltyard_types::Digest;

    pub(crate) fn serialize<S: Serializer>(digest: &Digest, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(digest)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// A digest that may be missing.
pub(crate) mod maybe_hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use tiltyard_types::Digest;

    pub(crate) fn serialize<S: Serializer>(digest: &Option<Digest>, to: S) -> Result<S::Ok, S::Error> {
        match digest {
            Some(digest) => to.collect_str(digest),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Digest>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// A number that is the same to the bit when it is read again, which `serde_json` alone does not promise.
pub(crate) mod exact {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::value::RawValue;

    pub(crate) fn serialize<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
        number.serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        read(&Box::<RawValue>::deserialize(from)?).map_err(D::Error::custom)
    }

    pub(super) fn read(raw: &RawValue) -> Result<f64, String> {
        let number: f64 = raw.get().parse().map_err(|_| format!("expected a number, got {}", raw.get()))?;
        number.is_finite().then_some(number).ok_or_else(|| format!("expected a finite number, got {}", raw.get()))
    }
}

/// Two such numbers, which may be missing.
pub(crate) fn exact_pair<'de, D: Deserializer<'de>>(from: D) -> Result<Option<[f64; 2]>, D::Error> {
    use serde::de::Error;
    let pair = Option::<[Box<serde_json::value::RawValue>; 2]>::deserialize(from)?;
    let Some([low, high]) = pair else { return Ok(None) };
    let read = |raw: &serde_json::value::RawValue| exact::read(raw).map_err(D::Error::custom);
    Ok(Some([read(&low)?, read(&high)?]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Holds {
        #[serde(with = "exact")]
        number: f64,
        #[serde(default, deserialize_with = "exact_pair")]
        pair: Option<[f64; 2]>,
    }

    proptest! {
        #[test]
        fn numbers_come_back_to_the_bit(bits: u64, low: f64, high: f64) {
            let number = f64::from_bits(bits);
            prop_assume!(number.is_finite() && low.is_finite() && high.is_finite());
            let held = Holds { number, pair: Some([low, high]) };
            let text = serde_json::to_string(&held).expect("it is written");
            let again: Holds = serde_json::from_str(&text).expect("it is read");
            prop_assert_eq!(again.number.to_bits(), number.to_bits());
            prop_assert_eq!(again, held);
        }
    }

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let value = json!({ "b": [{ "z": 1, "a\"": null }], "a": 1.5 });
        assert_eq!(canonical(&value), r#"{"a":1.5,"b":[{"a\"":null,"z":1}]}"#);
        assert_eq!(depth(&value), 3);
    }

    #[test]
    fn what_is_no_number_is_named() {
        let error = serde_json::from_str::<Holds>(r#"{"number":"x"}"#).expect_err("it is text");
        assert!(error.to_string().contains("expected a number, got \"x\""), "{error}");
        let error = serde_json::from_str::<Holds>(r#"{"number":1e999}"#).expect_err("it has no end");
        assert!(error.to_string().contains("expected a finite number"), "{error}");
    }
}
