//! A text, record by record.
//!
//! In: a stream of text and the [`Borders`] of its format. Out: each record's bytes with its position, or what is wrong with
//! it. Memory is bounded by the largest record allowed; a larger one is walked through, not kept. Knows no fields.

use std::io;

use super::{borders::Borders, text::Input};

/// Size of the buffer; it grows where a record is larger.
const BUFFER_BYTES: usize = 256 << 10;

/// Its size at first: enough for a tiny object, of which there may be very many.
const FIRST_BYTES: usize = 8 << 10;

/// Longest terminator: a carriage return and a line feed.
const TERMINATOR_BYTES: usize = 2;

/// One record of a text.
#[derive(Debug)]
pub(super) struct Record<'a> {
    /// Of its first byte, in the text.
    pub(super) position: u64,
    /// Just after its terminator.
    pub(super) end: u64,
    /// Whether a terminator follows it; otherwise the text ends.
    pub(super) terminated: bool,
    /// Its bytes.
    pub(super) content: Content<'a>,
}

/// The bytes of a record.
#[derive(Debug)]
pub(super) enum Content<'a> {
    /// Without the terminator; empty for a blank line.
    Whole(&'a [u8]),
    /// More than allowed, not kept.
    TooLarge,
    /// The text ended within quotes.
    Unterminated,
}

/// Reads records from a stream of text.
pub(super) struct Records<B> {
    input: Input,
    borders: B,
    max_record_bytes: usize,
    /// Text from `start` on is still needed, up to `scanned` it has been through `borders`, from `filled` on there is none.
    buffer: Vec<u8>,
    start: usize,
    scanned: usize,
    filled: usize,
    /// Of the next record, which starts at `start`, or earlier if part of it has been dropped.
    position: u64,
    /// Bytes of the current record that have been dropped.
    dropped: u64,
    /// The stream has ended.
    ended: bool,
}

impl<B: Borders> Records<B> {
    /// Reads `input`, whose first byte lies at `offset` of the text, where a record starts.
    pub(super) fn new(input: Input, mut borders: B, offset: u64, max_record_bytes: usize) -> Self {
        borders.restart(offset);
        Self {
            input,
            borders,
            max_record_bytes,
            buffer: vec![0; FIRST_BYTES],
            start: 0,
            scanned: 0,
            filled: 0,
            position: offset,
            dropped: 0,
            ended: false,
        }
    }

    /// Where the next record starts; after an error, the one that could not be read.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next record, a blank line included; `None` at the end.
    ///
    /// # Errors
    /// Those of the stream; [`position`](Self::position) is then that of the first lost record.
    pub(super) fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        let terminated = loop {
            if self.scan() {
                break true;
            }
            if self.filled - self.start > self.max_record_bytes.saturating_add(TERMINATOR_BYTES) {
                self.drop_scanned();
            }
            if !self.refill()? {
                break false;
            }
        };
        let (start, end) = (self.start, self.scanned);
        let length = self.dropped + (end - start) as u64;
        if length == 0 {
            return Ok(None);
        }
        let too_large = std::mem::take(&mut self.dropped) > 0;
        let position = self.position;
        self.start = end;
        self.position += length;

        let bytes = without_terminator(&self.buffer[start..end]);
        let content = if !terminated && self.borders.in_quotes() {
            Content::Unterminated
        } else if too_large || bytes.len() > self.max_record_bytes {
            Content::TooLarge
        } else {
            Content::Whole(bytes)
        };
        Ok(Some(Record { position, end: self.position, terminated, content }))
    }

    /// What has been read of the text from the next record on, which begins with all its bytes or a part of them, or none.
    pub(super) fn ahead(&self) -> &[u8] {
        // A record that has been begun is not cut again from its start, and before the first there may be a byte order mark.
        let begun = self.scanned > self.start || self.dropped > 0;
        if begun || self.position == 0 { &[] } else { &self.buffer[self.start..self.filled] }
    }

    /// Passes over the next record, which takes the first `length` bytes of [`ahead`](Self::ahead) with its terminator.
    pub(super) fn pass(&mut self, length: usize) {
        self.start += length;
        self.scanned = self.start;
        self.position += length as u64;
        self.borders.restart(self.position);
    }

    /// Puts back the record at `position`, the one that [`next`](Self::next) gave last; it must not have been too large.
    pub(super) fn put_back(&mut self, position: u64) {
        let length = usize::try_from(self.position - position).unwrap_or(usize::MAX);
        self.start = self.start.saturating_sub(length);
        self.scanned = self.start;
        self.position = position;
        self.borders.restart(position);
    }

    /// Passes over the text up to the first border, for those who start within a record; stops looking at `limit`.
    ///
    /// # Errors
    /// Those of the stream.
    pub(super) fn skip_to_border(&mut self, limit: u64) -> io::Result<()> {
        loop {
            let found = self.scan();
            self.drop_scanned();
            self.position += std::mem::take(&mut self.dropped);
            if found || self.position >= limit || !self.refill()? {
                return Ok(());
            }
        }
    }

    /// Looks for the current record's end in what has been read.
    fn scan(&mut self) -> bool {
        let found = self.borders.next(&self.buffer[self.scanned..self.filled]);
        self.scanned = found.map_or(self.filled, |length| self.scanned + length);
        found.is_some()
    }

    fn drop_scanned(&mut self) {
        self.dropped += (self.scanned - self.start) as u64;
        self.start = self.scanned;
    }

    /// Reads more; false at the end of the stream.
    fn refill(&mut self) -> io::Result<bool> {
        if self.ended {
            return Ok(false);
        }
        if self.filled == self.buffer.len() {
            self.make_room();
        }
        loop {
            match self.input.read(&mut self.buffer[self.filled..]) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(false);
                }
                Ok(count) => {
                    self.filled += count;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves what is still needed to the front of the buffer, or doubles the buffer if that is most of it.
    fn make_room(&mut self) {
        if self.buffer.len() < BUFFER_BYTES {
            self.buffer.resize(BUFFER_BYTES, 0);
        } else if self.filled - self.start > self.buffer.len() / 2 {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        self.buffer.copy_within(self.start..self.filled, 0);
        self.scanned -= self.start;
        self.filled -= self.start;
        self.start = 0;
    }
}

/// A record's bytes without the line feed, or carriage return and line feed, that ends it.
fn without_terminator(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::{super::borders::RecordBorders, *};

    /// Gives one byte at a time.
    struct Trickle(io::Cursor<Vec<u8>>);

    impl io::Read for Trickle {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let wanted = buffer.len().min(1);
            self.0.read(&mut buffer[..wanted])
        }
    }

    fn read_all(text: &[u8], max_record_bytes: usize) -> Vec<(u64, String)> {
        let input = Box::new(Trickle(io::Cursor::new(text.to_vec())));
        let mut records = Records::new(input, RecordBorders::new(b','), 0, max_record_bytes);
        let mut found = Vec::new();
        while let Some(record) = records.next().expect("memory does not fail") {
            let content = match record.content {
                Content::Whole(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                Content::TooLarge => "too large".into(),
                Content::Unterminated => "unterminated".into(),
            };
            found.push((record.position, content));
        }
        found
    }

    fn owned(records: &[(u64, &str)]) -> Vec<(u64, String)> {
        records.iter().map(|(position, text)| (*position, (*text).to_owned())).collect()
    }

    #[test]
    fn records_come_without_their_terminators_at_their_positions() {
        assert_eq!(read_all(b"a\r\n\nbc\n\"d\ne\"", 100), owned(&[(0, "a"), (3, ""), (4, "bc"), (7, "\"d\ne\"")]));
        assert_eq!(read_all(b"", 100), owned(&[]));
    }

    #[test]
    fn the_limit_counts_the_record_without_its_terminator() {
        assert_eq!(read_all(b"1234\r\n12345\r\n1234", 4), owned(&[(0, "1234"), (6, "too large"), (13, "1234")]));
        assert_eq!(read_all(b"12345", 4), owned(&[(0, "too large")]));
        assert_eq!(read_all(b"1234567890\n1\n", 4), owned(&[(0, "too large"), (11, "1")]));
    }

    #[test]
    fn a_quote_that_stays_open_loses_one_record() {
        assert_eq!(read_all(b"a\n\"b\nc\nd\n", 100), owned(&[(0, "a"), (2, "unterminated")]));
        assert_eq!(read_all(b"a\n\"b\nc\nd\n", 3), owned(&[(0, "a"), (2, "unterminated")]));
    }

    #[test]
    fn a_record_larger_than_the_buffer_is_whole_and_one_over_the_limit_is_not_kept() {
        let text = [vec![b'x'; BUFFER_BYTES * 3], b"\ny\n".to_vec()].concat();
        let mut records = Records::new(Box::new(io::Cursor::new(text.clone())), RecordBorders::new(b','), 0, usize::MAX);
        let first = records.next().expect("memory does not fail").expect("a record");
        assert!(matches!(first.content, Content::Whole(bytes) if bytes.len() == BUFFER_BYTES * 3));

        let mut records = Records::new(Box::new(io::Cursor::new(text)), RecordBorders::new(b','), 0, 10);
        assert!(matches!(records.next().expect("memory does not fail").expect("a record").content, Content::TooLarge));
        assert!(records.buffer.len() == BUFFER_BYTES);
        assert_eq!(records.next().expect("memory does not fail").expect("a record").position, BUFFER_BYTES as u64 * 3 + 1);
    }

    #[test]
    fn a_record_put_back_comes_again() {
        let mut records = Records::new(Box::new(io::Cursor::new(b"a\n\"b\n".to_vec())), RecordBorders::new(b','), 0, 100);
        for _ in 0..3 {
            let record = records.next().expect("memory does not fail").expect("a record");
            assert!(matches!((record.position, record.content), (0, Content::Whole(b"a"))));
            records.put_back(0);
        }
        records.next().expect("memory does not fail");
        for _ in 0..3 {
            let record = records.next().expect("memory does not fail").expect("a record");
            assert!(matches!((record.position, record.content), (2, Content::Unterminated)));
            records.put_back(2);
        }
    }
}
