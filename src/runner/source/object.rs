//! An object of a bucket, read from threads that are not the async runtime's. A file is read by the thread itself.

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, Bytes};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::{runtime::Handle, sync::mpsc};

use super::ObjectBytes;
use crate::{
    domain::{ObjectSlice, Uri},
    objects::{self, Bucket, PinnedFile},
    runner::stages::Waits,
};

/// Blocks that wait between the store and a decoder. Stores send blocks of 8 KiB to a few hundred: some megabytes in all.
const PREFETCH_BLOCKS: usize = 64;
/// Ranges of one object that are fetched side by side.
const PARALLEL_RANGES: usize = 8;

/// One object, pinned by its etag.
#[derive(Debug, Clone)]
pub struct StoreObject {
    /// Where it lives.
    pub bucket: Bucket,
    /// Which one; `slice` and formats are the decoder's business.
    pub object: ObjectSlice,
    /// The async runtime that talks to the store.
    pub handle: Handle,
    /// Bytes that came from the store, added up over the chunk.
    pub bytes_read: Arc<AtomicU64>,
    /// Who is to know that the reader waits.
    pub waits: Waits,
}

impl StoreObject {
    async fn fetch(&self, range: Range<u64>) -> Result<Bytes, objects::Error> {
        let bytes = self.bucket.read(&self.object.key, self.object.etag.as_deref(), range).await?;
        self.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    fn read_file(&self, file: &PinnedFile, range: Range<u64>) -> Result<Bytes, objects::Error> {
        let bytes = file.read(range)?;
        self.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(bytes)
    }

    fn file(&self) -> Option<PinnedFile> {
        self.bucket.pinned_file(&self.object.key, self.object.etag.as_deref())
    }
}

impl ObjectBytes for StoreObject {
    fn size(&self) -> u64 {
        self.object.size
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, objects::Error> {
        self.waits.waiting(|| match self.file() {
            Some(file) => self.read_file(&file, range),
            None => self.handle.block_on(self.fetch(range)),
        })
    }

    fn read_ranges(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, objects::Error> {
        if let Some(file) = self.waits.waiting(|| self.file()) {
            return self.waits.waiting(|| ranges.iter().map(|range| self.read_file(&file, range.clone())).collect());
        }
        let fetches = stream::iter(ranges.to_vec()).map(|range| self.fetch(range)).buffered(PARALLEL_RANGES);
        self.waits.waiting(|| self.handle.block_on(fetches.try_collect()))
    }

    fn stream(&self, range: Range<u64>) -> Result<Box<dyn io::Read + Send>, objects::Error> {
        if let Some(file) = self.waits.waiting(|| self.file()) {
            let (stream, bytes_read, waits) = (file.stream(range)?, self.bytes_read.clone(), self.waits.clone());
            return Ok(Box::new(FileReader { stream, bytes_read, waits }));
        }
        let remaining = range.end.saturating_sub(range.start);
        let opened = self.bucket.stream(&self.object.key, self.object.etag.as_deref(), range);
        let mut blocks = self.waits.waiting(|| self.handle.block_on(opened))?;
        let (send, receive) = mpsc::channel(PREFETCH_BLOCKS);
        let bytes_read = self.bytes_read.clone();
        self.handle.spawn(async move {
            while let Some(block) = blocks.next().await {
                if let Ok(bytes) = &block {
                    bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }
                let failed = block.is_err();
                if send.send(block).await.is_err() || failed {
                    return;
                }
            }
        });
        let (uri, waits) = (self.bucket.uri(&self.object.key), self.waits.clone());
        Ok(Box::new(BlockReader { receive, block: Bytes::new(), remaining, uri, waits }))
    }
}

/// Reads a file, and says so.
struct FileReader<R> {
    stream: R,
    bytes_read: Arc<AtomicU64>,
    waits: Waits,
}

impl<R: io::Read> io::Read for FileReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.waits.waiting(|| self.stream.read(buffer))?;
        self.bytes_read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

/// Reads blocks as they come, and knows how many bytes must come: an early end is an error, never a short object.
struct BlockReader {
    receive: mpsc::Receiver<Result<Bytes, objects::Error>>,
    block: Bytes,
    remaining: u64,
    uri: Uri,
    waits: Waits,
}

impl io::Read for BlockReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.block.is_empty() {
            // Mostly there is a block already: only a wait is worth a look at the clock.
            let block = match self.receive.try_recv() {
                Ok(block) => Some(block),
                Err(_) => self.waits.waiting(|| self.receive.blocking_recv()),
            };
            match block {
                Some(Ok(block)) => self.block = block,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None if self.remaining == 0 => return Ok(0),
                None => {
                    let reason = format!("the body ended {} bytes early", self.remaining);
                    return Err(io::Error::other(objects::Error::Unavailable { operation: "GET", uri: self.uri.clone(), reason }));
                }
            }
        }
        let count = buffer.len().min(self.block.len());
        self.remaining = self.remaining.saturating_sub(count as u64);
        self.block.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
