//! The records that a part's inputs hold, read again as the job read them.
//!
//! No value is decoded that is not needed to count: Parquet by its footer, texts by their record borders. Where the job lost
//! records of an object in decoding, all of its columns are decoded, so that it is lost at the same place again.

use std::sync::Arc;

use super::{
    outcomes::{Expected, LOST},
    part::Access,
    rows,
};
use crate::{
    execute::manifest::{Input, Part, PartInput},
    runner::{
        MAX_MEDIA_BYTES, MAX_RECORD_BYTES,
        decode::{self, DecodeError, Decoder, Projection},
    },
};

/// What the inputs of a part hold, in order. `lossy`: places of inputs of which the job lost records in decoding.
pub(super) fn records<'a>(part: &'a Part, said: &'a Input, access: &'a Access, lossy: Vec<u32>) -> Box<dyn Iterator<Item = Expected> + 'a> {
    let inputs = part.inputs.iter().zip(0u32..);
    Box::new(inputs.flat_map(move |(input, at)| {
        let projection = if lossy.contains(&at) { Projection::All } else { Projection::Only(Arc::default()) };
        Records { decoder: Some(open(input, said, access, projection)), at, ready: Vec::new().into_iter() }
    }))
}

fn open(input: &PartInput, said: &Input, access: &Access, projection: Projection) -> Result<Box<dyn Decoder>, DecodeError> {
    let slice = input.to_slice(said);
    let bucket = access.stores.open(slice.bucket.as_ref().unwrap_or(&said.uri))?;
    let source: Arc<str> = slice.source(&said.uri).into();
    let object = Arc::new(rows::object(&bucket, slice.clone(), &access.handle));
    let request = rows::request(source, slice, said.csv.clone(), projection);
    decode::open(object, decode::Request { max_record_bytes: MAX_RECORD_BYTES, max_media_bytes: MAX_MEDIA_BYTES, ..request })
}

/// The records of one input.
struct Records {
    decoder: Option<Result<Box<dyn Decoder>, DecodeError>>,
    at: u32,
    ready: std::vec::IntoIter<Expected>,
}

impl Iterator for Records {
    type Item = Expected;

    fn next(&mut self) -> Option<Expected> {
        loop {
            if let Some(next) = self.ready.next() {
                return Some(next);
            }
            let step = match self.decoder.take()? {
                Ok(mut decoder) => {
                    let step = decoder.next();
                    self.decoder = Some(Ok(decoder));
                    step
                }
                Err(error) => Err(error),
            };
            match step {
                Ok(Some(step)) => {
                    let rows = step.batch.iter().flat_map(|batch| batch.provenance.rows.iter().map(|row| row.position));
                    let lost = step.errors.iter().map(|error| error.position.unwrap_or(LOST));
                    let mut positions: Vec<u64> = rows.chain(lost).collect();
                    positions.sort_unstable();
                    let records: Vec<Expected> = positions.into_iter().map(|position| Expected::Record((self.at, position))).collect();
                    self.ready = records.into_iter();
                }
                Ok(None) => {
                    self.decoder = None;
                    return None;
                }
                Err(DecodeError::Corrupt { position, .. }) => {
                    self.decoder = None;
                    return Some(Expected::Record((self.at, position.unwrap_or(LOST))));
                }
                Err(DecodeError::Source(error)) => {
                    self.decoder = None;
                    return Some(Expected::Unreadable(self.at, error.to_string()));
                }
            }
        }
    }
}
