//! Our values ↔ the runtime's.

use std::ops::Range;

use ort::{
    session::SessionInputValue,
    value::{DynValue, DynValueTypeMarker, Tensor as OrtTensor, TensorElementType, TensorRef, ValueType},
};

use crate::runner::tensor::{MapKeys, Tensor, TensorData, Value};

/// Shows the runtime some rows of a tensor where they are (strings are copied).
pub(super) fn view<'t>(tensor: &'t Tensor, rows: &Range<usize>) -> ort::Result<SessionInputValue<'t>> {
    let length: usize = tensor.shape[1..].iter().product();
    let range = rows.start * length..rows.end * length;
    let mut shape = tensor.shape.clone();
    shape[0] = rows.len();
    macro_rules! of {
        ($values:expr) => {
            TensorRef::from_array_view((shape, &$values[range]))?.into()
        };
    }
    Ok(match &tensor.data {
        TensorData::Bool(v) => of!(v),
        TensorData::Uint8(v) => of!(v),
        TensorData::Uint16(v) => of!(v),
        TensorData::Uint32(v) => of!(v),
        TensorData::Uint64(v) => of!(v),
        TensorData::Int8(v) => of!(v),
        TensorData::Int16(v) => of!(v),
        TensorData::Int32(v) => of!(v),
        TensorData::Int64(v) => of!(v),
        TensorData::Fp16(v) => of!(v),
        TensorData::Fp32(v) => of!(v),
        TensorData::Fp64(v) => of!(v),
        TensorData::Bytes(v) => OrtTensor::from_string_array((shape, &v[range]))?.into(),
    })
}

/// Hands a tensor to the runtime without copying it (strings are copied).
pub(super) fn to_runtime(tensor: Tensor) -> ort::Result<DynValue> {
    let shape = tensor.shape;
    Ok(match tensor.data {
        TensorData::Bool(v) => OrtTensor::from_array((shape, v))?.into_dyn(),
        TensorData::Uint8(v) => OrtTensor::from_array((shape, v))?.into_dyn(),
        TensorData::Uint16(v) => OrtTensor::from_array((shape, v))?.into_dyn(),
        TensorData::Uint32(v) => OrtTensor::from_array((shape, v))?.into_dyn(),
        TensorData::Uint64(v) => OrtTensor::from_array((shape, v))?.into_dyn(),
        TensorData::Int8(v) => OrtTensor::from_array((shape, v))?.into_dyn(),
        TensorData::Int16(v) => OrtTensor::from_array((shape, v))?.into_dyn(),
        TensorData::Int32(v) => OrtTensor::from_array((shape, v))?.into_dyn(),
        TensorData::Int64(v) => OrtTensor::from_array((shape, v))?.into_dyn(),
        TensorData::Fp16(v) => OrtTensor::from_array((shape, v))?.into_dyn(),
        TensorData::Fp32(v) => OrtTensor::from_array((shape, v))?.into_dyn(),
        TensorData::Fp64(v) => OrtTensor::from_array((shape, v))?.into_dyn(),
        TensorData::Bytes(v) => OrtTensor::from_string_array((shape, v.as_slice()))?.into_dyn(),
    })
}

/// Copies an output out of the runtime's memory; the error says what kind is not supported.
pub(super) fn from_runtime(value: &DynValue) -> Result<Value, String> {
    match value.dtype() {
        ValueType::Tensor { ty, .. } => tensor(value, *ty).map(Value::Tensor),
        ValueType::Sequence(_) => {
            let items = value.try_extract_sequence::<DynValueTypeMarker>().map_err(|e| e.to_string())?;
            items.iter().map(from_runtime).collect::<Result<_, _>>().map(Value::Sequence)
        }
        ValueType::Map { .. } => map(value),
        other => Err(format!("values of type {other} are not supported")),
    }
}

fn tensor(value: &DynValue, kind: TensorElementType) -> Result<Tensor, String> {
    let shape = value.shape().iter().map(|d| usize::try_from(*d).unwrap_or_default()).collect();
    macro_rules! numbers {
        ($type:ty) => {
            value.try_extract_tensor::<$type>().map_err(|e| e.to_string())?.1.to_vec().into()
        };
    }
    let data = match kind {
        TensorElementType::Bool => numbers!(bool),
        TensorElementType::Uint8 => numbers!(u8),
        TensorElementType::Uint16 => numbers!(u16),
        TensorElementType::Uint32 => numbers!(u32),
        TensorElementType::Uint64 => numbers!(u64),
        TensorElementType::Int8 => numbers!(i8),
        TensorElementType::Int16 => numbers!(i16),
        TensorElementType::Int32 => numbers!(i32),
        TensorElementType::Int64 => numbers!(i64),
        TensorElementType::Float16 => numbers!(half::f16),
        TensorElementType::Float32 => numbers!(f32),
        TensorElementType::Float64 => numbers!(f64),
        TensorElementType::String => TensorData::Bytes(value.try_extract_strings().map_err(|e| e.to_string())?.1),
        other => return Err(format!("tensors of {other} are not supported")),
    };
    Ok(Tensor { shape, data })
}

fn map(map: &DynValue) -> Result<Value, String> {
    let ValueType::Map { key, value } = map.dtype() else { return Err("not a map".to_owned()) };
    macro_rules! read {
        ($key:ty, $keys:ident, $value:ty) => {{
            let pairs = map.try_extract_key_values::<$key, $value>().map_err(|e| e.to_string())?;
            let (keys, values): (Vec<$key>, Vec<$value>) = pairs.into_iter().unzip();
            Ok(Value::Map { keys: MapKeys::$keys(keys), values: values.into() })
        }};
    }
    match (key, value) {
        (TensorElementType::String, TensorElementType::Float32) => read!(String, Bytes, f32),
        (TensorElementType::String, TensorElementType::Float64) => read!(String, Bytes, f64),
        (TensorElementType::String, TensorElementType::Int64) => read!(String, Bytes, i64),
        (TensorElementType::Int64, TensorElementType::Float32) => read!(i64, Int64, f32),
        (TensorElementType::Int64, TensorElementType::Float64) => read!(i64, Int64, f64),
        (TensorElementType::Int64, TensorElementType::Int64) => read!(i64, Int64, i64),
        (key, value) => Err(format!("maps from {key} to {value} are not supported")),
    }
}
