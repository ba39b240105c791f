//! What the settings are and where each comes from; and a file with all of them.

use std::path::Path;

use clap::{ArgMatches, CommandFactory, parser::ValueSource};
use serde::Serialize;

use super::{Cli, file::settings_of};

/// Shown instead of a secret.
const HIDDEN: &str = "(hidden)";

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A flag on the command line.
    Flag(String),
    /// A name of the environment.
    Environment(String),
    /// The settings file.
    File(String),
    /// Built in.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// As in the file: `listen`, `buckets.lake.region`.
    pub key: String,
    /// As texts, secrets hidden; none when it is not set.
    pub value: Vec<String>,
    /// Where the value comes from.
    pub origin: Origin,
}

/// Every setting of a subcommand, then what the file's sections say.
pub(super) fn all(matches: &ArgMatches, file: Option<(&Path, &toml::Table)>) -> Vec<Setting> {
    let command = Cli::command();
    let serve = command.find_subcommand("serve").into_iter().flat_map(settings_of);
    let mut settings: Vec<Setting> = settings_of(&command).chain(serve).map(|arg| setting(arg, matches, file)).collect();
    if let Some((path, table)) = file {
        for (name, value) in table.iter().filter(|(_, value)| value.is_table()) {
            section(name, name, value, path, &mut settings);
        }
    }
    settings
}

fn setting(arg: &clap::Arg, matches: &ArgMatches, file: Option<(&Path, &toml::Table)>) -> Setting {
    let key = arg.get_id().as_str();
    let raw = matches.get_raw(key).into_iter().flatten();
    let value = raw.map(|value| shown(key, &value.to_string_lossy())).collect();
    let flag = || format!("--{}", arg.get_long().unwrap_or(key));
    let name = || arg.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let origin = match (matches.value_source(key), file.filter(|(_, table)| table.contains_key(key))) {
        (Some(ValueSource::CommandLine), _) => Origin::Flag(flag()),
        (Some(ValueSource::EnvVariable), _) => Origin::Environment(name()),
        (_, Some((path, _))) => Origin::File(path.display().to_string()),
        (_, None) => Origin::Default,
    };
    Setting { key: key.to_owned(), value, origin }
}

/// A table of the file, leaf by leaf.
fn section(key: &str, leaf: &str, value: &toml::Value, path: &Path, settings: &mut Vec<Setting>) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                section(&format!("{key}.{name}"), name, value, path, settings);
            }
        }
        toml::Value::Array(values) if values.iter().any(|v| v.is_table() || v.is_array()) => {
            for (at, value) in values.iter().enumerate() {
                section(&format!("{key}[{at}]"), leaf, value, path, settings);
            }
        }
        toml::Value::Array(values) => {
            let value = values.iter().map(|value| shown(leaf, &text(value))).collect();
            settings.push(Setting { key: key.to_owned(), value, origin: Origin::File(path.display().to_string()) });
        }
        plain => {
            let value = vec![shown(leaf, &text(plain))];
            settings.push(Setting { key: key.to_owned(), value, origin: Origin::File(path.display().to_string()) });
        }
    }
}

fn text(value: &toml::Value) -> String {
    match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A value as it may be shown: none that is a secret by its name, and no password or query in a URL. What names the place of a secret,
/// an environment name or a file, is none.
fn shown(key: &str, value: &str) -> String {
    let names_a_place = key.ends_with("_env") || key.ends_with("_file");
    let lower = key.to_ascii_lowercase();
    if !names_a_place && ["secret", "token", "key", "password", "credential", "auth"].iter().any(|word| lower.contains(word)) {
        return HIDDEN.to_owned();
    }
    let Some((scheme, rest)) = value.split_once("://") else { return value.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = match authority.rsplit_once('@') {
        Some((user, host)) => format!("{}@{host}", user.split_once(':').map_or(user.to_owned(), |(user, _)| format!("{user}:{HIDDEN}"))),
        None => authority.to_owned(),
    };
    let path = match path.split_once('?') {
        Some((path, _)) => format!("{path}?{HIDDEN}"),
        None => path.to_owned(),
    };
    format!("{scheme}://{authority}{path}")
}

/// A settings file in which every setting stands with its help and its default, commented out.
pub fn default_file() -> String {
    let command = Cli::command();
    let mut text = "# Settings of `nightshift serve`. Each line shows a default; take the # away to change it.\n\
                    # A flag wins over the environment, that over this file, that over the default.\n"
        .to_owned();
    let serve = command.find_subcommand("serve").into_iter().flat_map(settings_of);
    for arg in settings_of(&command).chain(serve) {
        let help = arg.get_help().map(|help| help.to_string()).unwrap_or_default();
        let flag = arg.get_long().map(|long| format!("--{long}")).unwrap_or_default();
        let name = arg.get_env().map(|name| format!(", {}", name.to_string_lossy())).unwrap_or_default();
        let defaults: Vec<String> = arg.get_default_values().iter().map(|value| literal(&value.to_string_lossy())).collect();
        let value = match (matches!(arg.get_action(), clap::ArgAction::Append) || arg.get_value_delimiter().is_some(), defaults.as_slice())
        {
            (true, values) => format!("[{}]", values.join(", ")),
            (false, [value]) => value.clone(),
            (false, _) => "\"\"".to_owned(),
        };
        text += &format!("\n# {help} ({flag}{name}).\n# {} = {value}\n", arg.get_id());
    }
    text += "\n# Who hears of every job.\n# [webhooks]\n\n# What a device-hour costs, by provider.\n# [pricing]\n\n# How to reach the bucket NAME.\n# [buckets.NAME]\n";
    text
}

/// A default as TOML: numbers bare, all else quoted.
fn literal(value: &str) -> String {
    if value.parse::<f64>().is_ok() { value.to_owned() } else { format!("{value:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_by_name_and_inside_urls() {
        assert_eq!(shown("secret", "whsec_x"), HIDDEN);
        assert_eq!(shown("access_key", "AKIA"), HIDDEN);
        assert_eq!(shown("secret_env", "HOOK_SECRET"), "HOOK_SECRET");
        assert_eq!(shown("database_url", "postgres://ns:p@ss@db:5432/jobs?sslkey=x"), "postgres://ns:(hidden)@db:5432/jobs?(hidden)");
        assert_eq!(shown("database_url", "sqlite:///var/lib/x.db"), "sqlite:///var/lib/x.db");
    }

    #[test]
    fn the_default_file_is_one_that_can_be_used_with_its_comments_taken_away() {
        let text = default_file();
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.split_once(" = ").is_some_and(|(k, _)| !k.contains(' ')));
        let table: toml::Table = lines.collect::<Vec<_>>().join("\n").parse().unwrap();
        assert!(table.contains_key("listen") && table["chunk_slots"].as_integer() == Some(3), "{text}");
    }
}
