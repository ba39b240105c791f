//! What the room promises, format by format, through its door.

mod compression;
mod csv;
mod hostile;
mod ipc;
mod jsonl;
mod media;
mod parquet;
mod slices;

use std::collections::BTreeSet;

use arrow::array::{Array, AsArray};

use super::{
    DecodeError, Projection,
    testing::{Outcome, request},
};
use crate::runner::batch::Batch;

/// Only the columns of these names.
fn only(names: &[&str]) -> Projection {
    Projection::Only(names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>())
}

/// The records of an outcome as text, whatever their batches: position, then `name=value` of the columns that have one.
fn rows(outcome: &Outcome) -> Vec<(u64, String)> {
    let mut rows = Vec::new();
    for batch in &outcome.batches {
        let schema = batch.columns.schema();
        for (row, id) in batch.provenance.rows.iter().enumerate() {
            let cells = schema.fields().iter().zip(batch.columns.columns()).filter(|(_, column)| column.is_valid(row));
            let cells: Vec<String> =
                cells.map(|(field, column)| format!("{}={}", field.name(), column.as_string::<i32>().value(row))).collect();
            rows.push((id.position, cells.join(" ")));
        }
    }
    rows
}

/// Position and code of the error rows.
fn faults(outcome: &Outcome) -> Vec<(u64, &str)> {
    outcome.errors.iter().map(|error| (error.position.unwrap_or(u64::MAX), error.code.as_str())).collect()
}

/// Code, position and text of what ended the object.
fn end(outcome: &Outcome) -> Option<(&'static str, Option<u64>, String)> {
    match &outcome.end {
        None => None,
        Some(DecodeError::Corrupt { code, position, detail, .. }) => Some((code, *position, detail.clone())),
        Some(DecodeError::Source(error)) => Some((error.code(), None, error.to_string())),
    }
}

fn texts(rows: &[(u64, &str)]) -> Vec<(u64, String)> {
    rows.iter().map(|(position, text)| (*position, (*text).to_owned())).collect()
}
