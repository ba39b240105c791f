//! One executable, its roles are subcommands, a file each.

mod demo;
mod healthcheck;
mod runner;
mod serve;

use std::process::ExitCode;

use crate::{
    config::{self, Command},
    telemetry::{self, Traces},
};

/// Runs what the command line asks for.
pub fn run() -> ExitCode {
    let cli = match config::load() {
        Ok(cli) => cli,
        Err(error) => return complain(&error, 2),
    };
    // The service alone has something to trace; its runner tells it what it does.
    let traces = match &cli.command {
        Command::Serve(_) => Traces::from_environment(),
        _ => Ok(None),
    };
    let traces = match traces.and_then(|traces| telemetry::init(cli.log_format, &cli.log, traces.as_ref()).map(|()| traces)) {
        Ok(traces) => traces,
        Err(error) => return complain(&error, 2),
    };
    let done = match cli.command {
        Command::Serve(settings) => serve::run(*settings, cli.sections, cli.log_format, &cli.log),
        Command::Demo(settings) => demo::run(&settings),
        Command::Runner(settings) => runner::run(settings),
        Command::Openapi => openapi(),
        Command::Healthcheck(settings) => healthcheck::run(&settings),
    };
    if let Some(traces) = traces {
        traces.shutdown();
    }
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&error, 1),
    }
}

fn openapi() -> Result<(), String> {
    let document = crate::api::openapi().to_pretty_json().map_err(|e| e.to_string())?;
    println!("{document}");
    Ok(())
}

fn complain(error: &str, code: u8) -> ExitCode {
    eprintln!("nightshift: {error}");
    ExitCode::from(code)
}

/// A tokio runtime for a subcommand.
fn block_on<T>(future: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|e| e.to_string())?;
    let result = runtime.block_on(future);
    // A store's or database's blocking call that hangs must not keep a process that was told to stop.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}
