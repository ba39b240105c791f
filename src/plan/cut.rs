//! Cuts one large object into slices that never cut a record.
//!
//! In: an object as listed. Out: the object whole, or slices of it in order. Parquet is cut by the row counts in its footer;
//! JSON Lines by bytes, as no record holds a newline; CSV by reading it through the decoder's own border scanner, as a newline in
//! quotes is no border and only the quotes before it tell. Compressed text is not cut, nor are archives and objects that are one record.

use std::sync::{Arc, atomic::AtomicU64};

use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use tokio::runtime::Handle;

use super::{Error, list::Found};
use crate::{
    domain::{
        JobSpec, ObjectSlice, Slice,
        spec::{InputCompression, InputFormat, InputSpec, Layout},
    },
    objects::Bucket,
    runner::{
        Waits,
        decode::{self, DecodeError, RecordBorders, RowGroupInfo, sniff},
        source::StoreObject,
    },
};

/// Read from the start of an object to see what it is and how long its records are.
const HEAD_BYTES: u64 = 64 * 1024;

/// What became of an object.
pub(super) enum Cut<'c> {
    /// To be gathered with others.
    Whole {
        /// All of it.
        slice: ObjectSlice,
        /// About how many records it holds; counts only where the job limits a chunk's records.
        records: u64,
    },
    /// Chunks of its own, in order.
    Slices(BoxStream<'c, Result<ObjectSlice, Error>>),
}

/// Cuts the objects of one job.
pub(super) struct Cutter {
    input: InputSpec,
    layout: Layout,
    chunk_bytes: u64,
    chunk_records: Option<u64>,
}

impl Cutter {
    pub(super) fn new(spec: &JobSpec, chunk_bytes: u64) -> Self {
        let (input, layout) = (spec.input.clone(), spec.output.layout);
        Self { input, layout, chunk_bytes, chunk_records: spec.execution.chunk_records }
    }

    /// Decides on one object; reads nothing of it when it is small and the job does not limit a chunk's records, or when each object is
    /// to have an output of its own.
    pub(super) async fn cut<'c>(&'c self, found: &'c Found) -> Result<Cut<'c>, Error> {
        let object = &found.meta;
        let (mut format, mut compression) = self.kind_by_name(&object.key);
        if let Some(records) = self.records_of_whole(format) {
            return Ok(Cut::Whole { slice: slice_of(found, format, compression, Slice::Whole), records });
        }
        let large = object.size > whole_up_to(format, self.chunk_bytes, self.chunk_records);
        if !large && self.chunk_records.is_none() || self.layout == Layout::Mirror {
            return Ok(Cut::Whole { slice: slice_of(found, format, compression, Slice::Whole), records: 0 });
        }
        let head = head(found).await?;
        if format != InputFormat::Parquet && compression == InputCompression::Auto {
            compression = sniff::compression_of(&head);
        }
        if format == InputFormat::Auto && compression == InputCompression::None {
            // What no format is left as it is: the decoder says so, in an error row.
            format = sniff::format_of(&head[..head.len().min(sniff::HEAD_BYTES)]).unwrap_or_default();
        }
        let of = move |slice| slice_of(found, format, compression, slice);
        match (format, compression) {
            (InputFormat::Parquet, _) => {
                let slice = of(Slice::Whole);
                let Some(groups) = self.row_groups(&found.bucket, &slice).await? else { return Ok(Cut::Whole { slice, records: 0 }) };
                let records: u64 = groups.iter().map(|g| g.rows).sum();
                let most = self.chunk_records.unwrap_or(u64::MAX);
                if !large && records <= most {
                    return Ok(Cut::Whole { slice, records });
                }
                Ok(Cut::Slices(stream::iter(row_slices(&groups, self.chunk_bytes, most)).map(move |s| Ok(of(s))).boxed()))
            }
            (InputFormat::Csv | InputFormat::Jsonl | InputFormat::Lines, InputCompression::None) => {
                let slice = of(Slice::Whole);
                let target = self.target_bytes(&head);
                if slice.size <= whole_up_to(format, target, self.chunk_records) {
                    let records = slice.size / record_bytes(&head);
                    return Ok(Cut::Whole { slice, records });
                }
                let slices = match format {
                    InputFormat::Jsonl | InputFormat::Lines => stream::iter(byte_slices(slice.size, target)).map(Ok).boxed(),
                    _ => self.csv_slices(&found.bucket, &slice, target).await?,
                };
                Ok(Cut::Slices(slices.map_ok(of).boxed()))
            }
            // Not cut: how many records a compressed text holds is not known, so with a limit on them it is a chunk of its own.
            _ => {
                let records = self.records_of_whole(format).or(self.chunk_records).unwrap_or_default();
                Ok(Cut::Whole { slice: of(Slice::Whole), records })
            }
        }
    }

    /// How many records an object of a format that is never cut counts for: how many an archive holds is not known, so with a limit on
    /// them it is a chunk of its own. `None` for other formats.
    fn records_of_whole(&self, format: InputFormat) -> Option<u64> {
        match format {
            InputFormat::Image | InputFormat::Text => Some(1),
            InputFormat::Tar => Some(self.chunk_records.unwrap_or_default()),
            InputFormat::Auto | InputFormat::Parquet | InputFormat::Csv | InputFormat::Jsonl | InputFormat::Arrow | InputFormat::Lines => {
                None
            }
        }
    }

    pub(super) fn kind_by_name(&self, key: &str) -> (InputFormat, InputCompression) {
        let (format, compression) = sniff::by_name(key);
        let asked = &self.input;
        (
            if asked.format == InputFormat::Auto { format } else { asked.format },
            if asked.compression == InputCompression::Auto { compression } else { asked.compression },
        )
    }

    /// About how many bytes a slice of a text should hold.
    fn target_bytes(&self, head: &[u8]) -> u64 {
        match self.chunk_records {
            Some(records) => self.chunk_bytes.min(records.saturating_mul(record_bytes(head))).max(1),
            None => self.chunk_bytes,
        }
    }

    /// The row groups of a Parquet object; `None` when its footer cannot be read, which the runner will report, whole. A store that does
    /// not answer is no such reason: where an object is cut must not depend on its mood.
    pub(super) async fn row_groups(&self, bucket: &Bucket, slice: &ObjectSlice) -> Result<Option<Vec<RowGroupInfo>>, Error> {
        let source: Arc<str> = slice.source(&self.input.uri).into();
        let object = StoreObject {
            bucket: bucket.clone(),
            object: slice.clone(),
            handle: Handle::current(),
            bytes_read: Arc::new(AtomicU64::new(0)),
            waits: Waits::default(),
        };
        let read = tokio::task::spawn_blocking(move || decode::row_groups(&object, &source)).await;
        match read {
            Ok(Ok(groups)) => Ok(Some(groups)),
            Ok(Err(DecodeError::Source(error))) if error.retryable() => Err(error.into()),
            Ok(Err(error)) => {
                tracing::debug!(%error, "{} is not cut", slice.key);
                Ok(None)
            }
            Err(_) => Ok(None),
        }
    }

    /// Ranges that end at the first record border at or after each multiple of `target`, found as the object streams by.
    async fn csv_slices(
        &self,
        bucket: &Bucket,
        slice: &ObjectSlice,
        target: u64,
    ) -> Result<BoxStream<'static, Result<Slice, Error>>, Error> {
        let size = slice.size;
        let blocks = bucket.stream(&slice.key, slice.etag.as_deref(), 0..size).await?;
        let mut borders = RecordBorders::new(sniff::delimiter(&slice.key, &self.input.csv));
        let mut start = 0;
        let found = blocks.map_ok(move |block| {
            let (mut slices, mut rest) = (Vec::new(), &block[..]);
            while let Some(length) = borders.seek(rest, start + target) {
                rest = &rest[length..];
                let border = borders.offset();
                if border < size {
                    slices.push(Slice::Bytes { start, end: border });
                    start = border;
                }
            }
            slices
        });
        // The last slice runs to the end, wherever the scanner stands: an unterminated quote is the decoder's to report.
        let mut last = 0;
        let found = found.map_ok(|slices| stream::iter(slices).map(Ok)).map_err(Error::Objects).try_flatten();
        let all = found.map(Some).chain(stream::iter([None])).map(move |slice| match slice {
            Some(Ok(Slice::Bytes { start, end })) => {
                last = end;
                Ok(Slice::Bytes { start, end })
            }
            Some(other) => other,
            None => Ok(Slice::Bytes { start: last, end: size }),
        });
        Ok(all.boxed())
    }
}

/// How large an object may be that is not cut into slices of `target` bytes. To cut CSV is to read all of it once more: for less than two
/// slices it is not worth that, unless they are to have so many records at most.
pub(super) fn whole_up_to(format: InputFormat, target: u64, chunk_records: Option<u64>) -> u64 {
    let halves = if format == InputFormat::Csv && chunk_records.is_none() { 4 } else { 3 };
    target.saturating_mul(halves) / 2
}

pub(super) fn slice_of(found: &Found, format: InputFormat, compression: InputCompression, slice: Slice) -> ObjectSlice {
    let (bucket, object) = (found.named_in.clone(), found.meta.clone());
    ObjectSlice { bucket, key: object.key, size: object.size, etag: object.etag, format, compression, slice }
}

pub(super) async fn head(found: &Found) -> Result<Vec<u8>, Error> {
    let object = &found.meta;
    Ok(found.bucket.read(&object.key, object.etag.as_deref(), 0..object.size.min(HEAD_BYTES)).await?.to_vec())
}

/// Mean length of the lines in the head of a text, at least 1.
pub(super) fn record_bytes(head: &[u8]) -> u64 {
    let lines = memchr::memchr_iter(b'\n', head).count().max(1);
    (head.len() / lines).max(1) as u64
}

/// Even ranges of about `target` bytes; the reader finds the record borders.
fn byte_slices(size: u64, target: u64) -> Vec<Slice> {
    let count = size.div_ceil(target.max(1)).max(1);
    let border = |i: u64| (u128::from(size) * u128::from(i) / u128::from(count)) as u64;
    (0..count).map(|i| Slice::Bytes { start: border(i), end: border(i + 1) }).collect()
}

/// Ranges of rows that end with a row group where that keeps them under both limits, and inside one where it alone is over
/// the limit on records.
fn row_slices(groups: &[RowGroupInfo], bytes: u64, records: u64) -> Vec<Slice> {
    let mut slices = Vec::new();
    let (mut start, mut end, mut held) = (0, 0, 0);
    for group in groups {
        if end > start && (held + group.bytes > bytes || end - start + group.rows > records) {
            slices.push(Slice::Rows { start, end });
            (start, held) = (end, 0);
        }
        end += group.rows;
        held += group.bytes;
        while end - start > records {
            slices.push(Slice::Rows { start, end: start + records });
            (start, held) = (start + records, 0);
        }
    }
    if end > start {
        slices.push(Slice::Rows { start, end });
    }
    slices
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(slices: &[Slice], size: u64) {
        let mut at = 0;
        for slice in slices {
            let (Slice::Bytes { start, end } | Slice::Rows { start, end }) = *slice else { panic!("{slice:?}") };
            assert!(start == at && end > start, "{slices:?}");
            at = end;
        }
        assert_eq!(at, size);
    }

    proptest! {
        #[test]
        fn byte_slices_cover_an_object_once(size in 1u64..1_000_000, target in 1u64..100_000) {
            let slices = byte_slices(size, target.max(size / 1000));
            covers(&slices, size);
        }

        #[test]
        fn row_slices_cover_an_object_once_within_the_limits(
            groups in prop::collection::vec((1u64..5_000, 1u64..5_000), 1..30), bytes in 1u64..20_000, records in 1u64..10_000,
        ) {
            let groups: Vec<_> = groups.into_iter().map(|(rows, bytes)| RowGroupInfo { rows, bytes }).collect();
            let slices = row_slices(&groups, bytes, records);
            covers(&slices, groups.iter().map(|g| g.rows).sum());
            for slice in slices {
                let Slice::Rows { start, end } = slice else { unreachable!() };
                prop_assert!(end - start <= records);
            }
        }
    }
}
