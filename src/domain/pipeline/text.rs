//! How a text becomes tensors, and a text model's output a vector.

use serde::{Deserialize, Serialize};

/// The `text` part of a pipeline section: every field optional.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct TextSpec {
    /// The column that holds the text; `text` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The column that holds a second text, for models that compare two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair: Option<String>,
    /// Most tokens of a record, special ones included; what is longer is truncated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u32>,
}

impl TextSpec {
    /// `self` with its gaps filled from `base`.
    #[must_use]
    pub fn over(self, base: TextSpec) -> TextSpec {
        TextSpec { column: self.column.or(base.column), pair: self.pair.or(base.pair), max_length: self.max_length.or(base.max_length) }
    }
}

/// How texts become the model's inputs: no choice is left open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// The tokenizer's file, relative to the model's folder.
    pub tokenizer: String,
    /// The column that holds the text.
    pub column: String,
    /// The column that holds a second text.
    pub pair: Option<String>,
    /// Most tokens of a record, special ones included.
    pub max_length: Option<u32>,
    /// Where a text that is too long loses tokens.
    pub truncation_side: Side,
    /// What fills up rows that are shorter than the longest of their batch.
    pub padding: Padding,
    /// The position of a text's first token, for models that take positions.
    pub first_position: u32,
}

/// An end of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Its beginning.
    Left,
    /// Its end.
    #[default]
    Right,
}

/// The token that stands where a row has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Padding {
    /// Where it is put.
    pub side: Side,
    /// Its id.
    pub id: u32,
    /// Its token type.
    pub type_id: u32,
}

/// What makes one vector of a vector a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The mean over tokens that are no padding.
    Mean,
    /// The first token's.
    Cls,
    /// The largest of each element over tokens that are no padding.
    Max,
    /// The last token's that is no padding.
    Last,
    /// The model gives one vector a record already.
    None,
}

/// How a model's output becomes an embedding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Embedding {
    /// The output that holds it.
    pub output: String,
    /// What makes one vector of a vector a token.
    pub pooling: Pooling,
    /// Whether vectors are divided by their Euclidean length, after truncation.
    pub normalize: bool,
    /// How many of the first elements are kept; all when absent.
    pub dimensions: Option<u32>,
}
