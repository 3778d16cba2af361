//! From spans to the collector: a bounded queue, and one task that sends what is in it.
//!
//! A collector that isn't there, or doesn't keep up, costs spans and nothing else: whoever makes one never waits
//! for room, and what finds none is counted.

use std::time::{Duration, Instant};

use opentelemetry::Context;
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::{Config, FLUSH};

/// Most spans that wait: at about 1 KiB, as ours are, 4 MiB.
const QUEUE_SPANS: usize = 4096;
/// Most spans of a request, and how long the first of them waits for others.
const BATCH_SPANS: usize = 512;
const GATHER: Duration = Duration::from_millis(500);
/// How often it is said that the collector doesn't take anything.
const COMPLAINT_EVERY: Duration = Duration::from_secs(60);

/// Where spans wait.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    waiting: mpsc::Sender<Message>,
    spans: Family<SpanLabels, Counter>,
}

#[derive(Debug)]
enum Message {
    Span(Box<SpanData>),
    Flush(oneshot::Sender<()>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SpanLabels {
    outcome: &'static str,
}

const SENT: SpanLabels = SpanLabels { outcome: "sent" };
const FULL: SpanLabels = SpanLabels { outcome: "full" };
const FAILED: SpanLabels = SpanLabels { outcome: "failed" };

/// Begins to send.
pub(super) fn start(config: &Config, resource: &Resource, registry: &mut Registry) -> Result<Queue, String> {
    let mut exporter = exporter(config)?;
    exporter.set_resource(resource);
    let spans = Family::<SpanLabels, Counter>::default();
    for labels in [SENT, FULL, FAILED] {
        spans.get_or_create_owned(&labels);
    }
    registry.register(
        "foghorn_traces_spans",
        "Spans, and whether the collector took them: sent, full (the queue to it), failed",
        spans.clone(),
    );
    let (waiting, queue) = mpsc::channel(QUEUE_SPANS);
    tokio::spawn(Sending { exporter, queue, spans: spans.clone(), complained: None, unsaid: 0 }.run());
    Ok(Queue { waiting, spans })
}

fn exporter(config: &Config) -> Result<SpanExporter, String> {
    let metadata = MetadataMap::from_headers(config.metadata()?);
    let mut builder =
        SpanExporter::builder().with_tonic().with_endpoint(config.endpoint.as_str()).with_metadata(metadata);
    if config.endpoint.starts_with("https:") {
        let mut tls = ClientTlsConfig::new().with_enabled_roots();
        if let Some(pem) = config.authority()? {
            tls = tls.ca_certificate(Certificate::from_pem(pem));
        }
        builder = builder.with_tls_config(tls);
    }
    builder.build().map_err(|error| format!("endpoint: {error}"))
}

impl Queue {
    /// Has what waits sent, for a while at most.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        let flush = async {
            if self.waiting.send(Message::Flush(done)).await.is_ok() {
                let _gone = flushed.await.is_err();
            }
        };
        if timeout(FLUSH, flush).await.is_err() {
            tracing::debug!("the last spans were not sent in time");
        }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.waiting.try_send(Message::Span(Box::new(span))).is_err() {
            self.spans.get_or_create(&FULL).inc();
        }
    }

    // The provider lives as long as the process, and is flushed by `Queue::flush`.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

struct Sending {
    exporter: SpanExporter,
    queue: mpsc::Receiver<Message>,
    spans: Family<SpanLabels, Counter>,
    complained: Option<Instant>,
    unsaid: u64,
}

impl Sending {
    async fn run(mut self) {
        while let Some(first) = self.queue.recv().await {
            // Who has a whole batch, or is asked for the rest, waits for no others.
            if matches!(first, Message::Span(_)) && self.queue.len() < BATCH_SPANS {
                sleep(GATHER).await;
            }
            let (mut batch, mut flushed) = (Vec::new(), None);
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Span(span) => batch.push(*span),
                    Message::Flush(done) => flushed = Some(done),
                }
                let go_on = batch.len() < BATCH_SPANS && flushed.is_none();
                next = if go_on { self.queue.try_recv().ok() } else { None };
            }
            if !batch.is_empty() {
                self.send(batch).await;
            }
            if let Some(done) = flushed {
                // Whoever asked may have stopped waiting.
                let _gone = done.send(()).is_err();
            }
        }
    }

    /// Sends a batch. It is tried a few times within the exporter's deadline, then given up.
    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        match self.exporter.export(batch).await {
            Ok(()) => {
                self.spans.get_or_create(&SENT).inc_by(count);
            }
            Err(error) => {
                self.spans.get_or_create(&FAILED).inc_by(count);
                self.complain(&error, count);
            }
        }
    }

    fn complain(&mut self, error: &dyn std::error::Error, spans: u64) {
        let now = Instant::now();
        if self.complained.is_some_and(|said| now.duration_since(said) < COMPLAINT_EVERY) {
            self.unsaid += spans;
            return;
        }
        self.complained = Some(now);
        let unsaid = std::mem::take(&mut self.unsaid);
        tracing::warn!(
            %error, spans, unsaid,
            "the collector doesn't take spans; nothing else suffers by that. See telemetry.traces.endpoint"
        );
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    #[tokio::test]
    async fn a_full_queue_keeps_nobody_waiting_and_what_it_has_no_room_for_is_counted() {
        let (waiting, mut kept) = mpsc::channel(2);
        let queue = Queue { waiting, spans: Family::default() };
        let provider = SdkTracerProvider::builder().with_span_processor(queue.clone()).build();
        let tracer = provider.tracer("test");
        let names = ["first", "second", "third", "fourth"];
        names.into_iter().for_each(|name| drop(tracer.start(name)));
        assert_eq!(queue.spans.get_or_create(&FULL).get(), 2);
        let mut name = || match kept.try_recv() {
            Ok(Message::Span(span)) => Some(span.name),
            _ => None,
        };
        assert_eq!([name(), name(), name()], [Some("first".into()), Some("second".into()), None]);
    }
}
