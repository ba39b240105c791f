//! What a store really does: tried out below a prefix, under a name of its own.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{GetOptions, ObjectStoreExt, PutMode, PutOptions};

use super::{
    Bucket, Result,
    bucket::{reason, translate},
};

/// What a store makes of a conditional request whose condition does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It refuses the request for its condition, as it should.
    Honoured,
    /// It does as if there were none.
    Ignored,
    /// It refuses conditional requests, in these words.
    Refused(String),
}

/// What came of trying.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Listing the prefix.
    pub list: Result<(), String>,
    /// Putting an object there.
    pub put: Result<(), String>,
    /// Reading it back as it was put, once it is.
    pub get: Option<Result<(), String>>,
    /// Deleting it, once it is there.
    pub delete: Option<Result<(), String>>,
    /// `PUT` with `If-None-Match: *` on an object that exists.
    pub create_only: Option<Condition>,
    /// `GET` with `If-Match` and an etag that is another.
    pub pinned_read: Option<Condition>,
    /// The store's clock against ours, seconds; positive when it is ahead. To the second, as stores keep times.
    pub clock: Option<f64>,
}

const BODY: &[u8] = b"nightshift doctor was here\n";

impl Bucket {
    /// Lists, puts, reads and deletes below `prefix` (ending in `/`, or empty), and sends conditional requests whose conditions do not hold.
    /// The object is deleted at the end, whatever came of it.
    ///
    /// # Errors
    /// For files, [`Error::OutsideRoots`](super::Error::OutsideRoots). What the store refuses is in the answer.
    pub async fn probe(&self, prefix: &str) -> Result<Probe> {
        let key = format!("{prefix}nightshift-doctor-{}", uuid::Uuid::new_v4().simple());
        let path = self.path(&key)?;
        let store = self.store();
        let uri = self.uri(&key);
        let words = |operation, e| translate(operation, &uri, None, e).to_string();

        let list = self.list(prefix, None).try_next().await.map(|_| ()).map_err(|e| e.to_string());
        let before = jiff::Timestamp::now();
        let put = store.put(&path, Bytes::from_static(BODY).into()).await.map(|_| ()).map_err(|e| words("PUT", e));
        let mut probe = Probe { list, get: None, delete: None, put, create_only: None, pinned_read: None, clock: None };
        if probe.put.is_err() {
            return Ok(probe);
        }
        let after = jiff::Timestamp::now();
        probe.get = Some(match self.read_all(&key).await {
            Ok(bytes) if bytes == BODY => Ok(()),
            Ok(bytes) => Err(format!("{} bytes were put and {} others came back", BODY.len(), bytes.len())),
            Err(error) => Err(error.to_string()),
        });
        if let Ok(meta) = store.head(&path).await {
            let written = meta.last_modified.timestamp_millis() as f64 / 1000.0;
            let middle = (before.as_millisecond() + after.as_millisecond()) as f64 / 2000.0;
            probe.clock = Some(written - middle);
        }
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        probe.create_only = Some(match store.put_opts(&path, Bytes::from_static(BODY).into(), create).await {
            Ok(_) => Condition::Ignored,
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => Condition::Honoured,
            Err(error) => Condition::Refused(reason(&error)),
        });
        let another = GetOptions { if_match: Some("\"0123456789abcdef0123456789abcdef\"".to_owned()), ..GetOptions::default() };
        probe.pinned_read = Some(match store.get_opts(&path, another).await {
            Ok(_) => Condition::Ignored,
            Err(object_store::Error::Precondition { .. }) => Condition::Honoured,
            Err(error) => Condition::Refused(reason(&error)),
        });
        probe.delete = Some(store.delete(&path).await.map_err(|e| words("DELETE", e)));
        Ok(probe)
    }
}

/// How far clocks may be apart before it is worth a word: signatures are refused at fifteen minutes.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);
