//! An object's text as a stream: ranges joined, compression undone.
//!
//! In: an object and the range to read. Out: `io::Read`s over its bytes and over the text that they hold. What a failing
//! read means is told here; records are found in [`records`](super::records).
//!
//! Nothing is held but the windows of the decompressors, so a small object that grows to terabytes does no harm.

use std::{
    io::{self, BufReader, Cursor, Read},
    ops::Range,
    sync::Arc,
};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

use super::DecodeError;
use crate::{domain::spec::InputCompression, objects, runner::source::ObjectBytes};

/// A stream of bytes that can move to a decoder's thread.
pub(super) type Input = Box<dyn Read + Send>;

/// How far a reader goes beyond its range in the same stream: mostly a record crosses the range's end, and ends soon after it.
const OVERRUN_BYTES: u64 = 64 << 10;
/// How far at a time when it goes on.
const PIECE_BYTES: u64 = 1 << 20;

/// Compressed bytes handed to a decompressor at a time.
const COMPRESSED_BUFFER_BYTES: usize = 128 << 10;

/// Largest window of a Zstandard frame, as a power of two: the limit of `zstd -d` itself, without `--long`.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Reads an object from one offset on: first a range in one stream, then, for those who read on, the rest of the object in short ones.
pub(super) struct RangeReader {
    bytes: Arc<dyn ObjectBytes>,
    range: Range<u64>,
    limit: u64,
    piece: Input,
    piece_left: u64,
}

impl RangeReader {
    /// Reads `range` and nothing beyond it.
    pub(super) fn within(bytes: Arc<dyn ObjectBytes>, range: Range<u64>) -> Self {
        let limit = range.end;
        Self { bytes, range, limit, piece: Box::new(io::empty()), piece_left: 0 }
    }

    /// Reads `range` and a little of what follows, and on to the end of the object.
    pub(super) fn beyond(bytes: Arc<dyn ObjectBytes>, range: Range<u64>) -> Self {
        let limit = bytes.size();
        let end = limit.min(range.end.saturating_add(OVERRUN_BYTES));
        Self { limit, ..Self::within(bytes, range.start..end) }
    }

    fn open_next_piece(&mut self) -> io::Result<()> {
        let start = self.range.start;
        let end = if start < self.range.end { self.range.end } else { (start + PIECE_BYTES).min(self.limit) };
        self.piece = self.bytes.stream(start..end).map_err(io::Error::other)?;
        self.piece_left = end - start;
        self.range.start = end;
        Ok(())
    }
}

impl Read for RangeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece_left == 0 {
            if self.range.start >= self.limit {
                return Ok(0);
            }
            self.open_next_piece()?;
        }
        let wanted = usize::try_from(self.piece_left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.piece.read(&mut buffer[..wanted])?;
        if count == 0 && wanted > 0 {
            let missing = format!("the object ends {} bytes early", self.piece_left + self.limit.saturating_sub(self.range.start));
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, missing));
        }
        self.piece_left -= count as u64;
        Ok(count)
    }
}

/// Undoes the compression; `Auto` counts as none.
pub(super) fn decompressed(raw: Input, compression: InputCompression) -> io::Result<Input> {
    let buffered = |raw| BufReader::with_capacity(COMPRESSED_BUFFER_BYTES, raw);
    Ok(match compression {
        InputCompression::Gzip => Box::new(MultiGzDecoder::new(buffered(raw))),
        InputCompression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered(raw))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        InputCompression::None | InputCompression::Auto => raw,
    })
}

/// The first bytes of a stream, at most `count`, and the stream with those bytes put back.
pub(super) fn peek(mut input: Input, count: usize) -> io::Result<(Bytes, Input)> {
    let mut head = Vec::with_capacity(count);
    input.by_ref().take(count as u64).read_to_end(&mut head)?;
    let head = Bytes::from(head);
    Ok((head.clone(), Box::new(Cursor::new(head).chain(input))))
}

/// What a failed read of an object's text means. `position`: of the first record that is lost with it.
pub(super) fn read_error(error: io::Error, source: &Arc<str>, compression: InputCompression, position: Option<u64>) -> DecodeError {
    let error = match error.downcast::<objects::Error>() {
        Ok(store) => return DecodeError::Source(store),
        Err(error) => error,
    };
    let (code, what) = match compression {
        InputCompression::Gzip => ("invalid_gzip", "not valid gzip data"),
        InputCompression::Zstd => ("invalid_zstd", "not valid Zstandard data"),
        InputCompression::None | InputCompression::Auto => ("unreadable_object", "cannot be read to its end"),
    };
    let place = position.map(|p| format!(" (in the record at byte {p} of the text)")).unwrap_or_default();
    DecodeError::Corrupt { source_name: source.clone(), code, detail: format!("{what}{place}: {error}"), position }
}
