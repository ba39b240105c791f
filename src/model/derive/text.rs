//! A folder with a tokenizer and a graph that takes tokens → how its texts become tensors.
//!
//! Reads what Hugging Face's libraries keep beside a model: `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`,
//! `config.json`, and `sentence_bert_config.json` of sentence-transformers.

use serde_json::Value;
use tokenizers::{PaddingDirection, PostProcessor, Tokenizer, TruncationDirection};

use super::{Folder, Said, names};
use crate::domain::{
    Dim, Dtype, Fault, PipelineSpec, Signature, Task, ValueInfo,
    pipeline::text::{Padding, Side, Text},
};

/// The tokenizer's file.
const TOKENIZER: &str = "tokenizer.json";
/// The column of texts when nothing names one.
const COLUMN: &str = "text";
/// Inputs that a text can fill.
const INPUTS: [&str; 4] = ["input_ids", "attention_mask", "token_type_ids", "position_ids"];
/// `model_max_length` beyond this says "no limit": libraries write 10^30 there.
const NO_LIMIT: f64 = 1e6;
/// Architectures whose positions begin behind that of the padding token, and whose tables of positions are so much longer.
const OFFSET_POSITIONS: [&str; 11] = [
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
    "camembert",
    "mpnet",
    "longformer",
    "ibert",
    "data2vec-text",
    "luke",
];

/// Whether records are texts: the graph takes tokens and there is a tokenizer, and no setting binds its inputs to columns of tokens.
fn takes_texts(signature: &Signature, folder: &Folder, spec: &PipelineSpec) -> bool {
    has_tokens(signature) && folder.holds(TOKENIZER) && spec.columns.as_ref().is_none_or(|columns| columns.is_empty())
}

fn has_tokens(signature: &Signature) -> bool {
    signature.inputs.iter().any(|input| input.name == "input_ids")
}

/// The task of a text model, by its files and outputs; `None` for other models.
pub(super) fn task(signature: &Signature, folder: &Folder, spec: &PipelineSpec) -> Option<Task> {
    if !takes_texts(signature, folder, spec) {
        return None;
    }
    let output = |name: &str| signature.outputs.iter().find(|o| o.name == name);
    let architectures = folder.config["architectures"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let classifies = architectures.into_iter().any(|name| name.ends_with("ForSequenceClassification"));
    let logits = output("logits").and_then(ValueInfo::tensor).is_some_and(|(_, shape)| shape.len() == 2);
    if classifies || logits && spec.labels.is_some() {
        // One number a record is a score by itself, as rerankers give it.
        let one = spec.labels.as_ref().is_some_and(|labels| labels.len() == 1)
            || signature.outputs.iter().any(|o| matches!(o.tensor(), Some((_, [_, Dim::Fixed(1)]))));
        return Some(if one { Task::Raw } else { Task::TextClassification });
    }
    let embeds = folder.holds("modules.json")
        || folder.holds("1_Pooling/config.json")
        || spec.pooling.is_some()
        || spec.normalize.is_some()
        || spec.dimensions.is_some()
        || ["sentence_embedding", "last_hidden_state", "token_embeddings"].iter().any(|name| output(name).is_some());
    Some(if embeds { Task::FeatureExtraction } else { Task::Raw })
}

/// How texts become the model's inputs; `None` for models that take none. What cannot be used is a fault.
pub(super) fn derive(
    signature: &Signature,
    folder: &Folder,
    spec: &PipelineSpec,
    task: Task,
    said: &Said,
    faults: &mut Vec<Fault>,
) -> Option<Text> {
    if !takes_texts(signature, folder, spec) {
        if has_tokens(signature) && task == Task::TextClassification && !folder.holds(TOKENIZER) {
            let detail = format!("the model takes tokens, and there is no {TOKENIZER} in its folder");
            faults.push(Fault::new("/model", "no_tokenizer", detail).hint("copy the tokenizer's files beside the model"));
        } else if spec.text.is_some() {
            let detail = format!("the model takes no tokens of texts: its inputs are {}", names(&signature.inputs));
            faults.push(
                Fault::new(said.at("text", |j| j.text.is_some()), "no_token_inputs", detail)
                    .hint("name the column of a string input with pipeline.columns"),
            );
        }
        return None;
    }
    let before = faults.len();
    check_inputs(signature, faults);
    let tokenizer = match Tokenizer::from_file(folder.path.join(TOKENIZER)) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            let detail = format!("{TOKENIZER} in the model's folder cannot be used: {error}");
            faults.push(Fault::new("/model", "invalid_tokenizer", detail).hint("save the tokenizer again with a current library"));
            return None;
        }
    };
    let files = Files { tokenizer_config: folder.json("tokenizer_config.json"), special_tokens: folder.json("special_tokens_map.json") };
    let given = spec.text.clone().unwrap_or_default();
    let pad_id = files.pad_id(&tokenizer, &folder.config);
    let fixed = fixed_length(signature);
    if pad_id.is_none() && fixed.is_some() && !signature.inputs.iter().any(|input| input.name == "attention_mask") {
        let detail = "the model takes texts of one length and no attention mask, and no file names a padding token".to_owned();
        faults.push(Fault::new("/model", "no_pad_token", detail).hint("add \"pad_token\" to tokenizer_config.json"));
    }
    let kind = folder.config["model_type"].as_str().unwrap_or_default();
    let first_position = if OFFSET_POSITIONS.contains(&kind) { pad_id.unwrap_or_default() + 1 } else { 0 };
    let special = tokenizer.get_post_processor().map_or(0, |p| p.added_tokens(given.pair.is_some())) as u64;
    let lengths = Lengths { fixed, positions: positions(&folder.config, first_position), special };
    let max_length = lengths.resolve(given.max_length, folder, &files, said, faults);
    (faults.len() == before).then(|| Text {
        tokenizer: TOKENIZER.to_owned(),
        column: given.column.unwrap_or_else(|| COLUMN.to_owned()),
        pair: given.pair,
        max_length,
        truncation_side: files.truncation_side(&tokenizer),
        padding: Padding {
            side: files.padding_side(&tokenizer),
            // Behind an attention mask it does not matter what stands there.
            id: pad_id.unwrap_or_default(),
            type_id: tokenizer.get_padding().map_or(0, |p| p.pad_type_id),
        },
        first_position,
    })
}

fn check_inputs(signature: &Signature, faults: &mut Vec<Fault>) {
    for input in &signature.inputs {
        let mut fault = |detail: String, hint: &str| faults.push(Fault::new("/model", "unsupported_input", detail).hint(hint));
        if !INPUTS.contains(&input.name.as_str()) {
            let detail = format!("the model's input {:?} is none that a text fills; those are {}", input.name, INPUTS.join(", "));
            fault(detail, "export the encoder alone, without a decoder and without caches");
        } else if !matches!(input.tensor(), Some((Dtype::Int64 | Dtype::Int32, [_, _]))) {
            fault(format!("the model's input {:?} is no INT64 or INT32 tensor [N, tokens]", input.name), "export the model again");
        }
    }
}

/// The length that the graph fixes, if it fixes one.
fn fixed_length(signature: &Signature) -> Option<u64> {
    signature.inputs.iter().filter_map(|input| input.tensor()?.1.get(1)?.fixed()).min()
}

/// How many tokens the model has positions for.
fn positions(config: &Value, first: u32) -> Option<u64> {
    config["max_position_embeddings"].as_u64()?.checked_sub(first.into()).filter(|n| *n > 0)
}

/// What bounds the tokens of a text.
struct Lengths {
    fixed: Option<u64>,
    positions: Option<u64>,
    /// Tokens that the tokenizer adds to each text.
    special: u64,
}

impl Lengths {
    fn resolve(&self, given: Option<u32>, folder: &Folder, files: &Files, said: &Said, faults: &mut Vec<Fault>) -> Option<u32> {
        let at = said.at("text/max_length", |j| j.text.as_ref().is_some_and(|t| t.max_length.is_some()));
        let most = self.fixed.into_iter().chain(self.positions).min();
        let length = match given.map(u64::from) {
            Some(given) => {
                if let Some(most) = most.filter(|most| *most < given) {
                    let detail = format!("max_length is {given}, and the model takes at most {most} tokens");
                    faults.push(Fault::new(&at, "out_of_range", detail).hint("give a smaller max_length, or leave it out"));
                }
                Some(given)
            }
            None => {
                let sentence = folder.json("sentence_bert_config.json")["max_seq_length"].as_f64();
                let said = sentence.or(files.tokenizer_config["model_max_length"].as_f64());
                let said = said.filter(|n| (1.0..=NO_LIMIT).contains(n)).map(|n| n as u64);
                said.into_iter().chain(most).min()
            }
        };
        if let Some(length) = length.filter(|length| *length <= self.special) {
            let detail = format!("a max_length of {length} leaves no room for a text: the tokenizer adds {} tokens to each", self.special);
            faults.push(Fault::new(&at, "out_of_range", detail).hint("give a larger max_length"));
        }
        length.map(|length| length as u32)
    }
}

/// What stands beside the tokenizer's own file.
struct Files {
    tokenizer_config: Value,
    special_tokens: Value,
}

impl Files {
    /// The padding token's id: by its name where a file gives one, else by its number.
    fn pad_id(&self, tokenizer: &Tokenizer, config: &Value) -> Option<u32> {
        // A token is a text, or an object with its content.
        let name = |file: &Value| file["pad_token"].as_str().or(file["pad_token"]["content"].as_str()).map(str::to_owned);
        let by_name = [&self.tokenizer_config, &self.special_tokens].into_iter().filter_map(name);
        by_name
            .filter_map(|name| tokenizer.token_to_id(&name))
            .next()
            .or_else(|| tokenizer.get_padding().map(|p| p.pad_id))
            .or_else(|| u32::try_from(config["pad_token_id"].as_u64()?).ok())
            .or_else(|| ["[PAD]", "<pad>"].iter().find_map(|name| tokenizer.token_to_id(name)))
    }

    fn padding_side(&self, tokenizer: &Tokenizer) -> Side {
        let own = tokenizer.get_padding().map(|p| if matches!(p.direction, PaddingDirection::Left) { Side::Left } else { Side::Right });
        side(&self.tokenizer_config["padding_side"]).or(own).unwrap_or_default()
    }

    fn truncation_side(&self, tokenizer: &Tokenizer) -> Side {
        let own = tokenizer.get_truncation().map(|t| if t.direction == TruncationDirection::Left { Side::Left } else { Side::Right });
        side(&self.tokenizer_config["truncation_side"]).or(own).unwrap_or_default()
    }
}

fn side(value: &Value) -> Option<Side> {
    match value.as_str()? {
        "left" => Some(Side::Left),
        "right" => Some(Side::Right),
        _ => None,
    }
}
