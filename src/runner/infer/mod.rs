//! Tensors → tensors: ONNX Runtime sessions.
//!
//! In: [`Group`]s of rows. Out: the model's outputs for those rows, and error rows for records that the runtime refused: a
//! batch that fails is run again in halves until the failing records stand alone.

use std::{path::Path, sync::Arc};

use crate::{
    domain::Signature,
    runner::{featurize::Group, tensor::Value},
};

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Execution providers in order of preference: `cpu`, `cuda`, `tensorrt`. Never falls back beyond the list.
    pub providers: Vec<String>,
    /// Threads inside one operator.
    pub intra_threads: usize,
}

/// What the runtime said no to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model does not load, or a provider cannot be had.
    #[error("{detail}")]
    Load {
        /// `model_load_failed` or `provider_unavailable`.
        code: &'static str,
        /// The runtime's message.
        detail: String,
    },
    /// A run was ended by its [`Interrupt`].
    #[error("the run was interrupted")]
    Interrupted,
    /// The model's output does not have one row a record: `output_rows_mismatch`.
    #[error("{0}")]
    Output(String),
}

/// Ends a run from another thread; stays set.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {}

impl Interrupt {
    /// Ends the present run and every later one of the session.
    pub fn interrupt(&self) {
        todo!()
    }
}

/// A loaded model; runs one batch at a time.
#[derive(Debug)]
pub struct Session {}

/// Outputs for some rows of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Inferred {
    /// Indices into the batch; each output's leading dimension (or sequence) runs over them.
    pub rows: Vec<u32>,
    /// Output name and value, in the signature's order.
    pub outputs: Vec<(String, Value)>,
}

/// A row that the runtime refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Index into the batch.
    pub row: u32,
    /// The runtime's message.
    pub detail: String,
}

/// Loads the runtime library; once a process, before anything else of this room.
///
/// # Errors
/// A sentence that says what was found and what to do.
pub fn init_runtime(_library: &Path) -> Result<String, String> {
    todo!()
}

impl Session {
    /// Loads a model file.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn load(_file: &Path, _signature: &Signature, _options: &LoadOptions) -> Result<Self, Error> {
        todo!()
    }

    /// The provider that took the model.
    pub fn provider(&self) -> &str {
        todo!()
    }

    /// Runs a group in batches of at most `batch_size` records (exactly the model's fixed batch where it has one, the last
    /// one padded and the padding dropped), halving batches that fail. `busy` is told when a batch enters and leaves the runtime.
    ///
    /// # Errors
    /// [`Error::Interrupted`], [`Error::Output`].
    pub fn run(
        &mut self,
        _group: Group,
        _batch_size: usize,
        _interrupt: &Arc<Interrupt>,
        _busy: &mut dyn FnMut(bool),
    ) -> Result<(Vec<Inferred>, Vec<Refused>), Error> {
        todo!()
    }
}
