//! `nightshift doctor`: looks at everything that the service needs, changes nothing that stays, and says what to do.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use serde::Serialize;
use tokio::process::Command;

use super::{
    show,
    stop::{Outcome, Stop},
};
use crate::{
    config::{self, BucketSections, Form, Serve},
    db::{self, Database},
    domain::Uri,
    domain::spec::PROVIDERS,
    objects::{CLOCK_TOLERANCE, Condition, Stores},
    runner::infer::has_devices,
    tables::Connections,
};

/// How long a provider may take to say that it is there; CUDA takes a few seconds the first time.
const PROBE_PATIENCE: Duration = Duration::from_secs(60);
/// Below this, a full disk is near.
const FREE_BYTES: u64 = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    Warning,
    Failure,
}

/// One thing that was looked at.
#[derive(Debug, Clone, Serialize)]
struct Check {
    name: String,
    status: Status,
    detail: String,
}

fn check(name: impl Into<String>, status: Status, detail: impl Into<String>) -> Check {
    Check { name: name.into(), status, detail: detail.into() }
}

pub(super) fn run(settings: config::Doctor, buckets: BucketSections, connections: Connections) -> Outcome {
    super::block_on(async move {
        let stores = super::stores(buckets)?;
        let mut checks = runtime(&settings.serve).await;
        checks.push(database(&settings.serve).await);
        checks.push(data_folder(&settings.serve.data_dir));
        checks.extend(settings.serve.file_root.iter().map(|root| file_root(root.as_path())));
        for name in connections.settings().keys() {
            checks.push(connection(&connections, name).await);
        }
        for location in &settings.check {
            checks.extend(store(&stores, &super::location(location)?.as_prefix()).await);
        }
        match settings.output {
            Form::Json => show::print_json(&checks)?,
            Form::Table => show::print(&text(&checks))?,
        }
        let failed = checks.iter().any(|check| check.status == Status::Failure);
        if failed { Err(Stop::said()) } else { Ok(()) }
    })
}

/// A line a check.
fn text(checks: &[Check]) -> String {
    let rows = checks.iter().map(|check| {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Warning => "WARNING",
            Status::Failure => "FAILURE",
        };
        vec![check.name.clone(), status.to_owned(), check.detail.clone()]
    });
    show::columns(&["CHECK", "STATUS", "DETAIL"], rows)
}

/// The library, and each provider in a process of its own.
async fn runtime(serve: &Serve) -> Vec<Check> {
    let library = match config::find_library(serve.onnxruntime.as_deref(), &serve.data_dir) {
        Ok(library) => library,
        Err(error) => return vec![check("library", Status::Failure, error)],
    };
    let cpu = probe(&library, "cpu").await;
    let mut checks = match &cpu {
        Ok(version) => vec![check("library", Status::Ok, format!("ONNX Runtime {version}, {}", library.display()))],
        // Without the library no provider can be asked for.
        Err(why) => return vec![check("library", Status::Failure, why.clone())],
    };
    for name in PROVIDERS {
        let wanted = serve.providers.iter().any(|provider| provider == name);
        let found = if name == "cpu" { cpu.clone() } else { probe(&library, name).await };
        let (status, detail) = match (found, wanted) {
            (Ok(_), true) if has_devices(name) => {
                let devices = serve.devices.numbers(&serve.providers);
                (Status::Ok, format!("can be had; a runner for each of the devices {devices:?}"))
            }
            (Ok(_), _) => (Status::Ok, "can be had".to_owned()),
            (Err(why), true) => (Status::Failure, format!("--providers names it, and it cannot be had: {why}")),
            (Err(why), false) if ["cuda", "tensorrt"].contains(&name) && has_gpu() => {
                (Status::Warning, format!("there is a GPU, but: {why}"))
            }
            (Err(why), false) => (Status::Ok, format!("not here, and --providers does not ask for it: {why}")),
        };
        checks.push(check(format!("provider {name}"), status, detail));
    }
    for unknown in serve.providers.iter().filter(|name| !PROVIDERS.contains(&name.as_str())) {
        let detail = format!("there is no such provider; known are {}", PROVIDERS.join(", "));
        checks.push(check(format!("provider {unknown}"), Status::Failure, detail));
    }
    checks
}

fn has_gpu() -> bool {
    Path::new("/dev/nvidiactl").exists() || Path::new("/dev/nvidia0").exists()
}

/// The runtime's version if the provider can be had, else why not.
async fn probe(library: &Path, provider: &str) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|e| format!("this program's own file is not found: {e}"))?;
    let mut command = Command::new(program);
    command.args(["--log", "error", "--log-format", "text", "runner", "--workers", "1", "--probe", provider]);
    command.arg("--library").arg(std::path::absolute(library).unwrap_or_else(|_| library.to_owned()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let run = command.spawn().map_err(|e| format!("the runner does not start: {e}"))?.wait_with_output();
    let output = match tokio::time::timeout(PROBE_PATIENCE, run).await {
        Ok(output) => output.map_err(|e| e.to_string())?,
        Err(_) => return Err(format!("no answer in {} s", PROBE_PATIENCE.as_secs())),
    };
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    // A provider's library may end the process after it has answered; what was said counts.
    if !said.is_empty() {
        return Ok(said);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let reason = errors.rsplit_once("nightshift: ").map_or(errors.as_ref(), |(_, reason)| reason).split_whitespace();
    let reason = reason.collect::<Vec<_>>().join(" ");
    Err(match ended(output.status) {
        Some(signal) if reason.is_empty() => signal,
        Some(signal) => format!("{signal}, after: {reason}"),
        None => reason,
    })
}

fn ended(status: ExitStatus) -> Option<String> {
    use std::os::unix::process::ExitStatusExt;
    status.signal().map(|signal| format!("its library ended the process with signal {signal}"))
}

async fn database(serve: &Serve) -> Check {
    let database = match serve.database() {
        Ok(database) => database,
        Err(error) => return check("database", Status::Failure, error),
    };
    let (shown, in_use) = match &database {
        Database::Sqlite(path) => (path.display().to_string(), [", not in use", ", in use by a service"]),
        Database::Postgres { url, .. } => (url.to_string(), ["", ""]),
    };
    match db::inspect(&database).await {
        Ok(None) => check("database", Status::Ok, format!("{shown} is not there yet; the first start makes it")),
        Ok(Some(found)) if found.unknown > 0 => {
            let detail = format!("{shown} was written by a later version of Nightshift ({} unknown migrations)", found.unknown);
            check("database", Status::Failure, detail)
        }
        Ok(Some(found)) => {
            let pending = match found.pending {
                0 => "up to date".to_owned(),
                pending => format!("{pending} migrations that the next start runs"),
            };
            let lock = in_use[usize::from(found.in_use)];
            check("database", Status::Ok, format!("{shown}: {} jobs, {pending}{lock}", found.jobs))
        }
        Err(error) => {
            let reason = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            check("database", Status::Failure, format!("{shown} cannot be opened: {reason}"))
        }
    }
}

/// A database of tables, asked once.
async fn connection(connections: &Connections, name: &str) -> Check {
    match connections.version(name).await {
        Ok(version) => check(format!("connection {name}"), Status::Ok, format!("PostgreSQL {version} answers")),
        Err(error) => check(format!("connection {name}"), Status::Failure, error.to_string()),
    }
}

/// The folder itself, or the nearest above it that exists: that is where it will be made.
fn data_folder(folder: &Path) -> Check {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let Some(existing) = absolute.ancestors().find(|path| path.exists()) else {
        return check("data folder", Status::Failure, format!("{} has no folder above it", absolute.display()));
    };
    let trial = existing.join(format!(".nightshift-doctor-{}", uuid::Uuid::new_v4().simple()));
    let written = std::fs::write(&trial, b"").and_then(|()| std::fs::remove_file(&trial));
    if let Err(error) = written {
        return check("data folder", Status::Failure, format!("{} cannot be written to: {error}", existing.display()));
    }
    let made = if existing == absolute { String::new() } else { " (not there yet; the first start makes it)".to_owned() };
    match rustix::fs::statvfs(existing) {
        Ok(space) => {
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            let status = if free < FREE_BYTES { Status::Warning } else { Status::Ok };
            check("data folder", status, format!("{}{made}, {:.1} GiB free", absolute.display(), free as f64 / FREE_BYTES as f64))
        }
        Err(error) => check("data folder", Status::Warning, format!("{}{made}, its free space is not known: {error}", absolute.display())),
    }
}

fn file_root(root: &Path) -> Check {
    match std::fs::read_dir(root) {
        Ok(_) => check("file root", Status::Ok, root.display().to_string()),
        Err(error) => check("file root", Status::Failure, format!("--file-root {}: {error}", root.display())),
    }
}

/// A prefix, tried out.
async fn store(stores: &Stores, location: &Uri) -> Vec<Check> {
    let probed = match stores.open(location) {
        Ok(bucket) => bucket.probe(location.path()).await,
        Err(error) => Err(error),
    };
    let probe = match probed {
        Ok(probe) => probe,
        Err(error) => return vec![check(format!("store {location}"), Status::Failure, error.to_string())],
    };
    let steps = [("list", Some(&probe.list)), ("put", Some(&probe.put)), ("get", probe.get.as_ref()), ("delete", probe.delete.as_ref())];
    let failed: Vec<String> = steps.iter().filter_map(|(name, done)| Some(format!("{name}: {}", done.as_ref()?.as_ref().err()?))).collect();
    let mut checks = vec![match failed.is_empty() {
        true => check(format!("store {location}"), Status::Ok, "list, put, get and delete work"),
        false => check(format!("store {location}"), Status::Failure, failed.join("; ")),
    }];
    let conditions = [
        ("If-None-Match: * on PUT", &probe.create_only, "an object that exists is overwritten; no promise rests on this"),
        ("If-Match on GET", &probe.pinned_read, "a changed object is told by its etag alone, as Nightshift does everywhere"),
    ];
    for (name, condition, ignored) in conditions {
        let (status, detail) = match condition {
            None => continue,
            Some(Condition::Honoured) => (Status::Ok, "honoured".to_owned()),
            Some(Condition::Ignored) => (Status::Ok, format!("ignored: {ignored}")),
            Some(Condition::Refused(why)) => (Status::Warning, format!("refused: {why}")),
        };
        checks.push(check(format!("  {name}"), status, detail));
    }
    if let Some(skew) = probe.clock {
        let far = skew.abs() > CLOCK_TOLERANCE.as_secs_f64();
        let side = if skew < 0.0 { "behind" } else { "ahead of" };
        let detail = match far {
            true => format!("the store's clock is {:.0} s {side} this machine's; set both by NTP", skew.abs()),
            false => "this machine's and the store's agree to within seconds".to_owned(),
        };
        checks.push(check("  clock", if far { Status::Warning } else { Status::Ok }, detail));
    }
    checks
}
