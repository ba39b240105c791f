//! Parquet → typed columns.
//!
//! The footer is read in one or two requests, and then, row group by row group, the column chunks that are wanted, side by side.

use std::{
    any::Any,
    collections::BTreeSet,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use arrow::array::RecordBatchReader;
use bytes::{Buf, Bytes, buf::Reader};
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
        },
    },
    errors::{ParquetError, Result as ParquetResult},
    file::reader::{ChunkReader, Length},
};

use super::{DecodeError, Decoded, Decoder, Projection, Request};
use crate::{
    domain::Slice,
    objects,
    runner::{
        batch::{Batch, Provenance},
        source::ObjectBytes,
    },
};

/// Read from the end at once: holds the footer of all but very wide tables.
const FOOTER_BYTES: u64 = 256 * 1024;
/// A row group that claims to be larger than this, decompressed, is refused: nothing sane writes it, and a hostile footer might.
const MAX_ROW_GROUP_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// Size of one row group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowGroupInfo {
    /// Rows in it.
    pub rows: u64,
    /// Its bytes in the object.
    pub bytes: u64,
}

/// The row groups of a Parquet object, by its footer.
///
/// # Errors
/// [`DecodeError`] when it cannot be read or is not Parquet.
pub fn row_groups(bytes: &dyn ObjectBytes) -> Result<Vec<RowGroupInfo>, DecodeError> {
    let window = Window::new(bytes);
    let read = guarded(|| window.metadata(bytes.size()));
    let metadata = read.map_err(|detail| window.failure(detail, &"object".into(), None))?;
    let groups = metadata.metadata().row_groups().iter();
    Ok(groups.map(|g| RowGroupInfo { rows: g.num_rows().max(0) as u64, bytes: g.compressed_size().max(0) as u64 }).collect())
}

/// Reads the wanted columns and rows of one object.
pub(super) struct ParquetDecoder {
    bytes: Arc<dyn ObjectBytes>,
    request: Request,
    metadata: ArrowReaderMetadata,
    columns: Vec<usize>,
    /// Row groups with the rows of each that are wanted, first row first.
    groups: std::vec::IntoIter<(usize, u64, Range<u64>)>,
    current: Option<Current>,
    failed: bool,
}

/// The row group being read.
struct Current {
    reader: ParquetRecordBatchReader,
    window: Window<'static>,
    /// Row number of the next row.
    next: u64,
}

impl ParquetDecoder {
    pub(super) fn open(bytes: Arc<dyn ObjectBytes>, request: Request) -> Result<Self, DecodeError> {
        let window = Window::new(&*bytes);
        let read = guarded(|| window.metadata(bytes.size()));
        let metadata = read.map_err(|detail| window.failure(detail, &request.source, None))?;
        let corrupt = |code, detail| DecodeError::Corrupt { source_name: request.source.clone(), code, detail, position: None };

        let fields = metadata.schema().fields();
        let mut names = BTreeSet::new();
        if let Some(twice) = fields.iter().find(|f| !names.insert(f.name().as_str())) {
            return Err(corrupt("duplicate_column", format!("two columns are named {:?}", twice.name())));
        }
        let wanted = |name: &str| match &request.projection {
            Projection::All => true,
            Projection::Only(names) => names.contains(name),
        };
        let columns = (0..fields.len()).filter(|i| wanted(fields[*i].name())).collect();
        let rows = match request.slice.slice {
            Slice::Rows { start, end } => start..end,
            Slice::Whole | Slice::Bytes { .. } => 0..u64::MAX,
        };
        let mut groups = Vec::new();
        let mut first = 0u64;
        for (index, group) in metadata.metadata().row_groups().iter().enumerate() {
            let count = u64::try_from(group.num_rows())
                .map_err(|_| corrupt("invalid_parquet", format!("row group {index} claims {} rows", group.num_rows())))?;
            let unpacked = u64::try_from(group.total_byte_size()).unwrap_or(u64::MAX);
            if unpacked > MAX_ROW_GROUP_BYTES {
                return Err(corrupt(
                    "invalid_parquet",
                    format!("row group {index} claims {unpacked} bytes, over the limit of {MAX_ROW_GROUP_BYTES}"),
                ));
            }
            let end = first.checked_add(count).ok_or_else(|| corrupt("invalid_parquet", "the row counts overflow".to_owned()))?;
            let taken = rows.start.max(first)..rows.end.min(end);
            if taken.start < taken.end {
                groups.push((index, first, taken));
            }
            first = end;
        }
        drop(window);
        Ok(Self { bytes, request, metadata, columns, groups: groups.into_iter(), current: None, failed: false })
    }

    /// Fetches the wanted column chunks of a row group and opens a reader over them.
    fn open_group(&self, index: usize, first: u64, rows: &Range<u64>) -> Result<Current, DecodeError> {
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), self.columns.iter().copied());
        let group = self.metadata.metadata().row_group(index);
        let mut window = Window::shared(self.bytes.clone());
        let mut ranges = Vec::new();
        for (leaf, column) in group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf)) {
            let (start, length) = guarded(|| Ok(column.byte_range())).map_err(|detail| self.corrupt(detail, rows.start))?;
            let end = start.checked_add(length).filter(|end| *end <= self.bytes.size());
            let Some(end) = end else {
                return Err(self.corrupt(format!("column {leaf} of row group {index} lies beyond the end of the object"), rows.start));
            };
            ranges.push(start..end);
        }
        let blocks = self.bytes.read_ranges(&ranges)?;
        window.blocks = ranges.into_iter().zip(blocks).collect();

        let mut selectors = vec![RowSelector::skip((rows.start - first) as usize), RowSelector::select((rows.end - rows.start) as usize)];
        selectors.retain(|s| s.row_count > 0);
        let reader = guarded(|| {
            ParquetRecordBatchReaderBuilder::new_with_metadata(window.clone(), self.metadata.clone())
                .with_row_groups(vec![index])
                .with_projection(mask)
                .with_row_selection(RowSelection::from(selectors))
                .with_batch_size(self.request.batch_rows)
                .build()
        });
        let reader = reader.map_err(|detail| window.failure(detail, &self.request.source, Some(rows.start)))?;
        Ok(Current { reader, window, next: rows.start })
    }

    fn corrupt(&self, detail: String, position: u64) -> DecodeError {
        DecodeError::Corrupt { source_name: self.request.source.clone(), code: "invalid_parquet", detail, position: Some(position) }
    }

    fn step(&mut self) -> Result<Option<Decoded>, DecodeError> {
        loop {
            let current = match &mut self.current {
                Some(current) => current,
                None => match self.groups.next() {
                    Some((index, first, rows)) => self.current.insert(self.open_group(index, first, &rows)?),
                    None => return Ok(None),
                },
            };
            let read = guarded(|| current.reader.next().transpose().map_err(ParquetError::from));
            let batch = match read {
                Ok(Some(batch)) => batch,
                Ok(None) => {
                    self.current = None;
                    continue;
                }
                Err(detail) => return Err(current.window.failure(detail, &self.request.source, Some(current.next))),
            };
            if batch.num_rows() == 0 {
                continue;
            }
            let positions = current.next..current.next + batch.num_rows() as u64;
            current.next = positions.end;
            let provenance = Provenance::of(self.request.source.clone(), positions);
            // File-wide metadata (pandas' and the like) is no part of what makes two schemas the same.
            let schema = Arc::new(arrow::datatypes::Schema::new(current.reader.schema().fields().clone()));
            let columns = batch.with_schema(schema).expect("the same fields");
            return Ok(Some(Decoded { batch: Some(Batch { provenance, columns }), errors: Vec::new() }));
        }
    }
}

impl Decoder for ParquetDecoder {
    fn next(&mut self) -> Result<Option<Decoded>, DecodeError> {
        if self.failed {
            return Ok(None);
        }
        self.step().inspect_err(|_| self.failed = true)
    }
}

/// Runs a piece of the Parquet crate: what hostile input makes it panic with is an error like any other.
fn guarded<T>(work: impl FnOnce() -> ParquetResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(format!("the decoder gave up: {}", panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given")
}

/// An object as the Parquet crate wants to see it: blocks that are here already, and the store behind them. It keeps the store's
/// error, which the crate would turn into text.
#[derive(Clone)]
struct Window<'b> {
    bytes: Source<'b>,
    blocks: Vec<(Range<u64>, Bytes)>,
    store_error: Arc<Mutex<Option<objects::Error>>>,
}

#[derive(Clone)]
enum Source<'b> {
    Borrowed(&'b dyn ObjectBytes),
    Shared(Arc<dyn ObjectBytes>),
}

impl<'b> Window<'b> {
    fn new(bytes: &'b dyn ObjectBytes) -> Self {
        Self { bytes: Source::Borrowed(bytes), blocks: Vec::new(), store_error: Arc::default() }
    }

    fn shared(bytes: Arc<dyn ObjectBytes>) -> Window<'static> {
        Window { bytes: Source::Shared(bytes), blocks: Vec::new(), store_error: Arc::default() }
    }

    fn object(&self) -> &dyn ObjectBytes {
        match &self.bytes {
            Source::Borrowed(bytes) => *bytes,
            Source::Shared(bytes) => &**bytes,
        }
    }

    fn metadata(&self, size: u64) -> ParquetResult<ArrowReaderMetadata> {
        let mut window = self.clone();
        let tail = size.saturating_sub(FOOTER_BYTES)..size;
        let block = window.fetch(tail.clone())?;
        window.blocks.push((tail, block));
        ArrowReaderMetadata::load(&window, ArrowReaderOptions::new())
    }

    /// A range out of the blocks, or else from the store.
    fn fetch(&self, range: Range<u64>) -> ParquetResult<Bytes> {
        if let Some((at, block)) = self.blocks.iter().find(|(at, _)| at.start <= range.start && range.end <= at.end) {
            return Ok(block.slice((range.start - at.start) as usize..(range.end - at.start) as usize));
        }
        if range.end > self.object().size() {
            return Err(ParquetError::EOF(format!("bytes {}..{} lie beyond the end of the object", range.start, range.end)));
        }
        self.object().read(range).map_err(|error| {
            let text = error.to_string();
            self.store_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            ParquetError::General(text)
        })
    }

    fn failure(&self, detail: String, source: &Arc<str>, position: Option<u64>) -> DecodeError {
        match self.store_error.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => DecodeError::Source(error),
            None => DecodeError::Corrupt { source_name: source.clone(), code: "invalid_parquet", detail, position },
        }
    }
}

impl Length for Window<'_> {
    fn len(&self) -> u64 {
        self.object().size()
    }
}

impl ChunkReader for Window<'_> {
    type T = Reader<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        let end = match self.blocks.iter().find(|(at, _)| at.contains(&start)) {
            Some((at, _)) => at.end,
            None => self.object().size().min(start.saturating_add(FOOTER_BYTES)),
        };
        Ok(self.fetch(start..end.max(start))?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let end = start.checked_add(length as u64).ok_or_else(|| ParquetError::EOF("a range overflows".to_owned()))?;
        self.fetch(start..end)
    }
}
