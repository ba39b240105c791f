//! Very many small objects against one large object of the same rows, over the S3 protocol and on files.
//!
//! ```sh
//! ORT_DYLIB_PATH=$(scripts/fetch-onnxruntime | tail -n 1) cargo bench --bench small_objects -- 100000 10 [ridge]   # objects, rows in each, a lighter model
//! ```
//!
//! The S3 server runs in this process, on the same machine as the service. So the processor time of the service and its runner is told
//! beside the seconds on the clock, and that of the server.

#![allow(missing_docs, reason = "a program")]

mod memory_s3;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use memory_s3::MemoryS3;
use serde_json::{Value, json};
use support::{Service, ServiceOptions};

const PATIENCE: Duration = Duration::from_secs(3600);

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    // The heavier the model, the less the objects' own cost counts.
    let light = std::env::args().any(|arg| arg == "ridge");
    let (objects, rows) = (numbers.first().copied().unwrap_or(100_000), numbers.get(1).copied().unwrap_or(10));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(run(objects, rows, light));
}

async fn run(objects: usize, rows: usize, light: bool) {
    let (model, table) = if light { ("diabetes-ridge", "diabetes") } else { ("churn-lightgbm", "churn-encoded") };
    let s3 = MemoryS3::start();
    for file in support::fixture_files(&format!("models/{model}")) {
        s3.put(&file.replace(&format!("models/{model}/"), "model/"), support::fixture(&file));
    }
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let root = service.file_root();
    // Real rows, again and again.
    let file = &support::fixture_files(&format!("data/{table}/csv"))[0];
    let text = String::from_utf8(support::fixture(file)).expect("UTF-8");
    let (header, lines) = text.split_once('\n').expect("a header");
    let (header, lines) = (format!("{header}\n"), lines.lines().collect::<Vec<_>>());
    let line = |row: usize| format!("{}\n", lines[row % lines.len()]);
    let mut large = header.clone();
    for object in 0..objects {
        let body: String = (0..rows).map(|row| line(object * rows + row)).collect();
        large += &body;
        let (key, text) = (format!("small/{:03}/{object:06}.csv", object / 1000), header.clone() + &body);
        write(&root.join(&key), text.as_bytes());
        s3.put(&key, text);
    }
    println!("{model}: {objects} objects of {rows} rows, {} bytes in all", large.len());
    write(&root.join("large/all.csv"), large.as_bytes());
    s3.put("large/all.csv", large);
    for store in ["s3://lake".to_owned(), format!("file://{}", root.display())] {
        // The first job of a service loads the model.
        rate(&service, &format!("{store}/small/000/"), &format!("{store}/out/warm/")).await;
        let mut rates = Vec::new();
        for form in ["large", "small"] {
            let run = rate(&service, &format!("{store}/{form}/"), &format!("{store}/out/{form}/")).await;
            println!(
                "{:<5} {form:<6} {:>8} records in {:>6.2} s: {:>7.0} records/s; processor {:.2} s, the test's own server {:.2} s",
                store.split(':').next().unwrap_or_default(),
                run.records,
                run.seconds,
                run.records / run.seconds,
                run.service,
                run.server
            );
            rates.push((run.records / run.seconds, run.records / run.service));
        }
        let (large, small) = (rates[0], rates[1]);
        println!("      small / large: {:.2} by the clock, {:.2} by processor time", small.0 / large.0, small.1 / large.1);
    }
}

/// What a job came to.
struct Run {
    records: f64,
    /// From acceptance to the end.
    seconds: f64,
    /// Processor time of the service and its runner in between.
    service: f64,
    /// And of this process.
    server: f64,
}

async fn rate(service: &Service, input: &str, output: &str) -> Run {
    let definition = json!({"model": "s3://lake/model/", "input": input, "output": output});
    let used = (service_seconds(service), processor_seconds("self"));
    let started = Instant::now();
    let id = service.submit(&definition).await;
    let job: Value = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    Run {
        records: job["counts"]["records"]["succeeded"].as_f64().expect("a number"),
        seconds: started.elapsed().as_secs_f64(),
        service: service_seconds(service) - used.0,
        server: processor_seconds("self") - used.1,
    }
}

/// Processor time of the runner, if there is one, and of the process that started it.
fn service_seconds(service: &Service) -> f64 {
    let Some(runner) = service.runner_pids().first().map(|pid| pid.as_raw_nonzero().to_string()) else { return 0.0 };
    processor_seconds(&runner) + processor_seconds(&stat(&runner)[1])
}

/// Processor time of a process so far: user and system, in ticks of a hundredth of a second.
fn processor_seconds(process: &str) -> f64 {
    stat(process)[11..13].iter().filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The fields of `/proc/PID/stat` after the name.
fn stat(process: &str) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux");
    stat.rsplit(") ").next().unwrap_or_default().split(' ').map(str::to_owned).collect()
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, bytes).expect("a file");
}
