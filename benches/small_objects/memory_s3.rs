//! A store in memory behind the S3 protocol: what the tests' server does with files costs more than the service that is measured.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use bytes::Bytes;
use futures::TryStreamExt;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{
    Body, S3, S3Request, S3Response, S3Result,
    auth::SimpleAuth,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput, CompleteMultipartUploadOutput,
        CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput,
        DeleteObjectsOutput, DeletedObject, ETag, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input,
        ListObjectsV2Output, Object, PutObjectInput, PutObjectOutput, StreamingBlob, UploadPartInput, UploadPartOutput,
    },
    s3_error,
    service::S3ServiceBuilder,
};

use crate::support::{ACCESS_KEY, Endpoint, SECRET_KEY};

/// One bucket, whatever its name. Its content is that of a map.
#[derive(Clone, Default)]
pub(crate) struct MemoryS3 {
    objects: Arc<RwLock<BTreeMap<String, (Bytes, String)>>>,
    parts: Arc<RwLock<BTreeMap<(String, i32), Bytes>>>,
    versions: Arc<AtomicU64>,
    address: Option<SocketAddr>,
}

impl Endpoint for MemoryS3 {
    fn url(&self) -> String {
        format!("http://{}", self.address.expect("it runs"))
    }
}

impl MemoryS3 {
    /// On threads of its own, for as long as the program runs.
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        let store = Self { address: listener.local_addr().ok(), ..Self::default() };
        let mut builder = S3ServiceBuilder::new(store.clone());
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        std::thread::spawn(move || {
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                while let Ok((socket, _)) = listener.accept().await {
                    socket.set_nodelay(true).expect("no delay");
                    let connection =
                        Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service.clone()).into_owned();
                    tokio::spawn(async move {
                        let _closed = connection.await;
                    });
                }
            });
        });
        store
    }

    pub(crate) fn put(&self, key: &str, bytes: impl Into<Bytes>) -> String {
        let etag = format!("{:032x}", self.versions.fetch_add(1, Ordering::Relaxed));
        self.objects.write().expect("no panic").insert(key.to_owned(), (bytes.into(), etag.clone()));
        etag
    }

    fn find(&self, key: &str) -> S3Result<(Bytes, String)> {
        self.objects.read().expect("no panic").get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }
}

async fn whole(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let Some(body) = body else { return Ok(Bytes::new()) };
    let blocks: Vec<Bytes> = body.try_collect().await.map_err(|_| s3_error!(IncompleteBody))?;
    Ok(blocks.concat().into())
}

#[async_trait::async_trait]
impl S3 for MemoryS3 {
    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let (bytes, etag) = self.find(&req.input.key)?;
        let size = bytes.len() as u64;
        let range = req.input.range.map(|range| range.check(size)).transpose()?;
        let part = range.clone().unwrap_or(0..size);
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some((part.end - part.start) as i64),
            content_range: range.map(|range| format!("bytes {}-{}/{size}", range.start, range.end - 1)),
            body: Some(Body::from(bytes.slice(part.start as usize..part.end as usize)).into()),
            last_modified: Some(SystemTime::UNIX_EPOCH.into()),
            e_tag: Some(ETag::Strong(etag)),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let (bytes, etag) = self.find(&req.input.key)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(bytes.len() as i64),
            last_modified: Some(SystemTime::UNIX_EPOCH.into()),
            e_tag: Some(ETag::Strong(etag)),
            ..HeadObjectOutput::default()
        }))
    }

    async fn list_objects_v2(&self, req: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = req.input;
        let prefix = input.prefix.clone().unwrap_or_default();
        let after = input.continuation_token.clone().or(input.start_after.clone()).unwrap_or_default();
        let objects = self.objects.read().expect("no panic");
        let from = if after > prefix { std::ops::Bound::Excluded(after) } else { std::ops::Bound::Included(prefix.clone()) };
        let mut below = objects.range((from, std::ops::Bound::Unbounded)).take_while(|(key, _)| key.starts_with(&prefix));
        let contents: Vec<Object> = below
            .by_ref()
            .take(1000)
            .map(|(key, (bytes, etag))| Object {
                key: Some(key.clone()),
                size: Some(bytes.len() as i64),
                e_tag: Some(ETag::Strong(etag.clone())),
                last_modified: Some(SystemTime::UNIX_EPOCH.into()),
                ..Object::default()
            })
            .collect();
        let truncated = below.next().is_some();
        Ok(S3Response::new(ListObjectsV2Output {
            is_truncated: Some(truncated),
            next_continuation_token: contents.last().and_then(|last| last.key.clone()).filter(|_| truncated),
            key_count: Some(contents.len() as i32),
            contents: Some(contents),
            name: Some(input.bucket),
            prefix: input.prefix,
            ..ListObjectsV2Output::default()
        }))
    }

    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let etag = self.put(&req.input.key, whole(req.input.body).await?);
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(etag)), ..PutObjectOutput::default() }))
    }

    async fn delete_object(&self, req: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.objects.write().expect("no panic").remove(&req.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(&self, req: S3Request<DeleteObjectsInput>) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let mut objects = self.objects.write().expect("no panic");
        let deleted = req.input.delete.objects.into_iter().map(|object| {
            objects.remove(&object.key);
            DeletedObject { key: Some(object.key), ..DeletedObject::default() }
        });
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted.collect()), ..DeleteObjectsOutput::default() }))
    }

    async fn create_multipart_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let id = self.versions.fetch_add(1, Ordering::Relaxed).to_string();
        let (bucket, key) = (Some(req.input.bucket), Some(req.input.key));
        Ok(S3Response::new(CreateMultipartUploadOutput { upload_id: Some(id), bucket, key, ..CreateMultipartUploadOutput::default() }))
    }

    async fn upload_part(&self, req: S3Request<UploadPartInput>) -> S3Result<S3Response<UploadPartOutput>> {
        let bytes = whole(req.input.body).await?;
        self.parts.write().expect("no panic").insert((req.input.upload_id, req.input.part_number), bytes);
        let etag = format!("{:032x}", self.versions.fetch_add(1, Ordering::Relaxed));
        Ok(S3Response::new(UploadPartOutput { e_tag: Some(ETag::Strong(etag)), ..UploadPartOutput::default() }))
    }

    async fn complete_multipart_upload(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let id = req.input.upload_id;
        let pieces: Vec<Bytes> = {
            let mut parts = self.parts.write().expect("no panic");
            let ours: Vec<_> = parts.range((id.clone(), 0)..=(id, i32::MAX)).map(|(place, _)| place.clone()).collect();
            ours.iter().filter_map(|place| parts.remove(place)).collect()
        };
        let etag = self.put(&req.input.key, pieces.concat());
        let (bucket, key) = (Some(req.input.bucket), Some(req.input.key));
        let e_tag = Some(ETag::Strong(etag));
        Ok(S3Response::new(CompleteMultipartUploadOutput { e_tag, bucket, key, ..CompleteMultipartUploadOutput::default() }))
    }

    async fn abort_multipart_upload(&self, _: S3Request<AbortMultipartUploadInput>) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }
}
