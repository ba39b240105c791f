//! `/v1/jobs/{id}/cancel`, `pause`, `resume`, `retry`: jobs that stop and go on.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{
    ApiState, examples,
    jobs::{find, missing, parse_id},
    problem::ApiProblem,
    query::Query,
    request::PathOf,
    submit::{self, occupied},
    types::JobBody,
};
use crate::{
    db::{Changed, Retried},
    domain::{Job, names::MANIFEST},
    execute::manifest::Manifest,
    objects,
};

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
    changed(&state, state.store.cancel_job(&id).await?, id.as_str(), ("cancelling", "cancelled"))
}

/// Pause a job
///
/// No chunk is begun any more and its input is not listed further; chunks that run go on and are kept. Pausing a paused job changes
/// nothing. A deadline goes on counting.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/pause", tag = "jobs",
    params(("id" = String, Path, description = "The job", example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071")),
    responses(
        (status = 202, description = "It is paused", body = JobBody, example = json!(examples::paused())),
        (status = 404, description = "No such job", body = ApiProblem, content_type = "application/problem+json"),
        (status = 409, description = "It has ended already, or is about to", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn pause(State(state): State<ApiState>, PathOf(id): PathOf<String>, query: Query) -> Result<Response, ApiProblem> {
    query.only(&[])?;
    let id = parse_id(&id)?;
    changed(&state, state.store.pause_job(&id).await?, id.as_str(), ("paused", "paused"))
}

/// Resume a job
///
/// The job goes on where it stood. Resuming a job that runs changes nothing.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/resume", tag = "jobs",
    params(("id" = String, Path, description = "The job", example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071")),
    responses(
        (status = 202, description = "It goes on", body = JobBody, example = json!(examples::queued())),
        (status = 404, description = "No such job", body = ApiProblem, content_type = "application/problem+json"),
        (status = 409, description = "It has ended already, or is about to", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn resume(State(state): State<ApiState>, PathOf(id): PathOf<String>, query: Query) -> Result<Response, ApiProblem> {
    query.only(&[])?;
    let id = parse_id(&id)?;
    changed(&state, state.store.resume_job(&id).await?, id.as_str(), ("resumed", "resumed"))
}

/// Retry a job
///
/// Runs again, in the same job, what came to nothing: of a failed, cancelled or expired job the chunks that are not done; of a completed
/// job, and of one that failed because too many records did, the chunks with error rows as well. Until the job ends, the manifest
/// and the parts that it names stay as they are. A deadline that has passed counts anew. While the job runs, another retry is refused:
/// it needs no `Idempotency-Key`.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/retry", tag = "jobs",
    params(("id" = String, Path, description = "The job", example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071")),
    responses(
        (status = 202, description = "It runs again", body = JobBody, example = json!(examples::queued())),
        (status = 404, description = "No such job", body = ApiProblem, content_type = "application/problem+json"),
        (status = 409, description = "It has not ended, nothing of it failed, its output prefix is another job's now, or it reads what is new to a schedule of which another job is not over", body = ApiProblem, content_type = "application/problem+json"),
        (status = 503, description = "A store or the database did not answer", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn retry(State(state): State<ApiState>, PathOf(id): PathOf<String>, query: Query) -> Result<Response, ApiProblem> {
    query.only(&[])?;
    let job = find(&state, &id).await?;
    if job.state.is_final() {
        check_output_is_its_own(&state, &job).await?;
    }
    match state.store.retry_job(&job.id).await? {
        Retried::Job(job) => Ok(accepted(&state, &job, "retrying")),
        Retried::Missing => Err(missing(&id)),
        Retried::Conflict(conflict) => {
            let detail = format!("{id} is {}: only a job that has ended can be retried", conflict.state.name());
            Err(wrong_state(detail))
        }
        Retried::Nothing => {
            let detail = format!("{id} is completed and every record has a prediction; submit a new job to run it again");
            Err(ApiProblem::conflict("nothing_to_retry", "There is nothing to retry", detail))
        }
        Retried::Overlaps { by } => {
            let detail = format!("{by} of the same schedule is not over, and both read what is new to it; retry {id} when it is");
            Err(ApiProblem::conflict(submit::OVERLAP, "Another job is not over", detail))
        }
        Retried::OutputClaimed { by, uri } => Err(ApiProblem::output_claimed(&by, &uri)),
    }
}

/// What is being done, for the log, and what it comes to, for the answer.
fn changed(state: &ApiState, changed: Changed, id: &str, (doing, done): (&'static str, &str)) -> Result<Response, ApiProblem> {
    match changed {
        Changed::Job(job) => Ok(accepted(state, &job, doing)),
        Changed::Missing => Err(missing(id)),
        Changed::Conflict(conflict) => Err(wrong_state(format!("{id} is {} and cannot be {done}", conflict.state.name()))),
    }
}

fn accepted(state: &ApiState, job: &Job, what: &'static str) -> Response {
    tracing::info!(job.id = %job.id, state = job.state.name(), "{what} {}", job.id);
    state.wake.notify_waiters();
    (StatusCode::ACCEPTED, Json(JobBody::new(job))).into_response()
}

fn wrong_state(detail: String) -> ApiProblem {
    ApiProblem::conflict("wrong_state", "The job's state does not allow this", detail)
}

/// While a job is over, another may have used its prefix and ended: finalising would take that one's parts for leftovers.
async fn check_output_is_its_own(state: &ApiState, job: &Job) -> Result<(), ApiProblem> {
    let output = &job.spec.output.uri;
    match state.stores.open(output)?.read_all(output.join(MANIFEST).path()).await {
        Ok(bytes) => match Manifest::parse(&bytes) {
            Ok(manifest) if manifest.job == job.id => Ok(()),
            _ => Err(occupied(output, MANIFEST)),
        },
        Err(objects::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
