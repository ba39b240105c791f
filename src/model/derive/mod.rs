//! Model folder → pipeline: what its files say, what the job says, and what follows from the graph.

mod detect;
mod embed;
mod image;
mod processor;
mod text;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::onnx::Graph;
use crate::domain::{
    Activation, Dim, Dtype, Fault, Missing, Pipeline, PipelineSpec, Signature, Task, ValueInfo, ValueType, pipeline::ClassifierOutputs,
};

/// What a model's folder says of how to use it.
pub(super) struct Folder {
    path: PathBuf,
    /// `nightshift.json`, its gaps filled from other files.
    section: PipelineSpec,
    /// Hugging Face's `config.json`; null where there is none.
    config: Value,
}

impl Folder {
    /// What its files say together.
    pub(super) fn section(&self) -> &PipelineSpec {
        &self.section
    }

    fn holds(&self, name: &str) -> bool {
        self.path.join(name).is_file()
    }

    /// A file's JSON; null where there is none. What is no JSON was written for somebody else.
    fn json(&self, name: &str) -> Value {
        read_json(&self.path.join(name))
    }

    fn is_multi_label(&self) -> bool {
        self.config["problem_type"] == "multi_label_classification"
    }
}

fn read_json(path: &Path) -> Value {
    std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
}

/// Reads the folder's own files.
pub(super) fn read_folder(folder: &Path, faults: &mut Vec<Fault>) -> Folder {
    let own = match std::fs::read(folder.join("nightshift.json")) {
        Ok(bytes) => parse_section(&bytes, faults),
        Err(_) => PipelineSpec::default(),
    };
    let config = read_json(&folder.join("config.json"));
    let section = own.over(PipelineSpec { labels: labels_of(&config), ..PipelineSpec::default() });
    let mut folder = Folder { path: folder.to_owned(), section, config };
    // A section of one's own takes the place of the processor's file.
    if folder.section.image.is_none() {
        match processor::read(&folder.json("preprocessor_config.json"), &folder.config) {
            Ok(image) => folder.section.image = image,
            Err(fault) => faults.push(fault),
        }
    }
    folder
}

fn parse_section(bytes: &[u8], faults: &mut Vec<Fault>) -> PipelineSpec {
    match serde_json::from_slice(bytes) {
        Ok(section) => section,
        Err(error) => {
            let detail = format!("nightshift.json in the model's folder cannot be used: {error}");
            faults.push(
                Fault::new("/model", "invalid_nightshift_json", detail)
                    .hint("see the pipeline section of a job for the fields it may hold"),
            );
            PipelineSpec::default()
        }
    }
}

/// `id2label` of Hugging Face's `config.json`: an object from the class's number, as text, to its name; or `label_names` of timm's.
fn labels_of(config: &Value) -> Option<Vec<String>> {
    if let Some(names) = config.get("label_names").and_then(Value::as_array) {
        return names.iter().map(|name| name.as_str().map(str::to_owned)).collect();
    }
    let by_id = config.get("id2label")?.as_object()?;
    (0..by_id.len()).map(|id| by_id.get(&id.to_string())?.as_str().map(str::to_owned)).collect()
}

/// Labels that differ: one that stands before gets its class's number, as in `crane (517)`. ImageNet has two cranes, and an object
/// of probabilities has room for one.
fn distinct(labels: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let named = labels.into_iter().enumerate().map(|(class, label)| {
        let label = if seen.contains(&label) { format!("{label} ({class})") } else { label };
        seen.insert(label.clone());
        label
    });
    named.collect()
}

/// Resolves the pipeline; every choice that cannot be made is a fault.
pub(super) fn derive(
    mut signature: Signature,
    graph: &Graph,
    folder: &Folder,
    job: PipelineSpec,
    faults: &mut Vec<Fault>,
) -> Option<Pipeline> {
    let before = faults.len();
    let said = Said { job: job.clone() };
    let mut spec = job.over(folder.section.clone());
    select_outputs(&mut signature, &spec, &said, faults);
    check_features(&signature, &spec, &said, faults);
    let task = spec.task.or_else(|| text::task(&signature, folder, &spec)).or_else(|| image::task(&signature, folder, &spec));
    let task = task.unwrap_or_default();
    if task.is_classification() {
        spec.labels = spec.labels.map(distinct);
    }
    let text = text::derive(&signature, folder, &spec, task, &said, faults);
    let image = if text.is_some() { None } else { image::derive(&signature, &spec, task, &said, faults) };
    let columns: BTreeMap<String, String> = spec.columns.clone().unwrap_or_default();
    for input in columns.keys().filter(|name| !signature.inputs.iter().any(|i| i.name == **name)) {
        let detail = format!("the model has no input {input:?}; its inputs are {}", names(&signature.inputs));
        faults.push(
            Fault::new(said.at("columns", |j| j.columns.is_some()), "unknown_input", detail)
                .hint("keys are model inputs, values are columns"),
        );
    }
    let (mut classifier, mut embedding, mut detection, mut activation) = (None, None, None, Activation::None);
    match task {
        Task::Raw => {}
        Task::TabularRegression => check_regression(&signature, &said, faults),
        Task::ObjectDetection => {
            if let Some((found, scores_by)) = detect::derive(&signature, &spec, image.as_ref(), &said, faults) {
                (detection, activation) = (Some(found), scores_by);
            }
        }
        Task::FeatureExtraction => embedding = embed::derive(&mut signature, folder, &spec, &said, faults),
        Task::TabularClassification | Task::ImageClassification | Task::TextClassification => {
            let roles = roles(&signature);
            if roles.label.is_none() && roles.scores.is_none() {
                let detail = format!("none of the outputs is a label or one number a class: {}", names(&signature.outputs));
                faults.push(
                    Fault::new(said.at("task", |j| j.task.is_some()), "no_classifier_output", detail)
                        .hint("use the task \"raw\", or choose outputs with pipeline.outputs"),
                );
            }
            check_labels(&signature, &roles, &spec, &said, faults);
            activation = match spec.activation.unwrap_or_default() {
                Activation::Auto => match roles.scores.as_deref().map_or(Activation::None, |scores| ending(graph, scores)) {
                    Activation::Softmax if folder.is_multi_label() => Activation::Sigmoid,
                    derived => derived,
                },
                chosen => chosen,
            };
            if roles.scores.is_none() && (spec.top_k.is_some_and(|k| k > 1) || spec.probabilities == Some(true)) {
                let detail = "top_k and probabilities need an output with one number a class, and the model has none".to_owned();
                faults.push(Fault::new(said.at("top_k", |j| j.top_k.is_some()), "no_scores_output", detail).hint("leave both out"));
            }
            classifier = Some(roles);
        }
    }
    if spec.top_k == Some(0) {
        faults.push(Fault::new(said.at("top_k", |j| j.top_k.is_some()), "out_of_range", "top_k is 0").hint("give a number of at least 1"));
    }
    (faults.len() == before).then(|| Pipeline {
        features: spec.features,
        columns,
        missing: spec.missing.unwrap_or(Missing::Error),
        labels: spec.labels,
        activation,
        top_k: spec.top_k.unwrap_or(if task.is_classification() && spec.threshold.is_some() {
            most_classes(&signature, &classifier)
        } else {
            1
        }),
        probabilities: spec.probabilities.unwrap_or(false),
        classifier,
        text,
        embedding,
        image,
        detection,
        threshold: spec.threshold.or((task == Task::ObjectDetection).then_some(detect::SCORE_THRESHOLD)),
        ..Pipeline::new(task, signature)
    })
}

/// As many classes as there are: what a threshold may leave when nothing else bounds it.
fn most_classes(signature: &Signature, roles: &Option<ClassifierOutputs>) -> u32 {
    let scores = roles.as_ref().and_then(|roles| roles.scores.as_ref());
    let output = signature.outputs.iter().find(|o| Some(&o.name) == scores);
    match output.and_then(ValueInfo::tensor) {
        Some((_, [_, Dim::Fixed(classes)])) if *classes > 1 => u32::try_from(*classes).unwrap_or(u32::MAX),
        Some((_, [_] | [_, Dim::Fixed(1)])) => 2,
        _ => u32::MAX,
    }
}

/// Who said something: the job, whose fields have pointers, or the model's folder.
struct Said {
    job: PipelineSpec,
}

impl Said {
    fn at(&self, field: &str, by_job: impl Fn(&PipelineSpec) -> bool) -> String {
        if by_job(&self.job) { format!("/pipeline/{field}") } else { "/model".to_owned() }
    }
}

fn names(values: &[ValueInfo]) -> String {
    values.iter().map(|v| format!("{:?}", v.name)).collect::<Vec<_>>().join(", ")
}

fn select_outputs(signature: &mut Signature, spec: &PipelineSpec, said: &Said, faults: &mut Vec<Fault>) {
    let Some(wanted) = &spec.outputs else { return };
    let mut chosen = Vec::new();
    for name in wanted {
        match signature.outputs.iter().find(|o| o.name == *name) {
            Some(output) => chosen.push(output.clone()),
            None => {
                let detail = format!("the model has no output {name:?}; its outputs are {}", names(&signature.outputs));
                faults.push(
                    Fault::new(said.at("outputs", |j| j.outputs.is_some()), "unknown_output", detail)
                        .hint("name outputs of the model, or leave the field out to use all"),
                );
            }
        }
    }
    if wanted.is_empty() {
        faults.push(
            Fault::new(said.at("outputs", |j| j.outputs.is_some()), "empty", "no output is chosen")
                .hint("leave the field out to use all outputs"),
        );
    }
    // With a name that is unknown the choice is not: what else is checked goes by all outputs.
    if !chosen.is_empty() && chosen.len() == wanted.len() {
        signature.outputs = chosen;
    }
}

fn check_features(signature: &Signature, spec: &PipelineSpec, said: &Said, faults: &mut Vec<Fault>) {
    let Some(features) = &spec.features else { return };
    const NO_MATRIX: &str = "leave features out: each input takes the column of its name, and pipeline.columns says where the names differ";
    let mut fault = |code: &str, detail: String, hint: &str| {
        faults.push(Fault::new(said.at("features", |j| j.features.is_some()), code, detail).hint(hint));
    };
    match signature.inputs.as_slice() {
        [only] => match only.tensor() {
            Some((_, [_, width])) => {
                if let Some(width) = width.fixed().filter(|w| *w != features.len() as u64) {
                    fault(
                        "wrong_feature_count",
                        format!(
                            "the model's input {:?} takes {width} features, and the number of named ones is {}",
                            only.name,
                            features.len()
                        ),
                        "name as many columns, in the order in which the model was trained on them",
                    );
                }
            }
            _ => fault("no_feature_matrix", format!("features need one input [N, F], and {:?} is none", only.name), NO_MATRIX),
        },
        several => {
            fault("no_feature_matrix", format!("features need one input [N, F], and the model has {} inputs", several.len()), NO_MATRIX)
        }
    }
}

fn check_regression(signature: &Signature, said: &Said, faults: &mut Vec<Fault>) {
    let numeric = |o: &ValueInfo| match o.tensor() {
        Some((dtype, shape)) => {
            dtype != Dtype::Bytes && dtype != Dtype::Bool && matches!(shape, [_] | [_, Dim::Fixed(1) | Dim::Dynamic(_)])
        }
        None => false,
    };
    if signature.outputs.len() != 1 || !signature.outputs.iter().all(numeric) {
        let detail = format!("a regression has one output [N] or [N, 1] of numbers; the outputs are {}", names(&signature.outputs));
        faults.push(
            Fault::new(said.at("task", |j| j.task.is_some()), "no_regression_output", detail)
                .hint("choose the output with pipeline.outputs, or use the task \"raw\""),
        );
    }
}

/// Which output is the label and which holds one number a class.
fn roles(signature: &Signature) -> ClassifierOutputs {
    let is_label = |o: &&ValueInfo| match o.tensor() {
        Some((dtype, shape)) => {
            matches!(dtype, Dtype::Int64 | Dtype::Int32 | Dtype::Bytes | Dtype::Bool) && matches!(shape, [_] | [_, Dim::Fixed(1)])
        }
        None => false,
    };
    let is_scores = |o: &&ValueInfo| match &o.value {
        ValueType::Tensor { dtype, shape: Some(shape) } => dtype.is_float() && matches!(shape.as_slice(), [_] | [_, _]),
        ValueType::Sequence { element } => matches!(**element, ValueType::Map { .. }),
        _ => false,
    };
    let name = |o: &ValueInfo| o.name.clone();
    ClassifierOutputs {
        label: signature.outputs.iter().find(is_label).map(name),
        scores: signature.outputs.iter().find(is_scores).map(name),
    }
}

fn check_labels(signature: &Signature, roles: &ClassifierOutputs, spec: &PipelineSpec, said: &Said, faults: &mut Vec<Fault>) {
    let (Some(labels), Some(scores)) = (&spec.labels, &roles.scores) else { return };
    let output = signature.outputs.iter().find(|o| o.name == *scores);
    let classes = match output.and_then(ValueInfo::tensor) {
        Some((_, [_, Dim::Fixed(classes)])) if *classes > 1 => *classes,
        Some((_, [_] | [_, Dim::Fixed(1)])) => 2,
        _ => return,
    };
    if classes != labels.len() as u64 {
        let detail = format!("output {scores:?} has {classes} classes, and the number of labels is {}", labels.len());
        faults.push(
            Fault::new(said.at("labels", |j| j.labels.is_some()), "wrong_label_count", detail)
                .hint("name one label for each class, in the order of the classes"),
        );
    }
}

/// Softmax where the scores come straight out of a linear layer; nothing where the graph ends in anything else: classifiers of trees and
/// pipelines give probabilities, and a second softmax would make them wrong without a sign.
fn ending(graph: &Graph, output: &str) -> Activation {
    let mut name = output;
    // A few steps back through operators that only carry or reshape values.
    for _ in 0..8 {
        let Some(node) = graph.nodes.iter().find(|n| n.outputs.iter().any(|o| o == name)) else { break };
        match node.op_type.as_str() {
            "Gemm" | "MatMul" | "Add" | "Conv" | "GlobalAveragePool" => return Activation::Softmax,
            "Identity" | "Cast" | "Reshape" | "Flatten" | "Squeeze" | "QuantizeLinear" | "DequantizeLinear" => match node.inputs.first() {
                Some(input) => name = input,
                None => break,
            },
            _ => break,
        }
    }
    Activation::None
}
