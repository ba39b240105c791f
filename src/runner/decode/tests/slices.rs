//! Cutting an object changes nothing: the slices' records, one after another, are those of the whole.

use proptest::prelude::*;

use super::{
    super::{RecordBorders, Request, testing::decode},
    *,
};
use crate::domain::Slice;

/// All that an object came to, whatever the batches.
#[derive(Debug, PartialEq, Default)]
struct Story {
    rows: Vec<(u64, String)>,
    errors: Vec<(u64, String, String)>,
}

impl Story {
    /// `None` if the object ended early.
    fn of(text: &[u8], request: &Request) -> Option<Self> {
        let outcome = decode(text.to_vec(), request);
        if outcome.end.is_some() {
            return None;
        }
        let errors = outcome.errors.iter().map(|error| (error.position.unwrap_or(u64::MAX), error.code.clone(), error.detail.clone()));
        Some(Self { rows: rows(&outcome), errors: errors.collect() })
    }

    fn of_slices(text: &[u8], cuts: &[u64], request: &Request) -> Option<Self> {
        let mut story = Self::default();
        for pair in cuts.windows(2) {
            let mut request = request.clone();
            request.slice.slice = Slice::Bytes { start: pair[0], end: pair[1] };
            let slice = Self::of(text, &request)?;
            story.rows.extend(slice.rows);
            story.errors.extend(slice.errors);
        }
        Some(story)
    }
}

fn small_batches(key: &str, header: bool) -> Request {
    let mut request = request(key);
    request.csv.header = header;
    request.batch_rows = 3;
    request.max_record_bytes = 12;
    request
}

/// Every byte that means something, and some that do not.
fn csv_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![&b","[..], b"\n", b"\"", b"a", b"b"]),
        1 => prop::sample::select(vec![&b"\r\n"[..], b"\r", b"\"\"", b"\xFF", "é".as_bytes(), b"\xEF\xBB\xBF", b"a,b\n", b"\"x\ny\",z\n", b"long long long"]),
    ];
    let start = prop::sample::select(vec![&b""[..], b"\xEF\xBB\xBF", b"a,b\n", b"\n"]);
    (start, proptest::collection::vec(piece, 0..40)).prop_map(|(start, pieces)| [start, &pieces.concat()].concat())
}

fn json_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"\n"[..],
        b"{\"a\":1}\n",
        b"{\"b\":\"x\"}\r\n",
        b"{\"a\":",
        b"}",
        b"{",
        b" ",
        b"[]",
        b"\xFF",
        b"\xEF\xBB\xBF",
        b"{\"long\":123456}\n",
        b"\"",
    ]);
    proptest::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
}

fn pick(places: &[u64], choices: &[prop::sample::Index], length: u64) -> Vec<u64> {
    let mut cuts: Vec<u64> = choices.iter().filter(|_| !places.is_empty()).map(|choice| places[choice.index(places.len())]).collect();
    cuts.extend([0, length]);
    cuts.sort_unstable();
    cuts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn csv_cut_at_record_borders_gives_the_same_records_positions_and_errors(
        text in csv_bytes(),
        choices in proptest::collection::vec(any::<prop::sample::Index>(), 0..5),
        header in any::<bool>(),
    ) {
        let mut borders = Vec::new();
        RecordBorders::new(b',').feed(&text, &mut |offset| borders.push(offset));
        let cuts = pick(&borders, &choices, text.len() as u64);
        let request = small_batches("t.csv", header);
        let whole = Story::of(&text, &request);
        let sliced = Story::of_slices(&text, &cuts, &request);
        prop_assert_eq!(whole, sliced, "cut at {:?}", cuts);
    }

    #[test]
    fn json_lines_cut_anywhere_give_the_same_records_positions_and_errors(
        text in json_bytes(),
        choices in proptest::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let places: Vec<u64> = (0..=text.len() as u64).collect();
        let cuts = pick(&places, &choices, text.len() as u64);
        let request = small_batches("t.jsonl", true);
        let whole = Story::of(&text, &request);
        let sliced = Story::of_slices(&text, &cuts, &request);
        prop_assert!(whole.is_some());
        prop_assert_eq!(whole, sliced, "cut at {:?}", cuts);
    }

    #[test]
    fn every_csv_field_comes_back_as_it_was_written(
        table in proptest::collection::vec(proptest::collection::vec("[a-c,\"\r\n é]{0,5}", 3), 1..6),
        crlf in any::<bool>(),
    ) {
        let line = |cells: &[String]| {
            let quoted: Vec<String> = cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
            quoted.join(",") + if crlf { "\r\n" } else { "\n" }
        };
        let text: String = std::iter::once("a,b,c\n".to_owned()).chain(table.iter().map(|cells| line(cells))).collect();
        let found: Vec<String> = rows(&decode(text, &request("t.csv"))).into_iter().map(|(_, cells)| cells).collect();
        let expected: Vec<String> = table.iter().map(|cells| format!("a={} b={} c={}", cells[0], cells[1], cells[2])).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_line_much_longer_than_its_slices_is_read_once() {
    let text = format!("{{\"a\":\"{}\"}}\n{{\"a\":2}}\n", "x".repeat(3 << 20));
    let mut request = request("t.jsonl");
    request.max_record_bytes = 4 << 20;
    let cuts: Vec<u64> = (0..=text.len() as u64).step_by(500_000).chain([text.len() as u64]).collect();
    let story = Story::of_slices(text.as_bytes(), &cuts, &request).expect("nothing ends the object");
    assert_eq!(story.rows.iter().map(|(position, _)| *position).collect::<Vec<_>>(), [0, (3 << 20) + 9]);
    assert_eq!(story.rows[0].1.len(), (3 << 20) + 4);
}

#[test]
fn a_compressed_text_and_a_range_outside_the_object_are_refused() {
    for (key, start, end_of) in [("t.csv.gz", 0, 2), ("t.csv", 3, 2), ("t.csv", 0, 100), ("t.parquet", 0, 2)] {
        let mut request = request(key);
        request.slice.slice = Slice::Bytes { start, end: end_of };
        assert_eq!(end(&decode("a\n1\n", &request)).map(|(code, ..)| code), Some("invalid_slice"), "{key} {start}..{end_of}");
    }
}
