//! What has a process used so far, or all of its family: processor time, and memory?
//!
//! Read from `/proc`. The kernel tells processor time in hundredths of a second, so stretches should last a second or more.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::Fault;

/// Ticks per second in `/proc/<pid>/stat`: part of Linux's interface to programs, whatever the kernel's own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time that the process and its threads have used, in user and kernel mode.
///
/// Fails when there is no such process, or no `/proc`.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration, Fault> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))
        .map_err(|error| format!("process {pid} cannot be looked at: {error}"))?;
    cpu_time_in(&text).ok_or_else(|| format!("/proc/{pid}/stat is not understood: {text:?}").into())
}

/// Processor time of those threads of a process whose names begin so. Fails when there is no such process.
pub(crate) fn threads_cpu_time(pid: u32, name: &str) -> Result<Duration, Fault> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .map_err(|error| format!("process {pid} cannot be looked at: {error}"))?;
    let used = |task: PathBuf| {
        let is_one = fs::read_to_string(task.join("comm")).ok()?.starts_with(name);
        cpu_time_in(&fs::read_to_string(task.join("stat")).ok()?).filter(|_| is_one)
    };
    // A thread may end while we look.
    Ok(tasks.filter_map(|task| used(task.ok()?.path())).sum())
}

/// The names of a process's threads, the first 15 bytes of each. Fails when there is no such process.
pub(crate) fn threads(pid: u32) -> Result<Vec<String>, Fault> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .map_err(|error| format!("process {pid} cannot be looked at: {error}"))?;
    // A thread may end while we look.
    let name = |task: PathBuf| Some(fs::read_to_string(task.join("comm")).ok()?.trim_end().to_owned());
    Ok(tasks.filter_map(|task| name(task.ok()?.path())).collect())
}

/// A process and all that it started, and they in turn, as far as they run. Some servers are several processes.
///
/// Fails when there is no such process, or no `/proc`.
pub(crate) fn family(pid: u32) -> Result<Vec<u32>, Fault> {
    let parent_of = |pid: u32| parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?);
    if parent_of(pid).is_none() {
        return Err(format!("there is no process {pid}").into());
    }
    let entries = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parents: Vec<(u32, u32)> = entries.filter_map(|child| Some((child, parent_of(child)?))).collect();
    let mut family = vec![pid];
    let mut seen = 0;
    while let Some(&parent) = family.get(seen) {
        family.extend(parents.iter().filter(|(_, its)| *its == parent).map(|(child, _)| *child));
        seen += 1;
    }
    Ok(family)
}

/// Processor time of all of a family. Fails when one of them has ended.
pub(crate) fn family_cpu_time(family: &[u32]) -> Result<Duration, Fault> {
    family.iter().map(|&pid| cpu_time(pid)).sum()
}

/// Memory of all of a family; what they share counts for each. Fails when one of them has ended.
pub(crate) fn family_memory(family: &[u32]) -> Result<Memory, Fault> {
    let mut all = Memory::default();
    for &pid in family {
        let Memory { resident_bytes, anonymous_bytes, peak_bytes } = memory(pid)?;
        all.resident_bytes += resident_bytes;
        all.anonymous_bytes += anonymous_bytes;
        all.peak_bytes += peak_bytes;
    }
    Ok(all)
}

fn parent_in(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn cpu_time_in(stat: &str) -> Option<Duration> {
    // The second field is the program's name in parentheses, which may hold blanks and parentheses itself.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_secs_f64((user + kernel) as f64 / TICKS_PER_SECOND))
}

/// Memory that a process holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Memory {
    /// Resident now.
    pub(crate) resident_bytes: u64,
    /// Of these, not backed by files: what the process has written.
    pub(crate) anonymous_bytes: u64,
    /// The most that was ever resident.
    pub(crate) peak_bytes: u64,
}

/// Memory of a process. Fails like [`cpu_time`].
pub(crate) fn memory(pid: u32) -> Result<Memory, Fault> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))
        .map_err(|error| format!("process {pid} cannot be looked at: {error}"))?;
    Ok(memory_in(&text))
}

fn memory_in(status: &str) -> Memory {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.trim_start_matches(':').split_ascii_whitespace().next()?.parse().ok()?;
        Some(kilobytes * 1024)
    };
    Memory {
        resident_bytes: field("VmRSS").unwrap_or(0),
        anonymous_bytes: field("RssAnon").unwrap_or(0),
        peak_bytes: field("VmHWM").unwrap_or(0),
    }
}

/// How many processes wanted to run, on average over the last minute; `None` where the system does not say.
pub(crate) fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 10 0 0 0 250 50 0 0 20 0 3 0 100 1 1 1";
        assert_eq!(cpu_time_in(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu_time_in("7 (a) S 1"), None);
        assert_eq!(cpu_time_in(""), None);
    }

    #[test]
    fn memory_is_told_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    30 kB\nVmRSS:\t    20 kB\nRssAnon:\t    10 kB\n";
        let expected = Memory { resident_bytes: 20 * 1024, anonymous_bytes: 10 * 1024, peak_bytes: 30 * 1024 };
        assert_eq!(memory_in(status), expected);
        assert_eq!(memory_in(""), Memory::default());
    }

    #[test]
    fn families_are_found_and_added_up() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("there is a sleep");
        let family = family(std::process::id());
        let used = family_cpu_time(&[std::process::id(), child.id()]);
        let memory = family_memory(&[std::process::id(), child.id()]).expect("both run").resident_bytes;
        child.kill().and_then(|()| child.wait()).expect("it was running");
        let family = family.expect("this process runs");
        assert_eq!(family[0], std::process::id());
        assert!(family.contains(&child.id()));
        used.expect("both ran");
        assert!(memory > 0);
        assert_eq!(parent_in("7 (a (b) c) S 1 7 7 0 -1"), Some(1));
        assert!(super::family(u32::MAX).is_err());
    }

    #[test]
    fn this_process_has_used_something() {
        let own = std::process::id();
        assert!(memory(own).expect("it runs").resident_bytes > 0);
        cpu_time(own).expect("it runs");
        assert!(cpu_time(u32::MAX).is_err());
        assert!(threads_cpu_time(own, "no thread has this name").is_ok_and(|time| time.is_zero()));
        assert!(threads_cpu_time(u32::MAX, "").is_err());
        assert!(!threads(own).expect("it runs").is_empty());
        assert!(threads(u32::MAX).is_err());
    }
}
