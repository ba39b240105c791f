//! `/v1/models`: models by name, their versions, the aliases that point at them.

use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    ApiState, body, definition, examples,
    problem::{ApiProblem, of_model},
    query::Query,
    read::{Faults, Field},
    request::PathOf,
    types::dtype_and_shape,
};
use crate::{
    db::{AliasMoved, NewVersion},
    domain::{
        Fault, PipelineSpec, ValueInfo,
        registry::{ModelEntry, ModelVersion, Name, Which},
    },
};

pub(super) const REGISTRATION: [&str; 2] = ["name", "uri"];
const NAME: &str = "a name has 1 to 64 letters, digits, dots, dashes and underscores, and begins with a letter or a digit";
const ALIAS: &str = "an alias is such a name as well, and no number";

/// A model to be registered.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "the document's form of what is read below")]
pub(super) struct Registration {
    /// 1 to 64 letters, digits, dots, dashes and underscores, of which the first is a letter or a digit.
    #[schema(example = "fraud")]
    name: String,
    /// A model folder or one `.onnx` object, as in a job.
    #[schema(example = "s3://models/fraud/2026-11/")]
    uri: String,
}

/// Where an alias is to point.
#[derive(Debug, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
pub(super) struct AliasTarget {
    /// A version of the model.
    #[schema(minimum = 1, example = 3)]
    version: u64,
}

/// A version of a model, as it was when it was registered.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelVersionBody {
    /// The model.
    #[schema(example = "fraud")]
    name: String,
    /// 1, 2 and so on.
    version: u64,
    /// The aliases that point at it.
    aliases: Vec<String>,
    /// Where its files are.
    uri: String,
    /// SHA-256 over all its files: whatever lies there later, a job runs these or fails.
    digest: String,
    /// The ONNX file, relative to the model's folder.
    file: String,
    /// Size of all its files.
    bytes: u64,
    /// What a caller must give.
    inputs: Vec<ValueBody>,
    /// What the model gives.
    outputs: Vec<ValueBody>,
    /// As derived without a job's settings.
    #[schema(value_type = Object)]
    pipeline: Value,
    /// When it was registered; RFC 3339, UTC.
    created_at: String,
}

/// An input or an output.
#[derive(Debug, Serialize, ToSchema)]
struct ValueBody {
    /// As the model names it.
    name: String,
    /// As the Open Inference Protocol names types; absent when it is no tensor.
    dtype: Option<&'static str>,
    /// As the model declares it; null stands for a size that is not fixed.
    shape: Option<Vec<Option<u64>>>,
}

impl From<&ValueInfo> for ValueBody {
    fn from(value: &ValueInfo) -> Self {
        let (dtype, shape) = dtype_and_shape(value);
        Self { name: value.name.clone(), dtype, shape }
    }
}

impl ModelVersionBody {
    pub(super) fn new(version: &ModelVersion) -> Self {
        Self {
            name: version.name.to_string(),
            version: version.version,
            aliases: version.aliases.iter().map(Name::to_string).collect(),
            uri: version.model.uri.to_string(),
            digest: version.model.digest.clone(),
            file: version.model.file.clone(),
            bytes: version.model.bytes,
            inputs: version.signature.inputs.iter().map(Into::into).collect(),
            outputs: version.signature.outputs.iter().map(Into::into).collect(),
            // Plain data with text for keys: there is no form of it that is not JSON.
            pipeline: serde_json::to_value(&version.pipeline).unwrap_or_default(),
            created_at: version.created_at.to_string(),
        }
    }
}

/// A model by name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelEntryBody {
    /// Its name.
    #[schema(example = "fraud")]
    name: String,
    /// The highest version: they are numbered from 1 up to it.
    newest_version: u64,
    /// Its aliases.
    aliases: Vec<AliasBody>,
}

/// An alias and what it points at.
#[derive(Debug, Serialize, ToSchema)]
struct AliasBody {
    /// The alias.
    #[schema(example = "production")]
    alias: String,
    /// The version that it points at now.
    version: u64,
}

impl From<&ModelEntry> for ModelEntryBody {
    fn from(entry: &ModelEntry) -> Self {
        let aliases = entry.aliases.iter().map(|(alias, version)| AliasBody { alias: alias.to_string(), version: *version });
        Self { name: entry.name.to_string(), newest_version: entry.versions, aliases: aliases.collect() }
    }
}

/// A page of models, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelPage {
    /// The models.
    items: Vec<ModelEntryBody>,
    /// Give it as `cursor` to get the next page; absent on the last.
    next_cursor: Option<String>,
}

/// A page of a model's versions, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ModelVersionPage {
    /// The model.
    #[schema(example = "fraud")]
    name: String,
    /// The versions.
    items: Vec<ModelVersionBody>,
    /// Give it as `cursor` to get the next page; absent on the last.
    next_cursor: Option<String>,
}

/// Register a model
///
/// Fetches the model as a job would, and keeps its digest, signature and derived pipeline under the next version of the name. What has a
/// version already, by its digest, keeps that one; if it lies elsewhere now, jobs fetch it there. A version never changes otherwise.
#[utoipa::path(
    post, path = "/v1/models", tag = "models",
    request_body(content = Registration, example = json!({"name": "fraud", "uri": "s3://models/fraud/2026-11/"})),
    responses(
        (status = 200, description = "This digest has a version already", body = ModelVersionBody, example = json!(examples::model_version())),
        (status = 201, description = "A new version", body = ModelVersionBody, headers(("Location" = String, description = "Its address")), example = json!(examples::model_version())),
        (status = 400, description = "Not JSON", body = ApiProblem, content_type = "application/problem+json"),
        (status = 422, description = "The request has faults, or the model cannot be used", body = ApiProblem, content_type = "application/problem+json"),
        (status = 503, description = "A store or the database did not answer", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn register(
    State(state): State<ApiState>,
    query: Query,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiProblem> {
    query.only(&[])?;
    let sent = body::parse(&sent.map_err(|e| ApiProblem::malformed(e.to_string()))?)?;
    let mut faults = Faults::default();
    let root = Field::root(&sent).object(&REGISTRATION, &mut faults);
    let name = root.field("name");
    let name = if name.required(NAME, &mut faults) { registered_name(&name, &mut faults) } else { None };
    let uri = definition::model_location(&root.field("uri"), &mut faults);
    let (Some(name), Some(uri), true) = (name, uri, faults.0.is_empty()) else { return Err(ApiProblem::faults(faults.0)) };
    let turn = state.load.resolving().await;
    let found = state.models.inspect(&uri, &PipelineSpec::default()).await;
    drop(turn);
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            // A model's faults are told as those of a job's field, which here has another name.
            let at = |fault: Fault| match fault.pointer.strip_prefix("/model") {
                Some(rest) => Fault { pointer: format!("/uri{rest}"), ..fault },
                None => fault,
            };
            return Err(ApiProblem::faults(of_model(error)?.into_iter().map(at).collect()));
        }
    };
    let new = NewVersion { name, model: found.model, signature: found.signature, pipeline: found.pipeline };
    let (version, is_new) = state.store.register_model(&new).await?;
    tracing::info!(model.name = %version.name, model.version = version.version, model.digest = version.model.digest, "registered {} {}", version.name, version.version);
    let body = Json(ModelVersionBody::new(&version));
    if !is_new {
        return Ok(body.into_response());
    }
    let location = format!("/v1/models/{}/versions/{}", version.name, version.version);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], body).into_response())
}

/// List models
///
/// By name.
#[utoipa::path(
    get, path = "/v1/models", tag = "models",
    params(
        ("limit" = Option<u32>, Query, description = "Models in a page: 1 to 200, 50 when absent", example = 50),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = ModelPage, example = json!({"items": [{"name": "fraud", "newest_version": 3, "aliases": [{"alias": "production", "version": 2}]}], "next_cursor": null})),
        (status = 422, description = "A parameter is wrong", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(State(state): State<ApiState>, query: Query) -> Result<Json<ModelPage>, ApiProblem> {
    query.only(&["limit", "cursor"])?;
    let limit = query.limit(50, 200)?;
    let after = query.parsed("cursor", "give next_cursor of the page before", Name::parse)?;
    let mut models = state.store.registered_models(after.as_ref(), limit + 1).await?;
    let more = models.len() > limit as usize;
    models.truncate(limit as usize);
    let next_cursor = more.then(|| models.last().map(|model| model.name.to_string())).flatten();
    Ok(Json(ModelPage { items: models.iter().map(Into::into).collect(), next_cursor }))
}

/// List a model's versions
///
/// Newest first, each with the aliases that point at it.
#[utoipa::path(
    get, path = "/v1/models/{name}", tag = "models",
    params(
        ("name" = String, Path, description = "The model", example = "fraud"),
        ("limit" = Option<u32>, Query, description = "Versions in a page: 1 to 200, 50 when absent", example = 50),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses(
        (status = 200, description = "A page", body = ModelVersionPage, example = json!({"name": "fraud", "items": [examples::model_version()], "next_cursor": null})),
        (status = 404, description = "No such model", body = ApiProblem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter is wrong", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn versions(
    State(state): State<ApiState>,
    PathOf(name): PathOf<String>,
    query: Query,
) -> Result<Json<ModelVersionPage>, ApiProblem> {
    query.only(&["limit", "cursor"])?;
    let limit = query.limit(50, 200)?;
    let before = query.parsed("cursor", "give next_cursor of the page before", |text| text.parse::<u64>().ok())?;
    let known = Name::parse(&name).ok_or_else(|| missing(&name))?;
    let mut versions = state.store.model_versions(&known, before, limit + 1).await?;
    if versions.is_empty() && before.is_none() {
        return Err(missing(&name));
    }
    let more = versions.len() > limit as usize;
    versions.truncate(limit as usize);
    let next_cursor = more.then(|| versions.last().map(|version| version.version.to_string())).flatten();
    Ok(Json(ModelVersionPage { name, items: versions.iter().map(ModelVersionBody::new).collect(), next_cursor }))
}

/// Get a version of a model
#[utoipa::path(
    get, path = "/v1/models/{name}/versions/{version}", tag = "models",
    params(
        ("name" = String, Path, description = "The model", example = "fraud"),
        ("version" = String, Path, description = "Its number, or an alias that points at it", example = "3"),
    ),
    responses(
        (status = 200, description = "The version", body = ModelVersionBody, example = json!(examples::model_version())),
        (status = 404, description = "No such model or version", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn version(
    State(state): State<ApiState>,
    PathOf((name, version)): PathOf<(String, String)>,
    query: Query,
) -> Result<Json<ModelVersionBody>, ApiProblem> {
    query.only(&[])?;
    let which = Which::parse(&version).ok_or_else(|| no_version(&name, &version))?;
    let known = Name::parse(&name).ok_or_else(|| missing(&name))?;
    let found = state.store.model_version(&known, &which).await?.ok_or_else(|| no_version(&name, &version))?;
    Ok(Json(ModelVersionBody::new(&found)))
}

/// Move an alias
///
/// It points at this version from now on, wherever it pointed before. Jobs that were accepted keep what it meant then.
#[utoipa::path(
    put, path = "/v1/models/{name}/aliases/{alias}", tag = "models",
    params(
        ("name" = String, Path, description = "The model", example = "fraud"),
        ("alias" = String, Path, description = "A name that is no number", example = "production"),
    ),
    request_body(content = AliasTarget, example = json!({"version": 3})),
    responses(
        (status = 200, description = "The version that it points at", body = ModelVersionBody, example = json!(examples::model_version())),
        (status = 400, description = "Not JSON", body = ApiProblem, content_type = "application/problem+json"),
        (status = 404, description = "No such model", body = ApiProblem, content_type = "application/problem+json"),
        (status = 422, description = "The request has faults, or there is no such version", body = ApiProblem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn move_alias(
    State(state): State<ApiState>,
    PathOf((name, alias)): PathOf<(String, String)>,
    query: Query,
    sent: Result<Bytes, BytesRejection>,
) -> Result<Json<ModelVersionBody>, ApiProblem> {
    query.only(&[])?;
    let known = Name::parse(&name).ok_or_else(|| missing(&name))?;
    let bad_alias =
        || ApiProblem::faults(vec![Fault::new("", "invalid_name", format!("{alias:?} is no alias")).hint(format!("{NAME}; {ALIAS}"))]);
    let alias = Name::parse_alias(&alias).ok_or_else(bad_alias)?;
    let sent = body::parse(&sent.map_err(|e| ApiProblem::malformed(e.to_string()))?)?;
    let mut faults = Faults::default();
    let version = Field::root(&sent).object(&["version"], &mut faults).field("version");
    version.required("give the number of a version", &mut faults);
    let number = version.integer(1..=i64::MAX, &mut faults);
    let (Some(number), true) = (number, faults.0.is_empty()) else { return Err(ApiProblem::faults(faults.0)) };
    match state.store.move_alias(&known, &alias, number as u64).await? {
        AliasMoved::Done => {}
        AliasMoved::NoModel => return Err(missing(&name)),
        AliasMoved::NoVersion { newest } => {
            faults.add(&version, "no_such_version", format!("{name} has no version {number}"), format!("its newest is {newest}"));
            return Err(ApiProblem::faults(faults.0));
        }
    }
    tracing::info!(model.name = %known, model.version = number, "{alias} of {known} is version {number} now");
    let found = state.store.model_version(&known, &Which::Version(number as u64)).await?.ok_or_else(|| missing(&name))?;
    Ok(Json(ModelVersionBody::new(&found)))
}

/// Remove an alias
///
/// The version that it pointed at stays, and so do jobs that named it.
#[utoipa::path(
    delete, path = "/v1/models/{name}/aliases/{alias}", tag = "models",
    params(
        ("name" = String, Path, description = "The model", example = "fraud"),
        ("alias" = String, Path, description = "The alias", example = "production"),
    ),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "No such alias", body = ApiProblem, content_type = "application/problem+json", example = json!(examples::no_alias())),
    )
)]
pub(super) async fn remove_alias(
    State(state): State<ApiState>,
    PathOf((name, alias)): PathOf<(String, String)>,
    query: Query,
) -> Result<StatusCode, ApiProblem> {
    query.only(&[])?;
    let gone = || ApiProblem::not_found(format!("{name:?} has no alias {alias:?}"));
    let (known, points) = (Name::parse(&name).ok_or_else(gone)?, Name::parse_alias(&alias).ok_or_else(gone)?);
    if state.store.remove_alias(&known, &points).await? { Ok(StatusCode::NO_CONTENT) } else { Err(gone()) }
}

fn missing(name: &str) -> ApiProblem {
    ApiProblem::not_found(format!("no model is registered as {name:?}"))
}

fn no_version(name: &str, version: &str) -> ApiProblem {
    ApiProblem::not_found(format!("no model is registered as {name:?} with a version or an alias {version:?}"))
}

/// A model's name in a request's field.
pub(super) fn registered_name(field: &Field<'_>, faults: &mut Faults) -> Option<Name> {
    let text = field.text(NAME, faults)?;
    let name = Name::parse(text);
    if name.is_none() {
        faults.add(field, "invalid_name", format!("{text:?} is no name of a model"), NAME);
    }
    name
}

/// An alias in a request's field.
pub(super) fn registered_alias(field: &Field<'_>, faults: &mut Faults) -> Option<Name> {
    let text = field.text(ALIAS, faults)?;
    let alias = Name::parse_alias(text);
    if alias.is_none() {
        faults.add(field, "invalid_name", format!("{text:?} is no alias"), ALIAS);
    }
    alias
}
