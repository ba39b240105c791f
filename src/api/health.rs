//! `/livez` and `/readyz`.

use std::time::Duration;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiState, problem::ApiProblem};
use crate::{domain::Fault, execute::RunnerStatus};

/// How long the database may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// A good answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `ok`.
    status: &'static str,
}

/// Whether the process is alive
#[utoipa::path(get, path = "/livez", tag = "health", responses((status = 200, description = "It is", body = Health, example = json!({"status": "ok"}))))]
pub(super) async fn live() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Whether jobs can be accepted and run
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses(
        (status = 200, description = "They can", body = Health, example = json!({"status": "ok"})),
        (status = 503, description = "They cannot; `errors` lists every reason, by code: `database`, `runner`", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn ready(State(state): State<ApiState>) -> Result<Json<Health>, ApiProblem> {
    let mut reasons = Vec::new();
    match tokio::time::timeout(PATIENCE, state.store.ping()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "not ready: the database did not answer");
            reasons.push(Fault::new("", "database", "the database did not answer; the log says more"));
        }
        Err(_) => reasons.push(Fault::new("", "database", format!("the database did not answer within {} s", PATIENCE.as_secs()))),
    }
    if let Some(trouble) = state.runner.as_ref().and_then(RunnerStatus::trouble) {
        let hint = "jobs are accepted and kept, and run once this is repaired; the service finds that out by itself";
        reasons.push(Fault::new("", "runner", trouble).hint(hint));
    }
    if reasons.is_empty() { Ok(Json(Health { status: "ok" })) } else { Err(ApiProblem::not_ready(reasons)) }
}
