//! Ensembles of trees (`TreeEnsembleClassifier`, `TreeEnsembleRegressor`: what XGBoost, LightGBM and scikit-learn export to), several times
//! as fast as by the runtime's own operator, and to the bit the same.
//!
//! A model's file is read, the nodes that are ensembles become nodes of an operator that the runtime is taught ([`operator`]), and all else
//! of the graph stays the runtime's. An ensemble that has anything unusual, or that differs from the runtime's own operator on drawn
//! records in any bit ([`check`]), is left alone, and the log says why.

mod check;
mod ensemble;
mod finish;
mod graph;
mod operator;
#[cfg(test)]
mod tests;
mod walk;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ort::session::{Session, builder::SessionBuilder};
use prost::Message;

use self::{
    ensemble::{Ensemble, Unsupported},
    graph::Node,
};

/// A larger file is left to the runtime: while it is read, an ensemble takes several times its size in memory.
const MOST_BYTES: u64 = 128 << 20;
/// Ensembles of a model; libraries write one a model, some one a tree.
const MOST_ENSEMBLES: usize = 1024;
/// Where the runtime looks for the external data of a model that it gets as bytes (onnxruntime_session_options_config_keys.h).
const DATA_FOLDER: &str = "session.model_external_initializers_file_folder_path";

/// What a model's file has of trees.
#[derive(Debug)]
pub(super) enum Found {
    /// None, as far as was looked.
    None,
    /// Some, of which none is walked here.
    Left,
    /// Some that are.
    Walked(Trees),
}

/// A model whose ensembles of trees are walked here.
#[derive(Debug)]
pub(super) struct Trees {
    /// Its file, with other nodes in their places.
    model: Vec<u8>,
    /// Where its external data lie.
    folder: PathBuf,
    ensembles: Vec<Arc<Ensemble>>,
}

impl Trees {
    /// A session of this model.
    pub(super) fn session(&self, builder: SessionBuilder) -> ort::Result<Session> {
        let builder = builder.with_config_entry(DATA_FOLDER, self.folder.to_string_lossy())?;
        builder.with_operators(operator::domain(&self.ensembles)?)?.commit_from_memory(&self.model)
    }

    /// Looks for ensembles in a model's file.
    pub(super) fn find(file: &Path) -> Found {
        Self::read(file).unwrap_or_else(|why| {
            tracing::info!("trees in {} are left to the runtime's own operator: {why}", file.display());
            Found::Left
        })
    }

    fn read(file: &Path) -> Result<Found, String> {
        let said = |e: &dyn std::fmt::Display| e.to_string();
        if std::fs::metadata(file).map_err(|e| said(&e))?.len() > MOST_BYTES {
            tracing::info!("trees, if any, in {} are left to the runtime: it has more than {} MiB", file.display(), MOST_BYTES >> 20);
            return Ok(Found::None);
        }
        let model = std::fs::read(file).map_err(|e| said(&e))?;
        // What cannot be read is the runtime's to refuse.
        let Ok(Some(found)) = graph::find(&model) else { return Ok(Found::None) };
        if found.functions {
            return Err("the model defines operators itself".to_owned());
        }
        if found.nodes.len() > MOST_ENSEMBLES {
            return Err(format!("there are more than {MOST_ENSEMBLES} ensembles"));
        }
        let (mut ensembles, mut with) = (Vec::new(), Vec::new());
        for (at, node) in found.nodes.iter().enumerate() {
            match read_one(&model, node) {
                Ok((op_type, ensemble)) => {
                    ensembles.push(Arc::new(ensemble));
                    with.push((at, op_type));
                }
                Err(why) => tracing::info!("an ensemble of trees in {} is left to the runtime's own operator: {why}", file.display()),
            }
        }
        if ensembles.is_empty() {
            return Ok(Found::Left);
        }
        let model = graph::replaced(&model, &found, &with).map_err(|e| said(&e))?;
        Ok(Found::Walked(Self { model, folder: file.parent().unwrap_or(Path::new("")).to_owned(), ensembles }))
    }
}

/// Reads one node, and holds it against the runtime's own operator.
fn read_one(model: &[u8], at: &std::ops::Range<usize>) -> Result<(&'static str, Ensemble), Unsupported> {
    let node = Node::decode(&model[at.clone()]).map_err(|e| e.to_string())?;
    let labels = node.attributes.iter().find(|a| a.name == graph::LABELS).map(|a| a.texts.as_slice()).unwrap_or_default();
    let (op_type, elements): (_, &[i32]) = match node.op_type.as_str() {
        "TreeEnsembleClassifier" if labels.is_empty() => (operator::CLASSIFIER, &[graph::INT64, graph::FLOAT]),
        "TreeEnsembleClassifier" => (operator::CLASSIFIER, &[graph::STRING, graph::FLOAT]),
        _ => (operator::REGRESSOR, &[graph::FLOAT]),
    };
    if node.inputs.len() != 1 || node.outputs.len() != elements.len() || node.outputs.iter().any(String::is_empty) {
        return Err("some of its outputs are not wanted".to_owned());
    }
    let ensemble = Ensemble::read(&node)?;
    let alone = graph::alone(model, at, elements).map_err(|e| e.to_string())?;
    let mut session = session_of(&alone).map_err(|e| e.to_string())?;
    ensemble.agrees(&mut session, labels)?;
    Ok((op_type, ensemble))
}

/// A session of one thread: several would add up in another order.
fn session_of(model: &[u8]) -> Result<Session, super::Error> {
    let load = |e: &dyn std::fmt::Display| super::Error::Load { code: "model_load_failed", detail: e.to_string() };
    let mut builder = super::session::builder()?.with_intra_threads(1).map_err(|e| load(&e))?;
    builder.commit_from_memory(model).map_err(|e| load(&e))
}
