//! The runner's process: frames in, frames out.
//!
//! The socket is the process's standard input: nothing else has to be inherited, and its end is the supervisor's end.

use std::{
    io::{self, BufReader},
    os::{fd::AsFd, unix::net::UnixStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use super::{
    engine::Engine,
    infer,
    models::lock,
    protocol::{FromRunner, ToRunner, read_frame, write_frame},
};
use crate::{
    objects::{self, Stores},
    telemetry::tally::Tally,
};

/// How often the runner tells what it is doing.
const BEAT: Duration = Duration::from_millis(250);

/// What a runner is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// The ONNX Runtime library.
    pub library: PathBuf,
    /// Sessions, one thread each.
    pub workers: usize,
    /// How to reach the stores: as the service does.
    pub stores: objects::Options,
}

/// Runs until the supervisor closes the socket or says `Drain`.
///
/// # Errors
/// When the library cannot be loaded or the socket fails.
pub fn run(options: Options) -> io::Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let runtime = infer::init_runtime(&options.library).map_err(io::Error::other)?;
    let io_threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("store").enable_all().build()?;
    let tally = Tally::default();
    let stores = Stores::new(options.stores).map_err(io::Error::other)?.counted(tally.clone());
    let engine = Engine::start(stores, io_threads.handle().clone(), runtime.clone(), options.workers.max(1), tally)?;

    let out = Arc::new(Mutex::new(socket.try_clone()?));
    send(&out, &FromRunner::Ready { runtime });
    {
        let (out, engine) = (out.clone(), engine.clone());
        thread::Builder::new().name("beat".to_owned()).spawn(move || {
            loop {
                send(&out, &engine.beat());
                thread::sleep(BEAT);
            }
        })?;
    }

    let mut frames = BufReader::new(socket);
    loop {
        match read_frame::<ToRunner>(&mut frames) {
            Ok(Some(ToRunner::Run(task))) => {
                let (out, counted) = (out.clone(), engine.clone());
                engine.run(*task, move |answer| {
                    // Ahead of the end of the attempt, so that whoever hears of that has heard of what it took.
                    send(&out, &counted.beat());
                    send(&out, &answer);
                });
            }
            Ok(Some(ToRunner::Sample(task))) => {
                let out = out.clone();
                engine.sample(*task, move |answer| send(&out, &answer));
            }
            Ok(Some(ToRunner::Cancel { attempt })) => engine.cancel(attempt),
            Ok(Some(ToRunner::Drain)) => {
                while engine.in_flight() > 0 {
                    thread::sleep(Duration::from_millis(20));
                }
                send(&out, &FromRunner::Goodbye);
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

fn send(out: &Mutex<UnixStream>, frame: &FromRunner) {
    if let Err(error) = write_frame(&mut *lock(out), frame) {
        tracing::debug!(%error, "the supervisor is gone");
        exit();
    }
}

/// Ends the process at once, by a signal to itself: exit handlers of loaded providers are not run, as CUDA's is known to
/// abort after correct work. The supervisor goes by the last frame, not by the status.
fn exit() -> ! {
    let _cannot_fail = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}
