//! The data plane: a supervised child process that moves all the bytes.
//!
//! In: [`protocol::ToRunner`] frames. Out: [`protocol::FromRunner`] frames, and parts in the bucket.
//! Opens no database connection, knows no lease, no job state and no retry.
//!
//! Threads, and the capacity of what joins them, for one chunk in flight:
//!
//! ```text
//! source task ─64 blocks→ reader (decode, pack) ─permits: 2 × workers + 2 batches→ workers, one session each
//!                                                      ↑                     (featurize, infer, interpret)
//!                                                      └── permits ── writer (input order, encode, put) ←┘
//! ```
//!
//! A permit is taken before a batch enters and given back when its rows are encoded, so memory is bounded by the batches in
//! flight whatever the size of the input.

pub mod batch;
pub mod decode;
pub mod encode;
pub mod featurize;
pub mod infer;
pub mod interpret;
pub mod limits;
pub mod protocol;
pub mod source;
pub mod tensor;

mod ahead;
mod attempt;
mod device_memory;
mod direct;
mod engine;
mod isolate;
mod lanes;
mod models;
mod occupancy;
mod pack;
mod pictures;
mod process;
mod reader;
mod review;
mod sample;
mod sessions;
mod sketch;
mod stages;
mod summarize;
mod table;
mod tune;
mod voice;
mod worker;
mod writer;

pub(crate) use direct::{INFERENCE_FAILED, INVALID_TENSOR};
pub use process::{Options, run};
pub(crate) use reader::{MAX_MEDIA_BYTES, MAX_RECORD_BYTES};
pub use stages::Waits;
