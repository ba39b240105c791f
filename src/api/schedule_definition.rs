//! A schedule's definition, from JSON to [`ScheduleSpec`], with every fault at once; and back.

use serde_json::{Map, Value, json};

use super::read::{Faults, Field, did_you_mean};
use crate::domain::{
    Fault, ScheduleSpec, Timestamp, WebhookSecret,
    cron::Cron,
    schedule::{CatchUp, Overlap, Template, Zone},
};

pub(super) const SCHEDULE: [&str; 10] =
    ["name", "cron", "time_zone", "job", "overlap", "catch_up", "only_new", "wait_for", "end_at", "paused"];
const LONGEST_NAME: usize = 256;

/// Reads a definition, and whether the schedule is to be paused. What its job is to be is read by holding it against a fire.
///
/// # Errors
/// Every fault in it.
pub(super) fn read(value: &Value) -> Result<(ScheduleSpec, bool), Vec<Fault>> {
    let mut faults = Faults::default();
    let schedule = Field::root(value).object(&SCHEDULE, &mut faults);
    if !schedule.is_present() {
        return Err(faults.0);
    }
    let name = text(&schedule.field("name"), "write a name such as \"fraud-nightly\"", &mut faults);
    if name.is_some_and(|n| n.is_empty() || n.len() > LONGEST_NAME) {
        faults.add(&schedule.field("name"), "too_long", format!("a name has 1 to {LONGEST_NAME} bytes"), "shorten it");
    }
    let cron = schedule.field("cron");
    let cron = text(&cron, "write five fields such as \"0 2 * * *\", which is two o'clock each night", &mut faults)
        .and_then(|text| Cron::parse(text).map_err(|error| faults.add(&cron, "invalid_cron", error.detail.clone(), error.hint)).ok());
    let zone = schedule.field("time_zone");
    const ZONE: &str = "write a name of the IANA database, such as \"Europe/Berlin\"; UTC when this is left out";
    let time_zone = match zone.text(ZONE, &mut faults) {
        None => Zone::parse("UTC"),
        Some(text) => Zone::parse(text).or_else(|| {
            let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            let near = did_you_mean(text, &known);
            let hint = if near.starts_with("did") { near } else { ZONE.to_owned() };
            faults.add(&zone, "unknown_time_zone", format!("{text:?} is no time zone"), hint);
            None
        }),
    };
    let job = schedule.field("job");
    if job.required("write what each fire is to do: the body of POST /v1/jobs, with placeholders", &mut faults) {
        job.any_object(&mut faults);
    }
    let overlap = schedule.field("overlap").choice(&Overlap::WORDS, &mut faults).unwrap_or_default();
    let catch_up = schedule.field("catch_up").choice(&CatchUp::WORDS, &mut faults).unwrap_or_default();
    let only_new = schedule.field("only_new").bool(&mut faults).unwrap_or_default();
    let paused = schedule.field("paused").bool(&mut faults).unwrap_or_default();
    let wait_for = schedule.field("wait_for");
    if wait_for.is_present() && job.child("wait_for").value().is_some_and(|value| !value.is_null()) {
        faults.add(&wait_for, "contradiction", "wait_for stands here and in the job", "leave one of them out");
    }
    let end_at = schedule.field("end_at");
    const TIME: &str = "give a time as RFC 3339 writes it, such as \"2026-11-23T02:00:00Z\"";
    let end = end_at.text(TIME, &mut faults).and_then(|text| {
        let time = Timestamp::parse(text);
        if time.is_none() {
            faults.add(&end_at, "invalid_time", format!("{text:?} is no time"), TIME);
        }
        time
    });
    match (name, cron, time_zone, job.value()) {
        (Some(name), Some(cron), Some(time_zone), Some(job)) if faults.0.is_empty() => {
            let (name, job, wait_for) = (name.to_owned(), Template(job.clone()), wait_for.value().cloned());
            Ok((ScheduleSpec { name, cron, time_zone, job, overlap, catch_up, only_new, wait_for, end_at: end }, paused))
        }
        _ => Err(faults.0),
    }
}

fn text<'v>(field: &Field<'v>, hint: &str, faults: &mut Faults) -> Option<&'v str> {
    if field.required(hint, faults) { field.text(hint, faults) } else { None }
}

/// The definition that is read to this, its secret included.
pub(super) fn write(spec: &ScheduleSpec, paused: bool) -> Value {
    let word = |words: &[(&'static str, Overlap)]| words.iter().find(|(_, o)| *o == spec.overlap).map(|(word, _)| *word);
    let caught = CatchUp::WORDS.iter().find(|(_, c)| *c == spec.catch_up).map(|(word, _)| *word);
    json!({
        "name": spec.name, "cron": spec.cron, "time_zone": spec.time_zone, "job": spec.job, "overlap": word(&Overlap::WORDS),
        "catch_up": caught, "only_new": spec.only_new, "wait_for": spec.wait_for, "end_at": spec.end_at.map(|t| t.to_string()),
        "paused": paused,
    })
}

/// Changes a definition as RFC 7396 says: null removes a field, objects are changed field by field, all else takes the place of what was.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(known) = target else { return };
    for (name, value) in fields {
        if value.is_null() {
            known.remove(name);
        } else {
            merge(known.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

/// A template as answers show it: without its webhook's secret.
pub(super) fn shown(template: &Template) -> Value {
    let mut shown = template.0.clone();
    if let Some(secret) = shown.pointer_mut("/webhook/secret") {
        *secret = WebhookSecret::REDACTED.into();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Value {
        json!({"name": "n", "cron": "0 2 * * *", "job": {"model": "s3://m/", "input": "s3://i/", "output": "s3://o/"}})
    }

    #[test]
    fn typical_mistakes_each_get_a_pointer_a_code_and_a_hint() {
        for (field, value, code, hint) in [
            ("name", json!(null), "missing", "fraud-nightly"),
            ("cron", json!(null), "missing", "0 2 * * *"),
            ("cron", json!("0 2 * *"), "invalid_cron", "0 2 * * *"),
            ("cron", json!(5), "wrong_type", "five fields"),
            ("time_zone", json!("Europe/Belin"), "unknown_time_zone", "Europe/Berlin"),
            ("time_zone", json!("CET/Nowhere/At/All"), "unknown_time_zone", "IANA"),
            ("job", json!(null), "missing", "POST /v1/jobs"),
            ("job", json!("x"), "wrong_type", "{"),
            ("overlap", json!("wait"), "unknown_value", "queue"),
            ("catch_up", json!("latest"), "unknown_value", "last"),
            ("only_new", json!("yes"), "wrong_type", "without quotes"),
            ("end_at", json!("tomorrow"), "invalid_time", "RFC 3339"),
            ("paused", json!(1), "wrong_type", "true or false"),
            ("crn", json!("x"), "unknown_field", "\"cron\""),
        ] {
            let mut definition = good();
            definition[field] = value;
            let faults = read(&definition).expect_err(&definition.to_string());
            let found = faults.iter().find(|f| f.pointer == format!("/{field}") && f.code == code);
            let found = found.unwrap_or_else(|| panic!("{definition}: {faults:?}"));
            assert!(found.hint.as_deref().unwrap_or_default().contains(hint), "{found:?}");
        }
        let faults = read(&json!({"cron": "x", "overlap": 1})).unwrap_err();
        assert_eq!(faults.iter().map(|f| f.pointer.as_str()).collect::<Vec<_>>(), ["/name", "/cron", "/job", "/overlap"]);
    }

    #[test]
    fn a_definition_is_read_back_as_it_was_and_changed_field_by_field() {
        let (spec, paused) = read(&good()).unwrap();
        let mut written = write(&spec, paused);
        assert_eq!(read(&written).unwrap(), (spec, false));
        merge(&mut written, &json!({"end_at": "2026-11-23T02:00:00Z", "job": {"input": {"uri": "s3://j/"}, "labels": {"a": "b"}}}));
        merge(&mut written, &json!({"job": {"labels": {"a": null, "c": "d"}}, "paused": true, "end_at": null}));
        let (spec, paused) = read(&written).unwrap();
        assert_eq!((paused, spec.end_at), (true, None));
        assert_eq!(spec.job.0["input"]["uri"], "s3://j/");
        assert_eq!((&spec.job.0["labels"], &spec.job.0["model"]), (&json!({"c": "d"}), &json!("s3://m/")));
    }

    #[test]
    fn a_templates_secret_is_not_shown() {
        let template = Template(json!({"webhook": {"url": "https://x", "secret": "whsec_hunter2"}}));
        assert_eq!(shown(&template)["webhook"]["secret"], "whsec_***");
        assert_eq!(shown(&Template(json!({"webhook": "x"}))), json!({"webhook": "x"}));
    }
}
