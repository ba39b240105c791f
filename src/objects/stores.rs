//! Opens the store of a location.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use object_store::{BackoffConfig, ClientOptions, RetryConfig, aws::AmazonS3Builder, local::LocalFileSystem};

use super::{
    Error, Result,
    bucket::{Backend, Bucket},
    counted::CountingConnector,
};
use crate::{
    domain::{Scheme, Uri},
    telemetry::tally::Tally,
};

/// How to reach the stores.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Folders that `file://` locations may lie in, absolute.
    pub file_roots: Vec<PathBuf>,
}

/// Opens the store of a location; cheap to clone. S3 settings come from the AWS environment names.
#[derive(Debug, Clone)]
pub struct Stores {
    roots: Arc<Vec<PathBuf>>,
    open: Arc<Mutex<HashMap<(Scheme, String), Backend>>>,
    tally: Tally,
}

impl Stores {
    /// Roots are resolved now, so that a link put in their place later leads nowhere else.
    pub fn new(options: Options) -> Self {
        let roots = options.file_roots.iter().map(|r| std::fs::canonicalize(r).unwrap_or_else(|_| r.clone())).collect();
        Self { roots: Arc::new(roots), open: Arc::default(), tally: Tally::default() }
    }

    /// Counts calls with this tally.
    pub fn counted(self, tally: Tally) -> Self {
        Self { tally, ..self }
    }

    /// The store of this location. Connects to nothing yet.
    ///
    /// # Errors
    /// [`Error::OutsideRoots`]; [`Error::Denied`] when the environment's settings make no client.
    pub fn open(&self, uri: &Uri) -> Result<Bucket> {
        if uri.scheme() == Scheme::File {
            self.check_root(uri)?;
        }
        let key = (uri.scheme(), uri.bucket().to_owned());
        // A poisoned lock still guards a usable map: entries are inserted whole.
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let backend = match open.get(&key) {
            Some(backend) => backend.clone(),
            None => {
                let backend = connect(uri)?;
                open.insert(key, backend.clone());
                backend
            }
        };
        Ok(Bucket::new(backend, uri.with_path(""), self.roots.clone(), self.tally.clone()))
    }

    fn check_root(&self, uri: &Uri) -> Result<()> {
        let path = Path::new("/").join(uri.path());
        match resolve_existing(&path) {
            Some(real) if self.roots.iter().any(|root| real.starts_with(root)) => Ok(()),
            _ => Err(Error::OutsideRoots { uri: uri.clone() }),
        }
    }
}

/// The real path of the longest part of `path` that exists, with the rest appended: links cannot lead out of a root.
pub(super) fn resolve_existing(path: &Path) -> Option<PathBuf> {
    let existing = path.ancestors().find(|a| a.exists())?;
    let rest = path.strip_prefix(existing).ok()?;
    Some(std::fs::canonicalize(existing).ok()?.join(rest))
}

fn connect(uri: &Uri) -> Result<Backend> {
    match uri.scheme() {
        Scheme::File => Ok(Backend::File(Arc::new(LocalFileSystem::new().with_fsync(true)))),
        Scheme::S3 => {
            // The default request timeout includes the body, which for a large object is no measure of health.
            let client = ClientOptions::new()
                .with_timeout_disabled()
                .with_connect_timeout(Duration::from_secs(5))
                .with_read_timeout(Duration::from_secs(30));
            let client = match std::env::var("AWS_ALLOW_HTTP") {
                Ok(value) if matches!(value.as_str(), "1" | "true" | "TRUE") => client.with_allow_http(true),
                _ => client,
            };
            let retry = RetryConfig {
                backoff: BackoffConfig { init_backoff: Duration::from_millis(100), max_backoff: Duration::from_secs(5), base: 2.0 },
                max_retries: 8,
                retry_timeout: Duration::from_secs(60),
            };
            AmazonS3Builder::from_env()
                .with_bucket_name(uri.bucket())
                .with_client_options(client)
                .with_retry(retry)
                .with_http_connector(CountingConnector::default())
                .build()
                .map(|store| Backend::S3(Arc::new(store)))
                .map_err(|e| Error::Denied { uri: uri.clone(), reason: super::bucket::reason(&e) })
        }
    }
}
