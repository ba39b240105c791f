//! A JSON object that is written like the one before: its fields by the bytes of their names, their values cut out and checked.
//!
//! Most lines of an object have the same fields in the same order, and numbers, plain texts and literals as their values. What is none of
//! that is left to a parser; what is read here is read as a parser would.

use memchr::memchr2;

/// A line that is read from its start.
pub(super) struct Flat<'l> {
    line: &'l str,
    at: usize,
}

/// What follows a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Another one.
    Field,
    /// The end of the object, and of the line.
    End,
}

/// How a name is written in a line, with its quotes; `None` where it may be written in more than one way.
pub(super) fn token(name: &str) -> Option<String> {
    let plain = name.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    plain.then(|| format!("\"{name}\""))
}

impl<'l> Flat<'l> {
    /// The object that begins the line, if one does and has a field.
    pub(super) fn open(line: &'l str) -> Option<Self> {
        let mut flat = Self { line, at: 0 };
        flat.pass(b'{')?;
        (flat.peek() == Some(b'"')).then_some(flat)
    }

    /// The value of the next field as it is written, and what comes after it. `None` unless the field has this name and such a value.
    #[inline]
    pub(super) fn field(&mut self, token: &str) -> Option<(&'l str, After)> {
        if !self.line.as_bytes()[self.at..].starts_with(token.as_bytes()) {
            return None;
        }
        self.at += token.len();
        self.pass(b':')?;
        let start = self.at;
        self.at = match self.peek()? {
            b'"' => text_end(self.line.as_bytes(), start)?,
            b't' => self.literal("true")?,
            b'f' => self.literal("false")?,
            b'n' => self.literal("null")?,
            _ => number_end(self.line.as_bytes(), start)?,
        };
        let value = &self.line[start..self.at];
        self.blanks();
        match self.peek()? {
            b',' => {
                self.pass(b',')?;
                Some((value, After::Field))
            }
            b'}' => {
                self.pass(b'}')?;
                (self.at == self.line.len()).then_some((value, After::End))
            }
            _ => None,
        }
    }

    fn peek(&self) -> Option<u8> {
        self.line.as_bytes().get(self.at).copied()
    }

    /// Passes over one byte and the blanks around it.
    #[inline]
    fn pass(&mut self, byte: u8) -> Option<()> {
        self.blanks();
        if self.peek()? != byte {
            return None;
        }
        self.at += 1;
        self.blanks();
        Some(())
    }

    #[inline]
    fn blanks(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    fn literal(&self, word: &str) -> Option<usize> {
        self.line.as_bytes()[self.at..].starts_with(word.as_bytes()).then_some(self.at + word.len())
    }
}

/// Just after the text that begins at `start`; `None` if it holds an escape or what must be one.
fn text_end(line: &[u8], start: usize) -> Option<usize> {
    let end = start + 1 + memchr2(b'"', b'\\', &line[start + 1..])?;
    let plain = line[end] == b'"' && line[start + 1..end].iter().all(|byte| *byte >= 0x20);
    plain.then_some(end + 1)
}

/// Just after the number that begins at `start`, by the grammar of RFC 8259, section 6.
#[inline]
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

    /// The values of a line with these names in their order, if it is such a line.
    fn read<'l>(line: &'l str, names: &[&str]) -> Option<Vec<&'l str>> {
        let mut flat = Flat::open(line)?;
        let mut values = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let (value, after) = flat.field(&token(name)?)?;
            values.push(value);
            if after == After::End {
                return (at + 1 == names.len()).then_some(values);
            }
        }
        None
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
        assert_eq!((token("a\\b"), token("a\"b"), token("a\nb")), (None, None, None));
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_what_a_parser_reads(line in "\\{\"a\":[-+0-9.eE\"\\\\ tfnaulrse,}\\x00-\\x20é]{0,12}(,\"b\":[0-9.\"]{0,4})?\\}?") {
            for names in [&["a"][..], &["a", "b"]] {
                if let Some(values) = read(&line, names) {
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
