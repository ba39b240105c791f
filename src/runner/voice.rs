//! What a runner says to its supervisor, from any of its threads.

use std::{
    os::unix::net::UnixStream,
    sync::{Arc, Mutex},
};

use super::{
    models::lock,
    process::exit,
    protocol::{FromRunner, write_frame},
};

/// The way to the supervisor; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Voice(Arc<Mutex<UnixStream>>);

impl Voice {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(socket)))
    }

    /// Says it; when this returns it lies with the kernel, and the supervisor will read it even if this process ends at once.
    pub(super) fn say(&self, frame: &FromRunner) {
        if let Err(error) = write_frame(&mut *lock(&self.0), frame) {
            tracing::debug!(%error, "the supervisor is gone");
            exit();
        }
    }
}
