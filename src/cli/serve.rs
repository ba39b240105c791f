//! `nightshift serve`: the service in one process; `worker`: a process that runs chunks for others; `migrate`: the tables alone.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, Role, describe},
    config,
    db::SqlStore,
    telemetry::LogFormat,
};

pub(super) fn run(settings: config::Serve, role: Role, sections: config::Sections, log_format: LogFormat, log: &str) -> Result<(), String> {
    super::block_on(async move {
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        let app = App::start(settings, role, sections, log_format, log).await?;
        // For people and for programs that started us on a free port: the one line on standard output.
        println!("listening on http://{}", app.address());
        app.run(stop).await
    })
}

/// Brings the tables of the database up to date: what every start does, on its own.
pub(super) fn migrate(settings: &config::Serve) -> Result<(), String> {
    super::block_on(async move {
        SqlStore::open(&settings.database()?).await.map_err(|e| describe(&e))?;
        println!("the tables are up to date");
        Ok(())
    })
}

/// The first SIGTERM or SIGINT asks for a clean stop, the second ends the process at once.
fn stop_on_signals(stop: CancellationToken) -> Result<(), String> {
    let listen = |kind| signal(kind).map_err(|e| format!("cannot listen for signals: {e}"));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                tracing::warn!("second signal: exiting at once, unfinished chunks will be claimed again");
                std::process::exit(130);
            }
            tracing::info!("stopping: no new chunks; those in flight are finished or released (signal again to exit at once)");
            stop.cancel();
        }
    });
    Ok(())
}
