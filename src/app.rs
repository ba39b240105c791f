//! The wiring: builds handles from the configuration, starts the rooms, stops them in reverse.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, ApiState},
    config::{self, seconds},
    db::{self, SqliteStore, Store},
    execute::{self, Executor, Finalizer, RunnerOptions, Supervisor},
    model::{self, Models},
    objects::{self, Stores},
    plan::{self, Planner},
    telemetry::LogFormat,
};

/// How often each room looks for work that nobody announced.
const POLL: Duration = Duration::from_secs(1);
/// How long requests may go on after a stop is asked for.
const REQUEST_GRACE: Duration = Duration::from_secs(3);

/// The service, ready to run.
#[derive(Debug)]
pub struct App {
    listener: TcpListener,
    address: SocketAddr,
    api: ApiState,
    planner: Planner,
    executor: Executor,
    finalizer: Finalizer,
}

impl App {
    /// Opens the database, finds the library, binds the address.
    ///
    /// # Errors
    /// One sentence that says what is missing and what to do.
    pub async fn start(settings: config::Serve, _sections: config::Sections, log_format: LogFormat, log: &str) -> Result<Self, String> {
        let library = config::find_library(settings.onnxruntime.as_deref(), &settings.data_dir)?;
        std::fs::create_dir_all(&settings.data_dir).map_err(|e| format!("data folder {}: {e}", settings.data_dir.display()))?;
        let file_roots =
            settings.file_root.iter().map(|root| std::fs::canonicalize(root).map_err(|e| format!("--file-root {}: {e}", root.display())));
        let file_roots = file_roots.collect::<Result<Vec<_>, _>>()?;

        let database = settings.database()?;
        let store = SqliteStore::open(&database).await.map_err(|e| describe(&e))?;
        // No other process can have this file open, so whoever held a lease is dead.
        store.release_all().await.map_err(|e| describe(&e))?;
        let store: Arc<dyn Store> = Arc::new(store);

        let stores = Stores::new(objects::Options { file_roots: file_roots.clone() });
        let limits = model::Limits { max_bytes: settings.max_model_bytes, max_nesting: 64 };
        let models = Arc::new(Models::new(settings.data_dir.join("models"), stores.clone(), limits));
        let program = std::env::current_exe().map_err(|e| format!("cannot find this program's own file: {e}"))?;
        let (supervisor, _task) = Supervisor::start(RunnerOptions {
            program,
            library: std::path::absolute(&library).unwrap_or(library),
            workers: settings.workers(),
            file_roots,
            load_timeout: seconds(settings.load_timeout),
            batch_timeout: seconds(settings.batch_timeout),
            log_format,
            log: log.to_owned(),
        });
        let listener = TcpListener::bind(settings.listen).await.map_err(|e| format!("--listen {}: {e}", settings.listen))?;
        let address = listener.local_addr().map_err(|e| format!("--listen {}: {e}", settings.listen))?;

        let wake = Arc::new(Notify::new());
        let worker = format!("{}-{}", std::process::id(), uuid::Uuid::now_v7().simple());
        let lease_ttl = seconds(settings.lease_ttl);
        Ok(Self {
            listener,
            address,
            api: ApiState {
                store: store.clone(),
                stores: stores.clone(),
                models: models.clone(),
                wake: wake.clone(),
                allowed_providers: ["cpu", "cuda", "tensorrt"].map(str::to_owned).to_vec(),
            },
            planner: Planner {
                store: store.clone(),
                stores: stores.clone(),
                worker: worker.clone(),
                wake: wake.clone(),
                options: plan::Options {
                    chunk_bytes: settings.chunk_bytes.max(1),
                    chunk_objects: settings.chunk_objects.max(1),
                    lease_ttl,
                    poll: POLL,
                },
            },
            executor: Executor {
                store: store.clone(),
                stores: stores.clone(),
                models,
                supervisor,
                worker: worker.clone(),
                wake: wake.clone(),
                options: execute::Options {
                    slots: settings.chunk_slots.max(1),
                    lease_ttl,
                    poll: POLL,
                    drain: seconds(settings.drain_timeout),
                    providers: settings.providers,
                    image_limits: settings.images.limits(),
                },
            },
            finalizer: Finalizer { store, stores, worker, wake, lease_ttl, poll: POLL },
        })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// When the API cannot go on.
    pub async fn run(self, stop: CancellationToken) -> Result<(), String> {
        tracing::info!(address = %self.address, "serving the API at http://{0}, its docs at http://{0}/docs", self.address);
        let mut rooms = JoinSet::new();
        rooms.spawn(self.planner.run(stop.clone()));
        rooms.spawn(self.executor.run(stop.clone()));
        rooms.spawn(self.finalizer.run(stop.clone()));

        let graceful = stop.clone();
        let server = axum::serve(self.listener, api::router(self.api)).with_graceful_shutdown(async move { graceful.cancelled().await });
        let server = tokio::spawn(server.into_future());
        let served = tokio::select! {
            // A room ends only when told to: one that ended earlier has panicked.
            ended = rooms.join_next() => match (ended, stop.is_cancelled()) {
                (Some(Err(error)), _) => Err(format!("a part of the service failed: {error}")),
                (_, false) => Err("a part of the service ended early".to_owned()),
                _ => Ok(()),
            },
            () = stop.cancelled() => Ok(()),
        };
        stop.cancel();
        while rooms.join_next().await.is_some() {}
        if tokio::time::timeout(REQUEST_GRACE, server).await.is_err() {
            tracing::info!("requests that were still waiting were cut off");
        }
        tracing::info!("stopped");
        served
    }
}

fn describe(error: &db::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
