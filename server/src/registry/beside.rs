//! What is kept beside the log? Signed checkpoints, by which anybody can prove it, and tables, to ask in SQL.
//!
//! Both follow from the log, and are made again where they are gone: where one of them cannot be written, that is said, and
//! the registry goes on without it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tiltyard_registry::artifacts::Blobs;
use tiltyard_registry::audit::{Checkpoint, Exported, Part, Proof, PublicKey, Sealer, Signer, checkpoints, export};
use tiltyard_registry::backup::{Backup, Parts, backup};
use tiltyard_registry::book::{Fact, Seal};
#[cfg(feature = "record")]
use tiltyard_registry::tables::Tables;
use tiltyard_registry::{Error, Log, Result};

use tiltyard_types::Digest;

use crate::clock;

/// What an approval is signed for.
const APPROVAL: &str = "approval";

/// What follows the log.
pub(super) struct Beside {
    folder: PathBuf,
    sealer: Option<Sealer>,
    #[cfg(feature = "record")]
    tables: Option<Tables>,
    told: [Option<String>; 2],
}

/// Where the checkpoints of a log are.
fn checkpoints_of(folder: &Path) -> PathBuf {
    folder.join("log").join("checkpoints")
}

/// The key with which checkpoints are to be checked.
fn key_of(folder: &Path) -> PathBuf {
    folder.join("audit.pub")
}

impl Beside {
    pub(super) fn new(folder: PathBuf) -> Beside {
        Beside {
            folder,
            sealer: None,
            #[cfg(feature = "record")]
            tables: None,
            told: [None, None],
        }
    }

    /// Takes in what is new.
    pub(super) fn follow(&mut self, log: &Log) {
        let sealed = self.seal(log);
        self.tell(0, "what is new on the record is not signed", sealed.err());
        #[cfg(feature = "record")]
        {
            let followed = self.fill(log);
            if followed.is_err() {
                self.tables = None;
            }
            self.tell(1, "the registry's tables do not follow", followed.err());
        }
    }

    fn seal(&mut self, log: &Log) -> Result<()> {
        if self.sealer.is_none() {
            // Of a database's log, only the checkpoints lie here.
            let log_folder = self.folder.join("log");
            fs::create_dir_all(&log_folder).map_err(|error| Error::Io {
                doing: "make the folder",
                path: log_folder,
                source: Arc::new(error),
            })?;
            self.sealer = Some(Sealer::open(&checkpoints_of(&self.folder), Signer::open(&self.folder)?, log)?);
        }
        match &mut self.sealer {
            Some(sealer) => sealer.follow(log, clock::unix_ms()).map(drop),
            None => Ok(()),
        }
    }

    #[cfg(feature = "record")]
    fn fill(&mut self, log: &Log) -> Result<()> {
        if self.tables.is_none() {
            let opened = match log.remote() {
                Some(remote) => Tables::postgres(remote.address()),
                None => Tables::sqlite(&self.folder.join("registry.db")),
            };
            self.tables = Some(opened?);
        }
        self.tables.as_mut().map_or(Ok(()), |tables| tables.follow(log).map(drop))
    }

    /// Says once what is wrong, and that it is over.
    fn tell(&mut self, which: usize, what: &str, error: Option<Error>) {
        let error = error.map(|error| error.to_string());
        if self.told[which] != error {
            match &error {
                Some(error) => tracing::error!(error, "{what}"),
                None => tracing::info!("{what}: that is over"),
            }
            self.told[which] = error;
        }
    }

    /// Signs what must be signed before it is said. Fails where that cannot be.
    pub(super) fn sign(&self, fact: &mut Fact) -> Result<()> {
        let Some(said) = fact.to_seal() else { return Ok(()) };
        let Some(sealer) = &self.sealer else {
            let why = self.told[0].as_deref().unwrap_or("the server has just started: ask again in a moment");
            return Err(Error::Unfit(format!("approvals are signed, and this one cannot be: {why}")));
        };
        let signer = sealer.signer();
        let signature = signer.sign(APPROVAL, said.as_bytes());
        fact.seal(Seal { key: signer.public().to_string(), signature });
        Ok(())
    }

    /// Has everything signed that is there, and says what that came to.
    pub(super) fn checkpoint(&mut self, log: &Log) -> Result<Option<Checkpoint>> {
        self.seal(log)?;
        match &mut self.sealer {
            Some(sealer) => {
                sealer.seal(log, clock::unix_ms())?;
                Ok(sealer.last().cloned())
            }
            None => Ok(None),
        }
    }
}

/// The proof that an entry is on the record, for whoever trusts neither the disk nor the server.
pub(super) fn prove(log: &Log, folder: &Path, sequence: u64) -> Result<Proof> {
    let key = PublicKey::read(&key_of(folder))?;
    let all = checkpoints(&checkpoints_of(folder), &key)?;
    let signed = all.iter().find(|checkpoint| checkpoint.size >= sequence);
    match signed {
        Some(checkpoint) => Proof::of(log, sequence, checkpoint, &key),
        None => Err(Error::Unfit(format!("entry {sequence} is not signed yet, or is not there"))),
    }
}

/// Puts the log by, with its checkpoints, and what else is wanted: the key that signs, the files of versions.
pub(super) fn put_by(
    log: &Log,
    folder: &Path,
    secret: bool,
    blobs: Option<(&dyn Blobs, &[Digest])>,
    to: &Path,
) -> Result<Backup> {
    let (key, checkpoints, secret_file) =
        (PublicKey::read(&key_of(folder))?, checkpoints_of(folder), folder.join("audit.key"));
    let secret = secret.then_some(secret_file.as_path());
    backup(&Parts { log, checkpoints: &checkpoints, key: &key, secret, blobs }, to)
}

/// Writes a part of the log to a folder, with what proves it.
pub(super) fn write_part(log: &Log, folder: &Path, part: Part, to: &Path) -> Result<Exported> {
    let key = PublicKey::read(&key_of(folder))?;
    export(log, &checkpoints_of(folder), &key, part, None, to)
}
