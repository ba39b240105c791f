//! Output tensors → prediction columns.
//!
//! In: the outputs for some rows and the [`Pipeline`]. Out: one Arrow array a prediction column, of exactly the types that
//! [`prediction_fields`] announced: types depend on the pipeline alone, so all parts of a job have one schema.

use arrow::{array::ArrayRef, datatypes::Field};

use crate::{domain::Pipeline, runner::tensor::Value};

/// The outputs do not have the form that the signature declared: the model's fault, not a record's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InterpretError(pub String);

/// Names (without the job's prefix) and types of the prediction columns.
pub fn prediction_fields(_pipeline: &Pipeline) -> Vec<Field> {
    todo!()
}

/// Makes the prediction columns for `rows` rows, in the order of [`prediction_fields`].
///
/// # Errors
/// [`InterpretError`] names the output and what was expected.
pub fn interpret(_pipeline: &Pipeline, _outputs: Vec<(String, Value)>, _rows: usize) -> Result<Vec<ArrayRef>, InterpretError> {
    todo!()
}
