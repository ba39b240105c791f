//! The outcome of one record that got no prediction.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The data-plane stage in which a record or an object was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The object could not be read from the store.
    Source,
    /// The bytes are not what the format says.
    Decode,
    /// The record does not fit the model's inputs.
    Featurize,
    /// The runtime refused the record.
    Infer,
    /// The model's output makes no prediction.
    Interpret,
    /// The prediction cannot be written in the output format.
    Encode,
}

/// One row of `errors/part-….jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordError {
    /// Key of the object the record came from.
    #[serde(rename = "_source")]
    pub source: Arc<str>,
    /// Row number (Parquet) or byte offset in the decompressed text (CSV, JSON Lines); `None` when the whole object
    /// could not be read and its records could not be counted.
    #[serde(rename = "_position")]
    pub position: Option<u64>,
    /// Where the record was lost.
    pub stage: Stage,
    /// Stable, lower_snake_case.
    pub code: String,
    /// What was wrong; quotes at most a short excerpt of the data.
    pub detail: String,
}
