//! The runners that chunks share, one a device, and one apart for those in isolation.
//!
//! In: chunk tasks. Out: how each attempt ended. A chunk in isolation has a process to itself, which ends with it, so that what it does is
//! certain and costs nobody else; such chunks take turns, as each process loads the model anew.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::supervisor::{Ended, Ran, RunnerOptions, RunnerStatus, Shown, Supervisor};
use crate::{runner::protocol::ChunkTask, telemetry::Metrics};

/// Runs chunks; cheap to clone.
#[derive(Debug, Clone)]
pub struct Runners {
    /// One a device; never empty.
    shared: Arc<[OnDevice]>,
    apart: Supervisor,
    turn: Arc<Semaphore>,
    /// Attempts in isolation, those that wait for their turn included.
    isolated: Arc<Mutex<HashMap<u64, CancellationToken>>>,
}

/// A runner and what it has to do.
#[derive(Debug)]
struct OnDevice {
    runner: Supervisor,
    /// Attempts in flight on it.
    attempts: Mutex<HashSet<u64>>,
}

impl OnDevice {
    fn attempts(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runners {
    /// Starts their supervisors; processes are started when there is work.
    pub fn start(options: RunnerOptions, metrics: &Metrics) -> Self {
        let apart = RunnerOptions { workers: 1, ..options.clone() };
        let shared = options.devices.iter().map(|device| {
            let on_device = RunnerOptions { devices: vec![*device], ..options.clone() };
            let (runner, _task) = Supervisor::start(on_device, metrics.clone(), Shown::Yes);
            OnDevice { runner, attempts: Mutex::default() }
        });
        let shared = shared.collect();
        let (apart, _task) = Supervisor::start(apart, metrics.clone(), Shown::No);
        Self { shared, apart, turn: Arc::new(Semaphore::new(1)), isolated: Arc::default() }
    }

    /// Whether runners can be had.
    pub fn status(&self) -> Vec<RunnerStatus> {
        self.shared.iter().map(|on_device| on_device.runner.status()).collect()
    }

    /// Runs one attempt to its end on the device that has the fewest.
    async fn run_shared(&self, task: ChunkTask) -> Ran {
        let attempt = task.attempt;
        // One that cannot start has none in flight for long, and would draw all that there are.
        let least = |on_device: &&OnDevice| (on_device.runner.status().trouble().is_some(), on_device.attempts().len());
        let Some(on_device) = self.shared.iter().min_by_key(least) else { return Ran::nowhere(Ended::Stopped) };
        on_device.attempts().insert(attempt);
        let ran = on_device.runner.run(task).await;
        on_device.attempts().remove(&attempt);
        ran
    }

    /// Runs one attempt to its end.
    pub(super) async fn run(&self, task: ChunkTask) -> Ran {
        if task.isolation.is_none() {
            return self.run_shared(task).await;
        }
        let (attempt, cancelled) = (task.attempt, CancellationToken::new());
        self.isolated().insert(attempt, cancelled.clone());
        let ran = tokio::select! {
            () = cancelled.cancelled() => Ran::nowhere(Ended::Stopped),
            turn = self.turn.acquire() => {
                let ran = if cancelled.is_cancelled() { Ran::nowhere(Ended::Stopped) } else { self.apart.run(task).await };
                self.apart.shutdown().await;
                drop(turn);
                ran
            }
        };
        self.isolated().remove(&attempt);
        ran
    }

    /// Asks an attempt to stop; its `run` returns.
    pub(super) async fn cancel(&self, attempt: u64) {
        let cancelled = self.isolated().get(&attempt).cloned();
        match cancelled {
            None => {
                if let Some(on_device) = self.shared.iter().find(|on_device| on_device.attempts().contains(&attempt)) {
                    on_device.runner.cancel(attempt).await;
                }
            }
            Some(cancelled) => {
                cancelled.cancel();
                self.apart.cancel(attempt).await;
            }
        }
    }

    /// Ends the processes: politely when nothing is in flight, by a kill otherwise.
    pub(super) async fn shutdown(&self) {
        futures::future::join_all(self.shared.iter().map(|on_device| on_device.runner.shutdown())).await;
        self.apart.shutdown().await;
    }

    fn isolated(&self) -> std::sync::MutexGuard<'_, HashMap<u64, CancellationToken>> {
        self.isolated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
