//! Tensors → tensors: ONNX Runtime sessions.
//!
//! In: [`Group`](super::featurize::Group)s of rows. Out: the model's outputs for those rows, and error rows for records that the
//! runtime refused: a batch that fails is run again in halves until the failing records stand alone.

mod alone;
mod batches;
mod device;
mod interrupt;
mod providers;
mod session;
#[cfg(test)]
mod tests;
mod trees;
mod values;

pub use alone::Prepared;
pub use batches::{Inferred, Refused};
pub use device::{Device, Room, engines, has_devices, memory_is_limited};
pub use interrupt::Interrupt;
pub use providers::probe;
pub use session::{LoadOptions, ModelFile, Session, init_runtime};

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
