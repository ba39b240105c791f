//! Every output as a column under its own name.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Int64Array, ListArray, MapArray, StringArray, StructArray, UInt32Array},
    buffer::OffsetBuffer,
    compute::{concat, take},
    datatypes::{DataType, Field, Fields},
};

use super::{
    InterpretError,
    arrays::{element_type, flat, list_type, nest},
};
use crate::{
    domain::{Dim, Dtype, ValueInfo, ValueType},
    runner::tensor::{MapKeys, Tensor, TensorData, Value},
};

/// The column of one output.
pub(super) fn field(output: &ValueInfo) -> Field {
    Field::new(&output.name, column_type(&output.value), true)
}

/// The element type of a tensor or of a map's values.
pub(super) fn dtype(value: &ValueType) -> Option<Dtype> {
    match value {
        ValueType::Tensor { dtype, .. } => Some(*dtype),
        ValueType::Sequence { element } => dtype(element),
        ValueType::Map { value, .. } => dtype(value),
    }
}

fn column_type(value: &ValueType) -> DataType {
    match value {
        ValueType::Tensor { dtype, shape } => nested_type(element_type(*dtype), inner_rank(shape.as_deref())),
        ValueType::Sequence { element } => match &**element {
            ValueType::Map { key, value } => map_type(key_type(*key), dtype(value).map_or(DataType::Float32, element_type)),
            other => list_type(column_type(other)),
        },
        ValueType::Map { key, value } => map_type(key_type(*key), dtype(value).map_or(DataType::Float32, element_type)),
    }
}

fn nested_type(element: DataType, rank: usize) -> DataType {
    (0..rank).fold(element, |inner, _| list_type(inner))
}

/// How deep a record's part of a tensor is nested: `[N]` and `[N, 1]` are scalars; a tensor of no declared rank is a flat list.
fn inner_rank(shape: Option<&[Dim]>) -> usize {
    match shape {
        None => 1,
        Some([] | [_] | [_, Dim::Fixed(1)]) => 0,
        Some(shape) => shape.len() - 1,
    }
}

fn key_type(key: Dtype) -> DataType {
    if key == Dtype::Bytes { DataType::Utf8 } else { DataType::Int64 }
}

fn entries(key: DataType, value: DataType) -> Fields {
    Fields::from(vec![Field::new("key", key, false), Field::new("value", value, true)])
}

/// A map column's type.
pub(super) fn map_type(key: DataType, value: DataType) -> DataType {
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries(key, value)), false)), false)
}

/// A map column from its keys and values laid end to end, `lengths` of them a row.
pub(super) fn map_array(keys: ArrayRef, values: ArrayRef, lengths: impl IntoIterator<Item = usize>) -> ArrayRef {
    let fields = entries(keys.data_type().clone(), values.data_type().clone());
    let field = Arc::new(Field::new("entries", DataType::Struct(fields.clone()), false));
    let entries = StructArray::new(fields, vec![keys, values], None);
    Arc::new(MapArray::new(field, OffsetBuffer::from_lengths(lengths), entries, None, false))
}

/// The column of one output for `rows` rows.
pub(super) fn array(output: &ValueInfo, value: &Value, rows: usize) -> Result<ArrayRef, InterpretError> {
    let made = match (&output.value, value) {
        (ValueType::Tensor { shape, .. }, Value::Tensor(tensor)) => tensor_array(&output.name, shape.as_deref(), tensor, rows)?,
        (ValueType::Sequence { element }, Value::Sequence(items)) => match &**element {
            ValueType::Map { .. } => maps(&output.name, items, rows)?,
            ValueType::Tensor { shape, .. } => tensors(output, shape.as_deref(), items, rows)?,
            ValueType::Sequence { .. } => {
                return Err(InterpretError(format!("output {:?} is a sequence of sequences, which is not supported", output.name)));
            }
        },
        _ => return Err(InterpretError(format!("output {:?} is not of the kind that the model declares", output.name))),
    };
    let declared = column_type(&output.value);
    if *made.data_type() != declared {
        return Err(InterpretError(format!("output {:?} is {}, but the model declares {declared}", output.name, made.data_type())));
    }
    Ok(made)
}

fn tensor_array(name: &str, declared: Option<&[Dim]>, tensor: &Tensor, rows: usize) -> Result<ArrayRef, InterpretError> {
    let wrong =
        || InterpretError(format!("output {name:?} has shape {:?} for {rows} records, which is not what the model declares", tensor.shape));
    if tensor.shape.first() != Some(&rows) {
        return Err(wrong());
    }
    let inner = &tensor.shape[1..];
    let flat = flat(&tensor.data);
    match inner_rank(declared) {
        // What counts is the record's own number of elements: converters declare [1] for [N].
        0 if inner.iter().product::<usize>() == 1 => Ok(flat),
        1 if declared.is_none() => nest(flat, &[inner.iter().product()], name),
        rank if rank == inner.len() => nest(flat, inner, name),
        _ => Err(wrong()),
    }
}

/// One map a record, as ZipMap makes them.
fn maps(name: &str, items: &[Value], rows: usize) -> Result<ArrayRef, InterpretError> {
    if items.len() != rows {
        return Err(InterpretError(format!("output {name:?} is a sequence of {} maps for {rows} records", items.len())));
    }
    let (mut texts, mut numbers, mut values, mut lengths) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for item in items {
        let Value::Map { keys, values: of } = item else {
            return Err(InterpretError(format!("output {name:?} holds something other than maps")));
        };
        match keys {
            MapKeys::Bytes(keys) => texts.extend(keys.iter().cloned()),
            MapKeys::Int64(keys) => numbers.extend(keys.iter().copied()),
        }
        lengths.push(of.len());
        values.push(flat(of));
    }
    let keys: ArrayRef = if texts.is_empty() { Arc::new(Int64Array::from(numbers)) } else { Arc::new(StringArray::from(texts)) };
    let values: Vec<_> = values.iter().map(AsRef::as_ref).collect();
    let values =
        if values.is_empty() { flat(&TensorData::Fp32(Vec::new())) } else { concat(&values).map_err(|e| InterpretError(e.to_string()))? };
    if keys.len() != values.len() {
        return Err(InterpretError(format!("output {name:?} mixes maps with keys of different types")));
    }
    Ok(map_array(keys, values, lengths))
}

/// A sequence of tensors: each has a row a record, and a record's value is the list of its rows; or there is a tensor a record (as
/// SplitToSequence makes them), and a record's value is the list of that tensor's rows.
fn tensors(output: &ValueInfo, declared: Option<&[Dim]>, items: &[Value], rows: usize) -> Result<ArrayRef, InterpretError> {
    let name = &output.name;
    let failed = |e: arrow::error::ArrowError| InterpretError(format!("output {name:?}: {e}"));
    let mut tensors = Vec::with_capacity(items.len());
    for item in items {
        let Value::Tensor(tensor) = item else { return Err(InterpretError(format!("output {name:?} holds something other than tensors"))) };
        tensors.push(tensor);
    }
    let by_row = tensors.iter().all(|t| t.shape.first() == Some(&rows));
    if !by_row && tensors.len() != rows {
        return Err(InterpretError(format!("output {name:?} is a sequence of {} tensors for {rows} records", tensors.len())));
    }
    let arrays = tensors.iter().map(|t| tensor_array(name, declared, t, t.shape.first().copied().unwrap_or_default()));
    let arrays = arrays.collect::<Result<Vec<_>, _>>()?;
    let item_type = match column_type(&output.value) {
        DataType::List(item) => item.data_type().clone(),
        other => other,
    };
    let mut values = match arrays.as_slice() {
        [] => arrow::array::new_empty_array(&item_type),
        some => concat(&some.iter().map(AsRef::as_ref).collect::<Vec<_>>()).map_err(failed)?,
    };
    let lengths: Vec<usize> = if by_row { vec![arrays.len(); rows] } else { arrays.iter().map(|a| a.len()).collect() };
    if by_row {
        let order: UInt32Array = (0..rows).flat_map(|row| (0..arrays.len()).map(move |k| (k * rows + row) as u32)).collect();
        values = take(&values, &order, None).map_err(failed)?;
    }
    let field = Arc::new(Field::new_list_field(values.data_type().clone(), true));
    Ok(Arc::new(ListArray::new(field, OffsetBuffer::from_lengths(lengths), values, None)))
}
