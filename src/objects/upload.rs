//! Writes one object as its bytes come: one put when it is small, a multipart upload when it is not.

use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload, path::Path};
use tokio::task::JoinSet;

use super::{
    Error, Result,
    bucket::{Bucket, translate},
};

/// Bytes kept before an upload turns into a multipart one; also the size of its pieces, which is the same for all but the last: some
/// stores insist on that.
const PIECE_BYTES: usize = 16 * 1024 * 1024;
/// Pieces sent side by side.
const SIDE_BY_SIDE: usize = 2;

/// An object being written. Nothing is visible before [`Upload::finish`].
#[derive(Debug)]
pub struct Upload {
    bucket: Bucket,
    key: String,
    path: Path,
    /// What was not sent yet, and how much that is.
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    sent_bytes: u64,
    pieces: Option<Pieces>,
}

/// A multipart upload that has begun.
#[derive(Debug)]
struct Pieces {
    upload: Box<dyn MultipartUpload>,
    sending: JoinSet<object_store::Result<()>>,
}

impl Upload {
    pub(super) fn new(bucket: &Bucket, key: &str) -> Result<Self> {
        let path = bucket.path(key)?;
        let (bucket, key) = (bucket.clone(), key.to_owned());
        Ok(Self { bucket, key, path, waiting: Vec::new(), waiting_bytes: 0, sent_bytes: 0, pieces: None })
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// Those of the store; the upload is of no use then, [`abort`](Self::abort) it.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        while self.waiting_bytes + bytes.len() >= PIECE_BYTES {
            let rest = bytes.split_off(PIECE_BYTES - self.waiting_bytes);
            self.keep(bytes);
            self.send().await?;
            bytes = rest;
        }
        self.keep(bytes);
        Ok(())
    }

    /// Makes the object visible, whole.
    ///
    /// # Errors
    /// Those of the store; [`abort`](Self::abort) it then.
    pub async fn finish(&mut self) -> Result<()> {
        if self.pieces.is_none() {
            let payload = self.take();
            return match self.bucket.store().put(&self.path, payload).await {
                Ok(_) => Ok(()),
                Err(error) => Err(self.failed(error)),
            };
        }
        if self.waiting_bytes > 0 {
            self.send().await?;
        }
        self.settle(0).await?;
        let completed = match &mut self.pieces {
            Some(pieces) => pieces.upload.complete().await,
            None => return Ok(()),
        };
        match completed {
            Ok(_) => self.pieces = None,
            Err(error) => self.look(error).await?,
        }
        Ok(())
    }

    /// Gives up what was sent. Only a multipart upload leaves anything behind, and what this does not get is removed when the job is
    /// finalised: hence no error.
    pub async fn abort(&mut self) {
        self.waiting = Vec::new();
        let Some(mut pieces) = self.pieces.take() else { return };
        pieces.sending.shutdown().await;
        if let Err(error) = pieces.upload.abort().await {
            let uri = self.bucket.uri(&self.key);
            tracing::debug!(%error, %uri, "could not abort the upload of {uri}");
        }
    }

    fn keep(&mut self, bytes: Bytes) {
        self.waiting_bytes += bytes.len();
        self.waiting.push(bytes);
    }

    fn take(&mut self) -> PutPayload {
        self.sent_bytes += self.waiting_bytes as u64;
        self.waiting_bytes = 0;
        std::mem::take(&mut self.waiting).into_iter().collect()
    }

    /// Begins to send what waits as a piece, once there is room for it.
    async fn send(&mut self) -> Result<()> {
        if self.pieces.is_none() {
            let upload = self.bucket.store().put_multipart(&self.path).await.map_err(|e| self.failed(e))?;
            self.pieces = Some(Pieces { upload, sending: JoinSet::new() });
        }
        self.settle(SIDE_BY_SIDE - 1).await?;
        let payload = self.take();
        if let Some(pieces) = &mut self.pieces {
            let piece = pieces.upload.put_part(payload);
            pieces.sending.spawn(piece);
        }
        Ok(())
    }

    /// Waits until no more than this many pieces are on their way.
    async fn settle(&mut self, most: usize) -> Result<()> {
        let Some(pieces) = &mut self.pieces else { return Ok(()) };
        while pieces.sending.len() > most {
            let sent = match pieces.sending.join_next().await {
                None | Some(Ok(Ok(()))) => continue,
                Some(Ok(Err(error))) => Err(error),
                Some(Err(join)) => Err(object_store::Error::JoinError { source: join }),
            };
            return sent.map_err(|error| self.failed(error));
        }
        Ok(())
    }

    /// The store may have completed the upload although the answer did not come. Asked again, it may not know the upload any more, and
    /// servers say that in different ways: what lies under the name decides. That name is this attempt's alone; or what else lay there before has been
    /// removed, or was put by this very step when it was run before.
    async fn look(&mut self, error: object_store::Error) -> Result<()> {
        let error = self.failed(error);
        match self.bucket.head(&self.key).await {
            Ok(object) if object.size == self.sent_bytes => {
                tracing::info!(
                    error = &error as &dyn std::error::Error,
                    "{} is complete, although its store did not say so",
                    self.bucket.uri(&self.key)
                );
                self.pieces = None;
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// What is being written cannot be missing: an upload that the store does not know, or not any more, can be begun anew.
    fn failed(&self, error: object_store::Error) -> Error {
        match translate("PUT", &self.bucket.uri(&self.key), None, error) {
            Error::NotFound { uri } => {
                Error::Unavailable { operation: "PUT", uri, reason: "the store does not know the upload (any more)".to_owned() }
            }
            other => other,
        }
    }
}
