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
mod session;
mod target;
mod types;

pub use clear::{Kept, clear};
pub use connection::{ConnectionSettings, Connections};
pub use load::{ChunkOf, Loaded, Loader};
pub use session::Session;
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
    /// Nobody says anything.
    #[error("the database of connection {0:?} does not answer: nothing was heard of it in time")]
    Silent(String),
    /// The database cannot as things are: this may pass, or wait for somebody who puts it right.
    #[error("the database of connection {connection:?} cannot take the rows as things are: {source}")]
    Unable {
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
        Self::Silent(connection.to_owned())
    }

    /// Names the kind of error; stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown_connection",
            Self::Settings { .. } => "connection_settings",
            Self::Unavailable { .. } | Self::Silent(_) => UNAVAILABLE,
            Self::Unable { .. } => UNABLE,
            Self::Refused { .. } => "table_refused",
            Self::Mismatch(_) => "table_mismatch",
        }
    }

    /// Whether it is waited for, however long it takes: the database is away, and says nothing against what it was asked.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::Silent(_))
    }

    /// Whether trying again can help.
    pub fn retryable(&self) -> bool {
        self.is_absence() || matches!(self, Self::Unable { .. })
    }

    /// An error of the database, told apart by what may pass.
    fn of(connection: &str, source: sqlx::Error) -> Self {
        let connection = connection.to_owned();
        match Trouble::of(&source) {
            Trouble::Absence => Self::Unavailable { connection, source },
            Trouble::Inability => Self::Unable { connection, source },
            Trouble::Refusal => Self::Refused { connection, source },
        }
    }
}

/// The code of [`Error::Unavailable`] and [`Error::Silent`].
pub const UNAVAILABLE: &str = "table_unavailable";
/// The code of [`Error::Unable`].
pub const UNABLE: &str = "table_unable";

/// What an error of the database says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// It is not there, or somebody was in the way: this passes by itself.
    Absence,
    /// It is there and cannot: this passes by itself (a standby that takes over), or when somebody sees to it (a full disk), or never.
    Inability,
    /// It will not.
    Refusal,
}

impl Trouble {
    fn of(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => Self::of_state(&error.code().unwrap_or_default()),
            sqlx::Error::Io(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::WorkerCrashed => Self::Absence,
            _ => Self::Refusal,
        }
    }

    /// By SQLSTATE, or by its class: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
    fn of_state(state: &str) -> Self {
        // Connections, an end or a start of the server or of the session, too many sessions; a conflict, a deadlock, a lock, a session that
        // stood still in a transaction.
        const ABSENCE: [&str; 9] = ["08", "57P01", "57P02", "57P03", "57P05", "53300", "40", "55P03", "25P03"];
        // Full disks and other resources, what an operator or a timeout stopped, faults of the system, a server that only reads.
        const INABILITY: [&str; 4] = ["53", "57", "58", "25006"];
        let is_of = |classes: &[&str]| classes.iter().any(|class| state.starts_with(class));
        if is_of(&ABSENCE) {
            Self::Absence
        } else if is_of(&INABILITY) {
            Self::Inability
        } else {
            Self::Refusal
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_told_apart_from_what_somebody_has_to_see_to() {
        for state in ["08006", "57P01", "57P02", "57P03", "53300", "40001", "40P01", "55P03", "25P03"] {
            assert_eq!(Trouble::of_state(state), Trouble::Absence, "{state}");
        }
        for state in ["53100", "53200", "53400", "57014", "57P04", "58030", "25006"] {
            assert_eq!(Trouble::of_state(state), Trouble::Inability, "{state}");
        }
        for state in ["42501", "42P01", "28P01", "23505", "22003", "25001", ""] {
            assert_eq!(Trouble::of_state(state), Trouble::Refusal, "{state}");
        }
    }
}
