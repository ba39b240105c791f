//! The loop: events that nobody has been told of become deliveries, deliveries that are due become attempts.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::Notify,
    task::{Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    deliver::{self, Answer, Deliverer},
    message,
    receivers::{PER_RECEIVER, Receivers},
    retry,
};
use crate::{
    db::{self, AttemptResult, ClaimedDelivery, NewDelivery, PendingEvent, Store, Then, Written},
    domain::{DeliveryState, Endpoint},
    telemetry::{Metrics, metrics::DeliveryOutcome, traces},
};

/// Attempts in flight, over all receivers.
const IN_FLIGHT: u32 = 256;
/// Events turned into deliveries at a time.
const PAGE: u32 = 100;
/// Longer than an attempt can last, and its record.
const LEASE_TTL: Duration = Duration::from_mins(1);
/// How long attempts in flight may go on after a stop is asked for. Those that are cut off are made again at the next start.
const GRACE: Duration = Duration::from_secs(3);

/// How the notifier goes about it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where callers reach the API, without a slash at its end: what links in messages begin with.
    pub public_url: String,
    /// Multiplies the delays between attempts.
    pub retry_scale: f64,
    /// How often to look for work when nobody says that there is some.
    pub poll: Duration,
}

/// Tells receivers what became of jobs.
#[derive(Debug)]
pub struct Notifier {
    /// Holds events and deliveries.
    pub store: Arc<dyn Store>,
    /// Makes the attempts.
    pub deliverer: Deliverer,
    /// Receivers that hear of every job.
    pub endpoints: Arc<[Endpoint]>,
    /// Rung when a job has ended, or a delivery is to be made again.
    pub wake: Arc<Notify>,
    /// Counts attempts.
    pub metrics: Metrics,
    /// How it goes about it.
    pub options: Options,
}

/// One attempt, from its claim to its record.
struct Sending {
    store: Arc<dyn Store>,
    deliverer: Deliverer,
    endpoints: Arc<[Endpoint]>,
    metrics: Metrics,
    retry_scale: f64,
    claimed: ClaimedDelivery,
}

/// Attempts in flight, and the receivers they are made to.
#[derive(Default)]
struct InFlight {
    attempts: JoinSet<bool>,
    receiver_of: HashMap<Id, String>,
    receivers: Receivers,
}

impl Notifier {
    /// Delivers until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut in_flight = InFlight::default();
        while !stop.is_cancelled() {
            let rung = self.wake.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            if let Err(error) = self.fan_out().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot turn events into deliveries");
            }
            if let Err(error) = self.begin(&mut in_flight).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for deliveries that are due");
            }
            tokio::select! {
                () = &mut rung => {}
                Some(ended) = in_flight.attempts.join_next_with_id() => in_flight.ended(ended),
                () = db::pause(&*self.store, self.options.poll) => {}
                () = stop.cancelled() => {}
            }
        }
        let rest = async { while in_flight.attempts.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, rest).await.is_err() {
            tracing::info!("{} webhook attempts were cut off; they will be made again", in_flight.attempts.len());
        }
    }

    /// Makes the deliveries of every event that has none yet.
    async fn fan_out(&self) -> db::Result<()> {
        loop {
            let pending = self.store.pending_events(PAGE).await?;
            for event in &pending {
                // Fenced: another node was faster, with the same deliveries.
                let _written = self.store.fan_out(&event.event, self.deliveries(event)).await?;
            }
            if pending.len() < PAGE as usize {
                return Ok(());
            }
        }
    }

    fn deliveries(&self, pending: &PendingEvent) -> Vec<NewDelivery> {
        let event = &pending.event;
        let own = pending.webhook.iter().map(|webhook| (None, &webhook.url, &webhook.events));
        let configured = self.endpoints.iter().map(|endpoint| (Some(endpoint.name.clone()), &endpoint.url, &endpoint.events));
        let hearing = own.chain(configured).filter(|(_, _, events)| events.contains(&event.kind));
        let body = message::body(event, &self.options.public_url).expect("texts and numbers are JSON");
        hearing.map(|(endpoint, url, _)| NewDelivery { endpoint, url: url.clone(), body: body.clone() }).collect()
    }

    /// Begins the attempts that are due, as far as there is room for them.
    async fn begin(&self, in_flight: &mut InFlight) -> db::Result<()> {
        let room = IN_FLIGHT.saturating_sub(in_flight.attempts.len() as u32);
        let taken = in_flight.receivers.taken(Instant::now());
        for claimed in self.store.claim_deliveries(room, PER_RECEIVER, &taken, LEASE_TTL).await? {
            let receiver = claimed.delivery.url.receiver();
            in_flight.receivers.began(&receiver, Instant::now());
            let sending = Sending {
                store: self.store.clone(),
                deliverer: self.deliverer.clone(),
                endpoints: self.endpoints.clone(),
                metrics: self.metrics.clone(),
                retry_scale: self.options.retry_scale,
                claimed,
            };
            let id = in_flight.attempts.spawn(sending.send()).id();
            in_flight.receiver_of.insert(id, receiver);
        }
        Ok(())
    }
}

impl InFlight {
    fn ended(&mut self, ended: Result<(Id, bool), JoinError>) {
        let (id, answered) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!("an attempt at a delivery failed by a fault of the service: {error}");
                (error.id(), true)
            }
        };
        if let Some(receiver) = self.receiver_of.remove(&id) {
            self.receivers.ended(&receiver, answered, Instant::now());
        }
    }
}

impl Sending {
    /// Makes the attempt and records it; whether the receiver answered.
    async fn send(self) -> bool {
        let delivery = &self.claimed.delivery;
        let configured = delivery.endpoint.as_ref().map(|name| self.endpoints.iter().find(|endpoint| endpoint.name == *name));
        let (url, secrets) = match (configured, &self.claimed.secret) {
            (Some(Some(endpoint)), _) => (&endpoint.url, endpoint.secrets.as_slice()),
            (None, secret) => (&delivery.url, secret.as_slice()),
            (Some(None), _) => {
                let error = format!("the configuration has no endpoint {:?} any more", delivery.endpoint.as_deref().unwrap_or_default());
                let result = AttemptResult {
                    url: delivery.url.clone(),
                    status: None,
                    error: Some(error),
                    latency: Duration::ZERO,
                    then: Then::End(DeliveryState::Failed),
                };
                self.metrics.webhook_delivery(DeliveryOutcome::GaveUp);
                self.record(&result).await;
                return true;
            }
        };
        let span = tracing::info_span!(target: traces::TARGET, "deliver webhook", job.id = %delivery.job, delivery.id = %delivery.id, otel.kind = "client");
        traces::adopt(&span, self.claimed.trace.as_ref());
        let trace = traces::parent_of(&span).or(self.claimed.trace);
        let message = deliver::Message { id: &delivery.message_id, body: &self.claimed.body, trace };
        let (answer, latency) = self.deliverer.attempt(url, message, secrets).instrument(span).await;
        let answered = !matches!(answer, Answer::Silence { .. });
        let refused = matches!(answer, Answer::Refused { .. });
        let retry = |wanted| match retry::delay(delivery.tries + 1, wanted, self.retry_scale) {
            Some(delay) => Then::Retry(delay),
            None => Then::End(DeliveryState::Failed),
        };
        let (status, error, then) = match answer {
            Answer::Status { status, retry_after } => {
                let then = match status {
                    200..300 => Then::End(DeliveryState::Delivered),
                    410 => Then::End(DeliveryState::Gone),
                    _ => retry(retry_after),
                };
                (Some(status), deliver::failure(status), then)
            }
            Answer::Silence { error } | Answer::Refused { error } => (None, Some(error), retry(None)),
        };
        self.metrics.webhook_delivery(match then {
            _ if refused => DeliveryOutcome::Refused,
            Then::End(DeliveryState::Delivered) => DeliveryOutcome::Delivered,
            Then::End(_) => DeliveryOutcome::GaveUp,
            Then::Retry(_) => DeliveryOutcome::Retried,
        });
        self.record(&AttemptResult { url: url.clone(), status, error, latency, then }).await;
        answered
    }

    async fn record(&self, result: &AttemptResult) {
        let (delivery, receiver) = (&self.claimed.delivery, result.url.receiver());
        let latency_ms = result.latency.as_millis() as u64;
        let (id, job) = (&delivery.id, &delivery.job);
        match (&result.error, result.then) {
            (None, _) => tracing::debug!(delivery.id = %id, job.id = %job, receiver, latency_ms, "delivered {id}"),
            (Some(error), Then::Retry(delay)) => {
                tracing::info!(delivery.id = %id, job.id = %job, receiver, latency_ms, "{id} failed ({error}); next attempt in {} s", delay.as_secs());
            }
            (Some(error), Then::End(state)) => {
                tracing::warn!(delivery.id = %id, job.id = %job, receiver, latency_ms, "{id} is {}: {error}", state.name());
            }
        }
        match self.store.record_attempt(&self.claimed.lease, result).await {
            Ok(Written::Done) => {}
            Ok(Written::Fenced) => tracing::debug!(delivery.id = %id, "{id} was taken over while it was tried"),
            // Its lease runs out, and it is tried again: at least once.
            Err(error) => tracing::warn!(delivery.id = %id, error = &error as &dyn std::error::Error, "cannot record an attempt at {id}"),
        }
    }
}
