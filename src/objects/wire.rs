//! The HTTP client of one bucket: what becomes of each request is told to the [call](super::call) that it belongs to, retries wait, and
//! no more requests are under way than the bucket's [gate](super::gate) lets through.
//!
//! object_store decides whether a request is sent again; how long that waits, and whether it may, is decided here, where all requests
//! pass, whatever they are for.

use std::sync::Arc;

use async_trait::async_trait;
use object_store::{
    ClientOptions,
    client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector},
};
use reqwest::{Method, StatusCode};
use tokio_util::task::AbortOnDropHandle;

use super::{call::CALL, gate::Gate};
use crate::telemetry::tally::RetryReason;

/// Makes the HTTP clients of one bucket, which share its gate.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    gate: Arc<Gate>,
}

impl Connector {
    /// For a bucket that gets this many requests at once, at most.
    pub(super) fn new(most_requests: usize) -> Self {
        Self { gate: Gate::new(most_requests) }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Client { inner: ReqwestConnector::default().connect(options)?, gate: self.gate.clone() }))
    }
}

#[derive(Debug)]
struct Client {
    inner: HttpClient,
    gate: Arc<Gate>,
}

#[async_trait]
impl HttpService for Client {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // Credentials that are fetched outside of any call are nobody's request.
        let call = CALL.try_with(Arc::clone).ok();
        if let Some(call) = &call {
            // Of this kind, because object_store does not send a request again for it.
            call.pace().await.map_err(|spent| HttpError::new(HttpErrorKind::Unknown, spent))?;
        }
        let can_conflict = can_conflict(&request);
        // A task of its own goes on when nobody asks how far it is. Requests that are made ahead, for a stream that is not read for a while,
        // would otherwise keep their places for as long, and who has to make another before it reads on would wait for ever.
        let (gate, inner) = (self.gate.clone(), self.inner.clone());
        let sent = AbortOnDropHandle::new(tokio::spawn(async move { send(&gate, &inner, request).await }));
        let Sent { mut answer, failed, halved } = sent.await.map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        if let Some(call) = &call {
            match failed {
                Some(reason) => call.fail(reason),
                None => call.succeed(),
            }
            if halved {
                call.account.tally.halved();
            }
        }
        if let Ok(answer) = &mut answer
            && answer.status() == StatusCode::CONFLICT
            && !can_conflict
        {
            // Two writes to one key at once, says S3, and asks to try again: what nothing was asked of cannot be in conflict. object_store
            // takes it for an object that exists already.
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        answer
    }
}

/// What became of a request.
struct Sent {
    answer: Result<HttpResponse, HttpError>,
    /// Why it may be sent again.
    failed: Option<RetryReason>,
    /// Whether its bucket gets half as many requests at once for it.
    halved: bool,
}

async fn send(gate: &Arc<Gate>, client: &HttpClient, request: HttpRequest) -> Sent {
    let pass = gate.enter().await;
    let answer = client.execute(request).await;
    let failed = match &answer {
        Ok(answer) => of_status(answer.status()),
        Err(error) => Some(match error.kind() {
            HttpErrorKind::Timeout => RetryReason::Timeout,
            _ => RetryReason::Connection,
        }),
    };
    let halved = match failed {
        None => {
            pass.answered();
            false
        }
        Some(RetryReason::Throttled) => pass.throttled(),
        Some(_) => false,
    };
    Sent { answer, failed, halved }
}

/// Why a request with this answer may be sent again.
fn of_status(status: StatusCode) -> Option<RetryReason> {
    match status.as_u16() {
        429 | 503 => Some(RetryReason::Throttled),
        408 => Some(RetryReason::Timeout),
        409 | 500.. => Some(RetryReason::ServerError),
        _ => None,
    }
}

/// Whether a request says on which condition it is to be done.
fn can_conflict(request: &HttpRequest) -> bool {
    let conditions = ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "x-goog-if-generation-match"];
    request.method() == Method::GET || conditions.iter().any(|name| request.headers().contains_key(*name))
}
