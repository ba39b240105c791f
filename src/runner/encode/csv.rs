//! Rows → CSV by RFC 4180, with a header and `\n` after each record.
//!
//! Quotes stand only where a comma, a quote or a line break needs them. Null is an empty cell, NaN and the infinities are `NaN`,
//! `Infinity` and `-Infinity`, nested values are their JSON, JSON strings are their characters. A cell that a spreadsheet would take
//! for a formula is data and stays as it is.

use arrow::{array::RecordBatch, datatypes::FieldRef};

use super::{
    EncodeError,
    align::align,
    cells::{Column, Form},
    text,
};

/// The header of one part, once the first rows have given it.
///
/// Only names count: text has no types, so a column that is `Int32` in one object and `Int64` in the next is one column.
#[derive(Debug, Default)]
pub(super) struct Csv {
    header: Option<Vec<FieldRef>>,
}

impl Csv {
    /// Appends the rows of a batch, and the header before the first.
    ///
    /// # Errors
    /// [`EncodeError::SchemaMismatch`], or [`EncodeError::Failed`] for a type without a text; nothing is appended then.
    pub(super) fn write(&mut self, rows: &RecordBatch, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let first = rows.schema_ref().fields();
        let aligned = align(self.header.as_deref().unwrap_or(first), rows)?;
        let columns = aligned.iter().map(|(field, array)| Column::new(field, array.as_ref(), Form::Csv));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        if self.header.is_none() {
            record(first, out, |field, out| {
                let start = out.len();
                out.extend_from_slice(field.name().as_bytes());
                text::csv_cell(start, out);
            });
            self.header = Some(first.to_vec());
        }
        for row in 0..rows.num_rows() {
            record(&columns, out, |column, out| column.write(row, out));
        }
        Ok(())
    }
}

fn record<T>(cells: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    for (n, cell) in cells.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write(cell, out);
    }
    out.push(b'\n');
}
