//! Which wheels may be installed, and what are their exact bytes?
//!
//! The digests stand here rather than being asked for, so that a compromised index cannot vouch for itself. Only the
//! shared library is taken from a wheel, and it is the same in the wheels of all Python versions; one was chosen.

/// The version that is installed when none is named: the newest here.
pub(crate) const DEFAULT_VERSION: &str = "1.32.0";

/// The Python whose wheels are pinned. No such Python needs to be installed.
pub(crate) const PYTHON_VERSION: &str = "3.12";

/// One wheel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) version: &'static str,
    /// The architecture, as `std::env::consts::ARCH` has it.
    pub(crate) arch: &'static str,
    pub(crate) size_bytes: u64,
    /// SHA-256 of the wheel, in hexadecimal.
    pub(crate) sha256: &'static str,
}

impl Release {
    /// The wheel's file name.
    pub(crate) fn wheel(&self) -> String {
        format!("onnxruntime-{}-cp312-cp312-{}.whl", self.version, self.platform())
    }

    /// The platform in the words of Python packaging.
    pub(crate) fn platform(&self) -> String {
        format!("manylinux_2_28_{}", self.arch)
    }
}

/// All wheels, newest first. `pip download` with the options of the install module fetches them for a new row.
pub(crate) const RELEASES: [Release; 6] = [
    Release {
        version: "1.32.0",
        arch: "x86_64",
        size_bytes: 27_780_211,
        sha256: "99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8",
    },
    Release {
        version: "1.32.0",
        arch: "aarch64",
        size_bytes: 23_196_724,
        sha256: "e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054",
    },
    Release {
        version: "1.31.1",
        arch: "x86_64",
        size_bytes: 23_760_988,
        sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
    },
    Release {
        version: "1.31.1",
        arch: "aarch64",
        size_bytes: 21_420_803,
        sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
    },
    Release {
        version: "1.30.0",
        arch: "x86_64",
        size_bytes: 23_585_654,
        sha256: "fa688e7891a6aa206636fe7372e27ee75fd17713289f6b4fc7b190e0a7de9328",
    },
    Release {
        version: "1.30.0",
        arch: "aarch64",
        size_bytes: 21_345_202,
        sha256: "6c32a000d5139a38ba9349030b0032e3331acb559d596b22738d9d2b343a2b83",
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::Version;

    #[test]
    fn every_release_is_whole_and_usable() {
        for release in &RELEASES {
            assert!(release.version.parse::<Version>().unwrap().is_usable(), "{release:?}");
            assert!(release.sha256.parse::<tiltyard_types::Digest>().is_ok(), "{release:?}");
        }
        assert!(RELEASES.iter().any(|release| release.version == DEFAULT_VERSION && release.arch == "x86_64"));
    }
}
