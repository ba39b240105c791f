//! A manifest of input objects: JSON Lines of `{"uri": …}`, plain, gzip or Zstandard.
//!
//! In: the manifest, pinned by its etag, and how far it was read. Out: its objects, headed for size and etag, in the order of its lines.
//! It is streamed, once to be checked and once to be planned, so that memory does not grow with its bytes; while it is checked, a
//! hash of each location is kept, which is what [`MOST_OBJECTS`] bounds.
//!
//! A line that cannot be read fails the job: it stands for an object that nobody can name, so no error row could say of which one the
//! records are missing. An object that is named and not there is an error row, as one that vanishes after a listing.

use std::pin::Pin;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio_util::io::StreamReader;

use super::{Error, list::Found};
use crate::{
    domain::{JobSpec, Problem, Uri, job::ManifestCursor, spec::InputCompression},
    objects::{self, Bucket, ObjectMeta, Stores},
    runner::decode::sniff,
};

/// Most objects in a manifest: 16 bytes of memory each while it is checked.
const MOST_OBJECTS: usize = 5_000_000;
/// Most bytes in a line.
const MOST_LINE_BYTES: u64 = 64 * 1024;
/// Objects whose size and etag are asked for side by side.
const HEADS: usize = 32;
/// Lines read in a step of the check.
const STEP_LINES: usize = 10_000;
/// Most characters of a line that an error quotes.
const EXCERPT: usize = 80;

/// A manifest, pinned.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    stores: Stores,
    bucket: Bucket,
    uri: Uri,
    output: Uri,
    cursor: ManifestCursor,
}

impl Manifest {
    /// Pins the manifest, unless an earlier planner did.
    pub(super) async fn open(stores: &Stores, spec: &JobSpec, cursor: Option<&ManifestCursor>) -> Result<Self, Error> {
        let (uri, output) = (spec.input.uri.clone(), spec.output.uri.clone());
        let bucket = stores.open(&uri)?;
        let cursor = match cursor {
            Some(cursor) => cursor.clone(),
            None => {
                let meta = bucket.head(uri.path()).await?;
                ManifestCursor { etag: meta.etag, size: meta.size, lines: 0 }
            }
        };
        Ok(Self { stores: stores.clone(), bucket, uri, output, cursor })
    }

    /// How far it was read when it was opened.
    pub(super) fn cursor(&self) -> &ManifestCursor {
        &self.cursor
    }

    /// Begins to check all of it.
    pub(super) async fn check(&self) -> Result<Check<'_>, Error> {
        Ok(Check { manifest: self, lines: self.lines().await?, seen: Vec::new() })
    }

    /// The objects after those that the cursor stands for.
    pub(super) async fn objects(self) -> Result<BoxStream<'static, Result<Found, Error>>, Error> {
        let done = self.cursor.lines;
        let lines = self.lines().await?;
        let stores = self.stores.clone();
        let named = stream::try_unfold((self, lines), async |(manifest, mut lines)| {
            let next = lines.next(&manifest).await?;
            Ok::<_, Error>(next.map(|named| (named, (manifest, lines))))
        });
        let rest = named.try_filter(move |(line, _)| futures::future::ready(*line > done));
        let found = rest.map(move |named| {
            let stores = stores.clone();
            async move {
                let (line, uri) = named?;
                find(&stores, &uri, line).await
            }
        });
        Ok(found.buffered(HEADS).boxed())
    }

    async fn lines(&self) -> Result<Lines, Error> {
        let (key, etag, size) = (self.uri.path(), self.cursor.etag.as_deref(), self.cursor.size);
        let (_, mut compression) = sniff::by_name(key);
        if compression == InputCompression::Auto {
            compression = sniff::compression_of(&self.bucket.read(key, etag, 0..size.min(4)).await?);
        }
        let bytes = StreamReader::new(self.bucket.stream(key, etag, 0..size).await?.map_err(std::io::Error::other));
        let text: Pin<Box<dyn AsyncBufRead + Send>> = match compression {
            InputCompression::Gzip => {
                let mut decoder = GzipDecoder::new(bytes);
                decoder.multiple_members(true);
                Box::pin(BufReader::new(decoder))
            }
            InputCompression::Zstd => {
                let mut decoder = ZstdDecoder::new(bytes);
                decoder.multiple_members(true);
                Box::pin(BufReader::new(decoder))
            }
            InputCompression::None | InputCompression::Auto => Box::pin(bytes),
        };
        Ok(Lines { text, line: 0, buffer: Vec::new() })
    }

    /// The location on a line; `None` on a blank one.
    fn read_line(&self, line: u64, bytes: &[u8]) -> Result<Option<Uri>, Error> {
        #[derive(Deserialize)]
        struct Named {
            uri: String,
        }
        let bytes = if line == 1 { bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes) } else { bytes };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        let fault = |why: String| {
            let text = String::from_utf8_lossy(bytes);
            let excerpt: String = text.trim().chars().take(EXCERPT).collect();
            invalid(format!("line {line} of {}: {why}; it reads {excerpt:?}", self.uri))
        };
        let named: Named = serde_json::from_slice(bytes).map_err(|e| {
            // The library counts lines and columns within what it was given, which is this line.
            let why = e.to_string();
            let why = why.split(" at line ").next().unwrap_or_default();
            fault(format!("{{\"uri\": \"s3://…\"}} is wanted ({why})"))
        })?;
        let uri = Uri::parse(&named.uri).map_err(|e| fault(e.to_string()))?;
        if uri.is_prefix() {
            return Err(fault("it names a prefix, and a manifest names objects".to_owned()));
        }
        if self.output.contains(&uri) {
            return Err(fault(format!("it names an object inside the job's own output, {}", self.output)));
        }
        Ok(Some(uri))
    }
}

/// Size and etag of one object; without either where it cannot be reached, which the runner will report.
async fn find(stores: &Stores, uri: &Uri, line: u64) -> Result<Found, Error> {
    let bucket = stores.open(uri)?;
    let meta = match bucket.head(uri.path()).await {
        Ok(meta) => meta,
        Err(error) if error.retryable() => return Err(error.into()),
        Err(error) => {
            tracing::debug!(%error, "an object of a manifest cannot be reached");
            ObjectMeta { key: uri.path().to_owned(), size: 0, etag: None }
        }
    };
    Ok(Found { bucket, named_in: Some(uri.with_path("")), meta, line })
}

/// The lines of a manifest as they come.
struct Lines {
    text: Pin<Box<dyn AsyncBufRead + Send>>,
    line: u64,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line that names something, with its number.
    async fn next(&mut self, manifest: &Manifest) -> Result<Option<(u64, Uri)>, Error> {
        loop {
            self.buffer.clear();
            let read = (&mut self.text).take(MOST_LINE_BYTES + 1).read_until(b'\n', &mut self.buffer).await;
            let read = read.map_err(|e| unreadable(e, &manifest.uri, self.line + 1))?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            if read as u64 > MOST_LINE_BYTES {
                return Err(invalid(format!("line {} of {} has more than {MOST_LINE_BYTES} bytes", self.line, manifest.uri)));
            }
            if let Some(uri) = manifest.read_line(self.line, &self.buffer)? {
                return Ok(Some((self.line, uri)));
            }
        }
    }
}

/// The check of a manifest: every line can be read, every store can be opened, no object is named twice.
pub(super) struct Check<'m> {
    manifest: &'m Manifest,
    lines: Lines,
    /// A hash of each location.
    seen: Vec<u128>,
}

impl Check<'_> {
    /// Checks some more; false once all of it is good.
    pub(super) async fn next_step(&mut self) -> Result<bool, Error> {
        for _ in 0..STEP_LINES {
            let Some((line, uri)) = self.lines.next(self.manifest).await? else {
                return self.finish().await.map(|()| false);
            };
            if self.seen.len() == MOST_OBJECTS {
                let manifest = &self.manifest.uri;
                return Err(invalid(format!("{manifest} names more than {MOST_OBJECTS} objects; split it, and run a job for each part")));
            }
            if let Err(error) = self.manifest.stores.open(&uri) {
                return Err(invalid(format!("line {line} of {}: {error}", self.manifest.uri)));
            }
            self.seen.push(hash(&uri));
        }
        Ok(true)
    }

    async fn finish(&mut self) -> Result<(), Error> {
        if self.seen.is_empty() {
            let detail = format!("{} names no object; a line of it reads {{\"uri\": \"s3://…\"}}", self.manifest.uri);
            return Err(Error::Job(Problem::new("input_empty", "The manifest names no object", detail)));
        }
        let mut seen = std::mem::take(&mut self.seen);
        let sorted = tokio::task::spawn_blocking(move || {
            seen.sort_unstable();
            seen.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
        });
        // A thread that panicked has found nothing out; the next planner checks again.
        let Ok(twin) = sorted.await else { return Err(Error::Stopping) };
        match twin {
            None => Ok(()),
            Some(twin) => Err(named_twice(self.manifest, twin).await?),
        }
    }
}

/// Reads again, for the numbers of the two lines.
async fn named_twice(manifest: &Manifest, twin: u128) -> Result<Error, Error> {
    let mut lines = manifest.lines().await?;
    let mut first = None;
    while let Some((line, uri)) = lines.next(manifest).await? {
        match first {
            _ if hash(&uri) != twin => {}
            None => first = Some(line),
            Some(first) => {
                let detail = format!("lines {first} and {line} of {} both name {uri}: each record has one outcome", manifest.uri);
                return Ok(invalid(detail));
            }
        }
    }
    Ok(invalid(format!("{} names an object twice", manifest.uri)))
}

fn hash(uri: &Uri) -> u128 {
    let digest = Sha256::digest(uri.to_string());
    digest.iter().take(16).fold(0, |hash, byte| hash << 8 | u128::from(*byte))
}

fn invalid(detail: String) -> Error {
    Error::Job(Problem::new("invalid_manifest", "The manifest of the input cannot be read", detail))
}

/// What a failed read means: the store's own error, or bytes that are not compressed as they seem.
fn unreadable(error: std::io::Error, uri: &Uri, line: u64) -> Error {
    match error.downcast::<objects::Error>() {
        Ok(error) => Error::Objects(error),
        Err(error) => invalid(format!("{uri} cannot be decompressed (at line {line}): {error}")),
    }
}
