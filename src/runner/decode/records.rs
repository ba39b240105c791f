//! Text → records: where one ends and the next begins, without looking inside.
//!
//! In: the bytes of a slice, decompressed as they come. Out: each record's bytes with its offset in the decompressed text. A
//! record above the limit is skipped without being kept. The planner cuts CSV by the same border scanner that reads it.

use std::io::{self, BufReader, Read};

use memchr::{memchr, memchr2};

use super::{DecodeError, Request};
use crate::{
    domain::{
        Slice,
        spec::{InputCompression, InputFormat},
    },
    objects,
    runner::source::ObjectBytes,
};
use std::sync::Arc;

const BLOCK_BYTES: usize = 256 * 1024;

/// Finds the ends of CSV records, block by block: RFC 4180, with a bare newline for CRLF too. A quote counts only where a field begins.
#[derive(Debug, Clone)]
pub struct RecordBorders {
    delimiter: u8,
    offset: u64,
    state: Quoting,
    /// The last byte seen was a delimiter, or a record begins here.
    at_field_start: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quoting {
    Outside,
    Inside,
    /// After a quote inside quotes: another one makes a literal quote, anything else ends the quoting.
    MaybeOver,
}

impl RecordBorders {
    /// A scanner at the start of a text.
    pub fn new(delimiter: u8) -> Self {
        Self { delimiter, offset: 0, state: Quoting::Outside, at_field_start: true }
    }

    /// Whether the bytes so far end inside quotes.
    pub fn in_quotes(&self) -> bool {
        self.state == Quoting::Inside
    }

    /// Scans the next block; calls back with the offset just after each record's newline.
    pub fn feed(&mut self, bytes: &[u8], on_border: &mut dyn FnMut(u64)) {
        let mut at = 0;
        while let Some(end) = self.next(bytes, at) {
            on_border(self.offset + end as u64);
            at = end;
        }
        self.offset += bytes.len() as u64;
    }

    /// The index just after the newline that ends the record which `bytes[from..]` goes on with; `None` when it does not end here.
    fn next(&mut self, bytes: &[u8], from: usize) -> Option<usize> {
        let mut at = from;
        while at < bytes.len() {
            match self.state {
                Quoting::Inside => match memchr(b'"', &bytes[at..]) {
                    Some(quote) => {
                        at += quote + 1;
                        self.state = Quoting::MaybeOver;
                    }
                    None => return None,
                },
                Quoting::MaybeOver => {
                    if bytes[at] == b'"' {
                        self.state = Quoting::Inside;
                        at += 1;
                    } else {
                        self.state = Quoting::Outside;
                        self.at_field_start = false;
                    }
                }
                Quoting::Outside => match memchr2(b'"', b'\n', &bytes[at..]) {
                    Some(found) if bytes[at + found] == b'\n' => {
                        self.at_field_start = true;
                        return Some(at + found + 1);
                    }
                    Some(found) => {
                        let quote = at + found;
                        let begins = if found == 0 { self.at_field_start } else { bytes[quote - 1] == self.delimiter };
                        self.state = if begins { Quoting::Inside } else { Quoting::Outside };
                        self.at_field_start = false;
                        at = quote + 1;
                    }
                    None => {
                        self.at_field_start = bytes[bytes.len() - 1] == self.delimiter;
                        return None;
                    }
                },
            }
        }
        None
    }
}

/// What ends a record.
#[derive(Debug)]
pub(super) enum Framing {
    /// Any newline.
    Lines,
    /// A newline outside quotes.
    Csv(RecordBorders),
}

impl Framing {
    fn next(&mut self, bytes: &[u8], from: usize) -> Option<usize> {
        match self {
            Self::Lines => memchr(b'\n', &bytes[from..]).map(|at| from + at + 1),
            Self::Csv(borders) => borders.next(bytes, from),
        }
    }

    fn in_quotes(&self) -> bool {
        matches!(self, Self::Csv(borders) if borders.in_quotes())
    }
}

/// One record.
pub(super) enum Record<'r> {
    /// Its bytes, without newline and carriage return.
    Whole { position: u64, bytes: &'r [u8] },
    /// It was over the limit; this many bytes were skipped.
    TooLarge { position: u64, bytes: u64 },
    /// The text ended inside its quotes.
    Unterminated { position: u64 },
}

/// Reads records off a text.
pub(super) struct Records {
    read: Box<dyn Read + Send>,
    framing: Framing,
    most: usize,
    /// Records that begin here or later belong to the next slice.
    end: u64,
    buffer: Vec<u8>,
    /// Of the present record in the buffer.
    start: usize,
    /// Scanned for a border up to here.
    scanned: usize,
    /// Offset of the buffer's first byte in the text.
    offset: u64,
    over: bool,
}

impl Records {
    /// Opens the text of a slice.
    pub(super) fn open(bytes: &Arc<dyn ObjectBytes>, request: &Request) -> Result<Self, DecodeError> {
        let size = bytes.size();
        let lines = request.slice.format == InputFormat::Jsonl;
        let framing = if lines { Framing::Lines } else { Framing::Csv(RecordBorders::new(request.csv.delimiter)) };
        let (read, offset, end): (Box<dyn Read + Send>, u64, u64) = match request.slice.slice {
            Slice::Bytes { start, end } if lines => {
                // One byte early, so that a record which begins exactly at `start` is seen to follow a newline.
                let from = start.saturating_sub(1);
                let rest = Rest { bytes: bytes.clone(), range: end.max(from)..size, read: None };
                (Box::new(bytes.stream(from..end)?.chain(rest)), from, end)
            }
            Slice::Bytes { start, end } => (bytes.stream(start..end)?, start, end),
            Slice::Whole | Slice::Rows { .. } => {
                let raw = BufReader::with_capacity(BLOCK_BYTES, bytes.stream(0..size)?);
                let read: Box<dyn Read + Send> = match request.slice.compression {
                    InputCompression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(raw)),
                    InputCompression::Zstd => {
                        Box::new(zstd::stream::read::Decoder::with_buffer(raw).map_err(|e| corrupt(request, e, Some(0)))?)
                    }
                    InputCompression::None | InputCompression::Auto => Box::new(raw),
                };
                (read, 0, u64::MAX)
            }
        };
        let mut records =
            Self { read, framing, most: request.max_record_bytes, end, buffer: Vec::new(), start: 0, scanned: 0, offset, over: false };
        if lines && matches!(request.slice.slice, Slice::Bytes { start: 1.., .. }) {
            // The end of the record that the slice before this one reads.
            records.next().map_err(|e| corrupt(request, e, None))?;
        }
        Ok(records)
    }

    /// Offset of the next record.
    pub(super) fn position(&self) -> u64 {
        self.offset + self.start as u64
    }

    /// The next record; `None` at the end of the slice.
    pub(super) fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        let position = self.position();
        if self.over || position >= self.end {
            return Ok(None);
        }
        let mut skipped = 0u64;
        loop {
            if let Some(end) = self.framing.next(&self.buffer, self.scanned) {
                let start = std::mem::replace(&mut self.start, end);
                self.scanned = end;
                return Ok(Some(self.record(position, start, end, skipped)));
            }
            self.scanned = self.buffer.len();
            if self.scanned - self.start > self.most {
                // Too large: what is scanned is not needed any more.
                skipped += (self.scanned - self.start) as u64;
                self.offset += self.scanned as u64;
                self.buffer.clear();
                (self.start, self.scanned) = (0, 0);
            }
            if self.fill()? == 0 {
                self.over = true;
                let (start, end) = (self.start, self.buffer.len());
                self.start = end;
                if start == end && skipped == 0 {
                    return Ok(None);
                }
                if self.framing.in_quotes() && skipped == 0 {
                    return Ok(Some(Record::Unterminated { position }));
                }
                return Ok(Some(self.record(position, start, end, skipped)));
            }
        }
    }

    fn record(&self, position: u64, start: usize, end: usize, skipped: u64) -> Record<'_> {
        let bytes = &self.buffer[start..end];
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if skipped > 0 || bytes.len() > self.most {
            return Record::TooLarge { position, bytes: skipped + (end - start) as u64 };
        }
        Record::Whole { position, bytes }
    }

    /// Reads a block after what is in the buffer; records that are done make room.
    fn fill(&mut self) -> io::Result<usize> {
        self.buffer.drain(..self.start);
        self.offset += self.start as u64;
        self.scanned -= self.start;
        self.start = 0;
        let filled = self.buffer.len();
        self.buffer.resize(filled + BLOCK_BYTES, 0);
        let read = loop {
            match self.read.read(&mut self.buffer[filled..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(filled + *read.as_ref().unwrap_or(&0));
        read
    }
}

/// The rest of an object after a slice, opened only when the slice's last record goes on there.
struct Rest {
    bytes: Arc<dyn ObjectBytes>,
    range: std::ops::Range<u64>,
    read: Option<Box<dyn Read + Send>>,
}

impl Read for Rest {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.range.is_empty() {
            return Ok(0);
        }
        let read = match &mut self.read {
            Some(read) => read,
            None => self.read.insert(self.bytes.stream(self.range.clone()).map_err(io::Error::other)?),
        };
        read.read(buffer)
    }
}

/// An error of the reader in this room's words: a store's error travels inside, anything else is the compression's.
pub(super) fn corrupt(request: &Request, error: io::Error, position: Option<u64>) -> DecodeError {
    let detail = error.to_string();
    match error.into_inner().map(|inner| inner.downcast::<objects::Error>()) {
        Some(Ok(store)) => DecodeError::Source(*store),
        _ => {
            let (code, what) = match request.slice.compression {
                InputCompression::Gzip => ("invalid_gzip", "gzip"),
                InputCompression::Zstd => ("invalid_zstd", "zstd"),
                _ => ("unreadable", "a text"),
            };
            DecodeError::Corrupt {
                source_name: request.source.clone(),
                code,
                detail: format!("not {what} from here on: {detail}"),
                position,
            }
        }
    }
}
