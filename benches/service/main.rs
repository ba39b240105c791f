//! What the service around the data plane costs: a small job from POST to its end, the runner's memory as the input grows, planning a
//! prefix of a million objects, and the API while a job runs at full speed.
//!
//! ```sh
//! export ORT_DYLIB_PATH=$(scripts/fetch-onnxruntime | tail -n 1)
//! cargo bench --bench service -- small memory planning status        # some or all of them
//! ```
//!
//! The S3 server runs in this process, on the same machine as the service.

#![allow(missing_docs, reason = "a program")]

#[path = "../small_objects/memory_s3.rs"]
mod memory_s3;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::{
    fs, io,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use memory_s3::MemoryS3;
use serde_json::{Value, json};
use support::{Service, ServiceOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const PATIENCE: Duration = Duration::from_secs(3600);
/// Rows of the job that the API is asked beside.
const ROWS: usize = 6_000_000;
/// Requests a second.
const RATE: u32 = 200;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let asked = |name: &str| wanted.is_empty() || wanted.iter().any(|arg| arg == name);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        if asked("small") {
            small().await;
        }
        if asked("memory") {
            memory().await;
        }
        if asked("planning") {
            for objects in [100_000, 1_000_000] {
                planning(objects).await;
            }
        }
        if asked("status") {
            status().await;
        }
    });
}

/// A store with a model of boosted trees.
fn store() -> MemoryS3 {
    let s3 = MemoryS3::start();
    for file in support::fixture_files("models/churn-lightgbm") {
        s3.put(&file.replace("models/churn-lightgbm/", "model/"), support::fixture(&file));
    }
    s3
}

/// Real rows, again and again.
fn table(rows: usize) -> String {
    let text = String::from_utf8(support::fixture(&support::fixture_files("data/churn-encoded/csv")[0])).expect("UTF-8");
    let (header, lines) = text.split_once('\n').expect("a header");
    let lines: Vec<&str> = lines.lines().collect();
    (0..rows).fold(format!("{header}\n"), |text, row| text + lines[row % lines.len()] + "\n")
}

fn definition(input: &str, output: &str) -> Value {
    json!({"model": "s3://lake/model/", "input": input, "output": {"uri": output, "format": "parquet"}})
}

/// Runs a job; seconds from the request to its end.
async fn run(service: &Service, input: &str, output: &str) -> f64 {
    let started = Instant::now();
    let id = service.submit(&definition(input, output)).await;
    let job: Value = service.wait(&id, PATIENCE).await;
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(job["state"], "completed", "{job:#}");
    seconds
}

async fn small() {
    let s3 = store();
    s3.put("in/small.csv", table(100));
    let service = Service::start(&s3, ServiceOptions::default()).await;
    run(&service, "s3://lake/in/small.csv", "s3://lake/out/warm/").await;
    let mut times = Vec::new();
    for n in 0..101 {
        times.push(run(&service, "s3://lake/in/small.csv", &format!("s3://lake/out/{n}/")).await * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("a job of 100 rows, POST to completed: median {:.0} ms, 90 of 100 below {:.0} ms", times[50], times[90]);
}

async fn memory() {
    let mut growths = Vec::new();
    for _ in 0..5 {
        growths.push(growth().await);
    }
    growths.sort_by(f64::total_cmp);
    println!("ten times the input: {:+.1} % of memory (median of 5)", growths[2]);
}

/// How much more memory the runner has over ten times the input, percent.
async fn growth() -> f64 {
    let mut peaks = Vec::new();
    // The smaller one has chunks for every slot already.
    let object = Bytes::from(table(300_000));
    for objects in [10, 100] {
        let s3 = store();
        for number in 0..objects {
            s3.put(&format!("in/{number:03}.csv"), object.clone());
        }
        let service = Service::start(&s3, ServiceOptions::default()).await;
        run(&service, "s3://lake/in/", "s3://lake/out/").await;
        peaks.push(service.runner_peak_bytes() as f64);
        let mebibytes = objects * object.len() / 1048576;
        println!("{mebibytes} MiB of CSV: the runner had {:.0} MiB at most", peaks[peaks.len() - 1] / 1048576.0);
    }
    (peaks[1] / peaks[0] - 1.0) * 100.0
}

async fn planning(objects: usize) {
    let s3 = store();
    for object in 0..objects {
        s3.put(&format!("in/{:04}/{object:07}.csv", object / 1000), "x\n1\n");
    }
    let service = Service::start(&s3, ServiceOptions::default().flag("--no-executor")).await;
    let started = Instant::now();
    let id = service.submit(&json!({"model": "s3://lake/model/", "input": "s3://lake/in/", "output": "s3://lake/out/"})).await;
    while service.job(&id).await["counts"]["objects"].as_u64() != Some(objects as u64) {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let job = service.job(&id).await;
    assert_eq!(job["counts"]["objects"], objects, "{job:#}");
    println!(
        "{objects} objects planned in {seconds:.1} s: {:.0} a second; the service had {} MiB at most",
        objects as f64 / seconds,
        peak(&service)
    );
}

/// The most memory that the service has had, MiB.
fn peak(service: &Service) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", service.id().expect("it runs"))).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a high-water mark");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes") / 1024
}

/// Processor time of a process so far, seconds; its children's apart.
fn cpu_seconds(process: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("Linux");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<f64>().expect("ticks");
    // Of a hundredth of a second, as Linux says to all programs.
    (ticks(11) + ticks(12)) / 100.0
}

/// Sends one request again and again over few connections. It is on the same cores as what it asks, so it does as little as a client can.
#[derive(Clone)]
struct Asker {
    address: String,
    request: String,
    idle: Arc<Mutex<Vec<TcpStream>>>,
}

impl Asker {
    fn new(service: &Service, path: &str) -> Self {
        let address = service.url("").trim_start_matches("http://").to_owned();
        Self { request: format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"), address, idle: Arc::default() }
    }

    /// Whether the answer, which was read to its end, was `200`.
    async fn ask(&self) -> io::Result<bool> {
        let idle = self.idle.lock().expect("nobody panics").pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => TcpStream::connect(&self.address).await?,
        };
        connection.write_all(self.request.as_bytes()).await?;
        let mut answer = Vec::with_capacity(16 << 10);
        let ok = loop {
            if connection.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some(head) = answer.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
            let text = String::from_utf8_lossy(&answer[..head]).to_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length:")).expect("a length");
            if answer.len() >= head + 4 + length.trim().parse::<usize>().expect("a number") {
                break text.starts_with("http/1.1 200");
            }
        };
        self.idle.lock().expect("nobody panics").push(connection);
        Ok(ok)
    }
}

async fn status() {
    let s3 = store();
    s3.put("in/table.csv", table(ROWS));
    let service = Service::start(&s3, ServiceOptions::default()).await;
    run(&service, "s3://lake/in/table.csv", "s3://lake/out/warm/").await;
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let (mut slower, mut tails, mut answering, mut asking) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..9 {
        let spent = || (cpu_seconds(service.id().expect("it runs")), cpu_seconds(std::process::id()));
        let before = spent();
        let alone = run(&service, "s3://lake/in/table.csv", &format!("s3://lake/out/alone/{round}/")).await;
        let between = spent();
        let output = format!("s3://lake/out/asked/{round}/");
        let started = Instant::now();
        let id = service.submit(&definition("s3://lake/in/table.csv", &output)).await;
        let end = async {
            service.wait(&id, PATIENCE).await;
            started.elapsed().as_secs_f64()
        };
        tokio::pin!(end);
        let asker = Asker::new(&service, &format!("/v1/jobs/{id}"));
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
        let (mut requests, mut times) = (tokio::task::JoinSet::new(), Vec::new());
        let asked = loop {
            tokio::select! {
                seconds = &mut end => break seconds,
                _ = ticks.tick() => {
                    let asker = asker.clone();
                    requests.spawn(async move {
                        let started = Instant::now();
                        let ok = asker.ask().await;
                        (ok, started.elapsed().as_secs_f64() * 1e3)
                    });
                }
            }
        };
        while let Some(answered) = requests.join_next().await {
            let (ok, time) = answered.expect("it does not panic");
            assert!(ok.expect("an answer"), "not 200");
            times.push(time);
        }
        let after = spent();
        times.sort_by(f64::total_cmp);
        tails.push(times[times.len() * 99 / 100]);
        slower.push((asked / alone - 1.0) * 100.0);
        // What the requests took beyond what the same job takes without them, of the processor time that there was for the job.
        let share = |with: f64, without: f64| (with - without) / (alone * cores) * 100.0;
        answering.push(share(after.0 - between.0, between.0 - before.0));
        asking.push(share(after.1 - between.1, between.1 - before.1));
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    println!(
        "{RATE} requests a second for the state of a job that runs: 99 of 100 within {:.1} ms; the job took {:+.1} % longer; \
         of all cores' time answering took {:+.1} % and asking, in this process, {:+.1} % (medians of 9)",
        median(&mut tails),
        median(&mut slower),
        median(&mut answering),
        median(&mut asking)
    );
}
