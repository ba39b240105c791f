//! Rows → the text that PostgreSQL's `COPY` reads, and the rows that a table cannot hold.
//!
//! Columns are those of the first rows, by their names, as in a Parquet part; which of them are written is for the table to say.

use arrow::{
    array::RecordBatch,
    datatypes::{Field, FieldRef, Fields, Schema},
};

use super::{
    EncodeError,
    align::align,
    cells::{Column, Form, NULL, is_json},
};
use crate::{
    runner::batch::ENCODING,
    tables::{self, Kind, kind_of, text_fault},
};

/// A row that a table cannot hold, and why.
pub type Refused = (usize, String);

/// The columns of rows, as a table sees them.
pub fn columns(schema: &Schema) -> Vec<tables::Column> {
    schema.fields().iter().map(|field| column(field)).collect()
}

/// Cells of text formats are texts until somebody says what they stand for.
fn column(field: &Field) -> tables::Column {
    match field.metadata().contains_key(ENCODING) {
        true => tables::Column::of_open_texts(field.name()),
        false => tables::Column::of(field),
    }
}

/// Encodes the rows of one chunk.
#[derive(Debug)]
pub struct CopyEncoder {
    /// The columns of the first rows.
    fields: Vec<FieldRef>,
    /// Those that are written, in this order, as the table has them.
    written: Vec<tables::Column>,
    /// Names of those among them that tell rows apart: they take no null.
    key: Vec<String>,
}

impl CopyEncoder {
    /// For rows like the first ones.
    pub fn new(first: &Fields, written: Vec<tables::Column>, key: Vec<String>) -> Self {
        Self { fields: first.to_vec(), written, key }
    }

    /// Appends the rows that the table can hold; says which it cannot.
    ///
    /// # Errors
    /// [`EncodeError::SchemaMismatch`] when the columns or their types are not those of the first rows, [`EncodeError::Failed`] for a type
    /// without a text; nothing is appended then.
    pub fn write(&self, rows: &RecordBatch, out: &mut Vec<u8>) -> Result<Vec<Refused>, EncodeError> {
        let aligned = align(&self.fields, rows)?;
        for (ours, (theirs, _)) in self.fields.iter().zip(&aligned) {
            let (ours, theirs) = (column(ours), column(theirs));
            if ours != theirs {
                let detail = format!("column {:?} is {} here and {} in the records before it", ours.name, theirs.sql_type, ours.sql_type);
                return Err(EncodeError::SchemaMismatch(detail));
            }
        }
        let mut cells = Vec::with_capacity(self.written.len());
        for written in &self.written {
            let Some((field, array)) = aligned.iter().find(|(field, _)| *field.name() == written.name) else {
                return Err(EncodeError::Failed(format!("the rows have no column {:?}, which the table has", written.name)));
            };
            let kind = if is_json(field) { Kind::Plain } else { kind_of(field.data_type()) };
            cells.push((Column::new(field, array.as_ref(), Form::Text)?, kind, written));
        }
        let (mut refused, mut text) = (Vec::new(), Vec::new());
        for row in 0..rows.num_rows() {
            let start = out.len();
            for (at, (column, kind, written)) in cells.iter().enumerate() {
                text.clear();
                column.write(row, &mut text);
                if at > 0 {
                    out.push(b'\t');
                }
                let is_text = !written.open || written.sql_type == "text" || written.sql_type.starts_with("character");
                if text.is_empty() && !is_text {
                    text.extend_from_slice(NULL);
                }
                let why = fault(&text, *kind, self.key.contains(&written.name));
                let why = why.or_else(|| {
                    if is_text || text == NULL { None } else { text_fault(&String::from_utf8_lossy(&text), &written.sql_type) }
                });
                if let Some(why) = why {
                    refused.push((row, format!("column {:?}: {why}", written.name)));
                    out.truncate(start);
                    break;
                }
                cell(&text, out);
            }
            if refused.last().is_none_or(|(last, _)| *last != row) {
                out.push(b'\n');
            }
        }
        Ok(refused)
    }
}

/// Why PostgreSQL would not take a text as such a value.
fn fault(text: &[u8], kind: Kind, is_key: bool) -> Option<&'static str> {
    if text == NULL {
        return is_key.then_some("it is null, and rows are told apart by it");
    }
    if text.contains(&0) {
        return Some("it holds a NUL character, which no text of PostgreSQL can");
    }
    match kind {
        Kind::Plain => None,
        Kind::Json => has_escaped_nul(text).then_some("a text in it holds a NUL character, which no text of PostgreSQL can"),
        Kind::Temporal => temporal_fault(text),
    }
}

/// Whether JSON holds `\u0000`, which stands for a NUL unless its backslash is itself escaped.
fn has_escaped_nul(json: &[u8]) -> bool {
    json.windows(6)
        .enumerate()
        .any(|(at, six)| six == b"\\u0000" && json[..at].iter().rev().take_while(|byte| **byte == b'\\').count().is_multiple_of(2))
}

/// Years outside 1 to 9999 are written otherwise, and a microsecond is the finest that there is. Of an array each item counts.
fn temporal_fault(text: &[u8]) -> Option<&'static str> {
    for item in text.split(|byte| matches!(byte, b'{' | b'}' | b',' | b'"')) {
        if item.starts_with(b"+") || item.starts_with(b"-") || item.starts_with(b"0000-") {
            return Some("it lies outside the years 1 to 9999, or outside of a day");
        }
        let fraction = item.split(|byte| *byte == b'.').nth(1).unwrap_or_default();
        if fraction.iter().take_while(|byte| byte.is_ascii_digit()).count() > 6 {
            return Some("it is finer than a microsecond, the finest time of PostgreSQL");
        }
    }
    None
}

/// A cell in the text form of `COPY`.
fn cell(text: &[u8], out: &mut Vec<u8>) {
    if text == NULL {
        out.extend_from_slice(b"\\N");
        return;
    }
    for byte in text {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            other => out.push(*other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, BinaryArray, Float32Array, Int64Array, ListArray, StringArray, TimestampNanosecondArray, UInt64Array},
        datatypes::{Field, Int32Type, Schema},
    };

    use super::*;

    fn rows(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        let fields: Vec<Field> = columns.iter().map(|(name, array)| Field::new(*name, array.data_type().clone(), true)).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, array)| array).collect()).unwrap()
    }

    fn encode(rows: &RecordBatch, key: &[&str]) -> (String, Vec<Refused>) {
        let key = key.iter().map(ToString::to_string).collect();
        let mut out = Vec::new();
        let refused = CopyEncoder::new(rows.schema().fields(), columns(rows.schema_ref()), key).write(rows, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), refused)
    }

    #[test]
    fn cells_are_written_as_copy_reads_them() {
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
        let batch = rows(vec![
            ("text", Arc::new(StringArray::from(vec![Some("a\tb\\c\nd\r"), None, Some("")]))),
            ("big", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None, Some(0)]))),
            ("real", Arc::new(Float32Array::from(vec![0.1, f32::NAN, f32::NEG_INFINITY]))),
            ("bytes", Arc::new(BinaryArray::from(vec![Some(&[0u8, 255][..]), Some(b""), None]))),
            ("list", Arc::new(lists)),
        ]);
        let (text, refused) = encode(&batch, &[]);
        let wanted = "a\\tb\\\\c\\nd\\r\t18446744073709551615\t0.1\t\\\\x00ff\t{\"1\",NULL}\n\
                      \\N\t\\N\tNaN\t\\\\x\t\\N\n\t0\t-Infinity\t\\N\t{}\n";
        assert_eq!((text.as_str(), refused.len()), (wanted, 0));
    }

    #[test]
    fn what_a_table_cannot_hold_costs_its_row_alone() {
        let batch = rows(vec![
            ("id", Arc::new(Int64Array::from(vec![Some(1), Some(2), None, Some(4), Some(5)]))),
            ("text", Arc::new(StringArray::from(vec!["a", "b\0", "c", "d", "e"]))),
            ("at", Arc::new(TimestampNanosecondArray::from(vec![1_000, 0, 0, 1, 0]))),
        ]);
        let (text, refused) = encode(&batch, &["id"]);
        assert_eq!(text, "1\ta\t1970-01-01T00:00:00.000001\n5\te\t1970-01-01T00:00:00\n");
        assert_eq!(refused.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 2, 3], "{refused:?}");
    }

    #[test]
    fn open_texts_are_read_as_the_table_has_them() {
        let text = Field::new("n", arrow::datatypes::DataType::Utf8, true);
        let field = text.with_metadata([(ENCODING, crate::runner::batch::ENCODING_CSV)]);
        let array: ArrayRef = Arc::new(StringArray::from(vec!["12", "", "1e3", "9223372036854775808"]));
        let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![array]).unwrap();
        for (sql_type, wanted, refused) in [
            ("text", "12\n\n1e3\n9223372036854775808\n", vec![]),
            ("bigint", "12\n\\N\n", vec![2, 3]),
            ("double precision", "12\n\\N\n1e3\n9223372036854775808\n", vec![]),
        ] {
            let written = vec![tables::Column { sql_type: sql_type.to_owned(), ..columns(batch.schema_ref()).remove(0) }];
            let mut out = Vec::new();
            let rows = CopyEncoder::new(batch.schema().fields(), written, Vec::new()).write(&batch, &mut out).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), wanted, "{sql_type}");
            assert_eq!(rows.into_iter().map(|(row, _)| row).collect::<Vec<_>>(), refused, "{sql_type}");
        }
    }

    #[test]
    fn an_escaped_backslash_before_u0000_is_no_nul() {
        assert!(has_escaped_nul(br#"{"a":"x\u0000"}"#) && has_escaped_nul(br#""\\\u0000""#));
        assert!(!has_escaped_nul(br#"{"a":"\\u0000"}"#));
    }
}
