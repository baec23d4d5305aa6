//! How do models come from a store elsewhere? As verified copies in a folder, which is served like any other.
//!
//! `address.rs` reads the URL. `source.rs` asks the store, `plan.rs` says what follows from its listing, `fetch.rs` and
//! `parts.rs` bring objects, `cache.rs` publishes them, and `follow.rs` decides when. What is promised of folders holds for the
//! copies: this is all that knows of stores, the beginning and figures aside.

pub mod address;
#[cfg(feature = "stores")]
mod cache;
#[cfg(feature = "stores")]
mod fetch;
pub mod figures;
#[cfg(feature = "stores")]
mod follow;
#[cfg(feature = "stores")]
mod manifest;
#[cfg(feature = "stores")]
mod parts;
#[cfg(feature = "stores")]
mod plan;
#[cfg(feature = "stores")]
mod source;
#[cfg(feature = "stores")]
mod sums;
#[cfg(all(feature = "stores", feature = "record"))]
pub(crate) mod writing;

use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use crate::config::Config;
use crate::reload::Live;

use address::Address;
use figures::Figures;

/// The folder that is served, and what keeps it like a store, where `models` names one.
#[derive(Default)]
pub struct Mirror {
    /// The folder.
    pub root: PathBuf,
    /// Tells once that the folder is worth a look.
    pub begin: Option<Receiver<()>>,
    /// How it goes.
    pub figures: Option<Arc<Figures>>,
}

/// What a store had when it was asked. The folder is nobody else's while this lives.
pub struct Brought {
    /// The folder with the copies.
    pub root: PathBuf,
    #[cfg(feature = "stores")]
    _cache: cache::Cache,
}

#[cfg(feature = "stores")]
mod threads {
    use std::collections::HashSet;
    use std::thread;

    use tiltyard_runtime::priority;
    use tokio::runtime::{Builder, Runtime};

    use super::cache::Cache;
    use super::follow::{Follower, Round};
    use super::source::Source;
    use super::*;
    use crate::config::ModelControl;

    fn follower(address: &Address, config: &Config, live: Arc<Live>) -> Result<Follower, String> {
        let source = Source::open(address, config.store_token_file.as_deref())?;
        let cache = Cache::open(&config.data_dir, address)?;
        let figures = Arc::new(Figures::of(address.to_string()));
        // Under explicit control, what clients ask for is looked up in the copies: they are kept up to date as well.
        let goes_on = config.model_control != ModelControl::None;
        Ok(Follower { source, cache, live, figures, goes_on, told: HashSet::new(), trouble: None })
    }

    fn runtime() -> Result<Runtime, String> {
        let runtime = Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| format!("models cannot be fetched: {error}"))
    }

    pub(super) fn follow(address: &Address, config: &Config, live: &Arc<Live>) -> Result<Mirror, String> {
        let follower = follower(address, config, Arc::clone(live))?;
        let (root, figures) = (follower.cache.root.clone(), Arc::clone(&follower.figures));
        let (sender, begin) = crossbeam_channel::bounded(1);
        let runtime = runtime()?;
        let work = move || {
            priority::give_way();
            runtime.block_on(follower.follow(sender));
        };
        let spawned = thread::Builder::new().name("tiltyard-mirror".to_owned()).spawn(work);
        spawned.map_err(|error| format!("a thread cannot be started: {error}"))?;
        Ok(Mirror { root, begin: Some(begin), figures: Some(figures) })
    }

    pub(super) fn bring(address: &Address, config: &Config) -> Result<Brought, String> {
        let mut follower = follower(address, config, Arc::new(Live::new(config)))?;
        follower.cache.verify().map_err(|error| format!("the cache of {address} cannot be read: {error}"))?;
        match runtime()?.block_on(follower.round()) {
            Round::Done => Ok(Brought { root: follower.cache.root.clone(), _cache: follower.cache }),
            Round::Overtaken(reason) | Round::Partly(reason) | Round::Silent(reason) => {
                Err(format!("{address}: {reason}"))
            }
        }
    }
}

/// Without the feature there is nothing to follow with.
#[cfg(not(feature = "stores"))]
mod threads {
    use super::*;

    fn refuse<T>(address: &Address) -> Result<T, String> {
        Err(format!(
            "models = {address}: this build takes models from folders only, since it was made without the feature \"stores\""
        ))
    }

    pub(super) fn follow(address: &Address, _config: &Config, _live: &Arc<Live>) -> Result<Mirror, String> {
        refuse(address)
    }

    pub(super) fn bring(address: &Address, _config: &Config) -> Result<Brought, String> {
        refuse(address)
    }
}

/// The folder that the configuration names, or one that follows the store it names, on a thread of its own. Fails, in words,
/// where the URL, the environment or the cache's folder cannot be used; a store that does not answer is no failure.
pub(crate) fn follow(config: &Config, live: &Arc<Live>) -> Result<Mirror, String> {
    match Address::of(&config.models).transpose()? {
        Some(address) => threads::follow(&address, config, live),
        None => Ok(Mirror { root: config.models.clone(), ..Mirror::default() }),
    }
}

/// Fetches what the store has that the configuration names, and waits for it. `None` where it names a path. Fails, in words,
/// where any of it cannot be had.
pub(crate) fn bring(config: &Config) -> Result<Option<Brought>, String> {
    Address::of(&config.models).transpose()?.map(|address| threads::bring(&address, config)).transpose()
}
