//! The real binary, as a user starts it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

use super::{ACCESS_KEY, Endpoint, SECRET_KEY};

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Flags and environment beyond the harness's own.
#[derive(Debug, Clone, Default)]
pub struct ServiceOptions {
    role: Option<String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    unset: Vec<String>,
    disk: Option<u64>,
}

impl ServiceOptions {
    /// Another subcommand than `serve`.
    pub fn role(mut self, role: &str) -> Self {
        self.role = Some(role.to_owned());
        self
    }

    /// A flag without a value.
    pub fn flag(mut self, flag: &str) -> Self {
        self.args.push(flag.to_owned());
        self
    }

    pub fn arg(mut self, flag: &str, value: &str) -> Self {
        self.args.extend([flag.to_owned(), value.to_owned()]);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With its data folder on a disk of its own, of this many bytes, which ends with the process. It is mounted in a namespace of
    /// the service's own, so that it takes no rights but that of making one.
    pub fn disk(mut self, bytes: u64) -> Self {
        self.disk = Some(bytes);
        self
    }

    /// Without a variable that the harness sets otherwise.
    pub fn unset(mut self, name: &str) -> Self {
        self.unset.push(name.to_owned());
        self
    }
}

/// A running service; dropped, it and its runner are killed.
pub struct Service {
    folder: TempDir,
    endpoint: String,
    options: ServiceOptions,
    child: Option<Child>,
    url: String,
    client: reqwest::Client,
}

impl Service {
    pub async fn start(store: &impl Endpoint, options: ServiceOptions) -> Self {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(90)).build().expect("a client");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut service = Self { folder, endpoint: store.url(), options, child: None, url: String::new(), client };
        service.restart().await;
        service
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("service.log")
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The data folder as the service sees it, be it on a [disk of its own](ServiceOptions::disk) or not.
    pub fn seen_data_dir(&self) -> PathBuf {
        let root = format!("/proc/{}/root", self.pid().as_raw_nonzero());
        PathBuf::from(root + self.data_dir().to_str().expect("UTF-8"))
    }

    /// A folder that `file://` locations may lie in.
    pub fn file_root(&self) -> PathBuf {
        let root = self.folder.path().join("files");
        fs::create_dir_all(&root).expect("a folder");
        root
    }

    /// Starts it (again) on the same data.
    pub async fn restart(&mut self) {
        assert!(std::env::var_os("ORT_DYLIB_PATH").is_some(), "ORT_DYLIB_PATH names no ONNX Runtime library: run scripts/test");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("a log");
        let program = env!("CARGO_BIN_EXE_nightshift");
        let mut command = match self.options.disk {
            None => Command::new(program),
            Some(bytes) => {
                fs::create_dir_all(self.data_dir()).expect("a folder");
                let mut command = Command::new("unshare");
                let mount = format!("mount -t tmpfs -o size={bytes} tmpfs \"$0\" && exec \"$@\"");
                command.args(["--map-root-user", "--mount", "sh", "-c", &mount]).arg(self.data_dir()).arg(program);
                command
            }
        };
        command
            .arg(self.options.role.as_deref().unwrap_or("serve"))
            .arg("--listen")
            .arg("127.0.0.1:0")
            .arg("--data-dir")
            .arg(self.data_dir());
        command.arg("--file-root").arg(self.file_root()).args(&self.options.args);
        command.env("AWS_ENDPOINT_URL_S3", &self.endpoint).env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        command.env("AWS_REGION", "us-east-1").env("AWS_ALLOW_HTTP", "true").env("NIGHTSHIFT_LOG", "info,nightshift=debug");
        command.env_remove("NIGHTSHIFT_CONFIG").env_remove("DATABASE_URL").envs(self.options.env.iter().cloned());
        for name in &self.options.unset {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).process_group(0);
        let mut child = command.spawn().expect("the binary starts");
        let output = child.stdout.take().expect("standard output");
        self.child = Some(child);
        let line = tokio::task::spawn_blocking(move || BufReader::new(output).lines().next()).await.expect("no panic");
        let line = line.and_then(Result::ok).unwrap_or_default();
        match line.strip_prefix("listening on ") {
            Some(url) => self.url = url.to_owned(),
            None => panic!("the service did not start:\n{}", self.log()),
        }
        let deadline = Instant::now() + PATIENCE;
        while self.status("/readyz").await != 200 {
            assert!(Instant::now() < deadline, "the service is not ready:\n{}", self.tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(25)..].iter();
        last.map(|line| line.chars().take(400).collect::<String>()).collect::<Vec<_>>().join("\n")
    }

    fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("it runs");
        Pid::from_raw(child.id() as i32).expect("a process id")
    }

    /// Stops server and runner where they are, as a machine that hangs.
    pub fn freeze(&self) {
        rustix::process::kill_process_group(self.pid(), Signal::STOP).expect("it runs");
    }

    /// And lets them go on.
    pub fn thaw(&self) {
        rustix::process::kill_process_group(self.pid(), Signal::CONT).expect("it runs");
    }

    /// Process id of the server, if it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// `kill -9` of the server; its runner notices by itself.
    pub fn kill9(&mut self) {
        rustix::process::kill_process(self.pid(), Signal::KILL).expect("it runs");
        self.child.take().expect("it runs").wait().expect("it ends");
    }

    /// SIGTERM; the exit status if it ends in time.
    pub async fn terminate(&mut self, patience: Duration) -> Option<i32> {
        self.ask_to_stop();
        self.exit_status(patience).await
    }

    /// SIGTERM, and no waiting.
    pub fn ask_to_stop(&self) {
        rustix::process::kill_process(self.pid(), Signal::TERM).expect("it runs");
    }

    /// The exit status if it ends in time.
    pub async fn exit_status(&mut self, patience: Duration) -> Option<i32> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.child.as_mut().expect("it runs").try_wait().expect("it can be waited for") {
                self.child = None;
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        None
    }

    /// Processes that the server started.
    pub fn runner_pids(&self) -> Vec<Pid> {
        let parent = self.pid().as_raw_nonzero().get();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        let mut pids: Vec<Pid> = children.split_whitespace().filter_map(|p| Pid::from_raw(p.parse().ok()?)).collect();
        if pids.is_empty() {
            // Started from another thread: look at them all.
            for task in fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().filter_map(Result::ok) {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                pids.extend(children.split_whitespace().filter_map(|p| Pid::from_raw(p.parse().ok()?)));
            }
        }
        pids
    }

    /// The most memory that the runner has had, bytes.
    pub fn runner_peak_bytes(&self) -> u64 {
        let pid = self.runner_pids().first().expect("a runner").as_raw_nonzero().get();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a high-water mark");
        line.trim().strip_suffix(" kB").and_then(|kilobytes| kilobytes.parse::<u64>().ok()).expect("kilobytes") * 1024
    }

    /// `kill -9` of a runner; false when there is none.
    pub fn kill_runner(&self) -> bool {
        self.runner_pids().into_iter().any(|pid| rustix::process::kill_process(pid, Signal::KILL).is_ok())
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// The status of a GET; 0 when nobody answers.
    pub async fn status(&self, path: &str) -> u16 {
        self.client.get(self.url(path)).send().await.map_or(0, |r| r.status().as_u16())
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self.client.get(self.url(path)).send().await.unwrap_or_else(|e| panic!("GET {path}: {e}\n{}", self.tail()));
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self.client.post(self.url(path));
        let request = if body.is_null() { request } else { request.json(body) };
        let answer = request.send().await.unwrap_or_else(|e| panic!("POST {path}: {e}\n{}", self.tail()));
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// Submits a job that must be accepted; its id.
    pub async fn submit(&self, definition: &Value) -> String {
        let (status, answer) = self.post("/v1/jobs", definition).await;
        assert_eq!(status, 202, "{answer:#}");
        answer["id"].as_str().expect("an id").to_owned()
    }

    pub async fn job(&self, id: &str) -> Value {
        let (status, job) = self.get(&format!("/v1/jobs/{id}")).await;
        assert_eq!(status, 200, "{job:#}");
        job
    }

    pub async fn is_final(&self, id: &str) -> bool {
        is_final(&self.job(id).await)
    }

    /// Waits for the end of a job.
    pub async fn wait(&self, id: &str, patience: Duration) -> Value {
        let deadline = Instant::now() + patience;
        loop {
            let (_, job) = self.get(&format!("/v1/jobs/{id}?wait=5s")).await;
            if is_final(&job) {
                return job;
            }
            assert!(Instant::now() < deadline, "the job did not end: {job:#}\n{}", self.tail());
        }
    }

    /// Waits until a job is as wanted.
    pub async fn until(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let job = self.job(id).await;
            if wanted(&job) {
                return job;
            }
            assert!(Instant::now() < deadline, "this did not come: {job:#}\n{}", self.tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every item of a paged list, two hundred at a time.
    pub async fn get_all(&self, path: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let (status, page) = self.get(&format!("{path}?limit=200{cursor}")).await;
            assert_eq!(status, 200, "{page:#}");
            items.extend(page["items"].as_array().expect("items").iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return items,
            }
        }
    }
}

fn is_final(job: &Value) -> bool {
    matches!(job["state"].as_str(), Some("completed" | "failed" | "cancelled" | "expired"))
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _gone = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("---- the service's log ends with ----\n{}", self.tail());
        }
    }
}
