//! The database under test: a file of the one node there is, or a scratch server that can be restarted.

use std::{path::Path, process::Command};

use tempfile::TempDir;

pub enum Database {
    Sqlite,
    Postgres(Server),
}

impl Database {
    pub fn start(name: &str) -> Self {
        match name {
            "sqlite" => Self::Sqlite,
            "postgres" => Self::Postgres(Server::start()),
            other => panic!("{other} is no database: sqlite, postgres"),
        }
    }

    pub fn is_sqlite(&self) -> bool {
        matches!(self, Self::Sqlite)
    }

    /// For `DATABASE_URL`.
    pub fn url(&self) -> Option<&str> {
        match self {
            Self::Sqlite => None,
            Self::Postgres(server) => Some(&server.url),
        }
    }
}

/// A server of this case alone; dropped, it ends.
pub struct Server {
    folder: TempDir,
    pub url: String,
}

impl Server {
    fn start() -> Self {
        // Behind a socket, whose path must be short.
        let folder = tempfile::Builder::new().prefix("nightshift-chaos.").tempdir_in("/tmp").expect("a folder");
        let url = script(&["start"], folder.path());
        Self { folder, url }
    }

    /// As if it crashed, and up again; meanwhile the caller goes on.
    pub fn restart(&self) -> tokio::task::JoinHandle<()> {
        let folder = self.folder.path().to_owned();
        tokio::task::spawn_blocking(move || {
            script(&["stop"], &folder);
            script(&["start"], &folder);
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        script(&["stop"], self.folder.path());
    }
}

fn script(action: &[&str], folder: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/postgres");
    let mut command = Command::new(script);
    command.args(action).arg(folder);
    if action == ["stop"] {
        command.arg("immediate");
    }
    let done = command.output().expect("scripts/postgres");
    assert!(done.status.success(), "scripts/postgres {action:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}
