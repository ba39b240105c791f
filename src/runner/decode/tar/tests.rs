//! Archives: of other programs' making, cut anywhere, and hostile.

use std::{
    io::{self, Read},
    sync::Arc,
};

use ::tar::{Builder, EntryType, Header};
use arrow::datatypes::DataType;
use proptest::prelude::*;

use super::{
    super::{
        Projection,
        testing::{Outcome, decode, request, rows},
    },
    *,
};
use crate::runner::batch::{ENCODING, ENCODING_CSV, ENCODING_JSON};

/// An archive as another program writes it.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

/// One header of our own making, with any name, size and flag.
fn header(name: &str, size: u64, flag: u8) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(size);
    header.set_entry_type(EntryType::new(flag));
    header.set_cksum();
    header.as_bytes().to_vec()
}

/// A member with its padding.
fn member(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut all = header(name, bytes.len() as u64, b'0');
    all.extend(bytes);
    all.resize(all.len().next_multiple_of(512), 0);
    all
}

fn ended(pieces: &[Vec<u8>]) -> Vec<u8> {
    [pieces.concat(), vec![0; 1024]].concat()
}

fn faults(outcome: &Outcome) -> Vec<(u64, &str)> {
    outcome.errors.iter().map(|e| (e.position.unwrap_or(u64::MAX), e.code.as_str())).collect()
}

fn end(outcome: &Outcome) -> Option<(&str, Option<u64>)> {
    match outcome.end.as_ref()? {
        DecodeError::Corrupt { code, position, .. } => Some((code, *position)),
        DecodeError::Source(_) => panic!("no store here"),
    }
}

fn owned(rows: &[(u64, &str)]) -> Vec<(u64, String)> {
    rows.iter().map(|(position, row)| (*position, (*row).to_owned())).collect()
}

#[test]
fn files_of_one_name_are_one_record_with_a_column_for_each_kind() {
    let bytes = archive(&[
        ("train/0001.jpg", b"jpeg"),
        ("train/0001.txt", "a ta\u{308}g".as_bytes()),
        ("train/0001.cls", b"7"),
        ("train/0001.json", b"{\n \"width\": 3,\n \"tags\": [1,\n 2]}\n"),
        ("train/0001.seg.PNG", b"mask"),
        ("train/0002.JPEG", b"other"),
        ("train/0002.json", b"[1]"),
    ]);
    let outcome = decode(bytes, &request("a.tar"));
    let expected = [
        (0, "__key__=train/0001 image=jpeg text=a ta\u{308}g cls=7 seg.png=mask width=3 tags=[1,  2]"),
        (5120, "__key__=train/0002 image=other json=[1]"),
    ];
    assert_eq!(rows(&outcome), owned(&expected));
    assert!(outcome.errors.is_empty() && outcome.end.is_none(), "{outcome:?}");
    let schema = outcome.batches[0].columns.schema();
    let encoding = |name: &str| schema.field_with_name(name).unwrap().metadata().get(ENCODING).cloned();
    assert_eq!(
        (encoding("cls").as_deref(), encoding("width").as_deref(), encoding("text")),
        (Some(ENCODING_CSV), Some(ENCODING_JSON), None)
    );
    assert_eq!(schema.field_with_name("image").unwrap().data_type(), &DataType::Binary);
}

#[test]
fn long_names_and_compression_make_no_difference() {
    let long = format!("{}/sample", "d".repeat(300));
    let files: &[(&str, &[u8])] = &[(&format!("{long}.png"), b"p"), (&format!("{long}.txt"), b"t"), ("./b.png", b"q")];
    let plain = archive(files);
    let mut gzip = flate2::read::GzEncoder::new(plain.as_slice(), flate2::Compression::fast());
    let mut packed = Vec::new();
    gzip.read_to_end(&mut packed).unwrap();
    let expected = rows(&decode(plain.clone(), &request("a.tar")));
    assert_eq!(expected.len(), 2);
    assert!(expected[0].1.starts_with(&format!("__key__={long} image=p text=t")) && expected[1].1 == "__key__=b image=q", "{expected:?}");
    assert_eq!(rows(&decode(packed, &request("a.tgz"))), expected);
    assert_eq!(rows(&decode(zstd::encode_all(plain.as_slice(), 1).unwrap(), &request("a.tar.zst"))), expected);
    assert_eq!(rows(&decode(plain, &request("by-content"))), expected, "no extension says what it is");
}

#[test]
fn extended_headers_of_posix_are_read() {
    let record = |text: &str| {
        let length = (1..).find(|n| text.len() + 2 + format!("{n}").len() == *n).unwrap();
        format!("{length} {text}\n")
    };
    let records = [record("path=näme.png"), record("mtime=1.5"), record("size=3")].concat();
    let mut extended = header("x", records.len() as u64, b'x');
    extended.extend(records.as_bytes());
    extended.resize(1024, 0);
    // The header itself gives a name and a size that count for nothing.
    let mut file = header("short", 0, b'0');
    file.extend(b"abc");
    file.resize(1024, 0);
    let mut sparse = header("x", 23, b'x');
    sparse.extend(b"23 GNU.sparse.major=1\n\n");
    sparse.truncate(512 + 22);
    let global = [header("g", 10, b'g'), [b"10 a=b12\n\0".to_vec(), vec![0; 502]].concat()].concat();
    let outcome = decode(ended(&[global, extended, file, member("b.png", b"b")]), &request("a.tar"));
    assert_eq!(rows(&outcome), owned(&[(1024, "__key__=näme image=abc"), (3072, "__key__=b image=b")]));
    assert!(outcome.end.is_none() && outcome.errors.is_empty());
}

#[test]
fn what_is_wanted_is_kept_and_nothing_else() {
    let bytes = archive(&[("a.jpg", b"j"), ("a.npy", &[7; 4096]), ("a.json", b"{\"id\": 1, \"x\": 2}"), ("b.txt", b"t")]);
    let of = |names: &[&str]| {
        let mut request = request("a.tar");
        request.projection = Projection::Only(Arc::new(names.iter().map(|n| (*n).to_owned()).collect()));
        rows(&decode(bytes.clone(), &request))
    };
    assert_eq!(of(&["image"]), owned(&[(0, "image=j"), (6656, "")]));
    assert_eq!(of(&["image", "id", "__key__"]), owned(&[(0, "__key__=a image=j id=1"), (6656, "__key__=b")]));
}

#[test]
fn a_sample_that_is_no_record_costs_one_error_row_and_its_neighbours_nothing() {
    let many: Vec<Vec<u8>> = (0..300).map(|i| member(&format!("many.{i}"), b"")).collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("unsafe_name", member("../../etc/passwd.png", b"x")),
        ("unsafe_name", member("/etc/shadow.txt", b"x")),
        ("unsafe_name", member("a/../../b.txt", b"x")),
        ("unsupported_member", header("link.png", 0, b'2')),
        ("unsupported_member", header("hard.png", 1 << 40, b'1')),
        ("unsupported_member", header("dev.png", 0, b'3')),
        ("unsupported_member", header("pipe.png", 0, b'6')),
        ("unsupported_member", [header("sparse.png", 5, b'S'), vec![1; 512]].concat()),
        ("no_extension", member("README", b"x")),
        ("invalid_utf8", member("bad.txt", b"\xff")),
        ("invalid_json", member("bad.json", b"{\"a\":")),
        ("invalid_json", member("injected.json", b"1, \"b\": 2")),
        ("duplicate_key", member("twice.json", b"{\"a\":1,\"a\":2}")),
        ("duplicate_member", [member("two.png", b"a"), member("two.jpg", b"b")].concat()),
        ("record_too_large", member("large.png", &vec![0; (1 << 20) + 1])),
        ("record_too_large", [member("parts.png", &vec![0; 1 << 19]), member("parts.npy", &vec![0; 1 << 19])].concat()),
        ("too_many_columns", many.concat()),
    ];
    for (code, bytes) in cases {
        let before = member("a.png", b"a");
        let position = before.len() as u64;
        let outcome = decode(ended(&[before, bytes, member("z.png", b"z")]), &request("a.tar"));
        assert_eq!(faults(&outcome), [(position, code)], "{:?}", outcome.errors);
        let kept: Vec<String> = rows(&outcome).into_iter().map(|(_, row)| row).collect();
        assert_eq!(kept, ["__key__=a image=a", "__key__=z image=z"], "{code}");
        assert!(outcome.end.is_none(), "{code}: {:?}", outcome.end);
    }
}

#[test]
fn folders_hidden_files_and_webdatasets_own_are_no_records() {
    let pieces =
        [header("d/", 0, b'5'), member("d/.hidden.png", b"x"), member("._d.png", b"x"), member("__meta__", b"x"), member("d/a.png", b"a")];
    let outcome = decode(ended(&pieces), &request("a.tar"));
    assert_eq!(rows(&outcome).len(), 1);
    assert!(outcome.errors.is_empty() && outcome.end.is_none(), "{outcome:?}");
}

#[test]
fn an_archive_that_cannot_be_read_on_loses_what_is_left_of_it() {
    let (a, b) = (member("a.png", b"a"), member("b.png", &[b'b'; 2000]));
    let whole = ended(&[a.clone(), b.clone()]);
    let terabyte = header("huge.png", 1 << 40, b'0');
    let mut beyond = header("huge.png", 0, b'0');
    beyond[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    let sum: u64 = beyond.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) }).sum();
    beyond[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut garbage = whole.clone();
    garbage[1030] ^= 1;
    let long_name = [header("n", 1 << 40, b'L'), vec![b'x'; 4096]].concat();
    let pax_bomb = [header("n", 1 << 30, b'x'), vec![b'x'; 4096]].concat();
    let bad_pax = [header("n", 512, b'x'), vec![b'9'; 512], b.clone()].concat();
    let cases: Vec<(&str, Vec<u8>, u64, usize)> = vec![
        ("cut in a member", whole[..2048].to_vec(), 1024, 1),
        ("cut in a header", whole[..1300].to_vec(), 0, 0),
        ("without its mark", whole[..1024].to_vec(), 1024, 1),
        ("a terabyte claimed", ended(&[a.clone(), terabyte]), 1024, 1),
        ("more than any file", ended(&[a.clone(), beyond]), 1024, 1),
        ("a wrong checksum", garbage, 0, 0),
        ("a long name that is none", ended(&[a.clone(), long_name]), 0, 0),
        ("an extended header that is none", ended(&[a.clone(), pax_bomb]), 0, 0),
        ("malformed extended header", ended(&[a, bad_pax]), 0, 0),
    ];
    for (what, bytes, position, kept) in cases {
        let outcome = decode(bytes, &request("a.tar"));
        assert_eq!(end(&outcome), Some(("invalid_tar", Some(position))), "{what}: {:?}", outcome.end);
        assert_eq!(rows(&outcome).len(), kept, "{what}");
        assert!(outcome.errors.is_empty(), "{what}: {:?}", outcome.errors);
    }
    for nothing in [&b""[..], b"no archive at all"] {
        assert_eq!(end(&decode(nothing.to_vec(), &request("a.tar"))), Some(("invalid_tar", Some(0))));
    }
}

#[test]
fn a_batch_holds_few_large_samples() {
    let large = vec![b'x'; 60_000];
    let files: Vec<(String, &[u8])> = (0..40).map(|i| (format!("{i:02}.png"), large.as_slice())).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    let mut request = request("a.tar");
    request.batch_bytes = 100_000;
    let outcome = decode(archive(&files), &request);
    assert!(outcome.batches.iter().all(|b| b.rows() <= 2), "{:?}", outcome.batches.len());
    assert_eq!(rows(&outcome).len(), 40);
}

/// Gives a stream in pieces of these sizes.
struct Pieces(io::Cursor<Vec<u8>>, Vec<usize>, usize);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.1.get(self.2 % self.1.len().max(1)).copied().unwrap_or(usize::MAX).max(1);
        self.2 += 1;
        let wanted = buffer.len().min(size);
        self.0.read(&mut buffer[..wanted])
    }
}

fn decode_pieces(bytes: Vec<u8>, pieces: Vec<usize>, request: &Request) -> Outcome {
    let mut decoder = open(Box::new(Pieces(io::Cursor::new(bytes), pieces, 0)), InputCompression::None, request);
    let mut outcome = Outcome::default();
    loop {
        match decoder.next() {
            Ok(Some(step)) => {
                outcome.batches.extend(step.batch);
                outcome.errors.extend(step.errors);
            }
            Ok(None) => return outcome,
            Err(error) => return Outcome { end: Some(error), ..outcome },
        }
    }
}

fn files() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let extension = prop::sample::select(vec!["png", "txt", "json", "cls", "npy", "a.b", ""]);
    let content = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..1500),
        prop::sample::select(vec![b"{\"a\":1}".to_vec(), b"3".to_vec(), b"text".to_vec(), Vec::new()])
    ];
    prop::collection::vec(("[ab/.]{1,3}[cd]", extension, content), 0..12)
        .prop_map(|files| files.into_iter().map(|(stem, extension, content)| (format!("x{stem}.{extension}"), content)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn how_an_archive_arrives_and_how_large_batches_are_changes_no_sample(
        files in files(), pieces in prop::collection::vec(1usize..700, 1..6), rows_a_batch in 1usize..5, bytes in 1usize..3000,
    ) {
        let archive = ended(&files.iter().map(|(name, content)| member(name, content)).collect::<Vec<_>>());
        let whole = decode(archive.clone(), &request("a.tar"));
        let mut small = request("a.tar");
        (small.batch_rows, small.batch_bytes) = (rows_a_batch, bytes);
        let cut = decode_pieces(archive, pieces, &small);
        prop_assert_eq!(rows(&whole).into_iter().map(sorted).collect::<Vec<_>>(), rows(&cut).into_iter().map(sorted).collect::<Vec<_>>());
        prop_assert_eq!(whole.errors, cut.errors);
        prop_assert!(whole.end.is_none() && cut.end.is_none());
    }

    #[test]
    fn nothing_that_is_called_an_archive_makes_the_reader_panic(
        files in files(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8), cut in any::<prop::sample::Index>(),
    ) {
        let mut archive = ended(&files.iter().map(|(name, content)| member(name, content)).collect::<Vec<_>>());
        for (at, value) in flips {
            let at = at.index(archive.len());
            archive[at] = value;
        }
        archive.truncate(cut.index(archive.len() + 1));
        let outcome = decode(archive, &request("a.tar"));
        let positions: Vec<u64> = rows(&outcome).iter().map(|(position, _)| *position).collect();
        prop_assert!(positions.is_sorted());
    }
}

/// The order of columns is that of their first appearance in a batch, which is no part of a record.
fn sorted((position, row): (u64, String)) -> (u64, Vec<String>) {
    let mut cells: Vec<String> = row.split(' ').map(str::to_owned).collect();
    cells.sort();
    (position, cells)
}
