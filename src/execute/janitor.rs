//! Removes jobs from the database that ended long ago; what they wrote stays where it is.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::db::Store;

/// How often to look, unless jobs are kept for less.
const PERIOD: Duration = Duration::from_mins(1);
/// Chunks removed in one transaction at most: others wait for it no longer than for a claim.
const STEP: u32 = 1000;

/// Keeps the tables from growing for ever. Needs no lease: any number of nodes may be at it.
#[derive(Debug)]
pub struct Janitor {
    /// Holds the jobs.
    pub store: Arc<dyn Store>,
    /// How long a job is kept after it ended.
    pub retention: Duration,
}

impl Janitor {
    /// Tidies up until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let removed = match self.store.purge(self.retention, STEP).await {
                Ok(removed) => removed,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot remove old jobs");
                    0
                }
            };
            if removed > 0 {
                tracing::debug!(rows = removed, "removed {removed} rows of jobs that ended long ago");
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(self.retention.min(PERIOD)) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}
