//! Google Cloud Storage's XML interface in this process: it is S3's but for the authorisation and some header names, so an S3 protocol
//! server without keys stands behind it. What is checked is who signs (the service account), not the signature.

use std::{net::SocketAddr, ops::Deref};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use super::S3Server;

/// The server; dropped, it ends. Its content is that of the S3 server behind it.
pub struct GcsServer {
    address: SocketAddr,
    store: S3Server,
    _runtime: Running,
}

/// A runtime of its own, ended without waiting.
struct Running(Option<tokio::runtime::Runtime>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Deref for GcsServer {
    type Target = S3Server;

    fn deref(&self) -> &S3Server {
        &self.store
    }
}

#[derive(Clone)]
struct Front {
    upstream: String,
    account: String,
    client: reqwest::Client,
}

impl GcsServer {
    /// A server for this service account (its e-mail address).
    pub async fn start(account: &str) -> Self {
        let store = S3Server::start_for(None).await;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let client = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build().expect("a client");
        let front = Front { upstream: super::Endpoint::url(&store), account: account.to_owned(), client };
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, Router::new().fallback(forward).with_state(front)).await.expect("served");
        });
        Self { address, store, _runtime: Running(Some(runtime)) }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Who signed: the issuer of a self-signed JWT, or the credential of a presigned URL.
fn signer(headers: &HeaderMap, query: &str) -> Option<String> {
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let signed: std::collections::BTreeMap<_, _> = pairs.into_owned().collect();
    if let (Some(credential), Some(_)) = (signed.get("X-Goog-Credential"), signed.get("X-Goog-Signature")) {
        return Some(credential.split('/').next().unwrap_or_default().to_owned());
    }
    let token = headers.get("authorization")?.to_str().ok()?.strip_prefix("Bearer ")?;
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    Some(claims["iss"].as_str()?.to_owned())
}

async fn forward(State(front): State<Front>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default();
    if signer(&parts.headers, query).as_deref() != Some(&front.account) {
        return (StatusCode::FORBIDDEN, "<Error><Code>AccessDenied</Code><Message>who are you?</Message></Error>").into_response();
    }
    let query = if query.contains("X-Goog-") { "" } else { query };
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
    let mut forwarded = front.client.request(parts.method.clone(), format!("{}{}?{query}", front.upstream, parts.uri.path())).body(body);
    for (name, value) in &parts.headers {
        match name.as_str() {
            "authorization" | "host" | "content-length" | "connection" => {}
            "x-goog-copy-source" => forwarded = forwarded.header("x-amz-copy-source", value),
            _ => forwarded = forwarded.header(name, value),
        }
    }
    let answer = forwarded.send().await.expect("the store behind answers");
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if name != "transfer-encoding" && name != "connection" {
            response = response.header(name, value);
        }
    }
    response.body(Body::from(answer.bytes().await.expect("a body"))).expect("a response")
}
