//! What a job waits for: from JSON, and back.

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::read::{Faults, Field};
use crate::domain::{Fault, Job, JobId, JobState, Uri, spec::WaitSpec, time};

pub(super) const WAIT_FOR: [&str; 2] = ["uri", "timeout"];
/// How long a job waits when it does not say.
const TIMEOUT_SECONDS: u64 = 24 * 3600;
/// Jobs that one may depend on.
const MOST_PARENTS: usize = 100;
const EXAMPLE: &str = "s3://lake/tx/2026-11-23/_SUCCESS";

/// An object that must be there before a job begins.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"uri": "s3://lake/tx/2026-11-23/_SUCCESS", "timeout": "4h"}))]
pub(super) struct WaitDefinition {
    /// The object. It is looked for at once, and then each time after a tenth of the time waited so far: a second at least, a minute at most.
    uri: String,
    /// A span such as `90s`, `30m`, `4h` or `2d`, from acceptance, after which the job fails with `wait_timeout`.
    #[schema(default = "24h")]
    timeout: Option<String>,
}

impl From<&WaitSpec> for WaitDefinition {
    fn from(spec: &WaitSpec) -> Self {
        Self { uri: spec.uri.to_string(), timeout: Some(time::write_span(spec.timeout_seconds)) }
    }
}

/// What a job is still waiting for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WaitingBody {
    /// For the end of these jobs; empty when they have all completed.
    jobs: Vec<String>,
    /// For this object; null when it is there.
    uri: Option<String>,
    /// When the job fails if the object is not there by then; RFC 3339, UTC.
    until: Option<String>,
}

impl WaitingBody {
    /// `None` when nothing keeps the job from being planned.
    pub(super) fn of(job: &Job) -> Option<Self> {
        let (jobs, until) = (job.waits.jobs, job.waits.object_until);
        let waits = matches!(job.state, JobState::Queued | JobState::Paused) && (jobs || until.is_some());
        waits.then(|| Self {
            jobs: job.spec.depends_on.iter().filter(|_| jobs).map(JobId::to_string).collect(),
            uri: job.spec.wait_for.as_ref().filter(|_| until.is_some()).map(|wait| wait.uri.to_string()),
            until: until.map(|t| t.to_string()),
        })
    }

    /// What a job would wait for.
    pub(super) fn would(jobs: Vec<JobId>, uri: Option<Uri>) -> Option<Self> {
        (!jobs.is_empty() || uri.is_some()).then(|| Self {
            jobs: jobs.iter().map(JobId::to_string).collect(),
            uri: uri.map(|uri| uri.to_string()),
            until: None,
        })
    }
}

pub(super) fn wait_for(field: &Field<'_>, faults: &mut Faults) -> Option<WaitSpec> {
    let object = field.object(&WAIT_FOR, faults);
    if !object.is_present() {
        return None;
    }
    let timeout_seconds = object.field("timeout").seconds(faults).unwrap_or(TIMEOUT_SECONDS);
    let uri = object.field("uri");
    let found =
        if uri.required(&format!("write a location such as {EXAMPLE:?}"), faults) { uri.uri(EXAMPLE, faults)? } else { return None };
    if found.is_prefix() {
        let detail = format!("{found} is a prefix, and one object is waited for");
        faults.add(&uri, "invalid_uri", detail, format!("name the object that is written last, such as {EXAMPLE:?}"));
        return None;
    }
    Some(WaitSpec { uri: found, timeout_seconds })
}

pub(super) fn depends_on(field: &Field<'_>, faults: &mut Faults) -> Vec<JobId> {
    let names = field.texts(faults).unwrap_or_default();
    if names.len() > MOST_PARENTS {
        faults.add(field, "too_many", format!("{} jobs are more than {MOST_PARENTS}", names.len()), "depend on those that end last");
    }
    let mut parents = Vec::new();
    for (at, name) in names.iter().enumerate() {
        match JobId::parse(name) {
            // One that there is not is said where the store is asked.
            None => {}
            Some(id) if parents.contains(&id) => {
                faults.add(&field.child(&at.to_string()), "repeated", format!("{name:?} stands twice"), "name each job once");
            }
            Some(id) => parents.push(id),
        }
    }
    parents
}

/// The jobs that a definition names in `depends_on`, with their places.
pub(super) fn named(definition: &Value) -> Vec<(String, &str)> {
    let items = definition.get("depends_on").and_then(Value::as_array).into_iter().flatten().take(MOST_PARENTS);
    items.enumerate().filter_map(|(at, item)| Some((format!("/depends_on/{at}"), item.as_str()?))).collect()
}

pub(super) fn unknown(pointer: String, id: &str) -> Fault {
    let hint = "name a job by the id that it got when it was accepted: job_ and 32 digits";
    Fault::new(pointer, "unknown_job", format!("there is no job {id:?}")).hint(hint)
}
