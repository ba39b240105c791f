//! Values → the text of JSON and CSV, appended to a byte buffer.
//!
//! Nothing here knows of Arrow arrays, rows or nulls. No function allocates for each value, except for decimals of 256 bits.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};

/// Appends an integer of any width, every digit.
pub(super) fn integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends the shortest text that reads back as the same `f64`; what is no number (`NaN`, `Infinity`, `-Infinity`) stands
/// between `quotes`, because JSON has no number for it.
pub(super) fn double(value: f64, quotes: &[u8], out: &mut Vec<u8>) {
    if value.is_finite() {
        out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    } else {
        quoted(not_a_number(value), quotes, out);
    }
}

/// Like [`double`] for `f32`: the shortest text for 32 bits, so 0.1 is `0.1` and not what it becomes in 64 bits.
pub(super) fn float(value: f32, quotes: &[u8], out: &mut Vec<u8>) {
    if value.is_finite() {
        out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    } else {
        quoted(not_a_number(value.into()), quotes, out);
    }
}

/// The names that JavaScript, Python's `json` and pandas share.
fn not_a_number(value: f64) -> &'static [u8] {
    if value.is_nan() {
        b"NaN"
    } else if value > 0.0 {
        b"Infinity"
    } else {
        b"-Infinity"
    }
}

fn quoted(text: &[u8], quotes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(quotes);
    out.extend_from_slice(text);
    out.extend_from_slice(quotes);
}

/// Appends the exact value of a decimal: `write` appends its unscaled digits, `scale` digits of them are a fraction.
/// A negative scale appends zeros.
pub(super) fn decimal(scale: i8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    write(out);
    let first = start + usize::from(out.get(start) == Some(&b'-'));
    let scale = i16::from(scale);
    if scale > 0 {
        let fraction = usize::from(scale.unsigned_abs());
        let digits = out.len() - first;
        if digits <= fraction {
            let missing = fraction + 1 - digits;
            out.splice(first..first, std::iter::repeat_n(b'0', missing));
        }
        out.insert(out.len() - fraction, b'.');
    } else if out.get(first) != Some(&b'0') {
        out.resize(out.len() + usize::from(scale.unsigned_abs()), b'0');
    }
}

/// Appends binary data as base64 with padding (RFC 4648, section 4).
pub(super) fn binary(value: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    // Padded base64 is four characters for every three bytes begun.
    out.resize(start + value.len().div_ceil(3) * 4, 0);
    let written = STANDARD.encode_slice(value, &mut out[start..]).expect("the buffer has the size of padded base64");
    out.truncate(start + written);
}

/// Appends binary data in hexadecimal, as PostgreSQL reads it.
pub(super) fn hex(value: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"\\x");
    out.extend(value.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]));
}

/// For each byte: 0 when JSON takes it inside a string as it is, `u` when it needs `\u00xx`, else the letter after the backslash.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut control = 0;
    while control < 0x20 {
        table[control] = b'u';
        control += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0a] = b'n';
    table[0x0c] = b'f';
    table[0x0d] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

/// Appends a JSON string (RFC 8259, section 7), quotes included. Only what must be escaped is: other Unicode stays as it is.
pub(super) fn json_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| ESCAPES[usize::from(*byte)] != 0) {
        let byte = rest[at];
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[b'\\', ESCAPES[usize::from(byte)]]);
        if ESCAPES[usize::from(byte)] == b'u' {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(&[b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Appends a JSON value as it was found, on one line: outside of strings, where JSON has no raw line breaks, they are mere white space.
pub(super) fn json_as_found(json: &str, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(json.as_bytes());
    out[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
}

/// What a JSON value is where only text can stand: nothing for `null`, the characters of a string, and any other value as written.
///
/// A string that no text can hold (half of a surrogate pair) stays as written, quotes and escapes included.
pub(super) fn json_as_text(json: &str) -> Option<Cow<'_, str>> {
    let json = json.trim_ascii();
    if json == "null" {
        return None;
    }
    let inner = json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let Some(inner) = inner else { return Some(Cow::Borrowed(json)) };
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    Some(serde_json::from_str(json).map_or(Cow::Borrowed(json), Cow::Owned))
}

/// Makes one CSV cell (RFC 4180) of what stands in `out` from `start` on: quotes it if it holds a comma, a quote or a line break.
pub(super) fn csv_cell(start: usize, out: &mut Vec<u8>) {
    let special = |byte: &u8| matches!(byte, b',' | b'"' | b'\n' | b'\r');
    if !out[start..].iter().any(special) {
        return;
    }
    let inner_quotes = out[start..].iter().filter(|byte| **byte == b'"').count();
    // The cell grows by its doubled quotes and the outer two; moving from the end needs no second buffer.
    let mut from = out.len();
    out.resize(from + inner_quotes + 2, b'"');
    let mut to = out.len() - 1;
    while from > start {
        from -= 1;
        to -= 1;
        out[to] = out[from];
        if out[to] == b'"' {
            to -= 1;
            out[to] = b'"';
        }
    }
    out[start] = b'"';
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"|".to_vec();
        write(&mut out);
        String::from_utf8(out).unwrap().split_off(1)
    }

    #[test]
    fn floats_are_the_shortest_text_of_their_own_width() {
        let of = |v| written(|out| double(v, b"\"", out));
        for (value, text) in
            [(1e-9, "1e-9"), (1e21, "1e21"), (-0.0, "-0.0"), (0.1, "0.1"), (1.0, "1.0"), (f64::MAX, "1.7976931348623157e308")]
        {
            assert_eq!(of(value), text);
        }
        assert_eq!(of(5e-324), "5e-324");
        assert_eq!(of(0.1f32.into()), "0.10000000149011612");
        let of = |v| written(|out| float(v, b"\"", out));
        for (value, text) in [(0.1, "0.1"), (1e-9, "1e-9"), (16_777_216.0, "16777216.0"), (-0.0, "-0.0"), (f32::MAX, "3.4028235e38")] {
            assert_eq!(of(value), text);
        }
    }

    #[test]
    fn what_is_no_number_is_named_between_the_quotes_of_the_format() {
        assert_eq!(written(|out| double(f64::NAN, b"\"", out)), "\"NaN\"");
        assert_eq!(written(|out| double(-f64::NAN, b"", out)), "NaN");
        assert_eq!(written(|out| float(f32::INFINITY, b"\"", out)), "\"Infinity\"");
        assert_eq!(written(|out| double(f64::NEG_INFINITY, b"", out)), "-Infinity");
    }

    #[test]
    fn decimals_keep_every_digit() {
        let of = |v: i128, scale| written(|out| decimal(scale, out, |out| integer(v, out)));
        let cases =
            [(12_340, 3, "12.340"), (-5, 2, "-0.05"), (5, 0, "5"), (0, 2, "0.00"), (7, -3, "7000"), (0, -3, "0"), (-100, 2, "-1.00")];
        for (value, scale, text) in cases {
            assert_eq!(of(value, scale), text);
        }
        assert_eq!(of(i128::MIN, 38), "-1.70141183460469231731687303715884105728");
        assert_eq!(of(-1, -128), format!("-1{}", "0".repeat(128)));
    }

    #[test]
    fn json_values_stand_on_one_line() {
        assert_eq!(written(|out| json_as_found("[1,\r\n \"a\\n\"]", out)), "[1,   \"a\\n\"]");
    }

    #[test]
    fn json_values_become_the_text_they_stand_for() {
        let cases = [
            ("\"a\"", Some("a")),
            ("\"\\u00e4\\n\"", Some("ä\n")),
            ("\"\"", Some("")),
            ("12", Some("12")),
            ("null", None),
            ("[1, 2]", Some("[1, 2]")),
        ];
        for (json, text) in cases {
            assert_eq!(json_as_text(json).as_deref(), text, "{json}");
        }
        assert_eq!(json_as_text(r#""\ud800""#).as_deref(), Some(r#""\ud800""#), "half a surrogate pair is no text");
    }

    #[test]
    fn cells_are_quoted_only_where_needed() {
        let of = |text: &str| {
            written(|out| {
                let start = out.len();
                out.extend_from_slice(text.as_bytes());
                csv_cell(start, out);
            })
        };
        for plain in ["", "a", " a ", "=1+1", "ä;b", "'", "tab\tbed"] {
            assert_eq!(of(plain), plain);
        }
        assert_eq!(of("a,b"), "\"a,b\"");
        assert_eq!(of("\""), "\"\"\"\"");
        assert_eq!(of("say \"no\"\r\n"), "\"say \"\"no\"\"\r\n\"");
    }

    proptest! {
        #[test]
        fn any_text_survives_as_a_json_string(text in any::<String>()) {
            let json = written(|out| json_string(&text, out));
            prop_assert!(!json.contains(['\n', '\r']), "one line");
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }

        #[test]
        fn any_bits_survive_as_a_float(bits in any::<u64>()) {
            let (wide, narrow) = (f64::from_bits(bits), f32::from_bits(bits as u32));
            prop_assume!(wide.is_finite() && narrow.is_finite());
            prop_assert_eq!(written(|out| double(wide, b"", out)).parse::<f64>().unwrap().to_bits(), wide.to_bits());
            prop_assert_eq!(written(|out| float(narrow, b"", out)).parse::<f32>().unwrap().to_bits(), narrow.to_bits());
        }

        #[test]
        fn any_bytes_survive_as_base64(bytes in any::<Vec<u8>>()) {
            prop_assert_eq!(STANDARD.decode(written(|out| binary(&bytes, out))).unwrap(), bytes);
        }
    }
}
