//! Counts what is asked of a store, and what had to be asked again.
//!
//! Two hooks that know of each other by the [`Call`]: [`Counted`] wraps the store and sees calls, of which each counts once, whatever
//! it takes; its [HTTP client](super::wire) sees requests, of which one that follows a failed one of the same call is a retry.

use std::{
    fmt,
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart, path::Path,
};

use super::call::{Account, CALL, Call};
use crate::telemetry::tally::{Operation, Outcome};

/// A store whose calls are counted.
#[derive(Debug)]
pub(super) struct Counted {
    inner: Arc<dyn ObjectStore>,
    account: Account,
}

impl Counted {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, account: Account) -> Self {
        Self { inner, account }
    }

    fn call(&self, operation: Operation) -> Arc<Call> {
        Call::new(operation, self.account.clone())
    }

    async fn count<T>(&self, operation: Operation, work: impl Future<Output = Result<T>>) -> Result<T> {
        let done = CALL.scope(self.call(operation), work).await;
        self.account.tally.request(operation, outcome(&done));
        done
    }

    fn count_stream<T: 'static>(&self, operation: Operation, items: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
        CountedStream { items, call: self.call(operation), counts: true }.boxed()
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.count(Operation::Put, self.inner.put_opts(location, payload, options)).await
    }

    async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.count(Operation::PutMultipart, self.inner.put_multipart_opts(location, options)).await?;
        Ok(Box::new(CountedUpload { inner, account: self.account.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head { Operation::Head } else { Operation::Get };
        let mut got = self.count(operation, self.inner.get_opts(location, options)).await?;
        if let GetResultPayload::Stream(body) = got.payload {
            let call = Call::of_body(operation, self.account.clone());
            got.payload = GetResultPayload::Stream(CountedStream { items: body, call, counts: false }.boxed());
        }
        Ok(got)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.count(Operation::Get, self.inner.get_ranges(location, ranges)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.count_stream(Operation::Delete, self.inner.delete_stream(locations))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count_stream(Operation::List, self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count_stream(Operation::List, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.count(Operation::List, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.count(Operation::Copy, self.inner.copy_opts(from, to, options)).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.count(Operation::Copy, self.inner.rename_opts(from, to, options)).await
    }
}

fn outcome<T>(done: &Result<T>) -> Outcome {
    match done {
        Ok(_) | Err(Error::NotModified { .. }) => Outcome::Ok,
        Err(Error::NotFound { .. }) => Outcome::NotFound,
        Err(Error::Precondition { .. } | Error::AlreadyExists { .. }) => Outcome::Changed,
        Err(Error::PermissionDenied { .. } | Error::Unauthenticated { .. } | Error::NotSupported { .. } | Error::NotImplemented { .. }) => {
            Outcome::Refused
        }
        Err(_) => Outcome::Failed,
    }
}

/// A listing, a deletion or a body, whose requests are made as it is read.
struct CountedStream<T> {
    items: BoxStream<'static, Result<T>>,
    call: Arc<Call>,
    /// Whether its end counts as a call; a body's call was counted with its head.
    counts: bool,
}

impl<T> CountedStream<T> {
    fn ended(&mut self, outcome: Outcome) {
        if std::mem::take(&mut self.counts) {
            self.call.account.tally.request(self.call.operation, outcome);
        }
    }
}

impl<T> Stream for CountedStream<T> {
    type Item = Result<T>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let call = self.call.clone();
        let polled = CALL.sync_scope(call, || self.items.poll_next_unpin(context));
        match &polled {
            Poll::Ready(Some(item @ Err(_))) => self.ended(outcome(item)),
            Poll::Ready(None) => self.ended(Outcome::Ok),
            _ => {}
        }
        polled
    }
}

/// A stream that is dropped before its end was good as far as it was read.
impl<T> Drop for CountedStream<T> {
    fn drop(&mut self) {
        self.ended(Outcome::Ok);
    }
}

#[derive(Debug)]
struct CountedUpload {
    inner: Box<dyn MultipartUpload>,
    account: Account,
}

impl CountedUpload {
    fn scoped<'f, T: 'f>(
        account: &Account,
        work: impl Future<Output = Result<T>> + Send + 'f,
    ) -> impl Future<Output = Result<T>> + Send + 'f {
        let account = account.clone();
        let call = Call::new(Operation::PutMultipart, account.clone());
        CALL.scope(call, work).inspect(move |done| account.tally.request(Operation::PutMultipart, outcome(done)))
    }
}

#[async_trait]
impl MultipartUpload for CountedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        Self::scoped(&self.account, self.inner.put_part(data)).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        Self::scoped(&self.account, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        Self::scoped(&self.account, self.inner.abort()).await
    }
}
