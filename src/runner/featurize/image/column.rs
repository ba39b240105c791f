//! The encoded pictures of a column, whatever holds them.

use std::borrow::Cow;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::DataType,
};
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{decode::Bad, limits::ImageLimits};
use crate::runner::featurize::{
    BindError,
    bind::{self, Encoding},
};

/// Base64 with or without its padding.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));
/// The member of a struct column that holds the bytes: pictures of Hugging Face's data sets are `{bytes, path}`.
const BYTES: &str = "bytes";

/// Refuses a column whose type can hold no pictures.
pub(super) fn check(column: &bind::Column, first: &RecordBatch) -> Result<(), BindError> {
    let array = first.column(column.index);
    if holds_pictures(array.data_type()) {
        return Ok(());
    }
    let detail = format!(
        "column {:?} is {}, which cannot hold pictures: they are bytes, or texts in base64; the data has {}",
        column.name,
        array.data_type(),
        bind::list(first)
    );
    Err(BindError { code: "column_type", detail })
}

fn holds_pictures(kind: &DataType) -> bool {
    match kind {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::Null => true,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Struct(members) => members.iter().any(|m| m.name() == BYTES && holds_pictures(m.data_type())),
        _ => false,
    }
}

/// A column's cells as bytes.
pub(super) struct Encoded<'c> {
    /// Of a struct column, the member that holds the bytes; its nulls are the struct's too.
    array: &'c ArrayRef,
    outer: Option<&'c ArrayRef>,
    encoding: Encoding,
}

impl<'c> Encoded<'c> {
    /// The cells of a column that [`check`] has let pass.
    pub(super) fn new(column: &bind::Column, columns: &'c RecordBatch) -> Self {
        let array = columns.column(column.index);
        match array.as_struct_opt().and_then(|members| members.column_by_name(BYTES)) {
            Some(member) => Self { array: member, outer: Some(array), encoding: Encoding::Typed },
            None => Self { array, outer: None, encoding: column.encoding },
        }
    }

    /// The encoded picture of a row.
    pub(super) fn bytes(&self, row: usize, limits: &ImageLimits) -> Result<Cow<'c, [u8]>, Bad> {
        let missing = || Bad::new("missing_value", "there is no picture");
        if self.array.is_null(row) || self.outer.is_some_and(|outer| outer.is_null(row)) {
            return Err(missing());
        }
        let text = match self.array.data_type() {
            DataType::Binary => return Ok(Cow::Borrowed(self.array.as_binary::<i32>().value(row))),
            DataType::LargeBinary => return Ok(Cow::Borrowed(self.array.as_binary::<i64>().value(row))),
            DataType::BinaryView => return Ok(Cow::Borrowed(self.array.as_binary_view().value(row))),
            DataType::Utf8 => self.array.as_string::<i32>().value(row),
            DataType::LargeUtf8 => self.array.as_string::<i64>().value(row),
            DataType::Utf8View => self.array.as_string_view().value(row),
            _ => return Err(missing()),
        };
        let text = match self.encoding {
            Encoding::Typed | Encoding::Csv => Cow::Borrowed(text),
            Encoding::Json if text == "null" => return Err(missing()),
            Encoding::Json => {
                serde_json::from_str::<Cow<'_, str>>(text).map_err(|_| Bad::new("wrong_type", "a picture is a text in base64"))?
            }
        };
        base64(text.trim_ascii(), limits).map(Cow::Owned)
    }
}

/// The bytes of a text in base64, with or without the beginning of a `data:` URL.
fn base64(text: &str, limits: &ImageLimits) -> Result<Vec<u8>, Bad> {
    let text = match text.split_once(";base64,") {
        Some((kind, rest)) if kind.starts_with("data:") => rest,
        _ => text,
    };
    if text.is_empty() {
        return Err(Bad::new("missing_value", "there is no picture"));
    }
    let about = text.len() as u64 / 4 * 3;
    if about > limits.bytes {
        return Err(Bad::new("image_too_large", format!("about {about} bytes, over the limit of {}", limits.bytes)));
    }
    BASE64.decode(text).map_err(|e| Bad::new("invalid_base64", format!("is no base64: {e}")))
}
