//! Looks at a database without changing it: what the doctor says of it.

use std::{fs::File, path::Path};

use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{Error, MIGRATIONS, Result};

/// What there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspection {
    /// Whether a service has it open.
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

/// Looks at the file; `None` when there is none yet.
///
/// # Errors
/// [`Error::Unavailable`] when it is no database, or cannot be read.
pub async fn inspect(path: &Path) -> Result<Option<Inspection>> {
    if !path.exists() {
        return Ok(None);
    }
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut db = SqliteConnection::connect_with(&options).await.map_err(Error::Unavailable)?;
    let tables: i64 = count(&mut db, "SELECT count(*) FROM sqlite_schema WHERE name IN ('_sqlx_migrations', 'job')").await?;
    let (applied, jobs) = match tables {
        2 => {
            let applied = sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success").fetch_all(&mut db).await;
            (applied.map_err(Error::Unavailable)?, count(&mut db, "SELECT count(*) FROM job").await?)
        }
        _ => (Vec::<i64>::new(), 0),
    };
    let known: Vec<i64> = MIGRATIONS.iter().map(|step| step.version).collect();
    Ok(Some(Inspection {
        in_use: is_locked(path)?,
        applied: applied.len(),
        pending: known.iter().filter(|step| !applied.contains(step)).count(),
        unknown: applied.iter().filter(|step| !known.contains(step)).count(),
        jobs: jobs as u64,
    }))
}

async fn count(db: &mut SqliteConnection, query: &'static str) -> Result<i64> {
    sqlx::query_scalar(query).fetch_one(db).await.map_err(Error::Unavailable)
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
