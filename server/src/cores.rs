//! How many processors and how much memory may this process use? What the control group grants, not what the host has.

use std::fs;
use std::path::{Path, PathBuf};

/// Processors granted: at least one. A quota of half a processor counts as one.
pub fn granted() -> usize {
    let visible = std::thread::available_parallelism().map_or(1, usize::from);
    quota().map_or(visible, |quota| visible.min(quota)).max(1)
}

/// Bytes of memory granted: the least that a control group above this process or the machine allows. `None` where the
/// system does not tell.
pub fn memory_granted() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_memory_total(&text));
    let groups = group_files("memory.max").into_iter().filter_map(|file| fs::read_to_string(file).ok());
    groups.filter_map(|text| text.trim().parse().ok()).chain(machine).min()
}

/// The quota of control groups version 2, rounded up. `available_parallelism` knows quotas too, but rounds down.
fn quota() -> Option<usize> {
    group_files("cpu.max").iter().filter_map(|file| parse_quota(&fs::read_to_string(file).ok()?)).min()
}

/// Where the limit `name` of each control group of this process is, from its own to the root.
fn group_files(name: &str) -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").trim_start_matches('/');
    Path::new(path).ancestors().map(|group| Path::new("/sys/fs/cgroup").join(group).join(name)).collect()
}

fn parse_quota(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    usize::try_from(quota.div_ceil(period.max(1))).ok()
}

fn parse_memory_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_read() {
        assert_eq!(parse_quota("50000 100000\n"), Some(1));
        assert_eq!(parse_quota("250000 100000"), Some(3));
        assert_eq!(parse_quota("max 100000"), None);
        assert!(granted() >= 1);
    }

    #[test]
    fn memory_is_read() {
        assert_eq!(parse_memory_total("MemFree: 5 kB\nMemTotal:       24576 kB\n"), Some(24 << 20));
        assert_eq!(parse_memory_total("MemTotal: many\n"), None);
        assert_eq!(group_files("memory.max").last(), Some(&PathBuf::from("/sys/fs/cgroup/memory.max")));
        assert!(memory_granted().is_none_or(|bytes| bytes > 1 << 20));
    }
}
