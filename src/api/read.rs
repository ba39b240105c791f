//! Reads JSON values, collecting every fault instead of stopping at the first.

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::meant;
use crate::domain::{Fault, Uri, time};

/// Parses JSON in which no object has a key twice: which of the two counts would be a guess.
pub(super) fn parse(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice::<Strict>(body).map(|strict| strict.0).map_err(|e| e.to_string())
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Strict;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("JSON")
            }

            fn visit_bool<E>(self, v: bool) -> Result<Strict, E> {
                Ok(Strict(v.into()))
            }

            fn visit_i64<E>(self, v: i64) -> Result<Strict, E> {
                Ok(Strict(v.into()))
            }

            fn visit_u64<E>(self, v: u64) -> Result<Strict, E> {
                Ok(Strict(v.into()))
            }

            fn visit_f64<E>(self, v: f64) -> Result<Strict, E> {
                Ok(Strict(v.into()))
            }

            fn visit_str<E>(self, v: &str) -> Result<Strict, E> {
                Ok(Strict(v.into()))
            }

            fn visit_unit<E>(self) -> Result<Strict, E> {
                Ok(Strict(Value::Null))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strict, A::Error> {
                let mut items = Vec::new();
                while let Some(Strict(item)) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Strict(Value::Array(items)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
                let mut object = Map::new();
                while let Some(key) = map.next_key::<String>()? {
                    let Strict(value) = map.next_value()?;
                    if object.insert(key.clone(), value).is_some() {
                        return Err(serde::de::Error::custom(format!("the field {key:?} stands twice in one object")));
                    }
                }
                Ok(Strict(Value::Object(object)))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// The known text nearest to one that is not known, if any is near.
pub(super) fn nearest<'k>(text: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let text = text.to_lowercase();
    let known: Vec<&str> = known.into_iter().collect();
    let scored = known.iter().copied().map(|k| (strsim::damerau_levenshtein(&text, &k.to_lowercase()), k));
    let (distance, near) = scored.min_by_key(|(distance, _)| *distance)?;
    let prefix = near.len() >= 3 && text.starts_with(near) || text.len() >= 3 && near.starts_with(&text);
    // "regression" is much nearer to "raw" by letters than to what it stands for.
    let part = known.iter().copied().find(|k| text.len() >= 4 && k.to_lowercase().split('-').any(|part| part == text));
    part.or((distance <= 1 + near.len() / 4 || prefix).then_some(near))
}

pub(super) fn did_you_mean(text: &str, known: &[&str]) -> String {
    match nearest(text, known.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("known are {}", known.join(", ")),
    }
}

/// What a value is, for messages.
fn kind(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => format!("the number {n}"),
        Value::String(s) => {
            let short: String = s.chars().take(60).collect();
            format!("the text {short:?}")
        }
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// One value of the request, with its place; `None` and JSON's null are the same: absent.
#[derive(Debug, Clone)]
pub(super) struct Field<'v> {
    pub(super) pointer: String,
    value: Option<&'v Value>,
}

/// The faults found so far.
#[derive(Debug, Default)]
pub(super) struct Faults(pub(super) Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, field: &Field<'_>, code: &str, detail: impl Into<String>, hint: impl Into<String>) {
        self.0.push(Fault::new(field.pointer.clone(), code, detail).hint(hint));
    }

    pub(super) fn wrong_type(&mut self, field: &Field<'_>, wanted: &str, hint: &str) {
        let found = field.value.map(kind).unwrap_or_default();
        self.add(field, "wrong_type", format!("{wanted} is wanted, and this is {found}"), hint);
    }
}

/// The fields of one object, each read at most once.
#[derive(Debug)]
pub(super) struct Object<'v> {
    pointer: String,
    fields: Option<&'v Map<String, Value>>,
}

impl<'v> Object<'v> {
    /// A field by name.
    pub(super) fn field(&self, name: &str) -> Field<'v> {
        let value = self.fields.and_then(|f| f.get(name)).filter(|v| !v.is_null());
        Field { pointer: below(&self.pointer, name), value }
    }

    pub(super) fn is_present(&self) -> bool {
        self.fields.is_some()
    }

    /// All fields, for objects with keys of the caller's choosing.
    pub(super) fn entries(&self) -> Vec<(String, Field<'v>)> {
        let names = self.fields.into_iter().flat_map(|f| f.keys());
        names.map(|name| (name.clone(), self.field(name))).collect()
    }
}

/// The pointer of a field or an item (RFC 6901).
fn below(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

impl<'v> Field<'v> {
    /// The place of a field or an item below this one, for a fault there.
    pub(super) fn child(&self, name: &str) -> Field<'v> {
        let value = match self.value {
            Some(Value::Object(fields)) => fields.get(name),
            Some(Value::Array(items)) => name.parse().ok().and_then(|at: usize| items.get(at)),
            _ => None,
        };
        Field { pointer: below(&self.pointer, name), value }
    }

    /// The whole request.
    pub(super) fn root(value: &'v Value) -> Self {
        Self { pointer: String::new(), value: Some(value) }
    }

    pub(super) fn is_present(&self) -> bool {
        self.value.is_some()
    }

    pub(super) fn value(&self) -> Option<&'v Value> {
        self.value
    }

    /// An object with these fields and no others.
    pub(super) fn object(&self, known: &[&str], faults: &mut Faults) -> Object<'v> {
        let object = self.any_object(faults);
        for (name, field) in object.entries() {
            if !known.contains(&name.as_str()) {
                faults.add(&field, "unknown_field", format!("there is no field {name:?} here"), did_you_mean(&name, known));
            }
        }
        object
    }

    /// An object with keys of the caller's choosing.
    pub(super) fn any_object(&self, faults: &mut Faults) -> Object<'v> {
        let fields = match self.value {
            Some(Value::Object(fields)) => Some(fields),
            None => None,
            Some(_) => {
                let whole = "send one job as {\"model\": …, \"input\": …, \"output\": …}; each job is a request of its own";
                faults.wrong_type(self, "an object", if self.pointer.is_empty() { whole } else { "write {…}" });
                None
            }
        };
        Object { pointer: self.pointer.clone(), fields }
    }

    pub(super) fn required(&self, hint: &str, faults: &mut Faults) -> bool {
        if self.value.is_none() {
            faults.add(self, "missing", "this field is needed", hint);
        }
        self.value.is_some()
    }

    pub(super) fn text(&self, hint: &str, faults: &mut Faults) -> Option<&'v str> {
        match self.value? {
            Value::String(text) => Some(text),
            _ => {
                faults.wrong_type(self, "a text", hint);
                None
            }
        }
    }

    pub(super) fn bool(&self, faults: &mut Faults) -> Option<bool> {
        match self.value? {
            Value::Bool(value) => Some(*value),
            _ => {
                faults.wrong_type(self, "true or false", "write true or false, without quotes");
                None
            }
        }
    }

    /// A whole number in a range.
    pub(super) fn integer(&self, range: std::ops::RangeInclusive<i64>, faults: &mut Faults) -> Option<i64> {
        let (from, to) = (*range.start(), *range.end());
        let hint =
            if to == i64::MAX { format!("give a whole number from {from} up") } else { format!("give a whole number from {from} to {to}") };
        match self.value? {
            Value::Number(number) => match number.as_i64() {
                Some(value) if range.contains(&value) => Some(value),
                _ => {
                    faults.add(self, "out_of_range", format!("{number} is not allowed here"), hint);
                    None
                }
            },
            _ => {
                faults.wrong_type(self, "a number", &hint);
                None
            }
        }
    }

    /// Any number.
    pub(super) fn number(&self, faults: &mut Faults) -> Option<f64> {
        match self.value?.as_f64() {
            Some(number) if number.is_finite() => Some(number),
            _ => {
                faults.wrong_type(self, "a number", "write a number, without quotes");
                None
            }
        }
    }

    /// The items of a list.
    pub(super) fn items(&self, wanted: &str, hint: &str, faults: &mut Faults) -> Option<Vec<Field<'v>>> {
        let Value::Array(items) = self.value? else {
            faults.wrong_type(self, wanted, hint);
            return None;
        };
        Some(
            items
                .iter()
                .enumerate()
                .map(|(at, item)| Field { pointer: below(&self.pointer, &at.to_string()), value: Some(item) })
                .collect(),
        )
    }

    /// A number from 0 to 1.
    pub(super) fn share(&self, faults: &mut Faults) -> Option<f64> {
        const HINT: &str = "give a share from 0 to 1: 0.05 is five percent";
        match self.value? {
            Value::Number(number) => match number.as_f64() {
                Some(value) if (0.0..=1.0).contains(&value) => Some(value),
                _ => {
                    faults.add(self, "out_of_range", format!("{number} is not allowed here"), HINT);
                    None
                }
            },
            _ => {
                faults.wrong_type(self, "a number", HINT);
                None
            }
        }
    }

    /// One of a few texts.
    pub(super) fn choice<T: Clone>(&self, choices: &[(&str, T)], faults: &mut Faults) -> Option<T> {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let text = self.text(&format!("write one of {}", names.join(", ")), faults)?;
        let found = choices.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            faults.add(self, "unknown_value", format!("{text:?} is none of {}", names.join(", ")), did_you_mean(text, &names));
        }
        found.map(|(_, value)| value.clone())
    }

    /// A list of texts.
    pub(super) fn texts(&self, faults: &mut Faults) -> Option<Vec<String>> {
        let Value::Array(items) = self.value? else {
            let hint = self.value.filter(|v| v.is_string()).map_or_else(|| "write [\"…\"]".to_owned(), |text| format!("write [{text}]"));
            faults.wrong_type(self, "a list of texts", &hint);
            return None;
        };
        let texts = items.iter().enumerate().map(|(at, item)| {
            let item = Field { pointer: below(&self.pointer, &at.to_string()), value: Some(item) };
            item.text("write a text in quotes", faults).map(str::to_owned)
        });
        let texts: Vec<Option<String>> = texts.collect();
        texts.into_iter().collect()
    }

    /// An object from text to text.
    pub(super) fn text_map(&self, faults: &mut Faults) -> Option<BTreeMap<String, String>> {
        self.value?;
        let object = self.any_object(faults);
        let entries = object.entries().into_iter().map(|(name, field)| {
            if !field.is_present() {
                faults.add(&field, "wrong_type", "a text is wanted, and this is null", "write a text in quotes");
                return None;
            }
            field.text("write a text in quotes", faults).map(|text| (name, text.to_owned()))
        });
        let entries: Vec<Option<(String, String)>> = entries.collect();
        entries.into_iter().collect()
    }

    /// A location.
    pub(super) fn uri(&self, example: &str, faults: &mut Faults) -> Option<Uri> {
        let text = self.text(&format!("write a location such as {example:?}"), faults)?;
        if meant::has_credentials(text) {
            const HINT: &str = "leave out what stands before the @ : the service has credentials of its own, in its settings; replace these, as they were sent";
            faults.add(self, "credentials_in_uri", "the location carries credentials, and definitions are kept and shown", HINT);
            return None;
        }
        match Uri::parse(text) {
            Ok(uri) => Some(uri),
            Err(error) => {
                faults.add(self, "invalid_uri", error.to_string(), meant::location(text, example));
                None
            }
        }
    }

    /// A span such as `90s`, `30m`, `6h`, `2d`, in seconds.
    pub(super) fn seconds(&self, faults: &mut Faults) -> Option<u64> {
        const HINT: &str = "write a number and a unit: \"90s\", \"30m\", \"6h\" or \"2d\"";
        let text = self.text(HINT, faults)?;
        let parsed = time::parse_span(text);
        if parsed.is_none() {
            faults.add(self, "invalid_duration", format!("{text:?} is no span of time"), HINT);
        }
        parsed
    }
}
