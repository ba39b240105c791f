//! `nightshift runner`: the data plane, started by the service; or, for the doctor, a process that only asks for a provider.

use crate::{
    config, objects,
    runner::{self, infer},
    tables::Connections,
};

pub(super) fn run(settings: config::Runner) -> Result<(), String> {
    if let Some(provider) = &settings.probe {
        let version = infer::init_runtime(&settings.library)?;
        infer::probe(provider).map_err(|e| e.to_string())?;
        println!("{version}");
        return Ok(());
    }
    let buckets = settings.buckets.unwrap_or_default();
    let stores = objects::Options { file_roots: settings.file_root, buckets, manners: settings.stores.manners() };
    let options = runner::Options {
        library: settings.library,
        workers: settings.workers,
        stores,
        connections: Connections::new(settings.connections.unwrap_or_default()),
        memory_limit: settings.memory_limit,
        device: infer::Device { id: settings.device, memory_limit: settings.device_memory_limit },
    };
    runner::run(options).map_err(|e| format!("the runner cannot start: {e}"))
}
