//! The binary as a tool: one command, its answer.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

use super::{ACCESS_KEY, Endpoint, SECRET_KEY, Service};

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Standard output as the one document that it must be.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// A program that sees nothing of the caller's settings, and the store's as a user would set them.
pub fn program(name: &str, store: Option<&dyn Endpoint>, service: Option<&Service>) -> Command {
    let mut command = Command::new(name);
    for (name, _) in std::env::vars() {
        if name.starts_with("NIGHTSHIFT_") || name.starts_with("AWS_") || name == "DATABASE_URL" {
            command.env_remove(name);
        }
    }
    command.env("NIGHTSHIFT_LOG", "warn").env("AWS_REGION", "us-east-1").env("AWS_ALLOW_HTTP", "true");
    if let Some(store) = store {
        command.env("AWS_ENDPOINT_URL_S3", store.url()).env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    }
    if let Some(service) = service {
        command.env("NIGHTSHIFT_API", service.url(""));
    }
    command
}

/// The binary under test.
pub fn nightshift(store: Option<&dyn Endpoint>, service: Option<&Service>) -> Command {
    program(env!("CARGO_BIN_EXE_nightshift"), store, service)
}

/// Runs a line as a shell does, with the binary under test on the path.
pub fn shell(line: &str, folder: &Path, store: &dyn Endpoint, service: &Service) -> Command {
    let beside = Path::new(env!("CARGO_BIN_EXE_nightshift")).parent().expect("a folder");
    let path = format!("{}:{}", beside.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = program("bash", Some(store), Some(service));
    command.args(["-euo", "pipefail", "-c", line]).env("PATH", path).current_dir(folder);
    command
}
