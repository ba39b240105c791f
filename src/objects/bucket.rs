//! One bucket, or the file system below the configured roots.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{GetOptions, GetResult, ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path as StorePath, signer::Signer};

use super::{
    Error, ObjectMeta, Result, Upload, body,
    call::{Account, Call},
    counted::Counted,
    file::PinnedFile,
    stores::resolve_existing,
    unfinished::Uploads,
    walk,
};
use crate::{
    domain::{Scheme, Uri},
    telemetry::tally::{Operation, RetryReason},
};

/// Objects whose size and etag are asked for side by side, where listing does not give them.
const HEADS: usize = 16;
/// Files looked at before they are handed on together.
const FILES: usize = 256;

/// S3 copies objects up to 5 GB in one request.
const MOST_COPIED: u64 = 5_000_000_000;
/// How long one signature may take: where the service has no key of its own, another service is asked for it.
const SIGN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long nothing is signed after a failure: an identity that may not sign is not asked object by object.
const SIGN_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(super) enum Backend {
    Remote(Remote),
    File(Arc<LocalFileSystem>),
}

/// A bucket behind a network.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    store: Arc<dyn ObjectStore>,
    signer: Arc<dyn Signer>,
    /// Where those that are not finished can be listed.
    uploads: Option<Arc<Uploads>>,
    /// When signing last failed.
    unsigned: Arc<Mutex<Option<Instant>>>,
}

impl Remote {
    pub(super) fn new(store: impl ObjectStore + Signer) -> Self {
        let store = Arc::new(store);
        Self { store: store.clone(), signer: store, uploads: None, unsigned: Arc::default() }
    }

    pub(super) fn with_uploads(self, uploads: Arc<Uploads>) -> Self {
        Self { uploads: Some(uploads), ..self }
    }
}

/// One bucket (or the file system below the roots); cheap to clone.
#[derive(Debug, Clone)]
pub struct Bucket {
    backend: Backend,
    /// The bucket with an empty key: what errors name.
    base: Uri,
    roots: Arc<Vec<PathBuf>>,
    account: Account,
}

impl Bucket {
    pub(super) fn new(backend: Backend, base: Uri, roots: Arc<Vec<PathBuf>>, account: Account) -> Self {
        Self { backend, base, roots, account }
    }

    pub(super) fn store(&self) -> Arc<dyn ObjectStore> {
        let store: Arc<dyn ObjectStore> = match &self.backend {
            Backend::Remote(remote) => remote.store.clone(),
            Backend::File(store) => store.clone(),
        };
        Arc::new(Counted::new(store, self.account.clone()))
    }

    /// The location of a key of this bucket.
    pub fn uri(&self, key: &str) -> Uri {
        self.base.with_path(key)
    }

    /// The store's form of a key. For files also the check that no link leads out of the roots.
    pub(super) fn path(&self, key: &str) -> Result<StorePath> {
        if matches!(self.backend, Backend::File(_)) {
            let real = resolve_existing(&Path::new("/").join(key));
            if !real.is_some_and(|real| self.roots.iter().any(|root| real.starts_with(root))) {
                return Err(Error::OutsideRoots { uri: self.uri(key) });
            }
        }
        StorePath::parse(key).map_err(|e| Error::BadKey { uri: self.uri(key), reason: e.to_string() })
    }

    /// Size and etag of one object.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn head(&self, key: &str) -> Result<ObjectMeta> {
        let path = self.path(key)?;
        let meta = self.store().head(&path).await.map_err(|e| translate("HEAD", &self.uri(key), None, e))?;
        Ok(ObjectMeta { key: key.to_owned(), size: meta.size, etag: meta.e_tag })
    }

    /// Objects below `prefix` (ending in `/`, or empty) in key order, from the first after `after` on. Empty objects that stand
    /// for folders (`…/`) are left out.
    ///
    /// The stream ends after its first error.
    pub fn list(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<ObjectMeta>> {
        let listed = match &self.backend {
            Backend::Remote(_) => self.list_remote(prefix, after),
            Backend::File(store) => self.list_files(store.clone(), prefix, after),
        };
        let bucket = self.clone();
        let start: Option<String> = after.map(str::to_owned);
        let mut last = start.clone();
        let mut passed = after.is_none();
        listed
            // Not every server knows how to begin a listing in its middle: then what was listed before comes first.
            .filter(move |object| {
                passed = passed || object.as_ref().map_or(true, |object| start.as_ref().is_none_or(|start| object.key > *start));
                futures::future::ready(passed)
            })
            .map(move |object| {
                let object = object?;
                if last.as_ref().is_some_and(|last| *last >= object.key) {
                    return Err(Error::Unordered { uri: bucket.uri(&object.key) });
                }
                last = Some(object.key.clone());
                Ok(object)
            })
            .scan(false, |failed, object| {
                let go_on = !*failed;
                *failed = object.is_err();
                futures::future::ready(go_on.then_some(object))
            })
            .boxed()
    }

    fn list_remote(&self, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<ObjectMeta>> {
        let trimmed = prefix.trim_end_matches('/');
        let parsed = (!trimmed.is_empty()).then(|| StorePath::parse(trimmed)).transpose();
        let uri = self.uri(prefix);
        let prefix = match parsed {
            Ok(path) => path,
            Err(e) => return stream::once(async move { Err(Error::BadKey { uri, reason: e.to_string() }) }).boxed(),
        };
        let store = self.store();
        let listed = match after.map(StorePath::parse).transpose() {
            Ok(Some(offset)) => store.list_with_offset(prefix.as_ref(), &offset),
            Ok(None) => store.list(prefix.as_ref()),
            Err(e) => return stream::once(async move { Err(Error::BadKey { uri, reason: e.to_string() }) }).boxed(),
        };
        let bucket = self.clone();
        listed
            .map_ok(|meta| ObjectMeta { key: meta.location.to_string(), size: meta.size, etag: meta.e_tag.map(quoted) })
            .map_err(move |e| translate("LIST", &uri, None, e))
            .map(move |object| {
                let bucket = bucket.clone();
                async move {
                    match object {
                        // A server that lists no etags is asked object by object: without one, a change could not be told.
                        Ok(object) if object.etag.is_none() => match bucket.head(&object.key).await {
                            Err(Error::NotFound { .. }) => Ok(object),
                            other => other,
                        },
                        other => other,
                    }
                }
            })
            .buffered(HEADS)
            .boxed()
    }

    /// Walks on a thread of its own, a few hundred files ahead of the reader. Off the async runtime, so that the store looks at each file
    /// where it is asked: handing every one of very many small files from thread to thread costs more than all the rest.
    fn list_files(&self, store: Arc<LocalFileSystem>, prefix: &str, after: Option<&str>) -> BoxStream<'static, Result<ObjectMeta>> {
        let folder = Path::new("/").join(prefix);
        let after = after.map(|a| Path::new("/").join(a));
        let (send, receive) = tokio::sync::mpsc::channel(1);
        let bucket = self.clone();
        let uri = self.uri(prefix);
        if !folder.exists() {
            // As in a bucket, a prefix that holds nothing is an empty list and no error.
            return stream::empty().boxed();
        }
        let walk = move || {
            let mut files = walk::files(&folder, after.as_deref()).map(|file| bucket.look_at(&store, file));
            loop {
                let page: Vec<Result<ObjectMeta>> = files.by_ref().take(FILES).collect();
                if page.is_empty() || send.blocking_send(page).is_err() {
                    return;
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("list".to_owned()).spawn(walk) {
            let error = Error::Unavailable { operation: "LIST", uri, reason: error.to_string() };
            return stream::once(async move { Err(error) }).boxed();
        }
        let pages = stream::unfold(receive, |mut receive| async move { receive.recv().await.map(|page| (page, receive)) });
        pages.flat_map(stream::iter).boxed()
    }

    fn look_at(&self, store: &LocalFileSystem, file: walkdir::Result<PathBuf>) -> Result<ObjectMeta> {
        let path = file.map_err(|e| Error::Unavailable { operation: "LIST", uri: self.base.clone(), reason: e.to_string() })?;
        let Some(key) = path.to_str().map(|path| path.trim_start_matches('/').to_owned()) else {
            return Err(Error::BadKey { uri: self.base.clone(), reason: format!("{} is not UTF-8", path.display()) });
        };
        let path = StorePath::parse(&key).map_err(|e| Error::BadKey { uri: self.uri(&key), reason: e.to_string() })?;
        let meta = futures::executor::block_on(store.head(&path)).map_err(|e| translate("HEAD", &self.uri(&key), None, e))?;
        Ok(ObjectMeta { key, size: meta.size, etag: meta.e_tag })
    }

    /// Exactly this range. With `etag`, [`Error::Changed`] when the object is not that one any more.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn read(&self, key: &str, etag: Option<&str>, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let got = self.get(key, etag, Some(range.clone())).await?;
        body::whole(self, key, etag, range, got).await
    }

    /// The same as a stream; exactly as many bytes as the range is long, or an error.
    ///
    /// # Errors
    /// [`Error`], also from the stream itself.
    pub async fn stream(&self, key: &str, etag: Option<&str>, range: Range<u64>) -> Result<BoxStream<'static, Result<Bytes>>> {
        if range.is_empty() {
            return Ok(stream::empty().boxed());
        }
        let got = self.get(key, etag, Some(range.clone())).await?;
        Ok(body::blocks(self, key, etag, range, got))
    }

    /// All of a small object in one request: it is `size` bytes long and has this etag, or it is [`Error::Changed`].
    ///
    /// # Errors
    /// [`Error`].
    pub async fn read_whole(&self, key: &str, etag: Option<&str>, size: u64) -> Result<Bytes> {
        if matches!(self.backend, Backend::File(_)) {
            let (bucket, owned, etag) = (self.clone(), key.to_owned(), etag.map(str::to_owned));
            let read = move || {
                let file = bucket.pinned_file(&owned, etag.as_deref()).filter(|file| file.size() == size)?;
                file.read(0..size).ok()
            };
            // Whoever is not on the runtime's threads may wait for a file where it is.
            let read = match tokio::runtime::Handle::try_current() {
                Ok(_) => tokio::task::spawn_blocking(read).await.ok().flatten(),
                Err(_) => read(),
            };
            if let Some(bytes) = read {
                return Ok(bytes);
            }
        }
        let got = self.get(key, etag, None).await?;
        // Looked at before the body: an object that grew must not fill the memory.
        if got.meta.size != size {
            return Err(Error::Changed { uri: self.uri(key), etag: etag.unwrap_or("the one planned").to_owned() });
        }
        body::whole(self, key, etag, 0..size, got).await
    }

    /// The object as a file, where it is one and as it was pinned; of all else the store has to say what it is. Opening and reading it wait: not
    /// for the runtime's own threads.
    pub fn pinned_file(&self, key: &str, etag: Option<&str>) -> Option<PinnedFile> {
        let (Backend::File(_), Some(etag)) = (&self.backend, etag) else { return None };
        self.path(key).ok()?;
        let file = std::fs::File::open(Path::new("/").join(key)).ok()?;
        PinnedFile::new(file, self.uri(key), etag)
    }

    /// All of it, whatever its etag.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn read_all(&self, key: &str) -> Result<Bytes> {
        let got = self.get(key, None, None).await?;
        let size = got.meta.size;
        body::whole(self, key, None, 0..size, got).await
    }

    /// For the rest of a body that broke off, for the `failures`th time in a row: a retry like any other.
    pub(super) async fn get_again(&self, key: &str, etag: Option<&str>, range: Range<u64>, failures: u32) -> Result<GetResult> {
        let call = Call::new(Operation::Get, self.account.clone());
        (0..failures).for_each(|_| call.fail(RetryReason::Interrupted));
        call.pace().await.map_err(|e| Error::Unavailable { operation: "GET", uri: self.uri(key), reason: e.to_string() })?;
        self.get(key, etag, Some(range)).await
    }

    /// Not every server honours If-Match, so the answer's own etag is compared as well.
    async fn get(&self, key: &str, etag: Option<&str>, range: Option<Range<u64>>) -> Result<GetResult> {
        let path = self.path(key)?;
        let options = GetOptions { if_match: etag.map(str::to_owned), range: range.map(Into::into), ..GetOptions::default() };
        let got = self.store().get_opts(&path, options).await.map_err(|e| translate("GET", &self.uri(key), etag, e))?;
        match (etag, &got.meta.e_tag) {
            (Some(pinned), Some(found)) if pinned != found => Err(Error::Changed { uri: self.uri(key), etag: pinned.to_owned() }),
            _ => Ok(got),
        }
    }

    /// Writes one object whole.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        let path = self.path(key)?;
        self.store().put(&path, bytes.into()).await.map_err(|e| translate("PUT", &self.uri(key), None, e))?;
        Ok(())
    }

    /// Writes an object of `size` bytes under another name, by the store itself where it can.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn copy(&self, from: &str, to: &str, size: u64) -> Result<()> {
        // Azure may answer before it has copied, and then the original must stay: object_store does not tell.
        if self.base.scheme() == Scheme::Az || matches!(self.backend, Backend::Remote(_)) && size > MOST_COPIED {
            let mut upload = self.upload(to)?;
            let mut blocks = self.stream(from, None, 0..size).await?;
            while let Some(block) = blocks.try_next().await? {
                upload.write(block).await?;
            }
            return upload.finish().await;
        }
        let (source, target) = (self.path(from)?, self.path(to)?);
        self.store().copy(&source, &target).await.map_err(|e| translate("COPY", &self.uri(from), None, e))
    }

    /// Begins an object that is written as its bytes come.
    ///
    /// # Errors
    /// [`Error::OutsideRoots`], [`Error::BadKey`].
    pub fn upload(&self, key: &str) -> Result<Upload> {
        Upload::new(self, key)
    }

    /// Deletes one object; no error when it is not there.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        match self.store().delete(&path).await.map_err(|e| translate("DELETE", &self.uri(key), None, e)) {
            Err(Error::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    /// Removes what killed uploads left behind directly below `prefix` and whose final name `ours` recognises: of files what has a name of
    /// its own, in S3 multipart uploads. Azure drops what was not committed within a week by itself; elsewhere, and where the store does
    /// not let us list uploads, it takes a lifecycle rule.
    ///
    /// # Errors
    /// [`Error`], of files alone: what is left in a bucket is seen by nobody.
    pub async fn remove_unfinished(&self, prefix: &str, ours: impl Fn(&str) -> bool + Send) -> Result<()> {
        if let Backend::Remote(remote) = &self.backend {
            if let Some(uploads) = &remote.uploads
                && let Err(error) = uploads.end(self, &self.account, prefix, ours).await
            {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "uploads that nobody completed may stay below {}",
                    self.uri(prefix)
                );
            }
            return Ok(());
        }
        self.path(prefix)?;
        let folder = Path::new("/").join(prefix);
        let unavailable = |e: std::io::Error| Error::Unavailable { operation: "DELETE", uri: self.uri(prefix), reason: e.to_string() };
        let entries = match std::fs::read_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(unavailable)?,
        };
        for entry in entries {
            let path = entry.map_err(unavailable)?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if walk::is_staged(&path) && name.split('#').next().is_some_and(&ours) {
                std::fs::remove_file(&path).map_err(unavailable)?;
            }
        }
        Ok(())
    }

    /// A URL that reads the object for `ttl` without credentials; `None` where none can be made: for files, and where the service's
    /// identity may use the store but not sign for it.
    pub async fn presign(&self, key: &str, ttl: Duration) -> Option<url::Url> {
        let Backend::Remote(remote) = &self.backend else { return None };
        let path = self.path(key).ok()?;
        let unsigned = || remote.unsigned.lock().unwrap_or_else(PoisonError::into_inner);
        if unsigned().is_some_and(|since| since.elapsed() < SIGN_PAUSE) {
            return None;
        }
        let signed = tokio::time::timeout(SIGN_TIMEOUT, remote.signer.signed_url(reqwest::Method::GET, &path, ttl)).await;
        let why = match signed {
            Ok(Ok(url)) => return Some(url),
            Ok(Err(error)) => reason(&error),
            Err(_) => format!("no answer within {} s", SIGN_TIMEOUT.as_secs()),
        };
        tracing::info!(uri = %self.base, "no URLs can be presigned for {}: {why}", self.base);
        *unsigned() = Some(Instant::now());
        None
    }
}

/// An etag as headers write it: Azure's listings leave the quotes out.
fn quoted(etag: String) -> String {
    if etag.ends_with('"') { etag } else { format!("\"{etag}\"") }
}

/// An object_store error in our words.
pub(super) fn translate(operation: &'static str, uri: &Uri, etag: Option<&str>, error: object_store::Error) -> Error {
    use object_store::Error as E;
    let (uri, reason) = (uri.clone(), reason(&error));
    match error {
        E::NotFound { .. } | E::Generic { .. } if ["NoSuchBucket", "ContainerNotFound"].iter().any(|code| reason.contains(code)) => {
            Error::NoBucket { uri }
        }
        E::NotFound { .. } => Error::NotFound { uri },
        E::Precondition { .. } => Error::Changed { uri, etag: etag.unwrap_or_default().to_owned() },
        // A range that the object had when it was planned: it has become shorter, at a server that looks at no condition.
        E::Generic { .. } if operation == "GET" && has_status(&reason, "416") => {
            Error::Changed { uri, etag: etag.unwrap_or("the one planned").to_owned() }
        }
        E::PermissionDenied { .. } | E::Unauthenticated { .. } | E::UnknownConfigurationKey { .. } => Error::Denied { uri, reason },
        E::InvalidPath { .. } => Error::BadKey { uri, reason },
        // Answers that no retry changes, which object_store has no variant for.
        E::Generic { .. } if is_client_error(&reason) => Error::Denied { uri, reason },
        _ => Error::Unavailable { operation, uri, reason },
    }
}

/// Whether the store answered with a 4xx status other than those that ask for patience.
fn is_client_error(reason: &str) -> bool {
    has_status(reason, "4") && !["408", "425", "429"].iter().any(|patience| has_status(reason, patience))
}

/// Whether the store answered with a status that begins like this.
fn has_status(reason: &str, status: &str) -> bool {
    reason.split_once("non-2xx status code: ").is_some_and(|(_, answered)| answered.starts_with(status))
}

/// The whole chain in one line, without the repetitions that nested `Display`s make, and without query strings: a presigned
/// URL's query is a secret.
pub(super) fn reason(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let line = inner.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        source = inner.source();
    }
    let mut clean = String::with_capacity(text.len().min(500));
    for word in text.split_whitespace() {
        if !clean.is_empty() {
            clean.push(' ');
        }
        match word.split_once('?') {
            Some((url, _)) if url.contains("://") => clean.push_str(url),
            _ => clean.push_str(word),
        }
        if clean.len() > 500 {
            clean.push('…');
            break;
        }
    }
    clean
}
