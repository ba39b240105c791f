//! The runner's process: frames in, frames out.
//!
//! The socket is the process's standard input: nothing else has to be inherited, and its end is the supervisor's end.

use std::{
    fs,
    io::{self, BufReader},
    os::{fd::AsFd, unix::net::UnixStream},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit};

use super::{
    device_memory::DeviceMemory,
    direct::{self, Outputs},
    engine::{Engine, Reach},
    infer,
    protocol::{FromRunner, InferTask, ToRunner, read_frame},
    voice::Voice,
    worker::panic_text,
};
use crate::{
    domain::Problem,
    objects::{self, Stores},
    tables::Connections,
    telemetry::tally::Tally,
};

/// How often the runner tells what it is doing.
const BEAT: Duration = Duration::from_millis(250);
/// How often it looks what holds its attempts up.
const LOOK: Duration = Duration::from_millis(10);

/// What a runner is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The ONNX Runtime library.
    pub library: PathBuf,
    /// Sessions, one thread each.
    pub workers: usize,
    /// How to reach the stores: as the service does.
    pub stores: objects::Options,
    /// How to reach the databases of tables: as the service does.
    pub connections: Connections,
    /// Most memory of the process, bytes.
    pub memory_limit: Option<u64>,
    /// What it computes on.
    pub device: infer::Device,
}

/// Runs until the supervisor closes the socket or says `Drain`.
///
/// # Errors
/// When the library cannot be loaded or the socket fails.
pub fn run(options: Options) -> io::Result<()> {
    first_to_go();
    if let Some(bytes) = options.memory_limit {
        limit_memory(bytes)?;
    }
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let runtime = infer::init_runtime(&options.library).map_err(io::Error::other)?;
    let io_threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("store").enable_all().build()?;
    let tally = Tally::default();
    let stores = Stores::new(options.stores).map_err(io::Error::other)?.counted(tally.clone());
    let voice = Voice::new(socket.try_clone()?);
    let (workers, device) = (options.workers.max(1), options.device);
    let reach = Reach { stores, connections: options.connections, handle: io_threads.handle().clone() };
    let engine = Engine::start(reach, runtime.clone(), workers, device, tally, voice.clone())?;

    voice.say(&FromRunner::Ready { runtime });
    {
        let (voice, engine) = (voice.clone(), engine.clone());
        thread::Builder::new().name("beat".to_owned()).spawn(move || {
            loop {
                voice.say(&engine.beat());
                thread::sleep(BEAT);
            }
        })?;
    }

    {
        let engine = engine.clone();
        thread::Builder::new().name("look".to_owned()).spawn(move || {
            let mut last = Instant::now();
            for turn in 0.. {
                let now = Instant::now();
                let busy = engine.look(turn, now - last);
                last = now;
                thread::sleep(if busy { LOOK } else { BEAT });
            }
        })?;
    }

    if device.memory_limit.is_some() {
        watch_memory(&engine)?;
    }

    let mut frames = BufReader::new(socket);
    loop {
        match read_frame::<ToRunner>(&mut frames) {
            Ok(Some(ToRunner::Run(task))) => {
                let (voice, counted) = (voice.clone(), engine.clone());
                engine.run(*task, move |answer| {
                    // Ahead of the end of the attempt, so that whoever hears of that has heard of what it took.
                    voice.say(&counted.beat());
                    voice.say(&answer);
                });
            }
            Ok(Some(ToRunner::Sample(task))) => {
                let voice = voice.clone();
                engine.sample(*task, move |answer| voice.say(&answer));
            }
            Ok(Some(ToRunner::Infer(task))) => {
                let voice = voice.clone();
                thread::Builder::new().name("infer".to_owned()).spawn(move || voice.say(&direct_answer(*task)))?;
            }
            Ok(Some(ToRunner::Cancel { attempt })) => engine.cancel(attempt),
            Ok(Some(ToRunner::Drain)) => {
                while engine.in_flight() > 0 {
                    thread::sleep(Duration::from_millis(20));
                }
                voice.say(&FromRunner::Goodbye);
                exit();
            }
            // The supervisor is gone: whatever is in flight has no owner any more.
            Ok(None) => exit(),
            Err(error) => {
                tracing::error!(%error, "the supervisor's frames cannot be read");
                exit();
            }
        }
    }
}

/// Asks the driver what the process holds of its device's memory, on a thread of its own: a driver in trouble may not answer.
fn watch_memory(engine: &Arc<Engine>) -> io::Result<()> {
    let memory = match DeviceMemory::open() {
        Ok(memory) => memory,
        Err(error) => {
            tracing::info!(%error, "the driver's library cannot be asked");
            return Ok(());
        }
    };
    let engine = engine.clone();
    thread::Builder::new().name("device".to_owned()).spawn(move || {
        loop {
            engine.holds(memory.held(engine.has_model()));
            thread::sleep(BEAT);
        }
    })?;
    Ok(())
}

fn direct_answer(task: InferTask) -> FromRunner {
    let done = catch_unwind(AssertUnwindSafe(|| direct::infer(task)));
    match done {
        Ok(Ok(Outputs { tensors, left_out })) => FromRunner::Inferred { outputs: tensors, left_out },
        Ok(Err(problem)) => FromRunner::Failed { attempt: 0, problem, retryable: false },
        Err(panic) => {
            let problem = Problem::new("internal_error", "The runner met a fault of its own", panic_text(&*panic));
            FromRunner::Failed { attempt: 0, problem, retryable: false }
        }
    }
}

/// When memory runs out, the kernel takes this process and not the service. Any process may ask for that.
fn first_to_go() {
    if let Err(error) = fs::write("/proc/self/oom_score_adj", "1000") {
        tracing::debug!(%error, "the kernel treats this process as any other when memory runs out");
    }
}

/// Beyond the limit, allocations fail. It counts private writable memory, as this process has asked for it: not the address space that
/// CUDA reserves, nor files that are mapped.
fn limit_memory(bytes: u64) -> io::Result<()> {
    rustix::process::setrlimit(Resource::Data, Rlimit { current: Some(bytes), maximum: Some(bytes) })?;
    Ok(())
}

/// Ends the process at once, by a signal to itself: exit handlers of loaded providers are not run, as CUDA's is known to
/// abort after correct work. The supervisor goes by the last frame, not by the status.
pub(super) fn exit() -> ! {
    let _cannot_fail = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}
