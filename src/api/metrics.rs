//! `/metrics`, and the middleware that counts requests.

use std::time::Instant;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::ApiState;
use crate::telemetry::metrics::{CONTENT_TYPE, Metrics};

/// Metrics for Prometheus
///
/// In the text format of OpenMetrics 1.0. Their names and meanings are in docs/OPERATIONS.md.
#[utoipa::path(
    get, path = "/metrics", tag = "health",
    responses((
        status = 200, description = "All metrics", content_type = "application/openmetrics-text", body = String,
        example = json!("# HELP nightshift_records Records of committed chunks by outcome.\n# TYPE nightshift_records counter\nnightshift_records_total{outcome=\"succeeded\"} 9857\n# EOF\n")
    ))
)]
pub(super) async fn scrape(State(state): State<ApiState>) -> Response {
    if state.metrics.wants_backlog() {
        let backlog = state.store.backlog().await;
        // Everything else is still worth showing.
        if let Err(error) = &backlog {
            tracing::warn!(error = error as &dyn std::error::Error, "the database did not answer a scrape");
        }
        state.metrics.backlog(backlog.as_ref().ok());
    }
    state.metrics.streams_open(state.feed.open());
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], state.metrics.encode()).into_response()
}

/// Counts a request under the template of its route: paths are the caller's, templates are ours.
pub(super) async fn count(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = known(request.method());
    let response = next.run(request).await;
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    metrics.http_request(route, method, response.status().as_u16(), started.elapsed());
    response
}

/// HTTP lets a caller make up methods.
fn known(method: &Method) -> &'static str {
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    let names = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.iter().position(|k| k == method).map_or("other", |at| names[at])
}
