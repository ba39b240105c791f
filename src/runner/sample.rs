//! The outcomes of a chunk's first records, for a dry run: collected instead of written.

use std::{collections::BTreeMap, time::Duration};

use arrow::array::RecordBatch;
use crossbeam_channel::Receiver;

use super::{
    attempt::{Attempt, Failure, Outcome},
    batch::{ENCODING, ENCODING_CSV},
    encode::{EncodeError, PartEncoder, columns},
    models::Loaded,
    protocol::{Sample, SampleColumn, SampleInput},
    reader::Bound,
    writer::rows_as_errors,
};
use crate::{
    domain::{
        RecordError,
        spec::{OutputCompression, OutputFormat},
    },
    tables,
};

/// Rows are shown up to this size together: a sample travels in a frame, and then in an answer.
const MOST_BYTES: usize = 2 * 1024 * 1024;

/// Rows and error rows, in input order.
#[derive(Debug, Default)]
pub(super) struct Collected {
    rows: Vec<String>,
    table: Vec<tables::Column>,
    bytes: usize,
    cut: bool,
    errors: Vec<RecordError>,
}

/// Collects until every sender is gone.
pub(super) fn collect(attempt: &Attempt, outcomes: &Receiver<Outcome>) -> Result<Collected, Failure> {
    let mut collected = Collected::default();
    // The part's own encoder sees the rows as well: what it refuses is an error row here as there.
    let mut encoder = PartEncoder::new(attempt.task.format, attempt.task.compression);
    let mut early: BTreeMap<u64, Outcome> = BTreeMap::new();
    let mut next = 0;
    for outcome in outcomes {
        early.insert(outcome.seq, outcome);
        while let Some(outcome) = early.remove(&next) {
            collected.add(attempt, &mut encoder, outcome)?;
            attempt.give_permit();
            next += 1;
        }
    }
    Ok(collected)
}

impl Collected {
    fn add(&mut self, attempt: &Attempt, encoder: &mut PartEncoder, outcome: Outcome) -> Result<(), Failure> {
        let failed = |detail: String| Failure::fatal("encoding_failed", "A part could not be encoded", detail);
        let mut errors = outcome.errors;
        if let Some(rows) = outcome.rows {
            if self.table.is_empty() {
                self.table = columns(rows.schema_ref());
            }
            match encoder.write(&rows) {
                Ok(()) => self.show(&rows).map_err(|e| failed(e.to_string()))?,
                Err(EncodeError::SchemaMismatch(detail)) => {
                    errors.extend(rows_as_errors(&rows, "schema_mismatch", &detail));
                    attempt.sort(&mut errors);
                }
                Err(EncodeError::MissingColumn(detail) | EncodeError::Failed(detail)) => return Err(failed(detail)),
            }
            drop(encoder.take());
        }
        self.errors.extend(errors);
        Ok(())
    }

    fn show(&mut self, rows: &RecordBatch) -> Result<(), EncodeError> {
        let mut lines = PartEncoder::new(OutputFormat::Jsonl, OutputCompression::None);
        lines.write(rows)?;
        let text = lines.finish()?;
        for line in String::from_utf8_lossy(&text).lines() {
            self.bytes += line.len();
            self.cut |= self.bytes > MOST_BYTES;
            if !self.cut {
                self.rows.push(line.to_owned());
            }
        }
        Ok(())
    }
}

/// What was collected, with what was seen of the data and of the model.
pub(super) fn describe(
    attempt: &Attempt,
    loaded: &Loaded,
    runtime: &str,
    seen: Option<&Bound>,
    collected: Collected,
    took: Duration,
) -> Sample {
    let columns = seen.iter().flat_map(|(schema, _)| schema.fields().iter()).map(|field| {
        let kind = match field.metadata().get(ENCODING).map(String::as_str) {
            Some(ENCODING_CSV) => "text".to_owned(),
            Some(_) => "json".to_owned(),
            None => field.data_type().to_string(),
        };
        SampleColumn { name: field.name().clone(), kind }
    });
    let inputs = seen.and_then(|(_, bound)| bound.as_ref().ok()).map(|binding| binding.columns()).unwrap_or_default();
    Sample {
        columns: columns.collect(),
        inputs: inputs.into_iter().map(|(input, columns)| SampleInput { input, columns }).collect(),
        rows: collected.rows,
        errors: collected.errors,
        table: collected.table,
        cut: collected.cut,
        batch_size: attempt.batch_size as u32,
        seconds: took.as_secs_f64(),
        provider: loaded.provider.clone(),
        runtime: runtime.to_owned(),
    }
}
