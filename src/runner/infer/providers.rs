//! Execution providers, asked for strictly: a provider that cannot be had is an error, never a quiet fall back to the CPU.

use std::path::Path;

use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider as _, ArenaExtendStrategy, ExecutionProviderDispatch};

use super::{Error, LoadOptions, session};
use crate::domain::spec::PROVIDERS;

/// The provider's registration; `None` for the CPU, which needs none.
pub(super) fn dispatch(name: &str, options: &LoadOptions) -> Result<Option<ExecutionProviderDispatch>, Error> {
    let device = i32::try_from(options.device.id).unwrap_or(i32::MAX);
    match name {
        "cpu" => Ok(None),
        "cuda" => {
            // Batches of one size ask for the same memory again and again: an arena that doubles would take twice as much for nothing.
            let mut cuda = ep::CUDA::default().with_device_id(device).with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested);
            if let Some(bytes) = options.device.arena_limit() {
                cuda = cuda.with_memory_limit(usize::try_from(bytes).unwrap_or(usize::MAX));
            }
            Ok(Some(cuda.build().error_on_failure()))
        }
        // Compiling takes minutes: what was compiled, and what was timed for it, is kept for the next process.
        "tensorrt" => {
            let engines = options.engines.display().to_string();
            let provider = ep::TensorRT::default().with_device_id(device).with_engine_cache(true).with_engine_cache_path(&engines);
            Ok(Some(provider.with_timing_cache(true).with_timing_cache_path(engines).build().error_on_failure()))
        }
        // On the processor: it computes where the CPU provider does, with kernels of its own. Left to itself, it binds the threads of each
        // session to the first cores of the machine, so that sessions of one thread all share one core.
        "openvino" => {
            let provider = ep::OpenVINO::default().with_device_type("CPU").with_num_threads(options.intra_threads);
            let provider = provider.with_arbitrary_config("load_config", r#"{"CPU": {"ENABLE_CPU_PINNING": "NO"}}"#);
            Ok(Some(provider.build().error_on_failure()))
        }
        other => {
            let detail = format!("there is no provider {other:?}; known are {}", PROVIDERS.join(", "));
            Err(Error::Load { code: "provider_unavailable", detail })
        }
    }
}

/// Whether this machine can give a provider: registers it as a job would. A provider's library that is broken may take the process
/// with it, so this is asked in a process of its own.
///
/// # Errors
/// [`Error::Load`] with the runtime's own words.
pub fn probe(name: &str) -> Result<(), Error> {
    let Some(dispatch) = dispatch(name, &LoadOptions::of(&[], Path::new("model")))? else { return Ok(()) };
    let unavailable = |e: ort::Error| Error::Load { code: "provider_unavailable", detail: e.to_string() };
    session::builder()?.with_execution_providers([dispatch]).map(|_| ()).map_err(|e| unavailable(e.into()))
}
