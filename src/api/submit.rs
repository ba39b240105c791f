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
        spec::{IfExists, Layout, OutputSpec},
    },
    execute::earlier::{self, Found},
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
    let Some(resolved) = resolved.filter(|_| faults.is_empty()) else { return Err(ApiProblem::faults(faults)) };
    check_output(state, &spec.output).await?;
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

/// Refuses a prefix that already holds a job's output, unless that is to be replaced; one that holds what the job would write over
/// without its being a job's; and one that cannot be listed.
async fn check_output(state: &ApiState, spec: &OutputSpec) -> Result<(), ApiProblem> {
    let output = &spec.uri;
    let fault = |error: objects::Error| match error.retryable() {
        true => ApiProblem::unavailable(error.to_string()),
        false => ApiProblem::faults(vec![
            Fault::new("/output", error.code(), error.to_string())
                .hint("output is a prefix such as s3://bucket/scores/ that the service can write to"),
        ]),
    };
    let bucket = state.stores.open(output).map_err(fault)?;
    let replaces = spec.if_exists == IfExists::Replace;
    let mut earlier = None;
    if replaces {
        earlier = match earlier::read(&bucket, output).await.map_err(fault)? {
            Found::Foreign => return Err(foreign(output, MANIFEST)),
            Found::Manifest(manifest) => Some(earlier::named(&manifest, output)),
            // A job removes its marker before its manifest, so a marker alone is another program's.
            Found::Nothing => match bucket.head(output.join(SUCCESS).path()).await {
                Ok(_) => return Err(foreign(output, SUCCESS)),
                Err(objects::Error::NotFound { .. }) => None,
                Err(error) => return Err(fault(error)),
            },
        };
    }
    if spec.layout == Layout::Mirror {
        // Names like the input's may be anybody's: nothing may lie there that is not a job's.
        let mut objects = bucket.list(output.as_prefix().path(), None);
        while let Some(object) = objects.try_next().await.map_err(fault)? {
            let name = object.key.strip_prefix(output.as_prefix().path()).unwrap_or_default();
            let replaced = match &earlier {
                Some(named) => named.contains(name) || PartNames::is_part(name) || matches!(name, MANIFEST | SUCCESS),
                None => replaces && PartNames::is_part(name),
            };
            if !replaced {
                return Err(foreign(output, name));
            }
        }
    }
    if replaces {
        return Ok(());
    }
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

fn foreign(output: &Uri, name: &str) -> ApiProblem {
    let detail = format!("{output} holds {name:?}, which this job might write over; choose another prefix, or remove what is there");
    ApiProblem::conflict("output_not_empty", "The output prefix is in use", detail)
}

fn occupied(output: &Uri, name: &str) -> ApiProblem {
    let detail = format!(
        "{output} already holds a job's output ({name}); choose another prefix, set output.if_exists to \"replace\", or remove what is there"
    );
    ApiProblem::conflict("output_not_empty", "The output prefix is in use", detail)
}
