//! Makes jobs of schedules.
//!
//! In: schedules whose next fire has come, by the database's clock. Out: fires as rows, and through [`Accept`] a job for each that the
//! schedule's policies let through. Knows neither HTTP nor how a definition is read.
//!
//! The idea a reader could not guess: nothing here has to happen once. A fire is written in the transaction that moves its schedule past
//! it, and its job in the one that settles the fire, so that every node may do all of this at any moment, and die at any moment. The lease
//! on a fire, which is renewed while its job is accepted, keeps others from doing the same work meanwhile; no more hangs on it.

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    db::{self, ClaimedRun, RunLease, Store, Unmade, Written},
    domain::{JobId, Problem, Run, RunState, Schedule, Timestamp, schedule::Kept},
    telemetry::traces,
};

/// Schedules whose fires are opened before anything else is done.
const DUE_AT_ONCE: u32 = 100;
/// Jobs made side by side: one whose model is large holds up no other schedule.
const SIDE_BY_SIDE: usize = 4;
/// The first delay after a store or the database did not answer; it doubles up to [`LONGEST_DELAY`].
const FIRST_DELAY: Duration = Duration::from_secs(5);
const LONGEST_DELAY: Duration = Duration::from_secs(300);
/// After so many attempts, which take about half an hour, the fire fails.
const MOST_ATTEMPTS: u32 = 12;

/// Makes the job of a fire, once however often it is asked.
#[async_trait]
pub trait Accept: Send + Sync + std::fmt::Debug + 'static {
    /// Makes the job, or says which one was made.
    ///
    /// # Errors
    /// Says why there is none.
    async fn accept(&self, schedule: &Schedule, run: &Run) -> Result<JobId, Refused>;
}

/// Why a fire has no job, in the words that a caller of the API would get.
#[derive(Debug, Clone)]
pub enum Refused {
    /// Trying again may help.
    ForNow(Problem),
    /// Trying again would not.
    ForGood(Problem),
    /// Another job of the schedule is not over, though none was unfinished when the fire was claimed: its policy decides again.
    Overlaps,
}

/// What may take how long.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// How long a node may say nothing of a fire before another takes it, which does no harm.
    pub lease: Duration,
    /// How often a lease is renewed while the job is accepted.
    pub renewal: Duration,
    /// How long accepting a job may take, the fetching of its model included: a store that says nothing holds up no fire for ever.
    pub acceptance: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { lease: Duration::from_mins(1), renewal: Duration::from_secs(20), acceptance: Duration::from_mins(30) }
    }
}

/// Fires schedules.
#[derive(Debug)]
pub struct Scheduler {
    /// Holds them.
    pub store: Arc<dyn Store>,
    /// Makes the jobs.
    pub accept: Arc<dyn Accept>,
    /// Rung when a schedule or a job has changed; rung here when a job was made.
    pub wake: Arc<Notify>,
    /// How often to look when nobody says that there is something.
    pub poll: Duration,
    /// What may take how long.
    pub times: Times,
}

impl Scheduler {
    /// Fires schedules until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let scheduler = Arc::new(self);
        let (mut making, mut broken) = (JoinSet::new(), BTreeSet::new());
        while !stop.is_cancelled() {
            let rung = scheduler.wake.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            let pause = scheduler.open(&mut broken).await.unwrap_or_else(|error| {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for schedules that are due");
                scheduler.poll
            });
            if making.len() < SIDE_BY_SIDE
                && let Some(claimed) = scheduler.claim().await
            {
                let span = tracing::info_span!(target: traces::TARGET, "fire schedule", schedule.id = %claimed.schedule.id);
                let (scheduler, stop) = (scheduler.clone(), stop.clone());
                making.spawn(async move { scheduler.make(&claimed, &stop).await }.instrument(span));
                continue;
            }
            tokio::select! {
                () = &mut rung => {}
                // A panic is a fault of this room, which ends with it.
                Some(ended) = making.join_next() => ended.expect("making a job does not panic"),
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
        making.join_all().await;
    }

    /// Writes the fires that are due; how long there is nothing else to be seen. Of those that cannot be read, the ones that were `told` of
    /// are passed over in silence.
    async fn open(&self, told: &mut BTreeSet<String>) -> db::Result<Duration> {
        // Those that cannot be read stay due, and come first: however many there are, they leave room for others.
        let (now, due) = self.store.due_schedules(DUE_AT_ONCE + told.len() as u32).await?;
        let mut next: Option<Timestamp> = None;
        for kept in &due {
            let schedule = match kept {
                Kept::Whole(schedule) => schedule,
                Kept::Broken(broken) => {
                    if told.insert(broken.id.clone()) {
                        tracing::error!(schedule.id = broken.id, "{} fires nothing: {}", broken.id, broken.problem().detail);
                    }
                    continue;
                }
            };
            let Some(from) = schedule.next_at else { continue };
            let due = schedule.spec.due(from, now);
            match self.store.open_runs(schedule, &due).await? {
                Written::Done => tracing::debug!(schedule.id = %schedule.id, fires = due.fires.len(), "{} is due", schedule.id),
                Written::Fenced => tracing::debug!(schedule.id = %schedule.id, "{} was seen to elsewhere", schedule.id),
            }
            next = [next, due.next].into_iter().flatten().min();
        }
        let until_next = next.map(|next| Duration::from_micros((next.0 - now.0).max(0) as u64));
        Ok(until_next.map_or(self.poll, |until| until.min(self.poll)))
    }

    async fn claim(&self) -> Option<ClaimedRun> {
        self.store.claim_run(self.times.lease).await.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for fires that wait");
            None
        })
    }

    async fn make(&self, claimed: &ClaimedRun, stop: &CancellationToken) {
        let ClaimedRun { lease, schedule, run } = claimed;
        let id = &schedule.id;
        let made = tokio::select! {
            made = self.accepted(schedule, run) => made,
            // The fire was settled or taken meanwhile, or is gone with its schedule. It may be this acceptance that settled it.
            () = self.lost(lease) => {
                tracing::debug!(schedule.id = %id, fire_time = %run.fire_time, "the fire of {id} at {} is not ours any more", run.fire_time);
                return self.wake.notify_waiters();
            }
            // What was begun may still become a job: then the fire is settled, and whoever looks next sees that.
            () = stop.cancelled() => return self.written(id, self.store.delay_run(lease, None, Duration::ZERO).await),
        };
        match made {
            Ok(job) => {
                tracing::info!(schedule.id = %id, job.id = %job, fire_time = %run.fire_time, "{id} made {job} at {}", run.fire_time);
                self.wake.notify_waiters();
            }
            Err(Refused::Overlaps) => self.written(id, self.store.delay_run(lease, None, Duration::ZERO).await),
            Err(Refused::ForNow(problem)) if run.attempts + 1 < MOST_ATTEMPTS => {
                let delay = LONGEST_DELAY.min(FIRST_DELAY.saturating_mul(1 << run.attempts.min(16)));
                tracing::warn!(schedule.id = %id, code = problem.code, "{id} has no job for {} yet: {problem}", run.fire_time);
                self.written(id, self.store.delay_run(lease, Some(&problem), delay).await);
            }
            Err(Refused::ForNow(problem) | Refused::ForGood(problem)) => {
                tracing::warn!(schedule.id = %id, code = problem.code, "{id} makes no job at {}: {problem}", run.fire_time);
                self.written(id, self.store.settle_run(lease, &Unmade { state: RunState::Failed, problem }).await);
            }
        }
    }

    /// The job of a fire, unless it takes too long to make.
    async fn accepted(&self, schedule: &Schedule, run: &Run) -> Result<JobId, Refused> {
        let limit = self.times.acceptance;
        tokio::time::timeout(limit, self.accept.accept(schedule, run)).await.unwrap_or_else(|_| {
            let detail = format!(
                "after {} s the job was still not made: its model or its output lies in a store that does not answer, or the model is too \
                 large to be fetched in that time",
                limit.as_secs()
            );
            Err(Refused::ForGood(Problem::new("acceptance_timeout", "Accepting the job took too long", detail)))
        })
    }

    /// Renews the lease on a fire; ends when it is another's.
    async fn lost(&self, lease: &RunLease) {
        loop {
            tokio::time::sleep(self.times.renewal).await;
            match self.store.renew_run(lease, self.times.lease).await {
                Ok(Written::Done) => {}
                Ok(Written::Fenced) => return,
                // Whether it is another's by now is said by the next answer.
                Err(error) => {
                    let (id, error) = (&lease.schedule, &error as &dyn std::error::Error);
                    tracing::warn!(schedule.id = %id, error, "cannot renew the lease on a fire of {id} yet");
                }
            }
        }
    }

    /// Who was late has nothing to say; what was not written is tried again when the lease has run out.
    fn written(&self, id: &crate::domain::ScheduleId, written: db::Result<Written>) {
        match written {
            Ok(Written::Done | Written::Fenced) => {}
            Err(error) => {
                tracing::warn!(schedule.id = %id, error = &error as &dyn std::error::Error, "what became of a fire is not kept yet")
            }
        }
    }
}
