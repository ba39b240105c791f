//! Opens a chunk's objects ahead of the decoder, in their order.
//!
//! A small object costs a round trip whatever its size: many are fetched side by side, each whole with one request, while the decoder is
//! at work on those before. A large one is only made ready: its decoder asks for the ranges that it needs.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    vec::IntoIter,
};

use bytes::Bytes;
use futures::{StreamExt, executor::block_on, stream};
use tokio::{runtime::Handle, sync::mpsc};

use super::{
    attempt::Attempt,
    source::{MemoryObject, ObjectBytes, StoreObject},
};
use crate::{
    domain::{Scheme, Slice},
    objects::{self, Bucket, Stores},
};

/// Objects up to this size are fetched whole.
const SMALL_BYTES: u64 = 256 * 1024;
/// Objects fetched side by side, and the most that wait for the decoder beside as many that it is at: 16 MiB in all at most.
const OBJECTS: usize = 32;

/// An object ready to be decoded, or why it is not.
type Opened = Result<Arc<dyn ObjectBytes>, objects::Error>;

/// The objects of a chunk as they are opened.
pub(super) struct Ahead {
    receive: mpsc::Receiver<Vec<Opened>>,
    ready: IntoIter<Opened>,
}

impl Ahead {
    /// Begins to open the inputs of `attempt`. Ends early when this is dropped.
    pub(super) fn start(stores: &Stores, attempt: &Arc<Attempt>, handle: &Handle) -> Self {
        let (send, receive) = mpsc::channel(1);
        let (stores, attempt, on) = (stores.clone(), attempt.clone(), handle.clone());
        let inputs = 0..attempt.task.inputs.len();
        // Opened once: for files that is a check of the whole path.
        let own = stores.open(&attempt.task.input).ok();
        let files = attempt.task.inputs.iter().all(|slice| slice.bucket.as_ref().unwrap_or(&attempt.task.input).scheme() == Scheme::File);
        if files {
            // A file costs no round trip: one after the other, on a thread that is not the runtime's, is quicker than side by side.
            let read = move || {
                let mut opened = inputs.map(|at| block_on(open(&stores, own.as_ref(), &attempt, at, &on)));
                loop {
                    let bunch: Vec<Opened> = opened.by_ref().take(OBJECTS).collect();
                    if bunch.is_empty() || send.blocking_send(bunch).is_err() {
                        return;
                    }
                }
            };
            if let Err(error) = thread::Builder::new().name("ahead".to_owned()).spawn(read) {
                tracing::error!(%error, "no thread to read files ahead");
            }
        } else {
            handle.spawn(async move {
                let opened = stream::iter(inputs).map(|at| open(&stores, own.as_ref(), &attempt, at, &on)).buffered(OBJECTS);
                // Handed over in bunches: waking the decoder costs more than decoding a tiny object.
                let mut bunches = opened.ready_chunks(OBJECTS);
                while let Some(bunch) = bunches.next().await {
                    if send.send(bunch).await.is_err() {
                        return;
                    }
                }
            });
        }
        Self { receive, ready: Vec::new().into_iter() }
    }

    /// The next object; `None` when the task that opens them is gone.
    pub(super) fn next(&mut self) -> Option<Opened> {
        loop {
            if let Some(next) = self.ready.next() {
                return Some(next);
            }
            self.ready = self.receive.blocking_recv()?.into_iter();
        }
    }
}

async fn open(stores: &Stores, own: Option<&Bucket>, attempt: &Attempt, at: usize, handle: &Handle) -> Opened {
    let slice = &attempt.task.inputs[at];
    let bucket = match (&slice.bucket, own) {
        // With its key: of files it is the whole path that must lie below a root.
        (Some(named), _) => stores.open(&named.with_path(&slice.key))?,
        (None, Some(own)) => own.clone(),
        (None, None) => stores.open(&attempt.task.input)?,
    };
    if slice.slice != Slice::Whole || slice.size > SMALL_BYTES {
        let (object, handle, bytes_read) = (slice.clone(), handle.clone(), attempt.bytes_read.clone());
        return Ok(Arc::new(StoreObject { bucket, object, handle, bytes_read }));
    }
    if slice.is_unknown() {
        // Either the store says what is wrong with it, or it has come since, and what it holds was never pinned.
        bucket.head(&slice.key).await?;
        return Err(objects::Error::Unplanned { uri: bucket.uri(&slice.key) });
    }
    let bytes = match slice.size {
        0 => Bytes::new(),
        size => bucket.read_whole(&slice.key, slice.etag.as_deref(), size).await?,
    };
    attempt.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    Ok(Arc::new(MemoryObject(bytes)))
}
