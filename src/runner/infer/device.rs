//! What a process computes on, and the batches that fit there.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

use rustix::process::Resource;

/// The device of a process, for providers that have devices: the CPU provider has none and takes no notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Device {
    /// Its number among those that the provider sees.
    pub id: u32,
    /// Most memory that the process may take there, bytes.
    pub memory_limit: Option<u64>,
}

impl Device {
    /// The same device for one of so many sessions that share what the process may take.
    pub fn shared_by(self, sessions: usize) -> Self {
        Self { memory_limit: self.memory_limit.map(|bytes| bytes / sessions.max(1) as u64), ..self }
    }

    /// Most memory of one session's arena, which has weights and tensors. A quarter is left for what lies outside of it: the driver's
    /// context and the provider's workspaces, of which nobody says how large they become.
    pub(super) fn arena_limit(self) -> Option<u64> {
        self.memory_limit.map(|bytes| bytes / 4 * 3)
    }
}

/// Whether a provider computes on a device of its own, with memory of its own.
pub fn has_devices(provider: &str) -> bool {
    ["cuda", "tensorrt"].contains(&provider)
}

/// Where a provider keeps what it compiled of the model in this folder: beside it, so that it has the digest in its name, and apart, so
/// that the folder stays what was fetched.
pub fn engines(model_dir: &Path) -> PathBuf {
    model_dir.with_extension("engines")
}

/// Whether this process may have so much memory and no more. The runtime's arena for the CPU then has to be off: it doubles what it
/// holds, and near a limit takes all there is for one request, so that neither smaller batches nor threads have any left.
pub fn memory_is_limited() -> bool {
    rustix::process::getrlimit(Resource::Data).current.is_some()
}

/// Whether the runtime refused a batch for want of memory: by the words of its allocators and of CUDA, for it has no code for it.
pub(crate) fn is_out_of_memory(message: &str) -> bool {
    const WORDS: [&str; 5] = ["failed to allocate memory", "out of memory", "bad_alloc", "bad allocation", "available memory of"];
    let message = message.to_ascii_lowercase();
    WORDS.iter().any(|words| message.contains(words))
}

/// The most records that one call of the runtime has room for, as far as is known; shared by the sessions of one model.
#[derive(Debug)]
pub struct Room(AtomicUsize);

impl Default for Room {
    fn default() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

impl Room {
    /// Records a call, at most; `None` while every batch has had room.
    pub fn known(&self) -> Option<usize> {
        Some(self.0.load(Ordering::Relaxed)).filter(|records| *records < usize::MAX)
    }

    /// So many records had no room together, but all of them had in parts of `fitting` records.
    pub(super) fn learn(&self, refused: usize, fitting: usize) {
        let before = self.0.fetch_min(fitting, Ordering::Relaxed);
        if fitting < before {
            tracing::warn!(
                refused,
                fitting,
                "a batch of {refused} records had no room in memory: from now on this model gets {fitting} at once, at most"
            );
        }
    }

    /// The size to run, of one that is wanted.
    pub(crate) fn fit(&self, wanted: usize) -> usize {
        wanted.min(self.0.load(Ordering::Relaxed)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_runtime_says_for_want_of_memory_is_recognised() {
        for message in [
            "Non-zero status code returned while running Expand node. Name:'' Status Message: /onnxruntime_src/onnxruntime/core/framework/\
             bfc_arena.cc:376 void* onnxruntime::BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 4096",
            "CUDA failure 2: out of memory ; GPU=0 ; hostname=x",
            "Available memory of 1024 is smaller than requested bytes of 4096",
            "std::bad_alloc",
        ] {
            assert!(is_out_of_memory(message), "{message}");
        }
        assert!(!is_out_of_memory("Gather: indices element out of data bounds, idx=9"));
    }

    #[test]
    fn sessions_share_three_quarters_of_what_the_process_may_take() {
        let device = Device { id: 1, memory_limit: Some(8 << 30) };
        assert_eq!((device.shared_by(2).id, device.shared_by(2).arena_limit()), (1, Some(3 << 30)));
        assert_eq!(Device::default().shared_by(2).arena_limit(), None);
    }

    #[test]
    fn room_only_shrinks() {
        let room = Room::default();
        assert_eq!((room.known(), room.fit(1024)), (None, 1024));
        room.learn(64, 16);
        room.learn(64, 32);
        assert_eq!((room.known(), room.fit(1024), room.fit(8)), (Some(16), 16, 8));
    }
}
