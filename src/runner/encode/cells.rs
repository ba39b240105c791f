//! Arrow columns → writers of their cells as JSON or CSV text.
//!
//! In: one column of a batch. Out: a [`Column`] that appends the cell of any row to a byte buffer. What a type looks like as text is
//! decided once a batch, here; a cell then costs one virtual call and no allocation.

use arrow::{
    array::{Array, ArrayAccessor, AsArray},
    buffer::NullBuffer,
    datatypes::{
        ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
        DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType, Field, Float16Type, Float32Type,
        Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, IntervalDayTime, IntervalDayTimeType, IntervalMonthDayNano,
        IntervalMonthDayNanoType, IntervalUnit, IntervalYearMonthType, Time32MillisecondType, Time32SecondType, Time64MicrosecondType,
        Time64NanosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
        UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
};

use super::{EncodeError, calendar, nested, text};
use crate::runner::batch::{ENCODING, ENCODING_JSON};

/// Where the text of a cell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A JSON value.
    Json,
    /// A CSV cell.
    Csv,
    /// The value alone, for a table: bytes in hexadecimal, lists as arrays where PostgreSQL has them, null as [`NULL`].
    Text,
}

/// What stands for null in [`Form::Text`]: no value's text, as it is no UTF-8.
pub(super) const NULL: &[u8] = &[0xff];

impl Form {
    fn null(self) -> &'static [u8] {
        match self {
            Self::Json => b"null",
            Self::Csv => b"",
            Self::Text => NULL,
        }
    }

    /// What stands around text that holds neither quotes nor separators.
    fn quotes(self) -> &'static [u8] {
        match self {
            Self::Json => b"\"",
            Self::Csv | Self::Text => b"",
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
            Form::Json => strings(array, text::json_as_found),
            Form::Text => strings(array, |value, out| match text::json_as_text(value) {
                Some(text) => out.extend_from_slice(text.as_bytes()),
                None => out.extend_from_slice(NULL),
            }),
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
            Some(nulls) if nulls.is_null(row) => self.write_null(out),
            _ => self.cells.write(row, out),
        }
    }

    /// Appends the cell of a row that is null.
    pub(super) fn write_null(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.null);
    }

    /// The writer for an array that holds no text in another format; `None` where its type or one inside it has no text.
    pub(super) fn of_type(array: &'a dyn Array, form: Form) -> Option<Self> {
        let cells = nested::cells(array, form).or_else(|| nested::packed(array, form)).or_else(|| scalar(array, form))?;
        Some(Self { nulls: array.nulls().cloned(), null: form.null(), cells })
    }
}

/// Whether a column holds JSON values as found.
pub(super) fn is_json(field: &Field) -> bool {
    field.metadata().get(ENCODING).is_some_and(|encoding| encoding == ENCODING_JSON)
}

/// The cells of a column, where they are not null.
pub(super) trait Cells {
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
        // Ryu has no 16-bit floats: they are written as the 32-bit number of the same value.
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
            Form::Text => strings(array, |value, out| out.extend_from_slice(value.as_bytes())),
            Form::Csv => strings(array, |value, out| {
                let start = out.len();
                out.extend_from_slice(value.as_bytes());
                text::csv_cell(start, out);
            }),
        },
        DataType::Binary if form == Form::Text => each(array.as_binary::<i32>(), text::hex),
        DataType::LargeBinary if form == Form::Text => each(array.as_binary::<i64>(), text::hex),
        DataType::BinaryView if form == Form::Text => each(array.as_binary_view(), text::hex),
        DataType::FixedSizeBinary(_) if form == Form::Text => each(array.as_fixed_size_binary(), text::hex),
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
