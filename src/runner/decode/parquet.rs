//! Parquet → batches.
//!
//! In: an object's footer, then the column chunks of one row group after another, each fetched whole. Out: a [`Decoder`] of
//! the projected columns with the types of the file's Arrow schema; and, for the planner, [`row_groups`].
//!
//! A file may be hostile: its footer is believed only where it fits the object, pages may not grow without limit, and a panic
//! inside the Parquet library is caught and reported like any other fault of the file.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
    sync::Arc,
};

use ::parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
    },
    errors::{ParquetError, Result as ParquetResult},
    file::{
        metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData},
        reader::{ChunkReader, Length},
    },
};
use arrow::array::RecordBatch;
use bytes::{Buf, Bytes};

use super::{DecodeError, Decoded, Decoder, Projection, Request, caught::caught, pages};
use crate::{
    domain::Slice,
    runner::{
        batch::{Batch, Provenance},
        source::ObjectBytes,
    },
};

/// Most bytes in a footer.
const MAX_FOOTER_BYTES: u64 = 256 << 20;

/// Most bytes, as stored, of the projected columns of one row group: they are held in memory while it is decoded.
const MAX_ROW_GROUP_BYTES: u64 = 2 << 30;

/// Most bytes in one page, decompressed.
const MAX_PAGE_BYTES: u64 = 256 << 20;

/// What is read from the end of an object at first: the footer of most.
const TAIL_BYTES: u64 = 64 << 10;

/// Length of the footer's length and the magic number after it.
const FOOTER_TAIL_BYTES: u64 = 8;

/// Column chunks that lie closer than this are read together …
const JOIN_GAP_BYTES: u64 = 64 << 10;
/// … up to this size, so that there is still something to read side by side.
const JOIN_MAX_BYTES: u64 = 8 << 20;

/// One row group, for the planner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowGroupInfo {
    /// Records in it.
    pub rows: u64,
    /// Its size as stored, all columns.
    pub bytes: u64,
}

/// The row groups of a Parquet object in their order; reads the footer alone. `source` names the object in errors.
///
/// # Errors
/// [`DecodeError::Corrupt`] with code `invalid_parquet`; [`DecodeError::Source`].
pub fn row_groups(bytes: &dyn ObjectBytes, source: &Arc<str>) -> Result<Vec<RowGroupInfo>, DecodeError> {
    let footer = read_footer(bytes, source)?;
    let rows = rows_by_group(&footer).map_err(|why| invalid(source, None, why))?;
    let sizes = footer.row_groups().iter().map(|group| {
        group.columns().iter().map(|column| u64::try_from(column.compressed_size()).unwrap_or(0)).fold(0, u64::saturating_add)
    });
    Ok(rows
        .into_iter()
        .zip(sizes)
        .map(|(rows, size)| RowGroupInfo { rows: rows.end - rows.start, bytes: size.min(bytes.size()) })
        .collect())
}

/// Opens a Parquet object, or some of its rows.
pub(super) fn open(bytes: Arc<dyn ObjectBytes>, request: Request) -> Result<Box<dyn Decoder>, DecodeError> {
    let source = request.source.clone();
    let footer = read_footer(bytes.as_ref(), &source)?;
    let groups = rows_by_group(&footer).map_err(|why| invalid(&source, None, why))?;
    let total = groups.last().map_or(0, |rows| rows.end);
    let wanted = match request.slice.slice {
        Slice::Rows { start, end } if start <= end && end <= total => start..end,
        Slice::Rows { start, end } => {
            return Err(invalid(&source, None, format!("rows {start}..{end} do not lie in a file of {total} rows")));
        }
        Slice::Whole | Slice::Bytes { .. } => 0..total,
    };
    let (metadata, mask) = caught(|| -> ParquetResult<_> {
        let metadata = ArrowReaderMetadata::try_new(Arc::new(footer), ArrowReaderOptions::new())?;
        let mask = mask(&metadata, &request.projection)?;
        Ok((metadata, mask))
    })
    .map_err(|why| invalid(&source, Some(wanted.start), why))?;
    let pending = groups
        .into_iter()
        .enumerate()
        .map(|(index, rows)| GroupRows { index, wanted: rows.start.max(wanted.start)..rows.end.min(wanted.end), first: rows.start })
        .filter(|group| !group.wanted.is_empty())
        .collect();
    Ok(Box::new(ParquetDecoder { bytes, request, metadata, mask, pending, current: None }))
}

/// The wanted rows of one row group, numbered within the file.
#[derive(Debug)]
struct GroupRows {
    index: usize,
    wanted: Range<u64>,
    /// The row group's own first row.
    first: u64,
}

struct ParquetDecoder {
    bytes: Arc<dyn ObjectBytes>,
    request: Request,
    metadata: ArrowReaderMetadata,
    mask: ProjectionMask,
    pending: VecDeque<GroupRows>,
    current: Option<OpenGroup>,
}

/// A row group that is being decoded.
struct OpenGroup {
    index: usize,
    reader: ParquetRecordBatchReader,
    /// Rows still to come.
    rows: Range<u64>,
}

impl Decoder for ParquetDecoder {
    fn next(&mut self) -> Result<Option<Decoded>, DecodeError> {
        let step = self.step();
        if step.is_err() {
            self.pending.clear();
            self.current = None;
        }
        step
    }
}

impl ParquetDecoder {
    fn step(&mut self) -> Result<Option<Decoded>, DecodeError> {
        loop {
            let mut group = match self.current.take() {
                Some(group) => group,
                None => match self.pending.pop_front() {
                    Some(rows) => self.open_group(rows)?,
                    None => return Ok(None),
                },
            };
            let first = group.rows.start;
            let batch = group.next().map_err(|why| invalid(&self.request.source, Some(first), why))?;
            if let Some(columns) = batch {
                let positions = first..group.rows.start;
                self.current = Some(group);
                let batch = Batch { provenance: Provenance::of(self.request.source.clone(), positions), columns };
                return Ok(Some(Decoded { batch: Some(batch), errors: Vec::new() }));
            }
        }
    }

    /// Fetches the projected column chunks of a row group, and starts to decode them.
    fn open_group(&self, rows: GroupRows) -> Result<OpenGroup, DecodeError> {
        let GroupRows { index, wanted, first } = rows;
        let fault = |why: String| invalid(&self.request.source, Some(wanted.start), format!("row group {index}: {why}"));
        let group = self.metadata.metadata().row_group(index);
        let chunks = self.chunk_ranges(group).map_err(fault)?;
        let reads = joined(&chunks);
        let data = self.bytes.read_ranges(&reads)?;
        let fetched = Fetched { size: self.bytes.size(), pieces: reads.iter().map(|read| read.start).zip(data).collect() };
        for chunk in &chunks {
            let length = usize::try_from(chunk.end - chunk.start).unwrap_or(usize::MAX);
            let data = fetched.get_bytes(chunk.start, length).map_err(|error| fault(error.to_string()))?;
            pages::check_sizes(&data, MAX_PAGE_BYTES).map_err(fault)?;
        }
        let reader = caught(|| -> ParquetResult<_> {
            ParquetRecordBatchReaderBuilder::new_with_metadata(fetched, self.metadata.clone())
                .with_row_groups(vec![index])
                .with_projection(self.mask.clone())
                .with_batch_size(self.batch_rows(group))
                .with_offset(usize::try_from(wanted.start - first)?)
                .with_limit(usize::try_from(wanted.end - wanted.start)?)
                .build()
        })
        .map_err(fault)?;
        Ok(OpenGroup { index, reader, rows: wanted })
    }

    /// Where the projected column chunks of a row group lie, in the order of the columns.
    fn chunk_ranges(&self, group: &RowGroupMetaData) -> Result<Vec<Range<u64>>, String> {
        let mut ranges = Vec::new();
        let mut total = 0_u64;
        for (leaf, column) in group.columns().iter().enumerate().filter(|(leaf, _)| self.mask.leaf_included(*leaf)) {
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let range = u64::try_from(start).ok().zip(u64::try_from(column.compressed_size()).ok());
            let range = range.and_then(|(start, length)| Some(start..start.checked_add(length)?));
            let Some(range) = range.filter(|range| range.end <= self.bytes.size()) else {
                return Err(format!(
                    "column {leaf} claims {} bytes from byte {start} of an object of {} bytes",
                    column.compressed_size(),
                    self.bytes.size()
                ));
            };
            total = total.saturating_add(range.end - range.start);
            ranges.push(range);
        }
        if total > MAX_ROW_GROUP_BYTES {
            return Err(format!("its columns take {total} bytes, over the limit of {MAX_ROW_GROUP_BYTES}; write smaller row groups"));
        }
        Ok(ranges)
    }

    /// As many rows as the request wants, or fewer where they are so large on average that fewer fill a batch.
    fn batch_rows(&self, group: &RowGroupMetaData) -> usize {
        let columns = group.columns().iter().enumerate().filter(|(leaf, _)| self.mask.leaf_included(*leaf));
        let bytes = columns.map(|(_, column)| usize::try_from(column.uncompressed_size()).unwrap_or(0)).fold(0, usize::saturating_add);
        let row_bytes = bytes / usize::try_from(group.num_rows()).unwrap_or(1).max(1);
        self.request.batch_rows.min(self.request.batch_bytes / row_bytes.max(1)).max(1)
    }
}

impl OpenGroup {
    /// The next rows; none once all have come.
    fn next(&mut self) -> Result<Option<RecordBatch>, String> {
        loop {
            let next = caught(|| self.reader.next().transpose().map_err(ParquetError::from));
            let Some(batch) = next.map_err(|why| format!("row group {}: {why}", self.index))? else {
                let missing = self.rows.end - self.rows.start;
                return if missing == 0 { Ok(None) } else { Err(format!("row group {} ends {missing} rows early", self.index)) };
            };
            let rows = batch.num_rows() as u64;
            if rows > self.rows.end - self.rows.start {
                return Err(format!("row group {} has more rows than it claims", self.index));
            }
            self.rows.start += rows;
            if rows > 0 {
                return Ok(Some(batch));
            }
        }
    }
}

/// The columns of a row group in memory; anything else is a fault of the file.
struct Fetched {
    size: u64,
    /// With their offsets, in their order.
    pieces: Vec<(u64, Bytes)>,
}

impl Fetched {
    /// What has been fetched from `start` on: where one piece ends and another starts, what the latter has.
    fn from(&self, start: u64) -> ParquetResult<Bytes> {
        let piece = self.pieces.iter().rev().find_map(|(offset, bytes)| {
            let at = usize::try_from(start.checked_sub(*offset)?).ok()?;
            (at <= bytes.len()).then(|| bytes.slice(at..))
        });
        piece.ok_or_else(|| ParquetError::EOF(format!("byte {start} lies in no column of this row group")))
    }
}

impl Length for Fetched {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Fetched {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let bytes = self.from(start)?;
        if length > bytes.len() {
            return Err(ParquetError::EOF(format!("{length} bytes from byte {start} on reach beyond the columns of this row group")));
        }
        Ok(bytes.slice(..length))
    }
}

/// The reads that cover `ranges`, neighbours joined.
fn joined(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| (range.start, range.end));
    let mut reads: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match reads.last_mut() {
            Some(last) if range.end <= last.end => {}
            Some(last) if range.start <= last.end + JOIN_GAP_BYTES && range.end - last.start <= JOIN_MAX_BYTES => last.end = range.end,
            _ => reads.push(range),
        }
    }
    reads
}

/// Which columns to decode.
fn mask(metadata: &ArrowReaderMetadata, projection: &Projection) -> ParquetResult<ProjectionMask> {
    let schema = metadata.parquet_schema();
    let names = schema.root_schema().get_fields().iter().map(|field| field.name());
    let wanted = names.enumerate().filter(|(_, name)| match projection {
        Projection::All => true,
        Projection::Only(names) => names.contains(*name),
    });
    let mut seen = BTreeSet::new();
    let mut places = Vec::new();
    for (place, name) in wanted {
        if !seen.insert(name) {
            return Err(ParquetError::General(format!("it has column {name:?} twice")));
        }
        places.push(place);
    }
    Ok(ProjectionMask::roots(schema, places))
}

/// Reads and parses the footer, in one read or two.
fn read_footer(bytes: &dyn ObjectBytes, source: &Arc<str>) -> Result<ParquetMetaData, DecodeError> {
    let fault = |why: String| invalid(source, None, why);
    let size = bytes.size();
    let tail_start = size.saturating_sub(TAIL_BYTES);
    let tail = bytes.read(tail_start..size)?;
    let length = footer_length(&tail, size).map_err(fault)?;
    let end = size - FOOTER_TAIL_BYTES;
    let start = end - length;
    let footer = if start >= tail_start {
        let from = usize::try_from(start - tail_start).unwrap_or(usize::MAX);
        let to = tail.len().saturating_sub(FOOTER_TAIL_BYTES as usize);
        tail.get(from..to).map(Bytes::copy_from_slice).unwrap_or_default()
    } else {
        bytes.read(start..end)?
    };
    caught(|| ParquetMetaDataReader::decode_metadata(&footer)).map_err(fault)
}

/// How many bytes before the last eight of an object are its footer. See the [Parquet format](https://parquet.apache.org/docs/file-format/).
fn footer_length(tail: &[u8], size: u64) -> Result<u64, String> {
    let Some([a, b, c, d, magic @ ..]) = tail.last_chunk::<{ FOOTER_TAIL_BYTES as usize }>() else {
        return Err(format!("{size} bytes are too few for a Parquet file"));
    };
    match magic {
        b"PAR1" => {}
        b"PARE" => return Err("the file is encrypted; only unencrypted Parquet is read".into()),
        _ => return Err("it does not end in the Parquet magic number; is it cut short, or of another format?".into()),
    }
    let length = u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
    if length > size - FOOTER_TAIL_BYTES {
        return Err(format!("the footer claims {length} bytes, in an object of {size}"));
    }
    if length > MAX_FOOTER_BYTES {
        return Err(format!("the footer takes {length} bytes, over the limit of {MAX_FOOTER_BYTES}"));
    }
    Ok(length)
}

/// The rows of each row group, numbered within the file.
fn rows_by_group(footer: &ParquetMetaData) -> Result<Vec<Range<u64>>, String> {
    let mut next = 0_u64;
    footer
        .row_groups()
        .iter()
        .enumerate()
        .map(|(index, group)| {
            let end = u64::try_from(group.num_rows()).ok().and_then(|rows| next.checked_add(rows));
            let end = end.ok_or_else(|| format!("row group {index} claims {} rows", group.num_rows()))?;
            Ok(std::mem::replace(&mut next, end)..end)
        })
        .collect()
}

fn invalid(source: &Arc<str>, position: Option<u64>, why: String) -> DecodeError {
    DecodeError::Corrupt { source_name: source.clone(), code: "invalid_parquet", detail: why, position }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_column_chunks_are_read_together_but_not_without_end() {
        let near = [0..100, 100..200, 300..400];
        assert_eq!(joined(&near).as_slice(), std::slice::from_ref(&(0..400)));
        let far = [0..100, 1_000_000..1_000_100];
        assert_eq!(joined(&far), far);
        let large = [0..JOIN_MAX_BYTES, JOIN_MAX_BYTES..JOIN_MAX_BYTES + 5];
        assert_eq!(joined(&large), large);
        let overlapping = [50..60, 0..100, 40..120];
        assert_eq!(joined(&overlapping).as_slice(), std::slice::from_ref(&(0..120)));
    }

    #[test]
    fn a_column_that_begins_where_another_read_ends_is_read_whole() {
        let pieces = vec![(4, Bytes::from_static(b"first")), (9, Bytes::from_static(b"second"))];
        let fetched = Fetched { size: 100, pieces };
        assert_eq!(fetched.get_bytes(9, 6).unwrap(), "second");
        assert_eq!(fetched.get_bytes(4, 5).unwrap(), "first");
        assert!(fetched.get_bytes(4, 6).is_err() && fetched.get_bytes(50, 1).is_err());
    }

    #[test]
    fn a_footer_must_fit_the_object() {
        let tail = |length: u32, magic: &[u8; 4]| [&length.to_le_bytes()[..], magic].concat();
        assert_eq!(footer_length(&tail(92, b"PAR1"), 100), Ok(92));
        assert!(footer_length(&tail(93, b"PAR1"), 100).is_err());
        assert!(footer_length(&tail(MAX_FOOTER_BYTES as u32 + 1, b"PAR1"), 1 << 40).is_err_and(|why| why.contains("limit")));
        assert!(footer_length(b"PAR1", 4).is_err());
    }
}
