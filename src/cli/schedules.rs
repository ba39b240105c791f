//! `nightshift schedules`: create, look at and steer schedules.

use serde_json::Value;

use super::{
    client::Client,
    definition,
    jobs::{client, items, more, pages},
    show,
    stop::{Outcome, Stop},
};
use crate::config::{self, Form, Schedules};

pub(super) fn run(settings: config::SchedulesArgs) -> Outcome {
    super::block_on(async move {
        match settings.command {
            Schedules::List(list) => schedules(&list).await,
            Schedules::Get(schedule) => get(&schedule).await,
            Schedules::Create(create) => self::create(&create).await,
            Schedules::Pause(schedule) => change(&schedule, "pause").await,
            Schedules::Resume(schedule) => change(&schedule, "resume").await,
            Schedules::Run(schedule) => fire(&schedule).await,
            Schedules::Delete(schedule) => delete(&schedule).await,
            Schedules::Runs(runs) => self::runs(&runs).await,
        }
    })
}

/// An id becomes a part of a path: nothing else may.
fn id(text: &str) -> Result<&str, Stop> {
    match crate::domain::ScheduleId::parse(text) {
        Some(_) => Ok(text),
        None => Err(Stop::usage(format!("{text:?} is no schedule's id; `nightshift schedules list` shows them"))),
    }
}

async fn schedules(list: &config::ListSchedules) -> Outcome {
    let client = client(&list.talk)?;
    let page = pages(&client, "/v1/schedules", Vec::new(), &list.extent, 200).await?;
    if list.talk.output == Form::Json {
        return show::print_json(&page);
    }
    let rows = items(&page).map(|schedule| {
        let next = &schedule["next_fires"][0]["local_time"];
        vec![
            show::cell(&schedule["id"]),
            show::cell(&schedule["state"]),
            show::cell(&schedule["cron"]),
            show::cell(&schedule["time_zone"]),
            if schedule["state"] == "active" { show::cell(next) } else { String::new() },
            show::cell(&schedule["name"]),
        ]
    });
    show::print(&show::columns(&["SCHEDULE", "STATE", "CRON", "TIME ZONE", "NEXT FIRE", "NAME"], rows))?;
    more(&page);
    Ok(())
}

async fn get(schedule: &config::OneSchedule) -> Outcome {
    let client = client(&schedule.talk)?;
    let answer = client.send(client.get(&format!("/v1/schedules/{}", id(&schedule.id)?), &[])?).await?;
    shown(&answer, schedule.talk.output)
}

async fn create(create: &config::CreateSchedule) -> Outcome {
    let client = client(&create.talk)?;
    let mut schedule = definition::of_file(&create.file)?;
    definition::set_named(&mut schedule, &create.set)?;
    let query: Vec<(String, String)> = create.dry_run.then(|| ("dry_run".to_owned(), "true".to_owned())).into_iter().collect();
    let answer = client.send(client.post("/v1/schedules", &query)?.body(&schedule)).await?;
    match create.talk.output {
        Form::Table if create.dry_run => show::print(&fires(&answer)),
        form => shown(&answer, form),
    }
}

async fn change(schedule: &config::OneSchedule, how: &str) -> Outcome {
    let client = client(&schedule.talk)?;
    let answer = post(&client, schedule, how).await?;
    shown(&answer, schedule.talk.output)
}

async fn fire(schedule: &config::OneSchedule) -> Outcome {
    let client = client(&schedule.talk)?;
    let answer = post(&client, schedule, "run").await?;
    match schedule.talk.output {
        Form::Json => show::print_json(&answer),
        Form::Table => {
            show::print(&format!("fire {}", show::cell(&answer["fire_time"])))?;
            eprintln!("Its job is listed by: nightshift schedules runs {}", schedule.id);
            Ok(())
        }
    }
}

async fn post(client: &Client, schedule: &config::OneSchedule, how: &str) -> Result<Value, Stop> {
    Ok(client.send(client.post(&format!("/v1/schedules/{}/{how}", id(&schedule.id)?), &[])?).await?)
}

async fn delete(schedule: &config::OneSchedule) -> Outcome {
    let client = client(&schedule.talk)?;
    let answer = client.send(client.delete(&format!("/v1/schedules/{}", id(&schedule.id)?))?).await?;
    match schedule.talk.output {
        Form::Json => show::print_json(&answer),
        Form::Table => show::print(&format!("deleted {}", schedule.id)),
    }
}

async fn runs(runs: &config::ScheduleRuns) -> Outcome {
    let client = client(&runs.talk)?;
    let page = pages(&client, &format!("/v1/schedules/{}/runs", id(&runs.id)?), Vec::new(), &runs.extent, 1000).await?;
    if runs.talk.output == Form::Json {
        return show::print_json(&page);
    }
    let rows = items(&page).map(|run| {
        let why = &run["problem"];
        let why = if why.is_object() { format!("{}: {}", show::cell(&why["title"]), show::cell(&why["detail"])) } else { String::new() };
        vec![show::cell(&run["fire_time"]), show::cell(&run["state"]), show::cell(&run["job"]), why]
    });
    show::print(&show::columns(&["FIRE (UTC)", "STATE", "JOB", "WHY"], rows))?;
    more(&page);
    Ok(())
}

fn shown(schedule: &Value, form: Form) -> Outcome {
    match form {
        Form::Json => show::print_json(schedule),
        Form::Table => show::print(&report(schedule)),
    }
}

/// A schedule for people.
fn report(schedule: &Value) -> String {
    let text = |name: &str| (name.replace('_', " "), show::cell(&schedule[name]));
    let mut rows = vec![("schedule".to_owned(), show::cell(&schedule["id"]))];
    rows.extend(["state", "name", "cron", "time_zone", "overlap", "catch_up", "only_new", "end_at", "created_at"].map(text));
    let problem = &schedule["problem"];
    if problem.is_object() {
        rows.push(("problem".to_owned(), show::cell(&problem["detail"])));
    }
    format!("{}\n{}", show::pairs(rows), fires(schedule))
}

/// Fires to come, with what their jobs read and write.
fn fires(answer: &Value) -> String {
    let fires = answer["next_fires"].as_array().into_iter().flatten();
    let rows = fires.map(|fire| ["local_time", "input", "output", "wait_for"].map(|name| show::cell(&fire[name])).to_vec());
    show::columns(&["NEXT FIRE", "INPUT", "OUTPUT", "WAITS FOR"], rows)
}
