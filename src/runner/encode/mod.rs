//! Record batches → part bytes, and error rows → JSON Lines.
//!
//! In: batches of one schema (`_source`, `_position`, input columns, prediction columns). Out: bytes, the same for the same
//! rows however they were batched: no clock, no random numbers, and no border of a batch shows in a part.
//!
//! Knows no store and no model. Memory is bounded if the caller takes the bytes that are ready after each batch: what stays is one
//! compressor block, or one Parquet row group.

mod align;
mod assemble;
mod calendar;
mod cells;
mod copy;
mod csv;
mod jsonl;
mod nested;
mod parquet;
mod sink;
mod text;
mod weigh;

use std::io;

use arrow::array::RecordBatch;
use bytes::Bytes;

pub use self::assemble::{POSITION, SOURCE, assemble};
pub use self::copy::{CopyEncoder, Refused, columns};
use self::{csv::Csv, parquet::Parquet, sink::Sink};
use crate::domain::{
    RecordError,
    spec::{OutputCompression, OutputFormat},
};

/// What cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// A batch's columns are not those of the part so far: its rows become error rows `schema_mismatch`.
    #[error("{0}")]
    SchemaMismatch(String),
    /// An input column named in `include_input` is not in the data: error rows `missing_column`.
    #[error("{0}")]
    MissingColumn(String),
    /// The encoder failed.
    #[error("the part could not be encoded: {0}")]
    Failed(String),
}

/// Encodes one part.
#[derive(Debug)]
pub struct PartEncoder {
    format: Format,
}

#[derive(Debug)]
enum Format {
    Jsonl(Sink),
    Csv(Csv, Sink),
    Parquet(Box<Parquet>),
}

impl PartEncoder {
    /// An empty part.
    pub fn new(format: OutputFormat, compression: OutputCompression) -> Self {
        let format = match format {
            OutputFormat::Jsonl => Format::Jsonl(Sink::new(compression)),
            OutputFormat::Csv => Format::Csv(Csv::default(), Sink::new(compression)),
            OutputFormat::Parquet => Format::Parquet(Box::new(Parquet::new(compression, parquet::Limits::OF_PARTS))),
        };
        Self { format }
    }

    /// Adds rows; none at all change nothing. The first rows fix the schema (CSV: the names of the columns, Parquet: their types too).
    ///
    /// # Errors
    /// [`EncodeError::SchemaMismatch`] leaves the part as it was. After [`EncodeError::Failed`] the part is of no use.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<(), EncodeError> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        match &mut self.format {
            Format::Jsonl(sink) => {
                jsonl::write(rows, sink.text())?;
                sink.settle().map_err(failed)
            }
            Format::Csv(csv, sink) => {
                csv.write(rows, sink.text())?;
                sink.settle().map_err(failed)
            }
            Format::Parquet(parquet) => parquet.write(rows),
        }
    }

    /// Takes the bytes that are ready to be put; may be none.
    pub fn take(&mut self) -> Bytes {
        match &mut self.format {
            Format::Jsonl(sink) | Format::Csv(_, sink) => sink.take(),
            Format::Parquet(parquet) => parquet.take(),
        }
    }

    /// Ends the part: its last bytes. A part that got no rows is not worth putting: callers see to that.
    ///
    /// # Errors
    /// [`EncodeError::Failed`].
    pub fn finish(self) -> Result<Bytes, EncodeError> {
        match self.format {
            Format::Jsonl(sink) | Format::Csv(_, sink) => sink.finish().map_err(failed),
            Format::Parquet(parquet) => parquet.finish(),
        }
    }
}

fn failed(error: io::Error) -> EncodeError {
    EncodeError::Failed(error.to_string())
}

/// One error row as a line of JSON, newline included.
pub fn error_line(error: &RecordError) -> Vec<u8> {
    let mut line = serde_json::to_vec(error).expect("texts and numbers are always JSON");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests;
