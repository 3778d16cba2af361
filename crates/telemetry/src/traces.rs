//! Traces by OpenTelemetry: what becomes of single events, from their publishers to the sockets.
//!
//! Which events are traced is said by their publishers ([`TraceContext::sampled`]) or by our own sampler, within
//! a budget of so many a second at each stage: a publisher who wants all of its events traced has the collector
//! and us do no more than that. Spans wait in a bounded queue, and whoever makes one never waits; see `export`.
//!
//! Of the whole process, as logging is. A process that doesn't trace has nothing here: the first question that
//! everything asks is a load of a pointer that isn't there.

mod config;
mod export;

use std::borrow::Cow;
use std::num::{NonZeroU64, NonZeroU128};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use foghorn_core::trace::{HEADER_TRACEPARENT, TraceContext};
use foghorn_http::limit::{Budget, Rate};
use http::HeaderMap;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

pub use config::Config;
use export::Queue;
pub use opentelemetry::trace::SpanKind as Kind;

/// Most links of a span.
const LINKS_MAX: u32 = 1024;
/// How long a flush may take.
const FLUSH: Duration = Duration::from_secs(2);

static TRACES: OnceLock<Traces> = OnceLock::new();

/// What a process that traces has.
struct Traces {
    tracer: SdkTracer,
    queue: Queue,
    /// The share of events that are traced of those whose publisher says nothing of traces.
    sample: f64,
    budgets: [Budget; Stage::ALL.len()],
    events: Family<EventLabels, Counter>,
}

/// Where in the way of an event a span is made. Each has a budget of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A fan-out takes it from its publisher.
    Publish,
    /// A fan-out relays it to the gateways.
    Relay,
    /// A gateway gives it to its streams.
    Gateway,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    stage: &'static str,
    outcome: &'static str,
}

impl Stage {
    const ALL: [Stage; 3] = [Stage::Publish, Stage::Relay, Stage::Gateway];

    const fn as_str(self) -> &'static str {
        match self {
            Stage::Publish => "publish",
            Stage::Relay => "relay",
            Stage::Gateway => "gateway",
        }
    }
}

/// Traces from now on, as this `service` of Foghorn, if there is an endpoint to send to. Once in a process, and in a
/// runtime. The collector need not be there.
///
/// The standard variables `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS` and
/// `OTEL_EXPORTER_OTLP_TIMEOUT` (and the last two's `…_TRACES_…`) mean what they mean everywhere.
pub fn start(config: &Config, service: &str, registry: &mut Registry) -> Result<(), String> {
    if config.endpoint.is_empty() || TRACES.get().is_some() {
        return Ok(());
    }
    let resource = resource(service);
    let queue = export::start(config, &resource, registry)?;
    let provider = SdkTracerProvider::builder().with_resource(resource).with_span_processor(queue.clone());
    // What is to be traced has been decided before a span is begun.
    let provider = provider.with_sampler(Sampler::AlwaysOn);
    // A batch of the live feed may have as many traced events.
    let provider = provider.with_max_links_per_span(LINKS_MAX).build();
    let rate = Rate::per_second(config.events_per_second, config.events_per_second);
    let events = Family::<EventLabels, Counter>::default();
    for stage in Stage::ALL {
        for outcome in ["traced", "limited"] {
            events.get_or_create_owned(&EventLabels { stage: stage.as_str(), outcome });
        }
    }
    registry.register(
        "foghorn_traces_events",
        "Events that are to be traced, and whether the second's budget had room for them",
        events.clone(),
    );
    let traces = Traces {
        tracer: provider.tracer("foghorn"),
        queue,
        sample: config.sample,
        budgets: Stage::ALL.map(|_| Budget::new(rate)),
        events,
    };
    // Whoever is first wins; there is one start in a process.
    let _second = TRACES.set(traces).is_err();
    tracing::info!(endpoint = config.endpoint, sample = config.sample, "tracing");
    Ok(())
}

/// Has what waits sent, for 2 s at most: the process ends.
pub async fn flush() {
    if let Some(traces) = TRACES.get() {
        traces.queue.flush().await;
    }
}

/// Who we are to those who read traces.
fn resource(service: &str) -> Resource {
    let instance = format!("{:016x}", rand::random::<u64>());
    let ours = Resource::builder_empty()
        .with_service_name(format!("foghorn-{service}"))
        .with_attribute(KeyValue::new("service.namespace", "foghorn"))
        .with_attribute(KeyValue::new("service.instance.id", instance))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => ours.with_service_name(name).build(),
        _ => ours.build(),
    }
}

/// The trace context in the headers of a request; none when there is no valid one, or more than one.
pub fn carried(headers: &HeaderMap) -> Option<TraceContext> {
    let mut all = headers.get_all(HEADER_TRACEPARENT).iter();
    let only = all.next()?;
    if all.next().is_some() {
        return None;
    }
    TraceContext::parse(only.to_str().ok()?)
}

/// The span of an event that its publisher has just been allowed to publish, and that came at `came`, if it is
/// traced. `carried` is the publisher's context, and becomes what the event is to be passed on with: whatever has
/// no room is traced by nobody further on either.
pub fn published(carried: &mut Option<TraceContext>, came: Instant) -> Option<Span> {
    let traces = TRACES.get()?;
    let traced = match *carried {
        Some(context) => context.sampled,
        None => traces.sample > 0.0 && rand::random::<f64>() < traces.sample,
    };
    if !traced {
        return None;
    }
    if !traces.admits(Stage::Publish) {
        *carried = carried.map(TraceContext::unsampled);
        return None;
    }
    let begin = SystemTime::now().checked_sub(came.elapsed());
    let span = traces.span("publish", Kind::Producer, carried.map(|context| (context, true)), begin)?;
    *carried = Some(span.context);
    Some(span)
}

/// The span of an event at a stage after it was published, if it is traced there.
pub fn passing(stage: Stage, context: Option<TraceContext>) -> Option<Span> {
    let context = context.filter(|context| context.sampled)?;
    let traces = TRACES.get()?;
    if !traces.admits(stage) {
        return None;
    }
    let kind = match stage {
        Stage::Publish | Stage::Relay => Kind::Producer,
        Stage::Gateway => Kind::Consumer,
    };
    traces.span(stage.as_str(), kind, Some((context, true)), None)
}

/// A span that begins a trace of its own, to be linked to.
pub fn root(name: &'static str) -> Option<Span> {
    TRACES.get()?.span(name, Kind::Internal, None, None)
}

/// What log lines about something are written in, so that they say of which trace it is a part, if it is of one.
pub fn lines(context: Option<TraceContext>) -> tracing::Span {
    let Some(context) = context else { return tracing::Span::none() };
    // Of the highest level: the lines of every level have it.
    tracing::error_span!("trace", trace_id = format_args!("{:032x}", context.trace))
}

impl Traces {
    fn admits(&self, stage: Stage) -> bool {
        let admitted = self.budgets[stage as usize].check().is_ok();
        let outcome = if admitted { "traced" } else { "limited" };
        self.events.get_or_create(&EventLabels { stage: stage.as_str(), outcome }).inc();
        admitted
    }

    /// Begins a span, now unless it is said when; of its parent it has to be said whether another process has it.
    fn span(
        &self,
        name: &'static str,
        kind: Kind,
        parent: Option<(TraceContext, bool)>,
        begin: Option<SystemTime>,
    ) -> Option<Span> {
        let mut builder = SpanBuilder::from_name(name).with_kind(kind);
        builder.start_time = begin;
        let above = match parent {
            Some((parent, remote)) => Context::new().with_remote_span_context(open(parent, remote)),
            None => Context::new(),
        };
        let span = self.tracer.build_with_context(builder, &above);
        let context = span.span_context();
        // Neither is ever zero in a span that is recorded.
        let context = TraceContext {
            trace: NonZeroU128::new(u128::from_be_bytes(context.trace_id().to_bytes()))?,
            span: NonZeroU64::new(u64::from_be_bytes(context.span_id().to_bytes()))?,
            sampled: true,
        };
        Some(Span { span, context, ended: false })
    }
}

/// A span that is recorded. One that is dropped before its end failed.
#[derive(Debug)]
pub struct Span {
    span: opentelemetry_sdk::trace::Span,
    context: TraceContext,
    ended: bool,
}

impl Span {
    /// Its place, for what follows from it.
    pub fn context(&self) -> TraceContext {
        self.context
    }

    /// A span within it that begins now.
    pub fn child(&self, name: &'static str, kind: Kind) -> Option<Span> {
        TRACES.get()?.span(name, kind, Some((self.context, false)), None)
    }

    /// A span within it that began and ended at these times.
    pub fn record_child(&self, name: &'static str, begin: SystemTime, end: SystemTime) {
        let parent = Some((self.context, false));
        let traces = TRACES.get();
        if let Some(span) = traces.and_then(|all| all.span(name, Kind::Internal, parent, Some(begin))) {
            span.end_at(end);
        }
    }

    /// Says something of it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.span.set_attribute(KeyValue::new(key, value));
    }

    /// It has to do with another span, of another trace.
    pub fn link(&mut self, to: TraceContext) {
        self.span.add_link(open(to, true), Vec::new());
    }

    /// What it was to do failed. It ends.
    pub fn fail(mut self, why: impl Into<Cow<'static, str>>) {
        self.span.set_status(Status::error(why));
        self.end_at(SystemTime::now());
    }

    /// It ends now, well.
    pub fn end(self) {
        self.end_at(SystemTime::now());
    }

    /// It ended at this time, well.
    pub fn end_at(mut self, end: SystemTime) {
        self.ended = true;
        self.span.end_with_timestamp(end);
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if !self.ended {
            self.span.set_status(Status::error("given up"));
        }
    }
}

fn open(context: TraceContext, remote: bool) -> SpanContext {
    let flags = if context.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
    let (trace, span) = (TraceId::from(context.trace.get()), SpanId::from(context.span.get()));
    SpanContext::new(trace, span, flags, remote, TraceState::NONE)
}
