//! Requests and answers as the document shows them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::problem::{ApiProblem, JobProblem};
use crate::domain::{Chunk, Job, JobState, Slice, Timestamp, chunk::Usage};

/// A model, input or output: a location, or an object with `uri` and settings.
#[derive(Debug, ToSchema)]
#[schema(example = json!({
    "model": "s3://models/fraud/", "input": "s3://lake/tx/2026-11-23/", "output": "s3://lake/scores/2026-11-23/"
}))]
#[allow(dead_code, reason = "documents what definition.rs reads; a test compares the two")]
pub(super) struct JobDefinition {
    /// For people.
    pub(super) name: Option<String>,
    /// For people and filters.
    pub(super) labels: Option<BTreeMap<String, String>>,
    /// A model folder or one `.onnx` object; a string is short for `{"uri": …}`.
    #[schema(value_type = Value)]
    pub(super) model: Value,
    /// What to read; a string is short for `{"uri": …}`.
    #[schema(value_type = InputDefinition)]
    pub(super) input: InputDefinition,
    /// Where and how to write; a string is short for `{"uri": …}`.
    #[schema(value_type = OutputDefinition)]
    pub(super) output: OutputDefinition,
    /// Overrides of what the model folder says.
    pub(super) pipeline: Option<PipelineDefinition>,
    /// How to run.
    pub(super) execution: Option<ExecutionDefinition>,
    /// How many records may fail.
    pub(super) error_policy: Option<ErrorPolicyDefinition>,
}

/// What to read.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "as above")]
pub(super) struct InputDefinition {
    /// A prefix (ending in `/`) or one object.
    pub(super) uri: String,
    /// `auto` (by extension, then by content), `parquet`, `csv` or `jsonl`.
    #[schema(default = "auto")]
    pub(super) format: Option<String>,
    /// `auto`, `none`, `gzip` or `zstd`.
    #[schema(default = "auto")]
    pub(super) compression: Option<String>,
    /// Globs on the key below the prefix. Names that begin with `_` or `.` count only when these name them.
    pub(super) include: Option<Vec<String>>,
    /// Globs on the key below the prefix; win over `include`.
    pub(super) exclude: Option<Vec<String>>,
    /// How CSV is written.
    pub(super) csv: Option<CsvDefinition>,
}

/// How CSV is written.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "as above")]
pub(super) struct CsvDefinition {
    /// One ASCII character.
    #[schema(default = ",")]
    pub(super) delimiter: Option<String>,
    /// Whether the first record names the columns; otherwise they are `column_0`, `column_1` …
    #[schema(default = true)]
    pub(super) header: Option<bool>,
}

/// Where and how to write.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "as above")]
pub(super) struct OutputDefinition {
    /// A prefix that holds no other job's output.
    pub(super) uri: String,
    /// `jsonl`, `csv` or `parquet`.
    #[schema(default = "jsonl")]
    pub(super) format: Option<String>,
    /// `none`, `gzip` or `zstd`; Parquet compresses inside itself.
    #[schema(default = "none")]
    pub(super) compression: Option<String>,
    /// Input columns beside the predictions: `true`, `false` or a list of names.
    #[schema(value_type = Value, default = false)]
    pub(super) include_input: Option<Value>,
    /// Put before the name of each prediction column.
    #[schema(default = "")]
    pub(super) prediction_prefix: Option<String>,
}

/// How records become tensors and tensors become predictions; the same fields as in a model folder's `nightshift.json`.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "as above")]
pub(super) struct PipelineDefinition {
    /// `tabular-classification`, `tabular-regression` or `raw`.
    #[schema(default = "raw")]
    pub(super) task: Option<String>,
    /// Columns of a single `[N, F]` input, in the model's order.
    pub(super) features: Option<Vec<String>>,
    /// Model input → column, where the names differ.
    pub(super) columns: Option<BTreeMap<String, String>>,
    /// What a missing value becomes: `error` (an error row) or `nan` (in float inputs).
    #[schema(default = "error")]
    pub(super) missing: Option<String>,
    /// Class names by index.
    pub(super) labels: Option<Vec<String>>,
    /// `auto`, `softmax`, `sigmoid` or `none`.
    #[schema(default = "auto")]
    pub(super) activation: Option<String>,
    /// How many classes a prediction lists; more than 1 gives lists `labels` and `scores`.
    #[schema(default = 1)]
    pub(super) top_k: Option<u32>,
    /// Also write every class's probability.
    #[schema(default = false)]
    pub(super) probabilities: Option<bool>,
    /// Which outputs to use, by name.
    pub(super) outputs: Option<Vec<String>>,
}

/// How to run.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "as above")]
pub(super) struct ExecutionDefinition {
    /// Records a call of the runtime: `"auto"` or a number.
    #[schema(value_type = Value, default = "auto")]
    pub(super) batch_size: Option<Value>,
    /// About how many records a chunk holds; by bytes alone when absent.
    pub(super) chunk_records: Option<u64>,
    /// Among waiting chunks the higher goes first; −100 to 100.
    #[schema(default = 0)]
    pub(super) priority: Option<i32>,
    /// How many chunks of the job may run at once.
    pub(super) max_parallel_chunks: Option<u32>,
    /// How often a chunk is tried before the job fails.
    #[schema(default = 4)]
    pub(super) max_attempts: Option<u32>,
    /// A span such as `6h`, after which the job ends as `expired` with what is done kept.
    pub(super) deadline: Option<String>,
    /// Execution providers in order of preference: `cpu`, `cuda`, `tensorrt`.
    pub(super) providers: Option<Vec<String>>,
}

/// How many records may fail before the job does.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "as above")]
pub(super) struct ErrorPolicyDefinition {
    /// More failed records than this fail the job at once.
    pub(super) max_failed_records: Option<u64>,
    /// A larger share of failed records than this fails the job at its end.
    pub(super) max_failed_ratio: Option<f64>,
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobBody {
    /// `job_` and a UUIDv7.
    #[schema(example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071")]
    id: String,
    /// `queued`, `validating`, `in_progress`, `finalizing`, `completed`, `failed`, `cancelling`, `cancelled` or `expired`.
    #[schema(example = "in_progress")]
    state: &'static str,
    name: Option<String>,
    labels: BTreeMap<String, String>,
    /// The model as pinned at acceptance.
    model: ModelBody,
    /// As accepted.
    #[schema(value_type = Value)]
    input: Value,
    /// As accepted.
    #[schema(value_type = Value)]
    output: Value,
    /// As resolved at acceptance: no choice is left open.
    #[schema(value_type = Value)]
    pipeline: Value,
    /// As accepted.
    #[schema(value_type = Value)]
    execution: Value,
    /// As accepted.
    #[schema(value_type = Value)]
    error_policy: Value,
    counts: CountsBody,
    /// Share of the chunks that are done, 0 to 1.
    #[schema(example = 0.25)]
    progress: f64,
    /// Seconds to go, once planning is over and something is done.
    eta_seconds: Option<f64>,
    usage: UsageBody,
    /// Why the job failed.
    error: Option<JobProblem>,
    /// RFC 3339, UTC.
    #[schema(example = "2026-11-23T02:00:00.123456Z")]
    created_at: String,
    /// RFC 3339, UTC.
    started_at: Option<String>,
    /// RFC 3339, UTC; set in final states only.
    finished_at: Option<String>,
}

/// A pinned model.
#[derive(Debug, Serialize, ToSchema)]
struct ModelBody {
    uri: String,
    /// SHA-256 over all files of the model.
    digest: String,
    /// The ONNX file, relative to the model's folder.
    file: String,
    bytes: u64,
}

/// How much there is and how much is done.
#[derive(Debug, Serialize, ToSchema)]
struct CountsBody {
    /// Objects found so far.
    objects: u64,
    /// Their bytes.
    bytes: u64,
    /// Chunks planned so far.
    chunks: u64,
    chunks_done: u64,
    records: RecordsBody,
}

/// Records by outcome.
#[derive(Debug, Serialize, ToSchema)]
struct RecordsBody {
    /// Known when every chunk is done.
    total: Option<u64>,
    succeeded: u64,
    failed: u64,
}

/// Work done so far.
#[derive(Debug, Serialize, ToSchema)]
struct UsageBody {
    /// From the first claim to the end, or to now.
    wall_seconds: f64,
    /// Time inside the runtime, summed over sessions.
    device_seconds: f64,
    /// Records with an outcome, by wall time.
    records_per_second: Option<f64>,
    bytes_read: u64,
    bytes_written: u64,
    /// Busy seconds by stage: decode, featurize, infer, interpret, encode, put.
    stage_seconds: BTreeMap<String, f64>,
    batch_size: u32,
    provider: String,
    /// Version of ONNX Runtime.
    runtime: String,
}

impl JobBody {
    pub(super) fn new(job: &Job) -> Self {
        let counts = &job.counts;
        let done = counts.succeeded + counts.failed;
        let over = job.plan.done && counts.chunks_done == counts.chunks;
        let end = job.finished_at.unwrap_or_else(Timestamp::now);
        let wall = job.started_at.map_or(0.0, |start| end.seconds_since(start).max(0.0));
        let progress = job.progress();
        let running = matches!(job.state, JobState::InProgress | JobState::Finalizing);
        let eta = (running && job.plan.done && counts.chunks_done > 0).then(|| wall / progress * (1.0 - progress));
        let json = |value: serde_json::Result<Value>| value.unwrap_or_default();
        Self {
            id: job.id.to_string(),
            state: job.state.name(),
            name: job.spec.name.clone(),
            labels: job.spec.labels.clone(),
            model: ModelBody {
                uri: job.model.uri.to_string(),
                digest: job.model.digest.clone(),
                file: job.model.file.clone(),
                bytes: job.model.bytes,
            },
            input: json(serde_json::to_value(&job.spec.input)),
            output: json(serde_json::to_value(&job.spec.output)),
            pipeline: json(serde_json::to_value(&job.pipeline)),
            execution: json(serde_json::to_value(&job.spec.execution)),
            error_policy: json(serde_json::to_value(&job.spec.error_policy)),
            counts: CountsBody {
                objects: counts.objects,
                bytes: counts.bytes,
                chunks: counts.chunks,
                chunks_done: counts.chunks_done,
                records: RecordsBody { total: over.then_some(done), succeeded: counts.succeeded, failed: counts.failed },
            },
            progress,
            eta_seconds: eta,
            usage: UsageBody::new(&job.usage, wall, done),
            error: job.error.as_ref().map(ApiProblem::of_job),
            created_at: job.created_at.to_string(),
            started_at: job.started_at.map(|t| t.to_string()),
            finished_at: job.finished_at.map(|t| t.to_string()),
        }
    }
}

impl UsageBody {
    fn new(usage: &Usage, wall: f64, records: u64) -> Self {
        Self {
            wall_seconds: wall,
            device_seconds: usage.device_seconds,
            records_per_second: (wall > 0.0 && records > 0).then(|| records as f64 / wall),
            bytes_read: usage.bytes_read,
            bytes_written: usage.bytes_written,
            stage_seconds: usage.stage_seconds.clone(),
            batch_size: usage.batch_size,
            provider: usage.provider.clone(),
            runtime: usage.runtime.clone(),
        }
    }
}

/// A page of jobs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JobPage {
    pub(super) items: Vec<JobBody>,
    /// Give it as `cursor` to get the next page; absent on the last.
    pub(super) next_cursor: Option<String>,
}

/// A chunk of a job.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ChunkBody {
    /// Its place in the job, from 0.
    part: u64,
    /// `pending`, `running`, `done`, `failed` or `cancelled`.
    state: &'static str,
    /// How often it was claimed.
    claims: u32,
    /// How often it ended in an error that may pass.
    failures: u32,
    /// How often its runner died.
    crashes: u32,
    /// Objects, or slices of them.
    inputs: Vec<SliceBody>,
    /// Records with a prediction; absent until it is done.
    succeeded: Option<u64>,
    /// Error rows; absent until it is done.
    failed: Option<u64>,
    /// Seconds that the runner held it.
    wall_seconds: Option<f64>,
    started_at: Option<String>,
    finished_at: Option<String>,
    /// The last error.
    error: Option<JobProblem>,
}

/// An object, or a slice of one.
#[derive(Debug, Serialize, ToSchema)]
struct SliceBody {
    key: String,
    size: u64,
    /// `whole`, `bytes` or `rows`.
    slice: &'static str,
    start: Option<u64>,
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
            SliceBody { key: input.key.clone(), size: input.size, slice, start: range.map(|r| r.0), end: range.map(|r| r.1) }
        });
        let result = chunk.result.as_ref();
        Self {
            part: chunk.id.seq,
            state: chunk.state.name(),
            claims: chunk.claims,
            failures: chunk.failures,
            crashes: chunk.crashes,
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
    pub(super) items: Vec<ChunkBody>,
    /// Give it as `cursor` to get the next page; absent on the last.
    pub(super) next_cursor: Option<String>,
}

/// The results so far.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Results {
    /// Committed parts, in input order.
    pub(super) items: Vec<PartBody>,
    /// Where the manifest can be read once the job is done.
    pub(super) manifest_url: Option<String>,
    /// Give it as `cursor` to get the next page; absent on the last.
    pub(super) next_cursor: Option<String>,
}

/// A committed part.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PartBody {
    pub(super) part: u64,
    /// Where it lies in the store.
    pub(super) uri: String,
    /// Where it can be read without credentials of the store: presigned on S3, through this API elsewhere.
    pub(super) url: String,
    /// When `url` stops working; absent where it does not.
    pub(super) expires_at: Option<String>,
    pub(super) records: u64,
    pub(super) bytes: u64,
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
