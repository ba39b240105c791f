//! A tar archive of samples → batches, as WebDataset reads them.
//!
//! In: an archive, decompressed. Out: a [`Decoder`] whose rows are samples, each at the byte offset of its first header. A sample that is
//! no record costs one error row; where the archive itself cannot be read on, what is left of it costs one.
//!
//! Memory is bounded by the largest sample allowed: what is larger is passed over.

mod archive;
mod columns;
mod sample;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::{array::RecordBatch, error::ArrowError};

use super::{
    DecodeError, Decoder, Request,
    batches::{Gather, Limits, Progress, Pushed},
    text::{self, Input},
};
use crate::domain::{RecordError, spec::InputCompression};
use archive::{Archive, Error};
use columns::SampleColumns;
use sample::{Sample, Samples};

/// Opens an archive.
pub(super) fn open(input: Input, compression: InputCompression, request: &Request) -> Box<dyn Decoder> {
    let limits = Limits::of(request);
    Box::new(TarDecoder {
        source: request.source.clone(),
        compression,
        samples: Samples::new(Archive::new(input), request.max_media_bytes.min(i32::MAX as usize / 2)),
        waiting: None,
        columns: SampleColumns::new(&request.projection, limits.bytes),
        limits,
        progress: Progress::Reading,
    })
}

struct TarDecoder {
    source: Arc<str>,
    compression: InputCompression,
    samples: Samples,
    /// The sample that had no room in the last batch.
    waiting: Option<Sample>,
    columns: SampleColumns,
    limits: Limits,
    progress: Progress,
}

impl Gather for TarDecoder {
    fn progress(&mut self) -> &mut Progress {
        &mut self.progress
    }

    fn collect(&mut self) -> (Vec<u64>, Vec<RecordError>) {
        let mut positions = Vec::new();
        let mut errors = Vec::new();
        let full = |rows: usize, columns: &SampleColumns| rows > 0 && columns.bytes() >= self.limits.bytes;
        while positions.len() + errors.len() < self.limits.rows && !full(positions.len(), &self.columns) {
            let columns = &self.columns;
            let next = match self.waiting.take() {
                Some(sample) => Ok(Some(sample)),
                None => self.samples.next(|column| columns.wants(column)),
            };
            let mut sample = match next {
                Ok(Some(sample)) => sample,
                Ok(None) => {
                    self.progress = Progress::Ended;
                    break;
                }
                Err(error) => {
                    self.progress = Progress::Failed(self.end(error));
                    break;
                }
            };
            let pushed = match sample.fault.take() {
                Some(fault) => Pushed::Fault(fault),
                None => self.columns.push(&sample),
            };
            match pushed {
                Pushed::Row => positions.push(sample.position),
                Pushed::Fault(fault) => errors.push(fault.of_record(&self.source, sample.position)),
                Pushed::Full => {
                    self.waiting = Some(sample);
                    break;
                }
            }
        }
        (positions, errors)
    }

    fn finish(&mut self, _rows: usize) -> Result<RecordBatch, ArrowError> {
        self.columns.finish()
    }

    fn source(&self) -> &Arc<str> {
        &self.source
    }
}

impl TarDecoder {
    /// What ends the archive, at the first sample that is lost with it.
    fn end(&self, error: Error) -> DecodeError {
        let position = Some(self.samples.position());
        let detail = match error {
            Error::Read(error) => return text::read_error(error, &self.source, self.compression, position),
            Error::Malformed(detail) => detail,
            Error::Unmarked => "the archive ends without the two empty blocks that mark its end: what followed is lost".to_owned(),
        };
        DecodeError::Corrupt { source_name: self.source.clone(), code: "invalid_tar", detail, position }
    }
}
