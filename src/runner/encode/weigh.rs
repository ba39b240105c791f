//! Rows → about how many bytes each holds.
//!
//! Parquet blocks and row groups are cut by these numbers, so they must be the same for the same rows whatever batch they came in:
//! they count values, never buffers, capacities or what lies under a null.

use std::ops::Range;

use arrow::{
    array::{Array, ArrayRef, AsArray, OffsetSizeTrait},
    datatypes::DataType,
};

/// Bytes of each row of `columns`, which all have `rows` rows.
pub(super) fn row_bytes(columns: &[ArrayRef], rows: usize) -> Vec<u64> {
    let mut sum = vec![0; rows];
    for column in columns {
        let weight = Weight::of(column.as_ref());
        for (row, sum) in sum.iter_mut().enumerate() {
            *sum += weight.at(row);
        }
    }
    sum
}

/// Bytes of the values of an array.
enum Weight {
    /// All are the same: numbers, and lists of a fixed number of them.
    Same(u64),
    /// Row by row.
    Each(Vec<u64>),
}

impl Weight {
    fn of(array: &dyn Array) -> Self {
        match array.data_type() {
            DataType::Utf8 => bytes(array, array.as_string::<i32>().value_offsets()),
            DataType::LargeUtf8 => bytes(array, array.as_string::<i64>().value_offsets()),
            DataType::Binary => bytes(array, array.as_binary::<i32>().value_offsets()),
            DataType::LargeBinary => bytes(array, array.as_binary::<i64>().value_offsets()),
            // The length stands in the low half of a view.
            DataType::Utf8View => each(array, |row| array.as_string_view().views()[row] as u32 as u64),
            DataType::BinaryView => each(array, |row| array.as_binary_view().views()[row] as u32 as u64),
            DataType::List(_) => items(array, array.as_list::<i32>().value_offsets(), array.as_list::<i32>().values()),
            DataType::LargeList(_) => items(array, array.as_list::<i64>().value_offsets(), array.as_list::<i64>().values()),
            DataType::Map(_, _) => items(array, array.as_map().value_offsets(), array.as_map().entries()),
            DataType::FixedSizeList(_, length) => {
                let length = length.unsigned_abs() as usize;
                match Self::of(array.as_fixed_size_list().values()) {
                    Self::Same(bytes) => Self::Same(bytes * length as u64),
                    items => each(array, |row| items.sum(row * length..(row + 1) * length)),
                }
            }
            DataType::Struct(_) => {
                let members = row_bytes(array.as_struct().columns(), array.len());
                each(array, |row| members[row])
            }
            DataType::FixedSizeBinary(bytes) => Self::Same(u64::from(bytes.unsigned_abs())),
            other => Self::Same(other.primitive_width().unwrap_or(1) as u64),
        }
    }

    fn at(&self, row: usize) -> u64 {
        match self {
            Self::Same(bytes) => *bytes,
            Self::Each(bytes) => bytes.get(row).copied().unwrap_or(0),
        }
    }

    fn sum(&self, rows: Range<usize>) -> u64 {
        match self {
            Self::Same(bytes) => bytes * rows.len() as u64,
            Self::Each(bytes) => bytes.get(rows).map_or(0, |bytes| bytes.iter().sum()),
        }
    }
}

fn each(array: &dyn Array, bytes: impl Fn(usize) -> u64) -> Weight {
    Weight::Each((0..array.len()).map(|row| if array.is_null(row) { 0 } else { bytes(row) }).collect())
}

/// Rows that are ranges of bytes.
fn bytes<O: OffsetSizeTrait>(array: &dyn Array, offsets: &[O]) -> Weight {
    each(array, |row| (offsets[row + 1] - offsets[row]).as_usize() as u64)
}

/// Rows that are ranges of `values`.
fn items<O: OffsetSizeTrait>(array: &dyn Array, offsets: &[O], values: &dyn Array) -> Weight {
    // A batch may be a few rows of a larger one and share its values: only those of its own rows are looked at.
    let (first, end) = (offsets[0].as_usize(), offsets[array.len()].as_usize());
    let items = Weight::of(values.slice(first, end - first).as_ref());
    each(array, |row| items.sum(offsets[row].as_usize() - first..offsets[row + 1].as_usize() - first))
}
