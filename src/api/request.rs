//! What every request has: an id, and a path that is read strictly.
//!
//! The id stands in the span that all log lines of the request carry, in the answer's `x-request-id`, and in a problem's `instance`,
//! so that a caller's report leads to the log.

use axum::{
    extract::{FromRequestParts, Path, Request},
    http::request::Parts,
    middleware::Next,
    response::Response,
};
use serde::de::DeserializeOwned;
use tracing::Instrument;
use uuid::Uuid;

use super::problem::ApiProblem;

tokio::task_local! {
    static ID: Uuid;
}

/// The id of the request that this task answers; `None` outside of one.
pub(super) fn id() -> Option<Uuid> {
    ID.try_with(|id| *id).ok()
}

/// Gives the request its id and its span.
pub(super) async fn identified(request: Request, next: Next) -> Response {
    let id = Uuid::now_v7();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let span = tracing::info_span!("request", request.id = %id, %method, path);
    let answer = async {
        let started = std::time::Instant::now();
        let mut response = ID.scope(id, next.run(request)).await;
        let (status, elapsed_ms) = (response.status().as_u16(), started.elapsed().as_millis() as u64);
        tracing::debug!(status, elapsed_ms, "{method} {path} {status}");
        if let Ok(value) = id.to_string().parse() {
            response.headers_mut().insert("x-request-id", value);
        }
        response
    };
    answer.instrument(span).await
}

/// The parameters in a path. What they cannot be read from names nothing: `404`.
#[derive(Debug)]
pub(super) struct PathOf<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathOf<T> {
    type Rejection = ApiProblem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiProblem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(_) => Err(ApiProblem::not_found(format!("there is nothing at {}", parts.uri.path()))),
        }
    }
}
