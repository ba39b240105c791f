//! An object that is in memory already.

use std::{io, ops::Range};

use bytes::{Buf, Bytes};

use super::ObjectBytes;
use crate::objects;

/// The bytes of a whole object.
#[derive(Debug, Clone)]
pub struct Fetched(pub Bytes);

impl ObjectBytes for Fetched {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, objects::Error> {
        Ok(self.0.slice(range.start as usize..range.end as usize))
    }

    fn stream(&self, range: Range<u64>) -> Result<Box<dyn io::Read + Send>, objects::Error> {
        Ok(Box::new(self.read(range)?.reader()))
    }
}
