//! An S3 protocol server in this process, over a temporary folder. Signatures, pages and multipart uploads are real.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tempfile::TempDir;

use super::{ACCESS_KEY, Endpoint, FaultProxy, Faults, SECRET_KEY, fixture, fixture_files, fixtures};

/// The server; dropped, it ends. Its folder can be read and written directly.
pub struct S3Server {
    folder: Arc<TempDir>,
    address: SocketAddr,
    /// Its own threads: a test's runtime that is busy must not make the store slow.
    runtime: Option<tokio::runtime::Runtime>,
}

impl Endpoint for S3Server {
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl S3Server {
    pub async fn start() -> Self {
        Self::start_for(Some((ACCESS_KEY, SECRET_KEY))).await
    }

    /// A server that takes this key alone; or, with none, requests without any signature.
    pub async fn start_for(key: Option<(&str, &str)>) -> Self {
        let auth = key.map(|(id, secret)| SimpleAuth::from_single(id, secret));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path().to_owned();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.spawn(serve(root, listener, auth));
        Self { folder: Arc::new(folder), address, runtime: Some(runtime) }
    }

    fn path(&self, bucket: &str, key: &str) -> PathBuf {
        self.folder.path().join(bucket).join(key)
    }

    pub fn create_bucket(&self, bucket: &str) {
        fs::create_dir_all(self.path(bucket, "")).expect("a bucket");
    }

    pub fn put(&self, bucket: &str, key: &str, bytes: &[u8]) {
        let path = self.path(bucket, key);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, bytes).expect("an object");
    }

    pub fn get(&self, bucket: &str, key: &str) -> Vec<u8> {
        let path = self.path(bucket, key);
        fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub fn exists(&self, bucket: &str, key: &str) -> bool {
        self.path(bucket, key).is_file()
    }

    /// Keys below a prefix, sorted. What the server keeps for itself begins with a dot.
    pub fn keys(&self, bucket: &str, prefix: &str) -> Vec<String> {
        let root = self.path(bucket, "");
        let files = walkdir::WalkDir::new(&root).into_iter().filter_map(Result::ok).filter(|e| e.file_type().is_file());
        let mut keys: Vec<String> = files
            .map(|e| e.path().strip_prefix(&root).expect("below the root").to_str().expect("UTF-8").to_owned())
            .filter(|key| key.starts_with(prefix) && !key.rsplit('/').next().is_some_and(|name| name.starts_with('.')))
            .collect();
        keys.sort();
        keys
    }

    pub fn remove_object(&self, bucket: &str, key: &str) {
        fs::remove_file(self.path(bucket, key)).expect("an object");
    }

    pub fn remove(&self, bucket: &str, prefix: &str) {
        let _not_there = fs::remove_dir_all(self.path(bucket, prefix));
    }

    /// Puts a folder of fixtures (or one file) below a prefix.
    pub fn put_fixture(&self, folder: &str, bucket: &str, prefix: &str) {
        assert!(fixtures().join(folder).exists(), "there is no fixture {folder}");
        for file in fixture_files(folder) {
            let name = Path::new(&file).strip_prefix(folder).expect("below").to_str().expect("UTF-8").to_owned();
            self.put(bucket, &format!("{prefix}{name}"), &fixture(&file));
        }
    }

    /// A proxy in front of this server that misbehaves.
    pub async fn with_faults(&self, faults: Faults) -> FaultProxy {
        FaultProxy::start(self.url(), faults).await
    }
}

async fn serve(root: PathBuf, listener: std::net::TcpListener, auth: Option<SimpleAuth>) {
    listener.set_nonblocking(true).expect("non-blocking");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).expect("a folder"));
    if let Some(auth) = auth {
        builder.set_auth(auth);
    }
    let service = builder.build();
    let server = Builder::new(TokioExecutor::new());
    while let Ok((socket, _)) = listener.accept().await {
        // Without this, small reads wait 40 ms.
        socket.set_nodelay(true).expect("no delay");
        let connection = server.serve_connection(TokioIo::new(socket), service.clone()).into_owned();
        tokio::spawn(async move {
            let _closed = connection.await;
        });
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // Tests drop it inside a runtime of their own, where waiting for this one is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
