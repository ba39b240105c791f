//! One way to say SQL to either database.
//!
//! Statements are written once, with `?` for values, in the SQL that both understand. What differs is said here: how values are
//! numbered, the clock, row locks. SQLite needs no locks, as it has one writer at a time.

use std::borrow::Cow;

use sqlx::{
    AssertSqlSafe, Decode, FromRow, PgConnection, Postgres, Row as _, Sqlite, SqliteConnection, Type, pool::PoolConnection,
    postgres::PgRow, sqlite::SqliteRow,
};

use crate::db::{Error, Result};

/// A number in PostgreSQL's space of advisory locks, chosen at random once.
const OUTPUTS: i64 = 0x4e53_6f75;
/// Another one.
const CHANGES: i64 = 0x4e53_6368;
/// Another.
const MODELS: i64 = 0x4e53_6d6f;

/// A connection.
pub(super) enum Db<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

impl Db<'_> {
    /// The database's clock as an expression, microseconds since the Unix epoch. It stands still during a statement, so that an index can be
    /// searched by it.
    pub(super) fn clock(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
            Self::Postgres(_) => "CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS BIGINT)",
        }
    }

    /// Which transaction wrote a row as it is, as an expression, where the database tells.
    pub(super) fn row_version(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "CAST(NULL AS INTEGER)",
            Self::Postgres(_) => "xmin::text::bigint",
        }
    }

    /// Ends a SELECT whose rows nobody else may change until this transaction is over; waits for whoever does.
    pub(super) fn for_update(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "",
            Self::Postgres(_) => " FOR UPDATE",
        }
    }

    /// The same, but passes over rows that another transaction holds.
    pub(super) fn skip_locked(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "",
            Self::Postgres(_) => " FOR UPDATE SKIP LOCKED",
        }
    }

    /// Lets one transaction at a time claim output prefixes, until its end: two that overlap are different rows, so that no row's lock
    /// keeps them apart.
    pub(super) async fn claim_outputs_alone(&mut self) -> Result<()> {
        self.alone(OUTPUTS).await
    }

    /// Lets one transaction at a time number versions of models.
    pub(super) async fn register_models_alone(&mut self) -> Result<()> {
        self.alone(MODELS).await
    }

    async fn alone(&mut self, lock: i64) -> Result<()> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(_) => sql("SELECT pg_advisory_xact_lock(?)").bind(lock).execute(self).await.map(drop),
        }
    }

    /// Lets one transaction at a time number state changes, until its end: a number that is drawn earlier is visible earlier. Whoever
    /// holds this waits for nothing any more.
    pub(super) async fn number_changes_alone(&mut self) -> Result<()> {
        self.alone(CHANGES).await
    }
}

/// A connection for reading.
pub(super) enum Reader {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

impl Reader {
    pub(super) fn db(&mut self) -> Db<'_> {
        match self {
            Self::Sqlite(connection) => Db::Sqlite(connection),
            Self::Postgres(connection) => Db::Postgres(connection),
        }
    }
}

/// A value in a statement.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Int(Option<i64>),
    Text(Option<String>),
    Bytes(Vec<u8>),
}

macro_rules! values {
    ($($from:ty => $to:expr;)*) => {
        $(impl From<$from> for Value {
            fn from(value: $from) -> Self {
                #[allow(clippy::redundant_closure_call, reason = "one form for every type")]
                ($to)(value)
            }
        })*
    };
}

values! {
    i64 => |v| Self::Int(Some(v));
    i32 => |v| Self::Int(Some(i64::from(v)));
    u32 => |v| Self::Int(Some(i64::from(v)));
    Option<i64> => Self::Int;
    Option<u32> => |v: Option<u32>| Self::Int(v.map(i64::from));
    Option<u16> => |v: Option<u16>| Self::Int(v.map(i64::from));
    &str => |v: &str| Self::Text(Some(v.to_owned()));
    &String => |v: &String| Self::Text(Some(v.clone()));
    String => |v| Self::Text(Some(v));
    Option<String> => Self::Text;
    &Option<String> => |v: &Option<String>| Self::Text(v.clone());
    Vec<u8> => Self::Bytes;
}

/// A statement and its values.
#[derive(Debug, Clone)]
pub(super) struct Query {
    text: Cow<'static, str>,
    values: Vec<Value>,
}

/// Begins a statement.
pub(super) fn sql(text: impl Into<Cow<'static, str>>) -> Query {
    Query { text: text.into(), values: Vec::new() }
}

/// Binds values in a statement of either database.
macro_rules! bound {
    ($text:expr, $values:expr) => {{
        let mut query = sqlx::query(AssertSqlSafe($text));
        for value in $values {
            query = match value {
                Value::Int(value) => query.bind(value),
                Value::Text(value) => query.bind(value),
                Value::Bytes(value) => query.bind(value),
            };
        }
        query
    }};
}

impl Query {
    /// Goes on with the statement.
    pub(super) fn push(&mut self, text: &str) -> &mut Self {
        self.text.to_mut().push_str(text);
        self
    }

    /// The value of the next `?`.
    pub(super) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// The value of the next `?`, of a statement that is made piece by piece.
    pub(super) fn value(&mut self, value: impl Into<Value>) -> &mut Self {
        self.values.push(value.into());
        self
    }

    /// Says it; how many rows were changed.
    pub(super) async fn execute(self, db: &mut Db<'_>) -> Result<u64> {
        #[cfg(test)]
        super::plans::hear(&self);
        match db {
            Db::Sqlite(db) => bound!(self.text, self.values).execute(&mut **db).await.map(|done| done.rows_affected()),
            Db::Postgres(db) => bound!(numbered(&self.text), self.values).execute(&mut **db).await.map(|done| done.rows_affected()),
        }
        .map_err(Error::Unavailable)
    }

    /// All rows.
    pub(super) async fn rows(self, db: &mut Db<'_>) -> Result<Vec<Row>> {
        #[cfg(test)]
        super::plans::hear(&self);
        match db {
            Db::Sqlite(db) => {
                bound!(self.text, self.values).fetch_all(&mut **db).await.map(|rows| rows.into_iter().map(Row::Sqlite).collect())
            }
            Db::Postgres(db) => bound!(numbered(&self.text), self.values)
                .fetch_all(&mut **db)
                .await
                .map(|rows| rows.into_iter().map(Row::Postgres).collect()),
        }
        .map_err(Error::Unavailable)
    }

    /// The first row, if there is one.
    pub(super) async fn row(self, db: &mut Db<'_>) -> Result<Option<Row>> {
        #[cfg(test)]
        super::plans::hear(&self);
        match db {
            Db::Sqlite(db) => bound!(self.text, self.values).fetch_optional(&mut **db).await.map(|row| row.map(Row::Sqlite)),
            Db::Postgres(db) => bound!(numbered(&self.text), self.values).fetch_optional(&mut **db).await.map(|row| row.map(Row::Postgres)),
        }
        .map_err(Error::Unavailable)
    }

    /// All rows, as tuples of their columns.
    pub(super) async fn all<T: Cells>(self, db: &mut Db<'_>) -> Result<Vec<T>> {
        self.rows(db).await?.iter().map(Row::cells).collect()
    }

    /// The first row as a tuple of its columns, if there is one.
    pub(super) async fn first<T: Cells>(self, db: &mut Db<'_>) -> Result<Option<T>> {
        self.row(db).await?.as_ref().map(Row::cells).transpose()
    }

    /// The row that a statement like this always has.
    pub(super) async fn only<T: Cells>(self, db: &mut Db<'_>) -> Result<T> {
        self.first(db).await?.ok_or(Error::Unavailable(sqlx::Error::RowNotFound))
    }
}

impl Query {
    /// Whether there is a row.
    pub(super) async fn exists(self, db: &mut Db<'_>) -> Result<bool> {
        Ok(self.row(db).await?.is_some())
    }

    /// The one column of all rows.
    pub(super) async fn scalars<T>(self, db: &mut Db<'_>) -> Result<Vec<T>>
    where
        (T,): Cells,
    {
        Ok(self.all::<(T,)>(db).await?.into_iter().map(|(value,)| value).collect())
    }

    /// The one column of the first row, if there is one.
    pub(super) async fn scalar_or_none<T>(self, db: &mut Db<'_>) -> Result<Option<T>>
    where
        (T,): Cells,
    {
        Ok(self.first::<(T,)>(db).await?.map(|(value,)| value))
    }

    /// The one column of the row that a statement like this always has.
    pub(super) async fn scalar<T>(self, db: &mut Db<'_>) -> Result<T>
    where
        (T,): Cells,
    {
        Ok(self.only::<(T,)>(db).await?.0)
    }
}

#[cfg(test)]
impl Query {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The same, run to its end, and asked how.
    pub(super) fn explained(self) -> Self {
        Self { text: format!("EXPLAIN (ANALYZE, FORMAT JSON) {}", self.text).into(), ..self }
    }
}

/// `$1`, `$2` … for each `?`.
fn numbered(text: &str) -> String {
    let mut numbered = String::with_capacity(text.len() + 16);
    for (n, piece) in text.split('?').enumerate() {
        if n > 0 {
            numbered.push('$');
            numbered.push_str(&n.to_string());
        }
        numbered.push_str(piece);
    }
    numbered
}

/// Tuples of columns, read from a row of either database.
pub(super) trait Cells: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> {}
impl<T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow>> Cells for T {}

/// A column's value, read from a row of either database.
pub(super) trait Cell: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres> {}
impl<T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>> Cell for T {}

/// A row that was found.
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

impl Row {
    /// One column.
    pub(super) fn get<T: Cell>(&self, column: &str) -> std::result::Result<T, sqlx::Error> {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }

    fn cells<T: Cells>(&self) -> Result<T> {
        match self {
            Self::Sqlite(row) => T::from_row(row),
            Self::Postgres(row) => T::from_row(row),
        }
        .map_err(Error::Unavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_numbered_in_their_order() {
        assert_eq!(numbered("a = ? AND b IN (?, ?) LIMIT ?"), "a = $1 AND b IN ($2, $3) LIMIT $4");
        assert_eq!(numbered("no value"), "no value");
    }
}
