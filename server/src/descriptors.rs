//! How many files and sockets may the process open?
//!
//! Systems grant a thousand for the sake of old programs, and more to those who ask. Without it, `connections_max` would be
//! a promise that the system breaks.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files beside connections: models, libraries, logs.
const BESIDE: u64 = 1024;

/// Has the system grant what so many connections take, as far as it may be asked for.
pub(crate) fn ask_for(connections: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(BESIDE);
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let asked = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let granted = setrlimit(Resource::Nofile, Rlimit { current: Some(asked), maximum }).is_ok();
    if !granted || asked < wanted {
        let files = if granted { Some(asked) } else { current };
        tracing::info!(
            files,
            wanted,
            "fewer files may be open than connections_max would take (ulimit -n, LimitNOFILE)"
        );
    }
}
