//! Runs attempts: threads for reading and writing each chunk, and workers that all chunks share.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, atomic::Ordering},
    thread,
    time::Instant,
};

use crossbeam_channel::{Sender, bounded, unbounded};
use tokio::runtime::Handle;

use super::{
    attempt::{Attempt, Failure, Work},
    infer,
    models::{Models, lock},
    protocol::{Busy, ChunkTask, FromRunner, Loading},
    reader::Reader,
    worker::{self, BusySlot, panic_text},
    writer::Writer,
};
use crate::{domain::ChunkResult, objects::Stores};

/// The part of a runner that lives as long as its process.
#[derive(Debug)]
pub(super) struct Engine {
    stores: Stores,
    handle: Handle,
    runtime: String,
    workers: usize,
    models: Models,
    busy: Arc<Vec<BusySlot>>,
    work: Sender<Work>,
    running: Mutex<HashMap<u64, Arc<Attempt>>>,
}

impl Engine {
    /// Starts the workers.
    pub(super) fn start(stores: Stores, handle: Handle, runtime: String, workers: usize) -> io::Result<Arc<Self>> {
        // One batch waits for each worker, so that none is idle while the reader packs the next.
        let (work, take) = bounded::<Work>(workers);
        let busy: Arc<Vec<BusySlot>> = Arc::new((0..workers).map(|_| BusySlot::default()).collect());
        for index in 0..workers {
            let (take, busy) = (take.clone(), busy.clone());
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || worker::run(index, &take, &busy[index]))?;
        }
        let models = Models::new(workers);
        Ok(Arc::new(Self { stores, handle, runtime, workers, models, busy, work, running: Mutex::default() }))
    }

    /// What the runner is doing now.
    pub(super) fn beat(&self) -> FromRunner {
        let loading =
            self.models.loading().map(|(attempt, since)| Loading { attempts: vec![attempt], for_ms: since.elapsed().as_millis() as u64 });
        let busy = self.busy.iter().filter_map(|slot| *lock(slot));
        let busy = busy.map(|(attempt, since, records)| Busy { attempt, for_ms: since.elapsed().as_millis() as u64, records }).collect();
        let progress = lock(&self.running).iter().map(|(id, attempt)| (*id, attempt.records.load(Ordering::Relaxed))).collect();
        FromRunner::Beat { loading, busy, progress }
    }

    /// Stops an attempt; one that is not running any more has answered already.
    pub(super) fn cancel(&self, attempt: u64) {
        if let Some(attempt) = lock(&self.running).get(&attempt) {
            attempt.stop();
        }
    }

    /// Attempts in flight.
    pub(super) fn in_flight(&self) -> usize {
        lock(&self.running).len()
    }

    /// Runs a chunk on threads of its own; `answer` gets the one frame that ends it.
    pub(super) fn run(self: &Arc<Self>, task: ChunkTask, answer: impl FnOnce(FromRunner) + Send + 'static) {
        let engine = self.clone();
        let id = task.attempt;
        // Registered before the thread starts, so that a cancel that comes at once finds it.
        let bucket = engine.stores.open(&task.input);
        let sources =
            task.inputs.iter().map(|i| bucket.as_ref().map_or(i.key.clone(), |b| b.display_key(&i.key)).into()).collect::<Vec<_>>();
        let attempt = Arc::new(Attempt::new(task, &sources, 2 * self.workers + 2));
        lock(&self.running).insert(id, attempt.clone());
        let spawned = thread::Builder::new().name(format!("chunk-{id}")).spawn(move || {
            let result = catch_unwind(AssertUnwindSafe(|| engine.execute(&attempt)));
            lock(&engine.running).remove(&id);
            answer(match result {
                Ok(Ok(result)) => FromRunner::Done { attempt: id, result: Box::new(result) },
                Ok(Err(Failure::Stopped)) => FromRunner::Stopped { attempt: id },
                Ok(Err(Failure::Broken { problem, retryable })) => FromRunner::Failed { attempt: id, problem, retryable },
                Err(panic) => internal_error(id, panic_text(&*panic)),
            });
        });
        // Without its thread the attempt can never answer: the supervisor must see a dead process rather than wait.
        if let Err(error) = spawned {
            tracing::error!(%error, "no thread for attempt {id}");
            std::process::abort();
        }
    }

    fn execute(&self, attempt: &Arc<Attempt>) -> Result<ChunkResult, Failure> {
        let started = Instant::now();
        let task = &attempt.task;
        let input = self.stores.open(&task.input).map_err(|e| Failure::of_store(&e))?;
        let output = self.stores.open(&task.output).map_err(|e| Failure::of_store(&e))?;
        let review = task.review.as_ref().map(|review| self.stores.open(&review.uri)).transpose().map_err(|e| Failure::of_store(&e))?;
        let loaded = self.models.get(task).map_err(|e| match e {
            infer::Error::Load { code, detail } => Failure::fatal(code, "The model could not be loaded", detail),
            other => Failure::fatal("model_load_failed", "The model could not be loaded", other.to_string()),
        })?;
        // Bounded by the permits: no more outcomes exist than batches that entered.
        let (done, outcomes) = unbounded();
        thread::scope(|scope| {
            let reader = Reader::new(attempt.clone(), loaded.clone(), input, self.handle.clone(), self.work.clone(), done);
            let reading = thread::Builder::new().name(format!("read-{}", task.attempt)).spawn_scoped(scope, || {
                if let Err(failure) = reader.run() {
                    attempt.fail(failure);
                }
            });
            if let Err(error) = reading {
                attempt.fail(Failure::fatal("internal_error", "The runner could not start a thread", error.to_string()));
            }
            Writer::new(attempt, output, review, self.handle.clone()).run(&outcomes, &loaded, &self.runtime, started)
        })
    }
}

fn internal_error(attempt: u64, detail: String) -> FromRunner {
    let problem = crate::domain::Problem::new("internal_error", "The runner met a fault of its own", detail);
    FromRunner::Failed { attempt, problem, retryable: false }
}
