//! What the room promises, format by format, through its door.

mod compression;
mod csv;
mod hostile;
mod ipc;
mod jsonl;
mod media;
mod parquet;
mod plain;
mod slices;

use std::{collections::BTreeSet, sync::Arc};

use arrow::array::AsArray;

use super::{
    DecodeError, Projection,
    testing::{Outcome, request, rows},
};
use crate::runner::batch::Batch;

/// Only the columns of these names.
fn only(names: &[&str]) -> Projection {
    Projection::Only(Arc::new(names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>()))
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
