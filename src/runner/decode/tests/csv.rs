//! CSV through the door.

use super::{
    super::testing::{MemoryObject, decode, decode_object},
    *,
};
use crate::{
    domain::Slice,
    runner::batch::{ENCODING, ENCODING_CSV},
};

#[test]
fn cells_are_unquoted_and_otherwise_as_found() {
    let text = "a,b,c\r\n1, x ,\"two\nlines, \"\"quoted\"\"\"\r\n\n,\"\",\"a\"b\n\"\",é,c\"\"d";
    let outcome = decode(text, &request("t.csv"));
    assert_eq!(rows(&outcome), texts(&[(7, "a=1 b= x  c=two\nlines, \"quoted\""), (39, "a= b= c=ab"), (48, "a= b=é c=c\"\"d")]),);
    assert!(outcome.errors.is_empty() && outcome.end.is_none());
}

#[test]
fn columns_say_that_they_are_csv_text() {
    let outcome = decode("a\n1\n", &request("t.csv"));
    let schema = outcome.batches[0].columns.schema();
    assert_eq!(schema.field(0).metadata().get(ENCODING).map(String::as_str), Some(ENCODING_CSV));
    assert_eq!(schema.field(0).data_type(), &arrow::datatypes::DataType::Utf8);
}

#[test]
fn a_byte_order_mark_belongs_to_no_cell() {
    let outcome = decode("\u{feff}\"a,\n1\",b\n1,2\n", &request("t.csv"));
    assert_eq!(rows(&outcome), texts(&[(12, "a,\n1=1 b=2")]));

    let mut headless = request("t.csv");
    headless.csv.header = false;
    let outcome = decode("\u{feff}\"a,\n1\",b\n1,2\n", &headless);
    assert_eq!(rows(&outcome), texts(&[(0, "column_0=a,\n1 column_1=b"), (12, "column_0=1 column_1=2")]));
}

#[test]
fn without_a_header_columns_are_numbered_and_the_first_record_counts() {
    let mut request = request("t.csv");
    request.csv.header = false;
    let outcome = decode("\n\n1,2\n3,4\n5\n", &request);
    assert_eq!(rows(&outcome), texts(&[(2, "column_0=1 column_1=2"), (6, "column_0=3 column_1=4")]));
    assert_eq!(faults(&outcome), [(10, "wrong_field_count")]);
}

#[test]
fn a_column_without_a_name_gets_one_and_a_name_given_twice_ends_the_object() {
    assert_eq!(rows(&decode("a,,c\n1,2,3\n", &request("t.csv"))), texts(&[(5, "a=1 column_1=2 c=3")]));
    for header in ["a,b,a\n1,2,3\n", "column_1,\n1,2\n"] {
        let (code, position, detail) = end(&decode(header, &request("t.csv"))).expect("the object ends");
        assert_eq!(code, "duplicate_column");
        assert_eq!(position, Some(header.find('\n').expect("a line") as u64 + 1));
        assert!(detail.contains("twice"), "{detail}");
    }
}

#[test]
fn objects_with_one_header_share_its_schema_and_others_have_their_own() {
    let mut request = request("t.csv");
    request.projection = only(&["b"]);
    let next = |text: &'static str, delimiter: u8| {
        let mut request = request.clone();
        request.csv.delimiter = delimiter;
        decode(text, &request)
    };
    let first = next("a,b\n1,2\n", b',');
    let same = next("\u{feff}a,b\n3,4\n5,6\n", b',');
    assert!(Arc::ptr_eq(first.batches[0].columns.schema_ref(), same.batches[0].columns.schema_ref()));
    assert_eq!(rows(&same), texts(&[(7, "b=4"), (11, "b=6")]));
    // The same bytes mean something else where fields end elsewhere, and what is almost the same header is another one.
    assert_eq!(rows(&next("a,b\n1,2\n", b';')), texts(&[(4, "")]));
    assert_eq!(rows(&next("b,a\n1,2\n", b',')), texts(&[(4, "b=1")]));
    assert_eq!(end(&next("b,b\n1,2\n", b',')).map(|(code, ..)| code), Some("duplicate_column"));
    assert_eq!(rows(&next("b,a\n3,4\n", b',')), texts(&[(4, "b=3")]));
}

#[test]
fn only_the_wanted_columns_are_there_in_the_order_of_the_object() {
    let mut request = request("t.csv");
    request.projection = only(&["c", "a", "absent"]);
    assert_eq!(rows(&decode("a,b,c\n1,2,3\n", &request)), texts(&[(6, "a=1 c=3")]));

    request.projection = only(&["absent"]);
    let outcome = decode("a,b,c\n1,2,3\n4,5,6\n", &request);
    assert_eq!(outcome.batches[0].columns.num_columns(), 0);
    assert_eq!(outcome.batches[0].rows(), 2);
}

#[test]
fn a_bad_record_costs_one_record() {
    let mut request = request("t.csv");
    request.max_record_bytes = 12;
    let text = b"a,b\n1,2\n1,2,3\n1\n\xFF,2\nlong,long,long\n3,4\n\"5,6\n7,8\n";
    let outcome = decode(&text[..], &request);
    assert_eq!(rows(&outcome), texts(&[(4, "a=1 b=2"), (35, "a=3 b=4")]));
    assert_eq!(
        faults(&outcome),
        [(8, "wrong_field_count"), (14, "wrong_field_count"), (16, "invalid_utf8"), (20, "record_too_large"), (39, "unterminated_quote")],
    );
    assert!(outcome.errors[0].detail.contains("expected 2 fields") && outcome.errors[0].detail.contains("found 3"));
    assert!(outcome.end.is_none());
}

#[test]
fn a_header_that_cannot_be_read_ends_the_object() {
    let cases: [(&[u8], &str); 3] =
        [(b"a,\xFF\n1,2\n", "invalid_utf8"), (b"\"a\n1\n", "unterminated_quote"), (&[b'x'; 70_000], "record_too_large")];
    for (text, expected) in cases {
        let outcome = decode(text.to_vec(), &request("t.csv"));
        assert_eq!(end(&outcome).map(|(code, ..)| code), Some(expected));
        assert!(outcome.batches.is_empty() && outcome.errors.is_empty());
    }
}

#[test]
fn an_object_without_records_has_none() {
    for text in ["", "\n\r\n", "a,b", "a,b\n", "\u{feff}"] {
        let outcome = decode(text, &request("t.csv"));
        assert!(outcome.batches.is_empty() && outcome.errors.is_empty() && outcome.end.is_none(), "{text:?}");
    }
}

#[test]
fn batches_end_by_rows_and_by_bytes() {
    let text = format!("a\n{}", "0123456789\n".repeat(100));
    let mut request = request("t.csv");
    request.batch_rows = 30;
    let sizes = |outcome: Outcome| outcome.batches.iter().map(Batch::rows).collect::<Vec<_>>();
    assert_eq!(sizes(decode(text.clone(), &request)), [30, 30, 30, 10]);

    request.batch_bytes = 14 * 40;
    request.batch_rows = 1000;
    assert_eq!(sizes(decode(text.clone(), &request)), [40, 40, 20]);

    // Error rows count as rows: an object of nothing but errors is bounded too.
    request.batch_rows = 30;
    let outcome = decode(text.replace("0123456789", "1,2"), &request);
    assert_eq!(outcome.errors.len(), 100);
}

#[test]
fn the_delimiter_is_as_configured_and_a_tab_in_a_tsv() {
    let mut semicolons = request("t.csv");
    semicolons.csv.delimiter = b';';
    assert_eq!(rows(&decode("a;b\n1;\"2;3\"\n", &semicolons)), texts(&[(4, "a=1 b=2;3")]));
    assert_eq!(rows(&decode("a\tb\n1\t2,3\n", &request("t.tsv"))), texts(&[(4, "a=1 b=2,3")]));

    semicolons.csv.delimiter = b'"';
    assert_eq!(end(&decode("a\n1\n", &semicolons)).map(|(code, ..)| code), Some("invalid_delimiter"));
}

#[test]
fn a_slice_takes_its_names_from_the_start_of_the_object() {
    // A header larger than what is read of it at first.
    let header = (0..20_000).map(|column| format!("name{column}")).collect::<Vec<_>>().join(",");
    let row = (0..20_000).map(|column| column.to_string()).collect::<Vec<_>>().join(",");
    let text = format!("{header}\n{row}\n{row}\n");
    let mut request = request("t.csv");
    request.max_record_bytes = 1 << 20;
    request.projection = only(&["name19999"]);
    let second = (header.len() + row.len() + 2) as u64;
    request.slice.slice = Slice::Bytes { start: second, end: text.len() as u64 };
    assert_eq!(rows(&decode(text, &request)), texts(&[(second, "name19999=19999")]));
}

#[test]
fn a_failing_store_is_not_a_fault_of_the_object_and_good_records_stay() {
    let text = format!("a\n{}", "0123456789\n".repeat(200_000));
    let object = MemoryObject { bytes: text.into(), fails_at: Some(2_000_000) };
    let outcome = decode_object(object, &request("t.csv"));
    assert_eq!(end(&outcome).map(|(code, ..)| code), Some("store_unavailable"));
    assert!(!rows(&outcome).is_empty());
}
