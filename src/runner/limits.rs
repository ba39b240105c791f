//! What each stage of a chunk costs alone, and what the runtime can do alone: the limits that a whole job is held against.
//!
//! The stages are the very ones that attempts run, one after the other on one thread, where an attempt has them overlap. Nothing here
//! runs unless somebody measures.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{self, Read},
    ops::Range,
    path::Path,
    sync::{Arc, Barrier, Mutex},
    thread,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use crossbeam_channel::unbounded;
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Handle;

use super::{
    ahead::Ahead,
    attempt::{Attempt, Failure, Work},
    decode::sniff,
    featurize::Group,
    infer::{self, Device, LoadOptions, ModelFile, Prepared, Room, Session},
    models::{Loaded, Models, lock},
    protocol::ChunkTask,
    reader::Reader,
    source::ObjectBytes,
    stages::Mark,
    worker::{self, BusySlot},
    writer::Writer,
};
use crate::{
    domain::{ObjectSlice, spec::InputFormat},
    objects::Stores,
    telemetry::tally::Tally,
};

/// Batches that may be in flight: no writer gives permits back while a stage runs alone.
const PERMITS: usize = 1 << 16;
/// A batch size is tried for this long at least.
const TRIAL: Duration = Duration::from_millis(400);
/// What is asked of the store at once.
const PIECE_BYTES: u64 = 4 * 1024 * 1024;
/// What is taken of a stream of text at once.
const TEXT_BYTES: usize = 256 * 1024;
/// Most bytes of tensors that a trial of the runtime holds for each of its sessions.
const TRIAL_BYTES: usize = 64 * 1024 * 1024;

/// The stages in the order in which a record passes them.
pub const STAGES: [&str; 7] = ["fetch", "decode", "featurize", "infer", "interpret", "encode", "put"];

/// What a stage cost.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Processor time of this process, seconds.
    pub cpu: f64,
    /// By the clock, with nothing beside it, seconds.
    pub clock: f64,
}

/// What chunks cost, stage by stage.
#[derive(Debug, Clone, Default)]
pub struct Stages {
    /// Records with an outcome.
    pub records: u64,
    /// Bytes that were fetched: whole objects, even where the chunks are slices of them.
    pub fetched: u64,
    /// By the name of the stage.
    pub costs: BTreeMap<&'static str, Cost>,
}

/// How fast the runtime alone is in one form.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Records a call.
    pub batch_size: usize,
    /// Sessions side by side.
    pub sessions: usize,
    /// Threads of each.
    pub threads: usize,
    /// All sessions together.
    pub records_per_second: f64,
}

/// Measures chunks in this process.
#[derive(Debug)]
pub struct Limits {
    stores: Stores,
    handle: Handle,
    runtime: String,
    workers: usize,
    device: Device,
    models: Models,
}

impl Limits {
    /// Loads the runtime library.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn new(library: &Path, stores: Stores, handle: Handle, workers: usize, device: Device) -> Result<Self, String> {
        let runtime = infer::init_runtime(library)?;
        // Stages run on one thread: one session is enough.
        let models = Models::new(1, device, runtime.clone());
        Ok(Self { stores, handle, runtime, workers, device, models })
    }

    /// Runs chunks stage by stage. What they write is removed again.
    ///
    /// # Errors
    /// Why a chunk could not be run.
    pub fn stages(&self, tasks: &[ChunkTask]) -> Result<Stages, String> {
        let mut stages = Stages::default();
        // As jobs read them, which keep nothing; and then to be kept, which would be a copy into fresh memory.
        let (passed, fetch) = measured(|| self.fetch(tasks, Keep::Nothing));
        passed?;
        let objects = self.fetch(tasks, Keep::All)?;
        stages.fetched = objects.values().map(|bytes| bytes.len() as u64).sum();
        stages.add("fetch", fetch);
        for task in tasks {
            self.chunk(task, &objects, &mut stages).map_err(said)?;
        }
        Ok(stages)
    }

    fn attempt(task: &ChunkTask) -> Arc<Attempt> {
        Arc::new(Attempt::new(task.clone(), PERMITS))
    }

    /// The objects of the chunks, each whole, chunks side by side as jobs have them.
    fn fetch(&self, tasks: &[ChunkTask], keep: Keep) -> Result<HashMap<String, Bytes>, String> {
        // An object that several chunks have slices of is fetched once.
        let mut seen = HashSet::new();
        let mut tasks: Vec<ChunkTask> = tasks.to_vec();
        for task in &mut tasks {
            task.inputs.retain(|slice| seen.insert(slice.source(&task.input)));
        }
        let objects = Mutex::new(HashMap::new());
        let (next, side_by_side) = (Mutex::new(tasks.into_iter()), self.workers.max(2));
        thread::scope(|scope| {
            let fetching: Vec<_> = (0..side_by_side)
                .map(|_| {
                    scope.spawn(|| -> Result<(), String> {
                        loop {
                            let Some(task) = lock(&next).next() else { return Ok(()) };
                            self.fetch_one(&task, keep, &objects)?;
                        }
                    })
                })
                .collect();
            fetching.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        Ok(objects.into_inner().unwrap_or_default())
    }

    fn fetch_one(&self, task: &ChunkTask, keep: Keep, objects: &Mutex<HashMap<String, Bytes>>) -> Result<(), String> {
        let attempt = Self::attempt(task);
        let mut ahead = Ahead::start(&self.stores, &attempt, &self.handle);
        for slice in &task.inputs {
            let object = ahead.next().ok_or("the objects' task is gone")?.map_err(|e| e.to_string())?;
            let bytes = match object.in_memory() {
                Some(bytes) => bytes,
                None if keep == Keep::Nothing => {
                    pass(&*object, slice).map_err(|e| e.to_string())?;
                    continue;
                }
                None => {
                    let mut bytes = BytesMut::with_capacity(usize::try_from(slice.size).unwrap_or_default());
                    for piece in pieces(object.size()) {
                        bytes.extend_from_slice(&object.read(piece).map_err(|e| e.to_string())?);
                    }
                    bytes.freeze()
                }
            };
            lock(objects).insert(slice.source(&task.input), bytes);
        }
        Ok(())
    }

    fn chunk(&self, task: &ChunkTask, objects: &HashMap<String, Bytes>, stages: &mut Stages) -> Result<(), Failure> {
        let loaded = self.load(task)?;
        let attempt = Self::attempt(task);
        let (done, outcomes) = unbounded();
        let (works, decode) = measured(|| self.decode(&attempt, objects, &loaded, done.clone()));
        stages.add("decode", decode);
        let (worked, cost) = measured(|| -> Result<(), Failure> {
            for work in works? {
                let outcome = worker::predict(0, work, &BusySlot::default(), &Mark::default(), &Tally::default())?;
                // The receiver is below.
                let _kept = done.send(outcome);
            }
            Ok(())
        });
        worked?;
        drop(done);
        let seconds = attempt.times.seconds();
        let second = |stage: &str| seconds.get(stage).copied().unwrap_or_default();
        stages.share(cost, ["featurize", "infer", "interpret"].map(|stage| (stage, second(stage))));

        let bucket = self.stores.open(&task.output).map_err(|e| Failure::of_store(&e))?;
        let written = measured(|| {
            Writer::new(&attempt, bucket.clone(), None, None, self.handle.clone()).run(&outcomes, &loaded, &self.runtime, Instant::now())
        });
        let (result, cost) = written;
        let result = result?;
        let seconds = attempt.times.seconds();
        let [encode, put] = ["encode", "put"].map(|stage| seconds.get(stage).copied().unwrap_or_default());
        stages.add("encode", Cost { cpu: encode.min(cost.cpu), clock: encode });
        stages.add("put", Cost { cpu: (cost.cpu - encode).max(0.0), clock: put });
        stages.records += result.succeeded + result.failed;
        for part in result.part.iter().chain(&result.errors) {
            self.handle.block_on(bucket.delete(&format!("{}{}", task.output.path(), part.key))).map_err(|e| Failure::of_store(&e))?;
        }
        Ok(())
    }

    fn load(&self, task: &ChunkTask) -> Result<Arc<Loaded>, Failure> {
        self.models.get(task).map_err(|e| worker::failure_of(&e))
    }

    fn decode(
        &self,
        attempt: &Arc<Attempt>,
        objects: &HashMap<String, Bytes>,
        loaded: &Arc<Loaded>,
        done: crossbeam_channel::Sender<super::attempt::Outcome>,
    ) -> Result<Vec<Work>, Failure> {
        let task = &attempt.task;
        let bytes: Vec<Bytes> = task.inputs.iter().filter_map(|slice| objects.get(&slice.source(&task.input)).cloned()).collect();
        let (work, works) = unbounded();
        Reader::new(attempt.clone(), Ahead::of_memory(bytes), loaded.clone(), self.stores.clone(), self.handle.clone(), work, done)
            .run()?;
        Ok(works.into_iter().collect())
    }

    /// How fast the runtime alone is on the tensors of a chunk, by records a call and by layout of threads.
    ///
    /// # Errors
    /// Why the chunk could not be read or the model not be run.
    pub fn runtime(&self, task: &ChunkTask, sizes: &[usize]) -> Result<Vec<Rate>, String> {
        let groups = self.groups(task, task.pipeline.text.is_none().then(|| sizes.iter().copied().max().unwrap_or(1)))?;
        let most = groups.iter().map(|group| group.rows.len()).max().ok_or("no record of the first chunk can go into the model")?;
        let fixed = task.pipeline.signature.fixed_batch().map(|n| n as usize);
        // Texts go by their tokens: cut to other sizes, some of them would be left out.
        let whole = task.pipeline.text.is_some();
        let sizes: Vec<usize> = match fixed {
            Some(fixed) => vec![fixed],
            None if whole => vec![most],
            None => sizes.iter().copied().filter(|size| *size <= most).collect(),
        };
        let mut layouts = vec![(self.workers, 1)];
        if self.workers > 1 {
            layouts.push((1, self.workers));
        }
        let mut rates = Vec::new();
        for (sessions, threads) in layouts {
            let file = ModelFile::as_it_is(task.model_dir.join(&task.model.file));
            let device = self.device.shared_by(sessions);
            let options = LoadOptions { intra_threads: threads, device, ..LoadOptions::of(&task.providers, &task.model_dir) };
            let room = Arc::new(Room::default());
            let loaded = (0..sessions).map(|_| Session::load(&file, &task.pipeline.signature, &options, &room));
            let mut loaded = loaded.collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
            for size in &sizes {
                let records_per_second = trial(&mut loaded, &groups, *size, whole).map_err(|e| e.to_string())?;
                rates.push(Rate { batch_size: *size, sessions, threads, records_per_second });
            }
        }
        Ok(rates)
    }

    /// Tensors of the first records of a chunk, in groups of as many as `size` or as a job would have.
    fn groups(&self, task: &ChunkTask, size: Option<usize>) -> Result<Vec<Group>, String> {
        let task = ChunkTask { batch_size: size.map(|size| size as u32).or(task.batch_size), ..task.clone() };
        let objects = self.fetch(std::slice::from_ref(&task), Keep::All)?;
        let attempt = Self::attempt(&task);
        let loaded = self.load(&task).map_err(said)?;
        let works = self.decode(&attempt, &objects, &loaded, unbounded().0).map_err(said)?;
        let (mut groups, mut bytes) = (Vec::new(), 0);
        for work in works {
            for group in work.binding.featurize(&work.batch.columns).groups {
                bytes += group.inputs.iter().map(|(_, tensor)| tensor.data.bytes()).sum::<usize>();
                groups.push(group);
            }
            if bytes >= TRIAL_BYTES {
                break;
            }
        }
        Ok(groups)
    }
}

impl Stages {
    fn add(&mut self, stage: &'static str, cost: Cost) {
        let sum = self.costs.entry(stage).or_default();
        sum.cpu += cost.cpu;
        sum.clock += cost.clock;
    }

    /// Shares out what was spent together by the time that each part took of one thread.
    fn share(&mut self, cost: Cost, parts: [(&'static str, f64); 3]) {
        let all: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
        for (stage, seconds) in parts {
            let share = if all > 0.0 { seconds / all } else { 0.0 };
            self.add(stage, Cost { cpu: cost.cpu * share, clock: cost.clock * share });
        }
    }
}

/// What becomes of objects that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Nothing,
    All,
}

/// Reads an object as its decoder does: columns in pieces, text as a stream.
fn pass(object: &dyn ObjectBytes, slice: &ObjectSlice) -> io::Result<()> {
    let format = if slice.format == InputFormat::Auto { sniff::by_name(&slice.key).0 } else { slice.format };
    if matches!(format, InputFormat::Parquet | InputFormat::Arrow) {
        return pieces(object.size()).try_for_each(|piece| object.read(piece).map(drop)).map_err(io::Error::other);
    }
    let mut text = object.stream(0..object.size()).map_err(io::Error::other)?;
    let mut buffer = vec![0; TEXT_BYTES];
    while text.read(&mut buffer)? > 0 {}
    Ok(())
}

fn pieces(size: u64) -> impl Iterator<Item = Range<u64>> {
    (0..size).step_by(PIECE_BYTES as usize).map(move |start| start..size.min(start + PIECE_BYTES))
}

/// Records a second of all sessions, each on a thread of its own that runs the same batches again and again.
fn trial(sessions: &mut [Session], groups: &[Group], size: usize, whole: bool) -> Result<f64, infer::Error> {
    let start = Barrier::new(sessions.len());
    let ran = thread::scope(|scope| {
        let running: Vec<_> = sessions
            .iter_mut()
            .map(|session| {
                let start = &start;
                scope.spawn(move || -> Result<(usize, f64), infer::Error> {
                    let prepared = if whole { Prepared::whole(groups) } else { Prepared::new(groups, size) };
                    // The first run allocates. Whoever failed must not be waited for.
                    let warm = prepared.and_then(|prepared| session.run_prepared(&prepared, 0).map(|_| prepared));
                    start.wait();
                    let (prepared, began) = (warm?, Instant::now());
                    let mut records = 0;
                    loop {
                        for turn in 0..prepared.len() {
                            records += session.run_prepared(&prepared, prepared.in_turn(turn))?;
                            // Texts differ in length: what counts is a whole pass, unless that takes very long.
                            if began.elapsed() > 8 * TRIAL {
                                return Ok((records, began.elapsed().as_secs_f64()));
                            }
                        }
                        if began.elapsed() >= TRIAL {
                            return Ok((records, began.elapsed().as_secs_f64()));
                        }
                    }
                })
            })
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect::<Result<Vec<_>, _>>()
    })?;
    Ok(ran.into_iter().map(|(records, seconds)| records as f64 / seconds).sum())
}

/// What `work` gives, and what it took.
fn measured<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let (cpu, clock) = (process_seconds(), Instant::now());
    let value = work();
    (value, Cost { cpu: process_seconds() - cpu, clock: clock.elapsed().as_secs_f64() })
}

/// Processor time of this process so far.
fn process_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn said(failure: Failure) -> String {
    match failure {
        Failure::Stopped => "it was stopped".to_owned(),
        Failure::Broken { problem, .. } => format!("{}: {}", problem.title, problem.detail),
    }
}
