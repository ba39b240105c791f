//! Where the state is kept.

use std::{fmt, path::PathBuf};

/// Where the state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// In a file of this machine, for one process.
    Sqlite(PathBuf),
    /// In a server that several nodes share.
    Postgres {
        /// Where it is.
        url: PostgresUrl,
        /// Connections at most, for each process.
        connections: u32,
    },
}

/// A URL that may hold a password: it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

impl PostgresUrl {
    /// As it was given.
    pub fn new(url: String) -> Self {
        Self(url)
    }

    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgresUrl(…)")
    }
}

/// Host, port and name of the database, without user and password.
impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match url::Url::parse(&self.0) {
            Ok(url) => {
                let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
                write!(f, "postgres://{}{port}{}", url.host_str().unwrap_or_default(), url.path())
            }
            Err(_) => f.write_str("postgres://…"),
        }
    }
}
