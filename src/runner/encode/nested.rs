//! Arrow's lists, structs, maps, dictionaries and runs → writers of their cells.
//!
//! In: one column of a batch whose values are in other arrays. Out: [`Cells`] that find them there.

use std::ops::Range;

use arrow::{
    array::{Array, ArrayRef, AsArray, OffsetSizeTrait, RunArray},
    datatypes::{DataType, Int16Type, Int32Type, Int64Type, RunEndIndexType},
};

use super::{
    cells::{Cells, Column, Form, NULL},
    text,
};
use crate::tables::element;

/// Types that hold other values: JSON, in a CSV cell too. `None` for other types, and where a value inside has no text.
pub(super) fn cells<'a>(array: &'a dyn Array, form: Form) -> Option<Box<dyn Cells + 'a>> {
    match form {
        Form::Json => json(array),
        Form::Csv => Some(Box::new(JsonInCsv(json(array)?))),
        Form::Text if element(array.data_type()).is_some() => lists(array, Form::Text),
        Form::Text => json(array),
    }
}

/// Types that keep their values apart from their rows.
pub(super) fn packed<'a>(array: &'a dyn Array, form: Form) -> Option<Box<dyn Cells + 'a>> {
    fn runs<'a, R: RunEndIndexType>(array: &'a dyn Array, form: Form) -> Option<Box<dyn Cells + 'a>> {
        let runs = array.as_run_opt::<R>()?;
        Some(Box::new(Runs { runs, values: Column::of_type(runs.values().as_ref(), form)? }))
    }
    match array.data_type() {
        DataType::Dictionary(_, _) => {
            let dictionary = array.as_any_dictionary();
            let values = Column::of_type(dictionary.values().as_ref(), form)?;
            let keys = if dictionary.values().is_empty() { Vec::new() } else { dictionary.normalized_keys() };
            Some(Box::new(Dictionary { keys, values }))
        }
        DataType::RunEndEncoded(_, _) => {
            runs::<Int16Type>(array, form).or_else(|| runs::<Int32Type>(array, form)).or_else(|| runs::<Int64Type>(array, form))
        }
        _ => None,
    }
}

/// `"name":`, as it stands before a member's value.
pub(super) fn member(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 3);
    text::json_string(name, &mut key);
    key.push(b':');
    key
}

struct Dictionary<'a> {
    /// Row → index of its value; empty when there are no values, and then every row is null.
    keys: Vec<usize>,
    values: Column<'a>,
}

impl Cells for Dictionary<'_> {
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        match self.keys.get(row) {
            Some(key) => self.values.write(*key, out),
            None => self.values.write_null(out),
        }
    }
}

struct Runs<'a, R: RunEndIndexType> {
    runs: &'a RunArray<R>,
    values: Column<'a>,
}

impl<R: RunEndIndexType> Cells for Runs<'_, R> {
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        self.values.write(self.runs.get_physical_index(row), out);
    }
}

/// A nested value in a CSV cell: its JSON, quoted.
struct JsonInCsv<'a>(Box<dyn Cells + 'a>);

impl Cells for JsonInCsv<'_> {
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        let start = out.len();
        self.0.write(row, out);
        text::csv_cell(start, out);
    }
}

struct List<'a, F> {
    range: F,
    items: Column<'a>,
}

/// A list as PostgreSQL writes arrays, each item in quotes.
struct PgArray<'a, F> {
    range: F,
    items: Column<'a>,
}

impl<F: Fn(usize) -> Range<usize>> Cells for PgArray<'_, F> {
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        let mut text = Vec::new();
        for (n, item) in (self.range)(row).enumerate() {
            if n > 0 {
                out.push(b',');
            }
            text.clear();
            self.items.write(item, &mut text);
            if text == NULL {
                out.extend_from_slice(b"NULL");
                continue;
            }
            out.push(b'"');
            for byte in &text {
                if matches!(byte, b'"' | b'\\') {
                    out.push(b'\\');
                }
                out.push(*byte);
            }
            out.push(b'"');
        }
        out.push(b'}');
    }
}

impl<F: Fn(usize) -> Range<usize>> Cells for List<'_, F> {
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        out.push(b'[');
        for (n, item) in (self.range)(row).enumerate() {
            if n > 0 {
                out.push(b',');
            }
            self.items.write(item, out);
        }
        out.push(b']');
    }
}

struct Struct<'a> {
    /// `"name":` and the column.
    members: Vec<(Vec<u8>, Column<'a>)>,
}

impl Cells for Struct<'_> {
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        for (n, (key, column)) in self.members.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            out.extend_from_slice(key);
            column.write(row, out);
        }
        out.push(b'}');
    }
}

struct Map<'a> {
    offsets: &'a [i32],
    keys: Column<'a>,
    values: Column<'a>,
}

impl Cells for Map<'_> {
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        out.push(b'{');
        for (n, entry) in span(self.offsets, row).enumerate() {
            if n > 0 {
                out.push(b',');
            }
            let start = out.len();
            self.keys.write(entry, out);
            make_member_name(start, out);
            out.push(b':');
            self.values.write(entry, out);
        }
        out.push(b'}');
    }
}

/// Makes a member name of the JSON value that stands in `out` from `start` on: a string is one, of others it is the text.
fn make_member_name(start: usize, out: &mut Vec<u8>) {
    match out.get(start) {
        Some(b'"') => {}
        Some(b'{' | b'[') => {
            let value = out.split_off(start);
            text::json_string(&String::from_utf8_lossy(&value), out);
        }
        _ => {
            out.insert(start, b'"');
            out.push(b'"');
        }
    }
}

fn json<'a>(array: &'a dyn Array) -> Option<Box<dyn Cells + 'a>> {
    match array.data_type() {
        DataType::Struct(_) => {
            let rows = array.as_struct();
            let column = |(name, array): (&str, &'a ArrayRef)| Some((member(name), Column::of_type(array.as_ref(), Form::Json)?));
            let members = rows.column_names().into_iter().zip(rows.columns()).map(column).collect::<Option<_>>()?;
            Some(Box::new(Struct { members }))
        }
        DataType::Map(_, _) => {
            let map = array.as_map();
            let keys = Column::of_type(map.keys().as_ref(), Form::Json)?;
            let values = Column::of_type(map.values().as_ref(), Form::Json)?;
            Some(Box::new(Map { offsets: map.value_offsets(), keys, values }))
        }
        _ => lists(array, Form::Json),
    }
}

fn lists<'a>(array: &'a dyn Array, form: Form) -> Option<Box<dyn Cells + 'a>> {
    match array.data_type() {
        DataType::List(_) => list::<i32>(array, form),
        DataType::LargeList(_) => list::<i64>(array, form),
        DataType::ListView(_) => list_view::<i32>(array, form),
        DataType::LargeListView(_) => list_view::<i64>(array, form),
        DataType::FixedSizeList(_, _) => {
            let lists = array.as_fixed_size_list();
            let length = usize::try_from(lists.value_length()).ok()?;
            items(lists.values(), form, move |row| row * length..(row + 1) * length)
        }
        _ => None,
    }
}

fn list<'a, O: OffsetSizeTrait>(array: &'a dyn Array, form: Form) -> Option<Box<dyn Cells + 'a>> {
    let lists = array.as_list::<O>();
    let offsets = lists.value_offsets();
    items(lists.values(), form, move |row| span(offsets, row))
}

fn list_view<'a, O: OffsetSizeTrait>(array: &'a dyn Array, form: Form) -> Option<Box<dyn Cells + 'a>> {
    let lists = array.as_list_view::<O>();
    let (offsets, sizes) = (lists.value_offsets(), lists.value_sizes());
    items(lists.values(), form, move |row| offsets[row].as_usize()..(offsets[row] + sizes[row]).as_usize())
}

fn items<'a>(values: &'a ArrayRef, form: Form, range: impl Fn(usize) -> Range<usize> + 'a) -> Option<Box<dyn Cells + 'a>> {
    let items = Column::of_type(values.as_ref(), form)?;
    Some(if form == Form::Text { Box::new(PgArray { range, items }) } else { Box::new(List { range, items }) })
}

/// The items of row `row` by Arrow's offsets, of which there is one more than rows.
fn span<O: OffsetSizeTrait>(offsets: &[O], row: usize) -> Range<usize> {
    offsets[row].as_usize()..offsets[row + 1].as_usize()
}
