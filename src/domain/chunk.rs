//! A chunk: the unit of work that is leased, run, retried and committed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    cost::Spent,
    fault::Problem,
    isolation::Isolation,
    job::JobId,
    spec::{InputCompression, InputFormat},
    summary::Summary,
    table::TableRows,
    time::Timestamp,
    uri::{Scheme, Uri},
};

/// Which chunk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChunkId {
    /// Its job.
    pub job: JobId,
    /// Its place in the job: parts in `seq` order are in input order.
    pub seq: u64,
}

impl std::fmt::Display for ChunkId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.job, self.seq)
    }
}

/// Which part of an object a chunk covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Slice {
    /// All of it.
    Whole,
    /// CSV and JSON Lines: the records that start in `start..end` (bytes of the uncompressed object). Both are record
    /// borders for CSV; for JSON Lines the reader finds them: a record belongs to the slice in which its first byte lies.
    Bytes {
        /// First byte.
        start: u64,
        /// One past the last.
        end: u64,
    },
    /// Parquet: rows `start..end` of the object.
    Rows {
        /// First row.
        start: u64,
        /// One past the last.
        end: u64,
    },
}

/// An object, or a slice of one, as pinned by the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectSlice {
    /// The bucket that it lies in (a location without a key), where a manifest named it; `None` for that of the job's input.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bucket: Option<Uri>,
    /// Key in the bucket, or absolute path without its leading slash.
    pub key: String,
    /// Size of the whole object, bytes. Zero, together with no etag, for one that was not there when it was planned.
    pub size: u64,
    /// As the store gave it; every read must see the same.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub etag: Option<String>,
    /// `Auto`: the reader looks at the content.
    pub format: InputFormat,
    /// `Auto`: the reader looks at the content.
    pub compression: InputCompression,
    /// Which part of it.
    pub slice: Slice,
}

impl ObjectSlice {
    /// Whether the object could not be reached when it was planned: what it holds, if anything, is not known.
    pub fn is_unknown(&self) -> bool {
        self.size == 0 && self.etag.is_none()
    }

    /// How `_source` shows it: its whole location where a manifest named it, else its key in the job's own store `input`.
    pub fn source(&self, input: &Uri) -> String {
        match &self.bucket {
            Some(bucket) => bucket.with_path(&self.key).to_string(),
            None if input.scheme() == Scheme::File => format!("/{}", self.key),
            None => self.key.clone(),
        }
    }
}

/// Where a chunk is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChunkState {
    /// Waits to be claimed.
    Pending,
    /// Some worker holds its lease.
    Running,
    /// Its part is committed.
    Done,
    /// It will not be tried again; the job fails with it.
    Failed,
    /// The job ended before it ran.
    Cancelled,
}

impl ChunkState {
    /// As the tables and the API write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One object that a chunk wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartFile {
    /// Relative to the output prefix.
    pub key: String,
    /// Rows in it.
    pub records: u64,
    /// Its size.
    pub bytes: u64,
    /// Of its bytes, lower-case hex.
    pub sha256: String,
}

/// What a chunk came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct ChunkResult {
    /// The predictions; `None` when no record got one.
    pub part: Option<PartFile>,
    /// The error rows; `None` when there are none.
    pub errors: Option<PartFile>,
    /// The flagged records, relative to the review prefix; `None` when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<PartFile>,
    /// What went into the job's table; `None` where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableRows>,
    /// Records with a prediction.
    pub succeeded: u64,
    /// Error rows.
    pub failed: u64,
    /// Error rows by code.
    pub error_codes: BTreeMap<String, u64>,
    /// The first error row's detail with its place, for the job's summary when every record failed.
    pub first_error: Option<String>,
    /// Work done.
    pub usage: Usage,
    /// What the predictions are like.
    #[serde(default, skip_serializing_if = "Summary::is_empty")]
    pub summary: Summary,
}

/// Work done by one chunk, or summed over a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Usage {
    /// Wall time in which the runner held the chunk, seconds.
    pub wall_seconds: f64,
    /// Time of devices that it took, attempts that came to nothing included; see [`cost`](super::cost).
    pub device_seconds: f64,
    /// What attempts took of it that came to nothing.
    pub retry_device_seconds: f64,
    /// Device-seconds inside the runtime: of all sessions on cores, of an accelerator the time in which it had anything to do.
    pub inferring_seconds: f64,
    /// Price of the device-seconds, 0 where there is none.
    pub cost: f64,
    /// Price of `retry_device_seconds`.
    pub retry_cost: f64,
    /// Of the prices; `None` where there is none.
    pub currency: Option<String>,
    /// Bytes read from the store.
    pub bytes_read: u64,
    /// Bytes put.
    pub bytes_written: u64,
    /// Seconds by stage, added up over threads: fetch and put wait for the store, decode, featurize, infer, interpret and encode work.
    pub stage_seconds: BTreeMap<String, f64>,
    /// Seconds for which the stage was the one that the others waited for.
    pub bound_seconds: BTreeMap<String, f64>,
    /// Records a call of the runtime, at most.
    pub batch_size: u32,
    /// Where that was found by trying: elements of input tensors that one session took a second, by batch size. As texts, since not every
    /// place that JSON passes through reads numbers as keys.
    pub batch_trials: BTreeMap<String, f64>,
    /// Sessions of the model side by side and threads of each: `4x1`; empty until something was done.
    pub layout: String,
    /// Where layouts were tried: elements of input tensors that all sessions together took a second, by layout.
    pub layout_trials: BTreeMap<String, f64>,
    /// Records that one call had room for in memory, where that is fewer than were wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_room: Option<u32>,
    /// The provider that ran it, `cpu` or `cuda`.
    pub provider: String,
    /// Version of the runtime library.
    pub runtime: String,
    /// Tokens of texts that went into the runtime, padding not counted.
    pub tokens: u64,
    /// Padding that went with them.
    pub padding_tokens: u64,
}

impl Usage {
    /// Adds another chunk's work.
    pub fn add(&mut self, other: &Usage) {
        self.wall_seconds += other.wall_seconds;
        self.device_seconds += other.device_seconds;
        self.retry_device_seconds += other.retry_device_seconds;
        self.inferring_seconds += other.inferring_seconds;
        self.cost += other.cost;
        self.retry_cost += other.retry_cost;
        self.currency = self.currency.take().or_else(|| other.currency.clone());
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        for (stage, seconds) in &other.stage_seconds {
            *self.stage_seconds.entry(stage.clone()).or_default() += seconds;
        }
        for (stage, seconds) in &other.bound_seconds {
            *self.bound_seconds.entry(stage.clone()).or_default() += seconds;
        }
        self.batch_trials.extend(other.batch_trials.clone());
        self.layout_trials.extend(other.layout_trials.clone());
        if !other.layout.is_empty() {
            self.layout.clone_from(&other.layout);
        }
        self.batch_size = self.batch_size.max(other.batch_size);
        self.batch_room = self.batch_room.into_iter().chain(other.batch_room).min();
        if !other.provider.is_empty() {
            self.provider.clone_from(&other.provider);
        }
        if !other.runtime.is_empty() {
            self.runtime.clone_from(&other.runtime);
        }
        self.tokens += other.tokens;
        self.padding_tokens += other.padding_tokens;
    }
}

impl Usage {
    /// Says what the attempt took that did this work.
    pub fn charge(&mut self, spent: &Spent) {
        self.device_seconds = spent.device_seconds;
        self.cost = spent.cost;
        self.currency.clone_from(&spent.currency);
    }

    /// Adds what an attempt took that came to nothing.
    pub fn waste(&mut self, spent: &Spent) {
        self.device_seconds += spent.device_seconds;
        self.retry_device_seconds += spent.device_seconds;
        self.cost += spent.cost;
        self.retry_cost += spent.cost;
        self.currency = self.currency.take().or_else(|| spent.currency.clone());
    }

    /// What it took, for an attempt that did this work in vain.
    pub fn spent(&self) -> Spent {
        Spent { device_seconds: self.device_seconds, cost: self.cost, currency: self.currency.clone() }
    }

    /// Share of the device time of committed work in which a device was inferring; `None` before there is any.
    pub fn utilisation(&self) -> Option<f64> {
        let held = self.device_seconds - self.retry_device_seconds;
        (held > 0.0 && self.inferring_seconds > 0.0).then(|| (self.inferring_seconds / held).min(1.0))
    }

    /// Takes a chunk's work away again: it is going to be done anew. What it took has come to nothing, and stays.
    pub fn subtract(&mut self, other: &Usage) {
        let less = |value: f64, by: f64| (value - by).max(0.0);
        self.wall_seconds = less(self.wall_seconds, other.wall_seconds);
        self.inferring_seconds = less(self.inferring_seconds, other.inferring_seconds);
        self.retry_device_seconds += other.device_seconds - other.retry_device_seconds;
        self.retry_cost += other.cost - other.retry_cost;
        self.bytes_read = self.bytes_read.saturating_sub(other.bytes_read);
        self.bytes_written = self.bytes_written.saturating_sub(other.bytes_written);
        for (stage, seconds) in &other.stage_seconds {
            let left = self.stage_seconds.entry(stage.clone()).or_default();
            *left = less(*left, *seconds);
        }
        for (stage, seconds) in &other.bound_seconds {
            let left = self.bound_seconds.entry(stage.clone()).or_default();
            *left = less(*left, *seconds);
        }
    }
}

/// A chunk as the store keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Chunk {
    /// Which.
    pub id: ChunkId,
    /// What it covers, in input order.
    pub inputs: Vec<ObjectSlice>,
    /// Where it is in its life.
    pub state: ChunkState,
    /// How often it was claimed.
    pub claims: u32,
    /// How often it ended in an error that may pass.
    pub failures: u32,
    /// How often its runner died, or a batch of it was not done at its deadline.
    pub crashes: u32,
    /// What is known of it since it has a runner to itself; `None` while it runs among others.
    pub isolation: Option<Isolation>,
    /// Rises with every claim, and with a retry: the fencing token of its leases.
    pub epoch: i64,
    /// Not to be claimed before.
    pub not_before: Option<Timestamp>,
    /// Who holds or last held it.
    pub worker: Option<String>,
    /// When it was last claimed.
    pub started_at: Option<Timestamp>,
    /// When it was committed or given up.
    pub finished_at: Option<Timestamp>,
    /// What it came to, once done.
    pub result: Option<ChunkResult>,
    /// The last error, if any.
    pub error: Option<Problem>,
}
