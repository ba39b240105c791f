//! How to reach one bucket where that differs from the environment's settings.
//!
//! Settings never hold a secret: they name the environment variable or the file that does. So they can be shown, logged and handed to
//! another process that has the same environment.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::domain::Scheme;

/// Which kind of store a bucket lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BucketKind {
    /// Amazon S3 or a server that speaks its protocol.
    #[default]
    S3,
    /// Google Cloud Storage.
    Gs,
    /// Azure Blob Storage.
    Az,
}

impl BucketKind {
    /// The scheme of its locations.
    pub fn scheme(self) -> Scheme {
        match self {
            Self::S3 => Scheme::S3,
            Self::Gs => Scheme::Gs,
            Self::Az => Scheme::Az,
        }
    }

    /// As settings write it: the scheme's name.
    pub fn name(self) -> &'static str {
        self.scheme().name()
    }
}

/// How to reach one bucket. What is absent comes from the environment, as for a bucket without settings; but credentials are taken
/// as a whole: where any are named here, the environment's are not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BucketSettings {
    /// Which kind of store.
    pub kind: BucketKind,
    /// `https://host:port` of the store, without the bucket.
    pub endpoint: Option<String>,
    /// Whether `http://` endpoints are allowed.
    pub allow_http: Option<bool>,
    /// S3: the region.
    pub region: Option<String>,
    /// S3: whether the bucket is a part of the host's name rather than of the path.
    pub virtual_hosted_style: Option<bool>,
    /// S3: the access key's id.
    pub access_key_id_env: Option<String>,
    /// As above.
    pub access_key_id_file: Option<PathBuf>,
    /// S3: the secret access key.
    pub secret_access_key_env: Option<String>,
    /// As above.
    pub secret_access_key_file: Option<PathBuf>,
    /// S3: the token of temporary credentials.
    pub session_token_env: Option<String>,
    /// As above.
    pub session_token_file: Option<PathBuf>,
    /// GCS: a service account's JSON key.
    pub service_account_file: Option<PathBuf>,
    /// GCS: a variable that holds the JSON key itself.
    pub service_account_env: Option<String>,
    /// Azure: the storage account.
    pub account: Option<String>,
    /// Azure: the account's access key.
    pub access_key_env: Option<String>,
    /// As above.
    pub access_key_file: Option<PathBuf>,
    /// Azure: a shared access signature.
    pub sas_token_env: Option<String>,
    /// As above.
    pub sas_token_file: Option<PathBuf>,
    /// GCS and Azure: an OAuth token.
    pub bearer_token_env: Option<String>,
    /// As above.
    pub bearer_token_file: Option<PathBuf>,
}

/// Where one secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Secret {
    /// In this environment variable.
    Env(String),
    /// In this file, alone; white space around it does not count.
    File(PathBuf),
}

impl Secret {
    /// Of a pair of settings; `None` where neither is there.
    pub(super) fn of(what: &str, env: Option<&String>, file: Option<&PathBuf>) -> Result<Option<Self>, String> {
        match (env, file) {
            (Some(_), Some(_)) => Err(format!("{what}_env and {what}_file are both there; keep one of them")),
            (Some(name), None) => Ok(Some(Self::Env(name.clone()))),
            (None, Some(path)) => Ok(Some(Self::File(path.clone()))),
            (None, None) => Ok(None),
        }
    }

    /// The secret, as it is now.
    ///
    /// # Errors
    /// Names the variable or the file.
    pub(super) fn read(&self) -> Result<String, String> {
        let text = match self {
            Self::Env(name) => std::env::var(name).map_err(|_| format!("the environment variable {name} is not set"))?,
            Self::File(path) => read_file(path)?,
        };
        match text.trim() {
            "" => Err(match self {
                Self::Env(name) => format!("the environment variable {name} is empty"),
                Self::File(path) => format!("the file {} is empty", path.display()),
            }),
            secret => Ok(secret.to_owned()),
        }
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("the file {} cannot be read: {e}", path.display()))
}
