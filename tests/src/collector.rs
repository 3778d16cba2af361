//! An OpenTelemetry collector, and the traces that it was sent.

use crate::PATIENCE;
use crate::env;
use crate::port::Port;
use crate::process::{Process, Program};
use crate::wait::until;

/// A collector that takes OTLP over gRPC and writes down what it gets.
#[derive(Debug)]
pub struct Collector {
    port: Port,
    _http: Port,
    process: Process,
}

/// A span, as the collector understood it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Span {
    /// `service.name` of who made it.
    pub service: String,
    /// The trace, 32 hexadecimal digits.
    pub trace: String,
    /// Itself, 16 of them.
    pub id: String,
    /// What it is a part of; empty for the first of a trace.
    pub parent: String,
    /// What it is called.
    pub name: String,
    /// What became of it, if that was said.
    pub status: String,
    /// Names and values.
    pub attributes: Vec<(String, String)>,
    /// Traces and spans.
    pub links: Vec<(String, String)>,
}

impl Collector {
    /// One that is ready.
    pub async fn start() -> Self {
        let (port, http) = (Port::lease(), Port::lease());
        let program = Program::new(env::collector())
            .arg("start")
            .arg(format!("--otlp-grpc-endpoint={}", port.address()))
            .arg(format!("--otlp-http-endpoint={}", http.address()))
            .args(["--exporter=blackhole", "--debug-log=traces", "--debug-log-verbosity=detailed"])
            .arg("--batch-timeout=50ms");
        let process = Process::spawn(program);
        until("the collector to listen", PATIENCE, async || {
            tokio::net::TcpStream::connect(port.address()).await.ok().map(drop)
        })
        .await;
        Collector { port, _http: http, process }
    }

    /// `http://127.0.0.1:20017`
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.port.address())
    }

    /// All that it says of what it was sent, in its own words.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// All that it was sent.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        read(&self.process.log())
    }

    /// What it was sent, once `enough` says so.
    pub async fn spans_until(&self, what: &str, mut enough: impl FnMut(&[Span]) -> bool) -> Vec<Span> {
        until(what, PATIENCE, async || {
            let spans = self.spans();
            enough(&spans).then_some(spans)
        })
        .await
    }
}

impl Span {
    /// The value of an attribute; empty when there is none.
    #[must_use]
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }
}

/// What the lines that follow are about.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    Resource,
    Span,
    Attributes,
    Links,
}

/// Reads the collector's log.
fn read(log: &str) -> Vec<Span> {
    let (mut spans, mut service, mut part) = (Vec::<Span>::new(), String::new(), Part::Resource);
    for line in log.lines() {
        let line = line.trim();
        match line {
            "Resource attributes:" => part = Part::Resource,
            "Attributes:" => part = Part::Attributes,
            "Links:" => part = Part::Links,
            _ if line.starts_with("Span #") => {
                spans.push(Span { service: service.clone(), ..Span::default() });
                part = Part::Span;
            }
            _ => {
                let (name, value) = line.trim_start_matches("-> ").split_once(':').unwrap_or_default();
                let (name, value) = (name.trim(), value.trim());
                if part == Part::Resource && name == "service.name" {
                    service = value_of(value);
                }
                if let Some(span) = spans.last_mut() {
                    note(span, part, name, value);
                }
            }
        }
    }
    spans
}

fn note(span: &mut Span, part: Part, name: &str, value: &str) {
    match (part, name) {
        (Part::Span, "Trace ID") => value.clone_into(&mut span.trace),
        (Part::Span, "Parent ID") => value.clone_into(&mut span.parent),
        (Part::Span, "ID") => value.clone_into(&mut span.id),
        (Part::Span, "Name") => value.clone_into(&mut span.name),
        (Part::Span, "Status code") => value.clone_into(&mut span.status),
        (Part::Attributes, _) if value.ends_with(')') => {
            span.attributes.push((name.to_owned(), value_of(value)));
        }
        (Part::Links, "Trace ID") => span.links.push((value.to_owned(), String::new())),
        (Part::Links, "ID") => {
            if let Some((_, id)) = span.links.last_mut() {
                value.clone_into(id);
            }
        }
        _ => {}
    }
}

/// `text` of `Str(text)`.
fn value_of(value: &str) -> String {
    let inner = value.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(value).to_owned()
}
