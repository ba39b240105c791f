//! Ends jobs: manifest, clean-up, marker, final state. Every step can be repeated after a crash.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::TryStreamExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::manifest::Manifest;
use crate::{
    db::{self, JobLease, Store, Written},
    domain::{
        ChunkState, Job, JobState, PartNames, Problem, Summary, Uri,
        job::Ending,
        names::{MANIFEST, SUCCESS},
    },
    objects::{self, Bucket, Stores},
};

/// Chunks read at a time.
const PAGE: u32 = 1000;

/// Finalises jobs, one after the other.
#[derive(Debug)]
pub struct Finalizer {
    /// Holds the jobs.
    pub store: Arc<dyn Store>,
    /// Reaches the outputs.
    pub stores: Stores,
    /// This process's name in leases.
    pub worker: String,
    /// Rung when a job's last chunk may be done.
    pub wake: Arc<Notify>,
    /// How long a finaliser may be silent before another takes over.
    pub lease_ttl: Duration,
    /// How often to look for work when nobody says that there is some.
    pub poll: Duration,
}

/// A prefix that the job wrote to.
struct Target {
    uri: Uri,
    manifest: Manifest,
    /// Parts and error rows that committed chunks name.
    named: HashSet<String>,
}

impl Target {
    fn to(uri: &Uri, manifest: Manifest) -> Self {
        Self { uri: uri.clone(), manifest, named: HashSet::new() }
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
    #[error("the manifest cannot be written")]
    Manifest(#[from] serde_json::Error),
}

impl Finalizer {
    /// Finalises until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let rung = self.wake.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            if let Err(error) = self.store.expire_jobs().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for jobs past their deadline");
            }
            let wait = match self.store.claim_finalizing(&self.worker, self.lease_ttl).await {
                Ok(Some((lease, job))) => {
                    self.finalize(&lease, &job).await;
                    continue;
                }
                Ok(None) => self.poll,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for jobs to finalise");
                    Duration::from_secs(1)
                }
            };
            tokio::select! {
                () = &mut rung => {}
                () = tokio::time::sleep(wait) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    async fn finalize(&self, lease: &JobLease, job: &Job) {
        let ending = match (job.state, job.ending) {
            (JobState::Cancelling, _) => Ending::Cancelled,
            (_, Some(ending)) => ending,
            (_, None) => Ending::Failed,
        };
        let written = self.write(lease, job, ending).await;
        let finished = match written {
            Ok(()) => self.finish(lease, ending, None).await,
            // The output cannot be written to, and no retry will change that: the job ends all the same, and says so.
            Err(Error::Objects(error)) if !error.retryable() => {
                let problem = Problem::new(error.code(), "The output cannot be written", error.to_string());
                let ending = if ending == Ending::Completed { Ending::Failed } else { ending };
                self.finish(lease, ending, Some(problem)).await
            }
            Err(error) => Err(error),
        };
        match finished {
            Ok(()) => tracing::info!(job.id = %job.id, state = ending.name(), "{} is {}", job.id, ending.name()),
            Err(Error::Fenced) => tracing::debug!(job.id = %job.id, "{} is finalised elsewhere", job.id),
            Err(error) => {
                tracing::warn!(job.id = %job.id, error = &error as &dyn std::error::Error, "finalising {} will be tried again", job.id);
                tokio::time::sleep(Duration::from_secs(1)).await;
                if let Err(error) = self.store.release_job(lease).await {
                    tracing::debug!(error = &error as &dyn std::error::Error, "cannot release {}", job.id);
                }
            }
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

    /// Manifests, then clean-up, then markers, the output's own last of all. A job that failed before it wrote anything leaves nothing,
    /// so that its prefix can be used again.
    async fn write(&self, lease: &JobLease, job: &Job, ending: Ending) -> Result<(), Error> {
        let output = &job.spec.output;
        let mut own = Target::to(&output.uri, Manifest::new(job));
        let mut review = output.review.as_ref().map(|review| Target::to(&review.uri, Manifest::of_review(job, review)));
        let mut summary = Summary::default();
        let mut from = 0;
        loop {
            let page = self.store.chunks(&job.id, from, PAGE).await?;
            let Some(last) = page.last() else { break };
            from = last.id.seq + 1;
            for chunk in page.iter().filter(|c| c.state == ChunkState::Done) {
                own.manifest.push(chunk);
                let Some(result) = &chunk.result else { continue };
                own.named.extend(result.part.iter().chain(&result.errors).map(|f| f.key.clone()));
                summary.merge(&result.summary);
                if let Some(review) = &mut review {
                    review.manifest.push_flagged(chunk);
                    review.named.extend(result.review.iter().map(|f| f.key.clone()));
                }
            }
            self.renew(lease).await?;
        }
        own.manifest.summary = summary.report();
        let targets: Vec<Target> = review.into_iter().chain([own]).collect();
        for target in &targets {
            let bucket = self.stores.open(&target.uri)?;
            if ending == Ending::Completed || !target.named.is_empty() {
                bucket.put(target.uri.join(MANIFEST).path(), Bytes::from(target.manifest.to_json())).await?;
            }
            self.remove_unnamed(lease, &bucket, &target.uri, &target.named).await?;
        }
        for target in targets.iter().filter(|_| ending == Ending::Completed) {
            let marker = format!("{}\n", job.id);
            self.stores.open(&target.uri)?.put(target.uri.join(SUCCESS).path(), Bytes::from(marker)).await?;
        }
        Ok(())
    }

    /// Removes parts of attempts that were not committed.
    async fn remove_unnamed(&self, lease: &JobLease, bucket: &Bucket, output: &Uri, named: &HashSet<String>) -> Result<(), Error> {
        let prefix = output.as_prefix();
        for folder in ["", "errors/"] {
            bucket.remove_unfinished(prefix.join(folder).path(), PartNames::is_part).await?;
        }
        let mut objects = bucket.list(prefix.path(), None);
        let mut listed = 0u64;
        while let Some(object) = objects.try_next().await? {
            listed += 1;
            if listed.is_multiple_of(1000) {
                self.renew(lease).await?;
            }
            let name = object.key.strip_prefix(prefix.path()).unwrap_or_default();
            if PartNames::is_part(name) && !named.contains(name) {
                tracing::debug!("removing {}, which no committed chunk names", bucket.uri(&object.key));
                bucket.delete(&object.key).await?;
            }
        }
        Ok(())
    }

    async fn renew(&self, lease: &JobLease) -> Result<(), Error> {
        match self.store.renew_job(lease, self.lease_ttl).await? {
            Written::Done => Ok(()),
            Written::Fenced => Err(Error::Fenced),
        }
    }
}
