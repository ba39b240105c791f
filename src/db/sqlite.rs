//! SQLite.
/// SQLite, WAL, one writer.
#[derive(Debug)]
pub struct SqliteStore;
