//! The TOML file: its plain keys give flags their defaults, its tables are the [`Sections`].

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::{CommandFactory, FromArgMatches};
use serde::{Deserialize, de::DeserializeOwned};

use super::{BucketSection, Cli, WebhookSection, buckets};

/// What only the file can say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Sections {
    /// Who hears of every job.
    pub webhooks: WebhookSection,
    /// How to reach single buckets, by name.
    pub buckets: BTreeMap<String, BucketSection>,
}

/// Subcommands whose flags are no settings: they are for the service itself, or for a moment.
const WITHOUT_SETTINGS: [&str; 3] = ["demo", "runner", "help"];
/// Tables of the file that are sections.
const SECTIONS: [&str; 2] = ["webhooks", "buckets"];

/// Reads flags, environment and file.
///
/// # Errors
/// One sentence on what is wrong with the file; clap's own errors end the process with its usual message.
pub fn load() -> Result<Cli, String> {
    load_from(std::env::args_os().collect(), std::env::var_os("NIGHTSHIFT_CONFIG").map(PathBuf::from))
}

fn load_from(args: Vec<OsString>, from_environment: Option<PathBuf>) -> Result<Cli, String> {
    let mut command = Cli::command();
    let mut sections = Sections::default();
    if let Some(path) = config_flag(&args).or(from_environment) {
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let table: toml::Table = text.parse().map_err(|e| format!("{}: {e}", path.display()))?;
        sections = read_sections(&table, &path)?;
        command = with_defaults(command, &table, &path)?;
    }
    let matches = command.get_matches_from(args);
    let mut cli = Cli::from_arg_matches(&matches).map_err(|e| e.to_string())?;
    cli.sections = sections;
    Ok(cli)
}

/// The file must be known before the flags are read, since it gives them their defaults.
fn config_flag(args: &[OsString]) -> Option<PathBuf> {
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

fn read_sections(table: &toml::Table, path: &Path) -> Result<Sections, String> {
    fn section<T: DeserializeOwned + Default>(table: &toml::Table, name: &str, path: &Path) -> Result<T, String> {
        let Some(value) = table.get(name) else { return Ok(T::default()) };
        value.clone().try_into().map_err(|e| format!("{}: [{name}]: {e}", path.display()))
    }
    let buckets = table.get("buckets").map(buckets::read_all).transpose().map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(Sections { webhooks: section(table, "webhooks", path)?, buckets: buckets.unwrap_or_default() })
}

/// Makes the file's plain keys the defaults of the flags they are named like, in every subcommand that has them.
fn with_defaults(mut command: clap::Command, table: &toml::Table, path: &Path) -> Result<clap::Command, String> {
    let own = |command: &clap::Command| -> Vec<String> {
        let flags = command.get_arguments().filter(|a| !a.is_positional()).map(|a| a.get_id().to_string());
        flags.filter(|id| !matches!(id.as_str(), "help" | "version" | "config")).collect()
    };
    let top = own(&command);
    let subcommands = command.get_subcommands().filter(|c| !WITHOUT_SETTINGS.contains(&c.get_name()));
    let below: Vec<(String, Vec<String>)> = subcommands.map(|c| (c.get_name().to_owned(), own(c))).collect();
    for (key, value) in table.iter().filter(|(key, _)| !SECTIONS.contains(&key.as_str())) {
        let owners: Vec<&str> = below.iter().filter(|(_, flags)| flags.contains(key)).map(|(name, _)| name.as_str()).collect();
        if owners.is_empty() && !top.contains(key) {
            let known = top.iter().chain(below.iter().flat_map(|(_, flags)| flags)).map(String::as_str).chain(SECTIONS);
            let near = known.max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
            let hint = near.map(|n| format!("; did you mean {n}?")).unwrap_or_default();
            return Err(format!("{}: there is no setting {key:?}{hint}", path.display()));
        }
        let values = text_values(value).ok_or_else(|| format!("{}: {key} must be a text, a number, or a list of these", path.display()))?;
        if top.contains(key) {
            command = command.mut_arg(key, |arg| arg.default_values(values.clone()));
        }
        for name in owners {
            command = command.mut_subcommand(name, |c| c.mut_arg(key, |arg| arg.default_values(values.clone())));
        }
    }
    Ok(command)
}

fn text_values(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Float(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(flag) => Some(vec![flag.to_string()]),
        toml::Value::Array(values) => values.iter().map(|v| text_values(v)?.into_iter().next()).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Command, Serve},
        *,
    };

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
        let error = load_with("[bucket.lake]\nregion = \"eu-west-1\"", &[]).unwrap_err();
        assert!(error.contains("\"bucket\"; did you mean buckets?"), "{error}");
    }
}
