//! `/v1/events`, `/v1/jobs/{id}/events`: what becomes of jobs, as Server-Sent Events.
//!
//! A `state` event is durable and has a number, by which a stream is resumed without a gap. A `progress` event is what a job's counts are
//! at the moment, at most once a second; it has no number, as the next one says all that it said.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures::stream;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    ApiState, examples,
    feed::{Feed, News, Subscription},
    jobs::find,
    problem::ApiProblem,
    query::Query,
    request::PathOf,
    types::CountsBody,
};
use crate::{
    db::{self, Followed, Store},
    domain::{Fault, Job, JobId, JobState, Progress, StateChange, Timestamp, delivery::JobSnapshot},
};

/// Changes read at once.
const PAGE: u32 = 200;
/// Before the database is asked again that did not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// Says where to go on.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Data of an event `state`: a job came to a state.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StateEvent)]
pub(super) struct StateBody<'c> {
    /// The job.
    #[schema(example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071")]
    id: &'c str,
    /// For people; as given.
    name: Option<&'c str>,
    /// For people and filters; as given.
    labels: &'c BTreeMap<String, String>,
    /// The state that it came to.
    #[schema(example = "in_progress")]
    state: &'static str,
    /// When; RFC 3339, UTC.
    at: String,
    /// How much there was and how much was done.
    counts: CountsBody,
    /// Share of the chunks that were done, 0 to 1.
    #[schema(example = 0.25)]
    progress: f64,
    /// Why it failed.
    error: Option<ReasonBody<'c>>,
    /// RFC 3339, UTC.
    created_at: String,
    /// RFC 3339, UTC.
    started_at: Option<String>,
    /// RFC 3339, UTC; set in final states only.
    finished_at: Option<String>,
}

/// Why a job failed, without what may quote its data.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Reason)]
struct ReasonBody<'c> {
    /// Names the kind of problem; stable.
    #[serde(rename = "type")]
    kind: String,
    /// The same sentence for every problem of this type.
    title: &'c str,
}

/// Data of an event `progress`: how far a job is.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProgressEvent)]
pub(super) struct ProgressBody<'p> {
    /// The job.
    #[schema(example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071")]
    id: &'p str,
    /// How much there is and how much is done.
    counts: CountsBody,
    /// Share of the chunks that are done, 0 to 1.
    #[schema(example = 0.25)]
    progress: f64,
    /// Seconds to go, once planning is over and something is done.
    eta_seconds: Option<f64>,
    /// From the first claim to now, without the time in which it was paused or had ended before a retry.
    wall_seconds: f64,
    /// Records with an outcome, by wall time.
    records_per_second: Option<f64>,
}

impl<'c> StateBody<'c> {
    pub(super) fn new(job: &'c JobSnapshot, at: Timestamp) -> Self {
        Self {
            id: job.id.as_str(),
            name: job.name.as_deref(),
            labels: &job.labels,
            state: job.state.name(),
            at: at.to_string(),
            // Of the last chunk nothing is known until the state says so.
            counts: CountsBody::new(&job.counts, job.state == JobState::Completed),
            progress: job.counts.share_done(job.state),
            error: job.error.as_ref().map(|(code, title)| ReasonBody { kind: ApiProblem::type_of(code), title }),
            created_at: job.created_at.to_string(),
            started_at: job.started_at.map(|t| t.to_string()),
            finished_at: job.finished_at.map(|t| t.to_string()),
        }
    }
}

impl<'p> ProgressBody<'p> {
    pub(super) fn new(progress: &'p Progress, now: Timestamp) -> Self {
        Self {
            id: progress.job.as_str(),
            counts: CountsBody::new(&progress.counts, progress.planned),
            progress: progress.share(),
            eta_seconds: progress.eta_seconds(now),
            wall_seconds: progress.wall_seconds(now),
            records_per_second: progress.records_per_second(now),
        }
    }
}

/// Follow a job
///
/// A stream of [Server-Sent Events](https://html.spec.whatwg.org/multipage/server-sent-events.html), which begins with every state that the
/// job came to and ends when the job has ended. `state`: the job came to a state; its `id` is a number. `progress`: how far it is, at
/// most once a second; it has no `id`. Lines that begin with a colon only say that the connection lives.
///
/// A stream that broke is resumed with the last `id` in the header `Last-Event-ID`, as browsers do by themselves: what happened since
/// comes first, and no change of state is missed. An id that this service never gave begins at the beginning. When there is nothing left
/// to tell of a job that has ended, the answer is `204`, after which a browser does not ask again. A stream also ends, and can be
/// resumed, after an hour, when its client takes nothing of it for some time, and when the service stops.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/events", tag = "jobs",
    params(
        ("id" = String, Path, description = "The job", example = "job_019ac2f7b0f47e0f8a1b2c3d4e5f6071"),
        ("Last-Event-ID" = Option<i64>, Header, description = "Go on after this event", example = 41),
    ),
    responses(
        (status = 200, description = "Events, with a `StateEvent` or a `ProgressEvent` as JSON in `data`", body = String, content_type = "text/event-stream", example = json!(examples::events())),
        (status = 204, description = "The job has ended, and this client knows it"),
        (status = 404, description = "No such job", body = ApiProblem, content_type = "application/problem+json"),
        (status = 422, description = "`Last-Event-ID` is no number", body = ApiProblem, content_type = "application/problem+json"),
        (status = 503, description = "Too many streams are open, or the database did not answer; `Retry-After` says when to try again", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn of_job(
    State(state): State<ApiState>,
    PathOf(id): PathOf<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, ApiProblem> {
    query.only(&[])?;
    let asked = last_event_id(&headers)?;
    let job = find(&state, &id).await?;
    let mut follower = Follower::new(&state, Scope::Job(job.id.clone()), asked.unwrap_or_default()).await?;
    follower.catch_up().await?;
    // Nothing is said of it, or nothing more: a job from before changes were kept is told as it is.
    if follower.ready.is_empty() {
        match asked {
            Some(_) if job.state.is_final() => return Ok(StatusCode::NO_CONTENT.into_response()),
            Some(_) => {}
            None => follower.begin_with(&job),
        }
    }
    Ok(answer(&state.feed, follower))
}

/// Follow all jobs
///
/// The same stream for all jobs that fit the filter, from now on, or after `Last-Event-ID`. It does not end with a job.
#[utoipa::path(
    get, path = "/v1/events", tag = "jobs",
    params(
        ("state" = Option<String>, Query, description = "Only what is told of jobs in this state", example = "completed"),
        ("label.{key}" = Option<String>, Query, description = "Only jobs with this label; may be given for several keys", example = "risk"),
        ("Last-Event-ID" = Option<i64>, Header, description = "Go on after this event; 0 is before all", example = 41),
    ),
    responses(
        (status = 200, description = "Events, with a `StateEvent` or a `ProgressEvent` as JSON in `data`", body = String, content_type = "text/event-stream", example = json!(examples::events())),
        (status = 422, description = "A parameter is wrong", body = ApiProblem, content_type = "application/problem+json"),
        (status = 503, description = "Too many streams are open, or the database did not answer; `Retry-After` says when to try again", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn of_all(State(state): State<ApiState>, query: Query, headers: HeaderMap) -> Result<Response, ApiProblem> {
    query.only(&["state", "label."])?;
    let states = JobState::ALL.map(JobState::name).join(", ");
    let filter = Filter {
        state: query.parsed("state", &format!("one of {states}"), JobState::parse)?,
        labels: query.with_prefix("label.").collect(),
    };
    let asked = last_event_id(&headers)?;
    let mut follower = Follower::new(&state, Scope::All(filter), asked.unwrap_or(i64::MAX)).await?;
    follower.catch_up().await?;
    Ok(answer(&state.feed, follower))
}

/// The number in `Last-Event-ID`, if there is one.
fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, ApiProblem> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    match text.parse::<i64>() {
        Ok(number) if number >= 0 => Ok(Some(number)),
        _ => Err(ApiProblem::faults(vec![
            Fault::new("Last-Event-ID", "unknown_value", format!("{value:?} is no event's id"))
                .hint("give the id of the last event as it came, or leave the header out"),
        ])),
    }
}

fn answer(feed: &Feed, follower: Follower) -> Response {
    let events = stream::unfold(follower, |mut follower| async move { Some((Ok::<_, Infallible>(follower.next().await?), follower)) });
    let alive = KeepAlive::new().interval(feed.options().heartbeat).text("alive");
    let mut response = Sse::new(events).keep_alive(alive).into_response();
    // nginx gathers what it passes on, unless it is told not to.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// Whom a stream tells of.
enum Scope {
    Job(JobId),
    All(Filter),
}

struct Filter {
    state: Option<JobState>,
    labels: BTreeMap<String, String>,
}

impl Scope {
    fn job(&self) -> Option<&JobId> {
        match self {
            Self::Job(job) => Some(job),
            Self::All(_) => None,
        }
    }

    fn fits(&self, job: &JobId, state: JobState, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Job(own) => own == job,
            Self::All(filter) => {
                filter.state.is_none_or(|wanted| wanted == state) && filter.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            }
        }
    }
}

/// One stream: first what is in the database, then what the feed tells.
struct Follower {
    store: Arc<dyn Store>,
    subscription: Subscription,
    scope: Scope,
    /// The last change that this stream has looked at.
    after: i64,
    /// Whether there may be changes in the database that it has not looked at and the feed will not tell of.
    behind: bool,
    ready: VecDeque<sse::Event>,
    /// Nothing comes after what is ready.
    over: bool,
    /// When the service stops.
    closed: CancellationToken,
}

impl Follower {
    async fn new(state: &ApiState, scope: Scope, after: i64) -> Result<Self, ApiProblem> {
        let feed = &state.feed;
        let Some(place) = feed.place() else {
            let most = feed.options().most;
            return Err(ApiProblem::unavailable(format!("{most} streams of events are open (--max-streams); try again later")));
        };
        let subscription = feed.subscribe(scope.job().cloned(), place).await?;
        // A number above all that there are is of another database, or what it came after is gone: a job is told from its beginning, all
        // jobs from now on.
        let last = state.store.last_change().await?;
        let after = if after <= last { after } else { scope.job().map_or(last, |_| 0) };
        Ok(Self {
            store: state.store.clone(),
            subscription,
            scope,
            after,
            behind: true,
            ready: VecDeque::new(),
            over: false,
            closed: feed.closed().clone(),
        })
    }

    /// A job of which no change was kept, as it is.
    fn begin_with(&mut self, job: &Job) {
        let snapshot = JobSnapshot::of(job);
        self.ready.push_back(event("state", &StateBody::new(&snapshot, job.finished_at.unwrap_or(job.created_at))));
        self.over = job.state.is_final();
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over || self.closed.is_cancelled() {
                return None;
            }
            if !self.behind {
                self.hear().await;
            } else if let Err(error) = self.catch_up().await {
                tracing::debug!(error = &error as &dyn std::error::Error, "a stream waits for the database");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Reads a page of what is in the database. Once there is no more of it, says how far the job is now.
    async fn catch_up(&mut self) -> db::Result<()> {
        let changes = self.store.changes(self.scope.job(), self.after, PAGE).await?;
        let more = changes.len() == PAGE as usize;
        let last = changes.last().map(|change| change.job.state);
        for change in &changes {
            self.take(change);
        }
        if more {
            return Ok(());
        }
        self.behind = false;
        let Some(job) = self.scope.job() else { return Ok(()) };
        if last.is_some_and(JobState::is_final) {
            self.over = true;
            return Ok(());
        }
        match self.store.progress(&Followed::Jobs(vec![job.clone()])).await?.first() {
            Some(progress) if !progress.state.is_final() => {
                self.ready.push_back(event("progress", &ProgressBody::new(progress, Timestamp::now())));
            }
            // It has ended, or is gone: what was told of that lies in the page before, or has come since this one was read.
            _ => {
                let rest = self.store.changes(self.scope.job(), self.after, PAGE).await?;
                for change in &rest {
                    self.take(change);
                }
                self.over = true;
            }
        }
        Ok(())
    }

    /// Waits for news.
    async fn hear(&mut self) {
        let news = tokio::select! {
            news = self.subscription.news.recv() => news,
            () = self.closed.cancelled() => return,
            () = tokio::time::sleep_until(self.subscription.until) => {
                self.over = true;
                return;
            }
        };
        match news.as_deref() {
            Ok(News::State(change)) => {
                if change.seq > self.after && self.take(change) {
                    self.over = self.scope.job().is_some() && change.job.state.is_final();
                }
            }
            Ok(News::Progress(progress)) => {
                if self.scope.fits(&progress.job, progress.state, &progress.labels) {
                    self.ready.push_back(event("progress", &ProgressBody::new(progress, Timestamp::now())));
                }
            }
            Err(RecvError::Lagged(_)) => self.behind = true,
            Err(RecvError::Closed) => self.over = true,
        }
    }

    /// Looks at a change; whether it is one to tell.
    fn take(&mut self, change: &StateChange) -> bool {
        self.after = change.seq;
        let told = self.scope.fits(&change.job.id, change.job.state, &change.job.labels);
        if told {
            self.ready.push_back(event("state", &StateBody::new(&change.job, change.at)).id(change.seq.to_string()));
        }
        told
    }
}

fn event(kind: &str, data: &impl Serialize) -> sse::Event {
    // Texts, numbers and times: there is no body that is not JSON.
    sse::Event::default().event(kind).data(serde_json::to_string(data).unwrap_or_default())
}
