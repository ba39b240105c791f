//! Input columns → what their values are like, for whoever compares runs.
//!
//! Of each batch some hundred records are looked at, spread over all of it: the shares that are compared do not get better by more, and the cost
//! does not show beside the model's.

use std::{collections::BTreeMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, UInt32Array},
    compute::{cast, take},
    datatypes::{DataType, Field, Float64Type},
};

use super::batch::{CARRIED, ENCODING, ENCODING_JSON};
use crate::domain::{Sketch, summary::MOST_COLUMNS};

/// Records of a batch that are looked at, at most.
const LOOKED_AT: usize = 256;
/// What is longer is a document, not a value that others share.
const LONGEST_TEXT: usize = 256;

/// Sketches of a batch's columns of numbers, truth values and short texts, by name.
pub(super) fn sketch<'c>(columns: impl Iterator<Item = (&'c Arc<Field>, &'c ArrayRef)>) -> BTreeMap<String, Sketch> {
    let mut columns: Vec<_> = columns.filter(|(field, _)| !field.metadata().contains_key(CARRIED)).collect();
    columns.sort_by_key(|(field, _)| field.name().as_str());
    let rows = UInt32Array::from(looked_at(columns.first().map_or(0, |(_, array)| array.len())));
    let sketched = columns.into_iter().filter_map(|(field, array)| {
        let looked_at = take(array, &rows, None).ok()?;
        Some((field.name().clone(), of_column(field, &looked_at)?))
    });
    sketched.take(MOST_COLUMNS).collect()
}

/// Rows that stand for all: every one of few, and of many some at steps of the golden ratio, which no pattern of the table keeps pace with.
fn looked_at(rows: usize) -> Vec<u32> {
    const RATIO: f64 = 0.618_033_988_749_895;
    if rows <= LOOKED_AT {
        return (0..rows as u32).collect();
    }
    let mut chosen: Vec<u32> = (0..LOOKED_AT).map(|step| ((step as f64 * RATIO).fract() * rows as f64) as u32).collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// `None` of what has no distribution to speak of: lists, pictures, documents.
fn of_column(field: &Field, values: &ArrayRef) -> Option<Sketch> {
    match values.data_type() {
        DataType::Utf8 => {
            let texts = values.as_string::<i32>();
            let encoded = field.metadata().get(ENCODING).map(String::as_str);
            if texts.iter().flatten().any(|text| text.len() > LONGEST_TEXT) {
                return None;
            }
            Some(match encoded {
                None => Sketch::of_texts(texts.iter().flatten(), texts.null_count() as u64),
                Some(encoding) => of_cells(texts.iter(), encoding == ENCODING_JSON),
            })
        }
        DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => {
            let texts = cast(values, &DataType::Utf8).ok()?;
            of_column(&Field::new(field.name(), DataType::Utf8, true), &texts)
        }
        kind if kind.is_numeric() || *kind == DataType::Boolean || kind.is_temporal() => {
            // Times count from their own epoch in their own unit.
            let numbers = cast(values, &DataType::Int64).ok().filter(|_| kind.is_temporal());
            let numbers = cast(numbers.as_ref().unwrap_or(values), &DataType::Float64).ok()?;
            Some(Sketch::of_numbers(numbers.as_primitive::<Float64Type>().iter().flatten(), numbers.null_count() as u64))
        }
        _ => None,
    }
}

/// Of cells as they are written: a number where one reads as such.
fn of_cells<'t>(cells: impl Iterator<Item = Option<&'t str>>, json: bool) -> Sketch {
    let (mut numbers, mut texts, mut nulls) = (Vec::new(), Vec::new(), 0);
    for cell in cells {
        match cell.map(str::trim) {
            None | Some("") => nulls += 1,
            Some("null") if json => nulls += 1,
            Some("true") if json => numbers.push(1.0),
            Some("false") if json => numbers.push(0.0),
            Some(cell) => match cell.parse::<f64>() {
                Ok(number) => numbers.push(number),
                Err(_) => texts.push(cell),
            },
        }
    }
    let mut sketch = Sketch::of_numbers(numbers, nulls);
    if !texts.is_empty() {
        sketch.merge(&Sketch::of_texts(texts, 0));
    }
    sketch
}

#[cfg(test)]
mod tests {
    use arrow::array::{BooleanArray, Float32Array, ListArray, StringArray, types::Int32Type};

    use super::*;
    use crate::runner::batch::ENCODING_CSV;

    fn of(columns: Vec<(Field, ArrayRef)>) -> BTreeMap<String, Sketch> {
        let columns: Vec<(Arc<Field>, ArrayRef)> = columns.into_iter().map(|(field, array)| (Arc::new(field), array)).collect();
        sketch(columns.iter().map(|(field, array)| (field, array)))
    }

    fn encoded(name: &str, encoding: &str, cells: Vec<Option<&str>>) -> (Field, ArrayRef) {
        let metadata = std::collections::HashMap::from([(ENCODING.to_owned(), encoding.to_owned())]);
        (Field::new(name, DataType::Utf8, true).with_metadata(metadata), Arc::new(StringArray::from(cells)))
    }

    #[test]
    fn a_column_is_like_itself_in_every_format() {
        let parquet =
            (Field::new("x", DataType::Float32, true), Arc::new(Float32Array::from(vec![Some(1.5), None, Some(-2.0)])) as ArrayRef);
        let csv = encoded("x", ENCODING_CSV, vec![Some("1.5"), Some(""), Some("-2.0")]);
        let json = encoded("x", ENCODING_JSON, vec![Some("1.5"), Some("null"), Some("-2.0")]);
        let lacking = encoded("x", ENCODING_JSON, vec![Some("1.5"), None, Some("-2")]);
        let sketches = [parquet, csv, json, lacking].map(|column| of(vec![column]).remove("x").unwrap());
        assert!(sketches.iter().all(|sketch| *sketch == sketches[0] && sketch.count() == 3 && sketch.nulls == 1), "{sketches:?}");
    }

    #[test]
    fn words_are_counted_and_empty_cells_are_missing() {
        let cells = vec![Some("Yes"), Some("No"), Some("Yes"), Some(""), Some("7")];
        let sketch = of(vec![encoded("x", ENCODING_CSV, cells)]).remove("x").unwrap();
        assert_eq!((sketch.count(), sketch.nulls, sketch.texts.iter().sum::<u64>()), (5, 1, 3));
        assert_eq!(sketch.texts.iter().filter(|count| **count > 0).count(), 2);
    }

    #[test]
    fn what_has_no_distribution_is_left_out() {
        let long = "x".repeat(LONGEST_TEXT + 1);
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1)])]);
        let sketches = of(vec![
            (Field::new("text", DataType::Utf8, true), Arc::new(StringArray::from(vec![long.as_str()]))),
            (Field::new("list", lists.data_type().clone(), true), Arc::new(lists)),
            (Field::new("flag", DataType::Boolean, true), Arc::new(BooleanArray::from(vec![true]))),
        ]);
        assert_eq!(sketches.keys().collect::<Vec<_>>(), ["flag"]);
    }

    #[test]
    fn some_of_the_records_stand_for_all() {
        let column =
            (Field::new("x", DataType::Float32, true), Arc::new(Float32Array::from_iter_values((0..10_000).map(|n| n as f32))) as ArrayRef);
        let sketch = of(vec![column]).remove("x").unwrap();
        assert!((200..=LOOKED_AT as u64).contains(&sketch.count()));
        let odd = looked_at(10_000).iter().filter(|row| **row % 2 == 1).count();
        assert!((100..156).contains(&odd), "a table that changes every second row is seen as it is: {odd}");
        assert!((sketch.quantile(0.5).unwrap() / 5000.0 - 1.0).abs() < 0.1, "{:?}", sketch.quantile(0.5));
    }
}
