//! `nightshift runner`: the data plane, started by the service.

use crate::{config, runner};

pub(super) fn run(settings: config::Runner) -> Result<(), String> {
    let options = runner::Options { library: settings.library, workers: settings.workers, file_roots: settings.file_root };
    runner::run(options).map_err(|e| format!("the runner cannot start: {e}"))
}
