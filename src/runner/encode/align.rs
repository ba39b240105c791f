//! A later batch → the columns of the part it joins.
//!
//! A CSV file has one header and a Parquet file one schema: the first batch's. Columns are matched by name, so another order does no
//! harm. JSON Lines parts need none of this: each line says its own names.

use arrow::{
    array::{ArrayRef, RecordBatch, new_null_array},
    datatypes::FieldRef,
};

use super::{EncodeError, cells::is_json};

/// The columns of `rows` with their fields, in the order of `part`.
///
/// A column of JSON Lines that a batch lacks is null there, like a field that one line lacks.
///
/// # Errors
/// [`EncodeError::SchemaMismatch`] names the column that one side lacks.
pub(super) fn align(part: &[FieldRef], rows: &RecordBatch) -> Result<Vec<(FieldRef, ArrayRef)>, EncodeError> {
    let theirs = rows.schema_ref();
    if let Some(extra) = theirs.fields().iter().find(|field| part.iter().all(|ours| ours.name() != field.name())) {
        return Err(EncodeError::SchemaMismatch(format!(
            "column {:?} is not among the columns of the records before it: {}; name the columns to carry in output.include_input",
            extra.name(),
            names(part)
        )));
    }
    part.iter()
        .map(|ours| match theirs.column_with_name(ours.name()) {
            Some((index, _)) => Ok((theirs.fields()[index].clone(), rows.column(index).clone())),
            None if is_json(ours) => Ok((ours.clone(), new_null_array(ours.data_type(), rows.num_rows()))),
            None => Err(EncodeError::SchemaMismatch(format!("column {:?}, which the records before have, is missing", ours.name()))),
        })
        .collect()
}

/// The first names, enough to see which file they belong to.
fn names(part: &[FieldRef]) -> String {
    const SHOWN: usize = 20;
    let mut names: Vec<String> = part.iter().take(SHOWN).map(|field| format!("{:?}", field.name())).collect();
    if part.len() > SHOWN {
        names.push(format!("and {} more", part.len() - SHOWN));
    }
    names.join(", ")
}
