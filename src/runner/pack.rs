//! Packs decoded rows into full batches, across steps of a decoder and across small objects.
//!
//! In: batches of any length. Out: batches of exactly `rows` rows, shorter only before a row that would bring their texts and bytes over
//! the limit, before a change of schema, and at the end: where batches end depends on the records alone, not on how they were read.

use std::ops::AddAssign;

use arrow::{
    array::{Array, AsArray},
    buffer::OffsetBuffer,
    compute::concat_batches,
    datatypes::{ArrowNativeType, DataType},
};

use super::batch::Batch;

/// Collects rows of one schema.
#[derive(Debug)]
pub(super) struct Packer {
    rows: usize,
    bytes: u64,
    waiting: Vec<Batch>,
    waiting_rows: usize,
    waiting_bytes: u64,
}

impl Packer {
    /// Batches of `rows` rows, and of at most `bytes` bytes in columns of texts and bytes unless one row has more.
    pub(super) fn new(rows: usize, bytes: u64) -> Self {
        Self { rows: rows.max(1), bytes, waiting: Vec::new(), waiting_rows: 0, waiting_bytes: 0 }
    }

    /// Adds rows; calls `emit` for each batch that is full, or ended by a change of schema.
    pub(super) fn push<E>(&mut self, batch: Batch, mut emit: impl FnMut(Batch) -> Result<(), E>) -> Result<(), E> {
        if self.waiting.first().is_some_and(|first| first.columns.schema_ref() != batch.columns.schema_ref())
            && let Some(ended) = self.flush()
        {
            emit(ended)?;
        }
        if self.waiting_rows == 0 && batch.rows() == self.rows && at_most(&batch).is_some_and(|bytes| bytes <= self.bytes) {
            return emit(batch);
        }
        let weights = weights(&batch);
        let mut start = 0;
        for (row, weight) in weights.iter().enumerate() {
            if self.waiting_rows == self.rows || self.waiting_rows > 0 && self.waiting_bytes + weight > self.bytes {
                self.waiting.push(slice(&batch, start, row - start));
                start = row;
                if let Some(full) = self.flush() {
                    emit(full)?;
                }
            }
            self.waiting_rows += 1;
            self.waiting_bytes += weight;
        }
        if start < batch.rows() {
            self.waiting.push(slice(&batch, start, batch.rows() - start));
        }
        if self.waiting_rows == self.rows
            && let Some(full) = self.flush()
        {
            emit(full)?;
        }
        Ok(())
    }

    /// What is left, as one batch.
    pub(super) fn flush(&mut self) -> Option<Batch> {
        (self.waiting_rows, self.waiting_bytes) = (0, 0);
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|batch| batch.rows() > 0);
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

fn slice(batch: &Batch, start: usize, rows: usize) -> Batch {
    if start == 0 && rows == batch.rows() {
        return batch.clone();
    }
    batch.slice(start, rows)
}

/// What all rows together cannot weigh more than, told without a look at any; `None` where several can share bytes.
fn at_most(batch: &Batch) -> Option<u64> {
    let columns = batch.columns.columns().iter();
    let shared = |kind: &DataType| matches!(kind, DataType::Utf8View | DataType::BinaryView);
    columns.map(|column| (!shared(column.data_type())).then(|| column.get_buffer_memory_size() as u64)).sum()
}

/// Bytes of each row in columns of texts and bytes.
fn weights(batch: &Batch) -> Vec<u64> {
    fn add<O: ArrowNativeType>(weights: &mut [u64], offsets: &OffsetBuffer<O>) {
        weights.iter_mut().zip(offsets.lengths()).for_each(|(weight, length)| weight.add_assign(length as u64));
    }
    let mut weights = vec![0; batch.rows()];
    for column in batch.columns.columns() {
        match column.data_type() {
            DataType::Utf8 => add(&mut weights, column.as_string::<i32>().offsets()),
            DataType::LargeUtf8 => add(&mut weights, column.as_string::<i64>().offsets()),
            DataType::Binary => add(&mut weights, column.as_binary::<i32>().offsets()),
            DataType::LargeBinary => add(&mut weights, column.as_binary::<i64>().offsets()),
            // The low half of a view is its length.
            DataType::Utf8View => add_views(&mut weights, column.as_string_view().views()),
            DataType::BinaryView => add_views(&mut weights, column.as_binary_view().views()),
            DataType::Struct(_) => {
                for member in column.as_struct().columns() {
                    if member.data_type() == &DataType::Binary {
                        add(&mut weights, member.as_binary::<i32>().offsets());
                    }
                }
            }
            _ => {}
        }
    }
    weights
}

fn add_views(weights: &mut [u64], views: &[u128]) {
    weights.iter_mut().zip(views).for_each(|(weight, view)| *weight += u64::from(*view as u32));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch},
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
            let mut packer = Packer::new(rows, u64::MAX);
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

        #[test]
        fn batches_end_by_bytes_at_the_same_records_however_they_were_read(
            sizes in prop::collection::vec(0usize..40, 0..60),
            step in 1usize..20,
            rows in 1usize..8,
        ) {
            const BYTES: usize = 64;
            let whole = |from: usize, sizes: &[usize]| {
                let column: ArrayRef = Arc::new(BinaryArray::from_iter_values(sizes.iter().map(|s| vec![0u8; *s])));
                let provenance = Provenance::of("a".into(), (from..from + sizes.len()).map(|v| v as u64));
                Batch { provenance, columns: RecordBatch::try_from_iter([("image", column)]).unwrap() }
            };
            let ends = |step: usize| {
                let (mut packer, mut out, mut from) = (Packer::new(rows, BYTES as u64), Vec::new(), 0);
                for some in sizes.chunks(step) {
                    packer.push(whole(from, some), |b| { out.push(b); Ok::<(), ()>(()) }).unwrap();
                    from += some.len();
                }
                out.extend(packer.flush());
                out
            };
            let out = ends(step);
            let lengths: Vec<usize> = out.iter().map(Batch::rows).collect();
            prop_assert_eq!(&lengths, &ends(sizes.len().max(1)).iter().map(Batch::rows).collect::<Vec<_>>());
            prop_assert_eq!(lengths.iter().sum::<usize>(), sizes.len());
            for b in &out {
                let bytes: usize = b.provenance.rows.iter().map(|r| sizes[r.position as usize]).sum();
                prop_assert!(b.rows() == 1 || b.rows() <= rows && bytes <= BYTES);
            }
        }
    }
}
