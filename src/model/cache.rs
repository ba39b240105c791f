//! The model cache: folders named by digest, each whole or not there.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Error;
use crate::objects::{Bucket, ObjectMeta};

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CachedFile {
    /// Relative to the model's folder.
    pub(super) name: String,
    pub(super) key: String,
    pub(super) size: u64,
    pub(super) etag: Option<String>,
    /// Lower-case hex.
    pub(super) sha256: String,
}

/// What was found at a location, and where it is in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) digest: String,
    /// The ONNX file, relative to the model's folder.
    pub(super) file: String,
    pub(super) bytes: u64,
    pub(super) files: Vec<CachedFile>,
}

/// A folder being filled; removed when dropped unless it was [kept](Staging::keep).
#[derive(Debug)]
pub(super) struct Staging {
    pub(super) folder: PathBuf,
    pub(super) files: Vec<CachedFile>,
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _gone_already = std::fs::remove_dir_all(&self.folder);
    }
}

pub(super) fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Cache { path, source }
}

impl Staging {
    pub(super) fn new(cache: &Path) -> Result<Self, Error> {
        let folder = cache.join(format!("tmp-{}", uuid::Uuid::now_v7().simple()));
        std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
        Ok(Self { folder, files: Vec::new() })
    }

    /// Bytes fetched so far.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }

    /// Fetches one file, unless it is here already.
    pub(super) async fn fetch(&mut self, bucket: &Bucket, object: &ObjectMeta, name: &str) -> Result<(), Error> {
        if self.files.iter().any(|f| f.name == name) {
            return Ok(());
        }
        let path = self.folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed(&path))?;
        }
        let mut file = std::fs::File::create(&path).map_err(failed(&path))?;
        let mut digest = Sha256::new();
        let mut blocks = bucket.stream(&object.key, object.etag.as_deref(), 0..object.size).await?;
        while let Some(block) = blocks.try_next().await? {
            digest.update(&block);
            file.write_all(&block).map_err(failed(&path))?;
        }
        file.sync_all().map_err(failed(&path))?;
        let sha256 = hex(&digest.finalize());
        self.files.push(CachedFile {
            name: name.to_owned(),
            key: object.key.clone(),
            size: object.size,
            etag: object.etag.clone(),
            sha256,
        });
        Ok(())
    }

    /// Moves the folder to the place that its content names, and notes where it came from.
    pub(super) fn keep(mut self, cache: &Path, uri: &str, file: &str) -> Result<Entry, Error> {
        self.files.sort_by(|a, b| a.name.cmp(&b.name));
        let mut digest = Sha256::new();
        for file in &self.files {
            digest.update(format!("{}\0{}\0{}\n", file.name, file.size, file.sha256));
        }
        let digest = hex(&digest.finalize());
        let target = cache.join(&digest);
        // Whoever was faster put the same bytes there.
        if !target.is_dir()
            && let Err(error) = std::fs::rename(&self.folder, &target)
            && !target.is_dir()
        {
            return Err(failed(&target)(error));
        }
        let entry = Entry { digest, file: file.to_owned(), bytes: self.bytes(), files: self.files.clone() };
        write_index(cache, uri, &entry)?;
        Ok(entry)
    }
}

fn index_path(cache: &Path, uri: &str) -> PathBuf {
    cache.join("by-source").join(format!("{}.json", hex(&Sha256::digest(uri))))
}

fn write_index(cache: &Path, uri: &str, entry: &Entry) -> Result<(), Error> {
    let path = index_path(cache, uri);
    let folder = cache.join("by-source");
    std::fs::create_dir_all(&folder).map_err(failed(&folder))?;
    let temporary = folder.join(format!("tmp-{}", uuid::Uuid::now_v7().simple()));
    let json = serde_json::to_vec(entry).expect("an entry is JSON");
    let written = std::fs::write(&temporary, json).and_then(|()| std::fs::rename(&temporary, &path));
    written.map_err(|error| {
        let _gone_already = std::fs::remove_file(&temporary);
        failed(&path)(error)
    })
}

/// Half-fetched folders are removed once nobody can be at work on them any more.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Removes what is half fetched and was not touched for a day.
pub(super) fn sweep(cache: &Path) {
    let entries = std::fs::read_dir(cache).into_iter().flatten().filter_map(Result::ok);
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("tmp-")) {
        let touched = entry.metadata().and_then(|metadata| metadata.modified()).ok();
        if touched.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > STALE) {
            let path = entry.path();
            match std::fs::remove_dir_all(&path) {
                Ok(()) => tracing::info!("removed {}, which a killed process left", path.display()),
                Err(error) => tracing::warn!(%error, "cannot remove {}", path.display()),
            }
        }
    }
}

/// What was last found at a location, if its files are still in the cache. An index that cannot be read is as good as none.
pub(super) fn read_index(cache: &Path, uri: &str) -> Option<Entry> {
    let entry: Entry = serde_json::from_slice(&std::fs::read(index_path(cache, uri)).ok()?).ok()?;
    cache.join(&entry.digest).join(&entry.file).is_file().then_some(entry)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
