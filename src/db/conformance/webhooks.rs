//! Events, deliveries and attempts.

use super::*;
use crate::domain::{DeliveryState, EventKind, WebhookSecret, WebhookSpec, WebhookUrl, delivery::JobSnapshot};

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const MINUTE: Duration = Duration::from_secs(60);

fn url(host: &str) -> WebhookUrl {
    WebhookUrl::parse(&format!("https://{host}/hook")).unwrap()
}

fn with_webhook(output: &str) -> NewJob {
    let mut new = new_job(output);
    let secret = WebhookSecret::parse(SECRET).unwrap();
    new.spec.webhook = Some(WebhookSpec { url: url("a.example"), secret, events: EventKind::ALL.to_vec() });
    new
}

fn attempt(then: Then) -> AttemptResult {
    let error = (then != Then::End(DeliveryState::Delivered)).then(|| "no answer".to_owned());
    AttemptResult { url: url("a.example"), status: Some(500), error, latency: Duration::from_millis(20), then }
}

impl Bench {
    async fn events(&self) -> Vec<PendingEvent> {
        self.store.pending_events(100).await.unwrap()
    }

    async fn kinds(&self) -> Vec<EventKind> {
        self.events().await.into_iter().map(|e| e.event.kind).collect()
    }

    /// Tells each of these hosts, as configured endpoints, of `count` jobs.
    async fn deliveries_to(&self, hosts: &[&str], count: usize) {
        for n in 0..count {
            let id = self.create(new_job(&format!("s3://lake/{n}/"))).await;
            self.store.fail_job(&id, &problem()).await.unwrap();
            self.finalize(Ending::Failed).await;
            let event = self.events().await.remove(0).event;
            let new = |host: &&str| NewDelivery { endpoint: Some((*host).to_owned()), url: url(host), body: "{}".to_owned() };
            assert_eq!(self.store.fan_out(&event, hosts.iter().map(new).collect()).await.unwrap(), Written::Done);
        }
    }

    async fn due(&self, limit: u32, per_receiver: u32, taken: &[(&str, u32)]) -> Vec<ClaimedDelivery> {
        let taken = taken.iter().map(|(host, n)| (format!("{host}:443"), *n)).collect();
        self.store.claim_deliveries(limit, per_receiver, &taken, MINUTE).await.unwrap()
    }

    /// A delivery of a job's own webhook, claimed.
    async fn claimed(&self) -> ClaimedDelivery {
        self.planned(with_webhook("s3://lake/out/"), 1).await;
        self.claim_one().await;
        let event = self.events().await.remove(0).event;
        let new = NewDelivery { endpoint: None, url: url("a.example"), body: "{\"x\":1}".to_owned() };
        assert_eq!(self.store.fan_out(&event, vec![new]).await.unwrap(), Written::Done);
        self.due(1, 4, &[]).await.pop().expect("a delivery that is due")
    }

    async fn delivery(&self, id: &DeliveryId) -> Delivery {
        self.store.delivery(id).await.unwrap().unwrap().delivery
    }
}

async fn a_job_tells_once_that_it_started_and_once_how_it_ended(b: Bench) {
    let id = b.planned(with_webhook("s3://lake/out/"), 3).await;
    assert!(b.events().await.is_empty(), "a job that waits has nothing to tell");
    let mut leases = b.claim(2).await;
    let _written = b.store.release_chunk(&leases.pop().unwrap().lease, &Spent::default()).await.unwrap();
    leases.extend(b.claim(5).await);
    assert_eq!(b.kinds().await, [EventKind::Started]);
    for lease in leases {
        let _written = b.store.commit_chunk(&lease.lease, &result(3, 1)).await.unwrap();
    }
    assert_eq!(b.kinds().await, [EventKind::Started], "finalizing is no end");
    b.finalize(Ending::Completed).await;
    let events = b.events().await;
    assert_eq!(events.iter().map(|e| e.event.kind).collect::<Vec<_>>(), [EventKind::Started, EventKind::Completed]);
    let (started, ended) = (&events[0].event, &events[1].event);
    assert_eq!((started.job.state, started.job.counts.chunks_done, started.job.finished_at), (JobState::InProgress, 0, None));
    assert_eq!((ended.job.state, ended.job.counts.succeeded, ended.job.counts.failed), (JobState::Completed, 9, 3));
    assert_eq!((&ended.job.id, ended.job.finished_at), (&id, Some(ended.at)));
    assert_ne!(started.message_id, ended.message_id);
    assert_eq!(events[1].webhook, with_webhook("s3://lake/out/").spec.webhook);
}

async fn every_way_to_end_is_told_with_its_reason(b: Bench) {
    let failed = b.create(new_job("s3://lake/1/")).await;
    b.store.fail_job(&failed, &problem()).await.unwrap();
    b.finalize(Ending::Failed).await;
    let cancelled = b.create(new_job("s3://lake/2/")).await;
    b.store.cancel_job(&cancelled).await.unwrap();
    b.finalize(Ending::Cancelled).await;
    let mut late = new_job("s3://lake/3/");
    late.spec.execution.deadline_seconds = Some(1);
    b.create(late).await;
    b.advance(MINUTE);
    b.store.expire_jobs().await.unwrap();
    b.finalize(Ending::Expired).await;
    let events = b.events().await;
    let told: Vec<_> = events.iter().map(|e| (e.event.kind, e.event.job.error.as_ref().map(|e| e.0.as_str()))).collect();
    let wanted = [(EventKind::Failed, Some("oops")), (EventKind::Cancelled, None), (EventKind::Expired, Some("deadline_passed"))];
    assert_eq!(told, wanted);
    assert!(events.iter().all(|e| e.webhook.is_none()));
}

async fn an_event_is_fanned_out_once(b: Bench) {
    let claimed = b.claimed().await;
    assert!(b.events().await.is_empty());
    let event = Event {
        seq: 1,
        message_id: claimed.delivery.message_id.clone(),
        kind: EventKind::Started,
        job: JobSnapshot::of(&b.job(&claimed.delivery.job).await),
        at: claimed.delivery.created_at,
    };
    let new = NewDelivery { endpoint: None, url: url("a.example"), body: "{}".to_owned() };
    assert_eq!(b.store.fan_out(&event, vec![new]).await.unwrap(), Written::Fenced);
    assert_eq!(b.store.deliveries(&DeliveryFilter { limit: 10, ..DeliveryFilter::default() }).await.unwrap().len(), 1);
}

async fn a_delivery_is_claimed_by_one_until_its_lease_runs_out(b: Bench) {
    let first = b.claimed().await;
    assert_eq!((first.body.as_str(), &first.secret), ("{\"x\":1}", &Some(WebhookSecret::parse(SECRET).unwrap())));
    assert!(b.due(9, 4, &[]).await.is_empty(), "a live lease is respected");
    b.advance(MINUTE * 2);
    let second = b.due(9, 4, &[]).await.pop().expect("whoever held it is dead");
    assert_eq!(second.delivery.message_id, first.delivery.message_id);
    let late = b.store.record_attempt(&first.lease, &attempt(Then::End(DeliveryState::Gone))).await.unwrap();
    assert_eq!((late, b.delivery(&first.delivery.id).await.state), (Written::Fenced, DeliveryState::Pending));
    let done = b.store.record_attempt(&second.lease, &attempt(Then::End(DeliveryState::Delivered))).await.unwrap();
    assert_eq!(done, Written::Done);
    let record = b.store.delivery(&first.delivery.id).await.unwrap().unwrap();
    assert_eq!((record.delivery.state, record.delivery.attempts), (DeliveryState::Delivered, 2));
    assert_eq!(record.attempts.iter().map(|a| a.number).collect::<Vec<_>>(), [1, 2], "both were made, both are recorded");
}

async fn a_failed_attempt_comes_back_when_it_is_due_and_the_schedule_counts_on(b: Bench) {
    let mut claimed = b.claimed().await;
    for tries in 1..=3 {
        assert_eq!(b.store.record_attempt(&claimed.lease, &attempt(Then::Retry(MINUTE))).await.unwrap(), Written::Done);
        let delivery = b.delivery(&claimed.delivery.id).await;
        assert_eq!((delivery.state, delivery.tries, delivery.attempts), (DeliveryState::Pending, tries, tries));
        let last = delivery.last.unwrap();
        assert_eq!((last.number, last.status, last.error.as_deref(), last.latency_us), (tries, Some(500), Some("no answer"), 20_000));
        assert!(b.due(9, 4, &[]).await.is_empty(), "not due yet");
        b.advance(MINUTE + Duration::from_secs(1));
        claimed = b.due(9, 4, &[]).await.pop().unwrap();
    }
    let _written = b.store.record_attempt(&claimed.lease, &attempt(Then::End(DeliveryState::Failed))).await.unwrap();
    b.advance(MINUTE * 1000);
    assert!(b.due(9, 4, &[]).await.is_empty(), "the end is the end");
}

async fn a_replay_is_due_at_once_under_the_same_id_and_has_the_whole_schedule_before_it(b: Bench) {
    let claimed = b.claimed().await;
    let id = &claimed.delivery.id;
    let in_flight = b.store.replay_delivery(id).await.unwrap().unwrap();
    assert_eq!(in_flight.state, DeliveryState::Pending);
    let written = b.store.record_attempt(&claimed.lease, &attempt(Then::End(DeliveryState::Failed))).await.unwrap();
    assert_eq!(written, Written::Fenced, "the attempt that was in flight does not end the replay");
    let again = b.due(9, 4, &[]).await.pop().expect("due at once");
    let _written = b.store.record_attempt(&again.lease, &attempt(Then::End(DeliveryState::Failed))).await.unwrap();
    let replayed = b.store.replay_delivery(id).await.unwrap().unwrap();
    assert_eq!((replayed.state, replayed.tries, replayed.attempts), (DeliveryState::Pending, 0, 2));
    assert_eq!((replayed.message_id, replayed.finished_at), (claimed.delivery.message_id, None));
    assert_eq!(b.due(9, 4, &[]).await.len(), 1);
    assert!(b.store.replay_delivery(&DeliveryId::generate()).await.unwrap().is_none());
}

async fn receivers_share_a_claim_and_a_full_one_is_passed_over(b: Bench) {
    b.deliveries_to(&["a.example", "b.example"], 6).await;
    let hosts = |claimed: &[ClaimedDelivery]| {
        let mut hosts: Vec<String> = claimed.iter().map(|c| c.delivery.endpoint.clone().unwrap()).collect();
        hosts.sort();
        hosts.join(" ")
    };
    assert_eq!(hosts(&b.due(100, 2, &[("a.example", 2)]).await), "b.example b.example", "no place is free at a");
    assert_eq!(hosts(&b.due(100, 2, &[("a.example", 1), ("b.example", 2)]).await), "a.example", "one place is free at a");
    assert_eq!(hosts(&b.due(3, 2, &[]).await), "a.example a.example b.example", "the limit holds over all");
    assert_eq!(b.due(0, 2, &[]).await.len(), 0);
}

async fn deliveries_are_listed_by_job_and_state_newest_first(b: Bench) {
    b.deliveries_to(&["a.example", "b.example"], 2).await;
    let list = |filter: DeliveryFilter| {
        let store = b.store.clone();
        async move { store.deliveries(&filter).await.unwrap() }
    };
    let all = list(DeliveryFilter { limit: 10, ..DeliveryFilter::default() }).await;
    assert_eq!(all.len(), 4);
    assert!(all.windows(2).all(|w| w[0].id > w[1].id));
    let older = list(DeliveryFilter { before: Some(all[1].id.clone()), limit: 10, ..DeliveryFilter::default() }).await;
    assert_eq!(older, all[2..]);
    let of_job = list(DeliveryFilter { job: Some(all[0].job.clone()), limit: 10, ..DeliveryFilter::default() }).await;
    assert_eq!(of_job, all[..2]);
    let claimed = b.due(1, 1, &[]).await.pop().unwrap();
    let _written = b.store.record_attempt(&claimed.lease, &attempt(Then::End(DeliveryState::Gone))).await.unwrap();
    let gone = list(DeliveryFilter { state: Some(DeliveryState::Gone), limit: 10, ..DeliveryFilter::default() }).await;
    assert_eq!(gone.iter().map(|d| &d.id).collect::<Vec<_>>(), [&claimed.delivery.id]);
    assert!(gone[0].last.is_some());
}

#[tokio::test]
async fn after_a_crash_what_was_in_flight_is_due_at_once() {
    let b = Bench::sqlite().await;
    let first = b.claimed().await;
    b.store.release_all().await.unwrap();
    assert_eq!(b.due(9, 4, &[]).await.pop().unwrap().lease.epoch, first.lease.epoch + 1);
}

on_both_databases! {
    a_job_tells_once_that_it_started_and_once_how_it_ended,
    every_way_to_end_is_told_with_its_reason,
    an_event_is_fanned_out_once,
    a_delivery_is_claimed_by_one_until_its_lease_runs_out,
    a_failed_attempt_comes_back_when_it_is_due_and_the_schedule_counts_on,
    a_replay_is_due_at_once_under_the_same_id_and_has_the_whole_schedule_before_it,
    receivers_share_a_claim_and_a_full_one_is_passed_over,
    deliveries_are_listed_by_job_and_state_newest_first,
}
