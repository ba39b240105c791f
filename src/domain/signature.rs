//! What a model takes and gives: names, types and shapes.

use serde::{Deserialize, Serialize};

/// Element types, named as the Open Inference Protocol names them
/// (<https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md#tensor-data-types>).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names are the protocol's")]
pub enum Dtype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    /// UTF-8 strings.
    Bytes,
}

impl Dtype {
    /// The protocol's name, for example `FP32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// Whether NaN can stand for a missing value.
    pub fn is_float(self) -> bool {
        matches!(self, Self::Fp16 | Self::Fp32 | Self::Fp64)
    }
}

/// One dimension of a declared shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dim {
    /// A number.
    Fixed(u64),
    /// A name, or unknown.
    Dynamic(Option<String>),
}

impl Dim {
    /// The number, if it is one.
    pub fn fixed(&self) -> Option<u64> {
        match self {
            Self::Fixed(n) => Some(*n),
            Self::Dynamic(_) => None,
        }
    }
}

/// The type of a model's input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ValueType {
    /// A tensor.
    Tensor {
        /// Element type.
        dtype: Dtype,
        /// `None` when the model does not declare a rank.
        shape: Option<Vec<Dim>>,
    },
    /// A sequence of values.
    Sequence {
        /// Type of each element.
        element: Box<ValueType>,
    },
    /// A map, as ZipMap makes them.
    Map {
        /// Key type: `Int64` or `Bytes`.
        key: Dtype,
        /// Value type.
        value: Box<ValueType>,
    },
}

/// One input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueInfo {
    /// As the graph names it; may hold any character.
    pub name: String,
    /// Its type.
    #[serde(flatten)]
    pub value: ValueType,
}

impl ValueInfo {
    /// Element type and shape, if it is a tensor of declared rank.
    pub fn tensor(&self) -> Option<(Dtype, &[Dim])> {
        match &self.value {
            ValueType::Tensor { dtype, shape: Some(shape) } => Some((*dtype, shape)),
            _ => None,
        }
    }
}

/// A model's inputs (without those that initializers fill) and outputs, in graph order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Inputs a caller must give.
    pub inputs: Vec<ValueInfo>,
    /// All outputs.
    pub outputs: Vec<ValueInfo>,
}

impl Signature {
    /// The fixed leading dimension that all inputs share, if the model declares one; `None` for a dynamic batch.
    pub fn fixed_batch(&self) -> Option<u64> {
        self.inputs.iter().filter_map(|i| i.tensor()).find_map(|(_, shape)| shape.first().and_then(Dim::fixed))
    }
}
