//! One executable, its roles are subcommands, a file each.

mod bench;
mod client;
mod config_show;
mod definition;
mod demo;
mod doctor;
mod download;
mod healthcheck;
mod inspect;
mod jobs;
mod models;
mod npy;
mod pages;
mod parity;
mod processes;
mod runner;
mod schedules;
mod serve;
mod show;
mod sse;
mod stop;
mod submit;
mod usage;
mod verify;
mod watch;

use std::process::ExitCode;

use crate::{
    app::Role,
    config::{self, BucketSections, Command},
    domain::Uri,
    objects::{self, Manners, Stores},
    tables::Connections,
    telemetry::{self, Traces},
};
use stop::Stop;

/// Runs what the command line asks for.
pub fn run() -> ExitCode {
    let cli = match config::load() {
        Ok(cli) => cli,
        Err(error) => return Stop::usage(error).exit(),
    };
    // The service alone has something to trace; its runner tells it what it does.
    let traces = match &cli.command {
        Command::Serve(_) | Command::Worker(_) => Traces::from_environment(),
        _ => Ok(None),
    };
    let traces = match traces.and_then(|traces| telemetry::init(cli.log_format, &cli.log, traces.as_ref()).map(|()| traces)) {
        Ok(traces) => traces,
        Err(error) => return Stop::usage(error).exit(),
    };
    let done = match cli.command {
        Command::Serve(settings) => serve::run(*settings, Role::Serve, cli.sections, cli.log_format, &cli.log).map_err(Stop::from),
        Command::Worker(settings) => serve::run(*settings, Role::Worker, cli.sections, cli.log_format, &cli.log).map_err(Stop::from),
        Command::Migrate(settings) => serve::migrate(&settings).map_err(Stop::from),
        Command::Demo(settings) => demo::run(&settings).map_err(Stop::from),
        Command::Submit(settings) => submit::run(&settings),
        Command::Bench(settings) => bench::run(&settings, cli.sections, cli.log_format, &cli.log),
        Command::Jobs(settings) => jobs::run(settings),
        Command::Schedules(settings) => schedules::run(settings),
        Command::Usage(settings) => usage::run(&settings),
        Command::Models(settings) => inspect::run(settings, cli.sections.buckets),
        Command::Verify(settings) => verify::run(&settings, cli.sections.buckets),
        Command::Doctor(settings) => doctor::run(*settings, cli.sections.buckets, Connections::new(cli.sections.connections)),
        Command::Config(settings) => config_show::run(&settings, &cli.settings),
        Command::Openapi => openapi(),
        Command::Completions(settings) => pages::completions(&settings),
        Command::Man(settings) => pages::man(&settings),
        Command::Healthcheck(settings) => healthcheck::run(&settings).map_err(Stop::from),
        Command::Runner(settings) => runner::run(settings).map_err(Stop::from),
    };
    if let Some(traces) = traces {
        traces.shutdown();
    }
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => stop.exit(),
    }
}

fn openapi() -> stop::Outcome {
    show::print(&crate::api::openapi().to_pretty_json().map_err(|e| e.to_string())?)
}

/// Stores as whoever runs the command may reach them: buckets by their sections and the environment's names, and every file of this
/// machine.
fn stores(buckets: BucketSections) -> Result<Stores, Stop> {
    Stores::new(objects::Options { file_roots: vec!["/".into()], buckets, manners: Manners::default() }).map_err(Stop::from)
}

/// A location as the command line gives it: a URI, or a path of this machine.
fn location(text: &str) -> Result<Uri, Stop> {
    let wrong = |why: String| Stop::usage(format!("{text:?} is no location: {why}"));
    if text.contains("://") {
        return Uri::parse(text).map_err(|e| wrong(e.to_string()));
    }
    let path = std::fs::canonicalize(text).map_err(|e| wrong(e.to_string()))?;
    let slash = if path.is_dir() { "/" } else { "" };
    let path = path.to_str().ok_or_else(|| wrong("its path is not UTF-8".to_owned()))?;
    Uri::parse(&format!("file://{}{slash}", path.trim_end_matches('/'))).map_err(|e| wrong(e.to_string()))
}

/// A tokio runtime for a subcommand.
fn block_on<T, E: From<String>>(future: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| E::from(e.to_string()))?;
    let result = runtime.block_on(future);
    // A store's or database's blocking call that hangs must not keep a process that was told to stop.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}
