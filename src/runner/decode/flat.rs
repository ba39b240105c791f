//! A JSON object that is written like the one before: its fields by the bytes around their names, their values cut out and checked.
//!
//! Most lines of an object have the same fields in the same order, written with the same blanks, and numbers, plain texts and literals as
//! their values. What is none of that is left to a parser; what is read here is read as a parser would.

use std::ops::Range;

use memchr::memchr2;

use crate::runner::lanes::{self, LANES};

/// An object that is read from its start, in a text that may go on after its line.
pub(super) struct Flat<'t> {
    text: &'t [u8],
    at: usize,
}

/// What follows a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Another one.
    Field,
    /// The end of the object.
    End,
}

/// How a field is written, from the end of the value before to the start of its own.
#[derive(Debug)]
pub(super) struct Written {
    /// Its name with the quotes.
    token: String,
    /// All of it, in the line before: `,"name":`; empty at first.
    run: Vec<u8>,
    /// Its first bytes, and which of a word they are.
    start: u128,
    mask: u128,
}

impl Written {
    /// A field of this name; `None` where that may be written in more than one way.
    pub(super) fn new(name: &str) -> Option<Self> {
        let plain = name.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
        plain.then(|| Self { token: format!("\"{name}\""), run: Vec::new(), start: 0, mask: 0 })
    }

    fn learn(&mut self, run: &[u8]) {
        let (mut start, length) = ([0; LANES], run.len().min(LANES));
        start[..length].copy_from_slice(&run[..length]);
        (self.start, self.mask) = (u128::from_le_bytes(start), u128::MAX >> (8 * (LANES - length)));
        self.run.clear();
        self.run.extend_from_slice(run);
    }

    /// Whether `rest` begins as the line before did here.
    #[inline]
    fn begins(&self, rest: &[u8]) -> bool {
        match rest.first_chunk::<LANES>() {
            Some(word) if (u128::from_le_bytes(*word) ^ self.start) & self.mask != 0 => false,
            Some(_) if self.run.len() <= LANES => !self.run.is_empty(),
            _ => !self.run.is_empty() && rest.starts_with(&self.run),
        }
    }
}

impl<'t> Flat<'t> {
    /// The object that `text` begins with, if it does.
    pub(super) fn new(text: &'t [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// Where the value of the next field lies, which is valid UTF-8, and what comes after it. `None` unless the field has this name and such
    /// a value.
    #[inline]
    pub(super) fn field(&mut self, written: &mut Written) -> Option<(Range<usize>, After)> {
        if written.begins(&self.text[self.at..]) {
            self.at += written.run.len();
            self.blanks();
        } else {
            let before = self.at;
            self.name(&written.token)?;
            written.learn(&self.text[before..self.at]);
        }
        let start = self.at;
        self.at = value_end(self.text, start)?;
        let value = start..self.at;
        if self.peek()? == b',' {
            return Some((value, After::Field));
        }
        self.blanks();
        match self.peek()? {
            b',' => {
                self.at = value.end;
                Some((value, After::Field))
            }
            b'}' => {
                self.at += 1;
                Some((value, After::End))
            }
            _ => None,
        }
    }

    /// Just after the object, and the blanks behind it, when its end has been met.
    pub(super) fn end(mut self) -> usize {
        self.blanks();
        self.at
    }

    /// Passes over all that stands before a value.
    fn name(&mut self, token: &str) -> Option<()> {
        self.pass(if self.at == 0 { "{" } else { "," })?;
        self.pass(token)?;
        self.pass(":")
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Passes over some bytes and the blanks around them.
    fn pass(&mut self, bytes: &str) -> Option<()> {
        self.blanks();
        if !self.text[self.at..].starts_with(bytes.as_bytes()) {
            return None;
        }
        self.at += bytes.len();
        self.blanks();
        Some(())
    }

    /// No line feeds: those end the line.
    #[inline]
    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }
}

/// Just after the value that begins at `start`; `None` if it is a list, an object, or none.
#[inline]
fn value_end(text: &[u8], start: usize) -> Option<usize> {
    let literal = |word: &str| text[start..].starts_with(word.as_bytes()).then_some(start + word.len());
    match text.get(start)? {
        b'"' => text_end(text, start),
        b't' => literal("true"),
        b'f' => literal("false"),
        b'n' => literal("null"),
        _ => short_number_end(text, start).or_else(|| number_end(text, start)),
    }
}

/// Just after the text that begins at `start`; `None` if it holds an escape or what must be one.
fn text_end(text: &[u8], start: usize) -> Option<usize> {
    let end = start + 1 + memchr2(b'"', b'\\', text.get(start + 1..)?)?;
    let inner = &text[start + 1..end];
    let plain = text[end] == b'"' && inner.iter().all(|byte| *byte >= 0x20) && str::from_utf8(inner).is_ok();
    plain.then_some(end + 1)
}

/// Just after the number that begins at `start`, where that is less than a word of lanes on and it has no exponent; `None` does not say that
/// there is none.
#[inline]
fn short_number_end(text: &[u8], start: usize) -> Option<usize> {
    let word = text.get(start..)?.first_chunk::<LANES>()?;
    let (digits, points) = (lanes::digits(word), lanes::any_of(word, [b'.']));
    let sign = u32::from(word[0] == b'-');
    // Its length depends on nothing but this: what comes next need not wait for the rest.
    let length = (digits | points | sign).trailing_ones();
    let (first, last) = (1 << sign, 1 << length >> 1);
    let point = points & ((1 << length) - 1);
    let one_inside = point & point.wrapping_sub(1) == 0 && point & (first | last) == 0;
    let zero_alone = word[sign as usize] != b'0' || digits & first << 1 == 0;
    let ends = length > sign && length < LANES as u32 && !matches!(word[length as usize % LANES], b'e' | b'E');
    (one_inside && zero_alone && ends).then_some(start + length as usize)
}

/// Just after the number that begins at `start`, by the grammar of RFC 8259, section 6.
fn number_end(line: &[u8], start: usize) -> Option<usize> {
    let digits = |mut at: usize| {
        while line.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let some_digits = |at: usize| Some(digits(at)).filter(|end| *end > at);
    let mut at = start + usize::from(line.get(start) == Some(&b'-'));
    at = match line.get(at)? {
        b'0' => at + 1,
        _ => some_digits(at)?,
    };
    if line.get(at) == Some(&b'.') {
        at = some_digits(at + 1)?;
    }
    if let Some(b'e' | b'E') = line.get(at) {
        at += 1 + usize::from(matches!(line.get(at + 1), Some(b'+' | b'-')));
        at = some_digits(at)?;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, value::RawValue};

    use super::*;

    fn written(names: &[&str]) -> Vec<Written> {
        names.iter().filter_map(|name| Written::new(name)).collect()
    }

    /// The values of a line with these fields in their order, if it is such a line.
    fn read_like<'l>(line: &'l str, fields: &mut [Written]) -> Option<Vec<&'l str>> {
        let mut flat = Flat::new(line.as_bytes());
        let mut values = Vec::new();
        let count = fields.len();
        for (at, field) in fields.iter_mut().enumerate() {
            let (value, after) = flat.field(field)?;
            values.push(&line[value]);
            if after == After::End {
                return (at + 1 == count && flat.end() == line.len()).then_some(values);
            }
        }
        None
    }

    fn read<'l>(line: &'l str, names: &[&str]) -> Option<Vec<&'l str>> {
        read_like(line, &mut written(names))
    }

    #[test]
    fn values_come_as_they_are_written() {
        let line = " { \"a\" : -1.50e+3 ,\"b\":\"x, }é\",\"c\":null,\t\"d\":true,\"e\":false , \"f\":0 } ";
        assert_eq!(read(line, &["a", "b", "c", "d", "e", "f"]), Some(vec!["-1.50e+3", "\"x, }é\"", "null", "true", "false", "0"]));
        assert_eq!(read(line, &["a", "c"]), None);
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_parser() {
        for line in [
            "",
            "{}",
            "{\"a\":1",
            "{\"a\":1}}",
            "{\"a\":1,}",
            "{\"a\":01}",
            "{\"a\":1.}",
            "{\"a\":.5}",
            "{\"a\":+1}",
            "{\"a\":1e}",
            "{\"a\":-}",
            "{\"a\":NaN}",
            "{\"a\":tru}",
            "{\"a\":[1]}",
            "{\"a\":{}}",
            "{\"a\":\"x\\n\"}",
            "{\"a\":\"x\ty\"}",
            "{\"a\":\"x}",
            "{\"a\" 1}",
            "[1]",
        ] {
            assert_eq!(read(line, &["a"]), None, "{line}");
        }
        // A name that a line may write in several ways.
        assert!(["a\\b", "a\"b", "a\nb"].iter().all(|name| Written::new(name).is_none()));
    }

    #[test]
    fn a_line_need_not_be_written_with_the_same_blanks() {
        let mut fields = written(&["a", "a name longer than a word"]);
        for line in [
            "{\"a\":1,\"a name longer than a word\":20}",
            "{\"a\":1,\"a name longer than a word\":20}",
            "{\"a\": 1, \"a name longer than a word\": 20}",
            " { \"a\": 1, \"a name longer than a word\":20}",
            "{\"a\":1 ,\"a name longer than a word\":20 }\r",
        ] {
            assert_eq!(read_like(line, &mut fields), Some(vec!["1", "20"]), "{line}");
        }
        for line in ["{\"a\":1,\"a name longer than a worm\":20}", "{\"b\":1,\"a name longer than a word\":20}", "{\"a\":1,\"a na", "{", ""]
        {
            assert_eq!(read_like(line, &mut fields), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn a_number_ends_where_it_does_by_its_grammar(text in "[-+0-9.eE]{0,20}[,} ][-0-9.,]{0,20}") {
            let ends = number_end(text.as_bytes(), 0);
            if let Some(end) = short_number_end(text.as_bytes(), 0) {
                prop_assert_eq!(Some(end), ends);
            }
            let plain = |end| end < LANES && !text[..end].contains(['e', 'E']) && matches!(text.as_bytes()[end], b',' | b'}' | b' ');
            let plain = ends.is_some_and(plain) && text.len() >= LANES;
            prop_assert!(!plain || short_number_end(text.as_bytes(), 0).is_some());
        }

        #[test]
        fn whatever_is_read_is_what_a_parser_reads(line in "\\{\"a\":[-+0-9.eE\"\\\\ tfnaulrse,}\\x00-\\x20é]{0,12}(,\"b\":[0-9.\"]{0,4})?\\}?") {
            for names in [&["a"][..], &["a", "b"]] {
                let mut fields = written(names);
                let first = read_like(&line, &mut fields);
                prop_assert_eq!(&read_like(&line, &mut fields), &first, "once its form is known");
                if let Some(values) = first {
                    let whole: std::collections::HashMap<&str, &RawValue> = serde_json::from_str(&line).unwrap();
                    prop_assert_eq!(whole.len(), names.len());
                    for (name, value) in names.iter().zip(values) {
                        prop_assert_eq!(whole[name].get(), value);
                        prop_assert!(serde_json::from_str::<Value>(value).is_ok());
                    }
                }
            }
        }
    }
}
