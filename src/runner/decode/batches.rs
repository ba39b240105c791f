//! Records of a text → batches; the loop that CSV, JSON Lines and lines share, and the steps that they share with archives.
//!
//! In: [`Records`] and the format's [`Columns`]. Out: [`Decoded`] steps, bounded in rows and bytes, with an error row for each
//! record that is none. Knows when a batch is full and what ends an object, not what a field is.

use std::sync::Arc;

use arrow::{array::RecordBatch, error::ArrowError};

use super::{
    DecodeError, Decoded, Decoder, Request,
    borders::{Borders, LineBorders},
    records::{Content, Records},
    sniff::BOM,
    text::{self, Input, RangeReader},
};
use crate::{
    domain::{RecordError, Stage, spec::InputCompression},
    runner::{
        batch::{Batch, Provenance},
        source::ObjectBytes,
    },
};

/// Most bytes in a batch's text column and in one record: together below the 2 GiB that `Utf8` offsets can count.
const MAX_TEXT_BYTES: usize = (i32::MAX / 2) as usize;

/// What a decoder of text may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most records, good and bad, in a step.
    pub(super) rows: usize,
    /// A batch ends once it holds this many bytes.
    pub(super) bytes: usize,
    /// Most bytes in a record.
    pub(super) record_bytes: usize,
}

impl Limits {
    /// Those of a request, kept within what a `Utf8` column can hold.
    pub(super) fn of(request: &Request) -> Self {
        Self {
            rows: request.batch_rows.max(1),
            bytes: request.batch_bytes.clamp(1, MAX_TEXT_BYTES),
            record_bytes: request.max_record_bytes.min(MAX_TEXT_BYTES),
        }
    }
}

/// Why a record is an error row.
#[derive(Debug)]
pub(super) struct Fault {
    /// Stable.
    pub(super) code: &'static str,
    /// For people.
    pub(super) detail: String,
}

impl Fault {
    /// The error row of the record at this position.
    pub(super) fn of_record(self, source: &Arc<str>, position: u64) -> RecordError {
        let (source, code) = (source.clone(), self.code.to_owned());
        RecordError { source, position: Some(position), stage: Stage::Decode, code, detail: self.detail }
    }
}

/// What became of a record.
#[derive(Debug)]
pub(super) enum Pushed {
    /// It is the next row.
    Row,
    /// It is an error row; the columns are as before.
    Fault(Fault),
    /// It would make a batch too large that holds rows already; the columns are as before.
    Full,
}

/// The columns of a batch under construction.
pub(super) trait Columns: Send {
    /// Whether a line is no record at all.
    fn is_blank(&self, line: &str) -> bool;

    /// Adds the record that `ahead` begins with as row number `row`, and gives its length with its terminator; `None` where the record is
    /// not written as plainly as most are, or does not end in `ahead`: then the columns are as before, and [`push`](Self::push) is for it.
    fn push_plain(&mut self, _row: usize, _ahead: &[u8]) -> Option<usize> {
        None
    }

    /// Adds the record as row number `row`.
    fn push(&mut self, row: usize, record: &str) -> Pushed;

    /// About how many bytes the columns hold.
    fn bytes(&self) -> usize;

    /// The columns, all `rows` long; they are empty then.
    ///
    /// # Errors
    /// None that data can cause.
    fn finish(&mut self, rows: usize) -> Result<RecordBatch, ArrowError>;
}

/// Decodes a text of records.
pub(super) struct TextDecoder<B, C> {
    /// As `_source` shows it.
    pub(super) source: Arc<str>,
    /// What the text was compressed with.
    pub(super) compression: InputCompression,
    /// From the first record on.
    pub(super) records: Records<B>,
    /// Records that start here or later belong to another slice.
    pub(super) end: u64,
    /// Of the format.
    pub(super) columns: C,
    /// How much at a time.
    pub(super) limits: Limits,
    /// How far it is.
    pub(super) progress: Progress,
}

/// Where a decoder is on its way.
#[derive(Debug)]
pub(super) enum Progress {
    /// There may be more records.
    Reading,
    /// The rows before the error have been given; the error comes next.
    Failed(DecodeError),
    /// Nothing more will come.
    Ended,
}

/// What gathers records, good and bad, into batches.
pub(super) trait Gather: Send {
    /// How far it is.
    fn progress(&mut self) -> &mut Progress;

    /// Reads records until the batch is full or there are no more. Returns the rows' positions and the error rows.
    fn collect(&mut self) -> (Vec<u64>, Vec<RecordError>);

    /// The columns that have been collected, of so many rows.
    ///
    /// # Errors
    /// None that data can cause.
    fn finish(&mut self, rows: usize) -> Result<RecordBatch, ArrowError>;

    /// As `_source` shows it.
    fn source(&self) -> &Arc<str>;
}

impl<G: Gather> Decoder for G {
    fn next(&mut self) -> Result<Option<Decoded>, DecodeError> {
        match std::mem::replace(self.progress(), Progress::Ended) {
            Progress::Reading => *self.progress() = Progress::Reading,
            Progress::Failed(error) => return Err(error),
            Progress::Ended => return Ok(None),
        }
        let (positions, errors) = self.collect();
        if positions.is_empty() && errors.is_empty() {
            return match std::mem::replace(self.progress(), Progress::Ended) {
                Progress::Failed(error) => Err(error),
                Progress::Reading | Progress::Ended => Ok(None),
            };
        }
        let batch = if positions.is_empty() { None } else { Some(batch(self, positions)?) };
        Ok(Some(Decoded { batch, errors }))
    }
}

fn batch(gathered: &mut impl Gather, positions: Vec<u64>) -> Result<Batch, DecodeError> {
    let columns = gathered.finish(positions.len()).map_err(|error| DecodeError::Corrupt {
        source_name: gathered.source().clone(),
        code: "invalid_columns",
        detail: error.to_string(),
        position: positions.first().copied(),
    })?;
    Ok(Batch { provenance: Provenance::of(gathered.source().clone(), positions), columns })
}

impl<B: Borders, C: Columns> Gather for TextDecoder<B, C> {
    fn progress(&mut self) -> &mut Progress {
        &mut self.progress
    }

    fn collect(&mut self) -> (Vec<u64>, Vec<RecordError>) {
        let mut positions = Vec::new();
        let mut errors = Vec::new();
        while positions.len() + errors.len() < self.limits.rows && self.columns.bytes() < self.limits.bytes {
            if self.records.position() >= self.end {
                self.progress = Progress::Ended;
                break;
            }
            // One that has room for its terminator here is within the limit.
            let ahead = self.records.ahead();
            let ahead = &ahead[..ahead.len().min(self.limits.record_bytes.saturating_add(1))];
            if let Some(length) = self.columns.push_plain(positions.len(), ahead) {
                positions.push(self.records.position());
                self.records.pass(length);
                continue;
            }
            let record = match self.records.next() {
                Ok(Some(record)) => record,
                Ok(None) => {
                    self.progress = Progress::Ended;
                    break;
                }
                Err(error) => {
                    let lost = self.records.position();
                    self.progress = Progress::Failed(text::read_error(error, &self.source, self.compression, Some(lost)));
                    break;
                }
            };
            let position = record.position;
            let pushed = match readable(position, &record.content, &self.limits) {
                Ok(text) if self.columns.is_blank(text) => continue,
                Ok(text) => self.columns.push(positions.len(), text),
                Err(fault) => Pushed::Fault(fault),
            };
            match pushed {
                Pushed::Row => positions.push(position),
                Pushed::Fault(fault) => errors.push(fault.of_record(&self.source, position)),
                Pushed::Full => {
                    self.records.put_back(position);
                    break;
                }
            }
        }
        (positions, errors)
    }

    fn finish(&mut self, rows: usize) -> Result<RecordBatch, ArrowError> {
        self.columns.finish(rows)
    }

    fn source(&self) -> &Arc<str> {
        &self.source
    }
}

impl<C: Columns + 'static> TextDecoder<LineBorders, C> {
    /// A text, one record a line, that starts at the object's start.
    pub(super) fn of_lines(input: Input, compression: InputCompression, columns: C, request: &Request) -> Box<dyn Decoder> {
        let records = Records::new(input, LineBorders, 0, Limits::of(request).record_bytes);
        Self::boxed(records, compression, u64::MAX, columns, request)
    }

    /// The uncompressed lines whose first byte lies in `start..end`.
    ///
    /// # Errors
    /// What the reading up to the first border meets.
    pub(super) fn of_slice(
        bytes: Arc<dyn ObjectBytes>,
        (start, end): (u64, u64),
        columns: C,
        request: &Request,
    ) -> Result<Box<dyn Decoder>, DecodeError> {
        // A record starts at `start` if the byte before is a line feed; otherwise after the next one.
        let from = start.saturating_sub(1);
        let input = Box::new(RangeReader::beyond(bytes, from..end));
        let mut records = Records::new(input, LineBorders, from, Limits::of(request).record_bytes);
        if start > 0 {
            let skipped = records.skip_to_border(end);
            skipped.map_err(|error| text::read_error(error, &request.source, InputCompression::None, Some(start)))?;
        }
        Ok(Self::boxed(records, InputCompression::None, end, columns, request))
    }
}

impl<B: Borders + 'static, C: Columns + 'static> TextDecoder<B, C> {
    /// Decodes these records, of which those from `end` on are another slice's.
    pub(super) fn boxed(records: Records<B>, compression: InputCompression, end: u64, columns: C, request: &Request) -> Box<dyn Decoder> {
        let (source, limits) = (request.source.clone(), Limits::of(request));
        Box::new(Self { source, compression, records, end, columns, limits, progress: Progress::Reading })
    }
}

/// The text of a record, or why it has none.
pub(super) fn readable<'a>(position: u64, content: &Content<'a>, limits: &Limits) -> Result<&'a str, Fault> {
    let bytes = match *content {
        Content::Whole(bytes) => without_mark(position, bytes),
        Content::TooLarge => {
            return Err(Fault {
                code: "record_too_large",
                detail: format!("the record is over the limit of {} bytes", limits.record_bytes),
            });
        }
        Content::Unterminated => {
            return Err(Fault {
                code: "unterminated_quote",
                detail: "a quoted field of this record is still open at the end of the data; all that follows it is part of it".into(),
            });
        }
    };
    std::str::from_utf8(bytes)
        .map_err(|error| Fault { code: "invalid_utf8", detail: format!("byte {} of the record is not valid UTF-8", error.valid_up_to()) })
}

/// The bytes of a record without the byte order mark that may stand before the first.
pub(super) fn without_mark(position: u64, bytes: &[u8]) -> &[u8] {
    if position == 0 { bytes.strip_prefix(BOM).unwrap_or(bytes) } else { bytes }
}
