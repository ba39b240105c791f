//! What a job leaves in its table that ends otherwise than completed: the rows of its committed chunks, and no others.

use sqlx::AssertSqlSafe;

use super::{
    Connections, Error,
    load::{ledger, ledger_of},
    quoted_table,
    target::{self, CHUNK, JOB},
};
use crate::domain::table::{TableMode, TableSpec};

/// What is left of a job that has ended, beside its committed chunks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Kept {
    /// Those that are not committed, with their epochs: no attempt at them that is still under way somewhere may write any more.
    pub others: Vec<(i64, i64)>,
}

/// Closes a job's chunks that were not committed, and removes what attempts at them have written. Rows that were upserted stay: what they
/// took the place of is gone.
///
/// # Errors
/// Those of the database.
pub async fn clear(connections: &Connections, spec: &TableSpec, job: &str, kept: &Kept) -> Result<(), Error> {
    let mut session = connections.open(&spec.connection).await?;
    if target::existing(&mut session, &spec.table).await?.is_none() && !spec.create {
        return Ok(());
    }
    ledger(&mut session, spec).await?;
    let (chunks, epochs): (Vec<i64>, Vec<i64>) = kept.others.iter().copied().unzip();
    session.say("BEGIN").await?;
    let close = format!(
        "INSERT INTO {} AS l (job, chunk, epoch, at) SELECT $1, chunk, epoch, now() FROM unnest($2::bigint[], $3::bigint[]) AS c (chunk, epoch) \
         ON CONFLICT (job, chunk) DO UPDATE SET epoch = excluded.epoch, at = excluded.at WHERE l.epoch <= excluded.epoch RETURNING chunk",
        quoted_table(&ledger_of(spec))
    );
    // Not those that have gone on since: a retry may have them by now, and their rows are its.
    let closed: Vec<i64> = session.scalars(sqlx::query(AssertSqlSafe(close)).bind(job).bind(&chunks).bind(&epochs)).await?;
    if spec.mode == TableMode::ReplaceChunk && target::existing(&mut session, &spec.table).await?.is_some() {
        let delete = format!("DELETE FROM {} WHERE {JOB} = $1 AND {CHUNK} = ANY($2)", quoted_table(&spec.table));
        let rows = session.execute(sqlx::query(AssertSqlSafe(delete)).bind(job).bind(&closed)).await?;
        tracing::debug!(rows, "removed {rows} rows that no committed chunk of {job} names from {}", spec.table);
    }
    session.say("COMMIT").await?;
    session.close().await;
    Ok(())
}
