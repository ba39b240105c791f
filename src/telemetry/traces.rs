//! Traces: spans of what is done for a job, sent to a collector by OTLP (HTTP, protobuf) when the environment names one.
//!
//! Without an endpoint there is no layer, no thread and no queue. With one, spans wait in a bounded queue for a thread of their own; when
//! the collector is away the queue fills, further spans are dropped and counted, and no job waits for any of it.
//!
//! Only spans of the target [`TARGET`] are exported: a job's milestones, not every request and not what libraries say.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider},
};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData},
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter, registry::LookupSpan};

use crate::domain::TraceParent;

/// The target of spans that are exported.
pub const TARGET: &str = "nightshift::trace";
/// How long the end of the process may wait for the last spans.
const FLUSH: Duration = Duration::from_secs(2);
/// How often a collector that is away is mentioned.
const REMINDER: Duration = Duration::from_secs(60);
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];

/// The way to the collector.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// What the environment asks for by the names that OpenTelemetry gave: the endpoint, and with it `OTEL_SERVICE_NAME`,
    /// `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_BSP_…`.
    /// `None` without an endpoint, and where `OTEL_SDK_DISABLED` or `OTEL_TRACES_EXPORTER=none` switches traces off.
    ///
    /// # Errors
    /// One sentence that names the variable.
    pub fn from_environment() -> Result<Option<Self>, String> {
        let off = set("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
        let Some((name, endpoint)) = ENDPOINTS.iter().find_map(|name| Some((*name, set(name)?))) else { return Ok(None) };
        if off || set("OTEL_TRACES_EXPORTER").is_some_and(|exporter| exporter == "none") {
            return Ok(None);
        }
        if let Some((name, other)) = PROTOCOLS.iter().find_map(|name| Some((*name, set(name)?))).filter(|(_, p)| p != "http/protobuf") {
            return Err(format!("{name} is {other:?}, and traces are sent as http/protobuf only: a collector takes those at port 4318"));
        }
        // Its value is not shown: it may hold a password.
        if !url::Url::parse(&endpoint).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
            return Err(format!("{name} is no address such as http://collector:4318"));
        }
        let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary).build();
        let exporter = exporter.map_err(|e| format!("{name}: no exporter can be made of it: {e}"))?;
        let exporter = Told { inner: exporter, name, lost: Mutex::default() };
        let resource = Resource::builder();
        let resource = if names_service() { resource } else { resource.with_service_name("nightshift") };
        Ok(Some(Self(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build())))
    }

    /// What gives spans to the exporter.
    pub(super) fn layer<S: Subscriber + for<'span> LookupSpan<'span>>(&self) -> impl Layer<S> + use<S> {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("nightshift"))
            .with_location(false)
            .with_threads(false)
            .with_level(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(filter::filter_fn(|metadata| metadata.is_span() && metadata.target() == TARGET))
    }

    /// Sends what waits, for two seconds at most.
    pub fn shutdown(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH) {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
    }
}

/// Says in the log that spans are lost, once a minute: by itself the SDK says so with every batch.
#[derive(Debug)]
struct Told {
    inner: SpanExporter,
    /// The variable that named the collector.
    name: &'static str,
    lost: Mutex<Lost>,
}

#[derive(Debug, Default)]
struct Lost {
    spans: usize,
    said: Option<Instant>,
}

impl opentelemetry_sdk::trace::SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        if let Err(error) = opentelemetry_sdk::trace::SpanExporter::export(&self.inner, batch).await {
            let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
            lost.spans += spans;
            if lost.said.is_none_or(|said| said.elapsed() > REMINDER) {
                tracing::warn!(%error, spans = lost.spans, "{} spans were lost: the collector of {} does not take them", lost.spans, self.name);
                *lost = Lost { spans: 0, said: Some(Instant::now()) };
            }
        }
        Ok(())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Makes a span the child of a job's (or a caller's) span. Without an exporter this does nothing.
pub fn adopt(span: &Span, parent: Option<&TraceParent>) {
    let Some(parent) = parent else { return };
    let context = SpanContext::new(
        TraceId::from(parent.trace_id),
        SpanId::from(parent.span_id),
        TraceFlags::new(parent.flags),
        true,
        TraceState::default(),
    );
    let _without_an_exporter = span.set_parent(Context::new().with_remote_span_context(context));
}

/// The span as a parent of others, here or elsewhere; `None` without an exporter.
pub fn parent_of(span: &Span) -> Option<TraceParent> {
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| TraceParent {
        trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(context.span_id().to_bytes()),
        flags: context.trace_flags().to_u8(),
    })
}

/// An empty variable counts as one that is not there, as the specification has it.
fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn names_service() -> bool {
    let attributes = set("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    set("OTEL_SERVICE_NAME").is_some() || attributes.split(',').any(|pair| pair.trim_start().starts_with("service.name="))
}
