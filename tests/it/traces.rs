//! Traces, as a real collector gets them over OTLP.

use foghorn_tests::collector::{Collector, Span};
use foghorn_tests::http::{metric, request};
use foghorn_tests::port::Port;
use foghorn_tests::wait::until;
use foghorn_tests::{PATIENCE, foghorn::Foghorn};
use http::Method;
use serde_json::{Value, json};

use crate::deployment::{Cluster, Listener, standalone};

/// The publisher's own span.
const PARENT: &str = "00f067aa0ba902b7";

/// A trace of the tests'.
fn trace(number: u32) -> String {
    format!("4bf92f3577b34da6a3ce929d{number:08x}")
}

fn traceparent(number: u32, flags: &str) -> String {
    format!("00-{}-{PARENT}-{flags}", trace(number))
}

async fn publish(url: &str, traceparent: &str, body: &Value) {
    let reply = request(Method::POST, url, &[("traceparent", traceparent)], Some(body)).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
}

fn of(spans: &[Span], trace: &str) -> Vec<Span> {
    spans.iter().filter(|span| span.trace == trace).cloned().collect()
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn only<T: std::fmt::Debug>(mut all: Vec<T>) -> T {
    assert_eq!(all.len(), 1, "{all:#?}");
    all.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sampled_events_trace_shows_its_way_from_the_publisher_to_the_sockets() {
    let (collector, folder) = (Collector::start().await, tempfile::tempdir().unwrap());
    let config = folder.path().join("foghorn.toml");
    std::fs::write(&config, format!("[telemetry.traces]\nendpoint = \"{}\"\n", collector.endpoint()))
        .unwrap();
    let cluster = Cluster::start(1, config.to_str().unwrap()).await;
    cluster.ready().await;
    let mut listeners = Vec::new();
    for gateway in &cluster.gateways {
        listeners.push(Listener::open(&gateway.url("/api/events?channels=traced"), None).await);
    }
    let fanout = &cluster.fanouts[0];
    let url = fanout.url("/api/publish");
    let event = |data: &str| json!({ "channel": "traced", "data": data });

    // What isn't to be traced, or says nothing that is valid, isn't; the same events all the same.
    publish(&url, &traceparent(1, "00"), &event("not sampled")).await;
    publish(&url, &traceparent(2, "01").to_uppercase(), &event("invalid")).await;
    // What a gateway that has just begun reads from the log, no trace is told of.
    for listener in &mut listeners {
        assert_eq!(listener.data(2).await, ["not sampled", "invalid"]);
    }
    // By every door.
    publish(&url, &traceparent(3, "01"), &json!([event("http"), event("http too")])).await;
    over_grpc(fanout, &traceparent(4, "01")).await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("traceparent", traceparent(5, "01"));
    let nats = async_nats::connect(cluster.nats.url()).await.unwrap();
    nats.request_with_headers("foghorn.publish.traced", headers, "nats".into()).await.unwrap();
    for listener in &mut listeners {
        assert_eq!(listener.data(4).await, ["http", "http too", "grpc", "nats"]);
    }

    // Each event is at both gateways, and each of those wrote it.
    let spans = collector
        .spans_until("every span of every trace", |spans| {
            named(spans, "last write").len() == 2 * 4 && named(spans, "gateway").len() == 2 * 4
        })
        .await;
    assert!(of(&spans, &trace(1)).is_empty() && of(&spans, &trace(2)).is_empty(), "{spans:#?}");
    for (number, events, door) in [(3, 2, "http"), (4, 1, "grpc"), (5, 1, "nats")] {
        let spans = of(&spans, &trace(number));
        let within = |name: &str, above: &Span| -> Vec<Span> {
            named(&spans, name).into_iter().filter(|span| span.parent == above.id).cloned().collect()
        };
        let publishes = named(&spans, "publish");
        assert_eq!(publishes.len(), events, "{spans:#?}");
        for publish in publishes {
            assert_eq!((publish.parent.as_str(), publish.service.as_str()), (PARENT, "foghorn-fanout"));
            assert_eq!(publish.attribute("foghorn.door"), door);
            assert_eq!(publish.attribute("messaging.destination.name"), "traced");
            assert_eq!(publish.attribute("foghorn.outcome"), "stored");
            let journal = only(within("journal", publish));
            assert_eq!(journal.attribute("foghorn.position"), publish.attribute("foghorn.position"));
            let relay = only(within("relay", publish));
            let gateways = within("gateway", &relay);
            assert_eq!(gateways.len(), 2, "{spans:#?}");
            for gateway in gateways {
                assert_eq!(gateway.service, "foghorn-gateway");
                assert_eq!(gateway.attribute("foghorn.deliveries"), "1");
                assert_eq!(gateway.links, relay.links, "the batch that it came in");
                assert_eq!(
                    [within("first write", &gateway), within("last write", &gateway)].map(|s| s.len()),
                    [1; 2]
                );
            }
        }
    }
    // What was sent together is found from any of it.
    for relay in named(&spans, "relay") {
        let [(trace, id)] = &relay.links[..] else { panic!("{relay:#?}") };
        let batch = spans.iter().find(|span| (&span.trace, &span.id) == (trace, id)).unwrap();
        assert_eq!(batch.name, "relay batch");
        assert!(batch.links.contains(&(relay.trace.clone(), relay.id.clone())), "{batch:#?}");
    }
    // And the lines of the log say of which trace they are.
    let line = fanout.process().wait_for_log_line(&trace(3), PATIENCE).await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["target"], &line["span"]["trace_id"]), (&json!("audit"), &json!(trace(3))), "{line}");
}

async fn over_grpc(fanout: &Foghorn, traceparent: &str) {
    use foghorn_rpc::v1::{PublishRequest, publisher_client::PublisherClient};

    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", fanout.grpc())).unwrap();
    let mut publisher = PublisherClient::new(endpoint.connect().await.unwrap());
    let event = PublishRequest { channel: "traced".to_owned(), data: "grpc".into(), ..Default::default() };
    let mut request = tonic::Request::new(event);
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    publisher.publish(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_has_no_more_events_traced_than_the_budget_says() {
    let collector = Collector::start().await;
    let (endpoint, folder) = (collector.endpoint(), tempfile::tempdir().unwrap());
    let data = folder.path().display().to_string();
    let variables = [
        ("FOGHORN_TELEMETRY_TRACES_ENDPOINT", endpoint.as_str()),
        ("FOGHORN_TELEMETRY_TRACES_EVENTS_PER_SECOND", "1"),
        ("FOGHORN_TELEMETRY_TRACES_SAMPLE", "1"),
        ("OTEL_SERVICE_NAME", "horn"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
    ];
    let foghorn = standalone(&["--data", &data], &variables).await;
    let mut listener = Listener::open(&foghorn.url("/api/events?channels=many"), None).await;
    let events: Vec<Value> = (0..100).map(|n| json!({ "channel": "many", "data": n.to_string() })).collect();
    publish(&foghorn.url("/api/publish"), &traceparent(1, "01"), &Value::Array(events)).await;
    assert_eq!(listener.data(100).await.len(), 100);
    let events =
        async |labels: &str| metric(foghorn.admin(), &format!("foghorn_traces_events_total{{{labels}")).await;
    let limited = events(r#"stage="publish",outcome="limited""#).await;
    assert!(limited >= 90.0, "{limited} of 100");
    assert_eq!(limited + events(r#"stage="publish",outcome="traced""#).await, 100.0);
    // What has no room costs nobody anything further on.
    assert_eq!(events(r#"stage="relay",outcome="limited""#).await, 0.0);
    let publish = |spans: &[Span]| named(spans, "publish").first().map(|span| (*span).clone());
    let spans = collector.spans_until("a span", |spans| publish(spans).is_some()).await;
    let span = publish(&spans).unwrap();
    assert_eq!((span.service.as_str(), span.trace.as_str()), ("horn", trace(1).as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_sampler_traces_what_comes_without_a_trace() {
    let collector = Collector::start().await;
    let (endpoint, folder) = (collector.endpoint(), tempfile::tempdir().unwrap());
    let data = folder.path().display().to_string();
    let variables =
        [("FOGHORN_TELEMETRY_TRACES_ENDPOINT", endpoint.as_str()), ("FOGHORN_TELEMETRY_TRACES_SAMPLE", "1")];
    let foghorn = standalone(&["--data", &data], &variables).await;
    let event = json!({ "channel": "a", "data": "x" });
    let url = foghorn.url("/api/publish");
    // Whoever says that it isn't sampled is heard.
    publish(&url, &traceparent(1, "00"), &event).await;
    let reply = foghorn_tests::http::post(&url, &event).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
    let spans = collector.spans_until("a trace of ours", |spans| !named(spans, "publish").is_empty()).await;
    let publish = only(named(&spans, "publish"));
    assert_eq!((publish.parent.as_str(), publish.service.as_str()), ("", "foghorn-standalone"));
    assert_ne!(publish.trace, trace(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_collector_keeps_nobody_waiting_and_is_told_of_once() {
    let nobody = Port::lease();
    let (endpoint, folder) = (format!("http://{}", nobody.address()), tempfile::tempdir().unwrap());
    let data = folder.path().display().to_string();
    let variables = [
        ("FOGHORN_TELEMETRY_TRACES_ENDPOINT", endpoint.as_str()),
        ("FOGHORN_TELEMETRY_TRACES_HEADERS", "authorization=Bearer%20hunter2"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "200"),
    ];
    let foghorn = standalone(&["--data", &data], &variables).await;
    let mut listener = Listener::open(&foghorn.url("/api/events?channels=a"), None).await;
    let failed = async || metric(foghorn.admin(), r#"foghorn_traces_spans_total{outcome="failed"#).await;
    let mut before = 0.0;
    // More than one batch of spans is given up.
    for number in 1..=3 {
        publish(
            &foghorn.url("/api/publish"),
            &traceparent(number, "01"),
            &json!({ "channel": "a", "data": "x" }),
        )
        .await;
        assert_eq!(listener.data(1).await, ["x"]);
        before = until("spans to be given up", PATIENCE, async || {
            let now = failed().await;
            (now > before).then_some(now)
        })
        .await;
    }
    let log = foghorn.process().log();
    assert_eq!(log.matches("the collector doesn't take spans").count(), 1, "{log}");
    assert!(!log.contains("hunter2"), "{log}");
    foghorn.sigterm();
    drop(listener);
    assert!(foghorn.wait(PATIENCE).await.success());
}
