//! Every setting once: a flag, an environment name, a key of the TOML file. A flag wins over the environment, that over the
//! file, that over the default. What no flag can say, a list of webhook endpoints or the settings of a bucket, is a [`Sections`] of
//! the file.

mod buckets;
mod file;
mod images;
mod library;
mod webhooks;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::telemetry::LogFormat;

pub use buckets::BucketSection;
pub use file::{Sections, load};
pub use images::Images;
pub use library::find_library;
pub use webhooks::WebhookSection;

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
    #[arg(long, env = "NIGHTSHIFT_LOG", global = true, default_value = "info,ort=warn")]
    pub log: String,
    /// What only the file can say.
    #[arg(skip)]
    pub sections: Sections,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Run the service: API, planner, executor and finaliser in one process
    Serve(Box<Serve>),
    /// Score the sample data with the sample model in a service of its own, and show the results
    Demo(Demo),
    /// Print the OpenAPI document
    Openapi,
    /// The data plane; started by `serve`
    #[command(hide = true)]
    Runner(Runner),
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
    /// sqlite:///path/to/file; nightshift.db in the data folder when absent
    #[arg(long, env = "DATABASE_URL", value_name = "URL")]
    pub database_url: Option<String>,
    /// A folder that file:// locations may lie in; may be given several times
    #[arg(long, env = "NIGHTSHIFT_FILE_ROOTS", value_delimiter = ',', action = ArgAction::Append, value_name = "FOLDER")]
    pub file_root: Vec<PathBuf>,
    /// The ONNX Runtime library; looked for in the usual places when absent
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// Execution providers for jobs that name none, in order of preference: cpu, cuda, tensorrt
    #[arg(long, env = "NIGHTSHIFT_PROVIDERS", value_delimiter = ',', default_value = "cpu")]
    pub providers: Vec<String>,
    /// Inference sessions, one thread each; as many as there are cores when absent
    #[arg(long, env = "NIGHTSHIFT_WORKERS", value_name = "COUNT")]
    pub workers: Option<usize>,
    /// Chunks in flight at once
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
    /// What a picture may cost
    #[command(flatten)]
    pub images: Images,
}

impl Serve {
    /// Sessions to run, by default one a core.
    pub fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        self.workers.unwrap_or_else(cores).max(1)
    }

    /// The database file.
    ///
    /// # Errors
    /// When the URL is not one of SQLite's.
    pub fn database(&self) -> Result<PathBuf, String> {
        match &self.database_url {
            None => Ok(self.data_dir.join("nightshift.db")),
            Some(url) => match url.strip_prefix("sqlite://") {
                Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
                _ => Err("--database-url (DATABASE_URL) must be sqlite:///path/to/file; PostgreSQL is not supported yet".to_owned()),
            },
        }
    }
}

/// Settings of the demonstration.
#[derive(Debug, Clone, Args)]
pub struct Demo {
    /// Leave the service running afterwards
    #[arg(long)]
    pub keep: bool,
    /// The folder with the sample model and data
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
}

/// A span from a setting in seconds; zero and less, and what is no number, become one millisecond.
pub fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default().max(Duration::from_millis(1))
}
