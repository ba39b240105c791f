//! An object that is in memory already.

use std::{
    io::{self, Cursor},
    ops::Range,
};

use bytes::Bytes;

use super::ObjectBytes;
use crate::objects;

/// All bytes of a small object.
#[derive(Debug, Clone)]
pub struct MemoryObject(pub Bytes);

impl MemoryObject {
    /// Decoders ask for ranges within the object only; what lies outside is empty.
    fn slice(&self, range: Range<u64>) -> Bytes {
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.0.len());
        self.0.slice(place(range.start)..place(range.end))
    }
}

impl ObjectBytes for MemoryObject {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, objects::Error> {
        Ok(self.slice(range))
    }

    fn in_memory(&self) -> Option<Bytes> {
        Some(self.0.clone())
    }

    fn stream(&self, range: Range<u64>) -> Result<Box<dyn io::Read + Send>, objects::Error> {
        Ok(Box::new(Cursor::new(self.slice(range))))
    }
}
