//! `/v1/jobs`: submit, list, get, cancel, chunks.

use std::time::Duration;

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};

use super::{
    ApiState, examples,
    problem::ApiProblem,
    query::Query,
    read,
    request::PathOf,
    spec::JobDefinition,
    submit,
    types::{ChunkBody, ChunkPage, JobBody, JobPage},
};
use crate::{
    db::{Changed, JobFilter},
    domain::{Fault, Job, JobId, JobState, TraceParent},
};

/// Longest wait of one request.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How often a waiting request looks.
const LOOK: Duration = Duration::from_millis(200);

/// Submit a job
///
/// Reads the definition, fetches and pins the model, and makes the job durable: after `202` it survives a crash of every process. Every
/// fault is listed at once.
#[utoipa::path(
    post, path = "/v1/jobs", tag = "jobs",
    params(("traceparent" = Option<String>, Header, description = "W3C trace context: the job becomes part of that trace", example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
    request_body(content = JobDefinition, examples(
        ("shortest" = (summary = "Three fields", value = json!({"model": "s3://models/fraud/", "input": "s3://lake/tx/2026-11-23/", "output": "s3://lake/scores/2026-11-23/"}))),
        ("full" = (summary = "Everything", value = json!({
            "name": "fraud-2026-11-23", "labels": {"team": "risk"},
            "model": {"uri": "s3://models/fraud/"},
            "input": {"uri": "s3://lake/tx/2026-11-23/", "format": "auto", "compression": "auto", "include": ["**/*.parquet"], "exclude": [], "csv": {"delimiter": ",", "header": true}},
            "output": {"uri": "s3://lake/scores/2026-11-23/", "format": "parquet", "compression": "none", "include_input": ["id", "amount"], "prediction_prefix": "predicted_"},
            "pipeline": {"task": "tabular-classification", "features": ["amount", "age"], "missing": "nan", "labels": ["ok", "fraud"], "probabilities": true},
            "execution": {"batch_size": "auto", "chunk_records": 100_000, "priority": 10, "max_parallel_chunks": 8, "max_attempts": 4, "deadline": "6h", "providers": ["cpu"]},
            "error_policy": {"max_failed_records": 1000, "max_failed_ratio": 0.01}
        })))
    )),
    responses(
        (status = 202, description = "Accepted, durably", body = JobBody, headers(("Location" = String, description = "The job's address")), example = json!(examples::queued())),
        (status = 400, description = "Not JSON", body = ApiProblem, content_type = "application/problem+json"),
        (status = 409, description = "The output prefix is claimed by another job or holds its output", body = ApiProblem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ApiProblem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON by its content type", body = ApiProblem, content_type = "application/problem+json"),
        (status = 422, description = "The definition has faults, or the model cannot be used", body = ApiProblem, content_type = "application/problem+json"),
        (status = 503, description = "A store or the database did not answer", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn submit(
    State(state): State<ApiState>,
    headers: HeaderMap,
    query: Query,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiProblem> {
    if query.get("dry_run").is_some() {
        let fault =
            Fault::new("?dry_run", "not_supported", "a dry run is not supported yet").hint("leave the parameter out to submit the job");
        return Err(ApiProblem::faults(vec![fault]));
    }
    query.only(&[])?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json");
    let is_json = kind.split(';').next().is_some_and(|k| k.trim() == "application/json" || k.trim().ends_with("+json"));
    // What curl sends when nobody says otherwise.
    if !is_json && !kind.starts_with("application/x-www-form-urlencoded") {
        return Err(ApiProblem::unsupported_media_type(format!("the body is {kind}; send application/json")));
    }
    let body = body.map_err(|e| match e.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiProblem::too_large("a job definition has at most 1 MiB"),
        _ => ApiProblem::malformed(e.to_string()),
    })?;
    let definition =
        read::parse(&body).map_err(|e| ApiProblem::malformed(format!("the body is not JSON as a job definition must be: {e}")))?;
    let trace = headers.get("traceparent").map(|header| {
        let parsed = header.to_str().ok().and_then(TraceParent::parse);
        if parsed.is_none() {
            tracing::debug!(?header, "traceparent is invalid and counts as one that is not there");
        }
        parsed
    });
    let job = submit::submit(&state, &definition, trace.flatten()).await?;
    let location = format!("/v1/jobs/{}", job.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(JobBody::new(&job))).into_response())
}

/// List jobs
///
/// Newest first.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs",
    params(
        ("state" = Option<String>, Query, description = "Only jobs in this state", example = "in_progress"),
        ("label.{key}" = Option<String>, Query, description = "Only jobs with this label; may be given for several keys", example = "risk"),
        ("limit" = Option<u32>, Query, description = "Jobs in a page: 1 to 200, 50 when absent", example = 50),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = JobPage, example = json!(examples::jobs())),
        (status = 422, description = "A parameter is wrong", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(State(state): State<ApiState>, query: Query) -> Result<Json<JobPage>, ApiProblem> {
    query.only(&["state", "limit", "cursor", "label."])?;
    let limit = query.limit(50, 200)?;
    let states = JobState::ALL.map(JobState::name).join(", ");
    let filter = JobFilter {
        state: query.parsed("state", &format!("one of {states}"), JobState::parse)?,
        labels: query.with_prefix("label.").collect(),
        before: query.parsed("cursor", "give next_cursor of the page before", JobId::parse)?,
        limit: limit + 1,
    };
    let mut jobs = state.store.jobs(&filter).await?;
    let more = jobs.len() > limit as usize;
    jobs.truncate(limit as usize);
    let next_cursor = more.then(|| jobs.last().map(|j| j.id.to_string())).flatten();
    Ok(Json(JobPage { items: jobs.iter().map(JobBody::new).collect(), next_cursor }))
}

/// Get a job
///
/// With `wait` the answer comes when the job has ended, or after that time. With `If-None-Match` it is `304` while nothing changed.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job", example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071"),
        ("wait" = Option<String>, Query, description = "Wait for the end: a span up to `60s`", example = "30s"),
    ),
    responses(
        (status = 200, description = "The job", body = JobBody, headers(("ETag" = String, description = "Changes with the job")), example = json!(examples::completed())),
        (status = 304, description = "Nothing changed"),
        (status = 404, description = "No such job", body = ApiProblem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter is wrong", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn get(
    State(state): State<ApiState>,
    PathOf(id): PathOf<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, ApiProblem> {
    query.only(&["wait"])?;
    let wait = query.parsed("wait", "a span from 1s to 60s", |text| {
        read::parse_seconds(text).map(Duration::from_secs).filter(|wait| *wait <= MAX_WAIT)
    })?;
    let mut job = find(&state, &id).await?;
    let deadline = tokio::time::Instant::now() + wait.unwrap_or_default();
    while !job.state.is_final() && tokio::time::Instant::now() < deadline {
        tokio::time::sleep_until((tokio::time::Instant::now() + LOOK).min(deadline)).await;
        job = find(&state, &id).await?;
    }
    let body = JobBody::new(&job);
    let etag = etag(&job);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if known.split(',').any(|tag| tag.trim() == "*" || weak(tag) == weak(&etag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, etag)]).into_response());
    }
    Ok(([(header::ETAG, etag)], Json(body)).into_response())
}

/// Cancel a job
///
/// Running chunks are stopped; parts that are committed stay, listed by a manifest with `complete: false`.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/cancel", tag = "jobs",
    params(("id" = String, Path, description = "The job", example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071")),
    responses(
        (status = 202, description = "It is being cancelled", body = JobBody, example = json!(examples::cancelling())),
        (status = 404, description = "No such job", body = ApiProblem, content_type = "application/problem+json"),
        (status = 409, description = "It has ended already, or is about to", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn cancel(State(state): State<ApiState>, PathOf(id): PathOf<String>, query: Query) -> Result<Response, ApiProblem> {
    query.only(&[])?;
    let id = parse_id(&id)?;
    match state.store.cancel_job(&id).await? {
        Changed::Job(job) => {
            tracing::info!(job.id = %id, "cancelling {id}");
            state.wake.notify_waiters();
            Ok((StatusCode::ACCEPTED, Json(JobBody::new(&job))).into_response())
        }
        Changed::Missing => Err(missing(id.as_str())),
        Changed::Conflict(conflict) => {
            let detail = format!("{id} is {} and cannot be cancelled", conflict.state.name());
            Err(ApiProblem::conflict("wrong_state", "The job's state does not allow this", detail))
        }
    }
}

/// List a job's chunks
///
/// In input order, with their states, attempts and timings.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/chunks", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job", example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071"),
        ("limit" = Option<u32>, Query, description = "Chunks in a page: 1 to 1000, 100 when absent", example = 100),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = ChunkPage, example = json!(examples::chunks())),
        (status = 404, description = "No such job", body = ApiProblem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter is wrong", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn chunks(State(state): State<ApiState>, PathOf(id): PathOf<String>, query: Query) -> Result<Json<ChunkPage>, ApiProblem> {
    query.only(&["limit", "cursor"])?;
    let limit = query.limit(100, 1000)?;
    let from = query.parsed("cursor", "give next_cursor of the page before", |text| text.parse::<u64>().ok())?.unwrap_or_default();
    let job = find(&state, &id).await?;
    let mut chunks = state.store.chunks(&job.id, from, limit + 1).await?;
    let next_cursor = chunks.get(limit as usize).map(|next| next.id.seq.to_string());
    chunks.truncate(limit as usize);
    Ok(Json(ChunkPage { items: chunks.iter().map(ChunkBody::new).collect(), next_cursor }))
}

/// A job by the id in a path.
pub(super) async fn find(state: &ApiState, id: &str) -> Result<Job, ApiProblem> {
    let id = parse_id(id)?;
    state.store.job(&id).await?.ok_or_else(|| missing(id.as_str()))
}

fn parse_id(id: &str) -> Result<JobId, ApiProblem> {
    JobId::parse(id).ok_or_else(|| missing(id))
}

fn missing(id: &str) -> ApiProblem {
    ApiProblem::not_found(format!("there is no job {id:?}"))
}

/// Changes with what is durable of the job, and not with the time that passes: weak, as the body tells that time.
fn etag(job: &Job) -> String {
    let mut digest = Sha256::new();
    digest.update(format!("{:?} {:?} {:?} {:?} {:?}", job.state, job.counts, job.started_at, job.finished_at, job.plan.done));
    let hex: String = digest.finalize().iter().take(12).map(|b| format!("{b:02x}")).collect();
    format!("W/\"{hex}\"")
}

/// A tag as `If-None-Match` compares it (RFC 9110, section 13.1.2).
fn weak(tag: &str) -> &str {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag)
}
