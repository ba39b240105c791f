//! CSV (RFC 4180) → text columns.

use std::{borrow::Cow, collections::BTreeSet, collections::HashMap, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use memchr::memchr;

use super::{
    DecodeError, Decoded, Decoder, Projection, Request,
    records::{Record, RecordBorders, Records, corrupt},
};
use crate::{
    domain::{RecordError, Slice, Stage},
    runner::{
        batch::{Batch, ENCODING, ENCODING_CSV, Provenance},
        source::ObjectBytes,
    },
};

/// Reads CSV records into columns of text.
pub(super) struct CsvDecoder {
    request: Request,
    records: Records,
    /// `None` until the first record told it.
    table: Option<Table>,
    /// Whether the header is still to be read off the records.
    header_next: bool,
    failed: bool,
}

/// The columns of the data and those that are wanted.
struct Table {
    fields: usize,
    wanted: Vec<usize>,
    schema: SchemaRef,
}

impl CsvDecoder {
    pub(super) fn open(bytes: &Arc<dyn ObjectBytes>, request: Request) -> Result<Self, DecodeError> {
        let records = Records::open(bytes, &request)?;
        let apart = matches!(request.slice.slice, Slice::Bytes { start: 1.., .. });
        let mut decoder = Self { header_next: request.csv.header && !apart, request, records, table: None, failed: false };
        if apart && decoder.request.csv.header {
            let header = header_of(bytes, &decoder.request)?;
            decoder.read_header(&header)?;
        }
        Ok(decoder)
    }

    fn read_header(&mut self, header: &[u8]) -> Result<(), DecodeError> {
        let header = header.strip_prefix(b"\xef\xbb\xbf").unwrap_or(header);
        let text = std::str::from_utf8(header).map_err(|_| self.corrupt("invalid_utf8", "the header is not UTF-8".to_owned()))?;
        let mut spans = Vec::new();
        split(text.as_bytes(), self.request.csv.delimiter, &mut spans);
        let name = |(index, span): (usize, &Span)| match span.text(text) {
            name if name.is_empty() => format!("column_{index}"),
            name => name.into_owned(),
        };
        let names: Vec<String> = spans.iter().enumerate().map(name).collect();
        let mut seen = BTreeSet::new();
        if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
            return Err(self.corrupt("duplicate_column", format!("two columns are named {twice:?}")));
        }
        self.table = Some(Table::new(&names, &self.request.projection));
        Ok(())
    }

    fn corrupt(&self, code: &'static str, detail: String) -> DecodeError {
        DecodeError::Corrupt { source_name: self.request.source.clone(), code, detail, position: None }
    }

    fn error(&self, position: u64, code: &str, detail: String) -> RecordError {
        RecordError { source: self.request.source.clone(), position: Some(position), stage: Stage::Decode, code: code.to_owned(), detail }
    }
}

impl Decoder for CsvDecoder {
    fn next(&mut self) -> Result<Option<Decoded>, DecodeError> {
        let mut builders: Vec<StringBuilder> = Vec::new();
        let (mut positions, mut errors, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut spans = Vec::new();
        let mut over = self.failed;
        while !over
            && positions.len() < self.request.batch_rows
            && bytes < self.request.batch_bytes
            && errors.len() < self.request.batch_rows
        {
            let at = self.records.position();
            let record = match self.records.next() {
                Ok(record) => record,
                // What was decoded before stays good: the error comes with the next call.
                Err(_) if !positions.is_empty() || !errors.is_empty() => break,
                Err(error) => {
                    self.failed = true;
                    return Err(corrupt(&self.request, error, Some(at)));
                }
            };
            let (position, record) = match record {
                None => {
                    over = true;
                    continue;
                }
                Some(Record::Whole { bytes: [], .. }) => continue,
                Some(Record::Whole { position, bytes }) => (position, bytes),
                Some(Record::TooLarge { position, bytes }) => {
                    let detail = format!("the record has {bytes} bytes, more than the limit of {}", self.request.max_record_bytes);
                    errors.push(self.error(position, "record_too_large", detail));
                    continue;
                }
                Some(Record::Unterminated { position }) => {
                    errors.push(self.error(position, "unterminated_quote", "the text ends inside the quotes of this record".to_owned()));
                    continue;
                }
            };
            if std::mem::take(&mut self.header_next) {
                let header = record.to_vec();
                self.failed = true;
                self.read_header(&header)?;
                self.failed = false;
                continue;
            }
            let record = if position == 0 { record.strip_prefix(b"\xef\xbb\xbf").unwrap_or(record) } else { record };
            let Ok(text) = std::str::from_utf8(record) else {
                errors.push(self.error(position, "invalid_utf8", "the record is not UTF-8".to_owned()));
                continue;
            };
            split(text.as_bytes(), self.request.csv.delimiter, &mut spans);
            let table = self.table.get_or_insert_with(|| {
                let names: Vec<String> = (0..spans.len()).map(|i| format!("column_{i}")).collect();
                Table::new(&names, &self.request.projection)
            });
            if spans.len() != table.fields {
                let detail = format!("the record has {} fields, the header {}", spans.len(), table.fields);
                errors.push(RecordError {
                    source: self.request.source.clone(),
                    position: Some(position),
                    stage: Stage::Decode,
                    code: "wrong_field_count".to_owned(),
                    detail,
                });
                continue;
            }
            builders.resize_with(table.wanted.len(), StringBuilder::new);
            for (column, builder) in table.wanted.iter().zip(&mut builders) {
                let cell = spans[*column].text(text);
                bytes += cell.len() + 4;
                builder.append_value(&cell);
            }
            positions.push(position);
        }
        let batch = match &self.table {
            Some(table) if !positions.is_empty() => Some(table.batch(&self.request.source, positions, builders)?),
            _ => None,
        };
        if batch.is_none() && errors.is_empty() && over {
            return Ok(None);
        }
        Ok(Some(Decoded { batch, errors }))
    }
}

impl Table {
    fn new(names: &[String], projection: &Projection) -> Self {
        let wanted: Vec<usize> = (0..names.len())
            .filter(|i| match projection {
                Projection::All => true,
                Projection::Only(wanted) => wanted.contains(&names[*i]),
            })
            .collect();
        let metadata = HashMap::from([(ENCODING.to_owned(), ENCODING_CSV.to_owned())]);
        let fields = wanted.iter().map(|i| Field::new(&names[*i], DataType::Utf8, true).with_metadata(metadata.clone()));
        Self { fields: names.len(), schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())), wanted }
    }

    fn batch(&self, source: &Arc<str>, positions: Vec<u64>, builders: Vec<StringBuilder>) -> Result<Batch, DecodeError> {
        let columns: Vec<ArrayRef> = builders.into_iter().map(|mut b| Arc::new(b.finish()) as ArrayRef).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(positions.len()));
        let columns =
            RecordBatch::try_new_with_options(self.schema.clone(), columns, &options).expect("columns were built for this schema");
        Ok(Batch { provenance: Provenance::of(source.clone(), positions), columns })
    }
}

/// The first record of the object, for slices that begin later.
fn header_of(bytes: &Arc<dyn ObjectBytes>, request: &Request) -> Result<Vec<u8>, DecodeError> {
    let mut length = 64 * 1024;
    loop {
        let range = 0..bytes.size().min(length);
        let head = bytes.read(range)?;
        let mut first = None;
        let mut start = 0;
        RecordBorders::new(request.csv.delimiter).feed(&head, &mut |border| {
            let record = &head[start..border as usize];
            start = border as usize;
            // Blank lines before the header are skipped, as everywhere.
            if first.is_none() && !matches!(record, b"\n" | b"\r\n") {
                first = Some(record.to_vec());
            }
        });
        if let Some(mut record) = first {
            while matches!(record.last(), Some(b'\n' | b'\r')) {
                record.pop();
            }
            return Ok(record);
        }
        if head.len() as u64 >= bytes.size() || length > request.max_record_bytes as u64 {
            let detail = format!("the header does not end within {} bytes", head.len());
            return Err(DecodeError::Corrupt { source_name: request.source.clone(), code: "record_too_large", detail, position: None });
        }
        length *= 4;
    }
}

/// Where a field stands in its record.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
    quoted: bool,
}

impl Span {
    /// The field's text; unquoted where it is quoted.
    fn text<'t>(&self, record: &'t str) -> Cow<'t, str> {
        let raw = &record[self.start as usize..self.end as usize];
        if self.quoted { unquote(raw) } else { Cow::Borrowed(raw) }
    }
}

/// A field that begins with a quote: the inside of its quotes, doubled ones halved, and whatever stands after them.
fn unquote(raw: &str) -> Cow<'_, str> {
    let inside = &raw[1..];
    match memchr(b'"', inside.as_bytes()) {
        Some(end) if end + 1 == inside.len() => return Cow::Borrowed(&inside[..end]),
        _ => {}
    }
    let mut text = String::with_capacity(inside.len());
    let mut rest = inside;
    while let Some(quote) = memchr(b'"', rest.as_bytes()) {
        text.push_str(&rest[..quote]);
        rest = &rest[quote + 1..];
        match rest.strip_prefix('"') {
            Some(after) => {
                text.push('"');
                rest = after;
            }
            None => break,
        }
    }
    text.push_str(rest);
    Cow::Owned(text)
}

/// Splits one record into its fields.
fn split(record: &[u8], delimiter: u8, spans: &mut Vec<Span>) {
    spans.clear();
    let mut start = 0;
    loop {
        let quoted = record.get(start) == Some(&b'"');
        let from = if quoted { end_of_quotes(record, start + 1) } else { start };
        let end = memchr(delimiter, &record[from..]).map_or(record.len(), |at| from + at);
        // Records are bounded far below 4 GiB.
        spans.push(Span { start: start as u32, end: end as u32, quoted });
        if end == record.len() {
            return;
        }
        start = end + 1;
    }
}

/// The index after the quote that ends the quoting which began before `from`.
fn end_of_quotes(record: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(quote) = memchr(b'"', &record[at..]) {
        at += quote + 1;
        if record.get(at) != Some(&b'"') {
            return at;
        }
        at += 1;
    }
    record.len()
}
