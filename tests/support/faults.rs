//! A reverse proxy in front of the S3 server that fails on purpose, by a seed: script in, counts of what happened out.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{Method, StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::Endpoint;

/// What goes wrong, and how often (shares of all requests from 0 to 1; of a request for which a fault makes no sense, nothing).
#[derive(Debug, Clone, Default)]
pub struct Faults {
    pub seed: u64,
    /// The shares are of requests for keys (without bucket) that begin like this; of all when it is empty.
    pub below: String,
    /// 503 SlowDown, instead of doing anything.
    pub slow_down: f64,
    /// 500 InternalError, instead of doing anything.
    pub server_error: f64,
    /// A GET whose body ends half-way, with the connection.
    pub cut_body: f64,
    /// Silence for ever: instead of doing anything, or half-way through a GET's body.
    pub stall: f64,
    /// A PUT, POST or DELETE that is done, and whose answer is a 500 or never comes.
    pub lost_answer: f64,
    /// 409 OperationAborted to a PUT, POST or DELETE that has no condition, instead of doing anything.
    pub conflict: f64,
    /// Keys (without bucket) that are listed but cannot be read.
    pub missing: Vec<String>,
    /// Keys (without bucket) that, when read, turn out to be another object than was listed.
    pub changed: Vec<String>,
    /// Keys (without bucket) whose body ends half-way when they are first read, and that are another object when the rest is asked for.
    pub changed_midway: Vec<String>,
    /// Answers to the end of a multipart upload that are lost, the first ones.
    pub lost_completions: usize,
}

/// A fault that happened.
#[derive(Debug, Clone)]
struct Happened {
    kind: &'static str,
    what: String,
}

/// The proxy; dropped, it ends.
pub struct FaultProxy {
    address: SocketAddr,
    script: Script,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Clone)]
struct Script {
    upstream: String,
    client: reqwest::Client,
    state: Arc<Mutex<Play>>,
}

/// How far the script has been played.
struct Play {
    faults: Arc<Faults>,
    random: StdRng,
    happened: Vec<Happened>,
    requests: u64,
    /// Under way now, and the most that ever were.
    busy: usize,
    most_busy: usize,
    completions: usize,
    cut: Vec<String>,
    /// Multipart uploads that are not finished: bucket, key, id.
    uploads: Vec<(String, String, String)>,
}

impl Endpoint for FaultProxy {
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl FaultProxy {
    pub async fn start(upstream: String, faults: Faults) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let play = Play {
            random: StdRng::seed_from_u64(faults.seed),
            faults: Arc::new(faults),
            happened: Vec::new(),
            requests: 0,
            busy: 0,
            most_busy: 0,
            completions: 0,
            cut: Vec::new(),
            uploads: Vec::new(),
        };
        let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().expect("a client");
        let script = Script { upstream, client, state: Arc::new(Mutex::new(play)) };
        let served = script.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, Router::new().fallback(answer).with_state(served)).await.expect("served");
        });
        Self { address, script, runtime: Some(runtime) }
    }

    /// Goes on by another script; its seed counts from here.
    pub fn play(&self, faults: Faults) {
        let mut play = self.script.play();
        play.random = StdRng::seed_from_u64(faults.seed);
        play.faults = Arc::new(faults);
    }

    /// The faults that happened so far, in words.
    pub fn happened(&self) -> Vec<String> {
        self.script.play().happened.iter().map(|h| format!("{} {}", h.kind, h.what)).collect()
    }

    /// How many of each kind happened so far: `503`, `500`, `cut`, `stall`, `lost`, `409`, `404`, `changed`.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        self.script.play().happened.iter().for_each(|h| *counts.entry(h.kind).or_default() += 1);
        counts
    }

    /// Requests that came, whatever became of them.
    pub fn requests(&self) -> u64 {
        self.script.play().requests
    }

    /// The most requests that were under way at once since the last call.
    pub fn most_at_once(&self) -> usize {
        let mut play = self.script.play();
        std::mem::replace(&mut play.most_busy, 0)
    }

    /// Multipart uploads that were begun and neither completed nor aborted: their keys.
    pub fn unfinished_uploads(&self) -> Vec<String> {
        self.script.play().uploads.iter().map(|(_, key, _)| key.clone()).collect()
    }
}

impl Script {
    fn play(&self) -> MutexGuard<'_, Play> {
        self.state.lock().expect("no panic")
    }

    fn note(&self, kind: &'static str, request: &Asked) {
        self.play().happened.push(Happened { kind, what: format!("{} {}", request.method, request.target) });
    }
}

/// What a request is about.
struct Asked {
    method: Method,
    target: String,
    bucket: String,
    key: String,
    query: BTreeMap<String, String>,
    conditional: bool,
}

impl Asked {
    fn of(parts: &Parts) -> Self {
        let target = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        let (bucket, key) = parts.uri.path().trim_start_matches('/').split_once('/').unwrap_or_default();
        let query = url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let conditional = ["if-match", "if-none-match"].iter().any(|name| parts.headers.contains_key(*name));
        Self { method: parts.method.clone(), target, bucket: bucket.to_owned(), key: key.to_owned(), query, conditional }
    }

    fn reads(&self) -> bool {
        self.method == Method::GET && !self.key.is_empty()
    }

    fn writes(&self) -> bool {
        matches!(self.method, Method::PUT | Method::POST | Method::DELETE)
    }

    fn completes(&self) -> bool {
        self.method == Method::POST && self.query.contains_key("uploadId")
    }
}

/// What is to go wrong with one request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    SlowDown,
    ServerError,
    Conflict,
    StallAtOnce,
    StallMidway,
    Cut,
    LostWith500,
    LostInSilence,
}

/// Counts itself as under way while it lives.
struct Busy(Script);

impl Busy {
    fn new(script: &Script) -> Self {
        let mut play = script.play();
        play.requests += 1;
        play.busy += 1;
        play.most_busy = play.most_busy.max(play.busy);
        drop(play);
        Self(script.clone())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.play().busy -= 1;
    }
}

async fn answer(State(script): State<Script>, request: Request) -> Response {
    let _busy = Busy::new(&script);
    let (parts, body) = request.into_parts();
    let asked = Asked::of(&parts);
    let (faults, fault) = {
        let mut play = script.play();
        let faults = play.faults.clone();
        let fault = draw(&faults, &mut play.random, &asked);
        (faults, fault)
    };
    match fault {
        Some(Fault::SlowDown) => {
            script.note("503", &asked);
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown");
        }
        Some(Fault::ServerError) => {
            script.note("500", &asked);
            return refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
        }
        Some(Fault::Conflict) => {
            script.note("409", &asked);
            return refusal(StatusCode::CONFLICT, "OperationAborted");
        }
        Some(Fault::StallAtOnce) => {
            script.note("stall", &asked);
            return std::future::pending().await;
        }
        _ => {}
    }
    if asked.reads() && faults.missing.contains(&asked.key) {
        script.note("404", &asked);
        return refusal(StatusCode::NOT_FOUND, "NoSuchKey");
    }
    if asked.method == Method::GET && asked.key.is_empty() && asked.query.contains_key("uploads") {
        return list_uploads(&script, &asked);
    }
    let (status, headers, bytes) = match forward(&script, &parts, &asked, body).await {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let done = StatusCode::is_success(&status);
    if done {
        follow_uploads(&script, &asked, &bytes);
    }
    let lost_completion = done && asked.completes() && {
        let mut play = script.play();
        play.completions += 1;
        play.completions <= faults.lost_completions
    };
    if done && (lost_completion || fault == Some(Fault::LostWith500)) {
        script.note("lost", &asked);
        return refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
    }
    if done && fault == Some(Fault::LostInSilence) {
        script.note("lost", &asked);
        return std::future::pending().await;
    }
    let midway = asked.reads() && faults.changed_midway.contains(&asked.key);
    let cut_before = midway && script.play().cut.contains(&asked.key);
    let changed = asked.reads() && faults.changed.contains(&asked.key) || cut_before;
    if changed {
        script.note("changed", &asked);
    }
    let mut response = Response::builder().status(status);
    for (name, value) in &headers {
        if name != "transfer-encoding" && name != "connection" {
            response = if changed && name == "etag" { response.header(name, "\"another-object\"") } else { response.header(name, value) };
        }
    }
    let half = bytes.slice(..bytes.len() / 2);
    let sent = || stream::iter([Ok::<Bytes, std::io::Error>(half)]);
    if done && asked.reads() && bytes.len() > 1 {
        if fault == Some(Fault::Cut) || midway && !cut_before {
            script.note("cut", &asked);
            script.play().cut.push(asked.key.clone());
            let end = stream::iter([Err(std::io::Error::other("cut off"))]);
            return response.body(Body::from_stream(sent().chain(end))).expect("a response");
        }
        if fault == Some(Fault::StallMidway) {
            script.note("stall", &asked);
            return response.body(Body::from_stream(sent().chain(stream::pending()))).expect("a response");
        }
    }
    response.body(Body::from(bytes)).expect("a response")
}

fn draw(faults: &Faults, random: &mut StdRng, asked: &Asked) -> Option<Fault> {
    let (mut draw, first): (f64, bool) = (random.random(), random.random());
    if !asked.key.starts_with(&faults.below) {
        return None;
    }
    let writes = asked.writes();
    let shares = [
        (faults.slow_down, Some(Fault::SlowDown)),
        (faults.server_error, Some(Fault::ServerError)),
        (faults.cut_body, Some(Fault::Cut)),
        (faults.stall, Some(if first && asked.reads() { Fault::StallMidway } else { Fault::StallAtOnce })),
        (faults.lost_answer, writes.then_some(if first { Fault::LostWith500 } else { Fault::LostInSilence })),
        (faults.conflict, (writes && !asked.conditional).then_some(Fault::Conflict)),
    ];
    for (share, fault) in shares {
        if draw < share {
            return fault;
        }
        draw -= share;
    }
    None
}

async fn forward(
    script: &Script,
    parts: &Parts,
    asked: &Asked,
    body: Body,
) -> reqwest::Result<(StatusCode, reqwest::header::HeaderMap, Bytes)> {
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let mut forwarded = script.client.request(parts.method.clone(), format!("{}{}", script.upstream, asked.target)).body(body);
    for (name, value) in &parts.headers {
        // The signature covers the host as the client sees it, so that is what goes on.
        if name != "content-length" && name != "connection" {
            forwarded = forwarded.header(name, value);
        }
    }
    let answer = forwarded.send().await?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    Ok((status, headers, answer.bytes().await.unwrap_or_default()))
}

/// Takes note of multipart uploads that begin and end.
fn follow_uploads(script: &Script, asked: &Asked, answer: &[u8]) {
    let mut play = script.play();
    if asked.method == Method::POST && asked.query.contains_key("uploads") {
        let text = String::from_utf8_lossy(answer);
        let id = text.split_once("<UploadId>").and_then(|(_, rest)| rest.split_once("</UploadId>")).expect("an id").0;
        play.uploads.push((asked.bucket.clone(), asked.key.clone(), id.to_owned()));
    }
    if let Some(id) = asked.query.get("uploadId")
        && matches!(asked.method, Method::POST | Method::DELETE)
    {
        play.uploads.retain(|(_, _, known)| known != id);
    }
}

/// What the server behind does not know: the list of unfinished uploads, one a page.
fn list_uploads(script: &Script, asked: &Asked) -> Response {
    assert!(asked.query.contains_key("X-Amz-Signature"), "an unsigned request: {}", asked.target);
    let wanted = |name: &str| asked.query.get(name).cloned().unwrap_or_default();
    let (prefix, after) = (wanted("prefix"), (wanted("key-marker"), wanted("upload-id-marker")));
    let play = script.play();
    let mut found: Vec<(String, String)> = play
        .uploads
        .iter()
        .filter(|(bucket, key, _)| *bucket == asked.bucket && key.starts_with(&prefix))
        .map(|(_, key, id)| (key.clone(), id.clone()))
        .filter(|upload| *upload > after)
        .collect();
    found.sort();
    let page = found.first().map(|(key, id)| {
        format!("<NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>{id}</NextUploadIdMarker><Upload><Key>{key}</Key><UploadId>{id}</UploadId></Upload>")
    });
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ListMultipartUploadsResult><IsTruncated>{}</IsTruncated>{}</ListMultipartUploadsResult>",
        found.len() > 1,
        page.unwrap_or_default()
    );
    (StatusCode::OK, [("content-type", "application/xml")], body).into_response()
}

fn refusal(status: StatusCode, code: &str) -> Response {
    let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>");
    (status, [("content-type", "application/xml")], body).into_response()
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // Tests drop it inside a runtime of their own, where waiting for this one is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
