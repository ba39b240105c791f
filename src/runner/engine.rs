//! Runs attempts: threads for reading and writing each chunk, and workers that all chunks share.

use std::{
    collections::HashMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Sender, bounded, unbounded};
use tokio::runtime::Handle;

use super::{
    ahead::Ahead,
    attempt::{Attempt, Failure, Work},
    infer,
    isolate::Isolated,
    models::{Loaded, Models, lock},
    protocol::{Busy, ChunkTask, FromRunner, Loading, Sample, SampleTask},
    reader::Reader,
    sample,
    stages::{At, Mark, bound},
    table::Table,
    voice::Voice,
    worker::{self, BusySlot, panic_text},
    writer::Writer,
};
use crate::{domain::ChunkResult, objects::Stores, tables::Connections, telemetry::tally::Tally};

/// How attempts reach what lies outside of the process.
#[derive(Debug)]
pub(super) struct Reach {
    /// Inputs and outputs.
    pub(super) stores: Stores,
    /// Databases of tables.
    pub(super) connections: Connections,
    /// The threads that wait for either.
    pub(super) handle: Handle,
}

/// The part of a runner that lives as long as its process.
#[derive(Debug)]
pub(super) struct Engine {
    stores: Stores,
    connections: Connections,
    handle: Handle,
    runtime: String,
    workers: usize,
    models: Models,
    busy: Arc<Vec<BusySlot>>,
    marks: Arc<Vec<Mark>>,
    tally: Tally,
    work: Sender<Work>,
    voice: Voice,
    /// What the process holds of its device's memory, bytes; 0 where that is not known.
    device_memory: AtomicU64,
    running: Mutex<HashMap<u64, Arc<Attempt>>>,
}

impl Engine {
    /// Starts the workers.
    pub(super) fn start(
        reach: Reach,
        runtime: String,
        workers: usize,
        device: infer::Device,
        tally: Tally,
        voice: Voice,
    ) -> io::Result<Arc<Self>> {
        // One batch waits for each worker, so that none is idle while the reader packs the next.
        let (work, take) = bounded::<Work>(workers);
        let busy: Arc<Vec<BusySlot>> = Arc::new((0..workers).map(|_| BusySlot::default()).collect());
        let marks: Arc<Vec<Mark>> = Arc::new((0..workers).map(|_| Mark::default()).collect());
        for index in 0..workers {
            let (take, busy, marks, tally) = (take.clone(), busy.clone(), marks.clone(), tally.clone());
            let run = move || worker::run(index, &take, &busy[index], &marks[index], &tally);
            thread::Builder::new().name(format!("worker-{index}")).spawn(run)?;
        }
        let models = Models::new(workers, device, runtime.clone());
        let Reach { stores, connections, handle } = reach;
        Ok(Arc::new(Self {
            stores,
            connections,
            handle,
            runtime,
            workers,
            models,
            busy,
            marks,
            tally,
            work,
            voice,
            device_memory: AtomicU64::new(0),
            running: Mutex::default(),
        }))
    }

    /// What the runner is doing now.
    pub(super) fn beat(&self) -> FromRunner {
        let loading =
            self.models.loading().map(|(attempt, since)| Loading { attempts: vec![attempt], for_ms: since.elapsed().as_millis() as u64 });
        let busy = self.busy.iter().filter_map(|slot| *lock(slot));
        let busy =
            busy.map(|b| Busy { attempt: b.attempt, for_ms: b.since.elapsed().as_millis() as u64, records: b.records, span: b.span });
        let busy = busy.collect();
        let progress = lock(&self.running).iter().map(|(id, attempt)| (*id, attempt.records.load(Ordering::Relaxed))).collect();
        let device_memory = Some(self.device_memory.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0);
        FromRunner::Beat { loading, busy, progress, counts: self.tally.take(), device_memory }
    }

    /// Whether any model was loaded.
    pub(super) fn has_model(&self) -> bool {
        self.models.has_any()
    }

    /// The process holds so much of its device's memory, from what is known now.
    pub(super) fn holds(&self, bytes: Option<u64>) {
        self.device_memory.store(bytes.unwrap_or_default(), Ordering::Relaxed);
    }

    /// Looks what holds each attempt up, and counts it for the time since the last look, the `turn`th; whether there is any attempt.
    pub(super) fn look(&self, turn: usize, since: Duration) -> bool {
        let workers: Vec<At> = self.marks.iter().map(Mark::get).collect();
        let running = lock(&self.running);
        for attempt in running.values() {
            if let Some(stage) = bound(&workers, turn, attempt.reading.get(), attempt.writing.get()) {
                attempt.bound.add(stage, since);
            }
        }
        !running.is_empty()
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
        self.begin(task, answer, |engine, attempt| {
            let result = Box::new(engine.execute(attempt)?);
            Ok(FromRunner::Done { attempt: attempt.task.attempt, result })
        });
    }

    /// Runs a chunk's first records on threads of its own and writes nothing.
    pub(super) fn sample(self: &Arc<Self>, task: SampleTask, answer: impl FnOnce(FromRunner) + Send + 'static) {
        self.begin(task.chunk, answer, move |engine, attempt| {
            let sample = Box::new(engine.execute_sample(attempt, task.records)?);
            Ok(FromRunner::Sampled { attempt: attempt.task.attempt, sample })
        });
    }

    fn begin(
        self: &Arc<Self>,
        task: ChunkTask,
        answer: impl FnOnce(FromRunner) + Send + 'static,
        work: impl FnOnce(&Self, &Arc<Attempt>) -> Result<FromRunner, Failure> + Send + 'static,
    ) {
        let engine = self.clone();
        let id = task.attempt;
        // Registered before the thread starts, so that a cancel that comes at once finds it.
        // In isolation one batch at a time.
        let permits = if task.isolation.is_some() { 1 } else { 2 * self.workers + 2 };
        let attempt = Arc::new(Attempt::new(task, permits));
        lock(&self.running).insert(id, attempt.clone());
        let spawned = thread::Builder::new().name(format!("chunk-{id}")).spawn(move || {
            let _in_span = attempt.span.clone().entered();
            let result = catch_unwind(AssertUnwindSafe(|| work(&engine, &attempt)));
            lock(&engine.running).remove(&id);
            engine.models.occupancy.take(id, Instant::now());
            answer(match result {
                Ok(Ok(done)) => done,
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

    fn load(&self, task: &ChunkTask) -> Result<Arc<Loaded>, Failure> {
        self.models.get(task).map_err(|e| match e {
            infer::Error::Load { code, detail } => Failure::fatal(code, "The model could not be loaded", detail),
            other => Failure::fatal("model_load_failed", "The model could not be loaded", other.to_string()),
        })
    }

    fn execute(&self, attempt: &Arc<Attempt>) -> Result<ChunkResult, Failure> {
        let started = Instant::now();
        let task = &attempt.task;
        // A store in trouble ends the attempt, not the runner's patience with other stores.
        let stores = self.stores.budgeted();
        let output = stores.open(&task.output).map_err(|e| Failure::of_store(&e))?;
        let review = task.review.as_ref().map(|review| stores.open(&review.uri)).transpose().map_err(|e| Failure::of_store(&e))?;
        let loaded = self.load(task)?;
        let table = task.table.as_ref().map(|task| Table::open(&self.handle, &self.connections, attempt, task)).transpose()?;
        // Bounded by the permits: no more outcomes exist than batches that entered.
        let (done, outcomes) = unbounded();
        thread::scope(|scope| {
            let objects = Ahead::start(&stores, attempt, &self.handle);
            let mut reader = Reader::new(attempt.clone(), objects, loaded.clone(), stores, self.handle.clone(), self.work.clone(), done);
            if let Some(isolation) = &task.isolation {
                reader = reader.isolated(Isolated::new(attempt.clone(), isolation.clone(), self.voice.clone()));
            }
            let reading = thread::Builder::new().name(format!("read-{}", task.attempt)).spawn_scoped(scope, || {
                let _in_span = attempt.span.clone().entered();
                if let Err(failure) = reader.run() {
                    attempt.fail(failure);
                }
            });
            if let Err(error) = reading {
                attempt.fail(Failure::fatal("internal_error", "The runner could not start a thread", error.to_string()));
            }
            Writer::new(attempt, output, review, table, self.handle.clone()).run(&outcomes, &loaded, &self.runtime, started)
        })
    }
}

impl Engine {
    fn execute_sample(&self, attempt: &Arc<Attempt>, records: u64) -> Result<Sample, Failure> {
        let task = &attempt.task;
        let loaded = self.load(task)?;
        let started = Instant::now();
        let (done, outcomes) = unbounded();
        let (objects, stores) = (Ahead::start(&self.stores, attempt, &self.handle), self.stores.clone());
        let reader = Reader::new(attempt.clone(), objects, loaded.clone(), stores, self.handle.clone(), self.work.clone(), done);
        thread::scope(|scope| {
            let reading = thread::Builder::new().name(format!("read-{}", task.attempt)).spawn_scoped(scope, || {
                reader.sample(records).unwrap_or_else(|failure| {
                    attempt.fail(failure);
                    None
                })
            });
            let reading = reading.map_err(|e| Failure::fatal("internal_error", "The runner could not start a thread", e.to_string()))?;
            let collected = sample::collect(attempt, &outcomes).inspect_err(|failure| attempt.fail(failure.clone()));
            let seen = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            if let Some(failure) = attempt.failure() {
                return Err(failure);
            }
            Ok(sample::describe(attempt, &loaded, &self.runtime, seen.as_ref(), collected?, started.elapsed()))
        })
    }
}

fn internal_error(attempt: u64, detail: String) -> FromRunner {
    let problem = crate::domain::Problem::new("internal_error", "The runner met a fault of its own", detail);
    FromRunner::Failed { attempt, problem, retryable: false }
}
