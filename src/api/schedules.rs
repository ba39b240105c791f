//! `/v1/schedules`: create, list, get, change, delete, pause, resume, run, history.

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;

use super::{
    ApiState, fires, jobs,
    problem::ApiProblem,
    query::Query,
    request::PathOf,
    schedule_body::{RunBody, RunPage, ScheduleBody, ScheduleDefinition, SchedulePage, SchedulePreview, next_fires},
    schedule_definition, schedule_examples as examples,
};
use crate::{
    db::{NewSchedule, NextFire, ScheduleChange, ScheduleFilter},
    domain::{Fault, Schedule, ScheduleId, ScheduleSpec, Timestamp, schedule::Kept},
};

/// How often a change is tried against others that are made at the same time.
const TRIES: usize = 5;

/// Create a schedule
///
/// The job's placeholders are filled in for the next fire and the result is read as that of `POST /v1/jobs` is; model and output are looked
/// at when the fire comes. Every fault is listed at once. With `dry_run=true` nothing is written, and the answer has the next ten fires.
///
/// A fire makes one job, on whichever node and however often they are restarted. One that cannot make a job is listed under `runs` with
/// its problem, and the schedule goes on; where a store or the database does not answer it is tried again for about half an hour, and one
/// whose job takes half an hour to accept fails.
#[utoipa::path(
    post, path = "/v1/schedules", tag = "schedules",
    params(("dry_run" = Option<bool>, Query, description = "Answer with the next ten fires, and write nothing", example = false)),
    request_body(content = ScheduleDefinition, examples(("nightly" = (summary = "Each night, what came the day before", value = json!(examples::definition()))))),
    responses(
        (status = 200, description = "A dry run: the next fires", body = SchedulePreview, example = json!(examples::preview())),
        (status = 201, description = "Kept", body = ScheduleBody, headers(("Location" = String, description = "The schedule's address")), example = json!(examples::schedule())),
        (status = 400, description = "Not JSON", body = ApiProblem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = ApiProblem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON by its content type", body = ApiProblem, content_type = "application/problem+json"),
        (status = 422, description = "The definition has faults", body = ApiProblem, content_type = "application/problem+json"),
        (status = 503, description = "The database did not answer", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn create(
    State(state): State<ApiState>,
    headers: HeaderMap,
    query: Query,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiProblem> {
    query.only(&["dry_run"])?;
    let dry = query.parsed("dry_run", "give true or false", |text| text.parse().ok())?.unwrap_or(false);
    let definition = jobs::definition(&headers, sent)?;
    let now = state.store.now().await?;
    let (spec, paused, next) = read(&state, &definition, now).await?;
    if dry {
        let (parents, _) = fires::parents(&state, &spec.job.0).await?;
        return Ok(Json(SchedulePreview { next_fires: next_fires(&spec, now, &parents) }).into_response());
    }
    let new = NewSchedule { id: ScheduleId::generate(), spec, next_at: Some(next), paused };
    let schedule = state.store.create_schedule(new).await?;
    tracing::info!(schedule.id = %schedule.id, "keeping schedule {}", schedule.id);
    let location = format!("/v1/schedules/{}", schedule.id);
    let body = body(&state, &schedule, &mut Some(now)).await?;
    state.wake.notify_waiters();
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(body)).into_response())
}

/// Reads a definition whole, and holds it against its next fire.
async fn read(state: &ApiState, definition: &Value, now: Timestamp) -> Result<(ScheduleSpec, bool, Timestamp), ApiProblem> {
    let (spec, paused) = match schedule_definition::read(definition) {
        Ok(read) => read,
        // What is wrong with the job is said with the rest, as far as it does not depend on the rest.
        Err(mut faults) => {
            let known = |pointer: &str| faults.iter().any(|fault| fault.pointer == pointer);
            let rest = serde_json::json!({
                "name": "x", "cron": "0 0 * * *", "job": definition.get("job").filter(|_| !known("/job")),
                "wait_for": definition.get("wait_for").filter(|_| !known("/wait_for")),
            });
            if let Ok((spec, _)) = schedule_definition::read(&rest) {
                faults.extend(fires::check(state, &spec, now).await?);
            }
            return Err(ApiProblem::faults(faults));
        }
    };
    let next = spec.next(now);
    let mut faults = fires::check(state, &spec, next.unwrap_or(now)).await?;
    if next.is_none() {
        let (pointer, detail) = match spec.end_at {
            Some(end) => ("/end_at", format!("no fire comes by {end}")),
            None => ("/cron", format!("{:?} names no time of the next nine years", spec.cron.as_str())),
        };
        faults.push(Fault::new(pointer, "never_fires", detail).hint("give it a fire that is to come"));
    }
    match next.filter(|_| faults.is_empty()) {
        Some(next) => Ok((spec, paused, next)),
        None => Err(ApiProblem::faults(faults)),
    }
}

/// As it was found, whether it can be read or not.
async fn found(state: &ApiState, kept: &Kept, now: &mut Option<Timestamp>) -> Result<ScheduleBody, ApiProblem> {
    match kept {
        Kept::Whole(schedule) => body(state, schedule, now).await,
        Kept::Broken(broken) => Ok(ScheduleBody::broken(broken)),
    }
}

/// `now` is asked for once for several.
async fn body(state: &ApiState, schedule: &Schedule, now: &mut Option<Timestamp>) -> Result<ScheduleBody, ApiProblem> {
    let now = match now {
        Some(now) => *now,
        None => *now.insert(state.store.now().await?),
    };
    let (parents, _) = fires::parents(state, &schedule.spec.job.0).await?;
    Ok(ScheduleBody::new(schedule, now, &parents))
}

/// List schedules
///
/// Newest first.
#[utoipa::path(
    get, path = "/v1/schedules", tag = "schedules",
    params(
        ("limit" = Option<u32>, Query, description = "Schedules in a page: 1 to 200, 50 when absent", example = 50),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = SchedulePage, example = json!(examples::schedules())),
        (status = 422, description = "A parameter is wrong", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(State(state): State<ApiState>, query: Query) -> Result<Json<SchedulePage>, ApiProblem> {
    query.only(&["limit", "cursor"])?;
    let limit = query.limit(50, 200)?;
    let before = query.parsed("cursor", "give next_cursor of the page before", ScheduleId::parse)?;
    let mut schedules = state.store.schedules(&ScheduleFilter { before, limit: limit + 1 }).await?;
    let more = schedules.len() > limit as usize;
    schedules.truncate(limit as usize);
    let last = schedules.last().map(|kept| match kept {
        Kept::Whole(schedule) => schedule.id.to_string(),
        Kept::Broken(broken) => broken.id.clone(),
    });
    let next_cursor = last.filter(|_| more);
    let (mut items, mut now) = (Vec::new(), None);
    for schedule in &schedules {
        items.push(found(&state, schedule, &mut now).await?);
    }
    Ok(Json(SchedulePage { items, next_cursor }))
}

/// Get a schedule
#[utoipa::path(
    get, path = "/v1/schedules/{id}", tag = "schedules",
    params(("id" = String, Path, description = "The schedule", example = "sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073")),
    responses(
        (status = 200, description = "The schedule", body = ScheduleBody, example = json!(examples::schedule())),
        (status = 404, description = "No such schedule", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn get(State(state): State<ApiState>, PathOf(id): PathOf<String>, query: Query) -> Result<Json<ScheduleBody>, ApiProblem> {
    query.only(&[])?;
    let kept = find(&state, &id).await?;
    found(&state, &kept, &mut None).await.map(Json)
}

/// Change a schedule
///
/// By JSON Merge Patch (RFC 7396): fields that are given take the place of those that were, `null` removes one, and what the job says is
/// changed field by field. The result is read as a new definition is. A fire that has come is not lost, unless `cron` or `time_zone` changes.
#[utoipa::path(
    patch, path = "/v1/schedules/{id}", tag = "schedules",
    params(("id" = String, Path, description = "The schedule", example = "sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073")),
    request_body(content = Object, description = "The fields to change", example = json!({"cron": "30 3 * * *", "job": {"execution": {"priority": 10}}})),
    responses(
        (status = 200, description = "As it is now", body = ScheduleBody, example = json!(examples::schedule())),
        (status = 400, description = "Not JSON", body = ApiProblem, content_type = "application/problem+json"),
        (status = 404, description = "No such schedule", body = ApiProblem, content_type = "application/problem+json"),
        (status = 409, description = "Others kept changing it at the same time, or it is broken", body = ApiProblem, content_type = "application/problem+json"),
        (status = 422, description = "The definition would have faults", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn change(
    State(state): State<ApiState>,
    PathOf(id): PathOf<String>,
    headers: HeaderMap,
    query: Query,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Json<ScheduleBody>, ApiProblem> {
    query.only(&[])?;
    let patch = jobs::definition(&headers, sent)?;
    let schedule = changed(&state, &id, &patch).await?;
    tracing::info!(schedule.id = %schedule.id, "changed {}", schedule.id);
    body(&state, &schedule, &mut None).await.map(Json)
}

/// Applies a patch to a schedule, as it is when nobody else changes it.
async fn changed(state: &ApiState, id: &str, patch: &Value) -> Result<Schedule, ApiProblem> {
    for _ in 0..TRIES {
        let schedule = find_whole(state, id).await?;
        let now = state.store.now().await?;
        let mut definition = schedule_definition::write(&schedule.spec, schedule.paused_at.is_some());
        schedule_definition::merge(&mut definition, patch);
        let (spec, paused, next) = read(state, &definition, now).await?;
        let known = &schedule.spec;
        let same = spec.cron == known.cron && spec.time_zone == known.time_zone && spec.end_at == known.end_at;
        // Whoever was paused goes on with what is to come.
        let kept = same && schedule.paused_at.is_none() && schedule.next_at.is_some();
        let next = if kept { NextFire::Kept } else { NextFire::At(Some(next)) };
        let change = ScheduleChange { spec, paused, next };
        if let Some(schedule) = state.store.change_schedule(&schedule.id, schedule.revision, change).await? {
            state.wake.notify_waiters();
            return Ok(schedule);
        }
    }
    Err(changed_meanwhile(id))
}

/// Delete a schedule
///
/// With its history and the record of what it covered. Its jobs stay, and those that run go on. A job with `only_new` whose input is not
/// listed to the end, because it waits or has just begun, is cancelled with the error `schedule_deleted`: what is new to it cannot be told
/// any more. To let it end first, pause the schedule, and delete it then.
#[utoipa::path(
    delete, path = "/v1/schedules/{id}", tag = "schedules",
    params(("id" = String, Path, description = "The schedule", example = "sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073")),
    responses(
        (status = 200, description = "As it was", body = ScheduleBody, example = json!(examples::schedule())),
        (status = 404, description = "No such schedule", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn delete(
    State(state): State<ApiState>,
    PathOf(id): PathOf<String>,
    query: Query,
) -> Result<Json<ScheduleBody>, ApiProblem> {
    query.only(&[])?;
    let kept = find(&state, &id).await?;
    let body = found(&state, &kept, &mut None).await?;
    if !state.store.delete_schedule(&parse_id(&id)?).await? {
        return Err(missing(&id));
    }
    tracing::info!(schedule.id = id, "deleted {id}");
    Ok(Json(body))
}

/// Pause a schedule
///
/// No fire comes until it is resumed; fires that wait for their job are skipped. Jobs that run go on. Pausing a paused schedule changes nothing.
#[utoipa::path(
    post, path = "/v1/schedules/{id}/pause", tag = "schedules",
    params(("id" = String, Path, description = "The schedule", example = "sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073")),
    responses(
        (status = 202, description = "It is paused", body = ScheduleBody, example = json!(examples::paused())),
        (status = 404, description = "No such schedule", body = ApiProblem, content_type = "application/problem+json"),
        (status = 409, description = "Others kept changing it at the same time, or it is broken", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn pause(State(state): State<ApiState>, PathOf(id): PathOf<String>, query: Query) -> Result<Response, ApiProblem> {
    query.only(&[])?;
    steer(&state, &id, true).await
}

/// Resume a schedule
///
/// It goes on with the next fire; those that would have come while it was paused are not made up for.
#[utoipa::path(
    post, path = "/v1/schedules/{id}/resume", tag = "schedules",
    params(("id" = String, Path, description = "The schedule", example = "sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073")),
    responses(
        (status = 202, description = "It goes on", body = ScheduleBody, example = json!(examples::schedule())),
        (status = 404, description = "No such schedule", body = ApiProblem, content_type = "application/problem+json"),
        (status = 409, description = "Others kept changing it at the same time, or it is broken", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn resume(State(state): State<ApiState>, PathOf(id): PathOf<String>, query: Query) -> Result<Response, ApiProblem> {
    query.only(&[])?;
    steer(&state, &id, false).await
}

async fn steer(state: &ApiState, id: &str, paused: bool) -> Result<Response, ApiProblem> {
    for _ in 0..TRIES {
        let schedule = find_whole(state, id).await?;
        if schedule.paused_at.is_some() == paused {
            return Ok((StatusCode::ACCEPTED, Json(body(state, &schedule, &mut None).await?)).into_response());
        }
        // Its template is not looked at again: what cannot make a job any more can be paused all the same.
        let next = if paused { NextFire::Kept } else { NextFire::At(schedule.spec.next(state.store.now().await?)) };
        let change = ScheduleChange { spec: schedule.spec.clone(), paused, next };
        if state.store.change_schedule(&schedule.id, schedule.revision, change).await?.is_some() {
            tracing::info!(schedule.id = %schedule.id, "{} {}", if paused { "pausing" } else { "resuming" }, schedule.id);
            state.wake.notify_waiters();
        }
    }
    Err(changed_meanwhile(id))
}

fn changed_meanwhile(id: &str) -> ApiProblem {
    ApiProblem::conflict("changed_meanwhile", "Others change this at the same time", format!("{id} was changed; look at it and try again"))
}

/// Run a schedule now
///
/// Makes a fire of this moment, also of a schedule that is paused or has ended. `overlap` counts for it as for every other.
#[utoipa::path(
    post, path = "/v1/schedules/{id}/run", tag = "schedules",
    params(("id" = String, Path, description = "The schedule", example = "sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073")),
    responses(
        (status = 202, description = "The fire; its job is made next", body = RunBody, example = json!(examples::manual())),
        (status = 404, description = "No such schedule", body = ApiProblem, content_type = "application/problem+json"),
        (status = 409, description = "It is broken", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn run(State(state): State<ApiState>, PathOf(id): PathOf<String>, query: Query) -> Result<Response, ApiProblem> {
    query.only(&[])?;
    let schedule = find_whole(&state, &id).await?;
    let run = state.store.run_now(&schedule.id).await?.ok_or_else(|| missing(&id))?;
    tracing::info!(schedule.id = id, "running {id} now");
    state.wake.notify_waiters();
    Ok((StatusCode::ACCEPTED, Json(RunBody::new(&run))).into_response())
}

/// List a schedule's fires
///
/// Latest first, with the job that each made, or why it made none. The latest ten thousand are kept at least.
#[utoipa::path(
    get, path = "/v1/schedules/{id}/runs", tag = "schedules",
    params(
        ("id" = String, Path, description = "The schedule", example = "sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073"),
        ("limit" = Option<u32>, Query, description = "Fires in a page: 1 to 1000, 100 when absent", example = 100),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = RunPage, example = json!(examples::runs())),
        (status = 404, description = "No such schedule", body = ApiProblem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter is wrong", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn runs(State(state): State<ApiState>, PathOf(id): PathOf<String>, query: Query) -> Result<Json<RunPage>, ApiProblem> {
    query.only(&["limit", "cursor"])?;
    let limit = query.limit(100, 1000)?;
    let before = query.parsed("cursor", "give next_cursor of the page before", Timestamp::parse)?;
    find(&state, &id).await?;
    let mut runs = state.store.runs(&parse_id(&id)?, before, limit + 1).await?;
    let more = runs.len() > limit as usize;
    runs.truncate(limit as usize);
    let next_cursor = more.then(|| runs.last().map(|run| run.fire_time.to_string())).flatten();
    Ok(Json(RunPage { items: runs.iter().map(RunBody::new).collect(), next_cursor }))
}

async fn find(state: &ApiState, id: &str) -> Result<Kept, ApiProblem> {
    state.store.schedule(&parse_id(id)?).await?.ok_or_else(|| missing(id))
}

/// A schedule that something is to be done with.
async fn find_whole(state: &ApiState, id: &str) -> Result<Schedule, ApiProblem> {
    match find(state, id).await? {
        Kept::Whole(schedule) => Ok(*schedule),
        Kept::Broken(broken) => {
            let problem = broken.problem();
            Err(ApiProblem::conflict(&problem.code, "The schedule cannot be read", problem.detail))
        }
    }
}

fn parse_id(id: &str) -> Result<ScheduleId, ApiProblem> {
    ScheduleId::parse(id).ok_or_else(|| missing(id))
}

fn missing(id: &str) -> ApiProblem {
    ApiProblem::not_found(format!("there is no schedule {id:?}"))
}
