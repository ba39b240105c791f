//! A job's own webhook, from JSON to [`WebhookSpec`], with every fault at once.

use serde_json::Value;

use super::read::{Faults, Field, did_you_mean};
use crate::domain::{EventKind, WebhookSecret, WebhookSpec, WebhookUrl, webhook::UrlError};

pub(super) const WEBHOOK: [&str; 3] = ["url", "secret", "events"];

/// Reads whom to tell. No fault repeats what was given: an address may hold a password, and the secret is one.
pub(super) fn read(field: &Field<'_>, faults: &mut Faults) -> Option<WebhookSpec> {
    const URL: &str = "write the receiver's address, such as \"https://hooks.example.com/nightshift\"";
    const SECRET: &str = "make one with  echo \"whsec_$(openssl rand -base64 32)\"  and give it to the receiver as well";
    if !matches!(field.value(), None | Some(Value::Object(_))) {
        faults.add(
            field,
            "wrong_type",
            "an object with url and secret is wanted",
            "write {\"url\": \"https://…\", \"secret\": \"whsec_…\"}",
        );
        return None;
    }
    let object = field.object(&WEBHOOK, faults);
    if !object.is_present() {
        return None;
    }
    let text = |name: &str, hint: &str, faults: &mut Faults| {
        let field = object.field(name);
        if !field.required(hint, faults) {
            return None;
        }
        let text = field.value().and_then(Value::as_str);
        if text.is_none() {
            faults.add(&field, "wrong_type", "a text is wanted", hint);
        }
        text
    };
    let (url, secret) = (text("url", URL, faults), text("secret", SECRET, faults));
    let url = url.and_then(|text| {
        let fault = |why: UrlError| faults.add(&object.field("url"), "invalid_url", why.to_string(), URL);
        WebhookUrl::parse(text).map_err(fault).ok()
    });
    let secret = secret.and_then(|text| match WebhookSecret::parse(text) {
        Ok(secret) => Some(secret),
        Err(_) if text == WebhookSecret::REDACTED => {
            let detail = "this stands for a secret in answers, which never show one";
            faults.add(&object.field("secret"), "invalid_secret", detail, "write the secret itself");
            None
        }
        Err(why) => {
            faults.add(&object.field("secret"), "invalid_secret", why.to_string(), SECRET);
            None
        }
    });
    let events = events(&object.field("events"), faults);
    Some(WebhookSpec { url: url?, secret: secret?, events })
}

/// What a webhook wants to hear; how the job ends, when nothing is said.
fn events(field: &Field<'_>, faults: &mut Faults) -> Vec<EventKind> {
    let known = EventKind::ALL.map(EventKind::name);
    if !field.is_present() {
        return EventKind::ENDS.to_vec();
    }
    let names = field.texts(faults).unwrap_or_default();
    if field.value().and_then(Value::as_array).is_some_and(Vec::is_empty) {
        faults.add(field, "empty", "a webhook that hears nothing is none", format!("name some of {}, or leave this out", known.join(", ")));
    }
    let mut events = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let item = field.child(&at.to_string());
        match EventKind::parse(name) {
            None => faults.add(&item, "unknown_value", format!("{name:?} is none of {}", known.join(", ")), did_you_mean(name, &known)),
            Some(kind) if events.contains(&kind) => faults.add(&item, "repeated", format!("{name:?} stands twice"), "name each event once"),
            Some(kind) => events.push(kind),
        }
    }
    events
}
