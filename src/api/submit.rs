//! Acceptance: validate → resolve the model → look at the output → make it durable.

use futures::TryStreamExt;
use serde_json::Value;

use super::{
    ApiState, definition,
    problem::{ApiProblem, of_model},
};
use crate::{
    db::{Created, NewJob},
    domain::{
        Fault, Job, JobId, PartNames, Uri,
        names::{MANIFEST, SUCCESS},
    },
    objects,
};

/// Accepts a job.
pub(super) async fn submit(state: &ApiState, definition: &Value) -> Result<Job, ApiProblem> {
    let spec = definition::read(definition, &state.allowed_providers).map_err(ApiProblem::faults)?;
    let resolved = match state.models.resolve(&spec.model, &spec.pipeline).await {
        Ok(resolved) => resolved,
        Err(error) => return Err(ApiProblem::faults(of_model(error)?)),
    };
    let faults = definition::collisions(&spec, &resolved.pipeline);
    if !faults.is_empty() {
        return Err(ApiProblem::faults(faults));
    }
    check_input_store(state, &spec.input.uri)?;
    check_output(state, &spec.output.uri).await?;
    let new = NewJob { id: JobId::generate(), spec, model: resolved.model, pipeline: resolved.pipeline };
    match state.store.create_job(new).await? {
        Created::Job(job) => {
            tracing::info!(job.id = %job.id, model = %job.model.uri, input = %job.spec.input.uri, "accepted {}", job.id);
            state.wake.notify_waiters();
            Ok(*job)
        }
        Created::OutputClaimed { by, uri } => Err(ApiProblem::output_claimed(&by, &uri)),
    }
}

/// What can be said of the input without listing it: a folder outside the roots, settings that make no client.
fn check_input_store(state: &ApiState, input: &Uri) -> Result<(), ApiProblem> {
    let fault = |error: objects::Error| ApiProblem::faults(vec![Fault::new("/input", error.code(), error.to_string())]);
    state.stores.open(input).map(drop).map_err(fault)
}

/// Refuses a prefix that already holds a job's output, and one that cannot be listed.
async fn check_output(state: &ApiState, output: &Uri) -> Result<(), ApiProblem> {
    let fault = |error: objects::Error| match error.retryable() {
        true => ApiProblem::unavailable(error.to_string()),
        false => ApiProblem::faults(vec![
            Fault::new("/output", error.code(), error.to_string())
                .hint("output is a prefix such as s3://bucket/scores/ that the service can write to"),
        ]),
    };
    let bucket = state.stores.open(output).map_err(fault)?;
    for marker in [SUCCESS, MANIFEST] {
        match bucket.head(output.join(marker).path()).await {
            Ok(_) => return Err(occupied(output, marker)),
            Err(objects::Error::NotFound { .. }) => {}
            Err(error) => return Err(fault(error)),
        }
    }
    // Parts without a manifest: of a job that ended hard, or of another service. The names sort before most, so a short look is enough.
    for prefix in [output.as_prefix(), output.join("errors/")] {
        let mut objects = bucket.list(prefix.path(), None);
        for _ in 0..1000 {
            let Some(object) = objects.try_next().await.map_err(fault)? else { break };
            let name = object.key.strip_prefix(prefix.path()).unwrap_or_default();
            if PartNames::is_part(name) {
                return Err(occupied(output, name));
            }
        }
    }
    Ok(())
}

fn occupied(output: &Uri, name: &str) -> ApiProblem {
    let detail = format!("{output} already holds a job's output ({name}); choose another prefix, or remove what is there");
    ApiProblem::conflict("output_not_empty", "The output prefix is in use", detail)
}
