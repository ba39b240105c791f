//! Ends jobs: manifest, clean-up, marker, final state. Every step can be repeated after a crash.

use std::{collections::HashSet, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, field::Empty};

use super::{
    earlier::{self, Found},
    manifest::Manifest,
};
use crate::{
    db::{self, JobLease, Store, Written},
    domain::{
        ChunkState, Compared, Drift, Job, JobState, PartNames, Problem, Summary, Uri,
        job::Ending,
        names::{self, MANIFEST, SUCCESS},
        spec::IfExists,
    },
    objects::{self, Bucket, Stores},
    tables::{self, Connections, Kept},
    telemetry::{Metrics, traces},
};

/// Chunks read at a time.
const PAGE: u32 = 1000;

/// Jobs finalised at once.
const JOBS: usize = 4;
/// How long a job is left alone that could not be finalised.
const PAUSE: Duration = Duration::from_secs(1);
/// The same where its table was the reason: a database that does not answer takes seconds to say so.
const TABLE_PAUSE: Duration = Duration::from_secs(20);

/// Objects copied or deleted side by side.
const SIDE_BY_SIDE: usize = 16;

/// Finalises jobs.
#[derive(Debug)]
pub struct Finalizer {
    /// Holds the jobs.
    pub store: Arc<dyn Store>,
    /// Reaches the outputs.
    pub stores: Stores,
    /// Reaches the tables.
    pub connections: Connections,
    /// This process's name in leases.
    pub worker: String,
    /// Rung when a job's last chunk may be done.
    pub wake: Arc<Notify>,
    /// Counts jobs that ended.
    pub metrics: Metrics,
    /// How long a finaliser may be silent before another takes over.
    pub lease_ttl: Duration,
    /// How often to look for work when nobody says that there is some.
    pub poll: Duration,
}

/// A prefix that the job wrote to.
struct Target {
    uri: Uri,
    manifest: Manifest,
    /// Parts and error rows that committed chunks name, by their final names.
    named: HashSet<String>,
    /// Parts that are to get those.
    copies: Vec<Copy>,
}

impl Target {
    fn to(uri: &Uri, manifest: Manifest) -> Self {
        Self { uri: uri.clone(), manifest, named: HashSet::new(), copies: Vec::new() }
    }
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("another node took the job over")]
    Fenced,
    #[error(transparent)]
    Database(#[from] db::Error),
    #[error(transparent)]
    Objects(#[from] objects::Error),
    #[error(transparent)]
    Table(#[from] tables::Error),
    #[error("the manifest cannot be written")]
    Manifest(#[from] serde_json::Error),
}

/// A committed part that is to have the name of its input.
struct Copy {
    part: String,
    name: String,
    sha256: String,
    bytes: u64,
}

impl Finalizer {
    /// Finalises until told to stop: several jobs side by side, so that one with millions of objects holds up no other.
    pub async fn run(self, stop: CancellationToken) {
        let finalizer = Arc::new(self);
        let mut ending = JoinSet::new();
        while !stop.is_cancelled() {
            let rung = finalizer.wake.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            if let Err(error) = finalizer.store.expire_jobs().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for jobs past their deadline");
            }
            if ending.len() < JOBS
                && let Some((lease, job)) = finalizer.claim().await
            {
                let span = tracing::info_span!(target: traces::TARGET, "finalize job", job.id = %job.id, state = Empty);
                traces::adopt(&span, job.trace.as_ref());
                let finalizer = finalizer.clone();
                ending.spawn(async move { finalizer.finalize(&lease, &job).await }.instrument(span));
                continue;
            }
            tokio::select! {
                () = &mut rung => {}
                // A panic is a fault of this room, which ends with it.
                Some(ended) = ending.join_next() => ended.expect("finalising does not panic"),
                () = db::pause(&*finalizer.store, finalizer.poll) => {}
                () = stop.cancelled() => {}
            }
        }
        ending.join_all().await;
    }

    async fn claim(&self) -> Option<(JobLease, Job)> {
        self.store.claim_finalizing(&self.worker, self.lease_ttl).await.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for jobs to finalise");
            None
        })
    }

    async fn finalize(&self, lease: &JobLease, job: &Job) {
        let ending = match (job.state, job.ending) {
            (JobState::Cancelling, _) => Ending::Cancelled,
            (_, Some(ending)) => ending,
            (_, None) => Ending::Failed,
        };
        let written = self.write(&self.stores.budgeted(), lease, job, ending).await;
        let written = match written {
            Ok(()) if ending == Ending::Completed => self.compare(lease, job).await,
            other => other,
        };
        let finished = match written {
            Ok(()) => self.finish(lease, ending, None).await.map(|()| ending),
            // The output cannot be written to, and no retry will change that: the job ends all the same, and says so.
            Err(Error::Objects(error)) if !error.retryable() => {
                let problem = Problem::new(error.code(), "The output cannot be written", error.to_string());
                let ending = if ending == Ending::Completed { Ending::Failed } else { ending };
                self.finish(lease, ending, Some(problem)).await.map(|()| ending)
            }
            Err(Error::Table(error)) if !error.is_absence() => {
                let problem = Problem::new(error.code(), "The table cannot be settled", error.to_string());
                self.finish(lease, ending, Some(problem)).await.map(|()| ending)
            }
            Err(error) => Err(error),
        };
        match finished {
            Ok(ending) => {
                self.metrics.job_finished(ending);
                tracing::Span::current().record("state", ending.name());
                tracing::info!(job.id = %job.id, state = ending.name(), "{} is {}", job.id, ending.name());
            }
            Err(Error::Fenced) => tracing::debug!(job.id = %job.id, "{} is finalised elsewhere", job.id),
            Err(error) => {
                tracing::warn!(job.id = %job.id, error = &error as &dyn std::error::Error, "finalising {} will be tried again", job.id);
                // Not given back at once: the oldest job would be taken up again before any other, for as long as its trouble lasts.
                let pause = if matches!(error, Error::Table(_)) { TABLE_PAUSE } else { PAUSE };
                if let Err(error) = self.store.renew_job(lease, pause).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "{} is free when its lease runs out", job.id);
                }
            }
        }
    }

    /// Says how far a completed job is from an earlier one, where that was asked for. An earlier job that is gone is no reason to end
    /// otherwise.
    async fn compare(&self, lease: &JobLease, job: &Job) -> Result<(), Error> {
        let Some(drift) = &job.spec.drift else { return Ok(()) };
        let earlier = match &drift.against {
            Some(against) => self.store.job(against).await,
            None => self.store.earlier_run(job).await,
        };
        let earlier = earlier.or_else(|error| match error {
            // Another job's damage must not keep this one from its end.
            db::Error::Damaged { .. } => {
                tracing::warn!(job.id = %job.id, error = &error as &dyn std::error::Error, "{} cannot be compared", job.id);
                Ok(None)
            }
            error => Err(error),
        })?;
        let compared = earlier.and_then(|earlier| {
            let drift_of = Drift::between(&earlier.summary, &job.summary)?;
            Some(Compared { against: earlier.id, threshold: drift.threshold, drift: drift_of })
        });
        if let Some(compared) = &compared {
            let largest = compared.drift.largest();
            tracing::info!(job.id = %job.id, against = %compared.against, largest, "{} was compared with {}", job.id, compared.against);
        }
        match self.store.keep_drift(lease, compared.as_ref()).await? {
            Written::Done => Ok(()),
            Written::Fenced => Err(Error::Fenced),
        }
    }

    async fn finish(&self, lease: &JobLease, ending: Ending, problem: Option<Problem>) -> Result<(), Error> {
        let written = self.store.finish_job(lease, ending, problem.as_ref()).await?;
        self.wake.notify_waiters();
        match written {
            Written::Done => Ok(()),
            Written::Fenced => Err(Error::Fenced),
        }
    }

    /// An earlier job's output goes, outputs get their final names, then manifest, clean-up, marker. A job that failed before it wrote
    /// anything leaves nothing, so that its prefix can be used again, and an earlier output as it was. Of a job that was retried, what it
    /// wrote when it ended before is good until the new manifest stands; a marker that is not true any more goes first. A review queue is
    /// settled like the output and before it; the output's own marker is the last of all.
    async fn write(&self, stores: &Stores, lease: &JobLease, job: &Job, ending: Ending) -> Result<(), Error> {
        let output = &job.spec.output;
        let mut own = Target::to(&output.uri, Manifest::new(job));
        let mut review = output.review.as_ref().map(|review| Target::to(&review.uri, Manifest::of_review(job, review)));
        let mut summary = Summary::default();
        let mut kept = Kept::default();
        let mut from = 0;
        loop {
            let page = self.store.chunks(&job.id, from, PAGE).await?;
            for chunk in &page {
                match chunk.state {
                    ChunkState::Done => {}
                    // One that was never claimed has written nothing.
                    _ if chunk.epoch > 0 => kept.others.push((chunk.id.seq as i64, chunk.epoch)),
                    _ => {}
                }
            }
            for chunk in page.iter().filter(|c| c.state == ChunkState::Done) {
                own.manifest.push(&job.spec, chunk);
                let Some(result) = &chunk.result else { continue };
                summary.merge(&result.summary);
                own.named.extend(result.errors.iter().map(|errors| errors.key.clone()));
                if let (Some(part), Some(name)) = (&result.part, names::final_part(&job.spec, chunk)) {
                    if name != part.key {
                        let (part, sha256, bytes) = (part.key.clone(), part.sha256.clone(), part.bytes);
                        own.copies.push(Copy { part, name: name.clone(), sha256, bytes });
                    }
                    own.named.insert(name);
                }
                if let Some(review) = &mut review {
                    review.manifest.push_flagged(&job.spec, chunk);
                    review.named.extend(result.review.iter().map(|f| f.key.clone()));
                }
            }
            let Some(last) = page.last().filter(|_| page.len() == PAGE as usize) else { break };
            from = last.id.seq + 1;
            self.renew(lease).await?;
        }
        let mut unsettled = None;
        // Of a chunk that is committed the last attempt has put the rows of the others away.
        if let Some(table) = output.table.as_ref().filter(|_| !kept.others.is_empty()) {
            let cleared = tables::clear(&self.connections, table, job.id.as_str(), &kept);
            match self.while_held(lease, cleared).await? {
                Err(error) if !error.is_absence() => unsettled = Some(error),
                other => other?,
            }
            self.renew(lease).await?;
        }
        own.manifest.summary = summary.report();
        let mut targets: Vec<Target> = review.into_iter().chain([own]).collect();
        for target in &mut targets {
            self.settle(stores, lease, job, ending, target).await?;
        }
        for target in targets.iter().filter(|_| ending == Ending::Completed) {
            let marker = format!("{}\n", job.id);
            stores.open(&target.uri)?.put(target.uri.join(SUCCESS).path(), Bytes::from(marker)).await?;
        }
        // What the bucket holds is whole, whatever became of the table.
        unsettled.map_or(Ok(()), |error| Err(error.into()))
    }

    /// All that comes before a prefix's marker.
    async fn settle(&self, stores: &Stores, lease: &JobLease, job: &Job, ending: Ending, target: &mut Target) -> Result<(), Error> {
        let Target { uri, manifest, named, copies } = target;
        let bucket = stores.open(uri)?;
        let found = earlier::read(&bucket, uri).await?;
        let nothing = ending != Ending::Completed && named.is_empty();
        // Nothing here is named by anybody but the committed chunks.
        let first = matches!(found, Found::Nothing) && copies.is_empty();
        match found {
            // Its own manifest: it was interrupted after it had put it, or it is tried again.
            Found::Manifest(own) if own.job == job.id => {
                copies.retain(|copy| {
                    !own.parts.iter().any(|part| part.key.as_ref() == Some(&copy.name) && part.sha256.as_ref() == Some(&copy.sha256))
                });
                if ending != Ending::Completed || !copies.is_empty() {
                    bucket.delete(uri.join(SUCCESS).path()).await?;
                }
                if nothing {
                    bucket.delete(uri.join(MANIFEST).path()).await?;
                }
            }
            Found::Manifest(earlier) if !nothing => self.replace(lease, job, &bucket, uri, &earlier).await?,
            Found::Manifest(_) | Found::Nothing | Found::Foreign => {}
        }
        if nothing {
            // Beside an earlier output only this job's own attempts are its to remove.
            let replaces = job.spec.output.if_exists == IfExists::Replace;
            let ours = |name: &str| if replaces { PartNames::is_part_of(name, &job.id) } else { PartNames::is_part(name) };
            return self.remove_unnamed(lease, &bucket, uri, ours).await;
        }
        self.copy(lease, &bucket, uri, copies).await?;
        let path = uri.join(MANIFEST);
        let put = bucket.put(path.path(), Bytes::from(manifest.to_json()));
        let remove = self.remove_unnamed(lease, &bucket, uri, |name| PartNames::is_part(name) && !named.contains(name));
        if first {
            // Whoever has lost the lease puts nothing any more.
            let put = async { Ok::<_, Error>(put.await?) };
            return tokio::try_join!(put, remove).map(|_| ());
        }
        put.await?;
        remove.await
    }

    /// Removes what an earlier job left below the prefix, its marker first.
    async fn replace(&self, lease: &JobLease, job: &Job, bucket: &Bucket, output: &Uri, earlier: &Manifest) -> Result<(), Error> {
        tracing::info!(job.id = %job.id, "{} takes the place of {} at {output}", job.id, earlier.job);
        bucket.delete(output.join(SUCCESS).path()).await?;
        let paths = earlier::named(earlier, output).into_iter().map(|name| output.join(&name).path().to_owned());
        let deletes = stream::iter(paths.collect::<Vec<_>>()).map(|path| {
            let bucket = bucket.clone();
            async move { bucket.delete(&path).await }
        });
        self.all_of(lease, deletes).await
    }

    /// Gives outputs their final names. The attempts' own names stay until the manifest is there, so that this can be repeated.
    async fn copy(&self, lease: &JobLease, bucket: &Bucket, output: &Uri, copies: &[Copy]) -> Result<(), Error> {
        let paths = copies.iter().map(|copy| (output.join(&copy.part), output.join(&copy.name), copy.bytes));
        let copied = stream::iter(paths.collect::<Vec<_>>()).map(|(part, name, bytes)| {
            let bucket = bucket.clone();
            async move { bucket.copy(part.path(), name.path(), bytes).await }
        });
        self.all_of(lease, copied).await
    }

    /// Waits for every request, some of them side by side, with the lease renewed in between.
    async fn all_of<R>(&self, lease: &JobLease, requests: impl Stream<Item = R> + Send) -> Result<(), Error>
    where
        R: Future<Output = objects::Result<()>> + Send,
    {
        let mut done = pin!(requests.buffer_unordered(SIDE_BY_SIDE).chunks(SIDE_BY_SIDE));
        while let Some(some) = done.next().await {
            some.into_iter().collect::<Result<(), _>>()?;
            self.renew(lease).await?;
        }
        Ok(())
    }

    /// Removes parts of attempts that were not committed, and those that were copied: all that `removed` says of their names.
    async fn remove_unnamed(
        &self,
        lease: &JobLease,
        bucket: &Bucket,
        output: &Uri,
        removed: impl Fn(&str) -> bool + Send + Sync,
    ) -> Result<(), Error> {
        let prefix = output.as_prefix();
        let (errors, removed) = (prefix.join("errors/"), &removed);
        let listed = self.remove_listed(lease, bucket, &prefix, removed);
        // Side by side: each is a round trip, and the job's end waits for all of them.
        let unfinished = async |folder: &Uri| Ok::<_, Error>(bucket.remove_unfinished(folder.path(), removed).await?);
        tokio::try_join!(unfinished(&prefix), unfinished(&errors), listed).map(|_| ())
    }

    async fn remove_listed(
        &self,
        lease: &JobLease,
        bucket: &Bucket,
        prefix: &Uri,
        removed: &(impl Fn(&str) -> bool + Send + Sync),
    ) -> Result<(), Error> {
        let mut objects = bucket.list(prefix.path(), None);
        let mut listed = 0u64;
        while let Some(object) = objects.try_next().await? {
            listed += 1;
            if listed.is_multiple_of(1000) {
                self.renew(lease).await?;
            }
            let name = object.key.strip_prefix(prefix.path()).unwrap_or_default();
            if removed(name) {
                tracing::debug!("removing {}, which no committed chunk names", bucket.uri(&object.key));
                bucket.delete(&object.key).await?;
            }
        }
        Ok(())
    }

    /// Does what may take longer than a lease lasts, and gives it up when the lease is lost.
    async fn while_held<T>(&self, lease: &JobLease, work: impl Future<Output = T>) -> Result<T, Error> {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(self.lease_ttl / 3, &mut work).await {
                Ok(done) => return Ok(done),
                Err(_) => self.renew(lease).await?,
            }
        }
    }

    async fn renew(&self, lease: &JobLease) -> Result<(), Error> {
        match self.store.renew_job(lease, self.lease_ttl).await? {
            Written::Done => Ok(()),
            Written::Fenced => Err(Error::Fenced),
        }
    }
}
