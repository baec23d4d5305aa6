//! How are numbers written in JSON so that they come back to the bit?
//!
//! Floats as texts, the shortest that mean them: readers of JSON numbers may be off by the last bit, and bins would move.
//! Identities as hexadecimal digits: readers elsewhere hold whole numbers up to 2⁵³ only.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// One float.
pub(crate) fn serialize<S: Serializer>(x: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{x:?}"))
}

/// One float.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    float(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn float(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

/// Some floats.
pub(crate) mod floats {
    use super::{Deserialize, Deserializer, Error, Serializer, float};

    pub(crate) fn serialize<S: Serializer>(list: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|x| format!("{x:?}")))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| float(text).map_err(D::Error::custom)).collect()
    }
}

/// 64 bits.
pub(crate) mod hex {
    use super::{Deserialize, Deserializer, Error, Serializer};

    pub(crate) fn serialize<S: Serializer>(bits: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{bits:016x}"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(|_| D::Error::custom(format!("{text:?} is not hexadecimal")))
    }
}

/// Some times 64 bits.
pub(crate) mod hexes {
    use super::{Deserialize, Deserializer, Error, Serializer};

    pub(crate) fn serialize<S: Serializer>(list: &[u64], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().map(|bits| format!("{bits:016x}")))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let bits = |text: &String| {
            u64::from_str_radix(text, 16).map_err(|_| D::Error::custom(format!("{text:?} is not hexadecimal")))
        };
        texts.iter().map(bits).collect()
    }
}
