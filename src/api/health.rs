//! `/livez` and `/readyz`.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiState, problem::ApiProblem};

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

/// Whether jobs can be accepted
#[utoipa::path(
    get, path = "/readyz", tag = "health",
    responses(
        (status = 200, description = "They can", body = Health, example = json!({"status": "ok"})),
        (status = 503, description = "They cannot; the detail says why", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn ready(State(state): State<ApiState>) -> Result<Json<Health>, ApiProblem> {
    state.store.ping().await?;
    Ok(Json(Health { status: "ok" }))
}
