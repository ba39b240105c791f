//! What a receiver is told: `{"type", "timestamp", "data"}` (Standard Webhooks), small, the same for every attempt.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::domain::{Event, EventKind};

#[derive(Serialize)]
struct Message<'e> {
    #[serde(rename = "type")]
    kind: &'static str,
    timestamp: String,
    data: Data<'e>,
}

#[derive(Serialize)]
struct Data<'e> {
    id: &'e str,
    name: Option<&'e str>,
    labels: &'e BTreeMap<String, String>,
    state: &'static str,
    counts: Counts,
    error: Option<Error<'e>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drift: Option<Drift<'e>>,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    links: Links,
}

#[derive(Serialize)]
struct Counts {
    objects: u64,
    bytes: u64,
    chunks: u64,
    chunks_done: u64,
    records: Records,
}

#[derive(Serialize)]
struct Records {
    succeeded: u64,
    failed: u64,
}

#[derive(Serialize)]
struct Error<'e> {
    #[serde(rename = "type")]
    kind: String,
    title: &'e str,
}

#[derive(Serialize)]
struct Drift<'e> {
    against: &'e str,
    threshold: Option<f64>,
    predictions: Option<f64>,
    column: Option<&'e str>,
    column_psi: Option<f64>,
}

#[derive(Serialize)]
struct Links {
    job: String,
    results: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<String>,
}

/// The body of every message on an event. `public_url`: where callers reach the API, without a slash at its end.
///
/// # Errors
/// None that data can cause.
pub(super) fn body(event: &Event, public_url: &str) -> serde_json::Result<String> {
    let job = &event.job;
    let address = format!("{public_url}/v1/jobs/{}", job.id);
    let counts = &job.counts;
    serde_json::to_string(&Message {
        kind: event.kind.name(),
        timestamp: event.at.to_string(),
        data: Data {
            id: job.id.as_str(),
            name: job.name.as_deref(),
            labels: &job.labels,
            state: job.state.name(),
            counts: Counts {
                objects: counts.objects,
                bytes: counts.bytes,
                chunks: counts.chunks,
                chunks_done: counts.chunks_done,
                records: Records { succeeded: counts.succeeded, failed: counts.failed },
            },
            // The words in which the API tells of problems.
            error: job.error.as_ref().map(|(code, title)| Error { kind: format!("urn:nightshift:problem:{code}"), title }),
            drift: job.drift.as_ref().map(|drift| Drift {
                against: drift.against.as_str(),
                threshold: drift.threshold,
                predictions: drift.predictions,
                column: drift.column.as_ref().map(|(column, _)| column.as_str()),
                column_psi: drift.column.as_ref().map(|(_, psi)| *psi),
            }),
            created_at: job.created_at.to_string(),
            started_at: job.started_at.map(|t| t.to_string()),
            finished_at: job.finished_at.map(|t| t.to_string()),
            links: Links {
                results: format!("{address}/results"),
                // Jobs that ended have one; where the output could not be written the error says so.
                manifest: (event.kind != EventKind::Started).then(|| format!("{address}/results/manifest")),
                job: address,
            },
        },
    })
}
