//! The OpenAPI document: what is mounted is in it.

use serde_json::Value;
use utoipa::{
    OpenApi,
    openapi::{OpenApi as OpenApiDocument, RefOr, Schema},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiState, definition, deliveries, errors, events, health, jobs, metrics, models, pipeline, results, schedule_body, schedules, steer,
    usage, v2,
};
use crate::domain::{ChunkState, DeliveryState, EventKind, JobState, Task, cost::Basis, pipeline::detection::Head};

#[derive(OpenApi)]
#[openapi(
    components(schemas(events::StateBody<'_>, events::ProgressBody<'_>)),
    info(
        title = "Nightshift",
        description = "Self-hosted batch inference: POST a job that names an ONNX model and an input prefix in a bucket; the predictions are written back to the bucket.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "jobs", description = "Submit jobs and follow them"),
        (name = "results", description = "Predictions and error rows"),
        (name = "schedules", description = "Jobs that are made again and again"),
        (name = "models", description = "Models by name"),
        (name = "open inference protocol", description = "Registered models, a few records at a time"),
        (name = "costs", description = "What jobs took, and what that cost"),
        (name = "webhooks", description = "What was told to whom"),
        (name = "health", description = "For supervisors and load balancers"),
    )
)]
struct Document;

/// The routes that are in the document.
pub(super) fn router() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(jobs::list, jobs::submit))
        .routes(routes!(jobs::get))
        .routes(routes!(steer::cancel))
        .routes(routes!(steer::pause))
        .routes(routes!(steer::resume))
        .routes(routes!(steer::retry))
        .routes(routes!(jobs::chunks))
        .routes(routes!(events::of_job))
        .routes(routes!(events::of_all))
        .routes(routes!(results::list))
        .routes(routes!(results::download))
        .routes(routes!(errors::list))
        .routes(routes!(schedules::list, schedules::create))
        .routes(routes!(schedules::get, schedules::change, schedules::delete))
        .routes(routes!(schedules::pause))
        .routes(routes!(schedules::resume))
        .routes(routes!(schedules::run))
        .routes(routes!(schedules::runs))
        .routes(routes!(models::list, models::register))
        .routes(routes!(models::versions))
        .routes(routes!(models::version))
        .routes(routes!(models::move_alias, models::remove_alias))
        .routes(routes!(usage::usage))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::get))
        .routes(routes!(deliveries::replay))
        .routes(routes!(v2::server))
        .routes(routes!(v2::live))
        .routes(routes!(v2::ready))
        .routes(routes!(v2::metadata))
        .routes(routes!(v2::version_metadata))
        .routes(routes!(v2::model_ready))
        .routes(routes!(v2::version_ready))
        .routes(routes!(v2::infer))
        .routes(routes!(v2::version_infer))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(metrics::scrape))
}

/// The document.
pub fn document() -> OpenApiDocument {
    let mut document = router().into_openapi();
    let tasks = Task::ALL.map(Task::name);
    let states = JobState::ALL.map(JobState::name);
    let chunk_states = [ChunkState::Pending, ChunkState::Running, ChunkState::Done, ChunkState::Failed, ChunkState::Cancelled];
    let words: [(&str, &str, Vec<&str>); 24] = [
        ("InputDefinition", "format", names(&definition::FORMATS)),
        ("InputDefinition", "compression", names(&definition::COMPRESSIONS)),
        ("OutputDefinition", "format", names(&definition::OUTPUT_FORMATS)),
        ("OutputDefinition", "compression", names(&definition::OUTPUT_COMPRESSIONS)),
        ("TableDefinition", "mode", names(&definition::TABLE_MODES)),
        ("PipelineDefinition", "task", tasks.to_vec()),
        ("PipelineDefinition", "missing", names(&pipeline::MISSING)),
        ("PipelineDefinition", "activation", names(&pipeline::ACTIVATIONS)),
        ("PipelineDefinition", "head", Head::ALL.map(Head::name).to_vec()),
        ("PipelineDefinition", "pooling", names(&pipeline::POOLINGS)),
        ("ImageDefinition", "source", names(&pipeline::SOURCES)),
        ("ImageDefinition", "resize", names(&pipeline::RESIZES)),
        ("ImageDefinition", "position", names(&pipeline::POSITIONS)),
        ("ImageDefinition", "resample", names(&pipeline::RESAMPLES)),
        ("ImageDefinition", "channels", names(&pipeline::CHANNELS)),
        ("ImageDefinition", "layout", names(&pipeline::LAYOUTS)),
        ("ImageDefinition", "alpha", names(&pipeline::ALPHAS)),
        ("JobBody", "state", states.to_vec()),
        ("StateEvent", "state", states.to_vec()),
        ("ChunkBody", "state", chunk_states.map(ChunkState::name).to_vec()),
        ("DeliveryBody", "state", DeliveryState::ALL.map(DeliveryState::name).to_vec()),
        ("DeliveryBody", "event", EventKind::ALL.map(EventKind::name).to_vec()),
        ("SliceBody", "slice", vec!["whole", "bytes", "rows"]),
        ("ExpectedBody", "basis", [Basis::Measured, Basis::Sample].map(Basis::name).to_vec()),
    ];
    for (schema, field, words) in words.into_iter().chain(schedule_body::words()) {
        choose(&mut document, schema, field, &words);
    }
    document
}

fn names<T>(words: &[(&'static str, T)]) -> Vec<&'static str> {
    words.iter().map(|(word, _)| *word).collect()
}

/// Says which words a field takes: those that are read and written, from the tables that read and write them. A field that may be
/// left out may be null as well.
fn choose(document: &mut OpenApiDocument, schema: &str, field: &str, words: &[&str]) {
    let schemas = document.components.as_mut().map(|c| &mut c.schemas);
    let Some(RefOr::T(Schema::Object(object))) = schemas.and_then(|s| s.get_mut(schema)) else { return };
    let required = object.required.iter().any(|name| name == field);
    if let Some(RefOr::T(Schema::Object(text))) = object.properties.get_mut(field) {
        let null = (!required).then_some(Value::Null);
        text.enum_values = Some(words.iter().map(|word| Value::from(*word)).chain(null).collect());
    }
}
