//! Frames to and from a runner's process, over its socket.
//!
//! In: what there is to say to the runner, and the socket. Out: what the runner says. Knows no attempt and no deadline of one.
//!
//! Nobody waits for a runner to take a frame: frames are queued, and a task of their own writes them. A runner that takes none is deaf, which
//! whoever owns the process asks for now and then.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};

use crate::runner::protocol::{self, FromRunner, MAX_FRAME_BYTES};

/// Frames that may wait to be taken: more than there are attempts in flight, with a cancel for each.
const WAITING: usize = 256;
/// For how long a runner that is ready may take no byte of what waits for it: a thread of its does nothing but take them.
const DEAF: Duration = Duration::from_secs(10);

/// Says frames to a runner.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: mpsc::Sender<Vec<u8>>,
    /// Since when nothing of what waits was taken; none while nothing waits.
    untaken: Arc<Mutex<Option<Instant>>>,
    overflowed: bool,
}

impl Outbox {
    /// Puts a frame into the queue. One for a process that has died is dropped: the end of its frames is what tells of that.
    pub(super) fn send(&mut self, frame: &impl Serialize) {
        let mut bytes = Vec::new();
        if let Err(error) = protocol::write_frame(&mut bytes, frame) {
            // Then the attempt that it was to begin would wait for ever.
            tracing::error!(%error, "a frame cannot be written");
            self.overflowed = true;
            return;
        }
        match self.queue.try_send(bytes) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => self.overflowed = true,
            Err(mpsc::error::TrySendError::Closed(_)) => tracing::debug!("the runner does not take frames any more"),
        }
    }

    /// Whether the runner, which is ready since `ready`, takes no frames.
    pub(super) fn is_deaf(&self, ready: Instant) -> bool {
        let untaken = *self.untaken.lock().unwrap_or_else(PoisonError::into_inner);
        self.overflowed || untaken.is_some_and(|since| since.max(ready).elapsed() > DEAF)
    }
}

/// Both directions of a socket.
pub(super) fn over(socket: UnixStream) -> (Outbox, mpsc::Receiver<FromRunner>) {
    let (read, write) = socket.into_split();
    // Frames are small and handled at once; the bound keeps a mad runner from filling our memory.
    let (heard, frames) = mpsc::channel(256);
    tokio::spawn(read_frames(read, heard));
    let (queue, waiting) = mpsc::channel(WAITING);
    let untaken = Arc::default();
    tokio::spawn(write_frames(write, waiting, Arc::clone(&untaken)));
    (Outbox { queue, untaken, overflowed: false }, frames)
}

async fn write_frames(mut write: OwnedWriteHalf, mut waiting: mpsc::Receiver<Vec<u8>>, untaken: Arc<Mutex<Option<Instant>>>) {
    let set = |since: Option<Instant>| *untaken.lock().unwrap_or_else(PoisonError::into_inner) = since;
    while let Some(frame) = waiting.recv().await {
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            set(Some(Instant::now()));
            match write.write(rest).await {
                Ok(count @ 1..) => rest = &rest[count..],
                other => return tracing::debug!(?other, "the runner does not take frames any more"),
            }
        }
        set(None);
    }
}

async fn read_frames(mut read: OwnedReadHalf, heard: mpsc::Sender<FromRunner>) {
    loop {
        match read_frame(&mut read).await {
            Ok(Some(frame)) => {
                if heard.send(frame).await.is_err() {
                    return;
                }
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "the runner's frames cannot be read");
                return;
            }
        }
    }
}

async fn read_frame(read: &mut OwnedReadHalf) -> io::Result<Option<FromRunner>> {
    let mut length = [0; 4];
    match read.read_exact(&mut length).await {
        Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => return Ok(None),
        other => other?,
    };
    let length = u32::from_le_bytes(length);
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too large"));
    }
    let mut body = vec![0; length as usize];
    read.read_exact(&mut body).await?;
    Ok(Some(serde_json::from_slice(&body)?))
}
