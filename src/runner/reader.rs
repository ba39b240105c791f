//! Reads a chunk's objects in order: decode → pack → bind → hand to the workers.

use std::{collections::BTreeSet, sync::Arc};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use crossbeam_channel::Sender;
use tokio::runtime::Handle;

use super::{
    attempt::{Attempt, Failure, Outcome, Work, timed},
    batch::Batch,
    decode::{self, DecodeError, Projection},
    featurize::{BindError, Binding, wanted_columns},
    models::Loaded,
    pack::Packer,
    pictures::Pictures,
    source::{Ahead, Fetched, ObjectBytes, StoreObject},
};
use crate::{
    domain::{ObjectSlice, RecordError, Stage, spec::IncludeInput},
    objects::{self, Bucket},
};

/// Fewest rows in a batch handed on, where the batch size is smaller: the cost of a hand-over is spread over them.
const PACK_ROWS: usize = 1024;
/// A batch ends early at about this size.
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// A record above this size is an error row.
const MAX_RECORD_BYTES: usize = 16 * 1024 * 1024;
/// A picture, or a sample of an archive, above this size is an error row.
const MAX_MEDIA_BYTES: usize = 64 * 1024 * 1024;

/// Reads one chunk's objects on the thread that calls it.
pub(super) struct Reader {
    attempt: Arc<Attempt>,
    loaded: Arc<Loaded>,
    bucket: Bucket,
    handle: Handle,
    work: Sender<Work>,
    done: Sender<Outcome>,
    next_seq: u64,
    /// Error rows that wait for the next batch to take them along.
    errors: Vec<RecordError>,
    bound: Option<(SchemaRef, Result<Arc<Binding>, BindError>)>,
    ahead: Ahead,
    /// For pipelines that take pictures.
    pictures: Option<Pictures>,
}

impl Reader {
    pub(super) fn new(
        attempt: Arc<Attempt>,
        loaded: Arc<Loaded>,
        bucket: Bucket,
        handle: Handle,
        work: Sender<Work>,
        done: Sender<Outcome>,
    ) -> Self {
        let task = &attempt.task;
        let ahead = Ahead::new(bucket.clone(), handle.clone(), attempt.bytes_read.clone());
        let pictures = task.pipeline.image.as_ref().map(|image| {
            let (include, read) = (&task.include_input, attempt.bytes_read.clone());
            Pictures::new(image, include, bucket.clone(), &task.input, handle.clone(), read, MAX_MEDIA_BYTES as u64)
        });
        Self { attempt, loaded, bucket, handle, work, done, next_seq: 0, errors: Vec::new(), bound: None, ahead, pictures }
    }

    /// Reads to the end of the chunk, or until the attempt ends.
    pub(super) fn run(mut self) -> Result<(), Failure> {
        let attempt = self.attempt.clone();
        // Pictures are large once they are decoded: no more of them wait together than go into the runtime together.
        let batches = if attempt.task.pipeline.image.is_some() { 1 } else { PACK_ROWS.div_ceil(attempt.batch_size) };
        let rows = attempt.batch_size * batches;
        let mut packer = Packer::new(rows, BATCH_BYTES as u64);
        let projection = self.projection();
        let inputs = &attempt.task.inputs;
        for (at, slice) in inputs.iter().enumerate() {
            if attempt.is_stopped() {
                return Err(Failure::Stopped);
            }
            let fetched = timed(&attempt.times.decode, || self.ahead.take(&inputs[at..]));
            self.read(slice, fetched, &projection, rows, &mut packer)?;
        }
        if let Some(rest) = packer.flush() {
            self.submit(rest)?;
        }
        self.submit_errors()
    }

    /// The columns that the pipeline reads and those that the output carries.
    fn projection(&self) -> Projection {
        let task = &self.attempt.task;
        match (&task.include_input, wanted_columns(&task.pipeline)) {
            (IncludeInput::All, _) | (_, None) => Projection::All,
            (IncludeInput::None, Some(wanted)) => Projection::Only(wanted),
            (IncludeInput::Columns(carried), Some(wanted)) => {
                Projection::Only(wanted.into_iter().chain(carried.iter().cloned()).collect::<BTreeSet<_>>())
            }
        }
    }

    fn read(
        &mut self,
        slice: &ObjectSlice,
        fetched: Option<objects::Result<Bytes>>,
        projection: &Projection,
        rows: usize,
        packer: &mut Packer,
    ) -> Result<(), Failure> {
        let attempt = self.attempt.clone();
        let source: Arc<str> = self.bucket.display_key(&slice.key).into();
        let object: Arc<dyn ObjectBytes> = match fetched {
            Some(Ok(bytes)) => Arc::new(Fetched(bytes)),
            Some(Err(error)) => return self.lose_object(source, DecodeError::Source(error)),
            None => Arc::new(StoreObject {
                bucket: self.bucket.clone(),
                object: slice.clone(),
                handle: self.handle.clone(),
                bytes_read: attempt.bytes_read.clone(),
            }),
        };
        let request = decode::Request {
            source: source.clone(),
            slice: slice.clone(),
            csv: attempt.task.csv.clone(),
            projection: projection.clone(),
            batch_rows: rows,
            batch_bytes: BATCH_BYTES,
            max_record_bytes: MAX_RECORD_BYTES,
            max_media_bytes: MAX_MEDIA_BYTES,
        };
        let mut decoder = match timed(&attempt.times.decode, || decode::open(object, request)) {
            Ok(decoder) => decoder,
            Err(error) => return self.lose_object(source, error),
        };
        loop {
            if attempt.is_stopped() {
                return Err(Failure::Stopped);
            }
            match timed(&attempt.times.decode, || decoder.next()) {
                Ok(Some(step)) => {
                    self.errors.extend(step.errors);
                    if let Some(batch) = step.batch {
                        for batch in self.with_pictures(batch)? {
                            packer.push(batch, |full| self.submit(full))?;
                        }
                    }
                    // A file of nothing but bad records fills no batch: its errors must not pile up.
                    if self.errors.len() >= rows {
                        self.submit_errors()?;
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => return self.lose_object(source, error),
            }
        }
    }

    /// Rows whose picture cannot be had become error rows.
    fn with_pictures(&mut self, batch: Batch) -> Result<Vec<Batch>, Failure> {
        let Some(pictures) = &self.pictures else { return Ok(vec![batch]) };
        let found = timed(&self.attempt.times.decode, || pictures.find(batch)).map_err(|error| Failure::of_store(&error))?;
        self.errors.extend(found.errors);
        Ok(found.batches)
    }

    /// What is left of the object becomes one error row, unless trying again may help.
    fn lose_object(&mut self, source: Arc<str>, error: DecodeError) -> Result<(), Failure> {
        let lost = match error {
            DecodeError::Source(error) if error.retryable() => return Err(Failure::of_store(&error)),
            DecodeError::Source(error @ objects::Error::NoBucket { .. }) => return Err(Failure::of_store(&error)),
            DecodeError::Source(error) => {
                RecordError { source, position: None, stage: Stage::Source, code: error.code().to_owned(), detail: error.to_string() }
            }
            DecodeError::Corrupt { code, detail, position, .. } => {
                RecordError { source, position, stage: Stage::Decode, code: code.to_owned(), detail }
            }
        };
        self.errors.push(lost);
        Ok(())
    }

    /// Hands a batch to the workers; where its schema does not fit the model, its rows become error rows at once.
    fn submit(&mut self, batch: Batch) -> Result<(), Failure> {
        let binding = self.bind(&batch);
        let mut errors = std::mem::take(&mut self.errors);
        let (seq, done) = self.enter()?;
        match binding {
            Ok(binding) => {
                let (attempt, loaded) = (self.attempt.clone(), self.loaded.clone());
                let work = Work { attempt, loaded, binding, seq, batch, errors, done };
                self.work.send(work).map_err(|_| Failure::Stopped)
            }
            Err(BindError { code, detail }) => {
                errors.extend((0..batch.rows()).map(|row| batch.provenance.error(row, Stage::Featurize, code, detail.clone())));
                self.attempt.sort(&mut errors);
                done.send(Outcome::of_errors(seq, errors)).map_err(|_| Failure::Stopped)
            }
        }
    }

    fn submit_errors(&mut self) -> Result<(), Failure> {
        if self.errors.is_empty() {
            return Ok(());
        }
        let mut errors = std::mem::take(&mut self.errors);
        self.attempt.sort(&mut errors);
        let (seq, done) = self.enter()?;
        done.send(Outcome::of_errors(seq, errors)).map_err(|_| Failure::Stopped)
    }

    fn enter(&mut self) -> Result<(u64, Sender<Outcome>), Failure> {
        if !self.attempt.take_permit() {
            return Err(Failure::Stopped);
        }
        self.next_seq += 1;
        Ok((self.next_seq - 1, self.done.clone()))
    }

    /// Resolved once for each schema, here rather than by the workers, so that it does not depend on who comes first.
    fn bind(&mut self, batch: &Batch) -> Result<Arc<Binding>, BindError> {
        let schema = batch.columns.schema();
        if let Some((known, bound)) = &self.bound
            && *known == schema
        {
            return bound.clone();
        }
        let bound = Binding::resolve(&self.attempt.task.pipeline, &batch.columns).map(Arc::new);
        self.bound = Some((schema, bound.clone()));
        bound
    }
}
