//! The rows of a part that a person should look at.
//!
//! In: the rows of a part, assembled, with their column of flags. Out: the bytes of a second part that holds those rows alone which
//! meet one of the flags asked for: the same columns, the same order.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, AsArray, BooleanArray, RecordBatch, new_null_array},
    compute::filter_record_batch,
    datatypes::SchemaRef,
};
use bytes::Bytes;

use super::{
    encode::{EncodeError, PartEncoder},
    protocol::ChunkTask,
};
use crate::domain::spec::ReviewSpec;

/// Encodes flagged rows.
#[derive(Debug)]
pub(super) struct Queue {
    encoder: PartEncoder,
    /// The column of flags, as the part names it.
    column: String,
    when: Vec<String>,
    /// The part's own columns: its rows fit them, so the flagged ones among them do, whichever come first.
    schema: SchemaRef,
    records: u64,
}

impl Queue {
    /// For a part whose first rows have this schema.
    pub(super) fn new(task: &ChunkTask, review: &ReviewSpec, schema: SchemaRef) -> Self {
        let column = format!("{}flags", task.prediction_prefix);
        Self { encoder: PartEncoder::new(task.format, task.compression), column, when: review.when.clone(), schema, records: 0 }
    }

    /// Rows written so far.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// Adds those of the rows that are flagged; the bytes that are ready to be put.
    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<Bytes, EncodeError> {
        let failed = |error: arrow::error::ArrowError| EncodeError::Failed(error.to_string());
        let flagged = filter_record_batch(rows, &self.flagged(rows)?).map_err(failed)?;
        if flagged.num_rows() == 0 {
            return Ok(Bytes::new());
        }
        self.records += flagged.num_rows() as u64;
        self.encoder.write(&self.aligned(&flagged).map_err(failed)?)?;
        Ok(self.encoder.take())
    }

    /// The last bytes; none where no row was flagged.
    pub(super) fn finish(self) -> Result<Bytes, EncodeError> {
        if self.records == 0 { Ok(Bytes::new()) } else { self.encoder.finish() }
    }

    fn flagged(&self, rows: &RecordBatch) -> Result<BooleanArray, EncodeError> {
        let lists = rows.column_by_name(&self.column).and_then(|column| column.as_list_opt::<i32>());
        let lists = lists.ok_or_else(|| EncodeError::Failed(format!("the rows have no column {:?}", self.column)))?;
        let names = lists.values().as_string::<i32>();
        let met = |row: usize| {
            let (start, end) = (lists.value_offsets()[row] as usize, lists.value_offsets()[row + 1] as usize);
            (start..end).any(|at| self.when.iter().any(|wanted| wanted == names.value(at)))
        };
        Ok((0..rows.num_rows()).map(|row| Some(met(row))).collect())
    }

    /// With a column that the part has and these rows lack as nulls: what the part's encoder has accepted.
    fn aligned(&self, rows: &RecordBatch) -> Result<RecordBatch, arrow::error::ArrowError> {
        if rows.schema() == self.schema {
            return Ok(rows.clone());
        }
        let theirs = rows.schema();
        let missing = self.schema.fields().iter().filter(|field| theirs.column_with_name(field.name()).is_none());
        let missing: Vec<_> = missing.map(|field| (field.clone(), new_null_array(field.data_type(), rows.num_rows()))).collect();
        let own = theirs.fields().iter().cloned().zip(rows.columns().iter().cloned());
        let (fields, arrays): (Vec<_>, Vec<ArrayRef>) = own.chain(missing).unzip();
        RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), arrays)
    }
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Array, Int64Array, ListBuilder, StringBuilder},
        datatypes::{DataType, Field, Schema},
    };

    use super::*;
    use crate::{
        domain::spec::{OutputCompression, OutputFormat},
        runner::batch::{ENCODING, ENCODING_JSON},
    };

    fn rows(ids: &[i64], flags: &[&[&str]], note: bool) -> RecordBatch {
        let mut lists = ListBuilder::new(StringBuilder::new());
        for names in flags {
            names.iter().for_each(|name| lists.values().append_value(name));
            lists.append(true);
        }
        let lists = lists.finish();
        let mut fields = vec![Field::new("id", DataType::Int64, true), Field::new("flags", lists.data_type().clone(), true)];
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(ids.to_vec())), Arc::new(lists)];
        if note {
            fields.push(Field::new("note", DataType::Utf8, true).with_metadata([(ENCODING, ENCODING_JSON)]));
            arrays.push(new_null_array(&DataType::Utf8, ids.len()));
        }
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
    }

    fn queue(format: OutputFormat, first: &RecordBatch) -> Queue {
        let encoder = PartEncoder::new(format, OutputCompression::None);
        Queue { encoder, column: "flags".to_owned(), when: vec!["a".to_owned(), "b".to_owned()], schema: first.schema(), records: 0 }
    }

    #[test]
    fn rows_that_meet_one_of_the_flags_are_written_in_their_order() {
        let first = rows(&[1, 2, 3, 4], &[&["a"], &[], &["c"], &["b", "c"]], false);
        let mut queue = queue(OutputFormat::Csv, &first);
        let mut text = queue.write(&first).unwrap().to_vec();
        text.extend(queue.write(&rows(&[5], &[&["c"]], false)).unwrap());
        assert_eq!(queue.records(), 2);
        text.extend(queue.finish().unwrap());
        let text = String::from_utf8(text).unwrap();
        let ids: Vec<&str> = text.lines().map(|line| line.split(',').next().unwrap()).collect();
        assert_eq!(ids, ["id", "1", "4"]);
    }

    #[test]
    fn a_queue_of_nothing_has_no_bytes() {
        let first = rows(&[1], &[&[]], false);
        let mut queue = queue(OutputFormat::Parquet, &first);
        assert!(queue.write(&first).unwrap().is_empty());
        assert!(queue.finish().unwrap().is_empty());
    }

    #[test]
    fn a_column_that_only_some_rows_have_does_no_harm_whichever_come_first() {
        for format in [OutputFormat::Csv, OutputFormat::Parquet] {
            let first = rows(&[1], &[&[]], true);
            let mut queue = queue(format, &first);
            let mut bytes = queue.write(&first).unwrap().to_vec();
            bytes.extend(queue.write(&rows(&[2], &[&["a"]], false)).unwrap());
            bytes.extend(queue.write(&rows(&[3], &[&["a"]], true)).unwrap());
            assert_eq!(queue.records(), 2);
            bytes.extend(queue.finish().unwrap());
            assert!(!bytes.is_empty());
        }
    }
}
