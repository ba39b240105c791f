//! Very many small objects against one large object of the same rows, on the test's S3 server and on files.
//!
//! ```sh
//! ORT_DYLIB_PATH=$(scripts/fetch-onnxruntime | tail -n 1) cargo bench --bench small_objects -- 100000 10   # objects, rows in each
//! ```
//!
//! The S3 server runs in this process, on the same machine as the service: its share of the processor is told beside each figure.

#![allow(missing_docs, reason = "a program")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{S3Server, Service, ServiceOptions, golden::DIABETES_COLUMNS};

const PATIENCE: Duration = Duration::from_secs(3600);

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let (objects, rows) = (numbers.first().copied().unwrap_or(100_000), numbers.get(1).copied().unwrap_or(10));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(run(objects, rows));
}

async fn run(objects: usize, rows: usize) {
    let s3 = S3Server::start().await;
    s3.create_bucket("lake");
    s3.put_fixture("models/diabetes-ridge", "lake", "model/");
    let service = Service::start(&s3, ServiceOptions::default()).await;
    let root = service.file_root();
    let header = DIABETES_COLUMNS.join(",") + "\n";
    let mut large = header.clone();
    for object in 0..objects {
        let body: String = (0..rows).map(|row| line(object * rows + row)).collect();
        large += &body;
        let (key, text) = (format!("small/{:03}/{object:06}.csv", object / 1000), header.clone() + &body);
        s3.put("lake", &key, text.as_bytes());
        write(&root.join(&key), text.as_bytes());
    }
    s3.put("lake", "large/all.csv", large.as_bytes());
    write(&root.join("large/all.csv"), large.as_bytes());
    println!("{objects} objects of {rows} rows, {} bytes in all", large.len());
    for store in ["s3://lake".to_owned(), format!("file://{}", root.display())] {
        // The first job of a service loads the model.
        rate(&service, &format!("{store}/small/000/"), &format!("{store}/out/warm/")).await;
        let mut rates = Vec::new();
        for form in ["large", "small"] {
            let (records, seconds, server) = rate(&service, &format!("{store}/{form}/"), &format!("{store}/out/{form}/")).await;
            println!(
                "{:<6} {form:<6} {records:>9} records in {seconds:>7.2} s: {:>8.0} records/s ({:.0} % of one core in the test's own server)",
                store.split(':').next().unwrap_or_default(),
                records / seconds,
                100.0 * server / seconds
            );
            rates.push(records / seconds);
        }
        println!("       small / large: {:.2}", rates[1] / rates[0]);
    }
}

/// Records, seconds from acceptance to the end, and processor seconds of this process in between.
async fn rate(service: &Service, input: &str, output: &str) -> (f64, f64, f64) {
    let definition = json!({"model": "s3://lake/model/", "input": input, "output": output, "pipeline": {"features": DIABETES_COLUMNS}});
    let (started, used) = (Instant::now(), processor_seconds());
    let id = service.submit(&definition).await;
    let job: Value = service.wait(&id, PATIENCE).await;
    assert_eq!(job["state"], "completed", "{job:#}");
    (job["counts"]["records"]["succeeded"].as_f64().expect("a number"), started.elapsed().as_secs_f64(), processor_seconds() - used)
}

/// Processor time of this process so far, from `/proc`: user and system, in ticks of a hundredth of a second.
fn processor_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    fields[11..13].iter().filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn line(row: usize) -> String {
    let cells: Vec<String> = (0..10).map(|column| format!("{:.4}", ((row * 31 + column * 17) % 1000) as f64 / 10_000.0)).collect();
    cells.join(",") + "\n"
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, bytes).expect("a file");
}
