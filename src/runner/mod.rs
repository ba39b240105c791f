//! The data plane: a supervised child process that moves all the bytes.
//!
//! In: [`protocol::ToRunner`] frames. Out: [`protocol::FromRunner`] frames, and parts in the bucket.
//! Opens no database connection, knows no lease, no job state and no retry.

pub mod batch;
pub mod decode;
pub mod encode;
pub mod featurize;
pub mod infer;
pub mod interpret;
pub mod protocol;
pub mod source;
pub mod tensor;
