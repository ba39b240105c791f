//! Writes a chunk's outcomes in input order: the part, and the error rows beside it.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::Int64Type,
};
use bytes::Bytes;
use crossbeam_channel::Receiver;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;

use super::{
    attempt::{Attempt, Failure, Outcome},
    encode::{EncodeError, PartEncoder, error_line},
    models::Loaded,
    review::Queue,
    stages::At,
    table::Table,
    tune::Layout,
};
use crate::{
    domain::{ChunkResult, PartFile, RecordError, Stage, chunk::Usage},
    objects::{Bucket, Upload},
};

/// One object being put, with its digest.
struct Sink<'a> {
    name: &'a str,
    upload: Upload,
    digest: Sha256,
    bytes: u64,
    records: u64,
}

impl<'a> Sink<'a> {
    fn open(bucket: &Bucket, prefix: &str, name: &'a str) -> Result<Self, Failure> {
        let upload = bucket.upload(&format!("{prefix}{name}")).map_err(|e| Failure::of_store(&e))?;
        Ok(Self { name, upload, digest: Sha256::new(), bytes: 0, records: 0 })
    }

    fn put(&mut self, handle: &Handle, bytes: Bytes) -> Result<(), Failure> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.digest.update(&bytes);
        self.bytes += bytes.len() as u64;
        handle.block_on(self.upload.write(bytes)).map_err(|e| Failure::of_store(&e))
    }

    fn finish(&mut self, handle: &Handle) -> Result<PartFile, Failure> {
        handle.block_on(self.upload.finish()).map_err(|e| Failure::of_store(&e))?;
        let digest = std::mem::take(&mut self.digest).finalize();
        let sha256 = digest.iter().map(|b| format!("{b:02x}")).collect();
        Ok(PartFile { key: self.name.to_owned(), records: self.records, bytes: self.bytes, sha256 })
    }
}

/// Writes one chunk's outcomes on the thread that calls it.
pub(super) struct Writer<'a> {
    attempt: &'a Attempt,
    bucket: Bucket,
    handle: Handle,
    encoder: Option<PartEncoder>,
    part: Option<Sink<'a>>,
    errors: Option<Sink<'a>>,
    /// Where flagged rows go a second time.
    review_bucket: Option<Bucket>,
    queue: Option<Queue>,
    review: Option<Sink<'a>>,
    /// Where rows go a second time as well.
    table: Option<Table>,
    result: ChunkResult,
}

impl<'a> Writer<'a> {
    pub(super) fn new(attempt: &'a Attempt, bucket: Bucket, review_bucket: Option<Bucket>, table: Option<Table>, handle: Handle) -> Self {
        let result = ChunkResult::default();
        Self { attempt, bucket, handle, encoder: None, part: None, errors: None, review_bucket, queue: None, review: None, table, result }
    }

    /// Writes until every sender is gone; the result, or why there is none.
    pub(super) fn run(
        mut self,
        outcomes: &Receiver<Outcome>,
        loaded: &Loaded,
        runtime: &str,
        started: Instant,
    ) -> Result<ChunkResult, Failure> {
        let written = self.write_all(outcomes);
        if let Err(failure) = written {
            self.attempt.fail(failure);
        }
        let finished = match self.attempt.failure() {
            Some(failure) => Err(failure),
            None => self.finish(loaded, runtime, started),
        };
        finished.inspect_err(|failure| {
            self.attempt.fail(failure.clone());
            for sink in self.part.iter_mut().chain(&mut self.errors).chain(&mut self.review) {
                self.handle.block_on(sink.upload.abort());
            }
        })
    }

    /// Outcomes arrive as workers finish; those that came early wait, no more of them than there are permits.
    fn write_all(&mut self, outcomes: &Receiver<Outcome>) -> Result<(), Failure> {
        let mut early: BTreeMap<u64, Outcome> = BTreeMap::new();
        let mut next = 0;
        for outcome in outcomes {
            early.insert(outcome.seq, outcome);
            while let Some(outcome) = early.remove(&next) {
                self.write(outcome)?;
                self.attempt.give_permit();
                next += 1;
            }
        }
        Ok(())
    }

    fn write(&mut self, outcome: Outcome) -> Result<(), Failure> {
        let mut errors = outcome.errors;
        if let Some(all) = outcome.rows {
            let rows = self.sift(&all, &mut errors)?;
            match self.write_rows(&rows) {
                Ok(()) if rows.num_rows() == 0 => {}
                Ok(()) => {
                    self.result.summary.merge(&outcome.summary);
                    self.write_flagged(&rows)?;
                    self.write_table(&rows)?;
                }
                Err(EncodeError::SchemaMismatch(detail)) => {
                    errors.extend(rows_as_errors(&rows, "schema_mismatch", &detail));
                    self.attempt.sort(&mut errors);
                }
                Err(error) => return Err(encoding_failed(&error)),
            }
            self.drain_encoder()?;
        }
        self.write_errors(&errors)?;
        self.attempt.records.store(self.result.succeeded + self.result.failed, Ordering::Relaxed);
        Ok(())
    }

    fn write_rows(&mut self, rows: &RecordBatch) -> Result<(), EncodeError> {
        let task = &self.attempt.task;
        if task.table.as_ref().is_some_and(|table| !table.spec.parts) {
            self.result.succeeded += rows.num_rows() as u64;
            return Ok(());
        }
        let encoder = self.encoder.get_or_insert_with(|| PartEncoder::new(task.format, task.compression));
        self.attempt.times.timed(&self.attempt.writing, At::Encode, || encoder.write(rows))?;
        self.result.succeeded += rows.num_rows() as u64;
        Ok(())
    }

    /// The rows that the job's table can hold too, if it has one; the others become error rows.
    fn sift(&mut self, rows: &RecordBatch, errors: &mut Vec<RecordError>) -> Result<RecordBatch, Failure> {
        let Some(table) = &mut self.table else { return Ok(rows.clone()) };
        let attempt = self.attempt;
        let sifted = attempt.times.timed(&attempt.writing, At::Encode, || table.sift(&self.handle, rows))?;
        let (kept, lost) = match sifted {
            Ok((kept, refused)) => (kept, refused.iter().map(|(row, detail)| row_as_error(rows, *row, "table_value", detail)).collect()),
            Err(EncodeError::SchemaMismatch(detail)) => {
                (rows.slice(0, 0), rows_as_errors(rows, "schema_mismatch", &detail).collect::<Vec<_>>())
            }
            Err(error) => return Err(encoding_failed(&error)),
        };
        if !lost.is_empty() {
            errors.extend(lost);
            attempt.sort(errors);
        }
        Ok(kept)
    }

    fn write_table(&mut self, rows: &RecordBatch) -> Result<(), Failure> {
        let (Some(table), true) = (&mut self.table, rows.num_rows() > 0) else { return Ok(()) };
        self.attempt.times.timed(&self.attempt.writing, At::Put, || table.send(&self.handle))
    }

    /// Flagged rows are in the part already; they go to the review queue as well.
    fn write_flagged(&mut self, rows: &RecordBatch) -> Result<(), Failure> {
        let task = &self.attempt.task;
        let Some(review) = &task.review else { return Ok(()) };
        let queue = self.queue.get_or_insert_with(|| Queue::new(task, review, rows.schema()));
        let bytes = self.attempt.times.timed(&self.attempt.writing, At::Encode, || queue.write(rows)).map_err(|e| encoding_failed(&e))?;
        self.put_review(bytes)
    }

    fn put_review(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let task = &self.attempt.task;
        let (Some(bucket), Some(review)) = (&self.review_bucket, &task.review) else { return Ok(()) };
        if bytes.is_empty() {
            return Ok(());
        }
        let sink = match &mut self.review {
            Some(sink) => sink,
            None => self.review.insert(Sink::open(bucket, review.uri.path(), &task.names.part)?),
        };
        self.attempt.times.timed(&self.attempt.writing, At::Put, || sink.put(&self.handle, bytes))
    }

    fn drain_encoder(&mut self) -> Result<(), Failure> {
        let Some(encoder) = &mut self.encoder else { return Ok(()) };
        let bytes = encoder.take();
        self.put_part(bytes)
    }

    fn put_part(&mut self, bytes: Bytes) -> Result<(), Failure> {
        let task = &self.attempt.task;
        let part = match &mut self.part {
            Some(part) => part,
            None => self.part.insert(Sink::open(&self.bucket, task.output.path(), &task.names.part)?),
        };
        self.attempt.times.timed(&self.attempt.writing, At::Put, || part.put(&self.handle, bytes))
    }

    fn write_errors(&mut self, errors: &[RecordError]) -> Result<(), Failure> {
        if errors.is_empty() {
            return Ok(());
        }
        let mut lines = Vec::new();
        for error in errors {
            lines.extend(error_line(error));
            *self.result.error_codes.entry(error.code.clone()).or_default() += 1;
        }
        let first = &errors[0];
        let place = first.position.map(|p| format!(" at {p}")).unwrap_or_default();
        self.result.first_error.get_or_insert_with(|| format!("{}{place}: {}", first.source, first.detail));
        self.result.failed += errors.len() as u64;
        let task = &self.attempt.task;
        let sink = match &mut self.errors {
            Some(sink) => sink,
            None => self.errors.insert(Sink::open(&self.bucket, task.output.path(), &task.names.errors)?),
        };
        sink.records += errors.len() as u64;
        self.attempt.times.timed(&self.attempt.writing, At::Put, || sink.put(&self.handle, lines.into()))
    }

    fn finish(&mut self, loaded: &Loaded, runtime: &str, started: Instant) -> Result<ChunkResult, Failure> {
        let attempt = self.attempt;
        if self.result.succeeded > 0
            && let Some(encoder) = self.encoder.take()
        {
            let last = attempt.times.timed(&attempt.writing, At::Encode, || encoder.finish());
            self.put_part(last.map_err(|e| encoding_failed(&e))?)?;
        }
        let mut flagged = 0;
        if let Some(queue) = self.queue.take() {
            flagged = queue.records();
            let last = attempt.times.timed(&attempt.writing, At::Encode, || queue.finish());
            self.put_review(last.map_err(|e| encoding_failed(&e))?)?;
        }
        let mut result = std::mem::take(&mut self.result);
        if let Some(part) = &mut self.part {
            part.records = result.succeeded;
            result.part = Some(attempt.times.timed(&attempt.writing, At::Put, || part.finish(&self.handle))?);
        }
        if let Some(errors) = &mut self.errors {
            result.errors = Some(attempt.times.timed(&attempt.writing, At::Put, || errors.finish(&self.handle))?);
        }
        if let Some(review) = &mut self.review {
            review.records = flagged;
            result.review = Some(attempt.times.timed(&attempt.writing, At::Put, || review.finish(&self.handle))?);
        }
        // Last of all: from then on others see the rows.
        if let Some(table) = self.table.take() {
            result.table = Some(attempt.times.timed(&attempt.writing, At::Put, || table.finish(&self.handle))?);
        }
        let stage_seconds = attempt.times.seconds();
        let chosen = loaded.tuner.chosen();
        let batch_size = if attempt.is_tuned() { chosen.size } else { attempt.batch_size };
        let found = loaded.tuner.found().filter(|_| attempt.is_tuned()).unwrap_or_default();
        let shape = |layout: Layout| loaded.sessions.shape(layout);
        let name = |layout: Layout| format!("{}x{}", shape(layout).0, shape(layout).1);
        result.usage = Usage {
            wall_seconds: started.elapsed().as_secs_f64(),
            inferring_seconds: match &loaded.occupancy {
                Some(device) => device.take(attempt.task.attempt, Instant::now()).as_secs_f64(),
                None => stage_seconds.get("infer").copied().unwrap_or_default(),
            },
            bytes_read: attempt.bytes_read.load(Ordering::Relaxed),
            bytes_written: result.part.iter().chain(&result.errors).chain(&result.review).map(|p| p.bytes).sum(),
            stage_seconds,
            bound_seconds: attempt.bound.seconds(),
            batch_size: loaded.room.fit(batch_size) as u32,
            batch_room: loaded.room.known().filter(|room| *room < batch_size).map(|room| room as u32),
            // One alone was not chosen.
            batch_trials: found.apart.iter().filter(|_| found.apart.len() > 1).map(|(size, rate)| (size.to_string(), *rate)).collect(),
            layout: name(chosen.layout),
            layout_trials: found.layouts(shape(Layout::Apart).0).into_iter().map(|(layout, rate)| (name(layout), rate)).collect(),
            provider: loaded.provider.clone(),
            runtime: runtime.to_owned(),
            tokens: attempt.tokens.real.load(Ordering::Relaxed),
            padding_tokens: attempt.tokens.padding.load(Ordering::Relaxed),
            // What devices were held, and at what price, is known outside.
            ..Usage::default()
        };
        Ok(result)
    }
}

fn encoding_failed(error: &EncodeError) -> Failure {
    Failure::fatal("encoding_failed", "A part could not be encoded", error.to_string())
}

/// The rows of an assembled batch as error rows.
pub(super) fn rows_as_errors<'r>(rows: &'r RecordBatch, code: &'r str, detail: &'r str) -> impl Iterator<Item = RecordError> + 'r {
    (0..rows.num_rows()).map(move |row| row_as_error(rows, row, code, detail))
}

/// One of them: the first two columns of a batch are its provenance.
fn row_as_error(rows: &RecordBatch, row: usize, code: &str, detail: &str) -> RecordError {
    let sources = rows.column(0).as_string::<i32>();
    let positions = rows.column(1).as_primitive::<Int64Type>();
    RecordError {
        source: Arc::from(sources.value(row)),
        position: (!positions.is_null(row)).then(|| positions.value(row) as u64),
        stage: Stage::Encode,
        code: code.to_owned(),
        detail: detail.to_owned(),
    }
}
