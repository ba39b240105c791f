//! A job and its life.

use serde::{Deserialize, Serialize};

use super::{
    chunk::Usage, cost::Estimate, drift::Compared, fault::Problem, pipeline::Pipeline, schedule::Fire, spec::JobSpec, summary::Summary,
    time::Timestamp, trace::TraceParent, uri::Uri,
};

/// `job_` and a UUIDv7: ids sort by time of creation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(String);

impl JobId {
    /// A new id.
    pub fn generate() -> Self {
        Self(format!("job_{}", uuid::Uuid::now_v7().simple()))
    }

    /// Reads an id; `None` when the text is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("job_")?;
        let plain = hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        plain.then(|| Self(text.to_owned()))
    }

    /// The lowest id that can be made at this time; ids that were made earlier sort before it.
    pub fn lowest_at(time: Timestamp) -> Self {
        let milliseconds = u64::try_from(time.0 / 1000).unwrap_or_default().min((1 << 48) - 1);
        Self(format!("job_{milliseconds:012x}{:020}", 0))
    }

    /// Its last eight digits, which are random: enough to tell the jobs apart that write below one prefix.
    pub fn tag(&self) -> &str {
        &self.0[self.0.len() - 8..]
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for JobId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a job is in its life; the words of hosted batch APIs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Accepted; nobody has looked at its input yet.
    Queued,
    /// The first page of its input is being listed.
    Validating,
    /// Chunks run; more may still be planned.
    InProgress,
    /// Put off on request: nothing is planned or begun until it is resumed.
    Paused,
    /// No chunk will run any more; the manifest is being written.
    Finalizing,
    /// Every record has an outcome.
    Completed,
    /// It could not be done; see its error.
    Failed,
    /// Asked to stop; running chunks are being ended.
    Cancelling,
    /// Stopped on request; what was done stays, listed by a manifest with `complete: false`.
    Cancelled,
    /// Its deadline passed; what was done stays.
    Expired,
}

/// What can happen to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobEvent {
    /// A planner took it up.
    PlanningBegan,
    /// The first chunks exist.
    ChunksPlanned,
    /// All chunks are planned and done.
    AllDone,
    /// Something made completion impossible.
    Broke,
    /// A caller asked to put it off.
    PauseRequested,
    /// A caller asked to go on with it.
    ResumeRequested(Planned),
    /// A caller asked to stop it.
    CancelRequested,
    /// Its deadline passed.
    DeadlinePassed,
    /// The manifest is written: the job ends in this state.
    Ended(Ending),
    /// A caller asked to run again what came to nothing.
    RetryRequested(Planned),
}

/// What a job that is taken up again has to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Planned {
    /// No chunk yet: a planner comes first.
    Nothing,
    /// Chunks.
    Chunks,
}

/// How a job ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// With every record's outcome.
    Completed,
    /// With an error.
    Failed,
    /// On request.
    Cancelled,
    /// By its deadline.
    Expired,
}

impl Ending {
    /// As the tables write it.
    pub fn name(self) -> &'static str {
        self.state().name()
    }

    /// The final state.
    pub fn state(self) -> JobState {
        match self {
            Self::Completed => JobState::Completed,
            Self::Failed => JobState::Failed,
            Self::Cancelled => JobState::Cancelled,
            Self::Expired => JobState::Expired,
        }
    }

    /// Reads what [`Ending::name`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Completed, Self::Failed, Self::Cancelled, Self::Expired].into_iter().find(|e| e.name() == text)
    }
}

/// An event that a job in this state cannot take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {} cannot do this", .state.name())]
pub struct Conflict {
    /// The state the job is in.
    pub state: JobState,
}

impl JobState {
    /// Every state, in the order of a job's life.
    pub const ALL: [JobState; 10] = [
        Self::Queued,
        Self::Validating,
        Self::InProgress,
        Self::Paused,
        Self::Finalizing,
        Self::Completed,
        Self::Failed,
        Self::Cancelling,
        Self::Cancelled,
        Self::Expired,
    ];

    /// As the tables and the API write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Validating => "validating",
            Self::InProgress => "in_progress",
            Self::Paused => "paused",
            Self::Finalizing => "finalizing",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Reads what [`JobState::name`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == text)
    }

    /// Whether the job has ended: nothing can happen to it any more but a retry.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// The state after `event`: the one transition function, drawn in docs/ARCHITECTURE.md.
    ///
    /// # Errors
    /// [`Conflict`] when a job in this state cannot take the event.
    pub fn next(self, event: JobEvent) -> Result<JobState, Conflict> {
        use JobEvent as E;
        use JobState as S;
        match (self, event) {
            // A planner that died is followed by another: planning may begin again.
            (S::Queued | S::Validating, E::PlanningBegan) => Ok(S::Validating),
            (S::InProgress, E::PlanningBegan) => Ok(S::InProgress),
            (S::Validating | S::InProgress, E::ChunksPlanned) => Ok(S::InProgress),
            (S::Validating | S::InProgress, E::AllDone) => Ok(S::Finalizing),
            // Of a paused job, chunks in flight may still break it; that they were the last is not looked at until it is resumed.
            (S::Queued | S::Validating | S::InProgress | S::Paused, E::Broke | E::DeadlinePassed) => Ok(S::Finalizing),
            (S::Queued | S::Validating | S::InProgress | S::Paused, E::PauseRequested) => Ok(S::Paused),
            (S::Paused, E::ResumeRequested(Planned::Nothing)) => Ok(S::Queued),
            (S::Paused, E::ResumeRequested(Planned::Chunks)) => Ok(S::InProgress),
            // It runs: what was asked for is so.
            (S::Queued | S::Validating | S::InProgress, E::ResumeRequested(_)) => Ok(self),
            (S::Queued | S::Validating | S::InProgress | S::Paused | S::Cancelling, E::CancelRequested) => Ok(S::Cancelling),
            (S::Finalizing, E::Ended(Ending::Completed)) => Ok(S::Completed),
            (S::Finalizing, E::Ended(Ending::Failed)) => Ok(S::Failed),
            (S::Finalizing, E::Ended(Ending::Expired)) => Ok(S::Expired),
            (S::Cancelling, E::Ended(Ending::Cancelled)) => Ok(S::Cancelled),
            (S::Completed | S::Failed | S::Cancelled | S::Expired, E::RetryRequested(Planned::Nothing)) => Ok(S::Queued),
            (S::Completed | S::Failed | S::Cancelled | S::Expired, E::RetryRequested(Planned::Chunks)) => Ok(S::InProgress),
            (state, _) => Err(Conflict { state }),
        }
    }
}

/// How much there is and how much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Counts {
    /// Objects found so far.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks planned so far.
    pub chunks: u64,
    /// Chunks done.
    pub chunks_done: u64,
    /// Records with a prediction.
    pub succeeded: u64,
    /// Records with an error row.
    pub failed: u64,
}

impl Counts {
    /// Share of the work done, 0 to 1, of a job in this state.
    pub fn share_done(&self, state: JobState) -> f64 {
        match state {
            JobState::Completed => 1.0,
            _ if self.chunks == 0 => 0.0,
            _ => self.chunks_done as f64 / self.chunks as f64,
        }
    }
}

/// The model as pinned at acceptance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedModel {
    /// Where it was found.
    pub uri: Uri,
    /// SHA-256 over all its files, lower-case hex: the name of its folder in the cache.
    pub digest: String,
    /// The ONNX file, relative to that folder.
    pub file: String,
    /// Size of all its files.
    pub bytes: u64,
    /// By which name it was asked for, if by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered: Option<Registered>,
}

/// A registered model, as a job named it and as it was meant then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Its name.
    pub name: String,
    /// The version that was meant.
    pub version: u64,
    /// The alias that was given, which may have moved since; `None` when the version itself was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
}

/// How far planning has come; written together with the chunks it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PlanCursor {
    /// The next chunk's number.
    pub next_seq: u64,
    /// Listing goes on after this key.
    pub after_key: Option<String>,
    /// Objects seen so far.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Running SHA-256 over `key \0 size \0 etag \n` of every object (the whole location where a manifest named it), lower-case hex: the snapshot's digest once done.
    pub digest: String,
    /// Of an input that is a manifest: how far it has been read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub manifest: Option<ManifestCursor>,
    /// A large object after `after_key`, some of whose chunks are written already.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub partial: Option<PartialObject>,
    /// Objects that earlier runs of the schedule covered, and this one passes over.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub covered: u64,
    /// Nothing more to list.
    pub done: bool,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// How far a manifest has been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestCursor {
    /// The manifest as pinned when it was first read.
    pub etag: Option<String>,
    /// Its size, bytes.
    pub size: u64,
    /// Lines done, blank ones included.
    pub lines: u64,
}

/// How far the cutting of one large object has come: cutting it again gives the same chunks, of which these are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialObject {
    /// Its key.
    pub key: String,
    /// Its etag; another one now means that it changed under the planner.
    pub etag: Option<String>,
    /// Chunks written.
    pub chunks: u64,
}

/// When a job did not run although it was neither new nor over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Breaks {
    /// Since when it is paused, if it is.
    pub paused_at: Option<Timestamp>,
    /// How long it was paused, or had ended before a retry, since it was first started; microseconds.
    pub idle_us: i64,
    /// How often what came to nothing was run again on request.
    pub retries: u32,
}

impl Breaks {
    /// Seconds from the first claim to the end, or to now, without those in which the job did not run.
    pub(super) fn wall_seconds(&self, started: Option<Timestamp>, finished: Option<Timestamp>, now: Timestamp) -> f64 {
        let end = finished.or(self.paused_at).unwrap_or(now);
        started.map_or(0.0, |start| (end.seconds_since(start) - self.idle_us as f64 / 1e6).max(0.0))
    }
}

/// What a job waits for before it is planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waits {
    /// For jobs of `depends_on`.
    pub jobs: bool,
    /// For the object of `wait_for`, until this time.
    pub object_until: Option<Timestamp>,
}

/// A job as the store keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Which.
    pub id: JobId,
    /// As accepted.
    pub spec: JobSpec,
    /// As pinned at acceptance.
    pub model: PinnedModel,
    /// As resolved at acceptance.
    pub pipeline: Pipeline,
    /// Where it is in its life.
    pub state: JobState,
    /// How it is going to end, once that is known.
    pub ending: Option<Ending>,
    /// Why it failed.
    pub error: Option<Problem>,
    /// How much is there and done.
    pub counts: Counts,
    /// How far planning has come.
    pub plan: PlanCursor,
    /// Work done, summed over committed chunks.
    pub usage: Usage,
    /// What its predictions are like, over committed chunks.
    pub summary: Summary,
    /// How far it is from an earlier job, once it was compared.
    pub drift: Option<Compared>,
    /// What it was expected to take, since its input was listed to the end; `None` where nothing like it was run before.
    pub estimate: Option<Estimate>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its first chunk was claimed.
    pub started_at: Option<Timestamp>,
    /// Set in final states only.
    pub finished_at: Option<Timestamp>,
    /// When it did not run.
    pub breaks: Breaks,
    /// The trace that the job belongs to: its submission, as the parent of what is done for it.
    pub trace: Option<TraceParent>,
    /// The fire of a schedule that made it.
    pub fire: Option<Fire>,
    /// What it waits for.
    pub waits: Waits,
}

impl Job {
    /// What the job would go on with if it were taken up again now.
    pub fn planned(&self) -> Planned {
        if self.counts.chunks == 0 { Planned::Nothing } else { Planned::Chunks }
    }

    /// What there is to say of a job that read nothing.
    pub fn note(&self) -> Option<String> {
        let nothing = self.plan.done && self.counts.objects == 0 && self.plan.covered > 0;
        nothing.then(|| {
            let (covered, uri) = (self.plan.covered, &self.spec.input.uri);
            format!("nothing is new: earlier runs of the schedule covered all {covered} objects of {uri}")
        })
    }

    /// Seconds from the first claim to the end, or to now, without the time in which the job was paused or had ended.
    pub fn wall_seconds(&self, now: Timestamp) -> f64 {
        self.breaks.wall_seconds(self.started_at, self.finished_at, now)
    }

    /// Share of the work done, 0 to 1: by chunks, so it only grows once planning is over.
    pub fn progress(&self) -> f64 {
        self.counts.share_done(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [JobEvent; 15] = [
        JobEvent::PlanningBegan,
        JobEvent::ChunksPlanned,
        JobEvent::AllDone,
        JobEvent::Broke,
        JobEvent::PauseRequested,
        JobEvent::ResumeRequested(Planned::Nothing),
        JobEvent::ResumeRequested(Planned::Chunks),
        JobEvent::CancelRequested,
        JobEvent::DeadlinePassed,
        JobEvent::Ended(Ending::Completed),
        JobEvent::Ended(Ending::Failed),
        JobEvent::Ended(Ending::Cancelled),
        JobEvent::Ended(Ending::Expired),
        JobEvent::RetryRequested(Planned::Nothing),
        JobEvent::RetryRequested(Planned::Chunks),
    ];

    #[test]
    fn final_states_take_no_event_but_a_retry_and_no_other_takes_that() {
        for state in JobState::ALL {
            for event in EVENTS {
                let retry = matches!(event, JobEvent::RetryRequested(_));
                match state.next(event) {
                    Ok(_) => assert!(retry == state.is_final(), "{state:?} {event:?}"),
                    Err(conflict) => assert!(conflict == Conflict { state } && !(retry && state.is_final()), "{state:?} {event:?}"),
                }
            }
        }
    }

    #[test]
    fn a_paused_job_can_be_resumed_stopped_or_broken_and_nothing_else() {
        for event in EVENTS {
            let wanted = match event {
                JobEvent::PauseRequested => Ok(JobState::Paused),
                JobEvent::ResumeRequested(Planned::Nothing) => Ok(JobState::Queued),
                JobEvent::ResumeRequested(Planned::Chunks) => Ok(JobState::InProgress),
                JobEvent::CancelRequested => Ok(JobState::Cancelling),
                JobEvent::Broke | JobEvent::DeadlinePassed => Ok(JobState::Finalizing),
                _ => Err(Conflict { state: JobState::Paused }),
            };
            assert_eq!(JobState::Paused.next(event), wanted, "{event:?}");
        }
    }

    #[test]
    fn every_state_is_reached_and_every_unfinished_one_can_end() {
        let mut seen = vec![JobState::Queued];
        let mut at = 0;
        while at < seen.len() {
            for event in EVENTS {
                if let Ok(next) = seen[at].next(event)
                    && !seen.contains(&next)
                {
                    seen.push(next);
                }
            }
            at += 1;
        }
        assert_eq!(seen.len(), JobState::ALL.len());
        for state in JobState::ALL.into_iter().filter(|s| !s.is_final()) {
            let ends = |s: JobState| EVENTS.iter().any(|e| s.next(*e).is_ok_and(JobState::is_final));
            let near = EVENTS.iter().filter_map(|e| state.next(*e).ok()).any(|s| s.is_final() || ends(s));
            assert!(near, "{state:?}");
        }
    }

    #[test]
    fn ids_sort_by_creation_and_round_trip() {
        let (a, b) = (JobId::generate(), JobId::generate());
        assert!(a < b);
        assert_eq!(JobId::parse(a.as_str()), Some(a.clone()));
        assert_eq!(JobId::parse("job_../../etc"), None);
        let now = Timestamp::now();
        let (earlier, later) = (JobId::lowest_at(Timestamp(now.0 - 1_000_000)), JobId::lowest_at(Timestamp(now.0 + 60_000_000)));
        assert!(earlier < a && b < later && JobId::parse(later.as_str()).is_some(), "{earlier} {a} {later}");
    }
}
