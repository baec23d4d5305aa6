//! Which of a model's versions are served?

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// A rule over version numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The highest so many.
    Latest(usize),
    /// Every one.
    All,
    /// These, where they exist.
    Specific(BTreeSet<u64>),
}

impl Default for VersionPolicy {
    /// The newest and the one before it, so that going back is at hand.
    fn default() -> VersionPolicy {
        VersionPolicy::Latest(2)
    }
}

impl VersionPolicy {
    /// The versions to serve among those that exist.
    pub fn choose(&self, existing: &BTreeSet<u64>) -> BTreeSet<u64> {
        match self {
            VersionPolicy::Latest(count) => existing.iter().rev().take(*count).copied().collect(),
            VersionPolicy::All => existing.clone(),
            VersionPolicy::Specific(wanted) => existing.intersection(wanted).copied().collect(),
        }
    }
}

impl fmt::Display for VersionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VersionPolicy::Latest(count) => write!(f, "latest:{count}"),
            VersionPolicy::All => f.write_str("all"),
            VersionPolicy::Specific(wanted) => {
                f.write_str(&wanted.iter().map(u64::to_string).collect::<Vec<_>>().join(","))
            }
        }
    }
}

/// Text that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("version policy {0:?}: expected \"latest:N\", \"all\" or a list of versions such as \"1,3\"")]
pub struct ParsePolicyError(String);

impl FromStr for VersionPolicy {
    type Err = ParsePolicyError;

    fn from_str(text: &str) -> Result<VersionPolicy, ParsePolicyError> {
        let error = || ParsePolicyError(text.to_owned());
        let positive = |text: &str| text.trim().parse::<u64>().ok().filter(|&number| number > 0);
        match text.trim() {
            "all" => Ok(VersionPolicy::All),
            "latest" => Ok(VersionPolicy::Latest(1)),
            trimmed => match trimmed.strip_prefix("latest:") {
                Some(count) => {
                    let count = positive(count).ok_or_else(error)?;
                    Ok(VersionPolicy::Latest(usize::try_from(count).map_err(|_| error())?))
                }
                None => trimmed
                    .split(',')
                    .map(positive)
                    .collect::<Option<_>>()
                    .map(VersionPolicy::Specific)
                    .ok_or_else(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(policy: &str, existing: &[u64], expected: &[u64]) {
        let policy: VersionPolicy = policy.parse().unwrap();
        let chosen = policy.choose(&existing.iter().copied().collect());
        assert_eq!(chosen.into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(policy.to_string().parse(), Ok(policy));
    }

    #[test]
    fn policies() {
        check("latest:2", &[1, 2, 10], &[2, 10]);
        check("latest:5", &[3], &[3]);
        check("latest", &[1, 2], &[2]);
        check("all", &[4, 5, 6], &[4, 5, 6]);
        check("1, 3", &[1, 2], &[1]);
        for wrong in ["", "latest:0", "newest", "1,x", "0"] {
            assert!(wrong.parse::<VersionPolicy>().is_err(), "{wrong:?}");
        }
    }
}
