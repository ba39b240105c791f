//! From a schedule to its jobs: definitions with their placeholders filled in, and the acceptance of the job of a fire.

use async_trait::async_trait;
use serde_json::Value;

use super::{ApiState, definition, named_model, problem::ApiProblem, submit, waits};
use crate::{
    domain::{Fault, Fire, JobId, JobSpec, Problem, Run, Schedule, ScheduleSpec, Timestamp, Uri, job::PinnedModel, template},
    schedule::{Accept, Refused},
};

/// The jobs that a definition depends on and where each writes; those that there are not are faults.
pub(super) async fn parents(state: &ApiState, definition: &Value) -> Result<(Vec<(JobId, Uri)>, Vec<Fault>), ApiProblem> {
    let (mut parents, mut faults) = (Vec::new(), Vec::new());
    for (pointer, name) in waits::named(definition) {
        let job = match JobId::parse(name) {
            Some(id) => state.store.job(&id).await?,
            None => None,
        };
        match job {
            Some(job) => parents.push((job.id, job.spec.output.uri)),
            None => faults.push(waits::unknown(pointer, name)),
        }
    }
    Ok((parents, faults))
}

/// Reads the definition of a job that no schedule makes: placeholders may name the outputs of its parents. With the version of a registered
/// model that it names, if it does.
pub(super) async fn read(state: &ApiState, value: &Value) -> Result<(JobSpec, Option<PinnedModel>), ApiProblem> {
    let (parents, mut faults) = parents(state, value).await?;
    let (rendered, wrong) = template::render(value, &template::Known { parents: &parents, ..template::Known::default() });
    faults.extend(wrong);
    read_filled(state, &rendered, faults).await
}

/// Reads a definition whose placeholders have been filled in, those with faults excepted: braces in it now are those of a value, and mean
/// themselves.
pub(super) async fn read_filled(
    state: &ApiState,
    rendered: &Value,
    mut faults: Vec<Fault>,
) -> Result<(JobSpec, Option<PinnedModel>), ApiProblem> {
    let meant = named_model::meant(state, rendered).await?;
    faults.extend(meant.faults);
    let spec = read_rendered(state, &meant.definition, faults).map_err(ApiProblem::faults)?;
    Ok((spec, meant.model))
}

/// Reads such a definition when its model has a location.
fn read_rendered(state: &ApiState, rendered: &Value, mut faults: Vec<Fault>) -> Result<JobSpec, Vec<Fault>> {
    match definition::read(rendered, &state.allowed_providers) {
        Ok(spec) if faults.is_empty() => Ok(spec),
        Ok(_) => Err(faults),
        Err(more) => {
            // A placeholder with a fault is no location either: once is enough.
            let known: Vec<String> = faults.iter().map(|fault| fault.pointer.clone()).collect();
            faults.extend(more.into_iter().filter(|fault| !known.contains(&fault.pointer)));
            Err(faults)
        }
    }
}

/// Holds the template of a schedule against one fire, with all that is checked of a job but its model and its output.
///
/// # Errors
/// Every fault, by its place in the schedule's definition.
pub(super) async fn check(state: &ApiState, spec: &ScheduleSpec, fire: Timestamp) -> Result<Vec<Fault>, ApiProblem> {
    let (parents, mut faults) = parents(state, &spec.job.0).await?;
    let (rendered, wrong) = spec.definition(fire, &parents);
    faults.extend(wrong);
    // A name is looked up again at each fire: a schedule follows an alias.
    let meant = named_model::meant(state, &rendered).await?;
    faults.extend(meant.faults);
    let faults = match read_rendered(state, &meant.definition, faults) {
        Ok(job) => submit::check_places(state, &job),
        Err(faults) => faults,
    };
    Ok(faults.into_iter().map(|fault| spec.placed(fault)).collect())
}

#[async_trait]
impl Accept for ApiState {
    async fn accept(&self, schedule: &Schedule, run: &Run) -> Result<JobId, Refused> {
        let fire = Fire { schedule: schedule.id.clone(), time: run.fire_time, only_new: schedule.spec.only_new };
        let made = async {
            let (parents, mut faults) = parents(self, &schedule.spec.job.0).await?;
            let (definition, wrong) = schedule.spec.definition(run.fire_time, &parents);
            faults.extend(wrong);
            if !faults.is_empty() {
                return Err(ApiProblem::faults(faults));
            }
            submit::fire(self, &definition, fire).await
        };
        made.await.map_err(|problem| match problem.status {
            429 | 500.. => Refused::ForNow(whole(problem)),
            _ if problem.kind == ApiProblem::type_of(submit::OVERLAP) => Refused::Overlaps,
            _ => Refused::ForGood(whole(problem)),
        })
    }
}

/// A problem as it is kept, with its faults in words.
fn whole(problem: ApiProblem) -> Problem {
    let faults: Vec<String> = problem.errors.iter().map(super::problem::FaultBody::sentence).collect();
    let detail = if faults.is_empty() { problem.detail } else { faults.join("; ") };
    let code = problem.kind.rsplit(':').next().unwrap_or_default();
    Problem::new(code, problem.title, detail)
}
