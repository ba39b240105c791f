//! Objects in memory, and decoding them to the end, for the tests of this room and of its neighbours.

use std::{io, ops::Range, sync::Arc};

use arrow::{
    array::{Array, AsArray},
    datatypes::DataType,
};
use bytes::Bytes;

use super::{DecodeError, Layouts, Projection, Request, open};
use crate::{
    domain::{
        ObjectSlice, RecordError, Slice, Uri,
        spec::{CsvOptions, InputCompression, InputFormat},
    },
    objects,
    runner::{batch::Batch, source::ObjectBytes},
};

/// An object in memory; reading the byte at `fails_at` fails as a store does.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryObject {
    pub(crate) bytes: Bytes,
    pub(crate) fails_at: Option<u64>,
}

impl MemoryObject {
    fn check(&self, range: &Range<u64>) -> objects::Result<()> {
        if !self.fails_at.is_some_and(|at| range.contains(&at)) {
            return Ok(());
        }
        let uri = Uri::parse("s3://bucket/key").expect("a valid location");
        Err(objects::Error::Unavailable { operation: "GET", uri, reason: "503 Slow Down".into() })
    }
}

impl ObjectBytes for MemoryObject {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, range: Range<u64>) -> objects::Result<Bytes> {
        self.check(&range)?;
        Ok(self.bytes.slice(range.start as usize..range.end as usize))
    }

    fn stream(&self, range: Range<u64>) -> objects::Result<Box<dyn io::Read + Send>> {
        Ok(Box::new(Stream { object: self.clone(), range }))
    }
}

/// Gives an object in pieces of a few bytes, and fails where the object does.
struct Stream {
    object: MemoryObject,
    range: Range<u64>,
}

impl io::Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.range.start..self.range.end.min(self.range.start + (buffer.len() as u64).min(1 << 20));
        self.object.check(&piece).map_err(io::Error::other)?;
        self.range.start = piece.end;
        let count = (piece.end - piece.start) as usize;
        buffer[..count].copy_from_slice(&self.object.bytes[piece.start as usize..piece.end as usize]);
        Ok(count)
    }
}

/// An object in memory that comes a byte at a time: no record is there whole before its end is looked for.
pub(super) struct Trickle(pub(super) MemoryObject);

impl ObjectBytes for Trickle {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read(&self, range: Range<u64>) -> objects::Result<Bytes> {
        self.0.read(range)
    }

    fn stream(&self, range: Range<u64>) -> objects::Result<Box<dyn io::Read + Send>> {
        Ok(Box::new(ByteByByte(self.0.stream(range)?)))
    }
}

struct ByteByByte(Box<dyn io::Read + Send>);

impl io::Read for ByteByByte {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(1);
        self.0.read(&mut buffer[..most])
    }
}

/// A request for all columns of the whole object `key`, with limits that tests do not meet.
pub(crate) fn request(key: &str) -> Request {
    Request {
        source: key.into(),
        slice: ObjectSlice {
            bucket: None,
            key: key.into(),
            size: 0,
            etag: None,
            format: InputFormat::Auto,
            compression: InputCompression::Auto,
            slice: Slice::Whole,
        },
        csv: CsvOptions::default(),
        projection: Projection::All,
        layouts: Layouts::default(),
        batch_rows: 1000,
        batch_bytes: 1 << 20,
        max_record_bytes: 1 << 16,
        max_media_bytes: 1 << 20,
    }
}

/// What an object came to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) batches: Vec<Batch>,
    pub(crate) errors: Vec<RecordError>,
    pub(crate) end: Option<DecodeError>,
}

/// Decodes to the end or the first error that ends the object.
pub(crate) fn decode(bytes: impl Into<Bytes>, request: &Request) -> Outcome {
    decode_object(MemoryObject { bytes: bytes.into(), fails_at: None }, request)
}

/// The same with an object that may fail.
pub(crate) fn decode_object(object: impl ObjectBytes + 'static, request: &Request) -> Outcome {
    let mut outcome = Outcome::default();
    let mut decoder = match open(Arc::new(object), request.clone()) {
        Ok(decoder) => decoder,
        Err(error) => return Outcome { end: Some(error), ..outcome },
    };
    loop {
        match decoder.next() {
            Ok(Some(step)) => {
                assert!(step.batch.is_some() || !step.errors.is_empty(), "a step brings something");
                if let Some(batch) = step.batch {
                    assert!(batch.rows() > 0 && batch.rows() == batch.columns.num_rows(), "a batch is as long as its provenance");
                    outcome.batches.push(batch);
                }
                outcome.errors.extend(step.errors);
            }
            Ok(None) => return outcome,
            Err(error) => {
                assert!(matches!(decoder.next(), Ok(None)), "after an error there is no next step");
                return Outcome { end: Some(error), ..outcome };
            }
        }
    }
}

/// The records of an outcome as text, whatever their batches: position, then `name=value` of the columns that have one; bytes as text.
pub(super) fn rows(outcome: &Outcome) -> Vec<(u64, String)> {
    let mut rows = Vec::new();
    for batch in &outcome.batches {
        let schema = batch.columns.schema();
        for (row, id) in batch.provenance.rows.iter().enumerate() {
            let cells = schema.fields().iter().zip(batch.columns.columns()).filter(|(_, column)| column.is_valid(row));
            let cells = cells.map(|(field, column)| {
                let value = match column.data_type() {
                    DataType::Binary => String::from_utf8_lossy(column.as_binary::<i32>().value(row)).into_owned(),
                    _ => column.as_string::<i32>().value(row).to_owned(),
                };
                format!("{}={value}", field.name())
            });
            rows.push((id.position, cells.collect::<Vec<_>>().join(" ")));
        }
    }
    rows
}
