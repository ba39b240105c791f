//! Nightshift: self-hosted batch inference in one binary.
//!
//! A job walks through the rooms in this order: `api` or `schedule` accepts → `db` keeps → `plan` cuts → `execute` leases → `runner`
//! computes → `execute` commits and finalises → `notify` tells. A room imports only what stands below it in this list, or `domain`.

/// The HTTP edge: routes, request and response types, problem details, docs.
pub mod api;
/// The wiring: builds handles from the configuration, starts the rooms, stops them in reverse.
pub mod app;
/// One file a subcommand; the only home of `anyhow`-style catch-alls.
pub mod cli;
/// Every setting once.
pub mod config;
/// All durable state behind one trait; the only home of SQL.
pub mod db;
/// The words of the service: validated types, no I/O.
pub mod domain;
/// Claim → lease → runner supervision → fenced commit → finalise.
pub mod execute;
/// Resolve a model folder, admit the ONNX file, read its signature, derive the pipeline.
pub mod model;
/// Outbox → sign → deliver: tells receivers what became of jobs, at addresses that the guard lets pass.
pub mod notify;
/// URL → object store: list, ranged read, put, presign.
pub mod objects;
/// List the input prefix → snapshot its objects → cut chunks.
pub mod plan;
/// The data plane, in a process of its own: source → decode → featurize → infer → interpret → encode.
pub mod runner;
/// Schedules that are due → fires → jobs, each once.
pub mod schedule;
/// Tables in databases that the configuration names: where predictions go beside parts.
pub mod tables;
/// Logs, metrics, traces; any room may use it.
pub mod telemetry;
/// Rereads a finished job's output and proves its manifest; needs no service.
pub mod verify;
