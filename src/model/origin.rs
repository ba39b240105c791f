//! Where each choice of a pipeline comes from.

use std::{collections::BTreeMap, path::Path};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::domain::{Pipeline, PipelineSpec};

/// Who made a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Origin {
    /// The job's `pipeline`.
    #[serde(rename = "job")]
    Job,
    /// `nightshift.json` in the model's folder.
    #[serde(rename = "nightshift.json")]
    Section,
    /// Other files of the model's folder, such as `config.json`.
    #[serde(rename = "model folder")]
    Folder,
    /// It follows from the graph.
    #[serde(rename = "graph")]
    Graph,
    /// Nobody: it is the default.
    #[serde(rename = "default")]
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Job => "job",
            Self::Section => "nightshift.json",
            Self::Folder => "model folder",
            Self::Graph => "graph",
            Self::Default => "default",
        })
    }
}

/// Fields of a classifier that are derived from the graph where nobody sets them.
const DERIVED: [&str; 2] = ["activation", "classifier"];
/// Sections that are derived from the files beside the graph where nobody sets them.
const BESIDE: [&str; 3] = ["image", "text", "embedding"];

/// The origin of every field but the signature. `folder`: where the model's files lie; `section`: what they say together.
pub(super) fn of(pipeline: &Pipeline, job: &PipelineSpec, folder: &Path, section: &PipelineSpec) -> BTreeMap<String, Origin> {
    let fields = |value: Option<Value>| value.and_then(|value| value.as_object().cloned()).unwrap_or_default();
    let (job, section) = (fields(serde_json::to_value(job).ok()), fields(serde_json::to_value(section).ok()));
    let own = std::fs::read(folder.join("nightshift.json")).ok();
    let own = fields(own.and_then(|bytes| serde_json::from_slice(&bytes).ok()));
    let resolved = fields(serde_json::to_value(pipeline).ok());
    // `auto` leaves the choice to the graph.
    let sets = |fields: &Map<String, Value>, name: &str| fields.get(name).is_some_and(|value| value != "auto");
    let origin = |name: &str| match name {
        _ if sets(&job, name) => Origin::Job,
        _ if sets(&own, name) => Origin::Section,
        _ if sets(&section, name) => Origin::Folder,
        _ if BESIDE.contains(&name) => Origin::Folder,
        _ if DERIVED.contains(&name) && pipeline.classifier.is_some() => Origin::Graph,
        _ => Origin::Default,
    };
    resolved.keys().filter(|name| name.as_str() != "signature").map(|name| (name.clone(), origin(name))).collect()
}
