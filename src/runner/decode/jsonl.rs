//! JSON Lines → batches.
//!
//! In: a text, or a slice of one whose borders need not be record borders. Out: a [`Decoder`] of the projected fields as raw
//! JSON texts; a field that a line lacks is a null. What a value means is not asked here, only whether the line is one JSON
//! object.
//!
//! With all fields wanted, the columns of a batch are those of its own lines in order of first appearance, so they may differ
//! from batch to batch. With names given, they are those names in their order, in every batch.

use std::{collections::HashMap, fmt, sync::Arc};

use arrow::{
    array::{RecordBatch, RecordBatchOptions},
    datatypes::{DataType, Field, Schema},
    error::ArrowError,
};
use memchr::memchr2_iter;
use serde::de::{DeserializeSeed, Deserializer as _, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{
    DecodeError, Decoder, Projection, Request,
    batches::{Columns, Fault, Limits, Pushed, TextDecoder},
    column::TextColumn,
    flat::{After, Flat, Written},
    text::Input,
};
use crate::{
    domain::spec::InputCompression,
    runner::{
        batch::{ENCODING, ENCODING_JSON},
        source::ObjectBytes,
    },
};

/// Deepest nesting of arrays and objects in a line: what serde_json itself allows, and so what later stages can read.
const MAX_NESTING: usize = 127;

/// Most columns in a batch.
const MAX_COLUMNS: usize = 1 << 16;

/// How many places of the last line's fields are remembered.
const MAX_SHAPE: usize = 1 << 12;

/// Opens a text that starts at the object's start.
pub(super) fn open(input: Input, compression: InputCompression, request: &Request) -> Box<dyn Decoder> {
    TextDecoder::of_lines(input, compression, JsonColumns::of(request), request)
}

/// Opens the uncompressed records whose first byte lies in `start..end`.
pub(super) fn open_slice(bytes: Arc<dyn ObjectBytes>, slice: (u64, u64), request: &Request) -> Result<Box<dyn Decoder>, DecodeError> {
    TextDecoder::of_slice(bytes, slice, JsonColumns::of(request), request)
}

/// The columns of a batch under construction.
pub(super) struct JsonColumns {
    /// Whether a field that has no column yet gets one.
    open: bool,
    columns: Vec<(String, TextColumn)>,
    /// Place in `columns` by name.
    places: HashMap<String, usize>,
    /// The fields of the lines before by their place in the line: lines mostly look like the one before.
    shape: Vec<Known>,
    /// What the columns hold, counted after each line.
    bytes: usize,
    max_bytes: usize,
}

/// A field that a line before had.
struct Known {
    name: String,
    /// How it is written, if there is but one way to write its name.
    written: Option<Written>,
    /// Of its column.
    place: Option<usize>,
}

impl JsonColumns {
    fn of(request: &Request) -> Self {
        Self::new(&request.projection, Limits::of(request).bytes)
    }

    pub(super) fn new(projection: &Projection, max_bytes: usize) -> Self {
        let mut columns = Self { open: true, columns: Vec::new(), places: HashMap::new(), shape: Vec::new(), bytes: 0, max_bytes };
        if let Projection::Only(names) = projection {
            names.iter().for_each(|name| {
                columns.add(name);
            });
            columns.open = false;
        }
        columns
    }

    fn add(&mut self, name: &str) -> usize {
        let place = self.columns.len();
        self.columns.push((name.to_owned(), TextColumn::new()));
        self.places.insert(name.to_owned(), place);
        place
    }

    /// The column for the `nth` field of a line that becomes row `row`; `None` if the field is not wanted.
    fn place(&mut self, row: usize, nth: usize, name: &str) -> Result<Option<usize>, Pushed> {
        // Comparing a name is cheaper than hashing it.
        if let Some(known) = self.shape.get(nth)
            && known.name == name
        {
            return Ok(known.place);
        }
        let place = match self.places.get(name) {
            Some(place) => Some(*place),
            None if self.open => Some(self.add_at(row, name)?),
            None => None,
        };
        let known = || Known { name: name.to_owned(), written: Written::new(name), place };
        match self.shape.get_mut(nth) {
            Some(other) => *other = known(),
            None if nth < MAX_SHAPE => self.shape.push(known()),
            None => {}
        }
        Ok(place)
    }

    /// Adds a column with `row` nulls, if there is room for it.
    fn add_at(&mut self, row: usize, name: &str) -> Result<usize, Pushed> {
        let too_many = self.columns.len() >= MAX_COLUMNS;
        let padding = (row + 1) * size_of::<i32>();
        let too_large = self.bytes + padding > self.max_bytes;
        if row > 0 && (too_many || too_large) {
            return Err(Pushed::Full);
        }
        if too_many {
            let detail = format!("the object has more fields than the limit of {MAX_COLUMNS}");
            return Err(Pushed::Fault(Fault { code: "too_many_columns", detail }));
        }
        let place = self.add(name);
        self.columns[place].1.pad(row);
        self.bytes += padding;
        Ok(place)
    }

    /// Takes back what a line has added beyond `rows` and the first `columns`.
    fn take_back(&mut self, rows: usize, columns: usize) {
        for (name, _) in self.columns.drain(columns..) {
            self.places.remove(&name);
        }
        self.columns.iter_mut().for_each(|(_, column)| column.truncate(rows));
        self.shape.clear();
        self.count_bytes();
    }

    fn count_bytes(&mut self) {
        self.bytes = self.columns.iter().map(|(_, column)| column.bytes()).sum();
    }

    /// Reads the line that `text` begins with into row `row`, where it is written like those before and `text` goes on after it, and gives its
    /// length with the line feed; what it has added stays when it fails.
    fn read_alike(&mut self, row: usize, text: &[u8]) -> Option<usize> {
        let Self { columns, shape, bytes, .. } = self;
        let mut flat = Flat::new(text);
        let mut filled = 0;
        for known in shape {
            let (value, after) = flat.field(known.written.as_mut()?)?;
            if let Some(place) = known.place {
                let column = &mut columns[place].1;
                // A name that comes twice is for the parser to tell.
                if column.len() > row {
                    return None;
                }
                *bytes += value.len() + size_of::<i32>();
                column.push_part(text, value);
                filled += 1;
            }
            if after == After::End {
                let end = flat.end();
                if text.get(end) != Some(&b'\n') {
                    return None;
                }
                if filled < columns.len() {
                    self.fill(row);
                }
                return Some(end + 1);
            }
        }
        None
    }

    /// Adds nulls where row `row` has no value.
    fn fill(&mut self, row: usize) {
        self.columns.iter_mut().for_each(|(_, column)| column.pad(row + 1));
        self.count_bytes();
    }

    /// Reads one line into row `row`; what it has added stays when it fails.
    fn read(&mut self, row: usize, line: &str) -> Result<(), Pushed> {
        check_nesting(line)?;
        let mut stop = None;
        let mut json = serde_json::Deserializer::from_str(line);
        let read = json.deserialize_map(Line { columns: self, row, stop: &mut stop }).and_then(|()| json.end());
        match (read, stop) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(stop)) => Err(stop),
            (Err(error), None) => Err(Pushed::Fault(syntax_fault(line, &error))),
        }
    }
}

impl Columns for JsonColumns {
    fn is_blank(&self, line: &str) -> bool {
        line.bytes().all(|byte| byte.is_ascii_whitespace())
    }

    fn push_plain(&mut self, row: usize, ahead: &[u8]) -> Option<usize> {
        let bytes = self.bytes;
        let length = self.read_alike(row, ahead);
        if length.is_none() {
            self.columns.iter_mut().for_each(|(_, column)| column.truncate(row));
            self.bytes = bytes;
        }
        length
    }

    fn push(&mut self, row: usize, line: &str) -> Pushed {
        let columns = self.columns.len();
        if let Err(pushed) = self.read(row, line) {
            self.take_back(row, columns);
            return pushed;
        }
        self.fill(row);
        Pushed::Row
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn finish(&mut self, rows: usize) -> Result<RecordBatch, ArrowError> {
        let schema = Arc::new(Schema::new(self.columns.iter().map(|(name, _)| field(name)).collect::<Vec<_>>()));
        let arrays = self.columns.iter_mut().map(|(_, column)| column.finish()).collect();
        if self.open {
            self.columns.clear();
            self.places.clear();
            self.shape.clear();
        }
        self.count_bytes();
        RecordBatch::try_new_with_options(schema, arrays, &RecordBatchOptions::new().with_row_count(Some(rows)))
    }
}

fn field(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true).with_metadata(HashMap::from([(ENCODING.to_owned(), ENCODING_JSON.to_owned())]))
}

/// Takes the fields of one object.
struct Line<'a> {
    columns: &'a mut JsonColumns,
    row: usize,
    /// Why reading was stopped, if it was not for the syntax.
    stop: &'a mut Option<Pushed>,
}

impl<'de> Visitor<'de> for Line<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut object: M) -> Result<(), M::Error> {
        let Self { columns, row, stop } = self;
        let mut nth = 0;
        while let Some(place) = object.next_key_seed(Name { columns: &mut *columns, row, nth, stop: &mut *stop })? {
            nth += 1;
            let Some(place) = place else {
                object.next_value::<IgnoredAny>()?;
                continue;
            };
            let (name, column) = &mut columns.columns[place];
            if column.len() > row {
                let detail = format!("the object has field {name:?} twice");
                *stop = Some(Pushed::Fault(Fault { code: "duplicate_key", detail }));
                return Err(M::Error::custom("stopped"));
            }
            column.push(object.next_value::<&RawValue>()?.get());
        }
        Ok(())
    }
}

/// Takes the name of one field, and gives the place of its column.
struct Name<'a> {
    columns: &'a mut JsonColumns,
    row: usize,
    nth: usize,
    stop: &'a mut Option<Pushed>,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'de>>(self, name: D) -> Result<Self::Value, D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        self.columns.place(self.row, self.nth, name).map_err(|stop| {
            *self.stop = Some(stop);
            E::custom("stopped")
        })
    }
}

/// What a line that cannot be read is instead of a JSON object.
fn syntax_fault(line: &str, error: &serde_json::Error) -> Fault {
    if error.is_data() {
        let found = match line.trim_ascii_start().as_bytes().first() {
            Some(b'[') => "an array",
            Some(b'"') => "a string",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            _ => "a number",
        };
        return Fault { code: "not_an_object", detail: format!("a line must hold one JSON object, this one holds {found}") };
    }
    let message = error.to_string();
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
    Fault { code: "invalid_json", detail: format!("column {}: {message}", error.column()) }
}

/// Refuses what later stages could not read. The parser here does not recurse, so it would go through any depth.
fn check_nesting(line: &str) -> Result<(), Pushed> {
    // Few lines have as many brackets at all, so few are looked at byte by byte.
    if memchr2_iter(b'[', b'{', line.as_bytes()).nth(MAX_NESTING).is_none() {
        return Ok(());
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for (at, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_NESTING {
            let detail = format!("column {}: nested more than {MAX_NESTING} levels deep", at + 1);
            return Err(Pushed::Fault(Fault { code: "invalid_json", detail }));
        }
    }
    Ok(())
}
