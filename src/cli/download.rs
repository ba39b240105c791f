//! `nightshift jobs results --download`: parts and manifest into a folder, each checked before it gets its name.

use std::path::{Component, Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use super::{
    client::{Client, chain},
    show,
    stop::{Outcome, Stop},
};
use crate::{config::Form, domain::names::MANIFEST};

/// Fetches page by page, so that no presigned URL is used long after it was made. Files keep their names below the output prefix.
pub(super) async fn run(client: &Client, id: &str, folder: &Path, form: Form) -> Outcome {
    let job = client.send(client.get(&format!("/v1/jobs/{id}"), &[])?).await?;
    let output = job["output"]["uri"].as_str().ok_or("the service's answer names no output")?.to_owned();
    let path = &format!("/v1/jobs/{id}/results");
    let mut files: Vec<Value> = Vec::new();
    let mut query: Vec<(String, String)> = Vec::new();
    let manifest = loop {
        let page = client.send(client.get(path, &query)?).await?;
        for part in page["items"].as_array().ok_or("the service's answer has no items")? {
            let uri = part["uri"].as_str().unwrap_or_default();
            let name = uri.strip_prefix(&output).map(|name| Path::new(name.trim_start_matches('/')));
            let plain = |name: &&Path| name.components().all(|c| matches!(c, Component::Normal(_))) && name.file_name().is_some();
            let name = name.filter(plain).ok_or_else(|| format!("{uri:?} is no location below {output}"))?;
            let (url, sha256) = (part["url"].as_str().unwrap_or_default(), part["sha256"].as_str());
            files.push(fetch(client, url, &folder.join(name), sha256).await?);
        }
        match page["next_cursor"].as_str() {
            Some(cursor) => query = vec![("cursor".to_owned(), cursor.to_owned())],
            None => break page["manifest_url"].as_str().map(str::to_owned),
        }
    };
    match &manifest {
        Some(url) => files.push(fetch(client, url, &folder.join(MANIFEST), None).await?),
        None => eprintln!("There is no manifest yet: the job has not ended, and more parts may come."),
    }
    if form == Form::Json {
        return show::print_json(&json!({"files": files}));
    }
    let rows = files.iter().map(|file| vec![show::cell(&file["file"]), file["bytes"].to_string(), show::cell(&file["sha256"])]);
    show::print(&show::columns(&["FILE", "BYTES", "SHA-256"], rows))
}

/// One file, under another name until it is whole and, where its digest is known, the right one.
async fn fetch(client: &Client, url: &str, target: &Path, sha256: Option<&str>) -> Result<Value, Stop> {
    let mut unfinished = target.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    let failed = |e: std::io::Error| Stop::from(format!("{}: {e}", unfinished.display()));
    if let Some(folder) = target.parent() {
        tokio::fs::create_dir_all(folder).await.map_err(failed)?;
    }
    let mut answer = client.download(client.url(url)?).await?;
    let mut file = tokio::fs::File::create(&unfinished).await.map_err(failed)?;
    let (mut digest, mut bytes) = (Sha256::new(), 0u64);
    let cut = |e: reqwest::Error| Stop::from(format!("{} ended early: {}", target.display(), chain(&e.without_url())));
    while let Some(block) = answer.chunk().await.map_err(cut)? {
        digest.update(&block);
        bytes += block.len() as u64;
        file.write_all(&block).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    let found: String = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
    if sha256.is_some_and(|wanted| wanted != found) {
        let _gone = tokio::fs::remove_file(&unfinished).await;
        return Err(format!("{} was fetched, but its SHA-256 is {found} and not that of the part; try again", target.display()).into());
    }
    tokio::fs::rename(&unfinished, target).await.map_err(failed)?;
    Ok(json!({"file": target.display().to_string(), "bytes": bytes, "sha256": found}))
}
