//! Writes one object as its bytes come: one put when it is small, a multipart upload when it is not.

use bytes::Bytes;
use object_store::buffered::BufWriter;
use tokio::io::AsyncWriteExt;

use super::{Error, Result, bucket::Bucket};
use crate::domain::Uri;

/// Bytes kept before an upload turns into a multipart one; also the size of its parts.
const PART_BYTES: usize = 16 * 1024 * 1024;

/// An object being written. Nothing is visible before [`Upload::finish`].
#[derive(Debug)]
pub struct Upload {
    writer: BufWriter,
    uri: Uri,
}

impl Upload {
    pub(super) fn new(bucket: &Bucket, key: &str) -> Result<Self> {
        let writer = BufWriter::with_capacity(bucket.store(), bucket.path(key)?, PART_BYTES).with_max_concurrency(2);
        Ok(Self { writer, uri: bucket.uri(key) })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// Those of the store; the upload is of no use then, [`abort`](Self::abort) it.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.writer.put(bytes).await.map_err(|e| super::bucket::translate("PUT", &self.uri, None, e))
    }

    /// Makes the object visible, whole.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn finish(&mut self) -> Result<()> {
        self.writer.shutdown().await.map_err(|e| match e.downcast::<object_store::Error>() {
            Ok(e) => super::bucket::translate("PUT", &self.uri, None, e),
            Err(e) => Error::Unavailable { operation: "PUT", uri: self.uri.clone(), reason: e.to_string() },
        })
    }

    /// Gives up what was sent. Only a multipart upload leaves anything behind, and the store's own clean-up gets what this
    /// does not: hence no error.
    pub async fn abort(&mut self) {
        if let Err(error) = self.writer.abort().await {
            tracing::debug!(%error, uri = %self.uri, "could not abort the upload of {}", self.uri);
        }
    }
}
