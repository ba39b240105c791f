//! Compressed text, and objects whose names say nothing.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};

use super::{super::testing::decode, *};
use crate::domain::spec::{InputCompression, InputFormat};

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).expect("memory does not fail");
    encoder.finish().expect("memory does not fail")
}

fn zst(text: &[u8]) -> Vec<u8> {
    zstd::encode_all(text, 3).expect("memory does not fail")
}

/// Varied enough not to compress into a few bytes.
fn long_csv() -> String {
    let mut text = String::from("a,b\n");
    let mut state = 1_u32;
    for _ in 0..50_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push_str(&format!("{state},{}\n", state >> 7));
    }
    text
}

#[test]
fn compressed_text_gives_the_records_and_positions_of_the_text() {
    let text = long_csv();
    let plain = rows(&decode(text.clone(), &request("t.csv")));
    let (left, right) = text.as_bytes().split_at(text.len() / 3);
    for (key, bytes) in [
        ("t.csv.gz", gzip(text.as_bytes())),
        ("t.csv.zst", zst(text.as_bytes())),
        ("several-members.csv.gz", [gzip(left), gzip(b""), gzip(right)].concat()),
        ("several-frames.csv.zstd", [zst(left), zst(b""), zst(right)].concat()),
        ("named-as-if-plain.csv", gzip(text.as_bytes())),
        ("named-as-nothing", zst(text.as_bytes())),
    ] {
        let outcome = decode(bytes, &request(key));
        assert!(outcome.end.is_none() && outcome.errors.is_empty(), "{key}: {:?}", outcome.end);
        assert!(rows(&outcome) == plain, "{key}");
    }
}

#[test]
fn a_corrupt_stream_keeps_the_records_before_it_and_says_where_it_broke() {
    let text = long_csv();
    let plain = rows(&decode(text.clone(), &request("t.csv")));
    for (key, mut bytes, code) in [("t.csv.gz", gzip(text.as_bytes()), "invalid_gzip"), ("t.csv.zst", zst(text.as_bytes()), "invalid_zstd")]
    {
        let cut = bytes[..bytes.len() * 2 / 3].to_vec();
        let middle = bytes.len() * 2 / 3;
        bytes[middle..middle + 40].fill(0xA5);
        for (what, bytes) in [("cut", cut), ("overwritten", bytes)] {
            let outcome = decode(bytes, &request(key));
            let (found_code, position, _) = end(&outcome).expect("the object ends");
            assert_eq!(found_code, code, "{key} {what}");
            let good = rows(&outcome);
            assert!(good.len() > 1000 && good.len() < plain.len(), "{key} {what}: {} good records", good.len());
            if what == "cut" {
                assert!(good == plain[..good.len()], "{key}");
                assert_eq!(position, Some(plain[good.len()].0), "{key}");
            }
        }
    }
}

#[test]
fn data_that_are_not_compressed_as_named_end_the_object() {
    assert_eq!(end(&decode("a\n1\n", &request("t.csv.gz"))).map(|(code, ..)| code), Some("invalid_gzip"));
    assert_eq!(end(&decode("a\n1\n", &request("t.csv.zst"))).map(|(code, ..)| code), Some("invalid_zstd"));
}

#[test]
fn a_small_object_that_grows_beyond_measure_is_one_error_row() {
    let bomb = zst(&vec![b'x'; 64 << 20]);
    assert!(bomb.len() < 10_000);
    let mut request = request("t.csv.zst");
    request.csv.header = true;
    let header_then_bomb = [zst(b"a\n"), bomb, zst(b"\n1\n")].concat();
    let outcome = decode(header_then_bomb, &request);
    assert_eq!(faults(&outcome), [(2, "record_too_large")]);
    assert_eq!(rows(&outcome), texts(&[(2 + (64 << 20) + 1, "a=1")]));
}

#[test]
fn what_no_name_says_the_content_does() {
    assert_eq!(rows(&decode("a\n1\n", &request("part-0"))), texts(&[(2, "a=1")]));
    assert_eq!(rows(&decode("{\"a\":1}\n", &request("part-0"))), texts(&[(0, "a=1")]));
    assert_eq!(rows(&decode(gzip(b"{\"a\":1}\n"), &request("part-0.gz"))), texts(&[(0, "a=1")]));
    for unknown in [&b"\x7fELF\x02\x01\x01\0"[..], b"[{\"a\":1}]", b"a\0b"] {
        assert_eq!(end(&decode(unknown, &request("part-0"))).map(|(code, ..)| code), Some("unknown_format"));
    }
}

#[test]
fn what_the_job_says_wins_over_the_name() {
    let mut request = request("t.csv.gz");
    request.slice.format = InputFormat::Jsonl;
    request.slice.compression = InputCompression::None;
    assert_eq!(rows(&decode("{\"a\":1}\n", &request)), texts(&[(0, "a=1")]));
}
