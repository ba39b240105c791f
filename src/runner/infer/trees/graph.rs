//! Finds a model's ensembles of trees in its file, and puts other nodes in their place; all else stays as it is, byte for byte.
//!
//! Source: <https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3>.

use std::ops::Range;

use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field},
};

use crate::model::onnx::{Dimension, Shape, TensorType, Type, Value};

/// Fields of ONNX's messages, by number.
const MODEL_IR_VERSION: u32 = 1;
const MODEL_GRAPH: u32 = 7;
const MODEL_OPSETS: u32 = 8;
const MODEL_FUNCTIONS: u32 = 25;
const GRAPH_NODES: u32 = 1;

/// The domain of the operators that the runtime is taught.
pub(super) const DOMAIN: &str = "nightshift";
/// The domain of ONNX's own trees.
const ML: &str = "ai.onnx.ml";
/// A classifier's attribute: labels that are texts.
pub(super) const LABELS: &str = "classlabels_strings";
/// The attribute of a node of [`DOMAIN`]: which ensemble it is.
pub(super) const ENSEMBLE: &str = "ensemble";

/// A node, as far as it is looked at.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(super) inputs: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(super) outputs: Vec<String>,
    #[prost(string, tag = "4")]
    pub(super) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(super) attributes: Vec<Attribute>,
    #[prost(string, tag = "7")]
    pub(super) domain: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Attribute {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(int64, tag = "3")]
    pub(super) int: i64,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) text: Vec<u8>,
    #[prost(float, repeated, tag = "7")]
    pub(super) floats: Vec<f32>,
    #[prost(int64, repeated, tag = "8")]
    pub(super) ints: Vec<i64>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    pub(super) texts: Vec<Vec<u8>>,
    #[prost(int32, tag = "20")]
    pub(super) kind: i32,
}

/// Kinds of attributes.
pub(super) const INT: i32 = 2;
pub(super) const INTS: i32 = 7;
#[cfg(test)]
pub(super) const TEXT: i32 = 3;
#[cfg(test)]
pub(super) const FLOATS: i32 = 6;
#[cfg(test)]
pub(super) const TEXTS: i32 = 8;

#[derive(Clone, PartialEq, Message)]
struct Opset {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(int64, tag = "2")]
    version: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Name {
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(string, tag = "7")]
    domain: String,
}

/// A graph of one node, and what it takes to be a model.
#[derive(Clone, PartialEq, Message)]
struct Alone {
    #[prost(bytes = "vec", repeated, tag = "1")]
    nodes: Vec<Vec<u8>>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "11")]
    inputs: Vec<Value>,
    #[prost(message, repeated, tag = "12")]
    outputs: Vec<Value>,
}

/// Element types of [`TensorType`].
pub(super) const FLOAT: i32 = 1;
pub(super) const INT64: i32 = 7;
pub(super) const STRING: i32 = 8;

/// Nodes of a model that are ensembles of trees, and where they are.
pub(super) struct Found {
    /// Of the graph within the file.
    graph: Range<usize>,
    /// Of each node's message within the file.
    pub(super) nodes: Vec<Range<usize>>,
    /// Whether the model defines operators itself; any name may mean one of those.
    pub(super) functions: bool,
}

/// Looks through the nodes of the main graph.
///
/// # Errors
/// The file is no protobuf message.
pub(super) fn find(model: &[u8]) -> Result<Option<Found>, DecodeError> {
    let (mut graph, mut functions) = (None, false);
    for field in fields(model) {
        let field = field?;
        functions |= field.tag == MODEL_FUNCTIONS;
        if field.tag == MODEL_GRAPH && graph.is_none() {
            graph = Some(field.value);
        }
    }
    let Some(graph) = graph else { return Ok(None) };
    let mut nodes = Vec::new();
    for field in fields(&model[graph.clone()]) {
        let field = field?;
        let value = graph.start + field.value.start..graph.start + field.value.end;
        if field.tag == GRAPH_NODES && is_ensemble(&model[value.clone()])? {
            nodes.push(value);
        }
    }
    Ok((!nodes.is_empty()).then_some(Found { graph, nodes, functions }))
}

fn is_ensemble(node: &[u8]) -> Result<bool, DecodeError> {
    let name = Name::decode(node)?;
    Ok(name.domain == ML && ["TreeEnsembleClassifier", "TreeEnsembleRegressor"].contains(&name.op_type.as_str()))
}

/// The model with other nodes in the places of some of those that were found: node `at` becomes operator `op_type` of [`DOMAIN`], with the number
/// of its ensemble. Such an operator says numbers for labels; a second node makes the texts of them.
pub(super) fn replaced(model: &[u8], found: &Found, with: &[(usize, &'static str)]) -> Result<Vec<u8>, DecodeError> {
    let opset = version_of(model, ML)?;
    let mut graph = Vec::with_capacity(found.graph.len());
    let mut done = found.graph.start;
    for (number, (at, op_type)) in with.iter().enumerate() {
        let node = &found.nodes[*at];
        let old = Node::decode(&model[node.clone()])?;
        let attribute = Attribute { name: ENSEMBLE.to_owned(), int: number as i64, kind: INT, ..Attribute::default() };
        let labels = old.attributes.into_iter().find(|a| a.name == LABELS && !a.texts.is_empty());
        let mut new = Node {
            attributes: vec![attribute],
            op_type: (*op_type).to_owned(),
            domain: DOMAIN.to_owned(),
            inputs: old.inputs,
            outputs: old.outputs,
        };
        // What stands between the last node and this one's key and length.
        graph.extend_from_slice(&model[done..key_of(model, done, node)?]);
        let encoder = labels.map(|labels| {
            let texts = std::mem::replace(&mut new.outputs[0], format!("{DOMAIN}.label.{number}"));
            encoder(labels, new.outputs[0].clone(), texts, opset)
        });
        for node in [Some(new), encoder].into_iter().flatten() {
            put(&mut graph, GRAPH_NODES, &node.encode_to_vec());
        }
        done = node.end;
    }
    graph.extend_from_slice(&model[done..found.graph.end]);
    let mut out = Vec::with_capacity(model.len());
    for field in fields(model) {
        let field = field?;
        if field.value == found.graph {
            put(&mut out, MODEL_GRAPH, &graph);
        } else {
            out.extend_from_slice(&model[field.whole]);
        }
    }
    put(&mut out, MODEL_OPSETS, &Opset { domain: DOMAIN.to_owned(), version: 1 }.encode_to_vec());
    Ok(out)
}

/// The node that makes labels of their numbers: from version 2 on a map, before that a list.
fn encoder(labels: Attribute, numbers: String, texts: String, opset: i64) -> Node {
    let attributes = if opset < 2 {
        vec![Attribute { name: "classes_strings".to_owned(), ..labels }]
    } else {
        let ints = (0..labels.texts.len() as i64).collect();
        let keys = Attribute { name: "keys_int64s".to_owned(), ints, kind: INTS, ..Attribute::default() };
        vec![keys, Attribute { name: "values_strings".to_owned(), ..labels }]
    };
    let op_type = "LabelEncoder".to_owned();
    Node { inputs: vec![numbers], outputs: vec![texts], op_type, attributes, domain: ML.to_owned() }
}

/// The version of a domain's operators that a model asks for.
fn version_of(model: &[u8], domain: &str) -> Result<i64, DecodeError> {
    for field in fields(model) {
        let field = field?;
        if field.tag == MODEL_OPSETS {
            let opset = Opset::decode(&model[field.value])?;
            if opset.domain == domain {
                return Ok(opset.version);
            }
        }
    }
    Ok(1)
}

/// Where the field that ends with `value` begins, of those from `from` on.
fn key_of(model: &[u8], from: usize, value: &Range<usize>) -> Result<usize, DecodeError> {
    let last = fields(&model[from..value.end]).last().transpose()?;
    Ok(last.map_or(from, |field| from + field.whole.start))
}

/// A model of this node alone: its first input, a table of floats, and its outputs of these element types.
pub(super) fn alone(model: &[u8], node: &Range<usize>, elements: &[i32]) -> Result<Vec<u8>, DecodeError> {
    let names = Node::decode(&model[node.clone()])?;
    let value = |name: &String, element: i32, dims: &[&str]| {
        let dims = dims.iter().map(|dim| Dimension { name: Some((*dim).to_owned()), value: None }).collect();
        let tensor = TensorType { element, shape: (!names.outputs.contains(name)).then_some(Shape { dims }) };
        Value { name: name.clone(), kind: Some(Type { tensor: Some(tensor), ..Type::default() }) }
    };
    let graph = Alone {
        nodes: vec![model[node.clone()].to_vec()],
        name: "trees".to_owned(),
        inputs: names.inputs.iter().map(|name| value(name, FLOAT, &["records", "columns"])).collect(),
        outputs: names.outputs.iter().zip(elements).map(|(name, element)| value(name, *element, &[])).collect(),
    };
    let mut out = Vec::new();
    for field in fields(model) {
        let field = field?;
        if [MODEL_IR_VERSION, MODEL_OPSETS].contains(&field.tag) {
            out.extend_from_slice(&model[field.whole]);
        }
    }
    put(&mut out, MODEL_GRAPH, &graph.encode_to_vec());
    Ok(out)
}

fn put(out: &mut Vec<u8>, tag: u32, message: &[u8]) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(message.len() as u64, out);
    out.extend_from_slice(message);
}

/// A field of a message: the whole of it, and its value without key and length.
struct Field {
    tag: u32,
    whole: Range<usize>,
    value: Range<usize>,
}

/// The fields of a message in their order; one that cannot be read is the last.
fn fields(message: &[u8]) -> impl Iterator<Item = Result<Field, DecodeError>> {
    let mut rest = message;
    std::iter::from_fn(move || {
        let start = message.len() - rest.len();
        let field = (!rest.is_empty()).then(|| field(&mut rest, start))?;
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

/// The field that `rest` begins with, which starts at `start` of its message.
fn field(rest: &mut &[u8], start: usize) -> Result<Field, DecodeError> {
    let length = rest.len();
    let (tag, wire) = decode_key(rest)?;
    let key = start + length - rest.len();
    let mut ahead = *rest;
    skip_field(wire, tag, rest, DecodeContext::default())?;
    let end = start + length - rest.len();
    // What was skipped is as long as it says.
    let value = if wire == WireType::LengthDelimited { end - decode_varint(&mut ahead)? as usize..end } else { key..end };
    Ok(Field { tag, whole: start..end, value })
}

/// A model of these nodes and of nothing that a model has to have beside them but its versions.
#[cfg(test)]
pub(super) fn of(nodes: &[Node]) -> Vec<u8> {
    of_graph(nodes.iter().map(|node| (GRAPH_NODES, node.encode_to_vec())))
}

/// A model of these fields of a graph.
#[cfg(test)]
pub(super) fn of_graph(fields: impl Iterator<Item = (u32, Vec<u8>)>) -> Vec<u8> {
    let mut out = Vec::new();
    encode_key(MODEL_IR_VERSION, WireType::Varint, &mut out);
    encode_varint(8, &mut out);
    for (domain, version) in [("", 17), (ML, 3)] {
        put(&mut out, MODEL_OPSETS, &Opset { domain: domain.to_owned(), version }.encode_to_vec());
    }
    let mut graph = Vec::new();
    for (tag, message) in fields {
        put(&mut graph, tag, &message);
    }
    put(&mut out, MODEL_GRAPH, &graph);
    out
}

/// The inputs and outputs of a model's graph, as fields of it.
#[cfg(test)]
pub(super) fn declarations(model: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let graph = fields(model).map(|field| field.unwrap()).find(|field| field.tag == MODEL_GRAPH).unwrap().value;
    let declared = fields(&model[graph.clone()]).map(|field| field.unwrap()).filter(|field| [11, 12].contains(&field.tag));
    declared.map(|field| (field.tag, model[graph.clone()][field.value].to_vec())).collect()
}
