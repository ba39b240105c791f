//! Bytes → record batches.
//!
//! In: one [`ObjectSlice`] and its bytes. Out: [`Decoded`] batches in input order, and error rows for records that are not
//! what the format says. Knows nothing of models: which columns are wanted comes as a [`Projection`].
//!
//! Text formats keep their cells as text (see [`super::batch::ENCODING`]): what a cell means is decided by the model input
//! it is bound to, and what is carried to the output is what was found.

mod arrow;
mod batches;
mod borders;
mod caught;
mod column;
mod csv;
mod flat;
mod jsonl;
mod lines;
mod pages;
mod parquet;
mod records;
pub mod sniff;
mod tar;
mod text;
mod whole;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, io::Cursor, ops::Range, sync::Arc};

pub use borders::RecordBorders;
pub use csv::Layouts;
pub use parquet::{RowGroupInfo, row_groups};

use crate::{
    domain::{
        ObjectSlice, RecordError, Slice,
        spec::{CsvOptions, InputCompression, InputFormat},
    },
    objects,
    runner::{batch::Batch, source::ObjectBytes},
};
use text::{Input, RangeReader};

/// Which columns are needed downstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Projection {
    /// Every column.
    All,
    /// These; others need not be decoded. A name that the data lacks is no error here.
    Only(Arc<BTreeSet<String>>),
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
    /// What the CSV object before looked like; shared by the requests for a chunk's objects.
    pub layouts: Layouts,
    /// Most rows in a batch.
    pub batch_rows: usize,
    /// A batch ends early once its columns hold about this many bytes.
    pub batch_bytes: usize,
    /// A record above this size is an error row (`record_too_large`), skipped without being kept in memory.
    pub max_record_bytes: usize,
    /// The same for pictures and for samples of archives.
    pub max_media_bytes: usize,
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
        /// Stable code: `invalid_parquet`, `invalid_arrow`, `invalid_gzip`, `invalid_zstd`, `unknown_format`, `duplicate_column` …
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
pub fn open(bytes: Arc<dyn ObjectBytes>, request: Request) -> Result<Box<dyn Decoder>, DecodeError> {
    let object = &request.slice;
    let (named_format, named_compression) = sniff::by_name(&object.key);
    let format = if object.format == InputFormat::Auto { named_format } else { object.format };
    let compression = if object.compression == InputCompression::Auto { named_compression } else { object.compression };
    match (format, object.slice) {
        (InputFormat::Image | InputFormat::Text, Slice::Whole) if bytes.size() > whole::most_bytes(format, &request) => {
            Ok(whole::too_large(format, &request))
        }
        (InputFormat::Parquet, Slice::Whole | Slice::Rows { .. }) => parquet::open(bytes, request),
        (InputFormat::Arrow, Slice::Whole) => arrow::open(bytes, request),
        (_, Slice::Whole) => open_text(bytes, format, compression, request),
        (_, Slice::Bytes { start, end }) => open_text_slice(bytes, format, compression, start..end, &request),
        (_, Slice::Rows { .. }) => Err(invalid_slice(&request, "rows can be cut from Parquet only")),
    }
}

/// Opens a whole object that is not known to be Parquet or Arrow IPC. What name and settings leave open is read from the stream's head, so
/// that looking costs no request.
fn open_text(
    bytes: Arc<dyn ObjectBytes>,
    format: InputFormat,
    compression: InputCompression,
    request: Request,
) -> Result<Box<dyn Decoder>, DecodeError> {
    let unreadable = |compression| {
        let source = request.source.clone();
        move |error| text::read_error(error, &source, compression, None)
    };
    let (head, raw): (_, Input) = match bytes.in_memory() {
        Some(all) => (all.slice(..all.len().min(sniff::HEAD_BYTES)), Box::new(Cursor::new(all))),
        None => {
            let raw = Box::new(RangeReader::within(bytes.clone(), 0..bytes.size()));
            text::peek(raw, sniff::HEAD_BYTES).map_err(unreadable(InputCompression::None))?
        }
    };
    let compression = if compression == InputCompression::Auto { sniff::compression_of(&head) } else { compression };
    let input = text::decompressed(raw, compression).map_err(unreadable(compression))?;
    if format != InputFormat::Auto {
        return open_records(input, format, compression, &request);
    }
    let (head, input) = text::peek(input, sniff::HEAD_BYTES).map_err(unreadable(compression))?;
    match format_of(&head, &request)? {
        InputFormat::Parquet if compression == InputCompression::None => parquet::open(bytes, request),
        InputFormat::Arrow if compression == InputCompression::None => arrow::open(bytes, request),
        InputFormat::Arrow => Err(unknown_format(&request, "Arrow IPC inside a compressed file; it compresses its own buffers")),
        InputFormat::Parquet => Err(unknown_format(&request, "Parquet inside a compressed file; Parquet compresses its own pages")),
        format => open_records(input, format, compression, &request),
    }
}

fn open_records(
    input: Input,
    format: InputFormat,
    compression: InputCompression,
    request: &Request,
) -> Result<Box<dyn Decoder>, DecodeError> {
    match format {
        InputFormat::Jsonl => Ok(jsonl::open(input, compression, request)),
        InputFormat::Lines => Ok(lines::open(input, compression, request)),
        InputFormat::Image | InputFormat::Text => Ok(whole::open(input, compression, format, request)),
        InputFormat::Tar => Ok(tar::open(input, compression, request)),
        _ => csv::open(input, compression, delimiter(request)?, request),
    }
}

/// Opens a part of an uncompressed text.
fn open_text_slice(
    bytes: Arc<dyn ObjectBytes>,
    format: InputFormat,
    compression: InputCompression,
    range: Range<u64>,
    request: &Request,
) -> Result<Box<dyn Decoder>, DecodeError> {
    if matches!(compression, InputCompression::Gzip | InputCompression::Zstd) {
        return Err(invalid_slice(request, "a compressed text cannot be cut"));
    }
    if range.start > range.end || range.end > bytes.size() {
        return Err(invalid_slice(request, &format!("bytes {range:?} do not lie in an object of {} bytes", bytes.size())));
    }
    let format = match format {
        InputFormat::Auto => format_of(&bytes.read(0..bytes.size().min(sniff::HEAD_BYTES as u64))?, request)?,
        known => known,
    };
    match format {
        InputFormat::Parquet => Err(invalid_slice(request, "Parquet is cut by rows, not by bytes")),
        InputFormat::Arrow => Err(invalid_slice(request, "Arrow IPC is not cut")),
        InputFormat::Image | InputFormat::Text => Err(invalid_slice(request, "an object that is one record cannot be cut")),
        InputFormat::Tar => Err(invalid_slice(request, "an archive is not cut")),
        InputFormat::Jsonl => jsonl::open_slice(bytes, (range.start, range.end), request),
        InputFormat::Lines => lines::open_slice(bytes, (range.start, range.end), request),
        InputFormat::Csv | InputFormat::Auto => csv::open_slice(bytes, (range.start, range.end), delimiter(request)?, request),
    }
}

fn format_of(head: &[u8], request: &Request) -> Result<InputFormat, DecodeError> {
    sniff::format_of(head).map_err(|why| unknown_format(request, why))
}

fn delimiter(request: &Request) -> Result<u8, DecodeError> {
    match sniff::delimiter(&request.slice.key, &request.csv) {
        delimiter if delimiter.is_ascii() && !matches!(delimiter, b'"' | b'\r' | b'\n') => Ok(delimiter),
        delimiter => Err(corrupt(request, "invalid_delimiter", format!("fields cannot be separated by byte {delimiter:#04x}"))),
    }
}

fn unknown_format(request: &Request, why: &str) -> DecodeError {
    corrupt(request, "unknown_format", why.to_owned())
}

fn invalid_slice(request: &Request, why: &str) -> DecodeError {
    corrupt(request, "invalid_slice", why.to_owned())
}

fn corrupt(request: &Request, code: &'static str, detail: String) -> DecodeError {
    DecodeError::Corrupt { source_name: request.source.clone(), code, detail, position: None }
}
