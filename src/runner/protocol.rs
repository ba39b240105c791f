//! What supervisor and runner say to each other: length-prefixed JSON frames over a Unix socket pair.
//!
//! A frame is a little-endian `u32` length and that many bytes of JSON. Bytes of records never travel here.

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{featurize::ImageLimits, infer::has_devices};
use crate::{
    domain::{
        ChunkResult, Isolation, JobSpec, ObjectSlice, PartNames, Pipeline, Place, Problem, RecordError, Signature, Span,
        job::PinnedModel,
        spec::{CsvOptions, IncludeInput, OutputCompression, OutputFormat, ReviewSpec},
        table::TableSpec,
        uri::Uri,
    },
    tables::{self, ChunkOf},
    telemetry::tally::Counts,
};

/// Frames above this size are refused: nothing that the protocol carries comes near it.
pub const MAX_FRAME_BYTES: u32 = 64 * 1024 * 1024;

/// Everything a runner needs to know of one attempt at one chunk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChunkTask {
    /// Chosen by the supervisor; names this attempt in every later frame.
    pub attempt: u64,
    /// For logs: `job_…/12`.
    pub chunk: String,
    /// The model's folder in the cache.
    pub model_dir: PathBuf,
    /// The pinned model.
    pub model: PinnedModel,
    /// How records become predictions.
    pub pipeline: Pipeline,
    /// What to read, in order; keys are relative to the store of `input`.
    pub inputs: Vec<ObjectSlice>,
    /// The job's input location: says which store.
    pub input: Uri,
    /// How CSV is written.
    pub csv: CsvOptions,
    /// The job's output prefix.
    pub output: Uri,
    /// Names this attempt may write.
    pub names: PartNames,
    /// Format of the part.
    pub format: OutputFormat,
    /// Compression of the part.
    pub compression: OutputCompression,
    /// Which input columns to carry.
    pub include_input: IncludeInput,
    /// Put before prediction columns.
    pub prediction_prefix: String,
    /// Where flagged records are written a second time, under the name of the part.
    pub review: Option<ReviewSpec>,
    /// The table that rows go to as well.
    #[serde(default)]
    pub table: Option<TableTask>,
    /// Records a call of the runtime; `None` lets the runner choose.
    pub batch_size: Option<u32>,
    /// Execution providers, in order of preference.
    pub providers: Vec<String>,
    /// What a picture may cost.
    #[serde(default)]
    pub image_limits: ImageLimits,
    /// Whether to count what the input columns are like.
    #[serde(default)]
    pub sketches: bool,
    /// What to leave out and what to feed alone. With it, the attempt does one thing at a time and says each before it begins.
    #[serde(default)]
    pub isolation: Option<Isolation>,
}

impl ChunkTask {
    /// What a job says of each of its chunks: whose attempt it is, and what it reads, is for the caller to fill in. `providers` are those of
    /// jobs that name none.
    pub fn of(
        spec: &JobSpec,
        model: &PinnedModel,
        pipeline: &Pipeline,
        names: PartNames,
        model_dir: PathBuf,
        providers: &[String],
        image_limits: ImageLimits,
    ) -> Self {
        let (input, output, execution) = (&spec.input, &spec.output, &spec.execution);
        Self {
            attempt: 0,
            chunk: String::new(),
            model_dir,
            model: model.clone(),
            pipeline: pipeline.clone(),
            inputs: Vec::new(),
            input: input.uri.clone(),
            csv: input.csv.clone(),
            output: output.uri.clone(),
            names,
            format: output.format,
            compression: output.compression,
            include_input: output.include_input.clone(),
            prediction_prefix: output.prediction_prefix.clone(),
            review: output.review.clone(),
            table: output.table.clone().map(|spec| TableTask { spec, of: ChunkOf::default() }),
            batch_size: execution.batch_size,
            providers: if execution.providers.is_empty() { providers.to_vec() } else { execution.providers.clone() },
            image_limits,
            sketches: spec.drift.is_some(),
            isolation: None,
        }
    }
}

impl ChunkTask {
    /// Whether the provider that comes first has a device of its own.
    pub fn is_on_device(&self) -> bool {
        self.providers.first().is_some_and(|provider| has_devices(provider))
    }
}

/// A table, and whose rows go there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TableTask {
    /// Where and how.
    pub spec: TableSpec,
    /// Whose rows they are.
    pub of: ChunkOf,
}

/// What a dry run wants to see: a chunk's first records, with nothing written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SampleTask {
    /// As if it were run; `names` are not used.
    pub chunk: ChunkTask,
    /// At most this many records.
    pub records: u64,
}

/// What became of the first records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Columns of the first record that could be decoded; empty when none could.
    pub columns: Vec<SampleColumn>,
    /// What fills each input of the model, in signature order; empty when the columns do not fit it.
    pub inputs: Vec<SampleInput>,
    /// Rows as the part would have them, each a line of JSON without its newline, in input order.
    pub rows: Vec<String>,
    /// Error rows, in input order.
    pub errors: Vec<RecordError>,
    /// Columns of the rows as a table would have them; empty when there are no rows.
    #[serde(default)]
    pub table: Vec<tables::Column>,
    /// Whether rows were left out because together they are too large for an answer.
    pub cut: bool,
    /// Records a call of the runtime.
    pub batch_size: u32,
    /// How long reading, inferring and encoding took, seconds, with the model loaded.
    pub seconds: f64,
    /// The provider that took the model.
    pub provider: String,
    /// Version of the runtime library.
    pub runtime: String,
}

/// A column of the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleColumn {
    /// As the data names it.
    pub name: String,
    /// Arrow's name of its type; `text` in CSV and `json` in JSON Lines, where the input that a cell is bound to decides.
    pub kind: String,
}

/// What fills one input of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleInput {
    /// The input.
    pub input: String,
    /// The columns, in the model's order.
    pub columns: Vec<String>,
}

/// Tensors to put into a model as they are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InferTask {
    /// The model's folder in the cache.
    pub model_dir: PathBuf,
    /// The pinned model.
    pub model: PinnedModel,
    /// All its inputs and outputs.
    pub signature: Signature,
    /// Execution providers, in order of preference.
    pub providers: Vec<String>,
    /// A tensor for each input.
    pub inputs: Vec<InferInput>,
}

/// A tensor that a caller gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InferInput {
    /// The input that it is for.
    pub name: String,
    /// Its dimensions; the first counts records.
    pub shape: Vec<usize>,
    /// Its elements as JSON, flat or nested, row-major.
    pub data: String,
}

/// A tensor that a model gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InferredTensor {
    /// The output.
    pub name: String,
    /// As the Open Inference Protocol names types.
    pub datatype: String,
    /// Its dimensions; the first counts records.
    pub shape: Vec<usize>,
    /// Its elements as JSON, flat, row-major.
    pub data: String,
}

/// Supervisor → runner.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToRunner {
    /// Load the chunk's model unless it is loaded, then run the chunk.
    Run(Box<ChunkTask>),
    /// Load the model unless it is loaded, then run the first records, writing nothing.
    Sample(Box<SampleTask>),
    /// Load the model and run these tensors.
    Infer(Box<InferTask>),
    /// Stop this attempt at the next chance; it answers with `Stopped`.
    Cancel {
        /// Which.
        attempt: u64,
    },
    /// No more work will come: say `Goodbye` and exit.
    Drain,
}

/// Runner → supervisor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromRunner {
    /// The runtime library is loaded.
    Ready {
        /// Version of the runtime library.
        runtime: String,
    },
    /// Sent several times a second: what the runner is doing. Its absence means that the process is stopped or starved.
    Beat {
        /// The model being loaded, if one is.
        loading: Option<Loading>,
        /// Batches that are inside the runtime.
        busy: Vec<Busy>,
        /// Records with an outcome, attempt by attempt.
        progress: Vec<(u64, u64)>,
        /// What was counted since the last beat.
        counts: Counts,
        /// What the runner holds of its device's memory, bytes; `None` where nobody limits it, or the driver does not tell.
        #[serde(default)]
        device_memory: Option<u64>,
    },
    /// What an attempt in isolation is about to do.
    At {
        /// Which attempt.
        attempt: u64,
        /// What it does from now on.
        place: Place,
        /// Records that have come through since the last one that was left out.
        passed: u64,
    },
    /// The part is in the bucket.
    Done {
        /// Which attempt.
        attempt: u64,
        /// What it came to.
        result: Box<ChunkResult>,
    },
    /// The first records have their outcomes.
    Sampled {
        /// Which attempt.
        attempt: u64,
        /// What they came to.
        sample: Box<Sample>,
    },
    /// The tensors went through the model.
    Inferred {
        /// Outputs that are tensors.
        outputs: Vec<InferredTensor>,
        /// Names of the others.
        left_out: Vec<String>,
    },
    /// The attempt could not be finished.
    Failed {
        /// Which attempt; 0 for tensors.
        attempt: u64,
        /// Why.
        problem: Problem,
        /// Whether trying again can help.
        retryable: bool,
    },
    /// The attempt was stopped as asked.
    Stopped {
        /// Which attempt.
        attempt: u64,
    },
    /// The last frame.
    Goodbye,
}

/// A model that is being loaded. Loading cannot be interrupted: past its deadline only the process can be killed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Loading {
    /// Attempts that wait for it.
    pub attempts: Vec<u64>,
    /// For how long already, milliseconds.
    pub for_ms: u64,
}

/// A batch that is inside the runtime.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Busy {
    /// The attempt it belongs to.
    pub attempt: u64,
    /// For how long already, milliseconds.
    pub for_ms: u64,
    /// Records in it, at most.
    pub records: u64,
    /// It lies among these.
    pub span: Span,
}

/// Writes one frame.
///
/// # Errors
/// Those of the writer.
pub fn write_frame<T: Serialize>(mut to: impl io::Write, frame: &T) -> io::Result<()> {
    let body = serde_json::to_vec(frame)?;
    let length = u32::try_from(body.len()).ok().filter(|n| *n <= MAX_FRAME_BYTES);
    let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "frame too large"))?;
    let mut bytes = Vec::with_capacity(body.len() + 4);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&body);
    to.write_all(&bytes)
}

/// Reads one frame; `None` when the other side closed between frames.
///
/// # Errors
/// Those of the reader; `InvalidData` for a frame that is too large or no JSON of this protocol.
pub fn read_frame<T: DeserializeOwned>(mut from: impl io::Read) -> io::Result<Option<T>> {
    let mut length = [0u8; 4];
    match from.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length);
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too large"));
    }
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body)?))
}
