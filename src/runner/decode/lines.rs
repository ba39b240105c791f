//! A text, one record a line → batches.
//!
//! In: a text, or a slice of one whose borders need not be line borders. Out: a [`Decoder`] of the one column `text`, each line without
//! its terminator. A blank line is a record like any other: whoever counts lines counts records.

use std::sync::Arc;

use arrow::{
    array::RecordBatch,
    datatypes::{DataType, Field, Schema},
    error::ArrowError,
};

use super::{
    DecodeError, Decoder, Request,
    batches::{Columns, Limits, Progress, Pushed, TextDecoder},
    borders::LineBorders,
    column::TextColumn,
    jsonl::lines_of_slice,
    records::Records,
    text::Input,
    whole::TEXT,
};
use crate::{domain::spec::InputCompression, runner::source::ObjectBytes};

/// Opens a text that starts at the object's start.
pub(super) fn open(input: Input, compression: InputCompression, request: &Request) -> Box<dyn Decoder> {
    let records = Records::new(input, LineBorders, 0, Limits::of(request).record_bytes);
    decoder(records, compression, u64::MAX, request)
}

/// Opens the uncompressed lines whose first byte lies in `start..end`.
pub(super) fn open_slice(
    bytes: Arc<dyn ObjectBytes>,
    (start, end): (u64, u64),
    request: &Request,
) -> Result<Box<dyn Decoder>, DecodeError> {
    let records = lines_of_slice(bytes, (start, end), request)?;
    Ok(decoder(records, InputCompression::None, end, request))
}

fn decoder(records: Records<LineBorders>, compression: InputCompression, end: u64, request: &Request) -> Box<dyn Decoder> {
    let (source, limits) = (request.source.clone(), Limits::of(request));
    Box::new(TextDecoder { source, compression, records, end, columns: Lines(TextColumn::new()), limits, progress: Progress::Reading })
}

/// The one column.
struct Lines(TextColumn);

impl Columns for Lines {
    fn is_blank(&self, _line: &str) -> bool {
        false
    }

    fn push(&mut self, _row: usize, line: &str) -> Pushed {
        self.0.push(line);
        Pushed::Row
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn finish(&mut self, _rows: usize) -> Result<RecordBatch, ArrowError> {
        RecordBatch::try_new(Arc::new(Schema::new(vec![Field::new(TEXT, DataType::Utf8, true)])), vec![self.0.finish()])
    }
}
