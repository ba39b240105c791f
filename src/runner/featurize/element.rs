//! Values of data → elements of a tensor, each conversion exact or refused.

use arrow::{
    array::{Array, AsArray},
    datatypes::{
        ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
        UInt32Type, UInt64Type,
    },
};
use half::f16;

use crate::{domain::Dtype, runner::tensor::TensorData};

/// Why a value is no element of this type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    /// Not a number at all.
    NotANumber,
    /// A number with a fraction where none is allowed.
    NotAnInteger,
    /// A number that the type cannot hold.
    OutOfRange,
    /// A value of another kind: a text, a list, a truth value.
    WrongType,
}

impl Bad {
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::NotANumber => "invalid_number",
            Self::NotAnInteger => "not_an_integer",
            Self::OutOfRange => "out_of_range",
            Self::WrongType => "wrong_type",
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::NotANumber => "is no number",
            Self::NotAnInteger => "is no integer",
            Self::OutOfRange => "is out of range",
            Self::WrongType => "is of the wrong type",
        }
    }
}

/// An element type of tensors.
pub(super) trait Element: Clone + Default {
    const DTYPE: Dtype;
    /// What stands for a missing value, where something can.
    fn nan() -> Option<Self> {
        None
    }
    fn of_i64(value: i64) -> Result<Self, Bad>;
    fn of_u64(value: u64) -> Result<Self, Bad>;
    fn of_f64(value: f64) -> Result<Self, Bad>;
    fn of_bool(_value: bool) -> Result<Self, Bad> {
        Err(Bad::WrongType)
    }
    /// A text that is a text: a quoted JSON value, a string column.
    fn of_text(_value: &str) -> Result<Self, Bad> {
        Err(Bad::WrongType)
    }
    /// A number as written.
    fn of_number(text: &str) -> Result<Self, Bad>;
    /// A CSV cell: any of the above, by what the input wants.
    fn of_cell(text: &str) -> Result<Self, Bad> {
        Self::of_number(text.trim_ascii())
    }
    fn data(values: Vec<Self>) -> TensorData;
    /// A number that a text writes, read as a double, for the types that take it from one.
    fn of_decimal(_value: f64) -> Option<Self> {
        None
    }
    /// The values of a column that holds this type and nothing else: there is nothing to convert.
    fn column(_array: &dyn Array) -> Option<&[Self]> {
        None
    }
}

/// The values of a column of this Arrow type in which none is missing.
fn values_of<T: ArrowPrimitiveType>(array: &dyn Array) -> Option<&[T::Native]> {
    array.as_primitive_opt::<T>().filter(|array| array.null_count() == 0).map(|array| &**array.values())
}

fn parse_f64(text: &str) -> Result<f64, Bad> {
    fast_float2::parse::<f64, _>(text.strip_prefix('+').unwrap_or(text)).map_err(|_| Bad::NotANumber)
}

/// The integer that a text writes; `12`, `12.0` and `1.2e1` are the same one.
fn parse_integer(text: &str) -> Result<i128, Bad> {
    if let Ok(value) = text.parse::<i64>() {
        return Ok(value.into());
    }
    if let Ok(value) = text.parse::<i128>() {
        return Ok(value);
    }
    integer(parse_f64(text)?)
}

fn integer(value: f64) -> Result<i128, Bad> {
    if value.is_nan() {
        return Err(Bad::NotANumber);
    }
    if value.is_infinite() || value.abs() >= 1e30 {
        return Err(Bad::OutOfRange);
    }
    if value.fract() != 0.0 {
        return Err(Bad::NotAnInteger);
    }
    Ok(value as i128)
}

macro_rules! integers {
    ($($type:ty => $variant:ident, $arrow:ty;)*) => {$(
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$variant;
            fn of_i64(value: i64) -> Result<Self, Bad> {
                value.try_into().map_err(|_| Bad::OutOfRange)
            }
            fn of_u64(value: u64) -> Result<Self, Bad> {
                value.try_into().map_err(|_| Bad::OutOfRange)
            }
            fn of_f64(value: f64) -> Result<Self, Bad> {
                integer(value)?.try_into().map_err(|_| Bad::OutOfRange)
            }
            fn of_number(text: &str) -> Result<Self, Bad> {
                parse_integer(text)?.try_into().map_err(|_| Bad::OutOfRange)
            }
            fn data(values: Vec<Self>) -> TensorData {
                TensorData::$variant(values)
            }
            fn column(array: &dyn Array) -> Option<&[Self]> {
                values_of::<$arrow>(array)
            }
        }
    )*};
}

integers! {
    u8 => Uint8, UInt8Type;
    u16 => Uint16, UInt16Type;
    u32 => Uint32, UInt32Type;
    u64 => Uint64, UInt64Type;
    i8 => Int8, Int8Type;
    i16 => Int16, Int16Type;
    i32 => Int32, Int32Type;
    i64 => Int64, Int64Type;
}

/// Texts become doubles first and then the type wanted, as a table of doubles would: CSV and Parquet give the same element.
macro_rules! floats {
    ($($type:ty => $variant:ident, $arrow:ty, $narrow:expr;)*) => {$(
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$variant;
            fn nan() -> Option<Self> {
                Some(<$type>::NAN)
            }
            #[inline]
            fn of_decimal(value: f64) -> Option<Self> {
                Self::of_f64(value).ok()
            }
            fn of_i64(value: i64) -> Result<Self, Bad> {
                Self::of_f64(value as f64)
            }
            fn of_u64(value: u64) -> Result<Self, Bad> {
                Self::of_f64(value as f64)
            }
            #[inline]
            fn of_f64(value: f64) -> Result<Self, Bad> {
                let narrow: $type = $narrow(value);
                if narrow.is_infinite() && value.is_finite() { Err(Bad::OutOfRange) } else { Ok(narrow) }
            }
            fn of_number(text: &str) -> Result<Self, Bad> {
                Self::of_f64(parse_f64(text)?)
            }
            fn data(values: Vec<Self>) -> TensorData {
                TensorData::$variant(values)
            }
            fn column(array: &dyn Array) -> Option<&[Self]> {
                values_of::<$arrow>(array)
            }
        }
    )*};
}

floats! {
    f32 => Fp32, Float32Type, |v: f64| v as f32;
    f64 => Fp64, Float64Type, |v: f64| v;
    f16 => Fp16, Float16Type, f16::from_f64;
}

impl Element for bool {
    const DTYPE: Dtype = Dtype::Bool;
    fn of_i64(value: i64) -> Result<Self, Bad> {
        match value {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Bad::OutOfRange),
        }
    }
    fn of_u64(value: u64) -> Result<Self, Bad> {
        Self::of_i64(value.try_into().map_err(|_| Bad::OutOfRange)?)
    }
    fn of_f64(value: f64) -> Result<Self, Bad> {
        match integer(value)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Bad::OutOfRange),
        }
    }
    fn of_bool(value: bool) -> Result<Self, Bad> {
        Ok(value)
    }
    fn of_number(text: &str) -> Result<Self, Bad> {
        Self::of_f64(parse_f64(text)?)
    }
    fn of_cell(text: &str) -> Result<Self, Bad> {
        let text = text.trim_ascii();
        let is = |words: &[&str]| words.iter().any(|w| w.eq_ignore_ascii_case(text));
        if is(&["true", "t", "yes", "y"]) {
            return Ok(true);
        }
        if is(&["false", "f", "no", "n"]) {
            return Ok(false);
        }
        Self::of_number(text).map_err(|_| Bad::WrongType)
    }
    fn data(values: Vec<Self>) -> TensorData {
        TensorData::Bool(values)
    }
}

/// A number becomes its own text, as written: `01234` of a CSV cell and `12` of a JSON number alike.
impl Element for String {
    const DTYPE: Dtype = Dtype::Bytes;
    fn of_i64(value: i64) -> Result<Self, Bad> {
        Ok(value.to_string())
    }
    fn of_u64(value: u64) -> Result<Self, Bad> {
        Ok(value.to_string())
    }
    fn of_f64(_value: f64) -> Result<Self, Bad> {
        // A double has many texts; the model was trained on one of them, and which is not known here.
        Err(Bad::WrongType)
    }
    fn of_text(value: &str) -> Result<Self, Bad> {
        Ok(value.to_owned())
    }
    fn of_number(text: &str) -> Result<Self, Bad> {
        Ok(text.to_owned())
    }
    fn of_cell(text: &str) -> Result<Self, Bad> {
        Ok(text.to_owned())
    }
    fn data(values: Vec<Self>) -> TensorData {
        TensorData::Bytes(values)
    }
}

/// Runs `$body` with `$T` naming the element type of a [`Dtype`].
macro_rules! with_element {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            Dtype::Bool => {
                type $T = bool;
                $body
            }
            Dtype::Uint8 => {
                type $T = u8;
                $body
            }
            Dtype::Uint16 => {
                type $T = u16;
                $body
            }
            Dtype::Uint32 => {
                type $T = u32;
                $body
            }
            Dtype::Uint64 => {
                type $T = u64;
                $body
            }
            Dtype::Int8 => {
                type $T = i8;
                $body
            }
            Dtype::Int16 => {
                type $T = i16;
                $body
            }
            Dtype::Int32 => {
                type $T = i32;
                $body
            }
            Dtype::Int64 => {
                type $T = i64;
                $body
            }
            Dtype::Fp16 => {
                type $T = half::f16;
                $body
            }
            Dtype::Fp32 => {
                type $T = f32;
                $body
            }
            Dtype::Fp64 => {
                type $T = f64;
                $body
            }
            Dtype::Bytes => {
                type $T = String;
                $body
            }
        }
    };
}
pub(super) use with_element;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_exact_at_their_limits_and_refused_beyond() {
        assert_eq!(i64::of_number("9223372036854775807"), Ok(i64::MAX));
        assert_eq!(i64::of_number("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(u64::of_number("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(i64::of_number("9223372036854775808"), Err(Bad::OutOfRange));
        assert_eq!(u8::of_number("256"), Err(Bad::OutOfRange));
        assert_eq!(u8::of_i64(-1), Err(Bad::OutOfRange));
        assert_eq!(i32::of_number("12.0"), Ok(12));
        assert_eq!(i32::of_number("1.5"), Err(Bad::NotAnInteger));
        assert_eq!(i32::of_number("1e400"), Err(Bad::OutOfRange));
        assert_eq!(i32::of_number("12x"), Err(Bad::NotANumber));
        assert_eq!(i32::of_f64(f64::NAN), Err(Bad::NotANumber));
    }

    #[test]
    fn floats_are_the_nearest_or_refused() {
        assert_eq!(f32::of_number("0.1"), Ok(0.1));
        assert_eq!(f32::of_number("1e300"), Err(Bad::OutOfRange));
        assert!(f32::of_number("nan").unwrap().is_nan());
        assert_eq!(f32::of_cell(" -inf "), Ok(f32::NEG_INFINITY));
        assert_eq!(f16::of_number("65520"), Err(Bad::OutOfRange));
        assert_eq!(f64::of_number(""), Err(Bad::NotANumber));
    }

    #[test]
    fn truth_values_and_texts_are_never_guessed() {
        assert_eq!(bool::of_cell("Yes"), Ok(true));
        assert_eq!(bool::of_cell("0"), Ok(false));
        assert_eq!(bool::of_cell("2"), Err(Bad::WrongType));
        assert_eq!(f32::of_bool(true), Err(Bad::WrongType));
        assert_eq!(f32::of_text("12"), Err(Bad::WrongType));
        assert_eq!(String::of_cell(" 01 "), Ok(" 01 ".to_owned()));
        assert_eq!(String::of_f64(1.0), Err(Bad::WrongType));
    }
}
