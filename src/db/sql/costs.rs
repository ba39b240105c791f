//! What jobs cost: charges, budgets, sums by day, measured rates.
//!
//! Sums are kept by the day on which jobs ended, and written as they end: a commit of a chunk touches its own job's row alone, so that jobs
//! do not wait for each other at the row of a day.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Tx,
    driver::{Db, sql},
    jobs,
    rows::document,
};
use crate::{
    db::{ChunkLease, Error, Result, UsageBy, UsageFilter, UsageGroup, UsageReport, UsageSums},
    domain::{Estimate, Job, JobId, Pipeline, Problem, Rate, Spent, job::Ending},
};

const DAY_US: i64 = 86_400_000_000;
/// Costs are summed as integers: billionths of the currency.
const NANO: f64 = 1e9;
const SUMS: &str = "CAST(SUM(jobs) AS BIGINT), CAST(SUM(records) AS BIGINT), CAST(SUM(device_us) AS BIGINT), \
                    CAST(SUM(retry_device_us) AS BIGINT), CAST(SUM(cost) AS BIGINT), CAST(SUM(retry_cost) AS BIGINT)";
type Sums = (i64, i64, i64, i64, i64, i64);
type Group = (String, String, i64, i64, i64, i64, i64, i64);

// ---- Charges -----------------------------------------------------------------------------------------------------------------

/// Charges a job for an attempt that came to nothing, in the transaction that records its end. Of an attempt that lost its lease as well:
/// its devices were held all the same. Once for each attempt, which its lease names: who lost the answer says the end again. A job that is
/// gone is charged no more.
pub(super) async fn charge(tx: &mut Tx<'_>, lease: &ChunkLease, spent: &Spent) -> Result<()> {
    if *spent == Spent::default() {
        return Ok(());
    }
    let id = &lease.chunk.job;
    let Some(mut job) = jobs::take(tx, id).await? else { return Ok(()) };
    let first = sql("INSERT INTO charged (job_id, seq, lease_epoch) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
        .bind(id.as_str())
        .bind(lease.chunk.seq as i64)
        .bind(lease.epoch)
        .execute(&mut tx.db)
        .await?;
    if first == 0 {
        return Ok(());
    }
    job.usage.waste(spent);
    sql("UPDATE job SET usage = ? WHERE id = ?").bind(document(&job.usage)).bind(id.as_str()).execute(&mut tx.db).await?;
    if job.state.is_final() {
        return book(tx, &job).await;
    }
    keep_to_budget(tx, id).await
}

/// Breaks a job that has cost more than it may, unless nothing of it is left to be done.
pub(super) async fn keep_to_budget(tx: &mut Tx<'_>, id: &JobId) -> Result<()> {
    let job = jobs::existing(tx, id).await?;
    let Some(budget) = job.spec.budget.filter(|budget| job.usage.cost > budget.max_cost) else { return Ok(()) };
    let currency = job.usage.currency.as_deref().unwrap_or_default();
    let detail = format!(
        "it has cost {:.6} {currency} with {} of {} chunks done; budget.max_cost is {}; what is done is kept, and a new job can do the rest",
        job.usage.cost, job.counts.chunks_done, job.counts.chunks, budget.max_cost
    );
    jobs::break_job(tx, id, &Problem::new("budget_exceeded", "The job has cost more than it may", detail)).await
}

// ---- Sums --------------------------------------------------------------------------------------------------------------------

/// What of a job stands in the sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Entry {
    jobs: i64,
    records: i64,
    device_us: i64,
    retry_device_us: i64,
    cost: i64,
    retry_cost: i64,
}

impl Entry {
    fn of(job: &Job) -> Self {
        let micros = |seconds: f64| (seconds * 1e6).round() as i64;
        let nano = |cost: f64| (cost * NANO).round() as i64;
        Self {
            jobs: 1,
            records: (job.counts.succeeded + job.counts.failed) as i64,
            device_us: micros(job.usage.device_seconds),
            retry_device_us: micros(job.usage.retry_device_seconds),
            cost: nano(job.usage.cost),
            retry_cost: nano(job.usage.retry_cost),
        }
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            jobs: self.jobs - earlier.jobs,
            records: self.records - earlier.records,
            device_us: self.device_us - earlier.device_us,
            retry_device_us: self.retry_device_us - earlier.retry_device_us,
            cost: self.cost - earlier.cost,
            retry_cost: self.retry_cost - earlier.retry_cost,
        }
    }
}

/// What sums a job is part of, sorted: transactions that end jobs hold the rows of sums in one order. A job that something else than this
/// service's schedules makes again and again may carry its name in the label `schedule`.
fn dimensions(job: &Job) -> Vec<(String, String)> {
    let model = job.model.registered.as_ref().map_or_else(|| job.model.uri.to_string(), |registered| registered.name.clone());
    let labels = job.spec.labels.iter().map(|(key, value)| (format!("label.{key}"), value.clone()));
    let made_by = job.fire.as_ref().map(|fire| fire.schedule.to_string()).or_else(|| job.spec.labels.get("schedule").cloned());
    let schedule = made_by.map(|schedule| ("schedule".to_owned(), schedule));
    let mut dimensions: Vec<_> = [("day".to_owned(), String::new()), ("model".to_owned(), model)].into_iter().chain(labels).collect();
    dimensions.extend(schedule);
    dimensions.sort();
    dimensions
}

/// Adds a job that has ended to the sums of this day: all of it, or what is new since it ended before.
pub(super) async fn book(tx: &mut Tx<'_>, job: &Job) -> Result<()> {
    let booked: String = sql("SELECT booked FROM job WHERE id = ?").bind(job.id.as_str()).scalar(&mut tx.db).await?;
    let damaged = |e: serde_json::Error| Error::Damaged { table: "job", id: job.id.to_string(), what: format!("booked: {e}") };
    let earlier: Entry = serde_json::from_str(&booked).map_err(damaged)?;
    let entry = Entry::of(job);
    let new = entry.since(earlier);
    if new == Entry::default() {
        return Ok(());
    }
    let currency = job.usage.currency.clone().unwrap_or_default();
    for (dimension, value) in dimensions(job) {
        sql("INSERT INTO usage_day (dimension, day, value, currency, jobs, records, device_us, retry_device_us, cost, retry_cost) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (dimension, day, value, currency) DO UPDATE SET \
             jobs = usage_day.jobs + excluded.jobs, records = usage_day.records + excluded.records, \
             device_us = usage_day.device_us + excluded.device_us, retry_device_us = usage_day.retry_device_us + excluded.retry_device_us, \
             cost = usage_day.cost + excluded.cost, retry_cost = usage_day.retry_cost + excluded.retry_cost")
        .bind(dimension)
        .bind(tx.now.div_euclid(DAY_US))
        .bind(value)
        .bind(&currency)
        .bind(new.jobs)
        .bind(new.records)
        .bind(new.device_us)
        .bind(new.retry_device_us)
        .bind(new.cost)
        .bind(new.retry_cost)
        .execute(&mut tx.db)
        .await?;
    }
    sql("UPDATE job SET booked = ? WHERE id = ?").bind(document(&entry)).bind(job.id.as_str()).execute(&mut tx.db).await?;
    Ok(())
}

/// Reads the sums: those of the costliest groups, of all others together, and of all jobs. The reads go by the table's key.
pub(super) async fn report(db: &mut Db<'_>, filter: &UsageFilter) -> Result<UsageReport> {
    let dimension = match &filter.by {
        UsageBy::Day => "day".to_owned(),
        UsageBy::Model => "model".to_owned(),
        UsageBy::Schedule => "schedule".to_owned(),
        UsageBy::Label(key) => format!("label.{key}"),
    };
    let group = if filter.by == UsageBy::Day { "CAST(day AS TEXT)" } else { "value" };
    let found: Vec<Group> = sql(format!(
        "SELECT {group}, currency, {SUMS} FROM usage_day WHERE dimension = ? AND day >= ? AND day <= ? \
         GROUP BY {group}, currency ORDER BY 7 DESC, 5 DESC, 1 LIMIT ?"
    ))
    .bind(&dimension)
    .bind(filter.from_day)
    .bind(filter.to_day)
    .bind(filter.limit)
    .all(db)
    .await?;
    let items: Vec<UsageGroup> = found
        .into_iter()
        .map(|(group, currency, a, b, c, d, e, f)| UsageGroup { group, currency: named(currency), sums: sums((a, b, c, d, e, f)) })
        .collect();
    let grouped = totals(db, &dimension, filter).await?;
    let total = if filter.by == UsageBy::Day { grouped.clone() } else { totals(db, "day", filter).await? };
    Ok(UsageReport { items, grouped, total })
}

async fn totals(db: &mut Db<'_>, dimension: &str, filter: &UsageFilter) -> Result<Vec<(Option<String>, UsageSums)>> {
    let found: Vec<(String, i64, i64, i64, i64, i64, i64)> = sql(format!(
        "SELECT currency, {SUMS} FROM usage_day WHERE dimension = ? AND day >= ? AND day <= ? GROUP BY currency ORDER BY currency"
    ))
    .bind(dimension)
    .bind(filter.from_day)
    .bind(filter.to_day)
    .all(db)
    .await?;
    Ok(found.into_iter().map(|(currency, a, b, c, d, e, f)| (named(currency), sums((a, b, c, d, e, f)))).collect())
}

fn named(currency: String) -> Option<String> {
    Some(currency).filter(|currency| !currency.is_empty())
}

fn sums((jobs, records, device_us, retry_device_us, cost, retry_cost): Sums) -> UsageSums {
    UsageSums {
        jobs,
        records,
        device_seconds: device_us as f64 / 1e6,
        retry_device_seconds: retry_device_us as f64 / 1e6,
        cost: cost as f64 / NANO,
        retry_cost: retry_cost as f64 / NANO,
    }
}

// ---- Rates -------------------------------------------------------------------------------------------------------------------

/// What tells pipelines apart.
fn pipeline_key(pipeline: &Pipeline) -> String {
    Sha256::digest(document(pipeline)).iter().map(|b| format!("{b:02x}")).collect()
}

/// What was measured of this model with this pipeline, on the provider that was used last; of `providers` only, where there are some.
pub(super) async fn rate(db: &mut Db<'_>, model: &str, pipeline: &Pipeline, providers: &[String]) -> Result<Option<(String, Rate)>> {
    let found: Vec<(String, String)> =
        sql("SELECT provider, rate FROM measured_rate WHERE model = ? AND pipeline = ? ORDER BY updated_at DESC")
            .bind(model)
            .bind(pipeline_key(pipeline))
            .all(db)
            .await?;
    // A job runs on the first of its providers.
    let wanted = providers.first();
    let Some((provider, rate)) = found.into_iter().find(|(provider, _)| wanted.is_none_or(|wanted| wanted == provider)) else {
        return Ok(None);
    };
    let damaged = |e: serde_json::Error| Error::Damaged { table: "measured_rate", id: model.to_owned(), what: format!("rate: {e}") };
    let rate = serde_json::from_str(&rate).map_err(damaged)?;
    Ok(Some((provider, rate)))
}

/// Keeps what a job that has ended took, for estimates to come.
pub(super) async fn measure(tx: &mut Tx<'_>, job: &Job, ending: Ending) -> Result<()> {
    let records = job.counts.succeeded + job.counts.failed;
    let usage = &job.usage;
    let device_seconds = usage.device_seconds - usage.retry_device_seconds;
    if ending != Ending::Completed || records == 0 || device_seconds <= 0.0 || usage.provider.is_empty() {
        return Ok(());
    }
    let measured = Rate {
        records: records as f64,
        bytes: job.counts.bytes as f64,
        device_seconds,
        wall_seconds: job.wall_seconds(crate::domain::Timestamp(tx.now)),
        cost: usage.cost - usage.retry_cost,
        currency: usage.currency.clone(),
    };
    let known = rate(&mut tx.db, &job.model.digest, &job.pipeline, std::slice::from_ref(&usage.provider)).await?;
    let measured = known.map(|(_, rate)| rate).unwrap_or_default().then(measured);
    // Two jobs that end together: what one of them took is missing from a rate, which is no more than a rate.
    sql("INSERT INTO measured_rate (model, pipeline, provider, rate, updated_at) VALUES (?, ?, ?, ?, ?) \
         ON CONFLICT (model, pipeline, provider) DO UPDATE SET rate = excluded.rate, updated_at = excluded.updated_at")
    .bind(&job.model.digest)
    .bind(pipeline_key(&job.pipeline))
    .bind(&usage.provider)
    .bind(document(&measured))
    .bind(tx.now)
    .execute(&mut tx.db)
    .await?;
    Ok(())
}

/// What a job is expected to take whose input is listed to the end, by what its like took for so many bytes.
pub(super) async fn estimate(tx: &mut Tx<'_>, job: &Job, bytes: u64) -> Result<()> {
    let known = rate(&mut tx.db, &job.model.digest, &job.pipeline, &job.spec.execution.providers).await?;
    let estimate: Option<Estimate> = known.and_then(|(provider, rate)| rate.of_bytes(&provider, bytes));
    let Some(estimate) = estimate else { return Ok(()) };
    sql("UPDATE job SET estimate = ? WHERE id = ?").bind(document(&estimate)).bind(job.id.as_str()).execute(&mut tx.db).await?;
    Ok(())
}
