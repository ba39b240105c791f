//! Rows → JSON Lines: one object a line, UTF-8, `\n` after each.
//!
//! Numbers keep every digit, floats are the shortest text that reads back the same. JSON has no number for NaN and the infinities:
//! they are the strings `"NaN"`, `"Infinity"` and `"-Infinity"`. Cells of CSV input are strings, fields of JSON Lines input stand as
//! they were found, binary data is base64, dates and times are ISO 8601, lists are arrays, structs and maps are objects.

use arrow::array::RecordBatch;

use super::{
    EncodeError,
    cells::{Column, Form},
    nested::member,
};

/// Appends the rows of a batch; nothing is appended when a column has no text.
///
/// # Errors
/// [`EncodeError::Failed`] for a type without a text.
pub(super) fn write(rows: &RecordBatch, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let columns = rows.schema_ref().fields().iter().zip(rows.columns());
    let columns = columns.map(|(field, array)| Ok((before(field.name()), Column::new(field, array.as_ref(), Form::Json)?)));
    let mut columns = columns.collect::<Result<Vec<_>, EncodeError>>()?;
    // Every member but the first comes after a comma.
    if let Some((before_first, _)) = columns.first_mut() {
        before_first.remove(0);
    }
    for row in 0..rows.num_rows() {
        out.push(b'{');
        for (before, column) in &columns {
            out.extend_from_slice(before);
            column.write(row, out);
        }
        out.extend_from_slice(b"}\n");
    }
    Ok(())
}

/// What stands before a value: `,"name":`.
fn before(name: &str) -> Vec<u8> {
    let mut before = vec![b','];
    before.extend(member(name));
    before
}
