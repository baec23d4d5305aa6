//! How many processors may this process use? What the control group grants, not what the host has.

use std::fs;

/// Processors granted: at least one. A quota of half a processor counts as one.
pub fn granted() -> usize {
    let visible = std::thread::available_parallelism().map_or(1, usize::from);
    quota().map_or(visible, |quota| visible.min(quota)).max(1)
}

/// The quota of control groups version 2, rounded up. `available_parallelism` knows quotas too, but rounds down.
fn quota() -> Option<usize> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?.trim_start_matches('/');
    let limits = [format!("/sys/fs/cgroup/{path}/cpu.max"), "/sys/fs/cgroup/cpu.max".to_owned()];
    limits.iter().filter_map(|file| parse_quota(&fs::read_to_string(file).ok()?)).min()
}

fn parse_quota(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (u64, u64) = (quota.parse().ok()?, period.parse().ok()?);
    usize::try_from(quota.div_ceil(period.max(1))).ok()
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
}
