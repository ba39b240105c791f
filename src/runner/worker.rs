//! A worker: featurize → infer → interpret, batch by batch, with a session of its own in each loaded model.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use arrow::{
    array::{ArrayRef, RecordBatch, UInt32Array},
    compute::{concat, take, take_record_batch},
    error::ArrowError,
};
use crossbeam_channel::Receiver;

use super::{
    attempt::{Attempt, Failure, Outcome, Work},
    batch::Batch,
    encode::{self, EncodeError},
    featurize::{Featurized, Group, Notes},
    infer::{self, Inferred, Interrupt},
    interpret::{interpret, prediction_fields},
    models::{Loaded, lock},
    sessions::{Ran, Refused},
    stages::{At, Mark},
    summarize::{add_sketches, summarize},
    tune::{Layout, Way},
};
use crate::{
    domain::{RecordError, Span, Stage, Summary},
    telemetry::tally::Tally,
};

/// What a worker has inside the runtime.
pub(super) type BusySlot = Mutex<Option<InRuntime>>;

/// A batch inside the runtime.
#[derive(Debug, Clone, Copy)]
pub(super) struct InRuntime {
    pub(super) attempt: u64,
    pub(super) since: Instant,
    pub(super) records: u64,
    /// Of the records that the worker is at.
    pub(super) span: Span,
}

/// Works until no more work can come.
pub(super) fn run(index: usize, work: &Receiver<Work>, busy: &BusySlot, mark: &Mark, tally: &Tally) {
    for work in work {
        if work.attempt.is_stopped() {
            continue;
        }
        let attempt = work.attempt.clone();
        let _in_span = attempt.span.clone().entered();
        let done = work.done.clone();
        // A panic costs the attempt, not the runner: other chunks are in flight.
        let outcome = catch_unwind(AssertUnwindSafe(|| predict(index, work, busy, mark, tally)));
        *lock(busy) = None;
        mark.set(At::Nothing);
        match outcome {
            // The writer is gone only when the attempt has ended.
            Ok(Ok(outcome)) => drop(done.send(outcome)),
            Ok(Err(failure)) => attempt.fail(failure),
            Err(panic) => attempt.fail(Failure::fatal("internal_error", "The runner met a fault of its own", panic_text(&*panic))),
        }
    }
}

/// One batch from its columns to its rows.
pub(super) fn predict(index: usize, work: Work, busy: &BusySlot, mark: &Mark, tally: &Tally) -> Result<Outcome, Failure> {
    let Work { attempt, loaded, binding, seq, batch, mut errors, done: _done } = work;
    let times = &attempt.times;
    let Featurized { groups, errors: row_errors, notes } = times.timed(mark, At::Featurize, || binding.featurize(&batch.columns));
    errors.extend(row_errors.into_iter().map(|e| batch.provenance.error(e.row as usize, Stage::Featurize, e.code, e.detail)));

    attempt.tokens.add(&notes);

    let (id, span) = (attempt.task.attempt, attempt.span(&batch.provenance));
    let mut predicted = Vec::with_capacity(groups.len());
    let mut trial = Trial::begin(&loaded, &attempt);
    for group in groups {
        let in_runtime = |inside: Option<usize>| {
            let records = inside.map(|records| records as u64);
            *lock(busy) = records.map(|records| InRuntime { attempt: id, since: Instant::now(), records, span });
        };
        // Whoever waits for its turn waits for inference.
        let before = mark.set(At::Infer);
        trial.decide(&loaded, index, &group, &attempt.interrupt, &mut |inside| in_runtime(inside));
        let counts = trial.counts(&group);
        let mut inside_runtime = |inside: Option<usize>| {
            inside.into_iter().for_each(|records| tally.batch(records as u64));
            if let Some(device) = &loaded.occupancy {
                if inside.is_some() { device.enter(id, Instant::now()) } else { device.leave(id, Instant::now()) }
            }
            in_runtime(inside);
        };
        let ran = loaded.sessions.run(index, trial.way, group, &attempt.interrupt, &mut inside_runtime);
        mark.set(before);
        let Ran { outputs, refused, layout, took } = ran.map_err(|e| failure_of(&e))?;
        times.add(At::Infer, took * loaded.sessions.shape(layout).1 as u32);
        if refused.is_empty() && layout == trial.way.layout {
            trial.add(counts, took);
        }
        errors.extend(refused.into_iter().map(|r| batch.provenance.error(r.row as usize, Stage::Infer, "inference_failed", r.detail)));
        // At once, group by group: a vector a token is much more than the vector a record that is made of them.
        for Inferred { rows, outputs } in outputs {
            let columns = times
                .timed(mark, At::Interpret, || interpret(&attempt.task.pipeline, outputs, &rows, &notes))
                .map_err(|e| Failure::fatal("unexpected_output", "The model's output is not what it declares", e.to_string()))?;
            predicted.push(Predicted { rows, columns });
        }
    }
    trial.end(&loaded);

    let rows = times.timed(mark, At::Interpret, || rows_of(&attempt, &batch, predicted, &notes, &mut errors))?;
    attempt.sort(&mut errors);
    let (rows, summary) = rows.unzip();
    Ok(Outcome { seq, rows, errors, summary: summary.unwrap_or_default() })
}

/// What one batch of records adds to what is known of a way to call the runtime.
struct Trial {
    way: Way,
    tuned: bool,
    /// Texts, which are grouped by their tokens.
    texts: bool,
    batches: usize,
    elements: usize,
    took: Duration,
}

impl Trial {
    fn begin(loaded: &Loaded, attempt: &Attempt) -> Self {
        let tuned = attempt.is_tuned();
        let way = if tuned { loaded.tuner.way() } else { Way { size: attempt.batch_size, ..loaded.tuner.chosen() } };
        Self { way, tuned, texts: attempt.task.pipeline.text.is_some(), batches: 0, elements: 0, took: Duration::ZERO }
    }

    /// Batches of the full size that a group has, and elements of its tensors; nothing where it is smaller than what is tried.
    fn counts(&self, group: &Group) -> Option<(usize, usize)> {
        let elements = group.inputs.iter().map(|(_, tensor)| tensor.data.len()).sum();
        // A call of texts is never full; and the lengths among them are only alike in all that were handed over together.
        let batches = if self.texts { usize::from(self.batches == 0) } else { group.rows.len() / self.way.size };
        (self.texts || batches > 0).then_some((batches, elements))
    }

    fn add(&mut self, counts: Option<(usize, usize)>, took: Duration) {
        if let Some((batches, elements)) = counts {
            self.batches += batches;
            self.elements += elements;
            self.took += took;
        }
    }

    /// Before the first group: whether the shared session, where it is to be tried, can be.
    fn decide(&mut self, loaded: &Loaded, worker: usize, group: &Group, interrupt: &Interrupt, busy: &mut dyn FnMut(Option<usize>)) {
        if !self.tuned || self.way.layout == Layout::Apart || self.batches > 0 {
            return;
        }
        match loaded.sessions.is_shared(worker, self.way.size, group, interrupt, busy) {
            Ok(true) => return,
            Ok(false) | Err(Refused::Load(infer::Error::Interrupted)) => {}
            Err(refused) => loaded.tuner.leave_shared(&refused),
        }
        self.way.layout = Layout::Apart;
    }

    fn end(self, loaded: &Loaded) {
        if self.tuned && loaded.tuner.ran(self.way, self.batches, self.elements, self.took) {
            loaded.sessions.keep(loaded.tuner.chosen().layout);
        }
    }
}

/// Why an attempt ends by what the runtime said.
pub(super) fn failure_of(error: &infer::Error) -> Failure {
    match error {
        infer::Error::Interrupted => Failure::Stopped,
        infer::Error::Load { code, detail } => Failure::fatal(code, "The model could not be loaded", detail),
        infer::Error::Output(detail) => Failure::fatal("output_rows_mismatch", "The model does not give one output row a record", detail),
    }
}

/// Prediction columns for some rows of a batch.
struct Predicted {
    rows: Vec<u32>,
    columns: Vec<ArrayRef>,
}

/// Predictions of all groups, back in input order, beside their provenance and the chosen input columns; and what they are like.
fn rows_of(
    attempt: &Attempt,
    batch: &Batch,
    predicted: Vec<Predicted>,
    notes: &Notes,
    errors: &mut Vec<RecordError>,
) -> Result<Option<(RecordBatch, Summary)>, Failure> {
    let pipeline = &attempt.task.pipeline;
    let mut rows: Vec<u32> = Vec::with_capacity(batch.rows());
    let mut pieces: Vec<Vec<ArrayRef>> = Vec::with_capacity(predicted.len());
    for Predicted { rows: of, columns } in predicted {
        pieces.push(columns);
        rows.extend(of);
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let internal = |e: ArrowError| Failure::fatal("internal_error", "The runner met a fault of its own", e.to_string());
    let fields: Vec<_> = prediction_fields(pipeline).into_iter().map(Arc::new).collect();
    let mut predictions = Vec::with_capacity(fields.len());
    let order = (!rows.is_sorted()).then(|| {
        let mut order: Vec<u32> = (0..rows.len() as u32).collect();
        order.sort_by_key(|i| rows[*i as usize]);
        UInt32Array::from(order)
    });
    for (at, field) in fields.iter().enumerate() {
        let parts: Vec<_> = pieces.iter().map(|p| p[at].as_ref()).collect();
        let mut column = if parts.len() == 1 { pieces[0][at].clone() } else { concat(&parts).map_err(internal)? };
        if let Some(order) = &order {
            column = take(&column, order, None).map_err(internal)?;
        }
        predictions.push((field.clone(), column));
    }
    rows.sort_unstable();
    let kept = if rows.len() == batch.rows() {
        batch.clone()
    } else {
        let columns = take_record_batch(&batch.columns, &UInt32Array::from(rows.clone())).map_err(internal)?;
        Batch { provenance: batch.provenance.take(&rows), columns }
    };
    match encode::assemble(&kept, &attempt.task.include_input, &predictions, &attempt.task.prediction_prefix) {
        Ok(assembled) => {
            let mut summary = summarize(pipeline, &predictions, notes, &rows);
            if attempt.task.sketches {
                add_sketches(&mut summary, batch, &predictions);
            }
            Ok(Some((assembled, summary)))
        }
        Err(error) => {
            let (code, detail) = match error {
                EncodeError::MissingColumn(detail) => ("missing_column", detail),
                EncodeError::SchemaMismatch(detail) => ("schema_mismatch", detail),
                EncodeError::Failed(detail) => return Err(Failure::fatal("encoding_failed", "A part could not be encoded", detail)),
            };
            errors.extend((0..kept.rows()).map(|row| kept.provenance.error(row, Stage::Encode, code, detail.clone())));
            Ok(None)
        }
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}
