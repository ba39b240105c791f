//! Shares the time of a runner's devices among the attempts that are in flight.
//!
//! In: when attempts begin and end, and on what. Out: how much device time each has held. Nothing that a runner says is needed for it, so
//! that a runner that dies leaves no gap.

use std::{collections::HashMap, time::Instant};

use crate::runner::infer::has_devices;

/// The device time that an attempt has held.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Held {
    /// The provider that it was to run on; empty when no runner was handed it.
    pub(super) provider: String,
    pub(super) device_seconds: f64,
}

/// The meter of one runner.
#[derive(Debug)]
pub(super) struct Meter {
    /// Sessions, one thread each: the devices of providers that have none of their own. Those that have share one accelerator.
    sessions: usize,
    held: HashMap<u64, Held>,
    /// Until when time is shared out.
    until: Instant,
}

impl Meter {
    pub(super) fn new(sessions: usize, now: Instant) -> Self {
        Self { sessions, held: HashMap::new(), until: now }
    }

    /// An attempt begins. A session runs on the first of its providers, or not at all.
    pub(super) fn begin(&mut self, attempt: u64, providers: &[String], now: Instant) {
        self.share(now);
        let provider = providers.first().map_or("cpu", String::as_str).to_owned();
        self.held.insert(attempt, Held { provider, device_seconds: 0.0 });
    }

    /// An attempt has ended; what it has held.
    pub(super) fn end(&mut self, attempt: u64, now: Instant) -> Held {
        self.share(now);
        self.held.remove(&attempt).unwrap_or_default()
    }

    /// Shares out the time since the last change.
    fn share(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.until).as_secs_f64();
        self.until = now;
        let on_device = self.held.values().filter(|held| has_devices(&held.provider)).count();
        let on_cores = self.held.len() - on_device;
        for held in self.held.values_mut() {
            let (devices, among) = if has_devices(&held.provider) { (1, on_device) } else { (self.sessions, on_cores) };
            held.device_seconds += seconds * devices as f64 / among as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn attempts_share_the_time_in_which_they_are_in_flight_together() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut meter = Meter::new(4, start);
        meter.begin(1, &[], at(10));
        meter.begin(2, &["cpu".to_owned()], at(12));
        meter.begin(3, &["cuda".to_owned(), "cpu".to_owned()], at(12));
        meter.begin(4, &["tensorrt".to_owned()], at(14));
        assert_eq!(meter.end(1, at(16)), Held { provider: "cpu".to_owned(), device_seconds: 2.0 * 4.0 + 4.0 * 4.0 / 2.0 });
        assert_eq!(meter.end(2, at(17)), Held { provider: "cpu".to_owned(), device_seconds: 4.0 * 4.0 / 2.0 + 4.0 });
        assert_eq!(meter.end(3, at(18)).device_seconds, 2.0 + 4.0 / 2.0);
        assert_eq!(meter.end(4, at(20)).device_seconds, 4.0 / 2.0 + 2.0);
        assert_eq!(meter.end(4, at(21)), Held::default());
    }
}
