//! A webhook receiver that does as it is told, and remembers what it heard.

use std::{
    collections::VecDeque,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::HeaderMap,
    response::Response,
    serve::ListenerExt,
};
use serde_json::Value;

/// How to answer a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// With this status.
    Status(u16),
    /// With this status and header.
    With(u16, &'static str, String),
    /// Never.
    Hang,
}

/// What was heard.
#[derive(Debug, Clone)]
pub struct Heard {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Heard {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Whether the signature is this secret's, by the reference implementation.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let webhook = standardwebhooks::Webhook::new(secret).expect("a secret");
        webhook.verify(&self.body, &self.headers).is_ok()
    }
}

#[derive(Default)]
struct Script {
    heard: Vec<Heard>,
    first: VecDeque<Reply>,
    then: Option<Reply>,
}

/// The receiver; dropped, it ends.
pub struct Receiver {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    connections: Arc<AtomicUsize>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Receiver {
    /// Listens on a free port of this address; answers 204 until told otherwise.
    pub fn start(address: &str) -> Self {
        let address: IpAddr = address.parse().expect("an address");
        Self::at(SocketAddr::new(address, 0))
    }

    pub fn at(address: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address");
        let script = Arc::<Mutex<Script>>::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let (state, connections) = (script.clone(), Arc::<AtomicUsize>::default());
        let counted = connections.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let listener = listener.tap_io(move |_| {
                counted.fetch_add(1, Ordering::SeqCst);
            });
            axum::serve(listener, Router::new().fallback(hear).with_state(state)).await.expect("served");
        });
        Self { address, script, connections, runtime: Some(runtime) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers so, in this order, and then as the last says for ever.
    pub fn replies(&self, replies: &[Reply]) {
        let mut script = self.script.lock().expect("no panic");
        script.first = replies.iter().cloned().collect();
        script.then = script.first.pop_back();
    }

    pub fn heard(&self) -> Vec<Heard> {
        self.script.lock().expect("no panic").heard.clone()
    }

    /// Connections that were made, whether or not anything was sent.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub fn forget(&self) {
        self.script.lock().expect("no panic").heard.clear();
        self.connections.store(0, Ordering::SeqCst);
    }

    /// Waits until so many requests were heard.
    pub async fn hears(&self, count: usize) -> Vec<Heard> {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let heard = self.heard();
            if heard.len() >= count {
                return heard;
            }
            assert!(Instant::now() < deadline, "heard {} of {count}: {heard:?}", heard.len());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn hear(State(script): State<Arc<Mutex<Script>>>, request: Request) -> Response<String> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    let reply = {
        let mut script = script.lock().expect("no panic");
        script.heard.push(Heard { path: parts.uri.path().to_owned(), headers: parts.headers, body });
        script.first.pop_front().or_else(|| script.then.clone()).unwrap_or(Reply::Status(204))
    };
    let answer = match reply {
        Reply::Status(status) => Response::builder().status(status),
        Reply::With(status, name, value) => Response::builder().status(status).header(name, value),
        Reply::Hang => std::future::pending().await,
    };
    answer.body(String::new()).expect("a response")
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
