//! How does somebody write what shall become of an endpoint? As TOML in a file, or the same as JSON over the admin API.
//!
//! A file has arms whose shares stay, or versions that compete: `rollouts/written.rs`.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use tiltyard_rollout::plan::{Arm, HeaderRule, KeySource, MILLION, Plan, Policy, Role};
use tiltyard_types::{Error, Result, nearest};

use crate::rollouts::written::{self, Declared};

/// A plan as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// The name that clients call; may be left out where the file's name or the path says it.
    endpoint: Option<String>,
    key: KeySource,
    /// May be left out: see [`Plan::salt_of`].
    salt: Option<String>,
    arms: Vec<WrittenArm>,
    #[serde(default)]
    headers: Vec<HeaderRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenArm {
    name: String,
    /// The endpoint's name, where it is left out.
    model: Option<String>,
    version: u64,
    digest: Option<String>,
    role: WrittenRole,
    weight: Option<Share>,
    final_weight: Option<Share>,
    sampling: Option<Share>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WrittenRole {
    Champion,
    Challenger,
    Shadow,
}

/// Millionths, written as such or as per cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share(pub(crate) u32);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Share, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Share;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("millionths from 0 to 1000000, or such as \"12.5%\"")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Share, E> {
                let share = u32::try_from(value).ok().filter(|share| *share <= MILLION);
                share.map(Share).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(value), &self))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Share, E> {
                let share = u32::try_from(value).ok().filter(|share| *share <= MILLION);
                share.map(Share).ok_or_else(|| E::invalid_value(de::Unexpected::Signed(value), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Share, E> {
                per_cent(text).map(Share).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Per cent with up to four digits behind the point, as millionths.
fn per_cent(text: &str) -> Option<u32> {
    let number = text.strip_suffix('%')?.trim();
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 3 || part.len() > 4 || !is_number(whole) || !is_number(part) {
        return None;
    }
    let share = format!("{whole}{part:0<4}").parse::<u32>().ok()?;
    (share <= MILLION).then_some(share)
}

/// What a file says of an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A plan that is to hold. Its revision is not known yet.
    Plan(Box<Plan>),
    /// Versions that are to compete.
    Rollout(Box<Declared>),
}

impl Said {
    /// The name that clients call.
    pub fn endpoint(&self) -> &str {
        match self {
            Said::Plan(plan) => &plan.endpoint,
            Said::Rollout(declared) => &declared.endpoint,
        }
    }

    /// What it says, in one name.
    pub fn digest(&self) -> String {
        match self {
            Said::Plan(plan) => super::file_digest(plan),
            Said::Rollout(declared) => declared.digest.clone(),
        }
    }

    /// The plan. Fails where versions are to compete.
    pub fn plan(self) -> Result<Plan> {
        match self {
            Said::Plan(plan) => Ok(*plan),
            Said::Rollout(_) => Err(Error::invalid(
                "the file declares a rollout, whose plan is made when it begins: expected a plan with arms",
            )),
        }
    }
}

/// Reads what is to become of `endpoint`, or of the one that the file itself names.
pub fn read(text: &str, endpoint: Option<&str>) -> Result<Said> {
    if written::is_rollout(&parse(text)?)? {
        return Ok(Said::Rollout(Box::new(Declared::new(written::read(text)?, endpoint)?)));
    }
    draft(parse(text)?, endpoint).map(Box::new).map(Said::Plan)
}

/// Reads TOML or JSON. The error says where and what was probably meant.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    // JSON begins with a brace, TOML never.
    let parsed = match text.trim_start().starts_with('{') {
        true => serde_json::from_str(text).map_err(|error| error.to_string()),
        false => toml::from_str(text).map_err(|error| error.to_string()),
    };
    parsed.map_err(|message| Error::invalid(explain(&message)))
}

/// What parsers call Rust's types, in words.
const TYPES: [(&str, &str); 6] = [
    ("expected u64", "expected a whole number, 0 or more"),
    ("expected u32", "expected a whole number, 0 or more"),
    ("expected i64", "expected a whole number"),
    ("expected f64", "expected a number"),
    ("expected a boolean", "expected true or false"),
    ("expected a sequence", "expected a list"),
];

/// Adds the name that was probably meant to a message such as: unknown field `x`, expected one of `a`, `b`; and has it name no
/// types of Rust's.
pub(crate) fn explain(message: &str) -> String {
    let message =
        TYPES.iter().fold(message.trim_end().to_owned(), |message, (rust, words)| message.replace(rust, words));
    let message = message.as_str();
    let unknown = ["unknown field `", "unknown variant `"].iter().find_map(|words| message.split_once(words));
    let meant = unknown.and_then(|(_, rest)| {
        let (name, expected) = rest.split_once('`')?;
        nearest(name, expected.split('`').skip(1).step_by(2))
    });
    meant.map_or_else(|| message.to_owned(), |name| format!("{message}; did you mean {name}?"))
}

fn draft(written: Written, endpoint: Option<&str>) -> Result<Plan> {
    let endpoint = match (written.endpoint, endpoint) {
        (Some(named), Some(endpoint)) if named != endpoint => {
            return Err(Error::invalid(format!("endpoint is {named:?}, and it was to be that of {endpoint:?}")));
        }
        (Some(named), _) => named,
        (None, Some(endpoint)) => endpoint.to_owned(),
        (None, None) => return Err(Error::invalid("endpoint is missing: expected the name that clients call")),
    };
    let challengers = written.arms.iter().filter(|arm| arm.role == WrittenRole::Challenger).count();
    // As much as each may grow to where all may grow to the same.
    let room = MILLION / u32::try_from(challengers.max(1)).unwrap_or(MILLION);
    let arms = written.arms.into_iter().map(|arm| self::arm(arm, &endpoint, room)).collect::<Result<Vec<_>>>()?;
    let salt = written.salt.unwrap_or_else(|| Plan::salt_of(&endpoint, &arms, &written.key));
    Ok(Plan {
        endpoint,
        revision: 0,
        arms,
        key: written.key,
        salt,
        headers: written.headers,
        steps: Vec::new(),
        policy: Policy::default(),
        watched: false,
    })
}

fn arm(written: WrittenArm, endpoint: &str, room: u32) -> Result<Arm> {
    let WrittenArm { name, model, version, digest, role, weight, final_weight, sampling } = written;
    let surplus = match role {
        WrittenRole::Champion => weight.or(final_weight).or(sampling).map(|_| "the champion has what nobody else has"),
        WrittenRole::Challenger => sampling.map(|_| "sampling is for shadows"),
        WrittenRole::Shadow => weight.or(final_weight).map(|_| "a shadow answers nobody: it has a sampling, no weight"),
    };
    if let Some(why) = surplus {
        return Err(Error::invalid(format!("arm {name}: {why}: leave the share out")));
    }
    let role = match role {
        WrittenRole::Champion => Role::Champion,
        WrittenRole::Challenger => {
            let Some(Share(weight)) = weight else {
                return Err(Error::invalid(format!(
                    "arm {name}: weight is missing: expected its share, such as \"10%\""
                )));
            };
            Role::Challenger { weight, final_weight: final_weight.map_or(room.max(weight), |share| share.0) }
        }
        WrittenRole::Shadow => Role::Shadow { sampling: sampling.map_or(MILLION, |share| share.0) },
    };
    Ok(Arm { name, model: model.unwrap_or_else(|| endpoint.to_owned()), version, digest, role })
}

/// A plan as [`read`] reads it, as JSON.
pub fn write(plan: &Plan) -> Value {
    let arms = plan.arms.iter().map(|arm| {
        let mut form = serde_json::json!({ "name": arm.name, "model": arm.model, "version": arm.version });
        if let Some(digest) = &arm.digest {
            form["digest"] = digest.clone().into();
        }
        match arm.role {
            Role::Champion => form["role"] = "champion".into(),
            Role::Challenger { weight, final_weight } => {
                form["role"] = "challenger".into();
                (form["weight"], form["final_weight"]) = (weight.into(), final_weight.into());
            }
            Role::Shadow { sampling } => (form["role"], form["sampling"]) = ("shadow".into(), sampling.into()),
        }
        form
    });
    let (arms, headers, key) = (arms.collect::<Vec<_>>(), &plan.headers, &plan.key);
    serde_json::json!({ "endpoint": plan.endpoint, "key": key, "salt": plan.salt, "arms": arms, "headers": headers })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SPLIT: &str = r#"
        key = { header = "x-customer" }
        [[arms]]
        name = "champion"
        version = 1
        role = "champion"
        [[arms]]
        name = "new"
        model = "risk-b"
        version = 2
        role = "challenger"
        weight = "12.5%"
        [[headers]]
        header = "x-tester"
        value = "yes"
        arm = "new"
    "#;

    fn plan_of(text: &str, endpoint: Option<&str>) -> Result<Plan> {
        read(text, endpoint).and_then(Said::plan)
    }

    #[test]
    fn a_plan_is_written_in_a_few_lines() {
        let plan = plan_of(SPLIT, Some("risk")).unwrap();
        assert_eq!((plan.endpoint.as_str(), plan.key.clone()), ("risk", KeySource::Header("x-customer".into())));
        assert_eq!((plan.arms[0].model.as_str(), plan.arms[1].model.as_str()), ("risk", "risk-b"));
        assert_eq!(plan.arms[1].role, Role::Challenger { weight: 125_000, final_weight: MILLION });
        assert_eq!(Plan { revision: 1, ..plan.clone() }.validate(), Ok(()));
        assert_eq!(plan_of(&write(&plan).to_string(), None).unwrap(), plan);
        let other = plan_of(&SPLIT.replace("12.5%", "50%"), Some("risk")).unwrap();
        assert_eq!(plan.salt, other.salt, "a ramp deals nobody anew");
        assert_ne!(plan.salt, plan_of(SPLIT, Some("fraud")).unwrap().salt);
        assert_ne!(plan.salt, plan_of(&SPLIT.replace("version = 2", "version = 3"), Some("risk")).unwrap().salt);
        let per_request =
            plan_of(&SPLIT.replace("{ header = \"x-customer\" }", "\"per_request\""), Some("risk")).unwrap();
        assert_eq!(per_request.key, KeySource::PerRequest);
    }

    #[test]
    fn what_is_wrong_is_told_with_what_was_meant() {
        let refused = |from: &str, to: &str| {
            assert!(SPLIT.contains(from), "{from}");
            plan_of(&SPLIT.replace(from, to), Some("risk")).unwrap_err().message().to_owned()
        };
        let check = |from, to, expected: &str| {
            let message = refused(from, to);
            assert!(message.contains(expected), "{message}");
        };
        check("weight =", "wieght =", "did you mean weight?");
        check("[[arms]]", "[[amrs]]", "did you mean arms?");
        check("header = \"x-customer\"", "hedder = \"x-customer\"", "did you mean header?");
        check("\"12.5%\"", "\"12.5\"", "millionths from 0 to 1000000, or such as \"12.5%\"");
        check("\"12.5%\"", "2000000", "millionths from 0 to 1000000");
        check("role = \"challenger\"", "role = \"challengr\"", "did you mean challenger?");
        check("role = \"challenger\"", "role = \"champ\"", "expected one of `champion`, `challenger`, `shadow`");
        check("weight = \"12.5%\"", "", "arm new: weight is missing");
        check("role = \"challenger\"", "role = \"champion\"", "the champion has what nobody else has");
        let named = format!("endpoint = \"fraud\"\n{SPLIT}");
        assert!(plan_of(&named, Some("risk")).is_err() && plan_of(&named, None).unwrap().endpoint == "fraud");
        assert!(plan_of(SPLIT, None).unwrap_err().message().contains("endpoint is missing"));
    }

    #[test]
    fn versions_that_compete_are_no_plan_yet() {
        let said = read("champion = { version = 1 }\nchallenger = { version = 2 }", Some("risk")).unwrap();
        assert_eq!((said.endpoint(), said.digest().len()), ("risk", 64));
        assert!(said.plan().unwrap_err().message().contains("declares a rollout"));
        let both = format!("steps = []\n{SPLIT}");
        assert!(read(&both, Some("risk")).unwrap_err().message().contains("in place of arms"));
    }

    #[test]
    fn people_are_told_no_types_of_a_language() {
        let told = |text: &str| parse::<BTreeMap<String, u64>>(text).unwrap_err().message().to_owned();
        for text in ["a = 'one'", "{\"a\": \"one\"}"] {
            let message = told(text);
            assert!(message.contains("expected a whole number, 0 or more") && !message.contains("u64"), "{message}");
        }
    }

    #[test]
    fn shares_in_per_cent() {
        let check = |text: &str, expected| assert_eq!(per_cent(text), expected, "{text}");
        check("10%", Some(100_000));
        check("12.5 %", Some(125_000));
        check("0.0001%", Some(1));
        check("100%", Some(MILLION));
        for wrong in ["10", "%", "101%", "1.00001%", "-1%", "1e1%", ".5%"] {
            check(wrong, None);
        }
    }
}
