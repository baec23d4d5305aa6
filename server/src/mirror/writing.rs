//! How does something come into a store, without a risk to what is there?
//!
//! The same addresses, credentials and times as for reading.

use std::io::{self, Read};
use std::path::Path as FilePath;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::runtime::{Builder, Runtime};

use super::address::Address;
use super::source::{Source, words};

/// Bytes of a part of a large object.
const PART_BYTES: u64 = 8 << 20;

/// A place in a store that objects are put into.
pub(crate) struct Writing {
    address: Address,
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    runtime: Loop,
}

/// An event loop of one's own, that may end on another one: at the end of the process, and where a start fails.
struct Loop(Option<Runtime>);

impl Loop {
    fn block_on<F: Future>(&self, what: F) -> F::Output {
        match &self.0 {
            Some(runtime) => runtime.block_on(what),
            None => unreachable!("it is taken in drop alone"),
        }
    }
}

impl Drop for Loop {
    /// Without a wait, which is forbidden there.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Writing {
    /// Prepares to write; nothing is sent yet. Fails, in words, where the URL or the environment does not fit.
    pub(crate) fn open(place: &FilePath, token_file: Option<&FilePath>) -> Result<Writing, String> {
        let shown = place.display();
        let address =
            Address::of(place).unwrap_or_else(|| Err(format!("{shown}: expected a URL such as s3://bucket/record")));
        // Its own words speak of models.
        let address = address
            .map_err(|_| format!("{shown}: expected a URL such as s3://bucket/record, without a user or a query"))?;
        let (store, prefix) = Source::open(&address, token_file)?.into_store();
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        Ok(Writing { address, store, prefix, runtime: Loop(Some(runtime)) })
    }

    fn location(&self, name: &str) -> Path {
        let prefix = self.prefix.as_ref();
        Path::from(if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") })
    }

    fn at(&self, location: &Path) -> String {
        format!("{}://{}/{location}", self.address.scheme.name(), self.address.authority)
    }

    /// How many bytes an object has; none where it is not there. Fails in words.
    pub(crate) fn size(&self, name: &str) -> Result<Option<u64>, String> {
        let location = self.location(name);
        let head = GetOptions { head: true, ..GetOptions::default() };
        match self.runtime.block_on(self.store.get_opts(&location, head)) {
            Ok(found) => Ok(Some(found.meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(format!("{}: {}", self.at(&location), words(&error))),
        }
    }

    /// Puts a file, in parts where it is large. One of that name and length counts as the same. Fails in words.
    pub(crate) fn put_file(&self, name: &str, file: &FilePath) -> Result<(), String> {
        let unreadable = |error: std::io::Error| format!("{} cannot be read: {error}", file.display());
        let length = std::fs::metadata(file).map_err(unreadable)?.len();
        if self.size(name)? == Some(length) {
            return Ok(());
        }
        if length <= PART_BYTES {
            return self.put(name, std::fs::read(file).map_err(unreadable)?).map(drop);
        }
        let location = self.location(name);
        let failed = |error: object_store::Error| format!("{}: {}", self.at(&location), words(&error));
        let mut from = std::fs::File::open(file).map_err(unreadable)?;
        self.runtime.block_on(async {
            let mut upload = self.store.put_multipart(&location).await.map_err(failed)?;
            loop {
                let mut part = Vec::new();
                (&mut from).take(PART_BYTES).read_to_end(&mut part).map_err(unreadable)?;
                if part.is_empty() {
                    break;
                }
                upload.put_part(part.into()).await.map_err(failed)?;
            }
            upload.complete().await.map(drop).map_err(failed)
        })
    }

    /// Opens an object to be read; none where it is not there. Fails in words.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Reading<'_>>, String> {
        let location = self.location(name);
        match self.runtime.block_on(self.store.get_opts(&location, GetOptions::default())) {
            Ok(found) => Ok(Some(Reading { runtime: &self.runtime, parts: found.into_stream(), part: Bytes::new() })),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(format!("{}: {}", self.at(&location), words(&error))),
        }
    }

    /// Puts an object that is not there yet, and says where it lies. One of that name and length counts as the same. Fails in words.
    pub(crate) fn put(&self, name: &str, content: Vec<u8>) -> Result<String, String> {
        let location = self.location(name);
        let length = content.len() as u64;
        let at = self.at(&location);
        let failed = |error: object_store::Error| format!("{at}: {}", words(&error));
        self.runtime.block_on(async {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match self.store.put_opts(&location, content.into(), options).await {
                Ok(_) => Ok(()),
                Err(object_store::Error::AlreadyExists { .. }) => {
                    let head = GetOptions { head: true, ..GetOptions::default() };
                    let found = self.store.get_opts(&location, head).await.map_err(failed)?;
                    match found.meta.size == length {
                        true => Ok(()),
                        false => Err(format!("{at}: another object is there")),
                    }
                }
                Err(error) => Err(failed(error)),
            }
        })?;
        Ok(at)
    }
}

/// An object as it arrives.
pub(crate) struct Reading<'a> {
    runtime: &'a Loop,
    parts: BoxStream<'static, object_store::Result<Bytes>>,
    part: Bytes,
}

impl Read for Reading<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.runtime.block_on(self.parts.next()) {
                None => return Ok(0),
                Some(part) => self.part = part.map_err(|error| io::Error::other(words(&error)))?,
            }
        }
        let count = self.part.len().min(to.len());
        self.part.copy_to_slice(&mut to[..count]);
        Ok(count)
    }
}
