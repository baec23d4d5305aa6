//! How does one object come whole, over connections that break?

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::sleep;

use super::figures::{Figures, count_down};
use super::manifest::hex;
use super::parts::{Part, Parts};
use super::plan::{Held, Object};
use super::source::{ReadError, Source, words};

/// Attempts in a row that bring nothing, until it is somebody else's turn.
const ATTEMPTS: u32 = 3;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Why an object is not here.
#[derive(Debug)]
pub(super) enum FetchError {
    /// It changed since it was listed: another listing will tell.
    Changed(String),
    /// The store does not give it, or not as it should be.
    Failed(String),
    /// This machine cannot keep it.
    Disk(io::Error),
}

impl From<io::Error> for FetchError {
    fn from(error: io::Error) -> FetchError {
        FetchError::Disk(error)
    }
}

impl From<ReadError> for FetchError {
    fn from(error: ReadError) -> FetchError {
        match error {
            ReadError::Changed(reason) => FetchError::Changed(reason),
            ReadError::Failed(reason) => FetchError::Failed(reason),
            ReadError::NoRanges => FetchError::Failed("it gives no ranges of bytes".to_owned()),
        }
    }
}

/// Fetches an object, from where it was cut off. What arrived is kept whatever comes of it.
pub(super) async fn fetch(
    source: &Source,
    parts: &Parts,
    object: &Object,
    figures: &Figures,
) -> Result<Held, FetchError> {
    let mut part = parts.begin(object)?;
    count_down(&figures.pending_bytes, part.received());
    if part.whole().is_none() {
        arrive(source, &mut part, object, figures).await?;
    }
    let sha256 = part.whole().map_or_else(|| part.end(), Ok)?;
    if let Some(expected) = object.sha256.filter(|expected| *expected != sha256) {
        part.restart()?;
        let (found, expected) = (hex(&sha256), hex(&expected));
        return Err(FetchError::Failed(format!("its SHA-256 is {found}, and the list says {expected}")));
    }
    figures.fetched_objects.fetch_add(1, Relaxed);
    Ok(Held { tag: object.tag.clone(), size: part.received(), sha256 })
}

/// Attempts until all of it is here, or nothing more comes.
async fn arrive(source: &Source, part: &mut Part, object: &Object, figures: &Figures) -> Result<(), FetchError> {
    let mut in_vain = 0;
    loop {
        let before = part.received();
        let outcome = attempt(source, part, object, figures).await;
        part.note()?;
        let error = match outcome {
            Err(FetchError::Failed(reason)) => reason,
            other => return other,
        };
        in_vain = if part.received() > before { 0 } else { in_vain + 1 };
        if in_vain == ATTEMPTS {
            return Err(FetchError::Failed(error));
        }
        tracing::debug!(object = object.path, received = part.received(), error, "cut off, and gone on with");
        sleep(PAUSE).await;
    }
}

async fn attempt(source: &Source, part: &mut Part, object: &Object, figures: &Figures) -> Result<(), FetchError> {
    // A range from the end on would be none.
    if part.received() > 0 && object.size == Some(part.received()) {
        return Ok(());
    }
    let (size, mut body) = match source.read(object, part.received()).await {
        Err(ReadError::NoRanges) => {
            part.restart()?;
            source.read(object, 0).await?
        }
        other => other?,
    };
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| FetchError::Failed(words(&error)))?;
        if part.received() + chunk.len() as u64 > size {
            part.restart()?;
            return Err(FetchError::Failed(format!("more than its {size} bytes came")));
        }
        part.write(&chunk)?;
        figures.fetched_bytes.fetch_add(chunk.len() as u64, Relaxed);
        count_down(&figures.pending_bytes, chunk.len() as u64);
    }
    match part.received() {
        received if received == size => Ok(()),
        received => Err(FetchError::Failed(format!("only {received} of its {size} bytes came"))),
    }
}
