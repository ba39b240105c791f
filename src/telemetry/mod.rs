//! Logs, metrics, traces. Any room may use them.
//!
//! Logs: any room uses `tracing`; this decides where it goes: standard error, JSON when that is no terminal.

pub mod metrics;
mod process;
pub mod tally;
pub mod traces;

use std::io::{self, IsTerminal};

use tracing_subscriber::{EnvFilter, Layer, fmt, layer::SubscriberExt, util::SubscriberInitExt};

pub use metrics::Metrics;
pub(crate) use process::look;
pub use traces::Traces;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// Starts logging, and tracing where there is somewhere to send traces. `filter` says what to log, as a directive such as `info` or
/// `nightshift=debug,info`; what is traced does not depend on it.
///
/// # Errors
/// Says what is wrong with the filter.
pub fn init(format: LogFormat, filter: &str, traces: Option<&Traces>) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| format!("log filter {filter:?}: {e}"))?;
    let json = match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let lines = match json {
        true => fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed(),
        false => fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).boxed(),
    };
    let registry = tracing_subscriber::registry().with(lines.with_filter(filter)).with(traces.map(Traces::layer));
    registry.try_init().map_err(|e| e.to_string())
}
