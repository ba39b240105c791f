//! `[connections.NAME]`: databases by name. A setting holds no secret: it names the variable or the file that does, so that it can be
//! shown and handed to another process that has the same environment.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sqlx::{ConnectOptions, postgres::PgConnectOptions};

use super::{
    Error,
    session::{STATEMENT_TIMEOUT, Session},
};

/// Most seconds of a statement: a day.
const LONGEST_STATEMENT: u64 = 86_400;
/// The service's own database: runners are not given the way to it.
const OWN: &str = "DATABASE_URL";

/// How to reach one database: by exactly one of `url_env` and `url_file`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionSettings {
    /// The environment variable that holds the URL, `postgres://user:password@host/database`.
    pub url_env: Option<String>,
    /// The file that holds it, alone.
    pub url_file: Option<PathBuf>,
    /// Seconds that the database may take for one statement, 300 when absent. Waiting for a lock may take half of it, and a minute at most.
    pub statement_timeout: Option<u64>,
}

impl ConnectionSettings {
    /// The URL, as it is now.
    fn url(&self) -> Result<String, String> {
        let text = match (&self.url_env, &self.url_file) {
            (Some(name), None) if name == OWN => {
                return Err(format!("{OWN} is the service's own database: name another variable, even for the same server"));
            }
            (Some(name), None) => std::env::var(name).map_err(|_| format!("the environment variable {name} is not set"))?,
            (None, Some(path)) => std::fs::read_to_string(path).map_err(|e| format!("the file {} cannot be read: {e}", path.display()))?,
            _ => return Err("give either url_env or url_file".to_owned()),
        };
        Ok(text.trim().to_owned())
    }

    fn timeout(&self) -> Duration {
        self.statement_timeout.map_or(STATEMENT_TIMEOUT, Duration::from_secs)
    }

    fn options(&self) -> Result<PgConnectOptions, String> {
        if !self.statement_timeout.is_none_or(|seconds| (1..=LONGEST_STATEMENT).contains(&seconds)) {
            return Err(format!("statement_timeout is in seconds, from 1 to {LONGEST_STATEMENT}"));
        }
        let url = self.url()?;
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err("what it names holds no URL such as postgres://user:password@host/database".to_owned());
        }
        // What the parser says may quote the URL.
        let options = PgConnectOptions::from_str(&url).map_err(|_| "the URL that it names cannot be read".to_owned())?;
        // Statements hold nothing of a row, but rows stand beside them in errors.
        Ok(options.application_name("nightshift").disable_statement_logging())
    }
}

/// The databases that jobs may name; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sections: BTreeMap<String, ConnectionSettings>,
    /// What was looked at in which database, of what needs one look alone.
    seen: Mutex<HashSet<(String, String)>>,
}

impl Connections {
    /// Takes the sections as they are.
    pub fn new(sections: BTreeMap<String, ConnectionSettings>) -> Self {
        Self(Arc::new(Inner { sections, seen: Mutex::default() }))
    }

    /// Their settings, by name.
    pub fn settings(&self) -> &BTreeMap<String, ConnectionSettings> {
        &self.0.sections
    }

    /// Looks whether the variables and files that the sections name hold URLs.
    ///
    /// # Errors
    /// One sentence that names the section.
    pub fn check(&self) -> Result<(), String> {
        let check = |(name, settings): (&String, &ConnectionSettings)| {
            settings.options().map(drop).map_err(|what| format!("[connections.{name}]: {what}"))
        };
        self.settings().iter().try_for_each(check)
    }

    /// The version of the server, as it says it.
    ///
    /// # Errors
    /// Those of [`Connections::open`].
    pub async fn version(&self, name: &str) -> Result<String, Error> {
        let mut session = self.open(name).await?;
        let version = session.scalars(sqlx::query("SELECT current_setting('server_version')")).await?;
        Ok(version.into_iter().next().unwrap_or_default())
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Settings`], [`Error::Unavailable`], [`Error::Silent`], or [`Error::Refused`] for a wrong password.
    pub async fn open(&self, name: &str) -> Result<Session, Error> {
        let settings = self.settings().get(name).ok_or_else(|| Error::Unknown(name.to_owned()))?;
        let options = settings.options().map_err(|what| Error::Settings { connection: name.to_owned(), what })?;
        Session::open(self, name, &options, settings.timeout()).await
    }

    pub(super) fn is_first_look(&self, connection: &str, what: &str) -> bool {
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert((connection.to_owned(), what.to_owned()))
    }
}
