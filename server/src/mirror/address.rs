//! Which store does `models` name, if any, and is its URL one that can be used?

use std::fmt;
use std::path::Path;

/// What the operator wrote is not repeated where it may hold a secret.
const NO_SECRETS: &str = "the URL of a store holds no user, password or query, since it is shown in logs and lists of \
                          processes: credentials go into variables or files, see docs/operations.md";

/// How a store is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Amazon S3, or what speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
    /// A server that lists its files in `SHA256SUMS`, or speaks WebDAV.
    Http,
    /// The same over TLS.
    Https,
}

impl Scheme {
    const ALL: [Scheme; 5] = [Scheme::S3, Scheme::Gs, Scheme::Az, Scheme::Http, Scheme::Https];

    /// As in a URL.
    pub fn name(self) -> &'static str {
        match self {
            Scheme::S3 => "s3",
            Scheme::Gs => "gs",
            Scheme::Az => "az",
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// A folder, or a single model, in a store. It holds no secret, so that it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// The bucket, the container, or host and port.
    pub authority: String,
    /// What comes after it, without a slash at either end; empty for all of the store.
    pub path: String,
}

impl Address {
    /// The store that `models` names. `None` for a path of this machine; fails, in words, for a URL that cannot be used.
    pub fn of(models: &Path) -> Option<Result<Address, String>> {
        let text = models.to_str()?;
        let (scheme, rest) = text.split_once("://")?;
        Some(Address::parse(scheme, rest))
    }

    fn parse(scheme: &str, rest: &str) -> Result<Address, String> {
        if rest.contains(['@', '?', '#']) {
            return Err(format!("models: {NO_SECRETS}"));
        }
        let shown = format!("{scheme}://{rest}");
        let Some(scheme) = Scheme::ALL.into_iter().find(|known| known.name() == scheme) else {
            return Err(format!("models = {shown:?}: expected a path, or s3://, gs://, az://, http:// or https://"));
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        let odd = |text: &str| text.contains(|letter: char| letter.is_control() || letter == '\\');
        let lost = |segment: &str| matches!(segment, "" | "." | "..");
        if authority.is_empty() || odd(rest) || (!path.is_empty() && path.split('/').any(lost)) {
            let example = match scheme {
                Scheme::S3 | Scheme::Gs => "bucket/models",
                Scheme::Az => "container/models",
                Scheme::Http | Scheme::Https => "host/models",
            };
            return Err(format!("models = {shown:?}: expected a URL such as {}://{example}", scheme.name()));
        }
        Ok(Address { scheme, authority: authority.to_owned(), path: path.to_owned() })
    }

    /// Whether it is a single model instead of a folder.
    pub fn is_file(&self) -> bool {
        self.path.ends_with(".onnx")
    }

    /// What a model is called that lies there without a folder of its own.
    pub fn name(&self) -> String {
        let last = if self.path.is_empty() { self.authority.as_str() } else { self.path.as_str() };
        let last = last.rsplit('/').next().unwrap_or_default();
        let last = last.strip_suffix(".onnx").unwrap_or(last);
        let plain = |letter: char| if letter.is_alphanumeric() || "-_.".contains(letter) { letter } else { '_' };
        let name: String = last.chars().take(100).map(plain).collect();
        // Hidden folders are looked into by nobody.
        if name.starts_with('.') || name.is_empty() { format!("model{name}") } else { name }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Address { scheme, authority, path } = self;
        write!(f, "{}://{authority}{}{path}", scheme.name(), if path.is_empty() { "" } else { "/" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str, name: &str) {
        let address = Address::of(Path::new(text)).unwrap().unwrap();
        assert_eq!((address.to_string().as_str(), address.name().as_str()), (shown, name));
    }

    #[track_caller]
    fn wrong(text: &str, part: &str) -> String {
        let message = Address::of(Path::new(text)).unwrap().unwrap_err();
        assert!(message.contains(part), "{message}");
        message
    }

    #[test]
    fn urls_that_people_write() {
        check("s3://bucket", "s3://bucket", "bucket");
        check("s3://bucket/team/models/", "s3://bucket/team/models", "models");
        check("gs://b/churn.onnx", "gs://b/churn.onnx", "churn");
        check("az://container/m", "az://container/m", "m");
        check("http://127.0.0.1:9000/", "http://127.0.0.1:9000", "127.0.0.1_9000");
        check("https://h/a b/.hidden", "https://h/a b/.hidden", "model.hidden");
        for path in ["./models", "/srv/models", "models", "C:\\models", "s3:/b"] {
            assert_eq!(Address::of(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn urls_that_cannot_be_used() {
        wrong("ftp://host/x", "expected a path, or s3://");
        wrong("S3://bucket", "expected a path, or s3://");
        wrong("s3://", "such as s3://bucket/models");
        wrong("s3:///models", "such as s3://bucket/models");
        wrong("gs://b/a//b", "such as gs://bucket/models");
        wrong("az://c/../d", "such as az://container/models");
        wrong("http://h/a\\b", "such as http://host/models");
    }

    #[test]
    fn secrets_are_not_repeated() {
        for text in ["https://me:hunter2@h/m", "https://h/m?sig=hunter2", "ftp://me:hunter2@h", "s3://b/m#hunter2"] {
            assert!(!wrong(text, "holds no user, password or query").contains("hunter2"));
        }
    }
}
