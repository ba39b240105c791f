//! Which batches fit together in one part.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, Int32Array, Int64Array, StringArray, UnionArray},
    buffer::ScalarBuffer,
    datatypes::{DataType, Int64Type},
};

use super::*;
use crate::runner::encode::EncodeError;

const FORMATS: [OutputFormat; 3] = [OutputFormat::Jsonl, OutputFormat::Csv, OutputFormat::Parquet];

fn longs(values: Vec<i64>) -> ArrayRef {
    Arc::new(Int64Array::from(values))
}

fn texts(values: Vec<&str>) -> ArrayRef {
    Arc::new(StringArray::from(values))
}

/// Writes `good`, then `bad`, which must be refused, then `good` again; gives the part and the refusal.
fn refuse(format: OutputFormat, good: &RecordBatch, bad: &RecordBatch) -> (Vec<u8>, String) {
    let mut encoder = PartEncoder::new(format, OutputCompression::None);
    encoder.write(good).unwrap();
    let Err(EncodeError::SchemaMismatch(why)) = encoder.write(bad) else { panic!("{format:?} took the batch") };
    encoder.write(good).unwrap();
    let ready = encoder.take();
    ([ready, encoder.finish().unwrap()].concat(), why)
}

#[test]
fn a_mismatch_names_the_column_and_leaves_the_part_as_it_was() {
    let good = batch([("a", longs(vec![1])), ("b", texts(vec!["x"]))]);
    let extra = batch([("a", longs(vec![1])), ("b", texts(vec!["x"])), ("c", longs(vec![1]))]);
    let lacking = batch([("a", longs(vec![1]))]);
    let other_type = batch([("a", longs(vec![1])), ("b", longs(vec![2]))]);
    for format in [OutputFormat::Csv, OutputFormat::Parquet] {
        let expected = part(format, OutputCompression::None, &[good.clone(), good.clone()], false);
        for (bad, column) in [(&extra, "\"c\""), (&lacking, "\"b\"")] {
            let (bytes, why) = refuse(format, &good, bad);
            assert_eq!(bytes, expected, "{format:?}");
            assert!(why.contains(column), "{why}");
        }
    }
    let (bytes, why) = refuse(OutputFormat::Parquet, &good, &other_type);
    assert_eq!(bytes, part(OutputFormat::Parquet, OutputCompression::None, &[good.clone(), good], false));
    assert_eq!(why, "column \"b\" holds Int64 here and Utf8 in the records before");
}

#[test]
fn another_order_of_columns_is_the_same_schema() {
    let one = batch([("a", longs(vec![1])), ("b", texts(vec!["x"]))]);
    let other = batch([("b", texts(vec!["y"])), ("a", longs(vec![2]))]);
    let csv = part(OutputFormat::Csv, OutputCompression::None, &[one.clone(), other.clone()], false);
    assert_eq!(String::from_utf8(csv).unwrap(), "a,b\n1,x\n2,y\n");
    let read = read_parquet(part(OutputFormat::Parquet, OutputCompression::None, &[one, other], false));
    assert_eq!(read.column(0).as_primitive::<Int64Type>().values(), &[1, 2]);
}

#[test]
fn csv_has_names_and_no_types() {
    let int: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let bytes = part(OutputFormat::Csv, OutputCompression::None, &[batch([("a", int)]), batch([("a", longs(vec![2]))])], false);
    assert_eq!(String::from_utf8(bytes).unwrap(), "a\n1\n2\n");
}

#[test]
fn json_lines_may_change_their_columns_from_batch_to_batch() {
    let bytes =
        part(OutputFormat::Jsonl, OutputCompression::None, &[batch([("a", longs(vec![1]))]), batch([("b", longs(vec![2]))])], false);
    assert_eq!(String::from_utf8(bytes).unwrap(), "{\"a\":1}\n{\"b\":2}\n");
}

#[test]
fn a_json_field_that_a_whole_batch_lacks_is_null_there() {
    let id = || encoded("id", ENCODING_JSON, vec![Some("1")]);
    let with = of_fields([id(), encoded("note", ENCODING_JSON, vec![Some("\"x\"")])]);
    let without = of_fields([id()]);
    let bytes = part(OutputFormat::Csv, OutputCompression::None, &[with.clone(), without.clone()], false);
    assert_eq!(String::from_utf8(bytes).unwrap(), "id,note\n1,x\n1,\n");
    let read = read_parquet(part(OutputFormat::Parquet, OutputCompression::None, &[with, without], false));
    assert_eq!(read.column(1).as_string::<i32>(), &StringArray::from(vec![Some("x"), None]));
}

#[test]
fn nulls_may_come_later_than_the_schema() {
    let never_null = |values| {
        let field = Arc::new(Field::new("a", DataType::Int64, false));
        of_fields([(field, longs(values))])
    };
    let with_null = batch([("a", Arc::new(Int64Array::from(vec![None])) as ArrayRef)]);
    let read = read_parquet(part(OutputFormat::Parquet, OutputCompression::None, &[never_null(vec![1]), with_null], false));
    assert!(read.column(0).is_null(1));
}

#[test]
fn batches_without_rows_change_nothing() {
    let rows = batch([("a", longs(vec![1]))]);
    let empty = batch([("other", texts(vec![]))]);
    for format in FORMATS {
        let expected = part(format, OutputCompression::None, std::slice::from_ref(&rows), false);
        assert_eq!(part(format, OutputCompression::None, &[empty.clone(), rows.clone(), empty.clone()], true), expected, "{format:?}");
    }
}

#[test]
fn a_type_that_no_format_has_fails_and_names_its_column() {
    let fields = [(0, Arc::new(Field::new("i", DataType::Int64, true)))].into_iter().collect();
    let union = UnionArray::try_new(fields, ScalarBuffer::from(vec![0i8]), None, vec![longs(vec![1])]).unwrap();
    let rows = batch([("u", Arc::new(union) as ArrayRef)]);
    for format in FORMATS {
        let error = PartEncoder::new(format, OutputCompression::None).write(&rows).unwrap_err();
        assert!(matches!(&error, EncodeError::Failed(why) if why.contains("\"u\"")), "{error}");
    }
}
