//! SQLite: one file, one process, one writer.
//!
//! Every write is a `BEGIN IMMEDIATE` transaction on the one writer connection. Reads go to a small pool; in WAL mode they wait for
//! nobody.

use std::{
    fs::{File, OpenOptions},
    path::Path,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use sqlx::{
    Connection, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use tokio::sync::Mutex;

use super::{
    Tx, Work,
    changes::finished,
    driver::{Db, Reader, sql},
};
use crate::db::{Error, Result};

/// Connections for reading.
const READERS: u32 = 4;

/// The tables, step by step.
pub(super) static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("migrations/sqlite");

/// An open file.
#[derive(Debug, Clone)]
pub(super) struct Sqlite {
    writer: Arc<Mutex<SqliteConnection>>,
    readers: SqlitePool,
    /// Raised before a transaction is committed, and after: while it is odd, what is read may be what was or what will be.
    commits: Arc<AtomicI64>,
    /// Held for the store's life: no other process may open this file.
    _lock: Arc<File>,
}

impl Sqlite {
    /// Opens the file, makes it and its folder if missing, locks it, and brings its tables up to date.
    pub(super) async fn open(path: &Path) -> Result<Self> {
        let lock = lock(path)?;
        let options = SqliteConnectOptions::from_str("sqlite://")
            .map_err(Error::Unavailable)?
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let mut writer = SqliteConnection::connect_with(&options).await.map_err(Error::Unavailable)?;
        MIGRATIONS.run(&mut writer).await.map_err(|e| Error::Unavailable(e.into()))?;
        // A connection to a file does not break while nobody looks: asking it first would double the price of every look.
        let readers = SqlitePoolOptions::new().max_connections(READERS).test_before_acquire(false);
        let readers = readers.connect_with(options.read_only(true)).await;
        Ok(Self {
            writer: Arc::new(Mutex::new(writer)),
            readers: readers.map_err(Error::Unavailable)?,
            commits: Arc::default(),
            _lock: Arc::new(lock),
        })
    }

    pub(super) async fn reader(&self) -> Result<Reader> {
        self.readers.acquire().await.map(Reader::Sqlite).map_err(Error::Unavailable)
    }

    /// Another one after each transaction: whatever is changed, is changed through here, as no other process has the file. `None` while
    /// one is committed.
    pub(super) fn version(&self) -> Option<i64> {
        Some(self.commits.load(Ordering::SeqCst)).filter(|commits| commits % 2 == 0)
    }

    /// Runs `work` in one write transaction. Must not be dropped half-way.
    pub(super) async fn write<T>(&self, clock_offset_us: i64, work: impl Work<T>) -> Result<T> {
        let mut writer = self.writer.lock().await;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *writer).await.map_err(Error::Unavailable)?;
        let mut db = Db::Sqlite(&mut writer);
        let done = match sql(format!("SELECT {}", db.clock())).scalar::<i64>(&mut db).await {
            Ok(now) => finished(&mut Tx::begun(db, now + clock_offset_us), work).await,
            Err(error) => Err(error),
        };
        let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
        self.commits.fetch_add(1, Ordering::SeqCst);
        let ended = sqlx::query(end).execute(&mut *writer).await;
        self.commits.fetch_add(1, Ordering::SeqCst);
        if ended.is_err() {
            // A commit that fails (a full disk) leaves the transaction open; the next BEGIN must not find it.
            let _already_over = sqlx::query("ROLLBACK").execute(&mut *writer).await;
        }
        let value = done?;
        ended.map_err(Error::Unavailable)?;
        Ok(value)
    }
}

fn lock(path: &Path) -> Result<File> {
    let failed = |e: std::io::Error| Error::Unavailable(sqlx::Error::Io(e));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(name).map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::InUse { path: path.display().to_string() }),
        Err(error) => Err(failed(error.into())),
    }
}
