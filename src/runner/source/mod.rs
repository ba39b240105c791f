//! Object or range → bytes.
//!
//! In: an object as pinned by the snapshot. Out: its bytes, by range or as a stream with bounded prefetch, always those of
//! the pinned etag. Synchronous, for the decoders' own threads.

mod memory;
mod object;

use std::{io, ops::Range};

use bytes::Bytes;

use crate::objects;

pub use memory::MemoryObject;
pub use object::StoreObject;

/// The bytes of one object. Implemented over a bucket here and over memory in the decoders' tests.
pub trait ObjectBytes: Send + Sync {
    /// Bytes in the whole object.
    fn size(&self) -> u64;

    /// Exactly this range.
    ///
    /// # Errors
    /// Those of the store.
    fn read(&self, range: Range<u64>) -> Result<Bytes, objects::Error>;

    /// Several ranges, fetched side by side.
    ///
    /// # Errors
    /// The first that occurs.
    fn read_ranges(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, objects::Error> {
        ranges.iter().map(|r| self.read(r.clone())).collect()
    }

    /// All of it, where it is in memory already.
    fn in_memory(&self) -> Option<Bytes> {
        None
    }

    /// This range from its start, a few megabytes ahead of the reader at most. An `io::Error` from it carries an
    /// [`objects::Error`] as its inner error when the store was the cause.
    ///
    /// # Errors
    /// Those of the store.
    fn stream(&self, range: Range<u64>) -> Result<Box<dyn io::Read + Send>, objects::Error>;
}
