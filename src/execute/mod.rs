//! Runs chunks and ends jobs: claim → lease → runner supervision → fenced commit → finalise.
//!
//! In: chunks and jobs that the store hands out under leases. Out: committed results, manifests, final states. Moves no record:
//! the runner does, in a process of its own.
//!
//! Correctness rests on the epochs of leases and on part names that no other attempt uses, never on what this process believes:
//! two executors that run the same chunk do harm to nobody but the electricity bill.

mod commit;
#[cfg(test)]
mod deaf_tests;
mod device_limit;
pub mod earlier;
mod executor;
mod finalize;
mod frames;
mod janitor;
mod lease;
pub mod manifest;
mod meter;
mod runners;
mod sample;
mod supervisor;

pub use executor::{Executor, Options};
pub use finalize::Finalizer;
pub use janitor::Janitor;
pub use runners::Runners;
pub use sample::Sampler;
pub use supervisor::{RunnerOptions, RunnerStatus};
