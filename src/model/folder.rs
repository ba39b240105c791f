//! Which objects make a model.

use futures::TryStreamExt;

use super::{
    Error,
    layouts::{Triton, mlflow_data},
};
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
/// What MLflow keeps beside a model.
const MLFLOW: &str = "MLmodel";
/// What Triton keeps above a model's versions.
const TRITON: &str = "config.pbtxt";
/// Largest of these that is read.
const MOST_LAYOUT_BYTES: u64 = 1024 * 1024;
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
    let named = match laid_out(bucket, &prefix, &objects).await? {
        Some(onnx) => Some(onnx),
        None => at("model.onnx").or_else(|| at("onnx/model.onnx")),
    };
    let onnx = match named {
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

/// The ONNX file of a folder that is laid out as MLflow or Triton do it; `None` when it is not.
async fn laid_out(bucket: &Bucket, prefix: &str, objects: &[ObjectMeta]) -> Result<Option<ObjectMeta>, Error> {
    let at = |name: &str| objects.iter().find(|o| o.key.strip_prefix(prefix) == Some(name));
    let has_model = at("model.onnx").is_some();
    if let Some(file) = at(MLFLOW) {
        const HINT: &str = "log the model with mlflow.onnx, or name its .onnx file itself";
        return match mlflow_data(&text_of(bucket, file).await?) {
            Ok(data) => match at(&data) {
                Some(onnx) => Ok(Some(onnx.clone())),
                None => Err(refused("no_onnx_file", format!("{MLFLOW} names {data:?}, which is not there"), HINT)),
            },
            // Whoever put a model.onnx there means that one.
            Err(_) if has_model => Ok(None),
            Err(why) => Err(refused("no_onnx_flavor", format!("{}: {why}", file.key), HINT)),
        };
    }
    let version = |object: &ObjectMeta, file: &str| {
        let (folder, name) = object.key.strip_prefix(prefix)?.split_once('/')?;
        // Triton passes over folders whose names begin with a zero.
        let version = folder.parse::<u64>().ok().filter(|_| !folder.starts_with(['0', '+']))?;
        (name == file).then_some(version)
    };
    let triton = match at(TRITON) {
        _ if has_model => return Ok(None),
        Some(file) => {
            const HINT: &str = "only ONNX models are run: name such a model's folder, or its .onnx file";
            let read = Triton::read(&text_of(bucket, file).await?);
            read.map_err(|why| refused("unsupported_configuration", format!("{}: {why}", file.key), HINT))?
        }
        // Triton needs no configuration for an ONNX model; a folder in which every model lies in a numbered one can only be its.
        None => {
            let mut models = objects.iter().filter(|o| o.key.ends_with(".onnx")).peekable();
            if models.peek().is_none() || !models.all(|o| version(o, "model.onnx").is_some()) {
                return Ok(None);
            }
            Triton::default()
        }
    };
    let allowed = |n: &u64| triton.versions.as_ref().is_none_or(|versions| versions.contains(n));
    let numbered = objects.iter().filter_map(|o| Some((version(o, &triton.file)?, o))).filter(|(n, _)| allowed(n));
    match numbered.max_by_key(|(n, _)| *n) {
        Some((_, onnx)) => Ok(Some(onnx.clone())),
        None => {
            let detail = format!("no version of it holds {}: {} is wanted", triton.file, format_args!("{prefix}1/{}", triton.file));
            Err(refused("no_onnx_file", detail, "put the model there, or name its .onnx file itself"))
        }
    }
}

async fn text_of(bucket: &Bucket, file: &ObjectMeta) -> Result<String, Error> {
    const HINT: &str = "name the model's .onnx file itself";
    if file.size > MOST_LAYOUT_BYTES {
        return Err(refused("model_too_large", format!("{} has more than {MOST_LAYOUT_BYTES} bytes", file.key), HINT));
    }
    let bytes = bucket.read_whole(&file.key, file.etag.as_deref(), file.size).await?;
    String::from_utf8(bytes.into()).map_err(|_| refused("unsupported_configuration", format!("{} is not UTF-8 text", file.key), HINT))
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
