//! Elements of tensors ↔ Arrow arrays.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, BooleanArray, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, ListArray, StringArray,
        UInt8Array, UInt16Array, UInt32Array, UInt64Array,
    },
    buffer::OffsetBuffer,
    datatypes::{DataType, Field},
};

use super::InterpretError;
use crate::{
    domain::Dtype,
    runner::tensor::{Tensor, TensorData, Value},
};

/// The Arrow type of an element.
pub(super) fn element_type(dtype: Dtype) -> DataType {
    match dtype {
        Dtype::Bool => DataType::Boolean,
        Dtype::Uint8 => DataType::UInt8,
        Dtype::Uint16 => DataType::UInt16,
        Dtype::Uint32 => DataType::UInt32,
        Dtype::Uint64 => DataType::UInt64,
        Dtype::Int8 => DataType::Int8,
        Dtype::Int16 => DataType::Int16,
        Dtype::Int32 => DataType::Int32,
        Dtype::Int64 => DataType::Int64,
        Dtype::Fp16 | Dtype::Fp32 => DataType::Float32,
        Dtype::Fp64 => DataType::Float64,
        Dtype::Bytes => DataType::Utf8,
    }
}

/// A list type as every list of predictions is: items may be null, and are named as Arrow's own lists name them.
pub(super) fn list_type(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

/// The elements as one flat array.
pub(super) fn flat(data: &TensorData) -> ArrayRef {
    match data {
        TensorData::Bool(v) => Arc::new(BooleanArray::from(v.clone())),
        TensorData::Uint8(v) => Arc::new(UInt8Array::from(v.clone())),
        TensorData::Uint16(v) => Arc::new(UInt16Array::from(v.clone())),
        TensorData::Uint32(v) => Arc::new(UInt32Array::from(v.clone())),
        TensorData::Uint64(v) => Arc::new(UInt64Array::from(v.clone())),
        TensorData::Int8(v) => Arc::new(Int8Array::from(v.clone())),
        TensorData::Int16(v) => Arc::new(Int16Array::from(v.clone())),
        TensorData::Int32(v) => Arc::new(Int32Array::from(v.clone())),
        TensorData::Int64(v) => Arc::new(Int64Array::from(v.clone())),
        TensorData::Fp16(v) => Arc::new(Float32Array::from_iter_values(v.iter().map(|v| v.to_f32()))),
        TensorData::Fp32(v) => Arc::new(Float32Array::from(v.clone())),
        TensorData::Fp64(v) => Arc::new(Float64Array::from(v.clone())),
        TensorData::Bytes(v) => Arc::new(StringArray::from_iter_values(v)),
    }
}

/// Wraps a flat array into lists: the innermost dimension last. What is left over is one value a row.
pub(super) fn nest(mut array: ArrayRef, dims: &[usize], name: &str) -> Result<ArrayRef, InterpretError> {
    for dim in dims.iter().rev() {
        let count = if *dim == 0 { 0 } else { array.len() / dim };
        let total = count.checked_mul(*dim).filter(|total| i32::try_from(*total).is_ok());
        total
            .ok_or_else(|| InterpretError(format!("output {name:?} has more than 2^31 elements in a batch; lower execution.batch_size")))?;
        let offsets = OffsetBuffer::from_lengths(std::iter::repeat_n(*dim, count));
        let field = Arc::new(Field::new_list_field(array.data_type().clone(), true));
        array = Arc::new(ListArray::new(field, offsets, array, None));
    }
    Ok(array)
}

/// A tensor's elements as doubles, exact for every type but 64-bit integers beyond 2^53.
pub(super) fn doubles(tensor: &Tensor, name: &str) -> Result<Vec<f64>, InterpretError> {
    Ok(match &tensor.data {
        TensorData::Fp16(v) => v.iter().map(|v| v.to_f64()).collect(),
        TensorData::Fp32(v) => v.iter().map(|v| f64::from(*v)).collect(),
        TensorData::Fp64(v) => v.clone(),
        TensorData::Uint8(v) => v.iter().map(|v| f64::from(*v)).collect(),
        TensorData::Uint16(v) => v.iter().map(|v| f64::from(*v)).collect(),
        TensorData::Uint32(v) => v.iter().map(|v| f64::from(*v)).collect(),
        TensorData::Uint64(v) => v.iter().map(|v| *v as f64).collect(),
        TensorData::Int8(v) => v.iter().map(|v| f64::from(*v)).collect(),
        TensorData::Int16(v) => v.iter().map(|v| f64::from(*v)).collect(),
        TensorData::Int32(v) => v.iter().map(|v| f64::from(*v)).collect(),
        TensorData::Int64(v) => v.iter().map(|v| *v as f64).collect(),
        TensorData::Bool(_) | TensorData::Bytes(_) => {
            return Err(InterpretError(format!("output {name:?} holds {}, where numbers were expected", tensor.data.dtype().name())));
        }
    })
}

/// The doubles of an output that must be a tensor with a leading dimension of `rows`.
pub(super) fn floats(value: &Value, name: &str, rows: usize) -> Result<Vec<f64>, InterpretError> {
    match value {
        Value::Tensor(tensor) if tensor.shape.first() == Some(&rows) => doubles(tensor, name),
        Value::Tensor(tensor) => Err(InterpretError(format!("output {name:?} has shape {:?} for {rows} records", tensor.shape))),
        _ => Err(InterpretError(format!("output {name:?} is no tensor"))),
    }
}

/// Doubles as a column of one of the two float types.
pub(super) fn of_floats(values: &[f64], kind: &DataType) -> ArrayRef {
    match kind {
        DataType::Float64 => Arc::new(Float64Array::from_iter_values(values.iter().copied())),
        _ => Arc::new(Float32Array::from_iter_values(values.iter().map(|v| *v as f32))),
    }
}
