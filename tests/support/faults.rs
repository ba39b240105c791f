//! A reverse proxy in front of the S3 server that fails on purpose, by a seed.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use futures::stream;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::Endpoint;

/// What goes wrong, and how often (shares from 0 to 1).
#[derive(Debug, Clone, Default)]
pub struct Faults {
    pub seed: u64,
    /// 503 SlowDown, instead of doing anything.
    pub slow_down: f64,
    /// 500 InternalError, instead of doing anything.
    pub server_error: f64,
    /// A GET whose body ends half-way, with the connection.
    pub cut_body: f64,
    /// Keys (without bucket) that are listed but cannot be read.
    pub missing: Vec<String>,
    /// Keys (without bucket) that, when read, turn out to be another object than was listed.
    pub changed: Vec<String>,
}

/// The proxy; dropped, it ends.
pub struct FaultProxy {
    address: SocketAddr,
    happened: Arc<Mutex<Vec<String>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

#[derive(Clone)]
struct Script {
    upstream: String,
    client: reqwest::Client,
    faults: Arc<Faults>,
    random: Arc<Mutex<StdRng>>,
    happened: Arc<Mutex<Vec<String>>>,
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
        let happened = Arc::<Mutex<Vec<String>>>::default();
        let script = Script {
            upstream,
            client: reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().expect("a client"),
            random: Arc::new(Mutex::new(StdRng::seed_from_u64(faults.seed))),
            faults: Arc::new(faults),
            happened: happened.clone(),
        };
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, Router::new().fallback(forward).with_state(script)).await.expect("served");
        });
        Self { address, happened, runtime: Some(runtime) }
    }

    /// The faults that happened so far, in words.
    pub fn happened(&self) -> Vec<String> {
        self.happened.lock().expect("no panic").clone()
    }
}

async fn forward(State(script): State<Script>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    let key = parts.uri.path().trim_start_matches('/').split_once('/').map_or("", |(_, key)| key).to_owned();
    let draw: f64 = script.random.lock().expect("no panic").random();
    let note = |what: &str| script.happened.lock().expect("no panic").push(format!("{what} {} {target}", parts.method));
    let faults = &script.faults;
    if draw < faults.slow_down {
        note("503");
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown");
    }
    if draw < faults.slow_down + faults.server_error {
        note("500");
        return refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
    }
    let reads = parts.method == Method::GET && !key.is_empty();
    if reads && faults.missing.contains(&key) {
        note("404");
        return refusal(StatusCode::NOT_FOUND, "NoSuchKey");
    }
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
    let mut forwarded = script.client.request(parts.method.clone(), format!("{}{target}", script.upstream)).body(body);
    for (name, value) in &parts.headers {
        // The signature covers the host as the client sees it, so that is what goes on.
        if name != "content-length" && name != "connection" {
            forwarded = forwarded.header(name, value);
        }
    }
    let answer = match forwarded.send().await {
        Ok(answer) => answer,
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if name != "transfer-encoding" && name != "connection" {
            let changed = reads && name == "etag" && faults.changed.contains(&key);
            response = if changed { response.header(name, "\"another-object\"") } else { response.header(name, value) };
        }
    }
    let bytes = answer.bytes().await.unwrap_or_default();
    let cut = reads && bytes.len() > 1 && draw < faults.slow_down + faults.server_error + faults.cut_body;
    if cut {
        note("cut");
        let half = bytes.slice(..bytes.len() / 2);
        let body = stream::iter([Ok::<Bytes, std::io::Error>(half), Err(std::io::Error::other("cut off"))]);
        return response.body(Body::from_stream(body)).expect("a response");
    }
    response.body(Body::from(bytes)).expect("a response")
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
