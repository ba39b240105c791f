//! Acceptance: validate → resolve the model → look at the output → make it durable.

use futures::TryStreamExt;
use serde_json::Value;
use tracing::{Instrument, field::Empty};

use super::{
    ApiState, definition, fires,
    problem::{ApiProblem, of_model},
};
use crate::{
    db::{Created, IdempotencyKey, NewJob},
    domain::{
        Fault, Fire, Job, JobId, JobSpec, PartNames, TraceParent, Uri, WebhookUrl,
        job::PinnedModel,
        names::{MANIFEST, SUCCESS},
        spec::{IfExists, Layout, OutputSpec},
    },
    execute::earlier::{self, Found},
    model::Resolved,
    objects::{self, Bucket},
    telemetry::traces,
};

/// Another job of the same schedule is not over.
pub(super) const OVERLAP: &str = "overlap";

/// How a request for a job was answered.
#[derive(Debug)]
pub(super) enum Submitted {
    /// With a new job.
    New(Box<Job>),
    /// With the job that the same request made before.
    Replay(Box<Job>),
}

/// Accepts a job, once for each key, as part of the caller's trace if there is one.
pub(super) async fn submit(
    state: &ApiState,
    definition: &Value,
    key: Option<IdempotencyKey>,
    caller: Option<TraceParent>,
) -> Result<Submitted, ApiProblem> {
    let span = tracing::info_span!(target: traces::TARGET, "accept job", job.id = Empty, otel.kind = "server");
    traces::adopt(&span, caller.as_ref());
    // Without an exporter the caller's own span is the parent of whoever traces further on.
    let trace = traces::parent_of(&span).or(caller);
    accept_once(state, definition, key, trace).instrument(span).await
}

async fn accept_once(
    state: &ApiState,
    definition: &Value,
    key: Option<IdempotencyKey>,
    trace: Option<TraceParent>,
) -> Result<Submitted, ApiProblem> {
    // Looked at first: a repeated request must not cost a model's download, nor fail by its own output.
    if let Some(known) = known(state, key.as_ref()).await? {
        return Ok(known);
    }
    match accept(state, definition, key.clone(), trace).await {
        Ok(submitted) => Ok(submitted),
        // Its twin may have been accepted meanwhile, and what stood in the way may be that job's output.
        Err(problem) => known(state, key.as_ref()).await?.ok_or(problem),
    }
}

/// What the key stands for already.
async fn known(state: &ApiState, key: Option<&IdempotencyKey>) -> Result<Option<Submitted>, ApiProblem> {
    let Some(key) = key else { return Ok(None) };
    match state.store.replay(key).await? {
        Some(created) => answered(state, created, Some(key)).map(Some),
        None => Ok(None),
    }
}

fn answered(state: &ApiState, created: Created, key: Option<&IdempotencyKey>) -> Result<Submitted, ApiProblem> {
    match created {
        Created::Job(job) => {
            tracing::Span::current().record("job.id", job.id.as_str());
            tracing::info!(job.id = %job.id, model = %job.model.uri, input = %job.spec.input.uri, "accepted {}", job.id);
            state.wake.notify_waiters();
            Ok(Submitted::New(job))
        }
        Created::Replay(job) => {
            tracing::Span::current().record("job.id", job.id.as_str());
            tracing::info!(job.id = %job.id, "a request that was repeated is answered with {}", job.id);
            Ok(Submitted::Replay(job))
        }
        Created::Settled => Err(ApiProblem::conflict("fire_settled", "The fire was settled", "it came to something else meanwhile")),
        Created::Overlaps { by } => {
            Err(ApiProblem::conflict(OVERLAP, "An earlier job is not over", format!("{by} of the same schedule is not over")))
        }
        Created::KeyReused { by } => Err(ApiProblem::key_reused(key.map_or("", |k| &k.key), &by)),
        Created::OutputClaimed { by, uri } => Err(ApiProblem::output_claimed(&by, &uri)),
    }
}

async fn accept(
    state: &ApiState,
    definition: &Value,
    key: Option<IdempotencyKey>,
    trace: Option<TraceParent>,
) -> Result<Submitted, ApiProblem> {
    let (spec, resolved) = resolve(state, definition).await?;
    check_outputs(state, &spec.output).await?;
    let new =
        NewJob { id: JobId::generate(), spec, model: resolved.model, pipeline: resolved.pipeline, key: key.clone(), trace, fire: None };
    answered(state, state.store.create_job(new).await?, key.as_ref())
}

/// Makes the job of a fire, or finds the one that it made. The definition's placeholders have been filled in.
pub(super) async fn fire(state: &ApiState, definition: &Value, fire: Fire) -> Result<JobId, ApiProblem> {
    let (mut spec, resolved) = resolve_read(state, fires::read_filled(state, definition, Vec::new()).await?).await?;
    check_outputs(state, &spec.output).await?;
    // Each run is held against the one before.
    spec.drift.get_or_insert_default();
    let trace = traces::parent_of(&tracing::Span::current());
    let (model, pipeline) = (resolved.model, resolved.pipeline);
    let new = NewJob { id: JobId::generate(), spec, model, pipeline, key: None, trace, fire: Some(fire) };
    match answered(state, state.store.create_job(new).await?, None)? {
        Submitted::New(job) | Submitted::Replay(job) => Ok(job.id),
    }
}

/// Reads a definition and resolves its model, with every fault of both at once.
pub(super) async fn resolve(state: &ApiState, definition: &Value) -> Result<(JobSpec, Resolved), ApiProblem> {
    resolve_read(state, fires::read(state, definition).await?).await
}

async fn resolve_read(state: &ApiState, (spec, model): (JobSpec, Option<PinnedModel>)) -> Result<(JobSpec, Resolved), ApiProblem> {
    let mut faults = Vec::new();
    let turn = state.load.resolving().await;
    let resolved = match &model {
        Some(model) => state.models.resolve_pinned(model, &spec.pipeline).await,
        None => state.models.resolve(&spec.model, &spec.pipeline).await,
    };
    let resolved = match resolved {
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
    drop(turn);
    faults.extend(check_places(state, &spec));
    faults.extend(check_earlier(state, &spec).await?);
    match resolved.filter(|_| faults.is_empty()) {
        Some(resolved) => Ok((spec, resolved)),
        None => Err(ApiProblem::faults(faults)),
    }
}

/// What can be said of a job's locations without a request to any of them.
pub(super) fn check_places(state: &ApiState, spec: &JobSpec) -> Vec<Fault> {
    let mut faults = Vec::new();
    faults.extend(check_store(state, "/input", &spec.input.uri));
    faults.extend(check_store(state, "/output", &spec.output.uri));
    let review = spec.output.review.as_ref().map(|review| &review.uri);
    faults.extend(review.and_then(|uri| check_store(state, "/output/review", uri)));
    faults.extend(spec.wait_for.as_ref().and_then(|wait| check_store(state, "/wait_for/uri", &wait.uri)));
    faults.extend(spec.output.table.as_ref().and_then(|table| check_connection(state, &table.connection)));
    faults.extend(check_budget(state, spec));
    faults.extend(spec.webhook.as_ref().and_then(|webhook| check_receiver(state, &webhook.url)));
    faults
}

/// A budget that nothing could be held against.
fn check_budget(state: &ApiState, spec: &JobSpec) -> Option<Fault> {
    spec.budget?;
    let provider = spec.execution.providers.first().or(state.providers.first()).map_or("cpu", String::as_str);
    if state.pricing.as_ref().is_some_and(|pricing| pricing.cost(provider, 0.0).is_some()) {
        return None;
    }
    let detail = format!("the service has no price for {provider}, so that nothing can be held against a budget");
    let hint = format!("leave it out; whoever runs the service can say what an hour costs, with per_hour.{provider} in [pricing]");
    Some(Fault::new("/budget", "no_pricing", detail).hint(hint))
}

/// What can be said of a location without a request to its store: a folder outside the roots, settings that make no client.
fn check_store(state: &ApiState, pointer: &str, uri: &Uri) -> Option<Fault> {
    let error = state.stores.open(uri).err()?;
    let hint = match error {
        objects::Error::OutsideRoots { .. } => "name a folder that the service may use, or a bucket",
        _ => "look at the service's settings for this store",
    };
    Some(Fault::new(pointer, error.code(), error.to_string()).hint(hint))
}

/// The job to compare with has to be there now; it may be gone by the end.
async fn check_earlier(state: &ApiState, spec: &JobSpec) -> Result<Option<Fault>, ApiProblem> {
    let Some(against) = spec.drift.as_ref().and_then(|drift| drift.against.as_ref()) else { return Ok(None) };
    let hint = "give the id of a job that GET /v1/jobs lists, whose definition had drift as well";
    Ok(match state.store.job(against).await? {
        None => Some(Fault::new("/drift/against", "unknown_job", format!("there is no {against}")).hint(hint)),
        Some(earlier) if earlier.spec.drift.is_none() => {
            Some(Fault::new("/drift/against", "not_counted", format!("{against} has not counted what its columns are like")).hint(hint))
        }
        Some(_) => None,
    })
}

/// Connections are the service's: a job names one.
fn check_connection(state: &ApiState, name: &str) -> Option<Fault> {
    let known = state.connections.settings();
    if known.contains_key(name) {
        return None;
    }
    let hint = match known.keys().map(String::as_str).collect::<Vec<_>>() {
        names if names.is_empty() => "the service's configuration names none: whoever runs it adds a section [connections.NAME]".to_owned(),
        names => format!("known are {}", names.join(", ")),
    };
    // Whoever writes a URL there may have written a password.
    let detail = match name.contains("://") {
        true => "a connection is named, and this is a location".to_owned(),
        false => format!("there is no connection {name:?}"),
    };
    Some(Fault::new("/output/table/connection", "unknown_connection", detail).hint(hint))
}

/// A courtesy: a literal address that no attempt would be allowed to call. What names resolve to is looked at with each attempt.
fn check_receiver(state: &ApiState, url: &WebhookUrl) -> Option<Fault> {
    let refused = state.guard.check_literal(url).err()?;
    let hint = "name a receiver on a public address; whoever runs the service can allow its network with webhooks.allow_networks";
    Some(Fault::new("/webhook/url", "forbidden_address", refused.to_string()).hint(hint))
}

/// Refuses prefixes, the review queue's too, that already hold a job's output, unless that is to be replaced; that hold what the job would
/// write over without its being a job's; and that cannot be listed.
pub(super) async fn check_outputs(state: &ApiState, spec: &OutputSpec) -> Result<(), ApiProblem> {
    check_output(state, "/output", spec).await?;
    match &spec.review {
        Some(review) => check_output(state, "/output/review", &OutputSpec { uri: review.uri.clone(), ..spec.clone() }).await,
        None => Ok(()),
    }
}

async fn check_output(state: &ApiState, pointer: &str, spec: &OutputSpec) -> Result<(), ApiProblem> {
    let output = &spec.uri;
    let fault = |error: objects::Error| match error.retryable() {
        true => ApiProblem::unavailable(error.to_string()),
        false => ApiProblem::faults(vec![
            Fault::new(pointer, error.code(), error.to_string())
                .hint("this is a prefix such as s3://bucket/scores/ that the service can write to"),
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
    // Side by side: each is a round trip, and the caller waits for all of them.
    let (success, manifest) = (output.join(SUCCESS), output.join(MANIFEST));
    let (success, manifest, part, errors) = tokio::join!(
        bucket.head(success.path()),
        bucket.head(manifest.path()),
        part_below(&bucket, output, output.as_prefix()),
        part_below(&bucket, output, output.join("errors/")),
    );
    for (marker, headed) in [(SUCCESS, success), (MANIFEST, manifest)] {
        match headed {
            Ok(_) => return Err(occupied(output, marker)),
            Err(objects::Error::NotFound { .. }) => {}
            Err(error) => return Err(fault(error)),
        }
    }
    for found in [part, errors] {
        if let Some(name) = found.map_err(fault)? {
            return Err(occupied(output, &name));
        }
    }
    Ok(())
}

/// The first part in a folder of an output. Parts without a manifest are those of a job that ended hard, or of another service. In key order
/// they stand side by side.
async fn part_below(bucket: &Bucket, output: &Uri, folder: Uri) -> objects::Result<Option<String>> {
    let parts = folder.join("part-");
    let mut objects = bucket.list(folder.path(), Some(parts.path()));
    while let Some(object) = objects.try_next().await? {
        if !object.key.starts_with(parts.path()) {
            break;
        }
        let name = object.key.strip_prefix(output.as_prefix().path()).unwrap_or_default();
        if PartNames::is_part(name) {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

fn foreign(output: &Uri, name: &str) -> ApiProblem {
    let detail = format!("{output} holds {name:?}, which this job might write over; choose another prefix, or remove what is there");
    ApiProblem::conflict("output_not_empty", "The output prefix is in use", detail)
}

pub(super) fn occupied(output: &Uri, name: &str) -> ApiProblem {
    let detail = format!(
        "{output} already holds a job's output ({name}); choose another prefix, set output.if_exists to \"replace\", or remove what is there"
    );
    ApiProblem::conflict("output_not_empty", "The output prefix is in use", detail)
}
