//! Whose signatures on models count, and what of a version that has none of theirs?
//!
//! The registry's crate checks signatures and the runtime asks at each load, before an engine sees the files; here the two meet, with
//! what the settings say. Keys are read at the start: who is trusted does not change while versions come and go.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tiltyard_registry::signing::{self, File, Keys};
use tiltyard_runtime::made::{Ask, Made, Read, SIGNATURE_FILE};

use crate::config::{Config, Signing};

/// Files of keys, at most.
const KEY_FILES_MAX: usize = 1000;

/// Bytes of one of them, at most.
const KEY_BYTES_MAX: u64 = 1 << 20;

/// Who is asked at each load; nobody where the settings want that. The error says what is wrong with the keys.
pub(crate) fn ask(config: &Config) -> Result<Option<Arc<Ask>>, String> {
    let is_required = match config.signing {
        Signing::Off => return Ok(None),
        Signing::Report => false,
        Signing::Require => true,
    };
    let Some(path) = &config.signing_keys else {
        return Err("signing asks for signatures, and signing_keys says nothing of whose: expected a file or folder of keys in PEM".into());
    };
    let keys = keys(path).map_err(|why| format!("signing_keys: {why}"))?;
    Ok(Some(Arc::new(move |read: Read<'_>| match (made_by(&keys, read), is_required) {
        (Ok(by), _) => Ok(Made::By(by)),
        (Err(why), false) => Ok(Made::Unknown(why)),
        (Err(why), true) => Err(why),
    })))
}

fn made_by(keys: &Keys, read: Read<'_>) -> Result<String, String> {
    let Some(signature) = read.signature else {
        return Err(format!(
            "it is not signed: expected {SIGNATURE_FILE} in its folder, as model-signing writes it (docs/signing.md)"
        ));
    };
    // What lies beside the version's folder is the operator's, and no signature is about itself.
    let own = read.files.iter().filter(|(name, _)| !name.starts_with("../") && *name != SIGNATURE_FILE);
    let own = own.map(|(path, (size, digest))| File { path, size: *size, digest: *digest });
    let signed = signing::verify(signature, own, keys).map_err(|error| error.to_string())?;
    Ok(signed.by.to_string())
}

/// The keys in a file, or in all files of a folder.
fn keys(path: &Path) -> Result<Keys, String> {
    let failed = |path: &Path, error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let mut files: Vec<PathBuf> = Vec::new();
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(|error| failed(path, error))? {
            let entry = entry.map_err(|error| failed(path, error))?;
            let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
            if !is_hidden && entry.path().is_file() {
                files.push(entry.path());
            }
            if files.len() > KEY_FILES_MAX {
                return Err(format!("{} has more than {KEY_FILES_MAX} files", path.display()));
            }
        }
        files.sort();
    } else {
        files.push(path.to_owned());
    }
    let mut keys = Keys::default();
    for file in files {
        let size = fs::metadata(&file).map_err(|error| failed(&file, error))?.len();
        if size > KEY_BYTES_MAX {
            return Err(format!(
                "{} has {size} bytes: expected keys in PEM, {KEY_BYTES_MAX} bytes at most",
                file.display()
            ));
        }
        let text = fs::read(&file).map_err(|error| failed(&file, error))?;
        keys.add(&file.file_name().unwrap_or_default().to_string_lossy(), &text)?;
    }
    if keys.is_empty() {
        return Err(format!("{} has no keys: expected files in PEM", path.display()));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ring::digest::{SHA256, digest};
    use tiltyard_types::Digest;

    use super::*;

    /// What the package model-signing made, for the registry's tests.
    fn made() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../registry/tests/signing")
    }

    fn asked(signing: Signing, keys: Option<PathBuf>) -> Result<Option<Arc<Ask>>, String> {
        ask(&Config { signing, signing_keys: keys, ..Config::default() })
    }

    fn answer(ask: &Arc<Ask>, signature: Option<&str>, change: bool) -> Result<Made, String> {
        let mut files = BTreeMap::from([("../model.toml".to_owned(), (0, Digest::new([0; 32])))]);
        for name in ["golden/first.json", "model.onnx", "weights.bin"] {
            let bytes = fs::read(made().join("model").join(name)).unwrap();
            let hashed = digest(&SHA256, if change { b"other" } else { &bytes });
            let hashed = hashed.as_ref().try_into().map(Digest::new).unwrap();
            files.insert(name.to_owned(), (bytes.len() as u64, hashed));
        }
        let signature = signature.map(|name| fs::read(made().join(name)).unwrap());
        if signature.is_some() {
            files.insert(SIGNATURE_FILE.to_owned(), (1, Digest::new([1; 32])));
        }
        ask(Read { files: &files, signature: signature.as_deref() })
    }

    #[test]
    fn what_is_required_is_refused_and_what_is_reported_is_told() {
        let key = Some(made().join("p256.pub"));
        let require = asked(Signing::Require, key.clone()).unwrap().unwrap();
        let report = asked(Signing::Report, key).unwrap().unwrap();
        let by = Ok(Made::By("the key p256.pub".into()));
        assert_eq!(
            (answer(&require, Some("p256.sig"), false), answer(&report, Some("p256.sig"), false)),
            (by.clone(), by)
        );
        let check = |signature: Option<&str>, change: bool, expected: &str| {
            let refused = answer(&require, signature, change).expect_err(expected);
            assert!(refused.contains(expected), "{refused}");
            assert_eq!(answer(&report, signature, change), Ok(Made::Unknown(refused)));
        };
        check(None, false, "it is not signed: expected model.sig in its folder");
        check(Some("p384.sig"), false, "which is not trusted here: the keys that are: p256.pub");
        check(Some("p256.sig"), true, "golden/first.json was changed, model.onnx was changed");
    }

    #[test]
    fn keys_are_read_from_a_file_or_a_folder_and_what_is_wrong_with_them_is_told() {
        assert!(asked(Signing::Off, None).unwrap().is_none());
        let check = |keys: Option<PathBuf>, expected: &str| {
            let error = asked(Signing::Require, keys).err().expect(expected);
            assert!(error.contains(expected), "{error}");
        };
        check(None, "signing_keys says nothing of whose");
        check(Some("/nowhere".into()), "/nowhere cannot be read");
        let folder = tempfile::tempdir().unwrap();
        check(Some(folder.path().into()), "has no keys");
        for name in ["p256.pub", "root.crt"] {
            fs::copy(made().join(name), folder.path().join(name)).unwrap();
        }
        let both = asked(Signing::Require, Some(folder.path().into())).unwrap().unwrap();
        assert_eq!(
            answer(&both, Some("certificate.sig"), false),
            Ok(Made::By("the certificate of \"Risk Team\"".into()))
        );
        fs::write(folder.path().join("x"), "nothing").unwrap();
        check(Some(folder.path().into()), "x: no key in it");
    }
}
