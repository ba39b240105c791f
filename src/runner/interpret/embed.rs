//! Embeddings: one vector a record, out of a vector a token where the model gives those.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, FixedSizeListArray, Float32Array, ListArray},
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, FieldRef},
};

use super::{InterpretError, take};
use crate::{
    domain::{
        Dim, Pipeline,
        pipeline::text::{Embedding, Pooling, Side},
    },
    runner::{
        featurize::Notes,
        tensor::{Tensor, TensorData, Value},
    },
};

/// Below this a vector counts as zero, and is left as it is: the bound of PyTorch's `normalize`.
const SHORTEST: f32 = 1e-12;

fn item() -> FieldRef {
    Arc::new(Field::new_list_field(DataType::Float32, false))
}

/// Elements of a vector, where the pipeline or the signature says so.
fn dimensions(pipeline: &Pipeline) -> Option<usize> {
    let embedding = pipeline.embedding.as_ref()?;
    let output = pipeline.signature.outputs.iter().find(|o| o.name == embedding.output)?;
    let declared = output.tensor().and_then(|(_, shape)| match (embedding.pooling, shape) {
        (Pooling::None, [_, rest @ ..]) if !rest.is_empty() => rest.iter().map(Dim::fixed).product(),
        (Pooling::None, _) => None,
        (_, shape) => shape.get(2).and_then(Dim::fixed),
    });
    embedding.dimensions.map(u64::from).or(declared).map(|n| n as usize)
}

pub(super) fn field(pipeline: &Pipeline) -> Field {
    let kind = match dimensions(pipeline) {
        Some(length) => DataType::FixedSizeList(item(), length as i32),
        None => DataType::List(item()),
    };
    Field::new("embedding", kind, true)
}

pub(super) fn array(pipeline: &Pipeline, outputs: &[(String, Value)], of: &[u32], notes: &Notes) -> Result<ArrayRef, InterpretError> {
    let embedding = pipeline.embedding.as_ref().ok_or_else(|| InterpretError("the pipeline names no embedding".to_owned()))?;
    let name = &embedding.output;
    let Value::Tensor(tensor) = take(outputs, name)? else { return Err(InterpretError(format!("output {name:?} is no tensor"))) };
    let values: std::borrow::Cow<'_, [f32]> = match &tensor.data {
        TensorData::Fp32(values) => values.as_slice().into(),
        TensorData::Fp16(values) => values.iter().map(|v| v.to_f32()).collect::<Vec<_>>().into(),
        TensorData::Fp64(values) => values.iter().map(|v| *v as f32).collect::<Vec<_>>().into(),
        other => return Err(InterpretError(format!("output {name:?} holds {}, where floats were expected", other.dtype().name()))),
    };
    let given = width(embedding, tensor, of.len())?;
    let kept = match embedding.dimensions.map(|n| n as usize) {
        Some(wanted) if wanted > given => {
            return Err(InterpretError(format!("output {name:?} gives vectors of {given}, of which {wanted} are to be kept")));
        }
        Some(wanted) => wanted,
        None => given,
    };
    if let Some(declared) = dimensions(pipeline).filter(|declared| *declared != kept) {
        return Err(InterpretError(format!("output {name:?} gives vectors of {kept}, but the model declares {declared}")));
    }
    let side = pipeline.text.as_ref().map_or(Side::Right, |text| text.padding.side);
    let mut vectors = Vec::with_capacity(of.len() * kept);
    let length = values.len() / of.len().max(1);
    for (row, values) in of.iter().zip(values.chunks_exact(length.max(1))) {
        let start = vectors.len();
        vectors.resize(start + kept, 0.0);
        let tokens = length / given.max(1);
        let real = notes.tokens.get(*row as usize).map_or(tokens, |n| (*n as usize).min(tokens));
        let from = match side {
            Side::Right => 0,
            Side::Left => tokens - real,
        };
        pool(embedding.pooling, &values[from * given..(from + real) * given], given, &mut vectors[start..]);
        if embedding.normalize {
            normalize(&mut vectors[start..]);
        }
    }
    let vectors: ArrayRef = Arc::new(Float32Array::from(vectors));
    Ok(match field(pipeline).data_type() {
        DataType::FixedSizeList(item, _) => {
            let length = i32::try_from(kept).map_err(|e| InterpretError(e.to_string()))?;
            Arc::new(FixedSizeListArray::try_new(item.clone(), length, vectors, None).map_err(|e| InterpretError(e.to_string()))?)
        }
        _ => Arc::new(ListArray::new(item(), OffsetBuffer::from_lengths(std::iter::repeat_n(kept, of.len())), vectors, None)),
    })
}

/// Elements of one vector of the output: of a record's, or of a token's where they are pooled.
fn width(embedding: &Embedding, tensor: &Tensor, rows: usize) -> Result<usize, InterpretError> {
    match (embedding.pooling, tensor.shape.as_slice()) {
        (Pooling::None, [n, rest @ ..]) if *n == rows && !rest.is_empty() => Ok(rest.iter().product()),
        (Pooling::Mean | Pooling::Cls | Pooling::Max | Pooling::Last, [n, _, width]) if *n == rows => Ok(*width),
        (pooling, shape) => {
            let wanted = if pooling == Pooling::None { "[N, D]" } else { "[N, tokens, D]" };
            Err(InterpretError(format!(
                "output {:?} has shape {shape:?} for {rows} records, where {wanted} was expected",
                embedding.output
            )))
        }
    }
}

/// One vector of the tokens' own, `width` elements each; of them the first `into.len()`.
fn pool(pooling: Pooling, tokens: &[f32], width: usize, into: &mut [f32]) {
    let kept = into.len();
    let mut tokens = tokens.chunks_exact(width.max(1));
    match pooling {
        Pooling::None | Pooling::Cls => tokens.next().into_iter().for_each(|token| into.copy_from_slice(&token[..kept])),
        Pooling::Last => tokens.next_back().into_iter().for_each(|token| into.copy_from_slice(&token[..kept])),
        Pooling::Mean => {
            let count = tokens.len().max(1) as f32;
            tokens.for_each(|token| into.iter_mut().zip(token).for_each(|(sum, v)| *sum += v));
            into.iter_mut().for_each(|sum| *sum /= count);
        }
        Pooling::Max => {
            into.fill(f32::NEG_INFINITY);
            tokens.for_each(|token| into.iter_mut().zip(token).for_each(|(most, v)| *most = most.max(*v)));
        }
    }
}

fn normalize(vector: &mut [f32]) {
    let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt().max(SHORTEST);
    vector.iter_mut().for_each(|v| *v /= length);
}
