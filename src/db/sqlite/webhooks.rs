//! Events and the deliveries that come of them.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{AssertSqlSafe, QueryBuilder, SqlitePool};

use super::{Tx, jobs, micros, rows, rows::document};
use crate::{
    db::{
        AttemptResult, ClaimedDelivery, DeliveryFilter, DeliveryLease, DeliveryRecord, Error, MOST_ATTEMPTS, NewDelivery, PendingEvent,
        Result, Then, Written,
    },
    domain::{Delivery, DeliveryId, DeliveryState, Event, EventKind, Job, JobId, WebhookSecret, delivery::JobSnapshot},
};

/// Deliveries with their last attempt: what [`rows::delivery`] reads.
fn select(rest: &str) -> String {
    let columns = rows::DELIVERY;
    format!(
        "SELECT {columns} FROM webhook_delivery d LEFT JOIN webhook_attempt a ON a.delivery_id = d.id AND a.number = d.attempts WHERE {rest}"
    )
}

/// Writes what has just happened to a job, with the job as this transaction leaves it.
pub(super) async fn announce(tx: &mut Tx<'_>, job: &JobId, kind: EventKind) -> Result<()> {
    let job = jobs::existing(tx, job).await?;
    sqlx::query("INSERT INTO event (message_id, job_id, kind, data, at) VALUES (?, ?, ?, ?, ?)")
        .bind(format!("msg_{}", uuid::Uuid::now_v7().simple()))
        .bind(job.id.as_str())
        .bind(kind.name())
        .bind(document(&JobSnapshot::of(&job)))
        .bind(tx.now)
        .execute(&mut *tx.db)
        .await
        .map_err(Error::Unavailable)?;
    Ok(())
}

pub(super) async fn pending_events(readers: &SqlitePool, limit: u32) -> Result<Vec<PendingEvent>> {
    // Index: event_to_fan_out.
    let found = sqlx::query(
        "SELECT seq, message_id, kind, data, at, spec FROM event JOIN job ON job.id = event.job_id \
         WHERE fanned_out = 0 ORDER BY seq LIMIT ?",
    )
    .bind(i64::from(limit))
    .fetch_all(readers)
    .await
    .map_err(Error::Unavailable)?;
    found.iter().map(rows::pending_event).collect()
}

pub(super) async fn fan_out(tx: &mut Tx<'_>, event: &Event, deliveries: &[NewDelivery]) -> Result<Written> {
    let marked = sqlx::query("UPDATE event SET fanned_out = 1 WHERE seq = ? AND fanned_out = 0")
        .bind(event.seq)
        .execute(&mut *tx.db)
        .await
        .map_err(Error::Unavailable)?;
    if marked.rows_affected() == 0 {
        return Ok(Written::Fenced);
    }
    for new in deliveries {
        sqlx::query(
            "INSERT INTO webhook_delivery (id, job_id, message_id, kind, endpoint, url, receiver, body, state, next_at, created_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?, ?)",
        )
        .bind(DeliveryId::generate().as_str())
        .bind(event.job.id.as_str())
        .bind(&event.message_id)
        .bind(event.kind.name())
        .bind(&new.endpoint)
        .bind(new.url.to_string())
        .bind(new.url.receiver())
        .bind(&new.body)
        .bind(tx.now)
        .bind(tx.now)
        .execute(&mut *tx.db)
        .await
        .map_err(Error::Unavailable)?;
    }
    Ok(Written::Done)
}

/// Whether a delivery is due, at no cost to writers: those that wait for hours are looked at every second.
pub(super) async fn any_due(readers: &SqlitePool, clock_offset_us: i64) -> Result<bool> {
    let due: Option<i64> = sqlx::query_scalar(
        "SELECT 1 FROM webhook_delivery WHERE state = 'pending' \
         AND next_at <= CAST(unixepoch('subsec') * 1000000 AS INTEGER) + ? LIMIT 1",
    )
    .bind(clock_offset_us)
    .fetch_optional(readers)
    .await
    .map_err(Error::Unavailable)?;
    Ok(due.is_some())
}

pub(super) async fn claim(
    tx: &mut Tx<'_>,
    limit: u32,
    per_receiver: u32,
    taken: &BTreeMap<String, u32>,
    ttl: Duration,
) -> Result<Vec<ClaimedDelivery>> {
    // Index: delivery_pending.
    let receivers: Vec<String> = sqlx::query_scalar(
        "SELECT receiver FROM webhook_delivery WHERE state = 'pending' AND next_at <= ? AND (lease_until IS NULL OR lease_until <= ?) \
         GROUP BY receiver ORDER BY MIN(next_at)",
    )
    .bind(tx.now)
    .bind(tx.now)
    .fetch_all(&mut *tx.db)
    .await
    .map_err(Error::Unavailable)?;
    let mut claimed = Vec::new();
    for receiver in receivers {
        let room = per_receiver.saturating_sub(taken.get(&receiver).copied().unwrap_or_default());
        let room = room.min(limit.saturating_sub(claimed.len() as u32));
        if room > 0 {
            claimed.extend(claim_of(tx, &receiver, room, ttl).await?);
        }
    }
    Ok(claimed)
}

/// Takes up to `room` deliveries to one receiver.
async fn claim_of(tx: &mut Tx<'_>, receiver: &str, room: u32, ttl: Duration) -> Result<Vec<ClaimedDelivery>> {
    let leased: Vec<(String, i64, String)> = sqlx::query_as(
        "UPDATE webhook_delivery SET lease_epoch = lease_epoch + 1, lease_until = ? WHERE id IN (\
             SELECT id FROM webhook_delivery WHERE state = 'pending' AND receiver = ? AND next_at <= ? \
             AND (lease_until IS NULL OR lease_until <= ?) ORDER BY next_at, id LIMIT ?) \
         RETURNING id, lease_epoch, body",
    )
    .bind(tx.now + micros(ttl))
    .bind(receiver)
    .bind(tx.now)
    .bind(tx.now)
    .bind(i64::from(room))
    .fetch_all(&mut *tx.db)
    .await
    .map_err(Error::Unavailable)?;
    let mut claimed = Vec::new();
    for (id, epoch, body) in leased {
        let delivery = existing(tx, &id).await?;
        let job = jobs::existing(tx, &delivery.job).await?;
        let secret = match &delivery.endpoint {
            Some(_) => None,
            None => Some(own_secret(&job)?),
        };
        let lease = DeliveryLease { delivery: delivery.id.clone(), epoch };
        claimed.push(ClaimedDelivery { lease, delivery, body, secret, trace: job.trace });
    }
    Ok(claimed)
}

/// The secret of a job's own webhook: it stays in the job's definition, deliveries hold no copy.
fn own_secret(job: &Job) -> Result<WebhookSecret> {
    let damaged = || Error::Damaged { table: "job", id: job.id.to_string(), what: "its webhook is gone".to_owned() };
    job.spec.webhook.as_ref().map(|webhook| webhook.secret.clone()).ok_or_else(damaged)
}

async fn existing(tx: &mut Tx<'_>, id: &str) -> Result<Delivery> {
    let row = sqlx::query(AssertSqlSafe(select("d.id = ?"))).bind(id).fetch_one(&mut *tx.db).await.map_err(Error::Unavailable)?;
    rows::delivery(&row)
}

pub(super) async fn record_attempt(tx: &mut Tx<'_>, lease: &DeliveryLease, result: &AttemptResult) -> Result<Written> {
    let number: Option<i64> =
        sqlx::query_scalar("UPDATE webhook_delivery SET attempts = attempts + 1, url = ?, receiver = ? WHERE id = ? RETURNING attempts")
            .bind(result.url.to_string())
            .bind(result.url.receiver())
            .bind(lease.delivery.as_str())
            .fetch_optional(&mut *tx.db)
            .await
            .map_err(Error::Unavailable)?;
    let Some(number) = number else { return Ok(Written::Fenced) };
    let latency = micros(result.latency);
    sqlx::query("INSERT INTO webhook_attempt (delivery_id, number, at, status, error, latency_us) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(lease.delivery.as_str())
        .bind(number)
        .bind(tx.now - latency)
        .bind(result.status)
        .bind(&result.error)
        .bind(latency)
        .execute(&mut *tx.db)
        .await
        .map_err(Error::Unavailable)?;
    let (state, next_at, finished_at) = match result.then {
        Then::Retry(delay) => (DeliveryState::Pending, tx.now + micros(delay), None),
        Then::End(state) => (state, tx.now, Some(tx.now)),
    };
    let moved = sqlx::query(
        "UPDATE webhook_delivery SET state = ?, tries = tries + 1, next_at = ?, lease_until = NULL, finished_at = ? \
         WHERE id = ? AND lease_epoch = ? AND state = 'pending'",
    )
    .bind(state.name())
    .bind(next_at)
    .bind(finished_at)
    .bind(lease.delivery.as_str())
    .bind(lease.epoch)
    .execute(&mut *tx.db)
    .await
    .map_err(Error::Unavailable)?;
    Ok(if moved.rows_affected() == 1 { Written::Done } else { Written::Fenced })
}

pub(super) async fn replay(tx: &mut Tx<'_>, id: &DeliveryId) -> Result<Option<Delivery>> {
    // An attempt in flight is fenced off: it is recorded, but what follows is the replay's to decide.
    let found = sqlx::query(
        "UPDATE webhook_delivery SET state = 'pending', tries = 0, next_at = ?, finished_at = NULL, lease_epoch = lease_epoch + 1, \
         lease_until = NULL WHERE id = ?",
    )
    .bind(tx.now)
    .bind(id.as_str())
    .execute(&mut *tx.db)
    .await
    .map_err(Error::Unavailable)?;
    if found.rows_affected() == 0 {
        return Ok(None);
    }
    existing(tx, id.as_str()).await.map(Some)
}

pub(super) async fn list(readers: &SqlitePool, filter: &DeliveryFilter) -> Result<Vec<Delivery>> {
    let mut query = QueryBuilder::new(select("true"));
    if let Some(job) = &filter.job {
        query.push(" AND d.job_id = ").push_bind(job.as_str().to_owned());
    }
    if let Some(state) = filter.state {
        query.push(" AND d.state = ").push_bind(state.name());
    }
    if let Some(before) = &filter.before {
        query.push(" AND d.id < ").push_bind(before.as_str().to_owned());
    }
    query.push(" ORDER BY d.id DESC LIMIT ").push_bind(i64::from(filter.limit));
    let found = query.build().fetch_all(readers).await.map_err(Error::Unavailable)?;
    found.iter().map(rows::delivery).collect()
}

pub(super) async fn get(readers: &SqlitePool, id: &DeliveryId) -> Result<Option<DeliveryRecord>> {
    let row = sqlx::query(AssertSqlSafe(select("d.id = ?"))).bind(id.as_str()).fetch_optional(readers).await.map_err(Error::Unavailable)?;
    let Some(row) = row else { return Ok(None) };
    let body = sqlx::query_scalar("SELECT body FROM webhook_delivery WHERE id = ?")
        .bind(id.as_str())
        .fetch_one(readers)
        .await
        .map_err(Error::Unavailable)?;
    let latest = sqlx::query("SELECT * FROM webhook_attempt WHERE delivery_id = ? ORDER BY number DESC LIMIT ?")
        .bind(id.as_str())
        .bind(i64::from(MOST_ATTEMPTS))
        .fetch_all(readers)
        .await
        .map_err(Error::Unavailable)?;
    let attempts = latest.iter().rev().map(rows::attempt).collect::<Result<Vec<_>>>()?;
    Ok(Some(DeliveryRecord { delivery: rows::delivery(&row)?, body, attempts }))
}

pub(super) async fn release_all(tx: &mut Tx<'_>) -> Result<()> {
    sqlx::query("UPDATE webhook_delivery SET lease_until = NULL WHERE state = 'pending'")
        .execute(&mut *tx.db)
        .await
        .map_err(Error::Unavailable)?;
    Ok(())
}
