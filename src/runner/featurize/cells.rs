//! Reads the values of one column, whatever writes them, as elements of one type.

use std::{borrow::Cow, ops::Range};

use arrow::{
    array::{Array, ArrayRef, AsArray, StringArray},
    compute::cast,
    datatypes::{
        ArrowPrimitiveType, DataType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
        UInt16Type, UInt32Type, UInt64Type,
    },
};
use serde_json::value::RawValue;

use super::{
    bind::Encoding,
    decimal,
    element::{Bad, Element},
};

/// A value that could not be read: what it looks like, and why.
pub(super) type CellError = (String, Bad);

/// Reads a value a row of these rows. `put` gets the row and the element, or `None` for a missing value.
pub(super) fn scalars<T: Element>(
    array: &ArrayRef,
    rows: Range<usize>,
    encoding: Encoding,
    put: &mut impl FnMut(usize, Result<Option<T>, CellError>),
) {
    match encoding {
        Encoding::Csv => texts_of(array, rows, |text| csv(text.unwrap_or_default()), put),
        Encoding::Json => texts_of(array, rows, |text| text.map_or(Ok(None), json_single), put),
        Encoding::Typed => typed(&array.slice(rows.start, rows.len()), &mut |row, cell| put(rows.start + row, cell)),
    }
}

/// A text a row: plain decimal numbers at once, all else by `read`.
fn texts_of<T: Element>(
    array: &ArrayRef,
    rows: Range<usize>,
    read: impl Fn(Option<&str>) -> Result<Option<T>, CellError>,
    put: &mut impl FnMut(usize, Result<Option<T>, CellError>),
) {
    let array = texts(array);
    let bytes = array.value_data();
    let ends = array.value_offsets()[rows.start..].windows(2);
    for (row, ends) in rows.zip(ends) {
        match decimal::read(bytes, ends[0] as usize..ends[1] as usize).and_then(T::of_decimal) {
            Some(element) => put(row, Ok(Some(element))),
            None => put(row, read(array.is_valid(row).then(|| array.value(row)))),
        }
    }
}

fn texts(array: &ArrayRef) -> &StringArray {
    // The decoders of text formats make columns of this type only.
    array.as_string::<i32>()
}

fn csv<T: Element>(cell: &str) -> Result<Option<T>, CellError> {
    if T::DTYPE != crate::domain::Dtype::Bytes && cell.trim_ascii().is_empty() {
        return Ok(None);
    }
    T::of_cell(cell).map(Some).map_err(|bad| (excerpt(cell), bad))
}

/// One JSON value where one is wanted; a list of one is as good.
fn json_single<T: Element>(text: &str) -> Result<Option<T>, CellError> {
    if !text.starts_with('[') {
        return json(text);
    }
    let wrong = || (excerpt(text), Bad::WrongType);
    let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| wrong())?;
    match items.as_slice() {
        [only] => json_single(only.get()),
        _ => Err(wrong()),
    }
}

fn json<T: Element>(text: &str) -> Result<Option<T>, CellError> {
    let element = match text.as_bytes().first() {
        Some(b'n') => return Ok(None),
        Some(b't') => T::of_bool(true),
        Some(b'f') => T::of_bool(false),
        Some(b'"') => match serde_json::from_str::<Cow<'_, str>>(text) {
            Ok(string) => T::of_text(&string),
            Err(_) => Err(Bad::WrongType),
        },
        Some(b'-' | b'0'..=b'9') => T::of_number(text),
        _ => Err(Bad::WrongType),
    };
    element.map(Some).map_err(|bad| (excerpt(text), bad))
}

/// A value of a typed column, row by row.
fn typed<T: Element>(array: &ArrayRef, put: &mut impl FnMut(usize, Result<Option<T>, CellError>)) {
    macro_rules! numbers {
        ($type:ty, $of:ident, $as:ty) => {{
            let array = array.as_primitive::<$type>();
            let read = |v: <$type as ArrowPrimitiveType>::Native| T::$of(<$as>::from(v)).map(Some).map_err(|bad| (v.to_string(), bad));
            if array.null_count() == 0 {
                array.values().iter().enumerate().for_each(|(row, value)| put(row, read(*value)));
            } else {
                array.iter().enumerate().for_each(|(row, value)| put(row, value.map_or(Ok(None), read)));
            }
        }};
    }
    macro_rules! strings {
        ($strings:expr) => {
            for (row, value) in $strings.iter().enumerate() {
                put(row, value.map_or(Ok(None), |v| T::of_text(v).map(Some).map_err(|bad| (excerpt(v), bad))));
            }
        };
    }
    match array.data_type() {
        DataType::Int8 => numbers!(Int8Type, of_i64, i64),
        DataType::Int16 => numbers!(Int16Type, of_i64, i64),
        DataType::Int32 => numbers!(Int32Type, of_i64, i64),
        DataType::Int64 => numbers!(Int64Type, of_i64, i64),
        DataType::UInt8 => numbers!(UInt8Type, of_u64, u64),
        DataType::UInt16 => numbers!(UInt16Type, of_u64, u64),
        DataType::UInt32 => numbers!(UInt32Type, of_u64, u64),
        DataType::UInt64 => numbers!(UInt64Type, of_u64, u64),
        DataType::Float16 => numbers!(Float16Type, of_f64, f64),
        DataType::Float32 => numbers!(Float32Type, of_f64, f64),
        DataType::Float64 => numbers!(Float64Type, of_f64, f64),
        DataType::Boolean => {
            for (row, value) in array.as_boolean().iter().enumerate() {
                put(row, value.map_or(Ok(None), |v| T::of_bool(v).map(Some).map_err(|bad| (v.to_string(), bad))));
            }
        }
        DataType::Utf8 => strings!(array.as_string::<i32>()),
        DataType::LargeUtf8 => strings!(array.as_string::<i64>()),
        DataType::Utf8View => strings!(array.as_string_view()),
        // A decimal is read through its text, which is exact.
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            match cast(array, &DataType::Utf8) {
                Ok(texts) => {
                    for (row, value) in texts.as_string::<i32>().iter().enumerate() {
                        put(row, value.map_or(Ok(None), |v| T::of_number(v).map(Some).map_err(|bad| (v.to_owned(), bad))));
                    }
                }
                Err(error) => refuse(array, &error.to_string(), put),
            }
        }
        DataType::Dictionary(_, values) => match cast(array, values) {
            Ok(plain) => typed(&plain, put),
            Err(error) => refuse(array, &error.to_string(), put),
        },
        DataType::Null => (0..array.len()).for_each(|row| put(row, Ok(None))),
        // One value a list where one value is wanted: the flattened form has one a row, or it does not fit.
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
            for row in 0..array.len() {
                let mut values = Vec::new();
                let mut dims = Vec::new();
                let read = if array.is_null(row) { Ok(true) } else { typed_list(&items(array, row), &mut values, &mut dims, 0) };
                put(
                    row,
                    match read {
                        Ok(true) => Ok(None),
                        Ok(false) if values.len() == 1 => Ok(values.pop()),
                        Ok(false) => Err((format!("a list of {}", values.len()), Bad::WrongType)),
                        Err(error) => Err(error),
                    },
                );
            }
        }
        other => refuse(array, &other.to_string(), put),
    }
}

fn refuse<T: Element>(array: &ArrayRef, what: &str, put: &mut impl FnMut(usize, Result<Option<T>, CellError>)) {
    (0..array.len()).for_each(|row| put(row, Err((what.to_owned(), Bad::WrongType))));
}

/// What a list of a record holds.
pub(super) enum List<T> {
    /// All its elements, row-major, and its dimensions.
    Values(Vec<T>, Vec<usize>),
    /// It, or one of its elements, is missing.
    Missing,
    /// Its parts have different lengths.
    Uneven,
}

/// Reads a list a row.
pub(super) fn lists<T: Element>(
    array: &ArrayRef,
    encoding: Encoding,
    missing: Option<&T>,
    put: &mut dyn FnMut(usize, Result<List<T>, CellError>),
) {
    for row in 0..array.len() {
        if array.is_null(row) {
            put(row, Ok(List::Missing));
            continue;
        }
        let (mut values, mut dims) = (Vec::new(), Vec::new());
        let read = match encoding {
            Encoding::Json => json_list(texts(array).value(row), missing, &mut values, &mut dims, 0),
            Encoding::Csv => csv(texts(array).value(row)).map(|v| {
                let missing = v.is_none();
                values.extend(v);
                missing
            }),
            Encoding::Typed => match array.data_type() {
                DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..) => {
                    typed_list_or(&items(array, row), missing, &mut values, &mut dims, 0)
                }
                _ => {
                    let mut lost = Ok(false);
                    typed(&array.slice(row, 1), &mut |_, read: Result<Option<T>, CellError>| match read {
                        Ok(Some(value)) => values.push(value),
                        Ok(None) => lost = Ok(true),
                        Err(error) => lost = Err(error),
                    });
                    lost
                }
            },
        };
        let even = dims.iter().product::<usize>() == values.len();
        put(
            row,
            match read {
                Ok(true) => Ok(List::Missing),
                Ok(false) if !even => Ok(List::Uneven),
                Ok(false) => Ok(List::Values(values, dims)),
                Err(error) => Err(error),
            },
        );
    }
}

/// Appends the elements of a JSON value; true when one is missing and nothing stands for it.
fn json_list<T: Element>(
    text: &str,
    missing: Option<&T>,
    values: &mut Vec<T>,
    dims: &mut Vec<usize>,
    depth: usize,
) -> Result<bool, CellError> {
    if !text.starts_with('[') {
        return Ok(match json(text)? {
            Some(value) => {
                values.push(value);
                false
            }
            None => fill(missing, values),
        });
    }
    let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| (excerpt(text), Bad::WrongType))?;
    note(dims, depth, items.len());
    let mut lost = false;
    for item in items {
        lost |= json_list(item.get(), missing, values, dims, depth + 1)?;
    }
    Ok(lost)
}

fn typed_list<T: Element>(items: &ArrayRef, values: &mut Vec<T>, dims: &mut Vec<usize>, depth: usize) -> Result<bool, CellError> {
    typed_list_or(items, None, values, dims, depth)
}

/// Appends the elements of an Arrow list's items; true when one is missing and nothing stands for it.
fn typed_list_or<T: Element>(
    items_: &ArrayRef,
    missing: Option<&T>,
    values: &mut Vec<T>,
    dims: &mut Vec<usize>,
    depth: usize,
) -> Result<bool, CellError> {
    note(dims, depth, items_.len());
    if matches!(items_.data_type(), DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(..)) {
        let mut lost = false;
        for row in 0..items_.len() {
            lost |= items_.is_null(row) || typed_list_or(&items(items_, row), missing, values, dims, depth + 1)?;
        }
        return Ok(lost);
    }
    let mut lost = Ok(false);
    typed(items_, &mut |_, read| match read {
        Ok(Some(value)) => values.push(value),
        Ok(None) => {
            if fill(missing, values)
                && let Ok(lost) = &mut lost
            {
                *lost = true;
            }
        }
        Err(error) => lost = Err(error),
    });
    lost
}

fn fill<T: Element>(missing: Option<&T>, values: &mut Vec<T>) -> bool {
    match missing {
        Some(value) => {
            values.push(value.clone());
            false
        }
        None => true,
    }
}

/// Notes the length of a list at its depth. A second list of another length there shows as a product that is not the number of
/// elements, except for lengths that make up for each other, which are told apart by keeping the largest.
fn note(dims: &mut Vec<usize>, depth: usize, length: usize) {
    match dims.get_mut(depth) {
        Some(known) => *known = (*known).max(length),
        None => dims.push(length),
    }
}

fn items(array: &ArrayRef, row: usize) -> ArrayRef {
    match array.data_type() {
        DataType::LargeList(_) => array.as_list::<i64>().value(row),
        DataType::FixedSizeList(..) => array.as_fixed_size_list().value(row),
        _ => array.as_list::<i32>().value(row),
    }
}

/// The start of a value, for messages.
pub(in crate::runner) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 60;
    let mut short: String = text.chars().take(SHOWN).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}
