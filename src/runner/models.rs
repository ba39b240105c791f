//! The models this runner has loaded.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    attempt::usual_batch_size,
    featurize::Assets,
    infer::{self, Device, LoadOptions, ModelFile, Room, memory_is_limited},
    occupancy::Occupancy,
    protocol::ChunkTask,
    sessions::{Recipe, Sessions},
    tune::{Choices, Tuner},
};
use crate::domain::Signature;

/// Models kept at once: two jobs that take turns do not load theirs anew for each chunk.
const KEPT: usize = 2;

/// Sessions of a model on a device: while one computes, the other's tensors travel.
const RUNS_PER_DEVICE: usize = 2;

/// A model with its sessions.
#[derive(Debug)]
pub(super) struct Loaded {
    digest: String,
    providers: Vec<String>,
    /// What the sessions give: another pipeline of the same model may use other outputs.
    signature: Signature,
    pub(super) sessions: Sessions,
    /// What featurizing needs beside the graph.
    pub(super) assets: Assets,
    /// The provider that took it.
    pub(super) provider: String,
    /// Counts the time of the device that its sessions share; `None` where each has one of its own.
    pub(super) occupancy: Option<Arc<Occupancy>>,
    /// Finds the size of its batches, and how the workers share its sessions.
    pub(super) tuner: Tuner,
    /// What one call has room for.
    pub(super) room: Arc<Room>,
}

impl Loaded {
    fn is(&self, task: &ChunkTask) -> bool {
        self.digest == task.model.digest
            && self.providers == task.providers
            && self.signature == task.pipeline.signature
            && self.assets.serve(&task.pipeline)
    }
}

/// Loads models once, and tells what is being loaded.
#[derive(Debug)]
pub(super) struct Models {
    workers: usize,
    device: Device,
    /// Version of the runtime library.
    runtime: String,
    /// Most recently used last.
    kept: Mutex<Vec<Arc<Loaded>>>,
    one_at_a_time: Mutex<()>,
    loading: Mutex<Option<(u64, Instant)>>,
    /// Of the accelerator, which all models share.
    pub(super) occupancy: Arc<Occupancy>,
}

impl Models {
    pub(super) fn new(workers: usize, device: Device, runtime: String) -> Self {
        Self {
            workers,
            device,
            runtime,
            kept: Mutex::default(),
            one_at_a_time: Mutex::default(),
            loading: Mutex::default(),
            occupancy: Arc::default(),
        }
    }

    /// The attempt that is loading a model, and since when.
    pub(super) fn loading(&self) -> Option<(u64, Instant)> {
        *lock(&self.loading)
    }

    /// The task's model, loaded now if it is not yet.
    pub(super) fn get(&self, task: &ChunkTask) -> Result<Arc<Loaded>, infer::Error> {
        if let Some(loaded) = self.kept(task) {
            return Ok(loaded);
        }
        let _turn = lock(&self.one_at_a_time);
        if let Some(loaded) = self.kept(task) {
            return Ok(loaded);
        }
        *lock(&self.loading) = Some((task.attempt, Instant::now()));
        let loaded = self.load(task);
        *lock(&self.loading) = None;
        let loaded = Arc::new(loaded?);
        let mut kept = lock(&self.kept);
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push(loaded.clone());
        Ok(loaded)
    }

    /// Whether a model was loaded.
    pub(super) fn has_any(&self) -> bool {
        !lock(&self.kept).is_empty()
    }

    fn kept(&self, task: &ChunkTask) -> Option<Arc<Loaded>> {
        let mut kept = lock(&self.kept);
        let at = kept.iter().position(|l| l.is(task))?;
        let loaded = kept.remove(at);
        kept.push(loaded.clone());
        Some(loaded)
    }

    /// On CPU as many sessions as workers, unless it was found that they should share one; on a device as many as it has work for.
    fn load(&self, task: &ChunkTask) -> Result<Loaded, infer::Error> {
        let folder = Path::new(&task.model_dir);
        let on_device = task.is_on_device();
        let assets =
            Assets::load(folder, &task.pipeline, on_device).map_err(|detail| infer::Error::Load { code: "model_load_failed", detail })?;
        let file = ModelFile::open(folder.join(&task.model.file), &task.providers);
        let count = if on_device { self.workers.min(RUNS_PER_DEVICE) } else { self.workers };
        let options = LoadOptions { device: self.device.shared_by(count), ..LoadOptions::of(&task.providers, folder) };
        let (provider, room) = (options.provider().to_owned(), Arc::new(Room::default()));
        let fixed = task.pipeline.signature.fixed_batch().map(|fixed| fixed.max(1) as usize);
        let choices = Choices {
            usual: fixed.unwrap_or_else(|| usual_batch_size(task)),
            // Texts go by their tokens.
            sizes: fixed.is_none() && task.pipeline.text.is_none(),
            // A session more would be tried, for which a limit may leave no room; and what a provider leaves to another is unknown here.
            threads: (self.workers > 1 && !on_device && options.providers.len() <= 1 && file.suits_threads() && !memory_is_limited())
                .then_some(self.workers),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let walked = if file.walks_trees() { ", trees walked" } else { "" };
        let machine = format!("{provider} of ONNX Runtime {}, {count} sessions, {cores} cores{walked}", self.runtime);
        let tuner = Tuner::new(choices, folder.with_extension("tuning.json"), machine);
        let layout = tuner.chosen().layout;
        let (model, signature) = (folder.join(&task.model.file), task.pipeline.signature.clone());
        let recipe = Recipe { file: model, signature, options, room: room.clone(), threads: self.workers };
        let sessions = Sessions::load(&file, count, layout, recipe)?;
        let (sessions_loaded, threads) = sessions.shape(layout);
        tracing::info!(
            model.digest = task.model.digest,
            provider,
            sessions = sessions_loaded,
            threads,
            "loaded model {} on {provider}",
            task.model.uri
        );
        Ok(Loaded {
            digest: task.model.digest.clone(),
            providers: task.providers.clone(),
            signature: task.pipeline.signature.clone(),
            sessions,
            assets,
            occupancy: on_device.then(|| self.occupancy.clone()),
            provider,
            tuner,
            room,
        })
    }
}

/// Locks; a panic elsewhere does not make the guarded value unusable here, as every change of it is one step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
