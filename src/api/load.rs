//! How much is answered at once: what is over the limit is refused at once, while refusing is still cheap.
//!
//! Requests are of four kinds, which do not stand in each other's way: short ones, those that wait for a job (`?wait=`), which cost next
//! to nothing but last, those that submit one, each of which may fetch a model, and those that try a model out, whose bodies are large and
//! whose answers take a process each. Probes and metrics are always answered: a service that is busy is not one that should be restarted.
//! A request counts until the head of its answer, and is refused before its body is read.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use super::{problem::ApiProblem, v2::V2Error};
use crate::telemetry::metrics::{Metrics, RequestKind};

/// Models that are resolved at once: each is read, and may be parsed, whole.
const RESOLVED_AT_ONCE: usize = 8;
/// Requests at once that try a model out: two run, the others wait for them with their bodies in memory.
const TRIALS_AT_ONCE: usize = 4;
/// How long a short request may take: longer than a database that is busy needs, shorter than callers and proxies wait.
const SHORT_TIMEOUT: Duration = Duration::from_secs(25);

/// How long a request's body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(20);

/// Most requests of each kind.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Short ones.
    pub requests: usize,
    /// Those that wait for a job.
    pub waits: usize,
    /// Those that submit a job, or would in a dry run: eight are at work, the others wait for them.
    pub submissions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { requests: 256, waits: 4096, submissions: 128 }
    }
}

/// What is being answered; cheap to clone.
#[derive(Debug, Clone)]
pub struct Load(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limits: Limits,
    requests: Semaphore,
    waits: Semaphore,
    submissions: Semaphore,
    trials: Semaphore,
    resolving: Semaphore,
    metrics: Metrics,
}

impl Load {
    /// Nothing yet.
    pub fn new(limits: Limits, metrics: Metrics) -> Self {
        Self(Arc::new(Inner {
            limits,
            requests: Semaphore::new(limits.requests),
            waits: Semaphore::new(limits.waits),
            submissions: Semaphore::new(limits.submissions),
            trials: Semaphore::new(TRIALS_AT_ONCE),
            resolving: Semaphore::new(RESOLVED_AT_ONCE),
            metrics,
        }))
    }

    /// Waits until a model may be resolved. Those who wait are bounded: they are submissions.
    pub(super) async fn resolving(&self) -> SemaphorePermit<'_> {
        self.0.resolving.acquire().await.expect("the semaphore is never closed")
    }

    /// The semaphore of a kind, its size, and what says so.
    fn of(&self, kind: RequestKind) -> (&Semaphore, usize, &'static str) {
        let Inner { limits, requests, waits, submissions, trials, .. } = &*self.0;
        match kind {
            RequestKind::Short => (requests, limits.requests, "--max-requests"),
            RequestKind::Wait => (waits, limits.waits, "--max-waits"),
            RequestKind::Submission => (submissions, limits.submissions, "--max-submissions"),
            RequestKind::Trial => (trials, TRIALS_AT_ONCE, "a job runs more"),
        }
    }
}

/// Refuses a request for which there is no room.
pub(super) async fn shed(State(load): State<Load>, request: Request, next: Next) -> Response {
    let Some(kind) = kind(&request) else { return next.run(request).await };
    let (room, most, setting) = load.of(kind);
    let Ok(_taken) = room.try_acquire() else {
        load.0.metrics.request_shed(kind);
        let problem = ApiProblem::overloaded(format!("{most} {} are being answered ({setting}); try again in a moment", kind.plural()));
        return if kind == RequestKind::Trial { V2Error::from(problem).into_response() } else { problem.into_response() };
    };
    // Else whoever sends a byte now and then keeps a place for ever.
    let request = request.map(|body| within(body, BODY_TIMEOUT));
    if kind != RequestKind::Short {
        return next.run(request).await;
    }
    // Such a request can be sent again, whatever became of it: it asks for a thing, or for a state.
    match tokio::time::timeout(SHORT_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiProblem::unavailable(format!("there was no answer within {} s", SHORT_TIMEOUT.as_secs())).into_response(),
    }
}

/// The same body, or an error when that time is over.
fn within(body: Body, time: Duration) -> Body {
    let deadline = Instant::now() + time;
    Body::from_stream(stream::unfold(body.into_data_stream(), move |mut blocks| async move {
        let block = match tokio::time::timeout_at(deadline, blocks.next()).await {
            Ok(block) => block?.map_err(io::Error::other),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("the body did not come within {} s", time.as_secs()))),
        };
        Some((block, blocks))
    }))
}

/// What kind of request it is; `None` is always answered.
fn kind(request: &Request) -> Option<RequestKind> {
    let uri = request.uri();
    let waits = || url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).any(|(name, _)| name == "wait");
    match (request.method(), uri.path()) {
        (_, "/livez" | "/readyz" | "/metrics") => None,
        (&Method::POST, "/v1/jobs" | "/v1/models") => Some(RequestKind::Submission),
        (&Method::POST, path) if path.starts_with("/v2/models/") => Some(RequestKind::Trial),
        (&Method::GET, _) if waits() => Some(RequestKind::Wait),
        _ => Some(RequestKind::Short),
    }
}
