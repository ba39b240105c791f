//! `/livez` and `/readyz`.

use std::time::Duration;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiState, disk, problem::ApiProblem};
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
        (status = 503, description = "They cannot; `errors` lists every reason, by code: `database`, `storage`, `model_cache`, `runner`", body = ApiProblem, content_type = "application/problem+json"),
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
    let folder = state.data_dir.clone();
    let tried = tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(move || disk::try_write(&folder))).await;
    let refused = match tried {
        Ok(Ok(Ok(()))) => None,
        Ok(Ok(Err(error))) => Some(error.to_string()),
        Ok(Err(panic)) => Some(panic.to_string()),
        Err(_) => Some(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    if let Some(why) = refused {
        let hint = "make room, or repair the disk; nothing is lost, and the service goes on by itself";
        reasons.push(Fault::new("", "storage", format!("the data folder takes no writes: {why}")).hint(hint));
    }
    if let Some(trouble) = state.models.trouble() {
        let hint = "make room, or repair the disk; jobs wait for it and go on by themselves";
        reasons.push(Fault::new("", "model_cache", trouble).hint(hint));
    }
    if let Some(trouble) = trouble(&state.runners) {
        let hint = "jobs are accepted and kept, and run once this is repaired; the service finds that out by itself";
        reasons.push(Fault::new("", "runner", trouble).hint(hint));
    }
    if reasons.is_empty() { Ok(Json(Health { status: "ok" })) } else { Err(ApiProblem::not_ready(reasons)) }
}

/// Why none of the runners can be had.
fn trouble(runners: &[RunnerStatus]) -> Option<String> {
    let troubles: Option<Vec<String>> = runners.iter().map(RunnerStatus::trouble).collect();
    troubles?.into_iter().next()
}
