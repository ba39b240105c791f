//! A table that predictions are written to, beside parts or instead of them.

use serde::{Deserialize, Serialize};

/// Longest name of a table, a schema or a column, bytes: PostgreSQL cuts what is longer.
pub const LONGEST_NAME: usize = 63;

/// How rows of a chunk that is run again meet those that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum TableMode {
    /// They take the place of the chunk's own: the columns `_job` and `_chunk` say whose a row is.
    #[default]
    ReplaceChunk,
    /// They take the place of rows with the same key, whoever wrote those.
    Upsert,
}

/// A table, or where a schema is named the table in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TableName {
    schema: Option<String>,
    table: String,
}

/// Why a text names no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no table: write one such as \"scores\" or \"risk.scores\", each name of 1 to {LONGEST_NAME} bytes without a quote")]
pub struct NotATable(String);

impl TableName {
    /// The schema, if one was named.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// The table.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// A table beside it, in the same schema.
    pub fn beside(&self, table: &str) -> Self {
        Self { schema: self.schema.clone(), table: table.to_owned() }
    }
}

impl TryFrom<String> for TableName {
    type Error = NotATable;

    fn try_from(text: String) -> Result<Self, NotATable> {
        let is_name = |name: &str| (1..=LONGEST_NAME).contains(&name.len()) && !name.contains(['"', '\0', '.']);
        let (schema, table) = match text.split_once('.') {
            Some((schema, table)) => (Some(schema), table),
            None => (None, text.as_str()),
        };
        if !is_name(table) || schema.is_some_and(|schema| !is_name(schema)) {
            return Err(NotATable(text));
        }
        Ok(Self { schema: schema.map(str::to_owned), table: table.to_owned() })
    }
}

impl From<TableName> for String {
    fn from(name: TableName) -> Self {
        name.to_string()
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.table),
            None => f.write_str(&self.table),
        }
    }
}

/// Where and how to write rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSpec {
    /// A connection that the service's configuration names.
    pub connection: String,
    /// The table.
    pub table: TableName,
    /// How rows meet those that are there.
    pub mode: TableMode,
    /// Columns that tell rows apart, to upsert by; empty in the other mode.
    pub key: Vec<String>,
    /// Whether the table is made if there is none.
    pub create: bool,
    /// Whether the rows are written as parts too.
    #[serde(default = "yes")]
    pub parts: bool,
}

fn yes() -> bool {
    true
}

/// What a chunk wrote to its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRows {
    /// Rows; with a key, those that were left of several with the same one.
    pub rows: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_with_and_without_a_schema() {
        let name = |text: &str| TableName::try_from(text.to_owned());
        assert_eq!((name("scores").unwrap().schema(), name("a.b").unwrap().schema()), (None, Some("a")));
        assert_eq!((name("a.b").unwrap().to_string(), name("a.b").unwrap().beside("c").to_string()), ("a.b".to_owned(), "a.c".to_owned()));
        for wrong in ["", ".", "a.", ".b", "a.b.c", "a\"b", "a\0b", &"x".repeat(64)] {
            assert!(name(wrong).is_err(), "{wrong:?}");
        }
    }
}
