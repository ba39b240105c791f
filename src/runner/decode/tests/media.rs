//! Pictures, texts and lines.

use arrow::datatypes::DataType;
use proptest::prelude::*;

use super::{super::testing::decode, *};
use crate::domain::{Slice, spec::InputFormat};

#[test]
fn a_picture_is_one_record_by_its_name_or_by_its_first_bytes() {
    let png = b"\x89PNG\r\n\x1a\n\0rest";
    for key in ["a.png", "A.JPG", "no-extension"] {
        let outcome = decode(&png[..], &request(key));
        let batch = &outcome.batches[0];
        assert_eq!((batch.rows(), batch.provenance.rows[0].position), (1, 0), "{key}");
        assert_eq!(batch.columns.column_by_name("image").unwrap().as_binary::<i32>().value(0), png);
        assert!(outcome.errors.is_empty() && outcome.end.is_none());
    }
    let empty = decode(&b""[..], &request("empty.png"));
    assert_eq!(empty.batches[0].columns.column(0).as_binary::<i32>().value(0), b"", "what a picture shows is the featurizer's to say");
}

#[test]
fn a_picture_over_the_limit_is_an_error_row_and_is_not_read() {
    use super::super::testing::{MemoryObject, decode_object};
    let mut request = request("a.png");
    request.max_media_bytes = 1000;
    // Reading any byte would fail.
    let object = MemoryObject { bytes: vec![0; 1001].into(), fails_at: Some(0) };
    assert_eq!(faults(&decode_object(object, &request)), [(0, "record_too_large")]);
    assert_eq!(decode(vec![0; 1000], &request).batches.len(), 1);
    // What is small only as long as it is compressed.
    let mut request = self::request("a.txt.gz");
    request.slice.format = InputFormat::Text;
    let mut packed = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzEncoder::new(&vec![b'a'; 1 << 20][..], flate2::Compression::best()), &mut packed)
        .unwrap();
    assert_eq!(faults(&decode(packed, &request)), [(0, "record_too_large")]);
}

#[test]
fn a_text_is_one_record_when_the_job_says_so() {
    let mut request = request("a.txt");
    request.slice.format = InputFormat::Text;
    let outcome = decode("\u{FEFF}Zeile\nnoch eine ü\n".as_bytes(), &request);
    assert_eq!(rows(&outcome), texts(&[(0, "text=Zeile\nnoch eine ü\n")]));
    assert_eq!(outcome.batches[0].columns.schema_ref().field(0).data_type(), &DataType::Utf8);
    assert_eq!(faults(&decode(&b"ok\xff"[..], &request)), [(0, "invalid_utf8")]);
    assert_eq!(rows(&decode(&b""[..], &request)), texts(&[(0, "text=")]));
}

#[test]
fn every_line_is_a_record_also_a_blank_one() {
    let outcome = decode(&b"\xEF\xBB\xBFone\r\n\n\"two\", {3}\n\xff\nlast"[..], &request("a.txt"));
    assert_eq!(rows(&outcome), texts(&[(0, "text=one"), (8, "text="), (9, "text=\"two\", {3}"), (22, "text=last")]));
    assert_eq!(faults(&outcome), [(20, "invalid_utf8")]);
    assert_eq!(decode(&b""[..], &request("a.txt")).batches.len(), 0);
    let packed = zstd::encode_all(&b"a\nb\n"[..], 1).unwrap();
    assert_eq!(rows(&decode(packed, &request("a.txt.zst"))), texts(&[(0, "text=a"), (2, "text=b")]));
}

#[test]
fn objects_that_are_one_record_cannot_be_cut() {
    for key in ["a.png", "a.tar"] {
        let mut request = request(key);
        request.slice.slice = Slice::Bytes { start: 0, end: 1 };
        assert_eq!(end(&decode(&b"abc"[..], &request)).unwrap().0, "invalid_slice", "{key}");
    }
}

proptest! {
    #[test]
    fn lines_cut_anywhere_are_the_lines_of_the_whole(text in "[ab\r\n ü]{0,60}", mut cuts in prop::collection::vec(0u64..80, 0..5)) {
        let length = text.len() as u64;
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(length));
        cuts.extend([0, length]);
        cuts.sort_unstable();
        let whole = decode(text.clone().into_bytes(), &request("a.txt"));
        let (mut found, mut errors) = (Vec::new(), Vec::new());
        for pair in cuts.windows(2) {
            let mut request = request("a.txt");
            request.slice.slice = Slice::Bytes { start: pair[0], end: pair[1] };
            let slice = decode(text.clone().into_bytes(), &request);
            prop_assert!(slice.end.is_none());
            found.extend(rows(&slice));
            errors.extend(slice.errors);
        }
        prop_assert_eq!(found, rows(&whole));
        prop_assert_eq!(errors, whole.errors);
    }
}
