//! How records become tensors and tensors become predictions.

pub mod detection;
pub mod flags;
pub mod image;
mod section;
pub mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::signature::Signature;
use detection::{Detection, Head};
use flags::Flags;
use image::{Image, ImageSpec};
use text::{Embedding, Pooling, Text, TextSpec};

/// What the model is for; Hugging Face's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// A row in, a class out.
    TabularClassification,
    /// A row in, a number out.
    TabularRegression,
    /// A picture in, a class or several out.
    ImageClassification,
    /// A picture in, boxes with a class each out.
    ObjectDetection,
    /// A text in, a class or several out.
    TextClassification,
    /// A text or a picture in, a vector out.
    FeatureExtraction,
    /// Every output as a column under its own name.
    #[default]
    Raw,
}

impl Task {
    /// Every task, for messages that list them.
    pub const ALL: [Task; 7] = [
        Task::TabularClassification,
        Task::TabularRegression,
        Task::ImageClassification,
        Task::ObjectDetection,
        Task::TextClassification,
        Task::FeatureExtraction,
        Task::Raw,
    ];

    /// Hugging Face's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::TabularClassification => "tabular-classification",
            Self::TabularRegression => "tabular-regression",
            Self::ImageClassification => "image-classification",
            Self::ObjectDetection => "object-detection",
            Self::TextClassification => "text-classification",
            Self::FeatureExtraction => "feature-extraction",
            Self::Raw => "raw",
        }
    }

    /// Whether a prediction is a class, or several.
    pub fn is_classification(self) -> bool {
        matches!(self, Self::TabularClassification | Self::ImageClassification | Self::TextClassification)
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
    /// How pictures become tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSpec>,
    /// How texts become tensors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<TextSpec>,
    /// Classes and boxes below this score are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Of two boxes of one class that overlap more than this, the one with the lower score is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iou_threshold: Option<f64>,
    /// The form of a detector's outputs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<Head>,
    /// What makes one vector of a vector a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// Whether embeddings are divided by their Euclidean length.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalize: Option<bool>,
    /// How many of an embedding's first elements are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u32>,
    /// Named conditions over labels and scores.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<Flags>,
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
            image: either(self.image, base.image, ImageSpec::over),
            text: either(self.text, base.text, TextSpec::over),
            threshold: self.threshold.or(base.threshold),
            iou_threshold: self.iou_threshold.or(base.iou_threshold),
            head: self.head.or(base.head),
            pooling: self.pooling.or(base.pooling),
            normalize: self.normalize.or(base.normalize),
            dimensions: self.dimensions.or(base.dimensions),
            flags: self.flags.or(base.flags),
        }
    }
}

/// Both merged where both are there.
fn either<T>(own: Option<T>, base: Option<T>, over: impl FnOnce(T, T) -> T) -> Option<T> {
    match (own, base) {
        (Some(own), Some(base)) => Some(over(own, base)),
        (own, base) => own.or(base),
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
    /// For classifications: which output plays which role.
    pub classifier: Option<ClassifierOutputs>,
    /// How pictures become the model's image input, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// How texts become the model's inputs, where it takes tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Text>,
    /// For `feature-extraction`: how an output becomes a vector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Embedding>,
    /// For `object-detection`: how outputs become boxes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection: Option<Detection>,
    /// Classes and boxes below this score are left out; for classifications it makes lists of `labels` and `scores`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Named conditions over labels and scores: where there are any, a prediction has the column `flags`.
    #[serde(default, skip_serializing_if = "Flags::is_empty")]
    pub flags: Flags,
}

impl Pipeline {
    /// A pipeline that uses all of a signature and has no settings.
    pub fn new(task: Task, signature: Signature) -> Self {
        Self {
            task,
            signature,
            features: None,
            columns: BTreeMap::new(),
            missing: Missing::Error,
            labels: None,
            activation: Activation::None,
            top_k: 1,
            probabilities: false,
            classifier: None,
            image: None,
            text: None,
            embedding: None,
            detection: None,
            threshold: None,
            flags: Flags::new(),
        }
    }

    /// Whether a classification lists several classes a record.
    pub fn lists_classes(&self) -> bool {
        self.top_k > 1 || self.threshold.is_some()
    }
}

impl Pipeline {
    /// Names of the prediction columns, before the job's `prediction_prefix`, in output order.
    pub fn prediction_columns(&self) -> Vec<String> {
        let names: &[&str] = match self.task {
            task if task.is_classification() && self.lists_classes() => &["labels", "scores"],
            Task::TabularClassification | Task::ImageClassification | Task::TextClassification => &["label", "score"],
            Task::TabularRegression => &["prediction"],
            Task::ObjectDetection => &["detections"],
            Task::FeatureExtraction => &["embedding"],
            Task::Raw => return self.signature.outputs.iter().map(|o| o.name.clone()).collect(),
        };
        let mut names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        if self.task.is_classification() && self.probabilities {
            names.push("probabilities".to_owned());
        }
        if !self.flags.is_empty() {
            names.push("flags".to_owned());
        }
        names
    }
}
