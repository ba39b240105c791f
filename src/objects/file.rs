//! A file as it was pinned, read on the thread that asks.
//!
//! object_store hands a file on in pieces of 8 KiB, each through another thread and in memory of its own: reading them costs several times
//! what it costs to copy them out of the kernel's cache. Whoever has a thread that may wait reads here, straight into where the bytes are
//! needed. What is not as it was pinned is left to the store, which says what is wrong with it.

use std::{
    fs::{File, Metadata},
    io::{self, Read, Seek, SeekFrom},
    num::NonZeroU64,
    ops::Range,
    os::unix::fs::MetadataExt,
    time::UNIX_EPOCH,
};

use bytes::Bytes;
use rustix::fs::{Advice, fadvise};

use super::Error;
use crate::domain::Uri;

/// How far the kernel reads ahead of a stream, where the file is not in its cache.
const AHEAD_BYTES: u64 = 4 * 1024 * 1024;

/// A file that is open, and was as it was pinned when it was opened.
#[derive(Debug)]
pub struct PinnedFile {
    file: File,
    /// Bytes in it then.
    size: u64,
    uri: Uri,
    etag: String,
}

impl PinnedFile {
    /// `None` when the file has another etag.
    pub(super) fn new(file: File, uri: Uri, etag: &str) -> Option<Self> {
        let metadata = file.metadata().ok()?;
        let pinned = etag_of(&metadata).is_some_and(|found| found == etag);
        pinned.then(|| Self { file, size: metadata.len(), uri, etag: etag.to_owned() })
    }

    /// Bytes in it when it was opened.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Exactly this range.
    ///
    /// # Errors
    /// [`Error::Changed`] when the file has become shorter or was written to, [`Error::Unavailable`].
    pub fn read(&self, range: Range<u64>) -> Result<Bytes, Error> {
        let wanted = range.end.saturating_sub(range.start);
        // Not zeroed before it is read into.
        let mut bytes = Vec::with_capacity(usize::try_from(wanted).unwrap_or_default());
        let read = (&self.file).seek(SeekFrom::Start(range.start)).and_then(|_| (&self.file).take(wanted).read_to_end(&mut bytes));
        match read {
            Ok(count) if count as u64 == wanted && self.is_as_pinned() => Ok(bytes.into()),
            Ok(_) => Err(self.changed()),
            Err(error) => Err(self.unavailable(&error)),
        }
    }

    /// The same as a stream.
    ///
    /// # Errors
    /// [`Error::Unavailable`]. An `io::Error` of the stream carries one of those of [`read`](Self::read) as its inner error.
    pub fn stream(mut self, range: Range<u64>) -> Result<impl Read + Send, Error> {
        self.file.seek(SeekFrom::Start(range.start)).map_err(|error| self.unavailable(&error))?;
        Ok(FileStream { file: self, advised: range.start, left: range })
    }

    /// Asked again at the end: a file that is written in place keeps its length.
    fn is_as_pinned(&self) -> bool {
        self.file.metadata().ok().and_then(|metadata| etag_of(&metadata)).is_some_and(|found| found == self.etag)
    }

    fn changed(&self) -> Error {
        Error::Changed { uri: self.uri.clone(), etag: self.etag.clone() }
    }

    fn unavailable(&self, error: &io::Error) -> Error {
        Error::Unavailable { operation: "GET", uri: self.uri.clone(), reason: error.to_string() }
    }
}

struct FileStream {
    file: PinnedFile,
    left: Range<u64>,
    /// The kernel has been told that it is needed up to here.
    advised: u64,
}

impl FileStream {
    /// A hint: where it is not taken, reading waits a little more often.
    fn read_ahead(&mut self) {
        let end = self.left.end.min(self.advised + AHEAD_BYTES);
        if let Some(length) = NonZeroU64::new(end - self.advised) {
            let _not_taken = fadvise(&self.file.file, self.advised, Some(length), Advice::WillNeed);
            self.advised = end;
        }
    }
}

impl Read for FileStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() {
            return Ok(0);
        }
        if self.left.start + AHEAD_BYTES / 2 >= self.advised {
            self.read_ahead();
        }
        let wanted = usize::try_from(self.left.end - self.left.start).unwrap_or(usize::MAX).min(buffer.len());
        match self.file.file.read(&mut buffer[..wanted]) {
            Ok(0) if wanted > 0 => Err(io::Error::other(self.file.changed())),
            Ok(count) => {
                self.left.start += count as u64;
                if self.left.is_empty() && !self.file.is_as_pinned() {
                    return Err(io::Error::other(self.file.changed()));
                }
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => Err(io::Error::other(self.file.unavailable(&error))),
        }
    }
}

/// In the form that object_store gives it. Should that change, files are read by the store.
fn etag_of(metadata: &Metadata) -> Option<String> {
    let modified = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?.as_micros();
    Some(format!("\"{:x}-{modified:x}-{:x}\"", metadata.ino(), metadata.len()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn pinned(file: &tempfile::NamedTempFile) -> PinnedFile {
        let uri = Uri::parse(&format!("file://{}", file.path().display())).unwrap();
        let etag = etag_of(&file.as_file().metadata().unwrap()).unwrap();
        PinnedFile::new(File::open(file.path()).unwrap(), uri, &etag).unwrap()
    }

    fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_range_is_read_whole_and_as_a_stream() {
        let bytes: Vec<u8> = (0..10_000_000_u32).map(|n| (n * 7 % 251) as u8).collect();
        let file = written(&bytes);
        for range in [0..10_000_000_u64, 1..9_999_999, 5_000_000..5_000_000, 9_000_000..10_000_000] {
            let wanted = &bytes[range.start as usize..range.end as usize];
            assert!(pinned(&file).read(range.clone()).unwrap() == wanted);
            let mut streamed = Vec::new();
            pinned(&file).stream(range).unwrap().read_to_end(&mut streamed).unwrap();
            assert!(streamed == wanted);
        }
    }

    #[test]
    fn a_file_that_became_shorter_has_changed() {
        let file = written(&[1; 100_000]);
        let (whole, streamed) = (pinned(&file), pinned(&file).stream(0..100_000).unwrap());
        file.as_file().set_len(99_999).unwrap();
        assert!(matches!(whole.read(0..100_000), Err(Error::Changed { .. })));
        let error = { streamed }.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(matches!(error.downcast::<Error>(), Ok(Error::Changed { .. })));
    }

    #[test]
    fn a_file_that_is_written_in_place_while_it_is_read_has_changed() {
        let file = written(&[1; 100_000]);
        let (whole, mut streamed) = (pinned(&file), pinned(&file).stream(0..100_000).unwrap());
        streamed.read_exact(&mut [0; 1000]).unwrap();
        // Its time may have the steps of a clock's tick.
        let before = file.as_file().metadata().unwrap().modified().unwrap();
        while file.as_file().metadata().unwrap().modified().unwrap() == before {
            std::os::unix::fs::FileExt::write_all_at(file.as_file(), b"2", 50_000).unwrap();
        }
        assert!(matches!(whole.read(0..100_000), Err(Error::Changed { .. })));
        let error = streamed.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(matches!(error.downcast::<Error>(), Ok(Error::Changed { .. })));
    }

    #[test]
    fn another_file_is_not_the_one_that_was_pinned() {
        let (file, other) = (written(b"a"), written(b"a"));
        let etag = etag_of(&file.as_file().metadata().unwrap()).unwrap();
        let uri = Uri::parse("file:///there").unwrap();
        assert!(PinnedFile::new(File::open(other.path()).unwrap(), uri, &etag).is_none());
    }
}
