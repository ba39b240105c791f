//! What the store is told of schedules, and what it tells.

use crate::domain::{Problem, Run, RunState, Schedule, ScheduleId, ScheduleSpec, Timestamp};

/// A schedule to be kept.
#[derive(Debug, Clone)]
pub struct NewSchedule {
    /// Made by the caller.
    pub id: ScheduleId,
    /// As validated.
    pub spec: ScheduleSpec,
    /// Its first fire.
    pub next_at: Option<Timestamp>,
    /// Whether it begins paused.
    pub paused: bool,
}

/// What a schedule is to become.
#[derive(Debug, Clone)]
pub struct ScheduleChange {
    /// As validated.
    pub spec: ScheduleSpec,
    /// Whether it is paused. Fires that wait when it is paused are skipped.
    pub paused: bool,
    /// Its next fire.
    pub next: NextFire,
}

/// The next fire of a schedule that is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextFire {
    /// Stays what it is.
    Kept,
    /// Is this one, or there is none.
    At(Option<Timestamp>),
}

/// Which schedules to list; newest first.
#[derive(Debug, Clone, Default)]
pub struct ScheduleFilter {
    /// Only those created before this one (ids sort by creation).
    pub before: Option<ScheduleId>,
    /// At most this many.
    pub limit: u32,
}

/// A lease on a fire whose job is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunLease {
    /// Of which schedule.
    pub schedule: ScheduleId,
    /// Which fire.
    pub fire_time: Timestamp,
    /// The fencing token.
    pub epoch: i64,
}

/// A fire whose job is to be made now.
#[derive(Debug, Clone)]
pub struct ClaimedRun {
    /// The lease that was won.
    pub lease: RunLease,
    /// Its schedule as it stands.
    pub schedule: Schedule,
    /// The fire as it stands.
    pub run: Run,
}

/// What became of a fire that makes no job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmade {
    /// [`RunState::Skipped`] or [`RunState::Failed`].
    pub state: RunState,
    /// Why.
    pub problem: Problem,
}
