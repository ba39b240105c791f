//! As much of Azure Blob Storage in this process as the service uses: list with prefix, marker and `startFrom`; get with ranges and
//! If-Match; put, block lists, copy, batch delete; shared keys by name and SAS URLs. What is checked is the account and that there is a
//! signature, not the signature itself.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};

/// The account's key, any 32 bytes in Base64.
pub const AZURE_KEY: &str = "bmlnaHRzaGlmdC10ZXN0LWtleS1uaWdodHNoaWZ0ISE=";
const LAST_MODIFIED: &str = "Mon, 23 Nov 2026 02:00:00 GMT";
/// Blobs in a page of a listing: small, so that pages matter.
const PAGE: usize = 3;

type Blobs = BTreeMap<String, (u64, Bytes)>;

#[derive(Clone, Default)]
struct Account {
    name: String,
    /// `container/key` → version, bytes.
    blobs: Arc<Mutex<Blobs>>,
    blocks: Arc<Mutex<BTreeMap<(String, String), Bytes>>>,
}

/// The server; dropped, it ends.
pub struct AzureServer {
    address: SocketAddr,
    account: Account,
    runtime: Option<tokio::runtime::Runtime>,
}

impl AzureServer {
    pub async fn start(account: &str) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("an address");
        let account = Account { name: account.to_owned(), ..Account::default() };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let served = account.clone();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, Router::new().fallback(answer).with_state(served)).await.expect("served");
        });
        Self { address, account, runtime: Some(runtime) }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn put(&self, container: &str, key: &str, bytes: &[u8]) {
        self.account.write(&format!("{container}/{key}"), Bytes::copy_from_slice(bytes));
    }

    pub fn get(&self, container: &str, key: &str) -> Vec<u8> {
        let blobs = self.account.blobs.lock().expect("no panic");
        blobs.get(&format!("{container}/{key}")).unwrap_or_else(|| panic!("no blob {key}")).1.to_vec()
    }

    /// Keys below a prefix, sorted.
    pub fn keys(&self, container: &str, prefix: &str) -> Vec<String> {
        let root = format!("{container}/");
        let blobs = self.account.blobs.lock().expect("no panic");
        blobs.keys().filter_map(|k| k.strip_prefix(&root)).filter(|k| k.starts_with(prefix)).map(str::to_owned).collect()
    }
}

impl Drop for AzureServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Account {
    fn write(&self, path: &str, bytes: Bytes) -> String {
        let mut blobs = self.blobs.lock().expect("no panic");
        let version = blobs.get(path).map_or(1, |(version, _)| version + 1);
        blobs.insert(path.to_owned(), (version, bytes));
        etag(path, version)
    }
}

fn etag(path: &str, version: u64) -> String {
    format!("\"0x{:X}{version}\"", path.len() * 7919)
}

async fn answer(State(account): State<Account>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let authorization = parts.headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let signed = authorization.starts_with(&format!("SharedKey {}:", account.name));
    let presigned = query.contains_key("sig") && query.contains_key("se");
    if !signed && !presigned {
        return refusal(StatusCode::FORBIDDEN, "AuthenticationFailed");
    }
    let path = percent_decoded(parts.uri.path().trim_start_matches('/'));
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("a body");
    match (&parts.method, query.get("comp").map(String::as_str)) {
        (&Method::GET, Some("list")) => list(&account, path.trim_end_matches('/'), &query),
        (&Method::POST, Some("batch")) => batch(&account, &parts.headers, &body),
        (&Method::PUT, Some("block")) => {
            account.blocks.lock().expect("no panic").insert((path, query["blockid"].clone()), body);
            StatusCode::CREATED.into_response()
        }
        (&Method::PUT, Some("blocklist")) => {
            let text = String::from_utf8(body.to_vec()).expect("UTF-8");
            let ids = text.split("<Uncommitted>").skip(1).filter_map(|rest| rest.split('<').next());
            let mut blocks = account.blocks.lock().expect("no panic");
            let whole: Vec<u8> = ids.flat_map(|id| blocks.remove(&(path.clone(), id.to_owned())).expect("a block")).collect();
            written(account.write(&path, whole.into()))
        }
        (&Method::PUT, None) => match parts.headers.get("x-ms-copy-source") {
            Some(source) => {
                let source = url::Url::parse(source.to_str().expect("a URL")).expect("a URL");
                let from = percent_decoded(source.path().trim_start_matches('/'));
                let bytes = account.blobs.lock().expect("no panic").get(&from).map(|(_, bytes)| bytes.clone());
                bytes.map_or_else(|| refusal(StatusCode::NOT_FOUND, "BlobNotFound"), |bytes| written(account.write(&path, bytes)))
            }
            None => written(account.write(&path, body)),
        },
        (&Method::GET | &Method::HEAD, None) => read(&account, &path, &parts.headers),
        (method, comp) => refusal(StatusCode::NOT_IMPLEMENTED, &format!("{method} {comp:?}")),
    }
}

fn written(etag: String) -> Response {
    (StatusCode::CREATED, [(header::ETAG, etag), (header::LAST_MODIFIED, LAST_MODIFIED.to_owned())]).into_response()
}

fn read(account: &Account, path: &str, headers: &HeaderMap) -> Response {
    let Some((version, bytes)) = account.blobs.lock().expect("no panic").get(path).cloned() else {
        return refusal(StatusCode::NOT_FOUND, "BlobNotFound");
    };
    let etag = etag(path, version);
    if headers.get("if-match").is_some_and(|wanted| wanted.as_bytes() != etag.as_bytes()) {
        return refusal(StatusCode::PRECONDITION_FAILED, "ConditionNotMet");
    }
    let answer = Response::builder().header("etag", etag).header("last-modified", LAST_MODIFIED).header("x-ms-blob-type", "BlockBlob");
    let range = headers.get("range").and_then(|v| v.to_str().ok()?.strip_prefix("bytes=")?.split_once('-'));
    let Some((first, last)) = range else {
        return answer.header("content-length", bytes.len()).body(Body::from(bytes)).expect("a response");
    };
    let first: usize = first.parse().expect("a number");
    let end = last.parse::<usize>().map_or(bytes.len(), |last| (last + 1).min(bytes.len()));
    let total = bytes.len();
    let answer = answer.status(StatusCode::PARTIAL_CONTENT).header("content-range", format!("bytes {first}-{}/{total}", end - 1));
    answer.header("content-length", end - first).body(Body::from(bytes.slice(first..end))).expect("a response")
}

fn list(account: &Account, container: &str, query: &BTreeMap<String, String>) -> Response {
    let root = format!("{container}/");
    let prefix = query.get("prefix").map_or("", String::as_str);
    let from = query.get("marker").or(query.get("startFrom")).map_or("", String::as_str);
    let blobs = account.blobs.lock().expect("no panic");
    let found = blobs.iter().filter_map(|(path, (version, bytes))| Some((path.strip_prefix(&root)?, etag(path, *version), bytes.len())));
    let mut found = found.filter(|(key, ..)| key.starts_with(prefix) && *key >= from);
    let page: Vec<_> = found.by_ref().take(PAGE).collect();
    let next = found.next().map_or(String::new(), |(key, ..)| key.to_owned());
    let items: String = page
        .iter()
        .map(|(key, etag, size)| {
            // As the real service does: quoted in headers, bare in listings.
            let etag = etag.trim_matches('"');
            format!(
                "<Blob><Name>{key}</Name><Properties><Last-Modified>{LAST_MODIFIED}</Last-Modified><Etag>{etag}</Etag>\
                 <Content-Length>{size}</Content-Length><Content-Type>application/octet-stream</Content-Type>\
                 <BlobType>BlockBlob</BlobType></Properties></Blob>"
            )
        })
        .collect();
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Prefix>{prefix}</Prefix><Blobs>{items}</Blobs>\
         <NextMarker>{next}</NextMarker></EnumerationResults>"
    );
    ([("content-type", "application/xml")], text).into_response()
}

/// Deletes, each a request of its own inside a multipart body.
fn batch(account: &Account, headers: &HeaderMap, body: &Bytes) -> Response {
    let kind = headers["content-type"].to_str().expect("a content type");
    let boundary = kind.split_once("boundary=").expect("a boundary").1;
    let text = String::from_utf8(body.to_vec()).expect("UTF-8");
    let mut answer = String::new();
    for (id, part) in text.split(&format!("--{boundary}\r\n")).skip(1).enumerate() {
        let line = part.lines().find(|line| line.starts_with("DELETE ")).expect("a delete");
        let path = percent_decoded(line.split(' ').nth(1).expect("a path").trim_start_matches('/'));
        let path = path.split('?').next().expect("a path").to_owned();
        let there = account.blobs.lock().expect("no panic").remove(&path).is_some();
        let status = if there { "202 Accepted" } else { "404 The specified blob does not exist." };
        answer += &format!("--{boundary}\r\nContent-Type: application/http\r\nContent-ID: {id}\r\n\r\nHTTP/1.1 {status}\r\n\r\n\r\n");
    }
    answer += &format!("--{boundary}--\r\n");
    (StatusCode::ACCEPTED, [("content-type", format!("multipart/mixed; boundary={boundary}"))], answer).into_response()
}

fn percent_decoded(path: &str) -> String {
    let pair = format!("x={}", path.replace('+', "%2B"));
    url::form_urlencoded::parse(pair.as_bytes()).next().expect("a pair").1.into_owned()
}

fn refusal(status: StatusCode, code: &str) -> Response {
    let body = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>{code}</Message></Error>");
    (status, [("x-ms-error-code", code)], body).into_response()
}
