//! The same rows give the same bytes, however they come and whenever bytes are taken.

use std::sync::Arc;

use arrow::{
    array::{
        ArrayRef, DictionaryArray, Float32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder, StringViewArray,
        UInt64Array,
    },
    datatypes::{DataType, Field, Int16Type},
};
use proptest::prelude::*;

use super::*;
use crate::runner::encode::parquet::{Limits, Parquet};

/// Rows of all layouts that a batch border could show in: repeated texts, long ones, lists, dictionaries, nulls.
fn rows(count: u64) -> RecordBatch {
    // SplitMix64: enough disorder to fill a compressor's block, the same on every machine.
    let noise = |row: u64| {
        let mixed = (row.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ row >> 3).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    };
    let all = || 0..count;
    let texts = |row: u64| (!row.is_multiple_of(5)).then(|| format!("{:x}", noise(row)).repeat(noise(row) as usize % 7));
    let mut lists = ListBuilder::new(StringBuilder::new());
    for row in all() {
        for item in 0..noise(row) % 4 {
            lists.values().append_option((item != 1).then(|| format!("item {item}")));
        }
        lists.append(!row.is_multiple_of(11));
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("n", Arc::new(Int64Array::from_iter_values(all().map(|row| row as i64)))),
        ("noise", Arc::new(UInt64Array::from_iter(all().map(|row| (!row.is_multiple_of(7)).then(|| noise(row)))))),
        ("float", Arc::new(Float32Array::from_iter_values(all().map(|row| f32::from_bits(noise(row) as u32))))),
        ("text", Arc::new(all().map(texts).collect::<StringArray>())),
        ("view", Arc::new(all().map(texts).collect::<StringViewArray>())),
        (
            "word",
            Arc::new(
                all().map(|row| ["red", "green", "blue"].get(noise(row) as usize % 4).copied()).collect::<DictionaryArray<Int16Type>>(),
            ),
        ),
        ("list", Arc::new(lists.finish())),
    ];
    let json = Field::new("json", DataType::Utf8, true).with_metadata([(ENCODING, ENCODING_JSON)]);
    let cells = all().map(|row| (!row.is_multiple_of(3)).then(|| format!("\"{}\\n\"", noise(row)))).collect::<StringArray>();
    let fields = columns.into_iter().map(|(name, array)| (Arc::new(Field::new(name, array.data_type().clone(), true)), array));
    of_fields(fields.chain([(Arc::new(json), Arc::new(cells) as ArrayRef)]))
}

/// `rows` cut at `borders` (shares of the whole, in any order).
fn cut(rows: &RecordBatch, borders: &[f64]) -> Vec<RecordBatch> {
    let count = rows.num_rows();
    let mut borders: Vec<usize> = borders.iter().map(|share| (share * count as f64) as usize).chain([0, count]).collect();
    borders.sort_unstable();
    borders.windows(2).map(|pair| rows.slice(pair[0], pair[1] - pair[0])).collect()
}

fn parquet(batches: &[RecordBatch], limits: Limits) -> Vec<u8> {
    let mut file = Parquet::new(OutputCompression::None, limits);
    let mut bytes = Vec::new();
    for rows in batches.iter().filter(|rows| rows.num_rows() > 0) {
        file.write(rows).unwrap();
        bytes.extend_from_slice(&file.take());
    }
    bytes.extend_from_slice(&file.finish().unwrap());
    bytes
}

#[test]
fn compressed_parts_unpack_to_the_plain_part() {
    let rows = [rows(4_000)];
    for format in [OutputFormat::Jsonl, OutputFormat::Csv] {
        let plain = part(format, OutputCompression::None, &rows, false);
        assert!(plain.len() > 3 * 128 * 1024, "the compressor gets several blocks");
        for compression in [OutputCompression::Gzip, OutputCompression::Zstd] {
            let packed = part(format, compression, &rows, true);
            assert!(packed.len() < plain.len());
            assert_eq!(unpack(compression, &packed), plain, "{format:?} {compression:?}");
        }
    }
}

#[test]
fn a_gzip_header_tells_no_time() {
    let bytes = part(OutputFormat::Csv, OutputCompression::Gzip, &[rows(1)], false);
    assert_eq!(&bytes[..8], &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0]);
}

#[test]
fn compression_names_the_codec_of_parquet_pages() {
    use ::parquet::{basic::Compression, file::reader::FileReader, file::serialized_reader::SerializedFileReader};
    for (compression, zstd) in [(OutputCompression::None, true), (OutputCompression::Zstd, true), (OutputCompression::Gzip, false)] {
        let reader = SerializedFileReader::new(Bytes::from(part(OutputFormat::Parquet, compression, &[rows(10)], false))).unwrap();
        let codec = reader.metadata().row_group(0).column(0).compression();
        assert_eq!(matches!(codec, Compression::ZSTD(_)), zstd, "{codec:?}");
        assert_eq!(matches!(codec, Compression::GZIP(_)), !zstd, "{codec:?}");
    }
}

#[test]
fn row_groups_end_by_rows_and_by_bytes_and_are_ready_at_once() {
    use ::parquet::file::{reader::FileReader, serialized_reader::SerializedFileReader};
    let groups = |limits| {
        let reader = SerializedFileReader::new(Bytes::from(parquet(&[rows(1_000)], limits))).unwrap();
        reader.metadata().row_groups().iter().map(|group| group.num_rows()).collect::<Vec<_>>()
    };
    let wide = Limits { block_rows: 100, block_bytes: u64::MAX, group_rows: 300, group_bytes: u64::MAX };
    assert_eq!(groups(wide), [300, 300, 300, 100]);
    let by_bytes = groups(Limits { block_bytes: 1_000, group_bytes: 10_000, ..wide });
    assert!(by_bytes.len() > 4 && by_bytes.iter().sum::<i64>() == 1_000, "{by_bytes:?}");

    let mut file = Parquet::new(OutputCompression::None, wide);
    file.write(&rows(299)).unwrap();
    assert!(file.take().len() <= 4, "nothing but the magic number before the first row group ends");
    file.write(&rows(1)).unwrap();
    assert!(file.take().len() > 100);
}

#[test]
fn parquet_gives_back_the_rows_of_many_groups() {
    let (rows, limits) = (rows(1_000), Limits { block_rows: 64, block_bytes: 4_096, group_rows: 200, group_bytes: 100_000 });
    let read = read_parquet(parquet(&cut(&rows, &[0.1, 0.11, 0.5]), limits));
    for name in ["n", "noise", "text", "view", "list"] {
        assert_eq!(read.column_by_name(name).unwrap(), rows.column_by_name(name).unwrap(), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn parts_do_not_show_how_rows_were_batched(borders in proptest::collection::vec(0.0..1.0f64, 0..12), take_often in any::<bool>()) {
        let whole = rows(1_500);
        let batches = cut(&whole, &borders);
        for format in [OutputFormat::Jsonl, OutputFormat::Csv, OutputFormat::Parquet] {
            for compression in [OutputCompression::None, OutputCompression::Gzip, OutputCompression::Zstd] {
                let expected = part(format, compression, std::slice::from_ref(&whole), false);
                prop_assert!(part(format, compression, &batches, take_often) == expected, "{:?} {:?}", format, compression);
            }
        }
    }

    #[test]
    fn parquet_blocks_and_groups_do_not_show_how_rows_were_batched(
        borders in proptest::collection::vec(0.0..1.0f64, 0..30),
        block_rows in 1usize..200,
        block_bytes in 100u64..20_000,
        group_rows in 1usize..600,
        group_bytes in 1_000u64..100_000,
    ) {
        let limits = Limits { block_rows, block_bytes, group_rows, group_bytes };
        let whole = rows(700);
        prop_assert!(parquet(&cut(&whole, &borders), limits) == parquet(&[whole], limits));
    }
}
