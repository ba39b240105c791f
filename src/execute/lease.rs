//! The leases this process holds: renewed together, in one statement, while their chunks run.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::runners::Runners;
use crate::db::{ChunkLease, Store};

/// Renewals on request are at least this far apart.
const DEBOUNCE: Duration = Duration::from_millis(200);

/// Leases by the attempt that runs under each.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<HashMap<u64, ChunkLease>>);

impl Held {
    pub(super) fn insert(&self, attempt: u64, lease: ChunkLease) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(attempt, lease);
    }

    pub(super) fn remove(&self, attempt: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&attempt);
    }

    pub(super) fn attempts(&self) -> Vec<u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    fn all(&self) -> HashMap<u64, ChunkLease> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Renews what is held three times within each lease's life; stops attempts whose lease is lost or whose job has an ending.
pub(super) async fn keep(
    store: Arc<dyn Store>,
    held: Arc<Held>,
    runners: Runners,
    ttl: Duration,
    wake: Arc<tokio::sync::Notify>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            // A cancelled job rings, so that its chunks stop at once instead of with the next renewal. So does much else: what
            // rings together is answered together.
            () = wake.notified() => tokio::time::sleep(DEBOUNCE).await,
            () = tokio::time::sleep(ttl / 3) => {}
            () = stop.cancelled() => return,
        }
        let leases = held.all();
        if leases.is_empty() {
            continue;
        }
        let list: Vec<ChunkLease> = leases.values().cloned().collect();
        match store.renew_chunks(&list, ttl).await {
            Ok(lost) => {
                for (attempt, lease) in leases.iter().filter(|(_, lease)| lost.contains(lease)) {
                    tracing::info!(job.id = %lease.chunk.job, chunk.seq = lease.chunk.seq, "chunk {} must stop", lease.chunk);
                    runners.cancel(*attempt).await;
                }
            }
            // Leases run out on their own; whoever claims the chunks then fences this process off.
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot renew {} leases", list.len()),
        }
    }
}
