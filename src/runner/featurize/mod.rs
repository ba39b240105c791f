//! Record batch → named input tensors.
//!
//! In: a batch's columns and the [`Pipeline`]. Out: tensors for groups of rows that can go into the runtime together, and
//! error rows for records that do not fit the model's inputs.

use std::collections::BTreeSet;

use arrow::{array::RecordBatch, datatypes::Schema};

use crate::{domain::Pipeline, runner::tensor::Tensor};

/// The columns that the pipeline reads; `None` when that depends on the data (a single `[N, F]` input that binds by count).
pub fn wanted_columns(_pipeline: &Pipeline) -> Option<BTreeSet<String>> {
    todo!()
}

/// Why a schema does not fit a model: every record of the object becomes an error row with this code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct BindError {
    /// `missing_column`, `column_type`, `ambiguous_columns` …
    pub code: &'static str,
    /// Shows both lists: what the model wants and what the data has.
    pub detail: String,
}

/// Which column fills which input: resolved once for each schema.
#[derive(Debug, Clone)]
pub struct Binding {}

/// Rows whose tensors have the same shape beyond the batch dimension.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Indices into the batch, ascending; the tensors' leading dimension runs over them.
    pub rows: Vec<u32>,
    /// One for each model input, in signature order.
    pub inputs: Vec<(String, Tensor)>,
}

/// A row that cannot be made into tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// Index into the batch.
    pub row: u32,
    /// `missing_value`, `invalid_number`, `out_of_range`, `wrong_length` …
    pub code: &'static str,
    /// Names column and value (a short excerpt).
    pub detail: String,
}

impl Binding {
    /// Binds a schema to the pipeline's inputs.
    ///
    /// # Errors
    /// [`BindError`] when it does not fit.
    pub fn resolve(_pipeline: &Pipeline, _schema: &Schema) -> Result<Self, BindError> {
        todo!()
    }

    /// Makes tensors of a batch of that schema. Every row ends up in exactly one group or one error.
    pub fn featurize(&self, _columns: &RecordBatch) -> (Vec<Group>, Vec<RowError>) {
        todo!()
    }
}
