//! Packs decoded rows into full batches, across steps of a decoder and across small objects.
//!
//! In: batches of any length. Out: batches of exactly `rows` rows, shorter only before a change of schema, at about `bytes` bytes and at
//! the end: where batches end depends on the records alone, not on when they came.

use arrow::{array::Array, compute::concat_batches};

use super::batch::Batch;

/// Collects rows of one schema.
#[derive(Debug)]
pub(super) struct Packer {
    rows: usize,
    bytes: usize,
    waiting: Vec<Batch>,
    waiting_rows: usize,
    waiting_bytes: usize,
}

impl Packer {
    /// Of batches of `rows` rows that hold about `bytes` bytes at most, as long as no decoder gives more at once.
    pub(super) fn new(rows: usize, bytes: usize) -> Self {
        Self { rows: rows.max(1), bytes, waiting: Vec::new(), waiting_rows: 0, waiting_bytes: 0 }
    }

    /// Adds rows; calls `emit` for each batch that is full, or ended by a change of schema.
    pub(super) fn push<E>(&mut self, batch: Batch, mut emit: impl FnMut(Batch) -> Result<(), E>) -> Result<(), E> {
        let bytes = bytes_of(&batch);
        let other = self.waiting.first().is_some_and(|first| first.columns.schema_ref() != batch.columns.schema_ref());
        if (other || self.waiting_bytes + bytes > self.bytes)
            && let Some(ended) = self.flush()
        {
            emit(ended)?;
        }
        self.waiting_rows += batch.rows();
        self.waiting_bytes += bytes;
        self.waiting.push(batch);
        if self.waiting_rows < self.rows {
            return Ok(());
        }
        let Some(all) = self.flush() else { return Ok(()) };
        let mut start = 0;
        while all.rows() - start >= self.rows {
            emit(slice(&all, start, self.rows))?;
            start += self.rows;
        }
        if start < all.rows() {
            let rest = slice(&all, start, all.rows() - start);
            self.waiting_rows = rest.rows();
            self.waiting_bytes = bytes_of(&rest);
            self.waiting.push(rest);
        }
        Ok(())
    }

    /// What is left, as one batch.
    pub(super) fn flush(&mut self) -> Option<Batch> {
        (self.waiting_rows, self.waiting_bytes) = (0, 0);
        let mut waiting = std::mem::take(&mut self.waiting);
        if waiting.len() <= 1 {
            return waiting.pop();
        }
        let schema = waiting[0].columns.schema();
        let columns = concat_batches(&schema, waiting.iter().map(|b| &b.columns)).expect("all have this schema");
        let mut rest = waiting.into_iter();
        let mut provenance = rest.next()?.provenance;
        for batch in rest {
            provenance.append(&batch.provenance);
        }
        Some(Batch { provenance, columns })
    }
}

/// What the rows of a batch hold, whatever buffers they share with others.
fn bytes_of(batch: &Batch) -> usize {
    let columns = batch.columns.columns().iter();
    columns.map(|column| column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size())).sum()
}

fn slice(batch: &Batch, start: usize, rows: usize) -> Batch {
    if start == 0 && rows == batch.rows() {
        return batch.clone();
    }
    Batch { provenance: batch.provenance.slice(start, rows), columns: batch.columns.slice(start, rows) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, AsArray, Int64Array, RecordBatch},
        datatypes::Int64Type,
    };
    use proptest::prelude::*;

    use super::{super::batch::Provenance, *};

    fn batch(name: &str, values: std::ops::Range<i64>) -> Batch {
        let provenance = Provenance::of(name.into(), values.clone().map(|v| v as u64));
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
        Batch { provenance, columns: RecordBatch::try_from_iter([("x", column)]).unwrap() }
    }

    proptest! {
        #[test]
        fn batches_end_at_the_same_records_however_they_were_read(lengths in prop::collection::vec(0i64..40, 0..20), rows in 1usize..30) {
            let total: i64 = lengths.iter().sum();
            let mut packer = Packer::new(rows, usize::MAX);
            let (mut at, mut out) = (0, Vec::new());
            for length in lengths {
                packer.push(batch("a", at..at + length), |b| { out.push(b); Ok::<(), ()>(()) }).unwrap();
                at += length;
            }
            out.extend(packer.flush().filter(|b| b.rows() > 0));
            let mut next = 0;
            for (i, b) in out.iter().enumerate() {
                prop_assert!(b.rows() == rows || i + 1 == out.len());
                for (row, value) in b.columns.column(0).as_primitive::<Int64Type>().values().iter().enumerate() {
                    prop_assert_eq!(*value, next);
                    prop_assert_eq!(b.provenance.rows[row].position, next as u64);
                    next += 1;
                }
            }
            prop_assert_eq!(next, total);
        }
    }

    #[test]
    fn large_records_make_small_batches() {
        let mut packer = Packer::new(1000, 100);
        let mut out = Vec::new();
        for at in 0..30 {
            packer
                .push(batch("a", at..at + 1), |b| {
                    out.push(b.rows());
                    Ok::<(), ()>(())
                })
                .unwrap();
        }
        out.extend(packer.flush().map(|b| b.rows()));
        assert!(out.iter().all(|rows| *rows * 8 <= 100) && out.iter().sum::<usize>() == 30 && out.len() == 3, "{out:?}");
    }
}
