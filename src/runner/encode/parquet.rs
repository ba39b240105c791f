//! Rows → Parquet.
//!
//! The same rows give the same bytes however they were batched, though Parquet's writer ends pages and dictionaries by what it is
//! given at once: rows are gathered into blocks whose borders depend on the rows alone, and each block is written at once. Row groups
//! are whole blocks. Memory is bounded by one row group, in rows and in bytes.
//!
//! Text cells of CSV are text columns, cells of JSON Lines are text columns too: JSON strings by their characters, other values as
//! written. Dictionaries are unpacked: Parquet makes its own.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, StringArray},
    compute::{cast, concat_batches},
    datatypes::{DataType, FieldRef, Metadata, Schema, SchemaRef},
};
use bytes::Bytes;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, GzipLevel, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
    schema::types::ColumnPath,
};

use super::{EncodeError, align::align, cells::is_json, text, weigh::row_bytes};
use crate::domain::spec::OutputCompression;

/// How rows are gathered. A block or a row group ends with the row that reaches either of its limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Rows written at once.
    pub(super) block_rows: usize,
    /// Bytes of values written at once.
    pub(super) block_bytes: u64,
    /// Rows of a row group, rounded up to a block: the unit in which readers share work.
    pub(super) group_rows: usize,
    /// Bytes of values in a row group, before encoding.
    pub(super) group_bytes: u64,
}

impl Limits {
    /// Those of every part.
    pub(super) const OF_PARTS: Self =
        Self { block_rows: 4 * 1024, block_bytes: 4 * 1024 * 1024, group_rows: 128 * 1024, group_bytes: 64 * 1024 * 1024 };
}

/// One Parquet file.
#[derive(Debug)]
pub(super) struct Parquet {
    compression: OutputCompression,
    limits: Limits,
    file: Option<File>,
}

impl Parquet {
    pub(super) fn new(compression: OutputCompression, limits: Limits) -> Self {
        Self { compression, limits, file: None }
    }

    /// Adds rows; the first fix the schema.
    ///
    /// # Errors
    /// [`EncodeError::SchemaMismatch`] leaves the file as it was; [`EncodeError::Failed`] does not.
    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<(), EncodeError> {
        let first = rows.schema_ref().fields();
        let aligned = align(self.file.as_ref().map_or(first, |file| &file.fields), rows)?;
        let columns = aligned.iter().map(|(field, array)| as_written(field, array)).collect::<Result<Vec<_>, _>>()?;
        let file = match &mut self.file {
            Some(file) => {
                file.check_types(&columns)?;
                file
            }
            empty => empty.insert(File::create(first.to_vec(), &columns, self.compression)?),
        };
        file.write(columns, rows.num_rows(), self.limits)
    }

    /// The bytes of finished row groups.
    pub(super) fn take(&mut self) -> Bytes {
        self.file.as_mut().map_or_else(Bytes::new, |file| Bytes::from(std::mem::take(file.writer.inner_mut())))
    }

    /// The last row group and the footer.
    pub(super) fn finish(self) -> Result<Bytes, EncodeError> {
        let Some(mut file) = self.file else { return Ok(Bytes::new()) };
        file.write_block()?;
        Ok(Bytes::from(file.writer.into_inner().map_err(failed)?))
    }
}

#[derive(Debug)]
struct File {
    /// As the first batch had them: they say which columns hold JSON.
    fields: Vec<FieldRef>,
    /// As written.
    schema: SchemaRef,
    writer: ArrowWriter<Vec<u8>>,
    /// Rows of the block that is not yet full.
    block: Gathered<Vec<RecordBatch>>,
    /// What the current row group holds, without `block`.
    group: Gathered<()>,
}

#[derive(Debug, Default)]
struct Gathered<T> {
    rows: usize,
    bytes: u64,
    content: T,
}

impl<T> Gathered<T> {
    fn add(&mut self, rows: usize, bytes: u64) {
        self.rows += rows;
        self.bytes += bytes;
    }

    fn is_full(&self, rows: usize, bytes: u64) -> bool {
        self.rows >= rows || self.bytes >= bytes
    }
}

impl File {
    fn create(fields: Vec<FieldRef>, columns: &[ArrayRef], compression: OutputCompression) -> Result<Self, EncodeError> {
        if let Some(field) = fields.iter().find(|field| has_union(field.data_type())) {
            return Err(EncodeError::Failed(format!("column {:?}: Parquet has no type for {}", field.name(), field.data_type())));
        }
        let codec = match compression {
            OutputCompression::Gzip => Compression::GZIP(GzipLevel::default()),
            OutputCompression::None | OutputCompression::Zstd => Compression::ZSTD(ZstdLevel::default()),
        };
        let written = |(field, column): (&FieldRef, &ArrayRef)| {
            let mut field = field.as_ref().clone().with_data_type(column.data_type().clone());
            // A later object may have nulls where the first had none. Provenance never has.
            let nullable = field.is_nullable() || !super::assemble::is_provenance(field.name());
            field.set_metadata(Metadata::default());
            Arc::new(field.with_nullable(nullable))
        };
        let schema = Arc::new(Schema::new(fields.iter().zip(columns).map(written).collect::<Vec<_>>()));
        // Row groups are ended here, by limits that do not depend on what the writer estimates.
        let mut properties = WriterProperties::builder().set_compression(codec).set_max_row_group_row_count(None);
        // Hardly two positions or scores are alike: a dictionary of them costs more than all else here, and is given up in the end.
        for field in schema.fields().iter().filter(|field| field.data_type().is_floating() || field.name() == super::assemble::POSITION) {
            properties = properties.set_column_dictionary_enabled(ColumnPath::new(vec![field.name().clone()]), false);
        }
        let properties = properties.build();
        let writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties)).map_err(failed)?;
        Ok(Self { fields, schema, writer, block: Gathered::default(), group: Gathered::default() })
    }

    fn check_types(&self, columns: &[ArrayRef]) -> Result<(), EncodeError> {
        let mut pairs = self.schema.fields().iter().zip(columns);
        match pairs.find(|(field, column)| field.data_type() != column.data_type()) {
            None => Ok(()),
            Some((field, column)) => Err(EncodeError::SchemaMismatch(format!(
                "column {:?} holds {} here and {} in the records before",
                field.name(),
                column.data_type(),
                field.data_type()
            ))),
        }
    }

    fn write(&mut self, columns: Vec<ArrayRef>, rows: usize, limits: Limits) -> Result<(), EncodeError> {
        let weights = row_bytes(&columns, rows);
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(|error| EncodeError::Failed(error.to_string()))?;
        let mut start = 0;
        for (row, bytes) in weights.into_iter().enumerate() {
            self.block.add(1, bytes);
            if self.block.is_full(limits.block_rows, limits.block_bytes) {
                self.block.content.push(batch.slice(start, row + 1 - start));
                start = row + 1;
                self.write_block()?;
                if self.group.is_full(limits.group_rows, limits.group_bytes) {
                    self.writer.flush().map_err(failed)?;
                    self.group = Gathered::default();
                }
            }
        }
        if start < rows {
            self.block.content.push(batch.slice(start, rows - start));
        }
        Ok(())
    }

    fn write_block(&mut self) -> Result<(), EncodeError> {
        let block = std::mem::take(&mut self.block);
        let rows = concat_batches(&self.schema, &block.content).map_err(|error| EncodeError::Failed(error.to_string()))?;
        self.group.add(block.rows, block.bytes);
        self.writer.write(&rows).map_err(failed)
    }
}

/// A column as Parquet gets it: JSON cells as text, dictionaries and runs unpacked.
fn as_written(field: &FieldRef, array: &ArrayRef) -> Result<ArrayRef, EncodeError> {
    match array.data_type() {
        DataType::Utf8 if is_json(field) => {
            let cells = array.as_string::<i32>().iter();
            Ok(Arc::new(cells.map(|cell| cell.and_then(text::json_as_text)).collect::<StringArray>()))
        }
        DataType::Dictionary(_, values) => unpacked(field, array, values),
        DataType::RunEndEncoded(_, values) => unpacked(field, array, values.data_type()),
        _ => Ok(array.clone()),
    }
}

fn unpacked(field: &FieldRef, array: &ArrayRef, to: &DataType) -> Result<ArrayRef, EncodeError> {
    cast(array, to).map_err(|error| EncodeError::Failed(format!("column {:?}: {error}", field.name())))
}

/// Parquet's writer panics on unions, wherever they are.
fn has_union(kind: &DataType) -> bool {
    match kind {
        DataType::Union(_, _) => true,
        DataType::Struct(members) => members.iter().any(|member| has_union(member.data_type())),
        DataType::Dictionary(_, values) => has_union(values),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _)
        | DataType::RunEndEncoded(_, item) => has_union(item.data_type()),
        _ => false,
    }
}

fn failed(error: ParquetError) -> EncodeError {
    EncodeError::Failed(error.to_string())
}
