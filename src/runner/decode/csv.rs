//! CSV (RFC 4180) → batches.
//!
//! In: a text, from a record's start on, and the head of the object. Out: a [`Decoder`] of the projected columns, their cells
//! unquoted but otherwise as found. Where records end is told by [`RecordBorders`] alone; here they are cut into fields.
//!
//! Lenient where spreadsheets are: a quote inside an unquoted field is data, and so is what follows a closing quote.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::{DataType, Field, Schema, SchemaRef},
    error::ArrowError,
};
use memchr::memchr;

use super::{
    DecodeError, Decoder, Projection, Request,
    batches::{Columns, Fault, Limits, Pushed, TextDecoder, readable, without_mark},
    borders::RecordBorders,
    column::TextColumn,
    records::{Content, Records},
    text::{self, Input, RangeReader},
};
use crate::{
    domain::spec::InputCompression,
    runner::{
        batch::{ENCODING, ENCODING_CSV},
        lanes::{LANES, any_of},
        source::ObjectBytes,
    },
};

/// Most columns in an object.
const MAX_COLUMNS: usize = 1 << 16;

/// How much of an object is read at first to find its head, for those who start further on.
const HEAD_BYTES: u64 = 64 << 10;

const QUOTE: u8 = b'"';

/// Bytes of a plain record in which fields are looked for together: a bit each in a word.
const BLOCK: usize = 4 * LANES;

/// Opens a text that starts at the object's start.
pub(super) fn open(input: Input, compression: InputCompression, delimiter: u8, request: &Request) -> Result<Box<dyn Decoder>, DecodeError> {
    let limits = Limits::of(request);
    let mut records = Records::new(input, RecordBorders::new(delimiter), 0, limits.record_bytes);
    let head = Head::read(&mut records, compression, delimiter, request)?;
    if let Some(head) = head.as_ref().filter(|_| !request.csv.header) {
        records.put_back(head.position);
    }
    Ok(decoder(records, compression, u64::MAX, head, delimiter, request))
}

/// Opens the uncompressed records in `start..end`, which are record borders; the header stands at the object's start.
pub(super) fn open_slice(
    bytes: Arc<dyn ObjectBytes>,
    (start, end): (u64, u64),
    delimiter: u8,
    request: &Request,
) -> Result<Box<dyn Decoder>, DecodeError> {
    if start == 0 {
        return open(Box::new(RangeReader::within(bytes, 0..end)), InputCompression::None, delimiter, request);
    }
    let head = Head::fetch(&bytes, delimiter, request).map_err(|error| lost_from(start, error))?;
    let start = head.as_ref().filter(|_| request.csv.header).map_or(start, |head| start.max(head.end));
    let input = Box::new(RangeReader::within(bytes, start..end.max(start)));
    let records = Records::new(input, RecordBorders::new(delimiter), start, Limits::of(request).record_bytes);
    Ok(decoder(records, InputCompression::None, end, head, delimiter, request))
}

fn decoder(
    records: Records<RecordBorders>,
    compression: InputCompression,
    end: u64,
    head: Option<Head>,
    delimiter: u8,
    request: &Request,
) -> Box<dyn Decoder> {
    let layout = head.map_or_else(|| Arc::new(Layout::new(&[], Vec::new(), delimiter, &request.projection)), |head| head.layout);
    let columns = CsvColumns::new(layout);
    TextDecoder::boxed(records, compression, end, columns, request)
}

/// A fault of the header costs this slice the records from its own start on.
fn lost_from(start: u64, error: DecodeError) -> DecodeError {
    match error {
        DecodeError::Corrupt { source_name, code, detail, position } => {
            DecodeError::Corrupt { source_name, code, detail, position: position.map(|lost| lost.max(start)) }
        }
        source => source,
    }
}

/// Which columns an object has, and which of them are wanted.
#[derive(Debug)]
struct Layout {
    /// The record that names the columns; empty where none does.
    header: Vec<u8>,
    delimiter: u8,
    projection: Projection,
    /// How many fields each record has.
    width: usize,
    /// Of the wanted columns.
    schema: SchemaRef,
    /// Places of their fields in a record, in the order of the schema.
    places: Vec<usize>,
}

impl Layout {
    fn new(header: &[u8], names: Vec<String>, delimiter: u8, projection: &Projection) -> Self {
        let width = names.len();
        let wanted = |name: &String| match projection {
            Projection::All => true,
            Projection::Only(names) => names.contains(name),
        };
        let (places, fields): (Vec<usize>, Vec<Field>) =
            names.into_iter().enumerate().filter(|(_, name)| wanted(name)).map(|(place, name)| (place, field(name))).unzip();
        Self { header: header.to_owned(), delimiter, projection: projection.clone(), width, schema: Arc::new(Schema::new(fields)), places }
    }
}

/// The layout of the object before, for the next one with the same header: very many small objects mostly have one header, and to make a
/// schema of it costs more than to decode a few records.
#[derive(Debug, Clone, Default)]
pub struct Layouts(Arc<Mutex<Option<Arc<Layout>>>>);

impl Layouts {
    fn find(&self, header: &[u8], delimiter: u8, projection: &Projection) -> Option<Arc<Layout>> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|last| last.delimiter == delimiter && last.projection == *projection && last.header == header).cloned()
    }

    fn keep(&self, layout: &Arc<Layout>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(layout.clone());
    }
}

/// What the first record of an object says about all of them.
#[derive(Debug)]
struct Head {
    layout: Arc<Layout>,
    /// Of the record.
    position: u64,
    /// Just after its terminator.
    end: u64,
    /// Whether a terminator follows it.
    terminated: bool,
}

impl Head {
    /// Takes the first record that is not blank: the header, or without one a record whose fields are counted. `None` if there
    /// is no record.
    fn read(
        records: &mut Records<RecordBorders>,
        compression: InputCompression,
        delimiter: u8,
        request: &Request,
    ) -> Result<Option<Self>, DecodeError> {
        let source = &request.source;
        loop {
            let position = records.position();
            let record = match records.next() {
                Ok(Some(record)) => record,
                Ok(None) => return Ok(None),
                Err(error) => return Err(text::read_error(error, source, compression, Some(position))),
            };
            let (end, terminated) = (record.end, record.terminated);
            let header = match record.content {
                Content::Whole(bytes) if without_mark(position, bytes).is_empty() => continue,
                Content::Whole(bytes) if request.csv.header => without_mark(position, bytes),
                _ => &[],
            };
            // Where there is no header none is kept, so that an empty one is never found.
            if let Some(layout) = request.layouts.find(header, delimiter, &request.projection) {
                return Ok(Some(Self { layout, position, end, terminated }));
            }
            let names = names(position, &record.content, delimiter, request).map_err(|fault| DecodeError::Corrupt {
                source_name: source.clone(),
                code: fault.code,
                detail: format!("the first record, at byte {position}: {}", fault.detail),
                position: Some(if request.csv.header && terminated { end } else { position }),
            })?;
            let layout = Arc::new(Layout::new(header, names, delimiter, &request.projection));
            if !header.is_empty() {
                request.layouts.keep(&layout);
            }
            return Ok(Some(Self { layout, position, end, terminated }));
        }
    }

    /// Finds the head of an object from its start, reading little more than that.
    fn fetch(bytes: &Arc<dyn ObjectBytes>, delimiter: u8, request: &Request) -> Result<Option<Self>, DecodeError> {
        let max_record_bytes = Limits::of(request).record_bytes;
        let mut length = HEAD_BYTES;
        loop {
            let all = length >= bytes.size();
            let input = Box::new(RangeReader::within(bytes.clone(), 0..length.min(bytes.size())));
            let mut records = Records::new(input, RecordBorders::new(delimiter), 0, max_record_bytes);
            match Self::read(&mut records, InputCompression::None, delimiter, request) {
                Ok(Some(head)) if head.terminated || all => return Ok(Some(head)),
                // The fault may be that the piece ends within the head; not if the head could not be larger.
                Err(error) if all || length > max_record_bytes as u64 => return Err(error),
                Err(error @ DecodeError::Source(_)) => return Err(error),
                Ok(None) if all => return Ok(None),
                Ok(_) | Err(_) => length = length.saturating_mul(16),
            }
        }
    }
}

/// The names of the columns, by the first record.
fn names(position: u64, content: &Content<'_>, delimiter: u8, request: &Request) -> Result<Vec<String>, Fault> {
    let mut names = Vec::new();
    match content {
        // Without a header the first record is read again as data, and gets an error row of its own if it is broken.
        Content::Unterminated if !request.csv.header => {}
        Content::Whole(bytes) if !request.csv.header => {
            each_field(without_mark(position, bytes), delimiter, |_| {
                if names.len() <= MAX_COLUMNS {
                    names.push(format!("column_{}", names.len()));
                }
            });
        }
        content => {
            let text = readable(position, content, &Limits::of(request))?;
            each_field(text.as_bytes(), delimiter, |field| {
                let name = field.pieces(text).collect::<String>();
                names.push(if name.is_empty() { format!("column_{}", names.len()) } else { name });
            });
        }
    }
    if names.len() > MAX_COLUMNS {
        return Err(Fault { code: "too_many_columns", detail: format!("it has more fields than the limit of {MAX_COLUMNS}") });
    }
    let mut seen = BTreeSet::new();
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        Some(twice) => Err(Fault { code: "duplicate_column", detail: format!("it names column {twice:?} twice") }),
        None => Ok(names),
    }
}

/// Where a field lies in its record.
#[derive(Debug, Clone, Copy)]
struct CsvField {
    start: usize,
    end: usize,
    /// Its value is not the bytes themselves: it starts with a quote, and holds doubled ones or goes on after the closing one.
    escaped: bool,
}

impl CsvField {
    /// The value, in pieces.
    fn pieces(self, record: &str) -> impl Iterator<Item = &str> {
        let raw = record.get(self.start..self.end).unwrap_or_default();
        let mut quoted = self.escaped;
        let mut rest = if quoted { raw.get(1..).unwrap_or_default() } else { raw };
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let Some((piece, after)) = rest.split_once('"').filter(|_| quoted) else {
                return Some(std::mem::take(&mut rest));
            };
            if let Some(after_second) = after.strip_prefix('"') {
                let with_quote = &rest[..=piece.len()];
                rest = after_second;
                return Some(with_quote);
            }
            quoted = false;
            rest = after;
            Some(piece)
        })
    }
}

/// Finds where each of `width` fields starts in the record that `ahead` begins with, and where one more would, and gives the record's length
/// with its terminator. `None` if it has another number of fields or a quote, or does not end well before `ahead` does.
fn plain_starts(ahead: &[u8], delimiter: u8, width: usize, starts: &mut Vec<usize>) -> Option<usize> {
    starts.clear();
    starts.push(0);
    for (place, block) in ahead.as_chunks::<BLOCK>().0.iter().enumerate() {
        let lanes = block.as_chunks::<LANES>().0.iter().rev();
        let mut found = lanes.fold(0, |found, lanes| found << LANES | u64::from(any_of(lanes, [delimiter, b'\n', QUOTE])));
        while found != 0 {
            let at = found.trailing_zeros() as usize;
            found &= found - 1;
            let end = place * BLOCK + at;
            match block[at % BLOCK] {
                byte if byte == delimiter && starts.len() < width => starts.push(end + 1),
                b'\n' if starts.len() == width => {
                    let carriage_return = end > 0 && ahead[end - 1] == b'\r';
                    starts.push(end + 1 - usize::from(carriage_return));
                    return Some(end + 1);
                }
                _ => return None,
            }
        }
    }
    None
}

/// Cuts a record, given without its terminator, into its fields.
fn each_field(record: &[u8], delimiter: u8, mut on_field: impl FnMut(CsvField)) {
    let mut start = 0;
    loop {
        let (field, end) = field_at(record, start, delimiter);
        on_field(field);
        if end >= record.len() {
            return;
        }
        start = end + 1;
    }
}

/// The field that starts at `start`, and the place of the delimiter after it, or of the record's end.
fn field_at(record: &[u8], start: usize, delimiter: u8) -> (CsvField, usize) {
    let end_from = |at: usize| memchr(delimiter, &record[at..]).map_or(record.len(), |found| at + found);
    if record.get(start) != Some(&QUOTE) {
        let end = end_from(start);
        return (CsvField { start, end, escaped: false }, end);
    }
    let mut at = start + 1;
    let mut doubled = false;
    while let Some(found) = memchr(QUOTE, &record[at..]) {
        let quote = at + found;
        if record.get(quote + 1) == Some(&QUOTE) {
            doubled = true;
            at = quote + 2;
            continue;
        }
        let end = if record.get(quote + 1) == Some(&delimiter) { quote + 1 } else { end_from(quote + 1) };
        let plain = !doubled && end == quote + 1;
        let field = if plain { CsvField { start: start + 1, end: quote, escaped: false } } else { CsvField { start, end, escaped: true } };
        return (field, end);
    }
    (CsvField { start, end: record.len(), escaped: true }, record.len())
}

/// The projected columns of a batch under construction.
struct CsvColumns {
    layout: Arc<Layout>,
    /// In the order of its schema.
    columns: Vec<TextColumn>,
    /// Of the record in hand; kept for its allocation.
    fields: Vec<CsvField>,
    /// Where each field of a plain record starts, and where one more would.
    starts: Vec<usize>,
    /// About what the columns hold.
    bytes: usize,
}

impl CsvColumns {
    fn new(layout: Arc<Layout>) -> Self {
        let columns = layout.places.iter().map(|_| TextColumn::new()).collect();
        Self { columns, fields: Vec::new(), starts: Vec::with_capacity(layout.width + 1), layout, bytes: 0 }
    }
}

fn field(name: String) -> Field {
    Field::new(name, DataType::Utf8, false).with_metadata(HashMap::from([(ENCODING.to_owned(), ENCODING_CSV.to_owned())]))
}

impl Columns for CsvColumns {
    fn is_blank(&self, line: &str) -> bool {
        line.is_empty()
    }

    fn push_plain(&mut self, _row: usize, ahead: &[u8]) -> Option<usize> {
        let length = plain_starts(ahead, self.layout.delimiter, self.layout.width, &mut self.starts)?;
        let end = self.starts.last()? - 1;
        if end == 0 || str::from_utf8(&ahead[..end]).is_err() {
            return None;
        }
        for (place, column) in self.layout.places.iter().zip(&mut self.columns) {
            let cell = self.starts[*place]..self.starts[*place + 1] - 1;
            self.bytes += cell.len() + size_of::<i32>();
            column.push_part(ahead, cell);
        }
        Some(length)
    }

    fn push(&mut self, _row: usize, record: &str) -> Pushed {
        let (fields, width) = (&mut self.fields, self.layout.width);
        fields.clear();
        let mut found = 0;
        each_field(record.as_bytes(), self.layout.delimiter, |field| {
            found += 1;
            if found <= width {
                fields.push(field);
            }
        });
        if found != width {
            let detail = format!("expected {width} fields, as in the object's first record, found {found}");
            return Pushed::Fault(Fault { code: "wrong_field_count", detail });
        }
        for (place, column) in self.layout.places.iter().zip(&mut self.columns) {
            let field = fields[*place];
            self.bytes += field.end - field.start + size_of::<i32>();
            if field.escaped {
                column.push_pieces(field.pieces(record));
            } else {
                column.push(&record[field.start..field.end]);
            }
        }
        Pushed::Row
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn finish(&mut self, rows: usize) -> Result<RecordBatch, ArrowError> {
        self.bytes = 0;
        let arrays = self.columns.iter_mut().map(TextColumn::finish).collect();
        RecordBatch::try_new_with_options(self.layout.schema.clone(), arrays, &RecordBatchOptions::new().with_row_count(Some(rows)))
    }
}
