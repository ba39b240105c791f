//! Model folder → pinned, admitted model with its signature and pipeline.
//!
//! In: a location and the job's pipeline overrides. Out: [`Resolved`], or every fault at once. Fetches into a cache whose
//! folders are named by digest; reads the ONNX file as data (protobuf), never through the runtime.

use std::path::PathBuf;

use crate::{
    domain::{Fault, Pipeline, PipelineSpec, Uri, job::PinnedModel},
    objects::{self, Stores},
};

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

/// Resolves models and keeps their files.
#[derive(Debug)]
pub struct Models {}

impl Models {
    /// A cache in this folder, made if missing.
    pub fn new(_cache: PathBuf, _stores: Stores, _limits: Limits) -> Self {
        todo!()
    }

    /// Finds the model at `uri` (a folder, or one `.onnx` object), fetches what is not cached, admits it, reads its signature
    /// and derives the pipeline with `overrides` on top.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn resolve(&self, _uri: &Uri, _overrides: &PipelineSpec) -> Result<Resolved, Error> {
        todo!()
    }

    /// The folder that holds a pinned model's files; fetched again from its location, and refused unless the digest is the
    /// pinned one, when it is not in the cache.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn ensure(&self, _model: &PinnedModel) -> Result<PathBuf, Error> {
        todo!()
    }
}
