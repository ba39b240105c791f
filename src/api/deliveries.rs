//! `/v1/webhook-deliveries`: list, get, replay.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{ApiState, examples, problem::ApiProblem, query::Query, request::PathOf};
use crate::{
    db::{DeliveryFilter, DeliveryRecord},
    domain::{Attempt, Delivery, DeliveryId, DeliveryState, JobId},
};

/// One event's way to one receiver.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeliveryBody {
    /// `whd_` and a UUIDv7.
    #[schema(example = "whd_019ac2f7b0f47e0f8a1b2c3d4e5f6072")]
    id: String,
    /// The job that it tells of.
    job: String,
    /// What it tells.
    event: &'static str,
    /// The `webhook-id` header: the same for every attempt, for replays, and for every receiver of the event.
    webhook_id: String,
    /// The configured endpoint it goes to; null for the job's own webhook.
    endpoint: Option<String>,
    /// Where it goes.
    url: String,
    /// What has become of it.
    state: &'static str,
    /// Attempts so far, over all replays.
    attempt_count: u32,
    /// The last of them.
    last_attempt: Option<AttemptBody>,
    /// When it is tried next, or is being tried; RFC 3339, UTC. Null unless it is pending.
    next_attempt_at: Option<String>,
    /// RFC 3339, UTC.
    created_at: String,
    /// RFC 3339, UTC; null while it is pending.
    finished_at: Option<String>,
    /// The latest hundred, oldest first; only where one delivery is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<Vec<AttemptBody>>,
    /// What is sent, the same for every attempt; only where one delivery is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    payload: Option<Value>,
}

/// One attempt at a delivery.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AttemptBody {
    /// From 1, over all replays.
    number: u32,
    /// When it began; RFC 3339, UTC.
    at: String,
    /// The HTTP status; null when there was no answer.
    status: Option<u16>,
    /// Why it was no success, in words.
    error: Option<String>,
    /// How long it took.
    latency_seconds: f64,
}

/// A page of deliveries, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DeliveryPage {
    /// The deliveries.
    pub(super) items: Vec<DeliveryBody>,
    /// Give it as `cursor` to get the next page; absent on the last.
    pub(super) next_cursor: Option<String>,
}

impl DeliveryBody {
    pub(super) fn new(delivery: &Delivery) -> Self {
        let pending = delivery.state == DeliveryState::Pending;
        Self {
            id: delivery.id.to_string(),
            job: delivery.job.to_string(),
            event: delivery.kind.name(),
            webhook_id: delivery.message_id.clone(),
            endpoint: delivery.endpoint.clone(),
            url: delivery.url.to_string(),
            state: delivery.state.name(),
            attempt_count: delivery.attempts,
            last_attempt: delivery.last.as_ref().map(AttemptBody::new),
            next_attempt_at: pending.then(|| delivery.next_at.to_string()),
            created_at: delivery.created_at.to_string(),
            finished_at: delivery.finished_at.map(|t| t.to_string()),
            attempts: None,
            payload: None,
        }
    }

    pub(super) fn in_full(record: &DeliveryRecord) -> serde_json::Result<Self> {
        Ok(Self {
            attempts: Some(record.attempts.iter().map(AttemptBody::new).collect()),
            payload: Some(serde_json::from_str(&record.body)?),
            ..Self::new(&record.delivery)
        })
    }
}

impl AttemptBody {
    fn new(attempt: &Attempt) -> Self {
        Self {
            number: attempt.number,
            at: attempt.at.to_string(),
            status: attempt.status,
            error: attempt.error.clone(),
            latency_seconds: attempt.latency_us as f64 / 1e6,
        }
    }
}

/// List webhook deliveries
///
/// Newest first: what was told to whom, and what came of it.
#[utoipa::path(
    get, path = "/v1/webhook-deliveries", tag = "webhooks",
    params(
        ("job" = Option<String>, Query, description = "Only those that tell of this job", example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071"),
        ("state" = Option<String>, Query, description = "Only those in this state", example = "failed"),
        ("limit" = Option<u32>, Query, description = "Deliveries in a page: 1 to 200, 50 when absent", example = 50),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = DeliveryPage, example = json!(examples::deliveries())),
        (status = 422, description = "A parameter is wrong", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(State(state): State<ApiState>, query: Query) -> Result<Json<DeliveryPage>, ApiProblem> {
    query.only(&["job", "state", "limit", "cursor"])?;
    let limit = query.limit(50, 200)?;
    let states = DeliveryState::ALL.map(DeliveryState::name).join(", ");
    let filter = DeliveryFilter {
        job: query.parsed("job", "give the id of a job", JobId::parse)?,
        state: query.parsed("state", &format!("one of {states}"), DeliveryState::parse)?,
        before: query.parsed("cursor", "give next_cursor of the page before", DeliveryId::parse)?,
        limit: limit + 1,
    };
    let mut deliveries = state.store.deliveries(&filter).await?;
    let more = deliveries.len() > limit as usize;
    deliveries.truncate(limit as usize);
    let next_cursor = more.then(|| deliveries.last().map(|d| d.id.to_string())).flatten();
    Ok(Json(DeliveryPage { items: deliveries.iter().map(DeliveryBody::new).collect(), next_cursor }))
}

/// Get a webhook delivery
///
/// With its attempts and with what is sent.
#[utoipa::path(
    get, path = "/v1/webhook-deliveries/{id}", tag = "webhooks",
    params(("id" = String, Path, description = "The delivery", example = "whd_019ac2f7b0f47e0f8a1b2c3d4e5f6072")),
    responses(
        (status = 200, description = "The delivery", body = DeliveryBody, example = json!(examples::delivery())),
        (status = 404, description = "No such delivery", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn get(State(state): State<ApiState>, PathOf(id): PathOf<String>, query: Query) -> Result<Json<DeliveryBody>, ApiProblem> {
    query.only(&[])?;
    let record = state.store.delivery(&parse_id(&id)?).await?.ok_or_else(|| missing(&id))?;
    DeliveryBody::in_full(&record).map(Json).map_err(|e| ApiProblem::internal(&format!("{id}: {e}")))
}

/// Replay a webhook delivery
///
/// Makes it due now, whatever its state, at the start of its schedule. The receiver gets the same body under the same `webhook-id`.
#[utoipa::path(
    post, path = "/v1/webhook-deliveries/{id}/replay", tag = "webhooks",
    params(("id" = String, Path, description = "The delivery", example = "whd_019ac2f7b0f47e0f8a1b2c3d4e5f6072")),
    responses(
        (status = 202, description = "It will be tried now", body = DeliveryBody, example = json!(examples::replayed())),
        (status = 404, description = "No such delivery", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn replay(State(state): State<ApiState>, PathOf(id): PathOf<String>, query: Query) -> Result<Response, ApiProblem> {
    query.only(&[])?;
    let delivery = state.store.replay_delivery(&parse_id(&id)?).await?.ok_or_else(|| missing(&id))?;
    tracing::info!(delivery.id = %delivery.id, "replaying {}", delivery.id);
    state.wake.notify_waiters();
    Ok((StatusCode::ACCEPTED, Json(DeliveryBody::new(&delivery))).into_response())
}

fn parse_id(id: &str) -> Result<DeliveryId, ApiProblem> {
    DeliveryId::parse(id).ok_or_else(|| missing(id))
}

fn missing(id: &str) -> ApiProblem {
    ApiProblem::not_found(format!("there is no webhook delivery {id:?}"))
}
