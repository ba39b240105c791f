//! What the door promises, format by format.

mod batching;
mod schema;
mod values;

use std::{io::Read, sync::Arc};

use arrow::{
    array::{ArrayRef, RecordBatch},
    compute::concat_batches,
    datatypes::{Field, FieldRef, Schema},
};
use bytes::Bytes;

use super::PartEncoder;
use crate::{
    domain::spec::{OutputCompression, OutputFormat},
    runner::batch::{ENCODING, ENCODING_CSV, ENCODING_JSON},
};

fn batch<'a>(columns: impl IntoIterator<Item = (&'a str, ArrayRef)>) -> RecordBatch {
    let fields = columns.into_iter().map(|(name, array)| (Arc::new(Field::new(name, array.data_type().clone(), true)), array));
    of_fields(fields)
}

fn of_fields(columns: impl IntoIterator<Item = (FieldRef, ArrayRef)>) -> RecordBatch {
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

/// A text column as the CSV (`ENCODING_CSV`) or JSON Lines (`ENCODING_JSON`) decoder makes it.
fn encoded(name: &str, encoding: &str, cells: Vec<Option<&str>>) -> (FieldRef, ArrayRef) {
    assert!([ENCODING_CSV, ENCODING_JSON].contains(&encoding));
    let array: ArrayRef = Arc::new(arrow::array::StringArray::from(cells));
    let field = Field::new(name, array.data_type().clone(), true).with_metadata([(ENCODING, encoding)]);
    (Arc::new(field), array)
}

/// The bytes of a part, taken after each write or only at the end.
fn part(format: OutputFormat, compression: OutputCompression, batches: &[RecordBatch], take_often: bool) -> Vec<u8> {
    let mut encoder = PartEncoder::new(format, compression);
    let mut bytes = Vec::new();
    for rows in batches {
        encoder.write(rows).unwrap();
        if take_often {
            bytes.extend_from_slice(&encoder.take());
        }
    }
    bytes.extend_from_slice(&encoder.take());
    bytes.extend_from_slice(&encoder.finish().unwrap());
    bytes
}

fn text(format: OutputFormat, rows: &RecordBatch) -> String {
    String::from_utf8(part(format, OutputCompression::None, std::slice::from_ref(rows), false)).unwrap()
}

fn jsonl(rows: &RecordBatch) -> String {
    text(OutputFormat::Jsonl, rows)
}

fn csv(rows: &RecordBatch) -> String {
    text(OutputFormat::Csv, rows)
}

fn unpack(compression: OutputCompression, bytes: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    match compression {
        OutputCompression::None => text.extend_from_slice(bytes),
        OutputCompression::Gzip => drop(flate2::read::GzDecoder::new(bytes).read_to_end(&mut text).unwrap()),
        OutputCompression::Zstd => drop(zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut text).unwrap()),
    }
    text
}

fn read_parquet(bytes: Vec<u8>) -> RecordBatch {
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes)).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

/// The records of a CSV file, header included, by another reader.
fn read_csv(mut input: &[u8]) -> Vec<Vec<String>> {
    let mut reader = csv_core::Reader::new();
    let (mut output, mut ends) = (vec![0; input.len() + 1], vec![0; 1024]);
    let mut records = Vec::new();
    loop {
        let (result, read, _, fields) = reader.read_record(input, &mut output, &mut ends);
        input = &input[read..];
        match result {
            csv_core::ReadRecordResult::Record => {
                let starts = std::iter::once(0).chain(ends[..fields].iter().copied());
                let cells = starts.zip(&ends[..fields]).map(|(start, end)| String::from_utf8(output[start..*end].to_vec()).unwrap());
                records.push(cells.collect());
            }
            csv_core::ReadRecordResult::End => return records,
            // All input is there from the start: an empty rest says that it has ended.
            csv_core::ReadRecordResult::InputEmpty => {}
            other => panic!("{other:?}"),
        }
    }
}
