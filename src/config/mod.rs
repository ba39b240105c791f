//! Every setting once: a flag, an environment name, a key of the TOML file. A flag wins over the environment, that over the
//! file, that over the default. What no flag can say, a list of webhook endpoints or the settings of a bucket, is a [`Sections`] of
//! the file.

mod buckets;
mod check;
mod client;
mod connections;
mod devices;
mod file;
mod images;
mod library;
mod load;
mod pricing;
mod schedules;
mod settings;
mod size;
mod stores;
mod webhooks;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ipnet::IpNet;

use crate::{
    db::{Database, PostgresUrl},
    domain::time,
    runner::infer::has_devices,
    telemetry::LogFormat,
};

pub use buckets::BucketSection;
pub use check::{
    Config, ConfigArgs, Doctor, Init, Inspect, ModelAlias, ModelGet, ModelList, ModelRegister, Models, ModelsArgs, Show, Verify,
};
pub use client::{Api, Bench, Definition, Errors, Extent, Jobs, JobsArgs, List, OneJob, Results, Submit, SubmitOutput, Talk, Usage};
pub use connections::ConnectionSection;
pub use devices::Devices;
pub use file::{Sections, load};
pub use images::Images;
pub use library::find_library;
pub use load::ApiLoad;
pub use pricing::PricingSection;
pub use schedules::{CreateSchedule, ListSchedules, OneSchedule, ScheduleRuns, Schedules, SchedulesArgs};
pub use settings::{Origin, Setting, default_file};
pub use stores::StoreManners;
pub use webhooks::{EndpointSection, WebhookSection};

/// Self-hosted batch inference: POST a model and a bucket prefix, get predictions back in the bucket.
#[derive(Debug, Clone, Parser)]
#[command(name = "nightshift", version, about, max_term_width = 100)]
pub struct Cli {
    /// A TOML file; its keys are the long flags with underscores
    #[arg(long, env = "NIGHTSHIFT_CONFIG", global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How log lines look
    #[arg(long, env = "NIGHTSHIFT_LOG_FORMAT", global = true, value_enum, default_value = "auto")]
    pub log_format: LogFormat,
    /// What to log, as tracing directives: info, nightshift=debug,info
    #[arg(long, env = "NIGHTSHIFT_LOG", global = true, default_value = "info,ort=warn,sqlx=warn")]
    pub log: String,
    /// What only the file can say.
    #[arg(skip)]
    pub sections: Sections,
    /// Every setting with its origin, for those who show them.
    #[arg(skip)]
    pub settings: Vec<Setting>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Run the service: API, planner, executor, finaliser and notifier in one process
    #[command(after_help = "Examples:
  nightshift serve
  nightshift serve --config nightshift.toml
  nightshift serve --listen 0.0.0.0:8080 --data-dir ./nightshift-data --file-root ./store")]
    Serve(Box<Serve>),
    /// Run chunks for the nodes that share a PostgreSQL database; takes the settings of `serve`, answers /livez, /readyz and /metrics
    #[command(after_help = "Examples:
  nightshift worker --database-url postgres://nightshift@db.example.com/nightshift --listen 0.0.0.0:8080")]
    Worker(Box<Serve>),
    /// Bring the tables of the database up to date, and end
    #[command(after_help = "Examples:
  nightshift migrate --database-url postgres://nightshift@db.example.com/nightshift")]
    Migrate(Box<Serve>),
    /// Run sample data through a sample model in a service of its own, and show the results
    Demo(Demo),
    /// Submit a job to a running service
    Submit(Box<Submit>),
    /// Measure a job against what its stages and ONNX Runtime do alone on this machine
    Bench(Box<Bench>),
    /// List, follow, stop and read jobs of a running service
    Jobs(JobsArgs),
    /// Create, look at and steer schedules of a running service
    Schedules(SchedulesArgs),
    /// Show what jobs cost, by label, model, schedule or day
    Usage(Usage),
    /// Look at models
    Models(ModelsArgs),
    /// Read a finished job's output again, and prove its counts, its digests and one outcome a record
    Verify(Verify),
    /// Look at what the service needs: library, providers, database, folders, stores, clock
    Doctor(Box<Doctor>),
    /// Show the settings of the service
    Config(ConfigArgs),
    /// Print the OpenAPI document
    #[command(after_help = "Examples:
  nightshift openapi")]
    Openapi,
    /// Print a shell's completions
    Completions(Completions),
    /// Print the manual page, or write one for every subcommand
    Man(Man),
    /// Ask the service on this machine whether it is ready; exits with 1 and the reasons when it is not
    #[command(after_help = "Examples:
  nightshift healthcheck")]
    Healthcheck(Healthcheck),
    /// The data plane; started by `serve`
    #[command(hide = true)]
    Runner(Runner),
}

/// How to show something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people.
    Table,
    /// For programs: one document.
    Json,
}

/// Which completions.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nightshift completions bash > nightshift.bash")]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Which manual pages.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nightshift man
  nightshift man --dir ./man1")]
pub struct Man {
    /// Write a page for every subcommand into this folder
    #[arg(long, value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
}

/// Settings of the service.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Address of the API
    #[arg(long, env = "NIGHTSHIFT_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Database, model cache and scratch
    #[arg(long, env = "NIGHTSHIFT_DATA_DIR", default_value = "./nightshift-data", value_name = "FOLDER")]
    pub data_dir: PathBuf,
    /// sqlite:///path/to/file, or postgres://user:password@host/name, which several nodes share; nightshift.db in the data folder when absent
    #[arg(long, env = "DATABASE_URL", value_name = "URL")]
    pub database_url: Option<String>,
    /// Connections to PostgreSQL at most
    #[arg(long, env = "NIGHTSHIFT_DATABASE_CONNECTIONS", default_value_t = 10, value_name = "COUNT")]
    pub database_connections: u32,
    /// Run no chunks here: leave them to workers and other nodes
    #[arg(long, env = "NIGHTSHIFT_NO_EXECUTOR", action = ArgAction::SetTrue)]
    pub no_executor: bool,
    /// Remove jobs from the database this long after they ended: 90d, 12h; what they wrote stays. They are kept when absent
    #[arg(long, env = "NIGHTSHIFT_RETENTION_JOBS", value_name = "TIME", value_parser = retention)]
    pub retention_jobs: Option<Duration>,
    /// A folder that file:// locations may lie in; may be given several times
    #[arg(long, env = "NIGHTSHIFT_FILE_ROOTS", value_delimiter = ',', action = ArgAction::Append, value_name = "FOLDER")]
    pub file_root: Vec<PathBuf>,
    /// The ONNX Runtime library; looked for in the usual places when absent
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// Execution providers for jobs that name none, in order of preference: cpu, cuda, tensorrt, openvino
    #[arg(long, env = "NIGHTSHIFT_PROVIDERS", value_delimiter = ',', default_value = "cpu")]
    pub providers: Vec<String>,
    /// Devices to compute on, each with a runner process: all, or numbers as CUDA counts them: 0,1
    #[arg(long, env = "NIGHTSHIFT_DEVICES", default_value = "all", value_name = "NUMBERS")]
    pub devices: Devices,
    /// Most memory of a runner on its device: 16GiB; one that holds more ends what it has in hand and is replaced. No limit when absent
    #[arg(long, env = "NIGHTSHIFT_DEVICE_MEMORY_LIMIT", value_name = "SIZE", value_parser = size::bytes)]
    pub device_memory_limit: Option<u64>,
    /// Threads of a runner that prepare records and run the model, on a processor each in a session of its own; the cores, shared among the
    /// runners, when absent
    #[arg(long, env = "NIGHTSHIFT_WORKERS", value_name = "COUNT")]
    pub workers: Option<usize>,
    /// Most memory of a runner, in bytes or as 512MiB, 8GiB; what asks for more fails or dies there. No limit when absent
    #[arg(long, env = "NIGHTSHIFT_RUNNER_MEMORY_LIMIT", value_name = "SIZE", value_parser = size::bytes)]
    pub runner_memory_limit: Option<u64>,
    /// How long a runner that has nothing to do keeps its models, and is kept itself: 90s, 5m; the next chunk starts another
    #[arg(long, env = "NIGHTSHIFT_RUNNER_IDLE_UNLOAD", default_value = "5m", value_name = "TIME", value_parser = span)]
    pub runner_idle_unload: Duration,
    /// Chunks in flight at once, for each runner
    #[arg(long, env = "NIGHTSHIFT_CHUNK_SLOTS", default_value_t = 3, value_name = "COUNT")]
    pub chunk_slots: usize,
    /// About how many bytes of input a chunk holds
    #[arg(long, env = "NIGHTSHIFT_CHUNK_BYTES", default_value_t = 32 * 1024 * 1024, value_name = "BYTES")]
    pub chunk_bytes: u64,
    /// Most objects in a chunk
    #[arg(long, env = "NIGHTSHIFT_CHUNK_OBJECTS", default_value_t = 1000, value_name = "COUNT")]
    pub chunk_objects: usize,
    /// Seconds that one batch may stay in the runtime
    #[arg(long, env = "NIGHTSHIFT_BATCH_TIMEOUT", default_value_t = 300.0, value_name = "SECONDS")]
    pub batch_timeout: f64,
    /// Seconds that a model may take to load
    #[arg(long, env = "NIGHTSHIFT_LOAD_TIMEOUT", default_value_t = 120.0, value_name = "SECONDS")]
    pub load_timeout: f64,
    /// Seconds that a lease lasts unless it is renewed
    #[arg(long, env = "NIGHTSHIFT_LEASE_TTL", default_value_t = 30.0, value_name = "SECONDS")]
    pub lease_ttl: f64,
    /// Seconds that chunks in flight may go on after SIGTERM before they are released
    #[arg(long, env = "NIGHTSHIFT_DRAIN_TIMEOUT", default_value_t = 15.0, value_name = "SECONDS")]
    pub drain_timeout: f64,
    /// Largest model, all files together
    #[arg(long, env = "NIGHTSHIFT_MAX_MODEL_BYTES", default_value_t = 8 * 1024 * 1024 * 1024, value_name = "BYTES")]
    pub max_model_bytes: u64,
    /// Where callers reach this service, for the links in webhooks; http:// and the listen address when absent
    #[arg(long, env = "NIGHTSHIFT_PUBLIC_URL", value_name = "URL", value_parser = webhooks::public_url)]
    pub public_url: Option<String>,
    /// Networks that webhooks may go to although they are private, loopback or otherwise special: 10.0.0.0/8,fd00::/8
    #[arg(
        long, env = "NIGHTSHIFT_WEBHOOK_ALLOW_NETWORKS", value_delimiter = ',', action = ArgAction::Append, value_name = "CIDR",
        value_parser = webhooks::network
    )]
    pub webhook_allow_networks: Vec<IpNet>,
    /// Multiplies the delays between the attempts at a webhook: tests need not wait for three days
    #[arg(long, hide = true, default_value_t = 1.0)]
    pub webhook_retry_scale: f64,
    /// How much the API answers at once
    #[command(flatten)]
    pub api: ApiLoad,
    /// What stores may be asked to bear
    #[command(flatten)]
    pub stores: StoreManners,
    /// What a picture may cost
    #[command(flatten)]
    pub images: Images,
}

impl Serve {
    /// Threads of each of so many runners, by default their share of the cores; with a device two at least, so that one prepares a batch
    /// while another's is computed.
    pub fn workers(&self, runners: usize) -> usize {
        let least = if self.providers.iter().any(|provider| has_devices(provider)) { 2 } else { 1 };
        let share = || (std::thread::available_parallelism().map_or(1, usize::from) / runners.max(1)).max(least);
        self.workers.unwrap_or_else(share).max(1)
    }

    /// Where the state is kept.
    ///
    /// # Errors
    /// When the URL is of neither SQLite nor PostgreSQL.
    pub fn database(&self) -> Result<Database, String> {
        let Some(url) = &self.database_url else { return Ok(Database::Sqlite(self.data_dir.join("nightshift.db"))) };
        if let Some(path) = url.strip_prefix("sqlite://").filter(|path| !path.is_empty()) {
            return Ok(Database::Sqlite(PathBuf::from(path)));
        }
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Database::Postgres { url: PostgresUrl::new(url.clone()), connections: self.database_connections });
        }
        // The URL itself may hold a password.
        Err("--database-url (DATABASE_URL) must be sqlite:///path/to/file or postgres://user:password@host/name".to_owned())
    }
}

/// Settings of the health check.
#[derive(Debug, Clone, Args)]
pub struct Healthcheck {
    /// Address of the API, as the service was given it
    #[arg(long, env = "NIGHTSHIFT_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,
}

/// What a demonstration shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sample {
    /// Loans, and how likely they are to be paid back
    Loans,
    /// Short posts, and whether their mood is good or bad
    Text,
    /// Photographs, and what they show
    Images,
}

/// Settings of the demonstration.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nightshift demo
  nightshift demo images
  nightshift demo --keep")]
pub struct Demo {
    /// What to show
    #[arg(value_enum, default_value = "loans", value_name = "WHAT")]
    pub what: Sample,
    /// Leave the service running afterwards
    #[arg(long)]
    pub keep: bool,
    /// The folder with the sample models and data
    #[arg(long, default_value = "examples", value_name = "FOLDER")]
    pub examples: PathBuf,
    /// Where the service keeps its data
    #[arg(long, env = "NIGHTSHIFT_DATA_DIR", default_value = "./nightshift-data", value_name = "FOLDER")]
    pub data_dir: PathBuf,
    /// Address of the API; a free port when absent, 127.0.0.1:8080 with --keep
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
}

/// Settings of a runner.
#[derive(Debug, Clone, Args)]
pub struct Runner {
    /// The ONNX Runtime library
    #[arg(long)]
    pub library: PathBuf,
    /// Sessions, one thread each
    #[arg(long)]
    pub workers: usize,
    /// Folders that file:// locations may lie in
    #[arg(long)]
    pub file_root: Vec<PathBuf>,
    /// The service's bucket sections, as JSON
    #[arg(long, value_parser = read_bucket_sections)]
    pub buckets: Option<BucketSections>,
    /// The service's sections of connections, as JSON
    #[arg(long, value_parser = read_connection_sections)]
    pub connections: Option<ConnectionSections>,
    /// Most memory, bytes
    #[arg(long)]
    pub memory_limit: Option<u64>,
    /// The device's number
    #[arg(long, default_value_t = 0)]
    pub device: u32,
    /// Most memory on the device, bytes
    #[arg(long)]
    pub device_memory_limit: Option<u64>,
    /// What stores may be asked to bear
    #[command(flatten)]
    pub stores: StoreManners,
    /// Say whether this provider can be had, and end
    #[arg(long)]
    pub probe: Option<String>,
}

/// Bucket sections on a runner's command line. They hold no secret, only the names of the variables and files that do, and a runner
/// inherits its environment from the service: so they may be seen in a list of processes, and need no channel of their own.
pub type BucketSections = BTreeMap<String, BucketSection>;

/// Sections of connections on a runner's command line; what is said of [`BucketSections`] holds for them.
pub type ConnectionSections = BTreeMap<String, ConnectionSection>;

fn read_connection_sections(json: &str) -> Result<ConnectionSections, String> {
    serde_json::from_str(json).map_err(|e| e.to_string())
}

fn read_bucket_sections(json: &str) -> Result<BucketSections, String> {
    serde_json::from_str(json).map_err(|e| e.to_string())
}

/// The whole command line. Where every setting of the service can be given beside flags of its own, help shows the latter alone.
pub fn command() -> clap::Command {
    let hide = |command: clap::Command| {
        let serve = Serve::augment_args(clap::Command::new(""));
        let settings: Vec<clap::Id> = serve.get_arguments().map(|a| a.get_id().clone()).collect();
        command.mut_args(|arg| if settings.contains(arg.get_id()) { arg.hide(true) } else { arg })
    };
    let whole = Cli::command()
        .mut_subcommand("worker", hide)
        .mut_subcommand("migrate", hide)
        .mut_subcommand("bench", hide)
        .mut_subcommand("doctor", hide)
        .mut_subcommand("config", |config| config.mut_subcommand("show", hide));
    without_env_values(whole)
}

/// Help and manual pages name the environment's names, never its values: a database's URL may hold a password.
fn without_env_values(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| arg.hide_env_values(true)).mut_subcommands(without_env_values)
}

/// `90s`, `5m`.
fn span(text: &str) -> Result<Duration, String> {
    time::parse_span(text).map(Duration::from_secs).ok_or_else(|| "write a time such as 90s or 5m".to_owned())
}

/// `90d`, `12h`: how long something is kept.
fn retention(text: &str) -> Result<Duration, String> {
    time::parse_span(text).map(Duration::from_secs).ok_or_else(|| "write a time such as 90d or 12h".to_owned())
}

/// `key=value`, as flags take it.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

/// A span from a setting in seconds; zero and less, and what is no number, become one millisecond.
pub fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default().max(Duration::from_millis(1))
}
