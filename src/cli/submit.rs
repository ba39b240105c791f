//! `nightshift submit`: a job definition from flags or a file, to a service.

use std::{io::Read, path::Path};

use serde_json::{Map, Value};

use super::{
    client::Client,
    show,
    stop::{Outcome, Stop},
    watch,
};
use crate::config::{self, Form, SubmitOutput};

pub(super) fn run(settings: &config::Submit) -> Outcome {
    let (definition, form) = definition(settings)?;
    super::block_on(submit(settings, definition, form))
}

async fn submit(settings: &config::Submit, definition: Value, form: Form) -> Outcome {
    let client = Client::new(&settings.api, form)?;
    if settings.dry_run {
        let request = client.post("/v1/jobs", &[("dry_run".to_owned(), "true".to_owned())])?.body(&definition);
        return show::print_json(&client.send(request).await?);
    }
    let mut request = client.post("/v1/jobs", &[])?.body(&definition);
    if let Some(key) = &settings.idempotency_key {
        request = request.header("Idempotency-Key", key);
    }
    let job = client.send(request).await?;
    let id = job["id"].as_str().ok_or("the service's answer has no id")?;
    if settings.watch {
        eprintln!("{id}");
        return watch::watch(&client, id, form).await;
    }
    match form {
        Form::Json => show::print_json(&job),
        Form::Table => {
            show::print(&watch::report(&job))?;
            eprintln!("Follow it with: nightshift jobs watch {id}");
            Ok(())
        }
    }
}

/// The definition, and how the answer is shown.
fn definition(settings: &config::Submit) -> Result<(Value, Form), Stop> {
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
        Some(path) => read(path)?,
        None if location.is_none() => return Err(Stop::usage("--output names no location; write one such as s3://lake/scores/")),
        None => Value::Object(Map::new()),
    };
    let texts = [
        ("model.uri", &settings.model),
        ("input.uri", &settings.input),
        ("output.uri", &location),
        ("name", &settings.name),
        ("input.format", &settings.input_format),
        ("output.format", &settings.format),
        ("output.compression", &settings.compression),
        ("pipeline.task", &settings.task),
        ("execution.deadline", &settings.deadline),
        ("webhook.url", &settings.webhook_url),
    ];
    for (path, text) in texts {
        if let Some(text) = text {
            set(&mut definition, path, text.as_str().into())?;
        }
    }
    for (key, value) in &settings.label {
        set_at(&mut definition, &["labels", key], value.as_str().into())?;
    }
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
    if let Some(priority) = settings.priority {
        set(&mut definition, "execution.priority", priority.into())?;
    }
    if let Some(records) = settings.chunk_records {
        set(&mut definition, "execution.chunk_records", records.into())?;
    }
    if let Some(secret) = settings.webhook_secret.as_ref().filter(|_| definition.get("webhook").is_some_and(Value::is_object)) {
        set(&mut definition, "webhook.secret", secret.as_str().into())?;
    }
    for (path, value) in &settings.set {
        set(&mut definition, path, json_or_text(value))?;
    }
    Ok((definition, form.unwrap_or(Form::Table)))
}

/// JSON where it is some, else the text as it stands.
pub(super) fn json_or_text(value: &str) -> Value {
    serde_json::from_str(value).unwrap_or_else(|_| value.into())
}

fn read(path: &Path) -> Result<Value, Stop> {
    let name = path.display();
    let text = match path.to_str() {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        _ => std::fs::read_to_string(path),
    };
    let text = text.map_err(|e| Stop::usage(format!("the job definition {name} cannot be read: {e}")))?;
    match serde_json::from_str(&text) {
        Ok(definition @ Value::Object(_)) => Ok(definition),
        Ok(_) => Err(Stop::usage(format!("the job definition {name} is no JSON object"))),
        Err(e) => Err(Stop::usage(format!("the job definition {name} is not JSON: {e}"))),
    }
}

fn set(definition: &mut Value, path: &str, value: Value) -> Result<(), Stop> {
    set_at(definition, &path.split('.').collect::<Vec<_>>(), value)
}

/// Sets a field of the definition, and makes what is missing on the way. A location that is a text is short for an object with a `uri`.
fn set_at(at: &mut Value, path: &[&str], value: Value) -> Result<(), Stop> {
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

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;
    use serde_json::json;

    use super::*;

    fn of(args: &[&str]) -> Result<(Value, Form), String> {
        let matches = config::command().try_get_matches_from(["nightshift", "submit"].iter().chain(args)).map_err(|e| e.to_string())?;
        let cli = config::Cli::from_arg_matches(&matches).map_err(|e| e.to_string())?;
        let config::Command::Submit(settings) = cli.command else { panic!("{cli:?}") };
        definition(&settings).map_err(|stop| stop.message)
    }

    #[test]
    fn flags_make_a_definition() {
        let flags = "--model s3://m/ --input s3://i/ --output s3://o/ --output json --label a=b=c --label d.e=f --format csv \
                     --include-input id,amount --include **/*.csv --priority -3 --set execution.batch_size=64 --set pipeline.missing=nan";
        let (definition, form) = of(&flags.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!(form, Form::Json);
        let wanted = json!({
            "model": {"uri": "s3://m/"}, "input": {"uri": "s3://i/", "include": ["**/*.csv"]},
            "output": {"uri": "s3://o/", "format": "csv", "include_input": ["id", "amount"]},
            "labels": {"a": "b=c", "d.e": "f"}, "execution": {"priority": -3, "batch_size": 64}, "pipeline": {"missing": "nan"},
        });
        assert_eq!(definition, wanted);
    }

    #[test]
    fn flags_win_over_the_files_fields_and_short_forms_grow() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"model": "s3://m/", "input": "s3://i/", "output": {"uri": "s3://o/", "format": "csv"}}"#).unwrap();
        let path = file.path().to_str().unwrap();
        let (definition, form) = of(&[path, "--output", "s3://p/", "--input-format", "csv"]).unwrap();
        assert_eq!(form, Form::Table);
        let wanted =
            json!({"model": "s3://m/", "input": {"uri": "s3://i/", "format": "csv"}, "output": {"uri": "s3://p/", "format": "csv"}});
        assert_eq!(definition, wanted);
    }

    #[test]
    fn what_cannot_be_a_definition_is_said_before_anything_is_sent() {
        assert!(of(&["--model", "s3://m/"]).unwrap_err().contains("--input"));
        assert!(of(&["--model", "s3://m/", "--input", "s3://i/", "--output", "json"]).unwrap_err().contains("no location"));
        assert!(of(&["--model", "a", "--input", "b", "--output", "scores"]).unwrap_err().contains("s3://lake/scores/"));
        assert!(of(&["/nowhere.json"]).unwrap_err().contains("/nowhere.json"));
    }
}
