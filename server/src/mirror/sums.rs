//! What does a plain file server have? It says so in `SHA256SUMS`, as `sha256sum` writes it.

use super::manifest::{hex, unhex};
use super::plan::Object;

/// Where the list lies, in the folder that is followed.
pub(super) const NAME: &str = "SHA256SUMS";

/// The largest list that is read.
pub(super) const BYTES_MAX: usize = 32 << 20;

/// Reads lines of digest, two spaces (or a space and a star), and path. Fails, in words, on any other.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Object>, String> {
    let text = std::str::from_utf8(text).map_err(|_| format!("{NAME} is no text in UTF-8"))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let object = |(number, line): (usize, &str)| {
        let (digits, path) = line.split_once(' ').unwrap_or((line, ""));
        let path = path.strip_prefix([' ', '*']).unwrap_or("");
        let path = path.strip_prefix("./").unwrap_or(path);
        match unhex(digits) {
            // Its own line, where the list was written into the folder that it lists.
            Some(_) if path == NAME => Ok(None),
            Some(digest) if !path.is_empty() => {
                let tag = format!("sha256:{}", hex(&digest));
                Ok(Some(Object { path: path.to_owned(), tag, size: None, sha256: Some(digest) }))
            }
            _ => Err(format!("{NAME}, line {}: expected a SHA-256, two spaces and a path", number + 1)),
        }
    };
    lines.map(object).filter_map(Result::transpose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn lists_as_tools_write_them() {
        let text = format!("{DIGEST}  ./risk/1/model.onnx\n\n{DIGEST} *a b/1/m\r\n{DIGEST}  ./SHA256SUMS\n");
        let objects = parse(text.as_bytes()).unwrap();
        let paths: Vec<&str> = objects.iter().map(|object| object.path.as_str()).collect();
        assert_eq!(paths, ["risk/1/model.onnx", "a b/1/m"]);
        assert_eq!(objects[0].tag, format!("sha256:{DIGEST}"));
        assert_eq!(objects[0].sha256.map(|digest| digest[0]), Some(0xe3));
    }

    #[test]
    fn what_is_no_list() {
        for wrong in
            ["<html>", &DIGEST[1..], &format!("{DIGEST}\n"), &format!("{DIGEST} x\n"), &format!("\\{DIGEST}  x\n")]
        {
            let message = parse(wrong.as_bytes()).unwrap_err();
            assert!(message.contains("line 1: expected"), "{wrong}: {message}");
        }
        assert!(parse(&[0xff]).unwrap_err().contains("UTF-8"));
    }
}
