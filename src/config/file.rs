//! The TOML file: its plain keys give flags their defaults, its tables are the [`Sections`].

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use clap::FromArgMatches;
use serde::{Deserialize, de::DeserializeOwned};

use super::{BucketSection, Cli, ConnectionSection, PricingSection, WebhookSection, buckets, settings, webhooks};

/// What only the file can say.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct Sections {
    /// Who hears of every job.
    pub webhooks: WebhookSection,
    /// How to reach single buckets, by name.
    pub buckets: BTreeMap<String, BucketSection>,
    /// What devices cost.
    pub pricing: PricingSection,
    /// Databases that jobs may write tables to, by name.
    pub connections: BTreeMap<String, ConnectionSection>,
}

/// Subcommands whose flags are settings, by their paths.
const WITH_SETTINGS: [&[&str]; 5] = [&["serve"], &["worker"], &["migrate"], &["doctor"], &["config", "show"]];
/// Flags beside them that are none: they are for a moment.
const NO_SETTINGS: [&str; 6] = ["help", "version", "config", "check", "output", "webhook_retry_scale"];
/// Tables of the file that are sections.
const SECTIONS: [&str; 4] = ["webhooks", "buckets", "connections", "pricing"];

/// Reads flags, environment and file.
///
/// # Errors
/// One sentence on what is wrong with the file; clap's own errors end the process with its usual message.
pub fn load() -> Result<Cli, String> {
    load_from(std::env::args_os().collect(), std::env::var_os("NIGHTSHIFT_CONFIG").map(PathBuf::from))
}

fn load_from(args: Vec<OsString>, from_environment: Option<PathBuf>) -> Result<Cli, String> {
    let mut command = super::command();
    let mut sections = Sections::default();
    let mut file = None;
    if let Some(path) = config_flag(&args).or(from_environment) {
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let table: toml::Table = text.parse().map_err(|e| format!("{}: {e}", path.display()))?;
        sections = read_sections(&table, &path)?;
        let table = with_allowed_networks(flat(table), &sections, &path)?;
        command = with_defaults(command, &table, &path)?;
        file = Some((path, table));
    }
    let matches = command.get_matches_from(args);
    let mut cli = Cli::from_arg_matches(&matches).map_err(|e| e.to_string())?;
    cli.sections = sections;
    if let Some(("config", below)) = matches.subcommand()
        && let Some(("show", shown)) = below.subcommand()
    {
        cli.settings = settings::all(shown, file.as_ref().map(|(path, table)| (path.as_path(), table)));
    }
    Ok(cli)
}

/// The settings of a subcommand and those above it: their flags.
pub(super) fn settings_of(command: &clap::Command) -> impl Iterator<Item = &clap::Arg> {
    command.get_arguments().filter(|a| !a.is_positional() && !NO_SETTINGS.contains(&a.get_id().as_str()))
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
        value.clone().try_into().map_err(|e: toml::de::Error| format!("{}: [{name}]: {}", path.display(), nearest_key(&e.to_string())))
    }
    let buckets = table.get("buckets").map(buckets::read_all).transpose().map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(Sections {
        webhooks: section(table, "webhooks", path)?,
        buckets: buckets.unwrap_or_default(),
        connections: section(table, "connections", path)?,
        pricing: section(table, "pricing", path)?,
    })
}

/// serde lists all keys that a section has; whoever mistyped one wants the nearest.
fn nearest_key(error: &str) -> String {
    let message = error.trim();
    let Some((_, rest)) = message.split_once("unknown field `") else { return message.to_owned() };
    let Some((wrong, known)) = rest.split_once('`') else { return message.to_owned() };
    let place = message.split_once("\nin ").map(|(_, place)| format!(" in {}", place.trim())).unwrap_or_default();
    let known = known.split("\nin ").next().unwrap_or_default().split('`').skip(1).step_by(2);
    let hint = nearest(wrong, known).map_or(String::new(), |near| format!("; did you mean {near}?"));
    format!("there is no setting {wrong:?}{place}{hint}")
}

fn nearest<'k>(wrong: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    known.max_by(|a, b| strsim::jaro_winkler(a, wrong).total_cmp(&strsim::jaro_winkler(b, wrong)))
}

/// Makes the file's plain keys the defaults of the flags they are named like, in every subcommand that has settings.
fn with_defaults(mut command: clap::Command, table: &toml::Table, path: &Path) -> Result<clap::Command, String> {
    let ids = |command: &clap::Command| settings_of(command).map(|a| a.get_id().to_string()).collect::<Vec<_>>();
    let top = ids(&command);
    let below: Vec<(&[&str], Vec<String>)> = WITH_SETTINGS
        .into_iter()
        .filter_map(|path| Some((path, ids(path.iter().try_fold(&command, |at, name| at.find_subcommand(name))?))))
        .collect();
    for (key, value) in table.iter().filter(|(key, _)| !SECTIONS.contains(&key.as_str())) {
        let owners: Vec<&[&str]> = below.iter().filter(|(_, flags)| flags.contains(key)).map(|(path, _)| *path).collect();
        if owners.is_empty() && !top.contains(key) {
            let known = top.iter().chain(below.iter().flat_map(|(_, flags)| flags)).map(String::as_str).chain(SECTIONS);
            let hint = nearest(key, known).map(|n| format!("; did you mean {n}?")).unwrap_or_default();
            return Err(format!("{}: there is no setting {key:?}{hint}", path.display()));
        }
        let values = text_values(value).ok_or_else(|| format!("{}: {key} must be a text, a number, or a list of these", path.display()))?;
        if top.contains(key) {
            command = command.mut_arg(key, |arg| arg.default_values(values.clone()));
        }
        for path in owners {
            command = with_default(command, path, key, &values);
        }
    }
    Ok(command)
}

/// A table that is no section groups settings that begin alike: `jobs` in `[retention]` is `retention_jobs`. A group in which nothing is
/// known stays what it is, and is reported as it was written.
fn flat(table: toml::Table) -> toml::Table {
    let command = super::command();
    let serve = command.find_subcommand("serve").into_iter().flat_map(settings_of);
    let known: Vec<&str> = serve.map(|arg| arg.get_id().as_str()).collect();
    let mut flat = toml::Table::new();
    for (group, value) in table {
        match value {
            toml::Value::Table(below)
                if !SECTIONS.contains(&group.as_str()) && known.iter().any(|key| key.starts_with(&format!("{group}_"))) =>
            {
                flat.extend(below.into_iter().map(|(key, value)| (format!("{group}_{key}"), value)));
            }
            value => drop(flat.insert(group, value)),
        }
    }
    flat
}

/// `webhooks.allow_networks` is the file's way to say what the flag says.
fn with_allowed_networks(mut table: toml::Table, sections: &Sections, path: &Path) -> Result<toml::Table, String> {
    const FLAG: &str = "webhook_allow_networks";
    let networks = &sections.webhooks.allow_networks;
    if networks.is_empty() {
        return Ok(table);
    }
    if table.contains_key(FLAG) {
        return Err(format!("{}: {FLAG} and allow_networks of [webhooks] say the same: keep one", path.display()));
    }
    for network in networks {
        webhooks::network(network).map_err(|why| format!("{}: [webhooks] allow_networks: {why}", path.display()))?;
    }
    table.insert(FLAG.to_owned(), networks.clone().into());
    Ok(table)
}

fn with_default(command: clap::Command, path: &[&str], key: &str, values: &[String]) -> clap::Command {
    match path {
        [] => command.mut_arg(key, |arg| arg.default_values(values.to_vec())),
        [next, rest @ ..] => command.mut_subcommand(next, |below| with_default(below, rest, key, values)),
    }
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
        super::super::command().debug_assert();
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
    fn settings_that_begin_alike_may_stand_in_a_table() {
        let serve = serve(load_with("[retention]\njobs = \"90d\"\n[database]\nconnections = 4", &[]).unwrap());
        assert_eq!((serve.retention_jobs, serve.database_connections), (Some(std::time::Duration::from_secs(90 * 86_400)), 4));
        let error = load_with("[retention]\njob = \"90d\"", &[]).unwrap_err();
        assert!(error.contains("\"retention_job\"; did you mean retention_jobs?"), "{error}");
    }

    #[test]
    fn allowed_networks_stand_in_the_section_and_give_way_to_the_flag() {
        let file = "[webhooks]\nallow_networks = [\"10.0.0.0/8\", \"::1\"]";
        let networks = |args: &[&str]| serve(load_with(file, args).unwrap()).webhook_allow_networks;
        assert_eq!(networks(&[]), ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        assert_eq!(networks(&["--webhook-allow-networks", "127.0.0.0/8"]), ["127.0.0.0/8".parse().unwrap()]);
        let error = load_with(&format!("webhook_allow_networks = \"10.0.0.0/8\"\n{file}"), &[]).unwrap_err();
        assert!(error.contains("keep one"), "{error}");
        let error = load_with("[webhooks]\nallow_networks = [\"10.0.0.0/33\"]", &[]).unwrap_err();
        assert!(error.contains("10.0.0.0/33") && error.contains("10.0.0.0/8"), "{error}");
    }

    #[test]
    fn an_unknown_key_of_a_section_is_an_error_that_names_the_nearest() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "only its names count")]
        struct Section {
            region: Option<String>,
            endpoint: Option<String>,
            allow_http: Option<bool>,
        }
        let table: toml::Table = "[lake]\nregoin = \"eu\"".parse().unwrap();
        let error = table.try_into::<BTreeMap<String, Section>>().unwrap_err().to_string();
        assert_eq!(nearest_key(&error), "there is no setting \"regoin\" in `lake`; did you mean region?");
        assert_eq!(nearest_key("invalid type: string, expected u8"), "invalid type: string, expected u8");
        let error = load_with("[buckets.lake]\nanything = 1", &[]).unwrap_err();
        assert!(error.contains("[buckets.lake]: there is no setting \"anything\""), "{error}");
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_nearest() {
        let error = load_with("chunk_byte = 1", &[]).unwrap_err();
        assert!(error.contains("\"chunk_byte\"; did you mean chunk_bytes?"), "{error}");
        let error = load_with("[bucket.lake]\nregion = \"eu-west-1\"", &[]).unwrap_err();
        assert!(error.contains("\"bucket\"; did you mean buckets?"), "{error}");
    }
}
