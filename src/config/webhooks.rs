//! `[webhooks]`: who hears of every job, and which networks webhooks may go to.

use ipnet::IpNet;
use serde::Deserialize;

use crate::domain::{Endpoint, EventKind, WebhookSecret, WebhookUrl};

/// Longest name of an endpoint.
const LONGEST_NAME: usize = 64;

/// The section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookSection {
    /// Networks that webhooks may go to although they are private, loopback or otherwise special: CIDRs. The default of
    /// `--webhook-allow-networks`.
    pub allow_networks: Vec<String>,
    /// Receivers that hear of every job.
    pub endpoints: Vec<EndpointSection>,
}

/// `[[webhooks.endpoints]]`: one receiver that hears of every job.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSection {
    /// Names it in deliveries.
    pub name: String,
    /// Where it listens.
    pub url: String,
    /// What it wants to hear; everything when absent.
    pub events: Option<Vec<String>>,
    /// The environment variable that holds its secret.
    pub secret_env: Option<String>,
    /// The file that holds its secret.
    pub secret_file: Option<std::path::PathBuf>,
    /// While the secret is being changed: the environment variable that holds the previous one, which signs as well.
    pub previous_secret_env: Option<String>,
    /// While the secret is being changed: the file that holds the previous one, which signs as well.
    pub previous_secret_file: Option<std::path::PathBuf>,
}

impl WebhookSection {
    /// The receivers with their secrets, which are read now.
    ///
    /// # Errors
    /// One sentence that names the endpoint and what is wrong with it. Never a secret.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>, String> {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for section in &self.endpoints {
            let endpoint = section.read().map_err(|why| format!("[[webhooks.endpoints]] {:?}: {why}", section.name))?;
            if endpoints.iter().any(|other| other.name == endpoint.name) {
                return Err(format!("[[webhooks.endpoints]] {:?} stands twice: names tell endpoints apart", section.name));
            }
            endpoints.push(endpoint);
        }
        Ok(endpoints)
    }
}

impl EndpointSection {
    fn read(&self) -> Result<Endpoint, String> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if self.name.is_empty() || self.name.len() > LONGEST_NAME || !self.name.chars().all(is_plain) {
            return Err(format!("a name has 1 to {LONGEST_NAME} letters, digits, dots, dashes and underscores"));
        }
        let url = WebhookUrl::parse(&self.url).map_err(|why| format!("url: {why}"))?;
        let present = secret("secret", self.secret_env.as_deref(), self.secret_file.as_deref())?;
        let present = present.ok_or("it needs secret_env or secret_file, which says where its secret is")?;
        let previous = secret("previous_secret", self.previous_secret_env.as_deref(), self.previous_secret_file.as_deref())?;
        Ok(Endpoint { name: self.name.clone(), url, events: self.events()?, secrets: std::iter::once(present).chain(previous).collect() })
    }

    fn events(&self) -> Result<Vec<EventKind>, String> {
        let Some(names) = &self.events else { return Ok(EventKind::ALL.to_vec()) };
        if names.is_empty() {
            return Err("events is empty: leave it out to hear everything".to_owned());
        }
        let known = EventKind::ALL.map(EventKind::name).join(", ");
        names.iter().map(|name| EventKind::parse(name).ok_or_else(|| format!("events: {name:?} is none of {known}"))).collect()
    }
}

/// A secret from an environment variable or a file; `None` when neither is named.
fn secret(key: &str, variable: Option<&str>, file: Option<&std::path::Path>) -> Result<Option<WebhookSecret>, String> {
    let (text, place) = match (variable, file) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return Err(format!("{key}_env and {key}_file are both given: keep one")),
        (Some(name), None) => {
            let text = std::env::var(name).map_err(|_| format!("{key}_env: the environment variable {name} is not set to a text"))?;
            (text, format!("the environment variable {name}"))
        }
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path).map_err(|e| format!("{key}_file: {}: {e}", path.display()))?;
            (text, path.display().to_string())
        }
    };
    let parsed = WebhookSecret::parse(text.trim()).map_err(|why| format!("{key}: {place}: {why}"))?;
    Ok(Some(parsed))
}

/// A network, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let parsed = text.parse().or_else(|_| text.parse().map(|address: std::net::IpAddr| IpNet::from(address)));
    parsed.map_err(|_| format!("{text:?} is no network: write an address and a prefix length, such as 10.0.0.0/8 or fd00::/8"))
}

/// The service's own address as others write it, without the slash at its end.
pub(super) fn public_url(text: &str) -> Result<String, String> {
    let url = WebhookUrl::parse(text).map_err(|why| why.to_string())?;
    match url.as_url().query() {
        Some(_) => Err("links are made by adding paths to it, so it cannot have a query".to_owned()),
        None => Ok(url.to_string().trim_end_matches('/').to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    fn read(toml: &str) -> Result<Vec<Endpoint>, String> {
        let table: toml::Table = toml.parse().unwrap();
        let section: WebhookSection = toml::Value::Table(table).try_into().map_err(|e| e.to_string())?;
        section.endpoints()
    }

    #[test]
    fn an_endpoint_is_read_with_both_secrets_of_a_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let (new, old) = (folder.path().join("new"), folder.path().join("old"));
        std::fs::write(&new, format!("{SECRET}\n")).unwrap();
        std::fs::write(&old, SECRET).unwrap();
        let file = format!(
            "[[endpoints]]\nname = \"audit\"\nurl = \"https://audit.example/\"\nsecret_file = {new:?}\nprevious_secret_file = {old:?}\n\
             [[endpoints]]\nname = \"ops\"\nurl = \"https://ops.example/\"\nevents = [\"job.failed\"]\nsecret_file = {new:?}"
        );
        let endpoints = read(&file).unwrap();
        assert_eq!((endpoints[0].secrets.len(), &endpoints[0].events[..]), (2, &EventKind::ALL[..]));
        assert_eq!((endpoints[1].secrets.len(), &endpoints[1].events[..]), (1, &[EventKind::Failed][..]));
    }

    #[test]
    fn every_mistake_is_a_sentence_that_names_the_endpoint_and_never_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "whsec_hunter2").unwrap();
        let bad = format!("secret_file = {path:?}");
        for (rest, word) in [
            ("url = \"https://x/\"", "secret_env or secret_file"),
            ("url = \"https://x/\"\nsecret_env = \"NIGHTSHIFT_NOT_SET\"", "NIGHTSHIFT_NOT_SET is not set"),
            ("url = \"https://x/\"\nsecret_file = \"/nowhere/secret\"", "/nowhere/secret"),
            ("url = \"https://x/\"\nsecret_env = \"A\"\nsecret_file = \"b\"", "keep one"),
            ("url = \"ftp://x/\"\nsecret_env = \"A\"", "http and https"),
            (&format!("url = \"https://x/\"\n{bad}"), "base64"),
            ("url = \"https://x/\"\nsecret = \"whsec_hunter2\"", "unknown field `secret`"),
        ] {
            let error = read(&format!("[[endpoints]]\nname = \"audit\"\n{rest}")).unwrap_err();
            assert!(error.contains(word) && error.contains("endpoints"), "{rest}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
