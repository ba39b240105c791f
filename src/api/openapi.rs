//! The OpenAPI document: what is mounted is in it.

use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{ApiState, errors, health, jobs, results};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Nightshift",
        description = "Self-hosted batch inference: POST a job that names an ONNX model and an input prefix in a bucket; the predictions are written back to the bucket.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "jobs", description = "Submit jobs and follow them"),
        (name = "results", description = "Predictions and error rows"),
        (name = "health", description = "For supervisors and load balancers"),
    )
)]
struct Document;

/// The routes that are in the document.
pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(jobs::list, jobs::submit))
        .routes(routes!(jobs::get))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::chunks))
        .routes(routes!(results::list))
        .routes(routes!(results::download))
        .routes(routes!(errors::list))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
}

/// The document.
pub fn document() -> utoipa::openapi::OpenApi {
    router().into_openapi()
}
