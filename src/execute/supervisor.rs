//! Keeps one runner process alive and speaks with it.
//!
//! In: chunk tasks. Out: how each attempt ended, and what device time it held. The process is started with the first task, and again
//! after it died or was idle for so long that it was let go. It is killed
//! when it stops answering or takes no frames, when a model does not finish loading, or when a batch past its deadline does not let go.

use std::{
    collections::HashMap,
    io,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::{
    net::UnixStream,
    process::{Child, Command},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    device_limit::DeviceLimit,
    frames::{self, Outbox},
    meter::{Held, Meter},
};
use crate::{
    domain::{ChunkResult, Loss, Place, Problem, isolation::End},
    objects,
    runner::protocol::{Busy, ChunkTask, FromRunner, ToRunner},
    tables::Connections,
    telemetry::{LogFormat, Metrics, metrics::RunnerEnd},
};

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(200);
/// A runner says several times a second what it does; one that is silent this long is stopped or starved.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a runner may take to load the runtime library.
const START: Duration = Duration::from_secs(60);
/// How long an attempt may take to stop once asked.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// How to run runners.
#[derive(Debug, Clone)]
pub struct RunnerOptions {
    /// The program: this same binary.
    pub program: PathBuf,
    /// The ONNX Runtime library.
    pub library: PathBuf,
    /// Threads of a runner that prepare records and run the model.
    pub workers: usize,
    /// Devices by number, each with a runner of its own; one at least.
    pub devices: Vec<u32>,
    /// Most memory of a runner on its device, bytes.
    pub device_memory_limit: Option<u64>,
    /// Most memory of the process, bytes.
    pub memory_limit: Option<u64>,
    /// How the runner reaches the stores.
    pub stores: objects::Options,
    /// How it reaches the databases of tables.
    pub connections: Connections,
    /// How long a model may take to load.
    pub load_timeout: Duration,
    /// How long one batch may stay in the runtime.
    pub batch_timeout: Duration,
    /// How long a runner that has nothing to do keeps its models, and is kept itself.
    pub idle_unload: Duration,
    /// How the runner's log lines look: as this process's.
    pub log_format: LogFormat,
    /// What the runner logs.
    pub log: String,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The part is in the bucket.
    Done(Box<ChunkResult>),
    /// It could not be finished.
    Failed { problem: Problem, retryable: bool },
    /// Something that it needs, and that is nobody's fault here, is away.
    Away(Problem),
    /// It was stopped: on request, or because its process had to be killed for another's fault.
    Stopped,
    /// Its process died, or its batch did not end.
    Lost(Box<Loss>),
}

/// An attempt that is over.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) ended: Ended,
    pub(super) held: Held,
}

impl Ran {
    /// One that no runner was handed.
    pub(super) fn nowhere(ended: Ended) -> Self {
        Self { ended, held: Held::default() }
    }
}

#[derive(Debug)]
enum Request {
    Run(Box<ChunkTask>, oneshot::Sender<Ran>),
    Cancel(u64),
    Shutdown(oneshot::Sender<()>),
}

/// Why no runner can be had, if none can; cheap to clone.
#[derive(Debug, Clone)]
pub struct RunnerStatus {
    library: PathBuf,
    failed: Arc<Mutex<Option<String>>>,
}

impl RunnerStatus {
    /// With this library; no start was tried yet.
    pub fn new(library: PathBuf) -> Self {
        Self { library, failed: Arc::default() }
    }

    /// One sentence: the library is gone, or why the last start failed. `None` when a runner can be had, as far as is known: it is
    /// started with the first chunk.
    pub fn trouble(&self) -> Option<String> {
        if !self.library.is_file() {
            return Some(format!("the ONNX Runtime library {} is no file any more", self.library.display()));
        }
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, failed: Option<String>) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
    }
}

/// Whether a runner's memory and processor time are those that the metrics show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Yes,
    No,
}

/// A handle on one supervised runner; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Supervisor {
    commands: mpsc::Sender<Request>,
    status: RunnerStatus,
}

impl Supervisor {
    /// Starts the task that owns the process.
    pub(super) fn start(options: RunnerOptions, metrics: Metrics, shown: Shown) -> (Self, JoinHandle<()>) {
        // Commands are few and answered at once; the bound only has to exceed the chunks in flight.
        let (commands, receive) = mpsc::channel(64);
        let status = RunnerStatus::new(options.library.clone());
        let now = Instant::now();
        let meter = Meter::new(options.workers, now);
        let device_limit = DeviceLimit::new(options.devices.first().copied().unwrap_or_default(), options.device_memory_limit);
        let actor = Actor {
            options,
            metrics,
            shown,
            status: status.clone(),
            process: None,
            attempts: HashMap::new(),
            device_limit,
            waiting: Vec::new(),
            meter,
            worked: now,
            failed_starts: 0,
        };
        (Self { commands, status }, tokio::spawn(actor.run(receive)))
    }

    /// Whether a runner can be had.
    pub(super) fn status(&self) -> RunnerStatus {
        self.status.clone()
    }

    /// Runs one attempt to its end.
    pub(super) async fn run(&self, task: ChunkTask) -> Ran {
        let (reply, ran) = oneshot::channel();
        if self.commands.send(Request::Run(Box::new(task), reply)).await.is_err() {
            return Ran::nowhere(Ended::Stopped);
        }
        ran.await.unwrap_or_else(|_| Ran::nowhere(Ended::Stopped))
    }

    /// Asks an attempt to stop; its `run` returns.
    pub(super) async fn cancel(&self, attempt: u64) {
        let _gone = self.commands.send(Request::Cancel(attempt)).await;
    }

    /// Ends the process: politely when nothing is in flight, by a kill otherwise.
    pub(super) async fn shutdown(&self) {
        let (reply, done) = oneshot::channel();
        if self.commands.send(Request::Shutdown(reply)).await.is_ok() {
            let _gone = done.await;
        }
    }
}

struct InFlight {
    task: Box<ChunkTask>,
    reply: oneshot::Sender<Ran>,
    /// When it was asked to stop.
    stopping: Option<Instant>,
    /// Why it was asked to stop, if not on request.
    verdict: Option<Box<Loss>>,
    /// What it said last that it was at, and how many records had passed.
    at: (Place, u64),
}

impl InFlight {
    fn loss(&self, end: End, problem: Problem) -> Box<Loss> {
        let (place, passed) = self.at;
        Box::new(Loss { end, place, passed, problem })
    }
}

pub(super) struct Process {
    pub(super) child: Child,
    pub(super) frames: mpsc::Receiver<FromRunner>,
    pub(super) outbox: Outbox,
    started: Instant,
    /// Since when.
    ready: Option<Instant>,
    heard: Instant,
}

struct Actor {
    options: RunnerOptions,
    metrics: Metrics,
    shown: Shown,
    status: RunnerStatus,
    process: Option<Process>,
    attempts: HashMap<u64, InFlight>,
    device_limit: DeviceLimit,
    /// For the next process.
    waiting: Vec<(Box<ChunkTask>, oneshot::Sender<Ran>)>,
    meter: Meter,
    /// When the process last had something to do.
    worked: Instant,
    failed_starts: u32,
}

impl Actor {
    async fn run(mut self, mut commands: mpsc::Receiver<Request>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Request::Run(task, reply)) => self.begin(task, reply),
                    Some(Request::Cancel(attempt)) => self.cancel(attempt, None),
                    Some(Request::Shutdown(reply)) => {
                        self.leave_waiting();
                        self.shutdown().await;
                        let _gone = reply.send(());
                    }
                    None => return self.shutdown().await,
                },
                frame = next_frame(&mut self.process) => match frame {
                    Some(frame) => self.hear(frame).await,
                    None => self.died().await,
                },
                // Without a process there is nothing to look at: an idle service sleeps.
                _ = tick.tick(), if self.process.is_some() => self.check().await,
            }
            self.replace().await;
        }
    }

    /// The device of its runner.
    fn device(&self) -> u32 {
        self.options.devices.first().copied().unwrap_or_default()
    }

    fn show(&self, pid: Option<u32>) {
        if self.shown == Shown::Yes {
            self.metrics.runner_is(self.device(), pid);
        }
    }

    fn begin(&mut self, task: Box<ChunkTask>, reply: oneshot::Sender<Ran>) {
        if self.device_limit.is_beyond() {
            self.waiting.push((task, reply));
            return;
        }
        if self.process.is_none() {
            match spawn(&self.options) {
                Ok(process) => {
                    self.show(process.child.id());
                    self.device_limit.started();
                    self.process = Some(process);
                }
                Err(error) => {
                    self.metrics.runner_ended(RunnerEnd::NotStarted);
                    self.status.set(Some(format!("the runner process could not be started: {error}")));
                    let problem = Problem::new("runner_not_started", "The runner process could not be started", error.to_string());
                    let _gone = reply.send(Ran::nowhere(Ended::Failed { problem, retryable: true }));
                    return;
                }
            }
        }
        let attempt = task.attempt;
        let frame = ToRunner::Run(task.clone());
        self.meter.begin(attempt, &task.providers, Instant::now());
        self.attempts.insert(attempt, InFlight { task, reply, stopping: None, verdict: None, at: (Place::Elsewhere, 0) });
        self.send(&frame);
    }

    fn send(&mut self, frame: &ToRunner) {
        if let Some(process) = &mut self.process {
            process.outbox.send(frame);
        }
    }

    fn cancel(&mut self, attempt: u64, verdict: Option<Box<Loss>>) {
        if let Some(at) = self.waiting.iter().position(|(task, _)| task.attempt == attempt) {
            let _gone = self.waiting.swap_remove(at).1.send(Ran::nowhere(Ended::Stopped));
            return;
        }
        let Some(in_flight) = self.attempts.get_mut(&attempt) else { return };
        in_flight.stopping.get_or_insert_with(Instant::now);
        if in_flight.verdict.is_none() {
            in_flight.verdict = verdict;
        }
        self.send(&ToRunner::Cancel { attempt });
    }

    async fn hear(&mut self, frame: FromRunner) {
        if let Some(process) = &mut self.process {
            process.heard = Instant::now();
        }
        match frame {
            FromRunner::Ready { runtime } => {
                self.failed_starts = 0;
                self.status.set(None);
                if let Some(process) = &mut self.process {
                    process.ready = Some(Instant::now());
                }
                tracing::info!(runtime, device = self.device(), workers = self.options.workers, "runner is ready, ONNX Runtime {runtime}");
            }
            FromRunner::Beat { loading, busy, counts, device_memory, .. } => {
                self.metrics.add(counts);
                if self.device_limit.weigh(device_memory) {
                    self.metrics.runner_ended(RunnerEnd::DeviceMemory);
                }
                let load_ms = self.options.load_timeout.as_millis() as u64;
                if let Some(loading) = loading.filter(|l| l.for_ms > load_ms) {
                    return self.loading_too_long(&loading.attempts).await;
                }
                let batch_ms = self.options.batch_timeout.as_millis() as u64;
                for busy in busy.into_iter().filter(|b| b.for_ms > batch_ms) {
                    let problem = batch_timeout(&self.options, &busy);
                    let passed = self.attempts.get(&busy.attempt).map_or(0, |in_flight| in_flight.at.1);
                    let loss = Loss { end: End::Timeout, place: Place::Records(busy.span), passed, problem };
                    self.cancel(busy.attempt, Some(Box::new(loss)));
                }
            }
            FromRunner::Done { attempt, result } => {
                self.device_limit.done();
                self.end(attempt, Ended::Done(result));
            }
            FromRunner::Failed { attempt, problem, retryable } => self.end(attempt, Ended::Failed { problem, retryable }),
            FromRunner::Stopped { attempt } => match self.attempts.get_mut(&attempt).and_then(|a| a.verdict.take()) {
                Some(loss) => self.end(attempt, Ended::Lost(loss)),
                None => self.end(attempt, Ended::Stopped),
            },
            FromRunner::At { attempt, place, passed } => {
                if let Some(in_flight) = self.attempts.get_mut(&attempt) {
                    in_flight.at = (place, passed);
                }
            }
            // A supervised runner is asked for chunks alone.
            FromRunner::Sampled { .. } | FromRunner::Inferred { .. } | FromRunner::Goodbye => {}
        }
    }

    fn end(&mut self, attempt: u64, ended: Ended) {
        if let Some(in_flight) = self.attempts.remove(&attempt) {
            self.answer(attempt, in_flight, |_| ended);
        }
    }

    /// Ends every attempt, each in its way.
    fn end_all(&mut self, ended: impl Fn(&mut InFlight) -> Ended) {
        for (attempt, in_flight) in std::mem::take(&mut self.attempts) {
            self.answer(attempt, in_flight, &ended);
        }
    }

    fn leave_waiting(&mut self) {
        for (_, reply) in self.waiting.drain(..) {
            let _gone = reply.send(Ran::nowhere(Ended::Stopped));
        }
    }

    /// Lets a runner go that is beyond its limit and has nothing in hand any more, and hands what waited to the next one.
    async fn replace(&mut self) {
        if self.process.is_some() && self.device_limit.is_beyond() && self.attempts.is_empty() {
            self.shutdown().await;
        }
        if self.process.is_none() && !self.waiting.is_empty() {
            self.device_limit.started();
            for (task, reply) in std::mem::take(&mut self.waiting) {
                self.begin(task, reply);
            }
        }
    }

    fn answer(&mut self, attempt: u64, mut in_flight: InFlight, ended: impl FnOnce(&mut InFlight) -> Ended) {
        self.worked = Instant::now();
        let held = self.meter.end(attempt, self.worked);
        let ended = ended(&mut in_flight);
        let _gone = in_flight.reply.send(Ran { ended, held });
    }

    /// Loading cannot be interrupted from inside: the process goes, and with it, at no cost to them, the other attempts.
    async fn loading_too_long(&mut self, attempts: &[u64]) {
        for attempt in attempts {
            self.end(*attempt, Ended::Failed { problem: load_timeout(&self.options), retryable: false });
        }
        self.metrics.runner_ended(RunnerEnd::LoadTimeout);
        self.kill("a model did not finish loading").await;
    }

    async fn check(&mut self) {
        let Some(process) = &self.process else { return };
        let silent = if process.ready.is_some() { process.heard.elapsed() > SILENCE } else { process.started.elapsed() > START };
        let deaf = process.ready.is_some_and(|ready| process.outbox.is_deaf(ready));
        let stuck = self.attempts.values().any(|a| a.stopping.is_some_and(|since| since.elapsed() > STOP_GRACE));
        if silent {
            let problem = Problem::new("runner_crash", "The runner process died", "it stopped answering and was killed");
            self.end_all(|in_flight| Ended::Lost(in_flight.verdict.take().unwrap_or_else(|| in_flight.loss(End::Kill, problem.clone()))));
            self.metrics.runner_ended(RunnerEnd::Silent);
            self.kill("it stopped answering").await;
        } else if deaf {
            self.metrics.runner_ended(RunnerEnd::Silent);
            self.kill("it takes no frames").await;
        } else if stuck {
            self.metrics.runner_ended(RunnerEnd::Stuck);
            self.kill("an attempt did not stop when asked").await;
        } else if self.attempts.is_empty() && self.worked.elapsed() > self.options.idle_unload {
            tracing::info!("the runner has had nothing to do for {:?} and is let go", self.options.idle_unload);
            self.shutdown().await;
        }
    }

    /// Kills the process; attempts that were asked to stop end with their verdict, the others are stopped at no cost to them.
    async fn kill(&mut self, why: &str) {
        tracing::warn!("the runner is killed: {why}");
        self.show(None);
        if let Some(mut process) = self.process.take()
            && let Err(error) = process.child.kill().await
        {
            tracing::debug!(%error, "the runner was gone already");
        }
        self.end_all(|in_flight| in_flight.verdict.take().map_or(Ended::Stopped, Ended::Lost));
    }

    /// The frames ended: the process is dead or about to be.
    async fn died(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        self.show(None);
        self.metrics.runner_ended(if process.ready.is_some() { RunnerEnd::Crashed } else { RunnerEnd::NotStarted });
        let (end, status) = match tokio::time::timeout(Duration::from_secs(5), process.child.wait()).await {
            Ok(Ok(status)) => (end_of(status), status_text(status, self.options.memory_limit)),
            _ => {
                let _gone = process.child.kill().await;
                (End::Kill, "it closed its socket without exiting".to_owned())
            }
        };
        if process.ready.is_none() {
            self.failed_starts += 1;
            let detail = format!(
                "it ended before it was ready ({status}); its log above says why, most often an unusable ONNX Runtime library at {}",
                self.options.library.display()
            );
            tracing::error!("the runner did not start: {detail}");
            self.status.set(Some(format!("the runner did not start: {detail}")));
            let problem = Problem::new("runner_not_started", "The runner process could not be started", detail);
            tokio::time::sleep(Duration::from_millis(200 * u64::from(self.failed_starts.min(25)))).await;
            // A start that fails by itself will fail again; one that was ended from outside says nothing about the next.
            self.end_all(|in_flight| match end {
                End::Kill => Ended::Lost(in_flight.loss(end, problem.clone())),
                End::Fault | End::Timeout => Ended::Failed { problem: problem.clone(), retryable: true },
            });
            return;
        }
        let lost = self.attempts.len();
        tracing::warn!(status, lost, "the runner died ({status}) with {lost} chunks in flight");
        let problem = Problem::new("runner_crash", "The runner process died", format!("it ended with {status}"));
        self.end_all(|in_flight| {
            tracing::debug!(chunk = in_flight.task.chunk, "attempt lost with its runner");
            Ended::Lost(in_flight.verdict.take().unwrap_or_else(|| in_flight.loss(end, problem.clone())))
        });
    }

    async fn shutdown(&mut self) {
        if !self.attempts.is_empty() {
            return self.kill("the service stops").await;
        }
        self.show(None);
        self.send(&ToRunner::Drain);
        if let Some(mut process) = self.process.take()
            && tokio::time::timeout(Duration::from_secs(2), process.child.wait()).await.is_err()
        {
            let _gone = process.child.kill().await;
        }
    }
}

/// Whether a process ended by its own doing. Signals that it can only mean are sent by itself or by its own fault; all others come from
/// outside.
fn end_of(status: ExitStatus) -> End {
    const OWN: [Signal; 7] = [Signal::ABORT, Signal::SEGV, Signal::BUS, Signal::FPE, Signal::ILL, Signal::TRAP, Signal::SYS];
    match status.signal() {
        Some(signal) if !OWN.iter().any(|own| own.as_raw() == signal) => End::Kill,
        _ => End::Fault,
    }
}

/// How a process ended, and what its memory may have to do with it.
pub(super) fn status_text(status: ExitStatus, memory_limit: Option<u64>) -> String {
    let signal = status.signal();
    // A failed allocation aborts.
    let aborted = signal == Some(Signal::ABORT.as_raw());
    match memory_limit {
        Some(bytes) if aborted => format!("{status}; its memory is limited to {bytes} bytes (--runner-memory-limit), which may be why"),
        _ if signal == Some(Signal::KILL.as_raw()) => {
            format!("{status}; that comes from outside, most often from the kernel when the machine is out of memory")
        }
        _ => status.to_string(),
    }
}

/// Why an attempt ends whose batch stays in the runtime.
pub(super) fn batch_timeout(options: &RunnerOptions, busy: &Busy) -> Problem {
    let seconds = options.batch_timeout.as_secs_f64();
    let detail = format!(
        "a batch of {} records was still running after {seconds} s (--batch-timeout); give the model less work at once with \
         execution.batch_size, or raise the limit",
        busy.records
    );
    Problem::new("inference_timeout", "A batch did not finish in time", detail)
}

/// Why an attempt ends whose model does not finish loading.
pub(super) fn load_timeout(options: &RunnerOptions) -> Problem {
    let seconds = options.load_timeout.as_secs_f64();
    let detail = format!("the runtime was still loading the model after {seconds} s (--load-timeout)");
    Problem::new("model_load_timeout", "The model did not finish loading", detail)
}

/// The next frame of the process; never ready while there is none.
async fn next_frame(process: &mut Option<Process>) -> Option<FromRunner> {
    match process {
        Some(process) => process.frames.recv().await,
        None => std::future::pending().await,
    }
}

pub(super) fn spawn(options: &RunnerOptions) -> io::Result<Process> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = Command::new(&options.program);
    let format = if options.log_format == LogFormat::Text { "text" } else { "auto" };
    let format = if options.log_format == LogFormat::Json { "json" } else { format };
    command.args(["--log-format", format, "--log", &options.log]);
    command.arg("runner").arg("--library").arg(&options.library).arg("--workers").arg(options.workers.to_string());
    let manners = options.stores.manners;
    command.arg("--store-timeout").arg(manners.timeout.as_secs_f64().to_string());
    command.arg("--store-requests").arg(manners.requests.to_string());
    for root in &options.stores.file_roots {
        command.arg("--file-root").arg(root);
    }
    command.arg("--device").arg(options.devices.first().copied().unwrap_or_default().to_string());
    if let Some(bytes) = options.device_memory_limit {
        command.arg("--device-memory-limit").arg(bytes.to_string());
    }
    if let Some(bytes) = options.memory_limit {
        command.arg("--memory-limit").arg(bytes.to_string());
    }
    if !options.stores.buckets.is_empty() {
        command.arg("--buckets").arg(serde_json::to_string(&options.stores.buckets)?);
    }
    if !options.connections.settings().is_empty() {
        command.arg("--connections").arg(serde_json::to_string(options.connections.settings())?);
    }
    // What has no business with the database knows no way to it.
    command.env_remove("DATABASE_URL");
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs))).stdout(Stdio::null()).kill_on_drop(true);
    let child = command.spawn()?;
    // The command still holds the runner's end of the socket: with it open here, the end of the process would go unseen.
    drop(command);
    let (outbox, frames) = frames::over(UnixStream::from_std(ours)?);
    let now = Instant::now();
    Ok(Process { child, frames, outbox, started: now, ready: None, heard: now })
}
