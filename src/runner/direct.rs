//! Tensors as a caller gives them → the model's outputs, with no pipeline around it: to try a model out.
//!
//! In: an [`InferTask`], its elements as JSON. Out: the outputs that are tensors, as JSON. Runs in a process of its own, which ends with it,
//! so that nothing here is kept and nobody else is in flight.

use std::{path::Path, sync::Arc};

use half::f16;
use serde_json::Value as Json;

use super::{
    featurize::Group,
    infer::{Interrupt, LoadOptions, ModelFile, Room, Session},
    protocol::{InferTask, InferredTensor},
    tensor::{Tensor, TensorData, Value},
};
use crate::domain::{Dtype, Problem};

/// Records in a call of the runtime at most, unless the model has a size of its own.
const BATCH: usize = 64;
/// Outputs travel in a frame, and then in an answer.
const MOST_BYTES: usize = 24 * 1024 * 1024;

/// What a model gave.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) tensors: Vec<InferredTensor>,
    /// Outputs that are no tensors.
    pub(super) left_out: Vec<String>,
}

/// Loads the model and runs it once.
pub(super) fn infer(task: InferTask) -> Result<Outputs, Problem> {
    let mut inputs = Vec::with_capacity(task.inputs.len());
    // In the order of the signature, whatever that of the request.
    for input in &task.signature.inputs {
        let Some(given) = task.inputs.iter().find(|given| given.name == input.name) else {
            return Err(invalid(format!("input {:?} is missing", input.name)));
        };
        let Some((dtype, _)) = input.tensor() else { return Err(invalid(format!("input {:?} is no tensor", input.name))) };
        let tensor = tensor(dtype, &given.shape, &given.data).map_err(|why| invalid(format!("input {:?}: {why}", input.name)))?;
        inputs.push((input.name.clone(), tensor));
    }
    let records = inputs.first().map_or(0, |(_, tensor)| tensor.shape.first().copied().unwrap_or_default());
    if records == 0 || inputs.iter().any(|(_, tensor)| tensor.shape.first() != Some(&records)) {
        return Err(invalid("the first dimension of every input is the number of records, the same for all and not 0".to_owned()));
    }
    let options = LoadOptions::of(&task.providers, Path::new(&task.model_dir));
    let file = ModelFile::open(Path::new(&task.model_dir).join(&task.model.file), &task.providers);
    let mut session = Session::load(&file, &task.signature, &options, &Arc::new(Room::default()))
        .map_err(|e| Problem::new("model_load_failed", "The model could not be loaded", e.to_string()))?;
    let group = Group { rows: (0..records as u32).collect(), inputs };
    let ran = session.run(group, BATCH, &Interrupt::default(), &mut |_| {});
    let (inferred, refused) =
        ran.map_err(|e| Problem::new("unexpected_output", "The model's output is not what it declares", e.to_string()))?;
    if let Some(refused) = refused.first() {
        let detail = format!("record {}: {}", refused.row, refused.detail);
        return Err(Problem::new(INFERENCE_FAILED, "The runtime refused the records", detail));
    }
    let mut outputs = Outputs { tensors: Vec::new(), left_out: Vec::new() };
    for output in &task.signature.outputs {
        let name = &output.name;
        let values = inferred.iter().filter_map(|batch| batch.outputs.iter().find(|(found, _)| found == name)).map(|(_, value)| value);
        match whole(name, values.collect())? {
            Some(tensor) => outputs.tensors.push(tensor),
            None => outputs.left_out.push(name.clone()),
        }
    }
    let bytes: usize = outputs.tensors.iter().map(|tensor| tensor.data.len()).sum();
    if bytes > MOST_BYTES {
        let detail = format!("the outputs have {bytes} bytes as JSON, and at most {MOST_BYTES} are answered; send fewer records");
        return Err(Problem::new(INVALID_TENSOR, "The outputs are too large", detail));
    }
    Ok(outputs)
}

/// The code of a problem that is the request's: its tensors are not what the model takes.
pub(crate) const INVALID_TENSOR: &str = "invalid_tensor";
/// The code of a problem that is most likely the request's: the runtime refused a record.
pub(crate) const INFERENCE_FAILED: &str = "inference_failed";

fn invalid(detail: String) -> Problem {
    Problem::new(INVALID_TENSOR, "A tensor is not what the model takes", detail)
}

/// A tensor from elements as JSON, flat or nested, row-major.
fn tensor(dtype: Dtype, shape: &[usize], data: &str) -> Result<Tensor, String> {
    let data: Json = serde_json::from_str(data).map_err(|e| e.to_string())?;
    let mut elements = Vec::new();
    flatten(&data, &mut elements);
    let wanted = shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n)).ok_or("its shape is too large")?;
    if elements.len() != wanted {
        return Err(format!("the shape {shape:?} has {wanted} elements, and data has {}", elements.len()));
    }
    macro_rules! whole_numbers {
        ($type:ty) => {
            collect(dtype, &elements, |e| {
                let signed = e.as_i64().and_then(|n| <$type>::try_from(n).ok());
                signed.or_else(|| e.as_u64().and_then(|n| <$type>::try_from(n).ok()))
            })?
        };
    }
    let single = |e: &Json| e.as_f64().map(|n| n as f32).filter(|n| n.is_finite());
    let data: TensorData = match dtype {
        Dtype::Bool => collect(dtype, &elements, Json::as_bool)?,
        Dtype::Uint8 => whole_numbers!(u8),
        Dtype::Uint16 => whole_numbers!(u16),
        Dtype::Uint32 => whole_numbers!(u32),
        Dtype::Uint64 => whole_numbers!(u64),
        Dtype::Int8 => whole_numbers!(i8),
        Dtype::Int16 => whole_numbers!(i16),
        Dtype::Int32 => whole_numbers!(i32),
        Dtype::Int64 => whole_numbers!(i64),
        Dtype::Fp16 => collect(dtype, &elements, |e| single(e).map(f16::from_f32).filter(|n| n.is_finite()))?,
        Dtype::Fp32 => collect(dtype, &elements, single)?,
        Dtype::Fp64 => collect(dtype, &elements, Json::as_f64)?,
        Dtype::Bytes => collect(dtype, &elements, |e| e.as_str().map(str::to_owned))?,
    };
    Ok(Tensor { shape: shape.to_vec(), data })
}

fn flatten<'d>(data: &'d Json, into: &mut Vec<&'d Json>) {
    match data {
        Json::Array(items) => items.iter().for_each(|item| flatten(item, into)),
        element => into.push(element),
    }
}

fn collect<T>(dtype: Dtype, elements: &[&Json], read: impl Fn(&Json) -> Option<T>) -> Result<TensorData, String>
where
    TensorData: From<Vec<T>>,
{
    let read = |(at, element): (usize, &&Json)| read(element).ok_or_else(|| format!("element {at}, {element}, is no {}", dtype.name()));
    elements.iter().enumerate().map(read).collect::<Result<Vec<T>, String>>().map(TensorData::from)
}

/// The batches of an output as one; `None` when they are no tensors.
fn whole(name: &str, batches: Vec<&Value>) -> Result<Option<InferredTensor>, Problem> {
    let mut whole: Option<InferredTensor> = None;
    for batch in batches {
        let Value::Tensor(tensor) = batch else { return Ok(None) };
        let elements = elements(&tensor.data)?;
        match &mut whole {
            None => {
                let datatype = tensor.data.dtype().name().to_owned();
                whole = Some(InferredTensor { name: name.to_owned(), datatype, shape: tensor.shape.clone(), data: elements });
            }
            Some(whole) if whole.shape[1..] == tensor.shape[1..] => {
                whole.shape[0] += tensor.shape[0];
                whole.data.extend([",", &elements]);
            }
            Some(_) => {
                let detail = format!("output {name:?} has another shape for some records than for others; send them one by one");
                return Err(Problem::new("unexpected_output", "The model's output is not what it declares", detail));
            }
        }
    }
    if let Some(whole) = &mut whole {
        whole.data = format!("[{}]", whole.data);
    }
    Ok(whole)
}

/// The elements of a tensor as JSON, without brackets. What JSON has no number for, as NaN, is null.
fn elements(data: &TensorData) -> Result<String, Problem> {
    let failed = |e: serde_json::Error| Problem::new("internal_error", "The runner met a fault of its own", e.to_string());
    let single: Vec<f32>;
    let text = match data {
        TensorData::Fp16(values) => {
            single = values.iter().map(|value| value.to_f32()).collect();
            serde_json::to_string(&single)
        }
        TensorData::Bool(values) => serde_json::to_string(values),
        TensorData::Uint8(values) => serde_json::to_string(values),
        TensorData::Uint16(values) => serde_json::to_string(values),
        TensorData::Uint32(values) => serde_json::to_string(values),
        TensorData::Uint64(values) => serde_json::to_string(values),
        TensorData::Int8(values) => serde_json::to_string(values),
        TensorData::Int16(values) => serde_json::to_string(values),
        TensorData::Int32(values) => serde_json::to_string(values),
        TensorData::Int64(values) => serde_json::to_string(values),
        TensorData::Fp32(values) => serde_json::to_string(values),
        TensorData::Fp64(values) => serde_json::to_string(values),
        TensorData::Bytes(values) => serde_json::to_string(values),
    };
    let text = text.map_err(failed)?;
    Ok(text[1..text.len() - 1].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_may_be_nested_and_must_be_of_the_type_and_as_many_as_the_shape_says() {
        let read = |dtype, shape: &[usize], data: &str| tensor(dtype, shape, data);
        let flat = read(Dtype::Fp32, &[2, 2], "[1, 2.5, -3, 4e1]").unwrap();
        assert_eq!(flat.data, TensorData::Fp32(vec![1.0, 2.5, -3.0, 40.0]));
        assert_eq!(read(Dtype::Fp32, &[2, 2], "[[1, 2.5], [-3, 4e1]]").unwrap(), flat);
        assert_eq!(read(Dtype::Uint64, &[1], "[18446744073709551615]").unwrap().data, TensorData::Uint64(vec![u64::MAX]));
        assert_eq!(read(Dtype::Int8, &[1], "[-128]").unwrap().data, TensorData::Int8(vec![-128]));
        assert_eq!(read(Dtype::Bytes, &[2, 1], "[[\"a\"], [\"\"]]").unwrap().data, TensorData::Bytes(vec!["a".to_owned(), String::new()]));
        for (dtype, shape, data, word) in [
            (Dtype::Fp32, &[2, 2][..], "[1, 2, 3]", "has 4 elements, and data has 3"),
            (Dtype::Int8, &[1], "[128]", "element 0, 128, is no INT8"),
            (Dtype::Int64, &[1], "[1.5]", "is no INT64"),
            (Dtype::Fp32, &[1], "[1e300]", "is no FP32"),
            (Dtype::Fp16, &[1], "[70000]", "is no FP16"),
            (Dtype::Fp32, &[2], "[1, null]", "element 1, null"),
            (Dtype::Bool, &[1], "[1]", "is no BOOL"),
            (Dtype::Bytes, &[1], "[1]", "is no BYTES"),
            (Dtype::Fp32, &[usize::MAX, 2], "[]", "too large"),
        ] {
            let error = read(dtype, shape, data).unwrap_err();
            assert!(error.contains(word), "{data}: {error}");
        }
    }

    #[test]
    fn what_json_has_no_number_for_is_null() {
        assert_eq!(elements(&TensorData::Fp32(vec![0.1, f32::NAN, f32::INFINITY])).unwrap(), "0.1,null,null");
        assert_eq!(elements(&TensorData::Bytes(vec!["a\"b".to_owned()])).unwrap(), "\"a\\\"b\"");
    }
}
