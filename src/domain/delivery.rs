//! What happened to a job, and what became of telling it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    job::{Counts, Job, JobId, JobState},
    time::Timestamp,
    webhook::{EventKind, WebhookUrl},
};

/// A job at the moment of an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSnapshot {
    /// Which job.
    pub id: JobId,
    /// As given.
    pub name: Option<String>,
    /// As given.
    pub labels: BTreeMap<String, String>,
    /// The state it reached.
    pub state: JobState,
    /// How much was there and done.
    pub counts: Counts,
    /// Why it failed: code and title, without the detail, which may quote data.
    pub error: Option<(String, String)>,
    /// How far it is from an earlier job, where that is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftNote>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its first chunk was claimed.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// How far a job is from an earlier one, in few words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DriftNote {
    /// The earlier one.
    pub against: JobId,
    /// The index of the predictions.
    pub predictions: Option<f64>,
    /// The column that moved most, and its index.
    pub column: Option<(String, f64)>,
    /// From which index on it is told.
    pub threshold: Option<f64>,
}

impl JobSnapshot {
    /// The job as it is now.
    pub fn of(job: &Job) -> Self {
        Self {
            id: job.id.clone(),
            name: job.spec.name.clone(),
            labels: job.spec.labels.clone(),
            state: job.state,
            counts: job.counts,
            error: job.error.as_ref().map(|problem| (problem.code.clone(), problem.title.clone())),
            drift: job.drift.as_ref().map(|compared| DriftNote {
                against: compared.against.clone(),
                predictions: compared.drift.predictions,
                column: compared.drift.inputs.first().map(|column| (column.column.clone(), column.psi)),
                threshold: compared.threshold,
            }),
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
        }
    }
}

/// What happened to a job, as kept with the change itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Events are numbered in the order in which they happened.
    pub seq: i64,
    /// `msg_` and a UUIDv7: the `webhook-id` of every message on this event.
    pub message_id: String,
    /// What happened.
    pub kind: EventKind,
    /// The job then.
    pub job: JobSnapshot,
    /// When.
    pub at: Timestamp,
}

/// `whd_` and a UUIDv7: ids sort by time of creation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId(String);

impl DeliveryId {
    /// A new id.
    pub fn generate() -> Self {
        Self(format!("whd_{}", uuid::Uuid::now_v7().simple()))
    }

    /// Reads an id; `None` when the text is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("whd_")?;
        let plain = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        plain.then(|| Self(text.to_owned()))
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What has become of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// It will be tried (again).
    Pending,
    /// The receiver answered 2xx.
    Delivered,
    /// Its last attempt failed.
    Failed,
    /// The receiver answered 410: it wants to hear no more of this.
    Gone,
}

impl DeliveryState {
    /// Every state.
    pub const ALL: [DeliveryState; 4] = [Self::Pending, Self::Delivered, Self::Failed, Self::Gone];

    /// As the tables and the API write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Gone => "gone",
        }
    }

    /// Reads what [`DeliveryState::name`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == text)
    }
}

/// One event's way to one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Which.
    pub id: DeliveryId,
    /// The job it tells of.
    pub job: JobId,
    /// The `webhook-id`: the same for every attempt, and for every receiver of the event.
    pub message_id: String,
    /// What it tells.
    pub kind: EventKind,
    /// The configured endpoint it goes to; `None` for the job's own webhook.
    pub endpoint: Option<String>,
    /// Where it goes: for an endpoint, where the last attempt went.
    pub url: WebhookUrl,
    /// What has become of it.
    pub state: DeliveryState,
    /// Attempts since it was made, over all replays.
    pub attempts: u32,
    /// Attempts since it was made or last replayed: its place in the schedule.
    pub tries: u32,
    /// When it is tried next, if it is pending.
    pub next_at: Timestamp,
    /// When it was made.
    pub created_at: Timestamp,
    /// Set unless it is pending.
    pub finished_at: Option<Timestamp>,
    /// The last attempt.
    pub last: Option<Attempt>,
}

/// One attempt at a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// From 1, over all replays.
    pub number: u32,
    /// When it began.
    pub at: Timestamp,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// Why it was no success, in words.
    pub error: Option<String>,
    /// How long it took, µs.
    pub latency_us: u64,
}
