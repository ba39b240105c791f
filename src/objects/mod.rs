//! URL → object store: ordered listing, ranged and pinned reads, puts, presigned URLs.
//!
//! In: [`Uri`]s and keys. Out: bytes, or an [`Error`] that names the object and knows whether trying again can help.
//! Retries and credentials are settled here; callers see one failure, the last.

use std::ops::Range;

use bytes::Bytes;
use futures::stream::BoxStream;

use crate::domain::Uri;

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
    /// A `file://` location outside the configured roots.
    #[error("{uri} is not below any configured file root; start the service with --file-root for a folder above it")]
    OutsideRoots {
        /// Which.
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
            Self::Changed { .. } => "input_changed",
            Self::OutsideRoots { .. } => "outside_file_roots",
            Self::Unavailable { .. } => "store_unavailable",
        }
    }

    /// Whether trying again later can help.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Shorthand for this room.
pub type Result<T> = std::result::Result<T, Error>;

/// How to reach the stores.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Folders that `file://` locations may lie in, absolute.
    pub file_roots: Vec<std::path::PathBuf>,
}

/// Opens the store of a location; cheap to clone.
#[derive(Debug, Clone)]
pub struct Stores {}

/// One bucket (or the file system below the roots); cheap to clone.
#[derive(Debug, Clone)]
pub struct Bucket {}

impl Stores {
    /// Reads credentials and endpoints from the AWS environment names.
    pub fn new(_options: Options) -> Self {
        todo!()
    }

    /// The store of this location. Connects to nothing yet.
    ///
    /// # Errors
    /// [`Error::OutsideRoots`]; [`Error::Denied`] when the environment's settings make no client.
    pub fn open(&self, _uri: &Uri) -> Result<Bucket> {
        todo!()
    }
}

impl Bucket {
    /// Size and etag of one object.
    pub async fn head(&self, _key: &str) -> Result<ObjectMeta> {
        todo!()
    }

    /// Objects below `prefix` in key order, from the first after `after` on; empty "folder" objects left out.
    pub fn list(&self, _prefix: &str, _after: Option<&str>) -> BoxStream<'static, Result<ObjectMeta>> {
        todo!()
    }

    /// Exactly this range. With `etag`, [`Error::Changed`] when the object is not that one any more.
    pub async fn read(&self, _key: &str, _etag: Option<&str>, _range: Range<u64>) -> Result<Bytes> {
        todo!()
    }

    /// The same as a stream.
    pub async fn stream(&self, _key: &str, _etag: Option<&str>, _range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>> {
        todo!()
    }

    /// Writes one object whole.
    pub async fn put(&self, _key: &str, _bytes: Bytes) -> Result<()> {
        todo!()
    }

    /// Deletes one object; no error when it is not there.
    pub async fn delete(&self, _key: &str) -> Result<()> {
        todo!()
    }

    /// A URL that reads the object for `ttl` without credentials, where the store can make one (S3 can, files cannot).
    pub async fn presign(&self, _key: &str, _ttl: std::time::Duration) -> Result<Option<url::Url>> {
        todo!()
    }
}
