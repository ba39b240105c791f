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
    let mut faults = Vec::new();
    let resolved = match state.models.resolve(&spec.model, &spec.pipeline).await {
        Ok(resolved) => {
            faults.extend(definition::collisions(&spec, &resolved.pipeline));
            faults.extend(definition::unknown_flags(&spec, &resolved.pipeline));
            Some(resolved)
        }
        Err(error) => {
            faults.extend(of_model(error)?);
            None
        }
    };
    faults.extend(check_store(state, "/input", &spec.input.uri));
    faults.extend(check_store(state, "/output", &spec.output.uri));
    let review = spec.output.review.as_ref().map(|review| &review.uri);
    faults.extend(review.and_then(|uri| check_store(state, "/output/review", uri)));
    let Some(resolved) = resolved.filter(|_| faults.is_empty()) else { return Err(ApiProblem::faults(faults)) };
    check_output(state, "/output", &spec.output.uri).await?;
    if let Some(review) = &spec.output.review {
        check_output(state, "/output/review", &review.uri).await?;
    }
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

/// What can be said of a location without a request to its store: a folder outside the roots, settings that make no client.
fn check_store(state: &ApiState, pointer: &str, uri: &Uri) -> Option<Fault> {
    let error = state.stores.open(uri).err()?;
    Some(Fault::new(pointer, error.code(), error.to_string()))
}

/// Refuses a prefix that already holds a job's output, and one that cannot be listed.
async fn check_output(state: &ApiState, pointer: &str, output: &Uri) -> Result<(), ApiProblem> {
    let fault = |error: objects::Error| match error.retryable() {
        true => ApiProblem::unavailable(error.to_string()),
        false => ApiProblem::faults(vec![
            Fault::new(pointer, error.code(), error.to_string())
                .hint("this is a prefix such as s3://bucket/scores/ that the service can write to"),
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
    // Parts without a manifest are those of a job that ended hard, or of another service. In key order they stand side by side.
    for folder in [output.as_prefix(), output.join("errors/")] {
        let parts = folder.join("part-");
        let mut objects = bucket.list(folder.path(), Some(parts.path()));
        while let Some(object) = objects.try_next().await.map_err(fault)? {
            if !object.key.starts_with(parts.path()) {
                break;
            }
            let name = object.key.strip_prefix(output.as_prefix().path()).unwrap_or_default();
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
