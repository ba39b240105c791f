//! Fetches objects that are one record each side by side: one after another, a store's delay would be paid for each.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::runtime::Handle;

use crate::{
    domain::{ObjectSlice, Slice, spec::InputFormat},
    objects::{self, Bucket},
};

/// Largest object that is fetched ahead.
const MOST_BYTES: u64 = 4 << 20;
/// Most bytes fetched ahead at a time, but for a single object.
const RUN_BYTES: u64 = 16 << 20;
/// Most objects fetched ahead at a time.
const RUN_OBJECTS: usize = 64;
/// Objects fetched side by side.
const PARALLEL: usize = 16;

/// Fetches runs of small objects.
#[derive(Debug)]
pub struct Ahead {
    bucket: Bucket,
    handle: Handle,
    bytes_read: Arc<AtomicU64>,
    fetched: VecDeque<Result<Bytes, objects::Error>>,
}

impl Ahead {
    /// Nothing is fetched yet.
    pub fn new(bucket: Bucket, handle: Handle, bytes_read: Arc<AtomicU64>) -> Self {
        Self { bucket, handle, bytes_read, fetched: VecDeque::new() }
    }

    /// The first of `objects`, whole, if it is one that is worth fetching so; those after it are what the next calls are about.
    pub fn take(&mut self, objects: &[ObjectSlice]) -> Option<Result<Bytes, objects::Error>> {
        if self.fetched.is_empty() {
            let run = run(objects);
            let fetches = stream::iter(run).map(|object| {
                let bucket = &self.bucket;
                async move { bucket.read(&object.key, object.etag.as_deref(), 0..object.size).await }
            });
            self.fetched = self.handle.block_on(fetches.buffered(PARALLEL).collect());
            let bytes: usize = self.fetched.iter().flatten().map(Bytes::len).sum();
            self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        self.fetched.pop_front()
    }
}

/// The objects at the start of a list that are worth fetching side by side.
fn run(objects: &[ObjectSlice]) -> &[ObjectSlice] {
    let mut bytes = 0;
    let worth = objects.iter().take(RUN_OBJECTS).take_while(|object| {
        bytes += object.size;
        let one_record = matches!(object.format, InputFormat::Image | InputFormat::Text) && object.slice == Slice::Whole;
        one_record && object.size <= MOST_BYTES && bytes <= RUN_BYTES
    });
    &objects[..worth.count()]
}
