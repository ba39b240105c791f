//! Text of a part → its bytes, compressed on the way where the job says so.
//!
//! The compressed bytes depend on the text alone, not on how it came in: the compressor is always fed blocks of the same size. Nothing
//! in them tells the time: the gzip header has modification time 0 and no name.

use std::io::{self, Write};

use bytes::Bytes;

use crate::domain::spec::OutputCompression;

/// Text given to the compressor at once.
const BLOCK_BYTES: usize = 128 * 1024;
/// Zstandard's own default: denser than gzip's at several times its speed.
const ZSTD_LEVEL: i32 = 3;

/// Collects the text of one part.
pub(super) struct Sink {
    text: Vec<u8>,
    packer: Packer,
}

enum Packer {
    None,
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Sink {
    /// Without any text.
    pub(super) fn new(compression: OutputCompression) -> Self {
        let packer = match compression {
            OutputCompression::None => Packer::None,
            OutputCompression::Gzip => Packer::Gzip(flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::default())),
            OutputCompression::Zstd => {
                let encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL);
                Packer::Zstd(encoder.expect("zstd has this level"))
            }
        };
        Self { text: Vec::new(), packer }
    }

    /// Where text is appended; call [`Sink::settle`] after.
    pub(super) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Compresses what came in, except for the last incomplete block.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        let Some(packed) = self.packer.writer() else { return Ok(()) };
        let blocks = self.text.chunks_exact(BLOCK_BYTES);
        let rest = blocks.remainder().len();
        for block in blocks {
            packed.write_all(block)?;
        }
        self.text.drain(..self.text.len() - rest);
        Ok(())
    }

    /// The bytes that are ready.
    pub(super) fn take(&mut self) -> Bytes {
        match &mut self.packer {
            Packer::None => Bytes::from(std::mem::take(&mut self.text)),
            Packer::Gzip(gzip) => Bytes::from(std::mem::take(gzip.get_mut())),
            Packer::Zstd(zstd) => Bytes::from(std::mem::take(zstd.get_mut())),
        }
    }

    /// The last bytes.
    pub(super) fn finish(mut self) -> io::Result<Bytes> {
        if let Some(packed) = self.packer.writer() {
            packed.write_all(&self.text)?;
        }
        match self.packer {
            Packer::None => Ok(Bytes::from(self.text)),
            Packer::Gzip(gzip) => Ok(Bytes::from(gzip.finish()?)),
            Packer::Zstd(zstd) => Ok(Bytes::from(zstd.finish()?)),
        }
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").field("text_bytes", &self.text.len()).finish_non_exhaustive()
    }
}

impl Packer {
    fn writer(&mut self) -> Option<&mut dyn Write> {
        match self {
            Self::None => None,
            Self::Gzip(gzip) => Some(gzip),
            Self::Zstd(zstd) => Some(zstd),
        }
    }
}
