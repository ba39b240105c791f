//! Ensembles of every kind against the runtime's own operator, to the bit.

use std::path::PathBuf;

use proptest::prelude::*;

use super::{
    graph::{Attribute, FLOATS, INTS, TEXT, TEXTS},
    *,
};
use crate::runner::infer::tests::runtime;

fn floats(name: &str, floats: Vec<f32>) -> Attribute {
    Attribute { name: name.to_owned(), floats, kind: FLOATS, ..Attribute::default() }
}

fn ints(name: &str, ints: Vec<i64>) -> Attribute {
    Attribute { name: name.to_owned(), ints, kind: INTS, ..Attribute::default() }
}

fn text(name: &str, text: &str) -> Attribute {
    Attribute { name: name.to_owned(), text: text.as_bytes().to_vec(), kind: TEXT, ..Attribute::default() }
}

/// What an ensemble is drawn from.
#[derive(Debug, Clone)]
struct Drawn {
    seed: u64,
    trees: i64,
    splits: usize,
    modes: Vec<&'static str>,
    missing: bool,
    kind: Kind,
    based: bool,
}

#[derive(Debug, Clone)]
enum Kind {
    Regress {
        targets: i64,
        average: bool,
    },
    /// `weights_for`: classes that the leaves have weights for; all leaves for all of them, or each tree for one.
    Classify {
        labels: Vec<i64>,
        weights_for: Vec<i64>,
        together: bool,
        transform: &'static str,
        positive: bool,
    },
}

fn kinds() -> impl Strategy<Value = Kind> {
    let transforms = prop::sample::select(vec!["NONE", "LOGISTIC", "SOFTMAX"]);
    let regress = (1..4i64, any::<bool>()).prop_map(|(targets, average)| Kind::Regress { targets, average });
    let two = (transforms.clone(), any::<bool>(), any::<bool>(), 0..3usize).prop_map(|(transform, positive, together, side)| {
        let weights_for: Vec<i64> = [vec![0], vec![1], vec![0, 1]][side].clone();
        Kind::Classify { labels: vec![0, 1], weights_for, together, transform, positive }
    });
    let many = (3..6i64, transforms, any::<bool>(), any::<bool>()).prop_map(|(classes, transform, positive, together)| {
        let weights_for = (0..classes).collect();
        Kind::Classify { labels: (0..classes).map(|class| class * 10 - 7).collect(), weights_for, together, transform, positive }
    });
    prop_oneof![regress, two, many]
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let modes = prop::sample::subsequence(vec!["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT"], 1..=4);
    (any::<u64>(), prop_oneof![3 => 1..40i64, 1 => 75..140i64], 0..70usize, modes, any::<bool>(), kinds(), any::<bool>())
        .prop_map(|(seed, trees, splits, modes, missing, kind, based)| Drawn { seed, trees, splits, modes, missing, kind, based })
}

impl Drawn {
    fn node(&self) -> Node {
        let mut state = self.seed | 1;
        let mut next = move |below: usize| {
            // Marsaglia, "Xorshift RNGs", 2003.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 16) as usize % below
        };
        let (prefix, op_type, targets) = match &self.kind {
            Kind::Regress { targets, .. } => ("target", "TreeEnsembleRegressor", (0..*targets).collect::<Vec<_>>()),
            Kind::Classify { weights_for, .. } => ("class", "TreeEnsembleClassifier", weights_for.clone()),
        };
        let together = matches!(self.kind, Kind::Regress { .. } | Kind::Classify { together: true, .. });
        let positive = matches!(self.kind, Kind::Classify { positive: true, .. });
        // Each with its tree and its number.
        let (mut nodes, mut leaves) = (Vec::new(), Vec::new());
        // As many trees as there are classes at least, so that each has one.
        for tree in 0..self.trees.max(targets.len() as i64) {
            // Children of each node; leaves are split until there are enough.
            let mut children: Vec<Option<(usize, usize)>> = vec![None];
            for _ in 0..next(self.splits + 1) {
                let leaves: Vec<usize> = (0..children.len()).filter(|at| children[*at].is_none()).collect();
                let at = leaves[next(leaves.len())];
                children[at] = Some((children.len(), children.len() + 1));
                children.extend([None, None]);
            }
            for (at, children) in children.iter().enumerate() {
                let threshold = (next(2001) as f32 - 1000.0) / [1.0, 7.0, 1000.0][next(3)];
                let mode = if children.is_some() { self.modes[next(self.modes.len())] } else { "LEAF" };
                let (yes, no) = children.unwrap_or_default();
                nodes.push((tree, at as i64, next(9) as i64, threshold, mode, yes as i64, no as i64, next(2) as i64));
                if children.is_none() {
                    let own = [targets[tree as usize % targets.len()]];
                    for target in if together { &targets[..] } else { &own } {
                        let weight = (next(2001) as f32 - if positive { 0.0 } else { 1000.0 }) / 777.0;
                        leaves.push((tree, at as i64, *target, weight));
                    }
                }
            }
        }
        let mut attributes = vec![
            ints("nodes_treeids", nodes.iter().map(|n| n.0).collect()),
            ints("nodes_nodeids", nodes.iter().map(|n| n.1).collect()),
            ints("nodes_featureids", nodes.iter().map(|n| n.2).collect()),
            floats("nodes_values", nodes.iter().map(|n| n.3).collect()),
            Attribute {
                name: "nodes_modes".to_owned(),
                texts: nodes.iter().map(|n| n.4.as_bytes().to_vec()).collect(),
                kind: TEXTS,
                ..Attribute::default()
            },
            ints("nodes_truenodeids", nodes.iter().map(|n| n.5).collect()),
            ints("nodes_falsenodeids", nodes.iter().map(|n| n.6).collect()),
            ints(&format!("{prefix}_treeids"), leaves.iter().map(|l| l.0).collect()),
            ints(&format!("{prefix}_nodeids"), leaves.iter().map(|l| l.1).collect()),
            ints(&format!("{prefix}_ids"), leaves.iter().map(|l| l.2).collect()),
            floats(&format!("{prefix}_weights"), leaves.iter().map(|l| l.3).collect()),
        ];
        if self.missing {
            attributes.push(ints("nodes_missing_value_tracks_true", nodes.iter().map(|n| n.7).collect()));
        }
        let mut base = |n: usize| floats("base_values", (0..n).map(|_| (next(2001) as f32 - 1000.0) / 500.0).collect());
        let outputs: &[&str] = match &self.kind {
            Kind::Regress { targets, average } => {
                attributes.push(Attribute { name: "n_targets".to_owned(), int: *targets, kind: graph::INT, ..Attribute::default() });
                attributes.push(text("aggregate_function", if *average { "AVERAGE" } else { "SUM" }));
                if self.based {
                    attributes.push(base(*targets as usize));
                }
                &["y"]
            }
            Kind::Classify { labels, weights_for, transform, .. } => {
                attributes.push(ints("classlabels_int64s", labels.clone()));
                attributes.push(text("post_transform", transform));
                if self.based {
                    attributes.push(base(if weights_for == &[0] && self.seed.is_multiple_of(2) { 1 } else { labels.len() }));
                }
                &["label", "scores"]
            }
        };
        Node {
            inputs: vec!["x".to_owned()],
            outputs: outputs.iter().map(|name| (*name).to_owned()).collect(),
            op_type: op_type.to_owned(),
            attributes,
            domain: "ai.onnx.ml".to_owned(),
        }
    }
}

/// A model of this node, without the runtime's wishes for inputs and outputs.
fn read(node: &Node) -> Result<Ensemble, Unsupported> {
    runtime();
    let model = graph::of(std::slice::from_ref(node));
    let found = graph::find(&model).expect("a message").expect("an ensemble");
    read_one(&model, &found.nodes[0]).map(|(_, ensemble)| ensemble)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn drawn_ensembles_give_the_bits_of_the_runtimes_own_operator(drawn in drawn()) {
        prop_assert_eq!(read(&drawn.node()).map(|_| ()), Ok(()));
    }

    #[test]
    fn sums_are_the_same_with_vectors_of_any_size_and_for_any_number_of_records(drawn in drawn(), records in 0usize..600) {
        let ensemble = Ensemble::read(&drawn.node()).unwrap();
        let width = ensemble.width.max(1) + 2;
        let x = ensemble.drawn(records, width);
        let sums = ensemble.sums(&x, width);
        let bits = |sums: &[f32]| sums.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>();
        for add_up in [walk::add_up::<16>, walk::add_up::<32>, walk::add_up::<64>] {
            let mut other = vec![0.0; sums.len()];
            add_up(&ensemble, &x, width, &mut other);
            prop_assert_eq!(bits(&other), bits(&sums));
        }
        // One by one.
        for (record, sums) in x.chunks(width).zip(sums.chunks(ensemble.targets)) {
            prop_assert_eq!(bits(&ensemble.sums(record, width)), bits(sums));
        }
    }
}

fn usual() -> Node {
    let kind = Kind::Classify { labels: vec![0, 1], weights_for: vec![0], together: true, transform: "LOGISTIC", positive: false };
    Drawn { seed: 77, trees: 9, splits: 20, modes: vec!["BRANCH_LEQ"], missing: false, kind, based: true }.node()
}

fn changed(name: &str, change: impl FnOnce(&mut Attribute)) -> Node {
    let mut node = usual();
    change(node.attributes.iter_mut().find(|a| a.name == name).expect(name));
    node
}

#[test]
fn an_ensemble_that_differs_in_one_threshold_is_found_out() {
    runtime();
    let model = graph::of(&[usual()]);
    let found = graph::find(&model).unwrap().unwrap();
    let alone = graph::alone(&model, &found.nodes[0], &[graph::INT64, graph::FLOAT]).unwrap();
    let mut session = session_of(&alone).unwrap();
    assert_eq!(Ensemble::read(&usual()).unwrap().agrees(&mut session, &[]), Ok(()));
    // The threshold of the first root, moved to the next number.
    let other = changed("nodes_values", |a| a.floats[0] = a.floats[0].next_up());
    let why = Ensemble::read(&other).unwrap().agrees(&mut session, &[]).unwrap_err();
    assert!(why.contains(" and not "), "{why}");
}

#[test]
fn what_is_unusual_is_left_to_the_runtime_and_the_reason_is_said() {
    let split =
        |node: &Node| node.attributes.iter().find(|a| a.name == "nodes_modes").unwrap().texts.iter().position(|m| m != b"LEAF").unwrap();
    let at = split(&usual());
    for (node, why) in [
        (changed("nodes_modes", |a| a.texts[at] = b"BRANCH_EQ".to_vec()), "it has nodes of mode BRANCH_EQ"),
        (changed("post_transform", |a| a.text = b"PROBIT".to_vec()), "its post_transform is PROBIT"),
        (changed("nodes_values", |a| a.floats[at] = f32::INFINITY), "it has a threshold of inf"),
        (changed("nodes_truenodeids", |a| a.ints[at] = 999), "it has no node 999"),
        (changed("nodes_truenodeids", |a| a.ints[at] = at as i64), "it has a tree "),
        (changed("nodes_values", |a| a.floats.truncate(3)), "its attributes of nodes differ in length"),
        (changed("class_weights", |a| a.floats.truncate(3)), "its attributes of leaves differ in length"),
        (changed("class_ids", |a| a.ints[0] = 2), "it has a leaf for number 2 of 2"),
        (changed("class_ids", |a| a.ints[0] = 1), "some records get no weight for class"),
        (changed("nodes_featureids", |a| a.ints[at] = -1), "its node names column -1"),
        (changed("nodes_featureids", |a| a.ints[at] = i64::MAX), "its node names column 9223372036854775807"),
    ] {
        let said = Ensemble::read(&node).map(|_| ()).unwrap_err();
        assert!(said.starts_with(why), "{said:?} is not {why:?}");
    }
}

#[test]
fn models_of_the_usual_libraries_are_walked_here() {
    runtime();
    let models = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models");
    for model in ["churn-lightgbm", "churn-pipeline", "loan-default-xgboost", "loan-default-pipeline", "loan-anomaly"] {
        let file = models.join(model).join("model.onnx");
        let Found::Walked(trees) = Trees::find(&file) else { panic!("{model} has trees that are left to the runtime") };
        let session = trees.session(super::super::session::builder().unwrap());
        assert!(session.is_ok(), "{model}: {:?}", session.err());
    }
}

/// `TensorProto` and `ValueInfoProto`, as far as it takes.
#[derive(Clone, PartialEq, Message)]
struct Weights {
    #[prost(int64, repeated, tag = "1")]
    dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    element: i32,
    #[prost(string, tag = "8")]
    name: String,
    #[prost(message, repeated, tag = "13")]
    external: Vec<Entry>,
    #[prost(int32, tag = "14")]
    location: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[test]
fn external_data_come_from_the_folder_of_the_model_and_from_nowhere_else() {
    runtime();
    let folder = tempfile::tempdir().unwrap();
    let node = usual();
    let model = graph::of(std::slice::from_ref(&node));
    let found = graph::find(&model).unwrap().unwrap();
    // Inputs and outputs as the check of a node declares them; its scores are renamed, and come out plus what lies in the file.
    let add = Node {
        inputs: vec!["inner".to_owned(), "w".to_owned()],
        outputs: vec!["scores".to_owned()],
        op_type: "Add".to_owned(),
        ..Node::default()
    };
    let trees = Node { outputs: vec!["label".to_owned(), "inner".to_owned()], ..node };
    let weights = Weights {
        dims: vec![1],
        element: graph::FLOAT,
        name: "w".to_owned(),
        external: vec![Entry { key: "location".to_owned(), value: "weights.bin".to_owned() }],
        location: 1,
    };
    let declared = graph::alone(&model, &found.nodes[0], &[graph::INT64, graph::FLOAT]).unwrap();
    let declared = graph::declarations(&declared);
    let nodes = [trees, add].map(|node| (1, node.encode_to_vec()));
    let model = graph::of_graph(nodes.into_iter().chain([(2, b"g".to_vec()), (5, weights.encode_to_vec())]).chain(declared));
    std::fs::write(folder.path().join("model.onnx"), model).unwrap();
    let Found::Walked(trees) = Trees::find(&folder.path().join("model.onnx")) else { panic!("its trees are left to the runtime") };
    let session = |trees: &Trees| trees.session(super::super::session::builder().unwrap()).map(drop).map_err(|e| e.to_string());
    let missing = session(&trees).unwrap_err();
    assert!(missing.contains("weights.bin"), "{missing}");
    std::fs::write(folder.path().join("weights.bin"), 1.5f32.to_le_bytes()).unwrap();
    assert_eq!(session(&trees), Ok(()));
}
