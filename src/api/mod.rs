//! The HTTP edge: routes, request and response types, problem details, docs.
//!
//! In: HTTP requests. Out: calls of `db/`, `model/`, `objects/` and the guard of `notify/`, and their answers as JSON. A request is read
//! whole and every fault in it is listed at once; what passes is a value of `domain/` that nobody checks again.

mod answers;
mod body;
mod definition;
mod deliveries;
mod disk;
mod dry_run;
#[cfg(test)]
mod edge_tests;
mod errors;
mod events;
mod examples;
mod feed;
mod fires;
mod health;
mod idempotency;
mod jobs;
mod listener;
mod load;
mod meant;
mod metrics;
mod models;
mod named_model;
mod openapi;
mod pipeline;
mod problem;
mod query;
mod read;
mod request;
mod results;
mod schedule_body;
mod schedule_definition;
mod schedule_examples;
mod schedules;
mod spec;
mod steer;
mod submit;
mod summary;
#[cfg(test)]
mod tests;
mod types;
mod usage;
mod v2;
mod waits;
mod webhook;

use std::{path::PathBuf, sync::Arc};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request},
    middleware,
    response::{IntoResponse, Redirect},
    routing::get,
};
use tokio::sync::Notify;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::{
    db::Store,
    domain::Pricing,
    execute::{RunnerStatus, Sampler},
    model::Models,
    notify::Guard,
    objects::Stores,
    plan,
    tables::Connections,
    telemetry::Metrics,
};
use problem::ApiProblem;

pub use answers::Answers;
pub use feed::{Feed, FeedOptions};
pub use listener::Listener;
pub use load::{Limits, Load};
pub use openapi::document as openapi;

/// Largest request body, bytes: a job definition is small.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// What handlers need.
#[derive(Debug, Clone)]
pub struct ApiState {
    /// Holds the jobs.
    pub store: Arc<dyn Store>,
    /// Reaches outputs: presigned URLs, downloads, the check for an occupied prefix.
    pub stores: Stores,
    /// Databases that a job's table may be in.
    pub connections: Connections,
    /// Resolves models at acceptance.
    pub models: Arc<Models>,
    /// Which addresses a webhook may name.
    pub guard: Guard,
    /// Runs the first records of a dry run.
    pub sampler: Arc<Sampler>,
    /// How the planner would cut: a dry run says into how many chunks.
    pub planning: plan::Options,
    /// Rung when a job was accepted or cancelled, or a delivery is to be made again.
    pub wake: Arc<Notify>,
    /// Whether runners can be had; none where other nodes run the chunks.
    pub runners: Vec<RunnerStatus>,
    /// Counts requests, and is what `/metrics` shows.
    pub metrics: Metrics,
    /// Execution providers that a job may name.
    pub allowed_providers: Vec<String>,
    /// Those of jobs that name none.
    pub providers: Vec<String>,
    /// Sessions of a node's runners: its devices on `cpu`.
    pub sessions: usize,
    /// Its devices on other providers.
    pub accelerators: usize,
    /// What devices cost.
    pub pricing: Option<Pricing>,
    /// What was just answered of jobs.
    pub answers: Answers,
    /// Bounds what is answered at once.
    pub load: Load,
    /// What streams of events hear.
    pub feed: Feed,
    /// Where database and model cache are: whether jobs can be accepted depends on it.
    pub data_dir: PathBuf,
}

/// What orchestrators and scrapers ask of a process that has no API.
pub fn probes(state: ApiState) -> Router {
    Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics::scrape))
        .with_state(state)
}

/// All routes.
pub fn router(state: ApiState) -> Router {
    let (routes, _) = openapi::router().split_for_parts();
    let (metrics, load) = (state.metrics.clone(), state.load.clone());
    let docs = SwaggerUi::new("/docs").url("/openapi.json", openapi::document()).config(Config::default().validator_url("none"));
    routes
        .with_state(state)
        .merge(docs)
        .route("/", get(|| async { Redirect::temporary("/docs") }))
        .fallback(|request: Request| async move { ApiProblem::not_found(format!("there is nothing at {}", request.uri().path())) })
        .method_not_allowed_fallback(|request: Request| async move {
            ApiProblem::method_not_allowed(format!("{} is not a method of {}", request.method(), request.uri().path()))
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(|panic: Box<dyn std::any::Any + Send>| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            ApiProblem::internal(&text.unwrap_or("a panic without a message")).into_response()
        }))
        .layer(middleware::from_fn_with_state(load, load::shed))
        .layer(middleware::from_fn_with_state(metrics, metrics::count))
        .layer(middleware::from_fn(request::identified))
}
