//! JSON Lines → columns of JSON text.

use std::{borrow::Cow, collections::HashMap, fmt, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder},
    datatypes::{DataType, Field, Schema},
};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{error::Category, value::RawValue};

use super::{
    DecodeError, Decoded, Decoder, Projection, Request,
    records::{Record, Records, corrupt},
};
use crate::{
    domain::{RecordError, Stage},
    runner::{
        batch::{Batch, ENCODING, ENCODING_JSON, Provenance},
        source::ObjectBytes,
    },
};

/// Reads JSON objects, one a line, into columns that hold each field's JSON text.
pub(super) struct JsonlDecoder {
    request: Request,
    records: Records,
    columns: Columns,
    failed: bool,
}

/// The columns in the order of the schema.
struct Columns {
    names: Vec<String>,
    index: HashMap<String, usize>,
    /// Whether a field that is not known yet becomes a column.
    grows: bool,
    /// The keys of the last line with their columns: most lines have the same in the same order.
    order: Vec<(String, Option<usize>)>,
}

impl Columns {
    fn new(projection: &Projection) -> Self {
        let names: Vec<String> = match projection {
            Projection::All => Vec::new(),
            Projection::Only(wanted) => wanted.iter().cloned().collect(),
        };
        let index = names.iter().cloned().enumerate().map(|(i, name)| (name, i)).collect();
        Self { names, index, grows: *projection == Projection::All, order: Vec::new() }
    }

    /// The column of the `place`-th key of a line.
    fn column(&mut self, place: usize, key: &str) -> Option<usize> {
        if let Some((known, column)) = self.order.get(place)
            && known == key
        {
            return *column;
        }
        let column = match self.index.get(key) {
            Some(column) => Some(*column),
            None if self.grows => {
                self.names.push(key.to_owned());
                self.index.insert(key.to_owned(), self.names.len() - 1);
                Some(self.names.len() - 1)
            }
            None => None,
        };
        self.order.truncate(place);
        if self.order.len() == place {
            self.order.push((key.to_owned(), column));
        }
        column
    }
}

impl JsonlDecoder {
    pub(super) fn open(bytes: &Arc<dyn ObjectBytes>, request: Request) -> Result<Self, DecodeError> {
        let records = Records::open(bytes, &request)?;
        Ok(Self { columns: Columns::new(&request.projection), request, records, failed: false })
    }

    fn batch(&self, positions: Vec<u64>, mut builders: Vec<StringBuilder>) -> Batch {
        let rows = positions.len();
        builders.resize_with(self.columns.names.len(), StringBuilder::new);
        let metadata = HashMap::from([(ENCODING.to_owned(), ENCODING_JSON.to_owned())]);
        let fields = self.columns.names.iter().map(|name| Field::new(name, DataType::Utf8, true).with_metadata(metadata.clone()));
        let columns = builders.iter_mut().map(|builder| {
            pad(builder, rows);
            Arc::new(builder.finish()) as ArrayRef
        });
        let columns: Vec<ArrayRef> = columns.collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let columns = RecordBatch::try_new_with_options(Arc::new(Schema::new(fields.collect::<Vec<_>>())), columns, &options)
            .expect("columns were built for this schema");
        Batch { provenance: Provenance::of(self.request.source.clone(), positions), columns }
    }
}

/// Fills a column with nulls up to a number of rows.
fn pad(builder: &mut StringBuilder, rows: usize) {
    use arrow::array::ArrayBuilder;
    for _ in builder.len()..rows {
        builder.append_null();
    }
}

impl Decoder for JsonlDecoder {
    fn next(&mut self) -> Result<Option<Decoded>, DecodeError> {
        let mut builders: Vec<StringBuilder> = Vec::new();
        let (mut positions, mut errors, mut bytes) = (Vec::new(), Vec::new(), 0);
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
            let source = &self.request.source;
            let error = |position, code: &str, detail| RecordError {
                source: source.clone(),
                position: Some(position),
                stage: Stage::Decode,
                code: code.to_owned(),
                detail,
            };
            let (position, line) = match record {
                None => {
                    over = true;
                    continue;
                }
                Some(Record::Whole { position, bytes }) => (position, bytes),
                Some(Record::TooLarge { position, bytes }) => {
                    let detail = format!("the line has {bytes} bytes, more than the limit of {}", self.request.max_record_bytes);
                    errors.push(error(position, "record_too_large", detail));
                    continue;
                }
                Some(Record::Unterminated { position }) => {
                    errors.push(error(position, "invalid_json", "the line does not end".to_owned()));
                    continue;
                }
            };
            let line = if position == 0 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let Ok(line) = std::str::from_utf8(line) else {
                errors.push(error(position, "invalid_utf8", "the line is not UTF-8".to_owned()));
                continue;
            };
            let mut values: Vec<Option<&str>> = vec![None; self.columns.names.len()];
            let mut parser = serde_json::Deserializer::from_str(line);
            let parsed = Line { columns: &mut self.columns, values: &mut values }
                .deserialize(&mut parser)
                .and_then(|twice| parser.end().map(|()| twice));
            match parsed {
                Ok(None) => {}
                Ok(Some(twice)) => {
                    errors.push(error(position, "duplicate_key", format!("the object has two fields named {twice:?}")));
                    continue;
                }
                Err(e) if e.classify() == Category::Data => {
                    errors.push(error(position, "not_an_object", format!("the line is JSON, but no object: {}", excerpt(line))));
                    continue;
                }
                Err(e) => {
                    errors.push(error(position, "invalid_json", format!("at column {}: {}", e.column(), without_place(&e))));
                    continue;
                }
            }
            if builders.len() < values.len() {
                builders.resize_with(values.len(), StringBuilder::new);
            }
            for (value, builder) in values.iter().zip(&mut builders) {
                pad(builder, positions.len());
                match value {
                    Some(text) => {
                        bytes += text.len() + 4;
                        builder.append_value(text);
                    }
                    None => builder.append_null(),
                }
            }
            positions.push(position);
        }
        let batch = (!positions.is_empty()).then(|| self.batch(positions, builders));
        if batch.is_none() && errors.is_empty() && over {
            return Ok(None);
        }
        Ok(Some(Decoded { batch, errors }))
    }
}

/// serde_json says the place itself, counting the line from one: here it is the record that has a place.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(what, _)| what.to_owned())
}

fn excerpt(line: &str) -> String {
    let mut short: String = line.chars().take(40).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

/// Parses one line into `values`; gives the name of a wanted field that stands there twice.
struct Line<'c, 'v, 'de> {
    columns: &'c mut Columns,
    values: &'v mut Vec<Option<&'de str>>,
}

impl<'de> DeserializeSeed<'de> for Line<'_, '_, 'de> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Line<'_, '_, 'de> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut place, mut twice) = (0, None);
        while let Some(Key(key)) = map.next_key::<Key<'de>>()? {
            match self.columns.column(place, &key) {
                Some(column) => {
                    let value = map.next_value::<&'de RawValue>()?.get();
                    if self.values.len() <= column {
                        self.values.resize(column + 1, None);
                    }
                    if self.values[column].replace(value).is_some() {
                        twice = Some(key.into_owned());
                    }
                }
                None => drop(map.next_value::<IgnoredAny>()?),
            }
            place += 1;
        }
        Ok(twice)
    }
}

/// A key, borrowed where it holds no escapes.
struct Key<'de>(Cow<'de, str>);

impl<'de> serde::Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}
