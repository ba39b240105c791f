//! The runner that chunks share, and one apart for those in isolation.
//!
//! In: chunk tasks. Out: how each attempt ended. A chunk in isolation has a process to itself, which ends with it, so that what it does is
//! certain and costs nobody else; such chunks take turns, as each process loads the model anew.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::supervisor::{Ended, RunnerOptions, RunnerStatus, Shown, Supervisor};
use crate::{runner::protocol::ChunkTask, telemetry::Metrics};

/// Runs chunks; cheap to clone.
#[derive(Debug, Clone)]
pub struct Runners {
    shared: Supervisor,
    apart: Supervisor,
    turn: Arc<Semaphore>,
    /// Attempts in isolation, those that wait for their turn included.
    isolated: Arc<Mutex<HashMap<u64, CancellationToken>>>,
}

impl Runners {
    /// Starts their supervisors; processes are started when there is work.
    pub fn start(options: RunnerOptions, metrics: &Metrics) -> Self {
        let apart = RunnerOptions { workers: 1, ..options.clone() };
        let (shared, _task) = Supervisor::start(options, metrics.clone(), Shown::Yes);
        let (apart, _task) = Supervisor::start(apart, metrics.clone(), Shown::No);
        Self { shared, apart, turn: Arc::new(Semaphore::new(1)), isolated: Arc::default() }
    }

    /// Whether a runner can be had.
    pub fn status(&self) -> RunnerStatus {
        self.shared.status()
    }

    /// Runs one attempt to its end.
    pub(super) async fn run(&self, task: ChunkTask) -> Ended {
        if task.isolation.is_none() {
            return self.shared.run(task).await;
        }
        let (attempt, cancelled) = (task.attempt, CancellationToken::new());
        self.isolated().insert(attempt, cancelled.clone());
        let ended = tokio::select! {
            () = cancelled.cancelled() => Ended::Stopped,
            turn = self.turn.acquire() => {
                let ended = if cancelled.is_cancelled() { Ended::Stopped } else { self.apart.run(task).await };
                self.apart.shutdown().await;
                drop(turn);
                ended
            }
        };
        self.isolated().remove(&attempt);
        ended
    }

    /// Asks an attempt to stop; its `run` returns.
    pub(super) async fn cancel(&self, attempt: u64) {
        let cancelled = self.isolated().get(&attempt).cloned();
        match cancelled {
            None => self.shared.cancel(attempt).await,
            Some(cancelled) => {
                cancelled.cancel();
                self.apart.cancel(attempt).await;
            }
        }
    }

    /// Ends the processes: politely when nothing is in flight, by a kill otherwise.
    pub(super) async fn shutdown(&self) {
        self.shared.shutdown().await;
        self.apart.shutdown().await;
    }

    fn isolated(&self) -> std::sync::MutexGuard<'_, HashMap<u64, CancellationToken>> {
        self.isolated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
