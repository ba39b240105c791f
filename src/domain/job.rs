//! A job and its life.

use serde::{Deserialize, Serialize};

use super::{chunk::Usage, fault::Problem, pipeline::Pipeline, spec::JobSpec, summary::Summary, time::Timestamp, uri::Uri};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Accepted; nobody has looked at its input yet.
    Queued,
    /// The first page of its input is being listed.
    Validating,
    /// Chunks run; more may still be planned.
    InProgress,
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
    /// A caller asked to stop it.
    CancelRequested,
    /// Its deadline passed.
    DeadlinePassed,
    /// The manifest is written: the job ends in this state.
    Ended(Ending),
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
    pub const ALL: [JobState; 9] = [
        Self::Queued,
        Self::Validating,
        Self::InProgress,
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

    /// Whether nothing can happen to the job any more.
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
            (S::Queued | S::Validating | S::InProgress, E::Broke | E::DeadlinePassed) => Ok(S::Finalizing),
            (S::Queued | S::Validating | S::InProgress | S::Cancelling, E::CancelRequested) => Ok(S::Cancelling),
            (S::Finalizing, E::Ended(Ending::Completed)) => Ok(S::Completed),
            (S::Finalizing, E::Ended(Ending::Failed)) => Ok(S::Failed),
            (S::Finalizing, E::Ended(Ending::Expired)) => Ok(S::Expired),
            (S::Cancelling, E::Ended(Ending::Cancelled)) => Ok(S::Cancelled),
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
    /// Running SHA-256 over `key \0 size \0 etag \n` of every object, lower-case hex: the snapshot's digest once done.
    pub digest: String,
    /// A large object after `after_key`, some of whose chunks are written already.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub partial: Option<PartialObject>,
    /// Nothing more to list.
    pub done: bool,
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
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When its first chunk was claimed.
    pub started_at: Option<Timestamp>,
    /// Set in final states only.
    pub finished_at: Option<Timestamp>,
}

impl Job {
    /// Share of the work done, 0 to 1: by chunks, so it only grows once planning is over.
    pub fn progress(&self) -> f64 {
        match self.state {
            JobState::Completed => 1.0,
            _ if self.counts.chunks == 0 => 0.0,
            _ => self.counts.chunks_done as f64 / self.counts.chunks as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [JobEvent; 10] = [
        JobEvent::PlanningBegan,
        JobEvent::ChunksPlanned,
        JobEvent::AllDone,
        JobEvent::Broke,
        JobEvent::CancelRequested,
        JobEvent::DeadlinePassed,
        JobEvent::Ended(Ending::Completed),
        JobEvent::Ended(Ending::Failed),
        JobEvent::Ended(Ending::Cancelled),
        JobEvent::Ended(Ending::Expired),
    ];

    #[test]
    fn final_states_take_no_event() {
        for state in JobState::ALL.into_iter().filter(|s| s.is_final()) {
            for event in EVENTS {
                assert_eq!(state.next(event), Err(Conflict { state }), "{state:?} {event:?}");
            }
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
        assert_eq!(JobId::parse(a.as_str()), Some(a));
        assert_eq!(JobId::parse("job_../../etc"), None);
    }
}
