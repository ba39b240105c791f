//! Opens the store of a location.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    Error, Result,
    bucket::{Backend, Bucket},
    budget::Budget,
    call::Account,
    connect::connect,
    settings::BucketSettings,
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
    /// Settings of single buckets, by name; all others are reached by the environment's settings.
    pub buckets: BTreeMap<String, BucketSettings>,
    /// What stores may be asked to bear.
    pub manners: Manners,
}

/// What stores may be asked to bear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manners {
    /// How long a store may be silent, before an answer or within one, until the request is sent again.
    pub timeout: Duration,
    /// Most requests at once to one bucket, from one process.
    pub requests: usize,
}

impl Default for Manners {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(30), requests: 128 }
    }
}

/// Opens the store of a location; cheap to clone.
#[derive(Debug, Clone)]
pub struct Stores {
    roots: Arc<Vec<PathBuf>>,
    open: Arc<Mutex<HashMap<(Scheme, String), Backend>>>,
    manners: Manners,
    account: Account,
}

impl Stores {
    /// Roots are resolved now, so that a link put in their place later leads nowhere else; and the stores that have settings of their
    /// own are opened now, so that a variable or a file that is missing is told at start.
    ///
    /// # Errors
    /// One sentence that names the bucket and what is wrong with its settings.
    pub fn new(options: Options) -> std::result::Result<Self, String> {
        let roots = options.file_roots.iter().map(|r| std::fs::canonicalize(r).unwrap_or_else(|_| r.clone())).collect();
        let mut open = HashMap::new();
        for (name, settings) in &options.buckets {
            let told = |why: String| format!("[buckets.{name}]: {why}");
            let uri = Uri::parse(&format!("{}://{name}/", settings.kind.name())).map_err(|e| told(e.to_string()))?;
            open.insert((uri.scheme(), name.clone()), connect(&uri, Some(settings), options.manners).map_err(told)?);
        }
        let (manners, account) = (options.manners, Account::default());
        Ok(Self { roots: Arc::new(roots), open: Arc::new(Mutex::new(open)), manners, account })
    }

    /// Counts calls with this tally.
    pub fn counted(self, tally: Tally) -> Self {
        Self { account: Account { tally, ..self.account }, ..self }
    }

    /// The same stores for one piece of work, whose retries have one budget: once most of its requests fail, it fails, as
    /// [retryable](Error::retryable).
    pub fn budgeted(&self) -> Self {
        Self { account: Account { budget: Some(Budget::new()), ..self.account.clone() }, ..self.clone() }
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
                let backend = connect(uri, None, self.manners).map_err(|reason| Error::Denied { uri: uri.clone(), reason })?;
                open.insert(key, backend.clone());
                backend
            }
        };
        Ok(Bucket::new(backend, uri.with_path(""), self.roots.clone(), self.account.clone()))
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
