//! A job definition from flags, a file, or both.

use std::{io::Read, path::Path};

use serde_json::{Map, Value};

use super::stop::Stop;
use crate::config::{self, Form, SubmitOutput};

/// The definition, and how the answer is shown.
///
/// # Errors
/// What is wrong with the command line or the file.
pub(super) fn read(settings: &config::Definition) -> Result<(Value, Form), Stop> {
    let (mut location, mut form) = (None, None);
    for output in &settings.output {
        let twice = match output {
            SubmitOutput::Location(uri) => location.replace(uri.clone()).is_some(),
            SubmitOutput::Form(chosen) => form.replace(*chosen).is_some(),
        };
        if twice {
            return Err(Stop::usage("--output names two locations or two forms; give one of each at most"));
        }
    }
    let mut definition = match &settings.file {
        Some(path) => of_file(path)?,
        None if location.is_none() => return Err(Stop::usage("--output names no location; write one such as s3://lake/scores/")),
        None => Value::Object(Map::new()),
    };
    let texts = [
        ("model.uri", &settings.model),
        ("input.uri", &settings.input),
        ("output.uri", &location),
        ("input.format", &settings.input_format),
        ("output.format", &settings.format),
        ("output.compression", &settings.compression),
        ("pipeline.task", &settings.task),
    ];
    set_texts(&mut definition, &texts)?;
    for (path, globs) in [("input.include", &settings.include), ("input.exclude", &settings.exclude)] {
        if !globs.is_empty() {
            set(&mut definition, path, globs.clone().into())?;
        }
    }
    if let Some(columns) = &settings.include_input {
        let columns: Value = match columns.as_str() {
            "all" | "true" => true.into(),
            "none" | "false" => false.into(),
            names => names.split(',').map(str::trim).collect::<Vec<_>>().into(),
        };
        set(&mut definition, "output.include_input", columns)?;
    }
    if let Some(records) = settings.chunk_records {
        set(&mut definition, "execution.chunk_records", records.into())?;
    }
    Ok((definition, form.unwrap_or(Form::Table)))
}

/// Sets the fields that are named by `--set`: after all others, as they may name any.
///
/// # Errors
/// When the definition has no object that could hold one.
pub(super) fn set_named(definition: &mut Value, fields: &[(String, String)]) -> Result<(), Stop> {
    fields.iter().try_for_each(|(path, value)| set(definition, path, json_or_text(value)))
}

/// Sets those that are given.
pub(super) fn set_texts(definition: &mut Value, texts: &[(&str, &Option<String>)]) -> Result<(), Stop> {
    for (path, text) in texts {
        if let Some(text) = text {
            set(definition, path, text.as_str().into())?;
        }
    }
    Ok(())
}

/// The location of a field that may be written as a text or as an object with a `uri`.
pub(super) fn location<'d>(definition: &'d Value, field: &str) -> Option<&'d str> {
    definition[field].as_str().or_else(|| definition[field]["uri"].as_str())
}

/// JSON where it is some, else the text as it stands.
pub(super) fn json_or_text(value: &str) -> Value {
    serde_json::from_str(value).unwrap_or_else(|_| value.into())
}

/// A definition as a file has it, be it a job's or a schedule's.
pub(super) fn of_file(path: &Path) -> Result<Value, Stop> {
    let name = path.display();
    let text = match path.to_str() {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        _ => std::fs::read_to_string(path),
    };
    let text = text.map_err(|e| Stop::usage(format!("the definition {name} cannot be read: {e}")))?;
    match serde_json::from_str(&text) {
        Ok(definition @ Value::Object(_)) => Ok(definition),
        Ok(_) => Err(Stop::usage(format!("the definition {name} is no JSON object"))),
        Err(e) => Err(Stop::usage(format!("the definition {name} is not JSON: {e}"))),
    }
}

/// Sets a field by its path.
pub(super) fn set(definition: &mut Value, path: &str, value: Value) -> Result<(), Stop> {
    set_at(definition, &path.split('.').collect::<Vec<_>>(), value)
}

/// Sets a field of the definition, and makes what is missing on the way. A location that is a text is short for an object with a `uri`.
pub(super) fn set_at(at: &mut Value, path: &[&str], value: Value) -> Result<(), Stop> {
    let [name, rest @ ..] = path else {
        *at = value;
        return Ok(());
    };
    if let Value::String(uri) = at {
        *at = Value::Object(Map::from_iter([("uri".to_owned(), Value::String(std::mem::take(uri)))]));
    }
    if at.is_null() {
        *at = Value::Object(Map::new());
    }
    let fields = at.as_object_mut().ok_or_else(|| Stop::usage(format!("the definition has no object that could hold {name:?}")))?;
    set_at(fields.entry(*name).or_insert(Value::Null), rest, value)
}
