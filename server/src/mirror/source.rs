//! How is a store asked what it has, and for one object from some byte on?
//!
//! Credentials and options are read from the environment by `object_store`, as the tools of each cloud name them. None of
//! them is in an address, and no error repeats a header.

use std::error::Error as _;
use std::fs;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, RetryConfig,
};
use tokio::time::timeout;

use super::address::{Address, Scheme};
use super::plan::{OBJECTS_MAX, Object};
use super::sums;

/// How long a whole listing may take.
const LIST_MAX: Duration = Duration::from_secs(120);

/// How long a connection may be silent. How long an object takes is bounded by nothing else: it may be large.
const SILENCE_MAX: &str = "30s";

/// Beyond any transfer.
const TRANSFER_MAX: &str = "7days";

/// Within one request. What comes after that is the follower's to decide.
fn retries() -> RetryConfig {
    let backoff =
        BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(2), base: 2.0 };
    RetryConfig { backoff, max_retries: 2, retry_timeout: Duration::from_secs(20) }
}

/// Why an object did not come.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It is not what was listed any more.
    Changed(String),
    /// The server gives objects from their first byte on only.
    NoRanges,
    /// Anything else.
    Failed(String),
}

/// A store, and where in it the models are.
pub(super) struct Source {
    address: Address,
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// The list of a plain file server: the tag of what was read last, and what it said.
    sums: Option<(Option<String>, Vec<Object>)>,
}

impl Source {
    /// Prepares to ask; nothing is sent yet. Fails, in words, where the environment or the token does not fit.
    pub(super) fn open(address: &Address, token_file: Option<&FilePath>) -> Result<Source, String> {
        // What object_store speaks TLS with. Somebody else may have chosen the same before.
        drop(rustls::crypto::ring::default_provider().install_default());
        let failed = |error: object_store::Error| format!("{address}: {}", words(&error));
        let store = build(address, token_file).map_err(|problem| match problem {
            Problem::Store(error) => failed(error),
            Problem::Token(reason) => reason,
        })?;
        let prefix = match address.scheme {
            Scheme::Http | Scheme::Https => Path::from_url_path(&address.path),
            Scheme::S3 | Scheme::Gs | Scheme::Az => Path::parse(&address.path),
        };
        let prefix = prefix.map_err(|error| format!("{address}: {error}"))?;
        Ok(Source { address: address.clone(), store, prefix, sums: None })
    }

    /// The store itself, and the place in it, for those who write.
    #[cfg(feature = "record")]
    pub(super) fn into_store(self) -> (Arc<dyn ObjectStore>, Path) {
        (self.store, self.prefix)
    }

    /// Everything that lies there now. Fails in words.
    pub(super) async fn list(&mut self) -> Result<Vec<Object>, String> {
        let listed = timeout(LIST_MAX, self.ask()).await;
        listed.unwrap_or_else(|_| Err(format!("no whole listing came within {} s", LIST_MAX.as_secs())))
    }

    async fn ask(&mut self) -> Result<Vec<Object>, String> {
        if self.address.is_file() {
            let options = GetOptions { head: true, ..GetOptions::default() };
            let found = self.store.get_opts(&self.prefix, options).await.map_err(|error| words(&error))?;
            let path = self.prefix.filename().unwrap_or_default().to_owned();
            return Ok(vec![Object { path, ..object(&found.meta) }]);
        }
        if matches!(self.address.scheme, Scheme::Http | Scheme::Https)
            && let Some(objects) = self.ask_sums().await?
        {
            return Ok(objects);
        }
        let listed = self.list_all().await;
        if matches!(self.address.scheme, Scheme::Http | Scheme::Https) {
            let advice = |reason: String| {
                format!("there is no {}, and the server lists nothing by WebDAV either ({reason})", sums::NAME)
            };
            return match listed {
                // A folder that is not there lists nothing.
                Ok(objects) if objects.is_empty() => Err(advice("it is empty".to_owned())),
                other => other.map_err(advice),
            };
        }
        listed
    }

    async fn list_all(&self) -> Result<Vec<Object>, String> {
        let prefix = (!self.prefix.as_ref().is_empty()).then_some(&self.prefix);
        let mut listed = self.store.list(prefix);
        let mut objects = Vec::new();
        while let Some(meta) = listed.next().await {
            let meta = meta.map_err(|error| words(&error))?;
            let path = match prefix {
                None => Some(meta.location.as_ref()),
                Some(prefix) => {
                    meta.location.as_ref().strip_prefix(prefix.as_ref()).and_then(|rest| rest.strip_prefix('/'))
                }
            };
            // The object that stands for the folder itself.
            let Some(path) = path else { continue };
            if objects.len() == OBJECTS_MAX {
                return Err(format!("it has more than {OBJECTS_MAX} objects: name the folder of the models"));
            }
            objects.push(Object { path: path.to_owned(), ..object(&meta) });
        }
        Ok(objects)
    }

    /// What a plain file server says that it has; `None` where it has no list.
    async fn ask_sums(&mut self) -> Result<Option<Vec<Object>>, String> {
        let known = self.sums.as_ref().and_then(|(tag, _)| tag.clone());
        let options = GetOptions { if_none_match: known, ..GetOptions::default() };
        let found = match self.store.get_opts(&self.location(sums::NAME)?, options).await {
            Err(object_store::Error::NotModified { .. }) => {
                return Ok(self.sums.as_ref().map(|(_, objects)| objects.clone()));
            }
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            found => found.map_err(|error| words(&error))?,
        };
        let tag = found.meta.e_tag.clone();
        let mut body = found.into_stream();
        let mut text = Vec::new();
        while let Some(chunk) = body.next().await {
            text.extend_from_slice(&chunk.map_err(|error| words(&error))?);
            if text.len() > sums::BYTES_MAX {
                return Err(format!("{} has more than {} bytes", sums::NAME, sums::BYTES_MAX));
            }
        }
        let objects = sums::parse(&text)?;
        if objects.len() > OBJECTS_MAX {
            return Err(format!("{} has more than {OBJECTS_MAX} lines", sums::NAME));
        }
        self.sums = Some((tag, objects.clone()));
        Ok(Some(objects))
    }

    /// An object's bytes from one on, and how many it has in all. They are of the object as it was listed, as far as the
    /// store can tell.
    pub(super) async fn read(
        &self,
        object: &Object,
        from: u64,
    ) -> Result<(u64, BoxStream<'static, object_store::Result<Bytes>>), ReadError> {
        let location = if self.address.is_file() { Ok(self.prefix.clone()) } else { self.location(&object.path) };
        let location = location.map_err(ReadError::Failed)?;
        // A weak tag never matches: what comes with the answer is compared instead.
        let if_match = object.tag.strip_prefix(STRONG).map(|tag| format!("\"{tag}\""));
        let range = (from > 0).then_some(GetRange::Offset(from));
        let options = GetOptions { if_match, range, ..GetOptions::default() };
        let found = match self.store.get_opts(&location, options).await {
            Ok(found) => found,
            Err(error) if from > 0 && lacks_ranges(&error) => return Err(ReadError::NoRanges),
            Err(object_store::Error::NotFound { .. }) if object.sha256.is_some() => {
                return Err(ReadError::Failed(format!("{} names it, and it is not there", sums::NAME)));
            }
            Err(error @ (object_store::Error::NotFound { .. } | object_store::Error::Precondition { .. })) => {
                return Err(ReadError::Changed(words(&error)));
            }
            Err(error) => return Err(ReadError::Failed(words(&error))),
        };
        if object.sha256.is_none() && self::object(&found.meta).tag != object.tag {
            return Err(ReadError::Changed("its tag is another now".to_owned()));
        }
        if object.size.is_some_and(|size| size != found.meta.size) {
            return Err(ReadError::Changed("its size is another now".to_owned()));
        }
        Ok((found.meta.size, found.into_stream()))
    }

    fn location(&self, path: &str) -> Result<Path, String> {
        let prefix = self.prefix.as_ref();
        let whole = if prefix.is_empty() { path.to_owned() } else { format!("{prefix}/{path}") };
        Path::parse(whole).map_err(|error| error.to_string())
    }
}

/// What a tag that names the bytes themselves begins with here.
const STRONG: &str = "etag:";

/// An object as it was listed. Where a store has no tags, the time of its last change stands for one.
fn object(meta: &ObjectMeta) -> Object {
    let tag = match meta.e_tag.as_deref().filter(|tag| !tag.is_empty()) {
        Some(weak) if weak.starts_with("W/") => format!("weak:{weak}"),
        // Listings of Azure lack the quotes.
        Some(strong) => format!("{STRONG}{}", strong.trim_matches('"')),
        None => format!("time:{} {}", meta.last_modified.timestamp(), meta.size),
    };
    Object { path: meta.location.to_string(), tag, size: Some(meta.size), sha256: None }
}

enum Problem {
    Store(object_store::Error),
    Token(String),
}

impl From<object_store::Error> for Problem {
    fn from(error: object_store::Error) -> Problem {
        Problem::Store(error)
    }
}

fn build(address: &Address, token_file: Option<&FilePath>) -> Result<Arc<dyn ObjectStore>, Problem> {
    let (times, retries) =
        ([(ClientConfigKey::Timeout, TRANSFER_MAX), (ClientConfigKey::ReadTimeout, SILENCE_MAX)], retries());
    let url = address.to_string();
    Ok(match address.scheme {
        Scheme::S3 => {
            let builder = times.into_iter().fold(AmazonS3Builder::from_env(), |builder, (key, value)| {
                builder.with_config(AmazonS3ConfigKey::Client(key), value)
            });
            Arc::new(builder.with_bucket_name(&address.authority).with_retry(retries).build()?)
        }
        Scheme::Gs => {
            let builder = times.into_iter().fold(GoogleCloudStorageBuilder::from_env(), |builder, (key, value)| {
                builder.with_config(GoogleConfigKey::Client(key), value)
            });
            Arc::new(builder.with_bucket_name(&address.authority).with_retry(retries).build()?)
        }
        Scheme::Az => {
            let builder = times.into_iter().fold(MicrosoftAzureBuilder::from_env(), |builder, (key, value)| {
                builder.with_config(AzureConfigKey::Client(key), value)
            });
            Arc::new(builder.with_container_name(&address.authority).with_retry(retries).build()?)
        }
        Scheme::Http | Scheme::Https => {
            let options = ClientOptions::new().with_allow_http(address.scheme == Scheme::Http);
            let options = times.into_iter().fold(options, |options, (key, value)| options.with_config(key, value));
            let options = match token_file {
                None => options,
                Some(file) => options.with_default_headers(bearer(file).map_err(Problem::Token)?),
            };
            let host = &url[..url.len() - address.path.len()];
            Arc::new(HttpBuilder::new().with_url(host).with_client_options(options).with_retry(retries).build()?)
        }
    })
}

/// The header for a token in a file. Fails, in words that do not repeat it.
fn bearer(file: &FilePath) -> Result<HeaderMap, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("store_token_file {}: {error}", file.display()))?;
    let mut value = HeaderValue::from_str(&format!("Bearer {}", text.trim()))
        .map_err(|_| format!("store_token_file {}: expected one line with a token", file.display()))?;
    value.set_sensitive(true);
    Ok(HeaderMap::from_iter([(AUTHORIZATION, value)]))
}

/// Whether a server sent everything where a range was asked for. Clouds do not, so that their error has no kind of its own.
fn lacks_ranges(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotSupported { .. }) || words(error).contains("non-partial response")
}

/// An error in one line, short enough for a log.
pub(super) fn words(error: &object_store::Error) -> String {
    const SHOWN_CHARS_MAX: usize = 400;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = inner.source();
    }
    let plain = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if plain.chars().count() <= SHOWN_CHARS_MAX {
        return plain;
    }
    // What went wrong stands at the end more often than at the beginning.
    let (half, length) = (SHOWN_CHARS_MAX / 2, plain.chars().count());
    let (head, tail): (String, String) =
        (plain.chars().take(half).collect(), plain.chars().skip(length - half).collect());
    format!("{head} … {tail}")
}
