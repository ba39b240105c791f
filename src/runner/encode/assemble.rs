//! One decoded batch and its predictions → the rows of a part.
//!
//! Columns in order: `_source`, `_position`, the chosen input columns, the predictions. Input columns keep the metadata that says
//! how their text is meant ([`ENCODING`](crate::runner::batch::ENCODING)): the encoders need it.

use std::{collections::HashSet, sync::Arc};

use arrow::{
    array::{ArrayRef, Int64Array, RecordBatch, StringArray, new_null_array},
    datatypes::{DataType, Field, FieldRef, Schema},
};

use super::{EncodeError, cells::is_json};
use crate::{
    domain::spec::IncludeInput,
    runner::batch::{Batch, CARRIED, ENCODING, ENCODING_JSON, Provenance},
};

/// Name of the column with the object's key.
pub const SOURCE: &str = "_source";
/// Name of the column with the record's row number or byte offset.
pub const POSITION: &str = "_position";

/// Puts provenance, the chosen input columns and the predictions side by side.
///
/// `predictions` are as long as `batch`; `prefix` goes before their names. `_source` is `Utf8`, `_position` is `Int64` for the sake of
/// readers without unsigned types. In JSON Lines a field that no record of the batch has is null in all of them, as it would be had
/// one record had it: otherwise the outcome of a record would depend on its neighbours.
///
/// # Errors
/// [`EncodeError::MissingColumn`], or [`EncodeError::SchemaMismatch`] when an input column has a prediction's name or that of a
/// provenance column.
pub fn assemble(
    batch: &Batch,
    include: &IncludeInput,
    predictions: &[(Arc<Field>, ArrayRef)],
    prefix: &str,
) -> Result<RecordBatch, EncodeError> {
    let mut columns = provenance(&batch.provenance)?;
    columns.extend(inputs(&batch.columns, include)?);
    columns.extend(predictions.iter().map(|(field, array)| {
        let name = format!("{prefix}{}", field.name());
        (Arc::new(field.as_ref().clone().with_name(name)), array.clone())
    }));
    refuse_doubles(&columns)?;
    let (fields, arrays): (Vec<FieldRef>, Vec<ArrayRef>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(|error| EncodeError::Failed(error.to_string()))
}

type Columns = Vec<(FieldRef, ArrayRef)>;

fn provenance(provenance: &Provenance) -> Result<Columns, EncodeError> {
    let sources: StringArray = (0..provenance.rows.len()).map(|row| Some(provenance.source(row).as_ref())).collect();
    let position =
        |position: u64| i64::try_from(position).map_err(|_| EncodeError::Failed(format!("position {position} is above 2^63 - 1")));
    let positions = provenance.rows.iter().map(|row| position(row.position)).collect::<Result<Vec<_>, _>>()?;
    Ok(vec![
        (Arc::new(Field::new(SOURCE, DataType::Utf8, false)), Arc::new(sources)),
        (Arc::new(Field::new(POSITION, DataType::Int64, false)), Arc::new(Int64Array::from(positions))),
    ])
}

fn inputs(columns: &RecordBatch, include: &IncludeInput) -> Result<Columns, EncodeError> {
    let schema = columns.schema_ref();
    match include {
        IncludeInput::None => Ok(Vec::new()),
        IncludeInput::All => Ok((0..schema.fields().len()).filter_map(|index| carried(columns, index)).collect()),
        IncludeInput::Columns(names) => names
            .iter()
            .map(|name| match schema.column_with_name(name).and_then(|(index, _)| carried(columns, index)) {
                Some(column) => Ok(column),
                None if schema.fields().iter().any(|field| is_json(field)) => Ok(absent(name, columns.num_rows())),
                None => Err(EncodeError::MissingColumn(format!("the data has no column {name:?}, which include_input names"))),
            })
            .collect(),
    }
}

/// A column as the output carries it: as it was found, where something else was made of it for the model. `None` for a column that
/// stands for another.
fn carried(columns: &RecordBatch, index: usize) -> Option<(FieldRef, ArrayRef)> {
    let fields = columns.schema_ref().fields();
    if fields[index].metadata().contains_key(CARRIED) {
        return None;
    }
    let name = fields[index].name();
    let found = fields.iter().position(|field| field.metadata().get(CARRIED) == Some(name));
    let Some(found) = found else { return Some((fields[index].clone(), columns.column(index).clone())) };
    let mut metadata = fields[found].metadata().clone();
    metadata.remove(CARRIED);
    let field = fields[found].as_ref().clone().with_name(name).with_metadata(metadata);
    Some((Arc::new(field), columns.column(found).clone()))
}

/// The column of a field that no record has.
fn absent(name: &str, rows: usize) -> (FieldRef, ArrayRef) {
    let field = Field::new(name, DataType::Utf8, true).with_metadata([(ENCODING, ENCODING_JSON)]);
    (Arc::new(field), new_null_array(&DataType::Utf8, rows))
}

fn refuse_doubles(columns: &Columns) -> Result<(), EncodeError> {
    let mut seen = HashSet::new();
    match columns.iter().find(|(field, _)| !seen.insert(field.name())) {
        None => Ok(()),
        Some((field, _)) => Err(EncodeError::SchemaMismatch(format!(
            "two columns of the output would be named {:?}: set output.prediction_prefix, or name the input columns to carry in \
             output.include_input",
            field.name()
        ))),
    }
}

/// Whether a column of a part says where its record came from.
pub(super) fn is_provenance(name: &str) -> bool {
    matches!(name, SOURCE | POSITION)
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{AsArray, Float32Array},
        datatypes::Metadata,
    };

    use super::*;
    use crate::runner::batch::RowId;

    fn column(name: &str, encoding: Option<&str>) -> (FieldRef, ArrayRef) {
        let metadata = encoding.map_or_else(Metadata::default, |encoding| [(ENCODING, encoding)].into());
        let field = Field::new(name, DataType::Utf8, true).with_metadata(metadata);
        (Arc::new(field), Arc::new(StringArray::from(vec![format!("{name} 1"), format!("{name} 2")])))
    }

    fn of(columns: Vec<(FieldRef, ArrayRef)>) -> Batch {
        let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let provenance = Provenance {
            sources: vec!["in/a".into(), "in/b".into()],
            rows: vec![RowId { source: 1, position: 40 }, RowId { source: 0, position: 7 }],
        };
        Batch { provenance, columns: RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap() }
    }

    fn typed() -> Batch {
        of(vec![column("id", None), column("amount", None)])
    }

    fn predictions() -> Vec<(FieldRef, ArrayRef)> {
        vec![
            (Arc::new(Field::new("label", DataType::Utf8, true)), Arc::new(StringArray::from(vec!["a", "b"]))),
            (Arc::new(Field::new("score", DataType::Float32, true)), Arc::new(Float32Array::from(vec![0.5, 0.25]))),
        ]
    }

    fn names(rows: &RecordBatch) -> Vec<String> {
        rows.schema_ref().fields().iter().map(|field| field.name().clone()).collect()
    }

    #[test]
    fn rows_say_where_they_came_from() {
        let rows = assemble(&typed(), &IncludeInput::None, &predictions(), "").unwrap();
        assert_eq!(names(&rows), ["_source", "_position", "label", "score"]);
        assert_eq!(rows.column(0).as_string::<i32>(), &StringArray::from(vec!["in/b", "in/a"]));
        assert_eq!(rows.column(1).as_ref(), &Int64Array::from(vec![40, 7]));
    }

    #[test]
    fn input_columns_come_in_the_order_asked_for_before_the_predictions() {
        let of = |include| names(&assemble(&typed(), &include, &predictions(), "p_").unwrap())[2..].to_vec();
        assert_eq!(of(IncludeInput::All), ["id", "amount", "p_label", "p_score"]);
        assert_eq!(of(IncludeInput::Columns(vec!["amount".into(), "id".into()])), ["amount", "id", "p_label", "p_score"]);
        assert_eq!(of(IncludeInput::Columns(vec!["id".into()])), ["id", "p_label", "p_score"]);
        assert_eq!(of(IncludeInput::None), ["p_label", "p_score"]);
    }

    #[test]
    fn columns_keep_how_their_text_is_meant() {
        let batch = of(vec![column("id", Some("csv"))]);
        let rows = assemble(&batch, &IncludeInput::All, &[], "").unwrap();
        assert_eq!(rows.schema_ref().field(2).metadata().get(ENCODING).map(String::as_str), Some("csv"));
    }

    #[test]
    fn a_column_of_which_something_was_made_is_carried_as_it_was_found() {
        let made = column("image", None);
        let (found, texts) = column("found", Some("csv"));
        let mut metadata = found.metadata().clone();
        metadata.insert(CARRIED.to_owned(), "image".to_owned());
        let batch = of(vec![column("id", None), made, (Arc::new(found.as_ref().clone().with_metadata(metadata)), texts)]);
        for include in [IncludeInput::All, IncludeInput::Columns(vec!["id".into(), "image".into()])] {
            let rows = assemble(&batch, &include, &[], "").unwrap();
            assert_eq!(names(&rows)[2..], ["id", "image"]);
            assert_eq!(rows.column(3).as_string::<i32>().value(0), "found 1");
            assert_eq!(rows.schema_ref().field(3).metadata().len(), 1, "how it is written is known, and nothing else");
        }
    }

    #[test]
    fn a_column_that_the_data_lacks_is_named() {
        let include = IncludeInput::Columns(vec!["id".into(), "amuont".into()]);
        let error = assemble(&typed(), &include, &predictions(), "").unwrap_err();
        assert!(matches!(&error, EncodeError::MissingColumn(why) if why.contains("\"amuont\"")), "{error}");
    }

    #[test]
    fn a_json_field_that_no_record_of_the_batch_has_is_null() {
        let batch = of(vec![column("id", Some(ENCODING_JSON))]);
        let rows = assemble(&batch, &IncludeInput::Columns(vec!["note".into(), "id".into()]), &[], "").unwrap();
        assert_eq!(names(&rows)[2..], ["note", "id"]);
        assert_eq!(rows.column(2).null_count(), 2);
        assert!(is_json(rows.schema_ref().field(2)));
    }

    #[test]
    fn no_two_columns_have_one_name() {
        for (batch, prefix, name) in [
            (of(vec![column("label", None)]), "", "\"label\""),
            (of(vec![column("p_score", None)]), "p_", "\"p_score\""),
            (of(vec![column("_source", None)]), "", "\"_source\""),
            (typed(), "", ""),
        ] {
            let result = assemble(&batch, &IncludeInput::All, &predictions(), prefix);
            match result {
                Err(EncodeError::SchemaMismatch(why)) => assert!(!name.is_empty() && why.contains(name), "{why}"),
                other => assert!(name.is_empty() && other.is_ok(), "{other:?}"),
            }
        }
        let collides = of(vec![column("label", None)]);
        assert!(assemble(&collides, &IncludeInput::All, &predictions(), "p_").is_ok(), "a prefix keeps them apart");
        assert!(assemble(&collides, &IncludeInput::None, &predictions(), "").is_ok(), "what is not carried does not collide");
    }

    #[test]
    fn predictions_of_another_length_fail() {
        let short: Vec<(FieldRef, ArrayRef)> =
            vec![(Arc::new(Field::new("y", DataType::Float32, true)), Arc::new(Float32Array::from(vec![1.0])))];
        assert!(matches!(assemble(&typed(), &IncludeInput::None, &short, ""), Err(EncodeError::Failed(_))));
    }
}
