//! Placeholders in a job definition: `{{ fire_time | minus("1d") | date("%Y/%m/%d") }}`.
//!
//! In: a definition as JSON, and what is known. Out: the same with every placeholder replaced, or each fault with its place. A placeholder
//! begins with a name: `fire_time`, `schedule` (its name), `parent.output` (of the one job in `depends_on`) or `parents.<job id>.output`;
//! filters follow: `date("…")` with the letters of strftime, `plus("…")` and `minus("…")` with a number and `m`, `h`, `d` or `w`. Days and
//! weeks are those of the calendar in the schedule's time zone, hours and minutes are exact. Without `date` a time is written as RFC 3339.
//!
//! Only the places of [`PLACES`] are looked at: two braces in a label of the pipeline mean themselves.

use jiff::{Span, ZonedDateTime, fmt::strtime};
use serde_json::Value;

use super::{fault::Fault, job::JobId, uri::Uri};

/// Where placeholders may stand; `*` is every item or field.
pub const PLACES: [&[&str]; 13] = [
    &["name"],
    &["labels", "*"],
    &["model"],
    &["model", "uri"],
    &["input"],
    &["input", "uri"],
    &["input", "manifest"],
    &["input", "include", "*"],
    &["input", "exclude", "*"],
    &["output"],
    &["output", "uri"],
    &["output", "review", "uri"],
    &["wait_for", "uri"],
];

/// What placeholders may name.
#[derive(Debug, Clone, Default)]
pub struct Known<'k> {
    /// The fire that makes the job, in the zone of its schedule.
    pub fire_time: Option<ZonedDateTime>,
    /// The name of the schedule.
    pub schedule: Option<&'k str>,
    /// The jobs that this one waits for, and where each writes.
    pub parents: &'k [(JobId, Uri)],
}

/// What is wrong with a placeholder, and what to write.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wrong {
    detail: String,
    hint: String,
}

/// Replaces the placeholders of a definition, as far as they can be, and lists every fault by its place in it.
pub fn render(definition: &Value, known: &Known<'_>) -> (Value, Vec<Fault>) {
    let (mut rendered, mut faults) = (definition.clone(), Vec::new());
    for place in PLACES {
        at(&mut rendered, place, String::new(), known, &mut faults);
    }
    (rendered, faults)
}

fn at(value: &mut Value, place: &[&str], pointer: String, known: &Known<'_>, faults: &mut Vec<Fault>) {
    let Some((name, rest)) = place.split_first() else {
        if let Value::String(text) = value {
            match self::text(text, known) {
                Ok(rendered) => *text = rendered,
                Err(wrong) => faults.push(Fault::new(pointer, "invalid_placeholder", wrong.detail).hint(wrong.hint)),
            }
        }
        return;
    };
    let below = |name: &str| format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"));
    match value {
        Value::Object(fields) => {
            for (field, value) in fields.iter_mut().filter(|(field, _)| *name == "*" || name == field) {
                at(value, rest, below(field), known, faults);
            }
        }
        Value::Array(items) if *name == "*" => {
            for (n, item) in items.iter_mut().enumerate() {
                at(item, rest, below(&n.to_string()), known, faults);
            }
        }
        _ => {}
    }
}

/// Replaces the placeholders of one text.
fn text(text: &str, known: &Known<'_>) -> Result<String, Wrong> {
    let (mut rendered, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find("{{") {
        rendered.push_str(&rest[..start]);
        let (value, after) = placeholder(&rest[start + 2..], known)?;
        rendered.push_str(&value);
        rest = after;
    }
    rendered.push_str(rest);
    Ok(rendered)
}

#[derive(Debug, Clone)]
enum Found {
    Time(ZonedDateTime),
    Text(String),
}

/// The value of a placeholder whose braces were just opened, and what follows it.
fn placeholder<'t>(text: &'t str, known: &Known<'_>) -> Result<(String, &'t str), Wrong> {
    let rest = text.trim_start();
    let length = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))).unwrap_or(rest.len());
    let (name, mut rest) = rest.split_at(length);
    let mut found = named(name, known)?;
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix("}}") {
            return match found {
                Found::Text(text) => Ok((text, after)),
                Found::Time(time) => strtime::format("%Y-%m-%dT%H:%M:%S%:z", &time).map(|text| (text, after)).map_err(|e| Wrong {
                    detail: format!("the time cannot be written: {e}"),
                    hint: "write {{ fire_time | date(\"%Y-%m-%d\") }}".to_owned(),
                }),
            };
        }
        let Some(after) = rest.strip_prefix('|') else {
            return Err(Wrong {
                detail: format!("the placeholder of {name} is not closed, or goes on with neither | nor }}}}"),
                hint: "write {{ fire_time | date(\"%Y-%m-%d\") }}".to_owned(),
            });
        };
        let (filter, argument, after) = filter(after)?;
        found = apply(found, filter, argument)?;
        rest = after;
    }
}

fn named(name: &str, known: &Known<'_>) -> Result<Found, Wrong> {
    let wrong = |detail: String, hint: &str| Err(Wrong { detail, hint: hint.to_owned() });
    const DEPENDS: &str = "name the job in depends_on";
    match name {
        "fire_time" => match &known.fire_time {
            Some(time) => Ok(Found::Time(time.clone())),
            None => wrong("there is no fire_time outside of a schedule".to_owned(), "write the date itself, or make a schedule of it"),
        },
        "schedule" => match known.schedule {
            Some(name) => Ok(Found::Text(name.to_owned())),
            None => wrong("this job is no schedule's".to_owned(), "write the name itself"),
        },
        "parent.output" => match known.parents {
            [(_, output)] => Ok(Found::Text(output.to_string())),
            [] => wrong("parent.output is the output of the job in depends_on, and there is none".to_owned(), DEPENDS),
            several => {
                let detail = format!("depends_on names {} jobs, so parent.output could be any of theirs", several.len());
                wrong(detail, &format!("write {{{{ parents.{}.output }}}}", several[0].0))
            }
        },
        _ => match name.strip_prefix("parents.").and_then(|rest| rest.strip_suffix(".output")) {
            Some(id) => match known.parents.iter().find(|(parent, _)| parent.as_str() == id) {
                Some((_, output)) => Ok(Found::Text(output.to_string())),
                None => wrong(format!("{id:?} is no job of depends_on"), DEPENDS),
            },
            None => wrong(
                format!("nothing is called {name:?} here"),
                "known are fire_time, schedule, parent.output and parents.<job id>.output",
            ),
        },
    }
}

/// A filter after its `|`: its name, its argument, and what follows.
fn filter(text: &str) -> Result<(&str, &str, &str), Wrong> {
    const HINT: &str = "write a filter such as date(\"%Y-%m-%d\"), minus(\"1d\") or plus(\"2h\")";
    let wrong = |detail: String| Wrong { detail, hint: HINT.to_owned() };
    let text = text.trim_start();
    let (name, rest) = text.split_at(text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(text.len()));
    if !["date", "plus", "minus"].contains(&name) {
        return Err(wrong(format!("there is no filter {name:?}")));
    }
    let opened = rest.trim_start().strip_prefix('(').map(str::trim_start);
    let quoted = opened.and_then(|rest| {
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        rest[1..].split_once(quote)
    });
    let closed = quoted.and_then(|(argument, rest)| rest.trim_start().strip_prefix(')').map(|rest| (argument, rest)));
    closed.map(|(argument, rest)| (name, argument, rest)).ok_or_else(|| wrong(format!("{name} wants one text in parentheses")))
}

fn apply(found: Found, filter: &str, argument: &str) -> Result<Found, Wrong> {
    let Found::Time(time) = found else {
        return Err(Wrong { detail: format!("{filter} is for times, and this is a text"), hint: "leave the filter out".to_owned() });
    };
    if filter == "date" {
        const HINT: &str = "write letters of strftime, such as \"%Y-%m-%d\" or \"%Y/%m/%d/%H\"";
        let wrong = |why: String| Wrong { detail: format!("the format {argument:?} {why}"), hint: HINT.to_owned() };
        if !argument.contains('%') {
            return Err(wrong("names no part of the time".to_owned()));
        }
        return strtime::format(argument, &time).map(Found::Text).map_err(|e| wrong(format!("cannot be used: {e}")));
    }
    let span = offset(argument).and_then(|span| if filter == "plus" { Some(span) } else { span.checked_mul(-1).ok() });
    let moved = span.and_then(|span| time.checked_add(span).ok());
    moved.map(Found::Time).ok_or_else(|| Wrong {
        detail: format!("{argument:?} is no span that {filter} takes"),
        hint: "write a number and a unit: \"30m\", \"6h\", \"1d\" or \"2w\"".to_owned(),
    })
}

fn offset(text: &str) -> Option<Span> {
    let unit = text.chars().next_back().filter(char::is_ascii)?;
    let digits = &text[..text.len() - 1];
    let number: i64 = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten().filter(|n| *n <= 100_000)?;
    let span = Span::new();
    match unit {
        'm' => span.try_minutes(number).ok(),
        'h' => span.try_hours(number).ok(),
        'd' => span.try_days(number).ok(),
        'w' => span.try_weeks(number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn known(parents: &[(JobId, Uri)]) -> Known<'_> {
        // In Berlin the clocks went back in the night before.
        let time = "2026-10-25T06:30:00Z".parse::<jiff::Timestamp>().unwrap();
        let fire_time = Some(time.to_zoned_datetime(TimeZone::get("Europe/Berlin").unwrap()));
        Known { fire_time, schedule: Some("fraud"), parents }
    }

    #[test]
    fn placeholders_become_what_they_name() {
        let parent = (JobId::generate(), Uri::parse("s3://lake/scores/").unwrap());
        let by_id = format!("{{{{ parents.{}.output }}}}x", parent.0);
        for (template, wanted) in [
            ("s3://lake/{{ fire_time | date(\"%Y-%m-%d\") }}/", "s3://lake/2026-10-25/"),
            ("{{fire_time|date('%Y/%m/%d/%H')}}", "2026/10/25/07"),
            ("{{ fire_time | minus(\"1d\") | date(\"%Y-%m-%d %H\") }}", "2026-10-24 07"),
            ("{{ fire_time | minus(\"24h\") | date(\"%Y-%m-%d %H\") }}", "2026-10-24 08"),
            ("{{ fire_time | plus(\"2w\") | plus(\"90m\") | date(\"%m-%d %H:%M\") }}", "11-08 09:00"),
            ("{{ fire_time }}", "2026-10-25T07:30:00+01:00"),
            ("{{ schedule }}-{{ fire_time | date(\"%d\") }}-{{ schedule }}", "fraud-25-fraud"),
            ("{{ fire_time | date(\"}} %Y {{\") }}", "}} 2026 {{"),
            ("{{ parent.output }}", "s3://lake/scores/"),
            (by_id.as_str(), "s3://lake/scores/x"),
            ("plain } text } with { braces {", "plain } text } with { braces {"),
        ] {
            assert_eq!(text(template, &known(std::slice::from_ref(&parent))).unwrap(), wanted);
        }
    }

    #[test]
    fn what_cannot_be_replaced_is_a_fault_at_its_place() {
        for (template, wanted) in [
            ("{{ fire_time", "not closed"),
            ("{{ fire_time }", "not closed"),
            ("{{ fire_tme }}", "\"fire_tme\""),
            ("{{ }}", "\"\""),
            ("{{ fire_time | dates(\"%Y\") }}", "\"dates\""),
            ("{{ fire_time | date }}", "one text"),
            ("{{ fire_time | date(%Y) }}", "one text"),
            ("{{ fire_time | date(\"%Y) }}", "one text"),
            ("{{ fire_time | date(\"%!\") }}", "cannot be used"),
            ("{{ fire_time | date(\"Y\") }}", "no part"),
            ("{{ fire_time | minus(\"1 day\") }}", "no span"),
            ("{{ fire_time | minus(\"99999999w\") }}", "no span"),
            ("{{ fire_time | date(\"%Y\") | minus(\"1d\") }}", "a text"),
            ("{{ parent.output }}", "there is none"),
            ("{{ parents.job_1.output }}", "\"job_1\""),
        ] {
            let wrong = text(template, &known(&[])).unwrap_err();
            assert!(wrong.detail.contains(wanted) && wrong.hint.len() > 5, "{template}: {wrong:?}");
        }
        let definition = json!({
            "name": "{{ x }}", "labels": {"a/b": "{{ y }}"}, "input": {"uri": "s3://b/", "include": ["*", "{{ z }}"]},
            "output": {"uri": "s3://o/", "review": {"uri": "{{"}}, "pipeline": {"labels": ["{{ not looked at }}"]},
        });
        let (_, faults) = render(&definition, &known(&[]));
        let pointers: Vec<&str> = faults.iter().map(|f| f.pointer.as_str()).collect();
        assert_eq!(pointers, ["/name", "/labels/a~1b", "/input/include/1", "/output/review/uri"]);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_one_without_braces_stays(template in "[a-z{}|() \"'%äY.0-9]{0,40}") {
            let rendered = text(&template, &known(&[]));
            if !template.contains("{{") {
                prop_assert_eq!(rendered.unwrap(), template);
            }
        }
    }
}
