//! A job's model by name: what the name means at this moment.
//!
//! In: a definition. Out: the same definition with the location of the version that was meant in the place of its name, so that all else of
//! it is read as ever; and that version.

use serde_json::{Value, json};

use super::{
    ApiState, definition,
    models::{registered_alias, registered_name},
    problem::ApiProblem,
    read::{Faults, Field},
};
use crate::domain::{
    Fault,
    job::{PinnedModel, Registered},
    registry::{Name, Which},
};

/// Stands where a name means nothing, so that the rest of the definition can be read for its faults.
const NOWHERE: &str = "s3://unknown/model/";

/// What a definition's model means.
#[derive(Debug)]
pub(super) struct Meant {
    /// With a location for a model.
    pub(super) definition: Value,
    /// The version that was named; `None` where a location was.
    pub(super) model: Option<PinnedModel>,
    /// Why a name means nothing.
    pub(super) faults: Vec<Fault>,
}

/// Finds what the model of a definition means.
pub(super) async fn meant(state: &ApiState, definition: &Value) -> Result<Meant, ApiProblem> {
    let mut faults = Faults::default();
    let field = Field::root(definition).child("model");
    let Some(named) = named(&field, &mut faults) else {
        return Ok(Meant { definition: definition.clone(), model: None, faults: faults.0 });
    };
    let mut model = None;
    if let Some((name, which)) = named {
        match state.store.model_version(&name, &which).await? {
            Some(version) => {
                let alias = if let Which::Alias(alias) = &which { Some(alias.to_string()) } else { None };
                let registered = Registered { name: name.to_string(), version: version.version, alias };
                model = Some(PinnedModel { registered: Some(registered), ..version.model });
            }
            None => unknown(state, &field, &name, &which, &mut faults).await?,
        }
    }
    let mut definition = definition.clone();
    let location = model.as_ref().map_or_else(|| NOWHERE.to_owned(), |model: &PinnedModel| model.uri.to_string());
    if let Some(fields) = definition.as_object_mut() {
        fields.insert("model".to_owned(), json!({"uri": location}));
    }
    Ok(Meant { definition, model, faults: faults.0 })
}

/// The name and version in a job's `model`: `None` where it names none, `Some(None)` where it tries to and has faults.
fn named(field: &Field<'_>, faults: &mut Faults) -> Option<Option<(Name, Which)>> {
    match field.value()? {
        Value::String(text) => short(text).map(Some),
        Value::Object(fields) if fields.len() == 1 && fields.contains_key("uri") => short(fields["uri"].as_str()?).map(Some),
        Value::Object(fields) if fields.get("name").is_some_and(|name| !name.is_null()) => {
            let object = field.object(&definition::MODEL, faults);
            let name = registered_name(&object.field("name"), faults);
            let (uri, version, alias) = (object.field("uri"), object.field("version"), object.field("alias"));
            if uri.is_present() {
                faults.add(&uri, "two_models", "both model.name and model.uri are there", "give one of them");
            }
            let number = version.integer(1..=i64::MAX, faults).map(|number| Which::Version(number as u64));
            let pointed = registered_alias(&alias, faults).map(Which::Alias);
            const HINT: &str = "give an alias such as \"production\", or a version's number";
            match (version.is_present(), alias.is_present()) {
                (true, true) => faults.add(&alias, "two_versions", "both model.version and model.alias are there", "give one of them"),
                (false, false) => faults.add(field, "missing", "a name alone does not say which version is meant", HINT),
                _ => {}
            }
            Some(name.zip(number.or(pointed)))
        }
        _ => None,
    }
}

/// `fraud@production`, `fraud@3`. A location has "://", which neither a name nor an alias can have.
fn short(text: &str) -> Option<(Name, Which)> {
    let (name, version) = text.split_once('@')?;
    Some((Name::parse(name)?, Which::parse(version)?))
}

/// Says what there is in place of what was named.
async fn unknown(state: &ApiState, field: &Field<'_>, name: &Name, which: &Which, faults: &mut Faults) -> Result<(), ApiProblem> {
    let Some(newest) = state.store.model_version(name, &Which::Newest).await? else {
        let hint = "register it with POST /v1/models, or give the location of a model; GET /v1/models lists those that there are";
        faults.add(field, "unknown_model", format!("no model is registered as {:?}", name.as_str()), hint);
        return Ok(());
    };
    let (what, hint) = match which {
        Which::Alias(alias) => (
            format!("alias {:?}", alias.as_str()),
            format!(
                "let it point at a version with PUT /v1/models/{name}/aliases/{alias}, or give one of the versions 1 to {}",
                newest.version
            ),
        ),
        Which::Version(version) => (format!("version {version}"), format!("its newest is {}", newest.version)),
        Which::Newest => return Ok(()),
    };
    faults.add(field, "unknown_version", format!("{name} has no {what}"), hint);
    Ok(())
}
