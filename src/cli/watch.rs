//! Follows a job to its end: a progress bar on a terminal, a line for each change elsewhere; both on standard error, as standard
//! output is for the answer.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::{
    client::{Client, Opened, Trouble},
    show,
    stop::{Outcome, Stop},
    usage,
};
use crate::config::Form;

/// Between two looks, and before a stream of events that has ended is opened again.
const LOOK: Duration = Duration::from_millis(500);
/// How long the service may be away, as when it is restarted.
const PATIENCE: Duration = Duration::from_secs(120);

/// Follows a job, then shows it.
///
/// # Errors
/// Unless the job ends as completed.
pub(super) async fn watch(client: &Client, id: &str, form: Form) -> Outcome {
    let job = tokio::select! {
        job = follow(client, id) => job?,
        _ = tokio::signal::ctrl_c() => {
            eprintln!("\n{id} goes on. Come back to it with: nightshift jobs watch {id}");
            return Err(Stop { message: String::new(), code: 130 });
        }
    };
    match form {
        Form::Json => show::print_json(&job)?,
        Form::Table => show::print(&report(&job))?,
    }
    if job["state"] == "completed" { Ok(()) } else { Err(Stop::said()) }
}

async fn follow(client: &Client, id: &str) -> Result<Value, Stop> {
    let mut progress = Progress::new();
    let mut away: Option<Instant> = None;
    let mut live = Live::new();
    loop {
        let streams = live.follow(client, id, &mut progress).await?;
        match client.send(client.get(&format!("/v1/jobs/{id}"), &[])?).await {
            Ok(job) => {
                away = None;
                if !streams {
                    live.give_up(&progress);
                }
                live.job = job.clone();
                progress.show(&job);
                if is_final(&job) {
                    progress.end();
                    return Ok(job);
                }
            }
            Err(Trouble::Away(message)) => {
                let since = *away.get_or_insert_with(|| {
                    progress.say(&format!("{message}; trying again"));
                    Instant::now()
                });
                if since.elapsed() > PATIENCE {
                    return Err(message.into());
                }
            }
            Err(Trouble::Refused(stop)) => return Err(stop),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The service's events of a job.
struct Live {
    /// The job as far as it is known.
    job: Value,
    /// The last event that has an id.
    last: Option<String>,
    /// The service has no events: it is asked for the job instead.
    given_up: bool,
}

impl Live {
    fn new() -> Self {
        Self { job: json!({}), last: None, given_up: false }
    }

    /// Shows what happens to the job until the stream of it ends or breaks; false when there is none to be had.
    async fn follow(&mut self, client: &Client, id: &str, progress: &mut Progress) -> Result<bool, Stop> {
        if self.given_up {
            return Ok(true);
        }
        let mut events = match client.events(&format!("/v1/jobs/{id}/events"), self.last.as_deref()).await? {
            Opened::Stream(events) => events,
            Opened::Nothing => return Ok(false),
            Opened::NotNow => return Ok(true),
        };
        while let Some(event) = events.next().await {
            if let (Ok(Value::Object(told)), Some(job)) = (serde_json::from_str(&event.data), self.job.as_object_mut()) {
                job.extend(told);
            }
            self.last = event.id.or(self.last.take());
            progress.show(&self.job);
        }
        Ok(true)
    }

    /// The job is there, and no events of it.
    fn give_up(&mut self, progress: &Progress) {
        progress.say("this service is of a version without live events: it is asked for the job every now and then");
        self.given_up = true;
    }
}

fn is_final(job: &Value) -> bool {
    matches!(job["state"].as_str(), Some("completed" | "failed" | "cancelled" | "expired"))
}

/// What is shown while a job runs.
enum Progress {
    Bar(ProgressBar),
    Lines { last: String },
}

impl Progress {
    fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines { last: String::new() };
        }
        let style = ProgressStyle::with_template("{prefix:<12} {wide_bar} {percent:>3} %  {msg}").expect("a template");
        let bar = ProgressBar::new(1000).with_style(style);
        // Long enough between two looks for a terminal to be resized.
        bar.enable_steady_tick(Duration::from_millis(250));
        Self::Bar(bar)
    }

    fn show(&mut self, job: &Value) {
        let state = job["state"].as_str().unwrap_or_default();
        let share = job["progress"].as_f64().unwrap_or_default();
        let counts = &job["counts"];
        let records = counts["records"]["succeeded"].as_u64().unwrap_or(0) + counts["records"]["failed"].as_u64().unwrap_or(0);
        match self {
            Self::Bar(bar) => {
                let rate = job["records_per_second"]
                    .as_f64()
                    .or(job["usage"]["records_per_second"].as_f64())
                    .map(|rate| format!("  {rate:.0}/s"))
                    .unwrap_or_default();
                let eta = job["eta_seconds"].as_f64().map(|eta| format!("  ETA {}", span(eta))).unwrap_or_default();
                bar.set_prefix(state.to_owned());
                bar.set_position((share * 1000.0) as u64);
                bar.set_message(format!("{records} records{rate}{eta}"));
            }
            Self::Lines { last } => {
                let (done, chunks) = (&counts["chunks_done"], &counts["chunks"]);
                let line = format!("{state:<12} {:>3.0} %  {done} of {chunks} chunks  {records} records", share * 100.0);
                if line != *last {
                    eprintln!("{line}");
                    *last = line;
                }
            }
        }
    }

    fn say(&self, message: &str) {
        match self {
            Self::Bar(bar) => bar.println(message),
            Self::Lines { .. } => eprintln!("{message}"),
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// Seconds as people say them.
pub(super) fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) if seconds < 10.0 => format!("{:.1} s", seconds.max(0.0)),
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// A job for people.
pub(super) fn report(job: &Value) -> String {
    let (counts, usage) = (&job["counts"], &job["usage"]);
    let text = |value: &Value| show::cell(value);
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
    row("job", text(&job["id"]));
    row("state", format!("{} ({:.0} %)", text(&job["state"]), job["progress"].as_f64().unwrap_or_default() * 100.0));
    row("name", text(&job["name"]));
    row("labels", labels(&job["labels"]));
    row("model", text(&job["model"]["uri"]));
    row("input", text(&job["input"]["uri"]));
    row("output", format!("{} ({})", text(&job["output"]["uri"]), text(&job["output"]["format"])));
    row("objects", format!("{} ({} bytes)", counts["objects"], counts["bytes"]));
    row("chunks", format!("{} of {} done", counts["chunks_done"], counts["chunks"]));
    row("records", format!("{} predictions, {} errors", counts["records"]["succeeded"], counts["records"]["failed"]));
    if let Some(rate) = usage["records_per_second"].as_f64() {
        let (wall, provider) = (usage["wall_seconds"].as_f64().unwrap_or_default(), text(&usage["provider"]));
        let on = if provider.is_empty() { String::new() } else { format!(" on {provider}") };
        row("rate", format!("{rate:.0} records/s{on}, {} in all", span(wall)));
    }
    if let (Some(stage), Some(share)) = (usage["bottleneck"]["stage"].as_str(), usage["bottleneck"]["share"].as_f64()) {
        row("bound by", format!("{stage}, {:.0} % of the time; faster with {}", share * 100.0, text(&usage["bottleneck"]["advice"])));
    }
    if let (Some(held), Some(busy)) = (usage["device_seconds"].as_f64(), usage["utilisation"].as_f64()) {
        row("devices", format!("{} held, {:.0} % of it inferring", span(held), busy * 100.0));
    }
    row("cost", cost(job));
    if let Some(eta) = job["eta_seconds"].as_f64() {
        row("eta", span(eta));
    }
    row("created", text(&job["created_at"]));
    row("finished", text(&job["finished_at"]));
    let waits = &job["waiting_for"];
    let waited: Vec<String> =
        waits["jobs"].as_array().into_iter().flatten().chain([&waits["uri"]]).map(text).filter(|w| !w.is_empty()).collect();
    row("waits for", waited.join(" "));
    row("schedule", text(&job["schedule"]["id"]));
    row("note", text(&job["note"]));
    if let Some(title) = job["error"]["title"].as_str() {
        row("error", format!("{title}: {}", text(&job["error"]["detail"])));
    }
    show::pairs(rows)
}

/// What the job has cost beside what it was expected to; nothing without prices.
fn cost(job: &Value) -> String {
    let used = &job["usage"];
    let amount = |amount: &Value| usage::money(amount, &used["currency"]);
    let mut text = amount(&used["cost"]);
    if text.is_empty() {
        return text;
    }
    if used["retry_cost"].as_f64().is_some_and(|lost| lost > 0.0) {
        text += &format!(", {} of it for retries", amount(&used["retry_cost"]));
    }
    if used["cost_per_million_records"].is_number() {
        text += &format!(", {} a million records", amount(&used["cost_per_million_records"]));
    }
    if job["estimate"]["cost"].is_number() {
        let (estimate, currency) = (&job["estimate"]["cost"], &job["estimate"]["currency"]);
        text += &format!("; {} were expected", usage::money(estimate, currency));
    }
    text
}

/// Labels in one cell.
pub(super) fn labels(labels: &Value) -> String {
    let labels = labels.as_object().into_iter().flatten();
    labels.map(|(key, value)| format!("{key}={}", show::cell(value))).collect::<Vec<_>>().join(" ")
}
