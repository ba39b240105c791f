//! The signature of a graph: inputs that a caller must give, and outputs.

use std::collections::BTreeSet;

use super::onnx;
use crate::domain::{Dim, Dtype, Fault, Signature, ValueInfo, ValueType};

/// Reads the signature; every input and output that cannot be used is a fault.
pub(super) fn read(graph: &onnx::Graph, faults: &mut Vec<Fault>) -> Signature {
    let filled: BTreeSet<&str> = graph
        .initializers
        .iter()
        .chain(graph.sparse_initializers.iter().filter_map(|s| s.values.as_ref()))
        .map(|t| t.name.as_str())
        .collect();
    let inputs = graph.inputs.iter().filter(|i| !filled.contains(i.name.as_str()));
    let inputs: Vec<ValueInfo> = inputs.filter_map(|input| value(input, "input", faults)).collect();
    let outputs: Vec<ValueInfo> = graph.outputs.iter().filter_map(|output| value(output, "output", faults)).collect();
    let signature = Signature { inputs, outputs };
    check(&signature, faults);
    signature
}

fn check(signature: &Signature, faults: &mut Vec<Fault>) {
    let mut fault = |code: &str, detail: String, hint: &str| faults.push(Fault::new("/model", code, detail).hint(hint));
    if signature.inputs.is_empty() {
        fault("no_inputs", "the model has no input that records could fill".to_owned(), "export the model with its features as inputs");
    }
    if signature.outputs.is_empty() {
        fault("no_outputs", "the model has no output".to_owned(), "export the model with its predictions as outputs");
    }
    let mut batch = None;
    for input in &signature.inputs {
        let Some((_, shape)) = input.tensor() else {
            let detail = format!("input {:?} is no tensor of declared rank", input.name);
            fault("unsupported_input", detail, "export the model with tensor inputs whose first dimension is the batch");
            continue;
        };
        let Some(first) = shape.first() else {
            let detail = format!("input {:?} is a scalar and has no batch dimension", input.name);
            fault("no_batch_dimension", detail, "make it an initializer (a constant), or give it a leading batch dimension");
            continue;
        };
        match (first.fixed(), batch) {
            (None, _) => {}
            (Some(0), _) => fault(
                "no_batch_dimension",
                format!("input {:?} declares a batch of 0 records", input.name),
                "declare the batch dimension as dynamic",
            ),
            (Some(n), None) => batch = Some(n),
            (Some(n), Some(known)) if n == known => {}
            (Some(n), Some(known)) => {
                let detail = format!("input {:?} declares a batch of {n} records, another input one of {known}", input.name);
                fault("no_batch_dimension", detail, "declare the batch dimension of all inputs as dynamic, or with the same number");
            }
        }
    }
}

fn value(value: &onnx::Value, what: &str, faults: &mut Vec<Fault>) -> Option<ValueInfo> {
    match value.kind.as_ref().map_or(Err("it declares no type".to_owned()), value_type) {
        Ok(kind) => Some(ValueInfo { name: value.name.clone(), value: kind }),
        Err(why) => {
            let detail = format!("{what} {:?} cannot be used: {why}", value.name);
            faults
                .push(Fault::new("/model", "unsupported_type", detail).hint("export the model with tensors of numbers, booleans or texts"));
            None
        }
    }
}

fn value_type(kind: &onnx::Type) -> Result<ValueType, String> {
    if let Some(tensor) = &kind.tensor {
        let shape = tensor.shape.as_ref().map(|shape| shape.dims.iter().map(dim).collect());
        return Ok(ValueType::Tensor { dtype: dtype(tensor.element)?, shape });
    }
    if let Some(sequence) = &kind.sequence {
        let element = sequence.element.as_ref().ok_or("its elements have no type")?;
        return Ok(ValueType::Sequence { element: Box::new(value_type(element)?) });
    }
    if let Some(map) = &kind.map {
        let value = map.value.as_ref().ok_or("its values have no type")?;
        return Ok(ValueType::Map { key: dtype(map.key)?, value: Box::new(value_type(value)?) });
    }
    Err("it is neither a tensor nor a sequence nor a map".to_owned())
}

fn dim(dim: &onnx::Dimension) -> Dim {
    match dim.value {
        Some(value) if value >= 0 => Dim::Fixed(value as u64),
        // Converters write −1 for "unknown".
        _ => Dim::Dynamic(dim.name.clone().filter(|n| !n.is_empty())),
    }
}

/// `TensorProto.DataType` by number.
fn dtype(number: i32) -> Result<Dtype, String> {
    Ok(match number {
        1 => Dtype::Fp32,
        2 => Dtype::Uint8,
        3 => Dtype::Int8,
        4 => Dtype::Uint16,
        5 => Dtype::Int16,
        6 => Dtype::Int32,
        7 => Dtype::Int64,
        8 => Dtype::Bytes,
        9 => Dtype::Bool,
        10 => Dtype::Fp16,
        11 => Dtype::Fp64,
        12 => Dtype::Uint32,
        13 => Dtype::Uint64,
        14 | 15 => return Err("complex numbers are not supported".to_owned()),
        16 => return Err("bfloat16 is not supported; export the model with float or float16 inputs and outputs".to_owned()),
        other => return Err(format!("its element type has the number {other}, which is not supported")),
    })
}
