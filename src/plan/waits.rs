//! Looks for what jobs wait for: the object of `wait_for`, and the ends of other jobs.

use tokio_util::sync::CancellationToken;

use super::Planner;
use crate::{
    db::{self, JobLease, Written},
    domain::{Job, Problem},
    objects,
};

impl Planner {
    /// Lets go on, or cancels, the jobs whose parents have ended.
    pub(super) async fn settle_dependencies(&self) {
        match self.store.settle_dependencies().await {
            Ok(0) => {}
            Ok(_) => self.wake.notify_waiters(),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for jobs whose parents have ended"),
        }
    }

    pub(super) async fn claim_waiting(&self) -> Option<(JobLease, Job)> {
        self.store.claim_waiting(&self.worker, self.options.lease_ttl).await.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for jobs that wait for an object");
            None
        })
    }

    /// Looks once; a stop does not wait for a store.
    pub(super) async fn look(&self, lease: &JobLease, job: &Job, stop: &CancellationToken) {
        let Some(wait) = &job.spec.wait_for else { return };
        let id = &job.id;
        let look = async { self.stores.open(&wait.uri)?.head(wait.uri.path()).await };
        // While the lease is this look's: a store that says nothing would otherwise be asked by one look after the other, none of which
        // counts.
        let found = tokio::select! {
            found = tokio::time::timeout(self.options.lease_ttl / 2, look) => found,
            () = stop.cancelled() => return self.release(lease).await,
        };
        let Ok(found) = found else {
            tracing::debug!(job.id = %id, "no answer whether {} is there", wait.uri);
            return looked(id, self.store.wait_again(lease).await);
        };
        match found {
            Ok(_) => {
                tracing::info!(job.id = %id, "{} is there, and {id} begins", wait.uri);
                looked(id, self.store.wait_is_over(lease).await);
                self.wake.notify_waiters();
            }
            Err(objects::Error::NotFound { .. }) => looked(id, self.store.wait_again(lease).await),
            Err(error) if error.retryable() => {
                tracing::debug!(job.id = %id, %error, "cannot see whether {} is there", wait.uri);
                looked(id, self.store.wait_again(lease).await);
            }
            Err(error) => {
                self.fail(job, &Problem::new(error.code(), "What the job waits for cannot be looked for", error.to_string())).await
            }
        }
    }
}

/// Who was late has nothing to say; what was not written is looked at again when the lease has run out.
fn looked(id: &crate::domain::JobId, written: db::Result<Written>) {
    match written {
        Ok(Written::Done | Written::Fenced) => {}
        Err(error) => {
            tracing::warn!(job.id = %id, error = &error as &dyn std::error::Error, "what {id} waits for is looked at again later")
        }
    }
}
