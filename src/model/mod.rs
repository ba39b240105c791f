//! Model folder → pinned, admitted model with its signature and pipeline.
//!
//! In: a location and the job's pipeline overrides. Out: [`Resolved`], or every fault at once. Fetches into a cache whose
//! folders are named by digest; reads the ONNX file as data (protobuf), never through the runtime.

mod admit;
mod cache;
mod derive;
mod flags;
mod folder;
mod init;
mod layouts;
pub(crate) mod onnx;
mod origin;
mod signature;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    domain::{Fault, Pipeline, PipelineSpec, Signature, Uri, job::PinnedModel},
    objects::{self, Bucket, ObjectMeta, Stores},
};
use cache::{CachedFile, Entry, Staging};
use folder::Found;
pub use origin::Origin;

/// The file of a model's folder that holds its pipeline section.
const SECTION: &str = "nightshift.json";

/// Limits on what is fetched and admitted.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest sum of a model's files, bytes.
    pub max_bytes: u64,
    /// Deepest nesting of subgraphs.
    pub max_nesting: usize,
}

/// A model and how to use it.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// Pinned by digest.
    pub model: PinnedModel,
    /// No choice left open.
    pub pipeline: Pipeline,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 8 * 1024 * 1024 * 1024, max_nesting: 64 }
    }
}

/// A model as it is shown to people: what a job would resolve, and where each choice comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// Pinned by digest.
    pub model: PinnedModel,
    /// All inputs and outputs, those too that the pipeline leaves out.
    pub signature: Signature,
    /// No choice left open.
    pub pipeline: Pipeline,
    /// Where each field of the pipeline comes from, by its name.
    pub origins: BTreeMap<String, Origin>,
}

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its store failed.
    #[error(transparent)]
    Store(#[from] objects::Error),
    /// It was refused; pointers are into the job definition (`/model`, `/pipeline/features` …).
    #[error("the model was refused")]
    Refused(Vec<Fault>),
    /// The cache folder cannot be written or read.
    #[error("the model cache at {path} failed")]
    Cache {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// The sentence with its cause: what an operator can act on is often the latter.
    pub fn whole(&self) -> String {
        match self {
            Self::Cache { source, .. } => format!("{self}: {source}"),
            other => other.to_string(),
        }
    }
}

/// How long a failure of the cache is told after it happened: while something waits for the cache, it is tried more often than that.
const TROUBLE: Duration = Duration::from_secs(30);

/// Resolves models and keeps their files.
#[derive(Debug)]
pub struct Models {
    cache: PathBuf,
    stores: Stores,
    limits: Limits,
    /// When and how the cache last failed, unless it has worked since.
    failed: Mutex<Option<(Instant, String)>>,
}

impl Models {
    /// A cache in this folder, made when it is first needed.
    pub fn new(cache: PathBuf, stores: Stores, limits: Limits) -> Self {
        Self { cache, stores, limits, failed: Mutex::default() }
    }

    /// Removes what killed processes left half fetched. Fetches of others that share the cache are left alone: they are younger than that.
    pub fn sweep(&self) {
        cache::sweep(&self.cache);
    }

    /// Why models cannot be cached at present, if they cannot.
    pub fn trouble(&self) -> Option<String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().filter(|(when, _)| when.elapsed() < TROUBLE).map(|(_, why)| why.clone())
    }

    /// Finds the model at `uri` (a folder, or one `.onnx` object), fetches what is not cached, admits it, reads its signature
    /// and derives the pipeline with `overrides` on top.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn resolve(&self, uri: &Uri, overrides: &PipelineSpec) -> Result<Resolved, Error> {
        self.inspect(uri, overrides).await.map(|found| Resolved { model: found.model, pipeline: found.pipeline })
    }

    /// The same, with all that is known of the model.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn inspect(&self, uri: &Uri, overrides: &PipelineSpec) -> Result<Inspection, Error> {
        let entry = self.fetch(uri).await?;
        let model = PinnedModel { uri: uri.clone(), digest: entry.digest, file: entry.file, bytes: entry.bytes, registered: None };
        self.derived(model, overrides).await
    }

    /// The same of a model that was pinned before, whatever lies at its location now; refused when its files are not in the cache and
    /// what lies there is not they.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn resolve_pinned(&self, model: &PinnedModel, overrides: &PipelineSpec) -> Result<Resolved, Error> {
        self.ensure(model).await?;
        self.derived(model.clone(), overrides).await.map(|found| Resolved { model: found.model, pipeline: found.pipeline })
    }

    /// What is known of a model whose files are in the cache.
    async fn derived(&self, model: PinnedModel, overrides: &PipelineSpec) -> Result<Inspection, Error> {
        let folder = self.cache.join(&model.digest);
        let path = folder.join(&model.file);
        let bytes = tokio::fs::read(&path).await.map_err(cache::failed(&path))?;
        let (max_nesting, spec) = (self.limits.max_nesting, overrides.clone());
        // Large graphs and vocabularies take their time to parse.
        let derived = tokio::task::spawn_blocking(move || {
            let mut faults = Vec::new();
            let graph = admit::admit(&bytes, max_nesting, &mut faults).map(|(graph, _)| graph);
            let says = derive::read_folder(&folder, &mut faults);
            let derived = graph.and_then(|graph| {
                let signature = signature::read(&graph, &mut faults);
                let mut pipeline = derive::derive(signature.clone(), &graph, &says, spec.clone(), &mut faults)?;
                flags::add(&mut pipeline, says.section().flags.clone(), &spec, &mut faults);
                let origins = origin::of(&pipeline, &spec, &folder, says.section());
                Some((signature, pipeline, origins))
            });
            (derived, faults)
        });
        let (derived, faults) = derived.await.unwrap_or_else(|panic| {
            let detail = format!("the model's files cannot be read: {panic}");
            (None, vec![Fault::new("/model", "invalid_model", detail)])
        });
        match derived {
            Some((signature, pipeline, origins)) if faults.is_empty() => Ok(Inspection { model, signature, pipeline, origins }),
            _ => Err(Error::Refused(faults)),
        }
    }

    /// The folder that holds a pinned model's files; fetched again from its location, and refused unless the digest is the
    /// pinned one, when it is not in the cache.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn ensure(&self, model: &PinnedModel) -> Result<PathBuf, Error> {
        let folder = self.cache.join(&model.digest);
        if folder.join(&model.file).is_file() {
            return Ok(folder);
        }
        let entry = self.fetch(&model.uri).await?;
        if entry.digest != model.digest {
            let detail =
                format!("{} is no longer the model that was pinned: its digest is {}, not {}", model.uri, entry.digest, model.digest);
            return Err(folder::refused("model_changed", detail, "submit the job again to use the new model"));
        }
        Ok(folder)
    }

    /// The model's files in the cache, fetched unless what lies at the location is what was fetched last.
    async fn fetch(&self, uri: &Uri) -> Result<Entry, Error> {
        let fetched = self.try_fetch(uri).await;
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match &fetched {
            Ok(_) => *failed = None,
            Err(error @ Error::Cache { .. }) => *failed = Some((Instant::now(), error.whole())),
            // What is wrong elsewhere says nothing of the cache.
            Err(_) => {}
        }
        drop(failed);
        fetched
    }

    async fn try_fetch(&self, uri: &Uri) -> Result<Entry, Error> {
        let bucket = self.stores.open(uri)?;
        let found = folder::find(&bucket, uri).await?;
        if let Some(entry) = cache::read_index(&self.cache, &uri.to_string())
            && self.is_current(&bucket, &found, &entry).await?
        {
            return Ok(entry);
        }
        let mut staging = Staging::new(&self.cache)?;
        for object in std::iter::once(&found.onnx).chain(&found.sidecars) {
            self.check_size(staging.bytes(), object)?;
            staging.fetch(&bucket, object, &found.name(&object.key)).await?;
        }
        self.fetch_external(&bucket, &found, &mut staging).await?;
        staging.keep(&self.cache, &uri.to_string(), &found.name(&found.onnx.key))
    }

    /// Whether the location still holds exactly the files that the entry was made of.
    async fn is_current(&self, bucket: &Bucket, found: &Found, entry: &Entry) -> Result<bool, Error> {
        let same = |object: &ObjectMeta| {
            object.etag.is_some() && entry.files.iter().any(|f| f.key == object.key && f.size == object.size && f.etag == object.etag)
        };
        let mut known = 0;
        for object in std::iter::once(&found.onnx).chain(&found.sidecars) {
            if !same(object) {
                return Ok(false);
            }
            known += 1;
        }
        let listed = |file: &CachedFile| std::iter::once(&found.onnx).chain(&found.sidecars).any(|o| o.key == file.key);
        for external in entry.files.iter().filter(|f| !listed(f)) {
            match bucket.head(&external.key).await {
                Ok(object) if same(&object) => known += 1,
                Ok(_) | Err(objects::Error::NotFound { .. }) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(known == entry.files.len())
    }

    /// Fetches the files beside the ONNX file that hold its weights. A file that is not ONNX has none; `resolve` says so.
    async fn fetch_external(&self, bucket: &Bucket, found: &Found, staging: &mut Staging) -> Result<(), Error> {
        let name = found.name(&found.onnx.key);
        let path = staging.folder.join(&name);
        let bytes = tokio::fs::read(&path).await.map_err(cache::failed(&path))?;
        let mut faults = Vec::new();
        let external = admit::admit(&bytes, self.limits.max_nesting, &mut faults).map(|(_, external)| external).unwrap_or_default();
        if !faults.is_empty() {
            return Err(Error::Refused(faults));
        }
        let beside = name.rfind('/').map_or("", |at| &name[..=at]);
        for data in external {
            let name = format!("{beside}{}", data.location);
            let key = format!("{}{name}", found.prefix);
            let object = match bucket.head(&key).await {
                Ok(object) => object,
                Err(objects::Error::NotFound { uri }) => {
                    return Err(folder::refused(
                        "external_data_missing",
                        format!("the model's weights lie in {uri}, which does not exist"),
                        "put the file there",
                    ));
                }
                Err(error) => return Err(error.into()),
            };
            if object.size < data.end {
                let detail = format!("{} has {} bytes, but the model's weights reach to byte {}", data.location, object.size, data.end);
                return Err(folder::refused("external_data_short", detail, "copy the file again, whole"));
            }
            self.check_size(staging.bytes(), &object)?;
            staging.fetch(bucket, &object, &name).await?;
        }
        Ok(())
    }

    fn check_size(&self, so_far: u64, object: &ObjectMeta) -> Result<(), Error> {
        if so_far.saturating_add(object.size) <= self.limits.max_bytes {
            return Ok(());
        }
        let detail = format!("with {} ({} bytes) the model has more than {} bytes", object.key, object.size, self.limits.max_bytes);
        Err(folder::refused("model_too_large", detail, "raise --max-model-bytes"))
    }
}
