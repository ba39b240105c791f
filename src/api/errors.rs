//! `/v1/jobs/{id}/errors`: error rows, paged, out of the committed chunks' own files.

use axum::{Json, extract::State};
use serde_json::Value;

use super::{ApiState, jobs, problem::ApiProblem, query::Query, request::PathOf, types::ErrorPage};

/// Chunks read at a time; most have no error rows.
const PAGE_CHUNKS: u32 = 500;

/// List a job's error rows
///
/// Every record without a prediction, in input order: where it came from, what was wrong with it.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/errors", tag = "results",
    params(
        ("id" = String, Path, description = "The job", example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071"),
        ("limit" = Option<u32>, Query, description = "Rows in a page: 1 to 1000, 100 when absent", example = 100),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = ErrorPage, example = json!({"items": [{"_source": "tx/0.csv", "_position": 1042, "stage": "featurize", "code": "invalid_number", "detail": "column \"amount\": \"12,5\" is no number for an input of FP32"}], "next_cursor": null})),
        (status = 404, description = "No such job", body = ApiProblem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter is wrong", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(State(state): State<ApiState>, PathOf(id): PathOf<String>, query: Query) -> Result<Json<ErrorPage>, ApiProblem> {
    query.only(&["limit", "cursor"])?;
    let limit = query.limit(100, 1000)? as usize;
    let cursor = query.parsed("cursor", "give next_cursor of the page before", |text| {
        let (seq, row) = text.split_once('.')?;
        Some((seq.parse::<u64>().ok()?, row.parse::<usize>().ok()?))
    })?;
    let (mut seq, mut skip) = cursor.unwrap_or_default();
    let job = jobs::find(&state, &id).await?;
    let bucket = state.stores.open(&job.spec.output.uri)?;
    let mut items: Vec<Value> = Vec::new();
    loop {
        let chunks = state.store.chunks(&job.id, seq, PAGE_CHUNKS).await?;
        let Some(last) = chunks.last().map(|c| c.id.seq) else { return Ok(Json(ErrorPage { items, next_cursor: None })) };
        for chunk in &chunks {
            let from = if chunk.id.seq == seq { skip } else { 0 };
            let Some(file) = chunk.result.as_ref().and_then(|r| r.errors.as_ref()) else { continue };
            let bytes = bucket.read_all(job.spec.output.uri.join(&file.key).path()).await?;
            for (row, line) in bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).enumerate().skip(from) {
                if items.len() == limit {
                    return Ok(Json(ErrorPage { items, next_cursor: Some(format!("{}.{row}", chunk.id.seq)) }));
                }
                items.push(serde_json::from_slice(line).map_err(|e| ApiProblem::internal(&format!("{}: {e}", file.key)))?);
            }
        }
        (seq, skip) = (last + 1, 0);
    }
}
