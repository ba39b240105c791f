//! Record batch → named input tensors.
//!
//! In: a batch's columns and the [`Pipeline`]. Out: tensors for groups of rows that can go into the runtime together, and
//! error rows for records that do not fit the model's inputs.

mod bind;
mod cells;
mod decimal;
mod element;
mod image;
#[cfg(test)]
mod tests;
mod text;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    path::Path,
    sync::Arc,
};

use arrow::array::RecordBatch;

use crate::{
    domain::{Dtype, Missing, Pipeline, pipeline::image::Geometry},
    each_tensor_data,
    runner::tensor::{Tensor, TensorData},
};
use bind::{BoundInput, Column, Encoding, Fill, Tabular};
use cells::{CellError, List, lists, scalars};
use element::{Element, with_element};
use image::Pictures;

pub(super) use cells::excerpt;
pub use image::ImageLimits;

/// Rows of a table that are made into a tensor column by column before the next rows are.
const BLOCK_ROWS: usize = 256;

/// The columns that the pipeline reads; `None` when that depends on the data (a single `[N, F]` input that binds by count).
pub fn wanted_columns(pipeline: &Pipeline) -> Option<BTreeSet<String>> {
    if let Some(text) = &pipeline.text {
        return Some(text.pair.iter().chain([&text.column]).cloned().collect());
    }
    if let Some(image) = &pipeline.image {
        return Some(BTreeSet::from([image.column.clone()]));
    }
    if let Some(features) = &pipeline.features {
        return Some(features.iter().cloned().collect());
    }
    let inputs = &pipeline.signature.inputs;
    let by_count = match inputs.as_slice() {
        [only] => only.tensor().is_some_and(|(_, shape)| shape.len() == 2 && shape[1].fixed() != Some(1)),
        _ => false,
    };
    if by_count {
        return None;
    }
    Some(inputs.iter().map(|input| pipeline.columns.get(&input.name).unwrap_or(&input.name).clone()).collect())
}

/// The texts of a column, whatever writes them: a row each, `None` for a missing value, and for what is no text an excerpt of it.
/// `None` when there is no such column.
pub fn texts(columns: &RecordBatch, name: &str) -> Option<Vec<Result<Option<String>, String>>> {
    let column = bind::find(columns, name)?;
    let mut texts = Vec::with_capacity(columns.num_rows());
    let put = &mut |_, cell: Result<_, CellError>| texts.push(cell.map_err(|(excerpt, _)| excerpt));
    scalars::<String>(columns.column(column.index), 0..columns.num_rows(), column.encoding, put);
    Some(texts)
}

/// Why a schema does not fit a model: every record of the object becomes an error row with this code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct BindError {
    /// `missing_column`, `column_type`, `ambiguous_columns` …
    pub code: &'static str,
    /// Shows both lists: what the model wants and what the data has.
    pub detail: String,
}

/// Rows whose tensors have the same shape beyond the batch dimension.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Indices into the batch, ascending; the tensors' leading dimension runs over them.
    pub rows: Vec<u32>,
    /// One for each model input, in signature order.
    pub inputs: Vec<(String, Tensor)>,
}

/// A row that cannot be made into tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// Index into the batch.
    pub row: u32,
    /// `missing_value`, `invalid_number`, `out_of_range`, `wrong_length` …
    pub code: &'static str,
    /// Names column and value (a short excerpt).
    pub detail: String,
}

/// What became of a batch: every row is in exactly one group or one error.
#[derive(Debug, Default)]
pub struct Featurized {
    /// Rows that can go into the runtime together.
    pub groups: Vec<Group>,
    /// Rows that cannot.
    pub errors: Vec<RowError>,
    /// What `interpret` needs to know of the rows.
    pub notes: Notes,
}

/// What was noted of each row of a batch, by its index; a list is empty where the pipeline notes nothing of that kind.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Notes {
    /// Where each picture lies in its tensor; `None` for rows with errors.
    pub geometry: Vec<Option<Geometry>>,
    /// Tokens of each text, special ones included, padding not; 0 for rows with errors.
    pub tokens: Vec<u32>,
    /// Tokens of padding in all tensors together.
    pub padding_tokens: u64,
}

/// What featurizing needs of a model's folder beside the graph: loaded once a model, shared by all workers.
#[derive(Debug, Default)]
pub struct Assets {
    tokenizer: Option<Arc<text::Tokenizer>>,
    /// Most tokens of texts in a call of the runtime, padding included, unless a single record has more.
    most_tokens: u64,
}

/// On a processor, what a transformer keeps of a call has to stay in the caches: calls of 4,096 tokens took a third longer.
const TOKENS_ON_CPU: u64 = 512;
/// A device is to be filled.
const TOKENS_ON_DEVICE: u64 = 16_384;

impl Assets {
    /// Loads what the pipeline names, for a model that runs on a processor or on a device.
    ///
    /// # Errors
    /// A sentence that names the file.
    pub fn load(folder: &Path, pipeline: &Pipeline, on_device: bool) -> Result<Self, String> {
        let tokenizer = pipeline.text.as_ref().map(|text| {
            let loaded = text::Tokenizer::load(&folder.join(&text.tokenizer));
            loaded.map(Arc::new).map_err(|e| format!("{} cannot be used: {e}", text.tokenizer))
        });
        Ok(Self { tokenizer: tokenizer.transpose()?, most_tokens: if on_device { TOKENS_ON_DEVICE } else { TOKENS_ON_CPU } })
    }

    /// Whether everything is here that a pipeline of this model needs.
    pub fn serve(&self, pipeline: &Pipeline) -> bool {
        pipeline.text.is_none() || self.tokenizer.is_some()
    }
}

/// How a schema's columns become the model's inputs: resolved once for each schema.
#[derive(Debug, Clone)]
pub struct Binding(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Tabular(Tabular),
    Text(Box<text::Text>),
    Image(Box<Pictures>),
}

impl Binding {
    /// Binds a schema to the pipeline's inputs. `first` is the first batch of that schema, `batch_size` the most records of a call of
    /// the runtime.
    ///
    /// # Errors
    /// [`BindError`] when it does not fit.
    pub fn resolve(
        pipeline: &Pipeline,
        first: &RecordBatch,
        assets: &Assets,
        limits: &ImageLimits,
        batch_size: usize,
    ) -> Result<Self, BindError> {
        if let Some(section) = &pipeline.text {
            return text::Text::resolve(pipeline, section, first, assets, batch_size).map(|text| Self(Kind::Text(Box::new(text))));
        }
        if let Some(image) = &pipeline.image {
            return Pictures::resolve(pipeline, image, *limits, first).map(Box::new).map(Kind::Image).map(Self);
        }
        Tabular::resolve(pipeline, first).map(Kind::Tabular).map(Self)
    }

    /// Makes tensors of a batch of that schema.
    pub fn featurize(&self, columns: &RecordBatch) -> Featurized {
        match &self.0 {
            Kind::Tabular(tabular) => tabular.featurize(columns),
            Kind::Text(text) => text.featurize(columns),
            Kind::Image(pictures) => pictures.featurize(columns),
        }
    }

    /// The columns that fill each input, for people.
    pub fn columns(&self) -> Vec<(String, Vec<String>)> {
        match &self.0 {
            Kind::Tabular(tabular) => tabular.columns(),
            Kind::Text(text) => text.columns(),
            Kind::Image(pictures) => pictures.columns(),
        }
    }
}

impl Tabular {
    fn featurize(&self, columns: &RecordBatch) -> Featurized {
        let mut errors = Errors::default();
        let filled: Vec<Filled> = self.inputs.iter().map(|input| fill(input, self.missing, columns, &mut errors)).collect();
        let groups = group(&filled, columns.num_rows(), &errors);
        let names = self.inputs.iter().map(|input| input.name.clone());
        let whole = filled.iter().all(|filled| matches!(filled.shape, RowShape::Fixed(_)));
        let groups = match groups.as_slice() {
            // All rows are good and alike: what was filled is what goes in.
            [rows] if whole && rows.len() == columns.num_rows() => {
                let inputs = names.zip(filled).map(|(name, filled)| (name, filled.into_tensor(rows.len()))).collect();
                vec![Group { rows: rows.clone(), inputs }]
            }
            _ => groups
                .into_iter()
                .map(|rows| Group { inputs: names.clone().zip(&filled).map(|(name, filled)| (name, filled.tensor(&rows))).collect(), rows })
                .collect(),
        };
        Featurized { groups, errors: errors.0.into_values().collect(), notes: Notes::default() }
    }
}

/// The first error of each row.
#[derive(Debug, Default)]
struct Errors(BTreeMap<u32, RowError>);

impl Errors {
    fn add(&mut self, row: usize, code: &'static str, detail: impl FnOnce() -> String) {
        let row = row as u32;
        self.0.entry(row).or_insert_with(|| RowError { row, code, detail: detail() });
    }

    fn has(&self, row: usize) -> bool {
        self.0.contains_key(&(row as u32))
    }

    fn cell(&mut self, row: usize, column: &Column, dtype: Dtype, (value, bad): CellError) {
        self.add(row, bad.code(), || format!("column {:?}: {value} {} for an input of {}", column.name, bad.words(), dtype.name()));
    }

    fn missing(&mut self, row: usize, column: &Column) {
        self.add(row, "missing_value", || {
            format!("column {:?} has no value; pipeline.missing = \"nan\" lets a NaN stand for it in a float input", column.name)
        });
    }
}

/// One input's elements for all rows of a batch, in row order; rows with errors hold defaults.
struct Filled {
    data: TensorData,
    shape: RowShape,
}

/// The shape of a record's part of a tensor.
enum RowShape {
    /// The same for all.
    Fixed(Vec<usize>),
    /// Its own, with the offset of its first element.
    Each(Vec<(usize, Vec<usize>)>),
}

fn fill(input: &BoundInput, missing: Missing, columns: &RecordBatch, errors: &mut Errors) -> Filled {
    with_element!(input.dtype, T => fill_with::<T>(input, missing, columns, errors))
}

fn fill_with<T: Element>(input: &BoundInput, missing: Missing, columns: &RecordBatch, errors: &mut Errors) -> Filled {
    let rows = columns.num_rows();
    let stands_in = (missing == Missing::Nan).then(T::nan).flatten();
    match &input.fill {
        Fill::Features(features) => {
            let width = features.len();
            let mut values = vec![T::default(); rows * width];
            // A column is a stride apart in the tensor: as many rows at a time as their part of it stays in the nearest cache.
            for start in (0..rows).step_by(BLOCK_ROWS) {
                let block = start..rows.min(start + BLOCK_ROWS);
                for (at, column) in features.iter().enumerate() {
                    read(columns, column, block.clone(), stands_in.as_ref(), errors, |row, value| values[row * width + at] = value);
                }
            }
            Filled { data: T::data(values), shape: RowShape::Fixed(vec![width]) }
        }
        Fill::Column(column) if input.dims.iter().all(|d| *d == Some(1)) => {
            let mut values = vec![T::default(); rows];
            read(columns, column, 0..rows, stands_in.as_ref(), errors, |row, value| values[row] = value);
            Filled { data: T::data(values), shape: RowShape::Fixed(vec![1; input.dims.len()]) }
        }
        Fill::Column(column) => fill_lists(input, column, stands_in.as_ref(), columns, errors),
    }
}

/// Reads a value a row of some rows of one column; rows without one become errors, unless something stands in.
fn read<T: Element>(
    columns: &RecordBatch,
    column: &Column,
    rows: Range<usize>,
    stands_in: Option<&T>,
    errors: &mut Errors,
    mut put: impl FnMut(usize, T),
) {
    let array = columns.column(column.index);
    if column.encoding == Encoding::Typed
        && let Some(values) = T::column(&array.slice(rows.start, rows.len()))
    {
        return rows.zip(values).for_each(|(row, value)| put(row, value.clone()));
    }
    scalars::<T>(array, rows, column.encoding, &mut |row, cell| match cell {
        Ok(Some(value)) => put(row, value),
        Ok(None) => match stands_in {
            Some(value) => put(row, value.clone()),
            None => errors.missing(row, column),
        },
        Err(error) => errors.cell(row, column, T::DTYPE, error),
    });
}

fn fill_lists<T: Element>(
    input: &BoundInput,
    column: &Column,
    stands_in: Option<&T>,
    columns: &RecordBatch,
    errors: &mut Errors,
) -> Filled {
    let fixed: Option<Vec<usize>> = input.dims.iter().copied().collect();
    let length: usize = fixed.iter().flatten().product();
    let mut all: Vec<T> = Vec::with_capacity(columns.num_rows() * length);
    let mut each = Vec::new();
    lists::<T>(columns.column(column.index), column.encoding, stands_in, &mut |row, list| {
        let start = all.len();
        let mut shape = Vec::new();
        match list {
            Ok(List::Values(values, dims)) if fits(&input.dims, &dims) => {
                all.extend(values);
                shape = dims;
            }
            Ok(List::Values(_, dims)) => errors.add(row, "wrong_length", || {
                format!("column {:?} has a value of shape {dims:?}; the input takes {}", column.name, shape_words(&input.dims))
            }),
            Ok(List::Uneven) => errors.add(row, "wrong_length", || format!("column {:?} holds lists of different lengths", column.name)),
            Ok(List::Missing) => errors.missing(row, column),
            Err(error) => errors.cell(row, column, input.dtype, error),
        }
        if fixed.is_some() {
            all.resize(start + length, T::default());
        } else {
            each.push((start, shape));
        }
    });
    let shape = match fixed {
        Some(dims) => RowShape::Fixed(dims),
        None => RowShape::Each(each),
    };
    Filled { data: T::data(all), shape }
}

fn fits(wanted: &[Option<usize>], found: &[usize]) -> bool {
    wanted.len() == found.len() && wanted.iter().zip(found).all(|(wanted, found)| wanted.is_none_or(|w| w == *found))
}

fn shape_words(dims: &[Option<usize>]) -> String {
    let dims: Vec<String> = dims.iter().map(|d| d.map_or("?".to_owned(), |n| n.to_string())).collect();
    format!("[{}]", dims.join(", "))
}

/// Rows without errors, together where all their inputs have the same shapes; groups in the order of their first rows.
fn group(filled: &[Filled], rows: usize, errors: &Errors) -> Vec<Vec<u32>> {
    let good = (0..rows as u32).filter(|row| !errors.0.contains_key(row));
    let ragged: Vec<_> = filled
        .iter()
        .filter_map(|f| match &f.shape {
            RowShape::Each(each) => Some(each),
            RowShape::Fixed(_) => None,
        })
        .collect();
    if ragged.is_empty() {
        let all: Vec<u32> = good.collect();
        return if all.is_empty() { Vec::new() } else { vec![all] };
    }
    let mut places: HashMap<Vec<&[usize]>, usize> = HashMap::new();
    let mut groups: Vec<Vec<u32>> = Vec::new();
    for row in good {
        let shapes = ragged.iter().map(|each| each[row as usize].1.as_slice()).collect();
        let place = *places.entry(shapes).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[place].push(row);
    }
    groups
}

impl Filled {
    /// The tensor of all rows, which have one shape.
    fn into_tensor(self, rows: usize) -> Tensor {
        let mut shape = vec![rows];
        if let RowShape::Fixed(dims) = self.shape {
            shape.extend(dims);
        }
        Tensor { shape, data: self.data }
    }

    /// The tensor of some rows, all of one shape.
    fn tensor(&self, rows: &[u32]) -> Tensor {
        let dims = match &self.shape {
            RowShape::Fixed(dims) => dims.clone(),
            RowShape::Each(each) => rows.first().map(|row| each[*row as usize].1.clone()).unwrap_or_default(),
        };
        let length: usize = dims.iter().product();
        let start = |row: u32| match &self.shape {
            RowShape::Fixed(_) => row as usize * length,
            RowShape::Each(each) => each[row as usize].0,
        };
        let data = each_tensor_data!(&self.data, values => {
            let mut picked = Vec::with_capacity(rows.len() * length);
            for row in rows {
                let at = start(*row);
                picked.extend_from_slice(&values[at..at + length]);
            }
            TensorData::from(picked)
        });
        let mut shape = vec![rows.len()];
        shape.extend(dims);
        Tensor { shape, data }
    }
}
