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
        Fault, Job, JobId, PartNames, Uri, WebhookUrl,
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
            Some(resolved)
        }
        Err(error) => {
            faults.extend(of_model(error)?);
            None
        }
    };
    faults.extend(check_store(state, "/input", &spec.input.uri));
    faults.extend(check_store(state, "/output", &spec.output.uri));
    faults.extend(spec.webhook.as_ref().and_then(|webhook| check_receiver(state, &webhook.url)));
    let Some(resolved) = resolved.filter(|_| faults.is_empty()) else { return Err(ApiProblem::faults(faults)) };
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

/// What can be said of a location without a request to its store: a folder outside the roots, settings that make no client.
fn check_store(state: &ApiState, pointer: &str, uri: &Uri) -> Option<Fault> {
    let error = state.stores.open(uri).err()?;
    Some(Fault::new(pointer, error.code(), error.to_string()))
}

/// A courtesy: a literal address that no attempt would be allowed to call. What names resolve to is looked at with each attempt.
fn check_receiver(state: &ApiState, url: &WebhookUrl) -> Option<Fault> {
    let refused = state.guard.check_literal(url).err()?;
    let hint = "name a receiver on a public address; whoever runs the service can allow its network with webhooks.allow_networks";
    Some(Fault::new("/webhook/url", "forbidden_address", refused.to_string()).hint(hint))
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
