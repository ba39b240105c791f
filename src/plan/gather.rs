//! Gathers whole objects and slices into chunks.

use crate::domain::ObjectSlice;

/// Collects objects until they make a chunk.
#[derive(Debug)]
pub(super) struct Gatherer {
    bytes: u64,
    objects: usize,
    records: Option<u64>,
    chunk: Vec<ObjectSlice>,
    chunk_bytes: u64,
    chunk_records: u64,
}

impl Gatherer {
    /// A chunk is full at `bytes`, `objects` or (estimated) `records`, whichever comes first.
    pub(super) fn new(bytes: u64, objects: usize, records: Option<u64>) -> Self {
        Self { bytes, objects, records, chunk: Vec::new(), chunk_bytes: 0, chunk_records: 0 }
    }

    /// Adds a whole object that is not worth cutting; returns the chunk that it made full, or that had no room for it.
    pub(super) fn push(&mut self, object: ObjectSlice, records: u64) -> Option<Vec<ObjectSlice>> {
        let full = !self.chunk.is_empty()
            && (self.chunk_bytes + object.size > self.bytes
                || self.chunk.len() >= self.objects
                || self.records.is_some_and(|most| self.chunk_records + records > most));
        let ended = full.then(|| self.take()).flatten();
        self.chunk_bytes += object.size;
        self.chunk_records += records;
        self.chunk.push(object);
        ended
    }

    /// What is gathered so far.
    pub(super) fn take(&mut self) -> Option<Vec<ObjectSlice>> {
        self.chunk_bytes = 0;
        self.chunk_records = 0;
        let chunk = std::mem::take(&mut self.chunk);
        (!chunk.is_empty()).then_some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{
        Slice,
        spec::{InputCompression, InputFormat},
    };

    proptest! {
        #[test]
        fn every_object_is_in_exactly_one_chunk_in_order(sizes in prop::collection::vec(0u64..50, 0..60), bytes in 1u64..100, objects in 1usize..10) {
            let mut gatherer = Gatherer::new(bytes, objects, Some(7));
            let mut chunks = Vec::new();
            for (i, size) in sizes.iter().enumerate() {
                let object = ObjectSlice {
                    bucket: None,
                    key: format!("{i:03}"), size: *size, etag: None,
                    format: InputFormat::Csv, compression: InputCompression::None, slice: Slice::Whole,
                };
                chunks.extend(gatherer.push(object, 2));
            }
            chunks.extend(gatherer.take());
            for chunk in &chunks {
                prop_assert!(!chunk.is_empty() && chunk.len() <= objects.min(3));
                prop_assert!(chunk.len() == 1 || chunk.iter().map(|o| o.size).sum::<u64>() <= bytes);
            }
            let keys: Vec<String> = chunks.concat().into_iter().map(|o| o.key).collect();
            prop_assert_eq!(keys, (0..sizes.len()).map(|i| format!("{i:03}")).collect::<Vec<_>>());
        }
    }
}
