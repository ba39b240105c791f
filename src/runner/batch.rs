//! Records on their way through the stages.

use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::domain::{RecordError, Stage};

/// Field metadata key that says how a `Utf8` column writes its values; absent on columns that are typed.
pub const ENCODING: &str = "nightshift.encoding";
/// Value of [`ENCODING`]: the cells of a CSV file, unquoted, otherwise as found. An empty cell is an empty text.
pub const ENCODING_CSV: &str = "csv";
/// Value of [`ENCODING`]: JSON values as found (`"red"`, `12`, `[1, 2]`, `null`); a field that a line lacks is an Arrow null.
pub const ENCODING_JSON: &str = "json";

/// Field metadata key of a column that stands for another one in the output; its value is that one's name. The other holds what was
/// made of it, for the model.
pub const CARRIED: &str = "nightshift.carried";

/// Where one record came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowId {
    /// Index into [`Provenance::sources`].
    pub source: u32,
    /// Row number or byte offset, as `_position` shows it.
    pub position: u64,
}

/// Where the records of a batch came from, row by row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Provenance {
    /// Keys of the objects, as `_source` shows them.
    pub sources: Vec<Arc<str>>,
    /// One for each row.
    pub rows: Vec<RowId>,
}

impl Provenance {
    /// Rows of one object.
    pub fn of(source: Arc<str>, positions: impl IntoIterator<Item = u64>) -> Self {
        Self { sources: vec![source], rows: positions.into_iter().map(|position| RowId { source: 0, position }).collect() }
    }

    /// The object that row `row` came from.
    pub fn source(&self, row: usize) -> &Arc<str> {
        &self.sources[self.rows[row].source as usize]
    }

    /// The error row for row `row`.
    pub fn error(&self, row: usize, stage: Stage, code: impl Into<String>, detail: impl Into<String>) -> RecordError {
        RecordError {
            source: self.source(row).clone(),
            position: Some(self.rows[row].position),
            stage,
            code: code.into(),
            detail: detail.into(),
        }
    }

    /// The rows at `indices`, in that order.
    #[must_use]
    pub fn take(&self, indices: &[u32]) -> Self {
        Self { sources: self.sources.clone(), rows: indices.iter().map(|i| self.rows[*i as usize]).collect() }
    }

    /// `rows` rows from row `start` on.
    #[must_use]
    pub fn slice(&self, start: usize, rows: usize) -> Self {
        Self { sources: self.sources.clone(), rows: self.rows[start..start + rows].to_vec() }
    }

    /// Adds another batch's rows after these.
    pub fn append(&mut self, other: &Provenance) {
        let offset = self.sources.len() as u32;
        self.sources.extend(other.sources.iter().cloned());
        self.rows.extend(other.rows.iter().map(|r| RowId { source: r.source + offset, position: r.position }));
    }
}

/// Decoded records: their provenance and their input columns, in input order.
#[derive(Debug, Clone)]
pub struct Batch {
    /// As long as `columns`.
    pub provenance: Provenance,
    /// The columns of the data, typed (Parquet) or as text (see [`ENCODING`]).
    pub columns: RecordBatch,
}

impl Batch {
    /// `rows` rows from row `start` on.
    #[must_use]
    pub fn slice(&self, start: usize, rows: usize) -> Self {
        Self { provenance: self.provenance.slice(start, rows), columns: self.columns.slice(start, rows) }
    }

    /// Number of records.
    pub fn rows(&self) -> usize {
        self.provenance.rows.len()
    }
}
