//! Parquet through the door.

use std::sync::Arc;

use ::parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};
use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, ListArray, RecordBatch, StringArray},
    datatypes::Int64Type,
};

use super::{
    super::{
        Request, RowGroupInfo, pages, row_groups,
        testing::{MemoryObject, decode, decode_object},
    },
    *,
};
use crate::domain::Slice;

/// Row `i` holds `id` = i, `name` = "n" and i modulo 7, `list` = [i, i].
fn table(rows: i64, rows_in_group: usize) -> Vec<u8> {
    let id: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    let name: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("n{}", row % 7))));
    let list: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>((0..rows).map(|row| Some([Some(row), Some(row)]))));
    let batch = RecordBatch::try_from_iter([("id", id), ("name", name), ("list", list)]).expect("columns of one length");
    let properties =
        WriterProperties::builder().set_max_row_group_row_count(Some(rows_in_group)).set_compression(Compression::SNAPPY).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).expect("a schema that can be written");
    writer.write(&batch).expect("memory does not fail");
    writer.close().expect("memory does not fail");
    bytes
}

/// Positions, checked to be the ids.
fn positions(outcome: &Outcome) -> Vec<u64> {
    let mut positions = Vec::new();
    for batch in &outcome.batches {
        let ids = batch.columns.column_by_name("id").expect("the column").as_primitive::<Int64Type>();
        for (row, id) in batch.provenance.rows.iter().enumerate() {
            assert_eq!(ids.value(row), id.position as i64);
            positions.push(id.position);
        }
    }
    positions
}

fn sliced(start: u64, end: u64) -> Request {
    let mut request = request("t.parquet");
    request.slice.slice = Slice::Rows { start, end };
    request
}

#[test]
fn rows_come_in_order_with_their_numbers_and_types() {
    let mut request = request("t.parquet");
    request.batch_rows = 30;
    let outcome = decode(table(100, 40), &request);
    assert!(outcome.end.is_none() && outcome.errors.is_empty());
    assert_eq!(positions(&outcome), (0..100).collect::<Vec<_>>());
    assert!(outcome.batches.iter().all(|batch| batch.rows() <= 30));
    let schema = outcome.batches[0].columns.schema();
    assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["id", "name", "list"]);
    assert_eq!(outcome.batches[0].columns.column(1).as_string::<i32>().value(8), "n1");
}

#[test]
fn a_slice_of_rows_gives_just_those() {
    let bytes = table(100, 40);
    for (start, end) in [(0, 100), (0, 40), (40, 80), (80, 100), (10, 20), (30, 90), (39, 41), (99, 100), (50, 50)] {
        let outcome = decode(bytes.clone(), &sliced(start, end));
        assert!(outcome.end.is_none());
        assert_eq!(positions(&outcome), (start..end).collect::<Vec<_>>(), "{start}..{end}");
    }
    assert_eq!(end(&decode(bytes, &sliced(90, 101))).map(|(code, ..)| code), Some("invalid_parquet"));
}

#[test]
fn only_the_wanted_columns_are_there_even_if_that_is_none() {
    let mut request = request("t.parquet");
    request.projection = only(&["list", "id", "absent"]);
    let outcome = decode(table(10, 4), &request);
    let schema = outcome.batches[0].columns.schema();
    assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["id", "list"]);

    request.projection = only(&["absent"]);
    let outcome = decode(table(10, 4), &request);
    assert_eq!(outcome.batches.iter().map(Batch::rows).sum::<usize>(), 10);
    assert!(outcome.end.is_none());
}

#[test]
fn large_rows_make_small_batches() {
    let mut request = request("t.parquet");
    request.batch_bytes = 200;
    let outcome = decode(table(100, 100), &request);
    assert!(outcome.batches.iter().all(|batch| batch.rows() < 20));
    assert_eq!(positions(&outcome).len(), 100);
}

#[test]
fn the_planner_sees_the_row_groups() {
    let bytes = table(100, 40);
    let size = bytes.len() as u64;
    let groups = row_groups(&MemoryObject { bytes: bytes.into(), fails_at: None }, &"t".into()).expect("a valid file");
    assert_eq!(groups.iter().map(|group: &RowGroupInfo| group.rows).collect::<Vec<_>>(), [40, 40, 20]);
    assert!(groups.iter().all(|group| group.bytes > 0 && group.bytes < size));
}

#[test]
fn a_footer_larger_than_the_first_read_is_read_whole() {
    // So many row groups that their descriptions take more than 64 KiB.
    let bytes = table(1500, 1);
    let outcome = decode(bytes, &request("t.parquet"));
    assert_eq!(positions(&outcome).len(), 1500);
}

#[test]
fn a_damaged_row_group_costs_the_rows_from_there_on() {
    let mut bytes = table(100, 40);
    let groups = row_groups(&MemoryObject { bytes: bytes.clone().into(), fails_at: None }, &"t".into()).expect("a valid file");
    let second = 4 + groups[0].bytes as usize;
    bytes[second..second + 60].fill(0xFF);
    let outcome = decode(bytes, &request("t.parquet"));
    assert_eq!(positions(&outcome), (0..40).collect::<Vec<_>>());
    let (code, position, detail) = end(&outcome).expect("the object ends");
    assert_eq!((code, position), ("invalid_parquet", Some(40)));
    assert!(detail.contains("row group 1"), "{detail}");
}

#[test]
fn the_pages_of_a_real_column_chunk_are_measured() {
    let bytes = table(100, 100);
    let groups = row_groups(&MemoryObject { bytes: bytes.clone().into(), fails_at: None }, &"t".into()).expect("a valid file");
    let chunks = &bytes[4..4 + groups[0].bytes as usize];
    assert_eq!(pages::check_sizes(chunks, 10_000), Ok(()));
    // The largest page is the dictionary of the ids: 100 values of 8 bytes.
    assert!(pages::check_sizes(chunks, 700).is_err_and(|why| why.contains("800 bytes")));
}

#[test]
fn what_is_not_parquet_says_what_is_wrong() {
    let whole = table(100, 40);
    let mut encrypted = whole.clone();
    let length = encrypted.len();
    encrypted[length - 4..].copy_from_slice(b"PARE");
    let mut long_footer = whole.clone();
    long_footer[length - 8..length - 4].copy_from_slice(&u32::MAX.to_le_bytes());
    for (bytes, words) in [
        (whole[..length / 2].to_vec(), "cut short"),
        (Vec::new(), "0 bytes are too few"),
        (b"PAR1".to_vec(), "too few"),
        (encrypted, "encrypted"),
        (long_footer, "footer claims 4294967295 bytes"),
    ] {
        let (code, position, detail) = end(&decode(bytes, &request("t.parquet"))).expect("the object ends");
        assert_eq!((code, position), ("invalid_parquet", None));
        assert!(detail.contains(words), "{detail}");
    }
}

#[test]
fn a_failing_store_is_not_a_fault_of_the_object() {
    let bytes = table(100, 40);
    for fails_at in [10, bytes.len() as u64 - 20] {
        let object = MemoryObject { bytes: bytes.clone().into(), fails_at: Some(fails_at) };
        assert_eq!(end(&decode_object(object, &request("t.parquet"))).map(|(code, ..)| code), Some("store_unavailable"));
    }
}

#[test]
fn a_parquet_object_is_known_by_its_content() {
    assert_eq!(positions(&decode(table(10, 4), &request("part-0"))).len(), 10);
}

#[test]
fn strings_are_strings() {
    let outcome = decode(table(10, 4), &request("t.parquet"));
    assert!(
        outcome.batches.iter().all(|batch| batch.columns.column(1).as_string_opt::<i32>().is_some_and(|names| names.null_count() == 0))
    );
}
