//! What becomes of jobs, read from the database once for all streams of this process.
//!
//! In: a ring, or a second that is over. Out: [`News`] to every open stream, state changes in their order and each once, progress at most
//! once a second a job. With no stream open the database is asked nothing.
//!
//! Whoever subscribes gets all changes after some number; what lies before it he reads himself. A stream that is too slow for the
//! channel is told how much it missed and reads that from the database too, so that no client can hold up the others.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex as SyncMutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, broadcast},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    db::{self, Followed, Store},
    domain::{Counts, JobId, Progress, StateChange},
};

/// News that a slow stream may be behind before it has to read the database.
const BEHIND: usize = 1024;
/// Changes read at once.
const PAGE: u32 = 500;
/// Jobs whose progress is asked for in one query; of those that nobody follows by name the newest so many are told of.
const JOBS: usize = 500;
/// How often to look when nothing rings, and how often progress is told.
const LOOK: Duration = Duration::from_secs(1);
/// Heartbeats that a client may leave untaken.
const UNTAKEN_HEARTBEATS: u32 = 4;
/// Looks are at least this far apart: what rings together is looked at once.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// How streams are kept.
#[derive(Debug, Clone, Copy)]
pub struct FeedOptions {
    /// Most streams at once.
    pub most: usize,
    /// How often a stream on which nothing happens says that it lives.
    pub heartbeat: Duration,
    /// How long a stream goes on. A client that never reads is not told apart from one that does while the kernel of its machine still takes
    /// what comes; whoever is there comes back and misses nothing.
    pub longest: Duration,
}

impl Default for FeedOptions {
    fn default() -> Self {
        Self { most: 1000, heartbeat: Duration::from_secs(15), longest: Duration::from_secs(3600) }
    }
}

impl FeedOptions {
    /// How long a client may take nothing of what it is sent.
    pub fn patience(&self) -> Duration {
        self.heartbeat.saturating_mul(UNTAKEN_HEARTBEATS)
    }
}

/// What a stream hears.
#[derive(Debug)]
pub(super) enum News {
    /// A job came to a state.
    State(StateChange),
    /// A job is further than it was.
    Progress(Progress),
}

/// The source of all streams of a process; cheap to clone.
#[derive(Debug, Clone)]
pub struct Feed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    wake: Arc<Notify>,
    options: FeedOptions,
    news: broadcast::Sender<Arc<News>>,
    /// The last change that was told; none while nobody listens.
    told: Mutex<Option<i64>>,
    /// Rung when somebody begins to listen.
    opened: Notify,
    /// How many streams follow which job.
    jobs: SyncMutex<BTreeMap<JobId, usize>>,
    /// How many follow all.
    everything: AtomicUsize,
    places: Arc<Semaphore>,
    closed: CancellationToken,
}

/// One stream's end of the feed, and its place among the streams.
#[derive(Debug)]
pub(super) struct Subscription {
    feed: Feed,
    job: Option<JobId>,
    /// What happens from now on.
    pub(super) news: broadcast::Receiver<Arc<News>>,
    /// When it ends, to be resumed.
    pub(super) until: Instant,
    _place: OwnedSemaphorePermit,
}

impl Feed {
    /// Nobody listens yet; [`Feed::run`] has to be running for anybody to hear something.
    pub fn new(store: Arc<dyn Store>, wake: Arc<Notify>, options: FeedOptions) -> Self {
        Self(Arc::new(Inner {
            store,
            wake,
            options,
            news: broadcast::channel(BEHIND).0,
            told: Mutex::default(),
            opened: Notify::new(),
            jobs: SyncMutex::default(),
            everything: AtomicUsize::new(0),
            places: Arc::new(Semaphore::new(options.most)),
            closed: CancellationToken::new(),
        }))
    }

    pub(super) fn options(&self) -> FeedOptions {
        self.0.options
    }

    /// Cancelled when streams are to end.
    pub(super) fn closed(&self) -> &CancellationToken {
        &self.0.closed
    }

    /// Streams that are open.
    pub(super) fn open(&self) -> usize {
        self.0.options.most.saturating_sub(self.0.places.available_permits())
    }

    /// A place among the streams; `None` when there is none left.
    pub(super) fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.0.places.clone().try_acquire_owned().ok()
    }

    /// Listens to what becomes of a job, or of all. Every change that is not in the database yet when this returns will be heard.
    pub(super) async fn subscribe(&self, job: Option<JobId>, place: OwnedSemaphorePermit) -> db::Result<Subscription> {
        let inner = &self.0;
        let mut told = inner.told.lock().await;
        if told.is_none() {
            *told = Some(inner.store.last_change().await?);
        }
        let news = inner.news.subscribe();
        drop(told);
        match &job {
            Some(job) => *self.jobs().entry(job.clone()).or_default() += 1,
            None => drop(inner.everything.fetch_add(1, Ordering::Relaxed)),
        }
        inner.opened.notify_one();
        Ok(Subscription { feed: self.clone(), job, news, until: Instant::now() + inner.options.longest, _place: place })
    }

    fn jobs(&self) -> std::sync::MutexGuard<'_, BTreeMap<JobId, usize>> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads and tells until told to stop; then every stream ends.
    pub async fn run(self, stop: CancellationToken) {
        let inner = &*self.0;
        let mut shown = BTreeMap::new();
        let mut progress_at = Instant::now();
        while !stop.is_cancelled() {
            if self.nobody_listens().await {
                shown.clear();
                tokio::select! {
                    () = inner.opened.notified() => {}
                    () = stop.cancelled() => {}
                }
                continue;
            }
            // Subscribed before looking.
            let rung = inner.wake.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            if let Err(error) = self.tell_changes().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot read what became of jobs");
            }
            if progress_at <= Instant::now() {
                progress_at = Instant::now() + LOOK;
                match self.progress().await {
                    Ok(found) => shown = self.tell_progress(found, &shown),
                    Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot read how far jobs are"),
                }
            }
            let pause = tokio::time::sleep(DEBOUNCE);
            tokio::select! {
                () = &mut rung => pause.await,
                () = tokio::time::sleep_until(progress_at) => {}
                () = stop.cancelled() => {}
            }
        }
        inner.closed.cancel();
    }

    /// Whether there is no stream; then it is forgotten how far was told, as the next one sets it anew.
    async fn nobody_listens(&self) -> bool {
        let mut told = self.0.told.lock().await;
        let nobody = self.0.news.receiver_count() == 0;
        if nobody {
            *told = None;
        }
        nobody
    }

    async fn tell_changes(&self) -> db::Result<()> {
        loop {
            // Nobody else moves it while somebody listens.
            let Some(after) = *self.0.told.lock().await else { return Ok(()) };
            let changes = self.0.store.changes(None, after, PAGE).await?;
            let (Some(last), more) = (changes.last().map(|change| change.seq), changes.len() == PAGE as usize) else { return Ok(()) };
            for change in changes {
                // An error says that nobody listens any more.
                let _heard_by = self.0.news.send(Arc::new(News::State(change)));
            }
            *self.0.told.lock().await = Some(last);
            if !more {
                return Ok(());
            }
        }
    }

    /// How far the jobs are that somebody follows.
    async fn progress(&self) -> db::Result<Vec<Progress>> {
        let mut found = Vec::new();
        let everything = self.0.everything.load(Ordering::Relaxed) > 0;
        if everything {
            found = self.0.store.progress(&Followed::Running(JOBS as u32)).await?;
        }
        let by_name: Vec<JobId> = self.jobs().keys().cloned().collect();
        for jobs in by_name.chunks(JOBS) {
            found.extend(self.0.store.progress(&Followed::Jobs(jobs.to_vec())).await?);
        }
        Ok(found)
    }

    /// Tells of those that are further than was said last; returns what is said now.
    fn tell_progress(&self, found: Vec<Progress>, shown: &BTreeMap<JobId, Counts>) -> BTreeMap<JobId, Counts> {
        let mut now = BTreeMap::new();
        for progress in found {
            let known = now.insert(progress.job.clone(), progress.counts);
            if known.is_none() && shown.get(&progress.job) != Some(&progress.counts) {
                let _heard_by = self.0.news.send(Arc::new(News::Progress(progress)));
            }
        }
        now
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let Some(job) = &self.job else {
            self.feed.0.everything.fetch_sub(1, Ordering::Relaxed);
            return;
        };
        let mut jobs = self.feed.jobs();
        if let Some(count) = jobs.get_mut(job) {
            *count -= 1;
            if *count == 0 {
                jobs.remove(job);
            }
        }
    }
}
