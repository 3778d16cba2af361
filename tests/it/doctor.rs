//! `foghorn doctor` against a real nginx that is misconfigured in each way that it claims to find.

use std::process::Output;
use std::time::Duration;

use foghorn_tests::env;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::nginx::Nginx;
use foghorn_tests::tls;
use futures::future::join_all;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::clock::Time;
use crate::deployment::{Listener, standalone};

const ORIGIN: &str = "https://app.example";
/// Longer than any of them takes, watching included.
const PATIENCE: Duration = Duration::from_secs(60);

/// nginx in front of it: as it should be, but for these directives of the server and of the location.
async fn nginx(foghorn: &Foghorn, server: &str, location: &str) -> Nginx {
    let upstream = foghorn.http();
    Nginx::start(&format!(
        "events {{}}
         http {{
             {{temporary}}
             proxy_buffering off;
             proxy_http_version 1.1;
             proxy_read_timeout 1h;
             proxy_set_header Connection '';
             proxy_set_header Host $http_host;
             server {{
                 listen 127.0.0.1:{{port}} {server};
                 location / {{ {location} proxy_pass http://{upstream}; }}
             }}
         }}"
    ))
    .await
}

async fn run(url: &str, more: &[&str]) -> Output {
    let mut command = Command::new(env::foghorn());
    command.args(["doctor", url, "--watch", "4s"]).args(more).kill_on_drop(true);
    timeout(PATIENCE, command.output()).await.expect("it ends").unwrap()
}

/// What it finds, as `check: verdict`, and the text of all that isn't ok.
async fn findings(url: &str, more: &[&str]) -> (Vec<String>, String) {
    let output = run(url, &[&["--json"], more].concat()).await;
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let findings = report["findings"].as_array().unwrap();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let wrong = findings.iter().any(|finding| finding["verdict"] == "wrong");
    assert_eq!(report["ok"], !wrong, "{report}");
    assert_eq!(output.status.code(), Some(i32::from(wrong)), "{report}");
    let mut told = Vec::new();
    let mut seen = String::new();
    for finding in findings {
        told.push(format!("{}: {}", text(finding, "check"), text(finding, "verdict")));
        if finding["verdict"] != "ok" {
            assert!(!text(finding, "mend").is_empty(), "{finding}");
            seen += &format!("{}\n", text(finding, "seen"));
        }
    }
    (told, seen)
}

async fn foghorn(environment: &[(&str, &str)]) -> (Foghorn, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("foghorn.toml");
    std::fs::write(&config, format!("[http]\norigins = [\"{ORIGIN}\"]\n")).unwrap();
    let process = standalone(&["--ephemeral", "--config", &config.display().to_string()], environment).await;
    (process, folder)
}

/// All that it looks at, but for `wrong`, which is.
fn all_but(wrong: &str) -> Vec<String> {
    let checks = [
        "reach",
        "http",
        "headers",
        "buffering",
        "clock",
        "retry",
        "resume",
        "compression",
        "cors",
        "delivery",
        "cuts",
    ];
    let verdict = |check: &str| match check {
        check if check == wrong => "wrong",
        // Over HTTP/1.1, without TLS.
        "http" => "advice",
        _ => "ok",
    };
    checks.iter().map(|check| format!("{check}: {}", verdict(check))).collect()
}

const EVERYTHING: [&str; 3] = ["--publish", "--origin", ORIGIN];

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_misconfigure_a_proxy_is_found_and_nothing_else() {
    let (foghorn, _folder) = foghorn(&[]).await;
    let preflights = "if ($request_method = OPTIONS) { return 405; }";
    let ways = [
        ("", "", ""),
        ("proxy_read_timeout 2s;", "cuts", "silent"),
        ("proxy_set_header Last-Event-ID '';", "resume", "Last-Event-ID doesn't arrive"),
        ("proxy_hide_header Cache-Control;", "headers", "lacks no-store, no-transform"),
        ("sub_filter retry: later:; sub_filter_types text/event-stream;", "retry", "doesn't say `retry:`"),
        (preflights, "cors", "405"),
        ("add_header Access-Control-Allow-Origin $http_origin always;", "cors", ""),
        ("proxy_hide_header Access-Control-Allow-Origin;", "cors", "doesn't let this origin in"),
        ("proxy_hide_header Access-Control-Allow-Credentials;", "cors", "doesn't allow credentials"),
    ];
    join_all(ways.map(async |(location, wrong, words)| {
        let nginx = nginx(&foghorn, "", location).await;
        let (told, seen) = findings(&nginx.url("/"), &EVERYTHING).await;
        assert_eq!(told, all_but(wrong), "{location}: {seen}");
        assert!(seen.contains(words), "{location}: {seen}");
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_streams_back_is_told_from_what_is_not_there() {
    let (foghorn, _folder) = foghorn(&[]).await;
    let buffering = "proxy_http_version 1.0; proxy_buffering on; proxy_ignore_headers X-Accel-Buffering;";
    // By itself, and not by the gateway.
    let compressing = "proxy_set_header Accept-Encoding ''; gzip on; gzip_proxied any; gzip_min_length 1; gzip_types text/event-stream;";
    let ways = [
        (buffering, "buffering: wrong", "nothing comes"),
        (compressing, "compression: advice", "gzip"),
        ("return 404;", "reach: wrong", "404"),
        ("default_type text/html; return 200 '<html>';", "reach: wrong", "text/html"),
        ("return 302 https://elsewhere.example/;", "reach: wrong", "elsewhere.example"),
    ];
    join_all(ways.map(async |(location, check, words)| {
        let nginx = nginx(&foghorn, "", location).await;
        let (told, seen) = findings(&nginx.url("/"), &[]).await;
        assert!(told.iter().any(|finding| finding == check), "{location}: {told:?}");
        assert!(seen.contains(words), "{location}: {seen}");
    }))
    .await;
    let (told, _) = findings("http://127.0.0.1:9/", &[]).await;
    assert_eq!(told, ["reach: wrong"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_says_itself_is_not_laid_to_a_proxy() {
    let environment = [("FOGHORN_GATEWAY_CONNECTIONS", "1")];
    let (foghorn, _folder) = foghorn(&environment).await;
    let _only = Listener::open(&foghorn.url("/api/events/c"), None).await;
    let (told, seen) = findings(&foghorn.url("/"), &[]).await;
    assert!(told.contains(&"buffering: wrong".to_owned()), "{told:?}");
    assert!(seen.contains("the gateway itself ends the stream: overload"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_wrong_clock_is_found() {
    let time = Time::new();
    time.set(3600);
    let variables = time.variables();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (foghorn, _folder) = foghorn(&variables).await;
    let (told, seen) = findings(&foghorn.url("/"), &EVERYTHING).await;
    assert_eq!(told, all_but("clock"), "{seen}");
    assert!(seen.contains("3600s apart") || seen.contains("3599s apart"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_found_and_people_are_told_in_words() {
    let (foghorn, folder) = foghorn(&[]).await;
    let tls_server = "ssl http2; ssl_certificate cert.pem; ssl_certificate_key key.pem";
    let nginx = nginx(&foghorn, tls_server, "").await;
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, tls::certificate_pem()).unwrap();
    let ca = ca.display().to_string();
    let output = run(&nginx.url("/"), &["--ca", &ca]).await;
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("ok      http         HTTP/2.0\n"), "{text}");
    assert!(!text.contains("WRONG") && !text.contains("mend:"), "{text}");
    let untrusted = run(&nginx.url("/"), &[]).await;
    let text = String::from_utf8(untrusted.stdout.clone()).unwrap();
    assert!(!untrusted.status.success() && text.contains("--ca"), "{untrusted:?}");
    assert!(text.starts_with("WRONG   reach"), "{text}");
    assert_eq!(run("nginx.example", &[]).await.status.code(), Some(2));
}
