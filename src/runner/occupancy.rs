//! For how long an accelerator was at work, and for whom.
//!
//! Sessions that run at once share it: the time of the device is counted once, and in equal parts for those inside. Where there is
//! none every session has a core of its own, and times of sessions add up without this.

use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use super::models::lock;

/// Counts one device's time by attempt.
#[derive(Debug, Default)]
pub(super) struct Occupancy(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Calls of the runtime that are under way, by attempt.
    inside: HashMap<u64, usize>,
    times: HashMap<u64, Duration>,
    until: Option<Instant>,
}

impl Occupancy {
    /// A call of the runtime begins.
    pub(super) fn enter(&self, attempt: u64, now: Instant) {
        let mut state = lock(&self.0);
        state.share(now);
        *state.inside.entry(attempt).or_default() += 1;
    }

    /// A call of the runtime has ended.
    pub(super) fn leave(&self, attempt: u64, now: Instant) {
        let mut state = lock(&self.0);
        state.share(now);
        if let Some(calls) = state.inside.get_mut(&attempt) {
            *calls = calls.saturating_sub(1);
        }
    }

    /// What was counted for an attempt, which is over.
    pub(super) fn take(&self, attempt: u64, now: Instant) -> Duration {
        let mut state = lock(&self.0);
        state.share(now);
        state.inside.remove(&attempt);
        state.times.remove(&attempt).unwrap_or_default()
    }
}

impl State {
    fn share(&mut self, now: Instant) {
        let time = self.until.replace(now).map_or(Duration::ZERO, |until| now.saturating_duration_since(until));
        let calls: usize = self.inside.values().sum();
        for (attempt, inside) in self.inside.iter().filter(|(_, inside)| **inside > 0) {
            *self.times.entry(*attempt).or_default() += time.mul_f64(*inside as f64 / calls as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_of_the_device_is_counted_once_whoever_is_inside() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let device = Occupancy::default();
        device.enter(1, at(0));
        device.enter(1, at(2));
        device.enter(2, at(4));
        device.leave(1, at(10));
        device.leave(1, at(12));
        device.leave(2, at(15));
        // Alone for 4 s, with two calls beside one for 6 s, with one beside one for 2 s.
        assert_eq!(device.take(1, at(20)), Duration::from_secs(4 + 4 + 1));
        assert_eq!(device.take(2, at(20)), Duration::from_secs(2 + 1 + 3));
        assert_eq!(device.take(2, at(20)), Duration::ZERO);
    }
}
