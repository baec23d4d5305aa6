//! Which settings of the server does another command share, and what do they say?

use std::collections::BTreeMap;
use std::fs;

use clap::{Arg, ArgMatches};

use super::exit::Failure;
use super::output;
use crate::config::{self, Loaded};

/// The settings that decide which engines there are.
pub(crate) const ENGINE_SETTINGS: [&str; 4] = ["engines", "ort_lib", "data_dir", "config"];

/// The flags of `names`, as `serve` has them.
pub(crate) fn flags(names: &[&str]) -> Vec<Arg> {
    config::command_flags().into_iter().filter(|flag| names.contains(&flag.get_id().as_str())).collect()
}

/// What the command line, the environment and the file say together. Fails as `serve` would.
pub(crate) fn load(matches: &ArgMatches) -> Result<Loaded, Failure> {
    // Variables that are no text can be no setting of ours.
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    config::load(matches, &environment, &|path| fs::read_to_string(path))
        .map_err(|error| Failure::usage(error.to_string()))
}

/// Says what an operator should know of the settings.
pub(crate) fn warn(loaded: &Loaded) {
    for warning in &loaded.warnings {
        output::note(format_args!("warning: {warning}"));
    }
}
