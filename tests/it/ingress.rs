//! What the chart's annotations make of an nginx, in front of a real gateway and fan-out.
//!
//! The locations are made of the manifests in `k8s/base`, which are what the chart gives, as ingress-nginx makes them:
//! a directive for each annotation. Around them stands the worst that a cluster's own settings may say.

use std::fmt::Write as _;
use std::time::Duration;

use foghorn_tests::env;
use foghorn_tests::http::post;
use foghorn_tests::nginx::Nginx;
use foghorn_tests::sse::SseClient;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::deployment::{Deployment, Shape};
use crate::proxy::{LATE_MAX, lateness};

const MANIFESTS: &str = "k8s/base/ingress-nginx.yaml";
const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// Longer than the cluster's own settings have patience, which is less than a keep-alive takes.
const QUIET: Duration = Duration::from_secs(3);

/// nginx as ingress-nginx configures it for the manifests, or as it would `without` some of their annotations. The first
/// gateway it knows is one that refuses connections.
async fn controller(gateway: &str, fanout: &str, without: &[&str]) -> Nginx {
    let text = std::fs::read_to_string(env::checkout().join(MANIFESTS)).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let mut locations = String::new();
    for object in &objects {
        let directives = directives(object, without);
        for path in object.pointer("/spec/rules/0/http/paths").unwrap().as_array().unwrap() {
            let upstream = match path["backend"]["service"]["name"].as_str().unwrap() {
                "foghorn-gateway" => "gateway",
                "foghorn-fanout" => "fanout",
                other => panic!("{other} is no Service of ours"),
            };
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
             upstream gateway {{ server 127.0.0.1:9; server {gateway}; }}
             upstream fanout {{ server {fanout}; }}
             # The controller's own defaults, and what its ConfigMap may say.
             client_max_body_size 1m;
             proxy_buffering on;
             proxy_buffers 4 4k;
             proxy_buffer_size 4k;
             proxy_ignore_headers X-Accel-Buffering;
             proxy_request_buffering on;
             proxy_read_timeout 1s;
             proxy_next_upstream off;
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

/// An object's annotations as nginx's directives, without some. Each has to mean something.
fn directives(object: &Value, without: &[&str]) -> String {
    let annotations = object.pointer("/metadata/annotations").unwrap().as_object().unwrap();
    let mut directives = String::new();
    for (name, value) in annotations {
        let value = value.as_str().unwrap();
        let name = name.strip_prefix(PREFIX).unwrap_or_else(|| panic!("{name} is another controller's"));
        if without.contains(&name) {
            continue;
        }
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

fn both(d: &Deployment) -> &str {
    match &d.shape {
        Shape::Standalone(process) => process.http(),
        Shape::Cluster(_) => unreachable!("standalone was asked for"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn through_an_annotated_ingress_an_event_passes_at_once_whatever_the_cluster_is_set_to() {
    let d = Deployment::standalone(1).await;
    let nginx = controller(both(&d), both(&d), &[]).await;
    let late = lateness(&d, &nginx.url("")).await;
    assert!(late.iter().all(|late| *late <= LATE_MAX), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn through_an_annotated_ingress_a_quiet_stream_stays_and_is_compressed_by_nobody_on_the_way() {
    let d = Deployment::standalone(1).await;
    let nginx = controller(both(&d), both(&d), &[]).await;
    let asked = [("accept-encoding", "gzip, br")];
    let mut stream = SseClient::connect(&nginx.url("/api/events/quiet"), &asked).await.unwrap();
    // The gateway compresses by itself, and nobody does it again: what comes is read as it comes.
    assert_eq!((stream.status(), stream.header("content-encoding")), (200, Some("gzip")));
    assert_eq!(stream.next().await.event_type(), "connected");
    // Nothing to wait for: time has to pass.
    sleep(QUIET).await;
    // What doesn't become much smaller.
    let big: String = std::iter::repeat_with(fastrand::alphanumeric).take(200 * 1024).collect();
    let several: Vec<_> = (0..10).map(|_| json!({ "channel": "quiet", "data": big })).collect();
    // Two megabytes, of which the controller takes one by itself.
    let reply = post(&nginx.url("/api/publish"), &json!(several)).await.unwrap();
    assert_eq!(reply.status, 200);
    let heard = stream
        .collect_until(foghorn_tests::PATIENCE, |block| block.data.as_deref() == Some(big.as_str()))
        .await;
    assert_eq!(heard.last().unwrap().event_type(), "message");
}

/// The promises above need their annotations. (Chunks, which HTTP/1.1 brings, pass a buffering nginx too.)
#[tokio::test(flavor = "multi_thread")]
async fn without_its_annotation_none_of_it_holds() {
    let d = Deployment::standalone(1).await;
    let of_both = both(&d);

    let buffering = controller(of_both, of_both, &["proxy-buffering", "proxy-http-version"]).await;
    let late = lateness(&d, &buffering.url("")).await;
    assert!(late.iter().any(|late| *late > LATE_MAX), "{late:?}");

    let set_on_one = controller(of_both, of_both, &["proxy-next-upstream"]).await;
    let gone = SseClient::connect(&set_on_one.url("/api/events/quiet"), &[]).await.unwrap();
    assert_eq!(gone.status(), 502);

    let narrow = controller(of_both, of_both, &["proxy-body-size"]).await;
    let big = json!([{ "channel": "quiet", "data": "x".repeat(1200 * 1024) }]);
    assert_eq!(post(&narrow.url("/api/publish"), &big).await.unwrap().status, 413);
}
