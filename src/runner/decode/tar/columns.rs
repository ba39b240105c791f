//! Samples → the columns of a batch.
//!
//! `__key__` is the sample's name. Pictures are the Binary column `image`; `.txt` is the text column `text`, `.cls` the column `cls` with
//! its number or name; of `.json` the fields are columns when it holds an object, and the column `json` when it holds anything else;
//! every other file is a Binary column named by its extension. Where a field has the name of a file's column, the file is taken.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{ArrayRef, BinaryBuilder, RecordBatch, RecordBatchOptions},
    datatypes::{DataType, Field, FieldRef, Schema},
    error::ArrowError,
};
use serde_json::value::RawValue;

use super::{
    super::{
        Projection,
        batches::{Columns, Fault, Pushed},
        column::TextColumn,
        jsonl::JsonColumns,
    },
    sample::{MOST_COLUMNS, Sample},
};
use crate::runner::{
    batch::{ENCODING, ENCODING_CSV},
    decode::whole::{IMAGE, TEXT},
};

/// The column with a sample's name.
const KEY: &str = "__key__";
/// The column of class files.
const CLASS: &str = "cls";
/// What JSON files are called, and the column of those that hold no object.
const JSON: &str = "json";

/// The columns of a batch under construction.
pub(super) struct SampleColumns {
    projection: Projection,
    keys: TextColumn,
    files: Vec<(String, Cells)>,
    json: JsonColumns,
    rows: usize,
    bytes: usize,
}

/// Cells of one column.
enum Cells {
    Text(TextColumn),
    Bytes(BinaryBuilder),
}

impl SampleColumns {
    pub(super) fn new(projection: &Projection, max_bytes: usize) -> Self {
        let of_json = match projection {
            Projection::All => Projection::All,
            Projection::Only(names) => {
                let fields = names.iter().filter(|n| ![KEY, IMAGE, TEXT, CLASS].contains(&n.as_str()));
                Projection::Only(Arc::new(fields.cloned().collect()))
            }
        };
        let json = JsonColumns::new(&of_json, max_bytes);
        Self { projection: projection.clone(), keys: TextColumn::new(), files: Vec::new(), json, rows: 0, bytes: 0 }
    }

    /// Whether the files of this column are needed. A JSON file is, as soon as some column may be one of its fields.
    pub(super) fn wants(&self, column: &str) -> bool {
        match &self.projection {
            Projection::All => true,
            Projection::Only(names) if column == JSON => names.iter().any(|n| ![KEY, IMAGE, TEXT, CLASS].contains(&n.as_str())),
            Projection::Only(names) => names.contains(column),
        }
    }

    /// Adds a sample as the next row.
    pub(super) fn push(&mut self, sample: &Sample) -> Pushed {
        let new = sample.files.iter().filter(|(name, _)| !self.files.iter().any(|(known, _)| known == name)).count();
        if self.rows > 0 && self.files.len() + new > MOST_COLUMNS {
            return Pushed::Full;
        }
        if let Some(fault) = sample.files.iter().find_map(|(name, bytes)| unreadable(name, bytes)) {
            return Pushed::Fault(fault);
        }
        // The one step that can fail comes first: it takes back what it has added.
        let line = match sample.files.iter().find(|(name, _)| name == JSON).map(|(_, bytes)| json_line(bytes)) {
            Some(Ok(line)) => line,
            Some(Err(fault)) => return Pushed::Fault(fault),
            None => "{}".to_owned(),
        };
        match self.json.push(self.rows, &line) {
            Pushed::Row => {}
            Pushed::Fault(fault) => {
                return Pushed::Fault(Fault { detail: format!("the sample's JSON file: {}", fault.detail), ..fault });
            }
            Pushed::Full => return Pushed::Full,
        }
        self.keys.push(&sample.key);
        for (name, bytes) in sample.files.iter().filter(|(name, _)| name != JSON) {
            self.bytes += bytes.len();
            let (rows, cells) = (self.rows, self.cells(name));
            cells.pad(rows);
            cells.push(bytes);
        }
        self.rows += 1;
        self.files.iter_mut().for_each(|(_, cells)| cells.pad(self.rows));
        Pushed::Row
    }

    /// About how many bytes the columns hold.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.json.bytes() + self.keys.bytes() + self.files.len() * self.rows * size_of::<i32>()
    }

    /// The columns; they are empty then.
    ///
    /// # Errors
    /// None that data can cause.
    pub(super) fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let json = self.json.finish(rows)?;
        let keys = self.keys.finish();
        let mut columns: Vec<(FieldRef, ArrayRef)> = Vec::new();
        if self.wants(KEY) {
            columns.push((Arc::new(Field::new(KEY, DataType::Utf8, true)), keys));
        }
        columns.extend(std::mem::take(&mut self.files).into_iter().map(|(name, cells)| cells.finish(&name)));
        let fields = json.schema_ref().fields().iter().cloned().zip(json.columns().iter().cloned());
        let of_fields: Vec<_> = fields.filter(|(field, _)| columns.iter().all(|(taken, _)| taken.name() != field.name())).collect();
        columns.extend(of_fields);
        let (fields, arrays): (Vec<FieldRef>, Vec<ArrayRef>) = columns.into_iter().unzip();
        RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &RecordBatchOptions::new().with_row_count(Some(rows)))
    }

    fn cells(&mut self, name: &str) -> &mut Cells {
        let place = match self.files.iter().position(|(known, _)| known == name) {
            Some(place) => place,
            None => {
                let cells = if is_text(name) { Cells::Text(TextColumn::new()) } else { Cells::Bytes(BinaryBuilder::new()) };
                self.files.push((name.to_owned(), cells));
                self.files.len() - 1
            }
        };
        &mut self.files[place].1
    }
}

impl Cells {
    fn len(&self) -> usize {
        match self {
            Self::Text(column) => column.len(),
            Self::Bytes(builder) => arrow::array::ArrayBuilder::len(builder),
        }
    }

    fn pad(&mut self, rows: usize) {
        let missing = rows.saturating_sub(self.len());
        match self {
            Self::Text(column) => column.pad(rows),
            Self::Bytes(builder) => (0..missing).for_each(|_| builder.append_null()),
        }
    }

    /// Bytes of a text column have been seen to be UTF-8.
    fn push(&mut self, bytes: &[u8]) {
        match self {
            Self::Text(column) => column.push(std::str::from_utf8(bytes).unwrap_or_default().trim_start_matches('\u{FEFF}')),
            Self::Bytes(builder) => builder.append_value(bytes),
        }
    }

    fn finish(self, name: &str) -> (FieldRef, ArrayRef) {
        match self {
            Self::Text(mut column) => {
                let mut field = Field::new(name, DataType::Utf8, true);
                // What a class is, a number or a name, is decided by the input that it is bound to.
                if name == CLASS {
                    field = field.with_metadata(HashMap::from([(ENCODING.to_owned(), ENCODING_CSV.to_owned())]));
                }
                (Arc::new(field), column.finish())
            }
            Self::Bytes(mut builder) => (Arc::new(Field::new(name, DataType::Binary, true)), Arc::new(builder.finish())),
        }
    }
}

fn is_text(column: &str) -> bool {
    matches!(column, TEXT | CLASS)
}

fn unreadable(column: &str, bytes: &[u8]) -> Option<Fault> {
    let error = (is_text(column) || column == JSON).then(|| std::str::from_utf8(bytes).err())??;
    let detail = format!("byte {} of the sample's {column} file is not valid UTF-8", error.valid_up_to());
    Some(Fault { code: "invalid_utf8", detail })
}

/// The one line of JSON that a file's content makes.
fn json_line(bytes: &[u8]) -> Result<String, Fault> {
    let text = std::str::from_utf8(bytes).unwrap_or_default().trim_start_matches('\u{FEFF}').trim();
    let value: &RawValue =
        serde_json::from_str(text).map_err(|error| Fault { code: "invalid_json", detail: format!("the sample's JSON file: {error}") })?;
    // Line breaks of valid JSON stand between its tokens; what is carried to the output must have none.
    let line = value.get().replace(['\n', '\r'], " ");
    Ok(if line.starts_with('{') { line } else { format!("{{\"{JSON}\":{line}}}") })
}
