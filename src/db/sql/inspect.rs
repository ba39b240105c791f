//! Looks at a database without changing it: what the doctor says of it.

use std::{fs::File, path::Path};

use sqlx::{ConnectOptions, Connection, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{
    driver::{Db, sql},
    postgres, sqlite,
};
use crate::db::{Database, Error, PostgresUrl, Result};

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspection {
    /// Whether a service has the file open; never, of a server.
    pub in_use: bool,
    /// Steps of the tables that were taken.
    pub applied: usize,
    /// Steps that this version would take at its start.
    pub pending: usize,
    /// Steps that this version does not know: a later one has been here.
    pub unknown: usize,
    /// Jobs in it.
    pub jobs: u64,
}

/// Looks at the database; `None` when there is no such file yet.
///
/// # Errors
/// [`Error::Unavailable`] when it is no database, or cannot be read.
pub async fn inspect(database: &Database) -> Result<Option<Inspection>> {
    match database {
        Database::Sqlite(path) => file(path).await,
        Database::Postgres { url, .. } => server(url).await.map(Some),
    }
}

async fn file(path: &Path) -> Result<Option<Inspection>> {
    if !path.exists() {
        return Ok(None);
    }
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(Error::Unavailable)?;
    let mut db = Db::Sqlite(&mut connection);
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name IN ('_sqlx_migrations', 'job')";
    let there = sql(tables).scalar::<i64>(&mut db).await? == 2;
    let found = look(&mut db, there, &sqlite::MIGRATIONS).await?;
    Ok(Some(Inspection { in_use: is_locked(path)?, ..found }))
}

async fn server(url: &PostgresUrl) -> Result<Inspection> {
    let mut connection: PgConnection = postgres::options(url)?.connect().await.map_err(Error::Unavailable)?;
    let mut db = Db::Postgres(&mut connection);
    let tables = "SELECT count(*) FROM pg_class WHERE oid IN (to_regclass('_sqlx_migrations'), to_regclass('job'))";
    let there = sql(tables).scalar::<i64>(&mut db).await? == 2;
    look(&mut db, there, &postgres::MIGRATIONS).await
}

async fn look(db: &mut Db<'_>, there: bool, steps: &sqlx::migrate::Migrator) -> Result<Inspection> {
    let (applied, jobs) = match there {
        true => {
            let applied: Vec<i64> = sql("SELECT version FROM _sqlx_migrations WHERE success").scalars(db).await?;
            (applied, sql("SELECT count(*) FROM job").scalar::<i64>(db).await?)
        }
        false => (Vec::new(), 0),
    };
    let known: Vec<i64> = steps.iter().map(|step| step.version).collect();
    Ok(Inspection {
        in_use: false,
        applied: applied.len(),
        pending: known.iter().filter(|step| !applied.contains(step)).count(),
        unknown: applied.iter().filter(|step| !known.contains(step)).count(),
        jobs: jobs as u64,
    })
}

/// Whether somebody holds the lock; it is taken for a moment to see.
fn is_locked(path: &Path) -> Result<bool> {
    let failed = |e: std::io::Error| Error::Unavailable(sqlx::Error::Io(e));
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = match File::open(name) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(failed(error.into())),
    }
}
