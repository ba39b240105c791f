//! Any bytes, any cuts: the same records at the same places.

use std::{io::Read, ops::Range, sync::Arc};

use arrow::{array::AsArray, util::display::array_value_to_string};
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::domain::Slice;

/// An object in memory.
#[derive(Debug)]
pub(crate) struct MemoryObject(pub(crate) Bytes);

impl ObjectBytes for MemoryObject {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, objects::Error> {
        Ok(self.0.slice(range.start as usize..range.end as usize))
    }

    fn stream(&self, range: Range<u64>) -> Result<Box<dyn Read + Send>, objects::Error> {
        Ok(Box::new(std::io::Cursor::new(self.0.slice(range.start as usize..range.end as usize))))
    }
}

fn request(format: InputFormat, compression: InputCompression, slice: Slice) -> Request {
    Request {
        source: "o".into(),
        slice: ObjectSlice { key: "o".to_owned(), size: 0, etag: None, format, compression, slice },
        csv: CsvOptions::default(),
        projection: Projection::All,
        batch_rows: 7,
        batch_bytes: 1 << 20,
        max_record_bytes: 1000,
    }
}

/// A record: its place, and its cells or its error's code.
type Outcome = (Option<u64>, String);

/// Decodes to the end; an error that ends the object is the last outcome.
fn decode(bytes: &[u8], request: Request) -> Vec<Outcome> {
    let object = Arc::new(MemoryObject(Bytes::copy_from_slice(bytes)));
    let mut outcomes = Vec::new();
    let mut decoder = match open(object, request) {
        Ok(decoder) => decoder,
        Err(error) => return vec![(None, error.to_string())],
    };
    loop {
        match decoder.next() {
            Ok(Some(step)) => {
                let mut some: Vec<Outcome> = step.errors.into_iter().map(|e| (e.position, format!("error {}", e.code))).collect();
                if let Some(batch) = step.batch {
                    assert!(batch.rows() > 0 && batch.rows() == batch.columns.num_rows());
                    for row in 0..batch.rows() {
                        let cells = batch.columns.columns().iter().zip(batch.columns.schema_ref().fields());
                        let cells = cells.map(|(c, f)| format!("{}={}", f.name(), array_value_to_string(c, row).unwrap()));
                        some.push((Some(batch.provenance.rows[row].position), cells.collect::<Vec<_>>().join("|")));
                    }
                }
                some.sort();
                outcomes.extend(some);
            }
            Ok(None) => break,
            Err(DecodeError::Corrupt { code, position, .. }) => {
                outcomes.push((position, format!("end {code}")));
                break;
            }
            Err(DecodeError::Source(error)) => panic!("{error}"),
        }
        assert!(outcomes.len() <= bytes.len() + 2, "it ends");
    }
    outcomes.sort();
    outcomes
}

fn csv(bytes: &[u8], slice: Slice) -> Vec<Outcome> {
    decode(bytes, request(InputFormat::Csv, InputCompression::None, slice))
}

fn jsonl(bytes: &[u8], slice: Slice) -> Vec<Outcome> {
    let mut request = request(InputFormat::Jsonl, InputCompression::None, slice);
    request.projection = Projection::Only(["a".to_owned(), "b".to_owned()].into());
    decode(bytes, request)
}

/// Borders as the planner finds them, fed in blocks of any size.
fn borders(bytes: &[u8], block: usize) -> Vec<u64> {
    let mut scanner = RecordBorders::new(b',');
    let mut found = Vec::new();
    for part in bytes.chunks(block.max(1)) {
        scanner.feed(part, &mut |border| found.push(border));
    }
    found
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()).read_to_end(&mut packed).unwrap();
    packed
}

#[test]
fn csv_is_read_as_rfc_4180_says_with_offsets() {
    let text = b"a,b\r\n1,\"x, \"\"y\"\"\nz\"\r\n\r\n2,\n\"3\",q\"r\n4\n5,\"open\n6,7\n";
    let found = csv(text, Slice::Whole);
    let expected =
        [(5, "a=1|b=x, \"y\"\nz"), (23, "a=2|b="), (26, "a=3|b=q\"r"), (34, "error wrong_field_count"), (36, "error unterminated_quote")];
    assert_eq!(found, expected.map(|(at, what)| (Some(at), what.to_owned())));
}

#[test]
fn a_large_csv_gives_the_same_records_whole_and_in_slices() {
    let mut text = b"a,b\n".to_vec();
    for row in 0..60_000 {
        text.extend_from_slice(format!("{row},\"v{}\"\n", row * 7).as_bytes());
    }
    let whole = csv(&text, Slice::Whole);
    assert_eq!(whole.len(), 60_000);
    for block in [1000, 65_536, 1 << 18] {
        let mut start = 0;
        let mut found = Vec::new();
        for border in borders(&text, block).into_iter().chain([text.len() as u64]) {
            if border - start > 50_000 || border == text.len() as u64 && border > start {
                found.extend(csv(&text, Slice::Bytes { start, end: border }));
                start = border;
            }
        }
        assert!(found == whole, "blocks of {block}");
    }
}

#[test]
fn lines_that_are_no_records_become_error_rows_at_their_offset() {
    let text = b"{\"a\": 1}\n[1]\n{\"a\": }\n\n{\"a\": 1, \"a\": 2}\nx\n{\"b\": {\"c\": [1, 2]}, \"z\": 3}";
    let found = jsonl(text, Slice::Whole);
    let expected = [
        (0, "a=1|b="),
        (9, "error not_an_object"),
        (13, "error invalid_json"),
        (22, "error duplicate_key"),
        (39, "error invalid_json"),
        (41, "a=|b={\"c\": [1, 2]}"),
    ];
    assert_eq!(found, expected.map(|(at, what)| (Some(at), what.to_owned())));
}

#[test]
fn a_record_over_the_limit_is_skipped_and_its_neighbours_are_read() {
    let long = "x".repeat(600_000);
    let text = format!("a\n1\n{long}\n2\n\"{long}\"\n3\n");
    let found = csv(text.as_bytes(), Slice::Whole);
    let codes: Vec<&str> = found.iter().map(|(_, what)| what.as_str()).collect();
    assert_eq!(codes, ["a=1", "error record_too_large", "a=2", "error record_too_large", "a=3"]);
}

#[test]
fn compressed_text_is_the_same_text_and_a_cut_costs_only_what_follows() {
    let text: String = "a,b\n".to_owned() + &(0..5000).map(|i| format!("{i},{}\n", i * 3)).collect::<String>();
    let plain = csv(text.as_bytes(), Slice::Whole);
    let zstd = zstd::encode_all(text.as_bytes(), 1).unwrap();
    // Several members and frames in one object are one text.
    let (first, second) = text.split_at(20_000);
    let two = [gzip(first.as_bytes()), gzip(second.as_bytes())].concat();
    for (compression, packed, code) in
        [(InputCompression::Gzip, two, "end invalid_gzip"), (InputCompression::Zstd, zstd, "end invalid_zstd")]
    {
        assert_eq!(decode(&packed, request(InputFormat::Csv, compression, Slice::Whole)), plain);
        assert_eq!(decode(&packed, request(InputFormat::Auto, InputCompression::Auto, Slice::Whole)), plain, "by content");
        let cut = decode(&packed[..packed.len() * 2 / 3], request(InputFormat::Csv, compression, Slice::Whole));
        let (end, good) = cut.split_last().unwrap();
        assert_eq!(end.1, code);
        assert!(plain.starts_with(good) || good.len() <= plain.len() && good.iter().all(|g| plain.contains(g)));
    }
}

fn parquet_file(rows: usize, group: usize) -> Bytes {
    use ::parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
    let x: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows as i64));
    let y: ArrayRef = Arc::new(StringArray::from_iter_values((0..rows).map(|i| format!("y{i}"))));
    let batch = RecordBatch::try_from_iter([("x", x), ("y", y)]).unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group)).build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes.into()
}

#[test]
fn parquet_rows_are_the_same_whole_and_in_any_slices() {
    let bytes = parquet_file(1000, 150);
    let groups = row_groups(&MemoryObject(bytes.clone())).unwrap();
    assert_eq!(groups.iter().map(|g| g.rows).collect::<Vec<_>>(), [150, 150, 150, 150, 150, 150, 100]);
    let read = |slice| decode(&bytes, request(InputFormat::Parquet, InputCompression::None, slice));
    let whole = read(Slice::Whole);
    assert_eq!(whole.len(), 1000);
    assert_eq!(whole[999], (Some(999), "x=999|y=y999".to_owned()));
    let cuts = [0, 1, 150, 151, 700, 999, 1000];
    let sliced: Vec<Outcome> = cuts.windows(2).flat_map(|w| read(Slice::Rows { start: w[0], end: w[1] })).collect();
    assert_eq!(sliced, whole);
}

#[test]
fn only_the_columns_that_are_wanted_are_decoded() {
    let mut request = request(InputFormat::Parquet, InputCompression::None, Slice::Whole);
    request.projection = Projection::Only(["y".to_owned(), "missing".to_owned()].into());
    let object = Arc::new(MemoryObject(parquet_file(10, 10)));
    let step = open(object, request).unwrap().next().unwrap().unwrap();
    let columns = step.batch.unwrap().columns;
    assert_eq!((columns.num_columns(), columns.schema().field(0).name().as_str()), (1, "y"));
    assert_eq!(columns.column(0).as_string::<i32>().value(3), "y3");
}

#[test]
fn a_damaged_parquet_object_is_an_error_and_no_panic() {
    let good = parquet_file(2000, 500).to_vec();
    for at in (0..good.len()).step_by(37) {
        let mut bad = good.clone();
        bad[at] ^= 0xff;
        let found = decode(&bad, request(InputFormat::Parquet, InputCompression::None, Slice::Whole));
        assert!(found.len() <= 2001);
        let cut = decode(&good[..at], request(InputFormat::Parquet, InputCompression::None, Slice::Whole));
        assert_eq!(cut.len(), 1, "a cut footer is one error");
    }
}

#[test]
fn what_is_neither_named_nor_known_is_said_to_be_unknown() {
    let found = decode(&[0, 1, 2, 3, 0xff], request(InputFormat::Auto, InputCompression::Auto, Slice::Whole));
    assert_eq!(found.len(), 1);
    assert!(found[0].1.contains("input.format"), "{found:?}");
    assert_eq!(sniff::by_name("a/b.CSV.gz"), (InputFormat::Csv, InputCompression::Gzip));
    assert_eq!(sniff::by_name("a.csv/part-0"), (InputFormat::Auto, InputCompression::Auto));
    assert_eq!(sniff::by_name("x.ndjson"), (InputFormat::Jsonl, InputCompression::None));
    assert_eq!(sniff::by_name("x.parquet"), (InputFormat::Parquet, InputCompression::None));
}

/// Texts dense with what matters to CSV.
fn csv_text() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(b"ab,,\"\"\n\n\r1 \xc3\xa9".to_vec()), 0..200)
}

fn json_text() -> impl Strategy<Value = String> {
    let line =
        prop::sample::select(vec!["{\"a\": 1}", "{\"b\": \"x\\n\", \"a\": [1]}", "", "oops", "{\"a\": ", " ", "[]", "{\"c\": 1}\r", "{}"]);
    prop::collection::vec(line, 0..30).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn csv_cut_at_any_borders_gives_the_same_records(text in csv_text(), block in 1usize..40, keep in prop::collection::vec(any::<bool>(), 200)) {
        let text = [b"h,i\n".as_slice(), &text].concat();
        let whole = csv(&text, Slice::Whole);
        let size = text.len() as u64;
        let cuts: Vec<u64> = borders(&text, block).into_iter().zip(&keep).filter(|(b, keep)| **keep && *b < size).map(|(b, _)| b).collect();
        let ends: Vec<u64> = cuts.iter().copied().chain([size]).collect();
        let mut start = 0;
        let mut found = Vec::new();
        for end in ends {
            found.extend(csv(&text, Slice::Bytes { start, end }));
            start = end;
        }
        found.sort();
        prop_assert_eq!(found, whole);
    }

    #[test]
    fn json_lines_cut_anywhere_give_the_same_records(text in json_text(), mut cuts in prop::collection::vec(0u64..400, 0..8)) {
        let whole = jsonl(text.as_bytes(), Slice::Whole);
        let size = text.len() as u64;
        cuts.retain(|c| *c < size);
        cuts.extend([0, size]);
        cuts.sort();
        cuts.dedup();
        let mut found: Vec<Outcome> = cuts.windows(2).flat_map(|w| jsonl(text.as_bytes(), Slice::Bytes { start: w[0], end: w[1] })).collect();
        found.sort();
        prop_assert_eq!(found, whole);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic_or_run_on(bytes in prop::collection::vec(any::<u8>(), 0..300), parquet in any::<bool>()) {
        let bytes = if parquet { [b"PAR1".as_slice(), &bytes, b"PAR1"].concat() } else { bytes };
        for format in [InputFormat::Auto, InputFormat::Csv, InputFormat::Jsonl, InputFormat::Parquet] {
            for compression in [InputCompression::Auto, InputCompression::Gzip, InputCompression::Zstd] {
                decode(&bytes, request(format, compression, Slice::Whole));
            }
        }
    }
}
