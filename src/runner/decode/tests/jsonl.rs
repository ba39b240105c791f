//! JSON Lines through the door.

use super::{super::testing::decode, *};
use crate::runner::batch::{ENCODING, ENCODING_JSON};

#[test]
fn values_are_raw_json_and_a_missing_field_is_a_null() {
    let text = concat!(
        "{\"a\": 1.50, \"b\": \"x\\n\\u00e9\"}\r\n",
        " { \"b\" : [1, {\"c\": null}] , \"d\": null } \n",
        "\n \t\r\n",
        "{}\n",
        "{\"\\u0061\":true}",
    );
    let outcome = decode(text, &request("t.jsonl"));
    assert_eq!(rows(&outcome), texts(&[(0, "a=1.50 b=\"x\\n\\u00e9\""), (31, "b=[1, {\"c\": null}] d=null"), (77, ""), (80, "a=true")]));
    let schema = outcome.batches[0].columns.schema();
    assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["a", "b", "d"]);
    assert!(schema.fields().iter().all(|field| field.metadata().get(ENCODING).is_some_and(|value| value == ENCODING_JSON)));
    assert!(outcome.errors.is_empty() && outcome.end.is_none());
}

#[test]
fn with_names_given_every_batch_has_those_columns() {
    let mut request = request("t.jsonl");
    request.projection = only(&["z", "a"]);
    request.batch_rows = 1;
    let outcome = decode("{\"a\":1,\"b\":2}\n{\"b\":3}\n", &request);
    assert_eq!(rows(&outcome), texts(&[(0, "a=1"), (14, "")]));
    for batch in &outcome.batches {
        let schema = batch.columns.schema();
        assert_eq!(schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["a", "z"]);
    }
}

#[test]
fn lines_of_changing_shape_keep_their_values_in_their_columns() {
    let text = "{\"a\":1,\"b\":2}\n{\"b\":3,\"a\":4}\n{\"b\":5}\n{\"c\":6,\"b\":7,\"a\":8}\n{\"a\":9,\"b\":10,\"c\":11}\n";
    let outcome = decode(text, &request("t.jsonl"));
    let found: Vec<String> = rows(&outcome).into_iter().map(|(_, cells)| cells).collect();
    assert_eq!(found, ["a=1 b=2", "a=4 b=3", "b=5", "a=8 b=7 c=6", "a=9 b=10 c=11"]);
}

#[test]
fn a_bad_line_costs_one_line() {
    let text = b"{\"a\":1}\n{\"a\":1,}\n[1]\n\"s\"\n{\"a\":1,\"a\":2}\nnull\n{\"a\":\xFF}\n{\"a\":1} x\n{\"new\":1,\"a\":\n{\"a\":2}";
    let outcome = decode(&text[..], &request("t.jsonl"));
    assert_eq!(rows(&outcome), texts(&[(0, "a=1"), (76, "a=2")]));
    assert_eq!(
        faults(&outcome),
        [
            (8, "invalid_json"),
            (17, "not_an_object"),
            (21, "not_an_object"),
            (25, "duplicate_key"),
            (39, "not_an_object"),
            (44, "invalid_utf8"),
            (52, "invalid_json"),
            (62, "invalid_json"),
        ],
    );
    assert!(outcome.errors[0].detail.starts_with("column 8: "), "{}", outcome.errors[0].detail);
    assert_eq!(outcome.batches[0].columns.num_columns(), 1, "a field of a bad line alone makes no column");
}

#[test]
fn a_field_given_twice_matters_only_where_it_is_wanted() {
    let mut request = request("t.jsonl");
    request.projection = only(&["a"]);
    let outcome = decode("{\"b\":1,\"b\":2,\"a\":3}\n{\"a\":1,\"\\u0061\":2}\n", &request);
    assert_eq!(rows(&outcome), texts(&[(0, "a=3")]));
    assert_eq!(faults(&outcome), [(20, "duplicate_key")]);
}

#[test]
fn nesting_is_bounded_but_brackets_in_strings_and_side_by_side_are_not_nesting() {
    let deep = |levels: usize| format!("{{\"a\":{}{}}}\n", "[".repeat(levels), "]".repeat(levels));
    let wide = format!("{{\"a\":[{}[]], \"b\":\"\\\"{}\"}}\n", "[],".repeat(500), "[{".repeat(500));
    assert_eq!(rows(&decode(deep(126), &request("t.jsonl"))).len(), 1);
    assert_eq!(rows(&decode(wide, &request("t.jsonl"))).len(), 1);
    for levels in [127, 20_000] {
        assert_eq!(faults(&decode(deep(levels), &request("t.jsonl"))), [(0, "invalid_json")]);
    }
}

#[test]
fn lines_with_ever_new_fields_end_a_batch_early_and_lose_nothing() {
    let mut request = request("t.jsonl");
    request.batch_bytes = 2000;
    let text: String = (0..100).map(|line| format!("{{\"f{line}\":{line}}}\n")).collect();
    let outcome = decode(text, &request);
    let found: Vec<String> = rows(&outcome).into_iter().map(|(_, cells)| cells).collect();
    assert_eq!(found, (0..100).map(|line| format!("f{line}={line}")).collect::<Vec<_>>());
    assert!(outcome.batches.len() > 1 && outcome.batches.iter().all(|batch| batch.columns.get_array_memory_size() < 20_000));
}

#[test]
fn a_line_with_too_many_fields_is_an_error_row() {
    let mut request = request("t.jsonl");
    request.max_record_bytes = 1 << 20;
    let fields: Vec<String> = (0..70_000).map(|field| format!("\"{field}\":0")).collect();
    let outcome = decode(format!("{{\"a\":1}}\n{{{}}}\n{{\"a\":2}}\n", fields.join(",")), &request);
    assert_eq!(faults(&outcome), [(8, "too_many_columns")]);
    assert_eq!(rows(&outcome).len(), 2);
}

#[test]
fn a_byte_order_mark_belongs_to_no_line() {
    assert_eq!(rows(&decode("\u{feff}{\"a\":1}\n", &request("t.jsonl"))), texts(&[(0, "a=1")]));
}
