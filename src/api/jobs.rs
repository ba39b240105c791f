//! `/v1/jobs`: submit, list, get, chunks.

use std::time::{Duration, Instant};

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{
    ApiState,
    answers::Answer,
    body,
    dry_run::{self, DryRun},
    examples, idempotency,
    problem::ApiProblem,
    query::Query,
    request::PathOf,
    spec::JobDefinition,
    submit::{self, Submitted},
    types::{ChunkBody, ChunkPage, JobBody, JobPage},
};
use crate::{
    db::JobFilter,
    domain::{Job, JobId, JobState, ScheduleId, Timestamp, TraceParent, time},
};

/// Longest wait of one request.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// How often a waiting request looks when nothing rings: another node's work does not.
const LOOK: Duration = Duration::from_secs(1);
/// Looks of a waiting request are at least so far apart: little at first, as a small job is done in milliseconds, and twice as much each
/// time, as a large one rings a thousand times.
const DEBOUNCE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(25));

/// Submit a job
///
/// Reads the definition, fetches and pins the model, and makes the job durable: after `202` it survives a crash of every process. Every
/// fault is listed at once.
///
/// With an `Idempotency-Key` the request can be sent again when its answer was lost: the same key and the same body (white space and the
/// order of fields do not count) give the job that was made first, as it is now. A key is kept for a day at least; a request that was
/// refused leaves none. With `dry_run=true` nothing is written: the model is resolved, the first page of the input is listed, the first
/// records are run, and the answer shows their predictions, how the columns bind and what stands in the job's way.
///
/// Cancel, pause and resume need no key: they ask for a state.
#[utoipa::path(
    post, path = "/v1/jobs", tag = "jobs",
    params(
        ("dry_run" = Option<bool>, Query, description = "Answer what the job would do, and write nothing", example = false),
        ("records" = Option<u64>, Query, description = "Records that a dry run looks at: 1 to 100, 10 when absent"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters, best a UUID", example = "8e03978e-40d5-43e8-bc93-6894a57f9324"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context: the job becomes part of that trace", example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ),
    request_body(content = JobDefinition, examples(
        ("shortest" = (summary = "Three fields", value = json!({"model": "s3://models/fraud/", "input": "s3://lake/tx/2026-11-23/", "output": "s3://lake/scores/2026-11-23/"}))),
        ("full" = (summary = "Everything", value = json!({
            "name": "fraud-2026-11-23", "labels": {"team": "risk"},
            "model": {"uri": "s3://models/fraud/"},
            "input": {"uri": "s3://lake/tx/2026-11-23/", "format": "auto", "compression": "auto", "include": ["**/*.parquet"], "exclude": [], "csv": {"delimiter": ",", "header": true}},
            "output": {"uri": "s3://lake/scores/2026-11-23/", "format": "parquet", "compression": "none", "include_input": ["id", "amount"], "prediction_prefix": "predicted_"},
            "pipeline": {"task": "tabular-classification", "features": ["amount", "age"], "missing": "nan", "labels": ["ok", "fraud"], "probabilities": true},
            "execution": {"batch_size": "auto", "chunk_records": 100_000, "priority": 10, "max_parallel_chunks": 8, "max_attempts": 4, "deadline": "6h", "providers": ["cpu"]},
            "error_policy": {"max_failed_records": 1000, "max_failed_ratio": 0.01},
            "budget": {"max_cost": 5.0},
            "webhook": {"url": "https://hooks.example.com/nightshift", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "events": ["job.completed", "job.failed"]}
        })))
    )),
    responses(
        (status = 200, description = "A dry run: what the job would do", body = DryRun, example = json!(examples::dry_run())),
        (status = 202, description = "Accepted, durably", body = JobBody, headers(
            ("Location" = String, description = "The job's address"),
            ("Idempotency-Replayed" = String, description = "`true` when the job was made by an earlier request with the same key")
        ), example = json!(examples::queued())),
        (status = 400, description = "Not JSON", body = ApiProblem, content_type = "application/problem+json"),
        (status = 409, description = "The output prefix is claimed by another job or holds its output", body = ApiProblem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ApiProblem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON by its content type", body = ApiProblem, content_type = "application/problem+json"),
        (status = 422, description = "The definition has faults, the model cannot be used, or the key was used with another body", body = ApiProblem, content_type = "application/problem+json"),
        (status = 429, description = "Too many jobs are being submitted; `Retry-After` says when to try again", body = ApiProblem, content_type = "application/problem+json"),
        (status = 503, description = "A store or the database did not answer", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn submit(
    State(state): State<ApiState>,
    headers: HeaderMap,
    query: Query,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiProblem> {
    query.only(&["dry_run", "records"])?;
    let dry = query.parsed("dry_run", "give true or false", |text| text.parse().ok())?;
    let most = dry_run::MOST_RECORDS;
    let records = query
        .parsed("records", &format!("give a whole number from 1 to {most}"), |text| text.parse().ok().filter(|n| (1..=most).contains(n)))?;
    let dry = dry_run::requested(dry, records)?;
    let definition = self::definition(&headers, sent)?;
    if let Some(records) = dry {
        return Ok(dry_run::dry_run(&state, &definition, records).await?.into_response());
    }
    let key = idempotency::key(&headers, &definition)?;
    let trace = headers.get("traceparent").map(|header| {
        let parsed = header.to_str().ok().and_then(TraceParent::parse);
        if parsed.is_none() {
            tracing::debug!(?header, "traceparent is invalid and counts as one that is not there");
        }
        parsed
    });
    let submitted = submit::submit(&state, &definition, key, trace.flatten()).await?;
    let (Submitted::New(job) | Submitted::Replay(job)) = &submitted;
    let location = format!("/v1/jobs/{}", job.id);
    let mut answer = (StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(JobBody::new(job))).into_response();
    if matches!(submitted, Submitted::Replay(_)) {
        answer.headers_mut().insert(idempotency::REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(answer)
}

/// A definition as it was sent.
pub(super) fn definition(headers: &HeaderMap, sent: Result<Bytes, BytesRejection>) -> Result<Value, ApiProblem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json");
    let is_json = kind.split(';').next().is_some_and(|k| k.trim() == "application/json" || k.trim().ends_with("+json"));
    // What curl sends when nobody says otherwise.
    if !is_json && !kind.starts_with("application/x-www-form-urlencoded") {
        return Err(ApiProblem::unsupported_media_type(format!("the body is {kind}; send application/json")));
    }
    let sent = sent.map_err(|e| match e.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiProblem::too_large("a definition has at most 1 MiB"),
        _ => ApiProblem::malformed(e.to_string()),
    })?;
    body::parse(&sent)
}

/// List jobs
///
/// Newest first.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs",
    params(
        ("state" = Option<String>, Query, description = "Only jobs in this state", example = "in_progress"),
        ("label.{key}" = Option<String>, Query, description = "Only jobs with this label; may be given for several keys", example = "risk"),
        ("schedule" = Option<String>, Query, description = "Only jobs that this schedule made", example = "sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073"),
        ("created_after" = Option<String>, Query, description = "Only jobs accepted later than this (RFC 3339)", example = "2026-11-23T00:00:00Z"),
        ("created_before" = Option<String>, Query, description = "Only jobs accepted earlier than this (RFC 3339)", example = "2026-11-24T00:00:00Z"),
        ("limit" = Option<u32>, Query, description = "Jobs in a page: 1 to 200, 50 when absent", example = 50),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = JobPage, example = json!(examples::jobs())),
        (status = 422, description = "A parameter is wrong", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(State(state): State<ApiState>, query: Query) -> Result<Json<JobPage>, ApiProblem> {
    const TIME: &str = "give a time as RFC 3339 writes it, such as 2026-11-23T02:00:00Z; in a URL, + is written %2B";
    query.only(&["state", "limit", "cursor", "label.", "schedule", "created_after", "created_before"])?;
    let limit = query.limit(50, 200)?;
    let states = JobState::ALL.map(JobState::name).join(", ");
    let filter = JobFilter {
        state: query.parsed("state", &format!("one of {states}"), JobState::parse)?,
        labels: query.with_prefix("label.").collect(),
        schedule: query.parsed("schedule", "give the id of a schedule", ScheduleId::parse)?,
        created_after: query.parsed("created_after", TIME, Timestamp::parse)?,
        created_before: query.parsed("created_before", TIME, Timestamp::parse)?,
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
    let wait = query
        .parsed("wait", "a span from 1s to 60s", |text| time::parse_span(text).map(Duration::from_secs).filter(|wait| *wait <= MAX_WAIT))?;
    let id = parse_id(&id)?;
    if wait.is_none()
        && state.answers.has(&id)
        && let Some(version) = state.store.job_version(&id).await?
        && let Some(answer) = state.answers.find(&id, version)
    {
        return Ok(answer.to(&headers));
    }
    let (job, version) = ended_by(&state, &id, Instant::now() + wait.unwrap_or_default()).await?;
    let answer = Answer::new(&etag(&job), &JobBody::new(&job))?;
    if let Some(version) = version {
        state.answers.keep(id, version, answer.clone());
    }
    Ok(answer.to(&headers))
}

/// A job that has ended, or as it is at the deadline, and its version.
async fn ended_by(state: &ApiState, id: &JobId, deadline: Instant) -> Result<(Job, Option<i64>), ApiProblem> {
    let (mut apart, mut before) = (DEBOUNCE.0, None);
    loop {
        // Subscribed before looking. Chunks ring as well as ends: what rings together is looked at once.
        let rung = state.wake.notified();
        tokio::pin!(rung);
        rung.as_mut().enable();
        let (job, version) = state.store.versioned_job(id).await?.ok_or_else(|| missing(id.as_str()))?;
        let now = Instant::now();
        if job.state.is_final() || now >= deadline {
            return Ok((job, version));
        }
        if job.state == JobState::Finalizing && before != Some(JobState::Finalizing) {
            // What rings next is most likely its end.
            apart = DEBOUNCE.0;
        }
        before = Some(job.state);
        let pause = deadline.min(now + apart);
        apart = DEBOUNCE.1.min(apart * 2);
        tokio::select! {
            () = rung => tokio::time::sleep_until(pause.into()).await,
            () = tokio::time::sleep(LOOK) => {}
            () = tokio::time::sleep_until(deadline.into()) => {}
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

pub(super) fn parse_id(id: &str) -> Result<JobId, ApiProblem> {
    JobId::parse(id).ok_or_else(|| missing(id))
}

pub(super) fn missing(id: &str) -> ApiProblem {
    ApiProblem::not_found(format!("there is no job {id:?}"))
}

/// Changes with what is durable of the job, and not with the time that passes: weak, as the body tells that time.
fn etag(job: &Job) -> String {
    let mut digest = Sha256::new();
    digest.update(format!("{:?} {:?} {:?} {:?} {:?} ", job.state, job.counts, job.started_at, job.finished_at, job.plan.done));
    let (breaks, waits, estimated) = (&job.breaks, &job.waits, job.estimate.is_some());
    digest.update(format!("{:?} {:?} {breaks:?} {waits:?} {estimated} {}", job.ending, job.error, job.usage.device_seconds));
    let hex: String = digest.finalize().iter().take(12).map(|b| format!("{b:02x}")).collect();
    format!("W/\"{hex}\"")
}
