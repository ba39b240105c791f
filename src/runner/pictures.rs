//! A column of texts that hold or name pictures → a Binary column of pictures.
//!
//! In: decoded batches of a job whose pipeline takes pictures. Out: the same rows in input order, in batches that hold about 16 MiB, and
//! error rows for those whose picture cannot be had. The column keeps its name; the texts that it held go on beside it where the output
//! carries them. Binary columns pass as they are.
//!
//! Keys lead nowhere but below the input's own bucket: a table is data, and must not choose what the service's credentials read.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arrow::{
    array::{ArrayRef, BinaryArray, RecordBatch, UInt32Array},
    compute::take_record_batch,
    datatypes::{DataType, Field, FieldRef, Metadata, Schema},
};
use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use tokio::runtime::Handle;

use super::{
    batch::{Batch, CARRIED, ENCODING},
    decode::sniff,
    featurize,
};
use crate::{
    domain::{
        RecordError, Stage, Uri,
        pipeline::image::{Image, ImageSource},
        spec::IncludeInput,
    },
    objects::{self, Bucket},
};

/// Objects fetched side by side.
const PARALLEL: usize = 16;
/// A batch ends once its pictures hold this many bytes.
const BATCH_BYTES: usize = 16 << 20;

/// Finds the pictures of a job's records.
#[derive(Debug)]
pub(super) struct Pictures {
    pub(super) column: String,
    pub(super) source: ImageSource,
    /// Whether the output carries the texts.
    pub(super) carried: bool,
    pub(super) bucket: Bucket,
    /// What relative keys are relative to.
    pub(super) prefix: Uri,
    pub(super) handle: Handle,
    pub(super) bytes_read: Arc<AtomicU64>,
    /// Most bytes of a picture.
    pub(super) most_bytes: u64,
}

/// Rows with their pictures, and those that have none.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) batches: Vec<Batch>,
    pub(super) errors: Vec<RecordError>,
}

/// What a text comes to.
enum Picture {
    Bytes(Bytes),
    Missing(&'static str, String),
    /// The store failed, and trying again may help.
    Failed(objects::Error),
}

impl Pictures {
    pub(super) fn new(
        image: &Image,
        include: &IncludeInput,
        bucket: Bucket,
        input: &Uri,
        handle: Handle,
        bytes_read: Arc<AtomicU64>,
        most_bytes: u64,
    ) -> Self {
        let carried = match include {
            IncludeInput::None => false,
            IncludeInput::All => true,
            IncludeInput::Columns(names) => names.contains(&image.column),
        };
        let folder = input.path().rfind('/').map_or("", |at| &input.path()[..=at]);
        let prefix = input.with_path(folder);
        Self { column: image.column.clone(), source: image.source, carried, bucket, prefix, handle, bytes_read, most_bytes }
    }

    /// Finds the pictures of a batch.
    ///
    /// # Errors
    /// The store's, where trying again may help.
    pub(super) fn find(&self, batch: Batch) -> Result<Found, objects::Error> {
        let is_text = |field: &Field| {
            let plain = match field.data_type() {
                DataType::Dictionary(_, values) => values,
                other => other,
            };
            matches!(plain, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
        };
        let schema = batch.columns.schema();
        let texts = match schema.column_with_name(&self.column) {
            Some((_, field)) if is_text(field) => featurize::texts(&batch.columns, &self.column),
            _ => None,
        };
        let Some(texts) = texts else { return Ok(Found { batches: vec![batch], errors: Vec::new() }) };
        let mut found = Found::default();
        let (mut rows, mut pictures, mut held) = (Vec::new(), Vec::new(), 0);
        let mut fetched = stream::iter(texts).map(|text| self.picture(text)).buffered(PARALLEL);
        for row in 0..batch.rows() as u32 {
            let Some(picture) = self.handle.block_on(fetched.next()) else { break };
            match picture {
                Picture::Bytes(bytes) => {
                    held += bytes.len();
                    rows.push(row);
                    pictures.push(bytes);
                }
                Picture::Missing(code, detail) => found.errors.push(batch.provenance.error(row as usize, Stage::Source, code, detail)),
                Picture::Failed(error) => return Err(error),
            }
            if held >= BATCH_BYTES {
                found.batches.push(self.with_pictures(&batch, &rows, &pictures));
                (rows, pictures, held) = (Vec::new(), Vec::new(), 0);
            }
        }
        if !rows.is_empty() {
            found.batches.push(self.with_pictures(&batch, &rows, &pictures));
        }
        Ok(found)
    }

    async fn picture(&self, text: Result<Option<String>, String>) -> Picture {
        let text = match text {
            Ok(Some(text)) if !text.trim_ascii().is_empty() => text,
            Ok(_) => return Picture::Missing("missing_value", format!("column {:?} has no value", self.column)),
            Err(excerpt) => return Picture::Missing("wrong_type", format!("column {:?}: {excerpt} is no text", self.column)),
        };
        let encoded = match self.source {
            ImageSource::Auto => text.starts_with("data:") || begins_as_encoded_picture(&text),
            ImageSource::Base64 => true,
            ImageSource::Key => false,
        };
        if encoded {
            return match decode(&text) {
                Some(bytes) if bytes.len() as u64 > self.most_bytes => self.too_large("the picture"),
                Some(bytes) => Picture::Bytes(bytes.into()),
                None => Picture::Missing("invalid_base64", format!("column {:?}: {} is no Base64", self.column, featurize::excerpt(&text))),
            };
        }
        match self.location(&text) {
            Ok(uri) => self.fetch(&uri).await,
            Err(why) => Picture::Missing("invalid_key", format!("column {:?}: {} {why}", self.column, featurize::excerpt(&text))),
        }
    }

    /// Where a key leads.
    fn location(&self, key: &str) -> Result<Uri, String> {
        let location = if key.contains("://") { key.to_owned() } else { self.prefix.join(key).to_string() };
        let uri = Uri::parse(&location).map_err(|error| format!("is no key below {}: {error}", self.prefix))?;
        if uri.with_path("") != self.prefix.with_path("") {
            return Err(format!("does not lie in the input's bucket, which is that of {}", self.prefix));
        }
        Ok(uri)
    }

    async fn fetch(&self, uri: &Uri) -> Picture {
        let object = match self.bucket.head(uri.path()).await {
            Ok(object) => object,
            Err(error) => return lost(error),
        };
        if object.size > self.most_bytes {
            return self.too_large(&uri.to_string());
        }
        match self.bucket.read(&object.key, object.etag.as_deref(), 0..object.size).await {
            Ok(bytes) => {
                self.bytes_read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                Picture::Bytes(bytes)
            }
            Err(error) => lost(error),
        }
    }

    fn too_large(&self, what: &str) -> Picture {
        Picture::Missing("record_too_large", format!("{what} is over the limit of {} bytes", self.most_bytes))
    }

    /// These rows of a batch with these pictures in place of the texts.
    fn with_pictures(&self, batch: &Batch, rows: &[u32], pictures: &[Bytes]) -> Batch {
        let columns = take_record_batch(&batch.columns, &UInt32Array::from(rows.to_vec())).expect("rows of this batch");
        let mut all: Vec<(FieldRef, ArrayRef)> =
            columns.schema_ref().fields().iter().cloned().zip(columns.columns().iter().cloned()).collect();
        let of_texts = all.iter().position(|(field, _)| *field.name() == self.column);
        let at = of_texts.expect("the column that the texts came from");
        let binary: ArrayRef = Arc::new(BinaryArray::from_iter_values(pictures));
        let (texts, array) = std::mem::replace(&mut all[at], (Arc::new(Field::new(&self.column, DataType::Binary, true)), binary));
        if self.carried {
            let mut metadata: Metadata = [(CARRIED, self.column.as_str())].into();
            if let Some(encoding) = texts.metadata().get(ENCODING) {
                metadata.insert(ENCODING.to_owned(), encoding.clone());
            }
            let field = Field::new(format!("\0{}", self.column), array.data_type().clone(), true).with_metadata(metadata);
            all.push((Arc::new(field), array));
        }
        let (fields, arrays): (Vec<FieldRef>, Vec<ArrayRef>) = all.into_iter().unzip();
        let columns = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).expect("columns of one length");
        Batch { provenance: batch.provenance.take(rows), columns }
    }
}

/// What a store's refusal means for one record.
fn lost(error: objects::Error) -> Picture {
    if error.retryable() || matches!(error, objects::Error::NoBucket { .. }) {
        return Picture::Failed(error);
    }
    Picture::Missing(error.code(), error.to_string())
}

/// Either alphabet, padding or not.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text = match text.strip_prefix("data:") {
        Some(data) => data.split_once(',')?.1,
        None => text,
    };
    let text = text.trim_ascii();
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent).with_decode_allow_trailing_bits(true);
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    GeneralPurpose::new(alphabet, config).decode(text).ok()
}

/// Whether a text is Base64 of something that begins as a picture: its first characters are looked at, and a dot, which no Base64 and
/// nearly every key has, decides against it.
fn begins_as_encoded_picture(text: &str) -> bool {
    const HEAD: usize = 24;
    let head = text.trim_ascii().get(..HEAD).unwrap_or_default();
    !text.contains('.') && decode(head).is_some_and(|bytes| sniff::begins_as_picture(&bytes))
}

#[cfg(test)]
mod tests;
