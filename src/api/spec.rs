//! A job definition as callers write it: what the OpenAPI document shows, and what a job gives back of its own.
//!
//! In: a [`JobSpec`]. Out: the JSON that `definition` reads to that same spec. A job's `input`, `output`, `execution` and `error_policy`
//! can therefore be posted again as they stand; its `webhook` once its secret is filled in again, which is never given back.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::definition::{COMPRESSIONS, FORMATS, IF_EXISTS, LAYOUTS, OUTPUT_COMPRESSIONS, OUTPUT_FORMATS, TABLE_MODES};
use super::waits::WaitDefinition;
use crate::domain::{
    Budget, EventKind, WebhookSecret, WebhookSpec,
    spec::{CsvOptions, DriftSpec, ErrorPolicy, ExecutionSpec, IncludeInput, InputKind, InputSpec, OutputSpec},
    time,
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
    /// A model folder or one `.onnx` object, or a registered model.
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
    /// Whether and how to compare it with an earlier job.
    drift: Option<DriftDefinition>,
    /// What it may cost.
    budget: Option<BudgetDefinition>,
    /// Whom to tell.
    webhook: Option<WebhookDefinition>,
    /// An object that must be there before the job begins: it is `queued` until then.
    wait_for: Option<WaitDefinition>,
    /// Ids of jobs that must have completed before this one begins; when one of them does not, this one is cancelled, with the error
    /// `dependency_failed`. Locations, globs, name and labels may have `{{ parent.output }}`, of the one job here, or `{{ parents.<job id>.output }}`.
    #[schema(example = json!(["job_019ac2f7b0f47e0f8a1b2c3d4e5f6071"]))]
    depends_on: Option<Vec<String>>,
}

/// A location, a registered model as `name@alias` or `name@version`, or an object that says either.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "as above")]
pub(super) enum ModelChoice {
    /// Short for `{"uri": …}`, or for `{"name": …, "alias": …}`.
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
    Full(Box<OutputDefinition>),
}

/// Which model to run.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
pub(super) struct ModelDefinition {
    /// `s3://bucket/folder/` (or `gs://`, `az://`, `file:///`), or one `.onnx` object; this or `name`.
    uri: Option<String>,
    /// A registered model, together with `version` or `alias`.
    name: Option<String>,
    /// This version of it.
    #[schema(minimum = 1)]
    version: Option<u64>,
    /// The version that this alias points at when the job is accepted.
    alias: Option<String>,
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
    /// Of every object; `auto` goes by extension, then by content, object by object. `image` and `text`: an object is a record, with the
    /// column `image` or `text`. `lines` (`.txt`): a line is a record, with the column `text`. `tar`: a sample is a record, that is the
    /// consecutive files of one name up to its first dot; its columns are `__key__`, `image`, `text` (`.txt`), `cls`, the fields of
    /// `.json`, and every other extension.
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
    /// A second prefix for the rows of flagged records; not together with `mirror` or `replace`.
    review: Option<ReviewDefinition>,
    /// A table of a database that predictions are written to as well.
    table: Option<TableDefinition>,
}

/// A table in PostgreSQL, of a database that the service's configuration names. Each chunk's rows are in it exactly once, however often it ran;
/// what the bucket holds is the same as without it, unless `parts` is false.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"connection": "warehouse", "table": "risk.scores", "mode": "upsert", "key": ["id"], "create": true}))]
pub(super) struct TableDefinition {
    /// A section `[connections.NAME]` of the configuration.
    connection: String,
    /// The table, where it is not in the connection's own schema with that in front: `schema.table`.
    table: String,
    /// How rows meet those that are there. `replace_chunk`: they take the place of what an earlier attempt at their chunk wrote; the columns
    /// `_job` and `_chunk` say whose a row is. `upsert`: they take the place of rows with the same key, whoever wrote those.
    #[schema(default = "replace_chunk")]
    mode: Option<&'static str>,
    /// Columns of the rows that tell them apart, for `upsert`; the table has a unique index on them.
    #[schema(default = json!([]))]
    key: Option<Vec<String>>,
    /// Make the table if there is none, from the columns of the first rows.
    #[schema(default = false)]
    create: Option<bool>,
    /// Write the rows as parts too. Without, the bucket holds error rows, the manifest and its marker.
    #[schema(default = true)]
    parts: Option<bool>,
}

/// A queue for reviewers: the rows of flagged records are written here as well, with the format of the parts and a manifest and a
/// marker of their own.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"uri": "s3://lake/review/2026-11-23/", "when": ["needs_review"]}))]
pub(super) struct ReviewDefinition {
    /// A prefix that holds no other job's output and overlaps neither `input` nor `output`.
    uri: String,
    /// Names of flags of the pipeline: a record that meets one of them is written.
    #[schema(min_items = 1)]
    when: Vec<String>,
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

/// How records become tensors and tensors become predictions. A model folder's `nightshift.json` is one of these as well; a job's
/// fields win over the folder's.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(title = "nightshift.json", example = json!({
    "task": "image-classification", "image": {"size": [224, 224], "channels": "BGR", "layout": "NHWC", "scale": 1.0, "mean": [104.0, 117.0, 123.0]},
    "labels": ["safe", "unsafe"], "flags": {"needs_review": {"any_of": ["unsafe"], "min_score": 0.6}}
}))]
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
    /// How pictures become tensors, where the model's own files do not say it.
    image: Option<ImageDefinition>,
    /// How texts become tensors.
    text: Option<TextDefinition>,
    /// Classes and boxes below this score are left out; a classification then gives lists `labels` and `scores`.
    #[schema(minimum = 0.0, maximum = 1.0)]
    threshold: Option<f64>,
    /// Of two boxes of one class that overlap more than this, the one with the lower score is left out.
    #[schema(minimum = 0.0, maximum = 1.0)]
    iou_threshold: Option<f64>,
    /// The form of a detector's outputs, where names and shapes leave it open.
    head: Option<String>,
    /// What makes one vector of a vector a token, for `feature-extraction`.
    pooling: Option<String>,
    /// Whether embeddings are divided by their Euclidean length.
    normalize: Option<bool>,
    /// How many of an embedding's first elements are kept; all when absent.
    #[schema(minimum = 1, maximum = 1_000_000)]
    dimensions: Option<u32>,
    /// Named conditions over labels and scores. Predictions get the column `flags` with the names of those that are met, and the job's
    /// summary how many records met each.
    #[schema(example = json!({"needs_review": {"any_of": ["unsafe"], "min_score": 0.6}, "unsure": {"top_below": 0.5}}))]
    flags: Option<BTreeMap<String, FlagDefinition>>,
}

/// How pictures become tensors: decoded with their EXIF orientation, resized, cropped, scaled, normalised, and padded, in this order.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
pub(super) struct ImageDefinition {
    /// The column of pictures: a Binary one, or one of texts that hold or name them.
    #[schema(default = "image")]
    column: Option<String>,
    /// What a column of texts holds. `base64`: the pictures, also after `data:…,`. `key`: keys of objects relative to the input prefix, or full
    /// locations in the input's bucket. `auto`, value by value: Base64 where a text begins with `data:` or is Base64 of something that
    /// begins as a picture, a key otherwise.
    #[schema(default = "auto")]
    source: Option<String>,
    /// Height and width after the resize, 1 to 16384, or one number for both; with `shortest_edge` that of the edge.
    #[schema(example = json!([224, 224]))]
    size: Option<SidesDefinition>,
    /// How a picture is brought to `size`: without regard to its proportions, by its shorter edge, into it with the rest filled, or not at
    /// all.
    resize: Option<String>,
    /// Where a letterbox puts the picture, the rest being filled: in the middle, or in the upper left corner as YOLOX does.
    #[schema(default = "center")]
    position: Option<String>,
    /// The filter; Hugging Face's numbers 0 to 5 are `nearest`, `lanczos`, `bilinear`, `bicubic`, `box`, `hamming`.
    resample: Option<String>,
    /// Height and width of the centre that is kept after the resize, or one number for both.
    #[schema(example = 224)]
    crop: Option<SidesDefinition>,
    /// Height and width that the tensor is filled up to with zeros at the right and at the bottom, or one number for both. An input
    /// `pixel_mask` is told where the picture lies.
    #[schema(example = json!([800, 1333]))]
    pad: Option<SidesDefinition>,
    /// What fills the rest of a letterbox, and what a crop adds.
    #[schema(minimum = 0, maximum = 255)]
    pad_value: Option<u8>,
    /// Which channels the model sees, in which order; `L` is luma alone.
    channels: Option<String>,
    /// The order of the tensor's dimensions.
    layout: Option<String>,
    /// Multiplies each value from 0 to 255; 1/255 as a rule.
    #[schema(example = 0.00392156862745098)]
    scale: Option<f64>,
    /// Subtracted after scaling: a number a channel, in the order of `channels`.
    #[schema(example = json!([0.485, 0.456, 0.406]))]
    mean: Option<Vec<f64>>,
    /// Divides after that: a number a channel.
    #[schema(example = json!([0.229, 0.224, 0.225]))]
    std: Option<Vec<f64>>,
    /// What becomes of transparency: composited on white, or dropped.
    alpha: Option<String>,
}

/// One number for height and width, or both.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "as above")]
pub(super) enum SidesDefinition {
    /// For both.
    Both(u32),
    /// Height and width.
    Each(Vec<u32>),
}

/// How texts become tensors, by the model's own `tokenizer.json`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
pub(super) struct TextDefinition {
    /// The column of texts.
    #[schema(default = "text")]
    column: Option<String>,
    /// The column of second texts, for models that compare two.
    pair: Option<String>,
    /// Most tokens of a record, special ones included; what is longer is truncated.
    #[schema(minimum = 1, maximum = 1_000_000)]
    max_length: Option<u32>,
}

/// A condition: either `any_of`, with or without `min_score`, or `top_below`. A label that the model gives without a score has the score 1.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"any_of": ["unsafe"], "min_score": 0.6}))]
#[allow(dead_code, reason = "as above")]
pub(super) struct FlagDefinition {
    /// Met when one of these labels has a score of at least `min_score`, whether or not it is the best. 1 to 100 labels of the model.
    any_of: Option<Vec<String>>,
    /// The lowest score that counts.
    #[schema(default = 0.0, minimum = 0.0, maximum = 1.0)]
    min_score: Option<f64>,
    /// Met when the best label's score is below this; so it is where there is no label at all.
    #[schema(minimum = 0.0, maximum = 1.0)]
    top_below: Option<f64>,
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

/// Comparing a job with an earlier one: predictions, and input columns of numbers, truth values and short texts. Some of the records of each
/// batch are looked at.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DriftDefinition {
    /// The job to compare with, which had `drift` as well; when absent the latest completed one of the same schedule.
    #[schema(example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071")]
    against: Option<String>,
    /// From this population stability index on, of the predictions or of any column, `job.drift` is told. 0.1 is little as a rule, 0.25 is
    /// much.
    #[schema(example = 0.25)]
    threshold: Option<f64>,
}

/// What a job may cost, where the service has a price for what it runs on.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BudgetDefinition {
    /// More than this, in the currency of the service's prices, ends the job as `failed` with `budget_exceeded`, and what is done is kept.
    /// It is looked at as chunks end: the chunks that are in flight by then are stopped and cost what they took.
    #[schema(exclusive_minimum = 0.0, example = 5.0)]
    max_cost: f64,
}

impl From<&Budget> for BudgetDefinition {
    fn from(budget: &Budget) -> Self {
        Self { max_cost: budget.max_cost }
    }
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
    /// What it wants to hear: `job.started`, `job.completed`, `job.failed`, `job.cancelled`, `job.expired`, `job.drift`. How the job ends, when absent.
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
            review: spec.review.as_ref().map(|r| ReviewDefinition { uri: r.uri.to_string(), when: r.when.clone() }),
            table: spec.table.as_ref().map(|t| TableDefinition {
                connection: t.connection.clone(),
                table: t.table.to_string(),
                mode: word(&TABLE_MODES, t.mode),
                key: Some(t.key.clone()),
                create: Some(t.create),
                parts: Some(t.parts),
            }),
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
            deadline: spec.deadline_seconds.map(time::write_span),
            providers: Some(spec.providers.clone()),
        }
    }
}

impl From<&DriftSpec> for DriftDefinition {
    fn from(spec: &DriftSpec) -> Self {
        Self { against: spec.against.as_ref().map(ToString::to_string), threshold: spec.threshold }
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
