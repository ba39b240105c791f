//! Errors → RFC 9457 problems, as the last step. The caller gets the outer sentence, the log the inner ones.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::request;
use crate::{
    db,
    domain::{Fault, JobId, Problem, Uri},
    model, objects,
};

/// What problem types begin with: they are names, not addresses.
const TYPE_PREFIX: &str = "urn:nightshift:problem:";

/// A problem (RFC 9457).
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Problem, example = json!({
    "type": "urn:nightshift:problem:invalid_request", "title": "The request has faults", "status": 422,
    "detail": "1 fault, see errors", "instance": "urn:uuid:019ac2f7-b0f4-7e0f-8a1b-2c3d4e5f6071",
    "errors": [{"pointer": "/input/format", "code": "unknown_value", "detail": "\"parqet\" is none of auto, parquet, csv, jsonl", "hint": "did you mean \"parquet\"?"}]
}))]
pub(super) struct ApiProblem {
    /// Names the kind of problem; stable.
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// The same sentence for every problem of this type.
    pub(super) title: &'static str,
    /// The HTTP status.
    #[schema(value_type = u16)]
    pub(super) status: u16,
    /// What happened this time.
    pub(super) detail: String,
    /// Names this answer: the log knows it by this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instance: Option<String>,
    /// Every fault of the request at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) errors: Vec<FaultBody>,
}

/// One fault of a request.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Fault)]
pub(super) struct FaultBody {
    /// JSON pointer (RFC 6901) into the request body, `?name` for a query parameter, or the name of a header.
    pointer: String,
    /// Names the kind of fault; stable.
    code: String,
    /// What is wrong with the value found there.
    detail: String,
    /// What to write instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl FaultBody {
    /// Place, detail and hint in words.
    pub(super) fn sentence(&self) -> String {
        let place = if self.pointer.is_empty() { "the job" } else { &self.pointer };
        let hint = self.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
        format!("{place}: {}{hint}", self.detail)
    }
}

impl From<Fault> for FaultBody {
    fn from(fault: Fault) -> Self {
        Self { pointer: fault.pointer, code: fault.code, detail: fault.detail, hint: fault.hint }
    }
}

impl ApiProblem {
    fn new(status: StatusCode, code: &str, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("{TYPE_PREFIX}{code}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            instance: request::id().map(|id| format!("urn:uuid:{id}")),
            errors: Vec::new(),
        }
    }

    /// Why a job failed; its status says nothing about the request that asked.
    pub(super) fn of_job(problem: &Problem) -> JobProblem {
        JobProblem { kind: format!("{TYPE_PREFIX}{}", problem.code), title: problem.title.clone(), detail: problem.detail.clone() }
    }

    /// The type of a problem with this code.
    pub(super) fn type_of(code: &str) -> String {
        format!("{TYPE_PREFIX}{code}")
    }

    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed_request", "The request cannot be read", detail)
    }

    /// A body that is no JSON.
    pub(super) fn malformed_body(fault: Fault) -> Self {
        let detail = fault.detail.clone();
        Self { errors: vec![FaultBody::from(fault)], ..Self::malformed(detail) }
    }

    pub(super) fn faults(faults: Vec<Fault>) -> Self {
        let count = faults.len();
        let detail = if count == 1 { "1 fault, see errors".to_owned() } else { format!("{count} faults, see errors") };
        let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_request", "The request has faults", detail);
        Self { errors: faults.into_iter().map(FaultBody::from).collect(), ..problem }
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "There is no such thing", detail)
    }

    pub(super) fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "The method is not allowed here", detail)
    }

    pub(super) fn unsupported_media_type(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", "The body is not of a type that is read here", detail)
    }

    pub(super) fn too_large(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "The body is too large", detail)
    }

    pub(super) fn conflict(code: &str, title: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, title, detail)
    }

    pub(super) fn output_claimed(by: &JobId, uri: &Uri) -> Self {
        let detail = format!("{by} is not done yet and writes to {uri}; wait for it, cancel it, or choose another output");
        Self::conflict("output_claimed", "Another job writes to this output", detail)
    }

    pub(super) fn key_reused(key: &str, by: &JobId) -> Self {
        let detail = format!("the key {key:?} made {by} with another body; a new job needs a new key");
        let title = "The idempotency key was used for something else";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", title, detail)
    }

    pub(super) fn unsatisfiable_range(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable", "The range lies outside the part", detail)
    }

    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "The service cannot do this at the moment", detail)
    }

    /// Too much is asked at once.
    pub(super) fn overloaded(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "overloaded", "The service is busy", detail)
    }

    /// Why the service cannot do its work, reason by reason.
    pub(super) fn not_ready(reasons: Vec<Fault>) -> Self {
        let detail = reasons.iter().map(|reason| reason.detail.as_str()).collect::<Vec<_>>().join("; ");
        Self { errors: reasons.into_iter().map(FaultBody::from).collect(), ..Self::unavailable(detail) }
    }

    /// A fault of the service: the caller gets an id, the log the reason.
    pub(super) fn internal(error: &dyn std::fmt::Display) -> Self {
        let id = request::id().unwrap_or_default();
        tracing::error!(request.id = %id, "internal error in request {id}: {error}");
        let detail = format!("its log says more under request {id}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "The service met a fault of its own", detail)
    }
}

impl IntoResponse for ApiProblem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        say_when_to_retry(&mut response);
        response
    }
}

/// Adds `Retry-After` to an answer that says that this is not the time.
pub(super) fn say_when_to_retry(response: &mut Response) {
    let retry_after = match response.status() {
        StatusCode::SERVICE_UNAVAILABLE => "5",
        StatusCode::TOO_MANY_REQUESTS => "1",
        _ => return,
    };
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(retry_after));
}

impl From<db::Error> for ApiProblem {
    fn from(error: db::Error) -> Self {
        match error {
            db::Error::Unavailable(inner) => {
                tracing::warn!(error = &inner as &dyn std::error::Error, "the database did not answer");
                Self::unavailable("the database did not answer")
            }
            other => Self::internal(&other),
        }
    }
}

impl From<objects::Error> for ApiProblem {
    fn from(error: objects::Error) -> Self {
        match error {
            objects::Error::NotFound { .. } | objects::Error::NoBucket { .. } => Self::not_found(error.to_string()),
            error if error.retryable() => Self::unavailable(error.to_string()),
            error => Self::conflict(error.code(), "The object store refused", error.to_string()),
        }
    }
}

/// A model that cannot be used: faults of the request where it is the request's, a problem of ours where it is not.
pub(super) fn of_model(error: model::Error) -> Result<Vec<Fault>, ApiProblem> {
    match error {
        model::Error::Refused(faults) => Ok(faults),
        model::Error::Store(error) if error.retryable() => Err(ApiProblem::unavailable(error.to_string())),
        model::Error::Store(error) => {
            let hint = match error {
                objects::Error::NoBucket { .. } => {
                    "look at the bucket's name, and whether it lies in the store that the service is set up for"
                }
                objects::Error::NotFound { .. } => {
                    "look at its letters and its case; a model is a folder that holds model.onnx, or one .onnx object"
                }
                _ => "model is a folder such as s3://bucket/models/fraud/ or one .onnx object, which the service can read",
            };
            Ok(vec![Fault::new("/model", error.code(), error.to_string()).hint(hint)])
        }
        error @ model::Error::Cache { .. } => {
            tracing::error!(error = &error as &dyn std::error::Error, "the model cache failed");
            Err(ApiProblem::unavailable(error.whole()))
        }
    }
}

impl From<ApiProblem> for JobProblem {
    fn from(problem: ApiProblem) -> Self {
        Self { kind: problem.kind, title: problem.title.to_owned(), detail: problem.detail }
    }
}

/// Why a job failed (RFC 9457, without a status).
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct JobProblem {
    /// Names the kind of problem; stable.
    #[serde(rename = "type")]
    kind: String,
    /// The same sentence for every problem of this type.
    title: String,
    /// What happened this time.
    detail: String,
}
