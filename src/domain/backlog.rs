//! How much there is to do.

use std::collections::BTreeMap;

use super::job::JobState;

/// What waits and what runs, as the store sees it at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Backlog {
    /// Jobs by state; a state without jobs may be absent.
    pub jobs: BTreeMap<JobState, u64>,
    /// Chunks of unfinished jobs that wait to be claimed.
    pub pending: u64,
    /// Chunks that a worker holds.
    pub running: u64,
    /// Chunks of unfinished jobs that are done.
    pub done: u64,
    /// For how long the oldest job has been waiting for its first chunk to be claimed; 0 when none waits.
    pub oldest_waiting_seconds: f64,
    /// Chunks that this process took back from workers that had stopped renewing, since it started.
    pub lease_expiries: u64,
}
