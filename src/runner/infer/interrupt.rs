//! Ends runs from another thread.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use ort::session::RunOptions;

/// Ends the runs of one attempt, those under way and all later ones; stays set.
#[derive(Default)]
pub struct Interrupt {
    set: AtomicBool,
    running: Mutex<Vec<Arc<RunOptions>>>,
}

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interrupt").field("set", &self.set).finish_non_exhaustive()
    }
}

impl Interrupt {
    /// Ends every run that goes on under this interrupt, and lets no other begin.
    pub fn interrupt(&self) {
        self.set.store(true, Ordering::SeqCst);
        for options in self.running.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Err(error) = options.terminate() {
                tracing::warn!(%error, "the runtime cannot be interrupted");
            }
        }
    }

    /// Whether it was set.
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::SeqCst)
    }

    /// Registers a run: whoever interrupts from now on finds it. Asking [`is_set`](Self::is_set) comes after this.
    pub(super) fn enter(&self, options: Arc<RunOptions>) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).push(options);
    }

    pub(super) fn leave(&self, options: &Arc<RunOptions>) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).retain(|o| !Arc::ptr_eq(o, options));
    }
}
