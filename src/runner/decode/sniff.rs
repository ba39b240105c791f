//! What an object is: its format and compression, by its name and then by its first bytes.
//!
//! In: a key, or the first bytes of an object. Out: what they say, `Auto` where they say nothing.
//! Reads nothing itself. The planner asks the same functions, so that plan and decoder never disagree.

use super::arrow;
use crate::domain::spec::{CsvOptions, InputCompression, InputFormat};

/// How many bytes of an object's start are enough for [`compression_of`] and [`format_of`].
pub const HEAD_BYTES: usize = 4096;

/// The byte order mark that some programs put before UTF-8 text.
pub(super) const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Extensions of encoded pictures, lower case.
const PICTURES: [&str; 8] = ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"];

/// What the extensions of `key` say, upper or lower case: `.gz`, `.gzip`, `.zst`, `.zstd` after `.parquet`, `.pq`, `.csv`,
/// `.tsv`, `.jsonl`, `.ndjson`, `.json`, `.arrow`, `.arrows`, `.feather`, `.ipc`, `.txt` (a text a line), `.tar` or those of pictures;
/// `.tgz` and `.tzst` for both at once. `Auto` where they say nothing.
pub fn by_name(key: &str) -> (InputFormat, InputCompression) {
    let (stem, compression) = compression_by_name(key);
    let format = match extension(stem).as_deref() {
        Some("parquet" | "pq") => InputFormat::Parquet,
        Some("csv" | "tsv") => InputFormat::Csv,
        Some("jsonl" | "ndjson" | "json") => InputFormat::Jsonl,
        Some("arrow" | "arrows" | "feather" | "ipc") => InputFormat::Arrow,
        Some("txt") => InputFormat::Lines,
        Some("tar") => InputFormat::Tar,
        Some("tgz") => return (InputFormat::Tar, InputCompression::Gzip),
        Some("tzst") => return (InputFormat::Tar, InputCompression::Zstd),
        Some(extension) if is_picture(extension) => InputFormat::Image,
        _ => InputFormat::Auto,
    };
    (format, compression)
}

/// Whether files with this extension, given in lower case, are encoded pictures.
pub(super) fn is_picture(extension: &str) -> bool {
    PICTURES.contains(&extension)
}

/// Whether bytes begin as one of the picture formats does: JPEG, PNG, GIF, WebP, BMP, TIFF.
pub fn begins_as_picture(head: &[u8]) -> bool {
    match head {
        [0xFF, 0xD8, 0xFF, ..] | [b'G', b'I', b'F', b'8', ..] => true,
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] | [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => true,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => true,
        // Two letters alone begin many a text; the four bytes after the size are zero in every BMP.
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => true,
        _ => false,
    }
}

/// The delimiter of a CSV object: as configured, but a tab for `.tsv` when the configuration says nothing else.
pub fn delimiter(key: &str, csv: &CsvOptions) -> u8 {
    let tabs = extension(compression_by_name(key).0).as_deref() == Some("tsv");
    if tabs && csv.delimiter == CsvOptions::default().delimiter { b'\t' } else { csv.delimiter }
}

/// What the first bytes of an object say about its compression. The magic numbers of RFC 1952 and RFC 8878 (a frame, or a
/// skippable one) cannot begin a text, so the answer is never `Auto`.
pub fn compression_of(head: &[u8]) -> InputCompression {
    match head {
        [0x1F, 0x8B, ..] => InputCompression::Gzip,
        [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => InputCompression::Zstd,
        _ => InputCompression::None,
    }
}

/// What the first bytes of the decompressed data, up to [`HEAD_BYTES`], say about its format.
///
/// # Errors
/// Why they are none of the formats.
pub fn format_of(head: &[u8]) -> Result<InputFormat, &'static str> {
    if head.starts_with(b"PAR1") {
        return Ok(InputFormat::Parquet);
    }
    // No UTF-8 text begins with four bytes of ones.
    if head.starts_with(arrow::FILE_MAGIC) || head.starts_with(&arrow::CONTINUATION) {
        return Ok(InputFormat::Arrow);
    }
    if begins_as_picture(head) {
        return Ok(InputFormat::Image);
    }
    // POSIX and GNU archives; what is older than both is known by its name alone.
    if head.get(257..262) == Some(b"ustar") {
        return Ok(InputFormat::Tar);
    }
    let text = head.strip_prefix(BOM).unwrap_or(head);
    if text.contains(&0) || !is_utf8_so_far(text) {
        return Err("neither Parquet nor Arrow IPC, a picture, a tar archive or UTF-8 text; name the format in input.format");
    }
    match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => Ok(InputFormat::Jsonl),
        Some(b'[') => Err("starts like a JSON array; only JSON Lines, one object a line, is read (input.format \"csv\" reads it as CSV)"),
        _ => Ok(InputFormat::Csv),
    }
}

/// Whether `head` is UTF-8, but for a character that its end may cut.
fn is_utf8_so_far(head: &[u8]) -> bool {
    match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    }
}

fn compression_by_name(key: &str) -> (&str, InputCompression) {
    let compression = match extension(key).as_deref() {
        Some("gz" | "gzip") => InputCompression::Gzip,
        Some("zst" | "zstd") => InputCompression::Zstd,
        _ => return (key, InputCompression::Auto),
    };
    (key.rsplit_once('.').map_or(key, |(stem, _)| stem), compression)
}

fn extension(key: &str) -> Option<String> {
    let name = key.rsplit('/').next().unwrap_or(key);
    name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_format_and_compression() {
        use {InputCompression as C, InputFormat as F};
        let cases = [
            ("a/b.parquet", F::Parquet, C::Auto),
            ("a/b.PQ", F::Parquet, C::Auto),
            ("a/b.csv", F::Csv, C::Auto),
            ("a/b.tsv.gz", F::Csv, C::Gzip),
            ("a/b.jsonl.zst", F::Jsonl, C::Zstd),
            ("a/b.ndjson.ZSTD", F::Jsonl, C::Zstd),
            ("a/b.json", F::Jsonl, C::Auto),
            ("a/b.feather", F::Arrow, C::Auto),
            ("a/b.arrows", F::Arrow, C::Auto),
            ("a/b.gz", F::Auto, C::Gzip),
            ("a/b.JPG", F::Image, C::Auto),
            ("a/b.tiff", F::Image, C::Auto),
            ("a/b.txt.gz", F::Lines, C::Gzip),
            ("a/b.tar", F::Tar, C::Auto),
            ("a/b.tar.zst", F::Tar, C::Zstd),
            ("a/b.tgz", F::Tar, C::Gzip),
            ("a.csv/b", F::Auto, C::Auto),
            ("part-00000", F::Auto, C::Auto),
        ];
        for (key, format, compression) in cases {
            assert_eq!(by_name(key), (format, compression), "{key}");
        }
    }

    #[test]
    fn a_tsv_is_cut_at_tabs_unless_a_delimiter_is_configured() {
        let configured = CsvOptions { delimiter: b';', ..CsvOptions::default() };
        assert_eq!(delimiter("a.tsv.gz", &CsvOptions::default()), b'\t');
        assert_eq!(delimiter("a.tsv", &configured), b';');
        assert_eq!(delimiter("a.csv", &CsvOptions::default()), b',');
    }

    #[test]
    fn the_first_bytes_say_what_a_name_does_not() {
        assert_eq!(compression_of(b"\x1f\x8b\x08"), InputCompression::Gzip);
        assert_eq!(compression_of(b"\x28\xb5\x2f\xfd"), InputCompression::Zstd);
        assert_eq!(compression_of(b"a,b"), InputCompression::None);
        assert_eq!(format_of(b"PAR1.."), Ok(InputFormat::Parquet));
        assert_eq!(format_of(b"ARROW1\0\0"), Ok(InputFormat::Arrow));
        assert_eq!(format_of(b"\xff\xff\xff\xff\x10\x01\0\0"), Ok(InputFormat::Arrow));
        assert_eq!(format_of(b"\xEF\xBB\xBF \n{\"a\":1}"), Ok(InputFormat::Jsonl));
        assert_eq!(format_of("a;ä".as_bytes().split_last().map_or(&[], |(_, head)| head)), Ok(InputFormat::Csv));
        assert_eq!(format_of(b""), Ok(InputFormat::Csv));
        assert!(format_of(b"[{\"a\":1}]").is_err());
        assert_eq!(format_of(b"\x89PNG\r\n\x1a\n\0\0"), Ok(InputFormat::Image));
        assert_eq!(format_of(b"\xff\xd8\xff\xe0"), Ok(InputFormat::Image));
        assert_eq!(format_of(b"BM\x46\0\0\0\0\0\0\0\x36\0"), Ok(InputFormat::Image));
        assert_eq!(format_of(b"BMI,age\n1,2\n"), Ok(InputFormat::Csv), "a table whose first column is the body mass index");
        assert_eq!(format_of(&[&[b'a'; 257][..], b"ustar\0"].concat()), Ok(InputFormat::Tar));
        assert!(format_of(b"\x89PNG\r\n").is_err());
        assert!(format_of(b"a\0b").is_err());
    }
}
