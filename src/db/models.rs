//! What the store is told of models by name, and what it tells.

use crate::domain::{Pipeline, Signature, job::PinnedModel, registry::Name};

/// A model to be registered.
#[derive(Debug, Clone)]
pub struct NewVersion {
    /// Under this name.
    pub name: Name,
    /// As it was found.
    pub model: PinnedModel,
    /// All inputs and outputs.
    pub signature: Signature,
    /// As derived without a job's settings.
    pub pipeline: Pipeline,
}

/// What became of [`Store::move_alias`](super::Store::move_alias).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AliasMoved {
    /// It points there.
    Done,
    /// There is no model of this name.
    NoModel,
    /// It has no such version.
    NoVersion {
        /// The highest that it has.
        newest: u64,
    },
}
