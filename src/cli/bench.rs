//! `nightshift bench`: a job held against what its stages and the runtime could do alone.
//!
//! The service runs in this process and its runner below it, with a database of their own that is thrown away. The stages run in this process
//! as well, on the job's own chunks, so all of it shares the same cores.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc, time::Instant};

use serde::Serialize;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    client::Client,
    definition,
    processes::{Processes, machine_seconds},
    show,
    stop::{Outcome, Stop},
};
use crate::{
    app::{App, Handles, Role},
    config::{self, Api, Devices, Form},
    db::Store,
    domain::{Chunk, Job, JobId, PartNames},
    model::Models,
    objects::Stores,
    runner::{
        infer::Device,
        limits::{Cost, Limits, Rate, STAGES, Stages},
        protocol::ChunkTask,
    },
    telemetry::LogFormat,
};

/// Records whose stages are measured one by one; the rest of the job is taken to be like them.
const STAGE_RECORDS: u64 = 200_000;
/// And the most bytes of their objects, which are in memory together.
const STAGE_BYTES: u64 = 1 << 30;
/// Chunks read at a time.
const PAGE: u32 = 256;
/// How long a request for a job waits for its end.
const WAIT: &str = "30s";
/// Records a call of the runtime that are tried.
const SIZES: [usize; 11] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];

/// What was measured. Where several runs were made, medians; ratios are of each run, and then their medians.
#[derive(Debug, Serialize)]
struct Report {
    /// Records with an outcome.
    records: u64,
    failed: u64,
    chunks: u64,
    bytes_read: u64,
    bytes_written: u64,
    cores: usize,
    runs: usize,
    job: JobCost,
    stages: Vec<StageCost>,
    bound: Bound,
    runtime: RuntimeLimit,
    /// The job's rate against the bound's.
    ratio_to_bound: f64,
    /// The job's rate against the runtime's own.
    ratio_to_runtime: f64,
    each_run: Vec<Ratios>,
    output: String,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct JobCost {
    /// From the request to `completed`.
    seconds: f64,
    records_per_second: f64,
    /// Of the service and its runner.
    cpu_seconds: f64,
    /// Of everything else on this machine meanwhile, the store's server among it.
    elsewhere_cpu_seconds: f64,
    /// The most memory that the runner has had so far.
    peak_bytes: u64,
}

#[derive(Debug, Serialize)]
struct StageCost {
    stage: &'static str,
    cpu_microseconds_per_record: f64,
    /// Of all processor time of the stages.
    share: f64,
    /// On all cores, with nothing beside it.
    records_per_second: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Bound {
    records_per_second: f64,
    /// What sets it: `processor`, or a stage that waits for the store.
    set_by: &'static str,
}

#[derive(Debug, Clone, Serialize)]
struct RuntimeLimit {
    records_per_second: f64,
    batch_size: usize,
    sessions: usize,
    threads: usize,
    tried: Vec<Tried>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Tried {
    batch_size: usize,
    sessions: usize,
    threads: usize,
    records_per_second: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Ratios {
    job_records_per_second: f64,
    job_cpu_seconds: f64,
    elsewhere_cpu_seconds: f64,
    bound_records_per_second: f64,
    runtime_records_per_second: f64,
    to_bound: f64,
    to_runtime: f64,
}

pub(super) fn run(settings: &config::Bench, sections: config::Sections, log_format: LogFormat, log: &str) -> Outcome {
    let (mut definition, form) = definition::read(&settings.definition)?;
    definition::set_named(&mut definition, &settings.definition.set)?;
    super::block_on(async move {
        let folder = Scratch::new(&settings.serve.data_dir)?;
        let mut serve = settings.serve.clone();
        serve.data_dir.clone_from(&folder.0);
        (serve.database_url, serve.no_executor) = (None, false);
        serve.listen = ([127, 0, 0, 1], 0).into();
        // Whoever runs the command may read what they can read.
        serve.file_root = vec!["/".into()];
        let library = config::find_library(serve.onnxruntime.as_deref(), &settings.serve.data_dir)?;
        // What one runner does: a second one would only share the cores.
        let device = serve.devices.numbers(&serve.providers)[0];
        serve.devices = Devices::These(vec![device]);
        let workers = serve.workers(1);
        let slots = serve.chunk_slots.max(1);

        let stop = CancellationToken::new();
        let app = App::start(serve.clone(), Role::Serve, sections, log_format, log).await?;
        let Handles { store, models, stores } = app.handles();
        let api = Api { api: format!("http://{}", app.address()).parse().map_err(|e| format!("the service's address: {e}"))? };
        let service = tokio::spawn(app.run(stop.clone()));
        let bench = Bench { settings, serve, client: Client::new(&api, form)?, store, models, stores, library, device, workers, slots };
        let report = tokio::select! {
            report = bench.run(definition) => report,
            _ = tokio::signal::ctrl_c() => Err(Stop { message: "stopped".to_owned(), code: 130 }),
        };
        stop.cancel();
        let _ended = service.await;
        let report = report?;
        match form {
            Form::Json => show::print_json(&report),
            Form::Table => show::print(&report.for_people()),
        }
    })
}

/// A folder that goes when the measuring is over.
struct Scratch(PathBuf);

impl Scratch {
    fn new(data_dir: &std::path::Path) -> Result<Self, Stop> {
        let folder = data_dir.join(format!("bench-{}", std::process::id()));
        fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, "{} is left behind", self.0.display());
        }
    }
}

struct Bench<'b> {
    settings: &'b config::Bench,
    serve: config::Serve,
    client: Client,
    store: Arc<dyn Store>,
    models: Arc<Models>,
    stores: Stores,
    library: PathBuf,
    device: u32,
    workers: usize,
    slots: usize,
}

/// A job that has ended, and what it took.
struct Ran {
    job: Job,
    cost: JobCost,
}

impl Bench<'_> {
    async fn run(&self, definition: Value) -> Result<Report, Stop> {
        let output = definition::location(&definition, "output").ok_or_else(|| Stop::usage("the definition names no output"))?;
        let output = format!("{}/", output.trim_end_matches('/'));
        self.say("a first run, which loads the model and does not count");
        let first = self.job(&definition, &format!("{output}run-0/")).await?;
        let chunks = self.chunks(&first.job.id).await?;
        let tasks = self.tasks(&first.job, &chunks, &output).await?;
        let device = Device { id: self.device, memory_limit: self.serve.device_memory_limit };
        let limits = Limits::new(&self.library, self.stores.clone(), Handle::current(), self.workers, device)?;
        let limits = Arc::new(limits);

        let (mut jobs, mut stages, mut rates) = (Vec::new(), Vec::new(), Vec::<Vec<Rate>>::new());
        let runs = self.settings.runs.max(1);
        for run in 1..=runs {
            self.say(&format!("run {run} of {runs}"));
            let measuring = (limits.clone(), tasks.clone());
            stages.push(blocking(move || measuring.0.stages(&measuring.1)).await?);
            // All sizes at first, then the best one in either layout.
            let sizes = match rates.first() {
                None => SIZES.to_vec(),
                Some(tried) => vec![best(tried).batch_size],
            };
            let measuring = (limits.clone(), tasks[0].clone());
            rates.push(blocking(move || measuring.0.runtime(&measuring.1, &sizes)).await?);
            jobs.push(self.job(&definition, &format!("{output}run-{run}/")).await?);
        }
        Ok(self.report(&jobs, &stages, &rates, output))
    }

    fn say(&self, what: &str) {
        eprintln!("{what}");
    }

    /// Runs the definition as a job, from the request to its end.
    async fn job(&self, definition: &Value, output: &str) -> Result<Ran, Stop> {
        let mut definition = definition.clone();
        definition::set(&mut definition, "output.uri", output.into())?;
        let (used, busy, started) = (Processes::look(), machine_seconds(), Instant::now());
        let accepted = self.client.send(self.client.post("/v1/jobs", &[])?.body(&definition)).await?;
        let id = accepted["id"].as_str().ok_or("the service's answer has no id")?.to_owned();
        let wait = [("wait".to_owned(), WAIT.to_owned())];
        let shown = loop {
            let job = self.client.send(self.client.get(&format!("/v1/jobs/{id}"), &wait)?).await?;
            if job["finished_at"].is_string() {
                break job;
            }
        };
        let seconds = started.elapsed().as_secs_f64();
        if shown["state"] != "completed" {
            let why = serde_json::to_string_pretty(&shown["error"]).unwrap_or_default();
            return Err(format!("the job ended as {}: {why}", show::cell(&shown["state"])).into());
        }
        let now = Processes::look();
        let cpu_seconds = now.cpu_seconds - used.cpu_seconds;
        let id = JobId::parse(&id).ok_or("the service gave an id that is none")?;
        let job = self.store.job(&id).await.map_err(|e| e.to_string())?.ok_or("the job is gone")?;
        let records = job.counts.succeeded + job.counts.failed;
        let cost = JobCost {
            seconds,
            records_per_second: records as f64 / seconds,
            cpu_seconds,
            elsewhere_cpu_seconds: (machine_seconds() - busy - cpu_seconds).max(0.0),
            peak_bytes: now.runner_peak_bytes,
        };
        Ok(Ran { job, cost })
    }

    async fn chunks(&self, id: &JobId) -> Result<Vec<Chunk>, Stop> {
        let mut chunks = Vec::new();
        loop {
            let page = self.store.chunks(id, chunks.len() as u64, PAGE).await.map_err(|e| e.to_string())?;
            let last = page.len() < PAGE as usize;
            chunks.extend(page);
            if last {
                return Ok(chunks);
            }
        }
    }

    /// Chunks from all over the job, as many as their stages can be measured in a few seconds.
    async fn tasks(&self, job: &Job, chunks: &[Chunk], output: &str) -> Result<Vec<ChunkTask>, Stop> {
        let model_dir = self.models.ensure(&job.model).await.map_err(|e| e.whole())?;
        let records = |chunk: &Chunk| chunk.result.as_ref().map_or(0, |r| r.succeeded + r.failed);
        let all: u64 = chunks.iter().map(records).sum();
        let wanted = (chunks.len() as u64 * STAGE_RECORDS).div_ceil(all.max(1)).clamp(1, chunks.len() as u64) as usize;
        let (mut tasks, mut bytes) = (Vec::new(), 0);
        for chunk in chunks.iter().step_by(chunks.len() / wanted).take(wanted) {
            bytes += chunk.inputs.iter().map(|slice| slice.size).sum::<u64>();
            if bytes > STAGE_BYTES && !tasks.is_empty() {
                break;
            }
            let names = PartNames::new(chunk.id.seq, "stage", job.spec.output.format, job.spec.output.compression);
            let (providers, limits) = (&self.serve.providers, self.serve.images.limits());
            tasks.push(ChunkTask {
                chunk: chunk.id.to_string(),
                inputs: chunk.inputs.clone(),
                output: crate::domain::Uri::parse(&format!("{output}stages/")).map_err(|e| e.to_string())?,
                review: None,
                table: None,
                ..ChunkTask::of(&job.spec, &job.model, &job.pipeline, names, model_dir.clone(), providers, limits)
            });
        }
        if tasks.is_empty() {
            return Err("the job had no chunk: there is nothing to measure".into());
        }
        Ok(tasks)
    }

    fn report(&self, jobs: &[Ran], stages: &[Stages], rates: &[Vec<Rate>], output: String) -> Report {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let last = &jobs[jobs.len() - 1].job;
        let records = last.counts.succeeded + last.counts.failed;
        let read = last.usage.bytes_read as f64 / records.max(1) as f64;
        let per_record: Vec<BTreeMap<&'static str, Cost>> = stages.iter().map(|s| a_record(s, read)).collect();
        let bounds: Vec<Bound> = per_record.iter().map(|costs| bound(costs, cores, self.slots)).collect();
        let each_run: Vec<Ratios> = (0..jobs.len())
            .map(|run| {
                let (job, bound, runtime) = (&jobs[run].cost, bounds[run], best(&rates[run]));
                Ratios {
                    job_records_per_second: job.records_per_second,
                    job_cpu_seconds: job.cpu_seconds,
                    elsewhere_cpu_seconds: job.elsewhere_cpu_seconds,
                    bound_records_per_second: bound.records_per_second,
                    runtime_records_per_second: runtime.records_per_second,
                    to_bound: job.records_per_second / bound.records_per_second,
                    to_runtime: job.records_per_second / runtime.records_per_second,
                }
            })
            .collect();
        let of_jobs = |value: fn(&JobCost) -> f64| median(jobs.iter().map(|ran| value(&ran.cost)));
        let of_runs = |value: fn(&Ratios) -> f64| median(each_run.iter().map(value));
        let cpu = |stage: &str| median(per_record.iter().map(|costs| costs.get(stage).map_or(0.0, |cost| cost.cpu)));
        let all: f64 = STAGES.iter().map(|stage| cpu(stage)).sum();
        let alone = |stage: &'static str| median(per_record.iter().map(|costs| 1.0 / alone(stage, costs, cores, self.slots)));
        let (first, seen) = (best(&rates[0]), &rates[0]);
        Report {
            records,
            failed: last.counts.failed,
            chunks: last.counts.chunks,
            bytes_read: last.usage.bytes_read,
            bytes_written: last.usage.bytes_written,
            cores,
            runs: jobs.len(),
            job: JobCost {
                seconds: of_jobs(|j| j.seconds),
                records_per_second: of_jobs(|j| j.records_per_second),
                cpu_seconds: of_jobs(|j| j.cpu_seconds),
                elsewhere_cpu_seconds: of_jobs(|j| j.elsewhere_cpu_seconds),
                peak_bytes: jobs.iter().map(|ran| ran.cost.peak_bytes).max().unwrap_or_default(),
            },
            stages: STAGES
                .iter()
                .map(|stage| StageCost {
                    stage,
                    cpu_microseconds_per_record: cpu(stage) * 1e6,
                    share: cpu(stage) / all,
                    records_per_second: alone(stage),
                })
                .collect(),
            bound: Bound { records_per_second: of_runs(|r| r.bound_records_per_second), set_by: bounds[0].set_by },
            runtime: RuntimeLimit {
                records_per_second: of_runs(|r| r.runtime_records_per_second),
                batch_size: first.batch_size,
                sessions: first.sessions,
                threads: first.threads,
                tried: seen
                    .iter()
                    .map(|r| Tried {
                        batch_size: r.batch_size,
                        sessions: r.sessions,
                        threads: r.threads,
                        records_per_second: r.records_per_second,
                    })
                    .collect(),
            },
            ratio_to_bound: of_runs(|r| r.to_bound),
            ratio_to_runtime: of_runs(|r| r.to_runtime),
            each_run,
            output,
        }
    }
}

/// What a record costs, stage by stage. What is fetched counts by its bytes: where chunks are slices, whole objects were fetched for them.
fn a_record(stages: &Stages, bytes_read: f64) -> BTreeMap<&'static str, Cost> {
    let records = stages.records.max(1) as f64;
    let share = |stage: &str| if stage == "fetch" { bytes_read / stages.fetched.max(1) as f64 } else { 1.0 / records };
    stages.costs.iter().map(|(stage, cost)| (*stage, Cost { cpu: cost.cpu * share(stage), clock: cost.clock * share(stage) })).collect()
}

/// Seconds a record of one stage with nothing beside it: computing goes on on all cores, and several chunks wait for the store at once.
fn alone(stage: &str, costs: &BTreeMap<&'static str, Cost>, cores: usize, slots: usize) -> f64 {
    let Some(cost) = costs.get(stage) else { return 0.0 };
    let computing = cost.cpu / cores as f64;
    match stage {
        "fetch" => computing.max(cost.clock),
        "put" => computing.max(cost.clock / slots as f64),
        _ => computing,
    }
}

/// All processor time of the stages on all cores, or the slowest stage if that takes longer.
fn bound(costs: &BTreeMap<&'static str, Cost>, cores: usize, slots: usize) -> Bound {
    let processor = costs.values().map(|cost| cost.cpu).sum::<f64>() / cores as f64;
    let slowest = STAGES.iter().map(|stage| (*stage, alone(stage, costs, cores, slots))).max_by(|a, b| a.1.total_cmp(&b.1));
    match slowest {
        Some((stage, seconds)) if seconds > processor => Bound { records_per_second: 1.0 / seconds, set_by: stage },
        _ => Bound { records_per_second: 1.0 / processor, set_by: "processor" },
    }
}

fn best(rates: &[Rate]) -> Rate {
    let best = rates.iter().copied().max_by(|a, b| a.records_per_second.total_cmp(&b.records_per_second));
    best.unwrap_or(Rate { batch_size: 1, sessions: 1, threads: 1, records_per_second: f64::NAN })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, Stop> {
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?.map_err(Stop::from)
}

impl Report {
    fn for_people(&self) -> String {
        let rate = |rate: f64| format!("{rate:.0} records/s");
        let mut text = show::pairs([
            (
                "records".to_owned(),
                format!(
                    "{} in {} chunks, {} of them errors; {} bytes read, {} written",
                    self.records, self.chunks, self.failed, self.bytes_read, self.bytes_written
                ),
            ),
            (
                "job".to_owned(),
                format!(
                    "{}: {:.2} s from POST to completed, the median of {} runs",
                    rate(self.job.records_per_second),
                    self.job.seconds,
                    self.runs
                ),
            ),
            (
                "processor".to_owned(),
                format!(
                    "{:.2} s of {} cores; {:.2} s more elsewhere on this machine",
                    self.job.cpu_seconds, self.cores, self.job.elsewhere_cpu_seconds
                ),
            ),
            ("memory".to_owned(), format!("{} MiB, the most that the runner has had", self.job.peak_bytes >> 20)),
            (
                "bound".to_owned(),
                format!(
                    "{}, set by {}: the job reaches {:.0} %",
                    rate(self.bound.records_per_second),
                    match self.bound.set_by {
                        "processor" => "all stages' processor time",
                        stage => stage,
                    },
                    self.ratio_to_bound * 100.0
                ),
            ),
            (
                "runtime alone".to_owned(),
                format!(
                    "{} at {} records a call in {} sessions of {} threads: the job reaches {:.0} %",
                    rate(self.runtime.records_per_second),
                    self.runtime.batch_size,
                    self.runtime.sessions,
                    self.runtime.threads,
                    self.ratio_to_runtime * 100.0
                ),
            ),
        ]);
        text.push('\n');
        let rows = self.stages.iter().map(|s| {
            vec![
                s.stage.to_owned(),
                format!("{:.3}", s.cpu_microseconds_per_record),
                format!("{:.0} %", s.share * 100.0),
                format!("{:.0}", s.records_per_second),
            ]
        });
        text += &show::columns(&["STAGE", "CPU µs A RECORD", "SHARE", "RECORDS/S ALONE"], rows);
        text.push('\n');
        let rows = self
            .runtime
            .tried
            .iter()
            .map(|t| vec![t.batch_size.to_string(), format!("{} × {}", t.sessions, t.threads), format!("{:.0}", t.records_per_second)]);
        text += &show::columns(&["BATCH SIZE", "SESSIONS × THREADS", "RUNTIME ALONE, RECORDS/S"], rows);
        text += &format!("\nThe results of every run are at {}run-0/ to run-{}/.\n", self.output, self.runs);
        text
    }
}
