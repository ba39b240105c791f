//! URL → object store: ordered listing, ranged and pinned reads, puts, presigned URLs.
//!
//! In: [`Uri`]s and keys. Out: bytes, or an [`Error`] that names the object and knows whether trying again can help.
//! Retries, their pace and their budget, how many requests a bucket gets at once, and credentials are settled here; callers see one
//! failure, the last.

mod body;
mod bucket;
mod budget;
mod call;
mod connect;
mod counted;
mod credentials;
mod file;
mod gate;
mod probe;
mod settings;
mod stores;
mod unfinished;
mod upload;
mod walk;
mod wire;

use crate::domain::Uri;

pub use bucket::Bucket;
pub use file::PinnedFile;
pub use probe::{CLOCK_TOLERANCE, Condition, Probe};
pub use settings::{BucketKind, BucketSettings};
pub use stores::{Manners, Options, Stores};
pub use upload::Upload;

/// One object, as listed or headed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Key in the bucket, or absolute path without its leading slash.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// As the store gives it.
    pub etag: Option<String>,
}

/// What can go wrong with an object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such object.
    #[error("{uri} does not exist")]
    NotFound {
        /// Which.
        uri: Uri,
    },
    /// No such bucket.
    #[error("bucket of {uri} does not exist")]
    NoBucket {
        /// Which.
        uri: Uri,
    },
    /// Credentials are missing, wrong or not enough.
    #[error("access to {uri} was refused: {reason}")]
    Denied {
        /// Which.
        uri: Uri,
        /// The store's words, without secrets.
        reason: String,
    },
    /// The object is not the one that was pinned.
    #[error("{uri} changed while the job ran (its etag is no longer {etag})")]
    Changed {
        /// Which.
        uri: Uri,
        /// What was pinned.
        etag: String,
    },
    /// The object could not be read when the job was planned, and can be now: what it holds was never pinned.
    #[error("{uri} could not be read when the job was planned; it can be now, so run a job for it")]
    Unplanned {
        /// Which.
        uri: Uri,
    },
    /// A `file://` location outside the configured roots.
    #[error("{uri} is not below any configured file root; start the service with --file-root for a folder above it")]
    OutsideRoots {
        /// Which.
        uri: Uri,
    },
    /// A key that cannot be addressed: empty or dotted segments, which object stores allow and paths do not.
    #[error("{uri} cannot be addressed: {reason}; rename the object, or leave it out with input.exclude")]
    BadKey {
        /// Which.
        uri: Uri,
        /// What is wrong with it.
        reason: String,
    },
    /// The store lists keys in an order of its own, so that a snapshot of it could not be resumed.
    #[error("the store of {uri} does not list its objects in key order")]
    Unordered {
        /// The first object out of order.
        uri: Uri,
    },
    /// The store did not answer, or asked to slow down.
    #[error("{operation} {uri} failed: {reason}")]
    Unavailable {
        /// `GET`, `PUT`, `LIST` …
        operation: &'static str,
        /// Which.
        uri: Uri,
        /// The store's words, without secrets.
        reason: String,
    },
}

impl Error {
    /// Stable, lower_snake_case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "object_not_found",
            Self::NoBucket { .. } => "bucket_not_found",
            Self::Denied { .. } => "access_denied",
            Self::Changed { .. } | Self::Unplanned { .. } => "input_changed",
            Self::OutsideRoots { .. } => "outside_file_roots",
            Self::BadKey { .. } => "invalid_key",
            Self::Unordered { .. } => "unordered_listing",
            Self::Unavailable { .. } => "store_unavailable",
        }
    }

    /// Whether trying again later can help.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Shorthand for this room.
pub type Result<T, E = Error> = std::result::Result<T, E>;
