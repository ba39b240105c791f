//! Records that are written plainly take a shorter way; what they come to is the same on either.

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    super::{
        Request,
        testing::{MemoryObject, Trickle, decode_object},
    },
    *,
};
use crate::domain::RecordError;

/// All that an object came to, batch by batch.
type Story = (Vec<Batch>, Vec<RecordError>, Option<(&'static str, Option<u64>, String)>);

fn story(outcome: Outcome) -> Story {
    let end = end(&outcome);
    (outcome.batches, outcome.errors, end)
}

/// What the text comes to when records are there before they are asked for, and when none is.
fn both(text: &str, request: &Request) -> [Story; 2] {
    let object = MemoryObject { bytes: Bytes::copy_from_slice(text.as_bytes()), fails_at: None };
    [story(decode_object(object.clone(), request)), story(decode_object(Trickle(object), request))]
}

fn same(text: &str, request: &Request) -> Result<(), TestCaseError> {
    let [ahead, trickled] = both(text, request);
    prop_assert_eq!((&ahead.1, &ahead.2), (&trickled.1, &trickled.2));
    prop_assert_eq!(ahead.0.len(), trickled.0.len());
    for (one, other) in ahead.0.iter().zip(&trickled.0) {
        prop_assert_eq!(&one.provenance, &other.provenance);
        prop_assert_eq!(&one.columns, &other.columns);
    }
    Ok(())
}

/// Limits that these texts meet, and some that they do not.
fn requests(key: &'static str) -> impl Strategy<Value = Request> {
    let projection = prop::sample::select(vec![Projection::All, only(&["a"]), only(&["c", "a", "z"]), only(&[])]);
    let sizes =
        (prop::sample::select(vec![1, 3, 1000]), prop::sample::select(vec![64, 1 << 20]), prop::sample::select(vec![20, 40, 1 << 16]));
    (projection, sizes, any::<bool>()).prop_map(move |(projection, (rows, bytes, record_bytes), header)| {
        let mut request = request(key);
        (request.projection, request.csv.header) = (projection, header);
        (request.batch_rows, request.batch_bytes, request.max_record_bytes) = (rows, bytes, record_bytes);
        request
    })
}

/// Lines that are alike for the most part.
fn lines(usual: &'static str, odd: &'static str) -> impl Strategy<Value = String> {
    let line = prop_oneof![12 => usual, 1 => odd];
    let end = prop::sample::select(vec!["\n", "\n", "\r\n"]);
    (prop::collection::vec(line, 0..30), end, any::<bool>()).prop_map(|(lines, end, ended)| {
        let text = lines.join(end);
        if ended { text + end } else { text }
    })
}

proptest! {
    #[test]
    fn records_of_csv_come_to_the_same_on_either_way(
        text in lines("-?[0-9]{1,9}\\.?[0-9]{0,9},[0-9x ]{0,20},[a-zé]{0,3}", "(\u{feff}?[\"a,é\r\n]{0,12}|[0-9,]{0,60})"),
        request in requests("t.csv"),
    ) {
        same(&format!("a,b,c\n{text}"), &request)?;
        same(&text, &request)?;
    }

    #[test]
    fn lines_of_json_come_to_the_same_on_either_way(
        text in lines(
            "\\{\"a\": ?-?[0-9]{1,9}(\\.[0-9]{1,9})?,\"b\": ?(\"[a-zé ]{0,20}\"|null|true|0|-?[0-9.eE+]{1,20}),\"c\":[0-9]{1,3}\\}",
            "(\\{(\"[abcd]\": ?([0-9]{1,2}|\"[\\\\\"né\t]{0,3}\"|\\[1,[0-9.]{1,2}\\]|\\{\"a\":1\\})[, ]{1,2}){0,4}\\}? ?|[\\[{}\":,1a ]{0,6})",
        ),
        request in requests("t.jsonl"),
    ) {
        same(&text, &request)?;
    }
}

#[test]
fn most_records_take_the_shorter_way() {
    // Else the two ways above would be one. What has been read of a text that trickles is never a whole record.
    use super::super::{batches::Columns, jsonl::JsonColumns};

    let mut columns = JsonColumns::new(&Projection::All, 1 << 20);
    let line = "{\"a\": 1.5, \"b\": \"x\"}";
    columns.push(0, line);
    let ahead = format!("{line}\n{line}\n");
    assert_eq!(columns.push_plain(1, ahead.as_bytes()), Some(line.len() + 1));
    assert_eq!(columns.push_plain(2, line.as_bytes()), None, "it may go on");
    assert_eq!(columns.finish(2).unwrap().num_rows(), 2);
}
