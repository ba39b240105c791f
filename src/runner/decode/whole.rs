//! An object that is one record: an encoded picture, or a text.
//!
//! In: the object's decompressed bytes. Out: a [`Decoder`] of one row with the column `image` (Binary) or `text` (Utf8), at position 0.
//! What a picture shows is not asked here: its pixels are decoded on the workers.

use std::{io::Read, sync::Arc};

use arrow::{
    array::{ArrayRef, BinaryArray, RecordBatch, StringArray},
    datatypes::{Field, Schema},
};

use super::{
    DecodeError, Decoded, Decoder, Request,
    batches::without_mark,
    text::{self, Input},
};
use crate::{
    domain::{
        RecordError, Stage,
        spec::{InputCompression, InputFormat},
    },
    runner::batch::{Batch, Provenance},
};

/// The column that holds encoded pictures.
pub(super) const IMAGE: &str = "image";
/// The column that holds texts.
pub(super) const TEXT: &str = "text";

/// Most bytes of an object of this format.
pub(super) fn most_bytes(format: InputFormat, request: &Request) -> u64 {
    let most = if format == InputFormat::Image { request.max_media_bytes } else { request.max_record_bytes };
    // The offsets of an array of one value must be able to count it.
    most.min(i32::MAX as usize / 2) as u64
}

/// One error row in place of an object whose size alone is too much.
pub(super) fn too_large(format: InputFormat, request: &Request) -> Box<dyn Decoder> {
    Box::new(Whole {
        source: request.source.clone(),
        compression: InputCompression::None,
        format,
        most: most_bytes(format, request),
        left: Left::TooLarge,
    })
}

/// Opens an object that is one record.
pub(super) fn open(input: Input, compression: InputCompression, format: InputFormat, request: &Request) -> Box<dyn Decoder> {
    Box::new(Whole { source: request.source.clone(), compression, format, most: most_bytes(format, request), left: Left::Unread(input) })
}

struct Whole {
    source: Arc<str>,
    compression: InputCompression,
    format: InputFormat,
    most: u64,
    left: Left,
}

/// What is still to come of an object.
enum Left {
    /// Its one record.
    Unread(Input),
    /// The error row for an object whose size is over the limit.
    TooLarge,
    /// Nothing.
    Nothing,
}

impl Decoder for Whole {
    fn next(&mut self) -> Result<Option<Decoded>, DecodeError> {
        let input = match std::mem::replace(&mut self.left, Left::Nothing) {
            Left::Unread(input) => input,
            Left::TooLarge => return Ok(Some(self.over_limit())),
            Left::Nothing => return Ok(None),
        };
        let mut bytes = Vec::new();
        let read = input.take(self.most + 1).read_to_end(&mut bytes);
        read.map_err(|error| text::read_error(error, &self.source, self.compression, Some(0)))?;
        if bytes.len() as u64 > self.most {
            return Ok(Some(self.over_limit()));
        }
        let (name, column): (&str, ArrayRef) = match self.format {
            InputFormat::Text => match std::str::from_utf8(without_mark(0, &bytes)) {
                Ok(text) => (TEXT, Arc::new(StringArray::from(vec![text]))),
                Err(error) => {
                    let detail = format!("byte {} of the text is not valid UTF-8", error.valid_up_to());
                    return Ok(Some(self.error_row("invalid_utf8", detail)));
                }
            },
            _ => (IMAGE, Arc::new(BinaryArray::from_vec(vec![&bytes]))),
        };
        let schema = Arc::new(Schema::new(vec![Field::new(name, column.data_type().clone(), true)]));
        let columns = RecordBatch::try_new(schema, vec![column]).expect("one column of one value");
        let batch = Batch { provenance: Provenance::of(self.source.clone(), [0]), columns };
        Ok(Some(Decoded { batch: Some(batch), errors: Vec::new() }))
    }
}

impl Whole {
    fn over_limit(&self) -> Decoded {
        self.error_row("record_too_large", format!("the object is over the limit of {} bytes", self.most))
    }

    fn error_row(&self, code: &str, detail: String) -> Decoded {
        let error = RecordError { source: self.source.clone(), position: Some(0), stage: Stage::Decode, code: code.to_owned(), detail };
        Decoded { batch: None, errors: vec![error] }
    }
}
