//! Execution providers, asked for strictly: a provider that cannot be had is an error, never a quiet fall back to the CPU.

use ort::ep::{self, ExecutionProviderDispatch};

use super::Error;

/// The provider's registration; `None` for the CPU, which needs none.
pub(super) fn dispatch(name: &str) -> Result<Option<ExecutionProviderDispatch>, Error> {
    match name {
        "cpu" => Ok(None),
        "cuda" => Ok(Some(ep::CUDA::default().build().error_on_failure())),
        "tensorrt" => Ok(Some(ep::TensorRT::default().build().error_on_failure())),
        other => {
            let detail = format!("there is no provider {other:?}; known are cpu, cuda and tensorrt");
            Err(Error::Load { code: "provider_unavailable", detail })
        }
    }
}
