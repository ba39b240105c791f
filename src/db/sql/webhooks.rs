//! Events and the deliveries that come of them.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Tx,
    driver::{Db, sql},
    jobs, micros, rows,
    rows::document,
};
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
    sql("INSERT INTO event (message_id, job_id, kind, data, at) VALUES (?, ?, ?, ?, ?)")
        .bind(format!("msg_{}", uuid::Uuid::now_v7().simple()))
        .bind(job.id.as_str())
        .bind(kind.name())
        .bind(document(&JobSnapshot::of(&job)))
        .bind(tx.now)
        .execute(&mut tx.db)
        .await?;
    Ok(())
}

pub(super) async fn pending_events(db: &mut Db<'_>, limit: u32) -> Result<Vec<PendingEvent>> {
    // Index: event_to_fan_out.
    let found = sql("SELECT seq, message_id, kind, data, at, spec FROM event JOIN job ON job.id = event.job_id \
         WHERE fanned_out = 0 ORDER BY seq LIMIT ?")
    .bind(i64::from(limit))
    .rows(db)
    .await?;
    found.iter().map(rows::pending_event).collect()
}

pub(super) async fn fan_out(tx: &mut Tx<'_>, event: &Event, deliveries: &[NewDelivery]) -> Result<Written> {
    let marked = sql("UPDATE event SET fanned_out = 1 WHERE seq = ? AND fanned_out = 0").bind(event.seq).execute(&mut tx.db).await?;
    if marked == 0 {
        return Ok(Written::Fenced);
    }
    for new in deliveries {
        sql("INSERT INTO webhook_delivery (id, job_id, message_id, kind, endpoint, url, receiver, body, state, next_at, created_at) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?, ?)")
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
        .execute(&mut tx.db)
        .await?;
    }
    Ok(Written::Done)
}

/// Whether a delivery is due, at no cost to writers: those that wait for hours are looked at every second.
pub(super) async fn any_due(db: &mut Db<'_>, clock_offset_us: i64) -> Result<bool> {
    sql(format!("SELECT 1 FROM webhook_delivery WHERE state = 'pending' AND next_at <= {} + ? LIMIT 1", db.clock()))
        .bind(clock_offset_us)
        .exists(db)
        .await
}

pub(super) async fn claim(
    tx: &mut Tx<'_>,
    limit: u32,
    per_receiver: u32,
    taken: &BTreeMap<String, u32>,
    ttl: Duration,
) -> Result<Vec<ClaimedDelivery>> {
    // Index: delivery_pending.
    let receivers: Vec<String> = sql(
        "SELECT receiver FROM webhook_delivery WHERE state = 'pending' AND next_at <= ? AND (lease_until IS NULL OR lease_until <= ?) \
         GROUP BY receiver ORDER BY MIN(next_at)",
    )
    .bind(tx.now)
    .bind(tx.now)
    .scalars(&mut tx.db)
    .await?;
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
    let leased: Vec<(String, i64, String)> = sql(format!(
        "WITH due AS MATERIALIZED (SELECT id FROM webhook_delivery WHERE state = 'pending' AND receiver = ? AND next_at <= ? \
                                   AND (lease_until IS NULL OR lease_until <= ?) ORDER BY next_at, id LIMIT ?{}) \
         UPDATE webhook_delivery SET lease_epoch = lease_epoch + 1, lease_until = ? WHERE id IN (SELECT id FROM due) \
         RETURNING id, lease_epoch, body",
        tx.db.skip_locked()
    ))
    .bind(receiver)
    .bind(tx.now)
    .bind(tx.now)
    .bind(i64::from(room))
    .bind(tx.now + micros(ttl))
    .all(&mut tx.db)
    .await?;
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
    let row = sql(select("d.id = ?")).bind(id).row(&mut tx.db).await?;
    rows::delivery(&row.ok_or(Error::Unavailable(sqlx::Error::RowNotFound))?)
}

pub(super) async fn record_attempt(tx: &mut Tx<'_>, lease: &DeliveryLease, result: &AttemptResult) -> Result<Written> {
    let number: Option<i64> =
        sql("UPDATE webhook_delivery SET attempts = attempts + 1, url = ?, receiver = ? WHERE id = ? RETURNING attempts")
            .bind(result.url.to_string())
            .bind(result.url.receiver())
            .bind(lease.delivery.as_str())
            .scalar_or_none(&mut tx.db)
            .await?;
    let Some(number) = number else { return Ok(Written::Fenced) };
    let latency = micros(result.latency);
    sql("INSERT INTO webhook_attempt (delivery_id, number, at, status, error, latency_us) VALUES (?, ?, ?, ?, ?, ?)")
        .bind(lease.delivery.as_str())
        .bind(number)
        .bind(tx.now - latency)
        .bind(result.status)
        .bind(&result.error)
        .bind(latency)
        .execute(&mut tx.db)
        .await?;
    let (state, next_at, finished_at) = match result.then {
        Then::Retry(delay) => (DeliveryState::Pending, tx.now + micros(delay), None),
        Then::End(state) => (state, tx.now, Some(tx.now)),
    };
    let moved = sql("UPDATE webhook_delivery SET state = ?, tries = tries + 1, next_at = ?, lease_until = NULL, finished_at = ? \
         WHERE id = ? AND lease_epoch = ? AND state = 'pending'")
    .bind(state.name())
    .bind(next_at)
    .bind(finished_at)
    .bind(lease.delivery.as_str())
    .bind(lease.epoch)
    .execute(&mut tx.db)
    .await?;
    Ok(Written::by(moved))
}

pub(super) async fn replay(tx: &mut Tx<'_>, id: &DeliveryId) -> Result<Option<Delivery>> {
    // An attempt in flight is fenced off: it is recorded, but what follows is the replay's to decide.
    let found =
        sql("UPDATE webhook_delivery SET state = 'pending', tries = 0, next_at = ?, finished_at = NULL, lease_epoch = lease_epoch + 1, \
         lease_until = NULL WHERE id = ?")
        .bind(tx.now)
        .bind(id.as_str())
        .execute(&mut tx.db)
        .await?;
    if found == 0 {
        return Ok(None);
    }
    existing(tx, id.as_str()).await.map(Some)
}

pub(super) async fn list(db: &mut Db<'_>, filter: &DeliveryFilter) -> Result<Vec<Delivery>> {
    let mut query = sql(select("true"));
    if let Some(job) = &filter.job {
        query.push(" AND d.job_id = ?").value(job.as_str());
    }
    if let Some(state) = filter.state {
        query.push(" AND d.state = ?").value(state.name());
    }
    if let Some(before) = &filter.before {
        query.push(" AND d.id < ?").value(before.as_str());
    }
    query.push(" ORDER BY d.id DESC LIMIT ?").value(i64::from(filter.limit));
    query.rows(db).await?.iter().map(rows::delivery).collect()
}

pub(super) async fn get(db: &mut Db<'_>, id: &DeliveryId) -> Result<Option<DeliveryRecord>> {
    let Some(row) = sql(select("d.id = ?")).bind(id.as_str()).row(db).await? else { return Ok(None) };
    let body = sql("SELECT body FROM webhook_delivery WHERE id = ?").bind(id.as_str()).scalar(db).await?;
    let latest = sql("SELECT * FROM webhook_attempt WHERE delivery_id = ? ORDER BY number DESC LIMIT ?")
        .bind(id.as_str())
        .bind(i64::from(MOST_ATTEMPTS))
        .rows(db)
        .await?;
    let attempts = latest.iter().rev().map(rows::attempt).collect::<Result<Vec<_>>>()?;
    Ok(Some(DeliveryRecord { delivery: rows::delivery(&row)?, body, attempts }))
}

pub(super) async fn release_all(tx: &mut Tx<'_>) -> Result<()> {
    sql("UPDATE webhook_delivery SET lease_until = NULL WHERE state = 'pending'").execute(&mut tx.db).await?;
    Ok(())
}
