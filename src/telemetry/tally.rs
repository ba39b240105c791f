//! Counts of what happens below: calls of object stores, batches in the runtime.
//!
//! Both kinds of process keep one. The runner's goes to its supervisor with each beat, which is why it is plain data; the service's
//! own is taken at each scrape. What a killed runner had not told yet, a quarter of a second's worth, is lost.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// What was asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// The bytes of an object, or a range of them.
    Get,
    /// Size and etag of an object.
    Head,
    /// The keys below a prefix: one listing, whatever its pages.
    List,
    /// One object, whole.
    Put,
    /// The begin, a piece, or the end of an object that is put in pieces.
    PutMultipart,
    /// The end of an object.
    Delete,
    /// A copy or a new name of an object.
    Copy,
}

/// How a call ended, after all retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As asked.
    Ok,
    /// There is no such object.
    NotFound,
    /// The object is not the one that was meant.
    Changed,
    /// The store said no: credentials, rights, a request that it does not take.
    Refused,
    /// The store did not answer, or said that it cannot.
    Failed,
}

/// Why a request was sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryReason {
    /// The store asked for patience (429, 503).
    Throttled,
    /// The store said that it failed.
    ServerError,
    /// No answer in time.
    Timeout,
    /// No connection, or one that broke before the answer.
    Connection,
    /// The answer's body broke off, and the rest was asked for.
    Interrupted,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Get, Self::Head, Self::List, Self::Put, Self::PutMultipart, Self::Delete, Self::Copy];

    /// As the metrics write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Put => "put",
            Self::PutMultipart => "put_multipart",
            Self::Delete => "delete",
            Self::Copy => "copy",
        }
    }
}

impl Outcome {
    /// As the metrics write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotFound => "not_found",
            Self::Changed => "changed",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl RetryReason {
    /// As the metrics write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Throttled => "throttled",
            Self::ServerError => "server_error",
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What was counted since the last time. Lists rather than maps: they hold a dozen entries, and travel as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Calls of stores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<((Operation, Outcome), u64)>,
    /// Requests that were sent again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retries: Vec<((Operation, RetryReason), u64)>,
    /// Times that the number of requests at once was halved for a bucket.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub halvings: u64,
    /// Calls of the runtime, by the records in each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub batches: Vec<(u64, u64)>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A handle on the counts; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<Counts>>);

impl Tally {
    /// Counts a call of a store.
    pub fn request(&self, operation: Operation, outcome: Outcome) {
        count(&mut self.lock().requests, (operation, outcome));
    }

    /// Counts a request that is sent again.
    pub fn retry(&self, operation: Operation, reason: RetryReason) {
        count(&mut self.lock().retries, (operation, reason));
    }

    /// Counts a bucket that gets half as many requests at once.
    pub fn halved(&self) {
        self.lock().halvings += 1;
    }

    /// Counts a call of the runtime.
    pub fn batch(&self, records: u64) {
        count(&mut self.lock().batches, records);
    }

    /// What was counted since the last call.
    pub fn take(&self) -> Counts {
        std::mem::take(&mut *self.lock())
    }

    /// Counts are plain numbers: a panic elsewhere leaves them usable.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count<K: PartialEq>(counts: &mut Vec<(K, u64)>, key: K) {
    match counts.iter_mut().find(|(known, _)| *known == key) {
        Some((_, count)) => *count += 1,
        None => counts.push((key, 1)),
    }
}
