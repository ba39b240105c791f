//! `/v1/jobs/{id}/results`: the parts, where they are and their bytes.

use std::{ops::Range, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::TryStreamExt;

use super::{
    ApiState, jobs,
    problem::ApiProblem,
    query::Query,
    request::PathOf,
    types::{PartBody, Results},
};
use crate::{
    domain::{
        Chunk, ChunkId, Job, JobState, Timestamp,
        names::{self, MANIFEST},
    },
    execute::manifest::Manifest,
    objects,
};

/// Chunks read at a time for a manifest.
const MANIFEST_PAGE: u32 = 1000;
/// How long a presigned URL works.
const URL_LIFE: Duration = Duration::from_secs(3600);

/// List a job's results
///
/// Parts in input order, as soon as they are committed. In the bucket the manifest, and `_SUCCESS` after it, appear when the job is done.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/results", tag = "results",
    params(
        ("id" = String, Path, description = "The job", example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071"),
        ("limit" = Option<u32>, Query, description = "Chunks looked at for a page: 1 to 1000, 100 when absent", example = 100),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = Results, example = json!({
            "items": [{"part": 0, "uri": "s3://lake/scores/2026-11-23/part-000000-9f2c.jsonl", "url": "https://lake.example/…", "expires_at": "2026-11-23T03:00:00.000000Z", "records": 2000, "bytes": 181_034, "sha256": "c0ffee…"}],
            "manifest_url": "/v1/jobs/job_019ac2f7b0f47e0f8a1b2c3d4e5f6071/results/manifest", "next_cursor": null
        })),
        (status = 404, description = "No such job", body = ApiProblem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter is wrong", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(State(state): State<ApiState>, PathOf(id): PathOf<String>, query: Query) -> Result<Json<Results>, ApiProblem> {
    query.only(&["limit", "cursor"])?;
    let limit = query.limit(100, 1000)?;
    let from = query.parsed("cursor", "give next_cursor of the page before", |text| text.parse::<u64>().ok())?.unwrap_or_default();
    let job = jobs::find(&state, &id).await?;
    let bucket = state.stores.open(&job.spec.output.uri)?;
    let mut chunks = state.store.chunks(&job.id, from, limit + 1).await?;
    let next_cursor = chunks.get(limit as usize).map(|next| next.id.seq.to_string());
    chunks.truncate(limit as usize);
    let mut items = Vec::new();
    for chunk in &chunks {
        let Some(part) = chunk.result.as_ref().and_then(|r| r.part.as_ref()) else { continue };
        let keys = part_keys(&job, chunk);
        let uri = job.spec.output.uri.join(&keys[0]);
        let through_api = || format!("/v1/jobs/{}/results/{}", job.id, chunk.id.seq);
        // While names change, only this API finds the part at every moment.
        let moving = keys.len() > 1 && matches!(job.state, JobState::Finalizing | JobState::Cancelling);
        let signed = if moving { None } else { bucket.presign(uri.path(), URL_LIFE).await };
        let expires = signed.is_some().then(|| Timestamp(Timestamp::now().0 + URL_LIFE.as_micros() as i64).to_string());
        items.push(PartBody {
            part: chunk.id.seq,
            uri: uri.to_string(),
            url: signed.map_or_else(through_api, String::from),
            expires_at: expires,
            records: part.records,
            bytes: part.bytes,
            sha256: part.sha256.clone(),
        });
    }
    let manifest_url = format!("/v1/jobs/{}/results/manifest", job.id);
    Ok(Json(Results { items, manifest_url, next_cursor }))
}

/// Download a part or the manifest
///
/// The bytes of a part through this API, for stores that cannot presign. One `Range` of bytes is honoured.
///
/// While the job runs, `manifest` lists what is committed so far, with `complete: false`; once it has ended it is the object beside the
/// parts.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/results/{part}", tag = "results",
    params(
        ("id" = String, Path, description = "The job", example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071"),
        ("part" = String, Path, description = "The part's number, or `manifest`", example = "0"),
        ("Range" = Option<String>, Header, description = "One range of bytes", example = "bytes=0-1023"),
    ),
    responses(
        (status = 200, description = "All of it", content_type = "application/octet-stream", body = Vec<u8>, example = json!("{\"_source\":\"tx/0.csv\",\"_position\":31,\"label\":\"ok\",\"score\":0.98}\n")),
        (status = 206, description = "The range", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 404, description = "No such job or part, or it is not there yet", body = ApiProblem, content_type = "application/problem+json"),
        (status = 416, description = "The range lies outside the part", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn download(
    State(state): State<ApiState>,
    PathOf((id, part)): PathOf<(String, String)>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, ApiProblem> {
    query.only(&[])?;
    let job = jobs::find(&state, &id).await?;
    let mut names = match part.as_str() {
        // What the bucket holds of a job that runs is the end of an earlier try, if anything.
        "manifest" if !job.state.is_final() => return live_manifest(&state, &job).await,
        "manifest" => vec![MANIFEST.to_owned()],
        number => part_names(&state, &job, number).await?,
    };
    let bucket = state.stores.open(&job.spec.output.uri)?;
    let mut name = names.remove(0);
    let mut found = bucket.head(job.spec.output.uri.join(&name).path()).await;
    if let (Err(objects::Error::NotFound { .. }), Some(other)) = (&found, names.pop()) {
        name = other;
        found = bucket.head(job.spec.output.uri.join(&name).path()).await;
    }
    let uri = job.spec.output.uri.join(&name);
    let object = match found {
        // A job that wrote nothing before it ended left none.
        Err(objects::Error::NotFound { .. }) if name == MANIFEST && job.counts.chunks_done == 0 => {
            return live_manifest(&state, &job).await;
        }
        other => other?,
    };
    let range = requested(&headers, object.size)?;
    let part = range.clone().unwrap_or(0..object.size);
    let length = part.end - part.start;
    let body = Body::from_stream(bucket.stream(uri.path(), object.etag.as_deref(), part.clone()).await?.map_err(std::io::Error::other));
    let kind = if name.ends_with(".jsonl") {
        "application/x-ndjson"
    } else if name.ends_with(".json") {
        "application/json"
    } else if name.ends_with(".csv") {
        "text/csv"
    } else {
        "application/octet-stream"
    };
    let mut response = body.into_response();
    let answer = response.headers_mut();
    let mut set = |name: header::HeaderName, value: String| {
        if let Ok(value) = value.parse() {
            answer.insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, kind.to_owned());
    set(header::CONTENT_LENGTH, length.to_string());
    set(header::ACCEPT_RANGES, "bytes".to_owned());
    let file = name.rsplit('/').next().unwrap_or(&name);
    set(header::CONTENT_DISPOSITION, format!("attachment; filename=\"{file}\""));
    if range.is_some() {
        set(header::CONTENT_RANGE, format!("bytes {}-{}/{}", part.start, part.end.saturating_sub(1), object.size));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// The manifest of what is committed so far, from the database.
async fn live_manifest(state: &ApiState, job: &Job) -> Result<Response, ApiProblem> {
    let mut manifest = Manifest::new(job);
    // What a job that is about to end will say of itself is not true before its last object is written.
    manifest.complete = false;
    let mut from = 0;
    loop {
        let chunks = state.store.chunks(&job.id, from, MANIFEST_PAGE).await?;
        let Some(last) = chunks.last() else { break };
        from = last.id.seq + 1;
        chunks.iter().for_each(|chunk| manifest.push(&job.spec, chunk));
    }
    Ok(([(header::CONTENT_TYPE, "application/json")], manifest.to_json()).into_response())
}

/// Where a chunk's part may be, below the output prefix, the likelier first: layout `mirror` gives it another name when the job ends.
fn part_keys(job: &Job, chunk: &Chunk) -> Vec<String> {
    let attempt = chunk.result.iter().filter_map(|result| result.part.as_ref()).map(|part| part.key.clone());
    let mut keys: Vec<String> = attempt.chain(names::final_part(&job.spec, chunk)).collect();
    keys.dedup();
    if job.state.is_final() {
        keys.reverse();
    }
    keys
}

async fn part_names(state: &ApiState, job: &Job, number: &str) -> Result<Vec<String>, ApiProblem> {
    let missing = || ApiProblem::not_found(format!("{} has no part {number:?}, or not yet", job.id));
    let seq = number.parse().map_err(|_| missing())?;
    let chunk = state.store.chunk(&ChunkId { job: job.id.clone(), seq }).await?.ok_or_else(missing)?;
    let keys = part_keys(job, &chunk);
    if keys.is_empty() { Err(missing()) } else { Ok(keys) }
}

/// The one range of a `Range` header; `None` for none and for forms that may be ignored (RFC 9110, section 14.2).
fn requested(headers: &HeaderMap, size: u64) -> Result<Option<Range<u64>>, ApiProblem> {
    let Some(text) = headers.get(header::RANGE).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("bytes=")) else {
        return Ok(None);
    };
    let Some((first, last)) = text.split_once('-').filter(|_| !text.contains(',')) else { return Ok(None) };
    let outside = || ApiProblem::unsatisfiable_range(format!("bytes={text} of an object of {size} bytes"));
    let range = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Ok(first), Err(_)) if last.trim().is_empty() => first..size,
        (Err(_), Ok(count)) if first.trim().is_empty() && count > 0 => size.saturating_sub(count)..size,
        _ => return Ok(None),
    };
    if range.start >= size { Err(outside()) } else { Ok(Some(range)) }
}
