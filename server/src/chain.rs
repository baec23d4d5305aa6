//! Which log does this process write, and who shares it?
//!
//! Rollouts and the registry stand in one log. In a folder, who comes first opens it, and the others are given the same; when nobody
//! has it any more, the next one opens it anew, which is the cure for a log that stopped. The log that replicas share is a database:
//! each who opens it has a connection of his own, so that nobody waits for another's question.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tiltyard_registry::{Address, Limits, Log, Result};

use crate::rollouts::fleet::Shared;

/// Where the log is, and the log while somebody has it.
#[derive(Debug)]
pub struct Chain {
    place: Place,
    open: Mutex<Weak<Log>>,
}

#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    Database(Box<Address>),
}

impl Chain {
    /// The log that replicas share, where there are some, or else that in a folder. Nobody has opened it yet.
    pub fn of(folder: PathBuf, shared: Option<&Shared>) -> Chain {
        let place = shared.map_or(Place::Folder(folder), |shared| Place::Database(Box::new(shared.address.clone())));
        Chain { place, open: Mutex::default() }
    }

    /// The log, for as long as it is kept.
    pub fn open(&self) -> Result<Arc<Log>> {
        let folder = match &self.place {
            Place::Folder(folder) => folder,
            Place::Database(address) => return Log::connect(address).map(Arc::new),
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = open.upgrade() {
            return Ok(log);
        }
        let log = Arc::new(Log::open(folder, Limits::default())?);
        *open = Arc::downgrade(&log);
        Ok(log)
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        match &self.place {
            Place::Folder(folder) => folder.display().to_string(),
            Place::Database(address) => address.to_string(),
        }
    }

    /// Whether replicas share it.
    pub fn is_shared(&self) -> bool {
        matches!(self.place, Place::Database(_))
    }
}
