//! `nightshift submit`: a job definition from flags or a file, to a service.

use serde_json::Value;

use super::{
    client::Client,
    definition, show,
    stop::{Outcome, Stop},
    watch,
};
use crate::config::{self, Form};

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
    let (mut definition, form) = definition::read(&settings.definition)?;
    let texts = [("name", &settings.name), ("execution.deadline", &settings.deadline), ("webhook.url", &settings.webhook_url)];
    definition::set_texts(&mut definition, &texts)?;
    for (key, value) in &settings.label {
        definition::set_at(&mut definition, &["labels", key], value.as_str().into())?;
    }
    if let Some(priority) = settings.priority {
        definition::set(&mut definition, "execution.priority", priority.into())?;
    }
    if let Some(secret) = settings.webhook_secret.as_ref().filter(|_| definition.get("webhook").is_some_and(Value::is_object)) {
        definition::set(&mut definition, "webhook.secret", secret.as_str().into())?;
    }
    definition::set_named(&mut definition, &settings.definition.set)?;
    Ok((definition, form))
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
