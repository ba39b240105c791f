//! `nightshift demo`: the whole path once, on sample data, with nothing but this binary.
//!
//! Starts the service as a user would, puts the samples where a bucket would have them, and talks to it over HTTP alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::config::{self, Sample};

/// How long the service may take to come up, and a job to end.
const PATIENCE: Duration = Duration::from_secs(120);
/// Predictions shown at the end.
const SHOWN: usize = 5;

impl Sample {
    /// Its folder of the examples, with `model/` and `input/`.
    fn folder(self) -> &'static str {
        match self {
            Self::Loans => "loans",
            Self::Text => "reviews",
            Self::Images => "photos",
        }
    }

    /// What its job says beyond where things are.
    fn settings(self) -> Value {
        match self {
            Self::Loans => json!({"pipeline": {"task": "tabular-classification"}, "execution": {"chunk_records": 2000}}),
            // The model's folder says all there is to know; the rating is what people thought, from −4 to 4.
            Self::Text => json!({"execution": {"chunk_records": 700}}),
            Self::Images => json!({"pipeline": {"top_k": 3}}),
        }
    }

    /// Input columns to be seen beside the predictions.
    fn shown_columns(self) -> Value {
        match self {
            Self::Loans | Self::Images => json!(false),
            Self::Text => json!(["id", "rating"]),
        }
    }
}

pub(super) fn run(settings: &config::Demo) -> Result<(), String> {
    super::block_on(demo(settings))
}

async fn demo(settings: &config::Demo) -> Result<(), String> {
    let folder = settings.what.folder();
    let samples = settings.examples.join(folder);
    if !samples.is_dir() {
        return Err(format!("{} is no folder: run this where the project's examples are, or name them with --examples", samples.display()));
    }
    let store = settings.data_dir.join("store");
    copy_folder(&samples, &store.join(folder)).map_err(|e| format!("{}: {e}", store.display()))?;
    let store = fs::canonicalize(&store).map_err(|e| format!("{}: {e}", store.display()))?;

    let (mut service, api) = start(settings, &store).await?;
    let shown = predict(&api, &store, settings.what).await;
    if let Err(error) = shown {
        let _gone = service.kill().await;
        return Err(error);
    }
    if settings.keep {
        println!("\nThe service goes on. API: {api}/v1/jobs   Docs: {api}/docs   Stop it with Ctrl-C.");
        service.wait().await.map_err(|e| e.to_string())?;
        return Ok(());
    }
    stop(&mut service).await
}

async fn start(settings: &config::Demo, store: &Path) -> Result<(Child, String), String> {
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let listen = match (settings.listen, settings.keep) {
        (Some(address), _) => address.to_string(),
        (None, true) => "127.0.0.1:8080".to_owned(),
        (None, false) => "127.0.0.1:0".to_owned(),
    };
    let mut command = Command::new(program);
    command.args(["--log", "warn", "serve", "--listen", &listen]);
    command.arg("--data-dir").arg(&settings.data_dir).arg("--file-root").arg(store);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut service = command.spawn().map_err(|e| format!("cannot start the service: {e}"))?;
    let output = service.stdout.take().ok_or("the service has no standard output")?;
    let mut lines = BufReader::new(output).lines();
    let api = loop {
        match tokio::time::timeout(PATIENCE, lines.next_line()).await {
            Ok(Ok(Some(line))) => {
                if let Some(api) = line.strip_prefix("listening on ") {
                    break api.to_owned();
                }
            }
            Ok(_) => return Err("the service did not start; its own message stands above".to_owned()),
            Err(_) => return Err("the service did not start in time".to_owned()),
        }
    };
    println!("Service: {api} (SQLite and a file store in {})", settings.data_dir.display());
    Ok((service, api))
}

/// Asks the service to stop as an operator would, and waits.
async fn stop(service: &mut Child) -> Result<(), String> {
    if let Some(pid) = service.id().and_then(|id| rustix::process::Pid::from_raw(id as i32)) {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|e| e.to_string())?;
    }
    let status = tokio::time::timeout(Duration::from_secs(30), service.wait()).await;
    match status {
        Ok(Ok(status)) if status.success() => {
            println!("\nService stopped.");
            Ok(())
        }
        Ok(Ok(status)) => Err(format!("the service ended with {status}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the service did not stop".to_owned()),
    }
}

async fn predict(api: &str, store: &Path, what: Sample) -> Result<(), String> {
    let folder = what.folder();
    let at = |path: &str| format!("file://{}/{path}", store.display());
    // Two demonstrations within a second are not to share an output.
    let stamp = jiff::Timestamp::now().as_millisecond();
    let mut definition = json!({
        "name": format!("demo-{folder}"),
        "model": at(&format!("{folder}/model/")),
        "input": at(&format!("{folder}/input/")),
        "output": {"uri": at(&format!("scores/{stamp}/")), "include_input": what.shown_columns()},
    });
    if let (Value::Object(definition), Value::Object(settings)) = (&mut definition, what.settings()) {
        definition.extend(settings);
    }
    println!("\nPOST {api}/v1/jobs\n{}\n", pretty(&definition));
    let client = reqwest::Client::builder().no_proxy().build().map_err(|e| e.to_string())?;
    let accepted = client.post(format!("{api}/v1/jobs")).json(&definition).send().await.map_err(|e| e.to_string())?;
    let status = accepted.status();
    let job: Value = accepted.json().await.map_err(|e| e.to_string())?;
    let Some(id) = job["id"].as_str().filter(|_| status == reqwest::StatusCode::ACCEPTED) else {
        return Err(format!("the job was refused ({status}):\n{}", pretty(&job)));
    };
    let job = watch(&client, &format!("{api}/v1/jobs/{id}")).await?;
    report(&job);
    if job["state"] != "completed" {
        return Err(format!("the job ended as {}:\n{}", job["state"], pretty(&job["error"])));
    }
    predictions(&client, api, id).await
}

/// Follows a job to its end; a line whenever something changed.
async fn watch(client: &reqwest::Client, url: &str) -> Result<Value, String> {
    let started = Instant::now();
    let mut last = String::new();
    loop {
        let job = get(client, url).await?;
        let records = &job["counts"]["records"];
        let line = format!(
            "{:<12} {:>3.0} %  {} of {} chunks  {} records",
            job["state"].as_str().unwrap_or_default(),
            job["progress"].as_f64().unwrap_or_default() * 100.0,
            job["counts"]["chunks_done"],
            job["counts"]["chunks"],
            records["succeeded"].as_u64().unwrap_or_default() + records["failed"].as_u64().unwrap_or_default(),
        );
        if line != last {
            println!("{line}");
            last = line;
        }
        if matches!(job["state"].as_str(), Some("completed" | "failed" | "cancelled" | "expired")) {
            return Ok(job);
        }
        if started.elapsed() > PATIENCE {
            return Err("the job did not end in time".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn report(job: &Value) {
    let (counts, usage) = (&job["counts"], &job["usage"]);
    println!(
        "\n{}: {} objects, {} records scored, {} failed, {:.0} records/s on {}, {} bytes read, {} written",
        job["id"].as_str().unwrap_or_default(),
        counts["objects"],
        counts["records"]["succeeded"],
        counts["records"]["failed"],
        usage["records_per_second"].as_f64().unwrap_or_default(),
        usage["provider"].as_str().unwrap_or_default(),
        usage["bytes_read"],
        usage["bytes_written"],
    );
    if let (Some(tokens), Some(share)) = (usage["tokens"].as_u64(), usage["padding_share"].as_f64()) {
        println!("{tokens} tokens, and {:.1} % of what the model worked on was padding", share * 100.0);
    }
}

async fn predictions(client: &reqwest::Client, api: &str, id: &str) -> Result<(), String> {
    let results = get(client, &format!("{api}/v1/jobs/{id}/results")).await?;
    let items = results["items"].as_array().cloned().unwrap_or_default();
    println!("\nResults ({} parts):", items.len());
    let mut urls: Vec<String> = Vec::new();
    for item in &items {
        let url = item["url"].as_str().unwrap_or_default();
        let url = if url.starts_with('/') { format!("{api}{url}") } else { url.to_owned() };
        println!("  {url}   {} records", item["records"]);
        urls.push(url);
    }
    let manifest = results["manifest_url"].as_str().unwrap_or_default();
    println!("  {}{manifest}   manifest", if manifest.starts_with('/') { api } else { "" });
    let first = urls.first().ok_or("the job has no results")?;
    let part = client.get(first).send().await.and_then(reqwest::Response::error_for_status).map_err(|e| e.to_string())?;
    let text = part.text().await.map_err(|e| e.to_string())?;
    println!("\nThe first predictions:");
    text.lines().take(SHOWN).for_each(|line| println!("  {line}"));
    Ok(())
}

async fn get(client: &reqwest::Client, url: &str) -> Result<Value, String> {
    let answer = client.get(url).send().await.map_err(|e| e.to_string())?;
    let status = answer.status();
    let body: Value = answer.json().await.map_err(|e| e.to_string())?;
    if status.is_success() { Ok(body) } else { Err(format!("GET {url}: {status}\n{}", pretty(&body))) }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string())
}

fn copy_folder(from: &Path, to: &PathBuf) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        // Samples may be links to what the tests use.
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
