//! Answers as the document shows them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    problem::{ApiProblem, JobProblem},
    spec::{
        BudgetDefinition, DriftDefinition, ErrorPolicyDefinition, ExecutionDefinition, InputDefinition, OutputDefinition, WebhookDefinition,
    },
    summary::SummaryBody,
    usage::ExpectedBody,
    waits::{WaitDefinition, WaitingBody},
};
use crate::domain::{Chunk, Counts, Dim, Fire, Job, Progress, Slice, Timestamp, ValueInfo, chunk::Usage, job::PinnedModel};

/// A job.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobBody {
    /// `job_` and a UUIDv7.
    #[schema(example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071")]
    id: String,
    /// Where it is in its life.
    #[schema(example = "in_progress")]
    state: &'static str,
    /// For people; as given.
    name: Option<String>,
    /// For people and filters; as given.
    labels: BTreeMap<String, String>,
    /// The model as pinned at acceptance.
    model: ModelBody,
    /// As given, with its defaults.
    input: InputDefinition,
    /// As given, with its defaults.
    output: OutputDefinition,
    /// As resolved at acceptance: no choice is left open.
    #[schema(value_type = Object)]
    pipeline: Value,
    /// As given, with its defaults.
    execution: ExecutionDefinition,
    /// As given.
    error_policy: ErrorPolicyDefinition,
    /// As given.
    drift: Option<DriftDefinition>,
    budget: Option<BudgetDefinition>,
    /// As given, but for the secret, which is never shown: `whsec_***` stands in its place.
    webhook: Option<WebhookDefinition>,
    /// As given, with its defaults.
    wait_for: Option<WaitDefinition>,
    /// As given.
    depends_on: Vec<String>,
    /// Why it is still queued; null when nothing keeps it from beginning.
    waiting_for: Option<WaitingBody>,
    /// The schedule that made it.
    schedule: Option<JobScheduleBody>,
    /// What there is to say of a job that read nothing.
    note: Option<String>,
    /// How much there is and how much is done.
    counts: CountsBody,
    /// Share of the chunks that are done, 0 to 1.
    #[schema(example = 0.25)]
    progress: f64,
    /// Seconds to go, once planning is over and something is done.
    eta_seconds: Option<f64>,
    /// Work done so far.
    usage: UsageBody,
    /// What it was expected to take, once its input was listed to the end: by the bytes of it, and by what earlier jobs with the same model
    /// and pipeline took for theirs. Absent where there were none.
    estimate: Option<ExpectedBody>,
    /// What the predictions so far are like.
    summary: SummaryBody,
    /// Why the job failed, or was cancelled by the service.
    error: Option<JobProblem>,
    /// RFC 3339, UTC.
    #[schema(example = "2026-11-23T02:00:00.123456Z")]
    created_at: String,
    /// RFC 3339, UTC.
    started_at: Option<String>,
    /// RFC 3339, UTC; set while it is paused.
    paused_at: Option<String>,
    /// RFC 3339, UTC; set in final states only.
    finished_at: Option<String>,
    /// How often what came to nothing was run again on request.
    retries: u32,
}

/// The schedule that made a job, and the fire.
#[derive(Debug, Serialize, ToSchema)]
struct JobScheduleBody {
    /// The schedule.
    id: String,
    /// When the fire was due; RFC 3339, UTC.
    fire_time: String,
    /// Whether the job reads only what earlier ones of the schedule have not read.
    only_new: bool,
}

impl JobScheduleBody {
    fn new(fire: &Fire) -> Self {
        Self { id: fire.schedule.to_string(), fire_time: fire.time.to_string(), only_new: fire.only_new }
    }
}

/// A pinned model.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelBody {
    /// Where it was found.
    uri: String,
    /// SHA-256 over all files of the model.
    digest: String,
    /// The ONNX file, relative to the model's folder.
    file: String,
    /// Size of all files of the model.
    bytes: u64,
    /// The registered name that was given; absent where a location was.
    name: Option<String>,
    /// The version that was meant when the job was accepted.
    version: Option<u64>,
    /// The alias that was given, which may point elsewhere by now.
    alias: Option<String>,
}

/// How much there is and how much is done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CountsBody {
    /// Objects found so far.
    objects: u64,
    /// Their bytes.
    bytes: u64,
    /// Chunks planned so far.
    chunks: u64,
    /// Chunks done.
    chunks_done: u64,
    /// Records by outcome.
    records: RecordsBody,
}

/// Records by outcome.
#[derive(Debug, Serialize, ToSchema)]
struct RecordsBody {
    /// Known when every chunk is done.
    total: Option<u64>,
    /// Records with a prediction.
    succeeded: u64,
    /// Records with an error row.
    failed: u64,
}

/// Work done so far.
#[derive(Debug, Serialize, ToSchema)]
struct UsageBody {
    /// From the first claim to the end, or to now, without the time in which it was paused or had ended before a retry.
    wall_seconds: f64,
    /// Time of devices: on `cpu` and `openvino` a device is a core with a session, elsewhere the accelerator. A runner's devices are held while it has a
    /// chunk in hand, loading and waiting included, and chunks in hand together share that time. Attempts that came to nothing count.
    device_seconds: f64,
    /// Device-seconds of attempts that came to nothing.
    retry_device_seconds: f64,
    /// Share of the time of committed chunks in which devices were inferring, 0 to 1.
    #[schema(example = 0.87)]
    utilisation: Option<f64>,
    /// What the device-seconds cost; absent where they have no price.
    cost: Option<f64>,
    /// What attempts cost that came to nothing.
    retry_cost: Option<f64>,
    /// What a million records with an outcome cost so far.
    cost_per_million_records: Option<f64>,
    /// Of the costs.
    #[schema(example = "EUR")]
    currency: Option<String>,
    /// Records with an outcome, by wall time.
    records_per_second: Option<f64>,
    /// Bytes read from the store.
    bytes_read: u64,
    /// Bytes put into the store.
    bytes_written: u64,
    /// Seconds by stage, added up over threads: fetch and put wait for the store, decode, featurize, infer, interpret and encode work.
    stage_seconds: BTreeMap<String, f64>,
    /// What the work waited for most; absent until a chunk is done.
    bottleneck: Option<BottleneckBody>,
    /// Records a call of the runtime, at most.
    batch_size: u32,
    /// Records that one call had room for in memory; absent where as many had as were wanted.
    batch_room: Option<u32>,
    /// Where the batch size was found by trying: elements of input tensors that one session took a second, by the sizes tried.
    batch_sizes_tried: BTreeMap<String, f64>,
    /// Sessions of the model side by side and threads of each; empty until a chunk is done.
    #[schema(example = "4x1")]
    layout: String,
    /// Where layouts were tried: elements of input tensors that all their sessions together took a second.
    layouts_tried: BTreeMap<String, f64>,
    /// The execution provider that ran it; empty until a chunk is done.
    provider: String,
    /// Version of ONNX Runtime; empty until a chunk is done.
    runtime: String,
    /// Tokens of texts, special ones included, padding not; absent where there are none.
    tokens: Option<u64>,
    /// Share of padding among all tokens that went into the runtime, 0 to 1; absent where there are none.
    padding_share: Option<f64>,
}

/// What the work waited for.
#[derive(Debug, Serialize, ToSchema)]
struct BottleneckBody {
    /// fetch, decode, featurize, infer, interpret, encode or put.
    #[schema(example = "infer")]
    stage: String,
    /// Share of the time for which the others waited for it, 0 to 1.
    #[schema(example = 0.93)]
    share: f64,
    /// Which settings would change that.
    advice: &'static str,
}

impl JobBody {
    pub(super) fn new(job: &Job) -> Self {
        let counts = &job.counts;
        let done = counts.succeeded + counts.failed;
        let wall = job.wall_seconds(Timestamp::now());
        let progress = job.progress();
        let eta = Progress::of(job).eta_seconds(Timestamp::now());
        Self {
            id: job.id.to_string(),
            state: job.state.name(),
            name: job.spec.name.clone(),
            labels: job.spec.labels.clone(),
            model: ModelBody::new(&job.model),
            input: (&job.spec.input).into(),
            output: (&job.spec.output).into(),
            // Plain data with text for keys: there is no form of it that is not JSON.
            pipeline: serde_json::to_value(&job.pipeline).unwrap_or_default(),
            execution: (&job.spec.execution).into(),
            error_policy: (&job.spec.error_policy).into(),
            drift: job.spec.drift.as_ref().map(Into::into),
            budget: job.spec.budget.as_ref().map(Into::into),
            webhook: job.spec.webhook.as_ref().map(Into::into),
            wait_for: job.spec.wait_for.as_ref().map(Into::into),
            depends_on: job.spec.depends_on.iter().map(ToString::to_string).collect(),
            waiting_for: WaitingBody::of(job),
            schedule: job.fire.as_ref().map(JobScheduleBody::new),
            note: job.note(),
            counts: CountsBody::new(counts, job.plan.done),
            progress,
            eta_seconds: eta,
            usage: UsageBody::new(&job.usage, wall, done),
            estimate: job.estimate.as_ref().map(Into::into),
            summary: SummaryBody::new(&job.summary, job.drift.as_ref()),
            error: job.error.as_ref().map(ApiProblem::of_job),
            created_at: job.created_at.to_string(),
            started_at: job.started_at.map(|t| t.to_string()),
            paused_at: job.breaks.paused_at.map(|t| t.to_string()),
            finished_at: job.finished_at.map(|t| t.to_string()),
            retries: job.breaks.retries,
        }
    }
}

impl CountsBody {
    pub(super) fn new(counts: &Counts, planned: bool) -> Self {
        let over = planned && counts.chunks_done == counts.chunks;
        let total = over.then_some(counts.succeeded + counts.failed);
        Self {
            objects: counts.objects,
            bytes: counts.bytes,
            chunks: counts.chunks,
            chunks_done: counts.chunks_done,
            records: RecordsBody { total, succeeded: counts.succeeded, failed: counts.failed },
        }
    }
}

impl ModelBody {
    pub(super) fn new(model: &PinnedModel) -> Self {
        let registered = model.registered.as_ref();
        Self {
            uri: model.uri.to_string(),
            digest: model.digest.clone(),
            file: model.file.clone(),
            bytes: model.bytes,
            name: registered.map(|registered| registered.name.clone()),
            version: registered.map(|registered| registered.version),
            alias: registered.and_then(|registered| registered.alias.clone()),
        }
    }
}

/// A tensor's type and shape for people: sizes that are not fixed are null.
pub(super) fn dtype_and_shape(value: &ValueInfo) -> (Option<&'static str>, Option<Vec<Option<u64>>>) {
    let tensor = value.tensor();
    (tensor.map(|(dtype, _)| dtype.name()), tensor.map(|(_, shape)| shape.iter().map(Dim::fixed).collect()))
}

impl UsageBody {
    fn new(usage: &Usage, wall: f64, records: u64) -> Self {
        Self {
            wall_seconds: wall,
            device_seconds: usage.device_seconds,
            retry_device_seconds: usage.retry_device_seconds,
            utilisation: usage.utilisation(),
            cost: usage.currency.is_some().then_some(usage.cost),
            retry_cost: usage.currency.is_some().then_some(usage.retry_cost),
            cost_per_million_records: (usage.currency.is_some() && records > 0).then(|| usage.cost / records as f64 * 1e6),
            currency: usage.currency.clone(),
            records_per_second: (wall > 0.0 && records > 0).then(|| records as f64 / wall),
            bytes_read: usage.bytes_read,
            bytes_written: usage.bytes_written,
            stage_seconds: usage.stage_seconds.clone(),
            bottleneck: usage.bottleneck().map(|found| BottleneckBody {
                stage: found.stage.to_owned(),
                share: found.share,
                advice: found.advice,
            }),
            batch_size: usage.batch_size,
            batch_room: usage.batch_room,
            batch_sizes_tried: usage.batch_trials.clone(),
            layout: usage.layout.clone(),
            layouts_tried: usage.layout_trials.clone(),
            provider: usage.provider.clone(),
            runtime: usage.runtime.clone(),
            tokens: (usage.tokens > 0).then_some(usage.tokens),
            padding_share: (usage.tokens > 0).then(|| usage.padding_tokens as f64 / (usage.tokens + usage.padding_tokens) as f64),
        }
    }
}

/// A page of jobs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobPage {
    /// The jobs.
    pub(super) items: Vec<JobBody>,
    /// Give it as `cursor` to get the next page; absent on the last.
    pub(super) next_cursor: Option<String>,
}

/// A chunk of a job.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChunkBody {
    /// Its place in the job, from 0.
    part: u64,
    /// Where it is in its life.
    state: &'static str,
    /// How often it was claimed.
    claims: u32,
    /// How often it ended in an error that may pass.
    failures: u32,
    /// How often its runner died, or a batch of it was not done at its deadline.
    crashes: u32,
    /// The process that holds it, or held it last: host, process id, and a part that is its own.
    worker: Option<String>,
    /// Objects, or slices of them.
    inputs: Vec<SliceBody>,
    /// Records with a prediction; absent until it is done.
    succeeded: Option<u64>,
    /// Error rows; absent until it is done.
    failed: Option<u64>,
    /// Seconds that the runner held it.
    wall_seconds: Option<f64>,
    /// When it was last claimed; RFC 3339, UTC.
    started_at: Option<String>,
    /// When it was committed or given up; RFC 3339, UTC.
    finished_at: Option<String>,
    /// The last error.
    error: Option<JobProblem>,
}

/// An object, or a slice of one.
#[derive(Debug, Serialize, ToSchema)]
struct SliceBody {
    /// The object's key in the bucket, or its absolute path without the leading slash; its whole location where a manifest named it.
    key: String,
    /// Size of the whole object, bytes.
    size: u64,
    /// What `start` and `end` count.
    slice: &'static str,
    /// The first byte or row; absent for a whole object.
    start: Option<u64>,
    /// One past the last byte or row; absent for a whole object.
    end: Option<u64>,
}

impl ChunkBody {
    pub(super) fn new(chunk: &Chunk) -> Self {
        let inputs = chunk.inputs.iter().map(|input| {
            let (slice, range) = match input.slice {
                Slice::Whole => ("whole", None),
                Slice::Bytes { start, end } => ("bytes", Some((start, end))),
                Slice::Rows { start, end } => ("rows", Some((start, end))),
            };
            let key = input.bucket.as_ref().map_or(input.key.clone(), |bucket| bucket.with_path(&input.key).to_string());
            SliceBody { key, size: input.size, slice, start: range.map(|r| r.0), end: range.map(|r| r.1) }
        });
        let result = chunk.result.as_ref();
        Self {
            part: chunk.id.seq,
            state: chunk.state.name(),
            claims: chunk.claims,
            failures: chunk.failures,
            crashes: chunk.crashes,
            worker: chunk.worker.clone(),
            inputs: inputs.collect(),
            succeeded: result.map(|r| r.succeeded),
            failed: result.map(|r| r.failed),
            wall_seconds: result.map(|r| r.usage.wall_seconds),
            started_at: chunk.started_at.map(|t| t.to_string()),
            finished_at: chunk.finished_at.map(|t| t.to_string()),
            error: chunk.error.as_ref().map(ApiProblem::of_job),
        }
    }
}

/// A page of chunks, in input order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChunkPage {
    /// The chunks.
    pub(super) items: Vec<ChunkBody>,
    /// Give it as `cursor` to get the next page; absent on the last.
    pub(super) next_cursor: Option<String>,
}

/// The results so far.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Results {
    /// Committed parts, in input order.
    pub(super) items: Vec<PartBody>,
    /// Where the manifest can be read: of what is committed so far, or of everything once the job has ended.
    pub(super) manifest_url: String,
    /// Give it as `cursor` to get the next page; absent on the last.
    pub(super) next_cursor: Option<String>,
}

/// A committed part.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PartBody {
    /// Its number, which is its chunk's.
    pub(super) part: u64,
    /// Where it lies in the store.
    pub(super) uri: String,
    /// Where it can be read without credentials of the store: presigned on S3, through this API elsewhere.
    pub(super) url: String,
    /// When `url` stops working; absent where it does not.
    pub(super) expires_at: Option<String>,
    /// Rows in it.
    pub(super) records: u64,
    /// Its size.
    pub(super) bytes: u64,
    /// Of its bytes, lower-case hex.
    pub(super) sha256: String,
}

/// A page of error rows, in input order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorPage {
    /// `{"_source", "_position", "stage", "code", "detail"}`.
    #[schema(value_type = Vec<Value>, example = json!([{"_source": "tx/0.csv", "_position": 1042, "stage": "featurize", "code": "invalid_number", "detail": "column \"amount\": \"12,5\" is no number for an input of FP32"}]))]
    pub(super) items: Vec<Value>,
    /// Give it as `cursor` to get the next page; absent on the last.
    pub(super) next_cursor: Option<String>,
}
