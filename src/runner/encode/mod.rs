//! Record batches → part bytes, and error rows → JSON Lines.
//!
//! In: batches of one schema (`_source`, `_position`, input columns, prediction columns). Out: bytes, the same for the same
//! rows however they were batched.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, RecordBatch},
    datatypes::Field,
};
use bytes::Bytes;

use crate::{
    domain::{
        RecordError,
        spec::{IncludeInput, OutputCompression, OutputFormat},
    },
    runner::batch::Batch,
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

/// Puts provenance, the chosen input columns and the predictions side by side.
///
/// `predictions` are as long as `batch`; `prefix` goes before their names.
///
/// # Errors
/// [`EncodeError::MissingColumn`], or [`EncodeError::SchemaMismatch`] when an input column has a prediction's name.
pub fn assemble(
    _batch: &Batch,
    _include: &IncludeInput,
    _predictions: &[(Arc<Field>, ArrayRef)],
    _prefix: &str,
) -> Result<RecordBatch, EncodeError> {
    todo!()
}

/// Encodes one part.
#[derive(Debug)]
pub struct PartEncoder {}

impl PartEncoder {
    /// An empty part.
    pub fn new(_format: OutputFormat, _compression: OutputCompression) -> Self {
        todo!()
    }

    /// Adds rows. The first call fixes the schema (CSV, Parquet).
    ///
    /// # Errors
    /// [`EncodeError::SchemaMismatch`] leaves the part as it was.
    pub fn write(&mut self, _rows: &RecordBatch) -> Result<(), EncodeError> {
        todo!()
    }

    /// Takes the bytes that are ready to be put.
    pub fn take(&mut self) -> Bytes {
        todo!()
    }

    /// Ends the part: its last bytes.
    ///
    /// # Errors
    /// [`EncodeError::Failed`].
    pub fn finish(self) -> Result<Bytes, EncodeError> {
        todo!()
    }
}

/// One error row as a line of JSON, newline included.
pub fn error_line(_error: &RecordError) -> Vec<u8> {
    todo!()
}
