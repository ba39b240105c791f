//! A range of an object as it comes, whole or as an error.
//!
//! A body that breaks off, ends early or falls silent is asked for again from where it stopped, and only as the same object: pinned by
//! its etag where there is one, and by what the first answer said of it. object_store does so by itself within a minute of the first
//! request; a decoder that takes longer than that to read a large object is not let down here either.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    ops::Range,
};

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{GetResult, GetResultPayload};

use super::{Bucket, Error, Result, bucket::translate};

/// Bytes of a file in a block: object_store's own blocks of 8 KiB cost more to hand from thread to thread than to read.
const FILE_BLOCK_BYTES: u64 = 256 * 1024;
/// Answers in a row that bring nothing before a body is given up.
const FRUITLESS: u32 = 4;

/// A body that is being read.
struct Body {
    bucket: Bucket,
    key: String,
    etag: Option<String>,
    /// Size and etag of the object, as the first answer gave them.
    seen: (u64, Option<String>),
    /// What is still to come.
    left: Range<u64>,
    blocks: BoxStream<'static, object_store::Result<Bytes>>,
    fruitless: u32,
}

/// The blocks of `range`, of which `first` is the answer's head; exactly as many bytes as it is long.
pub(super) fn blocks(
    bucket: &Bucket,
    key: &str,
    etag: Option<&str>,
    range: Range<u64>,
    first: GetResult,
) -> BoxStream<'static, Result<Bytes>> {
    let body = Body {
        bucket: bucket.clone(),
        key: key.to_owned(),
        etag: etag.map(str::to_owned),
        seen: seen(&first),
        left: range,
        blocks: blocks_of(first),
        fruitless: 0,
    };
    stream::try_unfold(body, |mut body| async move { Ok(body.next().await?.map(|block| (block, body))) }).boxed()
}

/// The same in one piece.
pub(super) async fn whole(bucket: &Bucket, key: &str, etag: Option<&str>, range: Range<u64>, first: GetResult) -> Result<Bytes> {
    if matches!(first.payload, GetResultPayload::File(..)) {
        // In one step, where a stream would take one for each few kilobytes.
        let bytes = first.bytes().await.map_err(|e| translate("GET", &bucket.uri(key), etag, e))?;
        return match range.end - range.start {
            wanted if wanted == bytes.len() as u64 => Ok(bytes),
            wanted => {
                let reason = format!("{wanted} bytes were asked for and {} came", bytes.len());
                Err(Error::Unavailable { operation: "GET", uri: bucket.uri(key), reason })
            }
        };
    }
    let mut blocks = blocks(bucket, key, etag, range.clone(), first);
    let Some(one) = blocks.try_next().await? else { return Ok(Bytes::new()) };
    let Some(two) = blocks.try_next().await? else { return Ok(one) };
    let mut bytes = BytesMut::with_capacity(usize::try_from(range.end - range.start).unwrap_or_default());
    bytes.extend_from_slice(&one);
    bytes.extend_from_slice(&two);
    while let Some(more) = blocks.try_next().await? {
        bytes.extend_from_slice(&more);
    }
    Ok(bytes.freeze())
}

fn blocks_of(answer: GetResult) -> BoxStream<'static, object_store::Result<Bytes>> {
    match answer.payload {
        GetResultPayload::File(file, _) => stream::try_unfold((file, answer.range), next_of_file).boxed(),
        GetResultPayload::Stream(blocks) => blocks,
    }
}

async fn next_of_file((mut file, left): (File, Range<u64>)) -> object_store::Result<Option<(Bytes, (File, Range<u64>))>> {
    if left.is_empty() {
        return Ok(None);
    }
    let read = tokio::task::spawn_blocking(move || {
        let wanted = FILE_BLOCK_BYTES.min(left.end - left.start);
        let mut bytes = Vec::with_capacity(wanted as usize);
        file.seek(SeekFrom::Start(left.start))?;
        (&file).take(wanted).read_to_end(&mut bytes)?;
        Ok((Bytes::from(bytes), file, left))
    });
    let (bytes, file, left) = read
        .await
        .map_err(|source| object_store::Error::JoinError { source })?
        .map_err(|error: std::io::Error| object_store::Error::Generic { store: "LocalFileSystem", source: error.into() })?;
    // Nothing where there was something: whoever reads counts what has come.
    let next = left.start + bytes.len() as u64..left.end;
    Ok((!bytes.is_empty()).then_some((bytes, (file, next))))
}

fn seen(answer: &GetResult) -> (u64, Option<String>) {
    (answer.meta.size, answer.meta.e_tag.clone())
}

impl Body {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.left.is_empty() {
            let why = match self.blocks.next().await {
                Some(Ok(block)) if block.is_empty() => continue,
                Some(Ok(block)) if block.len() as u64 <= self.left.end - self.left.start => {
                    self.left.start += block.len() as u64;
                    self.fruitless = 0;
                    return Ok(Some(block));
                }
                Some(Ok(_)) => self.unavailable("more bytes came than were asked for".to_owned()),
                Some(Err(error)) => translate("GET", &self.bucket.uri(&self.key), self.etag.as_deref(), error),
                None => self.unavailable(format!("the body ended {} bytes early", self.left.end - self.left.start)),
            };
            self.fruitless += 1;
            if !why.retryable() || self.fruitless >= FRUITLESS {
                return Err(why);
            }
            tracing::debug!(error = &why as &dyn std::error::Error, "the rest of {} is asked for again", self.bucket.uri(&self.key));
            self.reopen().await?;
        }
        Ok(None)
    }

    async fn reopen(&mut self) -> Result<()> {
        let again = self.bucket.get_again(&self.key, self.etag.as_deref(), self.left.clone(), self.fruitless).await?;
        if seen(&again) != self.seen {
            let etag = self.etag.as_deref().or(self.seen.1.as_deref()).unwrap_or("what was read first");
            return Err(Error::Changed { uri: self.bucket.uri(&self.key), etag: etag.to_owned() });
        }
        self.blocks = blocks_of(again);
        Ok(())
    }

    fn unavailable(&self, reason: String) -> Error {
        Error::Unavailable { operation: "GET", uri: self.bucket.uri(&self.key), reason }
    }
}
