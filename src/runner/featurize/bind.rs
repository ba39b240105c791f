//! Which column fills which input.

use arrow::{
    array::{Array, AsArray, RecordBatch},
    datatypes::{DataType, Field},
};

use super::BindError;
use crate::{
    domain::{Dim, Dtype, Missing, Pipeline, ValueInfo},
    runner::batch::{ENCODING, ENCODING_CSV, ENCODING_JSON},
};

/// How a column writes its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Typed,
    Csv,
    Json,
}

/// A column by its place in the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) index: usize,
    pub(super) name: String,
    pub(super) encoding: Encoding,
}

/// What fills one input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fill {
    /// One column: a value a record, or a list of them.
    Column(Column),
    /// One column a feature, one value each.
    Features(Vec<Column>),
}

/// One model input, bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BoundInput {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    /// Dimensions after the batch's; `None` where the record decides.
    pub(super) dims: Vec<Option<usize>>,
    pub(super) fill: Fill,
}

/// Which column fills which input.
#[derive(Debug, Clone)]
pub(super) struct Tabular {
    pub(super) inputs: Vec<BoundInput>,
    pub(super) missing: Missing,
}

impl Tabular {
    /// Binds a schema to the pipeline's inputs. `first` is the first batch of that schema: a text column counts as numeric when most
    /// of its values there are numbers, which matters only where F of more than F columns are taken by count.
    ///
    /// # Errors
    /// [`BindError`] when it does not fit.
    pub(super) fn resolve(pipeline: &Pipeline, first: &RecordBatch) -> Result<Self, BindError> {
        let inputs = &pipeline.signature.inputs;
        let bound = inputs.iter().map(|input| bind(pipeline, input, inputs.len() == 1, first)).collect::<Result<_, _>>()?;
        Ok(Self { inputs: bound, missing: pipeline.missing })
    }

    /// The columns that fill each input, for people.
    pub(super) fn columns(&self) -> Vec<(String, Vec<String>)> {
        let names = |input: &BoundInput| match &input.fill {
            Fill::Column(column) => vec![column.name.clone()],
            Fill::Features(columns) => columns.iter().map(|c| c.name.clone()).collect(),
        };
        self.inputs.iter().map(|input| (input.name.clone(), names(input))).collect()
    }
}

fn bind(pipeline: &Pipeline, input: &ValueInfo, only: bool, batch: &RecordBatch) -> Result<BoundInput, BindError> {
    let Some((dtype, shape)) = input.tensor() else {
        return Err(BindError {
            code: "unsupported_input",
            detail: format!("the model's input {:?} is no tensor of known rank", input.name),
        });
    };
    let dims: Vec<Option<usize>> = shape.iter().skip(1).map(|d| d.fixed().map(|n| n as usize)).collect();
    let name = pipeline.columns.get(&input.name).unwrap_or(&input.name);
    let fill = match (&pipeline.features, only && dims.len() == 1 && shape.get(1).and_then(Dim::fixed) != Some(1)) {
        (Some(features), _) => {
            let columns = features.iter().map(|feature| find(batch, feature).ok_or_else(|| missing(feature, input, batch)));
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            columns.iter().try_for_each(|c| check(c, dtype, false, input, batch))?;
            Fill::Features(columns)
        }
        (None, matrix) => match find(batch, name) {
            Some(column) => {
                check(&column, dtype, true, input, batch)?;
                Fill::Column(column)
            }
            None if matrix => Fill::Features(by_count(dims[0], dtype, input, batch)?),
            None => return Err(missing(name, input, batch)),
        },
    };
    Ok(BoundInput { name: input.name.clone(), dtype, dims, fill })
}

pub(super) fn find(batch: &RecordBatch, name: &str) -> Option<Column> {
    let index = batch.schema_ref().fields().iter().position(|f| f.name() == name)?;
    Some(column(index, batch.schema_ref().field(index)))
}

fn column(index: usize, field: &Field) -> Column {
    let encoding = match field.metadata().get(ENCODING).map(String::as_str) {
        Some(ENCODING_CSV) => Encoding::Csv,
        Some(ENCODING_JSON) => Encoding::Json,
        _ => Encoding::Typed,
    };
    Column { index, name: field.name().clone(), encoding }
}

/// The F numeric columns of the data, if there are exactly F. A text with exactly F columns is taken as it stands: a cell that is no
/// number must cost its record, not the meaning of its column.
fn by_count(features: Option<usize>, dtype: Dtype, input: &ValueInfo, batch: &RecordBatch) -> Result<Vec<Column>, BindError> {
    let all = batch.schema_ref().fields().iter().enumerate().map(|(index, field)| column(index, field));
    let all: Vec<Column> = all.collect();
    let text = all.iter().all(|c| c.encoding != Encoding::Typed);
    if dtype != Dtype::Bytes && text && Some(all.len()) == features {
        return Ok(all);
    }
    let numeric: Vec<Column> = all.into_iter().filter(|c| is_numeric(batch.column(c.index), c.encoding)).collect();
    if dtype != Dtype::Bytes && Some(numeric.len()) == features {
        return Ok(numeric);
    }
    let wanted = features.map_or("a list column".to_owned(), |f| format!("{f} columns"));
    let detail = format!(
        "the model's input {} takes {wanted}, and the data has {} numeric columns: {}; name the columns in the model's order with pipeline.features",
        describe(input),
        numeric.len(),
        list(batch)
    );
    Err(BindError { code: "ambiguous_columns", detail })
}

fn is_numeric(array: &dyn Array, encoding: Encoding) -> bool {
    match encoding {
        Encoding::Typed => array.data_type().is_numeric(),
        Encoding::Csv | Encoding::Json => {
            let texts = array.as_string::<i32>();
            let values = texts.iter().flatten().map(str::trim_ascii).filter(|t| !t.is_empty() && *t != "null");
            let (numbers, others): (Vec<&str>, Vec<&str>) = values.partition(|t| fast_float2::parse::<f64, _>(t).is_ok());
            numbers.len() > others.len()
        }
    }
}

/// Refuses typed columns that can never become elements of the input.
fn check(column: &Column, dtype: Dtype, lists: bool, input: &ValueInfo, batch: &RecordBatch) -> Result<(), BindError> {
    if column.encoding != Encoding::Typed {
        return Ok(());
    }
    let kind = batch.column(column.index).data_type();
    if fits(kind, dtype, lists) {
        return Ok(());
    }
    let detail = format!("column {:?} is {kind}, which does not fit the model's input {}", column.name, describe(input));
    Err(BindError { code: "column_type", detail })
}

fn fits(kind: &DataType, dtype: Dtype, lists: bool) -> bool {
    match kind {
        DataType::Null => true,
        DataType::Dictionary(_, values) => fits(values, dtype, false),
        DataType::Boolean => dtype == Dtype::Bool,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => dtype == Dtype::Bytes,
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => dtype != Dtype::Bytes,
        kind if kind.is_integer() => true,
        kind if kind.is_floating() => dtype != Dtype::Bytes,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => lists && fits(item.data_type(), dtype, true),
        _ => false,
    }
}

/// A column of texts that is not bound to an input by its name; `setting` is the field that names it.
pub(super) fn text_column(name: &str, setting: &str, batch: &RecordBatch) -> Result<Column, BindError> {
    let Some(column) = find(batch, name) else {
        let hint = nearest(name, batch).map(|found| format!(", perhaps {found:?}")).unwrap_or_default();
        let detail = format!("there is no column {name:?} with texts; name one with {setting}{hint}; the columns read are {}", list(batch));
        return Err(BindError { code: "missing_column", detail });
    };
    let kind = batch.column(column.index).data_type();
    if column.encoding == Encoding::Typed && !fits(kind, Dtype::Bytes, false) {
        let detail = format!("column {name:?} is {kind}, which is no text; name another with {setting}");
        return Err(BindError { code: "column_type", detail });
    }
    Ok(column)
}

/// The column whose name is most like this one, if one is.
fn nearest<'b>(name: &str, batch: &'b RecordBatch) -> Option<&'b str> {
    let names = batch.schema_ref().fields().iter().map(|f| f.name().as_str());
    names
        .map(|found| (strsim::jaro_winkler(&found.trim().to_lowercase(), &name.to_lowercase()), found))
        .filter(|(score, _)| *score > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, found)| found)
}

fn missing(name: &str, input: &ValueInfo, batch: &RecordBatch) -> BindError {
    let hint = nearest(name, batch).map(|found| format!("; did you mean {found:?}? Name it with pipeline.columns or pipeline.features"));
    let hint = hint.unwrap_or_default();
    let detail = format!("there is no column {name:?} for the model's input {}{hint}; the data has {}", describe(input), list(batch));
    BindError { code: "missing_column", detail }
}

fn describe(input: &ValueInfo) -> String {
    let Some((dtype, shape)) = input.tensor() else { return format!("{:?}", input.name) };
    let dims: Vec<String> = shape
        .iter()
        .enumerate()
        .map(|(at, dim)| match dim {
            Dim::Fixed(n) => n.to_string(),
            Dim::Dynamic(_) if at == 0 => "N".to_owned(),
            Dim::Dynamic(_) => "?".to_owned(),
        })
        .collect();
    format!("{:?} ({} [{}])", input.name, dtype.name(), dims.join(", "))
}

/// The columns of the data with their types, the first thirty of them.
fn list(batch: &RecordBatch) -> String {
    const SHOWN: usize = 30;
    let fields = batch.schema_ref().fields();
    let kind = |f: &Field| if f.metadata().contains_key(ENCODING) { String::new() } else { format!(" {}", f.data_type()) };
    let mut names: Vec<String> = fields.iter().take(SHOWN).map(|f| format!("{}{}", f.name(), kind(f))).collect();
    if fields.len() > SHOWN {
        names.push(format!("and {} more", fields.len() - SHOWN));
    }
    if names.is_empty() { "no columns".to_owned() } else { names.join(", ") }
}
