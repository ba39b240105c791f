//! The entries of a tar archive, one after another.
//!
//! In: an archive as a stream. Out: each entry's name, size and kind, and its bytes for those who ask for them. Reads the forms of
//! POSIX (ustar, pax) and GNU (long names, large sizes), and what is older than both.
//!
//! Names are words here and never paths; nothing is ever written. A size is believed only as far as there are bytes.

use std::io::{self, BufReader, Read};

use super::super::text::Input;

/// Everything in an archive comes in blocks of this size.
pub(super) const BLOCK_BYTES: usize = 512;
/// Bytes taken from the stream at a time.
const BUFFER_BYTES: usize = 128 << 10;
/// Most bytes in an entry's extended header or long name.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// Why an archive cannot be read on.
#[derive(Debug)]
pub(super) enum Error {
    /// The stream failed.
    Read(io::Error),
    /// It is no tar archive from here on.
    Malformed(String),
    /// It ends where an entry ends, but without the mark that says so.
    Unmarked,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file whose bytes follow.
    File,
    /// A folder: no bytes.
    Folder,
    /// Something whose bytes are not here, in words.
    Other(&'static str),
}

/// One entry; its bytes are next in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Of its first header, extended ones included, in the archive.
    pub(super) position: u64,
    /// As the archive has it; not always UTF-8.
    pub(super) name: Vec<u8>,
    /// What it is.
    pub(super) kind: Kind,
    /// Bytes that it says it has.
    pub(super) size: u64,
}

/// Reads an archive's entries.
pub(super) struct Archive {
    input: BufReader<Input>,
    /// Of the next byte.
    offset: u64,
    /// Bytes of the current entry that have not been read, padding included.
    left: u64,
    /// The end mark has been read.
    ended: bool,
}

impl Archive {
    /// At the start of an archive.
    pub(super) fn new(input: Input) -> Self {
        Self { input: BufReader::with_capacity(BUFFER_BYTES, input), offset: 0, left: 0, ended: false }
    }

    /// How far it has been read, bytes.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entry, past whatever of the current one has not been read; `None` at the end mark.
    ///
    /// # Errors
    /// [`Error`]; there is no next entry after one.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Error> {
        if self.ended {
            return Ok(None);
        }
        self.skip()?;
        let mut position = self.offset;
        let mut extension = Extension::default();
        loop {
            let Some(block) = self.block()? else {
                return Err(if self.offset == position { Error::Unmarked } else { ends_early("after an extended header") });
            };
            if block.iter().all(|byte| *byte == 0) {
                self.ended = true;
                return Ok(None);
            }
            check_sum(&block, position)?;
            let size =
                number(&block[124..136]).ok_or_else(|| Error::Malformed(format!("the header at byte {position} has no readable size")))?;
            match block[156] {
                b'x' | b'X' => {
                    let records = self.extension(size)?;
                    extension.read_pax(&records, position)?;
                }
                b'L' => extension.name = Some(until_nul(&self.extension(size)?).to_vec()),
                // A global header says nothing of one entry's name or size; the target of a link is of no use here.
                b'g' | b'K' => {
                    self.begin(size, position)?;
                    self.skip()?;
                    if block[156] == b'g' {
                        position = self.offset;
                    }
                }
                flag => return self.entry(&block, flag, size, position, extension).map(Some),
            }
        }
    }

    fn entry(&mut self, block: &[u8; BLOCK_BYTES], flag: u8, size: u64, position: u64, extension: Extension) -> Result<Entry, Error> {
        let name = extension.name.unwrap_or_else(|| name_of(block));
        let kind = match flag {
            b'0' | 0 | b'7' if name.ends_with(b"/") => Kind::Folder,
            b'0' | 0 | b'7' if extension.sparse => Kind::Other("a sparse file"),
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::Other("a hard link"),
            b'2' => Kind::Other("a symbolic link"),
            b'3' | b'4' => Kind::Other("a device"),
            b'5' => Kind::Folder,
            b'6' => Kind::Other("a pipe"),
            b'S' => Kind::Other("a sparse file"),
            b'M' => Kind::Other("the rest of a file of another volume"),
            b'V' => Kind::Folder,
            _ => Kind::Other("an entry of an unknown kind"),
        };
        if flag == b'S' && block[482] != 0 {
            self.skip_sparse_maps()?;
        }
        // Whatever size these give, no bytes follow them.
        let size = if matches!(flag, b'1'..=b'6') { 0 } else { extension.size.unwrap_or(size) };
        self.begin(size, position)?;
        Ok(Entry { position, name, kind, size })
    }

    /// The bytes of the current entry, which has `size` of them; the caller has seen that this is not too much.
    ///
    /// # Errors
    /// [`Error`].
    pub(super) fn read(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let count = self.input.by_ref().take(size.min(self.left)).read_to_end(&mut bytes).map_err(Error::Read)? as u64;
        self.offset += count;
        self.left -= count;
        if count < size { Err(ends_early("within an entry")) } else { Ok(bytes) }
    }

    fn begin(&mut self, size: u64, position: u64) -> Result<(), Error> {
        let padded = size.checked_next_multiple_of(BLOCK_BYTES as u64).filter(|size| self.offset.checked_add(*size).is_some());
        self.left = padded.ok_or_else(|| Error::Malformed(format!("the entry at byte {position} claims {size} bytes")))?;
        Ok(())
    }

    fn skip(&mut self) -> Result<(), Error> {
        let skipped = io::copy(&mut self.input.by_ref().take(self.left), &mut io::sink()).map_err(Error::Read)?;
        self.offset += skipped;
        self.left -= skipped;
        if self.left > 0 { Err(ends_early("within an entry")) } else { Ok(()) }
    }

    /// The next block; `None` where the stream ends.
    fn block(&mut self) -> Result<Option<[u8; BLOCK_BYTES]>, Error> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(ends_early("within a header")),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read(error)),
            }
        }
        self.offset += BLOCK_BYTES as u64;
        Ok(Some(block))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > MAX_EXTENSION_BYTES {
            return Err(Error::Malformed(format!("an extended header claims {size} bytes, over the limit of {MAX_EXTENSION_BYTES}")));
        }
        self.begin(size, self.offset)?;
        let bytes = self.read(size)?;
        self.skip()?;
        Ok(bytes)
    }

    /// The blocks after the header of a sparse file that say where its pieces lie.
    fn skip_sparse_maps(&mut self) -> Result<(), Error> {
        loop {
            let block = self.block()?.ok_or_else(|| ends_early("within a header"))?;
            if block[504] == 0 {
                return Ok(());
            }
        }
    }
}

/// What extended headers say of the entry after them.
#[derive(Debug, Default)]
struct Extension {
    name: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Extension {
    /// Records of the form `LENGTH KEY=VALUE\n`.
    fn read_pax(&mut self, mut records: &[u8], position: u64) -> Result<(), Error> {
        let malformed = || Error::Malformed(format!("the extended header at byte {position} is malformed"));
        while !records.is_empty() {
            let space = memchr::memchr(b' ', records).ok_or_else(malformed)?;
            let length: usize = std::str::from_utf8(&records[..space]).ok().and_then(|n| n.parse().ok()).ok_or_else(malformed)?;
            let record = records.get(space + 1..length).ok_or_else(malformed)?;
            let record = record.strip_suffix(b"\n").ok_or_else(malformed)?;
            let equals = memchr::memchr(b'=', record).ok_or_else(malformed)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.name = Some(value.to_vec()),
                b"size" => self.size = Some(std::str::from_utf8(value).ok().and_then(|n| n.parse().ok()).ok_or_else(malformed)?),
                key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
            records = &records[length..];
        }
        Ok(())
    }
}

fn ends_early(place: &str) -> Error {
    Error::Malformed(format!("the archive ends {place}"))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..memchr::memchr(0, bytes).unwrap_or(bytes.len())]
}

fn name_of(block: &[u8; BLOCK_BYTES]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    // GNU's own form has other things where POSIX has the first part of a long name.
    let prefix = if &block[257..263] == b"ustar\0" { until_nul(&block[345..500]) } else { &[] };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

/// Octal digits among spaces and NULs, or, with the first bit set, a big-endian number.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (first, rest) = field.split_first()?;
        // The second bit is the sign.
        let first = u64::from(first & 0x7F);
        if first & 0x40 != 0 {
            return None;
        }
        return rest.iter().try_fold(first, |value, byte| value.checked_mul(256)?.checked_add(u64::from(*byte)));
    }
    let text = std::str::from_utf8(until_nul(field)).ok()?.trim();
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

/// The sum of a header's bytes, its own field counted as spaces; some old programs added them up as signed.
fn check_sum(block: &[u8; BLOCK_BYTES], position: u64) -> Result<(), Error> {
    let bytes = || block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    let unsigned: u64 = bytes().map(u64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
    match number(&block[148..156]) {
        Some(sum) if sum == unsigned || i64::try_from(sum) == Ok(signed) => Ok(()),
        _ => Err(Error::Malformed(format!("there is no tar header at byte {position}"))),
    }
}
