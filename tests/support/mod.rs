//! The harness: a real S3 protocol server, a proxy that misbehaves, the real binary, and readers of what it wrote.
//!
//! Everything listens on loopback ports of its own and lives in temporary folders, so tests run side by side.

#![allow(dead_code, reason = "each test binary uses its part of it")]
#![allow(unreachable_pub, missing_docs, missing_debug_implementations, reason = "a library for the tests alone")]

pub mod azure;
pub mod collector;
pub mod command;
pub mod events;
mod faults;
pub mod gcs;
pub mod golden;
pub mod postgres;
pub mod receiver;
mod s3;
pub mod scrape;
mod service;
pub mod sts;

use std::path::{Path, PathBuf};

pub use faults::{FaultProxy, Faults};
pub use s3::S3Server;
pub use service::{Service, ServiceOptions};

/// Something that speaks S3.
pub trait Endpoint {
    /// `http://127.0.0.1:PORT`.
    fn url(&self) -> String;
}

/// Access key of every test server.
pub const ACCESS_KEY: &str = "TESTACCESSKEY";
/// Its secret.
pub const SECRET_KEY: &str = "test-secret-key-of-the-harness";

/// The seed of a random test, printed so that a failure can be repeated: `NIGHTSHIFT_TEST_SEED=… cargo test …`.
pub fn seed() -> u64 {
    let seed = match std::env::var("NIGHTSHIFT_TEST_SEED") {
        Ok(text) => text.parse().expect("NIGHTSHIFT_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("NIGHTSHIFT_TEST_SEED={seed}");
    seed
}

/// The folder of fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The bytes of a fixture.
pub fn fixture(path: &str) -> Vec<u8> {
    let path = fixtures().join(path);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Files below a folder of fixtures, sorted, relative to the folder of fixtures.
pub fn fixture_files(folder: &str) -> Vec<String> {
    let root = fixtures();
    let files = walkdir::WalkDir::new(root.join(folder)).sort_by_file_name().into_iter();
    let files = files.map(|e| e.expect("a fixture")).filter(|e| e.file_type().is_file());
    files.map(|e| e.path().strip_prefix(&root).expect("below the root").to_str().expect("UTF-8").to_owned()).collect()
}
