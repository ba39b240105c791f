//! Flags of a pipeline: checked against what the model can say.

use crate::domain::{
    Fault, Pipeline, PipelineSpec, Task,
    pipeline::flags::{Flag, Flags},
};

/// Labels that a message lists.
const SHOWN: usize = 20;

/// Puts the flags of the job, or else those of the model's folder, into the pipeline; every one that can never mean anything is a fault.
pub(super) fn add(pipeline: &mut Pipeline, folder: Option<Flags>, job: &PipelineSpec, faults: &mut Vec<Fault>) {
    let by_job = job.flags.is_some();
    let Some(flags) = job.flags.clone().or(folder).filter(|flags| !flags.is_empty()) else { return };
    let at = |rest: &str| if by_job { format!("/pipeline/flags{rest}") } else { "/model".to_owned() };
    if !pipeline.task.is_classification() && pipeline.task != Task::ObjectDetection {
        let detail = format!("flags are conditions over labels, and the task {:?} has none", pipeline.task.name());
        faults.push(
            Fault::new(at(""), "no_labels", detail).hint("leave pipeline.flags out, or choose a task of classification or detection"),
        );
        return;
    }
    for (name, flag) in &flags {
        let place = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
        check_score(flag, &at(&place), name, faults);
        let Some(known) = &pipeline.labels else { continue };
        for (index, label) in flag.labels().iter().enumerate().filter(|(_, label)| !known.contains(label)) {
            let pointer = if by_job { at(&format!("{place}/any_of/{index}")) } else { at("") };
            let detail = format!("the flag {name:?} names the label {label:?}, which is none of the model's");
            faults.push(Fault::new(pointer, "unknown_label", detail).hint(hint(label, known)));
        }
    }
    pipeline.flags = flags;
}

/// What the API has seen of a job's flags already, a folder's own have not been asked.
fn check_score(flag: &Flag, pointer: &str, name: &str, faults: &mut Vec<Fault>) {
    if !(0.0..=1.0).contains(&flag.score()) {
        let detail = format!("the flag {name:?} compares with {}, and scores lie between 0 and 1", flag.score());
        faults.push(Fault::new(pointer, "out_of_range", detail).hint("give a number from 0 to 1"));
    }
    if matches!(flag, Flag::AnyOf { any_of, .. } if any_of.is_empty()) {
        faults.push(Fault::new(pointer, "empty", format!("the flag {name:?} names no label")).hint("name one label at least in any_of"));
    }
}

fn hint(label: &str, known: &[String]) -> String {
    let lower = label.to_lowercase();
    let near = known.iter().map(|k| (strsim::damerau_levenshtein(&lower, &k.to_lowercase()), k)).min_by_key(|(distance, _)| *distance);
    match near {
        Some((distance, near)) if distance <= 1 + near.len() / 4 => format!("did you mean {near:?}?"),
        _ => {
            let more = if known.len() > SHOWN { ", …" } else { "" };
            format!("the labels are {}{more}", known.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", "))
        }
    }
}
