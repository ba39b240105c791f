//! Where records of a text end.
//!
//! In: bytes, in pieces of any size. Out: the places just after each record's terminator. One state machine for CSV serves
//! both the decoder, which reads records, and the planner, which cuts objects between them; so a cut never falls into a
//! record. Knows no fields.
//!
//! CSV as in RFC 4180: a quote opens a quoted field only where a field starts, a quoted field ends at a quote that is not
//! doubled, and a line feed outside quotes ends the record. A carriage return alone ends nothing.

use memchr::{memchr, memchr2};

use super::sniff::BOM;

const QUOTE: u8 = b'"';

/// Finds the ends of records; keeps its place between pieces.
pub(super) trait Borders: Send {
    /// How many of `bytes`, which follow those of the last call, belong to the current record, its terminator included;
    /// `None` when all of them do and the record goes on. After `Some(n)`, the next call starts at `bytes[n..]`.
    fn next(&mut self, bytes: &[u8]) -> Option<usize>;

    /// Whether a quoted field is open.
    fn in_quotes(&self) -> bool;

    /// Starts anew at `offset` of the text, where a record starts.
    fn restart(&mut self, offset: u64);
}

/// The borders of JSON Lines: line feeds.
#[derive(Debug, Default)]
pub(super) struct LineBorders;

impl Borders for LineBorders {
    fn next(&mut self, bytes: &[u8]) -> Option<usize> {
        memchr(b'\n', bytes).map(|at| at + 1)
    }

    fn in_quotes(&self) -> bool {
        false
    }

    fn restart(&mut self, _offset: u64) {}
}

/// The borders of a CSV text, streaming.
///
/// ```
/// use nightshift::runner::decode::RecordBorders;
///
/// let mut borders = RecordBorders::new(b',');
/// let mut found = Vec::new();
/// borders.feed(b"a,\"b\nstill b", &mut |offset| found.push(offset));
/// borders.feed(b"\"\nc,d\n", &mut |offset| found.push(offset));
/// assert_eq!(found, [14, 18]);
/// ```
#[derive(Debug, Clone)]
pub struct RecordBorders {
    delimiter: u8,
    /// Of the next byte.
    offset: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the start of the text, this many bytes into a byte order mark.
    Mark(usize),
    /// At the start of a field: a quote opens it.
    FieldStart,
    /// In an unquoted field, or after a quoted one: a quote is data.
    Unquoted,
    /// In a quoted field: all but a quote is data.
    Quoted,
    /// After a quote in a quoted field: another one makes it data, all else closes the field.
    QuoteInQuoted,
}

impl RecordBorders {
    /// At the start of a text whose fields are separated by `delimiter`.
    pub fn new(delimiter: u8) -> Self {
        Self { delimiter, offset: 0, state: State::Mark(0) }
    }

    /// Calls `on_border` with the offset just after the terminator of each record that ends in `bytes`, which follow those
    /// fed before. Offsets count from the start of the text.
    pub fn feed(&mut self, bytes: &[u8], on_border: &mut dyn FnMut(u64)) {
        let mut rest = bytes;
        while let Some(length) = self.next(rest) {
            on_border(self.offset);
            rest = rest.get(length..).unwrap_or_default();
        }
    }

    /// Of the next byte.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many of `bytes`, which follow those fed before, come before the first border at or after `target` of the text; `None` when it is
    /// not among them. Borders before it are not looked for, where no quote asks for it: many times as fast as [`feed`](Self::feed).
    pub fn seek(&mut self, bytes: &[u8], target: u64) -> Option<usize> {
        // The last byte before a border is its terminator.
        let passed = target.saturating_sub(1).saturating_sub(self.offset);
        let (passed, rest) = bytes.split_at(usize::try_from(passed).unwrap_or(usize::MAX).min(bytes.len()));
        self.pass(passed);
        self.next(rest).map(|length| passed.len() + length)
    }

    fn pass(&mut self, bytes: &[u8]) {
        let plain = matches!(self.state, State::FieldStart | State::Unquoted) && memchr(QUOTE, bytes).is_none();
        match bytes.last() {
            Some(last) if plain => {
                self.offset += bytes.len() as u64;
                self.state = if [b'\n', self.delimiter].contains(last) { State::FieldStart } else { State::Unquoted };
            }
            _ => self.feed(bytes, &mut |_| {}),
        }
    }

    /// Whether the bytes fed so far end in a quoted field that is still open; at the end of a text, that its last record is
    /// broken.
    pub fn in_quotes(&self) -> bool {
        self.state == State::Quoted
    }

    /// Walks through `bytes` to just after the first terminator, from state to state.
    fn walk(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Mark(seen) if BOM.get(seen) == Some(&byte) => {
                    at += 1;
                    self.state = if seen + 1 == BOM.len() { State::FieldStart } else { State::Mark(seen + 1) };
                }
                State::Mark(0) => self.state = State::FieldStart,
                State::Mark(_) => self.state = State::Unquoted,
                State::FieldStart | State::QuoteInQuoted if byte == QUOTE => {
                    at += 1;
                    self.state = State::Quoted;
                }
                State::FieldStart | State::QuoteInQuoted if byte == self.delimiter => {
                    at += 1;
                    self.state = State::FieldStart;
                }
                State::FieldStart | State::QuoteInQuoted => self.state = State::Unquoted,
                State::Unquoted => match memchr2(QUOTE, b'\n', &bytes[at..]) {
                    Some(found) if bytes[at + found] == b'\n' => {
                        self.state = State::FieldStart;
                        return Some(at + found + 1);
                    }
                    Some(found) => {
                        // What stands before a quote says whether a field starts there. Nothing before it in `bytes` means that
                        // the state has said already that none does.
                        at += found + 1;
                        let opens = found > 0 && bytes[at - 2] == self.delimiter;
                        self.state = if opens { State::Quoted } else { State::Unquoted };
                    }
                    None => {
                        at = bytes.len();
                        self.state = if bytes.last() == Some(&self.delimiter) { State::FieldStart } else { State::Unquoted };
                    }
                },
                State::Quoted => match memchr(QUOTE, &bytes[at..]) {
                    Some(found) => {
                        at += found + 1;
                        self.state = State::QuoteInQuoted;
                    }
                    None => at = bytes.len(),
                },
            }
        }
        None
    }
}

impl Borders for RecordBorders {
    fn next(&mut self, bytes: &[u8]) -> Option<usize> {
        let found = self.walk(bytes);
        self.offset += found.unwrap_or(bytes.len()) as u64;
        found
    }

    fn in_quotes(&self) -> bool {
        RecordBorders::in_quotes(self)
    }

    fn restart(&mut self, offset: u64) {
        self.offset = offset;
        self.state = if offset == 0 { State::Mark(0) } else { State::FieldStart };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn borders(pieces: &[&[u8]]) -> (Vec<u64>, bool) {
        let mut borders = RecordBorders::new(b',');
        let mut found = Vec::new();
        for piece in pieces {
            borders.feed(piece, &mut |offset| found.push(offset));
        }
        (found, borders.in_quotes())
    }

    #[test]
    fn only_line_feeds_outside_quotes_end_records() {
        let cases: [(&[u8], &[u64], bool); 14] = [
            (b"", &[], false),
            (b"a,b\nc,d\n", &[4, 8], false),
            (b"a,b\r\nc,d", &[5], false),
            (b"a\rb\n", &[4], false),
            (b"\n\n", &[1, 2], false),
            (b"\"a\nb\"\nc\n", &[6, 8], false),
            (b"a,\"b\"\"\n\"\n", &[9], false),
            (b"a,\"\"\n", &[5], false),
            (b"a,\"\"\"\n\"\"\"\n", &[10], false),
            (b"a\"b\nc\"\n", &[4, 7], false),
            (b"\"a\"b,\"c\nd\"\n", &[11], false),
            (b"\"a\"\"\nb", &[], true),
            (b"\xEF\xBB\xBF\"a\nb\"\n", &[9], false),
            (b"\xEF\xBB\"a\nb\"\n", &[5, 8], false),
        ];
        for (text, expected, open) in cases {
            assert_eq!(borders(&[text]), (expected.to_vec(), open), "{:?}", String::from_utf8_lossy(text));
        }
    }

    proptest! {
        #[test]
        fn borders_do_not_depend_on_the_pieces(
            text in proptest::collection::vec(prop::sample::select(b"a,\"\n\r\xEF\xBB\xBF".to_vec()), 0..60),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            prop_assert_eq!(borders(&pieces), borders(&[&text]));
        }

        #[test]
        fn the_first_border_at_or_after_a_place_is_found_however_the_text_comes(
            text in proptest::collection::vec(prop::sample::select(b"aaa,,\"\n\n\r\xEF\xBB\xBF".to_vec()), 0..80),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
            target in 1u64..12,
        ) {
            let (mut expected, mut start) = (Vec::new(), 0);
            for border in borders(&[&text]).0 {
                if border - start >= target {
                    expected.push(border);
                    start = border;
                }
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let (mut borders, mut found) = (RecordBorders::new(b','), Vec::new());
            for pair in cuts.windows(2) {
                let mut piece = &text[pair[0]..pair[1]];
                while let Some(length) = borders.seek(piece, found.last().copied().unwrap_or(0) + target) {
                    piece = &piece[length..];
                    found.push(borders.offset());
                }
            }
            prop_assert_eq!(found, expected);
        }
    }
}
