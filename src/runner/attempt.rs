//! One attempt at one chunk: what reader, workers and writer share.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use arrow::array::RecordBatch;
use crossbeam_channel::{Receiver, Sender, bounded};
use tokio_util::sync::CancellationToken;

use super::{
    batch::{Batch, Provenance, RowId},
    featurize::{Binding, Notes},
    infer::Interrupt,
    models::{Loaded, lock},
    protocol::ChunkTask,
    stages::{Mark, StageTimes},
};
use crate::domain::{Problem, RecordError, RecordId, Span, Summary};

/// Why an attempt ends without a result.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// Asked to stop.
    Stopped,
    /// It cannot be finished.
    Broken {
        /// Why.
        problem: Problem,
        /// Whether trying again can help.
        retryable: bool,
    },
}

impl Failure {
    pub(super) fn fatal(code: &str, title: &str, detail: impl Into<String>) -> Self {
        Self::Broken { problem: Problem::new(code, title, detail), retryable: false }
    }

    pub(super) fn of_store(error: &crate::objects::Error) -> Self {
        let title = if error.retryable() { "The object store did not answer" } else { "The object store refused" };
        Self::Broken { problem: Problem::new(error.code(), title, error.to_string()), retryable: error.retryable() }
    }
}

/// A batch on its way to the workers.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) attempt: Arc<Attempt>,
    pub(super) loaded: Arc<Loaded>,
    pub(super) binding: Arc<Binding>,
    pub(super) seq: u64,
    pub(super) batch: Batch,
    /// Records of the same stretch of input that did not come this far.
    pub(super) errors: Vec<RecordError>,
    pub(super) done: Sender<Outcome>,
}

/// A batch on its way to the writer.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) seq: u64,
    /// Rows of the part, in input order; `None` when no record of the batch got a prediction.
    pub(super) rows: Option<RecordBatch>,
    pub(super) errors: Vec<RecordError>,
    /// Of those rows.
    pub(super) summary: Summary,
}

impl Outcome {
    /// Error rows and nothing else.
    pub(super) fn of_errors(seq: u64, errors: Vec<RecordError>) -> Self {
        Self { seq, rows: None, errors, summary: Summary::default() }
    }
}

/// What reader, workers and writer share.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) task: ChunkTask,
    /// Records a call of the runtime, at most.
    pub(super) batch_size: usize,
    pub(super) interrupt: Arc<Interrupt>,
    pub(super) times: Arc<StageTimes>,
    /// What its reader is at.
    pub(super) reading: Arc<Mark>,
    /// What its writer is at.
    pub(super) writing: Mark,
    /// How long each stage held it up.
    pub(super) bound: StageTimes,
    pub(super) tokens: TokenCounts,
    pub(super) bytes_read: Arc<AtomicU64>,
    pub(super) records: AtomicU64,
    /// Names job and chunk in the log lines of whoever works for this attempt.
    pub(super) span: tracing::Span,
    stopped: CancellationToken,
    failure: Mutex<Option<Failure>>,
    /// Place of each object in the chunk: error rows are sorted by it.
    order: HashMap<Arc<str>, usize>,
    permits: (Sender<()>, Receiver<()>),
}

impl Attempt {
    pub(super) fn new(task: ChunkTask, permits: usize) -> Self {
        let mut order = HashMap::with_capacity(task.inputs.len());
        for (place, slice) in task.inputs.iter().enumerate() {
            order.entry(slice.source(&task.input).into()).or_insert(place);
        }
        let (job, seq) = task.chunk.rsplit_once('/').unwrap_or((&task.chunk, ""));
        let span = tracing::info_span!("chunk", job.id = job, chunk.seq = seq, attempt = task.attempt);
        Self {
            batch_size: batch_size(&task),
            task,
            interrupt: Arc::default(),
            times: Arc::default(),
            reading: Arc::default(),
            writing: Mark::default(),
            bound: StageTimes::default(),
            tokens: TokenCounts::default(),
            bytes_read: Arc::default(),
            records: AtomicU64::new(0),
            span,
            stopped: CancellationToken::new(),
            failure: Mutex::new(None),
            order,
            permits: bounded(permits),
        }
    }

    /// Asks reader, workers and writer to stop; a batch inside the runtime is interrupted, and no database is waited for.
    pub(super) fn stop(&self) {
        self.stopped.cancel();
        self.interrupt.interrupt();
        // Wakes a reader that waits for a permit.
        while self.permits.1.try_recv().is_ok() {}
    }

    /// Ends the attempt for this reason; the first one stands.
    pub(super) fn fail(&self, failure: Failure) {
        lock(&self.failure).get_or_insert(failure);
        self.stop();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.is_cancelled()
    }

    /// Waits until the attempt is asked to stop.
    pub(super) async fn stopping(&self) {
        self.stopped.cancelled().await;
    }

    /// Why the attempt ended, if it did.
    pub(super) fn failure(&self) -> Option<Failure> {
        let failure = lock(&self.failure).clone();
        failure.or_else(|| self.is_stopped().then_some(Failure::Stopped))
    }

    /// Waits until one more batch may be in flight; false when the attempt has ended.
    pub(super) fn take_permit(&self) -> bool {
        let _closed = self.permits.0.send(());
        !self.is_stopped()
    }

    /// Waits until nothing is in flight, where one permit is all there are; false when the attempt has ended.
    pub(super) fn settle(&self) -> bool {
        let goes_on = self.take_permit();
        self.give_permit();
        goes_on
    }

    pub(super) fn give_permit(&self) {
        let _none_taken = self.permits.1.try_recv();
    }

    /// Whether it is the runner's to find how to call the runtime: nobody asked for a batch size.
    pub(super) fn is_tuned(&self) -> bool {
        self.task.batch_size.is_none() && self.task.isolation.is_none()
    }

    /// Sorts error rows by their place in the input.
    pub(super) fn sort(&self, errors: &mut [RecordError]) {
        errors.sort_by_key(|error| self.place(error));
    }

    /// The place of an error row in the input: that of an object comes after those of its records.
    pub(super) fn place(&self, error: &RecordError) -> (usize, u64) {
        (self.order.get(&error.source).copied().unwrap_or(usize::MAX), error.position.unwrap_or(u64::MAX))
    }

    /// The names of these records within the chunk.
    pub(super) fn ids(&self, provenance: &Provenance) -> Vec<RecordId> {
        let objects: Vec<u32> = provenance.sources.iter().map(|source| self.object(source)).collect();
        provenance.rows.iter().map(|row| RecordId { object: objects[row.source as usize], position: row.position }).collect()
    }

    /// From the first to the last of these records, which are in the order in which they were read; there must be some.
    pub(super) fn span(&self, provenance: &Provenance) -> Span {
        debug_assert!(self.ids(provenance).is_sorted(), "records are in input order");
        let id = |row: &RowId| RecordId { object: self.object(&provenance.sources[row.source as usize]), position: row.position };
        let nowhere = RecordId { object: u32::MAX, position: u64::MAX };
        let (first, last) = (provenance.rows.first(), provenance.rows.last());
        Span { first: first.map_or(nowhere, id), last: last.map_or(nowhere, id) }
    }

    fn object(&self, source: &Arc<str>) -> u32 {
        self.order.get(source).map_or(u32::MAX, |at| *at as u32)
    }
}

/// The model's own batch size where it has a fixed one, else the one asked for, else the usual one.
fn batch_size(task: &ChunkTask) -> usize {
    let own = task.pipeline.signature.fixed_batch().map(|fixed| fixed.max(1) as usize);
    let asked = || task.batch_size.map(|asked| asked.max(1) as usize);
    own.or_else(asked).unwrap_or_else(|| usual_batch_size(task))
}

/// As many records as make a few megabytes of tensors, 1,024 at most: on CPU the size hardly changes the speed, but it does change the
/// memory. Pictures have tensors of megabytes each: 16 of them at most, 4 where their tensors are as large as they come; on CPU 8, as one at a
/// time is what most models are fastest with, and tensors of more than 8 MiB together are memory that the allocator does not keep.
pub(super) fn usual_batch_size(task: &ChunkTask) -> usize {
    const TENSOR_BYTES: u64 = 8 * 1024 * 1024;
    const MOST: u64 = 1024;
    const PICTURE_BYTES: u64 = 32 * 1024 * 1024;
    const MOST_PICTURES: u64 = 16;
    const MOST_PICTURES_ON_CPU: u64 = 8;
    const MOST_OF_ANY_SIZE: u64 = 4;
    // At most: what fills a call is their tokens.
    const TEXTS_ON_CPU: usize = 64;
    const TEXTS_ON_DEVICE: usize = 512;
    let signature = &task.pipeline.signature;
    if let Some(image) = &task.pipeline.image {
        let Some([height, width]) = image.tensor_size() else { return MOST_OF_ANY_SIZE as usize };
        let elements = u64::from(height) * u64::from(width) * image.channel_count() as u64;
        let most = if task.is_on_device() { MOST_PICTURES } else { MOST_PICTURES_ON_CPU };
        return (PICTURE_BYTES / (elements * 4).max(1)).clamp(1, most) as usize;
    }
    if task.pipeline.text.is_some() {
        return if task.is_on_device() { TEXTS_ON_DEVICE } else { TEXTS_ON_CPU };
    }
    let tensors = signature.inputs.iter().chain(&signature.outputs).filter_map(|v| v.tensor());
    let elements: u64 = tensors.map(|(_, shape)| shape.iter().skip(1).filter_map(|d| d.fixed()).product::<u64>()).sum();
    (TENSOR_BYTES / (elements * 8).max(1)).clamp(1, MOST) as usize
}

/// Tokens that went into the runtime.
#[derive(Debug, Default)]
pub(super) struct TokenCounts {
    /// Of texts.
    pub(super) real: AtomicU64,
    /// Put beside them, so that rows are equally long.
    pub(super) padding: AtomicU64,
}

impl TokenCounts {
    /// Counts a batch.
    pub(super) fn add(&self, notes: &Notes) {
        self.real.fetch_add(notes.tokens.iter().map(|n| u64::from(*n)).sum(), Ordering::Relaxed);
        self.padding.fetch_add(notes.padding_tokens, Ordering::Relaxed);
    }
}
