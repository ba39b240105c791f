//! Metrics, as Prometheus reads them: one registry behind a handle that the wiring hands to whoever has something to count.
//!
//! No label takes a value that a caller can make up: label values are words of this program, and routes are templates. What was
//! counted lives as long as the process; Prometheus expects counters to begin again at zero.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{
    process::{Processes, RunnerPids},
    tally::{Counts, Operation, Outcome, Tally},
};
use crate::domain::{Backlog, ChunkResult, JobState, Spent, job::Ending};

/// The media type of [`Metrics::encode`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The backlog is asked for at most this often, however often somebody scrapes.
const BACKLOG_AGE: Duration = Duration::from_secs(1);
/// Seconds; a long poll takes up to a minute.
const LATENCIES: [f64; 11] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0];
/// Records.
const BATCHES: [f64; 9] = [1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0];
const STAGES: [&str; 6] = ["decode", "featurize", "infer", "interpret", "encode", "put"];

type Labels<const N: usize> = [(&'static str, &'static str); N];
type RequestLabels = [(&'static str, Cow<'static, str>); 3];
type RouteLabels = [(&'static str, Cow<'static, str>); 2];

/// How an attempt at a chunk ended, as far as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptEnd {
    /// Its part is committed.
    Committed,
    /// It will be tried again.
    Retried,
    /// It failed, and its job with it.
    Failed,
    /// Its runner died.
    Crashed,
    /// It was stopped: a drain, or a job that has an ending.
    Released,
    /// It came too late: the lease was lost.
    Fenced,
}

/// What device time came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// To a committed chunk.
    Kept,
    /// To nothing.
    Lost,
}

impl Use {
    const ALL: [Self; 2] = [Self::Kept, Self::Lost];

    fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Lost => "lost",
        }
    }
}

/// Why a runner has to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunnerEnd {
    /// It died by itself.
    Crashed,
    /// It could not be started.
    NotStarted,
    /// It stopped answering and was killed.
    Silent,
    /// A model did not finish loading, and only a kill ends that.
    LoadTimeout,
    /// An attempt did not stop when asked, and only a kill ends that.
    Stuck,
    /// It held more of its device's memory than it may.
    DeviceMemory,
}

/// What became of one attempt to deliver a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryOutcome {
    /// The receiver took it.
    Delivered,
    /// It will be tried again.
    Retried,
    /// It will not be tried again.
    GaveUp,
    /// Its address may not be called.
    Refused,
}

/// What a request to the API is like to those who have to find room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// Answered as soon as may be.
    Short,
    /// Waits for a job.
    Wait,
    /// Submits a job.
    Submission,
    /// Tries a model out.
    Trial,
}

impl RequestKind {
    const ALL: [Self; 4] = [Self::Short, Self::Wait, Self::Submission, Self::Trial];

    fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Wait => "wait",
            Self::Submission => "submission",
            Self::Trial => "trial",
        }
    }

    /// For people.
    pub fn plural(self) -> &'static str {
        match self {
            Self::Short => "requests",
            Self::Wait => "requests that wait for a job",
            Self::Submission => "requests that submit a job",
            Self::Trial => "requests that try a model out",
        }
    }
}

impl AttemptEnd {
    const ALL: [Self; 6] = [Self::Committed, Self::Retried, Self::Failed, Self::Crashed, Self::Released, Self::Fenced];

    fn name(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Retried => "retried",
            Self::Failed => "failed",
            Self::Crashed => "crashed",
            Self::Released => "released",
            Self::Fenced => "fenced",
        }
    }
}

impl RunnerEnd {
    const ALL: [Self; 6] = [Self::Crashed, Self::NotStarted, Self::Silent, Self::LoadTimeout, Self::Stuck, Self::DeviceMemory];

    fn name(self) -> &'static str {
        match self {
            Self::Crashed => "crashed",
            Self::NotStarted => "not_started",
            Self::Silent => "silent",
            Self::LoadTimeout => "load_timeout",
            Self::Stuck => "stuck",
            Self::DeviceMemory => "device_memory",
        }
    }
}

impl DeliveryOutcome {
    const ALL: [Self; 4] = [Self::Delivered, Self::Retried, Self::GaveUp, Self::Refused];

    fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retried => "retried",
            Self::GaveUp => "gave_up",
            Self::Refused => "refused",
        }
    }
}

/// Counts, and tells what was counted; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    tally: Tally,
    runners: RunnerPids,
    backlog_read: Mutex<Option<Instant>>,
    database_up: Gauge,
    jobs: Family<Labels<1>, Gauge>,
    chunks: Family<Labels<1>, Gauge>,
    oldest_waiting: Gauge<f64, AtomicU64>,
    event_streams: Gauge,
    lease_expiries: Counter,
    jobs_finished: Family<Labels<1>, Counter>,
    attempts: Family<Labels<1>, Counter>,
    fenced_commits: Counter,
    records: Family<Labels<1>, Counter>,
    bytes_read: Counter,
    bytes_written: Counter,
    stages: Family<Labels<1>, Counter<f64, AtomicU64>>,
    device: Family<Labels<1>, Counter<f64, AtomicU64>>,
    cost: Family<Labels<1>, Counter<f64, AtomicU64>>,
    batches: Histogram,
    store_requests: Family<Labels<2>, Counter>,
    store_retries: Family<Labels<2>, Counter>,
    store_halvings: Counter,
    runner_restarts: Family<Labels<1>, Counter>,
    deliveries: Family<Labels<1>, Counter>,
    requests_shed: Family<Labels<1>, Counter>,
    http_requests: Family<RequestLabels, Counter>,
    http_seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    pub fn new() -> Self {
        let inner = Inner {
            registry: Registry::with_prefix("nightshift"),
            tally: Tally::default(),
            runners: RunnerPids::default(),
            backlog_read: Mutex::default(),
            database_up: Gauge::default(),
            jobs: Family::default(),
            chunks: Family::default(),
            oldest_waiting: Gauge::default(),
            event_streams: Gauge::default(),
            lease_expiries: Counter::default(),
            jobs_finished: Family::default(),
            attempts: Family::default(),
            fenced_commits: Counter::default(),
            records: Family::default(),
            bytes_read: Counter::default(),
            bytes_written: Counter::default(),
            stages: Family::default(),
            device: Family::default(),
            cost: Family::default(),
            batches: Histogram::new(BATCHES),
            store_requests: Family::default(),
            store_retries: Family::default(),
            store_halvings: Counter::default(),
            runner_restarts: Family::default(),
            deliveries: Family::default(),
            requests_shed: Family::default(),
            http_requests: Family::default(),
            http_seconds: Family::new_with_constructor(|| Histogram::new(LATENCIES)),
        };
        inner.begin_at_zero();
        Self(Arc::new(inner.registered()))
    }

    /// The text of a scrape, in the exposition format of OpenMetrics 1.0, which Prometheus asks for by itself.
    pub fn encode(&self) -> String {
        self.add(self.0.tally.take());
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a string fails only if a label refuses to be encoded, and ours are plain words.
        let _infallible = text::encode(&mut text, &self.0.registry);
        text
    }

    /// What this process's own object stores count with.
    pub fn tally(&self) -> Tally {
        self.0.tally.clone()
    }

    /// Adds what a runner has counted.
    pub fn add(&self, counts: Counts) {
        for ((operation, outcome), count) in counts.requests {
            self.0.store_requests.get_or_create(&[("operation", operation.name()), ("outcome", outcome.name())]).inc_by(count);
        }
        for ((operation, reason), count) in counts.retries {
            self.0.store_retries.get_or_create(&[("operation", operation.name()), ("reason", reason.name())]).inc_by(count);
        }
        self.0.store_halvings.inc_by(counts.halvings);
        for (records, count) in counts.batches {
            (0..count).for_each(|_| self.0.batches.observe(records as f64));
        }
    }

    /// Whether the backlog should be asked for again. Whoever asks is expected to do it: others are told no for a second.
    pub fn wants_backlog(&self) -> bool {
        let mut read = self.0.backlog_read.lock().unwrap_or_else(PoisonError::into_inner);
        let stale = read.is_none_or(|read| read.elapsed() > BACKLOG_AGE);
        if stale {
            *read = Some(Instant::now());
        }
        stale
    }

    /// Shows what waits and runs; `None` when the database did not answer, in which case the last values stay.
    pub fn backlog(&self, backlog: Option<&Backlog>) {
        self.0.database_up.set(i64::from(backlog.is_some()));
        let Some(backlog) = backlog else { return };
        for state in JobState::ALL {
            let count = backlog.jobs.get(&state).copied().unwrap_or_default();
            self.0.jobs.get_or_create(&[("state", state.name())]).set(count as i64);
        }
        for (state, count) in [("pending", backlog.pending), ("running", backlog.running), ("done", backlog.done)] {
            self.0.chunks.get_or_create(&[("state", state)]).set(count as i64);
        }
        self.0.oldest_waiting.set(backlog.oldest_waiting_seconds);
        // The store counts for itself; the counter only follows.
        let behind = backlog.lease_expiries.saturating_sub(self.0.lease_expiries.get());
        self.0.lease_expiries.inc_by(behind);
    }

    /// Shows how many streams of events are open.
    pub fn streams_open(&self, count: usize) {
        self.0.event_streams.set(count as i64);
    }

    /// Counts a job that reached its final state.
    pub fn job_finished(&self, ending: Ending) {
        self.0.jobs_finished.get_or_create(&[("state", ending.name())]).inc();
    }

    /// Counts the end of an attempt at a chunk, as it was recorded.
    pub fn attempt_ended(&self, end: AttemptEnd) {
        self.0.attempts.get_or_create(&[("outcome", end.name())]).inc();
    }

    /// Counts a finished part that was dropped because another worker owns its chunk.
    pub fn commit_fenced(&self) {
        self.0.fenced_commits.inc();
    }

    /// Counts the work of a committed chunk.
    pub fn committed(&self, result: &ChunkResult) {
        self.0.records.get_or_create(&[("outcome", "succeeded")]).inc_by(result.succeeded);
        self.0.records.get_or_create(&[("outcome", "failed")]).inc_by(result.failed);
        self.0.bytes_read.inc_by(result.usage.bytes_read);
        self.0.bytes_written.inc_by(result.usage.bytes_written);
        for stage in STAGES {
            let seconds = result.usage.stage_seconds.get(stage).copied().unwrap_or_default();
            self.0.stages.get_or_create(&[("stage", stage)]).inc_by(seconds);
        }
    }

    /// Counts the device time that an attempt held, and its price.
    pub fn spent(&self, spent: &Spent, to: Use) {
        self.0.device.get_or_create(&[("use", to.name())]).inc_by(spent.device_seconds);
        self.0.cost.get_or_create(&[("use", to.name())]).inc_by(spent.cost);
    }

    /// Names the process of a device's runner, whose memory and processor time are shown; `None` when it is gone.
    pub fn runner_is(&self, device: u32, pid: Option<u32>) {
        self.0.runners.set(device, pid);
    }

    /// Counts a runner that has to be replaced.
    pub fn runner_ended(&self, end: RunnerEnd) {
        self.0.runner_restarts.get_or_create(&[("reason", end.name())]).inc();
    }

    /// Counts an attempt to deliver a webhook.
    pub fn webhook_delivery(&self, outcome: DeliveryOutcome) {
        self.0.deliveries.get_or_create(&[("outcome", outcome.name())]).inc();
    }

    /// Counts a request that was refused because too many are being answered.
    pub fn request_shed(&self, kind: RequestKind) {
        self.0.requests_shed.get_or_create(&[("kind", kind.name())]).inc();
    }

    /// Counts an answered request. `route` is a template such as `/v1/jobs/{id}`, never a path, and `method` one of the known ones:
    /// what a client can make up is no label.
    pub fn http_request(&self, route: &str, method: &'static str, status: u16, took: Duration) {
        let class = match status / 100 {
            1 => "1xx",
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        let route: Cow<'static, str> = route.to_owned().into();
        let labels = [("route", route.clone()), ("method", method.into()), ("status", class.into())];
        self.0.http_requests.get_or_create(&labels).inc();
        self.0.http_seconds.get_or_create(&[("route", route), ("method", method.into())]).observe(took.as_secs_f64());
    }
}

impl Inner {
    /// What can be counted is shown before it happens: a counter that appears with its first event has no increase.
    fn begin_at_zero(&self) {
        let one = |family: &Family<Labels<1>, Counter>, label: &'static str, values: &[&'static str]| {
            values.iter().for_each(|value| drop(family.get_or_create(&[(label, *value)])));
        };
        one(&self.jobs_finished, "state", &JobState::ALL.into_iter().filter(|s| s.is_final()).map(JobState::name).collect::<Vec<_>>());
        one(&self.attempts, "outcome", &AttemptEnd::ALL.map(AttemptEnd::name));
        one(&self.records, "outcome", &["succeeded", "failed"]);
        one(&self.runner_restarts, "reason", &RunnerEnd::ALL.map(RunnerEnd::name));
        one(&self.deliveries, "outcome", &DeliveryOutcome::ALL.map(DeliveryOutcome::name));
        one(&self.requests_shed, "kind", &RequestKind::ALL.map(RequestKind::name));
        for stage in STAGES {
            drop(self.stages.get_or_create(&[("stage", stage)]));
        }
        for to in Use::ALL {
            drop(self.device.get_or_create(&[("use", to.name())]));
            drop(self.cost.get_or_create(&[("use", to.name())]));
        }
        for operation in Operation::ALL {
            drop(self.store_requests.get_or_create(&[("operation", operation.name()), ("outcome", Outcome::Ok.name())]));
        }
    }

    /// Names and help texts, in the order in which they are shown. docs/OPERATIONS.md says the same; a test compares.
    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        let build = Family::<Labels<1>, Gauge>::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        r.register("build_info", "The version that runs", build);
        r.register("database_up", "1 while the database answers; 0 makes the gauges of jobs and chunks old news", self.database_up.clone());
        r.register("jobs", "Jobs by state", self.jobs.clone());
        r.register("chunks", "Chunks of unfinished jobs by state", self.chunks.clone());
        r.register_with_unit(
            "oldest_waiting_age",
            "For how long the oldest accepted job has been waiting for its first chunk to start; 0 when none waits. Those that wait for data or for other jobs do not count",
            Unit::Seconds,
            self.oldest_waiting.clone(),
        );
        r.register("jobs_finished", "Jobs that reached a final state, by that state", self.jobs_finished.clone());
        r.register("chunk_attempts", "Attempts at chunks by how they ended", self.attempts.clone());
        r.register("records", "Records of committed chunks by outcome", self.records.clone());
        r.register_with_unit("read", "Input read by committed chunks", Unit::Bytes, self.bytes_read.clone());
        r.register_with_unit("written", "Parts and error rows written by committed chunks", Unit::Bytes, self.bytes_written.clone());
        r.register_with_unit(
            "stage",
            "Time of committed chunks by stage, added up over threads; `fetch` and `put` wait for the store, the others work",
            Unit::Seconds,
            self.stages.clone(),
        );
        r.register_with_unit("device", "Time of devices that attempts held, by what it came to", Unit::Seconds, self.device.clone());
        r.register("cost", "Price of that time, in the currency of `[pricing]`", self.cost.clone());
        r.register_with_unit("batch", "Records in a call of the runtime", Unit::Other("records".to_owned()), self.batches.clone());
        r.register("store_requests", "Calls of object stores by operation and by outcome after all retries", self.store_requests.clone());
        r.register("store_retries", "Requests to object stores that were sent again, by operation and reason", self.store_retries.clone());
        r.register(
            "store_halvings",
            "Times that a bucket asked to slow down and got half as many requests at once",
            self.store_halvings.clone(),
        );
        r.register("lease_expiries", "Chunks taken back because their worker stopped renewing its lease", self.lease_expiries.clone());
        r.register(
            "fenced_commits",
            "Finished parts that were dropped because another worker owned the chunk by then",
            self.fenced_commits.clone(),
        );
        r.register("runner_restarts", "Runner processes that had to be replaced, by reason", self.runner_restarts.clone());
        r.register("webhook_deliveries", "Attempts to deliver webhooks by outcome", self.deliveries.clone());
        r.register("requests_shed", "Requests refused because too many were being answered, by kind", self.requests_shed.clone());
        r.register("event_streams", "Streams of events that are open", self.event_streams.clone());
        r.register("http_requests", "Answered requests by route, method and class of status", self.http_requests.clone());
        r.register_with_unit(
            "http_request_duration",
            "Time from a request to its answer's head, by route and method",
            Unit::Seconds,
            self.http_seconds.clone(),
        );
        r.register_collector(Box::new(Processes(self.runners.clone())));
        self
    }
}
