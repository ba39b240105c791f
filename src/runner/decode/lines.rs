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
    batches::{Columns, Pushed, TextDecoder},
    column::TextColumn,
    text::Input,
    whole::TEXT,
};
use crate::{domain::spec::InputCompression, runner::source::ObjectBytes};

/// Opens a text that starts at the object's start.
pub(super) fn open(input: Input, compression: InputCompression, request: &Request) -> Box<dyn Decoder> {
    TextDecoder::of_lines(input, compression, Lines(TextColumn::new()), request)
}

/// Opens the uncompressed lines whose first byte lies in `start..end`.
pub(super) fn open_slice(bytes: Arc<dyn ObjectBytes>, slice: (u64, u64), request: &Request) -> Result<Box<dyn Decoder>, DecodeError> {
    TextDecoder::of_slice(bytes, slice, Lines(TextColumn::new()), request)
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
