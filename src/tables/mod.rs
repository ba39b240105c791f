//! Tables in databases that the configuration names: where predictions go beside the parts in the bucket.
//!
//! In: names of connections, columns by their Arrow types, rows as the text of `COPY`. Out: rows in a table, each chunk's once. Knows no
//! job, no chunk but by its name, and nothing of the service's own database; the only home of SQL beside `db/`.
//!
//! The idea a reader could not guess: rows go into a temporary table first, in pieces, at no lock of anybody's. What others see happens at
//! the end, in one short transaction that begins with a ledger of the target's own: `nightshift_chunk` holds for each chunk the highest
//! epoch that has written it. An attempt whose lease was lost has a lower one than its successor and changes nothing, however late it is;
//! one that comes first is replaced by its successor as a whole.

mod clear;
mod connection;
mod load;
mod target;
mod types;

pub use clear::{Kept, clear};
pub use connection::{ConnectionSettings, Connections};
pub use load::{ChunkOf, Loaded, Loader};
pub use target::{Column, Look, look};
pub use types::{Kind, element, kind_of, text_fault};

/// What stands in the way of a table.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration has no such section.
    #[error("the service's configuration has no [connections.{0}]")]
    Unknown(String),
    /// The variable or file is not there, or holds no URL.
    #[error("[connections.{connection}]: {what}")]
    Settings {
        /// Which connection.
        connection: String,
        /// What is wrong; never the URL itself.
        what: String,
    },
    /// Nobody answers, or says that it cannot at the moment.
    #[error("the database of connection {connection:?} does not answer: {source}")]
    Unavailable {
        /// Which connection.
        connection: String,
        /// Why.
        source: sqlx::Error,
    },
    /// The database says no.
    #[error("the database of connection {connection:?} refuses: {source}")]
    Refused {
        /// Which connection.
        connection: String,
        /// Why.
        source: sqlx::Error,
    },
    /// The table is not there, or not what the rows need.
    #[error("{0}")]
    Mismatch(String),
}

impl Error {
    /// Nobody answers in time.
    pub fn silent(connection: &str) -> Self {
        Self::Unavailable { connection: connection.to_owned(), source: sqlx::Error::PoolTimedOut }
    }

    /// Names the kind of error; stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown_connection",
            Self::Settings { .. } => "connection_settings",
            Self::Unavailable { .. } => UNAVAILABLE,
            Self::Refused { .. } => "table_refused",
            Self::Mismatch(_) => "table_mismatch",
        }
    }

    /// Whether trying again can help.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }

    /// An error of the database, told apart by what may pass.
    fn of(connection: &str, source: sqlx::Error) -> Self {
        let connection = connection.to_owned();
        if passes(&source) { Self::Unavailable { connection, source } } else { Self::Refused { connection, source } }
    }
}

/// The code of [`Error::Unavailable`].
pub const UNAVAILABLE: &str = "table_unavailable";

/// Classes of SQLSTATE that say nothing against the statement: connections, resources, an operator's stop, a lock or a deadlock.
fn passes(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            ["08", "53", "57", "58", "40", "55P03", "25P03", "25006"].iter().any(|class| code.starts_with(class))
        }
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => {
            true
        }
        _ => false,
    }
}

/// A name as SQL takes it, whatever its letters.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table as SQL takes it.
fn quoted_table(table: &crate::domain::table::TableName) -> String {
    match table.schema() {
        Some(schema) => format!("{}.{}", quoted(schema), quoted(table.table())),
        None => quoted(table.table()),
    }
}
