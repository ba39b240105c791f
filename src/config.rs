//! Every setting once: a flag, an environment name, a key of the TOML file. A flag wins over the environment, that over the
//! file, that over the default.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::telemetry::LogFormat;

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

/// Reads flags, environment and file.
///
/// # Errors
/// One sentence on what is wrong with the file; clap's own errors end the process with its usual message.
pub fn load() -> Result<Cli, String> {
    load_from(std::env::args_os().collect(), std::env::var_os("NIGHTSHIFT_CONFIG").map(PathBuf::from))
}

fn load_from(args: Vec<std::ffi::OsString>, from_environment: Option<PathBuf>) -> Result<Cli, String> {
    let mut command = Cli::command();
    if let Some(path) = config_flag(&args).or(from_environment) {
        command = with_file(command, &path)?;
    }
    let matches = command.get_matches_from(args);
    Cli::from_arg_matches(&matches).map_err(|e| e.to_string())
}

/// The file must be known before the flags are read, since it gives them their defaults.
fn config_flag(args: &[std::ffi::OsString]) -> Option<PathBuf> {
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let arg = arg.to_string_lossy();
        if arg == "--config" {
            return args.next().map(PathBuf::from);
        }
        if let Some(path) = arg.strip_prefix("--config=") {
            return Some(PathBuf::from(path));
        }
    }
    None
}

/// Makes the file's values the defaults of the flags they are named like.
fn with_file(mut command: clap::Command, path: &Path) -> Result<clap::Command, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let table: toml::Table = text.parse().map_err(|e| format!("{}: {e}", path.display()))?;
    let serve = command.find_subcommand("serve").cloned().unwrap_or_default();
    let top: Vec<String> = ["log_format", "log"].map(str::to_owned).to_vec();
    let of_serve: Vec<String> =
        serve.get_arguments().map(|a| a.get_id().to_string()).filter(|id| id != "help" && !top.contains(id)).collect();
    for (key, value) in table {
        let values =
            text_values(&value).ok_or_else(|| format!("{}: {key} must be a text, a number, or a list of these", path.display()))?;
        if top.contains(&key) {
            command = command.mut_arg(&key, |arg| arg.default_values(values));
        } else if of_serve.contains(&key) {
            command = command.mut_subcommand("serve", |serve| serve.mut_arg(&key, |arg| arg.default_values(values)));
        } else {
            let known = top.iter().chain(&of_serve);
            let near = known.max_by(|a, b| strsim::jaro_winkler(a, &key).total_cmp(&strsim::jaro_winkler(b, &key)));
            let hint = near.map(|n| format!("; did you mean {n}?")).unwrap_or_default();
            return Err(format!("{}: there is no setting {key:?}{hint}", path.display()));
        }
    }
    Ok(command)
}

fn text_values(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Float(number) => Some(vec![number.to_string()]),
        toml::Value::Array(values) => values.iter().map(|v| text_values(v)?.into_iter().next()).collect(),
        _ => None,
    }
}

/// A span from a setting in seconds; zero and less, and what is no number, become one millisecond.
pub fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default().max(Duration::from_millis(1))
}

/// The ONNX Runtime library: as configured, else in the usual places.
///
/// # Errors
/// One sentence that says which command fetches it.
pub fn find_library(configured: Option<&Path>, data_dir: &Path) -> Result<PathBuf, String> {
    if let Some(path) = configured {
        return match path.is_file() {
            true => Ok(path.to_owned()),
            false => Err(format!("--onnxruntime (ORT_DYLIB_PATH) is {}, which is no file", path.display())),
        };
    }
    const NAME: &str = "libonnxruntime.so";
    let mut folders: Vec<PathBuf> = Vec::new();
    let mut fetched = |folder: &Path| {
        // What scripts/fetch-onnxruntime leaves: .onnxruntime/VERSION/lib.
        let mut versions: Vec<PathBuf> = std::fs::read_dir(folder.join(".onnxruntime"))
            .map(|entries| entries.filter_map(|e| Some(e.ok()?.path().join("lib"))).collect())
            .unwrap_or_default();
        versions.sort_unstable_by(|a, b| b.cmp(a));
        folders.extend(versions);
    };
    if let Ok(here) = std::env::current_dir() {
        fetched(&here);
    }
    let program = std::env::current_exe().unwrap_or_default();
    program.ancestors().skip(1).for_each(&mut fetched);
    if let Some(beside) = program.parent() {
        folders.extend([beside.to_owned(), beside.join("../lib")]);
    }
    folders.push(data_dir.join("lib"));
    folders.extend(
        ["/opt/onnxruntime/lib", "/usr/local/lib", "/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"]
            .map(PathBuf::from),
    );
    folders.into_iter().map(|f| f.join(NAME)).find(|path| path.is_file()).ok_or_else(|| {
        format!(
            "the ONNX Runtime library ({NAME}) was not found: run scripts/fetch-onnxruntime, or name it with --onnxruntime (ORT_DYLIB_PATH)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_with(file: &str, args: &[&str]) -> Result<Cli, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nightshift.toml");
        std::fs::write(&path, file).unwrap();
        let args = ["nightshift", "serve"].iter().chain(args).map(Into::into).collect();
        load_from(args, Some(path))
    }

    fn serve(cli: Cli) -> Serve {
        match cli.command {
            Command::Serve(serve) => *serve,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = "listen = \"127.0.0.1:9000\"\nchunk_bytes = 1000\nfile_root = [\"/a\", \"/b\"]\nbatch_timeout = 1.5\nlog = \"debug\"";
        let cli = load_with(file, &["--listen", "127.0.0.1:9001"]).unwrap();
        assert_eq!(cli.log, "debug");
        let serve = serve(cli);
        assert_eq!(serve.listen.port(), 9001);
        assert_eq!((serve.chunk_bytes, serve.chunk_objects), (1000, 1000));
        assert_eq!(serve.file_root, [PathBuf::from("/a"), PathBuf::from("/b")]);
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_nearest() {
        let error = load_with("chunk_byte = 1", &[]).unwrap_err();
        assert!(error.contains("\"chunk_byte\"; did you mean chunk_bytes?"), "{error}");
    }

    #[test]
    fn a_missing_library_is_one_sentence_with_the_command_that_fetches_it() {
        let error = find_library(Some(Path::new("/nowhere/libonnxruntime.so")), Path::new(".")).unwrap_err();
        assert!(error.contains("/nowhere/libonnxruntime.so"), "{error}");
    }
}
