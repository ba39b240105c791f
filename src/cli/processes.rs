//! What the kernel says of this process, of those that it has started, and of the machine.

use std::fs;

use crate::telemetry::look;

/// This process and those that it has started.
pub(super) struct Processes {
    /// User and system time so far.
    pub(super) cpu_seconds: f64,
    /// The most memory that one of those it has started has had.
    pub(super) runner_peak_bytes: u64,
}

impl Processes {
    /// As they are now.
    pub(super) fn look() -> Self {
        let own = std::process::id();
        let mut seen = Self { cpu_seconds: 0.0, runner_peak_bytes: 0 };
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            // One that has ended since is none.
            let Ok(used) = look(pid) else { continue };
            if pid != own && used.parent != u64::from(own) {
                continue;
            }
            seen.cpu_seconds += used.cpu_seconds;
            if pid != own {
                let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
                let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
                seen.runner_peak_bytes = seen.runner_peak_bytes.max(peak.unwrap_or_default() * 1024);
            }
        }
        seen
    }
}

/// Processor time that all of this machine has spent.
pub(super) fn machine_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let all: Vec<u64> = stat.lines().next().unwrap_or_default().split_whitespace().skip(1).map(|f| f.parse().unwrap_or_default()).collect();
    let at = |i: usize| all.get(i).copied().unwrap_or_default();
    (at(0) + at(1) + at(2) + at(5) + at(6)) as f64 / rustix::param::clock_ticks_per_second() as f64
}
