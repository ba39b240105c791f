//! Reads a chunk's objects in order: decode → pack → bind → hand to the workers.

use std::{collections::BTreeSet, sync::Arc};

use arrow::datatypes::SchemaRef;
use crossbeam_channel::Sender;
use tokio::runtime::Handle;

use super::{
    ahead::Ahead,
    attempt::{Attempt, Failure, Outcome, Work, usual_batch_size},
    batch::Batch,
    decode::{self, DecodeError, Decoded, Layouts, Projection},
    featurize::{BindError, Binding, wanted_columns},
    isolate::{Isolated, Piece},
    models::Loaded,
    pack::Packer,
    pictures::Pictures,
    stages::At,
};
use crate::{
    domain::{ObjectSlice, RecordError, Stage, Uri, spec::IncludeInput},
    objects::{self, Stores},
};

/// Texts handed on at once, where the batch size is smaller: among so many, those of one length are found, and chunks have several times as
/// many, so that every worker gets some.
const PACK_TEXTS: usize = 256;
/// Rows of a table handed on at once, in batches of the usual size: the cost of a hand-over is spread over them.
const PACK_BATCHES: usize = 4;
/// A batch ends early at about this size.
const BATCH_BYTES: usize = 16 * 1024 * 1024;
/// A record above this size is an error row.
pub(crate) const MAX_RECORD_BYTES: usize = 16 * 1024 * 1024;
/// A picture, or a sample of an archive, above this size is an error row.
pub(crate) const MAX_MEDIA_BYTES: usize = 64 * 1024 * 1024;

/// Reads one chunk's objects on the thread that calls it.
pub(super) struct Reader {
    attempt: Arc<Attempt>,
    loaded: Arc<Loaded>,
    objects: Ahead,
    work: Sender<Work>,
    done: Sender<Outcome>,
    next_seq: u64,
    /// Error rows that wait for the next batch to take them along.
    errors: Vec<RecordError>,
    bound: Option<Bound>,
    /// The first of them.
    first: Option<Bound>,
    /// Records still wanted; `None` wants them all.
    left: Option<usize>,
    isolated: Option<Isolated>,
    layouts: Layouts,
    /// Opens the stores of pictures that records name.
    stores: Stores,
    handle: Handle,
    /// For pipelines that take pictures, who finds those that the records of a table name, and where the table lies.
    pictures: Option<(Uri, Pictures)>,
}

/// A schema of the data, and how it fits the model.
pub(super) type Bound = (SchemaRef, Result<Arc<Binding>, BindError>);

impl Reader {
    /// Reads these objects, which are those of the attempt.
    pub(super) fn new(
        attempt: Arc<Attempt>,
        objects: Ahead,
        loaded: Arc<Loaded>,
        stores: Stores,
        handle: Handle,
        work: Sender<Work>,
        done: Sender<Outcome>,
    ) -> Self {
        Self {
            objects,
            attempt,
            loaded,
            work,
            done,
            next_seq: 0,
            errors: Vec::new(),
            bound: None,
            first: None,
            left: None,
            isolated: None,
            layouts: Layouts::default(),
            stores,
            handle,
            pictures: None,
        }
    }

    /// Does one thing at a time, and says each before it begins.
    pub(super) fn isolated(mut self, isolated: Isolated) -> Self {
        self.isolated = Some(isolated);
        self
    }

    /// Reads to the end of the chunk, or until the attempt ends.
    pub(super) fn run(mut self) -> Result<(), Failure> {
        self.read_all()
    }

    /// Reads the first records, or until the attempt ends; the schema of the first one, unless none could be decoded.
    pub(super) fn sample(mut self, records: u64) -> Result<Option<Bound>, Failure> {
        self.left = Some(usize::try_from(records).unwrap_or(usize::MAX));
        self.read_all()?;
        Ok(self.first)
    }

    fn read_all(&mut self) -> Result<(), Failure> {
        let attempt = self.attempt.clone();
        // Pictures are large once they are decoded: no more of them wait together than go into the runtime together.
        let pipeline = &attempt.task.pipeline;
        let at_once = match (&pipeline.image, &pipeline.text) {
            (Some(_), _) => 1,
            (None, Some(_)) => PACK_TEXTS,
            // The usual size is smaller where a row has very many columns.
            (None, None) => PACK_BATCHES * usual_batch_size(&attempt.task),
        };
        let batches = at_once.div_ceil(attempt.batch_size);
        // In isolation, the fewer records are in a batch that is lost, the better.
        let batches = if self.isolated.is_some() { 1 } else { batches };
        let rows = attempt.batch_size * batches;
        let rows = self.left.map_or(rows, |left| left.clamp(1, rows));
        let mut packer = Packer::new(rows, BATCH_BYTES as u64);
        let projection = self.projection();
        for (object, slice) in attempt.task.inputs.iter().enumerate() {
            if self.left == Some(0) {
                break;
            }
            if attempt.is_stopped() {
                return Err(Failure::Stopped);
            }
            self.read(object as u32, slice, &projection, rows, &mut packer)?;
        }
        if let Some(rest) = packer.flush() {
            self.submit(rest)?;
        }
        self.submit_errors()?;
        self.isolated.iter().for_each(Isolated::ends);
        Ok(())
    }

    /// The columns that the pipeline reads and those that the output carries.
    fn projection(&self) -> Projection {
        let task = &self.attempt.task;
        // A sample shows every column that is there.
        if self.left.is_some() {
            return Projection::All;
        }
        match (&task.include_input, wanted_columns(&task.pipeline)) {
            (IncludeInput::All, _) | (_, None) => Projection::All,
            (IncludeInput::None, Some(wanted)) => Projection::Only(wanted.into()),
            (IncludeInput::Columns(carried), Some(wanted)) => {
                Projection::Only(Arc::new(wanted.into_iter().chain(carried.iter().cloned()).collect::<BTreeSet<_>>()))
            }
        }
    }

    fn read(&mut self, object: u32, slice: &ObjectSlice, projection: &Projection, rows: usize, packer: &mut Packer) -> Result<(), Failure> {
        let attempt = self.attempt.clone();
        let source: Arc<str> = slice.source(&attempt.task.input).into();
        let left_out = self.isolated.as_mut().and_then(|isolated| isolated.begin(object, &source));
        let object = match attempt.times.timed(&attempt.reading, At::Fetch, || self.objects.next()) {
            Some(Ok(object)) => object,
            Some(Err(error)) => return self.lose_object(source, error.into()),
            None => return Err(Failure::fatal("internal_error", "The runner met a fault of its own", "the objects' task is gone")),
        };
        if let Some(error) = left_out {
            self.errors.push(error);
            return Ok(());
        }
        self.look_for_pictures(slice)?;
        let request = decode::Request {
            source: source.clone(),
            slice: slice.clone(),
            csv: attempt.task.csv.clone(),
            projection: projection.clone(),
            layouts: self.layouts.clone(),
            batch_rows: rows,
            batch_bytes: BATCH_BYTES,
            max_record_bytes: MAX_RECORD_BYTES,
            max_media_bytes: MAX_MEDIA_BYTES,
        };
        let mut decoder = match attempt.times.timed(&attempt.reading, At::Decode, || decode::open(object, request)) {
            Ok(decoder) => decoder,
            Err(error) => return self.lose_object(source, error),
        };
        loop {
            if attempt.is_stopped() {
                return Err(Failure::Stopped);
            }
            match attempt.times.timed(&attempt.reading, At::Decode, || decoder.next()) {
                Ok(Some(step)) => {
                    let step = match &mut self.left {
                        Some(left) => first_records(step, left),
                        None => step,
                    };
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
                    if self.left == Some(0) {
                        return Ok(());
                    }
                }
                Ok(None) => return Ok(()),
                Err(error) => return self.lose_object(source, error),
            }
        }
    }

    /// Keys in a table lead to pictures of its own store: relative to the input prefix, or to the folder of the object that is the input,
    /// be it named by the job or by a manifest.
    fn look_for_pictures(&mut self, slice: &ObjectSlice) -> Result<(), Failure> {
        let task = &self.attempt.task;
        let Some(image) = &task.pipeline.image else { return Ok(()) };
        let home = slice.bucket.as_ref().map_or_else(|| task.input.clone(), |bucket| bucket.with_path(&slice.key));
        if self.pictures.as_ref().is_none_or(|(of, _)| *of != home) {
            let bucket = self.stores.open(&home).map_err(|error| Failure::of_store(&error))?;
            let (include, read) = (&task.include_input, self.attempt.bytes_read.clone());
            let pictures = Pictures::new(image, include, bucket, &home, self.handle.clone(), read, MAX_MEDIA_BYTES as u64);
            self.pictures = Some((home, pictures));
        }
        Ok(())
    }

    /// Rows whose picture cannot be had become error rows.
    fn with_pictures(&mut self, batch: Batch) -> Result<Vec<Batch>, Failure> {
        let Some((_, pictures)) = &self.pictures else { return Ok(vec![batch]) };
        let attempt = &self.attempt;
        let found = attempt.times.timed(&attempt.reading, At::Fetch, || pictures.find(batch)).map_err(|error| Failure::of_store(&error))?;
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

    /// Hands a batch to the workers, in isolation piece by piece.
    fn submit(&mut self, batch: Batch) -> Result<(), Failure> {
        let Some(mut isolated) = self.isolated.take() else { return self.hand_over(batch) };
        let pieces = isolated.pieces(&batch);
        let later = std::mem::take(&mut self.errors);
        let submitted = self.submit_pieces(&mut isolated, pieces, later);
        isolated.reads_on();
        self.isolated = Some(isolated);
        submitted
    }

    /// Each piece takes along the error rows that come before its end.
    fn submit_pieces(&mut self, isolated: &mut Isolated, pieces: Vec<Piece>, mut later: Vec<RecordError>) -> Result<(), Failure> {
        for piece in pieces {
            match piece {
                Piece::Lost(error) => {
                    isolated.leaves_out();
                    later.push(error);
                }
                Piece::Run(piece) => {
                    let last = self.attempt.span(&piece.provenance).last;
                    let last = (last.object as usize, last.position);
                    let (now, rest) = later.into_iter().partition(|error| self.attempt.place(error) <= last);
                    (self.errors, later) = (now, rest);
                    isolated.enters(&piece);
                    self.hand_over(piece.clone())?;
                    if !self.attempt.settle() {
                        return Err(Failure::Stopped);
                    }
                    isolated.passes(&piece);
                }
            }
        }
        self.errors = later;
        Ok(())
    }

    /// Hands a batch to the workers; where its schema does not fit the model, its rows become error rows at once.
    fn hand_over(&mut self, batch: Batch) -> Result<(), Failure> {
        let binding = self.bind(&batch);
        let mut errors = std::mem::take(&mut self.errors);
        let (seq, done) = self.enter()?;
        match binding {
            Ok(binding) => {
                let (attempt, loaded) = (self.attempt.clone(), self.loaded.clone());
                let work = Work { attempt, loaded, binding, seq, batch, errors, done };
                let before = self.attempt.reading.set(At::Blocked);
                let sent = self.work.send(work).map_err(|_| Failure::Stopped);
                self.attempt.reading.set(before);
                sent
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
        let before = self.attempt.reading.set(At::Blocked);
        let goes_on = self.attempt.take_permit();
        self.attempt.reading.set(before);
        if !goes_on {
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
        let (attempt, assets) = (&self.attempt, &self.loaded.assets);
        let task = &attempt.task;
        let bound = Binding::resolve(&task.pipeline, &batch.columns, assets, &task.image_limits, attempt.batch_size).map(Arc::new);
        self.bound = Some((schema, bound.clone()));
        if self.first.is_none() {
            self.first.clone_from(&self.bound);
        }
        bound
    }
}

/// The first `left` records of a step, good and bad, in input order; counts them off.
fn first_records(mut step: Decoded, left: &mut usize) -> Decoded {
    let good = step.batch.iter().flat_map(|b| b.provenance.rows.iter().map(|r| r.position));
    let mut positions: Vec<u64> = good.chain(step.errors.iter().filter_map(|e| e.position)).collect();
    positions.sort_unstable();
    if positions.len() <= *left {
        *left -= positions.len();
        return step;
    }
    let beyond = positions[*left];
    *left = 0;
    step.errors.retain(|e| e.position.is_none_or(|at| at < beyond));
    step.batch = step.batch.and_then(|batch| {
        // Rows of one object are in the order of their positions.
        let rows = batch.provenance.rows.partition_point(|r| r.position < beyond);
        (rows > 0).then(|| batch.slice(0, rows))
    });
    step
}
