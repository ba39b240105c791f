//! PostgreSQL: one database for several nodes.
//!
//! Transactions run at `READ COMMITTED`; what must not run side by side is kept apart by row locks. A node that makes work rings the
//! others by `NOTIFY`; one that hears nothing finds the work all the same, at its next look.

use std::{str::FromStr, sync::Arc, time::Duration};

use sqlx::{
    ConnectOptions, Connection, PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::sync::Notify;

use super::{
    Tx, Work,
    changes::finished,
    driver::{Db, Reader, sql},
};
use crate::db::{Error, PostgresUrl, Result};

/// How long a caller waits for a connection: a database that is away is said to be away.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// No statement of ours takes this long in a database that is well, and none may hold locks for ever in one that is not.
const STATEMENT_TIMEOUT: &str = "60s";
/// A node that froze in the middle of a transaction holds its rows no longer than this: others pass over them meanwhile.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "5s";
/// Where nodes ring.
const CHANNEL: &str = "nightshift";

/// The tables, step by step.
pub(super) static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/postgres");

/// A database that was reached.
#[derive(Debug, Clone)]
pub(super) struct Postgres {
    pool: PgPool,
}

impl Postgres {
    /// Connects, and brings the tables up to date: of nodes that start together one does, and the others wait for it.
    pub(super) async fn connect(url: &PostgresUrl, connections: u32) -> Result<Self> {
        let options = options(url)?;
        let mut connection = options.connect().await.map_err(Error::Unavailable)?;
        MIGRATIONS.run(&mut connection).await.map_err(|e| Error::Unavailable(e.into()))?;
        connection.close().await.map_err(Error::Unavailable)?;
        let limits = [("statement_timeout", STATEMENT_TIMEOUT), ("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT)];
        let pool = PgPoolOptions::new().max_connections(connections.max(2)).acquire_timeout(ACQUIRE_TIMEOUT);
        let pool = pool.connect_with(options.options(limits)).await.map_err(Error::Unavailable)?;
        Ok(Self { pool })
    }

    pub(super) async fn reader(&self) -> Result<Reader> {
        self.pool.acquire().await.map(Reader::Postgres).map_err(Error::Unavailable)
    }

    /// Runs `work` in one transaction. Must not be dropped half-way: sqlx can leave a connection inside a transaction whose `begin` was.
    pub(super) async fn write<T>(&self, clock_offset_us: i64, work: impl Work<T>) -> Result<T> {
        let mut transaction = self.pool.begin().await.map_err(Error::Unavailable)?;
        let mut db = Db::Postgres(&mut transaction);
        let now: i64 = sql(format!("SELECT {}", db.clock())).scalar(&mut db).await?;
        let mut tx = Tx::begun(db, now + clock_offset_us);
        let done = finished(&mut tx, work).await;
        let rings = tx.rings;
        match done {
            Ok(value) => {
                if rings {
                    // Heard when the transaction is committed, and once however often it is said.
                    sqlx::query("SELECT pg_notify($1, '')").bind(CHANNEL).execute(&mut *transaction).await.map_err(Error::Unavailable)?;
                }
                transaction.commit().await.map_err(Error::Unavailable)?;
                Ok(value)
            }
            Err(error) => {
                // What cannot be rolled back goes with its connection.
                let _gone = transaction.rollback().await;
                Err(error)
            }
        }
    }

    /// Rings the bell whenever a node rings, until the process ends. After a break it rings too, for what may have been missed.
    pub(super) async fn listen(self, bell: Arc<Notify>) {
        loop {
            if let Err(error) = self.hear(&bell).await {
                tracing::debug!(%error, "not hearing from other nodes; they are looked at every now and then");
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn hear(&self, bell: &Notify) -> std::result::Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen(CHANNEL).await?;
        bell.notify_waiters();
        while listener.try_recv().await?.is_some() {
            bell.notify_waiters();
        }
        Ok(())
    }
}

/// How to connect. Statements are kept out of the log: they hold definitions of jobs.
pub(super) fn options(url: &PostgresUrl) -> Result<PgConnectOptions> {
    let options = PgConnectOptions::from_str(url.expose()).map_err(Error::Unavailable)?;
    Ok(options.application_name("nightshift").disable_statement_logging())
}
