//! Schedules for the OpenAPI document, made from domain values by the same code that makes the real ones.

use serde_json::{Value, json};

use super::{
    schedule_body::{RunBody, RunPage, ScheduleBody, SchedulePage, SchedulePreview, next_fires},
    schedule_definition,
};
use crate::domain::{JobId, Problem, Run, RunState, Schedule, ScheduleId, Timestamp};

const NOW: Timestamp = Timestamp(1_795_399_200_123_456);

/// What is posted.
pub(super) fn definition() -> Value {
    json!({
        "name": "fraud-nightly", "cron": "0 2 * * *", "time_zone": "Europe/Berlin", "overlap": "queue", "only_new": true,
        "job": {
            "name": "fraud {{ fire_time | minus(\"1d\") | date(\"%Y-%m-%d\") }}", "model": "s3://models/fraud/",
            "input": "s3://lake/tx/{{ fire_time | minus(\"1d\") | date(\"%Y-%m-%d\") }}/",
            "output": "s3://lake/scores/{{ fire_time | minus(\"1d\") | date(\"%Y-%m-%d\") }}/"
        },
        "wait_for": {"uri": "s3://lake/tx/{{ fire_time | minus(\"1d\") | date(\"%Y-%m-%d\") }}/_SUCCESS", "timeout": "4h"}
    })
}

fn kept(paused_at: Option<Timestamp>) -> Schedule {
    let (spec, _) = schedule_definition::read(&definition()).expect("a good definition");
    let next_at = spec.next(NOW);
    let id = ScheduleId::parse("sch_019ac2f7b0f47e0f8a1b2c3d4e5f6073").expect("a well-formed id");
    Schedule { id, spec, next_at, paused_at, revision: 0, created_at: NOW, updated_at: NOW }
}

/// A schedule.
pub(super) fn schedule() -> ScheduleBody {
    ScheduleBody::new(&kept(None), NOW, &[])
}

/// A schedule that is paused.
pub(super) fn paused() -> ScheduleBody {
    ScheduleBody::new(&kept(Some(NOW)), NOW, &[])
}

/// A page of schedules.
pub(super) fn schedules() -> SchedulePage {
    SchedulePage { items: vec![schedule()], next_cursor: None }
}

/// What a dry run shows.
pub(super) fn preview() -> SchedulePreview {
    SchedulePreview { next_fires: next_fires(&kept(None).spec, NOW, &[]) }
}

fn fire(state: RunState) -> Run {
    let settled_at = (state != RunState::Waiting).then_some(NOW);
    Run { fire_time: NOW, manual: false, state, job: None, problem: None, attempts: 0, settled_at }
}

/// A fire that a caller asked for.
pub(super) fn manual() -> RunBody {
    RunBody::new(&Run { manual: true, ..fire(RunState::Waiting) })
}

/// A page of fires.
pub(super) fn runs() -> RunPage {
    let job = JobId::parse("job_019ac2f7b0f47e0f8a1b2c3d4e5f6071");
    let detail = "s3://models/fraud/ does not exist";
    let problem = Some(Problem::new("invalid_request", "The request has faults", format!("/model: {detail}")));
    let earlier = Timestamp(NOW.0 - 86_400_000_000);
    let failed = Run { fire_time: earlier, problem, ..fire(RunState::Failed) };
    RunPage { items: [Run { job, ..fire(RunState::Started) }, failed].iter().map(RunBody::new).collect(), next_cursor: None }
}
