//! Output tensors → prediction columns.
//!
//! In: the outputs for some rows and the [`Pipeline`]. Out: one Arrow array a prediction column, of exactly the types that
//! [`prediction_fields`] announced: types depend on the pipeline alone, so all parts of a job have one schema.

mod arrays;
mod classify;
mod detect;
mod embed;
mod flags;
mod raw;
#[cfg(test)]
mod tests;

use arrow::{
    array::ArrayRef,
    datatypes::{DataType, Field},
};

use crate::{
    domain::{Dtype, Pipeline, Task, ValueInfo},
    runner::{featurize::Notes, tensor::Value},
};

/// The outputs do not have the form that the signature declared: the model's fault, not a record's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InterpretError(pub String);

/// Names (without the job's prefix) and types of the prediction columns.
///
/// `raw`: an output `[N]` or `[N, 1]` is a scalar, one with more dimensions a list, nested by its rank; a sequence of maps is a map,
/// a sequence of tensors a list. FP16 becomes Float32, BYTES becomes Utf8. `tabular-classification`: `label` Utf8, `score` Float32
/// (Float64 where the model gives FP64), with `top_k` > 1 lists of these; `probabilities` a map by label where labels are known, a
/// list in class order where they are not. `tabular-regression`: `prediction`, Float32 or Float64 as the model gives it.
/// `object-detection`: `detections`, a list of structs, see [`detect::field`]. `feature-extraction`: `embedding`, Float32 lists, of fixed
/// size where the pipeline or the signature says how long they are. With flags, the last column is `flags`: a list of the names of those
/// that are met.
pub fn prediction_fields(pipeline: &Pipeline) -> Vec<Field> {
    let mut fields = fields_of(pipeline);
    fields.extend((!pipeline.flags.is_empty()).then(flags::field));
    fields
}

fn fields_of(pipeline: &Pipeline) -> Vec<Field> {
    match pipeline.task {
        Task::Raw => pipeline.signature.outputs.iter().map(raw::field).collect(),
        Task::ObjectDetection => vec![detect::field()],
        Task::FeatureExtraction => vec![embed::field(pipeline)],
        Task::TabularClassification | Task::ImageClassification | Task::TextClassification => classify::fields(pipeline),
        Task::TabularRegression => vec![Field::new("prediction", float_type(pipeline.signature.outputs.first()), true)],
    }
}

/// Makes the prediction columns for these rows of a batch, in the order of [`prediction_fields`]. `notes` is what featurizing noted of
/// the whole batch.
///
/// # Errors
/// [`InterpretError`] names the output and what was expected.
pub fn interpret(pipeline: &Pipeline, outputs: Vec<(String, Value)>, of: &[u32], notes: &Notes) -> Result<Vec<ArrayRef>, InterpretError> {
    if pipeline.flags.is_empty() {
        return columns_of(pipeline, outputs, of, notes);
    }
    // A class that is not listed may meet a condition all the same: all scores are looked at, where there are any.
    let scores = if pipeline.task.is_classification() { classify::all_scores(pipeline, &outputs, of.len())? } else { None };
    let mut columns = columns_of(pipeline, outputs, of, notes)?;
    let met = match scores {
        Some(scores) => flags::of_scores(&pipeline.flags, &scores.classes, &scores.values, of.len()),
        None => flags::of_columns(&pipeline.flags, &fields_of(pipeline), &columns, of.len())?,
    };
    columns.push(met);
    Ok(columns)
}

fn columns_of(pipeline: &Pipeline, outputs: Vec<(String, Value)>, of: &[u32], notes: &Notes) -> Result<Vec<ArrayRef>, InterpretError> {
    let rows = of.len();
    match pipeline.task {
        Task::Raw => pipeline.signature.outputs.iter().map(|output| raw::array(output, take(&outputs, &output.name)?, rows)).collect(),
        Task::ObjectDetection => detect::array(pipeline, &outputs, of, notes).map(|column| vec![column]),
        Task::FeatureExtraction => Ok(vec![embed::array(pipeline, &outputs, of, notes)?]),
        Task::TabularClassification | Task::ImageClassification | Task::TextClassification => classify::arrays(pipeline, &outputs, rows),
        Task::TabularRegression => {
            let output = pipeline.signature.outputs.first().ok_or_else(|| InterpretError("the pipeline names no output".to_owned()))?;
            let values = arrays::floats(take(&outputs, &output.name)?, &output.name, rows)?;
            if values.len() != rows {
                let detail =
                    format!("output {:?} gives {} numbers for {rows} records; a regression gives one each", output.name, values.len());
                return Err(InterpretError(detail));
            }
            Ok(vec![arrays::of_floats(&values, &float_type(Some(output)))])
        }
    }
}

fn take<'o>(outputs: &'o [(String, Value)], name: &str) -> Result<&'o Value, InterpretError> {
    let found = outputs.iter().find(|(found, _)| found == name);
    found.map(|(_, value)| value).ok_or_else(|| InterpretError(format!("the model gave no output {name:?}")))
}

/// Float64 where the output holds doubles, Float32 elsewhere.
fn float_type(output: Option<&ValueInfo>) -> DataType {
    match output.and_then(|o| raw::dtype(&o.value)) {
        Some(Dtype::Fp64 | Dtype::Int64 | Dtype::Int32 | Dtype::Uint32 | Dtype::Uint64) => DataType::Float64,
        _ => DataType::Float32,
    }
}
