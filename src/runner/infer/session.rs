//! One loaded model.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use ort::{
    environment::Environment,
    ep,
    logging::LogLevel,
    session::{RunOptions, SessionInputValue, builder::SessionBuilder},
    value::DynValue,
};

use super::{
    Device, Error, Interrupt, Room,
    device::{has_devices, is_out_of_memory, memory_is_limited},
    providers,
    trees::{Found, Trees},
    values,
};
use crate::{
    domain::Signature,
    runner::tensor::{Tensor, Value},
};

/// A run's option: arenas that are to give back, after it, what they do not use (onnxruntime_run_options_config_keys.h).
const SHRINK: &str = "memory.enable_memory_arena_shrinkage";

static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Execution providers in order of preference, of [`PROVIDERS`](crate::domain::spec::PROVIDERS). Never falls back beyond the list.
    pub providers: Vec<String>,
    /// Threads inside one operator.
    pub intra_threads: usize,
    /// Where providers that have devices compute.
    pub device: Device,
    /// Where a provider that compiles models keeps what it compiled.
    pub engines: PathBuf,
}

impl LoadOptions {
    /// For these providers on the first device, with one thread inside an operator.
    pub fn of(providers: &[String], model_dir: &Path) -> Self {
        Self { providers: providers.to_vec(), intra_threads: 1, device: Device::default(), engines: super::engines(model_dir) }
    }

    /// The provider that takes the model: the first, as none falls back on another for all of it.
    pub fn provider(&self) -> &str {
        self.providers.first().map_or("cpu", String::as_str)
    }
}

/// A model's file, read for its sessions.
#[derive(Debug)]
pub struct ModelFile {
    path: PathBuf,
    trees: Found,
    /// The runtime did not take the model with operators of our own.
    refused: AtomicBool,
}

impl ModelFile {
    /// For these providers: where they are the CPU's alone, ensembles of trees are walked here and not by the runtime.
    pub fn open(path: PathBuf, providers: &[String]) -> Self {
        let trees = if providers.iter().all(|provider| provider == "cpu") { Trees::find(&path) } else { Found::None };
        Self { path, trees, refused: AtomicBool::new(false) }
    }

    /// Whether the trees in it are walked here, and not by the runtime.
    pub fn walks_trees(&self) -> bool {
        matches!(self.trees, Found::Walked(_)) && !self.refused.load(Ordering::Relaxed)
    }

    /// Whether several threads can share the work of one session: trees are walked by one thread here, and the runtime adds up those of
    /// several threads in another order.
    pub fn suits_threads(&self) -> bool {
        matches!(self.trees, Found::None)
    }

    /// For the runtime alone.
    pub fn as_it_is(path: PathBuf) -> Self {
        Self { path, trees: Found::None, refused: AtomicBool::new(false) }
    }
}

/// A loaded model; runs one batch at a time.
#[derive(Debug)]
pub struct Session {
    pub(super) inner: ort::session::Session,
    pub(super) fixed_batch: Option<usize>,
    pub(super) room: Arc<Room>,
    /// Its device's arena, in the words of [`SHRINK`].
    arena: Option<String>,
    outputs: Vec<String>,
}

/// How one run ended other than well.
#[derive(Debug)]
pub(super) enum RunError {
    Interrupted,
    /// The runtime's message.
    Refused(String),
    /// An output that cannot be read, whatever the records.
    Output(String),
}

/// Loads the runtime library and gives its version; once a process, before anything else of this room.
///
/// # Errors
/// A sentence that says what was found and what to do.
pub fn init_runtime(library: &Path) -> Result<String, String> {
    let advice = "fetch a fitting one with scripts/fetch-onnxruntime";
    let failed = |e: &dyn std::fmt::Display| format!("{} cannot be used as the ONNX Runtime library ({e}); {advice}", library.display());
    let builder = ort::init_from(library).map_err(|e| failed(&e))?;
    let environment = builder.with_name("nightshift").with_telemetry(false).build().map_err(|e| failed(&e))?;
    // Below warnings the runtime talks about every graph optimisation of every session.
    environment.set_log_level(LogLevel::Warning);
    let _already_set = ENVIRONMENT.set(environment);
    Ok(version(library))
}

/// A session's builder as it comes, for those who load no model.
pub(super) fn builder() -> Result<SessionBuilder, Error> {
    let load = |detail: String| Error::Load { code: "model_load_failed", detail };
    let environment = ENVIRONMENT.get().ok_or_else(|| load("the ONNX Runtime library is not loaded".to_owned()))?;
    ort::session::Session::builder(environment).map_err(|e| load(e.to_string()))
}

/// On CPU, threads that spin while they wait take the cores from the decoders.
fn configured(environment: &Environment, options: &LoadOptions) -> ort::Result<SessionBuilder> {
    let builder = ort::session::Session::builder(environment)?;
    let builder = builder.with_intra_threads(options.intra_threads)?.with_inter_threads(1)?;
    Ok(builder.with_intra_op_spinning(false)?.with_inter_op_spinning(false)?)
}

/// A builder for sessions on these providers.
fn for_providers(wanted: &[&str], options: &LoadOptions) -> Result<SessionBuilder, Error> {
    let load = |e: &dyn std::fmt::Display| Error::Load { code: "model_load_failed", detail: e.to_string() };
    let environment = ENVIRONMENT.get().ok_or_else(|| load(&"the ONNX Runtime library is not loaded"))?;
    let mut builder = configured(environment, options).map_err(|e| load(&e))?;
    for name in wanted {
        if let Some(dispatch) = providers::dispatch(name, options)? {
            let unavailable =
                |e: String| Error::Load { code: "provider_unavailable", detail: format!("provider {name} cannot be had: {e}") };
            builder = builder.with_execution_providers([dispatch]).map_err(|e| unavailable(e.to_string()))?;
        }
    }
    if !wanted.contains(&"cpu") {
        // Nothing may run where the job did not allow it.
        builder = builder.with_disable_cpu_fallback().map_err(|e| load(&e))?;
    }
    if memory_is_limited() {
        let no_arena = [ep::CPU::default().with_arena_allocator(false).build()];
        builder = builder.with_execution_providers(no_arena).map_err(|e| load(&e))?;
    }
    Ok(builder)
}

/// The library's version: by its file name (`libonnxruntime.so.1.31.1`), else by the branch it was built from.
fn version(library: &Path) -> String {
    let real = std::fs::canonicalize(library).unwrap_or_default();
    let name = real.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if let Some((_, version)) = name.split_once(".so.")
        && version.starts_with(|c: char| c.is_ascii_digit())
    {
        return version.to_owned();
    }
    let info = ort::info();
    let branch = info.split_once("git-branch=").and_then(|(_, rest)| rest.split([',', ' ']).next()).unwrap_or(info);
    branch.trim_start_matches("rel-").to_owned()
}

impl Session {
    /// Loads a model file. Sessions of one model on one device share its `room`.
    ///
    /// # Errors
    /// [`Error::Load`].
    pub fn load(file: &ModelFile, signature: &Signature, options: &LoadOptions, room: &Arc<Room>) -> Result<Self, Error> {
        let load = |detail: String| Error::Load { code: "model_load_failed", detail };
        let wanted: Vec<&str> =
            if options.providers.is_empty() { vec![options.provider()] } else { options.providers.iter().map(String::as_str).collect() };
        let walked = match &file.trees {
            Found::Walked(trees) if file.walks_trees() => {
                let session = trees.session(for_providers(&wanted, options)?);
                session
                    .inspect_err(|error| {
                        file.refused.store(true, Ordering::Relaxed);
                        tracing::warn!(%error, "the runtime does not take the model with operators of our own: its own run");
                    })
                    .ok()
            }
            _ => None,
        };
        let inner = match walked {
            Some(session) => session,
            None => for_providers(&wanted, options)?.commit_from_file(&file.path).map_err(|e| load(e.to_string()))?,
        };
        Ok(Self {
            inner,
            fixed_batch: signature.fixed_batch().map(|n| n as usize),
            room: room.clone(),
            arena: has_devices(wanted[0]).then(|| format!("gpu:{}", options.device.id)),
            outputs: signature.outputs.iter().map(|o| o.name.clone()).collect(),
        })
    }

    /// Runs some rows of tensors as one batch.
    pub(super) fn run_batch(
        &mut self,
        inputs: &[(String, Tensor)],
        rows: &Range<usize>,
        interrupt: &Interrupt,
    ) -> Result<Vec<(String, Value)>, RunError> {
        match self.call(inputs, rows, interrupt, None) {
            // What the device's arena holds since other batches lies in this one's way. It gives that back at the end of the second call,
            // which leaves all the room there is to the smaller ones that follow, if it does not fit itself.
            Err(RunError::Refused(detail)) if is_out_of_memory(&detail) && self.arena.is_some() => {
                let arena = self.arena.clone();
                self.call(inputs, rows, interrupt, arena.as_deref())
            }
            ran => ran,
        }
    }

    /// Calls the runtime once; at the end, the arena that is named gives back what it does not use.
    fn call(
        &mut self,
        inputs: &[(String, Tensor)],
        rows: &Range<usize>,
        interrupt: &Interrupt,
        shrink: Option<&str>,
    ) -> Result<Vec<(String, Value)>, RunError> {
        let refused = |e: ort::Error| RunError::Refused(e.to_string());
        let mut values: Vec<(&str, SessionInputValue<'_>)> = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            values.push((name, values::view(tensor, rows).map_err(refused)?));
        }
        let mut options = RunOptions::new().map_err(refused)?;
        if let Some(arena) = shrink {
            options.set(SHRINK, arena).map_err(refused)?;
        }
        let options = Arc::new(options);
        interrupt.enter(options.clone());
        let ran = if interrupt.is_set() { None } else { Some(self.inner.run_with_options(values, &*options)) };
        interrupt.leave(&options);
        let outputs = match ran {
            None => return Err(RunError::Interrupted),
            Some(Err(_)) if interrupt.is_set() => return Err(RunError::Interrupted),
            Some(ran) => ran.map_err(refused)?,
        };
        let mut read = Vec::with_capacity(self.outputs.len());
        for name in &self.outputs {
            let value: &DynValue = outputs.get(name).ok_or_else(|| RunError::Output(format!("the model gave no output {name:?}")))?;
            let value = values::from_runtime(value).map_err(|e| RunError::Output(format!("output {name:?}: {e}")))?;
            read.push((name.clone(), value));
        }
        Ok(read)
    }
}
