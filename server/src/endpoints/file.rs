//! How does somebody write an endpoint's plan? As TOML in a file, or the same as JSON over the admin API.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use tiltyard_rollout::plan::{Arm, HeaderRule, KeySource, MILLION, Plan, Policy, Role};
use tiltyard_types::{Error, Result, nearest};

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

/// Reads the plan of `endpoint`, or of the one that the file itself names, from TOML. Its revision is not known yet.
pub fn read_toml(text: &str, endpoint: Option<&str>) -> Result<Plan> {
    let written = toml::from_str(text).map_err(|error| Error::invalid(explain(&error.to_string())))?;
    draft(written, endpoint)
}

/// The same from JSON.
pub fn read_json(text: &[u8], endpoint: Option<&str>) -> Result<Plan> {
    let written = serde_json::from_slice(text).map_err(|error| Error::invalid(explain(&error.to_string())))?;
    draft(written, endpoint)
}

/// Adds the name that was probably meant to a message such as: unknown field `x`, expected one of `a`, `b`.
pub(crate) fn explain(message: &str) -> String {
    let message = message.trim_end();
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

/// A plan as [`read_json`] reads it.
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

    #[test]
    fn a_plan_is_written_in_a_few_lines() {
        let plan = read_toml(SPLIT, Some("risk")).unwrap();
        assert_eq!((plan.endpoint.as_str(), plan.key.clone()), ("risk", KeySource::Header("x-customer".into())));
        assert_eq!((plan.arms[0].model.as_str(), plan.arms[1].model.as_str()), ("risk", "risk-b"));
        assert_eq!(plan.arms[1].role, Role::Challenger { weight: 125_000, final_weight: MILLION });
        assert_eq!(Plan { revision: 1, ..plan.clone() }.validate(), Ok(()));
        assert_eq!(read_json(write(&plan).to_string().as_bytes(), None).unwrap(), plan);
        let other = read_toml(&SPLIT.replace("12.5%", "50%"), Some("risk")).unwrap();
        assert_eq!(plan.salt, other.salt, "a ramp deals nobody anew");
        assert_ne!(plan.salt, read_toml(SPLIT, Some("fraud")).unwrap().salt);
        assert_ne!(plan.salt, read_toml(&SPLIT.replace("version = 2", "version = 3"), Some("risk")).unwrap().salt);
        let per_request =
            read_toml(&SPLIT.replace("{ header = \"x-customer\" }", "\"per_request\""), Some("risk")).unwrap();
        assert_eq!(per_request.key, KeySource::PerRequest);
    }

    #[test]
    fn what_is_wrong_is_told_with_what_was_meant() {
        let refused = |from: &str, to: &str| {
            assert!(SPLIT.contains(from), "{from}");
            read_toml(&SPLIT.replace(from, to), Some("risk")).unwrap_err().message().to_owned()
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
        assert!(read_toml(&named, Some("risk")).is_err() && read_toml(&named, None).unwrap().endpoint == "fraud");
        assert!(read_toml(SPLIT, None).unwrap_err().message().contains("endpoint is missing"));
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
