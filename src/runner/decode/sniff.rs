//! What an object is: by its name, then by its content.

use std::io::Read;

use crate::domain::spec::{InputCompression, InputFormat};

/// Format and compression that the extensions of a key tell; `Auto` where they do not.
pub fn by_name(key: &str) -> (InputFormat, InputCompression) {
    let name = key.rsplit('/').next().unwrap_or(key).to_ascii_lowercase();
    let (stem, compression) = match name.rsplit_once('.') {
        Some((stem, "gz" | "gzip")) => (stem, InputCompression::Gzip),
        Some((stem, "zst" | "zstd")) => (stem, InputCompression::Zstd),
        _ => (name.as_str(), InputCompression::Auto),
    };
    match stem.rsplit_once('.').map(|(_, extension)| extension) {
        Some("parquet" | "pq") => (InputFormat::Parquet, InputCompression::None),
        Some("csv" | "tsv") => (InputFormat::Csv, plain_unless(compression)),
        Some("jsonl" | "ndjson" | "json") => (InputFormat::Jsonl, plain_unless(compression)),
        _ => (InputFormat::Auto, compression),
    }
}

/// A text extension without a compression's after it says that there is none.
fn plain_unless(compression: InputCompression) -> InputCompression {
    if compression == InputCompression::Auto { InputCompression::None } else { compression }
}

/// Settles what is still `Auto` by looking at the first bytes of the object. The format stays `Auto` when they tell nothing.
pub fn resolve(format: InputFormat, compression: InputCompression, head: &[u8]) -> (InputFormat, InputCompression) {
    if format == InputFormat::Parquet || (format == InputFormat::Auto && head.starts_with(b"PAR1")) {
        return (InputFormat::Parquet, InputCompression::None);
    }
    let compression = match compression {
        InputCompression::Auto if head.starts_with(&[0x1f, 0x8b]) => InputCompression::Gzip,
        InputCompression::Auto if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) => InputCompression::Zstd,
        InputCompression::Auto => InputCompression::None,
        known => known,
    };
    if format != InputFormat::Auto {
        return (format, compression);
    }
    let mut text = Vec::new();
    // The head ends in the middle of a frame: what decompresses before that is enough.
    let _cut_off = match compression {
        InputCompression::Gzip => flate2::read::MultiGzDecoder::new(head).take(4096).read_to_end(&mut text),
        InputCompression::Zstd => zstd::stream::read::Decoder::new(head).and_then(|d| d.take(4096).read_to_end(&mut text)),
        _ => (&head[..head.len().min(4096)]).read_to_end(&mut text),
    };
    (text_format(&text), compression)
}

fn text_format(text: &[u8]) -> InputFormat {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let first = text.iter().find(|b| !b.is_ascii_whitespace());
    let is_text = match std::str::from_utf8(text) {
        Ok(text) => !text.contains('\0'),
        // A character may be cut off at the end.
        Err(error) => error.error_len().is_none() && !text.contains(&0),
    };
    match first {
        Some(b'{') => InputFormat::Jsonl,
        Some(_) if is_text => InputFormat::Csv,
        // An empty object has no record in any text format.
        None if is_text => InputFormat::Csv,
        _ => InputFormat::Auto,
    }
}
