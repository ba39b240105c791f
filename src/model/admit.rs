//! What is checked of an ONNX file before the runtime sees it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path},
};

use prost::Message;

use super::onnx::{Attribute, Function, Graph, Model, Node, Tensor};
use crate::domain::Fault;

/// Operator domains that the runtime knows.
const DOMAINS: [&str; 7] =
    ["", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft", "com.microsoft.nchwc"];

/// A piece of data beside the model file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ExternalData {
    /// Relative to the model file's folder.
    pub(super) location: String,
    /// Bytes that the file must have.
    pub(super) end: u64,
}

/// Parses the file and checks what can be checked without running it.
pub(super) fn admit(bytes: &[u8], max_nesting: usize, faults: &mut Vec<Fault>) -> Option<(Graph, Vec<ExternalData>)> {
    let refuse = |code: &str, detail: String| Fault::new("/model", code, detail).hint("export the model again, as an ONNX file");
    if bytes.is_empty() {
        faults.push(refuse("invalid_model", "the model file is empty".to_owned()));
        return None;
    }
    let model = match Model::decode(bytes) {
        Ok(model) => model,
        Err(error) => {
            faults.push(refuse("invalid_model", format!("the model file is not ONNX, is cut off, or is nested too deeply: {error}")));
            return None;
        }
    };
    let Some(graph) = model.graph else {
        faults.push(refuse("invalid_model", "the model file holds no graph".to_owned()));
        return None;
    };
    let local: BTreeSet<&str> = model.functions.iter().map(|f| f.domain.as_str()).collect();
    let mut visit = Visit { local, max_nesting, domains: BTreeSet::new(), too_deep: false, tensors: Vec::new() };
    visit.graph(&graph, 0);
    model.functions.iter().for_each(|function| visit.nodes(&function.nodes, 0));

    if visit.too_deep {
        faults.push(refuse("nested_too_deeply", format!("subgraphs are nested more than {max_nesting} deep")));
    }
    if !visit.domains.is_empty() {
        let domains: Vec<&str> = visit.domains.iter().copied().collect();
        let detail = format!("the model uses operators of domains that the runtime does not know: {}", domains.join(", "));
        faults.push(Fault::new("/model", "unknown_operators", detail).hint("export the model with standard operators only"));
    }
    if let Some(name) = recursion(&model.functions) {
        faults.push(refuse("recursive_function", format!("the model's function {name:?} calls itself")));
    }
    let external = visit.tensors.iter().filter_map(|tensor| external(tensor, faults)).collect();
    Some((graph, external))
}

struct Visit<'m> {
    local: BTreeSet<&'m str>,
    max_nesting: usize,
    domains: BTreeSet<&'m str>,
    too_deep: bool,
    tensors: Vec<&'m Tensor>,
}

impl<'m> Visit<'m> {
    fn graph(&mut self, graph: &'m Graph, depth: usize) {
        if depth > self.max_nesting {
            self.too_deep = true;
            return;
        }
        self.tensors.extend(graph.initializers.iter().chain(graph.sparse_initializers.iter().filter_map(|s| s.values.as_ref())));
        self.nodes(&graph.nodes, depth);
    }

    fn nodes(&mut self, nodes: &'m [Node], depth: usize) {
        for node in nodes {
            let domain = node.domain.as_str();
            if !DOMAINS.contains(&domain) && !self.local.contains(domain) {
                self.domains.insert(domain);
            }
            node.attributes.iter().for_each(|attribute| self.attribute(attribute, depth));
        }
    }

    fn attribute(&mut self, attribute: &'m Attribute, depth: usize) {
        self.tensors.extend(attribute.tensor.iter().chain(&attribute.tensors));
        attribute.graph.iter().chain(&attribute.graphs).for_each(|graph| self.graph(graph, depth + 1));
    }
}

/// A local function that, through others perhaps, calls itself.
fn recursion(functions: &[Function]) -> Option<&str> {
    let by_name: BTreeMap<(&str, &str), &Function> = functions.iter().map(|f| ((f.domain.as_str(), f.name.as_str()), f)).collect();
    functions.iter().map(|f| f.name.as_str()).zip(functions).find_map(|(name, function)| {
        let mut seen = BTreeSet::new();
        let mut open = vec![function];
        while let Some(next) = open.pop() {
            for node in &next.nodes {
                let Some(called) = by_name.get(&(node.domain.as_str(), node.op_type.as_str())) else { continue };
                if std::ptr::eq(*called, function) {
                    return Some(name);
                }
                if seen.insert((called.domain.as_str(), called.name.as_str())) {
                    open.push(called);
                }
            }
        }
        None
    })
}

/// Where a tensor's data lies, if not in the model file itself; a path that leads out of the folder is a fault.
fn external(tensor: &Tensor, faults: &mut Vec<Fault>) -> Option<ExternalData> {
    if tensor.data_location != 1 {
        return None;
    }
    let entry = |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let number = |key: &str| entry(key).and_then(|v| v.parse::<u64>().ok()).unwrap_or_default();
    let location = entry("location").unwrap_or_default();
    let inside = !location.is_empty()
        && !location.contains(['\\', '\0'])
        && Path::new(location).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    let end = number("offset").checked_add(number("length"));
    match (inside, end) {
        (true, Some(end)) => Some(ExternalData { location: location.trim_start_matches("./").to_owned(), end }),
        _ => {
            let detail =
                format!("the weights {:?} are said to lie at {location:?}, which is no place inside the model's folder", tensor.name);
            faults.push(
                Fault::new("/model", "external_data_outside", detail).hint("keep external data in the model's folder, by relative path"),
            );
            None
        }
    }
}
