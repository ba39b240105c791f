//! What the store is told of deliveries, and what it tells.

use std::time::Duration;

use crate::domain::{Attempt, Delivery, DeliveryId, DeliveryState, Event, JobId, TraceParent, WebhookSecret, WebhookSpec, WebhookUrl};

/// An event of which no delivery has come yet.
#[derive(Debug, Clone)]
pub struct PendingEvent {
    /// What happened.
    pub event: Event,
    /// The job's own webhook.
    pub webhook: Option<WebhookSpec>,
}

/// A delivery to be made.
#[derive(Debug, Clone)]
pub struct NewDelivery {
    /// The configured endpoint it goes to; `None` for the job's own webhook.
    pub endpoint: Option<String>,
    /// Where it goes.
    pub url: WebhookUrl,
    /// What is sent, byte by byte.
    pub body: String,
}

/// A lease on a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryLease {
    /// Which delivery.
    pub delivery: DeliveryId,
    /// The fencing token.
    pub epoch: i64,
}

/// A delivery to be tried now.
#[derive(Debug, Clone)]
pub struct ClaimedDelivery {
    /// The lease that was won.
    pub lease: DeliveryLease,
    /// The delivery as it stands.
    pub delivery: Delivery,
    /// What is sent, byte by byte.
    pub body: String,
    /// Of the job's own webhook; `None` for a configured endpoint, whose secrets the configuration holds.
    pub secret: Option<WebhookSecret>,
    /// The trace that its job belongs to.
    pub trace: Option<TraceParent>,
}

/// What an attempt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptResult {
    /// Where it went.
    pub url: WebhookUrl,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// Why it was no success, in words.
    pub error: Option<String>,
    /// How long it took.
    pub latency: Duration,
    /// What follows from it.
    pub then: Then,
}

/// What follows from an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Another one, after this time.
    Retry(Duration),
    /// Nothing more: the delivery ends in this state.
    End(DeliveryState),
}

/// Which deliveries to list; newest first.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// Only those of this job.
    pub job: Option<JobId>,
    /// Only those in this state.
    pub state: Option<DeliveryState>,
    /// Only those made before this one (ids sort by creation).
    pub before: Option<DeliveryId>,
    /// At most this many.
    pub limit: u32,
}

/// One delivery with all that is known of it.
#[derive(Debug, Clone)]
pub struct DeliveryRecord {
    /// The delivery.
    pub delivery: Delivery,
    /// What is sent, byte by byte.
    pub body: String,
    /// The latest attempts, at most [`MOST_ATTEMPTS`], oldest first.
    pub attempts: Vec<Attempt>,
}

/// How many attempts a [`DeliveryRecord`] has at most.
pub const MOST_ATTEMPTS: u32 = 100;
