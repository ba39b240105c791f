//! Counts what is asked of a store, and what had to be asked again.
//!
//! Two hooks that know of each other by a task-local value: [`Counted`] wraps the store and sees calls, of which each counts once,
//! whatever it takes; [`CountingConnector`] wraps its HTTP client and sees requests, of which one that follows a failed one of the same
//! call is a retry.

use std::{
    fmt,
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, stream::BoxStream};
use object_store::{
    ClientOptions, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
    client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector},
    path::Path,
};

use crate::telemetry::tally::{Operation, Outcome, RetryReason, Tally};

tokio::task_local! {
    static CALL: Arc<Call>;
}

/// A call of the store that is under way.
#[derive(Debug)]
struct Call {
    operation: Operation,
    tally: Tally,
    /// Why the last request of this call failed, until another is sent.
    failed: Mutex<Option<RetryReason>>,
}

impl Call {
    fn fail(&self, reason: RetryReason) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    /// Takes note that a request is about to be sent.
    fn send(&self) {
        if let Some(reason) = self.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.tally.retry(self.operation, reason);
        }
    }
}

/// A store whose calls are counted.
#[derive(Debug)]
pub(super) struct Counted {
    inner: Arc<dyn ObjectStore>,
    tally: Tally,
}

impl Counted {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, tally: Tally) -> Self {
        Self { inner, tally }
    }

    fn call(&self, operation: Operation) -> Arc<Call> {
        Arc::new(Call { operation, tally: self.tally.clone(), failed: Mutex::default() })
    }

    async fn count<T>(&self, operation: Operation, work: impl Future<Output = Result<T>>) -> Result<T> {
        let done = CALL.scope(self.call(operation), work).await;
        self.tally.request(operation, outcome(&done));
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
        Ok(Box::new(CountedUpload { inner, tally: self.tally.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let operation = if options.head { Operation::Head } else { Operation::Get };
        let mut got = self.count(operation, self.inner.get_opts(location, options)).await?;
        if let GetResultPayload::Stream(body) = got.payload {
            // Any request that the body makes is one for the rest of an answer that broke off.
            let call = self.call(operation);
            call.fail(RetryReason::Interrupted);
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
            self.call.tally.request(self.call.operation, outcome);
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
    tally: Tally,
}

impl CountedUpload {
    fn scoped<'f, T: 'f>(tally: &Tally, work: impl Future<Output = Result<T>> + Send + 'f) -> impl Future<Output = Result<T>> + Send + 'f {
        let tally = tally.clone();
        let call = Arc::new(Call { operation: Operation::PutMultipart, tally: tally.clone(), failed: Mutex::default() });
        CALL.scope(call, work).inspect(move |done| tally.request(Operation::PutMultipart, outcome(done)))
    }
}

#[async_trait]
impl MultipartUpload for CountedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        Self::scoped(&self.tally, self.inner.put_part(data)).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        Self::scoped(&self.tally, self.inner.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        Self::scoped(&self.tally, self.inner.abort()).await
    }
}

/// Makes HTTP clients that tell the call they work for what became of each request.
#[derive(Debug, Default)]
pub(super) struct CountingConnector(ReqwestConnector);

impl HttpConnector for CountingConnector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        Ok(HttpClient::new(CountingClient(self.0.connect(options)?)))
    }
}

#[derive(Debug)]
struct CountingClient(HttpClient);

#[async_trait]
impl HttpService for CountingClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // Credentials that are fetched outside of any call are nobody's request.
        let call = CALL.try_with(Arc::clone).ok();
        if let Some(call) = &call {
            call.send();
        }
        let answer = self.0.execute(request).await;
        let failed = match &answer {
            Ok(answer) => match answer.status().as_u16() {
                429 | 503 => Some(RetryReason::Throttled),
                408 => Some(RetryReason::Timeout),
                409 | 500.. => Some(RetryReason::ServerError),
                _ => None,
            },
            Err(error) => Some(match error.kind() {
                HttpErrorKind::Timeout => RetryReason::Timeout,
                _ => RetryReason::Connection,
            }),
        };
        if let (Some(call), Some(reason)) = (call, failed) {
            call.fail(reason);
        }
        answer
    }
}
