//! A chunk's rows on their way into a table, beside its part.
//!
//! In: the rows of the part, assembled. Out: those that the table can hold, which are the part's then, and their text to the table; error
//! rows `table_value` for the others.

use std::sync::Arc;

use arrow::{
    array::{BooleanArray, RecordBatch},
    compute::filter_record_batch,
};
use tokio::runtime::Handle;

use super::{
    attempt::{Attempt, Failure},
    encode::{CopyEncoder, EncodeError, Refused, columns},
    protocol::TableTask,
};
use crate::{
    domain::{
        Problem,
        table::{TableRows, TableSpec},
    },
    tables::{self, Connections, Loaded, Loader},
};

/// The destination of one attempt.
pub(super) struct Table {
    /// Whose rows they are: the database is waited for as long as it goes on.
    attempt: Arc<Attempt>,
    spec: TableSpec,
    loader: Loader,
    /// Once the first rows have come.
    encoder: Option<CopyEncoder>,
    /// Of the rows that were sifted last.
    text: Vec<u8>,
}

impl Table {
    /// Connects, so that a database that is away costs no inference.
    pub(super) fn open(handle: &Handle, connections: &Connections, attempt: &Arc<Attempt>, task: &TableTask) -> Result<Self, Failure> {
        let loader = wait(handle, attempt, Loader::open(connections, task.spec.clone(), task.of.clone()))?;
        Ok(Self { attempt: attempt.clone(), spec: task.spec.clone(), loader, encoder: None, text: Vec::new() })
    }

    /// The rows that the table can hold, and the others.
    pub(super) fn sift(
        &mut self,
        handle: &Handle,
        rows: &RecordBatch,
    ) -> Result<Result<(RecordBatch, Vec<Refused>), EncodeError>, Failure> {
        let encoder = match &self.encoder {
            Some(encoder) => encoder,
            None => {
                let written = wait(handle, &self.attempt, self.loader.begin(&columns(rows.schema_ref())))?;
                &*self.encoder.insert(CopyEncoder::new(rows.schema().fields(), written, self.spec.key.clone()))
            }
        };
        self.text.clear();
        let refused = match encoder.write(rows, &mut self.text) {
            Ok(refused) => refused,
            Err(error) => return Ok(Err(error)),
        };
        if refused.is_empty() {
            return Ok(Ok((rows.clone(), refused)));
        }
        let mut kept = vec![true; rows.num_rows()];
        refused.iter().for_each(|(row, _)| kept[*row] = false);
        let rows = filter_record_batch(rows, &BooleanArray::from(kept));
        Ok(rows.map(|rows| (rows, refused)).map_err(|error| EncodeError::Failed(error.to_string())))
    }

    /// Sends the rows that were sifted last.
    pub(super) fn send(&mut self, handle: &Handle) -> Result<(), Failure> {
        wait(handle, &self.attempt, self.loader.write(&self.text))
    }

    /// Lets others see the rows.
    pub(super) fn finish(self, handle: &Handle) -> Result<TableRows, Failure> {
        match wait(handle, &self.attempt, self.loader.finish())? {
            Loaded::Rows(rows) => Ok(TableRows { rows }),
            // Whoever has the lease now has written it.
            Loaded::Fenced => Err(Failure::Broken {
                problem: Problem::new("table_fenced", TITLE, "a later attempt at this chunk has written its rows already"),
                retryable: true,
            }),
        }
    }
}

const TITLE: &str = "The table cannot be written";

/// Waits for the database unless the attempt is asked to stop: then the connection goes, and what it has not committed with it.
fn wait<T>(handle: &Handle, attempt: &Attempt, work: impl Future<Output = Result<T, tables::Error>>) -> Result<T, Failure> {
    handle.block_on(async {
        tokio::select! {
            done = work => done.map_err(failure),
            () = attempt.stopping() => Err(Failure::Stopped),
        }
    })
}

fn failure(error: tables::Error) -> Failure {
    let retryable = error.retryable();
    Failure::Broken { problem: Problem::new(error.code(), TITLE, error.to_string()), retryable }
}
