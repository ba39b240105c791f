//! `[buckets.NAME]`: how to reach one bucket, where that differs from the environment's settings.
//!
//! In: the table of the file. Out: [`BucketSection`]s with known keys only, each fit for its kind of store. Whether the variables and
//! files that they name are there is looked at when the stores are opened at start.

use std::collections::BTreeMap;

use crate::objects::BucketKind;

/// One section.
pub use crate::objects::BucketSettings as BucketSection;

/// Keys that every kind of store has.
const COMMON: [&str; 3] = ["kind", "endpoint", "allow_http"];
const S3: [&str; 8] = [
    "region",
    "virtual_hosted_style",
    "access_key_id_env",
    "access_key_id_file",
    "secret_access_key_env",
    "secret_access_key_file",
    "session_token_env",
    "session_token_file",
];
const GS: [&str; 4] = ["service_account_file", "service_account_env", "bearer_token_env", "bearer_token_file"];
const AZ: [&str; 7] =
    ["account", "access_key_env", "access_key_file", "sas_token_env", "sas_token_file", "bearer_token_env", "bearer_token_file"];
/// What people write who would put a secret into the file, and the setting that they need.
const SECRETS: [(&str, &str); 8] = [
    ("access_key_id", "access_key_id_env"),
    ("secret_access_key", "secret_access_key_env"),
    ("session_token", "session_token_env"),
    ("service_account", "service_account_file"),
    ("service_account_key", "service_account_env"),
    ("access_key", "access_key_env"),
    ("sas_token", "sas_token_env"),
    ("bearer_token", "bearer_token_env"),
];

/// Reads the table of all sections.
///
/// # Errors
/// One sentence that names the section and the key.
pub(super) fn read_all(table: &toml::Value) -> Result<BTreeMap<String, BucketSection>, String> {
    let table = table.as_table().ok_or("[buckets] must hold one table a bucket, [buckets.NAME]")?;
    table.iter().map(|(name, section)| Ok((name.clone(), read(name, section)?))).collect()
}

fn read(name: &str, section: &toml::Value) -> Result<BucketSection, String> {
    let place = format!("[buckets.{name}]");
    let table = section.as_table().ok_or_else(|| format!("{place} must be a table"))?;
    let kind = match table.get("kind") {
        None => BucketKind::S3,
        Some(kind) => kind.clone().try_into().map_err(|_| format!("{place}: kind is {kind}; write \"s3\", \"gs\" or \"az\""))?,
    };
    let (own, others): (&[&str], [&[&str]; 2]) = match kind {
        BucketKind::S3 => (&S3, [&GS, &AZ]),
        BucketKind::Gs => (&GS, [&S3, &AZ]),
        BucketKind::Az => (&AZ, [&S3, &GS]),
    };
    for key in table.keys().map(String::as_str) {
        if COMMON.contains(&key) || own.contains(&key) {
            continue;
        }
        if let Some((_, setting)) = SECRETS.iter().find(|(secret, _)| *secret == key) {
            return Err(format!("{place}: secrets do not stand in this file; name the variable that holds it with {setting}, or a file"));
        }
        if others.iter().any(|keys| keys.contains(&key)) {
            return Err(format!("{place}: {key} is no setting of kind {:?}; set kind, or leave it out", kind.name()));
        }
        let known = COMMON.iter().chain(own);
        let near = known.max_by(|a, b| strsim::jaro_winkler(a, key).total_cmp(&strsim::jaro_winkler(b, key)));
        return Err(format!("{place}: there is no setting {key:?}; did you mean {}?", near.unwrap_or(&"kind")));
    }
    section.clone().try_into().map_err(|e: toml::de::Error| format!("{place}: {}", e.message()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<BTreeMap<String, BucketSection>, String> {
        let table: toml::Table = text.parse().unwrap();
        read_all(&table["buckets"])
    }

    #[test]
    fn sections_are_read_for_their_kind() {
        let all = read_text(
            "[buckets.lake]\nendpoint = \"http://127.0.0.1:9000\"\nallow_http = true\naccess_key_id_env = \"A\"\nsecret_access_key_file = \"/s\"\n\
             [buckets.\"my.models\"]\nkind = \"gs\"\nservice_account_file = \"/key.json\"\n[buckets.blobs]\nkind = \"az\"\naccount = \"acme\"",
        )
        .unwrap();
        assert_eq!((all["lake"].kind, all["my.models"].kind, all["blobs"].kind), (BucketKind::S3, BucketKind::Gs, BucketKind::Az));
        assert_eq!(all["lake"].access_key_id_env.as_deref(), Some("A"));
    }

    #[test]
    fn a_wrong_key_is_an_error_that_names_the_section_and_what_was_meant() {
        for (text, said) in [
            ("[buckets.lake]\nregoin = \"x\"", "[buckets.lake]: there is no setting \"regoin\"; did you mean region?"),
            ("[buckets.lake]\naccount = \"x\"", "[buckets.lake]: account is no setting of kind \"s3\""),
            ("[buckets.lake]\nkind = \"gcs\"", "write \"s3\", \"gs\" or \"az\""),
            ("[buckets.lake]\nsecret_access_key = \"x\"", "secrets do not stand in this file"),
            ("[buckets.lake]\nregion = 5", "[buckets.lake]: "),
            ("[buckets]\nlake = 5", "[buckets.lake] must be a table"),
        ] {
            let error = read_text(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
