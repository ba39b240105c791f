//! `[connections.NAME]`: databases by name. A setting holds no secret: it names the variable or the file that does, so that it can be
//! shown and handed to another process that has the same environment.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use sqlx::{ConnectOptions, PgConnection, postgres::PgConnectOptions};

use super::Error;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What every session says. Whoever freezes in a transaction is put out of it, so that he holds up no successor; and nobody waits longer
/// for him than that takes.
const SESSION: &str = "SET idle_in_transaction_session_timeout = '20s'; SET lock_timeout = '60s'; SET timezone = 'UTC'";
/// The service's own database: runners are not given the way to it.
const OWN: &str = "DATABASE_URL";

/// How to reach one database: exactly one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionSettings {
    /// The environment variable that holds the URL, `postgres://user:password@host/database`.
    pub url_env: Option<String>,
    /// The file that holds it, alone.
    pub url_file: Option<PathBuf>,
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

    fn options(&self) -> Result<PgConnectOptions, String> {
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
pub struct Connections(Arc<BTreeMap<String, ConnectionSettings>>);

impl Connections {
    /// Takes the sections as they are.
    pub fn new(sections: BTreeMap<String, ConnectionSettings>) -> Self {
        Self(Arc::new(sections))
    }

    /// Their settings, by name.
    pub fn settings(&self) -> &BTreeMap<String, ConnectionSettings> {
        &self.0
    }

    /// Looks whether the variables and files that the sections name hold URLs.
    ///
    /// # Errors
    /// One sentence that names the section.
    pub fn check(&self) -> Result<(), String> {
        self.0.iter().try_for_each(|(name, settings)| settings.options().map(drop).map_err(|what| format!("[connections.{name}]: {what}")))
    }

    /// The version of the server, as it says it.
    ///
    /// # Errors
    /// Those of [`Connections::open`].
    pub async fn version(&self, name: &str) -> Result<String, Error> {
        let mut connection = self.open(name).await?;
        let version = sqlx::query_scalar("SELECT current_setting('server_version')").fetch_one(&mut connection).await;
        version.map_err(|error| Error::of(name, error))
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Settings`], [`Error::Unavailable`], or [`Error::Refused`] for a wrong password.
    pub async fn open(&self, name: &str) -> Result<PgConnection, Error> {
        let settings = self.0.get(name).ok_or_else(|| Error::Unknown(name.to_owned()))?;
        let options = settings.options().map_err(|what| Error::Settings { connection: name.to_owned(), what })?;
        let connect = async {
            let mut connection = options.connect().await?;
            sqlx::raw_sql(SESSION).execute(&mut connection).await?;
            Ok::<_, sqlx::Error>(connection)
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(connected) => connected.map_err(|error| Error::of(name, error)),
            Err(_) => Err(Error::silent(name)),
        }
    }
}
