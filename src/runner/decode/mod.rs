//! Bytes → record batches.
//!
//! In: one [`ObjectSlice`] and its bytes. Out: [`Decoded`] batches in input order, and error rows for records that are not
//! what the format says. Knows nothing of models: which columns are wanted comes as a [`Projection`].
//!
//! Text formats keep their cells as text (see [`super::batch::ENCODING`]): what a cell means is decided by the model input
//! it is bound to, and what is carried to the output is what was found.

mod csv;
mod jsonl;
mod parquet;
mod records;
pub mod sniff;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    domain::{
        ObjectSlice, RecordError,
        spec::{CsvOptions, InputCompression, InputFormat},
    },
    objects,
    runner::{batch::Batch, source::ObjectBytes},
};

pub use parquet::{RowGroupInfo, row_groups};
pub use records::RecordBorders;

/// Looked at to tell what an object is.
const SNIFF_BYTES: u64 = 64 * 1024;

/// Which columns are needed downstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    /// Every column.
    All,
    /// These; others need not be decoded. A name that the data lacks is no error here.
    Only(BTreeSet<String>),
}

/// What to decode, and how much at a time.
#[derive(Debug, Clone)]
pub struct Request {
    /// As `_source` shows it.
    pub source: Arc<str>,
    /// Object and slice.
    pub slice: ObjectSlice,
    /// How CSV is written.
    pub csv: CsvOptions,
    /// Columns needed downstream.
    pub projection: Projection,
    /// Most rows in a batch.
    pub batch_rows: usize,
    /// A batch ends early once its columns hold about this many bytes.
    pub batch_bytes: usize,
    /// A record above this size is an error row (`record_too_large`), skipped without being kept in memory.
    pub max_record_bytes: usize,
}

/// One step of a decoder.
#[derive(Debug, Default)]
pub struct Decoded {
    /// The next records, if any in this step; never empty.
    pub batch: Option<Batch>,
    /// Records that could not be decoded, in input order.
    pub errors: Vec<RecordError>,
}

/// What ends the decoding of an object.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The store failed.
    #[error(transparent)]
    Source(#[from] objects::Error),
    /// The object is not what its format says, from here on.
    #[error("{source_name}: {detail}")]
    Corrupt {
        /// The object.
        source_name: Arc<str>,
        /// Stable code: `invalid_parquet`, `invalid_gzip`, `invalid_zstd`, `unknown_format`, `duplicate_column` …
        code: &'static str,
        /// What is wrong, where.
        detail: String,
        /// Position of the first record that is lost with it, where known.
        position: Option<u64>,
    },
}

/// Decodes one slice of one object, step by step.
pub trait Decoder: Send {
    /// The next step; `None` at the end. After an error there is no next step.
    ///
    /// # Errors
    /// What ends the object; records decoded before stay good.
    fn next(&mut self) -> Result<Option<Decoded>, DecodeError>;
}

/// Opens the decoder for a slice; looks at the content first where the slice's format or compression is `Auto`.
///
/// # Errors
/// [`DecodeError`] when the object cannot be read or is not what its format says.
pub fn open(bytes: Arc<dyn ObjectBytes>, mut request: Request) -> Result<Box<dyn Decoder>, DecodeError> {
    let asked = (request.slice.format, request.slice.compression);
    if asked.0 == InputFormat::Auto || (asked.1 == InputCompression::Auto && asked.0 != InputFormat::Parquet) {
        let head = bytes.read(0..bytes.size().min(SNIFF_BYTES))?;
        (request.slice.format, request.slice.compression) = sniff::resolve(asked.0, asked.1, &head);
    }
    match request.slice.format {
        InputFormat::Parquet => Ok(Box::new(parquet::ParquetDecoder::open(bytes, request)?)),
        InputFormat::Csv => Ok(Box::new(csv::CsvDecoder::open(&bytes, request)?)),
        InputFormat::Jsonl => Ok(Box::new(jsonl::JsonlDecoder::open(&bytes, request)?)),
        InputFormat::Auto => Err(DecodeError::Corrupt {
            source_name: request.source,
            code: "unknown_format",
            detail: "neither its name nor its content tells a format; set input.format, or leave it out with input.exclude".to_owned(),
            position: None,
        }),
    }
}
