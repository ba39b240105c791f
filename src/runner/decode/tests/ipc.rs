//! Arrow IPC through the door.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, DictionaryArray, Int64Array, LargeStringArray, ListArray, RecordBatch, StringViewArray},
    datatypes::{Int32Type, Int64Type},
    ipc::{
        CompressionType,
        writer::{FileWriter, IpcWriteOptions, StreamWriter},
    },
};
use proptest::prelude::*;

use super::{super::testing::decode, *};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    File,
    Stream,
}

/// Three batches of 40 rows: `id` numbers them, `word` is a dictionary with nulls, `list` holds a list, `view` and `large` are texts.
fn table(form: Form, compression: Option<CompressionType>) -> Vec<u8> {
    let batch = |start: i64| {
        let ids = start..start + 40;
        let id: ArrayRef = Arc::new(Int64Array::from_iter_values(ids.clone()));
        // Every batch has words of its own: a stream sends a dictionary again, a file may not.
        let words = ["red", "green", "blue"];
        let word: ArrayRef =
            Arc::new(ids.clone().map(|i| (i % 5 > 0).then(|| words[i as usize % 3])).collect::<DictionaryArray<Int32Type>>());
        let list: ArrayRef =
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(ids.clone().map(|i| (i % 7 > 0).then(|| vec![Some(i); 3]))));
        let text = |i: i64| format!("a text that is too long for a view to hold {i}");
        let view: ArrayRef = Arc::new(StringViewArray::from_iter_values(ids.clone().map(text)));
        let large: ArrayRef = Arc::new(LargeStringArray::from_iter_values(ids.map(text)));
        RecordBatch::try_from_iter([("id", id), ("word", word), ("list", list), ("view", view), ("large", large)]).unwrap()
    };
    let batches = [batch(0), batch(40), batch(80)];
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut bytes = Vec::new();
    match form {
        Form::File => {
            let mut writer = FileWriter::try_new_with_options(&mut bytes, &batches[0].schema(), options).unwrap();
            // One dictionary for the whole file.
            let word = batches[0].column_by_name("word").unwrap().clone();
            for batch in &batches {
                let mut columns = batch.columns().to_vec();
                columns[1] = word.clone();
                writer.write(&RecordBatch::try_new(batch.schema(), columns).unwrap()).unwrap();
            }
            writer.finish().unwrap();
        }
        Form::Stream => {
            let mut writer = StreamWriter::try_new_with_options(&mut bytes, &batches[0].schema(), options).unwrap();
            batches.iter().for_each(|batch| writer.write(batch).unwrap());
            writer.finish().unwrap();
        }
    }
    bytes
}

/// Positions, checked to be the ids.
fn positions(outcome: &Outcome) -> Vec<u64> {
    let mut positions = Vec::new();
    for batch in &outcome.batches {
        let ids = batch.columns.column_by_name("id").map(|column| column.as_primitive::<Int64Type>().clone());
        for (row, id) in batch.provenance.rows.iter().enumerate() {
            assert!(ids.as_ref().is_none_or(|ids| ids.value(row) == id.position as i64));
            positions.push(id.position);
        }
    }
    positions
}

#[test]
fn files_and_streams_come_in_order_by_name_and_by_content_whatever_their_compression() {
    for form in [Form::File, Form::Stream] {
        for compression in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
            for key in ["a.arrow", "a.feather", "a.arrows", "a"] {
                let mut request = request(key);
                request.batch_rows = 30;
                let outcome = decode(table(form, compression), &request);
                assert!(outcome.end.is_none(), "{form:?} {compression:?} {key}: {:?}", outcome.end);
                assert_eq!(positions(&outcome), (0..120).collect::<Vec<_>>());
                assert!(outcome.batches.iter().all(|batch| batch.rows() <= 30));
                let view = outcome.batches[1].columns.column_by_name("view").unwrap().as_string_view().value(0).to_owned();
                assert_eq!(view, "a text that is too long for a view to hold 30");
            }
        }
    }
}

#[test]
fn only_wanted_columns_are_decoded_and_what_is_lacking_is_no_error_here() {
    let mut request = request("a.arrow");
    request.projection = only(&["large", "id", "absent"]);
    let outcome = decode(table(Form::File, None), &request);
    let schema = outcome.batches[0].columns.schema();
    assert_eq!(schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["id", "large"]);
    assert_eq!(positions(&outcome).len(), 120);
}

#[test]
fn a_file_cut_short_anywhere_gives_its_first_rows_and_one_fault() {
    for form in [Form::File, Form::Stream] {
        let whole = table(form, Some(CompressionType::ZSTD));
        for length in 0..whole.len() {
            let outcome = decode(whole[..length].to_vec(), &request("a.arrow"));
            let positions = positions(&outcome);
            assert_eq!(positions, (0..positions.len() as u64).collect::<Vec<_>>());
            match end(&outcome) {
                Some((code, ..)) => assert_eq!(code, "invalid_arrow", "{length}"),
                // A stream may end without its mark; a file's rows are all there before its footer.
                None => assert!(positions.len() == 120 || form == Form::Stream && positions.len().is_multiple_of(40), "{length}"),
            }
        }
    }
}

#[test]
fn claims_beyond_the_limits_take_no_memory() {
    let whole = table(Form::Stream, Some(CompressionType::ZSTD));
    // Every eight bytes in turn claim to be an enormous length.
    for claim in [i64::MAX, 1 << 40, -5] {
        for place in (0..whole.len() - 8).step_by(8) {
            let mut bytes = whole.clone();
            bytes[place..place + 8].copy_from_slice(&claim.to_le_bytes());
            decode(bytes, &request("a.arrow"));
        }
    }
}

#[test]
fn what_is_no_arrow_is_told() {
    for (bytes, said) in [
        (b"FEA1....".to_vec(), "Feather version 1"),
        (Vec::new(), "no schema"),
        (b"ARROW1\0\0".to_vec(), "footer"),
        (b"id,word\n1,red\n".to_vec(), "another format"),
    ] {
        let outcome = decode(bytes, &request("a.feather"));
        let (code, position, detail) = end(&outcome).expect("a fault");
        assert!((code, position) == ("invalid_arrow", None) && detail.contains(said), "{detail}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_damaged_arrow_numbers_its_rows_without_gaps_and_ends(
        flips in proptest::collection::vec(any::<(prop::sample::Index, u8)>(), 1..6),
        form in prop::sample::select(vec![Form::File, Form::Stream]),
        compressed in any::<bool>(),
    ) {
        let mut bytes = table(form, compressed.then_some(CompressionType::LZ4_FRAME));
        for (place, value) in flips {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let outcome = decode(bytes, &request("a.arrow"));
        let positions: Vec<u64> = outcome.batches.iter().flat_map(|batch| batch.provenance.rows.iter().map(|row| row.position)).collect();
        prop_assert_eq!(&positions, &(0..positions.len() as u64).collect::<Vec<_>>());
    }
}
