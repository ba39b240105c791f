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

use super::{
    DecodeError, Decoded, Decoder, Request,
    batches::{Fault, Limits, Progress, Pushed},
    text::{self, Input},
};
use crate::{
    domain::{RecordError, Stage, spec::InputCompression},
    runner::batch::{Batch, Provenance},
};
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

impl Decoder for TarDecoder {
    fn next(&mut self) -> Result<Option<Decoded>, DecodeError> {
        match std::mem::replace(&mut self.progress, Progress::Ended) {
            Progress::Reading => self.progress = Progress::Reading,
            Progress::Failed(error) => return Err(error),
            Progress::Ended => return Ok(None),
        }
        let (positions, errors) = self.collect();
        if positions.is_empty() && errors.is_empty() {
            return match std::mem::replace(&mut self.progress, Progress::Ended) {
                Progress::Failed(error) => Err(error),
                Progress::Reading | Progress::Ended => Ok(None),
            };
        }
        let batch = if positions.is_empty() { None } else { Some(self.batch(positions)?) };
        Ok(Some(Decoded { batch, errors }))
    }
}

impl TarDecoder {
    /// Reads samples until the batch is full or there are no more. Returns the rows' positions and the error rows.
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
                Pushed::Fault(fault) => errors.push(self.error_row(sample.position, fault)),
                Pushed::Full => {
                    self.waiting = Some(sample);
                    break;
                }
            }
        }
        (positions, errors)
    }

    fn error_row(&self, position: u64, fault: Fault) -> RecordError {
        let (source, code) = (self.source.clone(), fault.code.to_owned());
        RecordError { source, position: Some(position), stage: Stage::Decode, code, detail: fault.detail }
    }

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

    fn batch(&mut self, positions: Vec<u64>) -> Result<Batch, DecodeError> {
        let first = positions.first().copied();
        let columns = self.columns.finish().map_err(|error| DecodeError::Corrupt {
            source_name: self.source.clone(),
            code: "invalid_columns",
            detail: error.to_string(),
            position: first,
        })?;
        Ok(Batch { provenance: Provenance::of(self.source.clone(), positions), columns })
    }
}
