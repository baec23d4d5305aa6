//! Which versions of ONNX Runtime can be used?

use std::fmt;
use std::str::FromStr;

/// The oldest library that has the functions called here.
pub const OLDEST_VERSION: Version = Version { major: 1, minor: ort::MINOR_VERSION, patch: 0 };

/// A release of ONNX Runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// So far always 1.
    pub major: u32,
    /// The release, which decides what functions the library has.
    pub minor: u32,
    /// Corrections to the release.
    pub patch: u32,
}

impl Version {
    /// Whether a library of this version has every function called here.
    pub fn is_usable(self) -> bool {
        self >= OLDEST_VERSION
    }

    /// The version in a library's file name, such as `libonnxruntime.so.1.32.0`; `None` where it has no full one.
    pub fn in_file_name(name: &str) -> Option<Version> {
        name.strip_prefix("libonnxruntime.so.")?.parse().ok()
    }
}

/// Text that is not a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version such as 1.32.0")]
pub struct ParseVersionError(String);

impl FromStr for Version {
    type Err = ParseVersionError;

    /// Reads three numbers; a suffix after the last, such as `-dev`, is dropped.
    fn from_str(text: &str) -> Result<Version, ParseVersionError> {
        let wrong = || ParseVersionError(text.chars().take(40).collect());
        let mut numbers = text.splitn(3, '.').map(|part| {
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            part[..digits].parse::<u32>().map_err(|_| wrong())
        });
        let mut next = || numbers.next().unwrap_or_else(|| Err(wrong()));
        Ok(Version { major: next()?, minor: next()?, patch: next()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, expected: Option<(u32, u32, u32)>) {
        let found = Version::in_file_name(name).map(|v| (v.major, v.minor, v.patch));
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn file_names_tell_the_version() {
        check("libonnxruntime.so.1.32.0", Some((1, 32, 0)));
        check("libonnxruntime.so.1.32.1-dev", Some((1, 32, 1)));
        check("libonnxruntime.so.1", None);
        check("libonnxruntime.so", None);
        check("libonnxruntime_providers_shared.so", None);
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("1.9.0") < version("1.24.0"));
        assert!(!version("1.20.1").is_usable());
        assert!(version("1.24.0").is_usable() && version("2.0.0").is_usable());
        assert!("1..0".parse::<Version>().is_err());
    }
}
