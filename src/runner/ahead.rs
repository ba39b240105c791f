//! Opens a chunk's objects ahead of the decoder, in their order.
//!
//! A small object costs a round trip whatever its size: many are fetched side by side, each whole with one request, while the decoder is
//! at work on those before. A large one is only made ready: its decoder asks for the ranges that it needs. A picture is needed whole
//! whatever its size, and fetched ahead as well while there is room for it.

use std::{
    io,
    ops::Range,
    sync::{Arc, atomic::Ordering},
    thread,
    vec::IntoIter,
};

use bytes::Bytes;
use futures::{StreamExt, executor::block_on, stream};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use super::{
    attempt::Attempt,
    decode::sniff,
    source::{MemoryObject, ObjectBytes, StoreObject},
    stages::Waits,
};
use crate::{
    domain::{ObjectSlice, Scheme, Slice, spec::InputFormat},
    objects::{self, Bucket, Stores},
};

/// Objects up to this size are fetched whole.
const SMALL_BYTES: u64 = 256 * 1024;
/// Objects fetched side by side, and the most that wait for the decoder beside as many that it is at: 16 MiB in all at most.
const OBJECTS: usize = 32;
/// Pictures up to this size are fetched whole.
const PICTURE_BYTES: u64 = 8 * 1024 * 1024;
/// Room for those that are not small, bytes a chunk. One that finds none is read when its turn comes: waiting for those behind it, which
/// may hold the room until then, would never end.
const ROOM_BYTES: usize = 32 * 1024 * 1024;

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
                let mut opened = inputs.map(|at| block_on(open(&stores, own.as_ref(), &attempt, at, &on, None)));
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
            let room = Arc::new(Semaphore::new(ROOM_BYTES));
            handle.spawn(async move {
                let opened = stream::iter(inputs).map(|at| open(&stores, own.as_ref(), &attempt, at, &on, Some(&room))).buffered(OBJECTS);
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

    /// Objects that are in memory already, each whole.
    pub(super) fn of_memory(objects: impl IntoIterator<Item = Bytes>) -> Self {
        let (_none_will_come, receive) = mpsc::channel(1);
        let opened: Vec<Opened> = objects.into_iter().map(|bytes| Ok(Arc::new(MemoryObject(bytes)) as Arc<dyn ObjectBytes>)).collect();
        Self { receive, ready: opened.into_iter() }
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

async fn open(
    stores: &Stores,
    own: Option<&Bucket>,
    attempt: &Attempt,
    at: usize,
    handle: &Handle,
    room: Option<&Arc<Semaphore>>,
) -> Opened {
    let slice = &attempt.task.inputs[at];
    let bucket = match (&slice.bucket, own) {
        // With its key: of files it is the whole path that must lie below a root.
        (Some(named), _) => stores.open(&named.with_path(&slice.key))?,
        (None, Some(own)) => own.clone(),
        (None, None) => stores.open(&attempt.task.input)?,
    };
    let taken = room.filter(|_| is_picture(slice)).and_then(|room| room.clone().try_acquire_many_owned(slice.size as u32).ok());
    if slice.slice != Slice::Whole || slice.size > SMALL_BYTES && taken.is_none() {
        let (object, handle, bytes_read) = (slice.clone(), handle.clone(), attempt.bytes_read.clone());
        let waits = Waits::of(&attempt.times, &attempt.reading);
        return Ok(Arc::new(StoreObject { bucket, object, handle, bytes_read, waits }));
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
    Ok(match taken {
        Some(taken) => Arc::new(Held { object: MemoryObject(bytes), _taken: taken }),
        None => Arc::new(MemoryObject(bytes)),
    })
}

/// Whether an object is one picture, not small, and not too large to be fetched ahead.
fn is_picture(slice: &ObjectSlice) -> bool {
    let format = if slice.format == InputFormat::Auto { sniff::by_name(&slice.key).0 } else { slice.format };
    format == InputFormat::Image && (SMALL_BYTES + 1..=PICTURE_BYTES).contains(&slice.size)
}

/// An object in memory, and the room that it takes until it is dropped.
struct Held {
    object: MemoryObject,
    _taken: OwnedSemaphorePermit,
}

impl ObjectBytes for Held {
    fn size(&self) -> u64 {
        self.object.size()
    }

    fn read(&self, range: Range<u64>) -> Result<Bytes, objects::Error> {
        self.object.read(range)
    }

    fn stream(&self, range: Range<u64>) -> Result<Box<dyn io::Read + Send>, objects::Error> {
        self.object.stream(range)
    }
}
