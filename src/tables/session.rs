//! A session with one database, in which nothing is waited for without an end.
//!
//! In: statements. Out: what the database says to them, or that it is silent. The server is asked to give up first, so that it says why; what
//! does not even do that (a network that swallows everything, a machine that stands still) is given up here, a little later.
//!
//! Transactions are begun and committed as statements. Whoever gives up in the middle drops the session, and with it the connection: what
//! was not committed is undone.

use std::time::Duration;

use sqlx::{
    AssertSqlSafe, Connection, PgConnection, Postgres, Row,
    postgres::{PgArguments, PgConnectOptions, PgRow},
};

use super::{Connections, Error};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one statement may take where the configuration says nothing else.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(300);
/// How long one waits for a lock: less than a statement may take, so that it is told apart from one that is slow.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);
/// How much longer than the server one waits here for it to say that it gives up.
const GRACE: Duration = Duration::from_secs(5);
/// Text of a `COPY` that has to be taken within the time of a statement.
const BLOCK: usize = 64 * 1024;

/// A statement with its values.
type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// A connection to one database.
#[derive(Debug)]
pub struct Session {
    connection: PgConnection,
    /// What the configuration calls it.
    name: String,
    /// How long an answer may take.
    limit: Duration,
    connections: Connections,
}

impl Session {
    /// Connects, and says how long the server may take for what comes.
    pub(super) async fn open(connections: &Connections, name: &str, options: &PgConnectOptions, timeout: Duration) -> Result<Self, Error> {
        let connect = async {
            let mut connection = PgConnection::connect_with(options).await?;
            sqlx::raw_sql(AssertSqlSafe(settings(timeout))).execute(&mut connection).await?;
            Ok::<_, sqlx::Error>(connection)
        };
        let connection = within(name, CONNECT_TIMEOUT, connect).await?;
        Ok(Self { connection, name: name.to_owned(), limit: timeout + GRACE, connections: connections.clone() })
    }

    /// What the configuration calls the database.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether this process has not looked at `what` before.
    pub(super) fn is_first_look(&self, what: &str) -> bool {
        self.connections.is_first_look(&self.name, what)
    }

    /// Says statements that have no values and give nothing back.
    pub(super) async fn say(&mut self, statements: &str) -> Result<(), Error> {
        within(&self.name, self.limit, sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut self.connection)).await.map(drop)
    }

    /// How many rows a statement touched.
    pub(super) async fn execute(&mut self, query: Query<'_>) -> Result<u64, Error> {
        let done = within(&self.name, self.limit, query.execute(&mut self.connection)).await;
        Ok(done?.rows_affected())
    }

    /// The rows that a statement gives, as `row` reads each.
    pub(super) async fn rows<T>(&mut self, query: Query<'_>, row: impl Fn(&PgRow) -> Result<T, sqlx::Error>) -> Result<Vec<T>, Error> {
        let rows = within(&self.name, self.limit, query.fetch_all(&mut self.connection)).await?;
        rows.iter().map(row).collect::<Result<_, _>>().map_err(|error| Error::of(&self.name, error))
    }

    /// The first columns of the rows that a statement gives.
    pub(super) async fn scalars<T>(&mut self, query: Query<'_>) -> Result<Vec<T>, Error>
    where
        T: for<'r> sqlx::Decode<'r, Postgres> + sqlx::Type<Postgres>,
    {
        self.rows(query, |row| row.try_get(0)).await
    }

    /// Whether a statement gives any row.
    pub(super) async fn any(&mut self, query: Query<'_>) -> Result<bool, Error> {
        Ok(!self.rows(query, |_| Ok(())).await?.is_empty())
    }

    /// Gives text to a `COPY … FROM STDIN`, which may take long as long as it goes on: the server, which would count all of it as one
    /// statement, is told not to.
    pub(super) async fn copy(&mut self, statement: &str, text: &[u8]) -> Result<(), Error> {
        self.say("SET statement_timeout = 0").await?;
        self.copy_whole(statement, text).await?;
        let limit = format!("SET statement_timeout = '{}ms'", self.limit.saturating_sub(GRACE).as_millis().max(1));
        self.say(&limit).await
    }

    async fn copy_whole(&mut self, statement: &str, text: &[u8]) -> Result<(), Error> {
        let Self { connection, name, limit, .. } = self;
        let mut copy = within(name, *limit, connection.copy_in_raw(statement)).await?;
        for block in text.chunks(BLOCK) {
            within(name, *limit, copy.send(block)).await?;
        }
        within(name, *limit, copy.finish()).await.map(drop)
    }

    /// Says goodbye. What was committed is there, however that ends.
    pub(super) async fn close(self) {
        let _said_goodbye = within(&self.name, GRACE, self.connection.close()).await;
    }
}

/// What every session says. Whoever freezes in a transaction is put out of it, so that he holds up no successor. A server that can looks
/// now and then whether the one that it works for is still there; where it cannot, work for one that is gone ends with its statement.
fn settings(timeout: Duration) -> String {
    let lock = LOCK_TIMEOUT.min(timeout / 2);
    format!(
        "SET idle_in_transaction_session_timeout = '20s'; SET statement_timeout = '{}ms'; SET lock_timeout = '{}ms'; SET timezone = 'UTC'; \
         SELECT set_config('client_connection_check_interval', '2s', false) \
         WHERE current_setting('server_version_num')::int >= 140000 AND version() LIKE '%linux%'",
        timeout.as_millis().max(1),
        lock.as_millis().max(1)
    )
}

/// The answer, or that there was none in time.
async fn within<T>(name: &str, limit: Duration, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|error| Error::of(name, error)),
        Err(_) => Err(Error::silent(name)),
    }
}
