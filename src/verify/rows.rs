//! The rows of a part or an errors file: where each came from.
//!
//! In: one object, by the format that its name tells. Out: a call for each row. Reads through the decoders of the data plane, a
//! batch at a time and no column but the few that are asked for.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicU64},
};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, Int64Type},
};
use tokio::runtime::Handle;

use crate::{
    domain::{
        ObjectSlice, Slice,
        spec::{CsvOptions, InputCompression, InputFormat},
    },
    objects::{Bucket, ObjectMeta},
    runner::{
        Waits,
        batch::{ENCODING, ENCODING_JSON},
        decode::{self, DecodeError, Layouts, Projection, Request},
        encode::{POSITION, SOURCE},
        source::StoreObject,
    },
};

/// Rows in a batch.
const BATCH_ROWS: usize = 8 * 1024;
/// A batch ends early at about this size.
const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// A row above this size cannot be read: sixteen times what a record of the input may have.
const MAX_ROW_BYTES: usize = 256 * 1024 * 1024;

/// One row.
#[derive(Debug)]
pub(super) struct Row<'a> {
    /// Counted from 0, without the header.
    pub(super) number: u64,
    /// `_source`; `None` when the row has none.
    pub(super) source: Option<Cow<'a, str>>,
    /// `_position`; `None` when it is null, absent, or no number.
    pub(super) position: Option<u64>,
    /// `code` of an error row.
    pub(super) code: Option<Cow<'a, str>>,
    /// `stage` of an error row.
    pub(super) stage: Option<Cow<'a, str>>,
}

/// What a file holds, step by step.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A row.
    Row(Row<'a>),
    /// Something that is no row, at this byte or row of the file.
    Broken { place: Option<u64>, detail: String },
}

/// An object of a bucket as the decoders read it.
pub(super) fn object(bucket: &Bucket, object: ObjectSlice, handle: &Handle) -> StoreObject {
    StoreObject { bucket: bucket.clone(), object, handle: handle.clone(), bytes_read: Arc::new(AtomicU64::new(0)), waits: Waits::default() }
}

/// The whole of an object, its format by its name.
pub(super) fn whole(meta: &ObjectMeta) -> ObjectSlice {
    ObjectSlice {
        bucket: None,
        key: meta.key.clone(),
        size: meta.size,
        etag: meta.etag.clone(),
        format: InputFormat::Auto,
        compression: InputCompression::Auto,
        slice: Slice::Whole,
    }
}

/// A request to the decoders for these columns.
pub(super) fn request(source: Arc<str>, slice: ObjectSlice, csv: CsvOptions, projection: Projection) -> Request {
    Request {
        source,
        slice,
        csv,
        projection,
        layouts: Layouts::default(),
        batch_rows: BATCH_ROWS,
        batch_bytes: BATCH_BYTES,
        max_record_bytes: MAX_ROW_BYTES,
        max_media_bytes: MAX_ROW_BYTES,
    }
}

/// Calls `each` for every row of a file in its order.
///
/// # Errors
/// When the file cannot be read on; rows before were given.
pub(super) fn read(
    bucket: &Bucket,
    meta: &ObjectMeta,
    handle: &Handle,
    more: &[&str],
    each: &mut dyn FnMut(Found<'_>),
) -> Result<(), DecodeError> {
    let columns: BTreeSet<String> = [SOURCE, POSITION].iter().chain(more).map(|c| (*c).to_owned()).collect();
    let slice = whole(meta);
    let request = request(meta.key.as_str().into(), slice.clone(), CsvOptions::default(), Projection::Only(columns.into()));
    let mut decoder = decode::open(Arc::new(object(bucket, slice, handle)), request)?;
    let mut number = 0;
    while let Some(step) = decoder.next()? {
        for error in step.errors {
            each(Found::Broken { place: error.position, detail: error.detail });
        }
        let Some(batch) = step.batch else { continue };
        let columns = Columns::of(&batch.columns);
        for row in 0..batch.rows() {
            let position = columns.position(row);
            let [source, code, stage] = [&columns.source, &columns.code, &columns.stage].map(|column| text(column.as_ref(), row));
            each(Found::Row(Row { number, source, position, code, stage }));
            number += 1;
        }
    }
    Ok(())
}

/// A column as texts, and whether they are JSON.
type Texts = (StringArray, bool);

struct Columns {
    source: Option<Texts>,
    code: Option<Texts>,
    stage: Option<Texts>,
    position: Option<ArrayRef>,
}

impl Columns {
    fn of(batch: &RecordBatch) -> Self {
        let texts = |name: &str| -> Option<Texts> {
            let (at, field) = batch.schema_ref().column_with_name(name)?;
            let texts = cast(batch.column(at), &DataType::Utf8).ok()?;
            Some((texts.as_string::<i32>().clone(), field.metadata().get(ENCODING).is_some_and(|e| e == ENCODING_JSON)))
        };
        Self { source: texts(SOURCE), code: texts("code"), stage: texts("stage"), position: batch.column_by_name(POSITION).cloned() }
    }

    fn position(&self, row: usize) -> Option<u64> {
        let column = self.position.as_ref().filter(|column| !column.is_null(row))?;
        match column.data_type() {
            DataType::Utf8 => column.as_string::<i32>().value(row).parse().ok(),
            DataType::Int64 => u64::try_from(column.as_primitive::<Int64Type>().value(row)).ok(),
            _ => None,
        }
    }
}

fn text(column: Option<&Texts>, row: usize) -> Option<Cow<'_, str>> {
    let (texts, json) = column?;
    if texts.is_null(row) {
        return None;
    }
    let text = texts.value(row);
    if !*json {
        return Some(Cow::Borrowed(text));
    }
    match text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
        _ => serde_json::from_str(text).ok().map(Cow::Owned),
    }
}
