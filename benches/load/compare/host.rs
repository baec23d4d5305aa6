//! On which machine, and from which commit, do the figures come?

use std::fs;
use std::process::Command;

use serde::Serialize;

/// What a reader must know to compare figures.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Host {
    /// The processor's name.
    pub(super) processor: String,
    /// Cores that this process may use.
    pub(super) cores: usize,
    /// The kernel's release.
    pub(super) kernel: String,
    /// Of the tree that this was started in, with a mark where files differ from it; `None` outside a repository.
    pub(super) commit: Option<String>,
}

impl Host {
    /// This one.
    pub(super) fn look() -> Host {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Host {
            processor: processor_in(&read("/proc/cpuinfo")),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            commit: commit(),
        }
    }
}

fn processor_in(cpuinfo: &str) -> String {
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or("unknown", |(_, name)| name.trim()).to_owned()
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit} with changes") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_has_a_name() {
        assert_eq!(processor_in("processor\t: 0\nmodel name\t: AMD EPYC\nmodel name\t: other\n"), "AMD EPYC");
        assert_eq!(processor_in("processor : 0\n"), "unknown");
        assert!(Host::look().cores > 0);
    }
}
