//! Arrow's types ↔ PostgreSQL's.
//!
//! A type that PostgreSQL has none for that holds all of its values becomes `text`, or `jsonb` where values lie in values.

use arrow::datatypes::DataType;

/// What a column's cells are, as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Anything that stands on its own: numbers, texts, bytes.
    Plain,
    /// Days, times and instants, which have to lie in years that have four digits.
    Temporal,
    /// JSON.
    Json,
}

/// The type of a list's items, where they stand on their own: such a list is an array, any other JSON.
pub fn element(data: &DataType) -> Option<&DataType> {
    let item = match data {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => item.data_type(),
        DataType::ListView(item) | DataType::LargeListView(item) => item.data_type(),
        _ => return None,
    };
    let alone = !matches!(values(item), DataType::Struct(_) | DataType::Map(..) | DataType::Union(..) | DataType::Null);
    (alone && list(item).is_none()).then_some(item)
}

/// What the cells of such a column are.
pub fn kind_of(data: &DataType) -> Kind {
    match values(data) {
        DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) | DataType::Timestamp(..) => Kind::Temporal,
        DataType::Struct(_) | DataType::Map(..) => Kind::Json,
        other => match (list(other), element(other)) {
            (None, _) => Kind::Plain,
            (Some(_), Some(item)) => kind_of(item),
            (Some(_), None) => Kind::Json,
        },
    }
}

/// The type of a column for such values, as PostgreSQL itself writes it.
pub(super) fn sql_type(data: &DataType) -> String {
    let name = match values(data) {
        DataType::Boolean => "boolean",
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => "smallint",
        DataType::Int32 | DataType::UInt16 => "integer",
        DataType::Int64 | DataType::UInt32 => "bigint",
        DataType::UInt64 => "numeric(20,0)",
        DataType::Float16 | DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Decimal32(p, s) | DataType::Decimal64(p, s) | DataType::Decimal128(p, s) | DataType::Decimal256(p, s) => {
            // A scale that is negative or above the precision has no such type before version 15.
            return if *s >= 0 && *s as u8 <= *p { format!("numeric({p},{s})") } else { "numeric".to_owned() };
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => "bytea",
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Time32(_) | DataType::Time64(_) => "time without time zone",
        DataType::Timestamp(_, None) => "timestamp without time zone",
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone",
        DataType::Struct(_) | DataType::Map(..) => "jsonb",
        other => match (list(other), element(other)) {
            (Some(_), Some(item)) => return format!("{}[]", sql_type(item)),
            (Some(_), None) => "jsonb",
            // Texts; and spans of time, whose parts below a microsecond no interval holds.
            (None, _) => "text",
        },
    };
    name.to_owned()
}

/// Whether a column of type `theirs` holds every value of `ours`, both as PostgreSQL writes them.
pub(super) fn fits(ours: &str, theirs: &str) -> bool {
    let wider: &[&str] = match ours {
        "smallint" => &["integer", "bigint", "numeric", "real", "double precision"],
        "integer" => &["bigint", "numeric", "double precision"],
        "bigint" => &["numeric"],
        "real" => &["double precision"],
        "text" => &["character varying"],
        "jsonb" => &["json"],
        _ if ours.starts_with("numeric(") => &["numeric"],
        _ => &[],
    };
    ours == theirs || wider.contains(&theirs)
}

/// Whether texts whose meaning is open can be read as values of this type.
pub(super) fn reads_text(theirs: &str) -> bool {
    ["smallint", "integer", "bigint", "numeric", "real", "double precision", "boolean"].contains(&theirs)
}

/// Why such a text is no value of this type, one of those that [`reads_text`] knows.
pub fn text_fault(text: &str, theirs: &str) -> Option<&'static str> {
    let number = |finite: bool| if finite { None } else { Some("it is no number that the column of the table holds") };
    match theirs {
        "smallint" => number(text.parse::<i16>().is_ok()),
        "integer" => number(text.parse::<i32>().is_ok()),
        "bigint" => number(text.parse::<i64>().is_ok()),
        "real" => number(text.parse::<f32>().is_ok_and(|value| value.is_finite() && (value != 0.0 || is_zero(text)))),
        "numeric" | "double precision" => {
            number(text.parse::<f64>().is_ok_and(|value| value.is_finite() && (value != 0.0 || is_zero(text))))
        }
        "boolean" if !["true", "false"].contains(&text.to_ascii_lowercase().as_str()) => Some("it is neither true nor false"),
        _ => None,
    }
}

/// Whether a number is written as zero; one that is only read as such is too small for PostgreSQL, which says so and ends the COPY.
fn is_zero(number: &str) -> bool {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    !mantissa.contains(|digit: char| ('1'..='9').contains(&digit))
}

/// The type of the values themselves, however they are packed.
fn values(data: &DataType) -> &DataType {
    match data {
        DataType::Dictionary(_, inner) => values(inner),
        DataType::RunEndEncoded(_, inner) => values(inner.data_type()),
        other => other,
    }
}

fn list(data: &DataType) -> Option<&DataType> {
    match data {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => Some(item.data_type()),
        DataType::ListView(item) | DataType::LargeListView(item) => Some(item.data_type()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{Field, TimeUnit};

    use super::*;

    fn list_of(item: DataType) -> DataType {
        DataType::List(Arc::new(Field::new("item", item, true)))
    }

    #[test]
    fn numbers_that_postgres_would_refuse_are_told_before() {
        for (text, theirs) in [("1e-50", "real"), ("1e-400", "double precision"), ("1e40", "real"), ("x", "integer"), ("70000", "smallint")]
        {
            assert!(text_fault(text, theirs).is_some(), "{text} as {theirs}");
        }
        for (text, theirs) in [("0e-50", "real"), ("-0.0", "real"), ("1e-30", "real"), ("1e-50", "double precision"), ("7", "smallint")] {
            assert_eq!(text_fault(text, theirs), None, "{text} as {theirs}");
        }
    }

    #[test]
    fn every_type_has_one_that_holds_its_values() {
        let pair = DataType::Struct(vec![Field::new("a", DataType::Int8, true)].into());
        for (data, wanted, kind) in [
            (DataType::UInt8, "smallint", Kind::Plain),
            (DataType::UInt32, "bigint", Kind::Plain),
            (DataType::UInt64, "numeric(20,0)", Kind::Plain),
            (DataType::Decimal128(10, 2), "numeric(10,2)", Kind::Plain),
            (DataType::Decimal128(10, -2), "numeric", Kind::Plain),
            (DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())), "timestamp with time zone", Kind::Temporal),
            (DataType::Duration(TimeUnit::Nanosecond), "text", Kind::Plain),
            (DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)), "text", Kind::Plain),
            (list_of(DataType::Float32), "real[]", Kind::Plain),
            (list_of(DataType::Date32), "date[]", Kind::Temporal),
            (list_of(list_of(DataType::Float32)), "jsonb", Kind::Json),
            (list_of(pair.clone()), "jsonb", Kind::Json),
            (pair, "jsonb", Kind::Json),
        ] {
            assert_eq!((sql_type(&data).as_str(), kind_of(&data)), (wanted, kind), "{data}");
        }
    }

    #[test]
    fn a_column_that_is_there_may_be_wider_and_never_narrower() {
        for (ours, theirs, wanted) in [
            ("integer", "integer", true),
            ("integer", "bigint", true),
            ("bigint", "integer", false),
            ("bigint", "double precision", false),
            ("integer", "real", false),
            ("numeric(20,0)", "numeric", true),
            ("numeric(20,0)", "numeric(10,0)", false),
            ("text", "character varying", true),
            ("text", "character varying(10)", false),
            ("text", "bigint", false),
        ] {
            assert_eq!(fits(ours, theirs), wanted, "{ours} in {theirs}");
        }
    }
}
