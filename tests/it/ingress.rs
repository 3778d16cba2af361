//! What the chart's ways in make of a proxy, in front of a real gateway and fan-out.
//!
//! What is routed, and how, is made of the manifests in `k8s/ingress`, which are what the chart gives, as the controllers
//! make it: of ingress-nginx and of F5's a directive for each annotation, of Gateway API's routes what Envoy, which most
//! implementations drive, is told. Around them stands the worst that a cluster's own settings may say.

use std::fmt::Write as _;
use std::time::Duration;

use foghorn_tests::env;
use foghorn_tests::envoy::{self, Envoy};
use foghorn_tests::http::post;
use foghorn_tests::nginx::Nginx;
use foghorn_tests::sse::SseClient;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::deployment::{Deployment, Shape};
use crate::proxy::{LATE_MAX, lateness};

/// Longer than the cluster's own settings have patience, which is less than a keep-alive takes.
const QUIET: Duration = Duration::from_secs(3);
/// Longer than an Envoy has patience that is told nothing, 15 s.
const ENVOYS_OWN: Duration = Duration::from_secs(20);

/// The objects of a way in.
fn manifests(flavor: &str) -> Vec<Value> {
    let file = env::checkout().join(format!("k8s/ingress/{flavor}/{flavor}.yaml"));
    serde_saphyr::from_multiple(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// nginx as ingress-nginx configures it for the manifests, or as it would `without` some of their annotations. The first
/// gateway it knows is one that refuses connections.
async fn ingress_nginx(d: &Deployment, without: &[&str]) -> Nginx {
    nginx(d, "ingress-nginx", "proxy_next_upstream off;", |object| of_ingress_nginx(object, without)).await
}

/// The same as F5's controller does it, which always speaks HTTP/1.1.
async fn nginx_f5(d: &Deployment, without: &[&str]) -> Nginx {
    nginx(d, "nginx-f5", "proxy_http_version 1.1;", |object| of_f5(object, without)).await
}

async fn nginx(
    d: &Deployment,
    flavor: &str,
    of_controller: &str,
    directives: impl Fn(&Value) -> String,
) -> Nginx {
    let process = process(d);
    let mut locations = String::new();
    for object in &manifests(flavor) {
        let directives = directives(object);
        // A master has none.
        let paths = object.pointer("/spec/rules/0/http/paths").and_then(Value::as_array);
        for path in paths.into_iter().flatten() {
            let upstream = upstream(&path["backend"]["service"]["name"]);
            let path_of = |end: &str| format!("{}{end}", path["path"].as_str().unwrap());
            // A prefix is one of whole elements: two locations.
            let matching = match path["pathType"].as_str().unwrap() {
                "Exact" => vec![format!("= {}", path_of(""))],
                "Prefix" => vec![format!("= {}", path_of("")), path_of("/")],
                other => panic!("{other} is not thought of"),
            };
            for matching in matching {
                writeln!(locations, "location {matching} {{ {directives} proxy_pass http://{upstream}; }}")
                    .unwrap();
            }
        }
    }
    Nginx::start(&format!(
        "events {{}}
         http {{
             {{temporary}}
             upstream gateway {{ server 127.0.0.1:9; server {process}; }}
             upstream fanout {{ server {process}; }}
             # The controller's own defaults, and what its ConfigMap may say.
             {of_controller}
             client_max_body_size 1m;
             proxy_buffering on;
             proxy_buffers 4 4k;
             proxy_buffer_size 4k;
             proxy_ignore_headers X-Accel-Buffering;
             proxy_request_buffering on;
             proxy_read_timeout 1s;
             gzip on;
             gzip_proxied any;
             gzip_min_length 1;
             gzip_types application/json application/javascript text/css text/plain;
             server {{
                 listen 127.0.0.1:{{port}};
                 proxy_set_header Host $http_host;
                 proxy_set_header Connection '';
                 {locations}
             }}
         }}"
    ))
    .await
}

fn upstream(service: &Value) -> &'static str {
    match service.as_str().unwrap() {
        "foghorn-gateway" => "gateway",
        "foghorn-fanout" => "fanout",
        other => panic!("{other} is no Service of ours"),
    }
}

/// Each of an object's annotations but some, without its prefix, and its value.
fn annotations<'a>(
    object: &'a Value,
    prefix: &'a str,
    without: &'a [&str],
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let all = object.pointer("/metadata/annotations").unwrap().as_object().unwrap().iter();
    let named = all.map(move |(name, value)| {
        let name = name.strip_prefix(prefix).unwrap_or_else(|| panic!("{name} is another controller's"));
        (name, value.as_str().unwrap())
    });
    named.filter(|(name, _)| !without.contains(name))
}

/// An object's annotations as nginx's directives, without some. Each has to mean something.
fn of_ingress_nginx(object: &Value, without: &[&str]) -> String {
    let mut directives = String::new();
    for (name, value) in annotations(object, "nginx.ingress.kubernetes.io/", without) {
        let directive = match name {
            "proxy-body-size" => format!("client_max_body_size {value};"),
            "proxy-buffering" | "proxy-request-buffering" | "proxy-http-version" | "proxy-next-upstream" => {
                format!("{} {value};", name.replace('-', "_"))
            }
            "proxy-connect-timeout"
            | "proxy-read-timeout"
            | "proxy-send-timeout"
            | "proxy-next-upstream-timeout" => {
                format!("{} {value}s;", name.replace('-', "_"))
            }
            "backend-protocol" => {
                assert_eq!(value, "HTTP");
                continue;
            }
            other => panic!("{other} is not thought of"),
        };
        directives.push_str(&directive);
    }
    directives
}

/// The same of F5's. A load balancing method is its upstream's, of which there is one here that answers.
fn of_f5(object: &Value, without: &[&str]) -> String {
    let mut directives = String::new();
    for (name, value) in annotations(object, "nginx.org/", without) {
        let directive = match name {
            "mergeable-ingress-type" | "lb-method" => continue,
            // Of an upstream's servers too; faults::deploys shows what it is for.
            "max-fails" => {
                assert_eq!(value, "0");
                continue;
            }
            "proxy-buffering" => {
                assert_eq!(value, "false");
                "proxy_buffering off;".to_owned()
            }
            "client-max-body-size"
            | "proxy-connect-timeout"
            | "proxy-read-timeout"
            | "proxy-send-timeout" => {
                format!("{} {value};", name.replace('-', "_"))
            }
            other => panic!("{other} is not thought of"),
        };
        directives.push_str(&directive);
    }
    directives
}

/// Envoy with the routes of the Gateway API's, or as it would be without what they say of timeouts.
async fn gateway_api(d: &Deployment, timeouts: bool) -> Envoy {
    let mut routes = Vec::new();
    for object in &manifests("gateway-api") {
        for rule in object.pointer("/spec/rules").unwrap().as_array().unwrap() {
            let path = rule.pointer("/matches/0/path").unwrap();
            let value = path["value"].as_str().unwrap();
            // What an implementation has to prefer: the exact ones, then the longest.
            let (rank, matching) = match path["type"].as_str().unwrap() {
                "Exact" => ((0, 0), json!({ "path": value })),
                "PathPrefix" => ((1, usize::MAX - value.len()), json!({ "path_separated_prefix": value })),
                other => panic!("{other} is not thought of"),
            };
            let mut route = json!({ "cluster": upstream(&rule["backendRefs"][0]["name"]) });
            if timeouts {
                assert_eq!(rule["timeouts"]["request"], rule["timeouts"]["backendRequest"]);
                route["timeout"] = rule["timeouts"]["request"].clone();
            }
            routes.push((rank, json!({ "match": matching, "route": route })));
        }
    }
    routes.sort_by_key(|(rank, _)| *rank);
    let routes: Vec<Value> = routes.into_iter().map(|(_, route)| route).collect();
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }] },
    });
    let port = process(d).rsplit_once(':').unwrap().1.parse().unwrap();
    let endpoint = json!({ "endpoint": { "address": envoy::address("127.0.0.1", port) } });
    let cluster = |name: &str| {
        json!({
            "name": name, "type": "STATIC",
            "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [endpoint] }] },
        })
    };
    Envoy::start(&manager, &[cluster("gateway"), cluster("fanout")]).await
}

/// Where gateway and fan-out are, which are one process.
fn process(d: &Deployment) -> &str {
    match &d.shape {
        Shape::Standalone(process) => process.http(),
        Shape::Cluster(_) => unreachable!("standalone was asked for"),
    }
}

async fn an_event_passes_at_once(d: &Deployment, ingress: &str) {
    let late = lateness(d, ingress).await;
    assert!(late.iter().all(|late| *late <= LATE_MAX), "{late:?}");
}

async fn a_quiet_stream_stays_and_what_is_large_passes(ingress: &str) {
    let asked = [("accept-encoding", "gzip, br")];
    let mut stream = SseClient::connect(&format!("{ingress}/api/events/quiet"), &asked).await.unwrap();
    // The gateway compresses by itself, and nobody does it again: what comes is read as it comes.
    assert_eq!((stream.status(), stream.header("content-encoding")), (200, Some("gzip")));
    assert_eq!(stream.next().await.event_type(), "connected");
    // Nothing to wait for: time has to pass.
    sleep(QUIET).await;
    publish_much(ingress, &mut stream).await;
}

async fn publish_much(ingress: &str, stream: &mut SseClient) {
    // What doesn't become much smaller.
    let big: String = std::iter::repeat_with(fastrand::alphanumeric).take(200 * 1024).collect();
    let several: Vec<_> = (0..10).map(|_| json!({ "channel": "quiet", "data": big })).collect();
    // Two megabytes, of which a controller takes one by itself.
    let reply = post(&format!("{ingress}/api/publish"), &json!(several)).await.unwrap();
    assert_eq!(reply.status, 200);
    let heard = stream
        .collect_until(foghorn_tests::PATIENCE, |block| block.data.as_deref() == Some(big.as_str()))
        .await;
    assert_eq!(heard.last().unwrap().event_type(), "message");
}

#[tokio::test(flavor = "multi_thread")]
async fn through_an_annotated_ingress_an_event_passes_at_once_whatever_the_cluster_is_set_to() {
    let d = Deployment::standalone(1).await;
    an_event_passes_at_once(&d, &ingress_nginx(&d, &[]).await.url("")).await;
    an_event_passes_at_once(&d, &nginx_f5(&d, &[]).await.url("")).await;
    an_event_passes_at_once(&d, &gateway_api(&d, true).await.url("")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn through_an_annotated_ingress_a_quiet_stream_stays_and_is_compressed_by_nobody_on_the_way() {
    let d = Deployment::standalone(1).await;
    a_quiet_stream_stays_and_what_is_large_passes(&ingress_nginx(&d, &[]).await.url("")).await;
    a_quiet_stream_stays_and_what_is_large_passes(&nginx_f5(&d, &[]).await.url("")).await;
}

/// The promises above need their annotations. (Chunks, which HTTP/1.1 brings, pass a buffering nginx too.)
#[tokio::test(flavor = "multi_thread")]
async fn without_its_annotation_none_of_it_holds() {
    let d = Deployment::standalone(1).await;

    let buffering = ingress_nginx(&d, &["proxy-buffering", "proxy-http-version"]).await;
    let late = lateness(&d, &buffering.url("")).await;
    assert!(late.iter().any(|late| *late > LATE_MAX), "{late:?}");

    let set_on_one = ingress_nginx(&d, &["proxy-next-upstream"]).await;
    let gone = SseClient::connect(&set_on_one.url("/api/events/quiet"), &[]).await.unwrap();
    assert_eq!(gone.status(), 502);

    for narrow in
        [ingress_nginx(&d, &["proxy-body-size"]).await, nginx_f5(&d, &["client-max-body-size"]).await]
    {
        let big = json!([{ "channel": "quiet", "data": "x".repeat(1200 * 1024) }]);
        assert_eq!(post(&narrow.url("/api/publish"), &big).await.unwrap().status, 413);
    }

    let impatient = nginx_f5(&d, &["proxy-read-timeout"]).await;
    let mut cut = SseClient::connect(&impatient.url("/api/events/quiet"), &[]).await.unwrap();
    let (heard, _) = cut.collect_to_end(foghorn_tests::PATIENCE).await;
    assert_eq!(heard[0].event_type(), "connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_gateway_apis_routes_a_stream_stays_longer_than_a_proxy_has_patience_by_itself() {
    let d = Deployment::standalone(1).await;
    let (patient, impatient) = (gateway_api(&d, true).await, gateway_api(&d, false).await);
    let connect =
        async |envoy: &Envoy| SseClient::connect(&envoy.url("/api/events/quiet"), &[]).await.unwrap();
    let (mut stays, mut cut) = (connect(&patient).await, connect(&impatient).await);
    let (heard, _) = cut.collect_to_end(ENVOYS_OWN).await;
    assert_eq!(heard[0].event_type(), "connected");
    assert!(
        heard.iter().all(|block| block.event_type() != "stream-end"),
        "not the gateway ended it: {heard:?}"
    );
    publish_much(&patient.url(""), &mut stays).await;
}
