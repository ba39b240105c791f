//! The table itself: what it is like, what it should be like, and how it is made.

use arrow::datatypes::Field;
use serde::{Deserialize, Serialize};
use sqlx::{Row, postgres::PgRow};

use super::{
    Error, Session, quoted, quoted_table,
    types::{fits, reads_text, sql_type},
};
use crate::domain::table::{LONGEST_NAME, TableMode, TableName, TableSpec};

/// Says whose a row is.
pub(super) const JOB: &str = "_job";
/// Says of which chunk it is.
pub(super) const CHUNK: &str = "_chunk";
/// Columns that say where a row came from: written where the table has them.
const PROVENANCE: [&str; 2] = ["_source", "_position"];
/// One session at a time makes tables: `CREATE TABLE IF NOT EXISTS` alone fails when two do. Chosen at random once.
const MAKING: i64 = 0x4e53_7461;

/// A column that rows have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as PostgreSQL writes it.
    pub sql_type: String,
    /// Its texts may stand for numbers and truth values, as those of CSV: the table decides.
    pub open: bool,
}

impl Column {
    /// The column for an Arrow field.
    pub fn of(field: &Field) -> Self {
        Self { name: field.name().clone(), sql_type: sql_type(field.data_type()), open: false }
    }

    /// A column of texts whose meaning is open. A table that is made for them has texts.
    pub fn of_open_texts(name: &str) -> Self {
        Self { name: name.to_owned(), sql_type: "text".to_owned(), open: true }
    }
}

/// A column that the table has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Existing {
    pub(super) name: String,
    pub(super) sql_type: String,
    /// It has to be given: it takes no null, and has no default.
    required: bool,
}

/// What was found where a table is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Whether there is a table.
    pub exists: bool,
    /// Its columns, or those that it would be made with.
    pub columns: Vec<Column>,
    /// What would make it; `None` where it is there.
    pub statement: Option<String>,
}

/// Looks whether the table takes rows of these columns; changes nothing.
///
/// # Errors
/// [`Error::Mismatch`] with both sides, and those of the database.
pub async fn look(session: &mut Session, spec: &TableSpec, wanted: &[Column]) -> Result<Look, Error> {
    let Some(existing) = existing(session, &spec.table).await? else {
        check_names(spec, wanted)?;
        let statement = definition(spec, wanted);
        if !spec.create {
            return Err(missing(spec, &statement));
        }
        return Ok(Look { exists: false, columns: all(spec, wanted), statement: Some(statement) });
    };
    compare(spec, wanted, &existing)?;
    has_key(session, spec).await?;
    let columns = existing.into_iter().map(|column| Column { name: column.name, sql_type: column.sql_type, open: false }).collect();
    Ok(Look { exists: true, columns, statement: None })
}

/// Makes the table if it is missing and may be made, and compares it with the rows: the columns to write, with the types that the table
/// has for them.
pub(super) async fn prepare(session: &mut Session, spec: &TableSpec, wanted: &[Column]) -> Result<Vec<Column>, Error> {
    check_names(spec, wanted)?;
    let mut found = existing(session, &spec.table).await?;
    if found.is_some() {
        miss_index(session, spec).await?;
    } else {
        let statement = definition(spec, wanted);
        if !spec.create {
            return Err(missing(spec, &statement));
        }
        make(session, &spec.table, &statement).await?;
        found = existing(session, &spec.table).await?;
    }
    let columns = compare(spec, wanted, &found.unwrap_or_default())?;
    has_key(session, spec).await?;
    Ok(columns)
}

/// Makes a table unless somebody has meanwhile: chunks that begin together all find none.
pub(super) async fn make(session: &mut Session, table: &TableName, statements: &str) -> Result<(), Error> {
    session.say("BEGIN").await?;
    session.execute(sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(MAKING)).await?;
    if existing(session, table).await?.is_none() {
        session.say(statements).await?;
    }
    session.say("COMMIT").await
}

/// The columns of a table, in its order; `None` when there is no such table.
pub(super) async fn existing(session: &mut Session, table: &TableName) -> Result<Option<Vec<Existing>>, Error> {
    const COLUMNS: &str = "SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS sql_type, \
        a.attnotnull AND NOT a.atthasdef AND a.attidentity = '' AS required FROM pg_attribute a \
        WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum";
    let column = |row: &PgRow| -> Result<Existing, sqlx::Error> {
        Ok(Existing { name: row.try_get("name")?, sql_type: row.try_get("sql_type")?, required: row.try_get("required")? })
    };
    let columns = session.rows(sqlx::query(COLUMNS).bind(quoted_table(table)), column).await?;
    Ok((!columns.is_empty()).then_some(columns))
}

/// The columns that are written, with the types that the table has for them.
fn compare(spec: &TableSpec, wanted: &[Column], existing: &[Existing]) -> Result<Vec<Column>, Error> {
    let find = |name: &str| existing.iter().find(|column| column.name == name);
    let mut faults = Vec::new();
    let mut written = Vec::new();
    for column in all(spec, wanted) {
        match find(&column.name) {
            None if PROVENANCE.contains(&column.name.as_str()) => {}
            None => faults.push(format!("the rows have {} {}, and the table has no such column", column.name, column.sql_type)),
            Some(found) if !(fits(&column.sql_type, &found.sql_type) || column.open && reads_text(&found.sql_type)) => {
                faults.push(format!("{} is {} in the rows and {} in the table", column.name, column.sql_type, found.sql_type));
            }
            Some(found) => written.push(Column { sql_type: found.sql_type.clone(), ..column }),
        }
    }
    for column in existing.iter().filter(|column| column.required && written.iter().all(|w| w.name != column.name)) {
        faults.push(format!("the table wants {} {}, and the rows have no such column", column.name, column.sql_type));
    }
    for key in spec.key.iter().filter(|key| wanted.iter().all(|column| column.name != **key)) {
        faults.push(format!("the key {key} is none of the columns of the rows"));
    }
    if faults.is_empty() { Ok(written) } else { Err(mismatch(spec, &faults.join("; "))) }
}

/// Upserts need a unique index on exactly the key.
async fn has_key(session: &mut Session, spec: &TableSpec) -> Result<(), Error> {
    if spec.mode != TableMode::Upsert {
        return Ok(());
    }
    const UNIQUE: &str = "SELECT 1 FROM pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid \
        AND i.indpred IS NULL AND i.indexprs IS NULL AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\") \
        FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)) = $2";
    let mut key = spec.key.clone();
    key.sort();
    if session.any(sqlx::query(UNIQUE).bind(quoted_table(&spec.table)).bind(&key)).await? {
        return Ok(());
    }
    let key: Vec<String> = spec.key.iter().map(|name| quoted(name)).collect();
    let advice = format!("it has no unique index on the key: CREATE UNIQUE INDEX ON {} ({})", quoted_table(&spec.table), key.join(", "));
    Err(mismatch(spec, &advice))
}

/// Says so once where a table that is there has no index to find a chunk's rows by: it works without one, slowly.
async fn miss_index(session: &mut Session, spec: &TableSpec) -> Result<(), Error> {
    const INDEX: &str = "SELECT 1 FROM pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisvalid AND i.indpred IS NULL AND \
        (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\") FROM pg_attribute a \
        WHERE a.attrelid = i.indrelid AND a.attnum IN (i.indkey[0], i.indkey[1])) = $2";
    if spec.mode != TableMode::ReplaceChunk || !session.is_first_look(&spec.table.to_string()) {
        return Ok(());
    }
    let table = quoted_table(&spec.table);
    if !session.any(sqlx::query(INDEX).bind(&table).bind([CHUNK, JOB])).await? {
        let connection = session.name();
        tracing::warn!(
            connection,
            "table {} of connection {connection:?} has no index to find a chunk's rows by, and every chunk reads the whole table: {}",
            spec.table,
            index(&table)
        );
    }
    Ok(())
}

/// What makes the index to find a chunk's rows by.
fn index(quoted_table: &str) -> String {
    format!("CREATE INDEX ON {quoted_table} ({}, {})", quoted(JOB), quoted(CHUNK))
}

fn check_names(spec: &TableSpec, wanted: &[Column]) -> Result<(), Error> {
    let fits = |name: &str| (1..=LONGEST_NAME).contains(&name.len()) && !name.contains('\0');
    if let Some(column) = wanted.iter().find(|column| !fits(&column.name)) {
        return Err(mismatch(spec, &format!("{:?} is no name that PostgreSQL keeps whole for a column", column.name)));
    }
    match wanted.iter().find(|column| spec.mode == TableMode::ReplaceChunk && [JOB, CHUNK].contains(&column.name.as_str())) {
        Some(column) => Err(mismatch(spec, &format!("they have a column {}, which says whose a row is", column.name))),
        None => Ok(()),
    }
}

fn mismatch(spec: &TableSpec, faults: &str) -> Error {
    Error::Mismatch(format!("table {} of connection {:?} does not take the rows: {faults}", spec.table, spec.connection))
}

fn missing(spec: &TableSpec, statement: &str) -> Error {
    Error::Mismatch(format!("connection {:?} has no table {}; set create, or make it: {statement}", spec.connection, spec.table))
}

/// The columns of rows, with those in front that say whose they are.
fn all(spec: &TableSpec, wanted: &[Column]) -> Vec<Column> {
    let own =
        [(JOB, "text"), (CHUNK, "bigint")].map(|(name, kind)| Column { name: name.to_owned(), sql_type: kind.to_owned(), open: false });
    let own = own.into_iter().filter(|_| spec.mode == TableMode::ReplaceChunk);
    own.chain(wanted.iter().cloned()).collect()
}

/// What makes the table.
fn definition(spec: &TableSpec, wanted: &[Column]) -> String {
    let table = quoted_table(&spec.table);
    let is_key = |name: &str| spec.key.iter().any(|key| key == name);
    let column = |column: &Column| {
        let null = if [JOB, CHUNK].contains(&column.name.as_str()) || is_key(&column.name) { " NOT NULL" } else { "" };
        format!("{} {}{null}", quoted(&column.name), column.sql_type)
    };
    let columns: Vec<String> = all(spec, wanted).iter().map(column).collect();
    match spec.mode {
        TableMode::ReplaceChunk => {
            format!("CREATE TABLE IF NOT EXISTS {table} ({}); {}", columns.join(", "), index(&table))
        }
        TableMode::Upsert => {
            let key: Vec<String> = spec.key.iter().map(|name| quoted(name)).collect();
            format!("CREATE TABLE IF NOT EXISTS {table} ({}, PRIMARY KEY ({}))", columns.join(", "), key.join(", "))
        }
    }
}
