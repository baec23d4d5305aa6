//! What does the process hold now? Figures that come back to where they were when nobody asks it anything.

use std::fs;
use std::sync::atomic::Ordering::Relaxed;

use tiltyard_runtime::memory;
use tiltyard_types::live::Kind;

use super::page::Page;
use crate::clock;
use crate::traces::Counts;

/// Writes what became of spans.
pub(super) fn traces(page: &mut Page, counts: &Counts) {
    page.family("tiltyard_spans_exported_total", "counter", "Spans that the collector took.");
    page.sample("tiltyard_spans_exported_total", "", counts.exported.load(Relaxed) as f64);
    let name = "tiltyard_spans_dropped_total";
    page.family(name, "counter", "Spans that did not get to the collector: no room, or it did not take them.");
    page.sample(name, "reason=\"full\"", counts.full.load(Relaxed) as f64);
    page.sample(name, "reason=\"refused\"", counts.refused.load(Relaxed) as f64);
}

/// Writes what is alive, and what the system says of the process where it does.
pub(super) fn families(page: &mut Page) {
    page.family("tiltyard_live", "gauge", "Things that were made and not dropped yet, by kind.");
    for kind in Kind::ALL {
        page.sample("tiltyard_live", &format!("kind=\"{}\"", kind.name()), kind.count() as f64);
    }
    if let Some(bytes) = fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes) {
        page.family("tiltyard_resident_bytes", "gauge", "Memory of the process that is resident.");
        page.sample("tiltyard_resident_bytes", "", bytes as f64);
    }
    page.family(
        "tiltyard_cpu_seconds_total",
        "counter",
        "Processors' time that the process has taken, for whatever it did.",
    );
    page.sample("tiltyard_cpu_seconds_total", "", clock::process_taken().as_secs_f64());
    if let Some(bytes) = memory::free() {
        let name = "tiltyard_memory_free_bytes";
        page.family(
            name,
            "gauge",
            "Memory that the process may still take: what its control group or the machine leaves.",
        );
        page.sample(name, "", bytes as f64);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        page.family("tiltyard_open_files", "gauge", "Files and sockets that the process has open.");
        page.sample("tiltyard_open_files", "", files.count() as f64);
    }
}

/// Reads `VmRSS` of `/proc/<pid>/status`, which is in kibibytes.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_told_in_bytes() {
        assert_eq!(resident_bytes("VmHWM:\t 30 kB\nVmRSS:\t    20 kB\n"), Some(20 * 1024));
        assert_eq!(resident_bytes(""), None);
    }
}
