//! One attempt's rows, on their way into a table.

use serde::{Deserialize, Serialize};
use sqlx::AssertSqlSafe;

use super::{
    Connections, Error, Session, quoted, quoted_table,
    target::{self, CHUNK, Column, JOB},
};
use crate::domain::table::{TableMode, TableName, TableSpec};

/// Text kept before it is sent: a `COPY` each.
const PIECE: usize = 4 * 1024 * 1024;
/// Where rows wait for the end of the chunk.
const STAGED: &str = "pg_temp.nightshift_staged";
/// The order in which they came.
const ORDER: &str = "_nightshift_order";
/// Which epoch of a chunk has written last.
const LEDGER: &str = "nightshift_chunk";

/// Whose rows they are.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ChunkOf {
    /// The job's id.
    pub job: String,
    /// The chunk's number.
    pub chunk: i64,
    /// Rises with every claim of the chunk: the fencing token.
    pub epoch: i64,
}

/// What became of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// They are in the table: so many.
    Rows(u64),
    /// A later attempt has written this chunk: nothing was changed.
    Fenced,
}

/// Rows of one attempt at one chunk.
#[derive(Debug)]
pub struct Loader {
    session: Session,
    spec: TableSpec,
    of: ChunkOf,
    /// What is written of each row, once the first has come; with those that say whose it is, where the table has them.
    columns: Vec<Column>,
    text: Vec<u8>,
}

impl Loader {
    /// Connects. Nothing is changed yet.
    ///
    /// # Errors
    /// Those of [`Connections::open`].
    pub async fn open(connections: &Connections, spec: TableSpec, of: ChunkOf) -> Result<Self, Error> {
        let session = connections.open(&spec.connection).await?;
        Ok(Self { session, spec, of, columns: Vec::new(), text: Vec::new() })
    }

    /// Takes the columns of the first rows: makes the table where that is asked for, and compares. Returns the columns that are to be
    /// written of each row, in that order, with the types that the table has for them.
    ///
    /// # Errors
    /// [`Error::Mismatch`] with both sides, and those of the database.
    pub async fn begin(&mut self, wanted: &[Column]) -> Result<Vec<Column>, Error> {
        let columns = target::prepare(&mut self.session, &self.spec, wanted).await?;
        let staged = columns.iter().filter(|column| !is_own(&self.spec, &column.name));
        let staged: Vec<Column> = staged.cloned().collect();
        let types: Vec<String> = staged.iter().map(|column| format!("{} {}", quoted(&column.name), column.sql_type)).collect();
        let statement =
            format!("CREATE TEMPORARY TABLE nightshift_staged ({ORDER} bigint GENERATED ALWAYS AS IDENTITY, {})", types.join(", "));
        self.session.say(&statement).await?;
        self.columns = staged;
        Ok(self.columns.clone())
    }

    /// Takes rows, as `COPY` reads them in its text form.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn write(&mut self, text: &[u8]) -> Result<(), Error> {
        self.text.extend_from_slice(text);
        if self.text.len() >= PIECE { self.send().await } else { Ok(()) }
    }

    async fn send(&mut self) -> Result<(), Error> {
        if self.text.is_empty() {
            return Ok(());
        }
        let statement = format!("COPY {STAGED} ({}) FROM STDIN", names(&self.columns));
        self.session.copy(&statement, &self.text).await?;
        self.text.clear();
        Ok(())
    }

    /// Puts the rows into the table in the place of those that earlier attempts left there, unless a later one was faster.
    ///
    /// # Errors
    /// Those of the database. Then nothing was changed, or all of it was and the answer was lost: another attempt puts that right.
    pub async fn finish(mut self) -> Result<Loaded, Error> {
        self.send().await?;
        ledger(&mut self.session, &self.spec).await?;
        let Self { mut session, spec, of, columns, .. } = self;
        session.say("BEGIN").await?;
        let claim = format!(
            "INSERT INTO {0} AS l (job, chunk, epoch, at) VALUES ($1, $2, $3, now()) \
             ON CONFLICT (job, chunk) DO UPDATE SET epoch = excluded.epoch, at = excluded.at WHERE l.epoch < excluded.epoch",
            quoted_table(&ledger_of(&spec))
        );
        let claimed = session.execute(sqlx::query(AssertSqlSafe(claim)).bind(&of.job).bind(of.chunk).bind(of.epoch)).await?;
        if claimed == 0 {
            session.say("ROLLBACK").await?;
            return Ok(Loaded::Fenced);
        }
        let mut rows = 0;
        if spec.mode == TableMode::ReplaceChunk && target::existing(&mut session, &spec.table).await?.is_some() {
            let delete = format!("DELETE FROM {} WHERE {JOB} = $1 AND {CHUNK} = $2", quoted_table(&spec.table));
            session.execute(sqlx::query(AssertSqlSafe(delete)).bind(&of.job).bind(of.chunk)).await?;
        }
        if !columns.is_empty() {
            let insert = insertion(&spec, &columns);
            let mut query = sqlx::query(AssertSqlSafe(insert));
            if spec.mode == TableMode::ReplaceChunk {
                query = query.bind(&of.job).bind(of.chunk);
            }
            rows = session.execute(query).await?;
        }
        session.say("COMMIT").await?;
        session.close().await;
        Ok(Loaded::Rows(rows))
    }
}

/// What moves the staged rows into the table. Of several rows with one key the last stands, and all upserts take keys in one order, so
/// that two of them do not wait for each other in a circle.
fn insertion(spec: &TableSpec, columns: &[Column]) -> String {
    let (table, names) = (quoted_table(&spec.table), names(columns));
    match spec.mode {
        TableMode::ReplaceChunk => {
            format!("INSERT INTO {table} ({JOB}, {CHUNK}, {names}) SELECT $1, $2, {names} FROM {STAGED} ORDER BY {ORDER}")
        }
        TableMode::Upsert => {
            let key = spec.key.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
            let set = columns.iter().filter(|column| !spec.key.contains(&column.name));
            let set: Vec<String> = set.map(|column| format!("{0} = excluded.{0}", quoted(&column.name))).collect();
            let then = if set.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {}", set.join(", ")) };
            format!(
                "INSERT INTO {table} ({names}) SELECT {names} FROM (SELECT DISTINCT ON ({key}) * FROM {STAGED} ORDER BY {key}, {ORDER} DESC) \
                 AS latest ON CONFLICT ({key}) DO {then}"
            )
        }
    }
}

fn names(columns: &[Column]) -> String {
    columns.iter().map(|column| quoted(&column.name)).collect::<Vec<_>>().join(", ")
}

/// A column that says whose a row is, and is not among those of the rows.
fn is_own(spec: &TableSpec, name: &str) -> bool {
    spec.mode == TableMode::ReplaceChunk && [JOB, CHUNK].contains(&name)
}

/// The ledger stands beside the table.
pub(super) fn ledger_of(spec: &TableSpec) -> TableName {
    spec.table.beside(LEDGER)
}

/// Makes the ledger if it is missing.
pub(super) async fn ledger(session: &mut Session, spec: &TableSpec) -> Result<(), Error> {
    let table = ledger_of(spec);
    if target::existing(session, &table).await?.is_some() {
        return Ok(());
    }
    let statement = format!(
        "CREATE TABLE IF NOT EXISTS {} (job text NOT NULL, chunk bigint NOT NULL, epoch bigint NOT NULL, \
         at timestamp with time zone NOT NULL, PRIMARY KEY (job, chunk))",
        quoted_table(&table)
    );
    target::make(session, &table, &statement).await
}
