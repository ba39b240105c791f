//! `nightshift runner`: the data plane, started by the service.

use crate::{config, objects, runner};

pub(super) fn run(settings: config::Runner) -> Result<(), String> {
    let stores = objects::Options { file_roots: settings.file_root, buckets: settings.buckets.unwrap_or_default() };
    let options = runner::Options { library: settings.library, workers: settings.workers, stores };
    runner::run(options).map_err(|e| format!("the runner cannot start: {e}"))
}
