//! The words of the service: validated types without I/O and without a framework.
//!
//! Every room may use these; these use no room. A value that exists here has been checked where it entered
//! (`api/` for requests, `model/` for model folders), so nobody downstream checks again.
//!
//! Absent: tokio, sqlx, axum, object_store, ort.

pub mod backlog;
pub mod bottleneck;
pub mod chunk;
pub mod cost;
pub mod covered;
pub mod cron;
pub mod delivery;
pub mod drift;
pub mod fault;
pub mod isolation;
pub mod job;
pub mod names;
pub mod outcome;
pub mod pipeline;
pub mod progress;
pub mod registry;
pub mod schedule;
pub mod signature;
pub mod sketch;
pub mod spec;
pub mod summary;
pub mod table;
pub mod template;
pub mod time;
pub mod trace;
pub mod uri;
pub mod webhook;

pub use backlog::Backlog;
pub use chunk::{Chunk, ChunkId, ChunkResult, ChunkState, ObjectSlice, PartFile, Slice};
pub use cost::{Budget, Estimate, Pricing, Rate, Spent};
pub use delivery::{Attempt, Delivery, DeliveryId, DeliveryState, Event};
pub use drift::{Compared, Drift};
pub use fault::{Fault, Problem};
pub use isolation::{Isolation, Loss, Place, RecordId, Span};
pub use job::{Counts, Job, JobEvent, JobId, JobState};
pub use names::PartNames;
pub use outcome::{RecordError, Stage};
pub use pipeline::{Activation, Missing, Pipeline, PipelineSpec, Task};
pub use progress::{Progress, StateChange};
pub use schedule::{Fire, Run, RunState, Schedule, ScheduleId, ScheduleSpec};
pub use signature::{Dim, Dtype, Signature, ValueInfo, ValueType};
pub use sketch::Sketch;
pub use spec::JobSpec;
pub use summary::Summary;
pub use time::Timestamp;
pub use trace::TraceParent;
pub use uri::{Scheme, Uri};
pub use webhook::{Endpoint, EventKind, WebhookSecret, WebhookSpec, WebhookUrl};
