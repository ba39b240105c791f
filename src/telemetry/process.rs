//! Memory and processor time of the service and of its runner, as the kernel tells them at each scrape.

use std::{
    collections::BTreeMap,
    fs, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

/// Which processes are runners, by device.
#[derive(Debug, Clone, Default)]
pub(super) struct RunnerPids(Arc<Mutex<BTreeMap<u32, u32>>>);

impl RunnerPids {
    pub(super) fn set(&self, device: u32, pid: Option<u32>) {
        match pid {
            Some(pid) => self.pids().insert(device, pid),
            None => self.pids().remove(&device),
        };
    }

    fn pids(&self) -> MutexGuard<'_, BTreeMap<u32, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them together; `None` while there is none.
    fn look(&self) -> Option<Use> {
        let pids: Vec<u32> = self.pids().values().copied().collect();
        pids.into_iter().filter_map(|pid| look(pid).ok()).reduce(|a, b| Use {
            parent: a.parent,
            resident_bytes: a.resident_bytes + b.resident_bytes,
            cpu_seconds: a.cpu_seconds + b.cpu_seconds,
        })
    }
}

#[derive(Debug)]
pub(super) struct Processes(pub(super) RunnerPids);

/// What the kernel says of one process.
pub(crate) struct Use {
    /// The process that started it.
    pub(crate) parent: u64,
    resident_bytes: u64,
    /// User and system time so far.
    pub(crate) cpu_seconds: f64,
}

impl Collector for Processes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let service = ("service", look(std::process::id()).ok());
        // A runner that ended between being named and being looked at has no line until the next one starts.
        let runner = ("runner", self.0.look());
        let processes: Vec<([(&str, &str); 1], Use)> =
            [service, runner].into_iter().filter_map(|(name, used)| Some(([("process", name)], used?))).collect();
        let help = "Memory in use by the service and by its runners.";
        let mut memory = encoder.encode_descriptor("process_resident_memory", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        for (labels, used) in &processes {
            ConstGauge::new(used.resident_bytes).encode(memory.encode_family(labels)?)?;
        }
        let help = "Processor time used by the service and by its present runners.";
        let mut cpu = encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), MetricType::Counter)?;
        for (labels, used) in &processes {
            ConstCounter::new(used.cpu_seconds).encode(cpu.encode_family(labels)?)?;
        }
        Ok(())
    }
}

/// proc(5): `statm` counts pages, `stat` clock ticks.
pub(crate) fn look(pid: u32) -> io::Result<Use> {
    let field = |text: &str, at: usize| -> io::Result<u64> {
        let value = text.split_ascii_whitespace().nth(at).and_then(|v| v.parse().ok());
        value.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    };
    let pages = field(&fs::read_to_string(format!("/proc/{pid}/statm"))?, 1)?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses and may hold anything; the fields after it are numbered from 3.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = field(fields, 14 - 3)? + field(fields, 15 - 3)?;
    Ok(Use {
        parent: field(fields, 4 - 3)?,
        resident_bytes: pages * rustix::param::page_size() as u64,
        cpu_seconds: ticks as f64 / rustix::param::clock_ticks_per_second() as f64,
    })
}
