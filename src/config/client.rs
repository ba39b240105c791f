//! Subcommands that talk to a running service. Their settings are the client's own: where the service is, and no more.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use url::Url;

use super::Form;

/// Where the service is.
#[derive(Debug, Clone, Args)]
pub struct Api {
    /// Where the service is
    #[arg(long, env = "NIGHTSHIFT_API", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    pub api: Url,
}

/// Where the service is, and how to show what it says.
#[derive(Debug, Clone, Args)]
pub struct Talk {
    /// The service.
    #[command(flatten)]
    pub api: Api,
    /// How to show it: a table, or the API's own JSON
    #[arg(long, value_enum, default_value = "table", value_name = "FORM")]
    pub output: Form,
}

/// `--output` of `submit`: where results go, or how to show the answer. A location always has `://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubmitOutput {
    /// Where results go.
    Location(String),
    /// How to show the answer.
    Form(Form),
}

fn submit_output(text: &str) -> Result<SubmitOutput, String> {
    match text {
        "table" => Ok(SubmitOutput::Form(Form::Table)),
        "json" => Ok(SubmitOutput::Form(Form::Json)),
        location if location.contains("://") => Ok(SubmitOutput::Location(location.to_owned())),
        _ => Err("write a location such as s3://lake/scores/, or table or json for how to show the answer".to_owned()),
    }
}

/// What a job is to do: a definition in JSON, flags, or both.
#[derive(Debug, Clone, Args)]
pub struct Definition {
    /// A job definition in JSON, `-` for standard input; flags win over its fields
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A model folder, or one .onnx object
    #[arg(long, value_name = "LOCATION", required_unless_present = "file")]
    pub model: Option<String>,
    /// What to read: a prefix or one object
    #[arg(long, value_name = "LOCATION", required_unless_present = "file")]
    pub input: Option<String>,
    /// Where results go; and, as everywhere, `table` or `json` for how to show the answer
    #[arg(long, value_name = "LOCATION | FORM", value_parser = submit_output, required_unless_present = "file")]
    pub output: Vec<SubmitOutput>,
    /// Format of the input: auto, parquet, csv, jsonl …
    #[arg(long, value_name = "FORMAT")]
    pub input_format: Option<String>,
    /// Only objects that this glob matches; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// No objects that this glob matches; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Format of the results: jsonl, csv, parquet
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Compression of the results: none, gzip, zstd
    #[arg(long, value_name = "COMPRESSION")]
    pub compression: Option<String>,
    /// Input columns that stand beside the predictions: names separated by commas, or `all`
    #[arg(long, value_name = "COLUMNS")]
    pub include_input: Option<String>,
    /// What the model is for: tabular-classification, tabular-regression, raw …
    #[arg(long)]
    pub task: Option<String>,
    /// Records in a chunk, at most
    #[arg(long, value_name = "COUNT")]
    pub chunk_records: Option<u64>,
    /// Any other field of the definition by its path, such as execution.batch_size=64, in JSON or as a text
    #[arg(long, value_name = "FIELD=VALUE", value_parser = super::pair)]
    pub set: Vec<(String, String)>,
}

/// What to submit.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nightshift submit --model s3://models/loans/ --input s3://lake/loans/2026-11-23/ --output s3://lake/scores/flags/ --task tabular-classification
  nightshift submit job.json --name again --output s3://lake/scores/again/ --watch
  nightshift submit --output json - < job.json")]
pub struct Submit {
    /// The definition
    #[command(flatten)]
    pub definition: Definition,
    /// A name for people
    #[arg(long)]
    pub name: Option<String>,
    /// A label for people and filters; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::pair)]
    pub label: Vec<(String, String)>,
    /// Among waiting chunks the higher goes first
    #[arg(long, allow_hyphen_values = true, value_name = "NUMBER")]
    pub priority: Option<i32>,
    /// How long the job may take, such as 6h
    #[arg(long, value_name = "SPAN")]
    pub deadline: Option<String>,
    /// Who is told how the job goes
    #[arg(long, value_name = "URL")]
    pub webhook_url: Option<String>,
    /// What signs the webhook's deliveries; better in the environment than on a command line
    #[arg(long, env = "NIGHTSHIFT_WEBHOOK_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub webhook_secret: Option<String>,
    /// The same key and definition give the same job, however often they are sent
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Ask what the job would do, and submit nothing
    #[arg(long, conflicts_with_all = ["watch", "idempotency_key"])]
    pub dry_run: bool,
    /// Follow the job to its end; the exit code is 1 unless it ends as completed
    #[arg(long)]
    pub watch: bool,
    /// The service.
    #[command(flatten)]
    pub api: Api,
}

/// What to measure.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nightshift bench --model s3://models/loans/ --input s3://lake/loans/2026-11-23/ --output s3://lake/bench/loans/ --task tabular-classification --runs 1
  nightshift bench job.json --output s3://lake/bench/job/ --runs 1 --output json")]
pub struct Bench {
    /// The job
    #[command(flatten)]
    pub definition: Definition,
    /// How often to measure
    #[arg(long, default_value_t = 5, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// As the service has them; its database and address are of the measuring alone
    #[command(flatten)]
    pub serve: super::Serve,
}

/// Job subcommands.
#[derive(Debug, Clone, Args)]
pub struct JobsArgs {
    /// What to do
    #[command(subcommand)]
    pub command: Jobs,
}

/// What can be done with jobs.
#[derive(Debug, Clone, Subcommand)]
pub enum Jobs {
    /// List jobs, newest first
    #[command(after_help = "Examples:
  nightshift jobs list
  nightshift jobs list --state completed --label team=risk --all --output json")]
    List(List),
    /// Show a job
    #[command(after_help = "Examples:
  nightshift jobs get job_019ac2f7b0f47e0f8a1b2c3d4e5f6071
  nightshift jobs get job_019ac2f7b0f47e0f8a1b2c3d4e5f6071 --output json")]
    Get(OneJob),
    /// Follow a job to its end; the exit code is 1 unless it ends as completed
    #[command(after_help = "Examples:
  nightshift jobs watch job_019ac2f7b0f47e0f8a1b2c3d4e5f6071")]
    Watch(OneJob),
    /// Stop a job; what is done stays
    #[command(after_help = "Examples:
  nightshift jobs cancel job_019ac2f7b0f47e0f8a1b2c3d4e5f6071")]
    Cancel(OneJob),
    /// Let no more chunks of a job start
    #[command(after_help = "Examples:
  nightshift jobs pause job_019ac2f7b0f47e0f8a1b2c3d4e5f6071")]
    Pause(OneJob),
    /// Let a paused job go on
    #[command(after_help = "Examples:
  nightshift jobs resume job_019ac2f7b0f47e0f8a1b2c3d4e5f6071")]
    Resume(OneJob),
    /// Run again what failed, in the same job
    #[command(after_help = "Examples:
  nightshift jobs retry job_019ac2f7b0f47e0f8a1b2c3d4e5f6071")]
    Retry(OneJob),
    /// List a job's parts and where they can be read, or fetch them
    #[command(after_help = "Examples:
  nightshift jobs results job_019ac2f7b0f47e0f8a1b2c3d4e5f6071
  nightshift jobs results job_019ac2f7b0f47e0f8a1b2c3d4e5f6071 --download ./results")]
    Results(Results),
    /// Show a job's error rows
    #[command(after_help = "Examples:
  nightshift jobs errors job_019ac2f7b0f47e0f8a1b2c3d4e5f6071
  nightshift jobs errors job_019ac2f7b0f47e0f8a1b2c3d4e5f6071 --all --output json")]
    Errors(Errors),
}

/// What is to be summed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nightshift usage
  nightshift usage --by label.team --from 2026-11-01 --to 2026-11-30
  nightshift usage --by model --output json")]
pub struct Usage {
    /// By what: day, model, schedule, or label. and a key
    #[arg(long, default_value = "day", value_name = "GROUP")]
    pub by: String,
    /// The first day on which jobs ended, UTC; 30 days up to the last when absent
    #[arg(long, value_name = "DAY")]
    pub from: Option<String>,
    /// The last day, which counts; today when absent
    #[arg(long, value_name = "DAY")]
    pub to: Option<String>,
    /// Groups at most, those that cost most
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub limit: u32,
    /// The service.
    #[command(flatten)]
    pub talk: Talk,
}

/// How much of a list to show.
#[derive(Debug, Clone, Args)]
pub struct Extent {
    /// How many to show
    #[arg(long, default_value_t = 50, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// Show all of them
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}

/// Which jobs to list.
#[derive(Debug, Clone, Args)]
pub struct List {
    /// Only jobs in this state
    #[arg(long)]
    pub state: Option<String>,
    /// Only jobs with this label; may be given for several keys
    #[arg(long, value_name = "KEY=VALUE", value_parser = super::pair)]
    pub label: Vec<(String, String)>,
    /// How much.
    #[command(flatten)]
    pub extent: Extent,
    /// The service.
    #[command(flatten)]
    pub talk: Talk,
}

/// Which job.
#[derive(Debug, Clone, Args)]
pub struct OneJob {
    /// The job's id
    #[arg(value_name = "JOB")]
    pub id: String,
    /// The service.
    #[command(flatten)]
    pub talk: Talk,
}

/// Which results.
#[derive(Debug, Clone, Args)]
pub struct Results {
    /// The job's id
    #[arg(value_name = "JOB")]
    pub id: String,
    /// Fetch the parts and the manifest into this folder, and check each part's SHA-256
    #[arg(long, value_name = "FOLDER")]
    pub download: Option<PathBuf>,
    /// The service.
    #[command(flatten)]
    pub talk: Talk,
}

/// Which error rows.
#[derive(Debug, Clone, Args)]
pub struct Errors {
    /// The job's id
    #[arg(value_name = "JOB")]
    pub id: String,
    /// How much.
    #[command(flatten)]
    pub extent: Extent,
    /// The service.
    #[command(flatten)]
    pub talk: Talk,
}
