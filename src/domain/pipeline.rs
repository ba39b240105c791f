//! How records become tensors and tensors become predictions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::signature::Signature;

/// What the model is for; Hugging Face's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// A row in, a class out.
    TabularClassification,
    /// A row in, a number out.
    TabularRegression,
    /// Every output as a column under its own name.
    #[default]
    Raw,
}

impl Task {
    /// Every task, for messages that list them.
    pub const ALL: [Task; 3] = [Task::TabularClassification, Task::TabularRegression, Task::Raw];

    /// Hugging Face's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::TabularClassification => "tabular-classification",
            Self::TabularRegression => "tabular-regression",
            Self::Raw => "raw",
        }
    }
}

/// What a missing or null value becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// An error row.
    #[default]
    Error,
    /// NaN in a float input, an error row in any other.
    Nan,
}

/// What turns a classifier's last tensor into probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Softmax or nothing, by how the graph ends.
    #[default]
    Auto,
    /// Over the last axis.
    Softmax,
    /// Element by element.
    Sigmoid,
    /// The graph already gives probabilities.
    None,
}

/// The pipeline section of `nightshift.json` and of a job: every field optional, the job's wins over the model's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct PipelineSpec {
    /// What the model is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Columns of a single `[N, F]` input, in the model's order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// Model input name → column name, where they differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub columns: Option<BTreeMap<String, String>>,
    /// What a missing value becomes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<Missing>,
    /// Class names by index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// What turns the last tensor into probabilities.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation: Option<Activation>,
    /// How many classes a prediction lists; 1 gives `label` and `score`, more gives `labels` and `scores`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Also write every class's probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probabilities: Option<bool>,
    /// Which outputs to use, by name; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Vec<String>>,
}

impl PipelineSpec {
    /// `self` with its gaps filled from `base`.
    #[must_use]
    pub fn over(self, base: PipelineSpec) -> PipelineSpec {
        PipelineSpec {
            task: self.task.or(base.task),
            features: self.features.or(base.features),
            columns: self.columns.or(base.columns),
            missing: self.missing.or(base.missing),
            labels: self.labels.or(base.labels),
            activation: self.activation.or(base.activation),
            top_k: self.top_k.or(base.top_k),
            probabilities: self.probabilities.or(base.probabilities),
            outputs: self.outputs.or(base.outputs),
        }
    }
}

/// A classifier's outputs by role, as `model/derive.rs` found them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassifierOutputs {
    /// The output that already holds the winning label, if the graph gives one.
    pub label: Option<String>,
    /// The output with one number a class: `[N, C]`, `[N]`, or a sequence of maps.
    pub scores: Option<String>,
}

/// The resolved pipeline: no choice is left open. Stored on the job, shown by the API, written to the manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pipeline {
    /// What the model is for.
    pub task: Task,
    /// Inputs and outputs of the model; `outputs` holds only those the pipeline uses.
    pub signature: Signature,
    /// Columns of the single `[N, F]` input; `None` binds by count or by name.
    pub features: Option<Vec<String>>,
    /// Model input name → column name, where they differ.
    pub columns: BTreeMap<String, String>,
    /// What a missing value becomes.
    pub missing: Missing,
    /// Class names by index.
    pub labels: Option<Vec<String>>,
    /// Never `Auto`.
    pub activation: Activation,
    /// How many classes a prediction lists, at least 1.
    pub top_k: u32,
    /// Also write every class's probability.
    pub probabilities: bool,
    /// For `tabular-classification`: which output plays which role.
    pub classifier: Option<ClassifierOutputs>,
}

impl Pipeline {
    /// Names of the prediction columns, before the job's `prediction_prefix`, in output order.
    pub fn prediction_columns(&self) -> Vec<String> {
        let names: &[&str] = match self.task {
            Task::TabularClassification if self.top_k > 1 => &["labels", "scores"],
            Task::TabularClassification => &["label", "score"],
            Task::TabularRegression => &["prediction"],
            Task::Raw => return self.signature.outputs.iter().map(|o| o.name.clone()).collect(),
        };
        let mut names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        if self.task == Task::TabularClassification && self.probabilities {
            names.push("probabilities".to_owned());
        }
        names
    }
}
