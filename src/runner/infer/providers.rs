//! Execution providers, asked for strictly: a provider that cannot be had is an error, never a quiet fall back to the CPU.

use ort::ep::{self, ExecutionProviderDispatch};

use super::{Error, session};
use crate::domain::spec::PROVIDERS;

/// The provider's registration for a session of so many threads; `None` for the CPU, which needs none.
pub(super) fn dispatch(name: &str, threads: usize) -> Result<Option<ExecutionProviderDispatch>, Error> {
    match name {
        "cpu" => Ok(None),
        "cuda" => Ok(Some(ep::CUDA::default().build().error_on_failure())),
        "tensorrt" => Ok(Some(ep::TensorRT::default().build().error_on_failure())),
        // On the processor: it computes where the CPU provider does, with kernels of its own.
        "openvino" => {
            let provider = ep::OpenVINO::default().with_device_type("CPU").with_num_threads(threads);
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
    let Some(dispatch) = dispatch(name, 1)? else { return Ok(()) };
    let unavailable = |e: ort::Error| Error::Load { code: "provider_unavailable", detail: e.to_string() };
    session::builder()?.with_execution_providers([dispatch]).map(|_| ()).map_err(|e| unavailable(e.into()))
}
