//! Every type in every format.

use std::sync::Arc;

use arrow::{
    array::*,
    buffer::{NullBuffer, OffsetBuffer, ScalarBuffer},
    compute::cast,
    datatypes::*,
};
use half::f16;
use proptest::prelude::*;

use super::*;

/// Name, a value and a null, the JSON of the value, the CSV cell of it as another reader gives it back.
type Case = (&'static str, ArrayRef, &'static str, &'static str);

fn column<T: Array + 'static>(array: T) -> ArrayRef {
    Arc::new(array)
}

fn scalars() -> Vec<Case> {
    vec![
        ("bool", column(BooleanArray::from(vec![Some(true), None])), "true", "true"),
        ("int8", column(Int8Array::from(vec![Some(i8::MIN), None])), "-128", "-128"),
        ("int16", column(Int16Array::from(vec![Some(i16::MIN), None])), "-32768", "-32768"),
        ("int32", column(Int32Array::from(vec![Some(i32::MIN), None])), "-2147483648", "-2147483648"),
        ("int64", column(Int64Array::from(vec![Some(i64::MIN), None])), "-9223372036854775808", "-9223372036854775808"),
        ("uint8", column(UInt8Array::from(vec![Some(u8::MAX), None])), "255", "255"),
        ("uint16", column(UInt16Array::from(vec![Some(u16::MAX), None])), "65535", "65535"),
        ("uint32", column(UInt32Array::from(vec![Some(u32::MAX), None])), "4294967295", "4294967295"),
        ("uint64", column(UInt64Array::from(vec![Some(u64::MAX), None])), "18446744073709551615", "18446744073709551615"),
        ("float16", column(Float16Array::from(vec![Some(f16::from_f32(-1.5)), None])), "-1.5", "-1.5"),
        ("float32", column(Float32Array::from(vec![Some(0.1), None])), "0.1", "0.1"),
        ("float64", column(Float64Array::from(vec![Some(1e-9), None])), "1e-9", "1e-9"),
        ("nan", column(Float64Array::from(vec![Some(f64::NAN), None])), "\"NaN\"", "NaN"),
        ("infinity", column(Float32Array::from(vec![Some(f32::INFINITY), None])), "\"Infinity\"", "Infinity"),
        ("minus_infinity", column(Float16Array::from(vec![Some(f16::NEG_INFINITY), None])), "\"-Infinity\"", "-Infinity"),
        ("decimal32", column(Decimal32Array::from(vec![Some(-5), None]).with_precision_and_scale(5, 2).unwrap()), "-0.05", "-0.05"),
        ("decimal64", column(Decimal64Array::from(vec![Some(1234), None]).with_precision_and_scale(10, 1).unwrap()), "123.4", "123.4"),
        (
            "decimal128",
            column(Decimal128Array::from(vec![Some(12_345_678_901_234_567_890), None]).with_precision_and_scale(38, 4).unwrap()),
            "1234567890123456.7890",
            "1234567890123456.7890",
        ),
        (
            "decimal256",
            column(Decimal256Array::from(vec![Some(i256::from_i128(-7)), None]).with_precision_and_scale(76, 3).unwrap()),
            "-0.007",
            "-0.007",
        ),
        ("text", column(StringArray::from(vec![Some("a \"b\", ä\n"), None])), r#""a \"b\", ä\n""#, "a \"b\", ä\n"),
        ("large_text", column(LargeStringArray::from(vec![Some("x"), None])), "\"x\"", "x"),
        (
            "text_view",
            column(StringViewArray::from(vec![Some("longer than twelve bytes"), None])),
            "\"longer than twelve bytes\"",
            "longer than twelve bytes",
        ),
        ("binary", column(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None])), "\"AP8=\"", "AP8="),
        ("large_binary", column(LargeBinaryArray::from(vec![Some(&b""[..]), None])), "\"\"", ""),
        ("binary_view", column(BinaryViewArray::from(vec![Some(&b"abc"[..]), None])), "\"YWJj\"", "YWJj"),
        (
            "fixed_binary",
            column(FixedSizeBinaryArray::try_from_sparse_iter_with_size([Some([1, 2]), None].into_iter(), 2).unwrap()),
            "\"AQI=\"",
            "AQI=",
        ),
        ("date32", column(Date32Array::from(vec![Some(20_780), None])), "\"2026-11-23\"", "2026-11-23"),
        ("date64", column(Date64Array::from(vec![Some(20_780 * 86_400_000), None])), "\"2026-11-23\"", "2026-11-23"),
        ("time_s", column(Time32SecondArray::from(vec![Some(34_200), None])), "\"09:30:00\"", "09:30:00"),
        ("time_ms", column(Time32MillisecondArray::from(vec![Some(1), None])), "\"00:00:00.001\"", "00:00:00.001"),
        ("time_us", column(Time64MicrosecondArray::from(vec![Some(1), None])), "\"00:00:00.000001\"", "00:00:00.000001"),
        ("time_ns", column(Time64NanosecondArray::from(vec![Some(1), None])), "\"00:00:00.000000001\"", "00:00:00.000000001"),
        ("timestamp_s", column(TimestampSecondArray::from(vec![Some(-1), None])), "\"1969-12-31T23:59:59\"", "1969-12-31T23:59:59"),
        (
            "timestamp_ms",
            column(TimestampMillisecondArray::from(vec![Some(250), None])),
            "\"1970-01-01T00:00:00.250\"",
            "1970-01-01T00:00:00.250",
        ),
        (
            "instant_us",
            column(TimestampMicrosecondArray::from(vec![Some(0), None]).with_timezone("UTC")),
            "\"1970-01-01T00:00:00Z\"",
            "1970-01-01T00:00:00Z",
        ),
        (
            "instant_ns",
            column(TimestampNanosecondArray::from(vec![Some(1), None]).with_timezone("+02:00")),
            "\"1970-01-01T00:00:00.000000001Z\"",
            "1970-01-01T00:00:00.000000001Z",
        ),
        ("duration_s", column(DurationSecondArray::from(vec![Some(90), None])), "\"PT90S\"", "PT90S"),
        ("duration_ms", column(DurationMillisecondArray::from(vec![Some(-1), None])), "\"-PT0.001S\"", "-PT0.001S"),
        ("duration_us", column(DurationMicrosecondArray::from(vec![Some(1), None])), "\"PT0.000001S\"", "PT0.000001S"),
        ("duration_ns", column(DurationNanosecondArray::from(vec![Some(1), None])), "\"PT0.000000001S\"", "PT0.000000001S"),
        ("interval_ym", column(IntervalYearMonthArray::from(vec![Some(14), None])), "\"P14M\"", "P14M"),
        (
            "interval_dt",
            column(IntervalDayTimeArray::from(vec![Some(IntervalDayTime::new(1, -500)), None])),
            "\"P1DT-0.500S\"",
            "P1DT-0.500S",
        ),
    ]
}

fn nested() -> Vec<Case> {
    let floats = || Float32Array::from(vec![0.5, f32::NAN]);
    let item = |nullable| Arc::new(Field::new("item", DataType::Float32, nullable));
    let null_second = || Some(NullBuffer::from(vec![true, false]));
    let members = vec![
        (Arc::new(Field::new("na\"me", DataType::Utf8, true)), column(StringArray::from(vec![Some("x, y"), None]))),
        (Arc::new(Field::new("at", DataType::Date32, true)), column(Date32Array::from(vec![None, None]))),
    ];
    let (fields, arrays): (Vec<FieldRef>, Vec<ArrayRef>) = members.into_iter().unzip();
    let mut by_text = MapBuilder::new(None, StringBuilder::new(), Int64Builder::new());
    by_text.keys().append_value("k\n");
    by_text.values().append_null();
    by_text.append(true).unwrap();
    by_text.append(false).unwrap();
    let mut by_number = MapBuilder::new(None, Int64Builder::new(), Float32Builder::new());
    for (key, value) in [(0, 0.25), (-1, 0.75)] {
        by_number.keys().append_value(key);
        by_number.values().append_value(value);
    }
    by_number.append(true).unwrap();
    by_number.append(false).unwrap();
    let lists = ListArray::new(item(true), OffsetBuffer::new(vec![0, 2, 2].into()), column(floats()), null_second());
    vec![
        ("list", column(lists.clone()), r#"[0.5,"NaN"]"#, r#"[0.5,"NaN"]"#),
        ("large_list", cast(&lists, &DataType::LargeList(item(true))).unwrap(), r#"[0.5,"NaN"]"#, r#"[0.5,"NaN"]"#),
        (
            "fixed_list",
            column(FixedSizeListArray::new(item(true), 2, column(Float32Array::from(vec![1.0, 2.0, 3.0, 4.0])), null_second())),
            "[1.0,2.0]",
            "[1.0,2.0]",
        ),
        (
            "list_of_lists",
            column(ListArray::new(
                Arc::new(Field::new("item", lists.data_type().clone(), true)),
                OffsetBuffer::new(vec![0, 2, 2].into()),
                column(lists),
                null_second(),
            )),
            r#"[[0.5,"NaN"],null]"#,
            r#"[[0.5,"NaN"],null]"#,
        ),
        (
            "struct",
            column(StructArray::new(fields.into(), arrays, null_second())),
            r#"{"na\"me":"x, y","at":null}"#,
            r#"{"na\"me":"x, y","at":null}"#,
        ),
        ("map_by_text", column(by_text.finish()), r#"{"k\n":null}"#, r#"{"k\n":null}"#),
        ("map_by_number", column(by_number.finish()), r#"{"0":0.25,"-1":0.75}"#, r#"{"0":0.25,"-1":0.75}"#),
    ]
}

/// Types that keep their values apart from their rows.
fn packed() -> Vec<Case> {
    let words = DictionaryArray::<Int8Type>::new(Int8Array::from(vec![Some(1), None]), column(StringArray::from(vec!["a", "b,c"])));
    let runs = RunArray::try_new(&Int32Array::from(vec![1, 2]), &StringArray::from(vec![Some("r"), None])).unwrap();
    let views = ListViewArray::new(
        Arc::new(Field::new("item", DataType::Int32, true)),
        ScalarBuffer::from(vec![1, 0]),
        ScalarBuffer::from(vec![2, 0]),
        column(Int32Array::from(vec![7, 8, 9])),
        Some(NullBuffer::from(vec![true, false])),
    );
    vec![
        ("dictionary", column(words), "\"b,c\"", "b,c"),
        ("runs", column(runs), "\"r\"", "r"),
        ("list_view", column(views), "[8,9]", "[8,9]"),
    ]
}

/// What no Parquet file holds, but arrays may.
fn text_only() -> Vec<Case> {
    let thousands = Decimal128Array::from(vec![Some(-12), None]).with_precision_and_scale(38, -3).unwrap();
    let interval = IntervalMonthDayNanoArray::from(vec![Some(IntervalMonthDayNano::new(1, 2, 3)), None]);
    vec![
        ("thousands", column(thousands), "-12000", "-12000"),
        ("interval_mdn", column(interval), "\"P1M2DT0.000000003S\"", "P1M2DT0.000000003S"),
    ]
}

fn all() -> Vec<Case> {
    [scalars(), nested(), packed(), text_only()].concat()
}

fn rows(cases: &[Case]) -> RecordBatch {
    batch(cases.iter().map(|(name, array, _, _)| (*name, array.clone())))
}

#[test]
fn jsonl_writes_every_type_and_null() {
    let text = jsonl(&rows(&all()));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    let value = all().iter().map(|(name, _, json, _)| format!("\"{name}\":{json}")).collect::<Vec<_>>().join(",");
    assert_eq!(lines[0], format!("{{{value}}}"));
    let null = all().iter().map(|(name, _, _, _)| format!("\"{name}\":null")).collect::<Vec<_>>().join(",");
    assert_eq!(lines[1], format!("{{{null}}}"));
    for line in lines {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap();
        assert_eq!(object.len(), all().len());
    }
}

#[test]
fn csv_writes_every_type_and_leaves_null_empty() {
    let records = read_csv(csv(&rows(&all())).as_bytes());
    assert_eq!(records.len(), 3);
    assert_eq!(records[0], all().iter().map(|case| case.0).collect::<Vec<_>>());
    for (n, (name, _, _, cell)) in all().iter().enumerate() {
        assert_eq!(records[1][n], *cell, "{name}");
        assert_eq!(records[2][n], "", "{name}");
    }
}

#[test]
fn parquet_gives_every_type_back() {
    let cases = [scalars(), nested(), packed()].concat();
    let read = read_parquet(part(OutputFormat::Parquet, OutputCompression::None, &[rows(&cases)], false));
    for (n, (name, array, _, _)) in cases.iter().enumerate() {
        let array = match array.data_type() {
            DataType::Dictionary(_, values) => cast(array, values).unwrap(),
            DataType::RunEndEncoded(_, values) => cast(array, values.data_type()).unwrap(),
            _ => array.clone(),
        };
        assert_eq!(read.schema().field(n).name(), name);
        assert_eq!(read.column(n).as_ref(), array.as_ref(), "{name}");
    }
}

#[test]
fn a_column_of_type_null_is_null_everywhere() {
    let rows = batch([("n", column(NullArray::new(2))), ("x", column(Int8Array::from(vec![1, 2])))]);
    assert_eq!(jsonl(&rows), "{\"n\":null,\"x\":1}\n{\"n\":null,\"x\":2}\n");
    assert_eq!(csv(&rows), "n,x\n,1\n,2\n");
    assert_eq!(read_parquet(part(OutputFormat::Parquet, OutputCompression::None, &[rows], false)).column(0).logical_null_count(), 2);
}

#[test]
fn a_dictionary_without_values_is_null() {
    let empty = DictionaryArray::<Int8Type>::new(Int8Array::from(vec![None, None]), column(StringArray::new_null(0)));
    assert_eq!(jsonl(&batch([("d", column(empty))])), "{\"d\":null}\n{\"d\":null}\n");
}

#[test]
fn slices_write_their_own_rows() {
    let whole = rows(&all());
    let (first, second) = (whole.slice(0, 1), whole.slice(1, 1));
    assert_eq!(format!("{}{}", jsonl(&first), jsonl(&second)), jsonl(&whole));
    let cells = |rows: &RecordBatch| csv(rows).split_once('\n').unwrap().1.to_owned();
    assert_eq!(cells(&second), format!("{}\n", ",".repeat(all().len() - 1)));
}

#[test]
fn json_fields_stand_as_found() {
    let found = vec![Some("\"r\\u00e9d\""), Some("12.50"), Some("[1, {\"a\": null}]"), Some("null"), None, Some("1e400"), Some("\"\"")];
    let rows = of_fields([encoded("f", ENCODING_JSON, found)]);
    let expected = ["\"r\\u00e9d\"", "12.50", "[1, {\"a\": null}]", "null", "null", "1e400", "\"\""];
    assert_eq!(jsonl(&rows), expected.map(|json| format!("{{\"f\":{json}}}\n")).concat());
    assert_eq!(csv(&rows), "f\nréd\n12.50\n\"[1, {\"\"a\"\": null}]\"\n\n\n1e400\n\n");
    let read = read_parquet(part(OutputFormat::Parquet, OutputCompression::None, &[rows], false));
    let text = [Some("réd"), Some("12.50"), Some("[1, {\"a\": null}]"), None, None, Some("1e400"), Some("")];
    assert_eq!(read.column(0).as_string::<i32>(), &StringArray::from(text.to_vec()));
    assert!(read.schema().field(0).metadata().is_empty(), "how the input was written is not the reader's business");
}

#[test]
fn csv_cells_are_text_and_no_number_is_guessed() {
    let rows = of_fields([encoded("c", ENCODING_CSV, vec![Some("007"), Some(""), Some("=1+1"), Some("a,\"b\"")])]);
    assert_eq!(jsonl(&rows), "{\"c\":\"007\"}\n{\"c\":\"\"}\n{\"c\":\"=1+1\"}\n{\"c\":\"a,\\\"b\\\"\"}\n");
    assert_eq!(csv(&rows), "c\n007\n\n=1+1\n\"a,\"\"b\"\"\"\n");
    let read = read_parquet(part(OutputFormat::Parquet, OutputCompression::None, &[rows], false));
    assert_eq!(read.column(0).as_string::<i32>(), &StringArray::from(vec!["007", "", "=1+1", "a,\"b\""]));
}

#[test]
fn names_are_quoted_like_values() {
    let rows = batch([("a \"b\"\n,", column(Int8Array::from(vec![1])))]);
    assert_eq!(jsonl(&rows), "{\"a \\\"b\\\"\\n,\":1}\n");
    assert_eq!(csv(&rows), "\"a \"\"b\"\"\n,\"\n1\n");
}

#[test]
fn an_error_row_is_one_line_that_says_where_and_why() {
    let provenance = crate::runner::batch::Provenance::of(Arc::from("a/b\n.csv"), [7]);
    let error = provenance.error(0, crate::domain::Stage::Decode, "invalid_json", "expected \"x\"\nfound \u{1}");
    let line = crate::runner::encode::error_line(&error);
    let expected =
        r#"{"_source":"a/b\n.csv","_position":7,"stage":"decode","code":"invalid_json","detail":"expected \"x\"\nfound \u0001"}"#;
    assert_eq!(String::from_utf8(line).unwrap(), format!("{expected}\n"));
}

proptest! {
    #[test]
    fn any_text_is_read_back_by_other_readers(texts in proptest::collection::vec(proptest::option::of(any::<String>()), 1..20)) {
        let rows = batch([("t", column(StringArray::from(texts.clone()))), ("n", column(Int64Array::from_iter_values(0..texts.len() as i64)))]);
        for (line, text) in jsonl(&rows).lines().zip(&texts) {
            let object: serde_json::Value = serde_json::from_str(line).unwrap();
            prop_assert_eq!(object["t"].as_str(), text.as_deref());
        }
        let records = read_csv(csv(&rows).as_bytes());
        prop_assert_eq!(records.len(), texts.len() + 1);
        for (record, text) in records[1..].iter().zip(&texts) {
            prop_assert_eq!(&record[0], text.as_deref().unwrap_or_default());
        }
    }
}
