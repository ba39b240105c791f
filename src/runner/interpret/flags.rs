//! Which conditions each prediction meets.
//!
//! In: labels and scores, of all classes or of the prediction's own columns. Out: a list of names a row, in the order of the names.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, ListBuilder, StringBuilder},
    compute::cast,
    datatypes::{DataType, Field, Float64Type},
};

use super::{InterpretError, arrays};
use crate::domain::pipeline::flags::Flags;

pub(super) fn field() -> Field {
    Field::new("flags", arrays::list_type(DataType::Utf8), true)
}

/// `values`: a score for each class, row by row.
pub(super) fn of_scores(flags: &Flags, classes: &[String], values: &[f64], rows: usize) -> ArrayRef {
    of_rows(flags, rows, |row| {
        let scores = &values[row * classes.len()..(row + 1) * classes.len()];
        classes.iter().map(String::as_str).zip(scores.iter().copied()).collect()
    })
}

/// From the columns `label` and `score`, or from the boxes of `detections`.
pub(super) fn of_columns(flags: &Flags, fields: &[Field], columns: &[ArrayRef], rows: usize) -> Result<ArrayRef, InterpretError> {
    let column = |name: &str| fields.iter().position(|field| field.name() == name).map(|at| &columns[at]);
    let unknown = |what: &str| InterpretError(format!("flags need labels, and {what}"));
    if let Some(labels) = column("label") {
        let scores = column("score").map(doubles).transpose()?;
        let labels = labels.as_string_opt::<i32>().ok_or_else(|| unknown("the labels are no texts"))?;
        return Ok(of_rows(flags, rows, |row| {
            let score = scores
                .as_ref()
                .and_then(|s| s.as_primitive::<Float64Type>().is_valid(row).then(|| s.as_primitive::<Float64Type>().value(row)));
            labels.is_valid(row).then(|| (labels.value(row), score.unwrap_or(1.0))).into_iter().collect()
        }));
    }
    let boxes = column("detections").and_then(|boxes| boxes.as_list_opt::<i32>()).ok_or_else(|| unknown("there are none"))?;
    let items = boxes.values().as_struct_opt().ok_or_else(|| unknown("the boxes have none"))?;
    let labels = items.column_by_name("label").and_then(|l| l.as_string_opt::<i32>()).ok_or_else(|| unknown("the boxes have none"))?;
    let scores = doubles(items.column_by_name("score").ok_or_else(|| unknown("the boxes have no scores"))?)?;
    let scores = scores.as_primitive::<Float64Type>();
    Ok(of_rows(flags, rows, |row| {
        let offsets = boxes.value_offsets();
        (offsets[row] as usize..offsets[row + 1] as usize).map(|at| (labels.value(at), scores.value(at))).collect()
    }))
}

fn of_rows<'l>(flags: &Flags, rows: usize, scores: impl Fn(usize) -> Vec<(&'l str, f64)>) -> ArrayRef {
    let mut met = ListBuilder::new(StringBuilder::new());
    for row in 0..rows {
        let scores = scores(row);
        for (name, _) in flags.iter().filter(|(_, flag)| flag.is_met(scores.iter().copied())) {
            met.values().append_value(name);
        }
        met.append(true);
    }
    Arc::new(met.finish())
}

fn doubles(array: &ArrayRef) -> Result<ArrayRef, InterpretError> {
    cast(array, &DataType::Float64).map_err(|error| InterpretError(format!("scores are no numbers: {error}")))
}
