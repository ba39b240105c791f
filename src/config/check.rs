//! Subcommands that look at outputs, models and machines; they need no service.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Extent, Form, Serve, Talk};

/// What to verify.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nightshift verify s3://lake/scores/2026-11-23/
  nightshift verify --input s3://lake/scores/2026-11-23/
  nightshift verify --output json ./scores/")]
pub struct Verify {
    /// The output prefix of a finished job, or a folder of this machine
    #[arg(value_name = "LOCATION")]
    pub location: String,
    /// Also read the input again, and prove that each of its records has its outcome
    #[arg(long)]
    pub input: bool,
    /// Parts that are read side by side; one a core when absent
    #[arg(long, value_name = "COUNT")]
    pub parallel: Option<usize>,
    /// How to show it
    #[arg(long, value_enum, default_value = "table", value_name = "FORM")]
    pub output: Form,
}

/// Model subcommands.
#[derive(Debug, Clone, Args)]
pub struct ModelsArgs {
    /// What to do
    #[command(subcommand)]
    pub command: Models,
}

/// What can be done with models.
#[derive(Debug, Clone, Subcommand)]
pub enum Models {
    /// Show a model's inputs, outputs and pipeline, or what is wrong with it, as a job would find it
    Inspect(Inspect),
    /// Write a model folder's nightshift.json, with every choice that was derived spelled out, to be edited
    Init(Init),
    /// Register a model with a running service, under the next version of a name
    Register(ModelRegister),
    /// List the models that a running service knows by name
    List(ModelList),
    /// Show a model's versions, or one of them
    Get(ModelGet),
    /// Let an alias point at a version, or remove it
    Alias(ModelAlias),
}

/// What to register.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nightshift models register fraud s3://models/fraud/2026-11/")]
pub struct ModelRegister {
    /// The name: letters, digits, dots, dashes and underscores
    #[arg(value_name = "NAME")]
    pub name: String,
    /// A folder with a model, or one .onnx object, which the service can read
    #[arg(value_name = "LOCATION")]
    pub location: String,
    /// The service.
    #[command(flatten)]
    pub talk: Talk,
}

/// How many models to list.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nightshift models list
  nightshift models list --all --output json")]
pub struct ModelList {
    /// How much.
    #[command(flatten)]
    pub extent: Extent,
    /// The service.
    #[command(flatten)]
    pub talk: Talk,
}

/// Which model to show.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nightshift models get fraud
  nightshift models get fraud@3
  nightshift models get fraud@production --output json")]
pub struct ModelGet {
    /// A name for all versions of it, or one of them: by number, or by an alias that points at it
    #[arg(value_name = "NAME[@VERSION]")]
    pub model: String,
    /// How much.
    #[command(flatten)]
    pub extent: Extent,
    /// The service.
    #[command(flatten)]
    pub talk: Talk,
}

/// Which alias to move, and where to.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nightshift models alias fraud production 3
  nightshift models alias fraud candidate --remove")]
pub struct ModelAlias {
    /// The model
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The alias
    #[arg(value_name = "ALIAS")]
    pub alias: String,
    /// The version that it is to point at
    #[arg(value_name = "VERSION", required_unless_present = "remove", conflicts_with = "remove")]
    pub version: Option<u64>,
    /// Remove it
    #[arg(long)]
    pub remove: bool,
    /// The service.
    #[command(flatten)]
    pub talk: Talk,
}

/// Whose nightshift.json to write.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nightshift models init models/fraud")]
pub struct Init {
    /// A folder of this machine with a model and no nightshift.json
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Largest model, all files together
    #[arg(long, env = "NIGHTSHIFT_MAX_MODEL_BYTES", default_value_t = 8 * 1024 * 1024 * 1024, value_name = "BYTES")]
    pub max_model_bytes: u64,
}

/// What to inspect.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  nightshift models inspect s3://models/loans/
  nightshift models inspect examples/loans/model
  nightshift models inspect examples/loans/model --set task=tabular-classification --output json
  nightshift models inspect examples/photos/model --image examples/photos/input/*.jpg")]
pub struct Inspect {
    /// A folder with a model, or one .onnx file: of this machine, or a location such as s3://models/loans/
    #[arg(value_name = "LOCATION")]
    pub location: String,
    /// A field of the pipeline as a job would set it, in JSON or as a text; may be given several times
    #[arg(long, value_name = "FIELD=VALUE", value_parser = super::pair)]
    pub set: Vec<(String, String)>,
    /// Show instead what these pictures become before the model sees them
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub image: Vec<PathBuf>,
    /// What another program makes of the same pictures, in their order: a .npy file of [N, …] numbers, from which each may differ by a little
    #[arg(long, value_name = "FILE", requires = "image")]
    pub compare: Option<PathBuf>,
    /// How much that is, in steps of a picture's values from 0 to 255; the exit code is 1 beyond it
    #[arg(long, value_name = "STEPS", default_value_t = 1.0, requires = "compare")]
    pub tolerance: f64,
    /// Where the model's files are kept; a temporary folder when absent
    #[arg(long, value_name = "FOLDER")]
    pub cache: Option<PathBuf>,
    /// Largest model, all files together
    #[arg(long, env = "NIGHTSHIFT_MAX_MODEL_BYTES", default_value_t = 8 * 1024 * 1024 * 1024, value_name = "BYTES")]
    pub max_model_bytes: u64,
    /// How to show it
    #[arg(long, value_enum, default_value = "table", value_name = "FORM")]
    pub output: Form,
}

/// What to look after.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Takes every setting of `nightshift serve`, by flag, environment and file, and judges what the service would find.

Examples:
  nightshift doctor
  nightshift doctor --check s3://lake/scores/ --output json")]
pub struct Doctor {
    /// A prefix that is tried out: list, put, get, delete, and what its store makes of conditional requests; may be given several times
    #[arg(long, value_name = "LOCATION")]
    pub check: Vec<String>,
    /// How to show it
    #[arg(long, value_enum, default_value = "table", value_name = "FORM")]
    pub output: Form,
    /// Settings of the service.
    #[command(flatten)]
    pub serve: Serve,
}

/// Configuration subcommands.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// What to do
    #[command(subcommand)]
    pub command: Config,
}

/// What can be done with the configuration.
#[derive(Debug, Clone, Subcommand)]
pub enum Config {
    /// Show every setting of the service with its value and where that comes from; secrets are hidden
    Show(Box<Show>),
    /// Print a settings file in which every setting stands with its default, commented out
    #[command(after_help = "Examples:
  nightshift config default > nightshift.toml")]
    Default,
}

/// Which settings to show.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Takes every setting of `nightshift serve`, by flag, environment and file.

Examples:
  nightshift config show
  nightshift config show --config nightshift.toml --output json")]
pub struct Show {
    /// How to show it
    #[arg(long, value_enum, default_value = "table", value_name = "FORM")]
    pub output: Form,
    /// Settings of the service.
    #[command(flatten)]
    pub serve: Serve,
}
