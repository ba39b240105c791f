//! A job definition as callers write it: what the OpenAPI document shows, and what a job gives back of its own.
//!
//! In: a [`JobSpec`]. Out: the JSON that `definition` reads to that same spec. A job's `input`, `output`, `execution` and `error_policy`
//! can therefore be posted again as they stand; its `webhook` once its secret is filled in again, which is never given back.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    definition::{COMPRESSIONS, FORMATS, IF_EXISTS, LAYOUTS, OUTPUT_COMPRESSIONS, OUTPUT_FORMATS},
    read::write_seconds,
};
use crate::domain::{
    EventKind, WebhookSecret, WebhookSpec,
    spec::{CsvOptions, ErrorPolicy, ExecutionSpec, IncludeInput, InputKind, InputSpec, OutputSpec},
};

/// A job to be run: a model, an input and an output; everything else is optional.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "model": "s3://models/fraud/", "input": "s3://lake/tx/2026-11-23/", "output": "s3://lake/scores/2026-11-23/"
}))]
#[allow(dead_code, reason = "the document's form of what definition.rs reads; a test compares the two")]
pub(super) struct JobDefinition {
    /// For people.
    name: Option<String>,
    /// For people and filters: at most 32, keys and values of 1 to 256 bytes.
    labels: Option<BTreeMap<String, String>>,
    /// A model folder or one `.onnx` object.
    model: ModelChoice,
    /// What to read.
    input: InputChoice,
    /// Where and how to write.
    output: OutputChoice,
    /// Overrides of what the model folder says.
    pipeline: Option<PipelineDefinition>,
    /// How to run.
    execution: Option<ExecutionDefinition>,
    /// How many records may fail.
    error_policy: Option<ErrorPolicyDefinition>,
    /// Whom to tell.
    webhook: Option<WebhookDefinition>,
}

/// A location, or an object that names it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "as above")]
pub(super) enum ModelChoice {
    /// Short for `{"uri": …}`.
    Uri(String),
    /// In full.
    Full(ModelDefinition),
}

/// A location, or an object that names it and says how to read.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "as above")]
pub(super) enum InputChoice {
    /// Short for `{"uri": …}`.
    Uri(String),
    /// In full.
    Full(InputDefinition),
}

/// A location, or an object that names it and says how to write.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "as above")]
pub(super) enum OutputChoice {
    /// Short for `{"uri": …}`.
    Uri(String),
    /// In full.
    Full(OutputDefinition),
}

/// Which model to run.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
pub(super) struct ModelDefinition {
    /// `s3://bucket/folder/` (or `gs://`, `az://`, `file:///`), or one `.onnx` object.
    uri: String,
}

/// What to read.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InputDefinition {
    /// A prefix (ending in `/`) or one object; this or `manifest`.
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    /// An object of JSON Lines, each `{"uri": "s3://…"}` (other fields do not count), plain, gzip or Zstandard, that names the objects to
    /// read, each once and in any store; `_source` is the whole location then.
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<String>,
    /// Of every object; `auto` goes by extension, then by content, object by object.
    #[schema(default = "auto")]
    format: Option<&'static str>,
    /// Of every object; `auto` goes by extension, then by content, object by object.
    #[schema(default = "auto")]
    compression: Option<&'static str>,
    /// Globs on the key below the prefix; none means all. Names that begin with `_` or `.` count only when these name them.
    include: Option<Vec<String>>,
    /// Globs on the key below the prefix; win over `include`.
    exclude: Option<Vec<String>>,
    /// How CSV is written.
    csv: Option<CsvDefinition>,
}

/// How CSV is written.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CsvDefinition {
    /// One ASCII character.
    #[schema(default = ",")]
    delimiter: Option<String>,
    /// Whether the first record names the columns; otherwise they are `column_0`, `column_1` …
    #[schema(default = true)]
    header: Option<bool>,
}

/// Where and how to write.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OutputDefinition {
    /// A prefix that holds no other job's output, unless `if_exists` says otherwise.
    uri: String,
    /// Of the parts.
    #[schema(default = "jsonl")]
    format: Option<&'static str>,
    /// Of the parts. Parquet compresses inside itself.
    #[schema(default = "none")]
    compression: Option<&'static str>,
    /// Input columns beside the predictions; none when absent.
    include_input: Option<IncludeInputDefinition>,
    /// Put before the name of each prediction column.
    #[schema(default = "")]
    prediction_prefix: Option<String>,
    /// `parts`: large objects are cut, small ones gathered. `mirror`: an output an input object, named like it below the prefix.
    #[schema(default = "parts")]
    layout: Option<&'static str>,
    /// What to do when the prefix holds a job's output already: `fail` refuses the job, `replace` removes it once this job's own is there.
    #[schema(default = "fail")]
    if_exists: Option<&'static str>,
}

/// All input columns or none, or these in this order.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum IncludeInputDefinition {
    /// All or none.
    All(bool),
    /// These.
    Columns(Vec<String>),
}

/// How records become tensors and tensors become predictions; the same fields as in a model folder's `nightshift.json`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
pub(super) struct PipelineDefinition {
    /// What the model is for. When neither this nor the model folder says it: `raw`, every output as a column.
    task: Option<String>,
    /// Columns of a single `[N, F]` input, in the model's order.
    features: Option<Vec<String>>,
    /// Model input → column, where the names differ.
    columns: Option<BTreeMap<String, String>>,
    /// What a missing value becomes: an error row, or a NaN in float inputs.
    #[schema(default = "error")]
    missing: Option<String>,
    /// Class names by index.
    labels: Option<Vec<String>>,
    /// What turns a classifier's last tensor into probabilities; `auto` goes by how the graph ends.
    #[schema(default = "auto")]
    activation: Option<String>,
    /// How many classes a prediction lists; more than 1 gives lists `labels` and `scores`.
    #[schema(default = 1, minimum = 1, maximum = 1000)]
    top_k: Option<u32>,
    /// Also write every class's probability.
    #[schema(default = false)]
    probabilities: Option<bool>,
    /// Which outputs to use, by name; all when absent.
    outputs: Option<Vec<String>>,
}

/// How to run.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExecutionDefinition {
    /// Records a call of the runtime; `auto` when absent.
    batch_size: Option<BatchSizeDefinition>,
    /// About how many records a chunk holds; by bytes alone when absent.
    #[schema(minimum = 1)]
    chunk_records: Option<u64>,
    /// Among waiting chunks the higher goes first.
    #[schema(default = 0, minimum = -100, maximum = 100)]
    priority: Option<i32>,
    /// How many chunks of the job may run at once; as many as there are runners when absent.
    #[schema(minimum = 1, maximum = 100_000)]
    max_parallel_chunks: Option<u32>,
    /// How often a chunk is tried before the job fails.
    #[schema(default = 4, minimum = 1, maximum = 100)]
    max_attempts: Option<u32>,
    /// A span such as `90s`, `30m`, `6h` or `2d`, after which the job ends as `expired` and keeps what is done.
    #[schema(example = "6h")]
    deadline: Option<String>,
    /// Execution providers in order of preference; the service's own when absent.
    providers: Option<Vec<String>>,
}

/// The word `auto`, or a number of records from 1 to 65536.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum BatchSizeDefinition {
    /// `auto`: the runner chooses.
    Auto(&'static str),
    /// So many.
    Records(u32),
}

/// How many records may fail before the job does.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ErrorPolicyDefinition {
    /// More failed records than this fail the job at once.
    max_failed_records: Option<u64>,
    /// A larger share of failed records than this, 0 to 1, fails the job at its end.
    #[schema(minimum = 0.0, maximum = 1.0)]
    max_failed_ratio: Option<f64>,
}

/// Whom to tell, by Standard Webhooks.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WebhookDefinition {
    /// Where the receiver listens: `http` or `https`, at a public address or in a network that the service allows.
    #[schema(example = "https://hooks.example.com/nightshift")]
    url: String,
    /// `whsec_` and the base64 of 24 to 64 random bytes: signs what is sent. Answers never show it: they have `whsec_***` here.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: String,
    /// What it wants to hear: `job.started`, `job.completed`, `job.failed`, `job.cancelled`, `job.expired`. How the job ends, when absent.
    #[schema(example = json!(["job.completed", "job.failed"]))]
    events: Option<Vec<String>>,
}

impl From<&WebhookSpec> for WebhookDefinition {
    fn from(spec: &WebhookSpec) -> Self {
        let events = spec.events.iter().map(|event: &EventKind| event.name().to_owned()).collect();
        Self { url: spec.url.to_string(), secret: WebhookSecret::REDACTED.to_owned(), events: Some(events) }
    }
}

impl From<&InputSpec> for InputDefinition {
    fn from(spec: &InputSpec) -> Self {
        let location = |kind| (spec.kind == kind).then(|| spec.uri.to_string());
        Self {
            uri: location(InputKind::Objects),
            manifest: location(InputKind::Manifest),
            format: word(&FORMATS, spec.format),
            compression: word(&COMPRESSIONS, spec.compression),
            include: Some(spec.include.clone()),
            exclude: Some(spec.exclude.clone()),
            csv: Some((&spec.csv).into()),
        }
    }
}

impl From<&CsvOptions> for CsvDefinition {
    fn from(spec: &CsvOptions) -> Self {
        Self { delimiter: Some(char::from(spec.delimiter).to_string()), header: Some(spec.header) }
    }
}

impl From<&OutputSpec> for OutputDefinition {
    fn from(spec: &OutputSpec) -> Self {
        let include = match &spec.include_input {
            IncludeInput::None => IncludeInputDefinition::All(false),
            IncludeInput::All => IncludeInputDefinition::All(true),
            IncludeInput::Columns(columns) => IncludeInputDefinition::Columns(columns.clone()),
        };
        Self {
            uri: spec.uri.to_string(),
            format: word(&OUTPUT_FORMATS, spec.format),
            compression: word(&OUTPUT_COMPRESSIONS, spec.compression),
            include_input: Some(include),
            prediction_prefix: Some(spec.prediction_prefix.clone()),
            layout: word(&LAYOUTS, spec.layout),
            if_exists: word(&IF_EXISTS, spec.if_exists),
        }
    }
}

impl From<&ExecutionSpec> for ExecutionDefinition {
    fn from(spec: &ExecutionSpec) -> Self {
        Self {
            batch_size: Some(spec.batch_size.map_or(BatchSizeDefinition::Auto("auto"), BatchSizeDefinition::Records)),
            chunk_records: spec.chunk_records,
            priority: Some(spec.priority),
            max_parallel_chunks: spec.max_parallel_chunks,
            max_attempts: Some(spec.max_attempts),
            deadline: spec.deadline_seconds.map(write_seconds),
            providers: Some(spec.providers.clone()),
        }
    }
}

impl From<&ErrorPolicy> for ErrorPolicyDefinition {
    fn from(spec: &ErrorPolicy) -> Self {
        Self { max_failed_records: spec.max_failed_records, max_failed_ratio: spec.max_failed_ratio }
    }
}

/// The word that is read to this value.
fn word<T: PartialEq>(words: &[(&'static str, T)], value: T) -> Option<&'static str> {
    words.iter().find(|(_, meaning)| *meaning == value).map(|(word, _)| *word)
}
