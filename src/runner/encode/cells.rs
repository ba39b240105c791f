//! Arrow columns → writers of their cells as JSON or CSV text.
//!
//! In: one column of a batch. Out: a [`Column`] that appends the cell of any row to a byte buffer. What a type looks like as text is
//! decided once a batch, here; a cell then costs one virtual call and no allocation.

use std::ops::Range;

use arrow::{
    array::{Array, ArrayAccessor, ArrayRef, AsArray, OffsetSizeTrait, RunArray},
    buffer::NullBuffer,
    datatypes::{
        ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
        DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Field, Float16Type, Float32Type,
        Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalDayTime, IntervalDayTimeType, IntervalMonthDayNano,
        IntervalMonthDayNanoType, IntervalUnit, IntervalYearMonthType, RunEndIndexType, Time32MillisecondType, Time32SecondType,
        Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
        TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
};

use super::{EncodeError, calendar, text};
use crate::runner::batch::{ENCODING, ENCODING_JSON};

/// Where the text of a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A JSON value.
    Json,
    /// A CSV cell.
    Csv,
}

impl Form {
    fn null(self) -> &'static [u8] {
        match self {
            Self::Json => b"null",
            Self::Csv => b"",
        }
    }

    /// What stands around text that holds neither quotes nor separators.
    fn quotes(self) -> &'static [u8] {
        match self {
            Self::Json => b"\"",
            Self::Csv => b"",
        }
    }
}

/// Writes the cells of one column of one batch.
pub(super) struct Column<'a> {
    nulls: Option<NullBuffer>,
    null: &'static [u8],
    cells: Box<dyn Cells + 'a>,
}

impl<'a> Column<'a> {
    /// The writer for `array`, a column of a batch. A field that says [`ENCODING_JSON`] holds JSON values as found, all other text is
    /// text.
    ///
    /// # Errors
    /// [`EncodeError::Failed`] for a type that has no text (a union).
    pub(super) fn new(field: &Field, array: &'a dyn Array, form: Form) -> Result<Self, EncodeError> {
        let json_as_found = match form {
            _ if !is_json(field) => None,
            Form::Json => strings(array, |value, out| out.extend_from_slice(value.as_bytes())),
            Form::Csv => strings(array, |value, out| {
                let start = out.len();
                out.extend_from_slice(text::json_as_text(value).as_deref().unwrap_or_default().as_bytes());
                text::csv_cell(start, out);
            }),
        };
        match json_as_found {
            Some(cells) => Ok(Self { nulls: array.nulls().cloned(), null: form.null(), cells }),
            None => Self::of_type(array, form).ok_or_else(|| {
                EncodeError::Failed(format!("column {:?}: values of type {} have no text", field.name(), array.data_type()))
            }),
        }
    }

    /// Appends the cell of row `row`.
    pub(super) fn write(&self, row: usize, out: &mut Vec<u8>) {
        match &self.nulls {
            Some(nulls) if nulls.is_null(row) => out.extend_from_slice(self.null),
            _ => self.cells.write(row, out),
        }
    }

    /// `None` where the type or one inside it has no text.
    fn of_type(array: &'a dyn Array, form: Form) -> Option<Self> {
        let cells = match form {
            Form::Json => nested(array),
            Form::Csv => nested(array).map(|cells| Box::new(JsonInCsv(cells)) as Box<dyn Cells + 'a>),
        };
        let cells = cells.or_else(|| packed(array, form)).or_else(|| scalar(array, form))?;
        Some(Self { nulls: array.nulls().cloned(), null: form.null(), cells })
    }
}

/// Whether a column holds JSON values as found.
pub(super) fn is_json(field: &Field) -> bool {
    field.metadata().get(ENCODING).is_some_and(|encoding| encoding == ENCODING_JSON)
}

/// The cells of a column, where they are not null.
trait Cells {
    fn write(&self, row: usize, out: &mut Vec<u8>);
}

/// A typed array and what writes one of its values.
struct Each<A, F>(A, F);

impl<A: ArrayAccessor, F: Fn(A::Item, &mut Vec<u8>)> Cells for Each<A, F> {
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        self.1(self.0.value(row), out);
    }
}

/// A column that is null in every row but has no null buffer.
struct Nothing(&'static [u8]);

impl Cells for Nothing {
    fn write(&self, _row: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(self.0);
    }
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
            None => out.extend_from_slice(self.values.null),
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

/// `"name":`, as it stands before a member's value.
pub(super) fn member(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + 3);
    text::json_string(name, &mut key);
    key.push(b':');
    key
}

fn each<'a, A, F>(array: A, write: F) -> Option<Box<dyn Cells + 'a>>
where
    A: ArrayAccessor + 'a,
    F: Fn(A::Item, &mut Vec<u8>) + 'a,
{
    Some(Box::new(Each(array, write)))
}

fn primitive<'a, T: ArrowPrimitiveType>(array: &'a dyn Array, write: impl Fn(T::Native, &mut Vec<u8>) + 'a) -> Option<Box<dyn Cells + 'a>> {
    each(array.as_primitive_opt::<T>()?, write)
}

/// `None` when the array holds no text.
fn strings<'a>(array: &'a dyn Array, write: impl Fn(&str, &mut Vec<u8>) + 'a) -> Option<Box<dyn Cells + 'a>> {
    match array.data_type() {
        DataType::Utf8 => each(array.as_string::<i32>(), write),
        DataType::LargeUtf8 => each(array.as_string::<i64>(), write),
        DataType::Utf8View => each(array.as_string_view(), write),
        _ => None,
    }
}

fn scalar<'a>(array: &'a dyn Array, form: Form) -> Option<Box<dyn Cells + 'a>> {
    let quotes = form.quotes();
    match array.data_type() {
        DataType::Null => Some(Box::new(Nothing(form.null()))),
        DataType::Boolean => each(array.as_boolean(), |value, out| out.extend_from_slice(if value { b"true" } else { b"false" })),
        DataType::Int8 => primitive::<Int8Type>(array, text::integer),
        DataType::Int16 => primitive::<Int16Type>(array, text::integer),
        DataType::Int32 => primitive::<Int32Type>(array, text::integer),
        DataType::Int64 => primitive::<Int64Type>(array, text::integer),
        DataType::UInt8 => primitive::<UInt8Type>(array, text::integer),
        DataType::UInt16 => primitive::<UInt16Type>(array, text::integer),
        DataType::UInt32 => primitive::<UInt32Type>(array, text::integer),
        DataType::UInt64 => primitive::<UInt64Type>(array, text::integer),
        // There is no shortest form for 16 bits: they are written as the 32-bit number of the same value.
        DataType::Float16 => primitive::<Float16Type>(array, move |value, out| text::float(value.to_f32(), quotes, out)),
        DataType::Float32 => primitive::<Float32Type>(array, move |value, out| text::float(value, quotes, out)),
        DataType::Float64 => primitive::<Float64Type>(array, move |value, out| text::double(value, quotes, out)),
        DataType::Decimal32(_, scale) => {
            primitive::<Decimal32Type>(array, move |v, out| text::decimal(*scale, out, |out| text::integer(v, out)))
        }
        DataType::Decimal64(_, scale) => {
            primitive::<Decimal64Type>(array, move |v, out| text::decimal(*scale, out, |out| text::integer(v, out)))
        }
        DataType::Decimal128(_, scale) => {
            primitive::<Decimal128Type>(array, move |v, out| text::decimal(*scale, out, |out| text::integer(v, out)))
        }
        DataType::Decimal256(_, scale) => primitive::<Decimal256Type>(array, move |v, out| {
            text::decimal(*scale, out, |out| out.extend_from_slice(v.to_string().as_bytes()))
        }),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => match form {
            Form::Json => strings(array, text::json_string),
            Form::Csv => strings(array, |value, out| {
                let start = out.len();
                out.extend_from_slice(value.as_bytes());
                text::csv_cell(start, out);
            }),
        },
        DataType::Binary => each(array.as_binary::<i32>(), quote(quotes, text::binary)),
        DataType::LargeBinary => each(array.as_binary::<i64>(), quote(quotes, text::binary)),
        DataType::BinaryView => each(array.as_binary_view(), quote(quotes, text::binary)),
        DataType::FixedSizeBinary(_) => each(array.as_fixed_size_binary(), quote(quotes, text::binary)),
        _ => temporal(array, quotes),
    }
}

/// Dates, times and spans, whose text stands between `quotes`.
fn temporal<'a>(array: &'a dyn Array, quotes: &'static [u8]) -> Option<Box<dyn Cells + 'a>> {
    fn ticks<'a, T: ArrowPrimitiveType>(
        array: &'a dyn Array,
        quotes: &'static [u8],
        unit: TimeUnit,
        write: fn(i64, TimeUnit, &mut Vec<u8>),
    ) -> Option<Box<dyn Cells + 'a>>
    where
        T::Native: Into<i64>,
    {
        let quoted = quote(quotes, move |value: i64, out: &mut Vec<u8>| write(value, unit, out));
        primitive::<T>(array, move |value, out| quoted(value.into(), out))
    }
    use TimeUnit::{Microsecond, Millisecond, Nanosecond, Second};
    match array.data_type() {
        DataType::Date32 => primitive::<Date32Type>(array, quote(quotes, |days: i32, out| calendar::date(days.into(), out))),
        DataType::Date64 => primitive::<Date64Type>(array, quote(quotes, calendar::date_of_milliseconds)),
        DataType::Time32(Second) => ticks::<Time32SecondType>(array, quotes, Second, calendar::time),
        DataType::Time32(_) => ticks::<Time32MillisecondType>(array, quotes, Millisecond, calendar::time),
        DataType::Time64(Microsecond) => ticks::<Time64MicrosecondType>(array, quotes, Microsecond, calendar::time),
        DataType::Time64(_) => ticks::<Time64NanosecondType>(array, quotes, Nanosecond, calendar::time),
        DataType::Timestamp(unit, zone) => {
            let write = if zone.is_some() { calendar::instant } else { calendar::local };
            match unit {
                Second => ticks::<TimestampSecondType>(array, quotes, Second, write),
                Millisecond => ticks::<TimestampMillisecondType>(array, quotes, Millisecond, write),
                Microsecond => ticks::<TimestampMicrosecondType>(array, quotes, Microsecond, write),
                Nanosecond => ticks::<TimestampNanosecondType>(array, quotes, Nanosecond, write),
            }
        }
        DataType::Duration(unit) => match unit {
            Second => ticks::<DurationSecondType>(array, quotes, Second, calendar::duration),
            Millisecond => ticks::<DurationMillisecondType>(array, quotes, Millisecond, calendar::duration),
            Microsecond => ticks::<DurationMicrosecondType>(array, quotes, Microsecond, calendar::duration),
            Nanosecond => ticks::<DurationNanosecondType>(array, quotes, Nanosecond, calendar::duration),
        },
        DataType::Interval(IntervalUnit::YearMonth) => {
            primitive::<IntervalYearMonthType>(array, quote(quotes, |months: i32, out| calendar::interval(months.into(), 0, 0, out)))
        }
        DataType::Interval(IntervalUnit::DayTime) => {
            let write = |v: IntervalDayTime, out: &mut Vec<u8>| {
                calendar::interval(0, v.days.into(), i64::from(v.milliseconds) * 1_000_000, out);
            };
            primitive::<IntervalDayTimeType>(array, quote(quotes, write))
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let write = |v: IntervalMonthDayNano, out: &mut Vec<u8>| calendar::interval(v.months.into(), v.days.into(), v.nanoseconds, out);
            primitive::<IntervalMonthDayNanoType>(array, quote(quotes, write))
        }
        _ => None,
    }
}

/// Puts `quotes` around what `write` writes.
fn quote<V>(quotes: &'static [u8], write: impl Fn(V, &mut Vec<u8>)) -> impl Fn(V, &mut Vec<u8>) {
    move |value, out| {
        out.extend_from_slice(quotes);
        write(value, out);
        out.extend_from_slice(quotes);
    }
}

/// Types that keep their values apart from their rows.
fn packed<'a>(array: &'a dyn Array, form: Form) -> Option<Box<dyn Cells + 'a>> {
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

/// Types that hold other values; always JSON.
fn nested<'a>(array: &'a dyn Array) -> Option<Box<dyn Cells + 'a>> {
    match array.data_type() {
        DataType::List(_) => list::<i32>(array),
        DataType::LargeList(_) => list::<i64>(array),
        DataType::ListView(_) => list_view::<i32>(array),
        DataType::LargeListView(_) => list_view::<i64>(array),
        DataType::FixedSizeList(_, _) => {
            let lists = array.as_fixed_size_list();
            let length = usize::try_from(lists.value_length()).ok()?;
            items(lists.values(), move |row| row * length..(row + 1) * length)
        }
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
        _ => None,
    }
}

fn list<'a, O: OffsetSizeTrait>(array: &'a dyn Array) -> Option<Box<dyn Cells + 'a>> {
    let lists = array.as_list::<O>();
    let offsets = lists.value_offsets();
    items(lists.values(), move |row| span(offsets, row))
}

fn list_view<'a, O: OffsetSizeTrait>(array: &'a dyn Array) -> Option<Box<dyn Cells + 'a>> {
    let lists = array.as_list_view::<O>();
    let (offsets, sizes) = (lists.value_offsets(), lists.value_sizes());
    items(lists.values(), move |row| offsets[row].as_usize()..(offsets[row] + sizes[row]).as_usize())
}

fn items<'a>(values: &'a ArrayRef, range: impl Fn(usize) -> Range<usize> + 'a) -> Option<Box<dyn Cells + 'a>> {
    Some(Box::new(List { range, items: Column::of_type(values.as_ref(), Form::Json)? }))
}

/// The items of row `row` by Arrow's offsets, of which there is one more than rows.
fn span<O: OffsetSizeTrait>(offsets: &[O], row: usize) -> Range<usize> {
    offsets[row].as_usize()..offsets[row + 1].as_usize()
}
