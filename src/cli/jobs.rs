//! `nightshift jobs`: list, follow, stop and read jobs.

use serde_json::{Value, json};

use super::{
    client::Client,
    download, show,
    stop::{Outcome, Stop},
    watch,
};
use crate::config::{self, Extent, Form, Jobs};

pub(super) fn run(settings: config::JobsArgs) -> Outcome {
    super::block_on(async move {
        match settings.command {
            Jobs::List(list) => jobs(&list).await,
            Jobs::Get(job) => get(&job).await,
            Jobs::Watch(job) => watch::watch(&client(&job.talk)?, id(&job.id)?, job.talk.output).await,
            Jobs::Cancel(job) => change(&job, "cancel").await,
            Jobs::Pause(job) => change(&job, "pause").await,
            Jobs::Resume(job) => change(&job, "resume").await,
            Jobs::Retry(job) => change(&job, "retry").await,
            Jobs::Results(results) => self::results(&results).await,
            Jobs::Errors(errors) => self::errors(&errors).await,
        }
    })
}

pub(super) fn client(talk: &config::Talk) -> Result<Client, Stop> {
    Client::new(&talk.api, talk.output)
}

/// An id becomes a part of a path: nothing else may.
fn id(text: &str) -> Result<&str, Stop> {
    match crate::domain::JobId::parse(text) {
        Some(_) => Ok(text),
        None => Err(Stop::usage(format!("{text:?} is no job's id; `nightshift jobs list` shows them"))),
    }
}

async fn jobs(list: &config::List) -> Outcome {
    let client = client(&list.talk)?;
    let state = list.state.iter().map(|state| ("state".to_owned(), state.clone()));
    let labels = list.label.iter().map(|(key, value)| (format!("label.{key}"), value.clone()));
    let query = state.chain(labels).collect();
    let page = pages(&client, "/v1/jobs", query, &list.extent, 200).await?;
    if list.talk.output == Form::Json {
        return show::print_json(&page);
    }
    let rows = items(&page).map(|job| {
        let records = &job["counts"]["records"];
        vec![
            show::cell(&job["id"]),
            show::cell(&job["state"]),
            format!("{:.0} %", job["progress"].as_f64().unwrap_or_default() * 100.0),
            records["succeeded"].to_string(),
            records["failed"].to_string(),
            show::cell(&job["created_at"]).chars().take(19).collect(),
            show::cell(&job["name"]),
            watch::labels(&job["labels"]),
        ]
    });
    show::print(&show::columns(&["JOB", "STATE", "DONE", "PREDICTIONS", "ERRORS", "CREATED (UTC)", "NAME", "LABELS"], rows))?;
    more(&page);
    Ok(())
}

async fn get(job: &config::OneJob) -> Outcome {
    let client = client(&job.talk)?;
    let answer = client.send(client.get(&format!("/v1/jobs/{}", id(&job.id)?), &[])?).await?;
    shown(&answer, job.talk.output)
}

async fn change(job: &config::OneJob, how: &str) -> Outcome {
    let client = client(&job.talk)?;
    let answer = client.send(client.post(&format!("/v1/jobs/{}/{how}", id(&job.id)?), &[])?).await?;
    shown(&answer, job.talk.output)
}

fn shown(job: &Value, form: Form) -> Outcome {
    match form {
        Form::Json => show::print_json(job),
        Form::Table => show::print(&watch::report(job)),
    }
}

async fn results(results: &config::Results) -> Outcome {
    let client = client(&results.talk)?;
    let id = id(&results.id)?;
    if let Some(folder) = &results.download {
        return download::run(&client, id, folder, results.talk.output).await;
    }
    let path = format!("/v1/jobs/{id}/results");
    let page = pages(&client, &path, Vec::new(), &Extent { limit: u32::MAX, all: true }, 1000).await?;
    if results.talk.output == Form::Json {
        return show::print_json(&page);
    }
    let rows = items(&page).map(|part| {
        let url = part["url"].as_str().unwrap_or_default();
        let url = client.url(url).map_or_else(|_| url.to_owned(), String::from);
        vec![part["part"].to_string(), part["records"].to_string(), part["bytes"].to_string(), show::cell(&part["uri"]), url]
    });
    show::print(&show::columns(&["PART", "RECORDS", "BYTES", "LOCATION", "URL"], rows))?;
    if let Some(manifest) = page["manifest_url"].as_str() {
        show::print(&format!("manifest: {}", client.url(manifest)?))?;
    }
    Ok(())
}

async fn errors(errors: &config::Errors) -> Outcome {
    let client = client(&errors.talk)?;
    let path = format!("/v1/jobs/{}/errors", id(&errors.id)?);
    let page = pages(&client, &path, Vec::new(), &errors.extent, 1000).await?;
    if errors.talk.output == Form::Json {
        return show::print_json(&page);
    }
    let rows = items(&page).map(|row| ["_source", "_position", "stage", "code", "detail"].map(|name| show::cell(&row[name])).to_vec());
    show::print(&show::columns(&["SOURCE", "POSITION", "STAGE", "CODE", "DETAIL"], rows))?;
    more(&page);
    Ok(())
}

pub(super) fn items(page: &Value) -> impl Iterator<Item = &Value> {
    page["items"].as_array().into_iter().flatten()
}

pub(super) fn more(page: &Value) {
    if page["next_cursor"].is_string() {
        eprintln!("There are more: --all shows them.");
    }
}

/// Pages of a list as one, as if the API had given it: the first page's fields, all items, the last page's cursor.
pub(super) async fn pages(client: &Client, path: &str, query: Vec<(String, String)>, extent: &Extent, most: u32) -> Result<Value, Stop> {
    let wanted = if extent.all { u32::MAX } else { extent.limit };
    let mut whole: Option<Value> = None;
    let mut cursor = Value::Null;
    let mut count = 0u32;
    loop {
        let mut query = query.clone();
        query.push(("limit".to_owned(), most.min(wanted - count).to_string()));
        query.extend(cursor.as_str().map(|cursor| ("cursor".to_owned(), cursor.to_owned())));
        let mut page = client.send(client.get(path, &query)?).await?;
        cursor = page["next_cursor"].take();
        let found = page["items"].as_array_mut().map(std::mem::take).ok_or("the service's answer has no items")?;
        count = count.saturating_add(u32::try_from(found.len()).unwrap_or(u32::MAX));
        let whole = whole.get_or_insert(page);
        if let Some(items) = whole["items"].as_array_mut() {
            items.extend(found);
        }
        if !cursor.is_string() || count >= wanted {
            whole["next_cursor"] = cursor;
            return Ok(std::mem::replace(whole, json!(null)));
        }
    }
}
