//! A job definition, validated: what `POST /v1/jobs` means once `api/` has read it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{cost::Budget, job::JobId, pipeline::PipelineSpec, table::TableSpec, uri::Uri, webhook::WebhookSpec};

/// Input formats. One word for one thing: the same names in requests, manifests and messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum InputFormat {
    /// By extension, then by content, object by object.
    #[default]
    Auto,
    /// Apache Parquet.
    Parquet,
    /// RFC 4180.
    Csv,
    /// One JSON object a line.
    Jsonl,
    /// Arrow IPC, stream or file (Feather version 2).
    Arrow,
    /// One encoded picture an object: column `image`.
    Image,
    /// One text an object: column `text`.
    Text,
    /// One text a line: column `text`.
    Lines,
    /// Archives as WebDataset writes them: files of one name up to its first dot are one record.
    Tar,
}

/// Compression of text input and archives. Parquet compresses inside itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum InputCompression {
    /// By extension, then by content, object by object.
    #[default]
    Auto,
    /// As it is.
    None,
    /// RFC 1952, several members allowed.
    Gzip,
    /// RFC 8878, several frames allowed.
    Zstd,
}

/// How CSV is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CsvOptions {
    /// One ASCII byte, written as a text of one character.
    #[serde(with = "character")]
    pub delimiter: u8,
    /// Whether the first record names the columns; otherwise they are `column_0`, `column_1` …
    pub header: bool,
}

/// An ASCII byte as the text that people write.
mod character {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(byte: &u8, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_char(char::from(*byte))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
        let character = char::deserialize(deserializer)?;
        u8::try_from(character).map_err(|_| D::Error::custom("not an ASCII character"))
    }
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self { delimiter: b',', header: true }
    }
}

/// What the input's location is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// A prefix of objects to read, or one such object.
    #[default]
    Objects,
    /// An object that names the objects to read, one a line; they may lie in any store.
    Manifest,
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputSpec {
    /// A prefix (ending in `/`) or one object; or a manifest.
    pub uri: Uri,
    /// Which of these.
    #[serde(default)]
    pub kind: InputKind,
    /// Format of every object, or `auto`.
    pub format: InputFormat,
    /// Compression of every object, or `auto`.
    pub compression: InputCompression,
    /// Globs on the key below the prefix; empty means all.
    pub include: Vec<String>,
    /// Globs on the key below the prefix; win over `include`.
    pub exclude: Vec<String>,
    /// How CSV is written.
    pub csv: CsvOptions,
}

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum OutputFormat {
    /// One JSON object a line.
    #[default]
    Jsonl,
    /// RFC 4180 with a header.
    Csv,
    /// Apache Parquet.
    Parquet,
}

/// Compression of parts. For Parquet it names the codec of the pages (`none` keeps the default, zstd).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum OutputCompression {
    /// As it is; Parquet pages are zstd all the same.
    #[default]
    None,
    /// `.gz`.
    Gzip,
    /// `.zst`.
    Zstd,
}

/// Which input columns stand beside the predictions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IncludeInput {
    /// Provenance and predictions alone.
    None,
    /// Every input column.
    All,
    /// These, in this order.
    Columns(Vec<String>),
}

/// What to do when the output prefix already holds a job's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum IfExists {
    /// Refuse the job.
    #[default]
    Fail,
    /// Keep it until this job's own is there, then remove it.
    Replace,
}

/// How outputs relate to inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// A part a chunk: large objects are cut, small ones gathered.
    #[default]
    Parts,
    /// An output an input object, named like it.
    Mirror,
}

/// Where and how to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputSpec {
    /// Always a prefix.
    pub uri: Uri,
    /// Format of the parts.
    pub format: OutputFormat,
    /// Compression of the parts.
    pub compression: OutputCompression,
    /// Which input columns to carry.
    pub include_input: IncludeInput,
    /// Put before the name of each prediction column.
    pub prediction_prefix: String,
    /// How outputs relate to inputs.
    #[serde(default)]
    pub layout: Layout,
    /// What an occupied prefix means.
    pub if_exists: IfExists,
    /// Where flagged records are written a second time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<ReviewSpec>,
    /// The table that rows are written to as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableSpec>,
}

/// A queue for people: the rows of flagged records, with a manifest and a marker of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReviewSpec {
    /// Always a prefix.
    pub uri: Uri,
    /// Names of flags: a record that meets one of them is written.
    pub when: Vec<String>,
}

/// Execution providers that can be asked for.
pub const PROVIDERS: [&str; 4] = ["cpu", "cuda", "tensorrt", "openvino"];

/// How to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionSpec {
    /// Records a call of the runtime; `None` lets the runner choose.
    pub batch_size: Option<u32>,
    /// About how many records a chunk holds; `None` cuts by bytes alone.
    pub chunk_records: Option<u64>,
    /// Among waiting chunks the higher goes first; −100 to 100.
    pub priority: i32,
    /// How many chunks of the job may run at once.
    pub max_parallel_chunks: Option<u32>,
    /// How often a chunk is tried before the job fails, at least 1.
    pub max_attempts: u32,
    /// Seconds from acceptance after which the job ends as `expired`.
    pub deadline_seconds: Option<u64>,
    /// Execution providers in order of preference (of [`PROVIDERS`]); empty takes the service's.
    pub providers: Vec<String>,
}

impl Default for ExecutionSpec {
    fn default() -> Self {
        Self {
            batch_size: None,
            chunk_records: None,
            priority: 0,
            max_parallel_chunks: None,
            max_attempts: 4,
            deadline_seconds: None,
            providers: Vec::new(),
        }
    }
}

/// How many records may fail before the job does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct ErrorPolicy {
    /// More failed records than this fail the job.
    pub max_failed_records: Option<u64>,
    /// A larger share of failed records than this (0 to 1) fails the job, judged when all records are done.
    pub max_failed_ratio: Option<f64>,
}

/// How to compare a job with an earlier one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct DriftSpec {
    /// The job to compare with; `None` takes the latest completed one of the same schedule, if there is a schedule.
    pub against: Option<JobId>,
    /// From this population stability index on, of the predictions or of any column, an event tells of it.
    pub threshold: Option<f64>,
}

/// An object that must be there before the job begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitSpec {
    /// Which object.
    pub uri: Uri,
    /// Seconds from acceptance, or from the retry, after which the job fails.
    pub timeout_seconds: u64,
}

impl WaitSpec {
    /// The timeout in the unit of [`Timestamp`](super::Timestamp).
    pub fn timeout_us(&self) -> i64 {
        i64::try_from(self.timeout_seconds).unwrap_or(i64::MAX / 2_000_000) * 1_000_000
    }

    /// How long until the next look after one that found nothing: a tenth of the time waited so far, from a second to a minute.
    pub fn pause_us(&self, waited_us: i64) -> i64 {
        (waited_us / 10).clamp(1_000_000, 60_000_000)
    }
}

/// A job definition in full; nothing is left to default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// For people.
    pub name: Option<String>,
    /// For people and filters.
    pub labels: BTreeMap<String, String>,
    /// A model folder (prefix) or one `.onnx` object.
    pub model: Uri,
    /// What to read.
    pub input: InputSpec,
    /// Where and how to write.
    pub output: OutputSpec,
    /// The job's own pipeline settings; win over the model folder's.
    pub pipeline: PipelineSpec,
    /// How to run.
    pub execution: ExecutionSpec,
    /// How many records may fail.
    pub error_policy: ErrorPolicy,
    /// Whether and how to compare it with an earlier job.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub drift: Option<DriftSpec>,
    /// What it may cost.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub budget: Option<Budget>,
    /// Whom to tell; jobs of older versions have none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub webhook: Option<WebhookSpec>,
    /// What must be there before it begins.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub wait_for: Option<WaitSpec>,
    /// The jobs that must have completed before it begins.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub depends_on: Vec<JobId>,
}
