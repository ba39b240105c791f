//! Which output is the embedding, and what makes one vector a record of it.
//!
//! Reads `modules.json` and `1_Pooling/config.json` of sentence-transformers.

use serde_json::Value;

use super::{Folder, Said, names};
use crate::domain::{
    Dim, Fault, PipelineSpec, Signature, ValueInfo,
    pipeline::text::{Embedding, Pooling},
};

/// Outputs that hold a vector a record, the likeliest first.
const WHOLE: [&str; 4] = ["sentence_embedding", "text_embeds", "image_embeds", "embeddings"];
/// Outputs that hold a vector a token.
const BY_TOKEN: [&str; 2] = ["last_hidden_state", "token_embeddings"];

/// Resolves the embedding and keeps its output alone in the signature; every choice that cannot be made is a fault.
pub(super) fn derive(
    signature: &mut Signature,
    folder: &Folder,
    spec: &PipelineSpec,
    said: &Said,
    faults: &mut Vec<Fault>,
) -> Option<Embedding> {
    let before = faults.len();
    let modules = Modules::read(folder);
    let output = choose(signature, spec, said, faults)?.clone();
    let shape = output.tensor().map(|(_, shape)| shape);
    let pooling = match shape {
        Some([_, _, rest @ ..]) if rest.iter().all(|d| *d == Dim::Fixed(1)) => whole(&output, spec, said, faults),
        Some([_, _, _]) => pooled(&output, spec, &modules, said, faults),
        _ => {
            let detail = format!("output {:?} is neither [N, D] nor [N, tokens, D], so it holds no vectors", output.name);
            faults.push(
                Fault::new(said.at("task", |j| j.task.is_some()), "no_embedding_output", detail)
                    .hint("choose another output with pipeline.outputs, or use the task \"raw\""),
            );
            return None;
        }
    };
    let width = match (pooling, shape) {
        (Some(Pooling::None), Some([_, width, ..])) | (_, Some([_, _, width])) => width.fixed(),
        _ => None,
    };
    check_dimensions(spec, width, &output, said, faults);
    signature.outputs.retain(|o| o.name == output.name);
    (faults.len() == before).then_some(Embedding {
        output: output.name.clone(),
        pooling: pooling?,
        normalize: spec.normalize.unwrap_or(modules.normalize),
        dimensions: spec.dimensions,
    })
}

/// The only output of floats, or the one whose name says what it is.
fn choose<'s>(signature: &'s Signature, spec: &PipelineSpec, said: &Said, faults: &mut Vec<Fault>) -> Option<&'s ValueInfo> {
    let floats: Vec<&ValueInfo> = signature.outputs.iter().filter(|o| o.tensor().is_some_and(|(dtype, _)| dtype.is_float())).collect();
    let pools = spec.pooling.is_some_and(|pooling| pooling != Pooling::None);
    let likely: Vec<&str> = match pools {
        true => BY_TOKEN.into_iter().chain(WHOLE).collect(),
        false => WHOLE.into_iter().chain(BY_TOKEN).collect(),
    };
    let chosen = match floats.as_slice() {
        [only] => Some(*only),
        several => likely.iter().find_map(|name| several.iter().find(|o| o.name == *name).copied()),
    };
    if chosen.is_none() {
        let detail = format!("which output holds the vectors cannot be told: {}", names(&signature.outputs));
        faults.push(
            Fault::new(said.at("task", |j| j.task.is_some()), "no_embedding_output", detail)
                .hint("name it with pipeline.outputs, and say with pipeline.pooling what makes one vector of a vector a token"),
        );
    }
    chosen
}

fn whole(output: &ValueInfo, spec: &PipelineSpec, said: &Said, faults: &mut Vec<Fault>) -> Option<Pooling> {
    if spec.pooling.is_some_and(|pooling| pooling != Pooling::None) {
        let detail = format!("output {:?} holds one vector a record already, which leaves nothing to pool", output.name);
        faults.push(
            Fault::new(said.at("pooling", |j| j.pooling.is_some()), "nothing_to_pool", detail)
                .hint("leave pooling out, or choose an output [N, tokens, D] with pipeline.outputs"),
        );
    }
    Some(Pooling::None)
}

fn pooled(output: &ValueInfo, spec: &PipelineSpec, modules: &Modules, said: &Said, faults: &mut Vec<Fault>) -> Option<Pooling> {
    let mut fault = |code: &str, detail: String, hint: &str| {
        faults.push(Fault::new(said.at("pooling", |j| j.pooling.is_some()), code, detail).hint(hint));
        None
    };
    let name = &output.name;
    match (spec.pooling, &modules.pooling) {
        (Some(Pooling::None), _) => {
            fault("no_pooling", format!("output {name:?} holds a vector a token"), "give pipeline.pooling: mean, cls, max or last")
        }
        (Some(pooling), _) => Some(pooling),
        (None, _) if modules.dense => fault(
            "unsupported_module",
            format!("modules.json puts a Dense layer behind output {name:?}, which the graph does not hold"),
            "export the model with all its modules, so that it gives sentence_embedding",
        ),
        (None, Some(Ok(pooling))) => Some(*pooling),
        (None, Some(Err(modes))) => {
            fault("unsupported_pooling", format!("1_Pooling/config.json asks for {modes}"), "give pipeline.pooling: mean, cls, max or last")
        }
        (None, None) => fault(
            "no_pooling",
            format!("output {name:?} holds a vector a token, and nothing says what makes one vector a record of them"),
            "give pipeline.pooling: mean, cls, max or last; it is in 1_Pooling/config.json of sentence-transformers' folders",
        ),
    }
}

fn check_dimensions(spec: &PipelineSpec, width: Option<u64>, output: &ValueInfo, said: &Said, faults: &mut Vec<Fault>) {
    let Some(wanted) = spec.dimensions else { return };
    let at = said.at("dimensions", |j| j.dimensions.is_some());
    if wanted == 0 {
        faults.push(Fault::new(at, "out_of_range", "dimensions is 0").hint("give a number of at least 1"));
    } else if let Some(width) = width.filter(|width| u64::from(wanted) > *width) {
        let detail = format!("dimensions is {wanted}, and output {:?} has vectors of {width}", output.name);
        faults.push(Fault::new(at, "out_of_range", detail).hint("give a smaller number, or leave it out"));
    }
}

/// What sentence-transformers does with a model's vectors.
struct Modules {
    /// The modes by name where none of ours is meant.
    pooling: Option<Result<Pooling, String>>,
    normalize: bool,
    dense: bool,
}

impl Modules {
    fn read(folder: &Folder) -> Self {
        let modules = folder.json("modules.json");
        let has = |kind: &str| {
            let types = modules.as_array().into_iter().flatten().filter_map(|module| module["type"].as_str());
            types.into_iter().any(|found| found.rsplit('.').next() == Some(kind))
        };
        Self { pooling: pooling(&folder.json("1_Pooling/config.json")), normalize: has("Normalize"), dense: has("Dense") }
    }
}

/// The one mode that is switched on: `{"pooling_mode_mean_tokens": true, …}`, or `{"pooling_mode": "mean", …}` as later versions write.
fn pooling(config: &Value) -> Option<Result<Pooling, String>> {
    let config = config.as_object()?;
    let switched = config.iter().filter(|(_, on)| **on == Value::Bool(true)).filter_map(|(key, _)| key.strip_prefix("pooling_mode_"));
    let named = config.get("pooling_mode").and_then(Value::as_str);
    let modes: Vec<&str> = match named {
        Some(mode) => vec![mode],
        None => switched.collect(),
    };
    Some(match modes.as_slice() {
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["cls_token" | "cls"] => Ok(Pooling::Cls),
        ["max_tokens" | "max"] => Ok(Pooling::Max),
        ["lasttoken"] => Ok(Pooling::Last),
        [] => return None,
        other => Err(other.join(" and ")),
    })
}
