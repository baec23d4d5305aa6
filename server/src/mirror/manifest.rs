//! What does the cache hold, by its own account?
//!
//! One file of JSON, written whole or not at all. It is believed only after every file was digested again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::plan::{Digest, Files, Held};

/// Another format is no account at all: everything is fetched again.
const FORMAT: u64 = 1;

/// Reads an account of `url`. Nothing where there is none, or none that makes sense.
pub(super) fn read(path: &Path, url: &str) -> Files {
    fs::read(path).ok().and_then(|text| parse(&text, url)).unwrap_or_default()
}

/// Writes it beside and renames it, so that a crash leaves the old one or the new one.
pub(super) fn write(path: &Path, url: &str, files: &Files) -> io::Result<()> {
    let form = |(path, held): (&String, &Held)| {
        let Held { tag, size, sha256 } = held;
        json!({ "path": path, "tag": tag, "size": size, "sha256": hex(sha256) })
    };
    let text = json!({ "format": FORMAT, "url": url, "files": files.iter().map(form).collect::<Vec<_>>() });
    write_whole(path, text.to_string().as_bytes())
}

/// Writes a file that is seen as it was or as it will be, after a power cut too.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = File::create(&aside)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&aside, path)
}

fn parse(text: &[u8], url: &str) -> Option<Files> {
    let form: Value = serde_json::from_slice(text).ok()?;
    if form["format"] != FORMAT || form["url"] != url {
        return None;
    }
    let file = |file: &Value| {
        let held = Held {
            tag: file["tag"].as_str()?.to_owned(),
            size: file["size"].as_u64()?,
            sha256: unhex(file["sha256"].as_str()?)?,
        };
        Some((file["path"].as_str()?.to_owned(), held))
    };
    form["files"].as_array()?.iter().map(file).collect()
}

/// A digest as text.
pub(super) fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest that 64 hexadecimal digits say.
pub(super) fn unhex(text: &str) -> Option<Digest> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifest.json");
        assert_eq!(read(&path, "s3://b"), Files::new());
        let held = Held { tag: "\"é\"".to_owned(), size: u64::MAX, sha256: [0xa1; 32] };
        let files = Files::from([("a/1/m".to_owned(), held)]);
        write(&path, "s3://b", &files).unwrap();
        assert_eq!(read(&path, "s3://b"), files);
        assert_eq!(read(&path, "s3://other"), Files::new());
        let text = fs::read_to_string(&path).unwrap();
        for wrong in
            [&text[..text.len() / 2], &text.replace("a1a1", "a1"), &text.replace("\"format\":1", "\"format\":2")]
        {
            fs::write(&path, wrong).unwrap();
            assert_eq!(read(&path, "s3://b"), Files::new(), "{wrong}");
        }
    }
}
