//! Every command that the README and `--help` show runs.

mod support;

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::Path,
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use support::{
    Endpoint, S3Server, Service, ServiceOptions,
    command::{Said, nightshift, shell},
};

/// Commands that are shown and not run here, each with the reason.
const NOT_RUN: [(&str, &str); 3] = [
    ("scripts/demo", "builds the release binary, which takes minutes; `nightshift demo`, which it runs, is run"),
    ("scripts/test", "it is what runs this test"),
    ("export AWS_REGION=", "its values are for the reader to fill in; the harness sets them"),
];
/// The id that examples use.
const EXAMPLE_ID: &str = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071";
/// And that of schedules.
const EXAMPLE_SCHEDULE: &str = "sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073";

/// The commands of a Markdown file's shell blocks; one may go over several lines.
fn of_markdown(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut inside = false;
    let mut open = String::new();
    for line in text.lines() {
        if line.starts_with("```") {
            assert!(open.is_empty(), "a command goes on past its block: {open}");
            inside = line == "```sh";
            continue;
        }
        if !inside || line.trim().is_empty() {
            continue;
        }
        open += line;
        if open.matches('\'').count() % 2 == 1 || open.ends_with('\\') {
            open.push('\n');
            continue;
        }
        commands.push(std::mem::take(&mut open));
    }
    commands
}

/// Subcommands that help shows, as paths, and the examples of each.
fn of_help(path: &[String]) -> Vec<String> {
    let said = Said::of(nightshift(None, None).args(path).arg("--help").output().expect("it runs"));
    assert_eq!(said.code, 0, "{path:?}");
    let section = |name: &'static str| said.out.lines().skip_while(move |line| *line != name).skip(1);
    let examples: Vec<String> = section("Examples:").filter_map(|line| line.strip_prefix("  ")).map(str::to_owned).collect();
    let names = section("Commands:").take_while(|line| line.starts_with("  ")).filter_map(|line| line.split_whitespace().next());
    let below: Vec<Vec<String>> = names.filter(|name| *name != "help").map(|name| [path, &[name.to_owned()]].concat()).collect();
    if below.is_empty() {
        assert!(!examples.is_empty(), "`nightshift {} --help` shows no example", path.join(" "));
        let own = format!("nightshift {}", path.join(" "));
        assert!(examples.iter().all(|example| example.starts_with(&own)), "{path:?}: {examples:?}");
    }
    examples.into_iter().chain(below.iter().flat_map(|path| of_help(path))).collect()
}

/// The README's bucket layout, in a store and in the folder where commands run.
async fn world() -> (S3Server, Service) {
    let s3 = S3Server::start().await;
    s3.create_bucket("models");
    s3.create_bucket("lake");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for (from, bucket, prefix) in [("loans/model", "models", "loans/"), ("loans/input", "lake", "loans/2026-11-23/")] {
        let root = examples.join(from);
        for entry in walkdir::WalkDir::new(&root).into_iter().map(|e| e.expect("an example")).filter(|e| e.file_type().is_file()) {
            let name = entry.path().strip_prefix(&root).expect("below").to_str().expect("UTF-8").to_owned();
            s3.put(bucket, &format!("{prefix}{name}"), &fs::read(entry.path()).expect("a file"));
        }
    }
    // Three versions of a model by name, and a fourth to be registered.
    for (version, fixture) in
        ["models/churn-lightgbm", "models/diabetes-ridge", "models/breast-cancer-double", "models/loan-anomaly"].iter().enumerate()
    {
        let folder = if version == 3 { "fraud/2026-11/".to_owned() } else { format!("fraud/{version}/") };
        s3.put_fixture(fixture, "models", &folder);
    }
    let service = Service::start(&s3, ServiceOptions::default()).await;
    for version in 0..3 {
        let (status, answer) = service.post("/v1/models", &json!({"name": "fraud", "uri": format!("s3://models/fraud/{version}/")})).await;
        assert_eq!((status, &answer["version"]), (201, &json!(version + 1)), "{answer:#}");
    }
    for alias in ["production", "candidate"] {
        let path = service.url(&format!("/v1/models/fraud/aliases/{alias}"));
        let answer = service.client().put(path).json(&json!({"version": 2})).send().await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.status());
    }
    let folder = service.file_root();
    std::os::unix::fs::symlink(&examples, folder.join("examples")).expect("a link");
    fs::create_dir_all(folder.join("store")).expect("a folder");
    fs::create_dir_all(folder.join("local")).expect("a folder");
    fs::create_dir_all(folder.join("models/fraud")).expect("a folder");
    fs::copy(examples.join("loans/model/model.onnx"), folder.join("models/fraud/model.onnx")).expect("a copy");
    fs::copy(examples.join("loans/input/status=Verified/part-0.parquet"), folder.join("local/part-0.parquet")).expect("a copy");
    let definition = json!({
        "model": "s3://models/loans/", "input": "s3://lake/loans/2026-11-23/", "output": "s3://lake/scores/job/",
        "pipeline": {"task": "tabular-classification"},
    });
    fs::write(folder.join("job.json"), definition.to_string()).expect("a definition");
    fs::write(folder.join("nightshift.toml"), "chunk_slots = 2\n").expect("settings");
    fs::write(folder.join("schedule.json"), schedule("file").to_string()).expect("a definition");
    (s3, service)
}

/// A schedule that fires when it is asked to.
fn schedule(output: &str) -> Value {
    json!({"name": "sweep", "cron": "0 0 1 1 *", "job": {
        "model": "s3://models/loans/", "input": "s3://lake/loans/2026-11-23/", "output": format!("s3://lake/sweeps/{output}/"),
        "pipeline": {"task": "tabular-classification"},
    }})
}

/// A schedule for one command; its id.
async fn new_schedule(service: &Service, n: usize) -> String {
    let (status, answer) = service.post("/v1/schedules", &schedule(&n.to_string())).await;
    assert_eq!(status, 201, "{answer:#}");
    answer["id"].as_str().expect("an id").to_owned()
}

/// A job whose output lies in the folder where commands run.
async fn local_job(service: &Service) -> String {
    let folder = service.file_root();
    let input = format!("file://{}/local/", folder.display());
    let output = format!("file://{}/scores/", folder.display());
    let id = service.submit(&json!({"model": "s3://models/loans/", "input": input, "output": output})).await;
    assert_eq!(service.wait(&id, Duration::from_secs(60)).await["state"], "completed");
    id
}

/// A job that never ends by itself, in a state in which it can be steered so.
async fn endless_job(service: &Service, verb: &str) -> String {
    let definition = json!({
        "name": "endless", "model": "s3://models/endless.onnx", "input": "s3://lake/endless/", "output": format!("s3://lake/never/{verb}/"),
    });
    let id = service.submit(&definition).await;
    let before = match verb {
        "resume" => Some("pause"),
        "retry" => Some("cancel"),
        _ => None,
    };
    if let Some(before) = before {
        let (status, answer) = service.post(&format!("/v1/jobs/{id}/{before}"), &Value::Null).await;
        assert_eq!(status, 202, "{answer:#}");
    }
    if verb == "retry" {
        service.wait(&id, Duration::from_secs(60)).await;
    }
    id
}

async fn settle(service: &Service) {
    // No fire of an example comes while the others run.
    for schedule in service.get_all("/v1/schedules").await {
        let path = format!("/v1/schedules/{}", schedule["id"].as_str().expect("an id"));
        service.client().delete(service.url(&path)).send().await.expect("an answer");
    }
    for job in service.get_all("/v1/jobs").await {
        if job["name"] != "endless" {
            let ended = service.wait(job["id"].as_str().expect("an id"), Duration::from_secs(120)).await;
            assert_eq!(ended["state"], "completed", "{ended:#}");
        }
    }
}

/// Starts what goes on until it is stopped, waits for its line, stops it.
fn run_service(line: &str, ready: &str, s3: &S3Server, service: &Service) {
    let mut command = shell(&format!("exec {line}"), &service.file_root(), s3, service);
    let log = fs::File::create(service.file_root().join("log")).expect("a log");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).process_group(0).spawn().expect("it runs");
    let said = BufReader::new(child.stdout.take().expect("output")).lines().map_while(Result::ok).find(|line| line.contains(ready));
    // The whole group: what Ctrl-C reaches on a terminal.
    let _gone = rustix::process::kill_process_group(Pid::from_child(&child), Signal::TERM);
    let status = child.wait().expect("it ends");
    assert!(said.is_some(), "{line}: {}", fs::read_to_string(service.file_root().join("log")).unwrap_or_default());
    assert!(status.success() || line.contains("--keep"), "{line}: {status}");
}

#[tokio::test]
async fn every_command_of_the_readme_and_of_help_runs() {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("the README");
    let commands: Vec<String> = of_markdown(&readme).into_iter().chain(of_help(&[])).collect();
    assert!(commands.len() > 25, "{commands:#?}");
    let (s3, service) = world().await;
    let done = local_job(&service).await;
    s3.put("models", "endless.onnx", &support::fixture("models/broken/endless-loop.onnx"));
    s3.put("lake", "endless/x.jsonl", b"{\"x\": [1, 2, 3, 4]}\n");
    let mut unused: BTreeSet<&str> = NOT_RUN.iter().map(|(command, _)| *command).collect();
    for (n, shown) in commands.iter().enumerate() {
        if let Some((known, _)) = NOT_RUN.iter().find(|(known, _)| shown.starts_with(known)) {
            unused.remove(known);
            continue;
        }
        let line = shown.replace("target/release/", "").replace("http://127.0.0.1:8080", &service.url(""));
        let steered = ["cancel", "pause", "resume", "retry"].into_iter().find(|verb| line.contains(&format!("jobs {verb}")));
        let endless = match steered {
            Some(verb) => Some(endless_job(&service, verb).await),
            None => None,
        };
        let line = match line.contains(EXAMPLE_SCHEDULE) {
            true => line.replace(EXAMPLE_SCHEDULE, &new_schedule(&service, n).await),
            false => line,
        };
        let line = line.replace(EXAMPLE_ID, endless.as_ref().unwrap_or(&done));
        let line = match line.strip_prefix("nightshift healthcheck") {
            Some(rest) => format!("nightshift healthcheck --listen {}{rest}", service.url("").trim_start_matches("http://")),
            None => line,
        };
        println!("$ {line}");
        // Ports of the machine that runs the tests are not ours.
        let line = line.replace("postgres://nightshift@db.example.com/nightshift", &format!("'{}'", support::postgres::database().await));
        if line.starts_with("nightshift serve") || line.starts_with("nightshift worker") {
            let line = line.replace("0.0.0.0:8080", "127.0.0.1:0");
            let line = if line.contains("--listen") { line } else { format!("{line} --listen 127.0.0.1:0") };
            run_service(&line, "listening on http://", &s3, &service);
            continue;
        }
        if line.starts_with("nightshift demo --keep") {
            run_service(&format!("{line} --listen 127.0.0.1:0"), "The service goes on.", &s3, &service);
            continue;
        }
        let said = Said::of(shell(&line, &service.file_root(), &s3, &service).stdin(Stdio::null()).output().expect("bash"));
        assert_eq!(said.code, 0, "{shown}: {said:?}");
        if let Some(id) = endless {
            // It may be ending already.
            let _answer = service.post(&format!("/v1/jobs/{id}/cancel"), &Value::Null).await;
        }
        if line.starts_with("curl") && line.contains("/v1/jobs -d") {
            assert_eq!(said.json()["state"], "queued", "{said:?}");
        }
        settle(&service).await;
    }
    assert!(unused.is_empty(), "listed as not run, but nowhere shown: {unused:?}");
    let (_, jobs) = service.get("/v1/jobs?limit=200").await;
    let ended = |state: &str| jobs["items"].as_array().into_iter().flatten().filter(|job: &&Value| job["state"] == state).count();
    assert!(
        ended("completed") >= 5
            && ended("completed") + ended("cancelled") + ended("cancelling") == jobs["items"].as_array().expect("jobs").len(),
        "{jobs:#}"
    );
    assert!(!service.url("").is_empty() && !s3.url().is_empty());
}
