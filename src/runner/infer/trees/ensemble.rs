//! An ensemble of trees as it lies in memory: checked once, so that walking it needs no checks.

use std::collections::HashMap;

use super::{finish::Finish, graph::Node};

/// Records that are walked down a tree together: as many as the columns of which, with a tree, fit into the first cache.
pub(super) const BLOCK: usize = 256;
/// Columns that a node can name; its highest bit says where a missing value goes.
const MOST_COLUMNS: usize = 1 << 15;
const MISSING_GOES_TRUE: u16 = 1 << 15;
/// A wider input is nothing that records are drawn for: whoever wrote the model says its width.
const WIDEST: usize = 1 << 20;
/// Nodes of a tree that a node can name.
const MOST_NODES: usize = 1 << 16;

/// Why an ensemble is left to the runtime's own operator.
pub(super) type Unsupported = String;

/// All trees of one node of a model.
#[derive(Debug)]
pub(super) struct Ensemble {
    pub(super) trees: Vec<Tree>,
    /// Columns of the input that the trees look at, in the order of their numbers in the nodes.
    pub(super) columns: Vec<usize>,
    /// Columns that the input has to have, at least.
    pub(super) width: usize,
    /// Sums that the leaves add to.
    pub(super) targets: usize,
    /// Whether any node sends missing values (NaN) another way than a comparison with them does.
    pub(super) tracks_missing: bool,
    pub(super) finish: Finish,
}

/// One tree, level by level from its root, which is node 0.
#[derive(Debug)]
pub(super) struct Tree {
    /// Of this tree alone, and never empty: each names a column of [`Ensemble::columns`] and nodes of this tree.
    pub(super) nodes: Vec<Packed>,
    pub(super) depth: usize,
    pub(super) leaves: Leaves,
}

/// What the leaves of a tree add, by node.
#[derive(Debug)]
pub(super) enum Leaves {
    /// A number each, all to the same sum.
    Single { target: usize, values: Vec<f32> },
    /// Any number of them each, to any sums: a part of `pairs`.
    Many { spans: Vec<(u32, u32)>, pairs: Vec<(u32, f32)> },
}

/// A node in eight bytes: its threshold, its column, and the first of its two children, which stand side by side; who is not above the
/// threshold goes to the second. A leaf's threshold is NaN, which nothing compares with, and its first child is itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packed(u64);

impl Packed {
    fn new(threshold: f32, column: u16, child: u16) -> Self {
        Self(u64::from(threshold.to_bits()) | u64::from(column) << 32 | u64::from(child) << 48)
    }

    #[inline(always)]
    pub(super) fn threshold(self) -> f32 {
        f32::from_bits(self.0 as u32)
    }

    #[inline(always)]
    pub(super) fn column<const MISSING: bool>(self) -> usize {
        let column = (self.0 >> 32) as u16;
        usize::from(if MISSING { column & !MISSING_GOES_TRUE } else { column })
    }

    #[inline(always)]
    pub(super) fn missing_goes_true(self) -> bool {
        (self.0 >> 47) & 1 == 1
    }

    #[inline(always)]
    pub(super) fn child(self) -> u32 {
        (self.0 >> 48) as u32
    }
}

/// A node's attributes, `nodes_*` and `class_*` or `target_*` of ONNX.
struct Attributes<'n> {
    node: &'n Node,
}

impl<'n> Attributes<'n> {
    fn ints(&self, name: &str) -> &'n [i64] {
        self.find(name).map_or(&[], |a| &a.ints)
    }

    fn floats(&self, name: &str) -> &'n [f32] {
        self.find(name).map_or(&[], |a| &a.floats)
    }

    fn find(&self, name: &str) -> Option<&'n super::graph::Attribute> {
        self.node.attributes.iter().find(|a| a.name == name)
    }
}

/// A node as it stands in the model.
struct Raw {
    split: Option<Split>,
    weights: Vec<(u32, f32)>,
}

/// Whoever is at most `threshold` goes to `low`, all others to `high`.
struct Split {
    column: usize,
    threshold: f32,
    low: i64,
    high: i64,
    missing_goes_low: bool,
}

impl Ensemble {
    /// Reads the attributes of a `TreeEnsembleClassifier` or `TreeEnsembleRegressor`.
    ///
    /// # Errors
    /// What there is in it that is not walked here, in words that complete "it has …" or "its …".
    pub(super) fn read(node: &Node) -> Result<Self, Unsupported> {
        let attributes = Attributes { node };
        if let Some(tensor) = node.attributes.iter().find(|a| a.name.ends_with("_as_tensor")) {
            return Err(format!("it has doubles, in {}", tensor.name));
        }
        let mut finish = Finish::read(node)?;
        let prefix = if node.op_type == "TreeEnsembleClassifier" { "class" } else { "target" };
        let targets = finish.targets();
        let mut columns = Columns::default();
        let (order, mut trees) = raw(&attributes, &mut columns)?;
        weigh(&attributes, prefix, targets, &mut trees)?;
        let mut built = Vec::with_capacity(order.len());
        for tree in order {
            built.push(Tree::new(&trees[&tree], targets)?);
        }
        finish.fits(&built)?;
        let width = columns.used.iter().max().map_or(0, |column| column + 1);
        let tracks_missing = built.iter().flat_map(|tree| &tree.nodes).any(|node| node.missing_goes_true());
        Ok(Self { trees: built, columns: columns.used, width, targets, tracks_missing, finish })
    }
}

/// Columns in the order in which they were first met.
#[derive(Default)]
struct Columns {
    used: Vec<usize>,
    numbers: HashMap<i64, usize>,
}

impl Columns {
    fn number(&mut self, column: i64) -> Result<usize, Unsupported> {
        if let Some(number) = self.numbers.get(&column) {
            return Ok(*number);
        }
        let at = usize::try_from(column).ok().filter(|at| *at < WIDEST).ok_or_else(|| format!("its node names column {column}"))?;
        if self.used.len() == MOST_COLUMNS {
            return Err(format!("it looks at more than {MOST_COLUMNS} columns"));
        }
        self.numbers.insert(column, self.used.len());
        self.used.push(at);
        Ok(self.used.len() - 1)
    }
}

type Trees = HashMap<i64, (i64, HashMap<i64, Raw>)>;

/// All nodes, by tree and number with the number of the root; and the trees in the order in which they are added up, that of their first nodes.
fn raw(attributes: &Attributes<'_>, columns: &mut Columns) -> Result<(Vec<i64>, Trees), Unsupported> {
    let trees = attributes.ints("nodes_treeids");
    let numbers = attributes.ints("nodes_nodeids");
    let features = attributes.ints("nodes_featureids");
    let values = attributes.floats("nodes_values");
    let lows = attributes.ints("nodes_truenodeids");
    let highs = attributes.ints("nodes_falsenodeids");
    let missing = attributes.ints("nodes_missing_value_tracks_true");
    let modes: &[Vec<u8>] = attributes.find("nodes_modes").map_or(&[], |a| &a.texts);
    let lengths = [numbers.len(), features.len(), values.len(), lows.len(), highs.len(), modes.len()];
    if trees.is_empty() || lengths.iter().any(|length| *length != trees.len()) || ![0, trees.len()].contains(&missing.len()) {
        return Err("its attributes of nodes differ in length".to_owned());
    }
    let mut order: Vec<i64> = Vec::new();
    let mut found: Trees = HashMap::new();
    for at in 0..trees.len() {
        let tree = trees[at];
        if order.last() != Some(&tree) {
            order.push(tree);
        }
        let missing_goes_true = missing.get(at).is_some_and(|flag| *flag == 1);
        let split = match modes[at].as_slice() {
            b"LEAF" => None,
            mode => {
                let column = columns.number(features[at])?;
                Some(split(mode, column, values[at], lows[at], highs[at], missing_goes_true)?)
            }
        };
        let (_, nodes) = found.entry(tree).or_insert_with(|| (numbers[at], HashMap::new()));
        if nodes.insert(numbers[at], Raw { split, weights: Vec::new() }).is_some() {
            return Err(format!("it has node {} of tree {tree} twice", numbers[at]));
        }
    }
    if order.len() != found.len() {
        return Err("its trees' nodes are mixed".to_owned());
    }
    Ok((order, found))
}

/// Every comparison as "at most": numbers are below a threshold if they are at most the next one below it.
fn split(mode: &[u8], column: usize, value: f32, yes: i64, no: i64, missing_goes_true: bool) -> Result<Split, Unsupported> {
    if !value.is_finite() {
        return Err(format!("it has a threshold of {value}"));
    }
    // A comparison with a missing value is false, whichever it is.
    let (threshold, low, high, true_is_low) = match mode {
        b"BRANCH_LEQ" => (value, yes, no, true),
        b"BRANCH_LT" => (value.next_down(), yes, no, true),
        b"BRANCH_GT" => (value, no, yes, false),
        b"BRANCH_GTE" => (value.next_down(), no, yes, false),
        other => return Err(format!("it has nodes of mode {}", String::from_utf8_lossy(other))),
    };
    if !threshold.is_finite() {
        return Err("it has a threshold below all numbers".to_owned());
    }
    Ok(Split { column, threshold, low, high, missing_goes_low: missing_goes_true == true_is_low })
}

/// Gives the leaves what they add.
fn weigh(attributes: &Attributes<'_>, prefix: &str, targets: usize, trees: &mut Trees) -> Result<(), Unsupported> {
    let of = |name: &str| format!("{prefix}_{name}");
    let (tree_ids, node_ids) = (attributes.ints(&of("treeids")), attributes.ints(&of("nodeids")));
    let (ids, weights) = (attributes.ints(&of("ids")), attributes.floats(&of("weights")));
    if [node_ids.len(), ids.len(), weights.len()].iter().any(|length| *length != tree_ids.len()) {
        return Err("its attributes of leaves differ in length".to_owned());
    }
    for at in 0..tree_ids.len() {
        let target = u32::try_from(ids[at]).ok().filter(|target| (*target as usize) < targets);
        let target = target.ok_or_else(|| format!("it has a leaf for number {} of {targets}", ids[at]))?;
        let node = trees.get_mut(&tree_ids[at]).and_then(|(_, nodes)| nodes.get_mut(&node_ids[at]));
        let node = node.ok_or_else(|| format!("it has no node {} in tree {}", node_ids[at], tree_ids[at]))?;
        if node.split.is_some() {
            return Err("it has weights in nodes that are no leaves".to_owned());
        }
        node.weights.push((target, weights[at]));
    }
    Ok(())
}

impl Tree {
    fn new((root, nodes): &(i64, HashMap<i64, Raw>), targets: usize) -> Result<Self, Unsupported> {
        // Nodes in the order of their places, with their depths: a node's children come to stand side by side behind all before them.
        let mut order = vec![(*root, 0)];
        let mut packed: Vec<Packed> = Vec::with_capacity(nodes.len());
        while let Some((number, depth)) = order.get(packed.len()).copied() {
            let node = nodes.get(&number).ok_or_else(|| format!("it has no node {number}, which another one names"))?;
            if order.len() + 2 > MOST_NODES {
                return Err(format!("it has a tree of more than {MOST_NODES} nodes"));
            }
            packed.push(match &node.split {
                None => Packed::new(f32::NAN, 0, packed.len() as u16),
                Some(split) => {
                    let child = order.len() as u16;
                    // Missing values go to the first child but for the highest bit of the column.
                    order.extend([(split.high, depth + 1), (split.low, depth + 1)]);
                    let flag = if split.missing_goes_low { MISSING_GOES_TRUE } else { 0 };
                    Packed::new(split.threshold, split.column as u16 | flag, child)
                }
            });
        }
        // Not all of it may be reached, and a loop has no end. (What two nodes name stands twice, and gives the same.)
        if packed.len() != nodes.len() {
            return Err("it has a tree that is none".to_owned());
        }
        let weights: Vec<&[(u32, f32)]> = order.iter().map(|(number, _)| nodes[number].weights.as_slice()).collect();
        let is_leaf: Vec<bool> = order.iter().map(|(number, _)| nodes[number].split.is_none()).collect();
        let depth = order.last().map_or(0, |(_, depth)| *depth);
        Ok(Self { nodes: packed, depth, leaves: Leaves::new(&weights, &is_leaf, targets)? })
    }
}

impl Leaves {
    fn new(weights: &[&[(u32, f32)]], is_leaf: &[bool], targets: usize) -> Result<Self, Unsupported> {
        let leaves = || weights.iter().zip(is_leaf).filter(|(_, is_leaf)| **is_leaf).map(|(weights, _)| *weights);
        let target = leaves().find_map(|weights| weights.first()).map_or(0, |(target, _)| *target);
        if leaves().all(|weights| matches!(weights, [(at, _)] if *at == target)) {
            let values = weights.iter().map(|weights| weights.first().map_or(0.0, |(_, value)| *value)).collect();
            return Ok(Self::Single { target: target as usize, values });
        }
        if targets == 1 {
            return Err("it has leaves with none or several weights".to_owned());
        }
        let mut pairs = Vec::new();
        let mut spans = Vec::with_capacity(weights.len());
        for weights in weights {
            let start = pairs.len() as u32;
            pairs.extend_from_slice(weights);
            spans.push((start, pairs.len() as u32));
        }
        Ok(Self::Many { spans, pairs })
    }

    /// Whether every leaf adds to this sum.
    pub(super) fn always_add_to(&self, target: usize, nodes: &[Packed]) -> bool {
        match self {
            Self::Single { target: at, .. } => *at == target,
            Self::Many { spans, pairs } => spans
                .iter()
                .zip(nodes)
                .filter(|(_, node)| node.threshold().is_nan())
                .all(|((start, end), _)| pairs[*start as usize..*end as usize].iter().any(|(at, _)| *at as usize == target)),
        }
    }

    /// Whether any leaf adds to this sum.
    pub(super) fn ever_add_to(&self, target: usize) -> bool {
        match self {
            Self::Single { target: at, .. } => *at == target,
            Self::Many { pairs, .. } => pairs.iter().any(|(at, _)| *at as usize == target),
        }
    }
}
