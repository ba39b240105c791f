//! Which objects make a model.

use futures::TryStreamExt;

use super::Error;
use crate::{
    domain::{Fault, Uri},
    objects::{self, Bucket, ObjectMeta},
};

/// Files beside the ONNX file that say how to use it.
const SIDECARS: [&str; 9] = [
    "nightshift.json",
    "config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "sentence_bert_config.json",
    "modules.json",
    "1_Pooling/config.json",
];
/// Where Optimum puts the variants of a model: full, quantized, optimized.
const VARIANTS: &str = "onnx/";
/// Objects looked at in a model folder.
const MOST_OBJECTS: usize = 10_000;

/// A model as it lies in its store.
#[derive(Debug)]
pub(super) struct Found {
    /// What keys of its files begin with.
    pub(super) prefix: String,
    /// The ONNX file.
    pub(super) onnx: ObjectMeta,
    /// Sidecars, in the order of [`SIDECARS`].
    pub(super) sidecars: Vec<ObjectMeta>,
}

impl Found {
    /// A key relative to the model's folder.
    pub(super) fn name(&self, key: &str) -> String {
        key.strip_prefix(&self.prefix).unwrap_or(key).to_owned()
    }
}

/// Finds the model: a folder with exactly one, or one `.onnx` object with nothing but its external data. An object of a folder `onnx/`, as
/// Optimum lays models out, is that variant of the model above: it keeps that folder's sidecars.
pub(super) async fn find(bucket: &Bucket, uri: &Uri) -> Result<Found, Error> {
    if !uri.is_prefix() && uri.path().ends_with(".onnx") {
        let onnx = bucket.head(uri.path()).await?;
        let beside = onnx.key.rfind('/').map_or("", |at| &onnx.key[..=at]);
        let above = beside.strip_suffix(VARIANTS).filter(|above| above.is_empty() || above.ends_with('/'));
        let sidecars = match above {
            Some(above) => sidecars_in(bucket, above).await?,
            None => Vec::new(),
        };
        return Ok(Found { prefix: above.unwrap_or(beside).to_owned(), onnx, sidecars });
    }
    let prefix = uri.as_prefix().path().to_owned();
    let mut objects = Vec::new();
    let mut listed = bucket.list(&prefix, None);
    while let Some(object) = listed.try_next().await? {
        objects.push(object);
        if objects.len() > MOST_OBJECTS {
            return Err(refused(
                "not_a_model_folder",
                format!("{uri} holds more than {MOST_OBJECTS} objects"),
                "name the folder of one model",
            ));
        }
    }
    let at = |name: &str| objects.iter().find(|o| o.key.strip_prefix(&prefix) == Some(name)).cloned();
    let onnx = match at("model.onnx").or_else(|| at("onnx/model.onnx")) {
        Some(onnx) => onnx,
        None => {
            let candidates: Vec<&ObjectMeta> = objects.iter().filter(|o| o.key.ends_with(".onnx")).collect();
            match candidates.as_slice() {
                [only] => (*only).clone(),
                [] if objects.is_empty() => return Err(Error::Store(objects::Error::NotFound { uri: uri.clone() })),
                [] => {
                    let names: Vec<&str> = objects.iter().take(5).map(|o| o.key.strip_prefix(&prefix).unwrap_or(&o.key)).collect();
                    let more = if objects.len() > names.len() { " …" } else { "" };
                    let detail = format!("{uri} holds no .onnx file, but {}{more}", names.join(", "));
                    return Err(refused("no_onnx_file", detail, "export the model as ONNX and put it there as model.onnx"));
                }
                several => {
                    let names: Vec<&str> = several.iter().take(10).map(|o| o.key.strip_prefix(&prefix).unwrap_or(&o.key)).collect();
                    let detail = format!("{uri} holds {} .onnx files and none is model.onnx: {}", several.len(), names.join(", "));
                    return Err(refused("several_onnx_files", detail, "name the file itself"));
                }
            }
        }
    };
    let sidecars = SIDECARS.iter().filter_map(|name| at(name)).collect();
    Ok(Found { prefix, onnx, sidecars })
}

/// The sidecars of a folder that is not listed.
async fn sidecars_in(bucket: &Bucket, folder: &str) -> Result<Vec<ObjectMeta>, Error> {
    let mut found = Vec::new();
    for name in SIDECARS {
        match bucket.head(&format!("{folder}{name}")).await {
            Ok(object) => found.push(object),
            Err(objects::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found)
}

pub(super) fn refused(code: &str, detail: impl Into<String>, hint: &str) -> Error {
    Error::Refused(vec![Fault::new("/model", code, detail).hint(hint)])
}
