//! Is there memory for a model, before anybody tries to load it?
//!
//! Only what is sure is refused: weights alone that are more than what is free. What a model needs beyond its weights
//! (packed copies, values in between) depends on the engine and on requests, and is not guessed at here.

use std::fs;
use std::path::{Path, PathBuf};

/// Bytes this process may still take: what its control group or the machine leaves, whichever is less. Pages of files
/// count as free, since the kernel gives them up. `None` where the system does not tell.
pub fn free() -> Option<u64> {
    free_below(Path::new("/"))
}

fn free_below(root: &Path) -> Option<u64> {
    let machine = available(&fs::read_to_string(root.join("proc/meminfo")).ok()?);
    group_free(root).into_iter().chain(machine).min()
}

/// `MemAvailable` of `/proc/meminfo`.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What the tightest control group around this process leaves; groups of both versions are looked at.
fn group_free(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut free: Option<u64> = None;
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (mount, names) = match controllers {
            "" => ("sys/fs/cgroup", ["memory.max", "memory.current", "active_file", "inactive_file"]),
            _ if controllers.split(',').any(|name| name == "memory") => (
                "sys/fs/cgroup/memory",
                ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file", "total_inactive_file"],
            ),
            _ => continue,
        };
        let mount = root.join(mount);
        let mut folder: PathBuf = mount.join(path.trim_start_matches('/'));
        // A container may see the names of its host's groups, but not the groups: then only the mount itself is there.
        while folder.starts_with(&mount) {
            free = free.into_iter().chain(left_in(&folder, names)).min();
            if !folder.pop() {
                break;
            }
        }
    }
    free
}

/// The limit of one group less what it holds beside pages of files.
fn left_in(folder: &Path, [limit, usage, active, inactive]: [&str; 4]) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = number(limit)?;
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let pages: u64 = stat
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| *name == active || *name == inactive)
        .filter_map(|(_, value)| value.trim().parse::<u64>().ok())
        .sum();
    Some(limit.saturating_sub(number(usage)?.saturating_sub(pages)))
}

/// Refuses `weights` bytes, held `copies` times, where they are more than `limit`. `place` says whose limit that is.
pub fn check(weights: u64, copies: usize, limit: u64, place: &str) -> Result<(), String> {
    let needed = weights.saturating_mul(copies as u64);
    if needed <= limit {
        return Ok(());
    }
    let each = if copies == 1 { String::new() } else { format!(" ({copies} sessions of {})", shown(weights)) };
    Err(format!(
        "its weights alone take {}{each}, and {place} has {}: make room, or switch this check off with memory_check = \
         false in model.toml",
        shown(needed),
        shown(limit)
    ))
}

fn shown(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes < 10 * MIB { format!("{} KiB", bytes.div_ceil(1024)) } else { format!("{} MiB", bytes.div_ceil(MIB)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes free in a made-up system with these files.
    fn free_with(files: &[(&str, &str)]) -> Option<u64> {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        free_below(root.path())
    }

    #[test]
    fn the_least_of_machine_and_groups_counts() {
        let meminfo = ("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    1000 kB\n");
        assert_eq!(free_with(&[]), None);
        assert_eq!(free_with(&[meminfo]), Some(1_024_000));
        let inner = [
            meminfo,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/memory.max", "5000\n"),
            ("sys/fs/cgroup/a/memory.current", "4500\n"),
            ("sys/fs/cgroup/a/memory.stat", "anon 9\ninactive_file 300\nactive_file 200\n"),
        ];
        assert_eq!(free_with(&inner), Some(1000));
        let first_version = [
            meminfo,
            ("proc/self/cgroup", "3:cpu:/x\n2:memory:/pod\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "2500"),
        ];
        assert_eq!(free_with(&first_version), Some(0));
    }

    #[test]
    fn only_what_cannot_fit_is_refused() {
        assert_eq!(check(1 << 20, 2, 2 << 20, "the device"), Ok(()));
        let error = check(300 << 20, 2, 512 << 20, "provider.cuda.memory_limit").unwrap_err();
        assert!(
            error.starts_with(
                "its weights alone take 600 MiB (2 sessions of 300 MiB), and provider.cuda.memory_limit has 512 MiB"
            ),
            "{error}"
        );
        assert!(check(1, 1, 0, "x").is_err());
    }
}
