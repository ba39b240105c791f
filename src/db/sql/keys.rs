//! Idempotency keys: which request made which job.

use super::{
    Tx,
    driver::{Db, sql},
    jobs, micros,
};
use crate::{
    db::{Created, Error, IdempotencyKey, KEY_LIFE, Result},
    domain::JobId,
};

/// Old keys removed with each new one: more than one, so that they become fewer.
const REMOVED_AT_ONCE: i64 = 20;

/// What is known of a key; `None` when it is new.
pub(super) async fn find(db: &mut Db<'_>, key: &IdempotencyKey) -> Result<Option<Created>> {
    let found: Option<(String, String)> = sql("SELECT fingerprint, job_id FROM idempotency WHERE key = ?").bind(&key.key).first(db).await?;
    let Some((fingerprint, job)) = found else { return Ok(None) };
    let damaged = |what: &str| Error::Damaged { table: "idempotency", id: key.key.clone(), what: what.to_owned() };
    let by = JobId::parse(&job).ok_or_else(|| damaged("its job's id is none"))?;
    if fingerprint != key.fingerprint {
        return Ok(Some(Created::KeyReused { by }));
    }
    let job = jobs::find(db, &by).await?.ok_or_else(|| damaged("its job is gone"))?;
    Ok(Some(Created::Replay(Box::new(job))))
}

/// Keeps a new key, and removes a few that are old enough.
pub(super) async fn keep(tx: &mut Tx<'_>, key: &IdempotencyKey, job: &JobId) -> Result<()> {
    // Index: idempotency_age.
    sql("DELETE FROM idempotency WHERE key IN (SELECT key FROM idempotency WHERE created_at < ? ORDER BY created_at LIMIT ?)")
        .bind(tx.now - micros(KEY_LIFE))
        .bind(REMOVED_AT_ONCE)
        .execute(&mut tx.db)
        .await?;
    sql("INSERT INTO idempotency (key, fingerprint, job_id, created_at) VALUES (?, ?, ?, ?)")
        .bind(&key.key)
        .bind(&key.fingerprint)
        .bind(job.as_str())
        .bind(tx.now)
        .execute(&mut tx.db)
        .await?;
    Ok(())
}
