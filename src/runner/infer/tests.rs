//! The runtime itself, on small models.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::{
    domain::{Dim, Dtype, Signature, ValueInfo, ValueType},
    runner::{
        featurize::Group,
        tensor::{Tensor, TensorData, Value},
    },
};

pub(super) fn runtime() {
    static LOADED: OnceLock<String> = OnceLock::new();
    LOADED.get_or_init(|| {
        let library = std::env::var_os("ORT_DYLIB_PATH").expect("ORT_DYLIB_PATH names the ONNX Runtime library: run scripts/test");
        init_runtime(Path::new(&library)).expect("it loads")
    });
}

fn signature(dims: &[i64]) -> Signature {
    let dim = |d: &i64| if *d < 0 { Dim::Dynamic(None) } else { Dim::Fixed(*d as u64) };
    let value = |name: &str| ValueInfo {
        name: name.to_owned(),
        value: ValueType::Tensor { dtype: Dtype::Fp32, shape: Some(dims.iter().map(dim).collect()) },
    };
    Signature { inputs: vec![value("x")], outputs: vec![value("y")] }
}

fn session(model: &str, dims: &[i64]) -> Session {
    runtime();
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models").join(model);
    let options = LoadOptions::of(&["cpu".to_owned()], file.parent().expect("a folder"));
    Session::load(&ModelFile::open(file, &options.providers), &signature(dims), &options, &Arc::default()).expect("it loads")
}

fn group(values: Vec<f32>, width: usize) -> Group {
    let rows = values.len() / width;
    let tensor = Tensor { shape: vec![rows, width], data: TensorData::Fp32(values) };
    Group { rows: (0..rows as u32).collect(), inputs: vec![("x".to_owned(), tensor)] }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn halving_isolates_exactly_the_records_that_fail(bad in prop::collection::btree_set(0u32..100, 0..12), batch_size in 1usize..40) {
        let mut session = session("broken/fails-on-negative.onnx", &[-1, 1]);
        let values = (0..100).map(|i| if bad.contains(&i) { -50.0 } else { (i % 10) as f32 }).collect();
        let (inferred, refused) = session.run(group(values, 1), batch_size, &Interrupt::default(), &mut |_| {}).unwrap();
        let found: std::collections::BTreeSet<u32> = refused.iter().map(|r| r.row).collect();
        prop_assert_eq!(&found, &bad);
        prop_assert!(refused.iter().all(|r| !r.detail.is_empty()));
        let rows: Vec<u32> = inferred.iter().flat_map(|i| i.rows.iter().copied()).collect();
        prop_assert_eq!(rows, (0..100).filter(|i| !bad.contains(i)).collect::<Vec<_>>());
    }
}

#[test]
fn a_fixed_batch_is_filled_up_and_the_filling_is_dropped() {
    let values: Vec<f32> = (0..44).map(|i| i as f32 / 10.0).collect();
    let outputs = |model: &str, batch: i64| -> Vec<f32> {
        let mut session = session(model, &[batch, 4]);
        let (inferred, refused) = session.run(group(values.clone(), 4), 1000, &Interrupt::default(), &mut |_| {}).unwrap();
        assert!(refused.is_empty());
        let read = inferred.into_iter().flat_map(|i| match i.outputs.into_iter().next().unwrap().1 {
            Value::Tensor(Tensor { data: TensorData::Fp32(values), shape }) => {
                assert_eq!(shape[0], i.rows.len());
                values
            }
            other => panic!("{other:?}"),
        });
        read.collect()
    };
    let (one, eight) = (outputs("odd/fixed-batch-1/model.onnx", 1), outputs("odd/fixed-batch-8/model.onnx", 8));
    assert_eq!(one.len(), 33);
    assert!(one.iter().zip(&eight).all(|(a, b)| (a - b).abs() < 1e-5));
}

#[test]
fn an_endless_run_is_ended_from_another_thread() {
    let mut session = session("broken/endless-loop.onnx", &[-1, 4]);
    let interrupt = Arc::new(Interrupt::default());
    let other = interrupt.clone();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        other.interrupt();
    });
    let ended = session.run(group(vec![1.0; 4], 4), 10, &interrupt, &mut |_| {});
    assert!(matches!(ended, Err(Error::Interrupted)), "{ended:?}");
    thread.join().unwrap();
    let later = session.run(group(vec![1.0; 4], 4), 10, &interrupt, &mut |_| {});
    assert!(matches!(later, Err(Error::Interrupted)), "it stays set");
}

#[test]
fn outputs_without_a_row_a_record_are_the_models_fault() {
    let mut session = session("broken/wrong-rows.onnx", &[-1, 4]);
    let ended = session.run(group(vec![1.0; 8], 4), 10, &Interrupt::default(), &mut |_| {});
    assert!(matches!(&ended, Err(Error::Output(detail)) if detail.contains("\"y\"") && detail.contains("2 records")), "{ended:?}");
}

#[test]
fn what_does_not_load_says_why() {
    runtime();
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/broken/cycle.onnx");
    let load = |providers: &[&str]| {
        let providers: Vec<String> = providers.iter().map(|p| (*p).to_owned()).collect();
        let options = LoadOptions::of(&providers, file.parent().expect("a folder"));
        Session::load(&ModelFile::open(file.clone(), &options.providers), &signature(&[-1, 4]), &options, &Arc::default())
            .unwrap_err()
            .to_string()
    };
    assert!(load(&["cpu"]).contains("acyclic"), "{}", load(&["cpu"]));
    assert!(load(&["cuda"]).contains("cuda"), "{}", load(&["cuda"]));
    assert!(load(&["quantum"]).contains("cpu, cuda, tensorrt, openvino"));
}
