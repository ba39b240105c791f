//! `POST /v1/jobs?dry_run=true`: what a job would do, without doing it.
//!
//! Faults of the definition are answered as for a job. What the job itself would meet (no input, an occupied output, a model that does
//! not run) stands in the answer's `problems`: there may be several, and the rest of the answer helps to see why.

use std::time::Duration;

use axum::Json;
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

use super::{
    ApiState,
    problem::{ApiProblem, JobProblem},
    submit,
    types::{ModelBody, dtype_and_shape},
    usage::ExpectedBody,
    waits::WaitingBody,
};
use crate::{
    domain::{Estimate, Fault, JobSpec, JobState, ObjectSlice, Problem, Spent, cost::Basis, spec::OutputSpec, table::TableSpec},
    model::Resolved,
    objects,
    plan::{self, Preview},
    runner::{infer::has_devices, protocol::Sample},
    tables,
};

/// Records run when nobody says how many.
pub(super) const RECORDS: u64 = 10;
/// Most records run.
pub(super) const MOST_RECORDS: u64 = 100;
/// Objects shown, and objects that the first records may come from.
const SHOWN_OBJECTS: usize = 100;
/// How long a look at the table may take: nobody waits for an answer as long as a chunk waits for a lock.
const TABLE_PATIENCE: Duration = Duration::from_secs(20);

/// What a job would do.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DryRun {
    /// Why the job would be refused or would fail; empty when nothing is known to stand in its way.
    problems: Vec<JobProblem>,
    /// The model as it would be pinned.
    model: ModelBody,
    /// As it would be resolved: no choice is left open.
    #[schema(value_type = Object)]
    pipeline: Value,
    /// Columns of the data, as the first record that could be decoded has them.
    columns: Vec<ColumnBody>,
    /// What fills each input of the model; `columns` is empty where the data does not fit it, and `errors` say why.
    inputs: Vec<InputBody>,
    /// The first predictions, as the output would have them.
    #[schema(value_type = Vec<Object>)]
    rows: Vec<Box<RawValue>>,
    /// Error rows of the records among the first that would get no prediction.
    #[schema(value_type = Vec<Object>)]
    errors: Vec<Value>,
    /// Whether rows were left out because together they are too large for an answer.
    rows_cut: bool,
    /// The job's table, if it has one and it can be said.
    table: Option<TableBody>,
    /// The first input objects, up to a hundred, in input order.
    objects: Vec<ObjectBody>,
    /// How much there is to do.
    estimate: EstimateBody,
    /// What `estimate.records` would take; absent where nothing tells how many records there are, or nothing ran.
    expected: Option<ExpectedBody>,
    /// Records a call of the runtime; absent when nothing ran.
    batch_size: Option<u32>,
    /// The execution provider that took the model; absent when nothing ran.
    provider: Option<String>,
    /// Version of ONNX Runtime; absent when nothing ran.
    runtime: Option<String>,
    /// What the job would wait for before it began; absent when it would begin at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<WaitingBody>,
}

/// A column of the data.
#[derive(Debug, Serialize, ToSchema)]
struct ColumnBody {
    /// As the data names it.
    name: String,
    /// Arrow's name of its type; `text` in CSV and `json` in JSON Lines, where the input that a cell is bound to decides.
    #[serde(rename = "type")]
    kind: String,
}

/// An input of the model, and what fills it.
#[derive(Debug, Serialize, ToSchema)]
struct InputBody {
    /// As the model names it.
    name: String,
    /// As the Open Inference Protocol names types; absent when it is no tensor.
    dtype: Option<&'static str>,
    /// As the model declares it; null stands for a size that is not fixed.
    shape: Option<Vec<Option<u64>>>,
    /// The columns that fill it, in the model's order.
    columns: Vec<String>,
}

/// An input object.
#[derive(Debug, Serialize, ToSchema)]
struct ObjectBody {
    /// Its key in the bucket, or its absolute path without the leading slash.
    key: String,
    /// Its size.
    bytes: u64,
}

/// How much there is to do.
#[derive(Debug, Serialize, ToSchema)]
struct EstimateBody {
    /// Whether the listing ended within its first page; otherwise the figures are those of the first page, and there is more.
    all: bool,
    /// Input objects.
    objects: u64,
    /// Their bytes.
    bytes: u64,
    /// Their records; absent when nothing tells, as for compressed texts.
    records: Option<u64>,
    /// Whether `records` was counted; otherwise it is estimated from a few objects.
    records_exact: bool,
    /// Chunks they would be cut into.
    chunks: u64,
    /// Whether the planner would make just as many; otherwise large objects are to be cut, at places that are not known yet.
    chunks_exact: bool,
}

/// Does everything that a job would do first, and writes nothing.
pub(super) async fn dry_run(state: &ApiState, definition: &Value, records: u64) -> Result<Json<DryRun>, ApiProblem> {
    let (spec, resolved) = submit::resolve(state, definition).await?;
    let mut problems: Vec<JobProblem> = output_problem(state, &spec.output).await?.into_iter().collect();
    let preview = match plan::preview(&state.stores, &spec, &state.planning).await {
        Ok(preview) => preview,
        Err(error) if error.retryable() => return Err(error.into()),
        Err(error) => unreadable(&error),
    };
    problems.extend(preview.problem.as_ref().map(ApiProblem::of_job));
    let first: Vec<ObjectSlice> = preview.objects.iter().take(SHOWN_OBJECTS).cloned().collect();
    let sample = if first.is_empty() { None } else { Some(state.sampler.sample(&spec, &resolved, first, records).await) };
    let sample = match sample {
        Some(Ok(sample)) => Some(sample),
        Some(Err(problem)) => {
            problems.push(ApiProblem::of_job(&problem));
            None
        }
        None => None,
    };
    let mut table = None;
    if let Some(spec) = &spec.output.table {
        let looked = tokio::time::timeout(TABLE_PATIENCE, look_at_table(state, spec, sample.as_ref())).await;
        match looked.unwrap_or_else(|_| Err(tables::Error::silent(&spec.connection))) {
            Ok(found) => table = found,
            Err(error) => problems.push(ApiProblem::of_job(&Problem::new(error.code(), "The table cannot be written", error.to_string()))),
        }
    }
    let inputs = resolved.pipeline.signature.inputs.iter().map(|input| {
        let bound = sample.iter().flat_map(|s| &s.inputs).find(|bound| bound.input == input.name);
        let (dtype, shape) = dtype_and_shape(input);
        InputBody { name: input.name.clone(), dtype, shape, columns: bound.map(|b| b.columns.clone()).unwrap_or_default() }
    });
    let inputs = inputs.collect();
    let expected = expected(state, &spec, &resolved, preview.estimate.records, sample.as_ref()).await?;
    let (columns, rows, errors) = match &sample {
        Some(sample) => shown(sample)?,
        None => Default::default(),
    };
    Ok(Json(DryRun {
        problems,
        model: ModelBody::new(&resolved.model),
        // Plain data with text for keys: there is no form of it that is not JSON.
        pipeline: serde_json::to_value(&resolved.pipeline).unwrap_or_default(),
        columns,
        inputs,
        rows,
        errors,
        table,
        rows_cut: sample.as_ref().is_some_and(|s| s.cut),
        objects: preview.objects.iter().take(SHOWN_OBJECTS).map(|o| ObjectBody { key: o.key.clone(), bytes: o.size }).collect(),
        estimate: EstimateBody::new(&preview),
        expected: expected.as_ref().map(Into::into),
        batch_size: sample.as_ref().map(|s| s.batch_size),
        provider: sample.as_ref().map(|s| s.provider.clone()),
        runtime: sample.map(|s| s.runtime),
        waiting_for: waiting_for(state, &spec).await?,
    }))
}

/// What is not there, or not over, at the moment.
async fn waiting_for(state: &ApiState, spec: &JobSpec) -> Result<Option<WaitingBody>, ApiProblem> {
    let mut parents = Vec::new();
    for parent in &spec.depends_on {
        let done = state.store.job(parent).await?.is_some_and(|job| job.state == JobState::Completed);
        parents.extend((!done).then(|| parent.clone()));
    }
    let uri = match &spec.wait_for {
        None => None,
        Some(wait) => match state.stores.open(&wait.uri)?.head(wait.uri.path()).await {
            Ok(_) => None,
            Err(_not_there) => Some(wait.uri.clone()),
        },
    };
    Ok(WaitingBody::would(parents, uri))
}

/// What so many records would take: by what was measured of the same model and pipeline, or else by the sample.
async fn expected(
    state: &ApiState,
    spec: &JobSpec,
    resolved: &Resolved,
    records: Option<u64>,
    sample: Option<&Sample>,
) -> Result<Option<Estimate>, ApiProblem> {
    let Some(records) = records else { return Ok(None) };
    let providers = if spec.execution.providers.is_empty() { &state.providers } else { &spec.execution.providers };
    let known = state.store.rate(&resolved.model.digest, &resolved.pipeline, providers).await?;
    let estimate = match known.and_then(|(provider, rate)| rate.of_records(&provider, records)) {
        Some(measured) => measured,
        None => {
            let Some(sample) = sample else { return Ok(None) };
            let sampled = sample.rows.len() + sample.errors.len();
            if sampled == 0 || sample.cut {
                return Ok(None);
            }
            // One worker ran the sample; a job has them all.
            let device_seconds = sample.seconds * records as f64 / sampled as f64;
            let devices = if has_devices(&sample.provider) { state.accelerators } else { state.sessions }.max(1);
            let (provider, basis) = (sample.provider.clone(), Basis::Sample);
            Estimate { basis, provider, seconds: device_seconds / devices as f64, device_seconds, cost: None, currency: None }
        }
    };
    // At today's prices, whatever they were.
    let spent = Spent::new(&estimate.provider, estimate.device_seconds, state.pricing.as_ref());
    Ok(Some(Estimate { cost: spent.currency.is_some().then_some(spent.cost), currency: spent.currency, ..estimate }))
}

type Shown = (Vec<ColumnBody>, Vec<Box<RawValue>>, Vec<Value>);

fn shown(sample: &Sample) -> Result<Shown, ApiProblem> {
    let columns = sample.columns.iter().map(|c| ColumnBody { name: c.name.clone(), kind: c.kind.clone() }).collect();
    let rows = sample.rows.iter().map(|line| RawValue::from_string(line.clone())).collect::<Result<_, _>>();
    let errors = sample.errors.iter().map(serde_json::to_value).collect::<Result<_, _>>();
    Ok((columns, rows.map_err(|e| ApiProblem::internal(&e))?, errors.map_err(|e| ApiProblem::internal(&e))?))
}

/// Connects, and holds the table against the columns of the first rows, if there are any.
async fn look_at_table(state: &ApiState, spec: &TableSpec, sample: Option<&Sample>) -> Result<Option<TableBody>, tables::Error> {
    let mut session = state.connections.open(&spec.connection).await?;
    let Some(sample) = sample.filter(|sample| !sample.table.is_empty()) else { return Ok(None) };
    let found = tables::look(&mut session, spec, &sample.table).await?;
    let columns = found.columns.into_iter().map(|column| ColumnBody { name: column.name, kind: column.sql_type }).collect();
    Ok(Some(TableBody { exists: found.exists, columns, statement: found.statement }))
}

/// Why a job would not get its output prefix; faults and stores that do not answer are answers of their own.
async fn output_problem(state: &ApiState, output: &OutputSpec) -> Result<Option<JobProblem>, ApiProblem> {
    if let Some((by, uri)) = state.store.output_claim(output).await? {
        return Ok(Some(ApiProblem::output_claimed(&by, &uri).into()));
    }
    match submit::check_outputs(state, output).await {
        Ok(()) => Ok(None),
        Err(problem) if problem.status == 409 => Ok(Some(problem.into())),
        Err(problem) => Err(problem),
    }
}

/// The preview of an input that cannot be listed.
fn unreadable(error: &objects::Error) -> Preview {
    let problem = Problem::new(error.code(), "The input cannot be listed", error.to_string());
    Preview { objects: Vec::new(), all: true, estimate: plan::Estimate::default(), problem: Some(problem) }
}

/// A job's table.
#[derive(Debug, Serialize, ToSchema)]
struct TableBody {
    /// Whether it is there; otherwise the job would make it.
    exists: bool,
    /// Its columns, or those that it would be made with, as PostgreSQL names their types.
    columns: Vec<ColumnBody>,
    /// What would make it.
    statement: Option<String>,
}

impl EstimateBody {
    fn new(preview: &Preview) -> Self {
        let estimate = preview.estimate;
        Self {
            all: preview.all,
            objects: estimate.objects,
            bytes: estimate.bytes,
            records: estimate.records,
            records_exact: estimate.records_exact,
            chunks: estimate.chunks,
            chunks_exact: estimate.chunks_exact,
        }
    }
}

/// How many records to run; `None` when this is no dry run.
pub(super) fn requested(dry_run: Option<bool>, records: Option<u64>) -> Result<Option<u64>, ApiProblem> {
    match (dry_run, records) {
        (Some(true), records) => Ok(Some(records.unwrap_or(RECORDS))),
        (_, Some(_)) => {
            let fault = Fault::new("?records", "unknown_parameter", "records says how many a dry run looks at, and this is none");
            Err(ApiProblem::faults(vec![fault.hint("add dry_run=true, or leave it out")]))
        }
        (_, None) => Ok(None),
    }
}
