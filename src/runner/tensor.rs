//! Tensors and the other values that models take and give, outside the runtime's memory.

use half::f16;

use crate::domain::Dtype;

/// The elements of a tensor, row-major.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are those of Dtype")]
pub enum TensorData {
    Bool(Vec<bool>),
    Uint8(Vec<u8>),
    Uint16(Vec<u16>),
    Uint32(Vec<u32>),
    Uint64(Vec<u64>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Fp16(Vec<f16>),
    Fp32(Vec<f32>),
    Fp64(Vec<f64>),
    Bytes(Vec<String>),
}

/// Runs `$body` with `$v` bound to the vector inside a [`TensorData`], whatever its element type.
#[macro_export]
macro_rules! each_tensor_data {
    ($data:expr, $v:ident => $body:expr) => {
        match $data {
            $crate::runner::tensor::TensorData::Bool($v) => $body,
            $crate::runner::tensor::TensorData::Uint8($v) => $body,
            $crate::runner::tensor::TensorData::Uint16($v) => $body,
            $crate::runner::tensor::TensorData::Uint32($v) => $body,
            $crate::runner::tensor::TensorData::Uint64($v) => $body,
            $crate::runner::tensor::TensorData::Int8($v) => $body,
            $crate::runner::tensor::TensorData::Int16($v) => $body,
            $crate::runner::tensor::TensorData::Int32($v) => $body,
            $crate::runner::tensor::TensorData::Int64($v) => $body,
            $crate::runner::tensor::TensorData::Fp16($v) => $body,
            $crate::runner::tensor::TensorData::Fp32($v) => $body,
            $crate::runner::tensor::TensorData::Fp64($v) => $body,
            $crate::runner::tensor::TensorData::Bytes($v) => $body,
        }
    };
}

macro_rules! from_vec {
    ($($type:ty => $variant:ident),*) => {$(
        impl From<Vec<$type>> for TensorData {
            fn from(values: Vec<$type>) -> Self {
                Self::$variant(values)
            }
        }
    )*};
}

from_vec!(bool => Bool, u8 => Uint8, u16 => Uint16, u32 => Uint32, u64 => Uint64, i8 => Int8, i16 => Int16, i32 => Int32, i64 => Int64,
          f16 => Fp16, f32 => Fp32, f64 => Fp64, String => Bytes);

impl TensorData {
    /// Number of elements.
    pub fn len(&self) -> usize {
        each_tensor_data!(self, v => v.len())
    }

    /// Bytes of the elements; of texts, of their handles alone.
    pub fn bytes(&self) -> usize {
        each_tensor_data!(self, v => std::mem::size_of_val(v.as_slice()))
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether other elements are the same to the bit: what is not a number is, with the same bits.
    pub fn same_bits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Fp16(a), Self::Fp16(b)) => a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())),
            (Self::Fp32(a), Self::Fp32(b)) => a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())),
            (Self::Fp64(a), Self::Fp64(b)) => a.iter().map(|v| v.to_bits()).eq(b.iter().map(|v| v.to_bits())),
            _ => self == other,
        }
    }

    /// Element type.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Bool(_) => Dtype::Bool,
            Self::Uint8(_) => Dtype::Uint8,
            Self::Uint16(_) => Dtype::Uint16,
            Self::Uint32(_) => Dtype::Uint32,
            Self::Uint64(_) => Dtype::Uint64,
            Self::Int8(_) => Dtype::Int8,
            Self::Int16(_) => Dtype::Int16,
            Self::Int32(_) => Dtype::Int32,
            Self::Int64(_) => Dtype::Int64,
            Self::Fp16(_) => Dtype::Fp16,
            Self::Fp32(_) => Dtype::Fp32,
            Self::Fp64(_) => Dtype::Fp64,
            Self::Bytes(_) => Dtype::Bytes,
        }
    }
}

/// A tensor: `data.len()` is the product of `shape`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Dimensions; empty for a scalar.
    pub shape: Vec<usize>,
    /// Elements, row-major.
    pub data: TensorData,
}

/// The keys of a map.
#[derive(Debug, Clone, PartialEq)]
pub enum MapKeys {
    /// `map(int64, …)`.
    Int64(Vec<i64>),
    /// `map(string, …)`.
    Bytes(Vec<String>),
}

/// What a model gives for one output.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// A sequence; ZipMap gives one map a record.
    Sequence(Vec<Value>),
    /// A map from key to scalar, keys in the runtime's order.
    Map {
        /// The keys.
        keys: MapKeys,
        /// As many values.
        values: TensorData,
    },
}

impl Value {
    /// Whether another value is the same to the bit.
    pub fn same_bits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tensor(a), Self::Tensor(b)) => a.shape == b.shape && a.data.same_bits(&b.data),
            (Self::Sequence(a), Self::Sequence(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_bits(b)),
            (Self::Map { keys: a, values: of_a }, Self::Map { keys: b, values: of_b }) => a == b && of_a.same_bits(of_b),
            _ => false,
        }
    }
}
