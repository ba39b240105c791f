//! Bytes that mean harm or nothing: every decoder ends, none panics.

use std::sync::Arc;

use ::parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use arrow::array::{ArrayRef, Float32Array, ListArray, RecordBatch, StringArray};
use proptest::prelude::*;

use super::{super::testing::decode, *};
use crate::domain::Slice;

const KEYS: [&str; 9] = ["a.csv", "a.tsv.gz", "a.csv.zst", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet", "a.arrow", "a"];

fn small_parquet() -> Vec<u8> {
    let x: ArrayRef = Arc::new(Float32Array::from_iter((0..60).map(|row| (row % 5 > 0).then_some(row as f32))));
    let s: ArrayRef = Arc::new(StringArray::from_iter_values((0..60).map(|row| format!("s{}", row % 3))));
    let l: ArrayRef = Arc::new(ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>(
        (0..60).map(|row| Some((0..row % 4).map(Some).collect::<Vec<_>>())),
    ));
    let batch = RecordBatch::try_from_iter([("x", x), ("s", s), ("l", l)]).expect("columns of one length");
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(25)).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).expect("a schema that can be written");
    writer.write(&batch).expect("memory does not fail");
    writer.close().expect("memory does not fail");
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn random_bytes_end_every_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..300), key in prop::sample::select(KEYS.to_vec())) {
        decode(bytes, &request(key));
    }

    #[test]
    fn random_slices_end_every_decoder(
        bytes in proptest::collection::vec(any::<u8>(), 0..100),
        start in 0..120_u64,
        length in 0..120_u64,
        key in prop::sample::select(KEYS.to_vec()),
    ) {
        let mut request = request(key);
        request.slice.slice = Slice::Bytes { start, end: start + length };
        decode(bytes.clone(), &request);
        request.slice.slice = Slice::Rows { start, end: start + length };
        decode(bytes, &request);
    }

    #[test]
    fn compressed_garbage_ends(text in proptest::collection::vec(any::<u8>(), 0..300), flips in proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4)) {
        let mut bytes = zstd::encode_all(&text[..], 1).expect("memory does not fail");
        for (place, value) in flips {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        decode(bytes, &request("a.jsonl"));
    }

    #[test]
    fn a_damaged_parquet_numbers_its_rows_without_gaps_and_ends(flips in proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 1..6)) {
        let mut bytes = small_parquet();
        for (place, value) in flips {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let outcome = decode(bytes, &request("a.parquet"));
        let positions: Vec<u64> = outcome.batches.iter().flat_map(|batch| batch.provenance.rows.iter().map(|row| row.position)).collect();
        let lost = end(&outcome).and_then(|(_, position, _)| position).unwrap_or(positions.len() as u64);
        prop_assert_eq!(positions, (0..lost).collect::<Vec<_>>());
    }
}
