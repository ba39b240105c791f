//! The wiring: builds handles from the configuration, starts the rooms, stops them in reverse.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{net::TcpListener, sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{self, ApiState, Feed},
    config::{self, seconds},
    db::{self, Database, SqlStore, Store},
    domain::spec::PROVIDERS,
    execute::{self, Executor, Finalizer, Janitor, RunnerOptions, Runners, Sampler},
    model::{self, Models},
    notify::{self, Deliverer, Guard, Notifier, Timeouts},
    objects::{self, Stores},
    plan::{self, Planner},
    schedule::{Scheduler, Times},
    tables::Connections,
    telemetry::{LogFormat, Metrics},
};

/// How often each room looks for work that nobody announced.
const POLL: Duration = Duration::from_secs(1);
/// How long requests may go on after a stop is asked for.
const REQUEST_GRACE: Duration = Duration::from_secs(3);

/// What a process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The API and all that goes with it; runs chunks too unless the settings say no.
    Serve,
    /// Runs chunks for other nodes.
    Worker,
}

/// One process of the service, ready to run. Whatever rooms it has, others may have them too: all of their work is leased.
#[derive(Debug)]
pub struct App {
    listener: TcpListener,
    /// How long a client may take nothing of what it is sent.
    patience: Duration,
    address: SocketAddr,
    router: Router,
    control: Option<Control>,
    executor: Option<Executor>,
    feed: Feed,
    handles: Handles,
}

/// What the rooms share, for those who look at a service from within.
#[derive(Debug, Clone)]
pub struct Handles {
    /// All state.
    pub store: Arc<dyn Store>,
    /// The models' files.
    pub models: Arc<Models>,
    /// The object stores.
    pub stores: Stores,
}

/// The rooms that run no chunks.
#[derive(Debug)]
struct Control {
    scheduler: Scheduler,
    planner: Planner,
    finalizer: Finalizer,
    notifier: Notifier,
    janitor: Option<Janitor>,
}

impl App {
    /// Opens the database, finds the library, binds the address.
    ///
    /// # Errors
    /// One sentence that says what is missing and what to do.
    pub async fn start(
        settings: config::Serve,
        role: Role,
        sections: config::Sections,
        log_format: LogFormat,
        log: &str,
    ) -> Result<Self, String> {
        let library = config::find_library(settings.onnxruntime.as_deref(), &settings.data_dir)?;
        std::fs::create_dir_all(&settings.data_dir).map_err(|e| format!("data folder {}: {e}", settings.data_dir.display()))?;
        let file_roots =
            settings.file_root.iter().map(|root| std::fs::canonicalize(root).map_err(|e| format!("--file-root {}: {e}", root.display())));
        let file_roots = file_roots.collect::<Result<Vec<_>, _>>()?;

        let guard = Guard::new(settings.webhook_allow_networks.clone());
        let endpoints = sections.webhooks.endpoints()?;
        for endpoint in &endpoints {
            guard.check_literal(&endpoint.url).map_err(|e| format!("[[webhooks.endpoints]] {:?}: {e}", endpoint.name))?;
        }
        let pricing = sections.pricing.pricing()?;
        let deliverer = Deliverer::new(guard.clone(), Timeouts::default())?;

        let database = settings.database()?;
        if role == Role::Worker && matches!(database, Database::Sqlite(_)) {
            return Err("a worker shares a PostgreSQL database with other nodes, and SQLite is for one process: \
                        give --database-url postgres://…, or run `nightshift serve`, which runs chunks too"
                .to_owned());
        }
        let store = SqlStore::open(&database).await.map_err(|e| describe(&e))?;
        // Of a file that no other process can have open, whoever held a lease is dead.
        store.release_all().await.map_err(|e| describe(&e))?;
        let store: Arc<dyn Store> = Arc::new(store);

        let connections = Connections::new(sections.connections);
        connections.check()?;
        let metrics = Metrics::new();
        let reach = objects::Options { file_roots, buckets: sections.buckets, manners: settings.stores.manners() };
        let stores = Stores::new(reach.clone())?.counted(metrics.tally());
        let limits = model::Limits { max_bytes: settings.max_model_bytes, ..model::Limits::default() };
        let models = Arc::new(Models::new(settings.data_dir.join("models"), stores.clone(), limits));
        models.sweep();
        let program = std::env::current_exe().map_err(|e| format!("cannot find this program's own file: {e}"))?;
        let devices = settings.devices.numbers(&settings.providers);
        let runner = RunnerOptions {
            program,
            library: std::path::absolute(&library).unwrap_or(library),
            workers: settings.workers(devices.len()),
            devices: devices.clone(),
            device_memory_limit: settings.device_memory_limit,
            memory_limit: settings.runner_memory_limit,
            stores: reach,
            connections: connections.clone(),
            load_timeout: seconds(settings.load_timeout),
            batch_timeout: seconds(settings.batch_timeout),
            idle_unload: settings.runner_idle_unload,
            log_format,
            log: log.to_owned(),
        };
        let sampler = Arc::new(Sampler::new(runner.clone(), models.clone(), settings.providers.clone(), settings.images.limits()));
        let runners = Runners::start(runner, &metrics);
        let planning = plan::Options {
            chunk_bytes: settings.chunk_bytes.max(1),
            chunk_objects: settings.chunk_objects.max(1),
            lease_ttl: seconds(settings.lease_ttl),
            poll: POLL,
        };
        let listener = TcpListener::bind(settings.listen).await.map_err(|e| format!("--listen {}: {e}", settings.listen))?;
        let address = listener.local_addr().map_err(|e| format!("--listen {}: {e}", settings.listen))?;

        let wake = Arc::new(Notify::new());
        store.wake(wake.clone());
        let worker = worker_name();
        let lease_ttl = seconds(settings.lease_ttl);
        let executes = role == Role::Worker || !settings.no_executor;
        let feed = Feed::new(store.clone(), wake.clone(), settings.api.feed());
        let api = ApiState {
            store: store.clone(),
            stores: stores.clone(),
            connections: connections.clone(),
            models: models.clone(),
            guard,
            sampler,
            planning: planning.clone(),
            wake: wake.clone(),
            runners: if executes { runners.status() } else { Vec::new() },
            metrics: metrics.clone(),
            allowed_providers: PROVIDERS.map(str::to_owned).to_vec(),
            providers: settings.providers.clone(),
            sessions: settings.workers(devices.len()) * devices.len(),
            accelerators: devices.len(),
            pricing: pricing.clone(),
            answers: api::Answers::default(),
            load: api::Load::new(settings.api.limits(), metrics.clone()),
            feed: feed.clone(),
            data_dir: settings.data_dir.clone(),
        };
        let control = (role == Role::Serve).then(|| Control {
            scheduler: Scheduler {
                store: store.clone(),
                accept: Arc::new(api.clone()),
                wake: wake.clone(),
                poll: POLL,
                times: Times::default(),
            },
            planner: Planner {
                store: store.clone(),
                stores: stores.clone(),
                worker: worker.clone(),
                wake: wake.clone(),
                options: planning,
            },
            finalizer: Finalizer {
                store: store.clone(),
                stores: stores.clone(),
                connections,
                worker: worker.clone(),
                wake: wake.clone(),
                metrics: metrics.clone(),
                lease_ttl,
                poll: POLL,
            },
            notifier: Notifier {
                store: store.clone(),
                deliverer,
                endpoints: endpoints.into(),
                wake: wake.clone(),
                metrics: metrics.clone(),
                options: notify::Options {
                    public_url: settings.public_url.unwrap_or_else(|| format!("http://{address}")),
                    retry_scale: settings.webhook_retry_scale,
                    poll: POLL,
                },
            },
            janitor: settings.retention_jobs.map(|retention| Janitor { store: store.clone(), retention }),
        });
        let handles = Handles { store: store.clone(), models: models.clone(), stores: stores.clone() };
        let executor = executes.then(|| Executor {
            store,
            stores,
            models,
            runners,
            worker,
            wake,
            metrics,
            options: execute::Options {
                slots: settings.chunk_slots.max(1) * devices.len(),
                lease_ttl,
                poll: POLL,
                drain: seconds(settings.drain_timeout),
                providers: settings.providers,
                image_limits: settings.images.limits(),
                pricing,
            },
        });
        let router = if role == Role::Worker { api::probes(api) } else { api::router(api) };
        let patience = settings.api.feed().patience();
        Ok(Self { listener, patience, address, router, control, executor, feed, handles })
    }

    /// The address that was bound.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its rooms share.
    pub fn handles(&self) -> Handles {
        self.handles.clone()
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// When the API cannot go on.
    pub async fn run(self, stop: CancellationToken) -> Result<(), String> {
        let mut rooms = JoinSet::new();
        if let Some(Control { scheduler, planner, finalizer, notifier, janitor }) = self.control {
            tracing::info!(address = %self.address, "serving the API at http://{0}, its docs at http://{0}/docs", self.address);
            rooms.spawn(scheduler.run(stop.clone()));
            rooms.spawn(planner.run(stop.clone()));
            rooms.spawn(finalizer.run(stop.clone()));
            rooms.spawn(notifier.run(stop.clone()));
            janitor.map(|janitor| rooms.spawn(janitor.run(stop.clone())));
        } else {
            tracing::info!(address = %self.address, "running chunks for other nodes; health at http://{}/readyz", self.address);
        }
        // A server that stops waits for every answer: streams end by themselves.
        rooms.spawn(self.feed.run(stop.clone()));
        self.executor.map(|executor| rooms.spawn(executor.run(stop.clone())));

        let graceful = stop.clone();
        let listener = api::Listener::new(self.listener, self.patience);
        let server = axum::serve(listener, self.router).with_graceful_shutdown(async move { graceful.cancelled().await });
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

/// What this process is called in leases: for people the host and the process id, and a part that no other process has.
fn worker_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}:{}:{}", std::process::id(), &uuid::Uuid::new_v4().simple().to_string()[..8])
}

/// The whole chain in one line.
pub(crate) fn describe(error: &db::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
